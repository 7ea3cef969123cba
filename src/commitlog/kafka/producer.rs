//! Writes records into the topic.
//!
//! Knows payloads and what became of them. Does not know positions or partitions of Quorate.
//! Path: `log` -> **here** -> librdkafka -> the brokers.
//! PD1: a record is acknowledged once all in-sync replicas have it, and an attempt stands in the topic at most once: the
//! producer is idempotent. PD2: a producer that broke for good is replaced; what it had under way is unknown.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use super::topic::Topic;
use crate::LogError;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes that wait for the brokers at most. Gateways hold less: each partition's queue has its own bound.
const MAX_QUEUED_KIB: &str = "262144";
/// How long a record waits here for those of other partitions. Gateways have put together what goes into one; this spares the
/// thread of a broker a turn for each.
const LINGER_MS: &str = "1";

/// How records are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceSettings {
    /// How they are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// How long the brokers may take to acknowledge one; after this the outcome is unknown.
    pub timeout: Duration,
}

/// Offset of a record, -1 if the brokers had it already and do not say where.
type Delivered = Result<i64, LogError>;

/// See the module header.
pub(crate) struct Producer {
    settings: ClientSettings,
    produce: ProduceSettings,
    topic: Topic,
    current: ArcSwap<Current>,
    renewing: Mutex<()>,
}

struct Current {
    producer: ThreadedProducer<Deliveries>,
    is_broken: Arc<AtomicBool>,
}

impl Producer {
    pub(crate) fn new(
        settings: ClientSettings,
        produce: ProduceSettings,
        topic: Topic,
    ) -> Result<Self, KafkaError> {
        let current = ArcSwap::from_pointee(Current::new(&settings, &produce, &topic)?);
        Ok(Self { settings, produce, topic, current, renewing: Mutex::default() })
    }

    /// Sends a record and waits until it is acknowledged. A dropped future sends it all the same.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] and [`LogError::TooLarge`] without effect; [`LogError::Indeterminate`].
    pub(crate) async fn send(&self, partition: u32, payload: &[u8]) -> Delivered {
        if payload.len() > self.topic.max_entry {
            return Err(LogError::TooLarge { len: payload.len() });
        }
        let delivered = self.begin(partition, payload)?;
        let gone = |_| Err(LogError::Indeterminate { reason: "the producer ended".to_owned() });
        delivered.await.unwrap_or_else(gone)
    }

    /// Has a record wait to be sent. Dropping what it gives sends it all the same.
    pub(super) fn begin(
        &self,
        partition: u32,
        payload: &[u8],
    ) -> Result<oneshot::Receiver<Delivered>, LogError> {
        let current = self.working()?;
        let (answer, delivered) = oneshot::channel();
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic.name, Box::new(answer))
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .payload(payload);
        match current.producer.send(record) {
            Ok(()) => Ok(delivered),
            Err((error, _)) => {
                if is_fatal(&error) {
                    current.is_broken.store(true, Ordering::Release);
                }
                Err(match error.rdkafka_error_code() {
                    Some(Code::MessageSizeTooLarge) => LogError::TooLarge { len: payload.len() },
                    _ => LogError::Unavailable { reason: format!("kafka: {error}") },
                })
            }
        }
    }

    /// The producer, a new one if the last broke.
    fn working(&self) -> Result<Arc<Current>, LogError> {
        let current = self.current.load_full();
        if !current.is_broken.load(Ordering::Acquire) {
            return Ok(current);
        }
        let _one = self.renewing.lock();
        let current = self.current.load_full();
        if !current.is_broken.load(Ordering::Acquire) {
            return Ok(current);
        }
        let unavailable = |error: KafkaError| LogError::Unavailable { reason: error.to_string() };
        let made = Current::new(&self.settings, &self.produce, &self.topic).map_err(unavailable)?;
        tracing::warn!("the Kafka producer broke and is replaced; what it had under way is unknown");
        metrics::counter!("quorate_kafka_producers_replaced_total").increment(1);
        let old = self.current.swap(Arc::new(made));
        // Its end waits for its thread.
        tokio::task::spawn_blocking(move || drop(old));
        drop(current);
        Ok(self.current.load_full())
    }

    /// Waits until nothing is under way, or `timeout` is over. Blocks.
    pub(crate) fn flush(&self, timeout: Duration) {
        if let Err(error) = self.current.load().producer.flush(timeout) {
            tracing::warn!(%error, "records were under way when the Kafka producer ended");
        }
    }
}

impl Current {
    fn new(settings: &ClientSettings, produce: &ProduceSettings, topic: &Topic) -> Result<Self, KafkaError> {
        let timeout_ms = produce.timeout.as_millis();
        let mut config = settings.config()?;
        config.set("acks", "all").set("enable.idempotence", "true");
        config.set("max.in.flight.requests.per.connection", "5");
        config.set("compression.type", &produce.compression);
        config.set("linger.ms", LINGER_MS);
        config.set("batch.size", "1000000").set("retry.backoff.ms", "50");
        config.set("message.timeout.ms", timeout_ms.to_string());
        config.set("request.timeout.ms", (timeout_ms * 3 / 4).max(1).to_string());
        config.set("message.max.bytes", (topic.max_entry + (2 << 10)).to_string());
        config.set("queue.buffering.max.kbytes", MAX_QUEUED_KIB);
        config.set("topic.metadata.refresh.interval.ms", "10000");
        for (name, value) in &settings.options {
            config.set(name, value);
        }
        let is_broken = Arc::<AtomicBool>::default();
        let context = Deliveries { base: settings.context(), is_broken: is_broken.clone() };
        let made = config.create_with_context(context);
        let producer = made.map_err(|error| KafkaError::Setting {
            key: "options",
            reason: format!("a producer cannot be made: {error}"),
        })?;
        Ok(Self { producer, is_broken })
    }
}

fn is_fatal(error: &Cause) -> bool {
    error.rdkafka_error_code() == Some(Code::Fatal)
}

/// Hands what became of each record to whoever waits for it.
struct Deliveries {
    base: Context,
    is_broken: Arc<AtomicBool>,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn error(&self, error: Cause, reason: &str) {
        if is_fatal(&error) {
            self.is_broken.store(true, Ordering::Release);
        }
        self.base.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.base.generate_oauth_token(config)
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Delivered>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        // A caller that went away learns nothing; the record stands where it stands.
        let _ = answer.send(match result {
            Ok(message) => Ok(message.offset()),
            Err((error, message)) => {
                if is_fatal(error) {
                    self.is_broken.store(true, Ordering::Release);
                }
                Err(undelivered(error, message))
            }
        });
    }
}

/// What a record that is not acknowledged is to its writer.
#[allow(unsafe_code)]
fn undelivered(error: &Cause, message: &BorrowedMessage<'_>) -> LogError {
    // SAFETY: the message is valid while it is borrowed, and the call only reads it.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    let reason = format!("kafka: {error}");
    match (status, error.rdkafka_error_code()) {
        (_, Some(Code::MessageSizeTooLarge)) => {
            LogError::TooLarge { len: message.payload().map_or(0, <[u8]>::len) }
        }
        (rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED, _) => LogError::Unavailable { reason },
        _ => LogError::Indeterminate { reason },
    }
}
