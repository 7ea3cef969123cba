//! One of the 64 stripes of a head: rows with their open chunks, and the unflushed windows of those rows.
//!
//! Knows rows by their number within the stripe, and times. Does not know labels, sessions, tenants or
//! generations; whether a window is sealed is told by the caller. Path: `head::apply` -> **here**.
//! S1: the open chunk of a row lies in one window, which is not sealed. S2: every float of a row in a window
//! that is not sealed is at or before the row's last time. So a later float needs no look-up.

use super::open_chunk::{Full, MAX_SAMPLES, OpenChunk};
use super::side::{SideSample, Value};
use super::window::{OpenCopy, SeriesCopy, WindowStripe};
use super::{ROWS_PER_PAGE, UNSEALED, WindowLength};
use quorate_chunk::{Chunk, ChunkError};
use quorate_model::TimeRange;
use quorate_model::planted::{Bug, is_planted};
use std::collections::HashMap;

/// The row has histograms: a float may meet one at its time.
pub(crate) const HAS_HISTOGRAMS: u8 = 1;
/// The open chunk has start timestamps.
pub(crate) const HAS_STARTS: u8 = 2;

/// One series: 64 bytes, one cache line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Hash of tenant and labels.
    pub(crate) hash: u64,
    /// Newest samples.
    pub(crate) open: OpenChunk,
}

const _: () = assert!(size_of::<Row>() == 64);

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// Stored in a window that is not sealed.
    Stored = 1,
    /// The same bits were there.
    Duplicate = 2,
    /// Other bits were there; they stay.
    Conflict = 3,
    /// Kept for a further generation of a sealed window.
    Late = 4,
}

/// See the module header.
#[derive(Debug, Default)]
pub(crate) struct Stripe {
    pages: Vec<Option<Vec<Row>>>,
    windows: Vec<WindowStripe>,
    /// What the windows count as late.
    late_bytes: u64,
    starts: HashMap<u32, Vec<(u8, i64)>>,
    /// Newest histogram of each row that had one since the start; only for telling idle rows.
    histogram_ts: HashMap<u32, i64>,
    length: WindowLength,
}

impl Stripe {
    /// A stripe without rows.
    pub(crate) fn new(length: WindowLength) -> Self {
        Self { length, ..Self::default() }
    }

    /// Adds the next row; rows come in increasing order of their numbers.
    pub(crate) fn add_row(&mut self, row: u32, hash: u64) {
        let (page, at) = (row as usize / ROWS_PER_PAGE, row as usize % ROWS_PER_PAGE);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(Vec::new);
        let empty = || Row { hash: 0, open: OpenChunk::new() };
        if page.len() <= at {
            page.resize_with(at, empty);
            page.push(Row { hash, open: OpenChunk::new() });
        } else {
            page[at].hash = hash;
        }
    }

    /// The row, which exists.
    pub(crate) fn row_mut(&mut self, row: u32) -> &mut Row {
        let page = self.pages[row as usize / ROWS_PER_PAGE].as_mut();
        &mut page.expect("a page with live rows is kept")[row as usize % ROWS_PER_PAGE]
    }

    /// The row, if its page is there.
    pub(crate) fn row(&self, row: u32) -> Option<&Row> {
        self.pages.get(row as usize / ROWS_PER_PAGE)?.as_ref()?.get(row as usize % ROWS_PER_PAGE)
    }

    /// Numbers of all rows in kept pages, freed ones included, increasing.
    pub(crate) fn row_numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.iter().enumerate().flat_map(|(number, page)| {
            let first = (number * ROWS_PER_PAGE) as u32;
            (first..).take(page.as_ref().map_or(0, Vec::len))
        })
    }

    /// Takes a sample of the window that starts at `window_start`, and decides about it.
    pub(crate) fn insert(
        &mut self,
        row: u32,
        window_start: i64,
        is_sealed: bool,
        ts_ms: i64,
        sample: SideSample,
    ) -> Result<Verdict, ChunkError> {
        let open = &self.row_mut(row).open;
        let is_newest = ts_ms > open.last_ts;
        if (is_sealed || !is_newest || open.marks & HAS_HISTOGRAMS != 0)
            && let Some(there) = self.find(row, window_start, ts_ms)?
        {
            let same = there.same_bits(&sample.value);
            if same && is_planted(Bug::NoIdentity) {
                return self.insert(row, window_start, is_sealed, ts_ms + 1, sample);
            }
            return Ok(if same { Verdict::Duplicate } else { Verdict::Conflict });
        }
        match sample.value {
            Value::Float(bits) if is_newest && !is_sealed => {
                self.append(row, window_start, ts_ms, bits, sample.start_ms)?;
            }
            _ => {
                if matches!(sample.value, Value::Histogram(_)) {
                    self.row_mut(row).open.marks |= HAS_HISTOGRAMS;
                    let newest = self.histogram_ts.entry(row).or_insert(ts_ms);
                    *newest = ts_ms.max(*newest);
                }
                let window = self.window_mut(window_start);
                let before = window.late_bytes() as u64;
                window.set_late(is_sealed);
                window.push_side(row, ts_ms, sample)?;
                let after = window.late_bytes() as u64;
                self.late_bytes = self.late_bytes + after - before;
            }
        }
        Ok(if is_sealed { Verdict::Late } else { Verdict::Stored })
    }

    /// Cuts the open chunks of these windows and takes out everything unflushed of them. `window_starts` is
    /// increasing, and so is the result. Looks at every row once, however many windows there are.
    pub(crate) fn seal(&mut self, window_starts: &[i64]) -> Result<Vec<WindowStripe>, ChunkError> {
        for row in self.rows_open_in(window_starts) {
            self.cut(row)?;
        }
        let mut take = |window_start: i64| {
            let at = self.windows.iter().position(|w| w.start_ms() == window_start);
            at.map_or_else(|| WindowStripe::new(window_start), |at| self.windows.remove(at))
        };
        let taken: Vec<_> = window_starts.iter().map(|start| take(*start)).collect();
        self.late_bytes -= taken.iter().map(|window| window.late_bytes() as u64).sum::<u64>();
        Ok(taken)
    }

    /// Memory that counts against the late budget, in bytes.
    pub(crate) fn late_bytes(&self) -> u64 {
        self.late_bytes
    }

    /// Notes which windows were cut before, and counts anew.
    pub(crate) fn restore_late(&mut self, is_late: impl Fn(i64) -> bool) {
        self.windows.iter_mut().for_each(|window| window.set_late(is_late(window.start_ms())));
        self.late_bytes = self.windows.iter().map(|window| window.late_bytes() as u64).sum();
    }

    /// Adds copies of the row's unflushed samples in `range` to `out`.
    pub(crate) fn copy(&self, row: u32, range: TimeRange, out: &mut SeriesCopy) {
        let Some(open) = self.row(row).map(|r| &r.open) else { return };
        if open.count > 0 {
            let window_start = self.length.start_of(open.last_ts);
            if range.overlaps(&TimeRange::new(window_start, open.last_ts)) {
                let starts = self.starts.get(&row).cloned().unwrap_or_default();
                out.push_open(OpenCopy { window_start, chunk: open.clone(), starts });
            }
        }
        self.windows.iter().for_each(|window| window.copy(row, range, UNSEALED, out));
    }

    /// Whether the row may have unflushed samples in `range`.
    pub(crate) fn overlaps(&self, row: u32, range: TimeRange) -> bool {
        let open = self.row(row).map(|r| &r.open);
        open.is_some_and(|open| {
            let window_start = self.length.start_of(open.last_ts);
            open.count > 0 && range.overlaps(&TimeRange::new(window_start, open.last_ts))
        }) || self.windows.iter().any(|window| window.overlaps(row, range))
    }

    /// Whether nothing of the row is unflushed here and its newest sample is before `before_ms`.
    pub(crate) fn is_idle(&self, row: u32, before_ms: i64) -> bool {
        let is_old = |r: &Row| r.open.count == 0 && r.open.last_ts < before_ms;
        self.row(row).is_none_or(is_old)
            && self.histogram_ts.get(&row).is_none_or(|ts| *ts < before_ms)
            && !self.windows.iter().any(|w| w.has(row))
    }

    /// The unflushed windows without the open chunks.
    pub(crate) fn windows(&self) -> &[WindowStripe] {
        &self.windows
    }

    /// Changes of the start timestamp in the row's open chunk.
    pub(crate) fn starts(&self, row: u32) -> Option<&[(u8, i64)]> {
        self.starts.get(&row).map(Vec::as_slice)
    }

    /// Puts back what an image held of a row: its open chunk and the starts in it.
    pub(crate) fn restore_row(&mut self, row: u32, open: OpenChunk, starts: Vec<(u8, i64)>) {
        self.row_mut(row).open = open;
        if !starts.is_empty() {
            self.starts.insert(row, starts);
        }
    }

    /// The window's unflushed samples, begun now if there are none.
    pub(crate) fn window_mut(&mut self, window_start: i64) -> &mut WindowStripe {
        let at = self.windows.partition_point(|w| w.start_ms() < window_start);
        if self.windows.get(at).is_none_or(|w| w.start_ms() != window_start) {
            self.windows.insert(at, WindowStripe::new(window_start));
        }
        &mut self.windows[at]
    }

    /// Drops pages all of whose rows `is_free` accepts.
    pub(crate) fn release_pages(&mut self, is_free: impl Fn(u32) -> bool) {
        self.histogram_ts.retain(|row, _| !is_free(*row));
        for (number, page) in self.pages.iter_mut().enumerate() {
            let first = (number * ROWS_PER_PAGE) as u32;
            let is_whole = page.as_ref().is_some_and(|p| p.len() == ROWS_PER_PAGE);
            if is_whole && (first..first + ROWS_PER_PAGE as u32).all(&is_free) {
                *page = None;
            }
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages: usize = self.pages.iter().flatten().map(|p| p.capacity() * size_of::<Row>()).sum();
        let open: usize = self.pages.iter().flatten().flatten().map(|r| r.open.heap_bytes()).sum();
        let windows: usize = self.windows.iter().map(WindowStripe::memory_bytes).sum();
        pages + open + windows + self.starts.capacity() * 64 + self.histogram_ts.capacity() * 16
    }

    /// Number of chunks, open and cut.
    pub(crate) fn chunk_count(&self) -> usize {
        let open = self.pages.iter().flatten().flatten().filter(|r| r.open.count > 0).count();
        open + self.windows.iter().map(WindowStripe::chunk_count).sum::<usize>()
    }

    fn append(
        &mut self,
        row: u32,
        window_start: i64,
        ts_ms: i64,
        bits: u64,
        start_ms: i64,
    ) -> Result<(), ChunkError> {
        let open = &self.row_mut(row).open;
        let is_other_window = open.count > 0 && open.last_ts < window_start;
        if is_other_window || open.count >= MAX_SAMPLES {
            self.cut(row)?;
        }
        let open = &mut self.row_mut(row).open;
        if open.append(window_start, ts_ms, bits) == Err(Full) {
            self.cut(row)?;
            let again = self.row_mut(row).open.append(window_start, ts_ms, bits);
            again.expect("an empty chunk takes a sample");
        }
        self.note_start(row, start_ms);
        Ok(())
    }

    /// Remembers the start timestamp of the sample that was appended last, if it is a change.
    fn note_start(&mut self, row: u32, start_ms: i64) {
        let open = &mut self.row_mut(row).open;
        if start_ms == 0 && open.marks & HAS_STARTS == 0 {
            return;
        }
        open.marks |= HAS_STARTS;
        let index = open.count - 1;
        let changes = self.starts.entry(row).or_default();
        if changes.last().map_or(0, |c| c.1) != start_ms {
            changes.push((index, start_ms));
        }
    }

    fn cut(&mut self, row: u32) -> Result<(), ChunkError> {
        let chunk = self.row_mut(row).open.clone();
        let window_start = self.length.start_of(chunk.last_ts);
        let copy = OpenCopy { window_start, chunk, starts: self.starts.remove(&row).unwrap_or_default() };
        let mut samples = quorate_model::SeriesBuffer::default();
        copy.read(TimeRange::ALL, &mut samples);
        let chunk = Chunk::from_floats(&samples.ts_ms, &samples.values, &samples.start_ms)?;
        self.window_mut(window_start).push_chunk(row, &chunk);
        let open = &mut self.row_mut(row).open;
        open.clear();
        open.marks &= !HAS_STARTS;
        Ok(())
    }

    fn find(&self, row: u32, window_start: i64, ts_ms: i64) -> Result<Option<Value>, ChunkError> {
        let open = self.row(row).map(|r| &r.open).filter(|o| o.count > 0 && o.last_ts >= window_start);
        if let Some(open) = open.filter(|o| self.length.start_of(o.last_ts) == window_start) {
            if ts_ms == open.last_ts {
                return Ok(Some(Value::Float(open.last_bits)));
            }
            let (mut times, mut values) = (Vec::new(), Vec::new());
            open.decode(window_start, &mut times, &mut values);
            if let Ok(at) = times.binary_search(&ts_ms) {
                return Ok(Some(Value::Float(values[at].to_bits())));
            }
        }
        let window = self.windows.iter().find(|w| w.start_ms() == window_start);
        window.map_or(Ok(None), |w| w.find(row, ts_ms))
    }

    fn rows_open_in(&self, window_starts: &[i64]) -> Vec<u32> {
        let is_in = |ts_ms: i64| window_starts.binary_search(&self.length.start_of(ts_ms)).is_ok();
        let mut rows = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            for (at, row) in page.iter().flatten().enumerate() {
                if row.open.count > 0 && is_in(row.open.last_ts) {
                    rows.push((number * ROWS_PER_PAGE + at) as u32);
                }
            }
        }
        rows
    }
}
