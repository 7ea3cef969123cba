//! The background of a node's partitions: marks are proposed, sealed generations flushed, images cut, the log
//! trimmed, blocks merged and dropped, idle series forgotten.
//!
//! Knows when. Does not know how: that is the store's. Everything here may come too early, too late or not at
//! all without changing what queries see, only what it costs (C2). Merges take minutes, so they have a thread of
//! their own, one at a time for the node; all else is done by the other, one partition after the other.
//! Path: node start -> **here** -> `PartitionLog` (marks), `tsdb::PartitionStore` (work).

use crate::applier::ApplyState;
use parking_lot::{Condvar, Mutex};
use quorate_commitlog::{LogError, PartitionLog, record};
use quorate_model::{
    Clock, FlushMark, LogRecord, PartitionId, Position, RecordBody, RecordHeader, SessionId, TenantId,
};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The epoch of the builder in the control records that this node proposes now (C2); `None` while another node builds.
pub type Builder = Arc<dyn Fn() -> Option<u32> + Send + Sync>;

/// How often each kind of work is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceConfig {
    /// Marks, flushes and the log's wish for an image.
    pub tick: Duration,
    /// Images, and with them the trim of the log. Spread over the partitions.
    pub image_interval: Duration,
    /// Merges.
    pub merge_interval: Duration,
    /// Retention marks and the dropping of blocks below them.
    pub retain_interval: Duration,
    /// How long a series without unflushed samples keeps its row, in milliseconds.
    pub idle_ms: i64,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
            image_interval: Duration::from_secs(600),
            merge_interval: Duration::from_secs(60),
            retain_interval: Duration::from_secs(300),
            idle_ms: 7_200_000,
        }
    }
}

/// What maintenance needs of a partition's store. Errors are texts: they are logged, and tried again.
pub trait Maintained: Send + Sync {
    /// Marks that should be proposed now.
    fn marks_due(&self, now_ms: i64) -> Vec<FlushMark>;
    /// Floors of tenants that should be proposed now.
    fn retention_due(&self, now_ms: i64, retention_ms: &dyn Fn(TenantId) -> i64) -> Vec<(TenantId, i64)>;
    /// Writes sealed generations as blocks. Returns how many blocks.
    ///
    /// # Errors
    /// The rest waits for the next call.
    fn flush(&self) -> Result<u64, String>;
    /// Makes an image durable and returns its position.
    ///
    /// # Errors
    /// The image before stays.
    fn cut_image(&self) -> Result<Position, String>;
    /// Merges blocks. Called beside all others.
    ///
    /// # Errors
    /// The inputs stay.
    fn merge(&self, now_ms: i64) -> Result<u64, String>;
    /// Drops blocks below the floors, and rows idle since before `before_ms`.
    ///
    /// # Errors
    /// The blocks stay.
    fn retain(&self, before_ms: i64) -> Result<u64, String>;
    /// Lets work that may take long end early, now and from now on.
    fn stop(&self);
}

/// One partition for [`Maintenance::start`].
#[derive(Clone)]
pub struct MaintainedPartition {
    /// Its number.
    pub id: PartitionId,
    /// Its store.
    pub store: Arc<dyn Maintained>,
    /// Its log.
    pub log: Arc<dyn PartitionLog>,
    /// Whether this node proposes marks for it.
    pub builder: Builder,
    /// How far apply has come.
    pub state: watch::Receiver<ApplyState>,
}

impl MaintainedPartition {
    /// How far apply has come, or `None` while there is nothing to maintain: it replays, or has stopped.
    fn applied(&self) -> Option<Position> {
        let state = self.state.borrow();
        (state.is_ready && state.stopped.is_none()).then_some(state.applied)
    }
}

impl std::fmt::Debug for MaintainedPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaintainedPartition").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A tenant's retention in milliseconds, 0 = forever.
pub type Retention = Arc<dyn Fn(TenantId) -> i64 + Send + Sync>;

/// What is called at every turn besides the partitions' work, such as forgetting idle series of the gateway.
pub type EveryRetain = Box<dyn Fn() + Send>;

/// The maintenance threads of a node. Dropping it asks them to end without waiting.
#[derive(Debug)]
pub struct Maintenance {
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Stop {
    /// The partitions there are now.
    roster: Mutex<Vec<MaintainedPartition>>,
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}

impl Maintenance {
    /// Starts the threads. `session` stands in the headers of the records it proposes.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(
        config: MaintenanceConfig,
        partitions: Vec<MaintainedPartition>,
        session: SessionId,
        retention: Retention,
        every_retain: EveryRetain,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(Stop { roster: Mutex::new(partitions.clone()), ..Stop::default() });
        let mut merges = Merges::new(&config, &partitions, Arc::clone(&clock));
        let mut run = Run::new(config, partitions, session, retention, every_retain, clock, runtime);
        // A thread that is started before the other cannot be ends with `maintenance`.
        let maintenance = Self { stop, threads: Mutex::default() };
        maintenance.spawn("maintenance", move |stop| run.until(stop))?;
        maintenance.spawn("merges", move |stop| merges.until(stop))?;
        Ok(maintenance)
    }

    /// Looks after one more partition from now on.
    pub fn add(&self, partition: MaintainedPartition) {
        let mut roster = self.stop.roster.lock();
        roster.retain(|known| known.id != partition.id);
        if *self.stop.is_set.lock() {
            partition.store.stop();
        }
        roster.push(partition);
    }

    /// Looks after a partition no more. Its store is told to break long work off, but may be in use for a moment yet.
    pub fn remove(&self, partition: PartitionId) {
        let mut roster = self.stop.roster.lock();
        let leaving = roster.iter().filter(|known| known.id == partition);
        leaving.for_each(|known| known.store.stop());
        roster.retain(|known| known.id != partition);
    }

    /// Starts a thread. Work that stopped without a sound would fill memory and disk for days, so a panic ends the
    /// process.
    fn spawn(&self, name: &str, work: impl FnOnce(&Stop) + Send + 'static) -> std::io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.threads.lock().push(thread.spawn(move || or_abort(|| work(&stop)))?);
        Ok(())
    }

    /// Ends the threads after the work they are at, merges before that, and waits for them.
    pub fn stop(&self) {
        self.stop.set();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.join().expect("a panic of the thread ends the process");
        }
        self.stop.roster.lock().clear();
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl Stop {
    fn set(&self) {
        let roster = self.roster.lock();
        *self.is_set.lock() = true;
        roster.iter().for_each(|partition| partition.store.stop());
        self.changed.notify_all();
    }

    /// Waits up to `time`; returns whether to stop.
    fn wait(&self, time: Duration) -> bool {
        let mut is_set = self.is_set.lock();
        if !*is_set {
            self.changed.wait_for(&mut is_set, time);
        }
        *is_set
    }
}

/// Makes `partitions` those of the roster; new ones begin with `first`.
fn follow<T>(stop: &Stop, partitions: &mut Vec<(MaintainedPartition, T)>, first: impl Fn() -> T) {
    let roster = stop.roster.lock();
    let is_same = |a: &MaintainedPartition, b: &MaintainedPartition| Arc::ptr_eq(&a.store, &b.store);
    partitions.retain(|(known, _)| roster.iter().any(|listed| is_same(listed, known)));
    for listed in roster.iter() {
        if !partitions.iter().any(|(known, _)| is_same(known, listed)) {
            partitions.push((listed.clone(), first()));
        }
    }
}

/// Ends the process if `work` panics.
fn or_abort(work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        tracing::error!("maintenance panicked; the process ends");
        std::process::abort();
    }
}

/// The longest wait for a mark to be committed.
const MAX_APPEND: Duration = Duration::from_secs(10);
/// The longest wait after work that failed.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// When work that may fail may be tried next: twice as much later each time, for each try writes before it can fail.
struct Retry {
    at: Instant,
    /// How long the next failure is not repeated.
    wait: Duration,
}

impl Retry {
    fn new(now: Instant, tick: Duration) -> Self {
        Self { at: now, wait: tick }
    }

    fn note(&mut self, is_ok: bool, now: Instant, tick: Duration) {
        if is_ok {
            self.wait = tick;
        } else {
            self.at = now + self.wait;
            self.wait = (self.wait * 2).min(MAX_WAIT);
        }
    }
}

/// When the next turns of one partition are due.
struct Turns {
    flush: Retry,
    image: Instant,
    image_retry: Retry,
    retain: Instant,
    /// Position of the newest record proposed here: nothing is proposed before it is applied.
    proposed: Position,
    /// Position of the newest image cut here: a log that still wants a trim behind it is not helped by another.
    imaged: Position,
}

impl Turns {
    /// The first turns of the `nth` of `count` partitions that begin together.
    fn new(config: &MaintenanceConfig, now: Instant, nth: u32, count: u32) -> Self {
        Self {
            flush: Retry::new(now, config.tick),
            image: now + config.image_interval * nth / count,
            image_retry: Retry::new(now, config.tick),
            retain: now + config.retain_interval * nth / count,
            proposed: Position(0),
            imaged: Position(0),
        }
    }
}

struct Run {
    config: MaintenanceConfig,
    partitions: Vec<(MaintainedPartition, Turns)>,
    session: SessionId,
    retention: Retention,
    every_retain: EveryRetain,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    sequence: u64,
    next_own: Instant,
}

impl Run {
    fn new(
        config: MaintenanceConfig,
        partitions: Vec<MaintainedPartition>,
        session: SessionId,
        retention: Retention,
        every_retain: EveryRetain,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Self {
        let now = clock.instant();
        let count = partitions.len().max(1) as u32;
        let numbered = (1..).zip(partitions);
        let partitions =
            numbered.map(|(nth, partition)| (partition, Turns::new(&config, now, nth, count))).collect();
        let next_own = now + config.retain_interval;
        Self { config, partitions, session, retention, every_retain, clock, runtime, sequence: 0, next_own }
    }

    /// Works until it is told to stop.
    fn until(&mut self, stop: &Stop) {
        while !stop.wait(self.config.tick) {
            let now = self.clock.instant();
            follow(stop, &mut self.partitions, || Turns::new(&self.config, now, 1, 1));
            for index in 0..self.partitions.len() {
                self.turn(index);
            }
            let now = self.clock.instant();
            if now >= self.next_own {
                self.next_own = now + self.config.retain_interval;
                (self.every_retain)();
            }
        }
    }

    /// One look at one partition.
    fn turn(&mut self, index: usize) {
        let (now, now_ms) = (self.clock.instant(), self.clock.now_ms());
        let (partition, turns) = &self.partitions[index];
        let partition = partition.clone();
        let Some(applied) = partition.applied() else { return };
        let (image, retain) = (now >= turns.image, now >= turns.retain);
        let (flush, may_image) = (now >= turns.flush.at, now >= turns.image_retry.at);
        if applied >= turns.proposed {
            self.propose(index, &partition, now_ms, retain);
        }
        if flush {
            self.flush(index, &partition, now);
        }
        if retain {
            self.partitions[index].1.retain = now + self.config.retain_interval;
            let before_ms = now_ms.saturating_sub(self.config.idle_ms);
            report(&partition, "retain", partition.store.retain(before_ms));
        }
        let wanted = partition.log.wants_trim() && applied > self.partitions[index].1.imaged;
        if may_image && (image || wanted) {
            self.partitions[index].1.image = now + self.config.image_interval;
            self.cut_image(index, &partition, now);
        }
    }

    fn flush(&mut self, index: usize, partition: &MaintainedPartition, now: Instant) {
        let flushed = partition.store.flush();
        self.partitions[index].1.flush.note(flushed.is_ok(), now, self.config.tick);
        report(partition, "flush", flushed);
    }

    fn propose(&mut self, index: usize, partition: &MaintainedPartition, now_ms: i64, retain: bool) {
        let Some(epoch) = (partition.builder)() else { return };
        let marks = partition.store.marks_due(now_ms);
        let mut bodies = Vec::new();
        if !marks.is_empty() {
            bodies.push(RecordBody::FlushMark(marks));
        }
        if retain {
            let floors = partition.store.retention_due(now_ms, self.retention.as_ref());
            bodies.extend(
                floors.into_iter().map(|(tenant, floor_ms)| RecordBody::RetentionMark { tenant, floor_ms }),
            );
        }
        for body in bodies {
            match self.append(partition, epoch, body) {
                Ok(position) => self.partitions[index].1.proposed = position,
                // Whoever leads proposes the same.
                Err(LogError::NotLeader { .. }) => {}
                Err(error) => report::<()>(partition, "mark", Err(error.to_string())),
            }
        }
    }

    fn append(
        &mut self,
        partition: &MaintainedPartition,
        epoch: u32,
        body: RecordBody,
    ) -> Result<Position, LogError> {
        self.sequence += 1;
        let header = RecordHeader {
            log_incarnation: partition.log.incarnation(),
            epoch,
            session: self.session,
            sequence: self.sequence,
        };
        let mut bytes = Vec::new();
        record::encode(&LogRecord { header, body }, &mut bytes);
        // A leader that has lost its majority would wait for ever.
        let late = |_| LogError::Indeterminate { reason: format!("no answer within {MAX_APPEND:?}") };
        let append = partition.log.append(bytes.into());
        self.runtime.block_on(async { tokio::time::timeout(MAX_APPEND, append).await.map_err(late)? })
    }

    /// A durable image, then the trim that it allows.
    fn cut_image(&mut self, index: usize, partition: &MaintainedPartition, now: Instant) {
        let trimmed = partition.store.cut_image().and_then(|durable| {
            self.partitions[index].1.imaged = durable;
            self.runtime.block_on(partition.log.trim(durable)).map_err(|error| error.to_string())
        });
        self.partitions[index].1.image_retry.note(trimmed.is_ok(), now, self.config.tick);
        report(partition, "image", trimmed);
    }
}

/// Merges of one partition after the other.
struct Merges {
    tick: Duration,
    interval: Duration,
    /// Each with the time of its next turn.
    partitions: Vec<(MaintainedPartition, Instant)>,
    clock: Arc<dyn Clock>,
}

impl Merges {
    fn new(config: &MaintenanceConfig, partitions: &[MaintainedPartition], clock: Arc<dyn Clock>) -> Self {
        let (now, count) = (clock.instant(), partitions.len().max(1) as u32);
        let first = |nth: u32| now + config.merge_interval * nth / count;
        let partitions = (1..).zip(partitions).map(|(nth, p)| (p.clone(), first(nth))).collect();
        Self { tick: config.tick, interval: config.merge_interval, partitions, clock }
    }

    /// Merges until it is told to stop.
    fn until(&mut self, stop: &Stop) {
        while !stop.wait(self.tick) {
            let first = self.clock.instant() + self.interval;
            follow(stop, &mut self.partitions, || first);
            self.turn();
        }
    }

    /// One look at all partitions.
    fn turn(&mut self) {
        for (partition, due) in &mut self.partitions {
            let now = self.clock.instant();
            if now >= *due && partition.applied().is_some() {
                *due = now + self.interval;
                report(partition, "merge", partition.store.merge(self.clock.now_ms()));
            }
        }
    }
}

/// Logs and counts a failure; the work is tried again at its next turn.
fn report<T>(partition: &MaintainedPartition, operation: &'static str, result: Result<T, String>) {
    if let Err(error) = result {
        tracing::warn!(partition = %partition.id, operation, error, "maintenance failed");
        metrics::counter!(
            "quorate_maintenance_failures_total",
            "operation" => operation,
            "partition" => partition.id.to_string()
        )
        .increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_commitlog::mem_log::MemLog;
    use quorate_model::ManualClock;

    /// Records what it was asked; owes one mark and one floor.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<&'static str>>,
        owes: Mutex<bool>,
        fails: Mutex<bool>,
        panics: bool,
        /// Merges wait until it is to stop.
        merges_long: bool,
        is_stopped: Mutex<bool>,
        stopped: Condvar,
    }

    impl Fake {
        fn note(&self, what: &'static str) {
            self.asked.lock().push(what);
        }
    }

    impl Maintained for Fake {
        fn marks_due(&self, now_ms: i64) -> Vec<FlushMark> {
            let is_due = std::mem::take(&mut *self.owes.lock());
            is_due.then_some(FlushMark { window_start_ms: now_ms, generation: 0 }).into_iter().collect()
        }
        fn retention_due(&self, _: i64, retention_ms: &dyn Fn(TenantId) -> i64) -> Vec<(TenantId, i64)> {
            self.note("retention_due");
            vec![(TenantId(3), retention_ms(TenantId(3)))]
        }
        fn flush(&self) -> Result<u64, String> {
            self.note("flush");
            assert!(!self.panics, "as the test wants it");
            if *self.fails.lock() { Err("full".into()) } else { Ok(0) }
        }
        fn cut_image(&self) -> Result<Position, String> {
            self.note("image");
            if *self.fails.lock() { Err("full".into()) } else { Ok(Position(1)) }
        }
        fn merge(&self, _: i64) -> Result<u64, String> {
            self.note("merge");
            let mut is_stopped = self.is_stopped.lock();
            while self.merges_long && !*is_stopped {
                self.stopped.wait(&mut is_stopped);
            }
            Err("no".into())
        }
        fn retain(&self, before_ms: i64) -> Result<u64, String> {
            assert_eq!(before_ms, 1_000 - 7_200_000);
            self.note("retain");
            Ok(0)
        }
        fn stop(&self) {
            self.note("stop");
            *self.is_stopped.lock() = true;
            self.stopped.notify_all();
        }
    }

    fn run(store: &Arc<Fake>, log: &MemLog, state: &ApplyState, interval: Duration, runtime: &Handle) -> Run {
        let partition = MaintainedPartition {
            id: PartitionId(0),
            store: Arc::clone(store) as Arc<dyn Maintained>,
            log: Arc::new(log.clone()),
            builder: Arc::new(|| Some(1)),
            state: watch::channel(state.clone()).1,
        };
        let config = MaintenanceConfig {
            image_interval: interval,
            merge_interval: interval,
            retain_interval: interval,
            ..MaintenanceConfig::default()
        };
        let clock = Arc::new(ManualClock::new(1_000));
        let session = SessionId { node: 1, incarnation: 2 };
        Run::new(config, vec![partition], session, Arc::new(|_| 77), Box::new(|| ()), clock, runtime.clone())
    }

    fn merges(run: &Run) -> Merges {
        let partitions: Vec<_> = run.partitions.iter().map(|(partition, _)| partition.clone()).collect();
        Merges::new(&run.config, &partitions, Arc::clone(&run.clock))
    }

    fn bodies(log: &MemLog) -> Vec<RecordBody> {
        log.entries().iter().map(|entry| record::decode(&entry.payload).unwrap().body).collect()
    }

    #[test]
    fn marks_and_floors_are_logged_and_the_log_is_trimmed_behind_an_image() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        *store.owes.lock() = true;
        let ready = ApplyState { is_ready: true, applied: Position(100), ..ApplyState::default() };
        let mut run = run(&store, &log, &ready, Duration::ZERO, runtime.handle());
        run.append(&run.partitions[0].0.clone(), 1, RecordBody::SessionForget(SessionId::default())).unwrap();
        run.turn(0);
        assert_eq!(*store.asked.lock(), ["retention_due", "flush", "retain", "image"]);
        assert_eq!(
            bodies(&log),
            [
                RecordBody::FlushMark(vec![FlushMark { window_start_ms: 1_000, generation: 0 }]),
                RecordBody::RetentionMark { tenant: TenantId(3), floor_ms: 77 },
            ],
            "the first record is trimmed"
        );
    }

    #[test]
    fn nothing_is_proposed_before_the_last_proposal_is_applied() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        let ready = ApplyState { is_ready: true, ..ApplyState::default() };
        let mut run = run(&store, &log, &ready, Duration::from_secs(3_600), runtime.handle());
        for _ in 0..3 {
            *store.owes.lock() = true;
            run.turn(0);
        }
        assert_eq!(bodies(&log).len(), 1);
        assert_eq!(*store.asked.lock(), ["flush"; 3]);
    }

    #[test]
    fn a_log_that_wants_a_trim_gets_one_image_before_its_turn() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        let applied =
            |applied| ApplyState { is_ready: true, applied: Position(applied), ..ApplyState::default() };
        let mut run = run(&store, &log, &applied(1), Duration::from_secs(3_600), runtime.handle());
        log.want_trim();
        run.turn(0);
        run.turn(0);
        assert_eq!(*store.asked.lock(), ["flush", "image", "flush"]);
        log.want_trim();
        run.turn(0);
        assert_eq!(store.asked.lock().len(), 4, "the image at 1 was all there is to keep");
        run.partitions[0].0.state = watch::channel(applied(2)).1;
        run.turn(0);
        assert_eq!(store.asked.lock()[4..], ["flush", "image"]);
    }

    #[test]
    fn a_partition_that_is_not_ready_or_has_stopped_is_left_alone() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        let stopped = ApplyState { is_ready: true, stopped: Some("x".into()), ..ApplyState::default() };
        for state in [ApplyState::default(), stopped] {
            let mut run = run(&store, &log, &state, Duration::ZERO, runtime.handle());
            run.turn(0);
            merges(&run).turn();
        }
        assert!(store.asked.lock().is_empty() && log.entries().is_empty());
    }

    #[test]
    fn the_thread_works_until_it_is_stopped() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        *store.owes.lock() = true;
        let (_sender, state) = watch::channel(ApplyState { is_ready: true, ..ApplyState::default() });
        let partition = MaintainedPartition {
            id: PartitionId(0),
            store: store.clone(),
            log: Arc::new(log.clone()),
            builder: Arc::new(|| Some(1)),
            state,
        };
        let config = MaintenanceConfig { tick: Duration::from_millis(1), ..MaintenanceConfig::default() };
        let maintenance = Maintenance::start(
            config,
            vec![partition],
            SessionId::default(),
            Arc::new(|_| 0),
            Box::new(|| ()),
            Arc::new(ManualClock::new(1_000)),
            runtime.handle().clone(),
        )
        .unwrap();
        let mut reader = log.read_from(Position(0));
        runtime.block_on(reader.next()).unwrap();
        maintenance.stop();
        assert_eq!(store.asked.lock().last(), Some(&"stop"));
        assert_eq!(Arc::strong_count(&store), 1, "the thread is gone");
    }

    #[test]
    fn a_flush_that_failed_waits_longer_each_time() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        let ready = ApplyState { is_ready: true, ..ApplyState::default() };
        let mut run = run(&store, &log, &ready, Duration::from_secs(3_600), runtime.handle());
        *store.fails.lock() = true;
        let mut waits = Vec::new();
        for _ in 0..8 {
            run.partitions[0].1.flush.at = run.clock.instant();
            run.turn(0);
            run.turn(0);
            waits.push(run.partitions[0].1.flush.wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(store.asked.lock().len(), 8, "a turn within the wait does not flush");
        *store.fails.lock() = false;
        run.partitions[0].1.flush.at = run.clock.instant();
        run.turn(0);
        run.turn(0);
        assert_eq!((store.asked.lock().len(), run.partitions[0].1.flush.wait.as_secs()), (10, 1));
    }

    #[test]
    fn an_image_that_failed_is_not_tried_again_at_every_turn() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake::default()), MemLog::default());
        let ready = ApplyState { is_ready: true, applied: Position(1), ..ApplyState::default() };
        let mut run = run(&store, &log, &ready, Duration::from_secs(3_600), runtime.handle());
        run.partitions[0].1.flush.at = run.clock.instant() + Duration::from_secs(3_600);
        *store.fails.lock() = true;
        let mut waits = Vec::new();
        for _ in 0..8 {
            run.partitions[0].1.image_retry.at = run.clock.instant();
            for _ in 0..3 {
                log.want_trim();
                run.turn(0);
            }
            waits.push(run.partitions[0].1.image_retry.wait.as_secs());
        }
        assert_eq!((waits, store.asked.lock().len()), (vec![2, 4, 8, 16, 32, 60, 60, 60], 8));
    }

    #[test]
    fn merges_hold_up_nothing_else_and_end_when_they_are_to_stop() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake { merges_long: true, ..Fake::default() }), MemLog::default());
        let ready = ApplyState { is_ready: true, ..ApplyState::default() };
        let run = run(&store, &log, &ready, Duration::ZERO, runtime.handle());
        let partition = run.partitions[0].0.clone();
        let config = MaintenanceConfig { tick: Duration::from_millis(1), ..run.config.clone() };
        let maintenance = Maintenance::start(
            config,
            vec![partition.clone(), partition],
            SessionId::default(),
            Arc::new(|_| 0),
            Box::new(|| ()),
            Arc::new(ManualClock::new(1_000)),
            runtime.handle().clone(),
        )
        .unwrap();
        let has = |what| store.asked.lock().contains(&what);
        while !has("merge") {
            std::thread::yield_now();
        }
        store.asked.lock().clear();
        while !["flush", "retain", "image"].into_iter().all(has) {
            std::thread::yield_now();
        }
        assert!(!has("merge"), "one merge at a time");
        maintenance.stop();
    }

    #[test]
    #[ignore = "a part of a_panic_ends_the_process"]
    fn child_that_panics() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, log) = (Arc::new(Fake { panics: true, ..Fake::default() }), MemLog::default());
        let ready = ApplyState { is_ready: true, ..ApplyState::default() };
        let mut run = run(&store, &log, &ready, Duration::from_secs(3_600), runtime.handle());
        or_abort(|| run.turn(0));
    }

    #[test]
    fn a_panic_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "maintenance::tests::child_that_panics", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(6), "{}", String::from_utf8_lossy(&child.stderr));
    }
}
