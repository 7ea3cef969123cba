//! Topics that other systems fill: their records are decoded and written like the bodies of requests.
//!
//! Knows formats, codecs, tenants and what answers mean for a record. Does not know Kafka's client, limits or partitions
//! of the store.
//! Path: `commitlog::kafka::source` -> **here** -> [`Gateway`] -> `distributor`; what cannot be stored goes to
//! [`Letters`].
//! - SO1: a record is finished when all of it that can be stored is, and what cannot is counted or a dead letter that is
//!   acknowledged. Crashes repeat records, and equal samples are stored once.
//! - SO2: a record that has to wait makes its partition wait and no other, and within a second gives its memory back.
//! - SO3: no record blocks its partition for what is in it.

mod codec;
mod decode;
mod lane;
mod tenant;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Format};
pub use tenant::{TenantFrom, TenantRule};

use crate::distributor::{WriteError, WriteOutcome};
use crate::in_flight::{Held, InFlight};
use crate::protocol::{BodyError, Protocol};
use async_trait::async_trait;
use bytes::Bytes;
use lane::Lane;
use metrics::counter;
use parking_lot::Mutex;
use quorate_commitlog::kafka::dead_letters::{DeadLetters, Letter, LetterError};
use quorate_commitlog::kafka::source::{Feed, Record, Taken};
use quorate_model::{Clock, ErrorCode};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// In the name of the topic of dead letters it stands for the topic of the record.
pub const TOPIC_PLACE: &str = "<topic>";

/// How the records of a source are stored.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Name of the source, for its metrics and log lines.
    pub name: String,
    /// How values are read.
    pub decoder: Decoder,
    /// Topic of dead letters, with `<topic>` for that of the record; empty: they are counted, logged and passed over.
    pub dead_letter_topic: String,
    /// Whether a record of which everything is refused becomes a dead letter.
    pub dead_letter_refused: bool,
    /// Records of one partition that are written at once.
    pub concurrency: usize,
    /// Bytes of records that are taken, and again as many while they are decoded.
    pub max_bytes: usize,
}

/// Why a part of a record is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What can be done.
    pub code: ErrorCode,
    /// The reason in words.
    pub message: String,
    /// When it may work, if that is known.
    pub retry_after: Option<Duration>,
    /// Whether the body is the other version of remote write.
    pub is_other_protocol: bool,
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
            retry_after: error.retry_after(),
            is_other_protocol: matches!(error, WriteError::Body(BodyError::OtherProtocol { .. })),
        }
    }
}

impl Failure {
    /// Whether the same may work later; otherwise it never will.
    pub fn is_passing(&self) -> bool {
        match self.code {
            ErrorCode::RateLimited
            | ErrorCode::Cancelled
            | ErrorCode::Internal
            | ErrorCode::Unavailable
            | ErrorCode::TimedOut
            | ErrorCode::Indeterminate
            | ErrorCode::Corrupt => true,
            ErrorCode::BadInput
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::NotFound
            | ErrorCode::TooLarge
            | ErrorCode::UnsupportedMedia
            | ErrorCode::Unprocessable
            | ErrorCode::Refused => false,
        }
    }
}

/// The node's way in, as requests have it.
#[async_trait]
pub trait Gateway: Send + Sync {
    /// Whether a tenant may have this name.
    ///
    /// # Errors
    /// Why not, in words.
    fn check_tenant(&self, name: &str) -> Result<(), String>;

    /// Writes a body, a snappy block. One with more samples than the tenant's burst is granted some time.
    ///
    /// # Errors
    /// [`Failure`]; what is only refused in part is told in the outcome.
    async fn write(
        &self,
        tenant: &Arc<str>,
        protocol: Protocol,
        body: Bytes,
        held: Held,
    ) -> Result<WriteOutcome, Failure>;
}

/// Where records go that cannot be stored.
#[async_trait]
pub trait Letters: Send + Sync {
    /// Writes a letter and waits until it is acknowledged.
    ///
    /// # Errors
    /// [`LetterError`].
    async fn put(&self, topic: &str, letter: Letter<'_>) -> Result<(), LetterError>;
}

#[async_trait]
impl Letters for DeadLetters {
    async fn put(&self, topic: &str, letter: Letter<'_>) -> Result<(), LetterError> {
        Self::put(self, topic, letter).await
    }
}

/// What all partitions of a source share.
struct Shared {
    config: SourceConfig,
    gateway: Arc<dyn Gateway>,
    letters: Arc<dyn Letters>,
    clock: Arc<dyn Clock>,
    /// Room for records while they are decoded and read.
    in_flight: Arc<InFlight>,
    /// Bytes of records that wait and keep their memory.
    waiting: AtomicUsize,
    /// When trouble was logged last, and how often it came since.
    logged: Mutex<(Option<std::time::Instant>, u64)>,
}

/// One line of trouble is logged in this time.
const LOG_PAUSE: Duration = Duration::from_secs(10);

impl Shared {
    fn count(&self, outcome: &'static str) {
        let source = self.config.name.clone();
        counter!("quorate_source_records_total", "source" => source, "outcome" => outcome).increment(1);
    }

    fn count_samples(&self, outcome: &'static str, samples: u64) {
        if samples > 0 {
            let source = self.config.name.clone();
            counter!("quorate_source_samples_total", "source" => source, "outcome" => outcome)
                .increment(samples);
        }
    }

    /// Logs what became of a record, but not each of very many.
    fn tell(&self, what: &'static str, record: &Record, reason: &str) {
        let now = self.clock.instant();
        let mut logged = self.logged.lock();
        if logged.0.is_some_and(|at| now - at < LOG_PAUSE) {
            logged.1 += 1;
            return;
        }
        let unsaid = std::mem::take(&mut logged.1);
        logged.0 = Some(now);
        drop(logged);
        let (source, topic) = (self.config.name.as_str(), &*record.topic);
        let (partition, offset) = (record.partition, record.offset);
        tracing::warn!(source, topic, partition, offset, reason, unsaid, "{what}");
    }

    /// The topic of dead letters of a record, if there is one.
    fn letter_topic(&self, record: &Record) -> Option<String> {
        let topic = &self.config.dead_letter_topic;
        (!topic.is_empty()).then(|| topic.replace(TOPIC_PLACE, &record.topic))
    }

    /// Takes room for a record that waits; at most half of the room of all records.
    fn keep(&self, bytes: usize) -> Option<Kept<'_>> {
        let limit = self.config.max_bytes / 2;
        let taken = self.waiting.try_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            waiting.checked_add(bytes).filter(|after| *after <= limit)
        });
        taken.ok().map(|_before| Kept { shared: self, bytes })
    }
}

/// Room of a record that waits.
struct Kept<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Stores the records of `feed` until it ends. Dropping the future gives up what is under way: those records are taken
/// again by whoever has the partition next.
pub async fn run(
    mut feed: impl Feed,
    config: SourceConfig,
    gateway: Arc<dyn Gateway>,
    letters: Arc<dyn Letters>,
    clock: Arc<dyn Clock>,
) {
    let in_flight = InFlight::new(config.max_bytes);
    let shared = Arc::new(Shared {
        config,
        gateway,
        letters,
        clock,
        in_flight,
        waiting: AtomicUsize::new(0),
        logged: Mutex::default(),
    });
    let mut lanes: HashMap<(Arc<str>, i32), UnboundedSender<Taken>> = HashMap::new();
    let mut tasks = JoinSet::new();
    while let Some(taken) = feed.next().await {
        let name = (Arc::clone(&taken.record.topic), taken.record.partition);
        let taken = match lanes.get(&name) {
            Some(lane) => match lane.send(taken) {
                Ok(()) => continue,
                // It panicked; its records are taken again.
                Err(back) => back.0,
            },
            None => taken,
        };
        let (sender, records) = unbounded_channel();
        tasks.spawn(Lane::new(Arc::clone(&shared)).run(records));
        // The receiver is not dropped before the task has run.
        drop(sender.send(taken));
        lanes.insert(name, sender);
    }
    drop(lanes);
    while tasks.join_next().await.is_some() {}
}
