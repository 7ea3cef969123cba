//! Appends to a log that takes records of any node, such as a Kafka topic.
//!
//! Knows no leader: there is none to ask for a verdict, so a record that is committed is all that its writer learns (C5).
//! Path: `distributor` -> **here** -> `PartitionLog`.

use super::{Appended, Appender, PendingVerdict};
use async_trait::async_trait;
use bytes::Bytes;
use quorate_commitlog::{LogError, PartitionLog};
use quorate_model::SessionId;
use std::sync::Arc;

/// Appends to one log, from any node. Every call ends because those of the log do.
pub struct DirectAppender(Arc<dyn PartitionLog>);

impl std::fmt::Debug for DirectAppender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DirectAppender").field(&self.0.incarnation()).finish()
    }
}

impl DirectAppender {
    /// Appends to `log`.
    pub fn new(log: Arc<dyn PartitionLog>) -> Self {
        Self(log)
    }
}

#[async_trait]
impl Appender for DirectAppender {
    async fn append(&self, _session: SessionId, _sequence: u64, record: Bytes) -> Result<Appended, LogError> {
        let position = self.0.append(record).await?;
        Ok(Appended { position, verdict: PendingVerdict::Late })
    }

    fn incarnation(&self) -> u32 {
        self.0.incarnation()
    }

    fn why_stopped(&self) -> Option<String> {
        None
    }
}
