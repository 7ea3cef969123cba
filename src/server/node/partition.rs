//! One partition of this node: its log, its store, and what applies the one to the other.

use super::StartError;
use crate::config::StorageConfig;
use quorate_commitlog::PartitionLog;
use quorate_commitlog::raft_log::RaftLog;
use quorate_ingest::{Applier, ApplyState, MaintainedPartition, PartitionInput};
use quorate_model::PartitionId;
use quorate_raft::RaftNode;
use quorate_tsdb::{Disk, PartitionStore, StoreConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The parts of one partition that others look at.
#[derive(Clone)]
pub struct Partition {
    /// Its number.
    pub id: PartitionId,
    /// Head and blocks.
    pub store: Arc<PartitionStore>,
    /// How far apply has come.
    pub state: watch::Receiver<ApplyState>,
    log: Arc<dyn PartitionLog>,
}

impl Partition {
    /// Loads the newest image and begins to apply what the log holds after it.
    ///
    /// # Errors
    /// [`StartError`] if the store or the log cannot be read.
    pub async fn start(
        id: PartitionId,
        raft: &RaftNode,
        disk: &Arc<Disk>,
        data_dir: &Path,
        storage: &StorageConfig,
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
        let log = RaftLog::start(raft, id).await.map_err(|cause| StartError::Log { partition: id, cause })?;
        let log: Arc<dyn PartitionLog> = Arc::new(log);
        let applier =
            Applier::start(id, store.clone(), log.clone(), Handle::current()).map_err(StartError::Thread)?;
        Ok((Self { id, store, state: applier.state(), log }, applier))
    }

    /// What the distributor needs of it.
    pub fn input(&self, applier: &Applier) -> PartitionInput {
        PartitionInput {
            id: self.id,
            log: self.log.clone(),
            verdicts: applier.verdicts(),
            holdings: self.store.clone(),
        }
    }

    /// What maintenance needs of it.
    pub fn maintained(&self) -> MaintainedPartition {
        MaintainedPartition {
            id: self.id,
            store: self.store.clone(),
            log: self.log.clone(),
            state: self.state.clone(),
        }
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

    /// Waits until it stops applying. Gives the reason.
    pub async fn stopped(&self) -> Arc<str> {
        let reason = self.wait(|state| state.stopped.is_some()).await.stopped;
        reason.unwrap_or_else(|| Arc::from("its apply thread ended"))
    }

    /// The first state that `until` accepts; the last one if apply ends before.
    async fn wait(&self, until: impl FnMut(&ApplyState) -> bool) -> ApplyState {
        let mut state = self.state.clone();
        let seen = state.wait_for(until).await.map(|seen| seen.clone());
        seen.unwrap_or_else(|_ended| self.state.borrow().clone())
    }
}

/// Where a partition keeps its images and its series log.
fn folder(data_dir: &Path, id: PartitionId) -> PathBuf {
    data_dir.join("partitions").join(id.to_string())
}
