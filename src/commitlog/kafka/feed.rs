//! Reads the partitions of a node: one consumer, one thread, a bounded buffer for each partition.
//!
//! Knows offsets. Does not know groups of consumers: it is told what to read, and from where.
//! Path: the brokers -> librdkafka -> **here** -> `log`.
//!
//! - FE1: a reader gets every record after its position in order and once; what librdkafka gives twice is left out.
//! - FE2: a partition whose reader is slow is paused; it holds up no other, and the thread goes on.
//! - FE3: a reader that is in doubt goes on behind the very record that it got last, or not at all: a log that lost its end and
//!   grew over the place is another one.
//! - FE4: a position that the topic does not hold is an error of its reader. A leader that has just changed may not know
//!   the end yet, so that the end lies before a position counts only when it stays so.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use crate::{LogEntry, LogError};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{Clock, Position, SystemClock};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bytes of a partition that wait for its reader before it is paused.
const MAX_WAITING: usize = 8 << 20;
/// What an entry counts for beside its bytes.
const ENTRY_COST: usize = 128;
/// Offsets that are no records may follow each other: the marks that end transactions, which only others write.
const MAX_HOLE: i64 = 16;
/// Longest wait of the thread for something to do.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the ends of a partition.
const ENDS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at positions that are in doubt.
const DOUBT_PAUSE: Duration = Duration::from_millis(500);
/// How long the end of a partition may lie before a position until it counts.
const LOST_AFTER: Duration = Duration::from_secs(15);

/// See the module header. Dropping it ends the thread.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    consumer: BaseConsumer<Context>,
    /// Asks for ends. A broker answers the requests of a connection one after the other, and a fetch waits for records.
    asker: BaseConsumer<Context>,
    topic: String,
    readers: Mutex<BTreeMap<u32, Arc<Reader>>>,
    is_stopped: AtomicBool,
}

/// What waits for one reader.
struct Reader {
    state: Mutex<State>,
    arrived: Notify,
}

struct State {
    waiting: VecDeque<LogEntry>,
    bytes: usize,
    /// The next offset that it gets.
    next: i64,
    /// Offset and CRC-32C of the record that it got last here.
    last: Option<(i64, u32)>,
    /// Whether that record has to be met again before the next one counts.
    is_in_doubt: bool,
    is_paused: bool,
    /// Why it gets nothing any more.
    failed: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Failure {
    Trimmed(Position),
    Lost(Position),
    Damaged(String),
    Internal(String),
}

impl Failure {
    fn error(&self) -> LogError {
        match self.clone() {
            Self::Trimmed(after) => LogError::Trimmed { after },
            Self::Lost(after) => LogError::Lost { after },
            Self::Damaged(reason) => LogError::Damaged { reason },
            Self::Internal(reason) => LogError::Internal { reason },
        }
    }
}

/// What a record is to its reader.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// One that it had.
    Known,
    /// The next one, behind so many offsets without one.
    Next { hole: i64 },
    /// Not what may follow, and why.
    Wrong(String),
}

impl State {
    /// Where librdkafka reads from: with a doubt from the last record on.
    fn begin(&self) -> i64 {
        self.last.filter(|_| self.is_in_doubt).map_or(self.next, |(last, _)| last)
    }

    /// Meets the record at `offset`.
    fn meet(&mut self, offset: i64, payload: &[u8]) -> Met {
        if let Some((last, crc)) = self.last.filter(|_| self.is_in_doubt) {
            if offset == last && crc32c::crc32c(payload) == crc {
                self.is_in_doubt = false;
            } else if offset >= last {
                return Met::Wrong(format!(
                    "the record at offset {last} is not the one that was read there before"
                ));
            }
            return Met::Known;
        }
        let hole = offset - self.next;
        if hole < 0 {
            return Met::Known;
        }
        if hole > MAX_HOLE {
            return Met::Wrong(format!("it does not hold the offsets {} to {}", self.next, offset - 1));
        }
        self.next = offset + 1;
        self.last = Some((offset, crc32c::crc32c(payload)));
        Met::Next { hole }
    }
}

/// One reader's place at a feed. Dropping it ends the reading.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    partition: u32,
    reader: Arc<Reader>,
}

impl Feed {
    /// Starts a consumer of `topic` that reads nothing yet.
    pub(crate) fn start(settings: &ClientSettings, topic: &str) -> Result<Self, KafkaError> {
        let failed = |reason: String| KafkaError::Setting { key: "options", reason };
        let mut config = settings.config()?;
        // Named because librdkafka wants a name; it joins no group and commits nothing.
        config.set("group.id", "quorate").set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false").set("auto.offset.reset", "error");
        // All offsets but the marks of transactions are then records, so that a hole is told from a loss.
        config.set("isolation.level", "read_uncommitted").set("check.crcs", "true");
        config.set("fetch.wait.max.ms", "500").set("fetch.queue.backoff.ms", "10");
        config.set("fetch.message.max.bytes", "8388608").set("fetch.max.bytes", "67108864");
        config.set("receive.message.max.bytes", "134217728");
        config.set("queued.max.messages.kbytes", "16384").set("queued.min.messages", "1000");
        config.set("topic.metadata.refresh.interval.ms", "10000");
        for (name, value) in &settings.options {
            config.set(name, value);
        }
        let make = |config: &ClientConfig| {
            let made = config.create_with_context(settings.context());
            made.map_err(|error| failed(format!("a consumer cannot be made: {error}")))
        };
        let consumer = make(&config)?;
        let asker = make(config.remove("group.id"))?;
        let shared = Arc::new(Shared {
            consumer,
            asker,
            topic: topic.to_owned(),
            readers: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("kafka-feed".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.run()
        });
        let thread = thread.map_err(|error| failed(format!("no thread for a consumer: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reads `partition` after `after`; `None` if somebody does already.
    pub(crate) fn subscribe(&self, partition: u32, after: Position) -> Option<Subscription> {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            next: i64::try_from(after.0).unwrap_or(i64::MAX),
            last: None,
            is_in_doubt: false,
            is_paused: false,
            failed: None,
        };
        let reader = Arc::new(Reader { state: Mutex::new(state), arrived: Notify::new() });
        {
            let mut readers = self.shared.readers.lock();
            if readers.contains_key(&partition) {
                return None;
            }
            readers.insert(partition, reader.clone());
            self.shared.assign(partition, &mut reader.state.lock());
        }
        Some(Subscription { shared: self.shared.clone(), partition, reader })
    }

    /// The end of each of `partitions`: the offset after the last record, asked for after this was called. Blocks.
    pub(crate) fn ends(&self, partitions: &[u32], timeout: Duration) -> Vec<Result<i64, LogError>> {
        self.shared.ends(partitions, timeout)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads from Kafka panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut doubts = Doubts::default();
        let mut asker_served = SystemClock.instant();
        while !self.is_stopped.load(Ordering::Acquire) {
            if asker_served.elapsed() >= POLL {
                self.serve_asker();
                asker_served = SystemClock.instant();
            }
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.note(&error, &mut doubts),
            }
            if doubts.are_due() {
                self.resolve(&mut doubts);
            }
        }
    }

    /// It reads nothing, but its tokens are renewed by those who poll.
    fn serve_asker(&self) {
        if let Some(Err(error)) = self.asker.poll(Duration::ZERO) {
            tracing::debug!(%error, "asking Kafka for ends is held up");
        }
    }

    fn list(&self, partition: u32, offset: Option<i64>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        match offset {
            None => drop(list.add_partition(&self.topic, number)),
            // Only a negative offset is refused, and none is.
            Some(offset) => {
                drop(list.add_partition_offset(&self.topic, number, Offset::Offset(offset.max(0))))
            }
        }
        list
    }

    /// Has librdkafka read a partition from where its reader is.
    fn assign(&self, partition: u32, state: &mut State) {
        state.is_paused = false;
        if let Err(error) = self.consumer.incremental_assign(&self.list(partition, Some(state.begin()))) {
            state.failed = Some(Failure::Internal(format!("kafka: a partition cannot be read: {error}")));
        }
    }

    fn unassign(&self, partition: u32) {
        // librdkafka keeps it paused over an assignment; one that is not paused stays as it is.
        if let Err(error) = self.consumer.resume(&self.list(partition, None)) {
            tracing::debug!(partition, %error, "a partition was not resumed before its reading ended");
        }
        if let Err(error) = self.consumer.incremental_unassign(&self.list(partition, None)) {
            tracing::warn!(partition, %error, "the reading of a partition did not end in order");
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let Ok(partition) = u32::try_from(message.partition()) else { return };
        let Some(reader) = self.readers.lock().get(&partition).cloned() else { return };
        let (offset, payload) = (message.offset(), message.payload().unwrap_or_default());
        let mut state = reader.state.lock();
        if state.failed.is_some() {
            return;
        }
        match state.meet(offset, payload) {
            Met::Known => return,
            Met::Wrong(why) => {
                let reason = format!("kafka: partition {partition} of the topic {:?}: {why}", self.topic);
                state.failed = Some(Failure::Damaged(reason));
            }
            Met::Next { hole } => {
                if hole > 0 {
                    metrics::counter!("quorate_kafka_passed_offsets_total").increment(hole as u64);
                    tracing::warn!(partition, offset, hole, "offsets without records were passed");
                }
                state.bytes += payload.len() + ENTRY_COST;
                let position = Position(state.next as u64);
                state.waiting.push_back(LogEntry { position, payload: Bytes::copy_from_slice(payload) });
                if state.bytes >= MAX_WAITING && !state.is_paused {
                    state.is_paused = self.pauses(partition);
                }
            }
        }
        drop(state);
        reader.arrived.notify_one();
    }

    fn pauses(&self, partition: u32) -> bool {
        let paused = self.consumer.pause(&self.list(partition, None));
        if let Err(error) = &paused {
            tracing::warn!(partition, %error, "a partition whose reader is slow was not paused");
        }
        paused.is_ok()
    }

    fn note(&self, error: &Cause, doubts: &mut Doubts) {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => doubts.raise(),
            _ if is_planted(Bug::SkipAfterError) => {
                self.readers.lock().values().for_each(|reader| reader.state.lock().next += 1);
            }
            _ => tracing::debug!(%error, "reading from Kafka is held up"),
        }
    }

    /// Looks which readers want what the topic does not hold. The others go on where they are.
    fn resolve(&self, doubts: &mut Doubts) {
        let readers: Vec<(u32, Arc<Reader>)> =
            self.readers.lock().iter().map(|(partition, reader)| (*partition, reader.clone())).collect();
        let mut is_open = false;
        for (partition, reader) in readers {
            let ends = self.consumer.fetch_watermarks(&self.topic, partition as i32, ENDS_TIMEOUT);
            // The map stays locked: a reader that left meanwhile is not assigned again.
            let readers = self.readers.lock();
            if !readers.get(&partition).is_some_and(|now| Arc::ptr_eq(now, &reader)) {
                continue;
            }
            let mut state = reader.state.lock();
            if state.failed.is_some() {
                continue;
            }
            let after = Position(state.next as u64);
            match ends {
                Err(error) => {
                    tracing::debug!(partition, %error, "the ends of a partition are not known");
                    is_open = true;
                }
                Ok((first, end)) if first > state.next && is_planted(Bug::SilentReset) => {
                    state.next = end;
                    self.unassign(partition);
                    self.assign(partition, &mut state);
                }
                Ok((first, _)) if first > state.next => state.failed = Some(Failure::Trimmed(after)),
                Ok((_, end)) if end < state.next => match doubts.have_lasted(LOST_AFTER) {
                    true => state.failed = Some(Failure::Lost(after)),
                    false => is_open = true,
                },
                Ok((first, _)) => {
                    // What was read last may have been deleted in its time; then nobody can tell any more.
                    state.is_in_doubt = state.last.is_some_and(|(last, _)| last >= first);
                    self.unassign(partition);
                    self.assign(partition, &mut state);
                }
            }
            drop(state);
            reader.arrived.notify_one();
        }
        doubts.note(is_open);
    }

    fn ends(&self, partitions: &[u32], timeout: Duration) -> Vec<Result<i64, LogError>> {
        let unavailable = |reason: String| LogError::Unavailable { reason: format!("kafka: {reason}") };
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            if let Err(error) = asked.add_partition_offset(&self.topic, number, Offset::End) {
                return partitions.iter().map(|_| Err(unavailable(error.to_string()))).collect();
            }
        }
        let told = match self.asker.offsets_for_times(asked, timeout) {
            Ok(told) => told,
            Err(error) => return partitions.iter().map(|_| Err(unavailable(error.to_string()))).collect(),
        };
        let end = |partition: &u32| {
            let found = told.find_partition(&self.topic, i32::try_from(*partition).unwrap_or(i32::MAX));
            let found = found.ok_or_else(|| unavailable("the brokers do not tell".to_owned()))?;
            found.error().map_err(|error| unavailable(error.to_string()))?;
            match found.offset() {
                Offset::Offset(end) => Ok(end),
                other => Err(unavailable(format!("the end of a partition is {other:?}"))),
            }
        };
        partitions.iter().map(end).collect()
    }
}

impl Subscription {
    /// As [`crate::LogReader::next`].
    pub(crate) async fn next(&mut self) -> Result<Vec<LogEntry>, LogError> {
        loop {
            let arrived = self.reader.arrived.notified();
            if let Some(found) = self.take() {
                return found;
            }
            arrived.await;
        }
    }

    fn take(&self) -> Option<Result<Vec<LogEntry>, LogError>> {
        let mut state = self.reader.state.lock();
        if state.waiting.is_empty() {
            return state.failed.as_ref().map(|failed| Err(failed.error()));
        }
        state.bytes = 0;
        let entries = std::mem::take(&mut state.waiting).into();
        if state.is_paused {
            match self.shared.consumer.resume(&self.shared.list(self.partition, None)) {
                Ok(()) => state.is_paused = false,
                Err(error) => {
                    state.failed =
                        Some(Failure::Internal(format!("kafka: a partition stays paused: {error}")));
                }
            }
        }
        Some(Ok(entries))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The map stays locked, so that whoever reads the partition next assigns it after this.
        let mut readers = self.shared.readers.lock();
        readers.remove(&self.partition);
        self.shared.unassign(self.partition);
    }
}

/// Positions of which librdkafka says that the topic does not hold them.
#[derive(Default)]
struct Doubts {
    since: Option<Instant>,
    again: Option<Instant>,
}

impl Doubts {
    fn raise(&mut self) {
        let now = SystemClock.instant();
        self.since.get_or_insert(now);
        self.again.get_or_insert(now);
    }

    fn are_due(&self) -> bool {
        self.again.is_some_and(|again| SystemClock.instant() >= again)
    }

    fn have_lasted(&self, time: Duration) -> bool {
        self.since.is_some_and(|since| SystemClock.instant() >= since + time)
    }

    fn note(&mut self, is_open: bool) {
        self.again = is_open.then(|| SystemClock.instant() + DOUBT_PAUSE);
        if !is_open {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(next: i64) -> State {
        let (waiting, bytes, last) = (VecDeque::new(), 0, None);
        State { waiting, bytes, next, last, is_in_doubt: false, is_paused: false, failed: None }
    }

    #[test]
    fn records_count_once_and_only_small_holes_are_passed() {
        let mut state = state(5);
        assert_eq!(state.meet(4, b"a"), Met::Known);
        assert_eq!(state.meet(5, b"b"), Met::Next { hole: 0 });
        assert_eq!(state.meet(5, b"b"), Met::Known);
        assert_eq!(state.meet(7, b"c"), Met::Next { hole: 1 });
        assert!(
            matches!(state.meet(8 + MAX_HOLE + 1, b"d"), Met::Wrong(why) if why.contains("offsets 8 to"))
        );
    }

    #[test]
    fn who_is_in_doubt_goes_on_behind_the_record_that_it_had() {
        let mut state = state(5);
        assert_eq!(state.begin(), 5);
        state.meet(5, b"b");
        state.is_in_doubt = true;
        assert_eq!(state.begin(), 5, "from the last record on");
        assert_eq!(state.meet(4, b"x"), Met::Known, "that one is older");
        assert_eq!(state.meet(5, b"b"), Met::Known);
        assert_eq!((state.begin(), state.meet(6, b"c")), (6, Met::Next { hole: 0 }));
    }

    #[test]
    fn a_log_that_lost_its_end_and_grew_over_the_place_is_not_read_on() {
        for (offset, payload) in [(5, &b"other"[..]), (6, b"c"), (9, b"c")] {
            let mut state = state(5);
            state.meet(5, b"b");
            state.is_in_doubt = true;
            let met = state.meet(offset, payload);
            assert!(matches!(&met, Met::Wrong(why) if why.contains("at offset 5")), "{offset}: {met:?}");
        }
    }
}
