//! One Raft group: propose, read, trim.
//!
//! Knows openraft and the group's part of the segment log. Does not know what payloads mean.
//! Path: `commitlog::raft_log` -> **here** -> `storage` -> `segment_log`.
//! G1: `propose` resolves only when the entry is committed and visible to every [`GroupReader`].
//! G2: a dropped future loses nothing: the entry is committed or not as if its owner still waited.
//! G3: positions that a reader delivers are committed, on every member in the same order.
//! One voter needs no clock: there ticks, heartbeats and elections by time are off, an idle group costs nothing. Of
//! several members all may sleep (`crate::quiet`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError as OpenraftError};
use openraft::impls::EmptyNode;
use openraft::metrics::{RaftServerMetrics, WaitError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Config, Raft, ReadPolicy, SnapshotPolicy};
use quorate_model::{NodeId, Position, failpoint};
use quorate_wire::Transport;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::confirm::{Settled, Told};
use crate::network::Network;
use crate::quiet::{Doze, Quiet};
use crate::segment_log::{EntryKind, GroupId, GroupLog, MAX_PAYLOAD, ReadPlan, SegmentError};
use crate::snapshot::{Giver, SnapshotOwner, Snapshots};
use crate::state_machine::{StateMachine, TrimTarget};
use crate::storage::LogStore;
use crate::types::{Proposal, TypeConfig};
use crate::{Members, RaftError};

/// Longest wait for this node to lead a group of which it is the only voter.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for one step of a trim.
const TRIM_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of newest entries that are kept for members that lag.
const KEPT_FOR_OTHERS: u64 = 64 << 20;
/// Payload that one read returns at most, unless a single entry is larger.
const READ_BYTES: usize = 4 << 20;

/// How a group runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has no other member, and never gets one while it runs.
    Alone,
    /// One of several members: it may follow, lead or learn.
    Member,
}

/// What the groups of a node share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    /// Bytes proposed and not yet durable.
    pub(crate) pending: Arc<Semaphore>,
    pub(crate) pending_limit: usize,
    /// What this node knows of the life of others.
    pub(crate) quiet: Arc<Quiet>,
}

/// A running group. Clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    raft: Raft<TypeConfig, StateMachine>,
    log: GroupLog,
    committed: watch::Receiver<u64>,
    trim_target: TrimTarget,
    trimming: Mutex<()>,
    snapshots: Snapshots,
    leader: watch::Receiver<Option<NodeId>>,
    role: Role,
    shared: Shared,
    stopping: AtomicBool,
    doze: Doze,
    settled: Settled,
    told: Told,
}

impl Group {
    /// Starts the group on its part of the log. Alone: begins it with this node as its only voter, or continues it
    /// in a new term, and returns once this node leads and everything committed before is visible. As a member:
    /// waits for nobody; a group that was never begun stays without members until [`Group::begin`] or a leader
    /// elsewhere gives it some.
    ///
    /// # Errors
    /// [`RaftError::OtherMembers`] when the group is to run alone and the stored one has members on other nodes.
    pub(crate) async fn start(shared: &Shared, log: GroupLog, role: Role) -> Result<Self, RaftError> {
        let id = log.id();
        let failed = |reason: String| RaftError::Start { group: id, reason };
        let state_machine = StateMachine::open(log.clone()).map_err(|error| failed(error.to_string()))?;
        let (committed, trim_target) = (state_machine.committed(), state_machine.trim_target());
        let snapshots = state_machine.snapshots();
        let may_stand = !log.is_below_floor();
        let config =
            Arc::new(config(id, role, may_stand).validate().map_err(|error| failed(error.to_string()))?);
        let told = Told::default();
        let network = Network::new(id, shared.transport.clone(), snapshots.clone(), told.clone());
        let raft = Raft::new(shared.node.0, config, network, LogStore::new(log.clone()), state_machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let metrics = raft.server_metrics();
        let (sender, leader) = watch::channel(metrics.borrow_watched().current_leader.map(NodeId));
        let group = Self {
            inner: Arc::new(Inner {
                id,
                raft,
                log,
                committed,
                trim_target,
                trimming: Mutex::new(()),
                snapshots,
                leader,
                role,
                shared: shared.clone(),
                stopping: AtomicBool::new(false),
                doze: Doze::new(&shared.quiet),
                settled: Settled::default(),
                told,
            }),
        };
        tokio::spawn(follow_leader(Arc::downgrade(&group.inner), metrics, sender));
        if role == Role::Alone
            && let Err(error) = group.lead(shared.node.0).await
        {
            group.shutdown().await;
            return Err(error);
        }
        Ok(group)
    }

    /// Whether this node may stand for election: not with less than it had when it forgot the group. Its own vote would
    /// count, in a configuration of long ago even alone.
    pub(crate) fn may_stand(&self) -> bool {
        !self.inner.log.is_below_floor()
    }

    async fn lead(&self, node: u64) -> Result<(), RaftError> {
        let Inner { id, raft, .. } = &*self.inner;
        let failed = |reason: String| RaftError::Start { group: *id, reason };
        if !raft.is_initialized().await.map_err(|error| failed(error.to_string()))? {
            let members = BTreeMap::from([(node, EmptyNode {})]);
            raft.initialize(members).await.map_err(|error| failed(error.to_string()))?;
        }
        let members = raft.with_raft_state(|state| {
            let membership = state.membership_state.effective().membership();
            membership.nodes().map(|(id, _)| *id).collect::<Vec<u64>>()
        });
        let members = members.await.map_err(|error| failed(error.to_string()))?;
        if members != [node] {
            return Err(RaftError::OtherMembers { group: *id, members });
        }
        if !self.may_stand() {
            return Err(failed("it was forgotten here, and what it had is not back yet".to_owned()));
        }
        raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        raft.wait(Some(START_TIMEOUT))
            .current_leader(node, "become leader")
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Waits for the first entry of this term, and so for all before it.
        raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(|error| failed(error.to_string()))?;
        Ok(())
    }

    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// The term of the newest vote here: it only grows, and no two nodes lead in the same.
    pub fn term(&self) -> u64 {
        self.inner.log.vote().map_or(0, |vote| vote.term)
    }

    /// Differs whenever the group's log was lost and begun again.
    pub fn incarnation(&self) -> u32 {
        self.inner.log.state().incarnation
    }

    /// Appends `payload` and returns its position once it is committed: synced on a majority.
    ///
    /// Waits while the node has too many bytes pending. Cost: a lone proposal is one fdatasync; proposals at
    /// the same time share one.
    ///
    /// # Errors
    /// [`RaftError::Unknown`] when the entry may still appear; every other error means it never will.
    pub async fn propose(&self, payload: Bytes) -> Result<Position, RaftError> {
        let Inner { id, raft, shared, stopping, .. } = &*self.inner;
        let Shared { pending, pending_limit, .. } = shared;
        if payload.len() > MAX_PAYLOAD {
            return Err(SegmentError::TooLarge { len: payload.len() }.into());
        }
        let share = u32::try_from(payload.len().clamp(1, *pending_limit)).unwrap_or(u32::MAX);
        let permit = Arc::clone(pending).acquire_many_owned(share).await;
        let permit = permit.map_err(|_| RaftError::Stopped { group: *id })?;
        if stopping.load(Ordering::SeqCst) {
            return Err(RaftError::Stopped { group: *id });
        }
        let _busy = self.busy();
        if self.doze().has_slept() {
            // A leader that has not heard of a majority lately appends nothing; this one has not asked.
            self.confirm().await?;
        }
        let proposal = Proposal { payload, permit: Some(Arc::new(permit)) };
        match raft.client_write(proposal).await {
            Ok(response) => Ok(Position(response.log_id.index)),
            Err(OpenraftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(RaftError::NotLeader { group: *id, leader: to.leader_id.map(NodeId) })
            }
            Err(error) => Err(RaftError::Unknown { group: *id, reason: error.to_string() }),
        }
    }

    /// Has a majority say that this node leads, after this call began, by a round of openraft's own: it then appends what
    /// is proposed. A group that sleeps stays asleep if it does.
    pub(crate) async fn confirm(&self) -> Result<(), RaftError> {
        let Inner { id, raft, log, .. } = &*self.inner;
        let (id, before) = (*id, log.vote());
        let confirmed = raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        match &confirmed {
            Ok(_) => {
                self.is_confirmed();
                self.settle(before);
            }
            Err(_) => self.stir_own(),
        }
        match confirmed {
            Ok(_) => Ok(()),
            Err(OpenraftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(RaftError::NotLeader { group: id, leader: to.leader_id.map(NodeId) })
            }
            Err(OpenraftError::APIError(error)) => {
                Err(RaftError::NoMajority { group: id, reason: error.to_string() })
            }
            Err(OpenraftError::Fatal(_)) => Err(RaftError::Stopped { group: id }),
        }
    }

    /// The newest committed proposal that this node knows of; as the only member it knows of all.
    pub fn known_index(&self) -> Position {
        Position(self.inner.log.last_proposal(self.committed().0))
    }

    /// The newest committed position that this node knows of; it may be a leader's own entry.
    pub fn committed(&self) -> Position {
        Position(*self.inner.committed.borrow())
    }

    /// Follows the committed position. Closed when the group stops.
    pub fn watch_committed(&self) -> watch::Receiver<u64> {
        self.inner.committed.clone()
    }

    /// The last proposal that was trimmed; none up to it can be read.
    pub fn trimmed(&self) -> Position {
        Position(self.inner.log.state().purged.map_or(0, |purged| purged.proposal))
    }

    /// Reads committed proposals after `after`, then waits for more.
    pub fn reader(&self, after: Position) -> GroupReader {
        let committed = self.inner.committed.clone();
        // So is who was made the only member of a group that others were lost of.
        let sole = Members { voters: BTreeSet::from([self.inner.shared.node]), learners: BTreeSet::new() };
        let is_alone = self.inner.role == Role::Alone || self.members() == sole;
        GroupReader { id: self.inner.id, log: self.inner.log.clone(), committed, after: after.0, is_alone }
    }

    /// Forgets every proposal up to `up_to`: the owner needs none of them any more. What is not committed stays, and so
    /// does what another member may still need: without an owner that gives snapshots all of that, which only a leader
    /// knows, so others keep everything; with one as much as the newest 64 MiB. A smaller position than before changes
    /// nothing. A leader's own entries that follow go as well, so that an idle group keeps no segment.
    pub async fn trim(&self, up_to: Position) -> Result<(), RaftError> {
        let known = self.known_to_all();
        let needed = match self.inner.snapshots.owner() {
            Some(_) => known.max(self.inner.log.before_newest(KEPT_FOR_OTHERS)),
            None => known,
        };
        self.trim_below(up_to, needed).await
    }

    /// The same without regard to members that are silent, if snapshots can be had: they then need one. A member that
    /// does not lead knows of no others, and regards none.
    pub async fn trim_fully(&self, up_to: Position) -> Result<(), RaftError> {
        let leads = self.leader() == Some(self.inner.shared.node);
        match self.inner.snapshots.owner() {
            Some(_) if leads => self.trim_below(up_to, self.known_to_live()).await,
            Some(_) => self.trim_below(up_to, u64::MAX).await,
            None => self.trim(up_to).await,
        }
    }

    async fn trim_below(&self, up_to: Position, needed: u64) -> Result<(), RaftError> {
        let Inner { id, raft, log, trim_target, trimming, .. } = &*self.inner;
        let stopped = || RaftError::Stopped { group: *id };
        let _one = trimming.lock().await;
        let committed = self.committed().0;
        let up_to = log.last_before_proposal(up_to.0.min(committed), committed).min(needed);
        if up_to == 0 || log.state().purged.is_some_and(|purged| purged.up_to.index >= up_to) {
            return Ok(());
        }
        failpoint::hit("trim.before");
        if log.state().snapshot.and_then(|snapshot| snapshot.last).is_none_or(|last| last.index < up_to) {
            trim_target.store(up_to, Ordering::SeqCst);
            raft.trigger().snapshot().await.map_err(|_| stopped())?;
        }
        let wait = raft.wait(Some(TRIM_TIMEOUT));
        let has_snapshot = wait.metrics(|m| m.snapshot.is_some_and(|at| at.index >= up_to), "snapshot");
        if let Err(error) = has_snapshot.await {
            return self.trim_later(&error);
        }
        raft.trigger().purge_log(up_to).await.map_err(|_| stopped())?;
        let is_purged = wait.metrics(|m| m.purged.is_some_and(|at| at.index >= up_to), "purge");
        if let Err(error) = is_purged.await {
            return self.trim_later(&error);
        }
        failpoint::hit("trim.after");
        Ok(())
    }

    /// A trim that openraft does not get to, as while it installs a snapshot, is done by the next one.
    fn trim_later(&self, error: &WaitError) -> Result<(), RaftError> {
        match error {
            WaitError::Timeout(..) => {
                tracing::debug!(group = %self.inner.id, %error, "the log is not trimmed yet");
                Ok(())
            }
            WaitError::ShuttingDown => Err(RaftError::Stopped { group: self.inner.id }),
        }
    }

    /// Sets who makes and takes snapshots; the first one stays. Until then a member that lacks trimmed entries waits.
    pub fn set_owner(&self, owner: Arc<dyn SnapshotOwner>) {
        self.inner.snapshots.set_owner(owner);
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// The way to what the owner of the group on `node` gives.
    pub fn giver(&self, node: NodeId) -> Giver {
        Giver { node, group: self.inner.id, transport: Arc::clone(&self.inner.shared.transport) }
    }

    /// Follows who leads, as far as this node knows. Closed when the group stops.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.clone()
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.inner.raft
    }

    pub(crate) fn log(&self) -> &GroupLog {
        &self.inner.log
    }

    pub(crate) fn role(&self) -> Role {
        self.inner.role
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(crate) fn doze(&self) -> &Doze {
        &self.inner.doze
    }

    pub(crate) fn settled(&self) -> &Settled {
        &self.inner.settled
    }

    pub(crate) fn told(&self) -> &Told {
        &self.inner.told
    }

    /// Stops the group. Proposals on their way end as [`RaftError::Unknown`] or committed.
    pub(crate) async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(group = %self.inner.id, %error, "the group's task failed");
        }
    }
}

/// One committed proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub position: Position,
    /// What was proposed.
    pub payload: Bytes,
}

/// Reads a group's committed proposals in order, each once.
pub struct GroupReader {
    id: GroupId,
    log: GroupLog,
    committed: watch::Receiver<u64>,
    after: u64,
    /// The log has no other copy, so what it lacks is lost.
    is_alone: bool,
}

impl GroupReader {
    /// The next proposals, at least one; waits until there is one. Bounded by bytes. May be dropped and
    /// called again without loss.
    ///
    /// # Errors
    /// [`RaftError::Trimmed`] and [`RaftError::Lost`] when the log does not hold what follows the reader's
    /// position, [`RaftError::Stopped`] after the group was stopped.
    pub async fn next(&mut self) -> Result<Vec<Committed>, RaftError> {
        loop {
            let stopped = |_| RaftError::Stopped { group: self.id };
            let after = self.after;
            let last = self.log.state().last.map_or(0, |last| last.index);
            // Of several members one may be behind its own owner, which got its state from another.
            if after > last && self.is_alone {
                return Err(RaftError::Lost { group: self.id, after: Position(after), last: Position(last) });
            }
            let committed = *self.committed.wait_for(|now| *now > after).await.map_err(stopped)?;
            let (next, plan) = self.plan(committed)?;
            let entries = load(plan).await?;
            self.after = entries.last().map_or(next - 1, |last| last.id.index);
            let proposals: Vec<Committed> = entries
                .into_iter()
                .filter(|entry| entry.kind == EntryKind::Normal)
                .map(|entry| Committed { position: Position(entry.id.index), payload: entry.payload })
                .collect();
            if !proposals.is_empty() {
                return Ok(proposals);
            }
        }
    }

    /// The first index to read and the read of it and what follows.
    fn plan(&self, committed: u64) -> Result<(u64, ReadPlan), RaftError> {
        let mut purged = self.log.state().purged;
        loop {
            let next = self.after.max(purged.map_or(0, |purged| purged.up_to.index)) + 1;
            let plan = self.log.plan_read(next, committed + 1, READ_BYTES)?;
            if next > committed || plan.first() == Some(next) {
                let missed = purged.is_some_and(|purged| self.after < purged.proposal);
                return if missed { Err(self.trimmed()) } else { Ok((next, plan)) };
            }
            // A purge came in between; it may have taken a leader's own entries only.
            let before = std::mem::replace(&mut purged, self.log.state().purged);
            if purged == before {
                return Err(self.trimmed());
            }
        }
    }

    fn trimmed(&self) -> RaftError {
        RaftError::Trimmed { group: self.id, after: Position(self.after) }
    }
}

/// Follows who leads. A change of that wakes the group; unlike other figures of it, it does not come with every message.
async fn follow_leader(
    group: Weak<Inner>,
    mut metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    sender: watch::Sender<Option<NodeId>>,
) {
    while metrics.changed().await.is_ok() {
        let leader = metrics.borrow_watched().current_leader.map(NodeId);
        let is_new = sender.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        if is_new && let Some(inner) = group.upgrade() {
            Group { inner }.stir();
        }
    }
}

async fn load(plan: ReadPlan) -> Result<Vec<crate::segment_log::Entry>, RaftError> {
    if plan.is_in_memory() {
        return Ok(plan.load()?);
    }
    let loaded = crate::disk::blocking(move || plan.load()).await;
    Ok(loaded.map_err(|_| SegmentError::Closed)??)
}

fn config(id: GroupId, role: Role, may_stand: bool) -> Config {
    let has_peers = role == Role::Member;
    Config {
        cluster_name: format!("group {id}"),
        enable_tick: has_peers,
        enable_heartbeat: has_peers,
        enable_elect: has_peers && may_stand,
        enable_pre_vote: Some(has_peers),
        // Every start is a new term: a leader restored into its old term would have to know what it had sent.
        enable_leader_restore: Some(false),
        // Also the time that openraft gives the answer to one: a leader that is farther from every other member, or on a
        // machine that is busier, would be heard and never hear, and take nothing for ever.
        heartbeat_interval: 200,
        // Entries that a peer acknowledged tell as much as a heartbeat.
        heartbeat_min_interval: Some(200),
        election_timeout_min: 600,
        election_timeout_max: 1_200,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        max_payload_entries: 256,
        ..Config::default()
    }
}
