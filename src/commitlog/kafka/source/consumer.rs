//! The member of the group: a thread that polls whatever happens to the records behind it.
//!
//! Knows librdkafka's consumer. Does not know what becomes of a record: that is what `lanes` hears.
//! Path: the brokers -> **here** -> a channel -> `ingest::sources`.
//! CO1: it polls at least every 100 ms, apart from the bounded waits of a partition that is taken away and of commits, so
//! that the group keeps it however long records take. CO2: what is in the channel is bounded by the room of `lanes`.

use super::lanes::{Lanes, Name, Order, Seen, Standing, Verdict};
use super::{Assignor, Feed, Header, Record, Settle, SourceSettings, Start, Taken, Ticket};
use crate::kafka::KafkaError;
use crate::kafka::client::Context;
use async_trait::async_trait;
use bytes::Bytes;
use metrics::{counter, gauge};
use parking_lot::{Condvar, Mutex};
use quorate_model::Clock;
use rdkafka::bindings as raw;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError as Cause, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use std::collections::HashMap;
use std::error::Error;
use std::ffi::CString;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Longest wait of one poll, and while a partition waits for something.
const POLL: Duration = Duration::from_millis(100);
const SHORT_POLL: Duration = Duration::from_millis(10);
/// How often partitions are held back or let go.
const STEER_INTERVAL: Duration = Duration::from_millis(10);
/// How often the distance to the ends of the partitions is told.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a broker to tell the end of a partition that is not fetched, one in each interval.
const END_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest wait for a partition to go on elsewhere.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);
/// After this a consumer that failed for good is made anew.
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// The same trouble is logged once in this time.
const LOG_PAUSE: Duration = Duration::from_secs(30);
/// After this the group gives the partitions of a silent member to others. The least that brokers take is 6 s by default.
const SESSION_TIMEOUT_MS: &str = "10000";
/// Most bytes of one answer of a broker.
const MAX_FETCH: usize = 50 << 20;

/// The records of a source, for as long as it runs. Dropping it stops the source without waiting.
pub struct KafkaFeed {
    records: UnboundedReceiver<Taken>,
}

/// The running member.
pub struct Member {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    is_stopping: Mutex<bool>,
    stopping: Condvar,
}

struct Worker {
    settings: SourceSettings,
    lanes: Arc<Lanes>,
    shared: Arc<Shared>,
    records: UnboundedSender<Taken>,
    clock: Arc<dyn Clock>,
    /// One name for each topic, however many records it has.
    topics: HashMap<String, Arc<str>>,
    logged: HashMap<&'static str, Instant>,
    /// Ends of partitions by name as they were told last, for those that are not fetched.
    asked: usize,
}

/// Why a consumer is of no more use.
enum Ended {
    Stopped,
    Failed(Cause),
}

impl KafkaFeed {
    /// Joins the group. The brokers need not be there yet.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] if no consumer can be made of the settings.
    pub fn open(settings: SourceSettings, clock: Arc<dyn Clock>) -> Result<(Self, Member), KafkaError> {
        let lanes = Arc::new(Lanes::new(settings.max_bytes, Arc::clone(&clock)));
        let shared = Arc::new(Shared { is_stopping: Mutex::new(false), stopping: Condvar::new() });
        let (sender, records) = unbounded_channel();
        let consumer = consumer(&settings, &lanes)?;
        let name = format!("source-{}", settings.name);
        let worker = Worker {
            settings,
            lanes,
            shared: Arc::clone(&shared),
            records: sender,
            clock,
            topics: HashMap::new(),
            logged: HashMap::new(),
            asked: 0,
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(consumer));
        let thread = thread.map_err(|error| KafkaError::Unavailable {
            doing: "starting the thread of a source",
            reason: error.to_string(),
        })?;
        Ok((Self { records }, Member { shared, thread: Some(thread) }))
    }
}

#[async_trait]
impl Feed for KafkaFeed {
    async fn next(&mut self) -> Option<Taken> {
        self.records.recv().await
    }
}

impl Member {
    /// Begins no further record, waits for those under way as long as for a partition that is taken away, commits, and
    /// leaves the group. Blocks.
    pub fn stop(mut self) {
        self.tell();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a source panicked");
        }
    }

    fn tell(&self) {
        *self.shared.is_stopping.lock() = true;
        self.shared.stopping.notify_all();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        *self.is_stopping.lock()
    }

    /// Waits, or less if the source is stopped.
    fn pause(&self, wait: Duration) {
        let mut is_stopping = self.is_stopping.lock();
        if !*is_stopping {
            self.stopping.wait_for(&mut is_stopping, wait);
        }
    }
}

fn consumer(settings: &SourceSettings, lanes: &Arc<Lanes>) -> Result<BaseConsumer<Hooks>, KafkaError> {
    let mut config = settings.client.config()?;
    let kilobytes = (settings.max_bytes >> 10).clamp(1, 2_097_151);
    config.set("group.id", &settings.group);
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set(
        "auto.offset.reset",
        match settings.start {
            Start::Earliest => "earliest",
            Start::Latest => "latest",
        },
    );
    config.set(
        "partition.assignment.strategy",
        match settings.assignor {
            Assignor::CooperativeSticky => "cooperative-sticky",
            Assignor::Range => "range",
        },
    );
    config.set("isolation.level", "read_committed").set("check.crcs", "true");
    config.set("queued.max.messages.kbytes", kilobytes.to_string());
    config.set("fetch.max.bytes", settings.max_bytes.clamp(1 << 20, MAX_FETCH).to_string());
    // A node that was killed holds its partitions for as long, unless the options say otherwise.
    if config.get("session.timeout.ms").is_none() {
        config.set("session.timeout.ms", SESSION_TIMEOUT_MS);
    }
    // New topics of a regular expression are seen within this time.
    config.set("topic.metadata.refresh.interval.ms", "30000");
    let context = Hooks {
        context: settings.client.context(),
        lanes: Arc::clone(lanes),
        name: settings.name.clone(),
        revoke_wait: settings.revoke_wait,
    };
    let wrong = |error: Cause| KafkaError::Setting { key: "options", reason: error.to_string() };
    let consumer: BaseConsumer<Hooks> = config.create_with_context(context).map_err(wrong)?;
    let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(|error| KafkaError::Setting { key: "topics", reason: error.to_string() })?;
    Ok(consumer)
}

impl Worker {
    fn run(mut self, mut member: BaseConsumer<Hooks>) {
        loop {
            match self.consume(&member) {
                Ended::Stopped => {
                    self.give_up(&member);
                    return;
                }
                Ended::Failed(cause) => {
                    counter!("quorate_source_restarts_total", "source" => self.settings.name.clone())
                        .increment(1);
                    tracing::error!(source = self.settings.name, %cause, "the consumer of a source failed and is made anew");
                    self.lanes.leave(&self.lanes.names(), Duration::ZERO);
                    drop(member);
                }
            }
            member = loop {
                self.shared.pause(RESTART_PAUSE);
                if self.shared.is_stopping() {
                    return;
                }
                match consumer(&self.settings, &self.lanes) {
                    Ok(made) => break made,
                    Err(error) => self.complain("made", &error),
                }
            };
        }
    }

    fn consume(&mut self, member: &BaseConsumer<Hooks>) -> Ended {
        let (mut steered, mut committed, mut told) =
            (self.clock.instant(), self.clock.instant(), self.clock.instant());
        loop {
            if self.shared.is_stopping() || self.records.is_closed() {
                return Ended::Stopped;
            }
            let poll = if self.lanes.used() > 0 { SHORT_POLL } else { POLL };
            match member.poll(poll) {
                Some(Ok(message)) => self.take(&message),
                Some(Err(cause @ Cause::MessageConsumptionFatal(_))) => return Ended::Failed(cause),
                Some(Err(cause)) => self.complain("polled", &cause),
                None => {}
            }
            let now = self.clock.instant();
            if self.lanes.has_orders() || now - steered >= STEER_INTERVAL {
                self.steer(member);
                steered = now;
            }
            if now - committed >= self.settings.commit_interval {
                self.commit(member, CommitMode::Async);
                committed = now;
            }
            if now - told >= LAG_INTERVAL {
                self.tell_lag(member);
                told = now;
            }
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let topic = self.topic(message.topic());
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| Header {
            name: header.key.to_owned(),
            value: header.value.map(Bytes::copy_from_slice),
        });
        let timestamp_ms = message.timestamp().to_millis();
        let record = Record {
            topic: Arc::clone(&topic),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms,
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: headers.collect(),
        };
        let bytes = record.bytes();
        let seen = Seen { offset: record.offset, timestamp_ms, bytes };
        if let Verdict::Take(place) = self.lanes.take(&(topic, record.partition), seen) {
            let settle: Arc<dyn Settle> = Arc::clone(&self.lanes) as _;
            // If nobody takes it any more the ticket is dropped with it, and the loop ends.
            drop(self.records.send(Taken { record, ticket: Ticket::new(settle, place, bytes) }));
        }
    }

    fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topics.get(name) {
            return Arc::clone(topic);
        }
        let topic: Arc<str> = Arc::from(name);
        self.topics.insert(name.to_owned(), Arc::clone(&topic));
        topic
    }

    /// Holds partitions back and lets others go.
    fn steer(&mut self, member: &BaseConsumer<Hooks>) {
        for (name, order) in self.lanes.orders() {
            let done = match order {
                Order::Pause => member.pause(&list(std::slice::from_ref(&name))),
                Order::Go(offset) => go(member, &name, offset),
            };
            if let Err(cause) = done {
                self.lanes.not_moved(&name);
                self.complain("steered", &cause);
            }
        }
    }

    fn commit(&mut self, member: &BaseConsumer<Hooks>, mode: CommitMode) {
        let offsets = self.lanes.to_commit();
        if offsets.is_empty() {
            return;
        }
        if let Err(cause) = commit(member, &offsets, mode) {
            self.lanes.not_committed();
            self.complain("committed", &cause);
        }
    }

    /// Waits for the records under way, commits what is finished, and leaves the group.
    fn give_up(&mut self, member: &BaseConsumer<Hooks>) {
        let offsets = self.lanes.leave(&self.lanes.names(), self.settings.revoke_wait);
        if let Err(cause) = commit(member, &offsets, CommitMode::Sync) {
            tracing::warn!(source = self.settings.name, %cause, "offsets were not committed: records will be taken again");
        }
        member.unsubscribe();
    }

    fn tell_lag(&mut self, member: &BaseConsumer<Hooks>) {
        let source = &self.settings.name;
        let lost = self.lanes.take_lost();
        if lost > 0 {
            count_records(source, "lost", lost);
        }
        gauge!("quorate_source_bytes_in_flight", "source" => source.clone()).set(self.lanes.used() as f64);
        let standings = self.lanes.standings();
        // One partition in each turn is asked for its end: those that are held back do not hear of it otherwise.
        self.asked = self.asked.wrapping_add(1);
        let turn = self.asked.checked_rem(standings.len()).unwrap_or(0);
        let now_ms = self.clock.now_ms();
        for (at, standing) in standings.iter().enumerate() {
            let (topic, partition) = &standing.name;
            if at == turn {
                // It is remembered inside the client; that no broker tells it is seen where records are missing.
                drop(member.fetch_watermarks(topic, *partition, END_TIMEOUT));
            }
            let (records, seconds) = lag(standing, end_of(member, topic, *partition), now_ms);
            tell(source, &standing.name, records, seconds);
        }
    }

    fn complain(&mut self, what: &'static str, cause: &dyn std::fmt::Display) {
        counter!("quorate_source_errors_total", "source" => self.settings.name.clone()).increment(1);
        let now = self.clock.instant();
        let is_new = self.logged.get(what).is_none_or(|at| now - *at >= LOG_PAUSE);
        if is_new {
            self.logged.insert(what, now);
            tracing::warn!(source = self.settings.name, what, %cause, "trouble with the brokers of a source");
        }
    }
}

/// Counts records of a source by what became of them.
pub(super) fn count_records(source: &str, outcome: &'static str, count: u64) {
    counter!("quorate_source_records_total", "source" => source.to_owned(), "outcome" => outcome)
        .increment(count);
}

fn tell(source: &str, (topic, partition): &Name, records: f64, seconds: f64) {
    let labels =
        [("source", source.to_owned()), ("topic", topic.to_string()), ("partition", partition.to_string())];
    gauge!("quorate_source_lag_records", &labels).set(records);
    gauge!("quorate_source_lag_seconds", &labels).set(seconds);
}

/// Records and seconds that a partition is behind its end.
fn lag(standing: &Standing, end: Option<i64>, now_ms: i64) -> (f64, f64) {
    let records = match (standing.next, end) {
        (Some(next), Some(end)) => (end - next).max(0),
        _ => 0,
    };
    let seconds = match standing.time_ms {
        Some(time_ms) if records > 0 => (now_ms - time_ms).max(0) as f64 / 1e3,
        _ => 0.0,
    };
    (records as f64, seconds)
}

/// The end of a partition as its last answer told it.
#[allow(unsafe_code)]
fn end_of(member: &BaseConsumer<Hooks>, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as `member`, the name and both numbers outlive the call, which keeps none of them.
    let code = unsafe {
        raw::rd_kafka_get_watermark_offsets(
            member.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

fn list(names: &[Name]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(names.len());
    for (topic, partition) in names {
        list.add_partition(topic, *partition);
    }
    list
}

fn names(list: &TopicPartitionList) -> Vec<Name> {
    list.elements().iter().map(|element| (Arc::from(element.topic()), element.partition())).collect()
}

/// Lets a partition go on, first of all: what is fetched before it stands at the right place is void by the seek.
fn go(member: &BaseConsumer<Hooks>, name: &Name, offset: Option<i64>) -> KafkaResult<()> {
    member.resume(&list(std::slice::from_ref(name)))?;
    match offset {
        Some(offset) => member.seek(&name.0, name.1, Offset::Offset(offset), SEEK_TIMEOUT),
        None => Ok(()),
    }
}

fn commit(member: &BaseConsumer<Hooks>, offsets: &[(Name, i64)], mode: CommitMode) -> KafkaResult<()> {
    if offsets.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for ((topic, partition), offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    member.commit(&list, mode)
}

/// What the client calls back, from within a poll.
struct Hooks {
    context: Context,
    lanes: Arc<Lanes>,
    name: String,
    revoke_wait: Duration,
}

impl ClientContext for Hooks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: Cause, reason: &str) {
        self.context.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.context.generate_oauth_token(config)
    }
}

impl ConsumerContext for Hooks {
    fn pre_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let source = self.name.as_str();
        match rebalance {
            Rebalance::Assign(given) => {
                tracing::info!(
                    source,
                    partitions = given.count(),
                    "partitions of a source were given to this node"
                );
                self.lanes.assign(names(given));
            }
            Rebalance::Revoke(taken) => {
                let names = names(taken);
                tracing::info!(
                    source,
                    partitions = names.len(),
                    "partitions of a source were taken from this node"
                );
                let is_lost = member.assignment_lost();
                let wait = if is_lost { Duration::ZERO } else { self.revoke_wait };
                let offsets = self.lanes.leave(&names, wait);
                if !is_lost && let Err(cause) = commit(member, &offsets, CommitMode::Sync) {
                    tracing::warn!(source, %cause, "offsets were not committed: another node takes records again");
                }
                names.iter().for_each(|name| tell(source, name, 0.0, 0.0));
            }
            Rebalance::Error(cause) => tracing::warn!(source, %cause, "the group of a source has trouble"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) | Err(Cause::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(cause) => {
                self.lanes.not_committed();
                tracing::debug!(source = self.name, %cause, "offsets were not committed, and are again at the next turn");
            }
        }
    }
}
