use super::*;
use crate::formation::{Door, Introduction};
use quorate_raft::RaftConfig;
use quorate_wire::Handlers;
use quorate_wire::memory::Switchboard;
use std::collections::BTreeMap;

async fn open(dir: &Path) -> (RaftNode, MetaHandle) {
    let node = RaftNode::start(&dir.join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
    let meta = MetaHandle::start(&node, dir).await.unwrap();
    (node, meta)
}

fn sample_state() -> MetaState {
    let entry = |name: &str, incarnation, state| NodeEntry {
        name: name.to_owned(),
        address: "h:1".to_owned(),
        zone: "z".to_owned(),
        incarnation,
        state,
    };
    let mut state = MetaState {
        cluster_id: 7,
        nodes: BTreeMap::from([
            (NodeId(1), entry("n1", 3, NodeState::Member)),
            (NodeId(4), entry("n2", 0, NodeState::Gone)),
        ]),
        next_node: 5,
        replication: 3,
        epoch: 2,
        partitions: vec![PartitionEntry { first: vec![NodeId(1)], replicas: vec![NodeId(4), NodeId(1)] }],
        secret: Some(Secret([5; 32])),
        ..MetaState::default()
    };
    state.set_tenants(["a", "anonymous"].map(Arc::from).to_vec());
    state
}

#[tokio::test]
async fn numbers_survive_restarts_with_and_without_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    let id = meta.cluster_id();
    assert_ne!(id, 0);
    assert_eq!(meta.register_alone(NodeId(1)).await.unwrap(), 1);
    assert_eq!(meta.intern_tenant("a", 100).await.unwrap(), TenantId(1));
    assert_eq!(meta.intern_tenant("b", 100).await.unwrap(), TenantId(2));
    assert_eq!(meta.intern_tenant("a", 100).await.unwrap(), TenantId(1));
    node.shutdown().await;
    for round in 0..3 {
        let (node, meta) = open(dir.path()).await;
        assert_eq!(meta.cluster_id(), id);
        assert_eq!(meta.register_alone(NodeId(1)).await.unwrap(), 2 + round);
        assert_eq!(meta.tenant("b"), Some(TenantId(2)));
        assert_eq!(meta.tenant_name(TenantId(1)).as_deref(), Some("a"));
        assert_eq!(meta.intern_tenant(&format!("new-{round}"), 100).await.unwrap(), TenantId(3 + round));
        meta.compact(round == 1).await.unwrap();
        node.shutdown().await;
    }
    assert!(dir.path().join("meta.image").exists());
}

#[tokio::test]
async fn a_handful_of_commands_does_not_keep_the_log_of_all_groups() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftConfig { segment_bytes: 16 << 10, ..RaftConfig::default() };
    let node = RaftNode::start(&dir.path().join("log"), NodeId(1), config).await.unwrap();
    let meta = MetaHandle::start(&node, dir.path()).await.unwrap();
    assert_eq!(meta.intern_tenant("a", 100).await.unwrap(), TenantId(1));
    let other = node.group(GroupId(1)).await.unwrap();
    for _ in 0..10 {
        meta.compact(false).await.unwrap();
        other.propose(vec![1; 10_000].into()).await.unwrap();
    }
    other.trim(Position(u64::MAX)).await.unwrap();
    assert!(dir.path().join("meta.image").exists());
    meta.compact(false).await.unwrap();
    while node.oldest_pinning_groups().contains(&META_GROUP) {
        tokio::task::yield_now().await;
    }
    assert_eq!(meta.tenant("a"), Some(TenantId(1)));
    node.shutdown().await;
}

#[tokio::test]
async fn tenants_that_arrive_at_once_get_one_number_each() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    let names = (0..100).map(|n| format!("tenant-{}", n % 10));
    let asked = names.map(|name| {
        let meta = meta.clone();
        async move { (name.clone(), meta.intern_tenant(&name, 100).await.unwrap()) }
    });
    let answers = futures::future::join_all(asked).await;
    for (name, tenant) in answers {
        assert_eq!(meta.tenant(&name), Some(tenant));
    }
    assert_eq!(meta.tenants().len(), 10);
    node.shutdown().await;
}

#[tokio::test]
async fn no_more_tenants_are_numbered_than_there_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    let asked = (0..20).map(|n| {
        let meta = meta.clone();
        async move { meta.intern_tenant(&format!("tenant-{}", n % 10), 3).await }
    });
    let answers = futures::future::join_all(asked).await;
    assert_eq!((answers.iter().flatten().count(), meta.tenants().len()), (6, 3));
    let error = meta.intern_tenant("another", 3).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Refused);
    assert!(error.to_string().contains("limit of 3") && error.to_string().contains("max_tenants"), "{error}");
    let (_, known) = meta.tenants().pop().unwrap();
    assert_eq!(meta.intern_tenant(&known, 0).await.unwrap(), TenantId(3), "who has a number keeps it");
    assert_eq!(meta.intern_tenant("another", 4).await.unwrap(), TenantId(4));
    node.shutdown().await;
}

#[tokio::test]
async fn a_command_that_cannot_be_read_is_a_failure_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    let failed = tokio::spawn({
        let meta = meta.clone();
        async move { meta.failed().await }
    });
    meta.0.group.propose(vec![99, 0].into()).await.unwrap();
    let reason = failed.await.unwrap();
    assert!(reason.contains("version 99"), "{reason}");
    assert!(matches!(meta.register_alone(NodeId(1)).await, Err(MetaError::Stopped)));
    node.shutdown().await;
}

#[test]
fn images_round_trip_and_never_change() {
    let bytes = image::encode(Position(9), &sample_state());
    assert_eq!(image::decode(&bytes).unwrap(), (Position(9), sample_state()));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN_IMAGE);
}

/// [`sample_state`] at position 9, line by line: header with its checksum, cluster id and next number, nodes, placement,
/// tenants, secret.
const GOLDEN_IMAGE: &str = concat!(
    "5152542d4d455441030000000900000000000000868d29fb",
    "070000000000000000000000000000000500000000000000",
    "02000000",
    "0100000000000000020000006e3103000000683a31010000007a0300000001",
    "0400000000000000020000006e3203000000683a31010000007a0000000003",
    "0302000000",
    "01000000010000000100000000000000",
    "0200000004000000000000000100000000000000",
    "02000000010000006109000000616e6f6e796d6f7573",
    "010505050505050505050505050505050505050505050505050505050505050505",
);

/// The same as version 2 had it.
const GOLDEN_IMAGE_2: &str = concat!(
    "5152542d4d455441020000000900000000000000af145966",
    "070000000000000000000000000000000500000000000000",
    "02000000",
    "0100000000000000020000006e3103000000683a31010000007a0300000001",
    "0400000000000000020000006e3203000000683a31010000007a0000000003",
    "0302000000",
    "01000000010000000100000000000000",
    "0200000004000000000000000100000000000000",
    "02000000010000006109000000616e6f6e796d6f7573",
);

/// What a node that was alone stored in version 1.
const GOLDEN_IMAGE_1: &str = concat!(
    "5152542d4d45544101000000090000000000000063460f9d",
    "07000000000000000000000000000000",
    "01000000010000003103000000",
    "02000000010000006109000000616e6f6e796d6f7573",
);

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn images_of_version_2_have_no_secret() {
    let decoded = image::decode(&from_hex(GOLDEN_IMAGE_2)).unwrap();
    assert_eq!(decoded, (Position(9), MetaState { secret: None, ..sample_state() }));
}

#[test]
fn images_of_version_1_are_of_a_node_alone() {
    let (position, state) = image::decode(&from_hex(GOLDEN_IMAGE_1)).unwrap();
    assert_eq!((position, state.cluster_id(), state.next_node), (Position(9), 7, 2));
    assert_eq!((state.nodes()[&NodeId(1)].incarnation, state.tenant("anonymous")), (3, Some(TenantId(2))));
    assert!(state.partitions().is_empty());
}

#[test]
fn damaged_images_are_errors() {
    let bytes = image::encode(Position(9), &sample_state());
    for cut in 0..bytes.len() {
        assert!(image::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(image::decode(&changed).is_err(), "bit flipped at {at}");
    }
}

/// Three nodes on a switchboard.
struct Trio {
    board: Switchboard,
    dirs: Vec<tempfile::TempDir>,
    nodes: Vec<(RaftNode, MetaHandle)>,
}

impl Trio {
    async fn start() -> Self {
        let dirs = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut trio = Self { board: Switchboard::default(), dirs, nodes: Vec::new() };
        for at in 0..3 {
            let node = trio.open(at).await;
            trio.nodes.push(node);
        }
        trio
    }

    async fn open(&self, at: usize) -> (RaftNode, MetaHandle) {
        let id = NodeId(at as u64 + 1);
        let dir = self.dirs[at].path();
        let transport = self.board.transport(id);
        let config = RaftConfig::default();
        let raft = RaftNode::start_with_peers(&dir.join("log"), id, config, transport).await.unwrap();
        let first = (1..=3).map(NodeId).collect();
        let meta = MetaHandle::join(&raft, dir, self.board.calls(id), Some(&first)).await.unwrap();
        let me = Introduction { name: format!("n{id}"), ..Introduction::default() };
        let door = Door::new(&me, None);
        door.open(id, meta.clone());
        self.board.connect(id, Arc::new(raft.clone()));
        self.board.answer(id, Handlers { meta: Some(Arc::new(door)), ..Handlers::default() });
        (raft, meta)
    }

    fn meta(&self, at: usize) -> &MetaHandle {
        &self.nodes[at].1
    }

    async fn fresh(&self, at: usize) {
        while self.meta(at).fresh().await.is_err() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_proposes_and_reads_what_it_proposed() {
    let mut trio = Trio::start().await;
    trio.fresh(0).await;
    let nodes: Vec<_> = (1..=3).map(|node| (NodeId(node), format!("n{node}"), format!("h:{node}"))).collect();
    let replicas = vec![vec![NodeId(1), NodeId(2), NodeId(3)]; 2];
    let founding = (0..3).map(|at| trio.meta(at).found(&nodes, 3, replicas.clone()));
    futures::future::try_join_all(founding).await.unwrap();
    let ids: BTreeSet<u128> = (0..3).map(|at| trio.meta(at).cluster_id()).collect();
    assert!(ids.len() == 1 && !ids.contains(&0), "{ids:?}");
    let secrets = futures::future::try_join_all((0..3).map(|at| trio.meta(at).secret())).await.unwrap();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "one secret, whoever made it");
    for at in 0..3 {
        let tenant = trio.meta(at).intern_tenant(&format!("t{at}"), 100).await.unwrap();
        assert_eq!(trio.meta(at).tenant(&format!("t{at}")), Some(tenant));
        let other = (at + 1) % 3;
        trio.meta(other).fresh().await.unwrap();
        assert_eq!(trio.meta(other).tenant(&format!("t{at}")), Some(tenant), "a fresh read sees it");
    }
    assert_eq!(trio.meta(1).add_node("n4", "h:4", "", false).await.unwrap(), NodeId(4));
    assert_eq!(trio.meta(2).begin_incarnation(NodeId(4), "h:4", "").await.unwrap(), 1);
    let refused = trio.meta(0).add_node("n4", "h:4", "", false).await.unwrap_err();
    assert!(matches!(refused, MetaError::Refused(_)), "{refused}");

    // One that was away while the others forgot their log gets the state whole.
    let away = (0..3).find(|at| trio.meta(*at).group().leader() != Some(NodeId(*at as u64 + 1))).unwrap();
    trio.board.disconnect(NodeId(away as u64 + 1));
    trio.nodes[away].0.shutdown().await;
    let at = (away + 1) % 3;
    trio.fresh(at).await;
    for tenant in 0..20 {
        trio.meta(at).intern_tenant(&format!("late-{tenant}"), 100).await.unwrap();
    }
    for at in (0..3).filter(|at| *at != away) {
        trio.fresh(at).await;
        trio.meta(at).compact(true).await.unwrap();
        trio.meta(at).group().trim_fully(Position(u64::MAX)).await.unwrap();
    }
    trio.nodes[away] = trio.open(away).await;
    trio.fresh(away).await;
    assert_eq!(trio.meta(away).state(), trio.meta(at).state());
    trio.meta(away).intern_tenant("last", 100).await.unwrap();
    for (raft, _) in &trio.nodes {
        raft.shutdown().await;
    }
}
