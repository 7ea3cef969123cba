//! Appends to the log of this node's replica.

use super::{Appended, Appender, PendingVerdict};
use crate::applier::Verdicts;
use async_trait::async_trait;
use bytes::Bytes;
use quorate_commitlog::{LogError, PartitionLog};
use quorate_model::SessionId;
use std::sync::Arc;

/// Appends to a log of this node, whose applier tells the verdicts. Says `NotLeader` when its log does.
///
/// Waits as long as the log does: whoever may lead without a majority brings a deadline.
pub struct LocalAppender {
    log: Arc<dyn PartitionLog>,
    verdicts: Arc<Verdicts>,
}

impl std::fmt::Debug for LocalAppender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAppender").field("incarnation", &self.log.incarnation()).finish_non_exhaustive()
    }
}

impl LocalAppender {
    /// Appends to `log`; `verdicts` are those of the applier that reads it.
    pub fn new(log: Arc<dyn PartitionLog>, verdicts: Arc<Verdicts>) -> Self {
        Self { log, verdicts }
    }
}

/// Takes a record off the list of those that are waited for, unless it is committed. Works for dropped futures too.
struct Announced<'a> {
    verdicts: &'a Verdicts,
    session: SessionId,
    sequence: u64,
    is_committed: bool,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.verdicts.forget(self.session, self.sequence);
        }
    }
}

#[async_trait]
impl Appender for LocalAppender {
    async fn append(&self, session: SessionId, sequence: u64, record: Bytes) -> Result<Appended, LogError> {
        if let Some(reason) = self.verdicts.why_stopped() {
            return Err(LogError::Unavailable { reason });
        }
        // Before the append: apply may be faster than its answer.
        let verdict = self.verdicts.expect(session, sequence);
        let mut announced = Announced { verdicts: &self.verdicts, session, sequence, is_committed: false };
        let position = self.log.append(record).await?;
        announced.is_committed = true;
        Ok(Appended { position, verdict: PendingVerdict::Coming(verdict) })
    }

    fn incarnation(&self) -> u32 {
        self.log.incarnation()
    }

    fn why_stopped(&self) -> Option<String> {
        self.verdicts.why_stopped()
    }
}
