//! Quantiles and fractions of classic histograms, whose buckets are series with an `le` label.
//!
//! Knows the buckets of one histogram at one step. Does not know series or native histograms.

/// Relative difference below which two counts are taken to be the same number, added up in different order.
const SMALL_DELTA: f64 = 1e-12;

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Its `le`.
    pub(crate) upper_bound: f64,
    /// Observations up to its bound, those of lower buckets included.
    pub(crate) count: f64,
}

/// What had to be changed to make counts grow with the bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forced {
    /// Lowest bound that was changed.
    pub(crate) lowest: f64,
    /// Highest bound that was changed.
    pub(crate) highest: f64,
    /// Greatest change.
    pub(crate) max_diff: f64,
}

/// The bound that a value of `le` means, or `None` if it is no number.
pub(crate) fn parse_bound(le: &str) -> Option<f64> {
    le.parse().ok()
}

/// The `q` quantile, by linear interpolation within a bucket, and what had to be forced.
///
/// `buckets` is not empty; it is sorted and changed. NaN without observations, below two buckets, without a
/// `+Inf` bucket and for a NaN `q`; -Inf and +Inf for a `q` below 0 and above 1. The lowest bucket starts at 0
/// if its bound is positive; in the highest one the result is the bound below.
/// Source: Prometheus, documentation of `histogram_quantile`.
pub(crate) fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if !(0.0..=1.0).contains(&q) {
        return (if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY }, None);
    }
    if !prepare(buckets) {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if last == 0 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let rank = q * observations;
    // As a binary search for the first bucket that reaches the rank; a NaN rank is reached by none.
    let at = buckets[..last].partition_point(|b| !matches!(b.count.partial_cmp(&rank), Some(o) if o.is_ge()));
    (interpolate(buckets, at, rank), forced)
}

fn interpolate(buckets: &[Bucket], at: usize, rank: f64) -> f64 {
    let end = buckets[at].upper_bound;
    match at.checked_sub(1).map(|below| buckets[below]) {
        Some(below) if at == buckets.len() - 1 => below.upper_bound,
        None if end <= 0.0 => end,
        None => end * (rank / buckets[at].count),
        Some(below) => {
            let share = (rank - below.count) / (buckets[at].count - below.count);
            below.upper_bound + (end - below.upper_bound) * share
        }
    }
}

/// The share of observations between `lower` and `upper`, by linear interpolation within a bucket.
///
/// `buckets` is not empty; it is sorted and changed. NaN without observations, without a `+Inf` bucket and for
/// NaN bounds.
pub(crate) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !prepare(buckets) {
        return f64::NAN;
    }
    let total = buckets[buckets.len() - 1].count;
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets, total) - rank_of(lower, buckets, total)) / total
}

/// How many observations lie below `value`.
fn rank_of(value: f64, buckets: &[Bucket], total: f64) -> f64 {
    // Buckets that reach below zero have no natural start.
    let mut start = if buckets[0].upper_bound <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    let mut below = 0.0;
    for bucket in buckets {
        if start >= value {
            return cap(below, total);
        }
        if bucket.upper_bound > value {
            if start == f64::NEG_INFINITY {
                return cap(bucket.count, total);
            }
            let share = (value - start) / (bucket.upper_bound - start);
            return cap(below + (bucket.count - below) * share, total);
        }
        below = bucket.count;
        start = bucket.upper_bound;
    }
    total
}

fn cap(rank: f64, total: f64) -> f64 {
    if rank > total { total } else { rank }
}

/// Sorts buckets and adds up those with the same bound. Whether the highest bound is +Inf.
fn prepare(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
    if buckets.last().is_none_or(|b| b.upper_bound != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.upper_bound == kept.upper_bound;
        if same {
            kept.count += next.count;
        }
        same
    });
    true
}

fn make_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut previous = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if almost_equal(previous, count) {
            bucket.count = previous;
        } else if count < previous {
            bucket.count = previous;
            let (bound, diff) = (bucket.upper_bound, previous - count);
            let so_far = forced.unwrap_or(Forced { lowest: bound, highest: bound, max_diff: 0.0 });
            forced = Some(Forced {
                lowest: so_far.lowest.min(bound),
                highest: so_far.highest.max(bound),
                max_diff: so_far.max_diff.max(diff),
            });
        } else {
            previous = count;
        }
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < SMALL_DELTA * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < SMALL_DELTA
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|&(upper_bound, count)| Bucket { upper_bound, count }).collect()
    }

    #[track_caller]
    fn check_quantile(q: f64, pairs: &[(f64, f64)], expected: f64) {
        let (found, forced) = quantile(q, &mut buckets(pairs));
        assert!(found == expected || (found.is_nan() && expected.is_nan()), "{found} is not {expected}");
        assert_eq!(forced, None);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let counts = [(INF, 12.0), (1.0, 4.0), (2.0, 8.0)];
        check_quantile(0.5, &counts, 1.5);
        check_quantile(0.0, &counts, 0.0);
        check_quantile(0.125, &counts, 0.375);
        check_quantile(1.0, &counts, 2.0);
        check_quantile(-0.1, &counts, f64::NEG_INFINITY);
        check_quantile(1.1, &counts, INF);
        check_quantile(f64::NAN, &counts, f64::NAN);
        check_quantile(0.1, &[(-1.0, 4.0), (2.0, 8.0), (INF, 8.0)], -1.0);
    }

    #[test]
    fn histograms_without_a_meaning_give_nan() {
        check_quantile(0.5, &[(1.0, 4.0), (2.0, 8.0)], f64::NAN);
        check_quantile(0.5, &[(INF, 4.0)], f64::NAN);
        check_quantile(0.5, &[(1.0, 0.0), (INF, 0.0)], f64::NAN);
    }

    #[test]
    fn falling_counts_are_lifted_and_reported() {
        let mut falling = buckets(&[(1.0, 4.0), (2.0, 2.0), (3.0, 3.0), (4.0, 8.0), (INF, 8.0)]);
        let (found, forced) = quantile(0.75, &mut falling);
        assert_eq!((found, forced), (3.5, Some(Forced { lowest: 2.0, highest: 3.0, max_diff: 2.0 })));
        let mut noisy = buckets(&[(1.0, 4.0), (2.0, 4.0 - 1e-13), (INF, 8.0)]);
        assert_eq!(quantile(0.25, &mut noisy), (0.5, None));
    }

    #[test]
    fn buckets_of_the_same_bound_are_added() {
        check_quantile(0.5, &[(1.0, 2.0), (1.0, 2.0), (INF, 4.0), (INF, 4.0)], 1.0);
    }

    #[test]
    fn fractions_are_interpolated_too() {
        let pairs = [(1.0, 4.0), (2.0, 8.0), (INF, 16.0)];
        let of = |lower, upper| fraction(lower, upper, &mut buckets(&pairs));
        assert_eq!(of(0.0, 2.0), 0.5);
        assert_eq!(of(0.5, 1.5), 0.25);
        assert_eq!(of(f64::NEG_INFINITY, INF), 1.0);
        assert_eq!(of(1.0, 100.0), 0.25);
        assert_eq!(of(2.0, 1.0), 0.0);
        assert!(of(f64::NAN, 1.0).is_nan());
        let from_below_zero = [(-1.0, 2.0), (1.0, 4.0), (INF, 4.0)];
        assert_eq!(fraction(-5.0, 0.0, &mut buckets(&from_below_zero)), 0.25);
    }
}
