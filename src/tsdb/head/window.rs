//! The unflushed samples of one window in one stripe: cut chunks and side buffers.
//!
//! Knows rows by their number within the stripe. Does not know labels, generations or locks.
//! Path: `head::stripe` -> **here**; once its generation is sealed it is shared unchanged with readers and the
//! flush.
//! W1: a time stands once among all samples of a row in one window, both lanes together. The stripe checks it
//! before it adds. W2: a side buffer is encoded before it holds more than a few samples, or a share of those in the
//! chunks that it overlaps; so what comes out of order costs a row little more than what comes in order.

use super::offset::Offset;
use super::open_chunk::{MAX_SAMPLES, OpenChunk};
use super::side::{self, SideBuffer, SideSample, Value, push};
use super::symbols::reserve;
use super::{ROWS_PER_PAGE, UNSEALED};
use quorate_chunk::{Chunk, ChunkError, ChunkRef, Lane};
use quorate_model::{SeriesBuffer, TimeRange};
use std::collections::HashMap;

/// A side buffer is encoded when it holds a multiple of this many samples, counted when a float joins it. A share of
/// the chunk's entry makes fewer dear, 48 bytes a sample more.
const FLOAT_RUN: usize = 16;
/// The same, counted when a histogram joins it.
const HISTOGRAM_RUN: usize = 32;
/// A side buffer that lies between samples in chunks waits for this share of their number: what comes in any order
/// then makes few chunks that overlap, each of which a look-up decodes.
const OVERLAP_SHARE: usize = 8;
const SHARED_TIMES: usize = 16;

/// One cut chunk. Offsets point into the window's bytes.
#[derive(Debug, Clone)]
struct Entry {
    /// One more than the number of the row's chunk before, 0 for none.
    previous: u32,
    times_at: Offset,
    times_len: u32,
    values_at: Offset,
    values_len: u32,
    starts_len: u32,
    /// First and last time, counted from the window's start.
    first: u32,
    last: u32,
    count: u16,
    lane: Lane,
    has_stale: bool,
}

/// See the module header.
#[derive(Debug)]
pub(crate) struct WindowStripe {
    start_ms: i64,
    /// For each page of rows: one more than the number of each row's newest chunk, 0 for none.
    newest: Vec<Option<Box<[u32; ROWS_PER_PAGE]>>>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    side: HashMap<u32, SideBuffer>,
    /// What the side buffers cost, and the part of it that is for floats.
    side_bytes: usize,
    float_bytes: usize,
    /// The window was cut before: everything here is late.
    is_late: bool,
    /// Pages of `newest` that are there.
    pages: usize,
    /// The last distinct columns of times: neighbours scraped together share theirs.
    shared_times: Vec<(Offset, u32)>,
    next_shared: usize,
}

impl WindowStripe {
    /// Nothing of the window that starts at `start_ms`.
    pub(crate) fn new(start_ms: i64) -> Self {
        Self {
            start_ms,
            newest: Vec::new(),
            entries: Vec::new(),
            bytes: Vec::new(),
            side: HashMap::new(),
            side_bytes: 0,
            float_bytes: 0,
            is_late: false,
            pages: 0,
            shared_times: Vec::new(),
            next_shared: 0,
        }
    }

    /// First millisecond of the window.
    pub(crate) fn start_ms(&self) -> i64 {
        self.start_ms
    }

    /// Adds a cut chunk of the row.
    pub(crate) fn push_chunk(&mut self, row: u32, chunk: &Chunk) {
        let (times_at, times_len) = self.store_times(&chunk.times);
        reserve(&mut self.bytes, chunk.values.len() + chunk.starts.len());
        let values_at = Offset::new(self.bytes.len());
        self.bytes.extend_from_slice(&chunk.values);
        self.bytes.extend_from_slice(&chunk.starts);
        let entry = Entry {
            previous: self.newest_of(row),
            times_at,
            times_len,
            values_at,
            values_len: chunk.values.len() as u32,
            starts_len: chunk.starts.len() as u32,
            first: chunk.min_ts_ms.wrapping_sub(self.start_ms) as u32,
            last: chunk.max_ts_ms.wrapping_sub(self.start_ms) as u32,
            count: chunk.count as u16,
            lane: chunk.lane,
            has_stale: chunk.has_stale,
        };
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact((self.entries.len() / 8).max(16));
        }
        self.entries.push(entry);
        let page = row as usize / ROWS_PER_PAGE;
        if self.newest.len() <= page {
            self.newest.resize_with(page + 1, || None);
        }
        let page = self.newest[page].get_or_insert_with(|| {
            self.pages += 1;
            Box::new([0; ROWS_PER_PAGE])
        });
        page[row as usize % ROWS_PER_PAGE] = self.entries.len() as u32;
    }

    /// Adds a sample to the row's side buffer, which is encoded once it is long enough (W2).
    pub(crate) fn push_side(&mut self, row: u32, ts_ms: i64, sample: SideSample) -> Result<(), ChunkError> {
        let is_float = matches!(sample.value, Value::Float(_));
        let side = self.side.entry(row).or_default();
        let bytes = sample.memory_bytes();
        self.side_bytes += bytes;
        self.float_bytes += if is_float { bytes } else { 0 };
        side.insert(ts_ms, sample);
        let len = side.len();
        if !len.is_multiple_of(if is_float { FLOAT_RUN } else { HISTOGRAM_RUN }) {
            return Ok(());
        }
        let between =
            side.bounds().map_or(0, |(first, last)| self.samples_in(row, TimeRange::new(first, last)));
        if len >= between / OVERLAP_SHARE { self.encode_side(row) } else { Ok(()) }
    }

    fn encode_side(&mut self, row: u32) -> Result<(), ChunkError> {
        let mut run = SeriesBuffer::default();
        let side = self.side.remove(&row).unwrap_or_default();
        side.for_each(|ts, sample| push(&mut run, ts, sample));
        let floats = run.values.len() * side::SAMPLE_BYTES;
        let histograms: usize = run.histograms.iter().map(|h| side::histogram_bytes(h)).sum();
        self.side_bytes -= floats + histograms;
        self.float_bytes -= floats;
        let mut chunks = Vec::new();
        quorate_chunk::cut_buffer(&run, usize::from(MAX_SAMPLES), &mut chunks)?;
        chunks.iter().for_each(|chunk| self.push_chunk(row, chunk));
        Ok(())
    }

    /// Samples of the row in the chunks that overlap `range`.
    fn samples_in(&self, row: u32, range: TimeRange) -> usize {
        let overlapping = self.entries_of(row).filter(|e| range.overlaps(&self.range_of(e)));
        overlapping.map(|e| usize::from(e.count)).sum()
    }

    /// The row's sample at `ts_ms`, if there is one.
    pub(crate) fn find(&self, row: u32, ts_ms: i64) -> Result<Option<Value>, ChunkError> {
        if let Some(sample) = self.side.get(&row).and_then(|side| side.get(ts_ms)) {
            return Ok(Some(sample.value.clone()));
        }
        let mut found = SeriesBuffer::default();
        for entry in self.entries_of(row) {
            let offset = ts_ms.wrapping_sub(self.start_ms) as u32;
            if entry.first <= offset && offset <= entry.last {
                self.chunk(entry).read(TimeRange::new(ts_ms, ts_ms), &mut found)?;
            }
            if let Some(value) = found.values.first() {
                return Ok(Some(Value::Float(value.to_bits())));
            }
            if let Some(histogram) = found.histograms.first() {
                return Ok(Some(Value::Histogram(histogram.clone())));
            }
        }
        Ok(None)
    }

    /// Whether the row has anything here.
    pub(crate) fn has(&self, row: u32) -> bool {
        self.newest_of(row) != 0 || self.side.contains_key(&row)
    }

    /// Whether the row has a chunk or side buffer whose first and last time enclose a part of `range`.
    pub(crate) fn overlaps(&self, row: u32, range: TimeRange) -> bool {
        let side = self.side.get(&row).and_then(SideBuffer::bounds);
        side.is_some_and(|(first, last)| range.overlaps(&TimeRange::new(first, last)))
            || self.entries_of(row).any(|e| range.overlaps(&self.range_of(e)))
    }

    /// Adds copies of what the row has in `range`, with `rank`, to `out`.
    pub(crate) fn copy(&self, row: u32, range: TimeRange, rank: u32, out: &mut SeriesCopy) {
        for entry in self.entries_of(row).filter(|e| range.overlaps(&self.range_of(e))) {
            out.push_chunk(rank, entry.first_ts(self.start_ms), self.chunk(entry));
        }
        if let Some(side) = self.side.get(&row) {
            let run = out.side_run(rank, side.bounds().map_or(0, |b| b.0));
            side.for_each(|ts, sample| {
                if range.contains(ts) {
                    push(run, ts, sample);
                }
            });
        }
    }

    /// Rows that have something here, increasing.
    pub(crate) fn rows(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.side.keys().copied().collect();
        for (number, page) in self.newest.iter().enumerate() {
            let Some(page) = page else { continue };
            let base = (number * ROWS_PER_PAGE) as u32;
            rows.extend((0..ROWS_PER_PAGE).filter(|at| page[*at] != 0).map(|at| base + at as u32));
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Number of cut chunks.
    pub(crate) fn chunk_count(&self) -> usize {
        self.entries.len()
    }

    /// Notes whether the window was cut before.
    pub(crate) fn set_late(&mut self, is_late: bool) {
        self.is_late = is_late;
    }

    /// Memory that counts against the late budget: of a window that was cut before all, else that of floats in side
    /// buffers. Histograms lie there also when they come in order.
    pub(crate) fn late_bytes(&self) -> usize {
        if self.is_late { self.memory_bytes() } else { self.float_bytes }
    }

    /// Memory held, in bytes. Cheap: counted as it grows.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages = self.pages * ROWS_PER_PAGE * 4;
        let entries = self.entries.capacity() * size_of::<Entry>();
        pages + entries + self.bytes.capacity() + self.side_bytes + self.side.capacity() * 40
    }

    /// Appends the row's samples as chunks, if they were cut in order: no side buffer, no lane mixed with the
    /// other, each chunk behind the one before and none as short as a run of a side buffer. Else false, and `out` is
    /// unspecified.
    pub(crate) fn copy_in_order(&self, row: u32, out: &mut Vec<Chunk>) -> bool {
        if self.side.contains_key(&row) {
            return false;
        }
        for entry in self.entries_of(row) {
            let range = self.range_of(entry);
            let after = out.last().map(|c| (c.lane, c.min_ts_ms));
            if after.is_some_and(|(lane, min_ts_ms)| lane != entry.lane || range.end_ms >= min_ts_ms) {
                return false;
            }
            if !out.is_empty() && entry.lane == Lane::Float && usize::from(entry.count) <= FLOAT_RUN {
                return false;
            }
            let chunk = self.chunk(entry);
            out.push(Chunk {
                lane: entry.lane,
                count: chunk.count,
                min_ts_ms: range.start_ms,
                max_ts_ms: range.end_ms,
                has_stale: entry.has_stale,
                times: chunk.times.to_vec(),
                values: chunk.values.to_vec(),
                starts: chunk.starts.to_vec(),
            });
        }
        out.reverse();
        true
    }

    /// The row's cut chunks, oldest first.
    pub(crate) fn chunks(&self, row: u32) -> Vec<ChunkRef<'_>> {
        let mut chunks: Vec<_> = self.entries_of(row).map(|entry| self.chunk(entry)).collect();
        chunks.reverse();
        chunks
    }

    /// The row's side buffer.
    pub(crate) fn side(&self, row: u32) -> Option<&SideBuffer> {
        self.side.get(&row)
    }

    fn newest_of(&self, row: u32) -> u32 {
        let page = self.newest.get(row as usize / ROWS_PER_PAGE);
        page.and_then(Option::as_ref).map_or(0, |page| page[row as usize % ROWS_PER_PAGE])
    }

    fn entries_of(&self, row: u32) -> impl Iterator<Item = &Entry> {
        let mut next = self.newest_of(row);
        std::iter::from_fn(move || {
            let entry = self.entries.get(next.checked_sub(1)? as usize)?;
            next = entry.previous;
            Some(entry)
        })
    }

    fn range_of(&self, entry: &Entry) -> TimeRange {
        let last = self.start_ms.saturating_add(i64::from(entry.last));
        TimeRange::new(entry.first_ts(self.start_ms), last)
    }

    fn chunk(&self, entry: &Entry) -> ChunkRef<'_> {
        let values_at = entry.values_at.get();
        let values_end = values_at + entry.values_len as usize;
        ChunkRef {
            lane: entry.lane,
            count: u32::from(entry.count),
            times: self.at(entry.times_at, entry.times_len),
            values: &self.bytes[values_at..values_end],
            starts: &self.bytes[values_end..values_end + entry.starts_len as usize],
        }
    }

    fn at(&self, at: Offset, len: u32) -> &[u8] {
        &self.bytes[at.get()..at.get() + len as usize]
    }

    fn store_times(&mut self, times: &[u8]) -> (Offset, u32) {
        let same = |(at, len): &&(Offset, u32)| self.at(*at, *len) == times;
        if let Some(shared) = self.shared_times.iter().find(same) {
            return *shared;
        }
        reserve(&mut self.bytes, times.len());
        let stored = (Offset::new(self.bytes.len()), times.len() as u32);
        self.bytes.extend_from_slice(times);
        if self.shared_times.len() < SHARED_TIMES {
            self.shared_times.push(stored);
        } else {
            self.shared_times[self.next_shared] = stored;
            self.next_shared = (self.next_shared + 1) % SHARED_TIMES;
        }
        stored
    }
}

impl Entry {
    fn first_ts(&self, start_ms: i64) -> i64 {
        start_ms.saturating_add(i64::from(self.first))
    }
}

/// Copied samples of one series, still encoded where they were: what a query takes out of a lock.
#[derive(Debug, Default)]
pub(crate) struct SeriesCopy {
    bytes: Vec<u8>,
    chunks: Vec<CopiedChunk>,
    runs: Vec<(u32, i64, SeriesBuffer)>,
    open: Vec<OpenCopy>,
}

/// A copy of an open chunk.
#[derive(Debug)]
pub(crate) struct OpenCopy {
    pub(crate) window_start: i64,
    pub(crate) chunk: OpenChunk,
    /// Changes of the start timestamp: index of the first sample, start.
    pub(crate) starts: Vec<(u8, i64)>,
}

impl OpenCopy {
    /// Appends the samples in `range` to the float lane of `out`.
    pub(crate) fn read(&self, range: TimeRange, out: &mut SeriesBuffer) {
        let before = out.ts_ms.len();
        self.chunk.decode(self.window_start, &mut out.ts_ms, &mut out.values);
        if !self.starts.is_empty() || !out.start_ms.is_empty() {
            self.read_starts(before, out);
        }
        let new = &out.ts_ms[before..];
        let first = before + new.partition_point(|ts| *ts < range.start_ms);
        let end = before + new.partition_point(|ts| *ts <= range.end_ms);
        keep(&mut out.ts_ms, before, first, end);
        keep(&mut out.values, before, first, end);
        keep(&mut out.start_ms, before, first, end);
    }

    fn read_starts(&self, before: usize, out: &mut SeriesBuffer) {
        out.start_ms.resize(out.ts_ms.len(), 0);
        let mut last = out.ts_ms.len();
        for (index, start_ms) in self.starts.iter().rev() {
            let from = before + usize::from(*index);
            out.start_ms[from..last].fill(*start_ms);
            last = from;
        }
    }
}

#[derive(Debug)]
struct CopiedChunk {
    rank: u32,
    first_ts: i64,
    lane: Lane,
    count: u32,
    at: usize,
    lens: [usize; 3],
}

/// Keeps of a column's part from `before` on what lies in `first..end`.
fn keep<T>(column: &mut Vec<T>, before: usize, first: usize, end: usize) {
    if !column.is_empty() {
        column.truncate(end.max(first));
        column.drain(before..first);
    }
}

/// A part of a copy: a chunk still encoded, or samples.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Chunk(ChunkRef<'a>),
    Run(&'a SeriesBuffer),
    Open(&'a OpenCopy),
}

impl SeriesCopy {
    /// Adds an encoded chunk.
    pub(crate) fn push_chunk(&mut self, rank: u32, first_ts: i64, chunk: ChunkRef<'_>) {
        let at = self.bytes.len();
        let streams = [chunk.times, chunk.values, chunk.starts];
        streams.iter().for_each(|stream| self.bytes.extend_from_slice(stream));
        let lens = streams.map(<[u8]>::len);
        self.chunks.push(CopiedChunk { rank, first_ts, lane: chunk.lane, count: chunk.count, at, lens });
    }

    /// Adds a copy of an open chunk.
    pub(crate) fn push_open(&mut self, open: OpenCopy) {
        self.open.push(open);
    }

    /// Begins a run of decoded samples, in time order, whose first time is at or after `first_ts`.
    pub(crate) fn side_run(&mut self, rank: u32, first_ts: i64) -> &mut SeriesBuffer {
        self.runs.push((rank, first_ts, SeriesBuffer::default()));
        &mut self.runs.last_mut().expect("just pushed").2
    }

    /// The parts with their rank and first time, in no order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u32, i64, Piece<'_>)> {
        let chunks = self.chunks.iter().map(|c| {
            let (times, rest) = self.bytes[c.at..].split_at(c.lens[0]);
            let (values, rest) = rest.split_at(c.lens[1]);
            let starts = &rest[..c.lens[2]];
            let chunk = ChunkRef { lane: c.lane, count: c.count, times, values, starts };
            (c.rank, c.first_ts, Piece::Chunk(chunk))
        });
        let runs = self.runs.iter().map(|(rank, first, run)| (*rank, *first, Piece::Run(run)));
        let open = self.open.iter().map(|open| (UNSEALED, open.window_start, Piece::Open(open)));
        chunks.chain(runs).chain(open)
    }

    /// Empties the copy and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.chunks.clear();
        self.runs.clear();
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn float(bits: u64) -> SideSample {
        SideSample { start_ms: 0, value: Value::Float(bits) }
    }

    fn times(window: &WindowStripe, row: u32) -> Vec<i64> {
        let mut copy = SeriesCopy::default();
        window.copy(row, TimeRange::ALL, 0, &mut copy);
        let mut out = SeriesBuffer::default();
        for (_, _, piece) in copy.pieces() {
            match piece {
                Piece::Chunk(chunk) => chunk.read(TimeRange::ALL, &mut out).unwrap(),
                Piece::Run(run) => out.ts_ms.extend(&run.ts_ms),
                Piece::Open(_) => unreachable!("nothing was appended"),
            }
        }
        out.ts_ms.sort_unstable();
        out.ts_ms
    }

    /// Pushes these times and checks that all are found; gives the window and the most chunks that enclose one time.
    #[track_caller]
    fn check_side(order: impl Iterator<Item = i64>) -> (WindowStripe, usize) {
        let mut window = WindowStripe::new(0);
        let mut all = BTreeMap::new();
        for (at, ts) in (0..).zip(order) {
            assert!(window.find(7, ts).unwrap().is_none());
            window.push_side(7, ts, float(at)).unwrap();
            all.insert(ts, at);
        }
        for (ts, bits) in &all {
            assert!(window.find(7, *ts).unwrap().unwrap().same_bits(&Value::Float(*bits)), "at {ts}");
        }
        assert_eq!(times(&window, 7), all.keys().copied().collect::<Vec<_>>());
        let raw = window.side.values().map(|side| side.len() * side::SAMPLE_BYTES).sum();
        assert_eq!((window.float_bytes, window.side_bytes), (raw, raw));
        let enclosing = |ts: i64| window.entries_of(7).filter(|e| window.range_of(e).contains(ts)).count();
        let most = all.keys().map(|ts| enclosing(*ts)).max().unwrap();
        (window, most)
    }

    #[test]
    fn samples_behind_others_are_encoded_after_a_few() {
        let (window, most) = check_side((0..240).map(|step| step * 15_000));
        assert_eq!((window.side_bytes, window.chunk_count(), most), (0, 15, 1));
        assert!(window.memory_bytes() < 240 * 40, "{}", window.memory_bytes());
        assert!(!window.copy_in_order(7, &mut Vec::new()), "a block gets longer chunks");
    }

    #[test]
    fn any_order_makes_few_chunks_that_overlap_and_little_that_is_not_encoded() {
        let (window, most) = check_side((0..20_011).map(|step| step * 7_919 % 20_011));
        assert!(most < 80, "{most} chunks enclose one time");
        assert!(window.side_bytes <= (20_011 / OVERLAP_SHARE + FLOAT_RUN) * side::SAMPLE_BYTES);
    }

    #[test]
    fn backwards_is_as_cheap_as_forwards() {
        let (window, most) = check_side((0..2_400).rev());
        assert_eq!((window.side_bytes, window.chunk_count(), most), (0, 150, 1));
    }
}
