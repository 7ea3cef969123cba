//! The Raft groups of one node over its segment log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use quorate_model::NodeId;
use quorate_wire::Transport;
use tokio::sync::{Mutex, Semaphore};

use crate::disk::{Disk, RealDisk, blocking};
use crate::group::{Role, Shared};
use crate::network::Alone;
use crate::quiet::{self, Quiet};
use crate::segment_log::{GroupId, SegmentLog, SegmentLogConfig, SegmentLogStats};
use crate::storage::durable;
use crate::{Group, RaftError};

/// Bound of `pending_bytes`: a batch of the log holds less than 4 GiB.
const MAX_PENDING: usize = 1 << 30;
/// Long enough that a group which is written to every few seconds stays awake.
const SLEEP_AFTER: Duration = Duration::from_secs(5);

/// Settings of a node's groups and their log.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// A segment file is closed at about this length.
    pub segment_bytes: u64,
    /// Recent payloads kept in memory for readers that follow, over all groups.
    pub cache_bytes: usize,
    /// Payloads proposed and not yet durable, over all groups; further proposals wait. At most 1 GiB.
    pub pending_bytes: usize,
    /// A group of several members in which nothing happened for so long may sleep.
    pub sleep_after: Duration,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            pending_bytes: 64 << 20,
            sleep_after: SLEEP_AFTER,
        }
    }
}

/// The groups of this node. Clones share them.
#[derive(Clone)]
pub struct RaftNode {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    disk: Arc<dyn Disk>,
    log: SegmentLog,
    pub(crate) shared: Shared,
    /// Held while a group starts.
    starting: Mutex<()>,
    pub(crate) groups: RwLock<BTreeMap<GroupId, Group>>,
}

impl Inner {
    /// The running groups that may have other members.
    pub(crate) fn members(&self) -> Vec<Group> {
        self.groups.read().values().filter(|group| group.role() == Role::Member).cloned().collect()
    }
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
        Self::start_on(Arc::new(RealDisk), dir, id, config, transport).await
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As [`RaftNode::start`].
    pub async fn start_on(
        disk: Arc<dyn Disk>,
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
        let (dir, on) = (dir.to_owned(), Arc::clone(&disk));
        let opened = blocking(move || SegmentLog::open_on(on, &dir, settings)).await;
        let log = opened.map_err(|_| crate::segment_log::SegmentError::Closed)??;
        let pending_limit = config.pending_bytes.clamp(1, MAX_PENDING);
        let pending = Arc::new(Semaphore::new(pending_limit));
        let quiet = Arc::new(Quiet::new(config.sleep_after));
        let shared = Shared { node: id, transport, pending, pending_limit, quiet };
        let (starting, groups) = (Mutex::default(), RwLock::default());
        let inner = Arc::new(Inner { disk, log, shared, starting, groups });
        tokio::spawn(quiet::keep(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.shared.node
    }

    /// Where its files are.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
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
        let Inner { log, shared, starting, groups, .. } = &*self.inner;
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

    /// Stops a group: from now on this node answers nothing for it, until it is started again.
    pub async fn stop(&self, group: GroupId) {
        let _one = self.inner.starting.lock().await;
        let running = self.inner.groups.write().remove(&group);
        if let Some(running) = running {
            running.shutdown().await;
        }
    }

    /// Forgets a group that was stopped: its entries, and what stood for trimmed ones. Its vote stays, so that the group
    /// is never begun again here and no vote is given twice; so does the id of its last entry, so that nobody who lacks
    /// what this node had is ever elected by it. Durable when it returns. Only for a group that has let this
    /// node go since it was stopped: what the node said before counts for nobody any more.
    ///
    /// # Errors
    /// [`RaftError::Start`] if the group runs, [`RaftError::Log`].
    pub async fn forget(&self, group: GroupId) -> Result<(), RaftError> {
        let _one = self.inner.starting.lock().await;
        if self.running(group).is_some() {
            return Err(RaftError::Start { group, reason: "it runs and is to be forgotten".to_owned() });
        }
        let part = self.inner.log.group(group, new_incarnation())?;
        let forgotten = durable(|done| part.forget(new_incarnation(), done)).await;
        forgotten.map_err(|_| crate::segment_log::SegmentError::Closed.into())
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
        if blocking(move || inner.log.close()).await.is_err() {
            tracing::error!("closing the log panicked");
        }
    }
}

/// A number that a log begun in place of a lost one will not have again; never 0.
fn new_incarnation() -> u32 {
    rand::random::<u32>().max(1)
}
