use super::*;
use quorate_model::NodeId;
use quorate_raft::RaftConfig;
use std::collections::BTreeMap;

async fn open(dir: &Path) -> (RaftNode, MetaHandle) {
    let node = RaftNode::start(&dir.join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
    let meta = MetaHandle::start(&node, dir).await.unwrap();
    (node, meta)
}

fn sample_state() -> MetaState {
    let tenants = ["a", "anonymous"].map(Arc::from).to_vec();
    MetaState::restore(7, BTreeMap::from([("n1".to_owned(), 3)]), tenants)
}

#[tokio::test]
async fn numbers_survive_restarts_with_and_without_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (node, meta) = open(dir.path()).await;
    let id = meta.cluster_id();
    assert_ne!(id, 0);
    assert_eq!(meta.register_node("n1").await.unwrap(), 1);
    assert_eq!(meta.intern_tenant("a", 100).await.unwrap(), TenantId(1));
    assert_eq!(meta.intern_tenant("b", 100).await.unwrap(), TenantId(2));
    assert_eq!(meta.intern_tenant("a", 100).await.unwrap(), TenantId(1));
    node.shutdown().await;
    for round in 0..3 {
        let (node, meta) = open(dir.path()).await;
        assert_eq!(meta.cluster_id(), id);
        assert_eq!(meta.register_node("n1").await.unwrap(), 2 + round);
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
    assert!(matches!(meta.register_node("n1").await, Err(MetaError::Stopped)));
    node.shutdown().await;
}

#[test]
fn images_round_trip_and_never_change() {
    let bytes = image::encode(Position(9), &sample_state());
    assert_eq!(image::decode(&bytes).unwrap(), (Position(9), sample_state()));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN_IMAGE);
}

/// [`sample_state`] at position 9, line by line: header with its checksum, cluster id, nodes, tenants.
const GOLDEN_IMAGE: &str = concat!(
    "5152542d4d4554410100000009000000000000003e2136ca",
    "07000000000000000000000000000000",
    "01000000020000006e3103000000",
    "02000000010000006109000000616e6f6e796d6f7573",
);

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
