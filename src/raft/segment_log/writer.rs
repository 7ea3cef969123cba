//! The writer thread: gathers requests, writes one batch, syncs once, completes them all.
//!
//! Owns the end of the stream. A file error here leaves the kernel's state of the file unknown, so the process
//! ends at once and the log is read again from the disk (I11).

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use quorate_model::failpoint;

use super::format::{
    ENTRY_HEADER_LEN, GroupId, LogId, Record, SEGMENT_HEADER_LEN, SegmentHeader, begin_batch, encode_record,
    finish_batch,
};
use super::index::Place;
use super::recovery::Recovered;
use super::segments::SegmentFile;
use super::{Completion, GroupShared, Request, Shared};

/// What one batch takes at most, unless a single request is larger.
const BATCH_BYTES: usize = 16 << 20;
/// A larger buffer is given back after use.
const KEEP_BUFFER: usize = 32 << 20;

/// Starts the writer behind what recovery found; begins the first segment when there is none.
pub(super) fn start(shared: Arc<Shared>, found: &Recovered) -> io::Result<JoinHandle<()>> {
    let (_, _, newest) = shared.segments.numbers();
    let dir = shared.dir.clone();
    let mut end = End { chain: found.chain, offset: found.offset, at: found.end };
    let segment = match shared.segments.get(newest) {
        Some(segment) => segment,
        None => begin_segment(&shared, 1, &mut end)?,
    };
    let mut writer = Writer {
        shared,
        segment,
        end,
        buffer: Vec::new(),
        cached: VecDeque::new(),
        cached_bytes: 0,
        marked: false,
    };
    let run = move || {
        // Requests that lost their writer would wait for ever: a panic here ends the process as an error does.
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            die("write", &dir, &io::Error::other("the writer panicked"));
        }
    };
    std::thread::Builder::new().name("raft-log".to_owned()).spawn(run)
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

struct Writer {
    shared: Arc<Shared>,
    segment: Arc<SegmentFile>,
    end: End,
    buffer: Vec<u8>,
    /// Entries whose payload is in memory, oldest first.
    cached: VecDeque<(Arc<GroupShared>, u64, usize)>,
    cached_bytes: usize,
    /// Whether the last batch is a mark.
    marked: bool,
}

enum Work {
    Requests(Vec<Request>),
    Idle,
    Close,
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
    fn run(&mut self) {
        // A crash may have come between a purge and the deletion that it allowed.
        self.delete_segments();
        loop {
            match self.wait() {
                Work::Requests(requests) => self.write(requests),
                Work::Idle => self.write_mark(),
                Work::Close => {
                    self.write_mark();
                    return;
                }
            }
        }
    }

    fn wait(&self) -> Work {
        let mut queue = self.shared.queue.lock();
        loop {
            if !queue.requests.is_empty() {
                return Work::Requests(take_batch(&mut queue.requests));
            }
            if queue.closed {
                return Work::Close;
            }
            if self.marked {
                self.shared.wake.wait(&mut queue);
            } else if self.shared.wake.wait_for(&mut queue, self.shared.config.mark_after).timed_out() {
                return if queue.requests.is_empty() && !queue.closed { Work::Idle } else { continue };
            }
        }
    }

    fn write(&mut self, mut requests: Vec<Request>) {
        self.make_room(requests.iter().map(|request| request.bytes).sum());
        let written = self.encode(&mut requests);
        let purged = requests.iter().flat_map(|r| &r.records).any(|r| matches!(r, Record::Purge(_)));
        let done: Vec<Completion> = requests.drain(..).filter_map(|request| request.done).collect();

        failpoint::hit("append.before_write");
        self.write_buffer();
        failpoint::hit("append.after_write");
        self.count(written.len());
        if cfg!(feature = "planted-ack-before-sync") {
            self.publish(&written);
            done.into_iter().for_each(|done| done());
            self.sync();
            failpoint::hit("append.after_sync");
        } else {
            self.sync();
            failpoint::hit("append.after_sync");
            self.publish(&written);
            done.into_iter().for_each(|done| done());
        }
        self.marked = false;
        self.trim_cache(written);
        if purged {
            self.delete_segments();
        }
    }

    /// An empty batch behind the last one, with what is committed by now.
    fn write_mark(&mut self) {
        if self.marked || self.end.offset == 0 {
            return;
        }
        self.make_room(0);
        begin_batch(&mut self.buffer);
        let groups: Vec<Arc<GroupShared>> = self.shared.groups.lock().values().cloned().collect();
        let mut records = 0;
        for group in &groups {
            records += self.encode_committed(group);
        }
        self.finish(records);
        self.write_buffer();
        self.sync();
        self.count(0);
        self.marked = true;
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
        self.finish(records);
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

    fn finish(&mut self, records: u32) {
        self.end.chain = finish_batch(&mut self.buffer, self.end.offset, self.end.chain, records);
    }

    fn write_buffer(&mut self) {
        if let Err(error) = self.segment.file.write_all_at(&self.buffer, self.end.at) {
            die("write", &self.segment.path, &error);
        }
        self.end.at += self.buffer.len() as u64;
        self.end.offset += self.buffer.len() as u64;
    }

    fn sync(&self) {
        if let Err(error) = self.segment.file.sync_data() {
            die("sync", &self.segment.path, &error);
        }
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
    fn make_room(&mut self, bytes: usize) {
        let empty = self.end.at <= SEGMENT_HEADER_LEN as u64;
        if empty || self.end.at + bytes as u64 <= self.shared.config.segment_bytes {
            return;
        }
        match begin_segment(&self.shared, self.segment.sequence + 1, &mut self.end) {
            Ok(segment) => self.segment = segment,
            Err(error) => die("begin a segment in", &self.shared.dir, &error),
        }
    }

    /// Deletes the segments in which no group has a live entry.
    fn delete_segments(&self) {
        let oldest = {
            let tails = self.shared.tails.lock();
            tails.values().filter_map(super::Tail::oldest_segment).min()
        };
        let oldest = oldest.unwrap_or(self.segment.sequence).min(self.segment.sequence);
        if let Err(error) = self.shared.segments.delete_below(oldest) {
            die("delete segments in", &self.shared.dir, &error);
        }
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

/// Ends the process: the file's state is unknown, and only reading it again from the disk tells.
fn die(action: &str, path: &Path, error: &io::Error) -> ! {
    tracing::error!(path = %path.display(), %error, "cannot {action} the log; the process ends now");
    eprintln!("quorate: cannot {action} the log {}: {error}; the process ends now", path.display());
    std::process::abort();
}
