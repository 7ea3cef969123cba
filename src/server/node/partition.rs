//! One partition of this node: its log, its store, and what applies the one to the other.

use super::StartError;
use crate::config::StorageConfig;
use async_trait::async_trait;
use quorate_commitlog::LogError;
use quorate_commitlog::raft_log::{RaftLog, read_indexes};
use quorate_ingest::{Applier, ApplyState, LocalAppender, MaintainedPartition};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_query::{IndexError, LocalReplica, PartitionIndex, ReplicaState};
use quorate_raft::{Group, RaftNode};
use quorate_tsdb::{Disk, PartitionStore, StoreConfig};
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
    log: RaftLog,
    index: Arc<dyn PartitionIndex>,
}

impl Partition {
    /// Loads the newest image and begins to apply what the log holds after it. `first` are the voters that the group is
    /// begun with if it never was, and this node is one of those who begin it.
    ///
    /// # Errors
    /// [`StartError`] if the store or the log cannot be read.
    pub async fn start(
        id: PartitionId,
        raft: &RaftNode,
        disk: &Arc<Disk>,
        data_dir: &Path,
        storage: &StorageConfig,
        origin: &Origin,
        first: Option<&BTreeSet<NodeId>>,
    ) -> Result<(Self, Applier), StartError> {
        let config = StoreConfig {
            close_delay_ms: storage.close_delay.as_ms(),
            late_delay_ms: storage.late_delay.as_ms(),
            ..StoreConfig::default()
        };
        let (disk, dir) = (disk.clone(), folder(data_dir, id));
        let opening = tokio::task::spawn_blocking(move || PartitionStore::open(&disk, &dir, id, config));
        let store = opening.await.map_err(|_| StartError::Panicked)?;
        let store = Arc::new(store.map_err(|cause| StartError::Store { partition: id, cause })?);
        let failed = |cause| StartError::Log { partition: id, cause };
        let log = match origin {
            Origin::Alone => RaftLog::start(raft, id).await,
            Origin::Shared { calls, incarnation, .. } => {
                RaftLog::join(raft, id, calls.clone(), *incarnation).await
            }
        }
        .map_err(failed)?;
        if let Some(first) = first {
            log.group().begin(first).await?;
        }
        let index = match origin {
            Origin::Alone => Arc::new(OnlyMember(log.group().clone())),
            Origin::Shared { index, .. } => index.clone(),
        };
        let applier = Applier::start(id, store.clone(), Arc::new(log.clone()), Handle::current())
            .map_err(StartError::Thread)?;
        Ok((Self { id, store, state: applier.state(), log, index }, applier))
    }

    /// The way into its log.
    pub fn appender(&self, applier: &Applier) -> LocalAppender {
        LocalAppender::new(Arc::new(self.log.clone()), applier.verdicts())
    }

    /// What maintenance needs of it.
    pub fn maintained(&self) -> MaintainedPartition {
        MaintainedPartition {
            id: self.id,
            store: self.store.clone(),
            log: Arc::new(self.log.clone()),
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

    /// The group of its log.
    pub fn group(&self) -> &Group {
        self.log.group()
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

/// Where a partition keeps its images and its series log.
pub fn folder(data_dir: &Path, id: PartitionId) -> PathBuf {
    data_dir.join("partitions").join(id.to_string())
}
