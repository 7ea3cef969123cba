//! Gathers the samples of one series from all places that hold some, and resolves what stands twice.
//!
//! Knows chunks, samples and ranks. Does not know where they came from. Path: `selection`, `flush` -> **here**.
//! The rule (C3): of two samples of one series at one time, in either lane, the one of the lower rank stays. The
//! rank is the generation; what is not in a generation yet has the highest.
//! Cost: parts that do not overlap, the usual case, are decoded in place, one after the other.

use quorate_chunk::{ChunkError, ChunkRef};
use quorate_model::{SeriesBuffer, TimeRange};
use std::sync::Arc;

/// Collects parts in the order of their first times.
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    range: TimeRange,
    out: &'a mut SeriesBuffer,
    /// Rank of each part, and where it ends in the two lanes.
    parts: Vec<(u32, usize, usize)>,
    scratch: SeriesBuffer,
    last_ts: Option<i64>,
    is_ordered: bool,
}

impl<'a> Gather<'a> {
    /// Begins; `out` is cleared.
    pub(crate) fn new(range: TimeRange, out: &'a mut SeriesBuffer) -> Self {
        out.clear();
        let scratch = SeriesBuffer::default();
        Self { range, out, parts: Vec::new(), scratch, last_ts: None, is_ordered: true }
    }

    /// Adds what `read` appends to the buffer: samples in the range, in time order, nothing else changed.
    pub(crate) fn append<E>(
        &mut self,
        rank: u32,
        read: impl FnOnce(TimeRange, &mut SeriesBuffer) -> Result<(), E>,
    ) -> Result<(), E> {
        read(self.range, self.out)?;
        self.close_part(rank);
        Ok(())
    }

    /// Adds a chunk, without the times in `masks`.
    pub(crate) fn chunk(
        &mut self,
        rank: u32,
        chunk: ChunkRef<'_>,
        masks: &[TimeRange],
    ) -> Result<(), ChunkError> {
        if masks.is_empty() {
            return self.append(rank, |range, out| chunk.read(range, out));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        chunk.read(self.range, &mut scratch)?;
        self.samples(rank, &scratch, masks);
        self.scratch = scratch;
        Ok(())
    }

    /// Adds samples in time order, without those outside the range or in `masks`.
    pub(crate) fn samples(&mut self, rank: u32, samples: &SeriesBuffer, masks: &[TimeRange]) {
        let range = self.range;
        let stays = |ts: i64| range.contains(ts) && !masks.iter().any(|mask| mask.contains(ts));
        (0..samples.ts_ms.len()).filter(|at| stays(samples.ts_ms[*at])).for_each(|at| {
            push_float(self.out, samples, at);
        });
        (0..samples.histogram_ts_ms.len()).filter(|at| stays(samples.histogram_ts_ms[*at])).for_each(|at| {
            push_histogram(self.out, samples, at);
        });
        self.close_part(rank);
    }

    /// The same for samples of different ranks, told by their times.
    pub(crate) fn samples_ranked(
        &mut self,
        samples: &SeriesBuffer,
        masks: &[TimeRange],
        rank_of: impl Fn(i64) -> u32,
    ) {
        let mut ranks: Vec<(u32, SeriesBuffer)> = Vec::new();
        let mut part = |ts: i64| -> usize {
            let rank = rank_of(ts);
            ranks.iter().position(|(r, _)| *r == rank).unwrap_or_else(|| {
                ranks.push((rank, SeriesBuffer::default()));
                ranks.len() - 1
            })
        };
        let floats: Vec<usize> = samples.ts_ms.iter().map(|ts| part(*ts)).collect();
        let histograms: Vec<usize> = samples.histogram_ts_ms.iter().map(|ts| part(*ts)).collect();
        floats.iter().enumerate().for_each(|(at, part)| push_float(&mut ranks[*part].1, samples, at));
        for (at, part) in histograms.iter().enumerate() {
            push_histogram(&mut ranks[*part].1, samples, at);
        }
        ranks.iter().for_each(|(rank, samples)| self.samples(*rank, samples, masks));
    }

    /// Resolves what stands twice; after it both lanes are strictly increasing and share no time.
    pub(crate) fn finish(self) {
        let both_lanes = !self.out.ts_ms.is_empty() && !self.out.histogram_ts_ms.is_empty();
        if !self.is_ordered || both_lanes {
            self.resolve();
        }
    }

    fn close_part(&mut self, rank: u32) {
        let (floats, histograms) = (self.out.ts_ms.len(), self.out.histogram_ts_ms.len());
        let (_, old_floats, old_histograms) = self.parts.last().copied().unwrap_or_default();
        let lanes = [&self.out.ts_ms[old_floats..], &self.out.histogram_ts_ms[old_histograms..]];
        let first = lanes.iter().filter_map(|lane| lane.first()).min();
        if let (Some(first), Some(last)) = (first, self.last_ts) {
            self.is_ordered &= *first > last;
        }
        let last = lanes.iter().filter_map(|lane| lane.last()).max().copied();
        self.last_ts = self.last_ts.max(last);
        self.parts.push((rank, floats, histograms));
        pad(&mut self.out.start_ms, floats);
        pad(&mut self.out.histogram_start_ms, histograms);
    }

    fn resolve(self) {
        let mut all: Vec<(i64, u32, bool, usize)> = Vec::with_capacity(self.out.len());
        let (mut floats, mut histograms) = (0, 0);
        for (rank, floats_end, histograms_end) in &self.parts {
            all.extend((floats..*floats_end).map(|at| (self.out.ts_ms[at], *rank, false, at)));
            let times = &self.out.histogram_ts_ms;
            all.extend((histograms..*histograms_end).map(|at| (times[at], *rank, true, at)));
            (floats, histograms) = (*floats_end, *histograms_end);
        }
        all.sort_unstable();
        all.dedup_by_key(|sample| sample.0);
        let mut resolved = SeriesBuffer::default();
        for (_, _, is_histogram, at) in all {
            match is_histogram {
                true => push_histogram(&mut resolved, self.out, at),
                false => push_float(&mut resolved, self.out, at),
            }
        }
        *self.out = resolved;
    }
}

fn push_float(out: &mut SeriesBuffer, from: &SeriesBuffer, at: usize) {
    out.ts_ms.push(from.ts_ms[at]);
    out.values.push(from.values[at]);
    push_start(&mut out.start_ms, out.ts_ms.len(), from.start_ms.get(at));
}

fn push_histogram(out: &mut SeriesBuffer, from: &SeriesBuffer, at: usize) {
    out.histogram_ts_ms.push(from.histogram_ts_ms[at]);
    out.histograms.push(Arc::clone(&from.histograms[at]));
    push_start(&mut out.histogram_start_ms, out.histogram_ts_ms.len(), from.histogram_start_ms.get(at));
}

/// A column of starts stays empty as long as no start is known.
fn push_start(column: &mut Vec<i64>, len: usize, start_ms: Option<&i64>) {
    let start_ms = start_ms.copied().unwrap_or_default();
    if start_ms != 0 || !column.is_empty() {
        column.resize(len - 1, 0);
        column.push(start_ms);
    }
}

fn pad(column: &mut Vec<i64>, len: usize) {
    if !column.is_empty() {
        column.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(samples: &[(i64, f64)]) -> SeriesBuffer {
        let (ts_ms, values) = samples.iter().copied().unzip();
        SeriesBuffer { ts_ms, values, ..SeriesBuffer::default() }
    }

    #[track_caller]
    fn check(parts: &[(u32, &[(i64, f64)])], masks: &[TimeRange], expected: &[(i64, f64)]) {
        let mut out = SeriesBuffer::default();
        let mut gather = Gather::new(TimeRange::new(0, 100), &mut out);
        parts.iter().for_each(|(rank, samples)| gather.samples(*rank, &floats(samples), masks));
        gather.finish();
        assert_eq!(out, floats(expected));
    }

    #[test]
    fn the_lower_generation_wins_whatever_comes_first() {
        check(
            &[(3, &[(10, 1.0), (30, 1.0)]), (1, &[(10, 2.0), (20, 2.0)])],
            &[],
            &[(10, 2.0), (20, 2.0), (30, 1.0)],
        );
    }

    #[test]
    fn parts_that_follow_each_other_are_joined_and_cut_to_the_range() {
        check(&[(0, &[(-1, 0.0), (5, 1.0)]), (0, &[(6, 2.0), (101, 3.0)])], &[], &[(5, 1.0), (6, 2.0)]);
    }

    #[test]
    fn masked_times_are_left_out() {
        check(&[(0, &[(5, 1.0), (6, 2.0), (7, 3.0)])], &[TimeRange::new(6, 6)], &[(5, 1.0), (7, 3.0)]);
    }

    #[test]
    fn a_time_stands_in_one_lane_only() {
        let mut out = SeriesBuffer::default();
        let mut gather = Gather::new(TimeRange::ALL, &mut out);
        gather.samples(1, &floats(&[(1, 1.0), (2, 2.0)]), &[]);
        let mut histograms = SeriesBuffer::default();
        histograms.histogram_ts_ms.extend([2, 3]);
        histograms.histograms.extend([sample(), sample()]);
        gather.samples(0, &histograms, &[]);
        gather.finish();
        assert_eq!((out.ts_ms, out.histogram_ts_ms), (vec![1], vec![2, 3]));
    }

    fn sample() -> Arc<quorate_model::Histogram> {
        let counts = quorate_model::BucketCounts::Integer {
            count: 0,
            zero_count: 0,
            positive: Vec::new(),
            negative: Vec::new(),
        };
        Arc::new(quorate_model::Histogram {
            reset_hint: quorate_model::CounterResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.0,
            sum: 0.0,
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            counts,
        })
    }
}
