//! The fake: a log in memory that can be told to fail.
//!
//! Clones share the log, so a clone is what reopening gives. Positions have gaps, as the contract allows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::Position;
use tokio::sync::watch;

use crate::{LogEntry, LogError, LogReader, PartitionLog};

/// Entries that one read returns at most.
const READ_ENTRIES: usize = 64;

/// How the next append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused without effect.
    Unavailable,
    /// No answer, and the entry is there.
    LostAnswer,
    /// No answer, and the entry is not there.
    LostEntry,
}

/// A log in memory.
#[derive(Clone)]
pub struct MemLog {
    shared: Arc<Shared>,
}

struct Shared {
    incarnation: u32,
    state: Mutex<State>,
    committed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<u64, Bytes>,
    last: u64,
    trimmed: u64,
    faults: VecDeque<Fault>,
    wants_trim: bool,
}

impl Default for MemLog {
    fn default() -> Self {
        Self::with_incarnation(1)
    }
}

impl MemLog {
    /// An empty log of this incarnation.
    pub fn with_incarnation(incarnation: u32) -> Self {
        let (committed, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { incarnation, state: Mutex::default(), committed }) }
    }

    /// Lets the next append fail. Several faults wait for one append each.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.state.lock().faults.push_back(fault);
    }

    /// Lets the log want a trim until it gets one.
    pub fn want_trim(&self) {
        self.shared.state.lock().wants_trim = true;
    }

    /// The entries that are there.
    pub fn entries(&self) -> Vec<LogEntry> {
        let state = self.shared.state.lock();
        let entry = |(position, payload): (&u64, &Bytes)| LogEntry::new(Position(*position), payload.clone());
        state.entries.iter().map(entry).collect()
    }
}

impl State {
    fn append(&mut self, entry: Bytes) -> u64 {
        // Every third position is left out.
        self.last += if self.last % 3 == 1 { 2 } else { 1 };
        self.entries.insert(self.last, entry);
        self.last
    }
}

#[async_trait]
impl PartitionLog for MemLog {
    async fn append(&self, entry: Bytes) -> Result<Position, LogError> {
        let mut state = self.shared.state.lock();
        let fault = state.faults.pop_front();
        let reason = || "the test said so".to_owned();
        match fault {
            Some(Fault::Unavailable) => return Err(LogError::Unavailable { reason: reason() }),
            Some(Fault::LostEntry) => return Err(LogError::Indeterminate { reason: reason() }),
            Some(Fault::LostAnswer) | None => {}
        }
        let position = state.append(entry);
        self.shared.committed.send_replace(position);
        match fault {
            None => Ok(Position(position)),
            Some(_) => Err(LogError::Indeterminate { reason: reason() }),
        }
    }

    fn read_from(&self, after: Position) -> Box<dyn LogReader> {
        let committed = self.shared.committed.subscribe();
        Box::new(MemReader { shared: Arc::clone(&self.shared), committed, after: after.0 })
    }

    async fn committed(&self) -> Result<Position, LogError> {
        Ok(Position(self.shared.state.lock().last))
    }

    async fn trim(&self, up_to: Position) -> Result<(), LogError> {
        let mut state = self.shared.state.lock();
        let up_to = up_to.0.min(state.last);
        state.wants_trim = false;
        if up_to > state.trimmed {
            state.trimmed = up_to;
            state.entries = state.entries.split_off(&(up_to + 1));
        }
        Ok(())
    }

    fn wants_trim(&self) -> bool {
        self.shared.state.lock().wants_trim
    }

    fn incarnation(&self) -> u32 {
        self.shared.incarnation
    }
}

struct MemReader {
    shared: Arc<Shared>,
    committed: watch::Receiver<u64>,
    after: u64,
}

#[async_trait]
impl LogReader for MemReader {
    async fn next(&mut self) -> Result<Vec<LogEntry>, LogError> {
        let after = self.after;
        if after > self.shared.state.lock().last {
            return Err(LogError::Lost { after: Position(after) });
        }
        // The sender lives in `shared`, which this reader holds.
        let _ = self.committed.wait_for(|now| *now > after).await;
        let state = self.shared.state.lock();
        if after < state.trimmed {
            return Err(LogError::Trimmed { after: Position(after) });
        }
        let next = state.entries.range(after + 1..).take(READ_ENTRIES);
        let entries: Vec<LogEntry> =
            next.map(|(position, payload)| LogEntry::new(Position(*position), payload.clone())).collect();
        self.after = entries.last().map_or(after, |last| last.position.0);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Place, check_log};
    use quorate_model::ErrorCode;

    #[derive(Default)]
    struct Memory(MemLog);

    #[async_trait]
    impl Place for Memory {
        async fn open(&mut self) -> Arc<dyn PartitionLog> {
            Arc::new(self.0.clone())
        }

        async fn close(&mut self) {}
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_keeps_the_contract() {
        check_log(Memory::default).await;
    }

    #[tokio::test]
    async fn faults_say_what_they_do() {
        let log = MemLog::default();
        for fault in [Fault::Unavailable, Fault::LostEntry, Fault::LostAnswer] {
            log.fail_next(fault);
        }
        let mut codes = Vec::new();
        for text in ["a", "b", "c"] {
            codes.push(log.append(text.into()).await.unwrap_err().code());
        }
        assert_eq!(codes, [ErrorCode::Unavailable, ErrorCode::Indeterminate, ErrorCode::Indeterminate]);
        log.append("d".into()).await.unwrap();
        let there: Vec<Bytes> = log.entries().into_iter().map(|entry| entry.payload).collect();
        assert_eq!(there, ["c", "d"]);
    }
}
