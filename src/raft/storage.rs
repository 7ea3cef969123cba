//! openraft's log storage on one group of the segment log.
//!
//! Stateless: everything is in [`GroupLog`]. Payloads stay one `Bytes` from the proposal to the file.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::disk::blocking;
use crate::segment_log::{GroupLog, SegmentError};
use crate::types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, from_entry, from_log_id, from_vote, to_entry, to_log_id,
    to_vote,
};

/// The most payload that one replication message carries; openraft itself counts entries only.
const READ_BYTES: usize = 4 << 20;

/// Log storage and log reader of one group.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
}

impl LogStore {
    pub(crate) fn new(log: GroupLog) -> Self {
        Self { log }
    }

    async fn load(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let plan = self.log.plan_read(from, to, max_bytes)?;
        let entries =
            if plan.is_in_memory() { plan.load()? } else { blocking(move || plan.load()).await?? };
        entries.into_iter().map(from_entry).collect()
    }
}

/// Queues a request and waits until it is durable.
pub(crate) async fn durable(
    request: impl FnOnce(Box<dyn FnOnce() + Send>) -> Result<(), SegmentError>,
) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    // Nobody may be waiting any more; the record is durable all the same.
    request(Box::new(move || {
        sender.send(()).ok();
    }))?;
    receiver.await.map_err(|_| io::Error::from(SegmentError::Closed))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.load(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.load(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.state().vote.map(from_vote))
    }

    /// The last id of each leader.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<RaftLogId>,
    ) -> Result<Vec<RaftLogId>, io::Error> {
        let ids = self.log.ids(range.start().index, range.end().index.saturating_add(1));
        let mut keys: Vec<RaftLogId> = Vec::new();
        for id in ids.into_iter().map(from_log_id) {
            match keys.last_mut().filter(|key| key.leader_id == id.leader_id) {
                Some(key) => *key = id,
                None => keys.push(id),
            }
        }
        Ok(keys)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(|purged| from_log_id(purged.up_to)),
            last_log_id: state.last.map(from_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        durable(|done| self.log.save_vote(to_vote(vote), done)).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(to_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.log.state().committed.map(from_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (entries, permits): (Vec<_>, Vec<_>) = entries.into_iter().map(to_entry).unzip();
        let done = Box::new(move || {
            drop(permits);
            callback.io_completed(Ok(()));
        });
        Ok(self.log.append(entries, done)?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        Ok(self.log.truncate_after(last_log_id.map(|id| id.index))?)
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        Ok(self.log.purge(to_log_id(&log_id))?)
    }
}
