//! The log of a partition in the topic.
//!
//! Knows how offsets are positions. Does not know consumers and producers from inside.
//! Path: `ingest`, `server::node` -> **here** -> `producer`, `feed`.
//! KL1: the newest committed position is asked of the brokers, never remembered. KL2: the topic keeps records by its own
//! retention: a trim only tells that this replica has an image of them. While it has had none for a quarter of the retention
//! the node takes no more for that partition (C15): records could be deleted before anything holds them.

use super::KafkaError;
use super::client::ClientSettings;
use super::feed::{Feed, Subscription};
use super::producer::{ProduceSettings, Producer};
use super::topic::{Admin, Topic};
use crate::{LogError, LogReader, PartitionLog};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{Clock, PartitionId, Position, SystemClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the brokers may take to tell the ends of partitions.
const ENDS_TIMEOUT: Duration = Duration::from_secs(3);
/// A log wants an image as soon as the last one is older than this part of the retention, and tells that there is none, and
/// takes nothing more, when it is older than these.
const IMAGES_PER_RETENTION: u32 = 16;
const ALARMS_PER_RETENTION: u32 = 10;
const STOPS_PER_RETENTION: u32 = 4;
/// Longest wait for records that are under way when a node ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection of a node to the topic of the log. All its partitions share one producer and one consumer.
pub struct Kafka {
    settings: ClientSettings,
    topic: Topic,
    producer: Producer,
    pub(super) feed: Arc<Feed>,
    admin: Admin,
    images: Images,
    /// The newest position of each partition that was acknowledged to this node.
    acknowledged: Vec<AtomicU64>,
}

/// When each partition that is read here last had an image, or began to be read.
#[derive(Default)]
struct Images(Arc<Mutex<BTreeMap<PartitionId, Instant>>>);

impl Images {
    /// How long ago that was; `None` if the partition is not read here.
    fn age(&self, id: PartitionId) -> Option<Duration> {
        let since = *self.0.lock().get(&id)?;
        Some(SystemClock.instant().saturating_duration_since(since))
    }

    fn note(&self, id: PartitionId) {
        self.0.lock().insert(id, SystemClock.instant());
    }
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Kafka {
    /// Makes the clients. They connect by themselves, and again whenever they have to.
    ///
    /// # Errors
    /// [`KafkaError::Setting`].
    pub fn connect(
        settings: ClientSettings,
        produce: ProduceSettings,
        topic: Topic,
    ) -> Result<Arc<Self>, KafkaError> {
        let feed = Arc::new(Feed::start(&settings, &topic.name)?);
        let producer = Producer::new(settings.clone(), produce, topic.clone())?;
        let admin = Admin::new(&settings)?;
        let acknowledged = (0..topic.partitions).map(|_| AtomicU64::new(0)).collect();
        let images = Images::default();
        Ok(Arc::new(Self { settings, topic, producer, feed, admin, images, acknowledged }))
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Whether the brokers still have this topic, and not another one of its name.
    ///
    /// # Errors
    /// [`KafkaError::Unfit`] if not; others if no broker tells.
    pub async fn check_topic(&self) -> Result<(), KafkaError> {
        self.topic.check_same(&self.admin).await
    }

    /// The newest committed position of each of `partitions`, in their order, asked for after this was called. One question
    /// to each broker.
    ///
    /// # Errors
    /// For each partition [`LogError::Unavailable`].
    pub async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        patience: Duration,
    ) -> Vec<Result<Position, LogError>> {
        let numbers: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
        let ends = self.feed.ends(&numbers, patience).await;
        ends.into_iter().map(|end| Ok(Position(u64::try_from(end?).unwrap_or(0)))).collect()
    }

    /// Whether the last image of a partition is so old that `nth` part of the topic's retention is over.
    fn is_image_older(&self, id: PartitionId, nth: u32) -> bool {
        let retention = self.topic.retention_ms.map(Duration::from_millis);
        retention.zip(self.images.age(id)).is_some_and(|(retention, age)| age > retention / nth)
    }

    /// Partitions without an image for a tenth of the topic's retention.
    pub fn partitions_without_image(&self) -> Vec<PartitionId> {
        let read: Vec<PartitionId> = self.images.0.lock().keys().copied().collect();
        read.into_iter().filter(|id| self.is_image_older(*id, ALARMS_PER_RETENTION)).collect()
    }

    fn newest_acknowledged(&self, id: PartitionId) -> Position {
        Position(self.acknowledged.get(id.0 as usize).map_or(0, |newest| newest.load(Ordering::Acquire)))
    }

    /// Notes where a record stands that was sent after `before` had been acknowledged. One that does not stand behind it is in
    /// another log: the topic was made anew, or lost its end.
    pub(super) fn acknowledge(
        &self,
        id: PartitionId,
        before: Position,
        position: Position,
    ) -> Result<(), LogError> {
        if position <= before {
            return Err(LogError::Indeterminate {
                reason: format!(
                    "kafka: a record of partition {id} stands at {position}, and {before} was acknowledged before it was \
                     sent: the topic {:?} was made anew or has lost records",
                    self.topic.name
                ),
            });
        }
        if let Some(newest) = self.acknowledged.get(id.0 as usize) {
            newest.fetch_max(position.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Waits for records that are under way. Blocks.
    pub fn flush(&self) {
        self.producer.flush(FLUSH_TIMEOUT);
    }
}

/// The log of one partition. Clones share it.
#[derive(Clone)]
pub struct KafkaLog {
    kafka: Arc<Kafka>,
    partition: PartitionId,
}

impl KafkaLog {
    /// The log of `partition` in the topic of `kafka`.
    pub fn new(kafka: Arc<Kafka>, partition: PartitionId) -> Self {
        Self { kafka, partition }
    }

    /// The connection that it shares.
    pub fn kafka(&self) -> &Arc<Kafka> {
        &self.kafka
    }
}

#[async_trait]
impl PartitionLog for KafkaLog {
    async fn append(&self, entry: Bytes) -> Result<Position, LogError> {
        if self.kafka.is_image_older(self.partition, STOPS_PER_RETENTION) {
            let reason = "no image of the partition was written for a quarter of the topic's retention: its records could \
                          be deleted before they are kept elsewhere";
            return Err(LogError::Unavailable { reason: reason.to_owned() });
        }
        if is_planted(Bug::AckBeforeBroker) {
            drop(self.kafka.producer.begin(self.partition.0, &entry)?);
            return Ok(Position(1));
        }
        let before = self.kafka.newest_acknowledged(self.partition);
        let offset = self.kafka.producer.send(self.partition.0, &entry).await?;
        match u64::try_from(offset) {
            Ok(offset) => {
                let position = Position(offset + 1);
                self.kafka.acknowledge(self.partition, before, position)?;
                Ok(position)
            }
            // Another attempt had put it there: it stands before what is the end now.
            Err(_) => self.committed().await.map_err(|error| LogError::Indeterminate {
                reason: format!("the record is committed and its position is not known: {error}"),
            }),
        }
    }

    fn read_from(&self, after: Position) -> Box<dyn LogReader> {
        self.read_behind(after, None)
    }

    fn read_behind(&self, after: Position, last: Option<(Position, u32)>) -> Box<dyn LogReader> {
        if let Some(subscription) = self.kafka.feed.subscribe(self.partition.0, after, last) {
            self.kafka.images.note(self.partition);
            let images = Some((self.partition, Images(self.kafka.images.0.clone())));
            return Box::new(KafkaReader { subscription, images, _feed: self.kafka.feed.clone() });
        }
        // The node's consumer has one place in each partition: whoever else reads gets a consumer of its own.
        let feed = Feed::start(&self.kafka.settings, &self.kafka.topic.name).map(Arc::new);
        let own = feed.map_err(|error| error.to_string()).and_then(|feed| {
            let subscription =
                feed.subscribe(self.partition.0, after, last).ok_or("the partition is read twice")?;
            Ok(KafkaReader { subscription, images: None, _feed: feed })
        });
        match own {
            Ok(reader) => Box::new(reader),
            Err(reason) => Box::new(NoReader(reason)),
        }
    }

    async fn committed(&self) -> Result<Position, LogError> {
        let mut told = self.kafka.read_indexes(&[self.partition], ENDS_TIMEOUT).await;
        told.pop().unwrap_or_else(|| Err(LogError::Unavailable { reason: "no answer".to_owned() }))
    }

    async fn trim(&self, _up_to: Position) -> Result<(), LogError> {
        if self.kafka.images.age(self.partition).is_some() {
            self.kafka.images.note(self.partition);
        }
        Ok(())
    }

    fn wants_trim(&self) -> bool {
        self.kafka.is_image_older(self.partition, IMAGES_PER_RETENTION)
    }

    fn incarnation(&self) -> u32 {
        self.kafka.topic.incarnation()
    }
}

struct KafkaReader {
    subscription: Subscription,
    /// That of the node notes how old the partition's image is, as long as it is read.
    images: Option<(PartitionId, Images)>,
    /// Ends after the subscription.
    _feed: Arc<Feed>,
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some((id, images)) = &self.images {
            images.0.lock().remove(id);
        }
    }
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn next(&mut self) -> Result<Vec<crate::LogEntry>, LogError> {
        self.subscription.next().await
    }
}

/// Tells why nothing can be read.
struct NoReader(String);

#[async_trait]
impl LogReader for NoReader {
    async fn next(&mut self) -> Result<Vec<crate::LogEntry>, LogError> {
        Err(LogError::Internal { reason: self.0.clone() })
    }
}
