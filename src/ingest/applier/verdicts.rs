//! Verdicts on their way from apply to the writer of a record.
//!
//! A record is known by its session and sequence, which its writer gave it, so a verdict finds its waiter even
//! when apply is faster than the answer of the append.

use parking_lot::Mutex;
use quorate_model::SessionId;
use quorate_tsdb::SubBatchVerdict;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Waiters of one partition.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<(SessionId, u64), oneshot::Sender<Vec<SubBatchVerdict>>>,
    stopped: Option<String>,
}

impl Verdicts {
    /// Announces a record before it is appended. If apply has stopped, the receiver fails at once.
    pub(crate) fn expect(
        &self,
        session: SessionId,
        sequence: u64,
    ) -> oneshot::Receiver<Vec<SubBatchVerdict>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        if state.stopped.is_none() {
            state.waiting.insert((session, sequence), sender);
        }
        receiver
    }

    /// The record was not appended, or nobody waits any more.
    pub(crate) fn forget(&self, session: SessionId, sequence: u64) {
        self.0.lock().waiting.remove(&(session, sequence));
    }

    /// Hands the verdicts of an applied record to its writer, if that is us.
    pub(super) fn publish(&self, session: SessionId, sequence: u64, verdicts: Vec<SubBatchVerdict>) {
        if let Some(waiter) = self.0.lock().waiting.remove(&(session, sequence)) {
            let _ = waiter.send(verdicts);
        }
    }

    /// Apply has stopped: every waiter fails, now and later.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.0.lock();
        state.stopped = Some(why.to_owned());
        state.waiting.clear();
    }

    /// Why apply has stopped, if it has.
    pub(crate) fn why_stopped(&self) -> Option<String> {
        self.0.lock().stopped.clone()
    }
}
