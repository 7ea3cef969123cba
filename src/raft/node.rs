//! The Raft groups of one node over its segment log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use quorate_model::NodeId;
use quorate_wire::Transport;
use tokio::sync::{Mutex, Semaphore};

use crate::group::{Role, Shared};
use crate::network::Alone;
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
    log: SegmentLog,
    shared: Shared,
    /// Held while a group starts.
    starting: Mutex<()>,
    groups: RwLock<BTreeMap<GroupId, Group>>,
}

impl RaftNode {
    /// Opens the log in `dir`, or begins one for `id`, of a node without peers. Starts no group yet.
    ///
    /// # Errors
    /// [`RaftError::Log`] when the log is damaged, of another node, or in use.
    pub async fn start(dir: &Path, id: NodeId, config: RaftConfig) -> Result<Self, RaftError> {
        Self::start_with_peers(dir, id, config, Arc::new(Alone)).await
    }

    /// The same for a node that reaches its peers by `transport`; it is the handler of what they send.
    ///
    /// # Errors
    /// As [`RaftNode::start`].
    pub async fn start_with_peers(
        dir: &Path,
        id: NodeId,
        config: RaftConfig,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, RaftError> {
        let settings = SegmentLogConfig {
            segment_bytes: config.segment_bytes,
            cache_bytes: config.cache_bytes,
            ..SegmentLogConfig::new(id.0)
        };
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || SegmentLog::open(&dir, settings)).await;
        let log = opened.map_err(|_| crate::segment_log::SegmentError::Closed)??;
        let pending_limit = config.pending_bytes.clamp(1, MAX_PENDING);
        let pending = Arc::new(Semaphore::new(pending_limit));
        let shared = Shared { node: id, transport, pending, pending_limit };
        let (starting, groups) = (Mutex::default(), RwLock::default());
        Ok(Self { inner: Arc::new(Inner { log, shared, starting, groups }) })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.shared.node
    }

    /// The group with this node as its only voter, started if it is not yet. See [`Group`].
    ///
    /// # Errors
    /// [`RaftError::OtherMembers`] when the group has members on other nodes, [`RaftError::Start`] otherwise.
    pub async fn group(&self, group: GroupId) -> Result<Group, RaftError> {
        self.start_group(group, Role::Alone).await
    }

    /// The group as one that has or will have several members, started if it is not yet. Leads it only after an
    /// election.
    ///
    /// # Errors
    /// [`RaftError::Start`].
    pub async fn member(&self, group: GroupId) -> Result<Group, RaftError> {
        self.start_group(group, Role::Member).await
    }

    async fn start_group(&self, group: GroupId, role: Role) -> Result<Group, RaftError> {
        let Inner { log, shared, starting, groups } = &*self.inner;
        let _one = starting.lock().await;
        if let Some(running) = self.running(group) {
            return Ok(running);
        }
        let part = log.group(group, new_incarnation())?;
        let started = Group::start(shared, part, role).await?;
        groups.write().insert(group, started.clone());
        Ok(started)
    }

    pub(crate) fn running(&self, group: GroupId) -> Option<Group> {
        self.inner.groups.read().get(&group).cloned()
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
        let _none_starts = self.inner.starting.lock().await;
        let groups = std::mem::take(&mut *self.inner.groups.write());
        for group in groups.values() {
            group.shutdown().await;
        }
        self.inner.shared.pending.close();
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
