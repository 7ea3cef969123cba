//! Bucket bounds, and walking over the buckets of a histogram.

use super::FloatHistogram;

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Lower bound.
    pub(crate) lower: f64,
    /// Upper bound.
    pub(crate) upper: f64,
    /// Whether the lower bound is in the bucket.
    pub(crate) lower_inclusive: bool,
    /// Whether the upper bound is in the bucket.
    pub(crate) upper_inclusive: bool,
    /// Observations.
    pub(crate) count: f64,
}

/// The upper bound of bucket `index` in an exponential schema: 2^(index / 2^schema). The last bucket of finite values
/// ends at the greatest float, since the one above is for infinities.
pub(super) fn exponential_bound(index: i32, schema: i8) -> f64 {
    let (exponent, fraction) = if schema < 0 {
        (i64::from(index) << -i64::from(schema), 0.0)
    } else {
        let per_power = 1i32 << schema;
        let exponent = i64::from(index.div_euclid(per_power));
        (exponent, f64::from(index.rem_euclid(per_power)) / f64::from(per_power))
    };
    if exponent == 1024 && fraction == 0.0 {
        return f64::MAX;
    }
    let exponent = exponent.clamp(-1200, 1200) as i32;
    // In two factors, so that subnormal bounds are not lost on the way.
    let half = exponent / 2;
    fraction.exp2() * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// The index at a lower resolution.
pub(super) fn reduced_index(index: i32, from: i8, to: i8) -> i32 {
    ((index - 1) >> (from - to)) + 1
}

impl FloatHistogram {
    /// The absolute lower and upper bound of a bucket.
    pub(super) fn bounds(&self, index: i32) -> (f64, f64) {
        if !self.is_custom() {
            return (exponential_bound(index - 1, self.schema), exponential_bound(index, self.schema));
        }
        let bound = |at: i32| match usize::try_from(at) {
            Ok(at) => self.custom.get(at).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        };
        (bound(index - 1), bound(index))
    }

    pub(super) fn positive_bucket(&self, index: i32, count: f64) -> Bucket {
        let (lower, upper) = self.bounds(index);
        let (lower_inclusive, upper_inclusive) =
            if self.is_custom() { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
        Bucket { lower, upper, lower_inclusive, upper_inclusive, count }
    }

    pub(super) fn negative_bucket(&self, index: i32, count: f64) -> Bucket {
        let (near, far) = self.bounds(index);
        Bucket { lower: -far, upper: -near, lower_inclusive: true, upper_inclusive: false, count }
    }

    pub(super) fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// All populated buckets, ascending, with the bounds of their schema.
    pub(crate) fn buckets_as_stored(&self) -> impl Iterator<Item = Bucket> + '_ {
        let negative = self.negative.iter().rev().map(|(i, count)| self.negative_bucket(*i, *count));
        let has_zero = !self.is_custom() && self.zero_count != 0.0;
        let zero = has_zero.then(|| self.zero_bucket());
        let positive = self.positive.iter().map(|(i, count)| self.positive_bucket(*i, *count));
        negative.chain(zero).chain(positive)
    }

    /// All populated buckets, ascending; those next to the zero bucket end where it begins.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        let zero = if self.is_custom() { 0.0 } else { self.zero_threshold };
        let is_custom = self.is_custom();
        self.buckets_as_stored().map(move |mut bucket| {
            if !is_custom && zero > 0.0 {
                if bucket.upper < 0.0 && bucket.upper > -zero {
                    bucket.upper = -zero;
                } else if bucket.lower > 0.0 && bucket.lower < zero {
                    bucket.lower = zero;
                }
            }
            bucket
        })
    }
}
