//! Reads the partitions of a node: one consumer, one thread, a bounded buffer for each partition.
//!
//! Knows offsets. Does not know groups of consumers: it is told what to read, and from where.
//! Path: the brokers -> librdkafka -> `poll` -> **here** -> `reader` -> `log`.
//!
//! - FE1: a reader gets every record after its position in order and once; what librdkafka gives twice is left out.
//! - FE2: a partition whose reader is slow is paused; it holds up no other, and the thread goes on.
//! - FE3: a reader that is in doubt, or goes on where an earlier one ended, goes on behind the very record that was read last, or
//!   not at all: a log that lost its end and grew over the place is another one.
//! - FE4: a position that the topic does not hold is an error of its reader. A leader that has just changed may not know
//!   the end yet, so that the end lies before a position counts only when it stays so. A doubt disturbs no other reader: a
//!   second thread asks about it, and goes on while a partition has no leader.
//! - FE5: at the end of a partition its reader has reached that end, whether records or the marks of transactions stand before it.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use super::ends::{Asker, number};
use super::poll::{Polled, Poller};
use super::reader::{Doubt, Failure, Met, Reader, State};
use crate::{LogEntry, LogError};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::Position;
use quorate_model::planted::{Bug, is_planted};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// Bytes of a partition that wait for its reader before it is paused.
const MAX_WAITING: usize = 8 << 20;
/// What an entry counts for beside its bytes.
const ENTRY_COST: usize = 128;
/// Longest wait of a thread for something to do.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the bounds of a partition that is in doubt.
const BOUNDS_TIMEOUT: Duration = Duration::from_millis(500);

/// See the module header. Dropping it ends the threads.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    consumer: Arc<BaseConsumer<Context>>,
    asker: Arc<Asker>,
    topic: String,
    readers: Mutex<BTreeMap<u32, Arc<Reader>>>,
    /// Polls that were begun.
    polls: AtomicU64,
    is_stopped: AtomicBool,
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
        config.set("enable.partition.eof", "true");
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
        let consumer: BaseConsumer<Context> = config
            .create_with_context(settings.context())
            .map_err(|error| failed(format!("a consumer cannot be made: {error}")))?;
        let poller = Poller::new(&consumer).ok_or_else(|| failed("a consumer has no queue".to_owned()))?;
        let consumer = Arc::new(consumer);
        let asker = Asker::new(settings, config.remove("group.id"), consumer.clone(), topic)?;
        let shared = Arc::new(Shared {
            consumer,
            asker: Arc::new(asker),
            topic: topic.to_owned(),
            readers: Mutex::default(),
            polls: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        });
        let mut feed = Self { shared, threads: Vec::with_capacity(2) };
        let (reading, asking) = (feed.shared.clone(), feed.shared.clone());
        feed.spawn("kafka-feed", move || reading.run(&poller))?;
        feed.spawn("kafka-doubts", move || asking.run_doubts())?;
        Ok(feed)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), KafkaError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(|error| KafkaError::Setting {
            key: "options",
            reason: format!("no thread for a consumer: {error}"),
        })?);
        Ok(())
    }

    /// Reads `partition` after `after`; `None` if somebody does already. With position and CRC-32C of the `last` record that
    /// its reader had it goes on only behind that one.
    pub(crate) fn subscribe(
        &self,
        partition: u32,
        after: Position,
        last: Option<(Position, u32)>,
    ) -> Option<Subscription> {
        let state = State::new(after, last);
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

    /// The end of each of `partitions`: the offset after the last record, asked for after this was called.
    pub(crate) async fn ends(&self, partitions: &[u32], patience: Duration) -> Vec<Result<i64, LogError>> {
        self.shared.asker.ends(partitions, patience).await
    }

    /// The first offset of a partition and its end.
    pub(crate) async fn bounds(&self, partition: u32, timeout: Duration) -> Result<(i64, i64), LogError> {
        let asker = self.shared.asker.clone();
        let asking = tokio::task::spawn_blocking(move || asker.bounds(partition, timeout)).await;
        asking.map_err(|error| LogError::Internal { reason: error.to_string() })?
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads from Kafka panicked");
            }
        }
    }
}

impl Shared {
    fn run(&self, poller: &Poller) {
        while !self.is_stopped.load(Ordering::Acquire) {
            self.polls.fetch_add(1, Ordering::AcqRel);
            poller.poll(&self.consumer, POLL, |polled| match polled {
                Polled::Record { partition, offset, payload } => self.take(partition, offset, payload),
                Polled::End { partition, offset } => self.take_end(partition, offset),
                Polled::Failed { partition, code, reason } => self.note(partition, code, &reason),
            });
        }
    }

    /// Looks after those who are in doubt, where waiting for a broker holds up no record.
    fn run_doubts(&self) {
        while !self.is_stopped.load(Ordering::Acquire) {
            self.asker.serve(POLL);
            for (partition, reader) in self.readers() {
                if reader.state.lock().doubt.as_ref().is_some_and(Doubt::is_due) {
                    self.resolve(partition, &reader);
                }
            }
        }
    }

    fn readers(&self) -> Vec<(u32, Arc<Reader>)> {
        self.readers.lock().iter().map(|(partition, reader)| (*partition, reader.clone())).collect()
    }

    fn reader(&self, partition: i32) -> Option<(u32, Arc<Reader>)> {
        let partition = u32::try_from(partition).ok()?;
        Some((partition, self.readers.lock().get(&partition)?.clone()))
    }

    fn list(&self, partition: u32, offset: Option<i64>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let number = number(partition);
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
        state.assigned = self.polls.load(Ordering::Acquire);
    }

    /// Begins to read a partition anew, from where its reader is.
    fn reassign(&self, partition: u32, state: &mut State) {
        self.unassign(partition);
        self.assign(partition, state);
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

    fn take(&self, partition: i32, offset: i64, payload: &[u8]) {
        self.meet(partition, offset, |state| {
            let entry = |position| LogEntry::new(position, Bytes::copy_from_slice(payload));
            (state.meet(offset, payload), entry)
        });
    }

    fn take_end(&self, partition: i32, end: i64) {
        self.meet(partition, end, |state| (state.meet_end(end), LogEntry::gap));
    }

    /// Has the reader of a partition meet what was found at `offset`. What this poll found may have waited since before the
    /// partition was assigned: then it is read anew.
    fn meet<E: FnOnce(Position) -> LogEntry>(
        &self,
        partition: i32,
        offset: i64,
        meet: impl FnOnce(&mut State) -> (Met, E),
    ) {
        let Ok(partition) = u32::try_from(partition) else { return };
        // The map stays locked: a reader that leaves meanwhile is not assigned again.
        let readers = self.readers.lock();
        let Some(reader) = readers.get(&partition) else { return };
        let mut state = reader.state.lock();
        if state.failed.is_some() {
            return;
        }
        if state.assigned == self.polls.load(Ordering::Acquire) && offset > state.begin() {
            return self.reassign(partition, &mut state);
        }
        let (met, entry) = meet(&mut state);
        self.give(partition, &mut state, met, entry);
        drop(state);
        reader.arrived.notify_one();
    }

    fn give(&self, partition: u32, state: &mut State, met: Met, entry: impl FnOnce(Position) -> LogEntry) {
        let hole = match met {
            Met::Known => return,
            Met::Wrong(why) => {
                let reason = format!("kafka: partition {partition} of the topic {:?}: {why}", self.topic);
                state.failed = Some(Failure::Damaged(reason));
                return;
            }
            Met::Next { hole } => hole,
        };
        if hole > 0 {
            metrics::counter!("quorate_kafka_passed_offsets_total").increment(hole as u64);
            tracing::warn!(partition, next = state.next, hole, "offsets without records were passed");
        }
        let entry = entry(state.position());
        state.bytes += entry.payload.len() + ENTRY_COST;
        state.waiting.push_back(entry);
        if state.bytes >= MAX_WAITING && !state.is_paused {
            state.is_paused = self.pauses(partition);
        }
    }

    fn pauses(&self, partition: u32) -> bool {
        let paused = self.consumer.pause(&self.list(partition, None));
        if let Err(error) = &paused {
            tracing::warn!(partition, %error, "a partition whose reader is slow was not paused");
        }
        paused.is_ok()
    }

    fn note(&self, partition: Option<i32>, code: Code, reason: &str) {
        if matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange) {
            // Without its partition it may be any.
            let concerned =
                partition.map_or_else(|| self.readers(), |id| self.reader(id).into_iter().collect());
            for (_, reader) in concerned {
                reader.state.lock().doubt.get_or_insert_with(Doubt::new);
            }
            return;
        }
        if is_damage(code) {
            self.damage(partition, reason);
        }
        if is_planted(Bug::SkipAfterError) {
            self.readers.lock().values().for_each(|reader| reader.state.lock().next += 1);
        }
        self.consumer.context().tell(code, partition, reason);
    }

    /// librdkafka goes on behind a batch that it could not read. Its reader must not: the offsets would look like those of marks,
    /// which are passed.
    fn damage(&self, partition: Option<i32>, reason: &str) {
        let concerned = partition.map_or_else(|| self.readers(), |id| self.reader(id).into_iter().collect());
        for (partition, reader) in concerned {
            let mut state = reader.state.lock();
            let reason = format!(
                "kafka: partition {partition} of the topic {:?}: a batch at offset {} or behind it cannot be read ({reason}); \
                 start the node again, and if it stays so have another broker with a good copy lead the partition",
                self.topic, state.next
            );
            state.failed.get_or_insert(Failure::Damaged(reason));
            drop(state);
            reader.arrived.notify_one();
        }
    }

    /// Looks whether the topic holds what a reader in doubt wants. The others go on where they are.
    fn resolve(&self, partition: u32, reader: &Arc<Reader>) {
        let bounds = self.asker.bounds(partition, BOUNDS_TIMEOUT);
        // The map stays locked: a reader that left meanwhile is not assigned again.
        let readers = self.readers.lock();
        if !readers.get(&partition).is_some_and(|now| Arc::ptr_eq(now, reader)) {
            return;
        }
        let mut state = reader.state.lock();
        match bounds {
            Err(error) => {
                tracing::debug!(partition, %error, "the bounds of a partition in doubt are not known");
                state.doubt.iter_mut().for_each(Doubt::postpone);
            }
            Ok((first, end)) if first > state.next && is_planted(Bug::SilentReset) => {
                state.next = end;
                state.doubt = None;
                self.reassign(partition, &mut state);
            }
            Ok((first, end)) => {
                if state.resolve(first, end) {
                    self.reassign(partition, &mut state);
                }
            }
        }
        drop(state);
        reader.arrived.notify_one();
    }
}

/// Whether an error is about the bytes of records, and not about the way to them.
fn is_damage(code: Code) -> bool {
    matches!(
        code,
        Code::BadMessage
            | Code::BadCompression
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::NotImplemented
    )
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

#[cfg(test)]
mod tests {
    use super::super::KafkaLog;
    use super::super::tests::Mock;
    use super::*;
    use crate::{LogReader, PartitionLog};
    use quorate_model::{Clock, PartitionId, SystemClock};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    /// Longest wait for what comes at once if nothing holds it up.
    const LIMIT: Duration = Duration::from_secs(4);

    async fn read(reader: &mut dyn LogReader) -> Result<Vec<LogEntry>, LogError> {
        tokio::time::timeout(LIMIT, reader.next()).await.expect("nothing holds up a reader")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_doubt_about_a_partition_without_a_leader_holds_up_and_disturbs_no_other() {
        let mock = Mock::new(1);
        let place = mock.place();
        let kafka = place.connect(Duration::from_secs(8));
        let [gone, sound] = [0, 1].map(|id| KafkaLog::new(kafka.clone(), PartitionId(id)));
        let mut sound_reader = sound.read_from(Position(0));
        sound.append(Bytes::from_static(b"x")).await.unwrap();
        read(&mut *sound_reader).await.unwrap();
        let shared = &kafka.feed.shared;
        let reader = |id| shared.reader(id).expect("it is read").1;
        let assigned = reader(1).state.lock().assigned;
        // Behind the end: the broker says that it has no such offset.
        let _gone_reader = gone.read_from(Position(1_000));
        while reader(0).state.lock().doubt.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mock.cluster.partition_leader(&place.topic.name, 0, None).unwrap();
        let begin = SystemClock.instant();
        // The mock tells of each half a second later.
        for _ in 0..4 {
            sound.append(Bytes::from_static(b"x")).await.unwrap();
            read(&mut *sound_reader).await.unwrap();
        }
        assert!(begin.elapsed() < LIMIT, "4 records took {:?}", begin.elapsed());
        let state = &reader(1);
        assert_eq!(state.state.lock().assigned, assigned, "it was not assigned anew");
        assert!(state.state.lock().doubt.is_none() && reader(0).state.lock().doubt.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_reading_is_refused_is_told_and_it_goes_on_when_it_is_allowed() {
        let mock = Mock::new(1);
        let kafka = mock.place().connect(Duration::from_secs(8));
        let log = KafkaLog::new(kafka.clone(), PartitionId(0));
        log.append(Bytes::from_static(b"x")).await.unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2];
        mock.cluster.request_errors(RDKafkaApiKey::Fetch, &refused);
        let mut reader = log.read_from(Position(0));
        let context = kafka.feed.shared.consumer.context();
        while !context.has_told(Code::TopicAuthorizationFailed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(tokio::time::timeout(LIMIT * 5, reader.next()).await.unwrap().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_batch_that_cannot_be_read_ends_its_reader_before_what_follows_it() {
        let settings =
            ClientSettings { brokers: vec!["127.0.0.1:1".to_owned()], ..ClientSettings::default() };
        let feed = Feed::start(&settings, "t").unwrap();
        let mut readers = [0, 1].map(|id| feed.subscribe(id, Position(5), None).unwrap());
        feed.shared.note(Some(0), Code::BrokerTransportFailure, "is not about records");
        feed.shared.take(0, 5, b"a");
        feed.shared.note(Some(0), Code::BadMessage, "CRC mismatch");
        feed.shared.take(0, 7, b"c");
        assert_eq!(readers[0].next().await.unwrap().len(), 1, "what came before it counts");
        let damaged = readers[0].next().await.unwrap_err().to_string();
        assert!(damaged.contains("at offset 6") && damaged.contains("CRC mismatch"), "{damaged}");
        feed.shared.take(1, 5, b"b");
        assert_eq!(readers[1].next().await.unwrap().len(), 1, "the other one goes on");
    }
}
