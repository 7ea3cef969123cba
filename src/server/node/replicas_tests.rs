//! Replicas that cannot be opened again, and those that leave with a trouble.

use super::*;
use quorate_kv::MemKv;
use quorate_raft::RaftConfig;

const ID: PartitionId = PartitionId(0);

/// The replica of one partition of a node that is alone.
async fn replicas(dir: &std::path::Path) -> Arc<Replicas> {
    let raft = RaftNode::start(&dir.join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
    let ground = Ground {
        raft,
        disk: Disk::open(Arc::new(MemKv::default()), 1, 1 << 20).unwrap(),
        data_dir: dir.to_owned(),
        storage: StorageConfig::default(),
        origin: Origin::Alone,
        traffic: Arc::new(Traffic::new(0)),
        kafka: None,
        troubles: Arc::default(),
    };
    let replicas = Replicas::new(ground, 1);
    replicas.open(vec![(ID, None)]).await.unwrap();
    replicas.ready(ID).await.unwrap();
    replicas
}

#[tokio::test]
async fn a_replica_that_does_not_open_behind_lost_records_ends_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let replicas = replicas(dir.path()).await;
    replicas.is_stopped.store(true, Ordering::SeqCst);
    // Nothing is skipped: the log that the replica reads must have no reason of its own to end it.
    let applied = replicas.get(ID).unwrap().store.applied();
    let reason = replicas.skip(ID, applied, applied).await.unwrap_err();
    assert!(replicas.get(ID).is_none());
    let told = tokio::time::timeout(Duration::from_secs(60), replicas.failed()).await.unwrap();
    assert!(told.contains(&reason), "{told}");
    replicas.ground.raft.shutdown().await;
}

#[tokio::test]
async fn a_trouble_goes_with_its_replica() {
    let dir = tempfile::tempdir().unwrap();
    let replicas = replicas(dir.path()).await;
    replicas.troubles().set(ID, "records are lost".to_owned());
    assert!(replicas.leave(ID, async { true }).await.unwrap());
    assert_eq!(replicas.troubles().list(), []);
    // Told by who was at it while the replica left.
    replicas.troubles().set(ID, "records are lost".to_owned());
    rebuild(Arc::downgrade(&replicas), ID).await;
    assert_eq!(replicas.troubles().list(), []);
    replicas.ground.raft.shutdown().await;
}
