//! Asks the brokers where partitions begin and end.
//!
//! Knows which broker leads which partition, as it was told last. Does not know readers.
//! Path: `feed` -> **here** -> librdkafka.
//!
//! - EN1: an end is asked for after the call, never remembered.
//! - EN2: a broker that does not answer costs only the partitions that it leads. Who leads them is asked anew, and then the new
//!   leader within the same call, if there is time.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use crate::LogError;
use parking_lot::Mutex;
use quorate_model::{Clock, SystemClock};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long one question to a broker may take, and one about who leads.
const ATTEMPT: Duration = Duration::from_secs(1);
const LEADERS_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before brokers are asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// The leader of partitions of which none is known.
const NOBODY: i32 = -1;

/// See the module header. A broker answers the requests of a connection one after the other, and a fetch waits for records:
/// so this is a client of its own.
pub(super) struct Asker {
    client: BaseConsumer<Context>,
    /// The client of those who read.
    reading: Arc<BaseConsumer<Context>>,
    topic: String,
    leaders: Mutex<BTreeMap<u32, i32>>,
    /// Held by whoever asks for leaders: when that was begun last.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Asker {
    pub(super) fn new(
        settings: &ClientSettings,
        config: &ClientConfig,
        reading: Arc<BaseConsumer<Context>>,
        topic: &str,
    ) -> Result<Self, KafkaError> {
        let client = config.create_with_context(settings.context()).map_err(|error| KafkaError::Setting {
            key: "options",
            reason: format!("a client cannot be made: {error}"),
        })?;
        let (leaders, asked) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { client, reading, topic: topic.to_owned(), leaders, asked })
    }

    /// It reads nothing, but its tokens are renewed by those who poll. Its errors are told by its context.
    pub(super) fn serve(&self, timeout: Duration) {
        drop(self.client.poll(timeout));
    }

    /// The first offset of a partition and its end. Blocks for `timeout` at most.
    pub(super) fn bounds(&self, partition: u32, timeout: Duration) -> Result<(i64, i64), LogError> {
        let found = self.client.fetch_watermarks(&self.topic, number(partition), timeout);
        found.map_err(|error| unavailable(&error.to_string()))
    }

    /// The end of each of `partitions`: the offset after the last record.
    pub(super) async fn ends(
        self: &Arc<Self>,
        partitions: &[u32],
        patience: Duration,
    ) -> Vec<Result<i64, LogError>> {
        let deadline = SystemClock.instant() + patience;
        let mut ends: BTreeMap<u32, Result<i64, LogError>> = BTreeMap::new();
        let mut is_asked = false;
        if !self.knows(partitions) {
            self.ask_leaders(deadline).await;
        }
        loop {
            let left = partitions.iter().copied().filter(|id| !matches!(ends.get(id), Some(Ok(_))));
            let left: Vec<u32> = left.collect();
            if left.is_empty() || (is_asked && SystemClock.instant() >= deadline) {
                break;
            }
            is_asked = true;
            let told = self.ask_all(&left, until(deadline).min(ATTEMPT)).await;
            let is_done = told.iter().all(|(_, end)| end.is_ok());
            ends.extend(told);
            if !is_done {
                self.ask_leaders(deadline).await;
                tokio::time::sleep(until(deadline).min(AGAIN)).await;
            }
        }
        let nothing = || Err(unavailable("the brokers do not tell the end of a partition"));
        partitions.iter().map(|id| ends.remove(id).unwrap_or_else(nothing)).collect()
    }

    fn knows(&self, partitions: &[u32]) -> bool {
        let leaders = self.leaders.lock();
        partitions.iter().all(|id| leaders.contains_key(id))
    }

    /// Asks each leader for the ends of its partitions, all at once.
    async fn ask_all(
        self: &Arc<Self>,
        partitions: &[u32],
        timeout: Duration,
    ) -> Vec<(u32, Result<i64, LogError>)> {
        let mut asking = JoinSet::new();
        let groups = by_leader(&self.leaders.lock(), partitions);
        for group in groups {
            let asker = self.clone();
            asking.spawn_blocking(move || asker.ask(&group, timeout));
        }
        let mut told = Vec::with_capacity(partitions.len());
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(ends) => told.extend(ends),
                Err(error) => tracing::error!(%error, "asking Kafka for the ends of partitions failed"),
            }
        }
        told
    }

    /// One question, which fails as a whole when one broker does not answer.
    fn ask(&self, partitions: &[u32], timeout: Duration) -> Vec<(u32, Result<i64, LogError>)> {
        let fail = |reason: &str| partitions.iter().map(|id| (*id, Err(unavailable(reason)))).collect();
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            if let Err(error) = asked.add_partition_offset(&self.topic, number(*partition), Offset::End) {
                return fail(&error.to_string());
            }
        }
        let told = match self.client.offsets_for_times(asked, timeout) {
            Ok(told) => told,
            Err(error) => return fail(&error.to_string()),
        };
        let end = |partition: &u32| {
            let found = told.find_partition(&self.topic, number(*partition));
            let found = found.ok_or_else(|| unavailable("the brokers do not tell"))?;
            found.error().map_err(|error| unavailable(&error.to_string()))?;
            match found.offset() {
                Offset::Offset(end) => Ok(end),
                other => Err(unavailable(&format!("the end of a partition is {other:?}"))),
            }
        };
        partitions.iter().map(|partition| (*partition, end(partition))).collect()
    }

    /// Asks who leads, and does not wait for the answer longer than until `deadline`; it counts all the same when it comes.
    /// Many who ask at once ask once.
    async fn ask_leaders(self: &Arc<Self>, deadline: Instant) {
        let (asker, begin) = (self.clone(), SystemClock.instant());
        let asking = tokio::spawn(async move {
            let mut asked = asker.asked.lock().await;
            if asked.is_some_and(|last| last >= begin) {
                return;
            }
            *asked = Some(SystemClock.instant());
            let asker = asker.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || asker.learn_leaders()).await {
                tracing::error!(%error, "asking Kafka who leads partitions failed");
            }
        });
        if let Ok(Err(error)) = tokio::time::timeout(until(deadline), asking).await {
            tracing::error!(%error, "asking Kafka who leads partitions failed");
        }
    }

    /// Blocks. Whoever reads is told when a partition has another leader: its fetch waits at the old one.
    fn learn_leaders(&self) {
        let told = match self.client.fetch_metadata(Some(&self.topic), LEADERS_TIMEOUT) {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%error, "it is not known which brokers lead");
                return;
            }
        };
        let mut is_new = false;
        for topic in told.topics().iter().filter(|topic| topic.name() == self.topic) {
            let mut leaders = self.leaders.lock();
            for partition in topic.partitions() {
                let Ok(id) = u32::try_from(partition.id()) else { continue };
                is_new |= leaders.insert(id, partition.leader()) != Some(partition.leader());
            }
        }
        if is_new && let Err(error) = self.reading.fetch_metadata(Some(&self.topic), LEADERS_TIMEOUT) {
            tracing::debug!(%error, "who reads was not told which brokers lead");
        }
    }
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(SystemClock.instant())
}

fn by_leader(leaders: &BTreeMap<u32, i32>, partitions: &[u32]) -> Vec<Vec<u32>> {
    let mut groups: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for partition in partitions {
        let leader = leaders.get(partition).copied().unwrap_or(NOBODY);
        groups.entry(leader).or_default().push(*partition);
    }
    groups.into_values().collect()
}

fn unavailable(reason: &str) -> LogError {
    LogError::Unavailable { reason: format!("kafka: {reason}") }
}

pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}
