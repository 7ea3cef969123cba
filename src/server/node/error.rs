//! Why a node does not start.

use crate::datadir::DataDirError;
use quorate_cluster::MetaError;
use quorate_cluster::formation::NoPlace;
use quorate_commitlog::LogError;
use quorate_commitlog::kafka::KafkaError;
use quorate_kv::KvError;
use quorate_model::PartitionId;
use quorate_raft::RaftError;
use quorate_tsdb::StoreError;
use std::sync::Arc;

/// Why a node did not start. The operator reads it; nothing else can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store of blocks cannot be opened.
    #[error("the store of blocks: {0}")]
    Kv(#[from] KvError),
    /// What the partitions share on disk cannot be opened.
    #[error("the store of blocks: {0}")]
    Disk(#[from] StoreError),
    /// The segment log cannot be opened.
    #[error("the log: {0}")]
    Raft(#[from] RaftError),
    /// The metadata group does not run.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The cluster has another log.
    #[error(
        "the log of this cluster is {cluster}, and log is {started}: start the node with that of the cluster"
    )]
    OtherLog {
        /// What the cluster has.
        cluster: String,
        /// What the node was started with.
        started: &'static str,
    },
    /// The data dir was used with the embedded log.
    #[error(
        "the data dir was used with the embedded log, which a Kafka topic cannot continue: start with log embedded, or \
         with a new data dir"
    )]
    EmbeddedData,
    /// Kafka cannot be the log.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A source cannot be started.
    #[error("source {name}: {reason}")]
    Source {
        /// Its name.
        name: String,
        /// What is wrong with its settings.
        reason: String,
    },
    /// The data dir does not belong to this node, or cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node gets no place in a cluster.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The peers are another cluster than the one that the data dir belongs to.
    #[error(
        "the data dir belongs to cluster {found:032x}, and the nodes at peers or join are cluster {answered:032x}"
    )]
    OtherCluster {
        /// The cluster of the data dir.
        found: u128,
        /// That of the others.
        answered: u128,
    },
    /// A partition cannot be opened.
    #[error("partition {partition}: {cause}")]
    Store {
        /// The partition.
        partition: PartitionId,
        /// What its store said.
        #[source]
        cause: StoreError,
    },
    /// The log of a partition cannot be read.
    #[error("partition {partition}: {cause}")]
    Log {
        /// The partition.
        partition: PartitionId,
        /// What its log said.
        #[source]
        cause: LogError,
    },
    /// The log of a partition was not replayed to its end.
    #[error("partition {partition} was not replayed: {reason}")]
    Replay {
        /// The partition.
        partition: PartitionId,
        /// Why it stopped.
        reason: Arc<str>,
    },
    /// Something that has to run stopped before the node was ready.
    #[error("{0}")]
    Stopped(String),
    /// The system gives no thread.
    #[error("no thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The memory of the machine cannot be read.
    #[error("query.memory is 0 and the machine's memory cannot be read: {0}")]
    Memory(#[source] std::io::Error),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Opening a store panicked: a bug.
    #[error("opening a store failed unexpectedly; see the log")]
    Panicked,
}
