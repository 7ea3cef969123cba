//! What a test does with topics: makes and changes them, writes and reads records, asks where partitions are.
//!
//! Each call has a client of its own at the internal listeners, so none remembers a broker that was killed meanwhile.
//! Only the producer stays, for its first record takes most of a second.

use super::{ANSWER_LIMIT, Kafka, LIMIT};
use crate::harness::{pause, wait_for};
use futures::executor::block_on;
use quorate_model::{Clock, SystemClock};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A record to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// The partition; else the key's.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Milliseconds since the Unix epoch; else now.
    pub timestamp_ms: Option<i64>,
}

impl<'a> Record<'a> {
    fn to_send(self, topic: &'a str, delivered: Delivered) -> BaseRecord<'a, [u8], [u8], Delivered> {
        let mut sent = BaseRecord::with_opaque_to(topic, delivered);
        sent.partition = self.partition;
        sent.key = self.key;
        sent.payload = self.value;
        sent.timestamp = self.timestamp_ms;
        if !self.headers.is_empty() {
            let add = |headers: OwnedHeaders, (key, value): &(&str, &[u8])| {
                headers.insert(Header { key, value: Some(*value) })
            };
            sent.headers = Some(self.headers.iter().fold(OwnedHeaders::new(), add));
        }
        sent
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Names and values.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Kafka {
    /// Makes a topic, and waits until each partition has a leader.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, replicas: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        topic.config = config.to_vec();
        let made = block_on(self.admin().create_topics([&topic], &patient())).expect("an answer");
        made.into_iter().for_each(|made| expect(&format!("topic {name} is made"), made));
        (0..partitions).for_each(|partition| {
            self.leader(name, partition);
        });
    }

    /// Deletes a topic, and waits until the brokers know it no more.
    ///
    /// # Panics
    /// When it cannot be deleted.
    #[track_caller]
    pub fn delete_topic(&self, name: &str) {
        let gone = block_on(self.admin().delete_topics(&[name], &patient())).expect("an answer");
        gone.into_iter().for_each(|gone| expect(&format!("topic {name} is deleted"), gone));
        wait_for(&format!("the end of topic {name}"), LIMIT, || {
            // Asked for all, for asking for one may make it.
            let metadata = self.metadata(None).ok()?;
            (!metadata.topics().iter().any(|topic| topic.name() == name)).then_some(())
        });
    }

    /// Gives a topic this configuration; what is not named here is as by default again.
    ///
    /// # Panics
    /// When the broker refuses it.
    #[track_caller]
    pub fn set_topic_config(&self, topic: &str, config: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        change.entries = config.iter().copied().collect();
        let set = block_on(self.admin().alter_configs([&change], &patient())).expect("an answer");
        for set in set {
            set.unwrap_or_else(|(_, error)| panic!("topic {topic} is not configured: {error}"));
        }
    }

    /// Takes the records before an offset away, as retention does.
    ///
    /// # Panics
    /// When the broker refuses it.
    #[track_caller]
    pub fn delete_records(&self, topic: &str, partition: i32, before_offset: i64) {
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(topic, partition, Offset::Offset(before_offset));
        added.expect("an offset");
        let answer = block_on(self.admin().delete_records(&list, &patient())).expect("an answer");
        for element in answer.elements() {
            element.error().unwrap_or_else(|e| panic!("records of {topic} {partition} stay: {e}"));
        }
    }

    /// The offset after the last record of each partition.
    #[track_caller]
    pub fn end_offsets(&self, topic: &str) -> Vec<i64> {
        self.watermarks(topic).into_iter().map(|(_, end)| end).collect()
    }

    /// The offset of the first record that each partition still has.
    #[track_caller]
    pub fn start_offsets(&self, topic: &str) -> Vec<i64> {
        self.watermarks(topic).into_iter().map(|(start, _)| start).collect()
    }

    #[track_caller]
    fn watermarks(&self, topic: &str) -> Vec<(i64, i64)> {
        let consumer = self.consumer();
        let ask = |partition| retry("offsets", || consumer.fetch_watermarks(topic, partition, ANSWER_LIMIT));
        (0..self.partition_count(topic)).map(ask).collect()
    }

    /// The number of partitions of a topic.
    #[track_caller]
    pub fn partition_count(&self, topic: &str) -> i32 {
        wait_for(&format!("topic {topic}"), LIMIT, || {
            let count = self.metadata(Some(topic)).ok()?.topics().first()?.partitions().len();
            i32::try_from(count).ok().filter(|count| *count > 0)
        })
    }

    /// The broker that leads a partition, once it has a leader.
    #[track_caller]
    pub fn leader(&self, topic: &str, partition: i32) -> usize {
        wait_for(&format!("a leader of {topic} {partition}"), LIMIT, || {
            self.partition(topic, partition, |found| broker(found.leader())).flatten()
        })
    }

    /// The brokers that are in sync with the leader of a partition, that one among them; empty while nobody knows.
    pub fn in_sync(&self, topic: &str, partition: i32) -> Vec<usize> {
        let ids = |found: &rdkafka::metadata::MetadataPartition| {
            found.isr().iter().filter_map(|id| broker(*id)).collect()
        };
        self.partition(topic, partition, ids).unwrap_or_default()
    }

    fn partition<T>(
        &self,
        topic: &str,
        partition: i32,
        look: impl Fn(&rdkafka::metadata::MetadataPartition) -> T,
    ) -> Option<T> {
        let metadata = self.metadata(Some(topic)).ok()?;
        metadata.topics().first()?.partitions().iter().find(|found| found.id() == partition).map(look)
    }

    /// Brokers that take part, as far as one of them knows; empty when none answers.
    pub fn known_brokers(&self) -> Vec<usize> {
        let ids = |metadata: Metadata| metadata.brokers().iter().filter_map(|b| broker(b.id())).collect();
        self.metadata(None).map(ids).unwrap_or_default()
    }

    /// Writes one record with acks=all and returns its partition and offset.
    #[track_caller]
    pub fn produce(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> (i32, i64) {
        self.produce_all(topic, &[Record { partition, key, value, headers, timestamp_ms: None }])[0]
    }

    /// Writes records with acks=all, in order and each once, and returns their partitions and offsets.
    ///
    /// # Panics
    /// When one is not acknowledged in time.
    #[track_caller]
    pub fn produce_all(&self, topic: &str, records: &[Record<'_>]) -> Vec<(i32, i64)> {
        let producer = self.producer.get_or_init(|| Writer::new(self.internal_config()));
        let delivered: Vec<Delivered> = records.iter().map(|record| producer.send(topic, record)).collect();
        wait_for(&format!("the acknowledgements of {topic}"), LIMIT, || {
            producer.0.poll(Duration::from_millis(5));
            delivered.iter().all(|delivered| delivered.get().is_some()).then_some(())
        });
        let placed = |delivered: &Delivered| match delivered.get() {
            Some(Ok(place)) => *place,
            Some(Err(error)) => panic!("a record of {topic} is refused: {error}"),
            None => panic!("a record of {topic} got no answer"),
        };
        delivered.iter().map(placed).collect()
    }

    /// Writes one record in a transaction of its own and commits that; waits for the mark that then stands behind it.
    ///
    /// # Panics
    /// When the brokers refuse it.
    #[track_caller]
    pub fn produce_transaction(&self, topic: &str, partition: i32, value: &[u8]) {
        let end = || self.end_offsets(topic)[partition as usize];
        let before = end();
        let mut config = self.internal_config();
        config.set("transactional.id", format!("{topic}-{partition}"));
        let producer: BaseProducer = config.create().expect("a producer can be made");
        retry("a transactional producer", || producer.init_transactions(ANSWER_LIMIT));
        producer.begin_transaction().expect("a transaction begins");
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(value);
        producer.send(record).map_err(|(error, _)| error).expect("a record is queued");
        producer.commit_transaction(LIMIT).expect("a transaction is committed");
        wait_for("the mark of a transaction", LIMIT, || (end() == before + 2).then_some(()));
    }

    /// Reads every record that the topic has now, by partitions and offsets. Of transactions, what is committed.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn read_all(&self, topic: &str) -> Vec<Message> {
        let consumer = self.consumer();
        let mut list = TopicPartitionList::new();
        let mut open: Vec<i32> = (0..self.partition_count(topic)).collect();
        for partition in &open {
            let added = list.add_partition_offset(topic, *partition, Offset::Beginning);
            added.expect("the beginning is an offset");
        }
        // Else it looks for the leaders half a second later.
        retry("metadata", || consumer.fetch_metadata(Some(topic), ANSWER_LIMIT));
        consumer.assign(&list).expect("partitions can be assigned");
        let mut read = Vec::new();
        let what = format!("the ends of all partitions of {topic}");
        wait_for(&what, LIMIT, || {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => read.push(Message::from(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|open| *open != partition),
                Some(Err(error)) => assert!(passes(&error), "reading {topic}: {error}"),
                None => {}
            }
            open.is_empty().then_some(())
        });
        read.sort_by_key(|message| (message.partition, message.offset));
        read
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.internal_config().create().expect("a client can be made")
    }

    fn consumer(&self) -> BaseConsumer {
        let mut config = self.internal_config();
        config.set("group.id", "harness").set("enable.auto.commit", "false");
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
        // Else the end of a partition is told half a second late.
        config.set("fetch.wait.max.ms", "10");
        config.create().expect("a consumer can be made")
    }

    fn metadata(&self, topic: Option<&str>) -> KafkaResult<Metadata> {
        // Without a group, which would look for its coordinator.
        let client: BaseConsumer = self.internal_config().create().expect("a client can be made");
        client.fetch_metadata(topic, ANSWER_LIMIT)
    }
}

impl From<&BorrowedMessage<'_>> for Message {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: own(message.key()),
            value: own(message.payload()),
            headers: headers.map(|header| (header.key.to_owned(), own(header.value))).collect(),
        }
    }
}

/// Where a record went, or why it did not.
type Delivered = Arc<OnceLock<KafkaResult<(i32, i64)>>>;

/// Takes the brokers' acknowledgements.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Delivered;

    fn delivery(&self, result: &DeliveryResult<'_>, record: Delivered) {
        let placed = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        record.set(placed).expect("a record is delivered once");
    }
}

/// Writes records in order and each once, whatever happens to the brokers meanwhile.
pub(super) struct Writer(BaseProducer<Deliveries>);

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    fn new(mut config: ClientConfig) -> Self {
        config.set("enable.idempotence", "true").set("linger.ms", "0");
        config.set("message.timeout.ms", LIMIT.as_millis().to_string());
        // A paused leader is given up soon, not after a minute.
        config.set("socket.timeout.ms", "5000").set("request.timeout.ms", "5000");
        Self(config.create_with_context(Deliveries).expect("a producer can be made"))
    }

    #[track_caller]
    fn send(&self, topic: &str, record: &Record<'_>) -> Delivered {
        let delivered = Delivered::default();
        let mut next = Some(record.to_send(topic, delivered.clone()));
        wait_for("room for a record", LIMIT, || {
            match self.0.send(next.take().expect("it comes back when there is no room")) {
                Ok(()) => return Some(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => next = Some(back),
                Err((error, _)) => panic!("a record of {topic} is refused: {error}"),
            }
            self.0.poll(Duration::from_millis(10));
            None
        });
        delivered
    }
}

/// Whether reading goes on by itself after this error.
fn passes(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
        )
    })
}

/// The broker with this node id; a partition without a leader has -1.
fn broker(node_id: i32) -> Option<usize> {
    usize::try_from(node_id).ok()?.checked_sub(1)
}

fn patient() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT))
}

#[track_caller]
fn expect(what: &str, result: Result<String, (String, RDKafkaErrorCode)>) {
    if let Err((_, error)) = result {
        panic!("it is not so that {what}: {error}");
    }
}

/// Asks until there is an answer.
#[track_caller]
fn retry<T>(what: &str, mut ask: impl FnMut() -> KafkaResult<T>) -> T {
    let begin = SystemClock.instant();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{what}: {error}"),
        }
        pause(Duration::from_millis(5));
    }
}
