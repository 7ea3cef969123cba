//! Chunks: runs of samples of one series as bytes, and back, bit for bit.
//!
//! Knows times, values, native histograms and start timestamps as streams. Does not know series, pages,
//! blocks or queries. Pure: no state, no clock, no I/O.
//! Path: `tsdb` head and blocks -> **here**.
//!
//! - E1: decoding gives back exactly the bits that were encoded: NaN payloads, -0.0 and infinities too.
//! - E2: every stream begins with a codec number. Numbers are stored and never get a second meaning; see
//!   `docs/formats/chunk.md`.
//! - E3: equal columns of times have equal bytes, so that a page can store a shared column once.
//! - E4: decoders take any bytes: they return an error, never panic, and never allocate for more than
//!   [`MAX_SAMPLES`] samples, each of at most its share of [`histogram::MAX_CELLS`].

mod dfor;
mod ints;
mod pack;

pub mod bits;
pub mod histogram;
pub mod starts;
pub mod times;
pub mod values;
pub mod varint;
pub mod xor;

use quorate_model::{Histogram, SeriesBuffer, TimeRange, is_stale};
use std::borrow::Borrow;
use std::sync::Arc;

/// Most samples of one chunk.
pub const MAX_SAMPLES: usize = 1 << 16;

/// Which of the two lanes of a series a chunk belongs to. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Float samples.
    Float = 0,
    /// Native histogram samples, integer or float.
    Histogram = 1,
}

impl Lane {
    /// From its stored number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Float),
            1 => Some(Self::Histogram),
            _ => None,
        }
    }
}

/// Why samples cannot be encoded, or bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Columns of different or impossible lengths.
    #[error("a chunk of {found} samples where 1 to {limit} are possible")]
    Length {
        /// What was given.
        found: usize,
        /// Most that is possible here.
        limit: usize,
    },
    /// Times that do not increase.
    #[error("time at {position} is not after the one before")]
    OutOfOrder {
        /// Index of the first bad time.
        position: usize,
    },
    /// A histogram whose spans and buckets do not go together.
    #[error("spans of {described} buckets beside {buckets} bucket counts")]
    Spans {
        /// Sum of the spans' lengths.
        described: u64,
        /// Bucket counts of that side.
        buckets: usize,
    },
    /// Histograms with more buckets than a chunk can hold; fewer samples may fit.
    #[error("histograms of {cells} cells, more than {limit} in a chunk")]
    TooManyCells {
        /// See [`histogram::MAX_CELLS`].
        cells: usize,
        /// Most that is possible.
        limit: usize,
    },
    /// A stream that begins with a number that no codec has.
    #[error("unknown codec {codec} of a {stream} stream")]
    UnknownCodec {
        /// Which stream.
        stream: &'static str,
        /// The number.
        codec: u8,
    },
    /// Bytes that no encoder writes.
    #[error("damaged {stream} stream: {detail}")]
    Damaged {
        /// Which stream.
        stream: &'static str,
        /// What is wrong.
        detail: &'static str,
    },
}

impl ChunkError {
    pub(crate) fn short(stream: &'static str) -> Self {
        Self::Damaged { stream, detail: "it ends too early" }
    }

    pub(crate) fn damaged(stream: &'static str, detail: &'static str) -> Self {
        Self::Damaged { stream, detail }
    }
}

/// Encoded samples of one series and lane, in up to three streams that are stored apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its lane.
    pub lane: Lane,
    /// Number of samples, 1 to [`MAX_SAMPLES`].
    pub count: u32,
    /// First time, milliseconds.
    pub min_ts_ms: i64,
    /// Last time, milliseconds.
    pub max_ts_ms: i64,
    /// Whether a sample is a stale marker.
    pub has_stale: bool,
    /// Stream of times, see [`times`].
    pub times: Vec<u8>,
    /// Stream of values: [`values`] in the float lane, [`histogram`] in the other.
    pub values: Vec<u8>,
    /// Stream of start timestamps, see [`starts`]; empty if none is known.
    pub starts: Vec<u8>,
}

impl Chunk {
    /// Encodes float samples.
    ///
    /// `ts_ms` is strictly increasing and as long as `values`, 1 to [`MAX_SAMPLES`]. `start_ms` is empty
    /// if no start is known, else as long, 0 for unknown.
    ///
    /// # Errors
    /// [`ChunkError::Length`], [`ChunkError::OutOfOrder`].
    pub fn from_floats(ts_ms: &[i64], values: &[f64], start_ms: &[i64]) -> Result<Self, ChunkError> {
        check_columns(ts_ms, values.len(), start_ms)?;
        let mut out = Self::empty(Lane::Float, ts_ms);
        values::encode(values, &mut out.values);
        out.has_stale = values.iter().any(|value| is_stale(*value));
        starts::encode(start_ms, &mut out.starts);
        Ok(out)
    }

    /// Encodes histogram samples; the columns as in [`Chunk::from_floats`].
    ///
    /// # Errors
    /// As [`Chunk::from_floats`], [`ChunkError::Spans`] and [`ChunkError::TooManyCells`].
    pub fn from_histograms<H: Borrow<Histogram>>(
        ts_ms: &[i64],
        histograms: &[H],
        start_ms: &[i64],
    ) -> Result<Self, ChunkError> {
        check_columns(ts_ms, histograms.len(), start_ms)?;
        let mut out = Self::empty(Lane::Histogram, ts_ms);
        histogram::encode(histograms, &mut out.values)?;
        out.has_stale = histograms.iter().any(|h| h.borrow().is_stale());
        starts::encode(start_ms, &mut out.starts);
        Ok(out)
    }

    fn empty(lane: Lane, ts_ms: &[i64]) -> Self {
        let mut times = Vec::with_capacity(16);
        times::encode(ts_ms, &mut times);
        Self {
            lane,
            count: ts_ms.len() as u32,
            min_ts_ms: ts_ms[0],
            max_ts_ms: ts_ms[ts_ms.len() - 1],
            has_stale: false,
            times,
            values: Vec::with_capacity(ts_ms.len()),
            starts: Vec::new(),
        }
    }

    /// The chunk with its streams borrowed.
    pub fn as_ref(&self) -> ChunkRef<'_> {
        ChunkRef {
            lane: self.lane,
            count: self.count,
            times: &self.times,
            values: &self.values,
            starts: &self.starts,
        }
    }

    /// Appends the samples in `range` to their lane of `out`. See [`ChunkRef::read`].
    ///
    /// # Errors
    /// As [`ChunkRef::read`].
    pub fn read(&self, range: TimeRange, out: &mut SeriesBuffer) -> Result<(), ChunkError> {
        self.as_ref().read(range, out)
    }
}

/// A chunk whose streams lie in somebody else's bytes.
#[derive(Debug, Clone, Copy)]
pub struct ChunkRef<'a> {
    /// Its lane.
    pub lane: Lane,
    /// Number of samples.
    pub count: u32,
    /// Stream of times.
    pub times: &'a [u8],
    /// Stream of values.
    pub values: &'a [u8],
    /// Stream of start timestamps.
    pub starts: &'a [u8],
}

impl ChunkRef<'_> {
    /// Appends the samples in `range` to their lane of `out`, start timestamps included.
    ///
    /// The lane's column of starts stays empty as long as no start is known. On an error `out` holds what
    /// it held before.
    ///
    /// # Errors
    /// [`ChunkError`] if the bytes are not those of a chunk of `count` samples.
    pub fn read(&self, range: TimeRange, out: &mut SeriesBuffer) -> Result<(), ChunkError> {
        match self.lane {
            Lane::Float => self.read_floats(range, out),
            Lane::Histogram => self.read_histograms(range, out),
        }
    }

    /// As [`ChunkRef::read`], with the times already decoded: `ts_ms` is what [`times::decode`] gives for
    /// the column of times, which chunks of a page share.
    ///
    /// # Errors
    /// As [`ChunkRef::read`].
    pub fn read_at(&self, ts_ms: &[i64], range: TimeRange, out: &mut SeriesBuffer) -> Result<(), ChunkError> {
        if ts_ms.len() != self.count as usize {
            return Err(ChunkError::Length { found: ts_ms.len(), limit: self.count as usize });
        }
        let first = ts_ms.partition_point(|t| *t < range.start_ms);
        let end = ts_ms.partition_point(|t| *t <= range.end_ms).max(first);
        match self.lane {
            Lane::Float => {
                let before = out.ts_ms.len();
                values::decode(self.values, self.count, &mut out.values)
                    .and_then(|()| self.read_starts_at(before, &mut out.start_ms))
                    .inspect_err(|_| out.values.truncate(before))?;
                out.ts_ms.extend_from_slice(&ts_ms[first..end]);
                cut(&mut out.values, before, &(before + first..before + end));
                cut(&mut out.start_ms, before, &(before + first..before + end));
            }
            Lane::Histogram => {
                let before = out.histogram_ts_ms.len();
                histogram::decode(self.values, self.count, &mut out.histograms)
                    .and_then(|()| self.read_starts_at(before, &mut out.histogram_start_ms))
                    .inspect_err(|_| out.histograms.truncate(before))?;
                out.histogram_ts_ms.extend_from_slice(&ts_ms[first..end]);
                cut(&mut out.histograms, before, &(before + first..before + end));
                cut(&mut out.histogram_start_ms, before, &(before + first..before + end));
            }
        }
        Ok(())
    }

    fn read_starts_at(&self, before: usize, column: &mut Vec<i64>) -> Result<(), ChunkError> {
        read_starts(self.starts, self.count, before, before + self.count as usize, column)
    }

    fn read_floats(&self, range: TimeRange, out: &mut SeriesBuffer) -> Result<(), ChunkError> {
        let before = out.ts_ms.len();
        let decoded = times::decode(self.times, self.count, &mut out.ts_ms)
            .and_then(|()| check_order(&out.ts_ms[before..]))
            .and_then(|()| values::decode(self.values, self.count, &mut out.values));
        let decoded = decoded.and_then(|()| {
            let starts = &mut out.start_ms;
            read_starts(self.starts, self.count, before, out.ts_ms.len(), starts)
        });
        if decoded.is_err() {
            out.ts_ms.truncate(before);
            out.values.truncate(before);
            return decoded;
        }
        keep_range(&mut out.ts_ms, before, range, |kept| {
            cut(&mut out.values, before, &kept);
            cut(&mut out.start_ms, before, &kept);
        });
        Ok(())
    }

    fn read_histograms(&self, range: TimeRange, out: &mut SeriesBuffer) -> Result<(), ChunkError> {
        let before = out.histogram_ts_ms.len();
        let decoded = times::decode(self.times, self.count, &mut out.histogram_ts_ms)
            .and_then(|()| check_order(&out.histogram_ts_ms[before..]))
            .and_then(|()| histogram::decode(self.values, self.count, &mut out.histograms));
        let decoded = decoded.and_then(|()| {
            let starts = &mut out.histogram_start_ms;
            read_starts(self.starts, self.count, before, out.histogram_ts_ms.len(), starts)
        });
        if decoded.is_err() {
            out.histogram_ts_ms.truncate(before);
            out.histograms.truncate(before);
            return decoded;
        }
        keep_range(&mut out.histogram_ts_ms, before, range, |kept| {
            cut(&mut out.histograms, before, &kept);
            cut(&mut out.histogram_start_ms, before, &kept);
        });
        Ok(())
    }
}

/// Appends the starts of one chunk to a column that is empty as long as no start is known.
fn read_starts(
    stream: &[u8],
    count: u32,
    before: usize,
    len: usize,
    column: &mut Vec<i64>,
) -> Result<(), ChunkError> {
    if stream.is_empty() {
        if !column.is_empty() {
            column.resize(len, 0);
        }
        return Ok(());
    }
    let had = column.len();
    column.resize(before, 0);
    starts::decode(stream, count, column).inspect_err(|_| column.truncate(had))
}

/// Drops the times from `before` on that lie outside `range`, and tells what part of them stays.
fn keep_range(
    ts_ms: &mut Vec<i64>,
    before: usize,
    range: TimeRange,
    mut others: impl FnMut(std::ops::Range<usize>),
) {
    let new = &ts_ms[before..];
    let first = new.partition_point(|t| *t < range.start_ms);
    let end = new.partition_point(|t| *t <= range.end_ms).max(first);
    if first == 0 && end == new.len() {
        return;
    }
    let kept = before + first..before + end;
    cut(ts_ms, before, &kept);
    others(kept);
}

fn cut<T>(column: &mut Vec<T>, before: usize, kept: &std::ops::Range<usize>) {
    if column.is_empty() {
        return;
    }
    column.truncate(kept.end);
    column.drain(before..kept.start);
}

fn check_order(ts_ms: &[i64]) -> Result<(), ChunkError> {
    match ts_ms.windows(2).position(|pair| pair[0] >= pair[1]) {
        Some(at) => Err(ChunkError::OutOfOrder { position: at + 1 }),
        None => Ok(()),
    }
}

fn check_columns(ts_ms: &[i64], values: usize, start_ms: &[i64]) -> Result<(), ChunkError> {
    check_len(ts_ms.len())?;
    let starts_fit = start_ms.is_empty() || start_ms.len() == ts_ms.len();
    if values != ts_ms.len() || !starts_fit {
        return Err(ChunkError::Length { found: values, limit: ts_ms.len() });
    }
    check_order(ts_ms)
}

/// Checks a count before anything is allocated for it (E4).
pub(crate) fn check_len(count: usize) -> Result<(), ChunkError> {
    if count == 0 || count > MAX_SAMPLES {
        return Err(ChunkError::Length { found: count, limit: MAX_SAMPLES });
    }
    Ok(())
}

/// Appends every sample of `out`, both lanes, as chunks of at most `max_samples` each, in time order within
/// a lane, the float lane first.
///
/// # Errors
/// As [`Chunk::from_floats`]; histograms too large for `max_samples` are cut into smaller chunks instead.
pub fn cut_buffer(buffer: &SeriesBuffer, max_samples: usize, out: &mut Vec<Chunk>) -> Result<(), ChunkError> {
    let part = |starts: &[i64], from: usize, to: usize| -> Vec<i64> {
        starts.get(from..to).map(<[i64]>::to_vec).unwrap_or_default()
    };
    let mut from = 0;
    while from < buffer.ts_ms.len() {
        let to = (from + max_samples).min(buffer.ts_ms.len());
        let starts = part(&buffer.start_ms, from, to);
        out.push(Chunk::from_floats(&buffer.ts_ms[from..to], &buffer.values[from..to], &starts)?);
        from = to;
    }
    let mut from = 0;
    let mut size = max_samples;
    while from < buffer.histogram_ts_ms.len() {
        let to = (from + size).min(buffer.histogram_ts_ms.len());
        let starts = part(&buffer.histogram_start_ms, from, to);
        let histograms: &[Arc<Histogram>] = &buffer.histograms[from..to];
        match Chunk::from_histograms(&buffer.histogram_ts_ms[from..to], histograms, &starts) {
            Ok(chunk) => out.push(chunk),
            Err(ChunkError::TooManyCells { .. }) if to - from > 1 => {
                size = (to - from) / 2;
                continue;
            }
            Err(error) => return Err(error),
        }
        from = to;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
