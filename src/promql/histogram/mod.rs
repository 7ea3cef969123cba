//! Native histograms as the engine computes with them: float counts, only populated buckets, each with its index.
//!
//! Knows schemas, bounds, arithmetic, resets, quantiles and windows of histograms. Does not know series or steps.
//! Source: Prometheus "Native Histograms" specification, and Prometheus 3.14, `model/histogram`, for rounding,
//! reconciliation and hints.
//! H1: bucket indices increase strictly and no bucket count is zero.

mod arithmetic;
mod bounds;
mod custom;
pub(crate) mod extended;
mod kahan;
pub(crate) mod over_time;
pub(crate) mod quantile;
pub(crate) mod rate;
mod reset;
pub(crate) mod total;
mod trim;

#[cfg(test)]
mod tests;

pub(crate) use arithmetic::Told;
pub(crate) use bounds::Bucket;

use crate::engine::QueryError;
use crate::go_fmt::float_short;
use quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Span};
use std::fmt;
use std::sync::Arc;

/// Buckets of one sign: index and count.
pub(crate) type Buckets = Vec<(i32, f64)>;

/// A native histogram with float counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatHistogram {
    /// What is known about a counter reset before it.
    pub(crate) hint: CounterResetHint,
    /// -4 to 8, or -53 for custom bounds.
    pub(crate) schema: i8,
    /// Half the width of the zero bucket.
    pub(crate) zero_threshold: f64,
    /// Observations in the zero bucket.
    pub(crate) zero_count: f64,
    /// All observations.
    pub(crate) count: f64,
    /// Sum of all observations.
    pub(crate) sum: f64,
    /// Populated positive buckets.
    pub(crate) positive: Buckets,
    /// Populated negative buckets.
    pub(crate) negative: Buckets,
    /// Upper bounds of custom buckets.
    pub(crate) custom: Arc<[f64]>,
}

/// Exponential and custom buckets do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incompatible;

/// Why a window of histograms has no result.
#[derive(Debug)]
pub(crate) enum NoResult {
    /// They are too few, or do not fit together, of which a note tells.
    Unfit,
    /// The guard objected.
    Stopped(QueryError),
}

impl From<QueryError> for NoResult {
    fn from(error: QueryError) -> Self {
        Self::Stopped(error)
    }
}

/// The result of a window if there is one.
fn if_fit<T>(result: Result<T, NoResult>) -> Result<Option<T>, QueryError> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(NoResult::Unfit) => Ok(None),
        Err(NoResult::Stopped(error)) => Err(error),
    }
}

impl FloatHistogram {
    /// The histogram of a sample.
    pub(crate) fn from_model(h: &Histogram) -> Self {
        let (count, zero_count, positive, negative) = match &h.counts {
            BucketCounts::Integer { count, zero_count, positive, negative } => (
                *count as f64,
                *zero_count as f64,
                buckets(&h.positive_spans, running(positive)),
                buckets(&h.negative_spans, running(negative)),
            ),
            BucketCounts::Float { count, zero_count, positive, negative } => (
                *count,
                *zero_count,
                buckets(&h.positive_spans, positive.iter().copied()),
                buckets(&h.negative_spans, negative.iter().copied()),
            ),
        };
        Self {
            hint: h.reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero_count,
            count,
            sum: h.sum,
            positive,
            negative,
            custom: h.custom_values.as_slice().into(),
        }
    }

    /// The sample of a histogram.
    pub(crate) fn to_model(&self) -> Histogram {
        let (positive_spans, positive) = spans(&self.positive);
        let (negative_spans, negative) = spans(&self.negative);
        Histogram {
            reset_hint: self.hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            positive_spans,
            negative_spans,
            custom_values: self.custom.to_vec(),
            counts: BucketCounts::Float {
                count: self.count,
                zero_count: self.zero_count,
                positive,
                negative,
            },
        }
    }

    /// Whether it has custom bounds.
    pub(crate) fn is_custom(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// What it counts against the sample limit: its memory in floats with their times.
    pub(crate) fn weight(&self) -> u64 {
        let words = self.positive.len() + self.negative.len() + self.custom.len() + 2;
        (176 + 8 * words as u64) / 16
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let buckets = self.positive.len() + self.negative.len();
        (size_of::<Self>() + buckets * size_of::<(i32, f64)>() + self.custom.len() * 8) as u64
    }

    /// Whether both have the same data bit for bit; hints are not compared.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let same_buckets = |a: &Buckets, b: &Buckets| {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.0 == y.0 && same(x.1, y.1))
        };
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && (!self.is_custom() || custom::same_bounds(&self.custom, &other.custom))
            && self.zero_threshold == other.zero_threshold
            && same(self.zero_count, other.zero_count)
            && same_buckets(&self.positive, &other.positive)
            && same_buckets(&self.negative, &other.negative)
    }
}

/// Counts of buckets that are stored as differences.
fn running(deltas: &[i64]) -> impl Iterator<Item = f64> + '_ {
    deltas.iter().scan(0i64, |count, delta| {
        *count = count.wrapping_add(*delta);
        Some(*count as f64)
    })
}

fn buckets(spans: &[Span], counts: impl Iterator<Item = f64>) -> Buckets {
    let mut next = 0i32;
    let indices = spans.iter().flat_map(|span| {
        let first = next.wrapping_add(span.offset);
        next = first.wrapping_add_unsigned(span.length);
        (0..span.length).map(move |i| first.wrapping_add_unsigned(i))
    });
    indices.zip(counts).filter(|(_, count)| *count != 0.0).collect()
}

fn spans(buckets: &[(i32, f64)]) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0;
    for (index, _) in buckets {
        match spans.last_mut() {
            Some(span) if *index == end => span.length += 1,
            _ => spans.push(Span { offset: index - end, length: 1 }),
        }
        end = index + 1;
    }
    (spans, buckets.iter().map(|(_, count)| *count).collect())
}

impl fmt::Display for FloatHistogram {
    /// As `count_values` shows it: `{count:3, sum:4, [-1,1]:2, (1,2]:1}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", float_short(self.count), float_short(self.sum))?;
        for bucket in self.buckets_as_stored() {
            let open = if bucket.lower_inclusive { '[' } else { '(' };
            let close = if bucket.upper_inclusive { ']' } else { ')' };
            let (lower, upper) = (float_short(bucket.lower), float_short(bucket.upper));
            write!(f, ", {open}{lower},{upper}{close}:{}", float_short(bucket.count))?;
        }
        f.write_str("}")
    }
}
