use super::*;
use crate::formation::{Door, Introduction};
use quorate_raft::RaftConfig;
use quorate_wire::memory::Switchboard;
use quorate_wire::meta::JoinRequest;
use quorate_wire::meta::join_answer::Outcome;
use quorate_wire::{Handlers, MetaHandler};
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
        ..NodeEntry::new(state)
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
        version: MetaVersion(3),
        ..MetaState::default()
    };
    let told = state.nodes.get_mut(&NodeId(1)).unwrap();
    told.revision = 6;
    told.reads = Some(Reads { version: MetaVersion(3), build: "0.1.0".to_owned() });
    state.set_tenants(["a", "anonymous"].map(Arc::from).to_vec());
    state
}

/// [`sample_state`] as a cluster of an older version has it.
fn older_state(version: u32) -> MetaState {
    let mut state = sample_state();
    state.version = MetaVersion(version);
    state.nodes.values_mut().for_each(|entry| (entry.revision, entry.reads) = (0, None));
    state.secret = state.secret.filter(|_| version > 1);
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
    let stopped = meta.register_alone(NodeId(1)).await.unwrap_err();
    assert!(matches!(&stopped, MetaError::Stopped { reason } if reason.contains("version 99")), "{stopped}");
    node.shutdown().await;
}

/// Each version of the metadata writes its version of images, which holds all that its states may have.
#[test]
fn images_round_trip_and_never_change() {
    let states = [older_state(1), older_state(2), sample_state()];
    for (state, golden) in states.into_iter().zip([GOLDEN_IMAGE_2, GOLDEN_IMAGE_3, GOLDEN_IMAGE_4]) {
        let bytes = image::encode(Position(9), &state);
        assert_eq!(image::decode(&bytes).unwrap(), (Position(9), state));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
    }
}

/// [`sample_state`] at position 9, line by line: header with its checksum, cluster id and next number, nodes, placement,
/// tenants, secret, active version, what is known of each node.
const GOLDEN_IMAGE_4: &str = concat!(
    "5152542d4d4554410400000009000000000000006022bcff",
    "070000000000000000000000000000000500000000000000",
    "02000000",
    "0100000000000000020000006e3103000000683a31010000007a0300000001",
    "0400000000000000020000006e3203000000683a31010000007a0000000003",
    "0302000000",
    "01000000010000000100000000000000",
    "0200000004000000000000000100000000000000",
    "02000000010000006109000000616e6f6e796d6f7573",
    "010505050505050505050505050505050505050505050505050505050505050505",
    "03000000",
    "06000000010300000005000000302e312e30",
    "0000000000",
);

/// The same as version 3 had it.
const GOLDEN_IMAGE_3: &str = concat!(
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
    /// What each of them reads.
    reads: [Reads; 3],
    board: Switchboard,
    dirs: Vec<tempfile::TempDir>,
    nodes: Vec<(RaftNode, MetaHandle)>,
}

impl Trio {
    async fn start(reads: Reads) -> Self {
        let dirs = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let reads = std::array::from_fn(|_| reads.clone());
        let mut trio = Self { reads, board: Switchboard::default(), dirs, nodes: Vec::new() };
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
        let (calls, reads) = (self.board.calls(id), self.reads[at].clone());
        let meta = MetaHandle::join_reading(&raft, dir, calls, Some(&first), reads).await.unwrap();
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

    async fn found(&self) {
        self.fresh(0).await;
        let nodes: Vec<_> =
            (1..=3).map(|node| (NodeId(node), format!("n{node}"), format!("h:{node}"))).collect();
        let replicas = vec![vec![NodeId(1), NodeId(2), NodeId(3)]; 2];
        let founding =
            (0..3).map(|at| self.meta(at).found(&nodes, 3, replicas.clone(), Some(LogKind::Embedded)));
        futures::future::try_join_all(founding).await.unwrap();
    }

    fn active(&self, at: usize) -> MetaVersion {
        self.meta(at).read(|state| state.active_version())
    }

    /// What the nodes tell the one that leads.
    fn heard(&self) -> BTreeMap<NodeId, Reads> {
        (1..).map(NodeId).zip(self.reads.clone()).collect()
    }

    /// Starts a node again, with what it reads by then.
    async fn restart(&mut self, at: usize) {
        self.board.disconnect(NodeId(at as u64 + 1));
        self.nodes[at].0.shutdown().await;
        self.nodes[at] = self.open(at).await;
        self.fresh(at).await;
    }

    async fn fresh(&self, at: usize) {
        while self.meta(at).fresh().await.is_err() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_proposes_and_reads_what_it_proposed() {
    let mut trio = Trio::start(Reads::of_this_build()).await;
    trio.found().await;
    assert!((0..3).all(|at| trio.active(at) == MetaVersion::NEWEST), "at once");
    assert!((0..3).all(|at| trio.meta(at).read(MetaState::is_embedded)), "it was said with it");
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

fn base() -> Reads {
    Reads::told(0, "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_is_written_once_every_node_reads_it() {
    let mut trio = Trio::start(base()).await;
    trio.found().await;
    assert!(trio.meta(0).read(MetaState::is_embedded), "it cannot be said, and is so");
    trio.meta(0).begin_incarnation(NodeId(3), "h:3", "").await.unwrap();
    for at in 0..2 {
        trio.reads[at] = Reads::of_this_build();
        trio.restart(at).await;
    }
    // The old form of what both read, and nothing of what the third does not.
    let seen = |trio: &Trio| trio.meta(0).state().nodes()[&NodeId(3)].clone();
    trio.meta(0).set_node_state(NodeId(3), &seen(&trio), NodeState::Draining).await.unwrap();
    let lost = trio.meta(0).set_node_state(NodeId(3), &seen(&trio), NodeState::Lost).await.unwrap_err();
    assert!(matches!(lost, MetaError::Gated { needed: MetaVersion(2), active: MetaVersion::BASE }), "{lost}");
    assert!(matches!(trio.meta(1).secret().await, Err(MetaError::Gated { .. })));
    assert_eq!(trio.meta(0).raise_version(&trio.heard()).await.unwrap(), None, "one reads less");
    trio.meta(0).compact(true).await.unwrap();
    let image = std::fs::read(trio.dirs[0].path().join("meta.image")).unwrap();
    assert_eq!(image[8], 2, "it could go to any of them");
    trio.fresh(2).await;
    assert_eq!(trio.meta(2).state(), trio.meta(0).state());

    trio.reads[2] = Reads::of_this_build();
    trio.restart(2).await;
    assert_eq!(trio.meta(1).raise_version(&trio.heard()).await.unwrap(), Some(MetaVersion::NEWEST));
    assert_eq!(trio.meta(1).raise_version(&trio.heard()).await.unwrap(), None, "it is");
    trio.meta(0).fresh().await.unwrap();
    let before = seen(&trio);
    trio.meta(0).begin_incarnation(NodeId(3), "h:3", "").await.unwrap();
    let late = trio.meta(1).set_node_state(NodeId(3), &before, NodeState::Lost).await.unwrap_err();
    assert!(matches!(late, MetaError::Refused(_)), "{late}");
    trio.meta(0).set_node_state(NodeId(3), &seen(&trio), NodeState::Lost).await.unwrap();
    trio.meta(1).secret().await.unwrap();

    // One that has not heard of it proposes the old form in vain.
    let follower = (0..2).find(|at| trio.meta(*at).group().leader() != Some(NodeId(*at as u64 + 1))).unwrap();
    let entry = seen(&trio);
    trio.meta(follower).0.state.write().version = MetaVersion::SECRET;
    let stale = trio.meta(follower).set_node_state(NodeId(3), &entry, NodeState::Draining).await.unwrap_err();
    assert!(matches!(&stale, MetaError::Refused(reason) if reason.contains("another form")), "{stale}");
    trio.meta(follower).0.state.write().version = MetaVersion::NEWEST;
    let old = Command::SetNodeState { node: NodeId(3), state: NodeState::Draining };
    assert!(matches!(trio.meta(follower).propose(old).await, Err(MetaError::Outdated { .. })));
    trio.meta(0).fresh().await.unwrap();
    assert_eq!(seen(&trio), entry);

    // One that reads less is told at the door, and stops before it misreads anything if it comes all the same.
    let refused = trio.meta(0).admits(&base()).unwrap_err();
    assert!(refused.contains("version 1") && refused.contains("version 5"), "{refused}");
    trio.reads[2] = base();
    trio.board.disconnect(NodeId(3));
    trio.nodes[2].0.shutdown().await;
    trio.nodes[2] = trio.open(2).await;
    let reason = trio.meta(2).failed().await;
    assert!(reason.contains("version 5") && reason.contains("newer version of Quorate"), "{reason}");
    for (raft, _) in &trio.nodes {
        raft.shutdown().await;
    }
}

#[tokio::test]
async fn who_reads_too_little_gets_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    meta.register_alone(NodeId(1)).await.unwrap();
    assert_eq!(meta.read(|state| state.active_version()), MetaVersion::NEWEST);
    let door = Door::new(&Introduction { name: "n1".to_owned(), ..Introduction::default() }, None);
    door.open(NodeId(1), meta.clone());
    let hello = door.hello(Default::default()).await;
    assert_eq!(hello.metadata_version, MetaVersion::NEWEST.0);
    let ask =
        |reads| JoinRequest { name: "n2".to_owned(), address: "h:2".to_owned(), reads, ..Default::default() };
    let refused = door.join(ask(0)).await.outcome;
    assert!(matches!(refused, Some(Outcome::Refused(reason)) if reason.contains("version 1")));
    assert_eq!(meta.state().nodes().len(), 1, "it left nothing");
    let taken = door.join(ask(MetaVersion::NEWEST.0)).await.outcome;
    let Some(Outcome::Joined(joined)) = taken else { panic!("{taken:?}") };
    meta.take_back(NodeId(joined.node)).await;
    assert_eq!(meta.state().nodes()[&NodeId(joined.node)].state, NodeState::Gone, "as if it were refused");
    meta.take_back(NodeId(1)).await;
    assert_eq!(meta.state().nodes()[&NodeId(1)].state, NodeState::Member, "it has begun");
    node.shutdown().await;
}
