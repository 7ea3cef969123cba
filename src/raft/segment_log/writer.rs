//! The writer: gathers requests, writes one batch, syncs once, completes them all.
//!
//! Owns the end of the stream. Does not know what runs it, a thread or in a simulation a task. A file error here leaves
//! the kernel's state of the file unknown, so it is [`Fatal`]: the log is read again from the disk or not at all (I11).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_model::failpoint;
#[cfg(not(feature = "simulation"))]
use quorate_model::planted::{Bug, is_planted};

use super::format::{
    ENTRY_HEADER_LEN, GroupId, LogId, Record, SEGMENT_HEADER_LEN, SegmentHeader, begin_batch, encode_record,
    finish_batch,
};
use super::index::Place;
use super::recovery::Recovered;
use super::segments::SegmentFile;
use super::{Completion, GroupShared, Queue, Request, Shared};

/// What one batch takes at most, unless a single request is larger.
const BATCH_BYTES: usize = 16 << 20;
/// A larger buffer is given back after use.
const KEEP_BUFFER: usize = 32 << 20;

/// The log cannot be written any more, and what is in its files is not known.
#[derive(Debug)]
pub(super) struct Fatal {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

impl Fatal {
    pub(super) fn new(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self { action, path: path.to_owned(), error }
    }
}

/// The end of the stream.
#[derive(Debug, Clone, Copy)]
struct End {
    /// Checksum of the last batch.
    chain: u32,
    /// Stream offset.
    offset: u64,
    /// File offset in the last segment.
    at: u64,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    segment: Arc<SegmentFile>,
    end: End,
    buffer: Vec<u8>,
    /// Entries whose payload is in memory, oldest first.
    cached: VecDeque<(Arc<GroupShared>, u64, usize)>,
    cached_bytes: usize,
    /// Whether the last batch is a mark.
    pub(super) marked: bool,
}

/// What the writer can do next.
pub(super) enum Work {
    Requests(Vec<Request>),
    Idle,
    Close,
}

/// A batch that is written and not yet synced.
pub(super) struct Batch {
    written: Vec<Written>,
    done: Vec<Completion>,
    /// Whether it may allow segments to be deleted.
    purged: bool,
}

/// An entry of the batch at hand.
struct Written {
    group: Arc<GroupShared>,
    id: LogId,
    len: usize,
    crc: u32,
    offset: u64,
}

impl Writer {
    /// A writer behind what recovery found; begins the first segment when there is none.
    pub(super) fn new(shared: Arc<Shared>, found: &Recovered) -> io::Result<Self> {
        let (_, _, newest) = shared.segments.numbers();
        let mut end = End { chain: found.chain, offset: found.offset, at: found.end };
        let segment = match shared.segments.get(newest) {
            Some(segment) => segment,
            None => begin_segment(&shared, 1, &mut end)?,
        };
        Ok(Self {
            shared,
            segment,
            end,
            buffer: Vec::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            marked: false,
        })
    }

    /// What there is to do at once in `queue`, which is the log's.
    pub(super) fn work(queue: &mut Queue) -> Option<Work> {
        if !queue.requests.is_empty() {
            return Some(Work::Requests(take_batch(&mut queue.requests)));
        }
        queue.closed.then_some(Work::Close)
    }

    /// Writes requests as one batch, which [`Self::finish`] then syncs.
    pub(super) fn begin(&mut self, mut requests: Vec<Request>) -> Result<Batch, Fatal> {
        self.make_room(requests.iter().map(|request| request.bytes).sum())?;
        let written = self.encode(&mut requests);
        // A group that is forgotten pins nothing any more.
        let frees = |record: &Record| matches!(record, Record::Purge(_) | Record::Group { .. });
        let purged = requests.iter().flat_map(|request| &request.records).any(frees);
        let done: Vec<Completion> = requests.drain(..).filter_map(|request| request.done).collect();

        failpoint::hit("append.before_write");
        self.write_buffer()?;
        failpoint::hit("append.after_write");
        self.count(written.len());
        let mut batch = Batch { written, done, purged };
        if acknowledges_early() {
            self.complete(&mut batch);
        }
        Ok(batch)
    }

    /// Syncs a batch, then completes its requests.
    pub(super) fn finish(&mut self, mut batch: Batch) -> Result<(), Fatal> {
        self.sync()?;
        failpoint::hit("append.after_sync");
        self.complete(&mut batch);
        self.marked = false;
        self.trim_cache(batch.written);
        if batch.purged { self.delete_segments() } else { Ok(()) }
    }

    /// Tells what is durable: first the indexes, then who waits. A second time it finds nothing to do.
    fn complete(&self, batch: &mut Batch) {
        self.publish(&batch.written);
        batch.done.drain(..).for_each(|done| done());
    }

    /// An empty batch behind the last one, with what is committed by now.
    pub(super) fn write_mark(&mut self) -> Result<(), Fatal> {
        if self.marked || self.end.offset == 0 {
            return Ok(());
        }
        self.make_room(0)?;
        begin_batch(&mut self.buffer);
        let groups: Vec<Arc<GroupShared>> = self.shared.groups.lock().values().cloned().collect();
        let mut records = 0;
        for group in &groups {
            records += self.encode_committed(group);
        }
        self.close_batch(records);
        self.write_buffer()?;
        self.sync()?;
        self.count(0);
        self.marked = true;
        Ok(())
    }

    /// Encodes the requests as one batch, following them in the tails.
    fn encode(&mut self, requests: &mut [Request]) -> Vec<Written> {
        begin_batch(&mut self.buffer);
        let mut written = Vec::new();
        let mut records = 0;
        let shared = Arc::clone(&self.shared);
        let mut tails = shared.tails.lock();
        for request in requests.iter() {
            let tail = tails.entry(request.group.id).or_default();
            for record in &request.records {
                let at = self.buffer.len();
                encode_record(&mut self.buffer, request.group.id, record);
                tail.observe(record, self.segment.sequence);
                records += 1;
                if let Record::Entry(entry) = record {
                    let crc_at = at + ENTRY_HEADER_LEN - 4;
                    let crc = self.buffer[crc_at..crc_at + 4].try_into().expect("four bytes");
                    written.push(Written {
                        group: Arc::clone(&request.group),
                        id: entry.id,
                        len: entry.payload.len(),
                        crc: u32::from_le_bytes(crc),
                        offset: self.end.at + (at + ENTRY_HEADER_LEN) as u64,
                    });
                }
            }
        }
        drop(tails);
        let mut groups: Vec<&Arc<GroupShared>> = requests.iter().map(|request| &request.group).collect();
        groups.sort_unstable_by_key(|group| group.id);
        groups.dedup_by_key(|group| group.id);
        for group in groups {
            records += self.encode_committed(group);
        }
        self.close_batch(records);
        written
    }

    /// Adds what is committed in `group` when the stream does not say so yet. Returns the number of records.
    fn encode_committed(&mut self, group: &GroupShared) -> u32 {
        let Some(committed) = group.index.lock().committed else { return 0 };
        let mut tails = self.shared.tails.lock();
        let tail = tails.entry(group.id).or_default();
        if !tail.lacks_commit_of(committed) {
            return 0;
        }
        let record = Record::Committed(committed);
        encode_record(&mut self.buffer, group.id, &record);
        tail.observe(&record, self.segment.sequence);
        1
    }

    fn close_batch(&mut self, records: u32) {
        self.end.chain = finish_batch(&mut self.buffer, self.end.offset, self.end.chain, records);
    }

    fn write_buffer(&mut self) -> Result<(), Fatal> {
        let written = self.segment.file.write_all_at(&self.buffer, self.end.at);
        written.map_err(|error| Fatal::new("write", &self.segment.path, error))?;
        self.end.at += self.buffer.len() as u64;
        self.end.offset += self.buffer.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<(), Fatal> {
        self.segment.file.sync().map_err(|error| Fatal::new("sync", &self.segment.path, error))
    }

    fn count(&mut self, entries: usize) {
        let counters = &self.shared.counters;
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        counters.entries.fetch_add(entries as u64, Ordering::Relaxed);
        if self.buffer.capacity() > KEEP_BUFFER {
            self.buffer = Vec::new();
        }
    }

    /// Tells the indexes where the batch's entries are.
    fn publish(&self, written: &[Written]) {
        let segment = self.segment.sequence;
        for run in written.chunk_by(|a, b| a.group.id == b.group.id) {
            let mut index = run[0].group.index.lock();
            for entry in run {
                if let Some(meta) = index.get_mut(entry.id.index).filter(|meta| meta.id == entry.id) {
                    meta.place = Some(Place { segment, offset: entry.offset });
                    meta.crc = entry.crc;
                }
            }
        }
    }

    /// Forgets the oldest payloads over the limit. What was purged or replaced counts until its turn comes.
    fn trim_cache(&mut self, written: Vec<Written>) {
        for entry in written {
            self.cached_bytes += entry.len;
            self.cached.push_back((entry.group, entry.id.index, entry.len));
        }
        while self.cached_bytes > self.shared.config.cache_bytes {
            let Some((group, index, len)) = self.cached.pop_front() else { break };
            self.cached_bytes -= len;
            if let Some(meta) = group.index.lock().get_mut(index).filter(|meta| meta.place.is_some()) {
                meta.payload = None;
            }
        }
    }

    /// Begins a new segment when `bytes` more would make this one too long.
    fn make_room(&mut self, bytes: usize) -> Result<(), Fatal> {
        let empty = self.end.at <= SEGMENT_HEADER_LEN as u64;
        if empty || self.end.at + bytes as u64 <= self.shared.config.segment_bytes {
            return Ok(());
        }
        let begun = begin_segment(&self.shared, self.segment.sequence + 1, &mut self.end);
        self.segment = begun.map_err(|error| Fatal::new("begin a segment in", &self.shared.dir, error))?;
        Ok(())
    }

    /// Deletes the segments in which no group has a live entry.
    pub(super) fn delete_segments(&self) -> Result<(), Fatal> {
        let oldest = {
            let tails = self.shared.tails.lock();
            tails.values().filter_map(super::Tail::oldest_segment).min()
        };
        let oldest = oldest.unwrap_or(self.segment.sequence).min(self.segment.sequence);
        let deleted = self.shared.segments.delete_below(oldest);
        deleted.map(drop).map_err(|error| Fatal::new("delete segments in", &self.shared.dir, error))
    }
}

/// Creates segment `sequence` behind `end`; it begins with the state of every group.
fn begin_segment(shared: &Shared, sequence: u64, end: &mut End) -> io::Result<Arc<SegmentFile>> {
    let header = SegmentHeader { node: shared.config.node, sequence, start: end.offset, chain: end.chain };
    let mut batch = Vec::new();
    begin_batch(&mut batch);
    let mut records = 0;
    for (group, tail) in shared.tails.lock().iter() {
        for record in tail.checkpoint() {
            encode_record(&mut batch, GroupId(group.0), &record);
            records += 1;
        }
    }
    let chain = finish_batch(&mut batch, end.offset, end.chain, records);
    let mut content = header.encode().to_vec();
    content.extend_from_slice(&batch);
    let segment = shared.segments.create(sequence, &content)?;
    *end = End { chain, offset: end.offset + batch.len() as u64, at: content.len() as u64 };
    Ok(segment)
}

/// Takes requests off the front, up to the bound of a batch.
fn take_batch(requests: &mut Vec<Request>) -> Vec<Request> {
    let mut bytes = 0;
    let fits = requests.iter().take_while(|request| {
        bytes += request.bytes;
        bytes <= BATCH_BYTES
    });
    let count = fits.count().max(1);
    if count == requests.len() {
        return std::mem::take(requests);
    }
    let rest = requests.split_off(count);
    std::mem::replace(requests, rest)
}

/// Whether requests complete before their sync: a planted bug that the crash tests must catch.
fn acknowledges_early() -> bool {
    #[cfg(feature = "simulation")]
    return crate::simulation::acknowledges_early();
    #[cfg(not(feature = "simulation"))]
    is_planted(Bug::AckBeforeSync)
}
