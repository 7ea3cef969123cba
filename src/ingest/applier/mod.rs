//! Apply: one thread per partition reads the log in order and hands every record to the partition's store.
//!
//! Knows positions and records. Does not know how samples are kept, nor who waits for a verdict.
//! Path: `PartitionLog` -> **here** -> `tsdb::PartitionStore`; verdicts go to [`crate::appender`].
//!
//! - AP1: records are applied in log order, each once; nothing is skipped. A record that cannot be read or
//!   applied stops the partition: its writes are refused and it never becomes ready again in this process. Where others
//!   can write into the log too, what was never a record of this cluster is passed and told instead.
//! - AP2: the partition is ready once it has applied what was committed when it started.

#[cfg(test)]
mod tests;
mod verdicts;

pub use verdicts::{NoVerdict, RecordVerdict, Verdicts};

use quorate_commitlog::record::{self, RecordDecoder, empty_record};
use quorate_commitlog::{LogEntry, LogError, LogReader, PartitionLog};
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{ErrorCode, LogRecord, PartitionId, Position, RecordBody, SessionId, failpoint};
use quorate_tsdb::ApplyOutcome;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// Pause before the committed position is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Attempts between two lines of the log about it: between leaders nobody knows it for a second.
const ATTEMPTS_PER_LINE: u32 = 50;
/// Looks that find the end of a log before what was applied until that counts: 15 seconds.
const LOOKS_AT_END: u32 = 150;

/// What apply needs of a partition's store.
pub trait ApplyTarget: Send + Sync {
    /// The newest applied position.
    fn applied(&self) -> Position;

    /// Applies a record. A position that was applied before changes nothing.
    ///
    /// # Errors
    /// Why the record can never be applied; the partition stops.
    fn apply(&self, position: Position, record: &LogRecord) -> Result<ApplyOutcome, String>;

    /// Goes on behind a position at which no record stands.
    ///
    /// # Errors
    /// Why the partition has stopped.
    fn pass(&self, position: Position) -> Result<(), String>;

    /// Remembers the CRC-32C of the entry at a position that was applied or passed, as long as the state at it.
    fn note_entry(&self, position: Position, crc: u32);

    /// Position and CRC-32C of the last entry that was noted.
    fn last_entry(&self) -> Option<(Position, u32)>;
}

/// What is told of an entry that is no record of this cluster: the entry, and why.
pub type Strangers = Arc<dyn Fn(&LogEntry, &str) + Send + Sync>;

/// How far a partition has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyState {
    /// The newest applied position.
    pub applied: Position,
    /// Whether everything committed at the start is applied.
    pub is_ready: bool,
    /// Why the partition has stopped, if it has.
    pub stopped: Option<Arc<str>>,
    /// Whether it stopped because the log no longer holds what comes next: another replica's state would help.
    pub lacks_entries: bool,
}

/// The apply thread of one partition. Dropping it stops the thread without waiting.
pub struct Applier {
    partition: PartitionId,
    state: watch::Receiver<ApplyState>,
    verdicts: Arc<Verdicts>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl Applier {
    /// Starts the thread; reading waits on `runtime`. Without `strangers` nobody but this cluster writes into the log.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(
        partition: PartitionId,
        target: Arc<dyn ApplyTarget>,
        log: Arc<dyn PartitionLog>,
        strangers: Option<Strangers>,
        runtime: Handle,
    ) -> std::io::Result<Self> {
        let (sender, state) =
            watch::channel(ApplyState { applied: target.applied(), ..ApplyState::default() });
        let verdicts = Arc::new(Verdicts::default());
        let stop = Arc::new(Notify::new());
        let mut run = Run {
            partition,
            target,
            log,
            state: sender,
            verdicts: Arc::clone(&verdicts),
            stop: Arc::clone(&stop),
            strangers,
            lacks_entries: false,
            decoder: RecordDecoder::default(),
            record: empty_record(),
            ready_at: Position(u64::MAX),
        };
        let thread = std::thread::Builder::new()
            .name(format!("apply-{partition}"))
            .spawn(move || run.run(&runtime))?;
        Ok(Self { partition, state, verdicts, stop, thread: Some(thread) })
    }

    /// Where a [`crate::LocalAppender`] finds verdicts.
    pub fn verdicts(&self) -> Arc<Verdicts> {
        Arc::clone(&self.verdicts)
    }

    /// How far the partition has come, and every change.
    pub fn state(&self) -> watch::Receiver<ApplyState> {
        self.state.clone()
    }

    /// Waits until the partition is ready.
    ///
    /// # Errors
    /// Why it stopped instead.
    pub async fn ready(&self) -> Result<(), Arc<str>> {
        let mut state = self.state.clone();
        let seen = state.wait_for(|s| s.is_ready || s.stopped.is_some()).await;
        match seen {
            Ok(seen) => seen.stopped.clone().map_or(Ok(()), Err),
            Err(_) => Err("its apply thread ended".into()),
        }
    }

    /// Waits until `position` is applied.
    ///
    /// # Errors
    /// Why it stopped instead.
    pub async fn reached(&self, position: Position) -> Result<(), Arc<str>> {
        let mut state = self.state.clone();
        let seen = state.wait_for(|s| s.applied >= position || s.stopped.is_some()).await;
        match seen {
            Ok(seen) if seen.applied >= position => Ok(()),
            Ok(seen) => Err(seen.stopped.clone().unwrap_or_else(|| "its apply thread ended".into())),
            Err(_) => Err("its apply thread ended".into()),
        }
    }

    /// Ends the thread after the record it is at, and waits for it.
    pub fn stop(mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(partition = %self.partition, "the apply thread panicked");
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// The records of [`Bug::OffsetBeforeData`].
const PLANTED_RECORDS: u64 = 64;

/// Without these the records after it would still be whole.
fn defines_nothing(record: &LogRecord) -> bool {
    matches!(&record.body, RecordBody::Data(batches) if batches.iter().all(|b| b.definitions.is_empty()))
}

struct Run {
    partition: PartitionId,
    target: Arc<dyn ApplyTarget>,
    log: Arc<dyn PartitionLog>,
    state: watch::Sender<ApplyState>,
    verdicts: Arc<Verdicts>,
    stop: Arc<Notify>,
    strangers: Option<Strangers>,
    lacks_entries: bool,
    decoder: RecordDecoder,
    record: LogRecord,
    ready_at: Position,
}

impl Run {
    fn run(&mut self, runtime: &Handle) {
        let why = match self.read(runtime) {
            Ok(()) => "the node is stopping".to_owned(),
            Err(why) => {
                tracing::error!(partition = %self.partition, %why, "apply stopped");
                metrics::counter!("quorate_apply_stopped_total", "partition" => self.partition.to_string())
                    .increment(1);
                why
            }
        };
        self.verdicts.close(&why);
        let lacks_entries = self.lacks_entries;
        self.state.send_modify(|state| {
            state.is_ready = false;
            state.lacks_entries = lacks_entries;
            state.stopped = Some(why.into());
        });
    }

    fn read(&mut self, runtime: &Handle) -> Result<(), String> {
        let reached = match self.strangers {
            Some(_) => self.target.applied(),
            None => Position(0),
        };
        let Some(ready_at) = self.wait(runtime, committed(self.log.as_ref(), reached)) else { return Ok(()) };
        self.ready_at = ready_at.map_err(|e| format!("the committed position is not known: {e}"))?;
        self.note(self.target.applied());
        let mut reader = self.log.read_behind(self.target.applied(), self.target.last_entry());
        loop {
            let Some(entries) = self.wait(runtime, next(reader.as_mut())) else { return Ok(()) };
            let entries = entries.map_err(|error| {
                self.lacks_entries = matches!(error, LogError::Trimmed { .. });
                format!("the log cannot be read: {error}")
            })?;
            for entry in entries {
                self.apply(&entry)?;
                // A log that others write into is kept elsewhere, where it may lose its end and grow again.
                if self.strangers.is_some() && !entry.is_gap {
                    self.target.note_entry(entry.position, entry.crc());
                }
            }
        }
    }

    /// The result of `work`, or `None` if the thread has to stop first.
    fn wait<T>(&self, runtime: &Handle, work: impl Future<Output = T>) -> Option<T> {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.notified() => None,
                done = work => Some(done),
            }
        })
    }

    fn apply(&mut self, entry: &LogEntry) -> Result<(), String> {
        let position = entry.position;
        if entry.is_gap {
            self.target.pass(position)?;
            self.note(position);
            return Ok(());
        }
        let is_replay = position <= self.ready_at;
        let is_newest = is_replay && position.0 + PLANTED_RECORDS > self.ready_at.0;
        if is_replay {
            failpoint::hit("replay.before_record");
        }
        let Self { decoder, record, target, .. } = self;
        let is_decoded = match &self.strangers {
            None => false,
            Some(strangers) => match read_stranger(decoder, &entry.payload, record, self.log.incarnation()) {
                Read::Record => true,
                Read::Newer => false,
                Read::Stranger(why) => {
                    strangers(entry, &why);
                    target.pass(position)?;
                    self.note(position);
                    return Ok(());
                }
            },
        };
        let applied = catch_unwind(AssertUnwindSafe(|| {
            if !is_decoded {
                decoder
                    .decode(&entry.payload, record)
                    .map_err(|e| format!("the record at position {position} cannot be read: {e}"))?;
            }
            if is_newest && is_planted(Bug::OffsetBeforeData) && defines_nothing(record) {
                return Ok(ApplyOutcome::default());
            }
            target
                .apply(position, record)
                .map_err(|e| format!("the record at position {position} cannot be applied: {e}"))
        }));
        let outcome = applied.map_err(|panic| {
            format!("the record at position {position} made apply panic: {}", panic_text(panic.as_ref()))
        })??;
        if is_replay {
            failpoint::hit("replay.after_record");
        }
        // Marks count their sequence apart from writers of the same session; only writers wait.
        if let RecordBody::Data(_) = self.record.body {
            let header = &self.record.header;
            self.verdicts.publish(header.session, header.sequence, verdict_of(header.session, outcome));
        }
        self.note(position);
        Ok(())
    }

    fn note(&self, applied: Position) {
        let is_ready = applied >= self.ready_at;
        self.state.send_modify(|state| {
            state.applied = applied;
            state.is_ready = is_ready;
        });
    }
}

/// What an entry is in a log that others can write into.
enum Read {
    /// A record of this cluster, now decoded.
    Record,
    /// One that only a newer build reads.
    Newer,
    /// None of this cluster, and why.
    Stranger(String),
}

fn read_stranger(
    decoder: &mut RecordDecoder,
    payload: &[u8],
    record: &mut LogRecord,
    log_incarnation: u32,
) -> Read {
    match decoder.decode(payload, record) {
        Ok(()) if record.header.log_incarnation == log_incarnation => Read::Record,
        Ok(()) => Read::Stranger(format!(
            "it is a record of another log, of incarnation {} and not {log_incarnation}",
            record.header.log_incarnation
        )),
        Err(_) if record::is_newer(payload) => Read::Newer,
        Err(error) => Read::Stranger(error.to_string()),
    }
}

/// What the writer of a data record is told. One that is void, or has lost samples, is no success: its writer can only repeat
/// the request.
fn verdict_of(session: SessionId, outcome: ApplyOutcome) -> RecordVerdict {
    if outcome.is_void {
        let reason = format!("the gateway session {session} is over, the record has no effect");
        return Err(NoVerdict { reason });
    }
    let lost: u64 = outcome.sub_batches.iter().map(|one| one.counters.lost).sum();
    if lost > 0 {
        let reason = format!(
            "{lost} samples are of series whose definitions by the gateway session {session} were lost in the log"
        );
        return Err(NoVerdict { reason });
    }
    Ok(outcome.sub_batches)
}

/// The committed position; asks again while the log is not available, as it is between leaders. One that is kept elsewhere and
/// ends before what was `reached` has lost its end, if it stays so: a leader that is new may not know it yet.
async fn committed(log: &dyn PartitionLog, reached: Position) -> Result<Position, LogError> {
    let mut looks = 0;
    for attempt in 1u32.. {
        match log.committed().await {
            Ok(end) if end < reached => {
                looks += 1;
                if looks == LOOKS_AT_END {
                    return Err(LogError::Lost { after: reached });
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(error) if matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Indeterminate) => {
                if attempt.is_multiple_of(ATTEMPTS_PER_LINE) {
                    tracing::warn!(%error, attempt, "the committed position is not known yet");
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            known => return known,
        }
    }
    unreachable!("attempts are counted without an end")
}

async fn next(reader: &mut dyn LogReader) -> Result<Vec<LogEntry>, LogError> {
    reader.next().await
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
