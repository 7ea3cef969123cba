//! Verdicts on their way from apply to the writer of a record.
//!
//! A record is known by its session and sequence, which its writer gave it, so a verdict finds its waiter even
//! when apply is faster than the answer of the append.

use parking_lot::Mutex;
use quorate_model::SessionId;
use quorate_tsdb::SubBatchVerdict;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Why nobody will ever tell what became of a committed record. To its writer the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoVerdict {
    /// What is known.
    pub reason: String,
}

/// One verdict for each sub-batch of a record, in its order.
pub type RecordVerdict = Result<Vec<SubBatchVerdict>, NoVerdict>;

/// Waiters of one partition.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<(SessionId, u64), oneshot::Sender<RecordVerdict>>,
    stopped: Option<String>,
}

impl Verdicts {
    /// Announces a record before it is appended. If apply has stopped, the receiver fails at once.
    pub(crate) fn expect(&self, session: SessionId, sequence: u64) -> oneshot::Receiver<RecordVerdict> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        match &state.stopped {
            None => {
                state.waiting.insert((session, sequence), sender);
            }
            Some(why) => {
                let _ = sender.send(Err(NoVerdict { reason: why.clone() }));
            }
        }
        receiver
    }

    /// The record was not appended, or nobody waits any more.
    pub(crate) fn forget(&self, session: SessionId, sequence: u64) {
        self.0.lock().waiting.remove(&(session, sequence));
    }

    /// Hands the verdict of an applied record to its writer, if that is us.
    pub(super) fn publish(&self, session: SessionId, sequence: u64, verdict: RecordVerdict) {
        if let Some(waiter) = self.0.lock().waiting.remove(&(session, sequence)) {
            let _ = waiter.send(verdict);
        }
    }

    /// Apply has stopped: every waiter fails, now and later.
    pub(crate) fn close(&self, why: &str) {
        let mut state = self.0.lock();
        state.stopped = Some(why.to_owned());
        for (_, waiter) in state.waiting.drain() {
            let _ = waiter.send(Err(NoVerdict { reason: why.to_owned() }));
        }
    }

    /// Why apply has stopped, if it has.
    pub(crate) fn why_stopped(&self) -> Option<String> {
        self.0.lock().stopped.clone()
    }

    /// Records that are waited for.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }
}
