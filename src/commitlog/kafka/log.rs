//! The log of a partition in the topic.
//!
//! Knows how offsets are positions. Does not know consumers and producers from inside.
//! Path: `ingest`, `server::node` -> **here** -> `producer`, `feed`.
//! KL1: the newest committed position is asked of the brokers, never remembered. KL2: the topic keeps records by its own
//! retention: a trim only tells that this replica has an image of them. While no replica is known to have one that is younger
//! than a quarter of the retention, no node takes more for that partition (C15): records could be deleted before anything holds
//! them.

use super::KafkaError;
use super::client::ClientSettings;
use super::feed::{Feed, Subscription};
use super::images::Images;
use super::producer::{ProduceSettings, Producer};
use super::topic::{Admin, Topic};
use crate::{LogError, LogReader, PartitionLog};
use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{Clock, PartitionId, Position, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the brokers may take to tell the ends of partitions.
const ENDS_TIMEOUT: Duration = Duration::from_secs(3);
/// A log wants an image as soon as the last one here is older than this part of the retention, and tells that there is none, and
/// takes nothing more, when the youngest of all is older than these.
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
    images: Arc<Images>,
    /// The newest position of each partition that was acknowledged to this node.
    acknowledged: Vec<AtomicU64>,
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
        let images = Arc::new(Images::new(SystemClock.instant()));
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

    /// The position that the first record which the topic still keeps of a partition follows, and that of the last one.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if no broker tells.
    pub async fn kept(&self, id: PartitionId) -> Result<(Position, Position), LogError> {
        let (first, end) = self.feed.bounds(id.0, ENDS_TIMEOUT).await?;
        let position = |offset: i64| Position(u64::try_from(offset).unwrap_or(0));
        Ok((position(first), position(end)))
    }

    /// The replica here has a durable image whose file is of this age, or that has all that is in the topic.
    pub fn note_image(&self, id: PartitionId, age: Duration) {
        self.images.note(id, age, SystemClock.instant());
    }

    /// The oldest record that the durable image here lacks was seen so long ago; zero if it lacks none.
    pub fn note_lack(&self, id: PartitionId, age: Duration) {
        self.images.note_lack(id, age, SystemClock.instant());
    }

    /// Some replica that is caught up has a durable image of this age.
    pub fn hear_image(&self, id: PartitionId, age: Duration) {
        if id.0 < self.topic.partitions {
            self.images.hear(id, age, SystemClock.instant());
        }
    }

    /// How old the durable image of the replica here is, if it runs.
    pub fn image_age(&self, id: PartitionId) -> Option<Duration> {
        self.images.here(id, SystemClock.instant())
    }

    /// Whether the youngest image of a partition is so old that `nth` part of the topic's retention is over.
    fn are_images_older(&self, id: PartitionId, nth: u32) -> bool {
        let age = self.images.youngest(id, SystemClock.instant());
        self.part_of_retention(nth).is_some_and(|part| age > part)
    }

    /// `None` if the topic keeps records for ever.
    fn part_of_retention(&self, nth: u32) -> Option<Duration> {
        self.topic.retention_ms.map(|ms| Duration::from_millis(ms) / nth)
    }

    /// Partitions of which no replica is known to have an image that is younger than a tenth of the topic's retention.
    pub fn partitions_without_image(&self) -> Vec<PartitionId> {
        let all = (0..self.topic.partitions).map(PartitionId);
        all.filter(|id| self.are_images_older(*id, ALARMS_PER_RETENTION)).collect()
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
        if self.kafka.are_images_older(self.partition, STOPS_PER_RETENTION) {
            let reason = format!(
                "no replica of partition {} has told of an image that is younger than a quarter of the topic's retention: \
                 its records could be deleted before they are kept elsewhere",
                self.partition
            );
            return Err(LogError::Unavailable { reason });
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
            self.kafka.images.note_first(self.partition, Duration::ZERO, SystemClock.instant());
            let images = Some((self.partition, self.kafka.images.clone()));
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

    /// What the image lacks is looked for apart: it may have been written again at the same place.
    async fn trim(&self, _up_to: Position) -> Result<(), LogError> {
        if self.kafka.image_age(self.partition).is_some() {
            self.kafka.note_image(self.partition, Duration::ZERO);
        }
        Ok(())
    }

    fn wants_trim(&self) -> bool {
        let age = self.kafka.images.file(self.partition, SystemClock.instant());
        age.zip(self.kafka.part_of_retention(IMAGES_PER_RETENTION)).is_some_and(|(age, part)| age > part)
    }

    fn incarnation(&self) -> u32 {
        self.kafka.topic.incarnation()
    }
}

struct KafkaReader {
    subscription: Subscription,
    /// That of the node knows how old the partition's image is, as long as it is read.
    images: Option<(PartitionId, Arc<Images>)>,
    /// Ends after the subscription.
    _feed: Arc<Feed>,
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some((id, images)) = &self.images {
            images.forget(*id);
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
