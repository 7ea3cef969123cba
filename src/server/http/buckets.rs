//! The buckets of a native histogram with their bounds, from the lowest up.
//!
//! Source: Prometheus `model/histogram`: `AllBucketIterator`, `getBound`, `exponentialBounds`.

use quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use quorate_model::{BucketCounts, Histogram, Span};

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether the lower bound belongs to it.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to it.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
}

impl Bucket {
    /// 0: open on the left, 1: open on the right, 2: open on both sides, 3: closed on both.
    pub fn boundary_rule(&self) -> u64 {
        match (self.lower_inclusive, self.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        }
    }
}

/// Calls `take` for every bucket, empty ones included, in increasing order of bounds.
pub fn for_each(histogram: &Histogram, mut take: impl FnMut(Bucket)) {
    let (positive, negative, zero_count) = match &histogram.counts {
        BucketCounts::Integer { zero_count, positive, negative, .. } => {
            (absolute(positive), absolute(negative), *zero_count as f64)
        }
        BucketCounts::Float { zero_count, positive, negative, .. } => {
            (positive.clone(), negative.clone(), *zero_count)
        }
    };
    let clamp = |mut bucket: Bucket| {
        let zero = histogram.zero_threshold;
        if bucket.upper < 0.0 && bucket.upper > -zero {
            bucket.upper = -zero;
        } else if bucket.lower > 0.0 && bucket.lower < zero {
            bucket.lower = zero;
        }
        bucket
    };
    let negative: Vec<(i64, f64)> = indexed(&histogram.negative_spans, &negative).collect();
    for (index, count) in negative.into_iter().rev() {
        let (lower, upper) = (-bound(histogram, index), -bound(histogram, index - 1));
        take(clamp(Bucket {
            lower,
            upper,
            lower_inclusive: lower < 0.0,
            upper_inclusive: upper > 0.0,
            count,
        }));
    }
    if zero_count > 0.0 {
        let (lower, upper) = (-histogram.zero_threshold, histogram.zero_threshold);
        take(Bucket { lower, upper, lower_inclusive: true, upper_inclusive: true, count: zero_count });
    }
    let custom = histogram.schema == CUSTOM_BUCKETS_SCHEMA;
    for (index, count) in indexed(&histogram.positive_spans, &positive) {
        let (lower, upper) = (bound(histogram, index - 1), bound(histogram, index));
        let lower_inclusive = if custom { index == 0 } else { lower < 0.0 };
        let upper_inclusive = custom || upper > 0.0;
        take(clamp(Bucket { lower, upper, lower_inclusive, upper_inclusive, count }));
    }
}

fn absolute(deltas: &[i64]) -> Vec<f64> {
    let mut sum = 0i64;
    deltas
        .iter()
        .map(|delta| {
            sum = sum.wrapping_add(*delta);
            sum as f64
        })
        .collect()
}

/// Bucket indexes with their counts, as the spans place them.
fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    let mut next = 0i64;
    let indexes = spans.iter().flat_map(move |span| {
        let from = next + i64::from(span.offset);
        next = from + i64::from(span.length);
        from..next
    });
    indexes.zip(counts.iter().copied())
}

/// The upper bound of the bucket with this index.
fn bound(histogram: &Histogram, index: i64) -> f64 {
    if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => histogram.custom_values.get(index).copied().unwrap_or(f64::INFINITY),
        };
    }
    exponential_bound(index, i32::from(histogram.schema))
}

/// `2^(index * 2^-schema)`; the bucket that would end at 2^1024 ends at the largest float.
fn exponential_bound(index: i64, schema: i32) -> f64 {
    if schema < 0 {
        let exponent = index << -schema;
        return if exponent == 1024 { f64::MAX } else { power_of_two(exponent) };
    }
    let steps = 1i64 << schema;
    let (whole, fraction) = (index.div_euclid(steps), index.rem_euclid(steps));
    if fraction == 0 && whole == 1024 {
        return f64::MAX;
    }
    let root = (fraction as f64 / steps as f64).exp2();
    if whole >= 1024 { f64::INFINITY } else { root * power_of_two(whole) }
}

/// Two to this power, exact also where the result is subnormal.
fn power_of_two(exponent: i64) -> f64 {
    match exponent {
        1024.. => f64::INFINITY,
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        -1074..=-1023 => f64::from_bits(1 << (exponent + 1074)),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two() {
        assert_eq!(exponential_bound(0, 0), 1.0);
        assert_eq!(exponential_bound(3, 0), 8.0);
        assert_eq!(exponential_bound(-2, 0), 0.25);
        assert_eq!(exponential_bound(1, 1), std::f64::consts::SQRT_2);
        assert_eq!(exponential_bound(8, 3), 2.0);
        assert_eq!(exponential_bound(2, -2), 256.0);
        assert_eq!(exponential_bound(1024, 0), f64::MAX);
        assert_eq!(exponential_bound(64, -4), f64::MAX);
        assert_eq!(exponential_bound(1025, 0), f64::INFINITY);
        assert_eq!(exponential_bound(-1074, 0), 5e-324);
        assert_eq!(exponential_bound(-1075, 0), 0.0);
    }
}
