//! Records of foreign topics that cannot be stored, put aside in another topic with the reason.
//!
//! Knows topics and headers. Does not know why a record is refused.
//! Path: `ingest::sources` -> **here** -> the brokers.
//! DL1: a letter counts as written when the brokers acknowledged it on all in-sync replicas. DL2: key, value and headers
//! of the record stay as they were; ours stand before them. DL3: what is a letter already is never written again.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use super::poll::serve;
use super::source::Record;
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Header with the reason, in words.
pub const REASON: &str = "quorate.reason";
/// Header with the topic that the record came from.
pub const SOURCE_TOPIC: &str = "quorate.source.topic";
/// Header with the partition that the record came from.
pub const SOURCE_PARTITION: &str = "quorate.source.partition";
/// Header with its offset there.
pub const SOURCE_OFFSET: &str = "quorate.source.offset";
/// Header with the tenant, if one is known.
pub const TENANT: &str = "quorate.tenant";

/// Longest wait for a letter to be acknowledged.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for an answer about a topic.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a letter: more than any broker takes by default, so that the topic decides.
const MAX_LETTER: usize = 128 << 20;

/// Why a letter is not written.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The topic never takes it.
    #[error("the topic {topic:?} does not take a record of {bytes} bytes: {reason}")]
    TooLarge {
        /// The topic of dead letters.
        topic: String,
        /// Bytes of the record.
        bytes: usize,
        /// What the brokers said.
        reason: String,
    },
    /// It may work later.
    #[error("the topic {topic:?} did not take a dead letter: {reason}")]
    NotTaken {
        /// The topic of dead letters.
        topic: String,
        /// What happened.
        reason: String,
    },
}

/// A record and why it is put aside.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// The record.
    pub record: &'a Record,
    /// The reason in words.
    pub reason: &'a str,
    /// The tenant, if one is known.
    pub tenant: Option<&'a str>,
}

/// Whether a record is a dead letter of some source.
pub fn is_letter(record: &Record) -> bool {
    record.header(SOURCE_TOPIC).is_some()
}

/// Writes dead letters. Clones share the producer.
#[derive(Clone)]
pub struct DeadLetters {
    producer: Arc<ThreadedProducer<Deliveries>>,
    admin: Arc<AdminClient<Context>>,
    /// Topics that are there.
    known: Arc<Mutex<HashSet<String>>>,
}

type Answer = Result<(), Cause>;

/// Hands each delivery report to who waits for it.
struct Deliveries(Context);

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: Cause, reason: &str) {
        self.0.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.generate_oauth_token(config)
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let answer = result.as_ref().map(drop).map_err(|(cause, _)| cause.clone());
        // Who waits no longer takes the record again.
        drop(waiting.send(answer));
    }
}

impl DeadLetters {
    /// A producer for letters. The brokers need not be there yet.
    ///
    /// # Errors
    /// [`KafkaError::Setting`] if none can be made of the settings.
    pub fn open(settings: &ClientSettings) -> Result<Self, KafkaError> {
        let wrong = |error: Cause| KafkaError::Setting { key: "options", reason: error.to_string() };
        let admin = settings.config()?.create_with_context(settings.context()).map_err(wrong)?;
        let mut config = settings.config()?;
        config.set("enable.idempotence", "true").set("acks", "all");
        config.set("message.max.bytes", MAX_LETTER.to_string());
        config.set("message.timeout.ms", TIMEOUT.as_millis().to_string());
        config.set("linger.ms", "5").set("compression.type", "lz4");
        let producer = config.create_with_context(Deliveries(settings.context())).map_err(wrong)?;
        Ok(Self { producer: Arc::new(producer), admin: Arc::new(admin), known: Arc::default() })
    }

    /// Writes a letter and waits until it is acknowledged. The topic is made if it is missing.
    ///
    /// # Errors
    /// [`LetterError`].
    pub async fn put(&self, topic: &str, letter: Letter<'_>) -> Result<(), LetterError> {
        let not_taken = |reason: String| LetterError::NotTaken { topic: topic.to_owned(), reason };
        if !self.known.lock().contains(topic) {
            self.make_sure(topic).await.map_err(not_taken)?;
            self.known.lock().insert(topic.to_owned());
        }
        let answer = self.send(topic, letter).map_err(|cause| self.failed(topic, letter, &cause))?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(self.failed(topic, letter, &cause)),
            Err(_) => Err(not_taken("the producer was closed".to_owned())),
        }
    }

    fn send(&self, topic: &str, letter: Letter<'_>) -> Result<oneshot::Receiver<Answer>, Cause> {
        let record = letter.record;
        let (waiting, answer) = oneshot::channel();
        let mut out = BaseRecord::with_opaque_to(topic, Box::new(waiting)).headers(headers(letter));
        if let Some(key) = &record.key {
            out = out.key(&key[..]);
        }
        if let Some(value) = &record.value {
            out = out.payload(&value[..]);
        }
        if let Some(time) = record.timestamp_ms.filter(|time| *time >= 0) {
            out = out.timestamp(time);
        }
        self.producer.send::<[u8], [u8]>(out).map_err(|(cause, _)| cause)?;
        Ok(answer)
    }

    fn failed(&self, topic: &str, letter: Letter<'_>, cause: &Cause) -> LetterError {
        let (topic, reason) = (topic.to_owned(), cause.to_string());
        match cause.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                LetterError::TooLarge { topic, bytes: letter.record.bytes(), reason }
            }
            code => {
                if matches!(
                    code,
                    Some(
                        RDKafkaErrorCode::UnknownTopicOrPartition
                            | RDKafkaErrorCode::UnknownTopic
                            | RDKafkaErrorCode::UnknownPartition
                    )
                ) {
                    self.known.lock().remove(&topic);
                }
                LetterError::NotTaken { topic, reason }
            }
        }
    }

    /// Finds the topic, or makes it as the brokers make topics by default.
    async fn make_sure(&self, topic: &str) -> Result<(), String> {
        let (producer, name) = (Arc::clone(&self.producer), topic.to_owned());
        let asking = tokio::task::spawn_blocking(move || {
            let told = producer.client().fetch_metadata(Some(&name), ASK_TIMEOUT)?;
            let found = told.topics().iter().find(|found| found.name() == name);
            Ok::<_, Cause>(
                found.is_some_and(|found| found.error().is_none() && !found.partitions().is_empty()),
            )
        });
        match asking.await.map_err(|error| error.to_string())? {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(cause) => match cause.rdkafka_error_code() {
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
                _ => return Err(cause.to_string()),
            },
        }
        let wanted = NewTopic::new(topic, -1, TopicReplication::Fixed(-1));
        let options =
            AdminOptions::new().request_timeout(Some(ASK_TIMEOUT)).operation_timeout(Some(ASK_TIMEOUT));
        serve(self.admin.inner());
        let made = self.admin.create_topics([&wanted], &options).await.map_err(|cause| cause.to_string())?;
        match made.into_iter().next() {
            Some(Ok(_)) => {
                tracing::info!(topic, "the topic of dead letters was made");
                Ok(())
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(format!("it cannot be made: {code}")),
            None => Err("no answer about making it".to_owned()),
        }
    }
}

/// Ours, then those of the record.
fn headers(letter: Letter<'_>) -> OwnedHeaders {
    let record = letter.record;
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let ours = [
        (REASON, Some(letter.reason)),
        (SOURCE_TOPIC, Some(&*record.topic)),
        (SOURCE_PARTITION, Some(partition.as_str())),
        (SOURCE_OFFSET, Some(offset.as_str())),
        (TENANT, letter.tenant),
    ];
    let ours = ours.into_iter().filter_map(|(name, value)| Some((name, value?.as_bytes())));
    let ours = ours.map(|(key, value)| Header { key, value: Some(value) });
    let theirs =
        record.headers.iter().map(|header| Header { key: &header.name, value: header.value.as_deref() });
    let room = OwnedHeaders::new_with_capacity(5 + record.headers.len());
    ours.chain(theirs).fold(room, |headers, header| headers.insert(header))
}
