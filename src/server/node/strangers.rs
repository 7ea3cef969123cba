//! What stands in the topic of the log and is no record of this cluster: passed by apply, told, and put aside in the topic
//! `<topic>.dead-letters` with the reason and its place.
//!
//! Knows bytes and their places. Path: apply -> **here** -> `commitlog::kafka::dead_letters`.
//! ST1: apply waits for nothing here. What is over the bound is only counted: it stands in the topic itself as long as that
//! keeps it. ST2: who leads the partition's group puts a record aside, so that it stands there once as a rule; after a change
//! of leaders or a restart it may stand there twice.

use quorate_commitlog::LogEntry;
use quorate_commitlog::kafka::dead_letters::{DeadLetters, Letter, LetterError};
use quorate_commitlog::kafka::source::Record;
use quorate_commitlog::kafka::{ClientSettings, KafkaError};
use quorate_model::PartitionId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes of records that wait to be put aside, and how many at most.
const MAX_BYTES: usize = 16 << 20;
const MAX_RECORDS: usize = 1_024;
/// Pause before one that was not taken is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module header.
pub struct Strangers {
    topic: Arc<str>,
    waiting: mpsc::Sender<Stranger>,
    bytes: Arc<AtomicUsize>,
}

struct Stranger {
    record: Record,
    reason: String,
}

impl Strangers {
    /// Puts aside what is found in `topic`. The task ends when it is aborted.
    ///
    /// # Errors
    /// [`KafkaError::Setting`].
    pub fn start(settings: &ClientSettings, topic: &str) -> Result<(Self, JoinHandle<()>), KafkaError> {
        let letters = DeadLetters::open(settings)?;
        let (waiting, found) = mpsc::channel(MAX_RECORDS);
        let bytes = Arc::<AtomicUsize>::default();
        let task = tokio::spawn(put_aside(letters, format!("{topic}.dead-letters"), found, bytes.clone()));
        Ok((Self { topic: topic.into(), waiting, bytes }, task))
    }

    /// Tells of an entry that is no record, and puts it aside if this node `leads` its partition.
    pub fn found(&self, id: PartitionId, entry: &LogEntry, reason: &str, leads: bool) {
        metrics::counter!("quorate_kafka_strange_records_total", "partition" => id.to_string()).increment(1);
        let (offset, bytes) = (entry.position.0.saturating_sub(1), entry.payload.len());
        tracing::warn!(partition = %id, offset, bytes, reason, "a record of the topic is none of this cluster; it is passed");
        if !leads {
            return;
        }
        let record = Record {
            topic: self.topic.clone(),
            partition: i32::try_from(id.0).unwrap_or(i32::MAX),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            timestamp_ms: None,
            key: None,
            value: Some(entry.payload.clone()),
            headers: Vec::new(),
        };
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let has_room = before + bytes <= MAX_BYTES || before == 0;
        if !has_room || self.waiting.try_send(Stranger { record, reason: reason.to_owned() }).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            metrics::counter!("quorate_kafka_strange_records_left_total").increment(1);
        }
    }
}

async fn put_aside(
    letters: DeadLetters,
    topic: String,
    mut found: mpsc::Receiver<Stranger>,
    bytes: Arc<AtomicUsize>,
) {
    while let Some(Stranger { record, reason }) = found.recv().await {
        let letter = Letter { record: &record, reason: &reason, tenant: None };
        loop {
            match letters.put(&topic, letter).await {
                Ok(()) => break,
                Err(error @ LetterError::TooLarge { .. }) => {
                    tracing::warn!(%error, "a record that is none of this cluster is not put aside");
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "a record that is none of this cluster is not put aside yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        bytes.fetch_sub(record.value.as_ref().map_or(0, bytes::Bytes::len), Ordering::AcqRel);
    }
}
