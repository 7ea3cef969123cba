//! The replicas of this node: opened when they are placed here, and what stops one of them ends the node.
//!
//! Knows the disk and the groups. Does not know why a partition is placed here. Path: node start, [`super::keeper`] ->
//! **here** -> [`super::partition`]; [`super::snapshots`] closes one and opens it again over another state.

use super::StartError;
use super::kafka::KafkaHere;
use super::leaders::Leaders;
use super::partition::{Origin, Partition, folder};
use super::rebuild::{give_up, rebuild};
use super::snapshots::Snapshots;
use super::traffic::Traffic;
use super::troubles::Troubles;
use crate::config::StorageConfig;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::{Mutex, RwLock};
use quorate_ingest::{Applier, ApplyState, LocalReplica, LocalReplicas, MaintainedPartition, Maintenance};
use quorate_model::{Clock, NodeId, PartitionId, Position, SystemClock};
use quorate_raft::{Group, RaftNode};
use quorate_tsdb::{Disk, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long those that hold the state of a replica that leaves may take to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(600);
/// So often it is looked before the log tells that they have not.
const PATIENT_TRIES: u32 = 25;
/// Pause before it is looked again whether they have.
const LEAVE_PAUSE: Duration = Duration::from_millis(200);

/// A partition that is placed here, and the voters that its group is begun with if this node begins it.
pub type Placed = (PartitionId, Option<BTreeSet<NodeId>>);

/// What every replica of the node is opened with.
pub struct Ground {
    /// The groups.
    pub raft: RaftNode,
    /// What the partitions share on disk.
    pub disk: Arc<Disk>,
    /// The data dir.
    pub data_dir: PathBuf,
    /// Settings of the stores.
    pub storage: StorageConfig,
    /// Whose the groups are.
    pub origin: Origin,
    /// Snapshots on their way.
    pub traffic: Arc<Traffic>,
    /// Kafka, if it is the log.
    pub kafka: Option<Arc<KafkaHere>>,
    /// What keeps partitions from going on.
    pub troubles: Arc<Troubles>,
}

/// What a replica needs to take the state of another one.
pub struct Rebuilding {
    /// Its group.
    pub group: Group,
    /// What it has applied.
    pub applied: Position,
    /// Its snapshots.
    pub snapshots: Arc<Snapshots>,
}

/// The replicas that run here.
pub struct Replicas {
    me: Weak<Self>,
    ground: Ground,
    running: RwLock<BTreeMap<PartitionId, Running>>,
    /// Those whose state is being replaced.
    replacing: Mutex<BTreeSet<PartitionId>>,
    /// Those that are on their way out: nobody opens them, whatever was begun before.
    leaving: Mutex<BTreeSet<PartitionId>>,
    is_stopped: AtomicBool,
    /// The same as writes need them.
    appenders: Arc<LocalReplicas>,
    leaders: Arc<Leaders>,
    /// Once there is one it has just those that run: both change under this lock.
    maintenance: Mutex<Option<Arc<Maintenance>>>,
    /// Counts the changes of what runs here.
    changes: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
}

struct Running {
    partition: Partition,
    applier: Applier,
    snapshots: Option<Arc<Snapshots>>,
}

impl Replicas {
    /// No replica yet of any of so many partitions.
    pub fn new(ground: Ground, partitions: u32) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ground,
            running: RwLock::default(),
            replacing: Mutex::default(),
            leaving: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            appenders: Arc::default(),
            leaders: Arc::new(Leaders::new(partitions)),
            maintenance: Mutex::default(),
            changes: watch::Sender::new(0),
            failure: watch::Sender::new(None),
        })
    }

    /// Has those that run looked after, and those that are opened from now on.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn look_after<E>(
        &self,
        start: impl FnOnce(Vec<MaintainedPartition>) -> Result<Maintenance, E>,
    ) -> Result<Arc<Maintenance>, E> {
        let mut known = self.maintenance.lock();
        let maintenance = Arc::new(start(self.list().iter().map(Partition::maintained).collect())?);
        *known = Some(maintenance.clone());
        Ok(maintenance)
    }

    /// It runs, and is looked after.
    fn enter(&self, id: PartitionId, running: Running) {
        let maintenance = self.maintenance.lock();
        if let Some(maintenance) = &*maintenance {
            maintenance.add(running.partition.maintained());
        }
        self.running.write().insert(id, running);
    }

    /// It runs no more, and nobody looks after it.
    fn take_out(&self, id: PartitionId) -> Option<Running> {
        let maintenance = self.maintenance.lock();
        let running = self.running.write().remove(&id);
        if let Some(maintenance) = &*maintenance {
            maintenance.remove(id);
        }
        running
    }

    /// Opens those of `placed` that do not run yet, and begins to apply their logs. Returns the new ones.
    ///
    /// # Errors
    /// [`StartError`]; those that were opened before it run.
    pub async fn open(&self, placed: Vec<Placed>) -> Result<Vec<Partition>, StartError> {
        let new: Vec<Placed> = {
            let (running, replacing, leaving) =
                (self.running.read(), self.replacing.lock(), self.leaving.lock());
            let is_new = |(id, _): &Placed| {
                !running.contains_key(id) && !replacing.contains(id) && !leaving.contains(id)
            };
            placed.into_iter().filter(is_new).collect()
        };
        // An image is in memory twice while it is loaded, so only as many at a time as there are processors for.
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let starting = stream::iter(new.into_iter().map(|(id, first)| self.start(id, first)));
        starting.buffered(at_once).try_collect().await
    }

    async fn start(&self, id: PartitionId, first: Option<BTreeSet<NodeId>>) -> Result<Partition, StartError> {
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(StartError::Replay { partition: id, reason: Arc::from("the node is stopping") });
        }
        let Ground { disk, data_dir, origin, kafka, troubles, .. } = &self.ground;
        troubles.clear(id);
        let (partition, applier) = Partition::start(id, &self.ground, first.as_ref()).await?;
        let snapshots = matches!(origin, Origin::Shared { .. }).then(|| {
            // The first owner stays: it finds the replica of the moment by its number.
            let owner = Snapshots::new(id, self.me.clone(), disk.clone(), folder(data_dir, id));
            let owner = Arc::new(owner);
            partition.group().set_owner(owner.clone());
            owner
        });
        let may_rebuild = kafka.is_some() && snapshots.is_some();
        let appender = Arc::new(partition.appender(&applier));
        self.appenders.insert(id, LocalReplica { appender, holdings: partition.store.clone() });
        self.enter(id, Running { partition: partition.clone(), applier, snapshots });
        tokio::spawn(watch_over(self.me.clone(), id, partition.state.clone(), may_rebuild));
        tokio::spawn(follow_leader(
            self.leaders.clone(),
            id,
            partition.group().watch_leader(),
            partition.state.clone(),
        ));
        self.changes.send_modify(|changes| *changes += 1);
        Ok(partition)
    }

    /// Takes a replica out of service, so that its state can be replaced. What still uses it ends by itself.
    ///
    /// # Errors
    /// If its apply thread cannot be waited for.
    pub async fn close(&self, id: PartitionId) -> Result<(), String> {
        self.replacing.lock().insert(id);
        let running = self.take_out(id);
        self.appenders.remove(id);
        self.changes.send_modify(|changes| *changes += 1);
        let Some(Running { partition, applier, .. }) = running else { return Ok(()) };
        drop(partition);
        tokio::task::spawn_blocking(move || applier.stop()).await.map_err(|error| error.to_string())
    }

    /// Takes it into service again.
    ///
    /// # Errors
    /// What it cannot be opened for.
    pub async fn open_again(&self, id: PartitionId) -> Result<(), String> {
        if self.leaving.lock().contains(&id) {
            self.replacing.lock().remove(&id);
            return Ok(());
        }
        let started = self.start(id, None).await;
        self.replacing.lock().remove(&id);
        started.map(drop).map_err(|error| error.to_string())
    }

    /// A replica cannot go on: the node ends. The first reason is told.
    pub fn fail(&self, reason: String) {
        self.failure.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(reason);
            is_first
        });
    }

    /// Follows the number of changes of what runs here.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the replica of `id` has applied everything that was committed when it started; if its state is replaced
    /// meanwhile, the one in its place.
    ///
    /// # Errors
    /// [`StartError::Replay`] if it stopped instead.
    pub async fn ready(&self, id: PartitionId) -> Result<(), StartError> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if let Some(partition) = self.get(id) {
                let state = partition.state.clone();
                let ready = partition.ready().await;
                drop(partition);
                let is_replaced = !self.is_running(id, &state);
                if ready.is_ok() || !(is_replaced || self.may_go_on(&state)) {
                    return ready;
                }
                if is_replaced {
                    continue;
                }
            }
            if changes.changed().await.is_err() {
                return Err(StartError::Replay { partition: id, reason: Arc::from("the node is stopping") });
            }
        }
    }

    /// Whether the replica here has yet to catch up with Kafka. With the embedded log none has to: who leads has all.
    pub fn lacks_records(&self, id: PartitionId) -> bool {
        let here = || self.get(id).is_some_and(|partition| partition.has_caught_up());
        self.are_fed_by_kafka() && !here()
    }

    /// Kafka, if it is the log.
    pub fn kafka(&self) -> Option<&Arc<KafkaHere>> {
        self.ground.kafka.as_ref()
    }

    /// Whether the log is Kafka, so that their groups hold no records.
    pub fn are_fed_by_kafka(&self) -> bool {
        self.ground.kafka.is_some()
    }

    /// Whether a replica that has stopped may go on: with the state of another one, or without what it lacks.
    fn may_go_on(&self, state: &watch::Receiver<ApplyState>) -> bool {
        self.ground.kafka.is_some() && state.borrow().lacks_entries
    }

    /// What a replica that runs here needs to take the state of another one.
    pub fn to_rebuild(&self, id: PartitionId) -> Option<Rebuilding> {
        let running = self.running.read();
        let Running { partition, snapshots, .. } = running.get(&id)?;
        let (group, applied) = (partition.group().clone(), partition.store.applied());
        Some(Rebuilding { group, applied, snapshots: snapshots.clone()? })
    }

    /// Goes on behind `to` with a replica that lacks what comes before, and passes records up to `forgiven` that name series
    /// which were defined there. If that does not work the node ends, for the replica is neither the one before nor the other.
    ///
    /// # Errors
    /// If there is no replica here, or what cannot be written or opened again.
    pub fn skip(
        &self,
        id: PartitionId,
        to: Position,
        forgiven: Position,
    ) -> BoxFuture<'_, Result<(), String>> {
        // A box, since a replica that is opened here is watched by what may call this.
        Box::pin(async move {
            let store = self.get(id).ok_or("there is no replica here")?.store;
            let skipping = tokio::task::spawn_blocking(move || {
                store.skip(to, forgiven).map_err(|error| error.to_string())?;
                store.cut_image().map(drop).map_err(|error| error.to_string())
            });
            let going_on = async {
                skipping.await.map_err(|error| error.to_string())??;
                self.close(id).await?;
                self.open_again(id).await
            };
            let goes_on = going_on.await;
            if let Err(reason) = &goes_on {
                self.fail(format!("partition {id} could not go on without records that are lost: {reason}"));
            }
            goes_on
        })
    }

    /// Makes all durable that a replica has applied which goes no further: what it offers to others is that.
    async fn keep_applied(&self, id: PartitionId) {
        let Some(partition) = self.get(id) else { return };
        let store = partition.store;
        if store.applied() > store.durable() {
            let cutting = tokio::task::spawn_blocking(move || store.cut_image());
            if let Ok(Err(error)) = cutting.await {
                tracing::warn!(partition = %id, %error, "what the replica has applied last is not offered to others");
            }
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.ground.raft.id()
    }

    /// What keeps partitions from going on.
    pub fn troubles(&self) -> &Arc<Troubles> {
        &self.ground.troubles
    }

    fn is_running(&self, id: PartitionId, state: &watch::Receiver<ApplyState>) -> bool {
        self.running.read().get(&id).is_some_and(|running| running.partition.state.same_channel(state))
    }

    /// Those that run, by number.
    pub fn list(&self) -> Vec<Partition> {
        self.running.read().values().map(|running| running.partition.clone()).collect()
    }

    /// The groups of those that run.
    pub fn groups(&self) -> Vec<(PartitionId, Group)> {
        let running = self.running.read();
        running.iter().map(|(id, running)| (*id, running.partition.group().clone())).collect()
    }

    /// The partitions among `all` that had a replica here before: it may still vote, until its group has let it go.
    pub fn left_over(&self, all: impl Iterator<Item = PartitionId>) -> Vec<Placed> {
        let has_folder = |id: &PartitionId| folder(&self.ground.data_dir, *id).exists();
        all.filter(has_folder).map(|id| (id, None)).collect()
    }

    /// The one of a partition, if it runs here.
    pub fn get(&self, id: PartitionId) -> Option<Partition> {
        self.running.read().get(&id).map(|running| running.partition.clone())
    }

    /// The same as writes need them.
    pub fn appenders(&self) -> &Arc<LocalReplicas> {
        &self.appenders
    }

    /// Who leads each partition.
    pub fn leaders(&self) -> &Arc<Leaders> {
        &self.leaders
    }

    /// Takes a replica out of service for good and removes its files: it was moved to another node. Once its group has
    /// stopped here it awaits `is_let_go`: whether that has let this node go, and has it run again if not. Gives whether the
    /// replica is gone.
    ///
    /// # Errors
    /// As [`Replicas::close`], or what cannot be removed: the rest is removed after the next start.
    pub async fn leave(
        &self,
        id: PartitionId,
        is_let_go: impl Future<Output = bool>,
    ) -> Result<bool, String> {
        if !self.leaving.lock().insert(id) {
            return Ok(false);
        }
        let left = self.leave_now(id, is_let_go).await;
        self.leaving.lock().remove(&id);
        // Whoever opens what is placed here looks again.
        self.changes.send_modify(|changes| *changes += 1);
        left
    }

    /// The order makes each step safe to be the last before a crash: no word of the group's past is given after it was
    /// asked, its log goes before the state that stands for it.
    async fn leave_now(
        &self,
        id: PartitionId,
        is_let_go: impl Future<Output = bool>,
    ) -> Result<bool, String> {
        let Some(group) = self.get(id).map(|partition| partition.group().id()) else { return Ok(false) };
        let closed = self.close(id).await;
        self.replacing.lock().remove(&id);
        closed?;
        let Ground { raft, disk, data_dir, troubles, .. } = &self.ground;
        troubles.clear(id);
        raft.stop(group).await;
        if !is_let_go.await {
            return Ok(false);
        }
        raft.forget(group).await.map_err(|error| error.to_string())?;
        let until = SystemClock.instant() + LEAVE_TIMEOUT;
        for tries in 0u32.. {
            let (disk, dir) = (disk.clone(), folder(data_dir, id));
            let removed = tokio::task::spawn_blocking(move || disk.remove(id, &dir)).await;
            match removed.map_err(|error| error.to_string())? {
                Ok(()) => return Ok(true),
                // A query or a transfer holds it.
                Err(error @ StoreError::InUse { .. }) if SystemClock.instant() < until => {
                    if tries == PATIENT_TRIES {
                        tracing::info!(partition = %id, %error, "the files of a replica that left wait for their users");
                    }
                    tokio::time::sleep(LEAVE_PAUSE).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        unreachable!("the time is over before the number of tries")
    }

    /// Snapshots on their way.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.ground.traffic
    }

    /// Waits until one stops applying, which it does only by failing. Gives the reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.map(|reason| reason.clone());
        failed.ok().flatten().unwrap_or_else(|| "the replicas are gone".to_owned())
    }

    /// Ends every apply thread after the record it is at, and waits for them. Blocks.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let running = std::mem::take(&mut *self.running.write());
        for (id, Running { applier, .. }) in running {
            self.appenders.remove(id);
            applier.stop();
        }
    }
}

/// Ends the node when a replica stops that was not taken out of service.
async fn watch_over(
    replicas: Weak<Replicas>,
    id: PartitionId,
    mut state: watch::Receiver<ApplyState>,
    may_rebuild: bool,
) {
    let stopped = state.wait_for(|state| state.stopped.is_some()).await;
    let (reason, lacks_entries) =
        stopped.map_or((None, false), |state| (state.stopped.clone(), state.lacks_entries));
    let Some(strong) = replicas.upgrade() else { return };
    if strong.is_running(id, &state) {
        let reason = reason.unwrap_or_else(|| Arc::from("its apply thread ended"));
        if lacks_entries && may_rebuild {
            strong.keep_applied(id).await;
            drop(strong);
            tracing::warn!(partition = %id, %reason, "the replica takes the state of another one");
            return rebuild(replicas, id).await;
        }
        if let Some(told) = why_ended(&strong, id, &reason, lacks_entries).await {
            strong.fail(told);
        }
    }
}

/// Why a replica goes no further, with what an operator can do where no other replica helps; `None` if it goes on without what
/// it lacks.
async fn why_ended(
    replicas: &Replicas,
    id: PartitionId,
    reason: &str,
    lacks_entries: bool,
) -> Option<String> {
    let ended = || Some(format!("partition {id} stopped: {reason}"));
    let Some(kafka) = replicas.kafka() else { return ended() };
    loop {
        if let Some(other_topic) = kafka.why_unfit().await {
            return Some(other_topic);
        }
        let applied = replicas.get(id)?.store.applied();
        if !lacks_entries {
            return ended();
        }
        match give_up(replicas, id, replicas.node(), applied).await {
            Ok(told) => return told,
            Err(reason) => {
                tracing::warn!(partition = %id, reason, "it is not known yet which records were deleted");
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
        }
    }
}

/// Tells the leader that a replica's group knows, until the replica goes out of service.
async fn follow_leader(
    leaders: Arc<Leaders>,
    id: PartitionId,
    mut leader: watch::Receiver<Option<NodeId>>,
    mut state: watch::Receiver<ApplyState>,
) {
    let mut last = *leader.borrow_and_update();
    leaders.set(id, last);
    loop {
        let known = *leader.borrow_and_update();
        if known.is_some() && known != last {
            metrics::counter!("quorate_partition_leader_changes_total", "partition" => id.to_string())
                .increment(1);
            last = known;
        }
        leaders.set(id, known);
        tokio::select! {
            changed = leader.changed() => if changed.is_err() { return },
            _ended = state.wait_for(|state| state.stopped.is_some()) => return,
        }
    }
}

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod tests;
