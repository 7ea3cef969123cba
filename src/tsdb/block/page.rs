//! Pages: the chunks of up to 256 neighbouring series in one value, with each distinct column of times once.
//!
//! Form: `version u8`, series, columns; for each column count, first time (signed, to the column before),
//! span, bytes; for each series its number of chunks and for each chunk `column * 8 + flags` (1 histogram
//! lane, 2 has a stale marker, 4 has starts), bytes of values and, by flag, of starts; then the columns' bytes,
//! then values and starts chunk after chunk. All numbers are varints.

use crate::StoreError;
use quorate_chunk::{Chunk, ChunkError, ChunkRef, Lane, MAX_SAMPLES, times, varint};
use quorate_model::{SeriesBuffer, TimeRange};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

const VERSION: u8 = 1;
const HISTOGRAM: u64 = 1;
const STALE: u64 = 2;
const STARTS: u64 = 4;
/// Most series of a page.
pub(super) const MAX_SERIES: u32 = 256;
/// A page is closed when its streams reach this many bytes.
pub(super) const TARGET_BYTES: usize = 64 << 10;

/// Collects chunks for one page. Reused: [`PageBuilder::clear`] keeps the memory.
#[derive(Debug, Default)]
pub(super) struct PageBuilder {
    series: u32,
    columns: Vec<(u32, i64, u64, usize)>,
    column_of: HashMap<Vec<u8>, u32>,
    column_bytes: Vec<u8>,
    table: Vec<u8>,
    bodies: Vec<u8>,
}

impl PageBuilder {
    pub(super) fn clear(&mut self) {
        self.series = 0;
        self.columns.clear();
        self.column_of.clear();
        self.column_bytes.clear();
        self.table.clear();
        self.bodies.clear();
    }

    /// Number of series so far.
    pub(super) fn series(&self) -> u32 {
        self.series
    }

    /// Whether the next series belongs into another page.
    pub(super) fn is_full(&self) -> bool {
        self.series >= MAX_SERIES || self.bodies.len() + self.column_bytes.len() >= TARGET_BYTES
    }

    /// Adds the chunks of the next series.
    pub(super) fn push(&mut self, chunks: &[Chunk]) {
        self.series += 1;
        varint::put(&mut self.table, chunks.len() as u64);
        for chunk in chunks {
            let column = self.column(chunk);
            let lane = if chunk.lane == Lane::Histogram { HISTOGRAM } else { 0 };
            let stale = if chunk.has_stale { STALE } else { 0 };
            let starts = if chunk.starts.is_empty() { 0 } else { STARTS };
            varint::put(&mut self.table, u64::from(column) << 3 | lane | stale | starts);
            varint::put(&mut self.table, chunk.values.len() as u64);
            self.bodies.extend_from_slice(&chunk.values);
            if starts != 0 {
                varint::put(&mut self.table, chunk.starts.len() as u64);
                self.bodies.extend_from_slice(&chunk.starts);
            }
        }
    }

    fn column(&mut self, chunk: &Chunk) -> u32 {
        if let Some(column) = self.column_of.get(chunk.times.as_slice()) {
            // Equal bytes with another count is possible only for constant steps.
            if self.columns[*column as usize].0 == chunk.count {
                return *column;
            }
        }
        let number = self.columns.len() as u32;
        let span = chunk.max_ts_ms.abs_diff(chunk.min_ts_ms);
        self.columns.push((chunk.count, chunk.min_ts_ms, span, chunk.times.len()));
        self.column_bytes.extend_from_slice(&chunk.times);
        self.column_of.insert(chunk.times.clone(), number);
        number
    }

    /// Writes the page into `out`, which is cleared.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(VERSION);
        varint::put(out, u64::from(self.series));
        varint::put(out, self.columns.len() as u64);
        let mut last = 0i64;
        for (count, min_ts_ms, span, bytes) in &self.columns {
            varint::put(out, u64::from(*count));
            varint::put_signed(out, min_ts_ms.wrapping_sub(last));
            varint::put(out, *span);
            varint::put(out, *bytes as u64);
            last = *min_ts_ms;
        }
        out.extend_from_slice(&self.table);
        out.extend_from_slice(&self.column_bytes);
        out.extend_from_slice(&self.bodies);
    }
}

#[derive(Debug)]
struct Column {
    count: u32,
    range: TimeRange,
    bytes: Range<usize>,
    times: OnceLock<Box<[i64]>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    column: u32,
    flags: u8,
    at: u32,
    values: u32,
    starts: u32,
}

/// A page, taken apart once and then read many times.
#[derive(Debug)]
pub(super) struct Page {
    bytes: Vec<u8>,
    columns: Vec<Column>,
    entries: Vec<Entry>,
    /// Entries of series `i` are `first[i]..first[i + 1]`.
    first: Vec<u32>,
    weight: u64,
}

impl Page {
    /// Takes a page apart; it begins at byte `from` of `bytes`. `None` if it is not one.
    pub(super) fn parse(bytes: Vec<u8>, from: usize) -> Option<Self> {
        let mut rest = bytes.get(from..)?;
        if varint::take_bytes(&mut rest, 1)?[0] != VERSION {
            return None;
        }
        let series = varint::take_len(&mut rest, MAX_SERIES as usize)?;
        let mut columns = take_columns(&mut rest, bytes.len())?;
        let (first, mut entries) = take_entries(&mut rest, series, columns.len())?;
        let mut at = bytes.len() - rest.len();
        for column in &mut columns {
            column.bytes = at..at.checked_add(column.bytes.end)?;
            at = column.bytes.end;
        }
        for entry in &mut entries {
            entry.at = u32::try_from(at).ok()?;
            at = at.checked_add(entry.values as usize)?.checked_add(entry.starts as usize)?;
        }
        let decoded: u64 = columns.iter().map(|column| u64::from(column.count) * 8 + 64).sum();
        let weight = bytes.len() as u64 + decoded + entries.len() as u64 * 20 + 200;
        (at == bytes.len()).then_some(Self { bytes, columns, entries, first, weight })
    }

    /// Memory when every column of times is decoded.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    fn entries(&self, series: u32) -> Option<&[Entry]> {
        let from = *self.first.get(series as usize)?;
        let to = *self.first.get(series as usize + 1)?;
        self.entries.get(from as usize..to as usize)
    }

    fn chunk(&self, entry: &Entry) -> ChunkRef<'_> {
        let column = &self.columns[entry.column as usize];
        let values = entry.at as usize..(entry.at + entry.values) as usize;
        let starts = values.end..values.end + entry.starts as usize;
        ChunkRef {
            lane: if u64::from(entry.flags) & HISTOGRAM != 0 { Lane::Histogram } else { Lane::Float },
            count: column.count,
            times: &self.bytes[column.bytes.clone()],
            values: &self.bytes[values],
            starts: &self.bytes[starts],
        }
    }

    fn times(&self, column: u32) -> Result<&[i64], ChunkError> {
        let column = &self.columns[column as usize];
        if let Some(times) = column.times.get() {
            return Ok(times);
        }
        let mut decoded = Vec::new();
        times::decode(&self.bytes[column.bytes.clone()], column.count, &mut decoded)?;
        Ok(column.times.get_or_init(|| decoded.into()))
    }

    /// Appends the samples of a series in `range`. `None` if the page has no such series.
    pub(super) fn read(
        &self,
        series: u32,
        range: TimeRange,
        out: &mut SeriesBuffer,
    ) -> Option<Result<(), ChunkError>> {
        for entry in self.entries(series)? {
            if !self.columns[entry.column as usize].range.overlaps(&range) {
                continue;
            }
            let read =
                self.times(entry.column).and_then(|times| self.chunk(entry).read_at(times, range, out));
            if read.is_err() {
                return Some(read);
            }
        }
        Some(Ok(()))
    }

    /// Appends copies of the chunks of a series. `None` if the page has no such series.
    pub(super) fn chunks(&self, series: u32, out: &mut Vec<Chunk>) -> Option<()> {
        for entry in self.entries(series)? {
            let chunk = self.chunk(entry);
            let range = self.columns[entry.column as usize].range;
            out.push(Chunk {
                lane: chunk.lane,
                count: chunk.count,
                min_ts_ms: range.start_ms,
                max_ts_ms: range.end_ms,
                has_stale: u64::from(entry.flags) & STALE != 0,
                times: chunk.times.to_vec(),
                values: chunk.values.to_vec(),
                starts: chunk.starts.to_vec(),
            });
        }
        Some(())
    }
}

/// The columns, with their lengths in `bytes.end` until their place is known.
fn take_columns(rest: &mut &[u8], limit: usize) -> Option<Vec<Column>> {
    let count = varint::take_len(rest, rest.len())?;
    let mut columns = Vec::with_capacity(count);
    let mut last = 0i64;
    for _ in 0..count {
        let samples = varint::take_len(rest, MAX_SAMPLES)? as u32;
        let start_ms = last.wrapping_add(varint::take_signed(rest)?);
        let end_ms = start_ms.checked_add_unsigned(varint::take(rest)?)?;
        let bytes = varint::take_len(rest, limit)?;
        let range = TimeRange::new(start_ms, end_ms);
        columns.push(Column { count: samples, range, bytes: 0..bytes, times: OnceLock::new() });
        last = start_ms;
    }
    Some(columns)
}

/// Where each series' entries begin, and the entries without their places.
fn take_entries(rest: &mut &[u8], series: usize, columns: usize) -> Option<(Vec<u32>, Vec<Entry>)> {
    let mut first = Vec::with_capacity(series + 1);
    let mut entries = Vec::new();
    first.push(0);
    for _ in 0..series {
        for _ in 0..varint::take_len(rest, rest.len())? {
            let head = varint::take(rest)?;
            let column = u32::try_from(head >> 3).ok().filter(|c| (*c as usize) < columns)?;
            let values = varint::take_len(rest, u32::MAX as usize)? as u32;
            let starts = match head & STARTS {
                0 => 0,
                _ => varint::take_len(rest, u32::MAX as usize)? as u32,
            };
            entries.push(Entry { column, flags: head as u8 & 7, at: 0, values, starts });
        }
        first.push(entries.len() as u32);
    }
    Some((first, entries))
}

/// The error of a chunk within a page.
pub(super) fn chunk_error(error: &ChunkError, place: StoreError) -> StoreError {
    match place {
        StoreError::Damaged { place, .. } => StoreError::Damaged { place, detail: error.to_string() },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn built(series: &[Vec<Chunk>]) -> Vec<u8> {
        let mut builder = PageBuilder::default();
        series.iter().for_each(|chunks| builder.push(chunks));
        let mut out = Vec::new();
        builder.finish(&mut out);
        out
    }

    fn chunk(first: i64, values: &[f64]) -> Chunk {
        let ts_ms: Vec<i64> = (0..values.len() as i64).map(|i| first + i * 10).collect();
        Chunk::from_floats(&ts_ms, values, &[]).unwrap()
    }

    #[test]
    fn equal_columns_of_times_are_stored_once() {
        let same: Vec<Vec<Chunk>> = (0..200).map(|i| vec![chunk(1_000, &[f64::from(i); 50])]).collect();
        let page = Page::parse(built(&same), 0).unwrap();
        assert_eq!((page.columns.len(), page.first.len()), (1, 201));
        let shorter = [vec![chunk(0, &[1.0; 5])], vec![chunk(0, &[1.0; 6])]];
        let page = Page::parse(built(&shorter), 0).unwrap();
        let mut out = SeriesBuffer::default();
        page.read(1, TimeRange::ALL, &mut out).unwrap().unwrap();
        assert_eq!(out.ts_ms, [0, 10, 20, 30, 40, 50]);
    }

    #[test]
    fn chunks_come_back_as_they_were_given() {
        let mut started = chunk(7, &[1.0, f64::NAN]);
        started =
            Chunk { starts: Chunk::from_floats(&[1, 2], &[1.0, 2.0], &[5, 6]).unwrap().starts, ..started };
        let stale = chunk(-5, &[1.0, quorate_model::stale_nan()]);
        let given = [vec![], vec![started.clone(), stale.clone()], vec![stale]];
        let page = Page::parse([vec![9; 3], built(&given)].concat(), 3).unwrap();
        for (series, given) in given.iter().enumerate() {
            let mut out = Vec::new();
            page.chunks(series as u32, &mut out).unwrap();
            assert_eq!(&out, given);
        }
        assert!(page.chunks(3, &mut Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Page::parse([&[VERSION], &bytes[..]].concat(), 0);
        }

        #[test]
        fn one_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = built(&[vec![chunk(0, &[1.0, 2.5])], vec![chunk(0, &[3.0, 2.5]), chunk(100, &[1.0; 9])]]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(page) = Page::parse(bytes, 0) {
                for series in 0..page.first.len() as u32 {
                    let _ = page.read(series, TimeRange::ALL, &mut SeriesBuffer::default());
                    let _ = page.chunks(series, &mut Vec::new());
                }
            }
        }
    }
}
