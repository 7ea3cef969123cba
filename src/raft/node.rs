//! The Raft groups of one node over its segment log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use quorate_model::NodeId;
use tokio::sync::{Mutex, Semaphore};

use crate::segment_log::{GroupId, SegmentLog, SegmentLogConfig, SegmentLogStats};
use crate::{Group, RaftError};

/// Bound of `pending_bytes`: a batch of the log holds less than 4 GiB.
const MAX_PENDING: usize = 1 << 30;

/// Settings of a node's groups and their log.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// A segment file is closed at about this length.
    pub segment_bytes: u64,
    /// Recent payloads kept in memory for readers that follow, over all groups.
    pub cache_bytes: usize,
    /// Payloads proposed and not yet durable, over all groups; further proposals wait. At most 1 GiB.
    pub pending_bytes: usize,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 64 << 20, pending_bytes: 64 << 20 }
    }
}

/// The groups of this node. Clones share them.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    log: SegmentLog,
    groups: Mutex<BTreeMap<GroupId, Group>>,
    pending: Arc<Semaphore>,
    pending_limit: usize,
}

impl RaftNode {
    /// Opens the log in `dir`, or begins one for `id`. Starts no group yet.
    ///
    /// # Errors
    /// [`RaftError::Log`] when the log is damaged, of another node, or in use.
    pub async fn start(dir: &Path, id: NodeId, config: RaftConfig) -> Result<Self, RaftError> {
        let settings = SegmentLogConfig {
            segment_bytes: config.segment_bytes,
            cache_bytes: config.cache_bytes,
            ..SegmentLogConfig::new(id.0)
        };
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || SegmentLog::open(&dir, settings)).await;
        let log = opened.map_err(|_| crate::segment_log::SegmentError::Closed)??;
        let pending_limit = config.pending_bytes.clamp(1, MAX_PENDING);
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                log,
                groups: Mutex::default(),
                pending: Arc::new(Semaphore::new(pending_limit)),
                pending_limit,
            }),
        })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The group, started if it is not yet. See [`Group`].
    ///
    /// # Errors
    /// [`RaftError::OtherMembers`] when the group has members on other nodes, [`RaftError::Start`] otherwise.
    pub async fn group(&self, group: GroupId) -> Result<Group, RaftError> {
        let Inner { id, log, groups, pending, pending_limit } = &*self.inner;
        let mut groups = groups.lock().await;
        if let Some(running) = groups.get(&group) {
            return Ok(running.clone());
        }
        let part = log.group(group, new_incarnation())?;
        let started = Group::start(id.0, part, Arc::clone(pending), *pending_limit).await?;
        groups.insert(group, started.clone());
        Ok(started)
    }

    /// Groups that keep the oldest segments from being deleted. The owner of each must cut an image and trim.
    pub fn oldest_pinning_groups(&self) -> Vec<GroupId> {
        self.inner.log.oldest_pinning_groups()
    }

    /// Counters of the log.
    pub fn stats(&self) -> SegmentLogStats {
        self.inner.log.stats()
    }

    /// Stops every group, then writes what is queued and closes the log.
    pub async fn shutdown(&self) {
        let groups = std::mem::take(&mut *self.inner.groups.lock().await);
        for group in groups.values() {
            group.shutdown().await;
        }
        self.inner.pending.close();
        let inner = Arc::clone(&self.inner);
        if tokio::task::spawn_blocking(move || inner.log.close()).await.is_err() {
            tracing::error!("closing the log panicked");
        }
    }
}

/// A number that a log begun in place of a lost one will not have again; never 0.
fn new_incarnation() -> u32 {
    rand::random::<u32>().max(1)
}
