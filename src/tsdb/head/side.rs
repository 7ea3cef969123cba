//! Side buffers: the samples of one series in one window that came out of order or late, and its newest
//! histograms.
//!
//! Knows times and values of both lanes. Does not know series, windows or locks.
//! Path: `head::window` -> **here**. Cost: a few samples lie in one sorted array; many in a tree, so that a
//! sender who sends backwards cannot make insertion slow.

use quorate_model::{BucketCounts, Histogram, SeriesBuffer, Span};
use std::collections::BTreeMap;
use std::sync::Arc;

const FEW: usize = 64;

/// A value of either lane.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Bits of a float.
    Float(u64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

impl Value {
    /// Whether two values are the same to the bit; a float never equals a histogram.
    pub(crate) fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Histogram(a), Self::Histogram(b)) => a.same_bits(b),
            _ => false,
        }
    }
}

/// A sample without its time.
#[derive(Debug, Clone)]
pub(crate) struct SideSample {
    /// Start timestamp, 0 if unknown.
    pub(crate) start_ms: i64,
    /// Value.
    pub(crate) value: Value,
}

/// What a sample in a buffer is taken to cost besides a histogram's own memory, in bytes: a share of the room that
/// the buffer keeps for more.
pub(crate) const SAMPLE_BYTES: usize = 48;

impl SideSample {
    /// Memory of the sample in a buffer, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.value {
            Value::Float(_) => SAMPLE_BYTES,
            Value::Histogram(histogram) => histogram_bytes(histogram),
        }
    }
}

/// Memory of a histogram in a buffer, in bytes.
pub(crate) fn histogram_bytes(histogram: &Histogram) -> usize {
    let buckets = match &histogram.counts {
        BucketCounts::Integer { positive, negative, .. } => positive.capacity() + negative.capacity(),
        BucketCounts::Float { positive, negative, .. } => positive.capacity() + negative.capacity(),
    };
    let spans = histogram.positive_spans.capacity() + histogram.negative_spans.capacity();
    let lists = (buckets + histogram.custom_values.capacity()) * 8 + spans * size_of::<Span>();
    SAMPLE_BYTES + 16 + size_of::<Histogram>() + lists
}

/// Samples by time; a time stands once.
#[derive(Debug)]
pub(crate) enum SideBuffer {
    Few(Vec<(i64, SideSample)>),
    Many(BTreeMap<i64, SideSample>),
}

impl Default for SideBuffer {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl SideBuffer {
    /// The sample at `ts_ms`.
    pub(crate) fn get(&self, ts_ms: i64) -> Option<&SideSample> {
        match self {
            Self::Few(samples) => samples.binary_search_by_key(&ts_ms, |s| s.0).ok().map(|at| &samples[at].1),
            Self::Many(samples) => samples.get(&ts_ms),
        }
    }

    /// Adds a sample at a time that is not in the buffer.
    pub(crate) fn insert(&mut self, ts_ms: i64, sample: SideSample) {
        match self {
            Self::Few(samples) if samples.len() < FEW => {
                let at = samples.partition_point(|s| s.0 < ts_ms);
                samples.insert(at, (ts_ms, sample));
            }
            Self::Few(samples) => {
                let mut many: BTreeMap<_, _> = samples.drain(..).collect();
                many.insert(ts_ms, sample);
                *self = Self::Many(many);
            }
            Self::Many(samples) => {
                samples.insert(ts_ms, sample);
            }
        }
    }

    /// Calls `visit` with each sample in time order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(i64, &SideSample)) {
        match self {
            Self::Few(samples) => samples.iter().for_each(|(ts, s)| visit(*ts, s)),
            Self::Many(samples) => samples.iter().for_each(|(ts, s)| visit(*ts, s)),
        }
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(samples) => samples.len(),
            Self::Many(samples) => samples.len(),
        }
    }

    /// First and last time, or `None` if empty.
    pub(crate) fn bounds(&self) -> Option<(i64, i64)> {
        match self {
            Self::Few(samples) => Some((samples.first()?.0, samples.last()?.0)),
            Self::Many(samples) => Some((*samples.first_key_value()?.0, *samples.last_key_value()?.0)),
        }
    }
}

/// Appends a sample to its lane. The lane's column of starts stays empty as long as no start is known.
pub(crate) fn push(out: &mut SeriesBuffer, ts_ms: i64, sample: &SideSample) {
    match &sample.value {
        Value::Float(bits) => {
            out.ts_ms.push(ts_ms);
            out.values.push(f64::from_bits(*bits));
            push_start(&mut out.start_ms, out.ts_ms.len(), sample.start_ms);
        }
        Value::Histogram(histogram) => {
            out.histogram_ts_ms.push(ts_ms);
            out.histograms.push(Arc::clone(histogram));
            push_start(&mut out.histogram_start_ms, out.histogram_ts_ms.len(), sample.start_ms);
        }
    }
}

fn push_start(column: &mut Vec<i64>, len: usize, start_ms: i64) {
    if start_ms != 0 || !column.is_empty() {
        column.resize(len - 1, 0);
        column.push(start_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_samples_stay_sorted_and_are_found() {
        let mut side = SideBuffer::default();
        for i in (0..200).rev() {
            side.insert(i * 10, SideSample { start_ms: 0, value: Value::Float(i as u64) });
        }
        let mut out = SeriesBuffer::default();
        side.for_each(|ts, sample| push(&mut out, ts, sample));
        assert!(out.ts_ms.iter().copied().eq((0..200).map(|i| i * 10)));
        assert!(matches!(side.get(50), Some(SideSample { value: Value::Float(5), .. })));
        assert!(side.get(55).is_none());
        assert_eq!((side.len(), side.bounds()), (200, Some((0, 1990))));
    }

    #[test]
    fn starts_are_a_column_only_once_one_is_known() {
        let mut out = SeriesBuffer::default();
        for (ts, start_ms) in [(1, 0), (2, 0), (3, 2), (4, 0)] {
            push(&mut out, ts, &SideSample { start_ms, value: Value::Float(0) });
        }
        assert_eq!(out.start_ms, [0, 0, 2, 0]);
    }
}
