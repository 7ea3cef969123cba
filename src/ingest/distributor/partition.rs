//! One partition's queue: parts of requests are grouped into records and appended, a few at a time.
//!
//! Each partition has its own, so a slow one holds no buffer of another. Bytes stay reserved until they are
//! applied: that is how a log or an apply that falls behind pushes back.

use super::DistributorConfig;
use super::outcome::{Committed, PartAnswer, WriteError};
use crate::appender::{Appended, Appender, PendingVerdict};
use crate::holdings::Holdings;
use crate::series_cache::{DefinedSeries, SentMetadata, Session, TenantSeries};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_commitlog::record;
use quorate_model::{Clock, ErrorCode, PartitionId, Position, RecordHeader};
use quorate_tsdb::SubBatchVerdict;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// The slot-table epoch of this build: the partition count is fixed.
const EPOCH: u32 = 1;

/// Most bytes of a record beside its parts.
pub(super) const MAX_HEADER: usize = 64;

/// What a distributor needs of one partition.
#[derive(Clone)]
pub struct PartitionInput {
    /// Its number.
    pub id: PartitionId,
    /// The way into its log.
    pub appender: Arc<dyn Appender>,
    /// What it holds.
    pub holdings: Arc<dyn Holdings>,
}

impl std::fmt::Debug for PartitionInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionInput").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One request's part for one partition, encoded.
pub(super) struct Pending {
    pub(super) session: Arc<Session>,
    pub(super) bytes: Vec<u8>,
    pub(super) sub_batches: usize,
    pub(super) tenant: Arc<TenantSeries>,
    pub(super) defined: Vec<DefinedSeries>,
    pub(super) metadata: Vec<SentMetadata>,
    /// The coarse time when it was read.
    pub(super) unit: u32,
    /// The tenant's limit of families with metadata.
    pub(super) max_families: usize,
    pub(super) answer: oneshot::Sender<PartAnswer>,
    pub(super) reservation: Reservation,
}

/// Bytes of a partition that are taken until this is dropped.
pub(super) struct Reservation {
    queue: Arc<PartitionQueue>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.queue.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
        self.queue.released.notify_waiters();
    }
}

pub(super) struct PartitionQueue {
    input: PartitionInput,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// An append came back.
    returned: Notify,
    released: Notify,
    appends: Arc<Semaphore>,
    reserved: AtomicUsize,
    is_stopped: AtomicBool,
    max_appends: usize,
    max_queued_bytes: usize,
    group_bytes: usize,
    group_wait: Duration,
    groups_when_idle: bool,
    verdict_timeout: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Waiting {
    parts: VecDeque<Pending>,
    bytes: usize,
}

impl PartitionQueue {
    pub(super) fn start(
        input: PartitionInput,
        config: &DistributorConfig,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let queue = Arc::new(Self {
            input,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            returned: Notify::new(),
            released: Notify::new(),
            appends: Arc::new(Semaphore::new(config.max_appends)),
            reserved: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            max_appends: config.max_appends,
            max_queued_bytes: config.max_queued_bytes,
            group_bytes: config.group_bytes,
            group_wait: config.group_wait,
            groups_when_idle: config.groups_when_idle,
            verdict_timeout: config.verdict_timeout,
            clock,
        });
        tokio::spawn(Arc::clone(&queue).run());
        queue
    }

    pub(super) fn id(&self) -> PartitionId {
        self.input.id
    }

    pub(super) fn holdings(&self) -> &dyn Holdings {
        &*self.input.holdings
    }

    pub(super) fn log_incarnation(&self) -> u32 {
        self.input.appender.incarnation()
    }

    /// Why the partition takes nothing any more, if it does not.
    pub(super) fn why_stopped(&self) -> Option<String> {
        self.input.appender.why_stopped()
    }

    /// Takes `bytes` of the bound, or tells how many are taken.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, WriteError> {
        let before = self.reserved.fetch_add(bytes, Ordering::AcqRel);
        let reservation = Reservation { queue: Arc::clone(self), bytes };
        // One part larger than the bound may pass alone: it could never pass otherwise.
        if before > 0 && before + bytes > self.max_queued_bytes {
            let (partition, limit) = (self.id(), self.max_queued_bytes);
            return Err(WriteError::Overloaded { partition, queued: before, limit });
        }
        Ok(reservation)
    }

    pub(super) fn push(&self, part: Pending) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += part.bytes.len();
        waiting.parts.push_back(part);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until nothing is reserved: all that was queued is answered and applied, or given up.
    pub(super) async fn drained(&self) {
        loop {
            let released = self.released.notified();
            if self.reserved.load(Ordering::Acquire) == 0 {
                return;
            }
            released.await;
        }
    }

    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    async fn run(self: Arc<Self>) {
        loop {
            if self.waiting.lock().parts.is_empty() {
                if self.is_stopped.load(Ordering::Acquire) {
                    return;
                }
                self.arrived.notified().await;
                continue;
            }
            self.window().await;
            let Ok(permit) = Arc::clone(&self.appends).acquire_owned().await else { return };
            let group = self.take_group();
            tokio::spawn(Arc::clone(&self).send(group, permit));
        }
    }

    /// Waits while others may still join: not at all if no append is under way, unless the log is to be spared.
    async fn window(&self) {
        let wait = tokio::time::sleep(self.group_wait);
        tokio::pin!(wait);
        while (self.groups_when_idle || self.appends.available_permits() < self.max_appends)
            && self.waiting.lock().bytes < self.group_bytes
        {
            tokio::select! {
                () = &mut wait => return,
                () = self.arrived.notified() => {}
                () = self.returned.notified() => {}
            }
        }
    }

    /// The oldest parts up to the size of a group, at least one, all of one session.
    fn take_group(&self) -> Vec<Pending> {
        let mut waiting = self.waiting.lock();
        let mut group: Vec<Pending> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.parts.front() {
            let is_other_session = group.first().is_some_and(|first| first.session.id() != next.session.id());
            if is_other_session || (!group.is_empty() && bytes + next.bytes.len() > self.group_bytes) {
                break;
            }
            bytes += next.bytes.len();
            group.extend(waiting.parts.pop_front());
        }
        waiting.bytes -= bytes;
        group
    }

    /// Appends one record and answers its parts. Runs to its end whoever still waits.
    async fn send(self: Arc<Self>, group: Vec<Pending>, permit: OwnedSemaphorePermit) {
        let Some(session) = group.first().map(|part| Arc::clone(&part.session)) else { return };
        let log_incarnation = self.log_incarnation();
        if session.log_incarnation(self.id()) != Some(log_incarnation) {
            self.release(permit);
            let error = WriteError::not_taken(self.id(), "its log began again, the session is over");
            return answer_all(group, &error);
        }
        if session.was_silent(self.id(), self.clock.since_boot()) {
            self.release(permit);
            return answer_all(group, &WriteError::SessionUsedUp);
        }
        let header = RecordHeader {
            log_incarnation,
            epoch: EPOCH,
            session: session.id(),
            sequence: session.next_sequence(),
        };
        let mut bytes =
            Vec::with_capacity(MAX_HEADER + group.iter().map(|part| part.bytes.len()).sum::<usize>());
        let count = group.iter().map(|part| part.sub_batches).sum();
        record::assemble(&header, count, group.iter().map(|part| part.bytes.as_slice()), &mut bytes);
        let appended = self.input.appender.append(header.session, header.sequence, Bytes::from(bytes)).await;
        self.release(permit);
        match appended {
            Ok(Appended { position, verdict }) => {
                session.note_append(self.id(), self.clock.since_boot());
                self.settle(group, position, verdict).await;
            }
            Err(error) => {
                let cause = error.to_string();
                let error = match error.code() {
                    ErrorCode::Indeterminate => WriteError::unknown(self.id(), cause),
                    _ => WriteError::not_taken(self.id(), cause),
                };
                answer_all(group, &error);
            }
        }
    }

    fn release(&self, permit: OwnedSemaphorePermit) {
        drop(permit);
        self.returned.notify_one();
    }

    /// The record is committed: its definitions hold, and its parts are answered when it is applied.
    async fn settle(&self, group: Vec<Pending>, position: Position, verdict: PendingVerdict) {
        for part in &group {
            part.tenant.mark_defined(&part.defined);
            part.tenant.mark_metadata(&part.metadata, part.unit, part.max_families);
        }
        let verdict = verdict.wait();
        tokio::pin!(verdict);
        match tokio::time::timeout(self.verdict_timeout, &mut verdict).await {
            Ok(Ok(Some(verdicts))) => self.answer_each(group, position, verdicts),
            Ok(Ok(None)) => {
                for part in group {
                    let _ = part.answer.send(Ok(Committed { position, verdicts: None }));
                }
            }
            Ok(Err(none)) => answer_all(group, &WriteError::unknown(self.id(), none.reason)),
            Err(_) => {
                // Durable, so it is a success; the bytes stay reserved until it is applied.
                let held: Vec<Reservation> = group
                    .into_iter()
                    .map(|part| {
                        let _ = part.answer.send(Ok(Committed { position, verdicts: None }));
                        part.reservation
                    })
                    .collect();
                let _ = verdict.await;
                drop(held);
            }
        }
    }

    /// Hands each part the verdicts of its own sub-batches. A caller may be gone.
    fn answer_each(&self, group: Vec<Pending>, position: Position, verdicts: Vec<SubBatchVerdict>) {
        let expected: usize = group.iter().map(|part| part.sub_batches).sum();
        if verdicts.len() != expected {
            let cause = format!("{} verdicts for {expected} sub-batches", verdicts.len());
            return answer_all(group, &WriteError::unknown(self.id(), cause));
        }
        let mut verdicts = verdicts.into_iter();
        for part in group {
            let verdicts = Some(verdicts.by_ref().take(part.sub_batches).collect());
            let _ = part.answer.send(Ok(Committed { position, verdicts }));
        }
    }
}

fn answer_all(group: Vec<Pending>, error: &WriteError) {
    for part in group {
        let _ = part.answer.send(Err(error.clone()));
    }
}
