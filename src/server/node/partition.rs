//! One partition of this node: its log, its store, and what applies the one to the other.

use super::StartError;
use super::kafka::{KafkaHere, Lag};
use super::replicas::Ground;
use async_trait::async_trait;
use quorate_commitlog::kafka::KafkaLog;
use quorate_commitlog::raft_log::{RaftLog, group_of, read_indexes};
use quorate_commitlog::{LogEntry, LogError, PartitionLog};
use quorate_ingest::{Applier, ApplyState, Builder, LocalAppender, MaintainedPartition, Strangers};
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{Clock, NodeId, PartitionId, Position, SystemClock};
use quorate_query::{IndexError, LocalReplica, PartitionIndex, ReplicaState};
use quorate_raft::{Group, RaftNode};
use quorate_tsdb::{PartitionStore, StoreConfig};
use quorate_wire::Calls;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Whose the groups of a node's partitions are.
#[derive(Clone)]
pub enum Origin {
    /// This node's only.
    Alone,
    /// Those of a cluster.
    Shared {
        /// The way to the other members.
        calls: Arc<dyn Calls>,
        /// The incarnation of all logs: a lost disk does not begin one again.
        incarnation: u32,
        /// What is committed in them.
        index: Arc<dyn PartitionIndex>,
    },
}

/// The parts of one partition that others look at.
#[derive(Clone)]
pub struct Partition {
    /// Its number.
    pub id: PartitionId,
    /// Head and blocks.
    pub store: Arc<PartitionStore>,
    /// How far apply has come.
    pub state: watch::Receiver<ApplyState>,
    log: Log,
    group: Group,
    me: NodeId,
    index: Arc<dyn PartitionIndex>,
}

/// Where the records of a partition are.
#[derive(Clone)]
enum Log {
    /// In its group.
    Raft(RaftLog),
    /// In Kafka; the group then only says who has a replica, and who of them proposes marks.
    Kafka(Arc<KafkaHere>, KafkaLog),
}

impl Log {
    fn shared(&self) -> Arc<dyn PartitionLog> {
        match self {
            Self::Raft(log) => Arc::new(log.clone()),
            Self::Kafka(_, log) => Arc::new(log.clone()),
        }
    }
}

impl Partition {
    /// Loads the newest image and begins to apply what the log holds after it. `first` are the voters that the group is
    /// begun with if it never was, and this node is one of those who begin it.
    ///
    /// # Errors
    /// [`StartError`] if the store or the log cannot be read.
    pub async fn start(
        id: PartitionId,
        ground: &Ground,
        first: Option<&BTreeSet<NodeId>>,
    ) -> Result<(Self, Applier), StartError> {
        let Ground { raft, disk, data_dir, storage, origin, kafka, .. } = ground;
        let config = StoreConfig {
            close_delay_ms: storage.close_delay.as_ms(),
            late_delay_ms: storage.late_delay.as_ms(),
            ..StoreConfig::default()
        };
        let (disk, dir) = (disk.clone(), folder(data_dir, id));
        let opening = tokio::task::spawn_blocking(move || PartitionStore::open(&disk, &dir, id, config));
        let store = opening.await.map_err(|_| StartError::Panicked)?;
        let store = Arc::new(store.map_err(|cause| StartError::Store { partition: id, cause })?);
        if let Some(kafka) = kafka {
            let written_ms =
                store.image_written_ms().map_err(|cause| StartError::Store { partition: id, cause })?;
            let age_ms = u64::try_from(SystemClock.now_ms().saturating_sub(written_ms)).unwrap_or(0);
            kafka.kafka().note_image(id, Duration::from_millis(age_ms));
        }
        let failed = |cause| StartError::Log { partition: id, cause };
        let (log, group) = match (kafka, origin) {
            (Some(kafka), Origin::Alone) => {
                (Log::Kafka(kafka.clone(), kafka.log(id)), raft.group(group_of(id)).await?)
            }
            (Some(kafka), Origin::Shared { .. }) => {
                (Log::Kafka(kafka.clone(), kafka.log(id)), raft.member(group_of(id)).await?)
            }
            (None, Origin::Alone) => in_group(RaftLog::start(raft, id).await.map_err(failed)?),
            (None, Origin::Shared { calls, incarnation, .. }) => {
                in_group(RaftLog::join(raft, id, calls.clone(), *incarnation).await.map_err(failed)?)
            }
        };
        if let Some(first) = first {
            group.begin(first).await?;
        }
        let index: Arc<dyn PartitionIndex> = match (&log, origin) {
            (Log::Kafka(kafka, _), _) => Arc::new(KafkaIndex(kafka.clone())),
            (Log::Raft(_), Origin::Alone) => Arc::new(OnlyMember(group.clone())),
            (Log::Raft(_), Origin::Shared { index, .. }) => index.clone(),
        };
        let me = raft.id();
        let strangers = kafka.as_ref().map(|kafka| told_strangers(id, kafka, group.clone(), me));
        let applier = Applier::start(id, store.clone(), log.shared(), strangers, Handle::current())
            .map_err(StartError::Thread)?;
        Ok((Self { id, store, state: applier.state(), log, group, me, index }, applier))
    }

    /// The way into its log.
    pub fn appender(&self, applier: &Applier) -> LocalAppender {
        LocalAppender::new(self.log.shared(), applier.verdicts())
    }

    /// What maintenance needs of it.
    pub fn maintained(&self) -> MaintainedPartition {
        MaintainedPartition {
            id: self.id,
            store: self.store.clone(),
            log: self.log.shared(),
            builder: self.builder(),
            state: self.state.clone(),
        }
    }

    /// What queries need of it.
    pub fn replica(&self) -> LocalReplica {
        LocalReplica {
            store: self.store.clone(),
            state: Arc::new(Applied { state: self.state.clone() }),
            index: Some(self.index.clone()),
        }
    }

    /// The group of its members; the log of its records, too, unless that is Kafka.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Under which epoch this node proposes marks. Of a log that any node can append to, who leads the group does, and its
    /// term is the epoch: one that was deposed and does not know it yet has a lower one than its heir. A recovery leaves out so many
    /// terms that this holds over it. Should terms begin anew all the same, what was applied in the log counts, so that marks
    /// go on: then two builders at a time are told apart by the generations that they name alone.
    fn builder(&self) -> Builder {
        match &self.log {
            Log::Raft(_) => Arc::new(|| Some(ONLY_EPOCH)),
            Log::Kafka(..) => {
                let (group, me, store) = (self.group.clone(), self.me, Arc::downgrade(&self.store));
                Arc::new(move || {
                    let leads = group.leader() == Some(me);
                    let (term, store) = (u32::try_from(group.term()).ok()?, store.upgrade()?);
                    leads.then(|| term.max(store.builder_epoch()))
                })
            }
        }
    }

    /// The newest position that is known to be committed.
    pub fn known_index(&self) -> Position {
        match &self.log {
            Log::Raft(_) => self.group.known_index(),
            // What is applied is committed, also before anybody has looked.
            Log::Kafka(kafka, _) => kafka.known_end(self.id).max(self.store.applied()),
        }
    }

    /// How far the replica is behind Kafka; `None` with the embedded log.
    pub fn lag(&self) -> Option<Lag> {
        match &self.log {
            Log::Raft(_) => None,
            Log::Kafka(kafka, _) => Some(kafka.lag(self.id, self.store.applied())),
        }
    }

    /// How old its durable image is, if it has caught up with Kafka; `None` with the embedded log.
    pub fn image_age(&self) -> Option<Duration> {
        match &self.log {
            Log::Kafka(kafka, _) if self.has_caught_up() => kafka.kafka().image_age(self.id),
            Log::Kafka(..) | Log::Raft(_) => None,
        }
    }

    /// Whether the replica has caught up with the log: readers of the log find nothing more than it has.
    pub fn has_caught_up(&self) -> bool {
        self.state.borrow().is_ready
    }

    /// Waits until everything that was committed when it started is applied.
    ///
    /// # Errors
    /// [`StartError::Replay`] if it stopped instead.
    pub async fn ready(&self) -> Result<(), StartError> {
        match self.wait(|state| state.is_ready || state.stopped.is_some()).await.stopped {
            None => Ok(()),
            Some(reason) => Err(StartError::Replay { partition: self.id, reason }),
        }
    }

    /// The first state that `until` accepts; the last one if apply ends before.
    async fn wait(&self, until: impl FnMut(&ApplyState) -> bool) -> ApplyState {
        wait(&self.state, until).await
    }
}

async fn wait(state: &watch::Receiver<ApplyState>, until: impl FnMut(&ApplyState) -> bool) -> ApplyState {
    let mut state = state.clone();
    let seen = state.wait_for(until).await.map(|seen| seen.clone());
    seen.unwrap_or_else(|_ended| state.borrow().clone())
}

/// How far apply has come, as queries ask.
struct Applied {
    state: watch::Receiver<ApplyState>,
}

#[async_trait]
impl ReplicaState for Applied {
    fn is_ready(&self) -> bool {
        self.state.borrow().is_ready
    }

    async fn reached(&self, position: Position) -> Result<(), String> {
        let is_there = |state: &ApplyState| state.is_ready && state.applied >= position;
        let state = wait(&self.state, |state| is_there(state) || state.stopped.is_some()).await;
        match is_there(&state) {
            true => Ok(()),
            false => {
                Err(state.stopped.map_or_else(|| "its apply thread ended".to_owned(), |why| why.to_string()))
            }
        }
    }
}

/// Epoch of the builder of a log that only its leader appends to.
const ONLY_EPOCH: u32 = 1;

fn in_group(log: RaftLog) -> (Log, Group) {
    let group = log.group().clone();
    (Log::Raft(log), group)
}

/// Tells of entries in the topic that no node of this cluster wrote.
fn told_strangers(id: PartitionId, kafka: &KafkaHere, group: Group, me: NodeId) -> Strangers {
    let strangers = kafka.strangers();
    Arc::new(move |entry: &LogEntry, why: &str| strangers.found(id, entry, why, group.leader() == Some(me)))
}

/// The ends of the partitions of the topic, as queries ask.
struct KafkaIndex(Arc<KafkaHere>);

#[async_trait]
impl PartitionIndex for KafkaIndex {
    async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        patience: Duration,
    ) -> Vec<Result<Position, IndexError>> {
        let told = |found: Result<Position, LogError>| {
            found.map_err(|error| IndexError::Unavailable { reason: error.to_string() })
        };
        if is_planted(Bug::RememberedEnd) {
            return partitions.iter().map(|id| Ok(self.0.known_end(*id))).collect();
        }
        self.0.kafka().read_indexes(partitions, patience).await.into_iter().map(told).collect()
    }
}

/// The committed positions of the groups of a node, as queries ask. All its replicas share one.
pub struct Index(RaftNode);

impl Index {
    /// Of the groups of `raft`.
    pub fn new(raft: RaftNode) -> Self {
        Self(raft)
    }
}

#[async_trait]
impl PartitionIndex for Index {
    async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        patience: Duration,
    ) -> Vec<Result<Position, IndexError>> {
        let told = |found: Result<Position, LogError>| {
            found.map_err(|error| match error {
                LogError::NotLeader { leader } => IndexError::NotLeader { leader },
                error => IndexError::Unavailable { reason: error.to_string() },
            })
        };
        read_indexes(&self.0, partitions, patience).await.into_iter().map(told).collect()
    }
}

/// The same of one partition of a node that is alone: it knows what is committed. A write whose verdict was late is
/// answered before it is applied, so even there a strong read has to wait.
struct OnlyMember(Group);

#[async_trait]
impl PartitionIndex for OnlyMember {
    async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        _patience: Duration,
    ) -> Vec<Result<Position, IndexError>> {
        partitions.iter().map(|_itself| Ok(self.0.known_index())).collect()
    }
}

/// The folder of all partitions.
pub const PARTITIONS: &str = "partitions";

/// Where a partition keeps its images and its series log.
pub fn folder(data_dir: &Path, id: PartitionId) -> PathBuf {
    data_dir.join(PARTITIONS).join(id.to_string())
}
