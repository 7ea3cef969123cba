//! The operators `</` and `>/`: keeping the observations below or above a value, by interpolation inside the bucket
//! that the value cuts.
//!
//! Source: Prometheus 3.14, `TrimBuckets`.

use super::quantile::fraction_below;
use super::{Bucket, FloatHistogram};

impl FloatHistogram {
    /// What is left below `at` if `upper`, else above it. Count and sum are estimated anew if anything went.
    pub(crate) fn trimmed(&self, at: f64, upper: bool) -> Self {
        let mut h = self.clone();
        let mut left = Left::default();
        let is_custom = self.is_custom();
        let has = (!self.negative.is_empty(), !self.positive.is_empty());
        for (index, count) in &mut h.positive {
            *count = left.bucket(self.positive_bucket(*index, *count), at, upper, true, is_custom);
        }
        for (index, count) in &mut h.negative {
            *count = left.bucket(self.negative_bucket(*index, *count), at, upper, false, is_custom);
        }
        if self.zero_count > 0.0 {
            let (keep, middle) = cut_zero(self.zero_bucket(), at, has, upper);
            left.take(self.zero_count, keep, middle);
            h.zero_count = keep;
        }
        if !left.trimmed {
            return self.clone();
        }
        h.positive.retain(|(_, count)| *count != 0.0);
        h.negative.retain(|(_, count)| *count != 0.0);
        (h.count, h.sum) = (left.count, left.sum);
        h
    }
}

/// What is left of the buckets seen so far.
#[derive(Default)]
struct Left {
    count: f64,
    sum: f64,
    trimmed: bool,
}

impl Left {
    fn bucket(&mut self, bucket: Bucket, at: f64, upper: bool, positive: bool, linear: bool) -> f64 {
        let whole = if upper { bucket.upper <= at } else { bucket.lower >= at };
        let cut = if upper { bucket.lower < at } else { bucket.upper > at };
        let (keep, middle) = if whole {
            (bucket.count, midpoint(bucket.lower, bucket.upper, positive, linear))
        } else if cut {
            cut_bucket(bucket, at, upper, positive, linear)
        } else {
            (0.0, 0.0)
        };
        self.take(bucket.count, keep, middle);
        keep
    }

    fn take(&mut self, had: f64, keep: f64, middle: f64) {
        self.trimmed |= had != keep;
        self.count += keep;
        if keep != 0.0 {
            self.sum += middle * keep;
        }
    }
}

/// How much of a bucket that contains `at` is kept, and the middle of what is.
fn cut_bucket(b: Bucket, at: f64, upper: bool, positive: bool, linear: bool) -> (f64, f64) {
    if b.lower == f64::NEG_INFINITY {
        return cut_lowest(b, at, upper);
    }
    if b.upper == f64::INFINITY {
        // Nobody knows where its observations are: what may lie beyond the value goes.
        return match (upper, at >= b.lower) {
            (false, true) => (b.count, at),
            _ => (0.0, 0.0),
        };
    }
    let under = if at <= b.lower {
        0.0
    } else if at >= b.upper {
        b.count
    } else {
        b.count * fraction_below(&b, at, linear)
    };
    if upper {
        (under, midpoint(b.lower, at, positive, linear))
    } else {
        (b.count - under, midpoint(at, b.upper, positive, linear))
    }
}

/// The same for a custom bucket that reaches down to -Inf: with a positive upper bound it is taken to begin at zero.
fn cut_lowest(b: Bucket, at: f64, upper: bool) -> (f64, f64) {
    let finite_upper = b.upper != f64::INFINITY;
    if upper {
        if at >= b.upper {
            return (b.count, 0.0);
        }
        if at > 0.0 && b.upper > 0.0 && finite_upper {
            return (b.count * at / b.upper, at / 2.0);
        }
        return if b.upper <= 0.0 { (b.count, at) } else { (0.0, 0.0) };
    }
    if at <= b.lower {
        return (b.count, 0.0);
    }
    if at >= 0.0 && b.upper > at && finite_upper {
        return (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0);
    }
    (0.0, 0.0)
}

fn cut_zero(b: Bucket, at: f64, (negative, positive): (bool, bool), upper: bool) -> (f64, f64) {
    let high = if negative && !positive { 0.0 } else { b.upper };
    let low = if positive && !negative { 0.0 } else { b.lower };
    let middle = (low + high) / 2.0;
    match (upper, at <= low, at >= high) {
        (true, true, _) | (false, false, true) => (0.0, 0.0),
        (true, false, true) | (false, true, _) => (b.count, middle),
        (true, false, false) => (b.count * ((at - low) / (high - low)), (low + at) / 2.0),
        (false, false, false) => (b.count * ((high - at) / (high - low)), (at + high) / 2.0),
    }
}

fn midpoint(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => return 0.0,
        (true, false) => return if upper > 0.0 { upper / 2.0 } else { upper },
        (false, true) => return lower,
        (false, false) => {}
    }
    if linear {
        return (lower + upper) / 2.0;
    }
    let mean = (lower * upper).abs().sqrt();
    if positive { mean } else { -mean }
}
