//! Quantiles, fractions and variances of native histograms.
//!
//! Source: Prometheus 3.14, `HistogramQuantile` and `HistogramFraction`. Inside a bucket observations are spread
//! evenly on a logarithmic scale, in custom buckets and the zero bucket on a linear one.

use super::{Bucket, FloatHistogram};
use crate::ast::Span;
use crate::eval::notes::Notes;
use crate::kernels::kahan::Kahan;

/// The share of a bucket that lies below `v`, which is strictly inside its finite bounds.
pub(super) fn fraction_below(b: &Bucket, v: f64, linear: bool) -> f64 {
    if linear {
        return (v - b.lower) / (b.upper - b.lower);
    }
    let (lower, upper, v_log) = (b.lower.abs().log2(), b.upper.abs().log2(), v.abs().log2());
    if v > 0.0 { (v_log - lower) / (upper - lower) } else { 1.0 - (v_log - upper) / (lower - upper) }
}

/// The `q` quantile. NaN without observations or for a NaN `q`, -Inf and +Inf for a `q` outside 0 to 1.
pub(crate) fn quantile(q: f64, h: &FloatHistogram, metric: &str, span: Span, notes: &mut Notes) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if h.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    let forward = h.sum.is_nan() || q < 0.5;
    let mut rank = if forward { q * h.count } else { (1.0 - q) * h.count };
    let mut buckets: Vec<Bucket> = h.buckets().collect();
    if !forward {
        buckets.reverse();
    }
    let (mut bucket, mut count, used) = reach(&buckets, rank);
    if h.is_custom() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return bucket.upper;
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        bucket = h.half_zero(bucket);
    }
    count = count.min(h.count);
    if count < rank {
        if h.sum.is_nan() {
            notes.quantile_nan_result(metric, span);
            return f64::NAN;
        }
        return bucket.upper;
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    if h.sum.is_nan() {
        let all = count + buckets[used..].iter().map(|b| b.count).sum::<f64>();
        if all < h.count {
            notes.quantile_nan_skew(metric, span);
        }
    }
    inside(h, &bucket, rank / bucket.count)
}

/// The bucket in which the running count reaches `rank`, the count with it, and how many buckets that took.
fn reach(buckets: &[Bucket], rank: f64) -> (Bucket, f64, usize) {
    let mut reached =
        Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
    let mut count = 0.0;
    for (at, bucket) in buckets.iter().enumerate() {
        reached = *bucket;
        count += bucket.count;
        if count >= rank {
            return (reached, count, at + 1);
        }
    }
    (reached, count, buckets.len())
}

fn inside(h: &FloatHistogram, b: &Bucket, fraction: f64) -> f64 {
    if h.is_custom() || (b.lower <= 0.0 && b.upper >= 0.0) {
        return b.lower + (b.upper - b.lower) * fraction;
    }
    let (lower, upper) = (b.lower.abs().log2(), b.upper.abs().log2());
    if b.lower > 0.0 {
        return (lower + (upper - lower) * fraction).exp2();
    }
    -(upper + (lower - upper) * (1.0 - fraction)).exp2()
}

/// The share of observations between `lower` and `upper`.
pub(crate) fn fraction(
    lower: f64,
    upper: f64,
    h: &FloatHistogram,
    metric: &str,
    span: Span,
    notes: &mut Notes,
) -> f64 {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut total = h.count;
    if h.sum.is_nan() {
        total = h.buckets().map(|b| b.count).sum();
        if total < h.count {
            notes.fraction_nan(metric, span);
        }
    }
    let rank = |v| h.rank_of(v).filter(|rank| *rank <= total).unwrap_or(total);
    (rank(upper) - rank(lower)) / h.count
}

impl FloatHistogram {
    /// The zero bucket without the half in which the histogram has no observations.
    fn half_zero(&self, mut bucket: Bucket) -> Bucket {
        if self.negative.is_empty() && !self.positive.is_empty() {
            bucket.lower = 0.0;
        } else if self.positive.is_empty() && !self.negative.is_empty() {
            bucket.upper = 0.0;
        }
        bucket
    }

    /// How many observations lie below `v`, `None` if it lies above all buckets.
    fn rank_of(&self, v: f64) -> Option<f64> {
        let mut rank = 0.0;
        for mut bucket in self.buckets() {
            let is_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
            if is_zero {
                bucket = self.half_zero(bucket);
            }
            if bucket.lower >= v {
                return Some(rank);
            }
            if bucket.upper > v {
                let linear = self.is_custom() || is_zero;
                if linear && bucket.lower == f64::NEG_INFINITY {
                    return Some(bucket.count);
                }
                return Some(rank + bucket.count * fraction_below(&bucket, v, linear));
            }
            rank += bucket.count;
        }
        None
    }

    /// The variance of the observations, each taken to lie in the middle of its bucket.
    pub(crate) fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let mut total = Kahan::default();
        for b in self.buckets() {
            let value = if self.is_custom() {
                (b.upper + b.lower) / 2.0
            } else if b.lower <= 0.0 && b.upper >= 0.0 {
                0.0
            } else if b.upper < 0.0 {
                -(b.upper * b.lower).sqrt()
            } else {
                (b.upper * b.lower).sqrt()
            };
            let delta = value - mean;
            total.add(b.count * delta * delta);
        }
        total.value() / self.count
    }
}
