//! Kafka as the log of this node's partitions: the topic is opened and watched, and it is known how far behind replicas are.
//!
//! Knows the topic and its ends. Does not know what records hold. Path: node start -> **here** ->
//! `commitlog::kafka`; [`super::figures`], `/api/v1/cluster` and `/-/ready` read what it knows.
//! KN1: a node whose topic is gone or another one ends: what it would read and write is no continuation of what it has.

use super::StartError;
use super::replicas::Replicas;
use super::strangers::Strangers;
use crate::config::Config;
use parking_lot::Mutex;
use quorate_cluster::meta::LogKind;
use quorate_cluster::{MetaError, MetaHandle};
use quorate_commitlog::kafka::{self, Kafka, KafkaError, KafkaLog, Topic};
use quorate_model::{Clock, PartitionId, Position, SystemClock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two tries to reach the brokers at the start, and how many there are between two lines of the log.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const TRIES_PER_LINE: u32 = 10;
/// How often the ends of the partitions are looked at, and the longest wait for them.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether the topic is still the same. What one broker says of a topic that it does not know yet counts
/// only when it stays so: the number of looks, and the pause between them.
const TOPIC_INTERVAL: Duration = Duration::from_secs(20);
const LOOKS: u32 = 6;
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Ends that are remembered of a partition that is behind: 20 minutes of one a second.
const MAX_ENDS: usize = 1_200;

/// Kafka as this node uses it.
pub struct KafkaHere {
    kafka: Arc<Kafka>,
    strangers: Arc<Strangers>,
    /// What puts strange records aside; taken by whoever ends it.
    putting_aside: Mutex<Option<JoinHandle<()>>>,
    seen: Mutex<BTreeMap<PartitionId, Seen>>,
    /// Positions behind which the operator gives up what was deleted.
    accepted: BTreeMap<PartitionId, Position>,
}

/// How far a replica is behind the end of its partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Positions that are not applied.
    pub records: u64,
    /// For how long there has been one, as far as this node has seen.
    pub age: Duration,
}

/// The ends that a replica has not applied, and those that its durable image lacks.
#[derive(Debug, Default)]
struct Seen {
    applied: Ends,
    durable: Ends,
}

impl Seen {
    /// Returns how long ago the oldest record was seen that the durable image lacks.
    fn note(&mut self, now: Instant, end: Position, applied: Position, durable: Position) -> Duration {
        self.applied.note(now, end, applied);
        self.durable.note(now, end, durable);
        self.durable.lag(now, durable).age
    }
}

/// The ends of a partition that lay beyond what was reached when they were first seen, oldest first.
#[derive(Debug, Default)]
struct Ends {
    newest: Position,
    ahead: VecDeque<(Instant, Position)>,
}

impl Ends {
    fn note(&mut self, now: Instant, end: Position, reached: Position) {
        self.newest = end;
        self.ahead.retain(|(_, end)| *end > reached);
        if end > reached && self.ahead.back().is_none_or(|(_, last)| end > *last) {
            if self.ahead.len() == MAX_ENDS {
                // The oldest tells the age; of the others every second one will do.
                let mut nth = 0;
                self.ahead.retain(|_| {
                    nth += 1;
                    nth % 2 == 1
                });
            }
            self.ahead.push_back((now, end));
        }
    }

    fn lag(&self, now: Instant, applied: Position) -> Lag {
        let oldest = self.ahead.iter().find(|(_, end)| *end > applied);
        let age = oldest.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
        Lag { records: self.newest.0.saturating_sub(applied.0), age }
    }
}

impl KafkaHere {
    /// Finds the topic and connects to it. Waits for the brokers as long as it takes. A topic that `is_known` to the cluster is
    /// never made: another one of its name would not be it.
    ///
    /// # Errors
    /// [`StartError::Kafka`] if it cannot be used.
    pub async fn open(config: &Config, partitions: u32, is_known: bool) -> Result<Arc<Self>, StartError> {
        let (client, mut wanted) = (config.kafka.client(), config.kafka.topic(partitions));
        wanted.create &= !is_known;
        let (mut tries, mut missed) = (0u32, 0u32);
        let topic = loop {
            match kafka::topic::open(&client, &wanted).await {
                Ok(topic) => break topic,
                Err(error) if error.is_passing() => {
                    if tries.is_multiple_of(TRIES_PER_LINE) {
                        tracing::warn!(%error, "waiting for Kafka");
                    }
                    tries += 1;
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(KafkaError::NoTopic { .. }) if missed < LOOKS => {
                    missed += 1;
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Err(KafkaError::NoTopic { topic }) if is_known => {
                    let reason = "it was deleted, and what was in it and not applied is lost".to_owned();
                    return Err(KafkaError::Unfit { topic, reason }.into());
                }
                Err(error) => return Err(error.into()),
            }
        };
        for reason in &topic.unsafe_because {
            tracing::warn!(
                topic = topic.name,
                reason,
                "the topic may lose what was acknowledged; it is used all the same"
            );
        }
        tracing::info!(
            topic = topic.name,
            id = format!("{:032x}", topic.id),
            "the log is a Kafka topic: a power loss of all its in-sync brokers at once may lose what was acknowledged"
        );
        let (strangers, task) = Strangers::start(&client, &topic.name)?;
        let (strangers, putting_aside) = (Arc::new(strangers), Mutex::new(Some(task)));
        let kafka = Kafka::connect(client, config.kafka.produce(), topic)?;
        let accepted = config.kafka.accepted_losses();
        Ok(Arc::new(Self { kafka, strangers, putting_aside, seen: Mutex::default(), accepted }))
    }

    /// Makes the topic the log of the cluster, or finds that it is. `has_data` says whether replicas were here before.
    ///
    /// # Errors
    /// [`StartError`] if the cluster has another log, or the topic holds records that are not the cluster's.
    pub async fn claim(&self, meta: &MetaHandle, has_data: bool) -> Result<(), StartError> {
        let topic = self.topic();
        let ours =
            LogKind::Kafka { topic: topic.name.clone(), topic_id: topic.id, partitions: topic.partitions };
        loop {
            let is_known = meta.read(|state| state.log().is_some());
            if !is_known && has_data {
                return Err(StartError::EmbeddedData);
            }
            if !is_known {
                let ids: Vec<PartitionId> = (0..topic.partitions).map(PartitionId).collect();
                let ends: Result<Vec<Position>, _> =
                    self.kafka.read_indexes(&ids, LOOK_TIMEOUT).await.into_iter().collect();
                match ends {
                    Err(error) => {
                        tracing::warn!(%error, "waiting for Kafka");
                        tokio::time::sleep(TRY_AGAIN).await;
                        continue;
                    }
                    // Another node of this cluster may have claimed it meanwhile, and written.
                    Ok(ends) if ends.iter().any(|end| end.0 > 0) && !is_claimed(meta).await => {
                        let reason = "it holds records that this cluster has not written: give the cluster a topic of \
                                      its own, or delete this one if nobody needs it";
                        return Err(KafkaError::Unfit {
                            topic: topic.name.clone(),
                            reason: reason.to_owned(),
                        }
                        .into());
                    }
                    Ok(_) => {}
                }
            }
            match meta.set_log(ours.clone()).await {
                Err(error @ (MetaError::Gated { .. } | MetaError::NoLeader { .. })) => {
                    tracing::warn!(%error, "waiting to say that the log of the cluster is a topic");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                said => return Ok(said?),
            }
        }
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        self.kafka.topic()
    }

    /// The connection.
    pub fn kafka(&self) -> &Arc<Kafka> {
        &self.kafka
    }

    /// Where records go that are none of this cluster.
    pub fn strangers(&self) -> Arc<Strangers> {
        self.strangers.clone()
    }

    /// Why the topic is no longer the log of the cluster, as far as the brokers tell: a replica that cannot read on says only
    /// what it misses.
    pub async fn why_unfit(&self) -> Option<String> {
        match self.check_topic().await {
            Err(error @ KafkaError::Unfit { .. }) => Some(error.to_string()),
            Ok(()) | Err(_) => None,
        }
    }

    /// Whether the brokers still have the topic. That they have not counts only when it stays so.
    async fn check_topic(&self) -> Result<(), KafkaError> {
        let mut checked = self.kafka.check_topic().await;
        for _ in 1..LOOKS {
            if !matches!(checked, Err(KafkaError::Unfit { .. })) {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            checked = self.kafka.check_topic().await;
        }
        checked
    }

    /// The log of a partition.
    pub fn log(&self, id: PartitionId) -> KafkaLog {
        KafkaLog::new(self.kafka.clone(), id)
    }

    /// The position behind which the operator gives up what was deleted from a partition before it was applied.
    pub fn accepted_loss(&self, id: PartitionId) -> Option<Position> {
        self.accepted.get(&id).copied()
    }

    /// The newest end of a partition that is known; 0 before the first look.
    pub fn known_end(&self, id: PartitionId) -> Position {
        self.seen.lock().get(&id).map_or(Position(0), |seen| seen.applied.newest)
    }

    /// How far a replica that has applied so much is behind.
    pub fn lag(&self, id: PartitionId, applied: Position) -> Lag {
        let seen = self.seen.lock();
        seen.get(&id).map_or_else(Lag::default, |seen| seen.applied.lag(SystemClock.instant(), applied))
    }

    /// Starts what goes on while the node runs.
    pub fn start(self: &Arc<Self>, replicas: &Arc<Replicas>) -> Vec<JoinHandle<()>> {
        let (ends, topic) = (self.clone(), self.clone());
        let mut loops = vec![
            tokio::spawn(follow_ends(ends, Arc::downgrade(replicas))),
            tokio::spawn(watch_topic(topic, Arc::downgrade(replicas))),
        ];
        loops.extend(self.putting_aside.lock().take());
        loops
    }
}

/// Whether the cluster has a log by now. Waits for a leader that knows.
async fn is_claimed(meta: &MetaHandle) -> bool {
    while let Err(error) = meta.fresh().await {
        tracing::warn!(%error, "waiting to know whether the cluster has a log");
        tokio::time::sleep(TRY_AGAIN).await;
    }
    meta.read(|state| state.log().is_some())
}

async fn follow_ends(here: Arc<KafkaHere>, replicas: Weak<Replicas>) {
    let mut turns = tokio::time::interval(LOOK_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Some(replicas) = replicas.upgrade() else { return };
        let running = replicas.list();
        let ids: Vec<PartitionId> = running.iter().map(|partition| partition.id).collect();
        if ids.is_empty() {
            continue;
        }
        let ends = here.kafka.read_indexes(&ids, LOOK_TIMEOUT).await;
        let (now, mut seen) = (SystemClock.instant(), here.seen.lock());
        for (partition, end) in running.iter().zip(ends) {
            // Without an answer what was seen last stands, and grows older.
            if let Ok(end) = end {
                let (id, durable) = (partition.id, partition.store.durable());
                let lacks = seen.entry(id).or_default().note(now, end, partition.store.applied(), durable);
                if end <= durable {
                    here.kafka.note_image(id, Duration::ZERO);
                }
                here.kafka.note_lack(id, lacks);
            }
        }
    }
}

async fn watch_topic(here: Arc<KafkaHere>, replicas: Weak<Replicas>) {
    let mut turns = tokio::time::interval(TOPIC_INTERVAL);
    loop {
        turns.tick().await;
        let checked = here.check_topic().await;
        let Some(replicas) = replicas.upgrade() else { return };
        match checked {
            Ok(()) => {}
            Err(error @ KafkaError::Unfit { .. }) => replicas.fail(error.to_string()),
            Err(error) => tracing::debug!(%error, "it is not known whether the topic is still the same"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_as_old_as_the_oldest_end_that_is_not_applied() {
        let begin = SystemClock.instant();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut ends = Ends::default();
        ends.note(at(0), Position(10), Position(10));
        assert_eq!(ends.lag(at(5), Position(10)), Lag::default());
        ends.note(at(1), Position(20), Position(10));
        ends.note(at(2), Position(30), Position(10));
        ends.note(at(3), Position(30), Position(10));
        assert_eq!(ends.lag(at(61), Position(10)), Lag { records: 20, age: Duration::from_secs(60) });
        assert_eq!(ends.lag(at(61), Position(25)), Lag { records: 5, age: Duration::from_secs(59) });
        assert_eq!(ends.lag(at(61), Position(30)), Lag::default());
    }

    #[test]
    fn an_image_lacks_what_was_first_seen_beyond_it_also_once_that_is_applied() {
        let begin = SystemClock.instant();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        let mut note = |second, end, applied, durable| {
            seen.note(at(second), Position(end), Position(applied), Position(durable)).as_secs()
        };
        assert_eq!(note(0, 10, 10, 10), 0);
        assert_eq!(note(1, 20, 20, 10), 0);
        assert_eq!(note(9, 30, 30, 10), 8);
        assert_eq!(note(10, 30, 30, 20), 1);
        // Written again at the same place by a replica that gets no more.
        assert_eq!(note(100, 90, 30, 30), 0);
        assert_eq!(note(500, 99, 30, 30), 400);
        assert_eq!(note(501, 99, 99, 99), 0);
        assert_eq!(seen.applied.lag(at(600), Position(99)), Lag::default());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_keeps_the_oldest() {
        let begin = SystemClock.instant();
        let mut ends = Ends::default();
        for second in 0..10_000u64 {
            ends.note(begin + Duration::from_secs(second), Position(second + 1), Position(0));
        }
        assert!(ends.ahead.len() <= MAX_ENDS);
        let lag = ends.lag(begin + Duration::from_secs(10_000), Position(0));
        assert_eq!(lag, Lag { records: 10_000, age: Duration::from_secs(10_000) });
    }
}
