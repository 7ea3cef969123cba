//! The topic of the log: made when it is missing, looked at before it is used.
//!
//! Knows what a topic must be like to keep what was acknowledged (PR3). Does not know who writes into it.
//! Path: node start -> **here** -> the brokers.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use super::describe::{Described, describe};
use super::poll::serve;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Longest wait for one answer of the brokers.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a topic that was just made is looked for.
const LOOKS: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Replicas and in-sync replicas that survive the loss of one broker.
const SAFE_REPLICAS: usize = 3;
const SAFE_IN_SYNC: u64 = 2;
/// A replica that was away for less is caught up from the topic.
const SAFE_RETENTION_MS: u64 = 86_400_000;
/// Most bytes of a message of a topic that is made here: an entry of the log and what the message adds.
const MAX_MESSAGE: u64 = (64 << 20) + ROOM;
/// Least that a topic must take.
const LEAST_MESSAGE: u64 = 1_000_000;
/// What a message adds to an entry at most: batch and record headers.
const ROOM: u64 = 4 << 10;

/// What the topic of the log should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// Its name.
    pub name: String,
    /// Its partitions: those of Quorate.
    pub partitions: u32,
    /// Replicas of each, if it has to be made.
    pub replication: u8,
    /// How long it keeps records, if it has to be made. Milliseconds.
    pub retention_ms: u64,
    /// Whether it is made when it is missing.
    pub create: bool,
    /// Whether it is used although it may lose what was acknowledged.
    pub allow_unsafe: bool,
}

/// The topic of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, which differs once it is deleted and made again.
    pub id: u128,
    /// Its partitions.
    pub partitions: u32,
    /// How long it keeps records, in milliseconds; `None` for ever.
    pub retention_ms: Option<u64>,
    /// Most bytes of an entry.
    pub max_entry: usize,
    /// Why it may lose what was acknowledged, if that is allowed.
    pub unsafe_because: Vec<String>,
}

impl Topic {
    /// The incarnation of the log in it (C7): never 0, another one once the topic is made again.
    pub fn incarnation(&self) -> u32 {
        let [a, b, c, d] = [0, 32, 64, 96].map(|shift| (self.id >> shift) as u32);
        (a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24)).max(1)
    }

    /// Whether the brokers still have this topic, and not another one of its name.
    ///
    /// # Errors
    /// [`KafkaError::Unfit`] if not; others if no broker tells.
    pub(crate) async fn check_same(&self, admin: &Admin) -> Result<(), KafkaError> {
        match admin.describe(&self.name).await? {
            Some(found) if found.id == self.id => Ok(()),
            Some(found) => Err(unfit(
                &self.name,
                format!(
                    "it was deleted and made again: its id was {:032x} and is {:032x}",
                    self.id, found.id
                ),
            )),
            None => Err(unfit(&self.name, "it was deleted".to_owned())),
        }
    }
}

fn unfit(topic: &str, reason: String) -> KafkaError {
    KafkaError::Unfit { topic: topic.to_owned(), reason }
}

/// Finds the topic, makes it if it is missing and that is allowed, and looks whether it is fit and safe.
///
/// # Errors
/// [`KafkaError`]; with [`KafkaError::is_passing`] it may be tried again.
pub async fn open(settings: &ClientSettings, wanted: &TopicSettings) -> Result<Topic, KafkaError> {
    let admin = Admin::new(settings)?;
    let described = match admin.describe(&wanted.name).await? {
        Some(described) => described,
        None => admin.create(wanted).await?,
    };
    let kept = admin.settings_of(&wanted.name).await?;
    judge(wanted, &described, &kept)
}

/// What to make of a topic with these settings.
fn judge(
    wanted: &TopicSettings,
    described: &Described,
    kept: &BTreeMap<String, String>,
) -> Result<Topic, KafkaError> {
    let name = &wanted.name;
    if described.id == 0 {
        let reason =
            "its brokers give topics no id, by which one that is made anew is told: use Kafka 2.8 or newer";
        return Err(unfit(name, reason.to_owned()));
    }
    let partitions = described.replicas.len();
    if partitions != wanted.partitions as usize {
        return Err(unfit(
            name,
            format!(
                "it has {partitions} partitions and the cluster {}: a series would change its partition; use a topic \
                 with as many",
                wanted.partitions
            ),
        ));
    }
    let text = |key: &str| kept.get(key).map_or("", String::as_str);
    let number = |key: &str| text(key).parse::<i64>().ok().and_then(|n| u64::try_from(n).ok());
    if text("cleanup.policy").contains("compact") {
        return Err(unfit(
            name,
            "cleanup.policy is compact: records without a key are refused or removed; set it to delete"
                .to_owned(),
        ));
    }
    let max_message = number("max.message.bytes").unwrap_or(LEAST_MESSAGE);
    if max_message < LEAST_MESSAGE {
        return Err(unfit(name, format!("max.message.bytes is {max_message}, below {LEAST_MESSAGE}")));
    }
    let unsafe_because = dangers(described, &number, &text);
    if !unsafe_because.is_empty() && !wanted.allow_unsafe {
        return Err(KafkaError::Unsafe { topic: name.clone(), reasons: unsafe_because });
    }
    Ok(Topic {
        name: name.clone(),
        id: described.id,
        partitions: wanted.partitions,
        retention_ms: number("retention.ms"),
        max_entry: max_message.min(MAX_MESSAGE).saturating_sub(ROOM) as usize,
        unsafe_because,
    })
}

/// Why a topic may lose what was acknowledged.
fn dangers<'t>(
    described: &Described,
    number: &dyn Fn(&str) -> Option<u64>,
    text: &dyn Fn(&str) -> &'t str,
) -> Vec<String> {
    let mut dangers = Vec::new();
    let least = described.replicas.iter().copied().min().unwrap_or(0);
    if least < SAFE_REPLICAS {
        dangers.push(format!("its replication factor is {least}, below {SAFE_REPLICAS}"));
    }
    let in_sync = number("min.insync.replicas").unwrap_or(1);
    if in_sync < SAFE_IN_SYNC {
        dangers.push(format!("min.insync.replicas is {in_sync}, below {SAFE_IN_SYNC}"));
    }
    if text("unclean.leader.election.enable") == "true" {
        dangers.push("unclean.leader.election.enable is true, not false".to_owned());
    }
    if let Some(retention) = number("retention.ms").filter(|kept| *kept < SAFE_RETENTION_MS) {
        dangers.push(format!("retention.ms is {retention}, below {SAFE_RETENTION_MS} (24 hours)"));
    }
    if let Some(bytes) = number("retention.bytes") {
        dangers.push(format!("retention.bytes is {bytes}: records are deleted before retention.ms"));
    }
    if text("message.timestamp.type") == "CreateTime" {
        dangers.push(
            "message.timestamp.type is CreateTime, not LogAppendTime: the clock of a node that is wrong decides when \
             records are deleted"
                .to_owned(),
        );
    }
    dangers
}

/// The brokers as an administrator asks them.
pub(crate) struct Admin {
    /// There until the end.
    client: Option<Arc<AdminClient<Context>>>,
}

impl Drop for Admin {
    /// The end of the client waits for its thread, which no worker of a runtime may do.
    fn drop(&mut self) {
        let client = self.client.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

impl Admin {
    pub(crate) fn new(settings: &ClientSettings) -> Result<Self, KafkaError> {
        let made = settings.config()?.create_with_context(settings.context());
        let client = made.map_err(|error| KafkaError::Setting {
            key: "options",
            reason: format!("a client cannot be made: {error}"),
        })?;
        Ok(Self { client: Some(Arc::new(client)) })
    }

    /// The client, with a token that holds if it needs one.
    fn client(&self) -> &Arc<AdminClient<Context>> {
        let client = self.client.as_ref().expect("only dropping takes it");
        serve(client.inner());
        client
    }

    async fn describe(&self, topic: &str) -> Result<Option<Described>, KafkaError> {
        let (client, topic) = (self.client().clone(), topic.to_owned());
        let asking = tokio::task::spawn_blocking(move || describe(&client, &topic, ASK_TIMEOUT));
        asking.await.map_err(|error| KafkaError::Unavailable {
            doing: "describing the topic",
            reason: error.to_string(),
        })?
    }

    async fn create(&self, wanted: &TopicSettings) -> Result<Described, KafkaError> {
        if !wanted.create {
            return Err(KafkaError::NoTopic { topic: wanted.name.clone() });
        }
        if usize::from(wanted.replication) < SAFE_REPLICAS && !wanted.allow_unsafe {
            let reasons =
                vec![format!("kafka.replication_factor is {}, below {SAFE_REPLICAS}", wanted.replication)];
            return Err(KafkaError::Unsafe { topic: wanted.name.clone(), reasons });
        }
        let in_sync = wanted.replication.saturating_sub(1).max(1).to_string();
        let (retention, message) = (wanted.retention_ms.to_string(), MAX_MESSAGE.to_string());
        let topic = NewTopic::new(
            &wanted.name,
            i32::try_from(wanted.partitions).unwrap_or(i32::MAX),
            TopicReplication::Fixed(wanted.replication.into()),
        )
        .set("min.insync.replicas", &in_sync)
        .set("retention.ms", &retention)
        .set("retention.bytes", "-1")
        .set("cleanup.policy", "delete")
        .set("unclean.leader.election.enable", "false")
        .set("message.timestamp.type", "LogAppendTime")
        .set("max.message.bytes", &message);
        const DOING: &str = "creating the topic";
        let created = self.client().create_topics([&topic], &options()).await;
        match created.map_err(|error| KafkaError::of(DOING, &error))?.into_iter().next() {
            // Another node was faster.
            Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => {
                return Err(KafkaError::of(DOING, &rdkafka::error::KafkaError::AdminOp(code)));
            }
            None => {
                return Err(KafkaError::Unavailable { doing: DOING, reason: "no answer".to_owned() });
            }
        }
        tracing::info!(
            topic = wanted.name,
            partitions = wanted.partitions,
            replication_factor = wanted.replication,
            "the topic of the log was made"
        );
        for _ in 0..LOOKS {
            if let Some(described) = self.describe(&wanted.name).await? {
                return Ok(described);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(KafkaError::Unavailable { doing: DOING, reason: "it does not appear".to_owned() })
    }

    async fn settings_of(&self, topic: &str) -> Result<BTreeMap<String, String>, KafkaError> {
        const DOING: &str = "reading the settings of the topic";
        let told = self.client().describe_configs([&ResourceSpecifier::Topic(topic)], &options()).await;
        let resource = told.map_err(|error| KafkaError::of(DOING, &error))?.into_iter().next();
        match resource {
            Some(Ok(resource)) => {
                let entry = |entry: rdkafka::admin::ConfigEntry| Some((entry.name, entry.value?));
                Ok(resource.entries.into_iter().filter_map(entry).collect())
            }
            Some(Err(code)) => Err(KafkaError::of(DOING, &rdkafka::error::KafkaError::AdminOp(code))),
            None => Err(KafkaError::Unavailable { doing: DOING, reason: "no answer".to_owned() }),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_TIMEOUT)).operation_timeout(Some(ASK_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(allow_unsafe: bool) -> TopicSettings {
        TopicSettings {
            name: "t".to_owned(),
            partitions: 2,
            replication: 3,
            retention_ms: 1,
            create: true,
            allow_unsafe,
        }
    }

    fn safe() -> BTreeMap<String, String> {
        [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.insync.replicas", "2"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
            ("unclean.leader.election.enable", "false"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    #[track_caller]
    fn check(replicas: &[usize], key: &str, value: &str, allow: bool, refused_for: Option<&str>) {
        let described = Described { id: 7, replicas: replicas.to_vec() };
        let mut kept = safe();
        kept.insert(key.to_owned(), value.to_owned());
        match (judge(&wanted(allow), &described, &kept), refused_for) {
            (Ok(_), None) => {}
            (Err(error), Some(reason)) => assert!(error.to_string().contains(reason), "{error}"),
            (judged, refused_for) => panic!("{key}={value}: {judged:?}, not {refused_for:?}"),
        }
    }

    #[test]
    fn a_topic_that_may_lose_records_is_refused_unless_that_is_allowed() {
        check(&[3, 3], "x", "", false, None);
        check(&[3, 3], "retention.ms", "-1", false, None);
        for (replicas, key, value, reason) in [
            ([3, 1], "x", "", "replication factor is 1, below 3"),
            ([3, 3], "min.insync.replicas", "1", "min.insync.replicas is 1, below 2"),
            ([3, 3], "unclean.leader.election.enable", "true", "unclean.leader.election.enable is true"),
            ([3, 3], "retention.ms", "3600000", "retention.ms is 3600000, below 86400000"),
            ([3, 3], "retention.bytes", "1000", "retention.bytes is 1000"),
            ([3, 3], "message.timestamp.type", "CreateTime", "message.timestamp.type is CreateTime"),
        ] {
            check(&replicas, key, value, false, Some(reason));
            check(&replicas, key, value, true, None);
        }
    }

    #[test]
    fn a_topic_that_cannot_hold_a_log_is_refused_in_any_case() {
        for (replicas, key, value, reason) in [
            (&[3, 3, 3][..], "x", "", "it has 3 partitions and the cluster 2"),
            (&[3, 3], "cleanup.policy", "compact,delete", "cleanup.policy is compact"),
            (&[3, 3], "max.message.bytes", "1000", "max.message.bytes is 1000, below 1000000"),
        ] {
            check(replicas, key, value, true, Some(reason));
        }
    }

    #[test]
    fn the_incarnation_is_never_0_and_that_of_the_topic() {
        let described = |id| Described { id, replicas: vec![3, 3] };
        let topic = judge(&wanted(false), &described(7), &safe()).unwrap();
        // Words that cancel each other.
        assert_eq!(Topic { id: 1 | 1 << 104, ..topic.clone() }.incarnation(), 1);
        assert!(judge(&wanted(true), &described(0), &safe()).is_err_and(|e| e.to_string().contains("no id")));
        assert_ne!(
            Topic { id: 9 << 70, ..topic.clone() }.incarnation(),
            Topic { id: 8 << 70, ..topic }.incarnation()
        );
    }
}
