//! The segment log: one append-only log per disk for all Raft groups of a node (C11).
//!
//! Votes, entries, truncations and purges of all groups are records of one stream, so the order of the stream
//! is the order of durability. One writer thread gathers what is queued, writes it as one batch, calls
//! fdatasync once and then completes every waiting callback.
//! Knows groups by number and payloads as bytes. Does not know openraft, partitions or what payloads mean.
//! Path: `raft::storage` -> **here** -> `raft::disk`.
//! S1: a callback runs only after its records and all before them are synced.
//! S2: an error of write or sync ends the process; nothing is ever synced twice in hope (I11).

mod error;
pub mod format;
mod index;
mod reader;
mod recovery;
mod segments;
#[cfg(feature = "simulation")]
mod task;
#[cfg(not(feature = "simulation"))]
mod thread;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::disk::{Claim, Disk, RealDisk};

pub use error::SegmentError;
use format::{ENTRY_HEADER_LEN, Record};
pub use format::{Entry, EntryKind, GroupId, LogId, Purge, Snapshot, Vote};
use index::{EntryMeta, GroupIndex, Tail};
pub use reader::ReadPlan;
use segments::Segments;
#[cfg(feature = "simulation")]
use task::{Running, Wake, finish, start};
#[cfg(not(feature = "simulation"))]
use thread::{Running, Wake, finish, start};

/// Settings of a segment log.
#[derive(Debug, Clone)]
pub struct SegmentLogConfig {
    /// The node that owns the log; a log of another node is refused.
    pub node: u64,
    /// A segment is closed when the next batch would make it longer. A longer batch gets its own.
    pub segment_bytes: u64,
    /// Payloads kept in memory for readers that follow the end, over all groups.
    pub cache_bytes: usize,
    /// After this long without work the writer adds an empty batch: damage to the batch before it can then be
    /// told from an interrupted write.
    pub mark_after: Duration,
}

impl SegmentLogConfig {
    /// The defaults for `node`.
    pub fn new(node: u64) -> Self {
        Self { node, segment_bytes: 64 << 20, cache_bytes: 64 << 20, mark_after: Duration::from_millis(100) }
    }
}

/// The largest payload of one entry.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Segments below which no group is asked to trim.
const MIN_PINNED_SEGMENTS: usize = 8;

/// Runs once the records of its request are durable.
pub(crate) type Completion = Box<dyn FnOnce() + Send>;

/// What has happened to a log since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentLogStats {
    /// Batches written, each with one fdatasync.
    pub batches: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries written.
    pub entries: u64,
    /// Segment files there are.
    pub segments: usize,
    /// Bytes of an interrupted write that were cut off when the log was opened.
    pub torn_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    bytes: AtomicU64,
    entries: AtomicU64,
}

struct Request {
    group: Arc<GroupShared>,
    records: Vec<Record>,
    bytes: usize,
    done: Option<Completion>,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    closed: bool,
}

#[derive(Debug)]
struct GroupShared {
    id: GroupId,
    index: Mutex<GroupIndex>,
}

struct Shared {
    dir: PathBuf,
    config: SegmentLogConfig,
    queue: Mutex<Queue>,
    wake: Wake,
    segments: Segments,
    groups: Mutex<BTreeMap<GroupId, Arc<GroupShared>>>,
    /// What the stream says, by group; written by the writer only.
    tails: Mutex<BTreeMap<GroupId, Tail>>,
    counters: Counters,
    torn: u64,
}

/// An open segment log. Dropping it flushes and closes it.
pub struct SegmentLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<Running>>,
    claim: Mutex<Option<Box<dyn Claim>>>,
}

impl SegmentLog {
    /// Opens the log in `dir`, recovering what is there, or begins one.
    ///
    /// Cost: reads every segment once.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] with file and offset when acknowledged bytes are damaged or missing,
    /// [`SegmentError::Busy`] when another process has it open, [`SegmentError::Io`] otherwise.
    pub fn open(dir: &Path, config: SegmentLogConfig) -> Result<Self, SegmentError> {
        Self::open_on(Arc::new(RealDisk), dir, config)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, config: SegmentLogConfig) -> Result<Self, SegmentError> {
        let claim = disk.claim(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SegmentError::Busy { path: dir.to_owned() },
            _ => SegmentError::io("claim", dir, error),
        })?;
        let mut found = recovery::recover(&*disk, dir, &config)?;
        let torn = found.torn;
        if torn > 0 {
            tracing::warn!(dir = %dir.display(), bytes = torn, "cut an interrupted write off the log");
        }
        let groups = std::mem::take(&mut found.groups).into_iter().map(|(id, index)| {
            let index = Mutex::new(index);
            (id, Arc::new(GroupShared { id, index }))
        });
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            queue: Mutex::new(Queue::default()),
            wake: Wake::default(),
            segments: Segments::new(disk, dir, std::mem::take(&mut found.segments)),
            groups: Mutex::new(groups.collect()),
            tails: Mutex::new(std::mem::take(&mut found.tails)),
            counters: Counters::default(),
            torn,
            config,
        });
        let writer = writer::Writer::new(Arc::clone(&shared), &found)
            .and_then(start)
            .map_err(|error| SegmentError::io("start the writer of", dir, error))?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)), claim: Mutex::new(Some(claim)) })
    }

    /// The part of the log that belongs to `group`. A group that was not there begins with `incarnation`.
    pub fn group(&self, group: GroupId, incarnation: u32) -> Result<GroupLog, SegmentError> {
        let entry = {
            let mut groups = self.shared.groups.lock();
            let new = || Arc::new(GroupShared { id: group, index: Mutex::default() });
            Arc::clone(groups.entry(group).or_insert_with(new))
        };
        let mut index = entry.index.lock();
        let is_new = index.incarnation.is_none();
        let incarnation = *index.incarnation.get_or_insert(incarnation);
        let log = GroupLog { shared: Arc::clone(&self.shared), group: Arc::clone(&entry), incarnation };
        if is_new {
            log.enqueue(vec![Record::Group { incarnation }], None)?;
        }
        drop(index);
        Ok(log)
    }

    /// Numbers of the groups in the log.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.groups.lock().keys().copied().collect()
    }

    /// Groups whose oldest live entry lies in one of the oldest quarter of the segments, once there are
    /// a few segments: below that a trim would cost more than it frees.
    /// The owner of each must trim it now: cut an image, then purge.
    pub fn oldest_pinning_groups(&self) -> Vec<GroupId> {
        let (count, first, _) = self.shared.segments.numbers();
        if count < MIN_PINNED_SEGMENTS {
            return Vec::new();
        }
        let limit = first + (count / 4) as u64;
        let tails = self.shared.tails.lock();
        let pins = |tail: &Tail| tail.oldest_segment().is_some_and(|oldest| oldest < limit);
        tails.iter().filter(|(_, tail)| pins(tail)).map(|(group, _)| *group).collect()
    }

    /// Counters.
    pub fn stats(&self) -> SegmentLogStats {
        let counters = &self.shared.counters;
        SegmentLogStats {
            batches: counters.batches.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            entries: counters.entries.load(Ordering::Relaxed),
            segments: self.shared.segments.numbers().0,
            torn_bytes: self.shared.torn,
        }
    }

    /// Writes what is queued, then closes the log; later requests get [`SegmentError::Closed`]. Blocks.
    pub fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.lock().take() {
            finish(writer);
        }
        self.claim.lock().take();
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where an entry was written.
#[cfg(feature = "simulation")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPlace {
    /// The entry.
    pub id: LogId,
    /// The segment's file.
    pub path: PathBuf,
    /// Offset behind the entry in the file.
    pub end: u64,
}

/// One group's log within a segment log. Clones share it. Once the group is forgotten it takes nothing any more
/// ([`SegmentError::Forgotten`]): a task of the group that still runs then cannot bring back what it had.
#[derive(Clone)]
pub struct GroupLog {
    shared: Arc<Shared>,
    group: Arc<GroupShared>,
    /// The group's when this was handed out.
    incarnation: u32,
}

/// A group's small state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// Differs whenever the group's log was lost and begun again.
    pub incarnation: u32,
    /// The newest vote.
    pub vote: Option<Vote>,
    /// How far the log is purged.
    pub purged: Option<Purge>,
    /// Last entry; the purged one when there is none.
    pub last: Option<LogId>,
    /// Last entry known committed.
    pub committed: Option<LogId>,
    /// What stands for the purged entries.
    pub snapshot: Option<Snapshot>,
    /// The last entry that was here when the group was forgotten. What this node promised by having it still holds.
    pub floor: Option<LogId>,
}

impl GroupLog {
    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.group.id
    }

    /// The state as last queued.
    pub fn state(&self) -> GroupState {
        let index = self.group.index.lock();
        GroupState {
            incarnation: index.incarnation.unwrap_or(0),
            vote: index.vote,
            purged: index.purged,
            last: index.last(),
            committed: index.committed,
            snapshot: index.snapshot.clone(),
            floor: index.floor,
        }
    }

    /// The newest vote. It is known here before it is durable, and durable before it is told to anybody.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.group.index.lock().vote
    }

    /// Whether the log does not hold yet what it held when the group was forgotten, or what stands for it.
    pub(crate) fn is_below_floor(&self) -> bool {
        self.group.index.lock().is_below_floor()
    }

    /// The last entry that was here when the group was forgotten.
    pub(crate) fn floor(&self) -> Option<LogId> {
        self.group.index.lock().floor
    }

    fn writable(&self) -> Result<MutexGuard<'_, GroupIndex>, SegmentError> {
        let index = self.group.index.lock();
        match index.incarnation == Some(self.incarnation) {
            true => Ok(index),
            false => Err(SegmentError::Forgotten { group: self.group.id }),
        }
    }

    /// Begins the group anew with another incarnation: nothing is left but its vote and the id of its last entry. `done`
    /// runs when it is durable.
    pub(crate) fn forget(&self, incarnation: u32, done: Completion) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        index.floor = index.floor.max(index.last());
        index.begin(incarnation);
        let mut records = vec![Record::Group { incarnation }];
        records.extend(index.floor.map(Record::Floor));
        self.enqueue(records, Some(done))
    }

    /// Queues a vote. `done` runs when it is durable.
    pub(crate) fn save_vote(&self, vote: Vote, done: Completion) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        index.vote = Some(vote);
        self.enqueue(vec![Record::Vote(vote)], Some(done))
    }

    /// Queues entries, which are readable at once. `done` runs when they are durable.
    ///
    /// # Errors
    /// [`SegmentError::Hole`] when the entries do not continue the log, [`SegmentError::TooLarge`].
    pub(crate) fn append(&self, entries: Vec<Entry>, done: Completion) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        let first = entries.first().map_or(0, |first| first.id.index);
        for (expected, entry) in (first..).zip(&entries) {
            if entry.payload.len() > MAX_PAYLOAD {
                return Err(SegmentError::TooLarge { len: entry.payload.len() });
            }
            if entry.id.index != expected || (expected == first && !index.takes(first)) {
                return Err(SegmentError::Hole { group: self.group.id, index: entry.id.index });
            }
        }
        for entry in &entries {
            index.append(EntryMeta::queued(entry));
        }
        self.enqueue(entries.into_iter().map(Record::Entry).collect(), Some(done))
    }

    /// Removes the entries after `after`, or all. Durable before anything queued later.
    pub(crate) fn truncate_after(&self, after: Option<u64>) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        index.truncate_after(after);
        self.enqueue(vec![Record::TruncateAfter(after)], None)
    }

    /// Removes the entries up to `up_to`. Segments without live entries are deleted once it is durable.
    pub(crate) fn purge(&self, up_to: LogId) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        let purge = index.purge_of(up_to);
        index.purge(purge);
        self.enqueue(vec![Record::Purge(purge)], None)
    }

    /// Replaces the snapshot. `done` runs when it is durable.
    pub(crate) fn save_snapshot(&self, snapshot: Snapshot, done: Completion) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        index.snapshot = Some(snapshot.clone());
        self.enqueue(vec![Record::Snapshot(snapshot)], Some(done))
    }

    /// Replaces the snapshot and removes what it stands for, in one batch: a crash leaves both or neither.
    pub(crate) fn save_snapshot_and_purge(
        &self,
        snapshot: Snapshot,
        purge: Purge,
        done: Completion,
    ) -> Result<(), SegmentError> {
        let mut index = self.writable()?;
        index.snapshot = Some(snapshot.clone());
        index.purge(purge);
        self.enqueue(vec![Record::Snapshot(snapshot), Record::Purge(purge)], Some(done))
    }

    /// Remembers what is committed. Written with the group's next batch, so that it costs no sync of its own.
    pub(crate) fn save_committed(&self, committed: Option<LogId>) {
        let Ok(mut index) = self.writable() else { return };
        index.committed = committed.max(index.committed);
    }

    /// The newest membership entry at or before `up_to`.
    pub(crate) fn last_membership(&self, up_to: u64) -> Option<LogId> {
        let index = self.group.index.lock();
        let mut entries = index.range(0, up_to.saturating_add(1)).rev();
        entries.find(|meta| meta.kind == EntryKind::Membership).map(|meta| meta.id)
    }

    /// Where the log ends, at least `after`, if no entry after `after` changes the members.
    pub(crate) fn same_members_after(&self, after: u64) -> Option<u64> {
        self.group.index.lock().same_members_after(after)
    }

    /// Index of the newest proposal at or before `up_to`, purged ones included; 0 if there was none.
    pub(crate) fn last_proposal(&self, up_to: u64) -> u64 {
        self.group.index.lock().last_proposal(up_to)
    }

    /// The last entry before the newest ones that take up to `bytes`; 0 if all do.
    pub(crate) fn before_newest(&self, bytes: u64) -> u64 {
        self.group.index.lock().before_newest(bytes)
    }

    /// The last entry before the first proposal after `after`, at most `limit`.
    pub(crate) fn last_before_proposal(&self, after: u64, limit: u64) -> u64 {
        self.group.index.lock().last_before_proposal(after, limit)
    }

    /// Whether the log takes nothing any more.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.queue.lock().closed
    }

    /// Where the entry at `index` was written, once the log says so.
    #[cfg(feature = "simulation")]
    pub(crate) fn place(&self, index: u64) -> Option<EntryPlace> {
        let index = self.group.index.lock().range(index, index + 1).next().cloned()?;
        let place = index.place?;
        let segment = self.shared.segments.get(place.segment)?;
        let end = place.offset + u64::from(index.len);
        Some(EntryPlace { id: index.id, path: segment.path.clone(), end })
    }

    /// Ids of the entries with `from <= index < to`.
    pub(crate) fn ids(&self, from: u64, to: u64) -> Vec<LogId> {
        self.group.index.lock().range(from, to).map(|meta| meta.id).collect()
    }

    /// Plans a read of entries with `from <= index < to`: at most `max_bytes` of payload, but at least one
    /// entry if there is any. See [`ReadPlan`].
    pub fn plan_read(&self, from: u64, to: u64, max_bytes: usize) -> Result<ReadPlan, SegmentError> {
        ReadPlan::new(&self.shared.segments, &self.group.index.lock(), from, to, max_bytes)
    }

    /// Reads entries, from memory or disk; see [`Self::plan_read`]. May block.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, SegmentError> {
        self.plan_read(from, to, max_bytes)?.load()
    }

    /// Callers hold the group's index, so that the queue has a group's records in the order of its index.
    fn enqueue(&self, records: Vec<Record>, done: Option<Completion>) -> Result<(), SegmentError> {
        let bytes = records.iter().map(record_bytes).sum();
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(SegmentError::Closed);
        }
        let was_empty = queue.requests.is_empty();
        queue.requests.push(Request { group: Arc::clone(&self.group), records, bytes, done });
        drop(queue);
        if was_empty {
            self.shared.wake.notify_one();
        }
        Ok(())
    }
}

/// An upper bound of what a record takes in a batch.
fn record_bytes(record: &Record) -> usize {
    match record {
        Record::Entry(entry) => ENTRY_HEADER_LEN + entry.payload.len(),
        Record::Snapshot(snapshot) => 64 + snapshot.membership.len(),
        _ => 64,
    }
}
