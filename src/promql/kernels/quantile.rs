//! `quantile_over_time` and `mad_over_time`, and the quantile of a set of values.
//!
//! Cost: a scan selects in O(samples in the window); where windows overlap much a sorted window is kept, with a
//! binary search and one move of memory for each sample that enters or leaves.

use super::window::{CallSite, Samples, Windows};
use crate::eval::notes::Notes;
use crate::eval::points::Points;
use std::cmp::Ordering;
use std::ops::Range;

/// The `q` quantile of `values`, which are reordered, by linear interpolation. NaN values count as the smallest.
/// No values or a NaN `q` give NaN; `q` below 0 gives -Inf, above 1 +Inf. O(values).
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    let Some((lower, upper, weight)) = place(q, values.len()) else { return outside(q, values.len()) };
    let (_, low, rest) = values.select_nth_unstable_by(lower, nan_first);
    let low = *low;
    let high = if upper == lower { low } else { rest.iter().copied().min_by(nan_first).unwrap_or(low) };
    low * (1.0 - weight) + high * weight
}

/// The same for values that are sorted with NaN first.
pub(crate) fn quantile_sorted(q: f64, values: &[f64]) -> f64 {
    let Some((lower, upper, weight)) = place(q, values.len()) else { return outside(q, values.len()) };
    values[lower] * (1.0 - weight) + values[upper] * weight
}

fn outside(q: f64, n: usize) -> f64 {
    if n == 0 || q.is_nan() {
        f64::NAN
    } else if q < 0.0 {
        f64::NEG_INFINITY
    } else {
        f64::INFINITY
    }
}

/// The two positions that are interpolated and the weight of the second.
fn place(q: f64, n: usize) -> Option<(usize, usize, f64)> {
    if n == 0 || !(0.0..=1.0).contains(&q) {
        return None;
    }
    let rank = q * (n as f64 - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (lower as usize + 1).min(n - 1);
    Some((lower as usize, upper, rank - rank.floor()))
}

/// NaN before all, else by value.
pub(crate) fn nan_first(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Computes `quantile_over_time` for all steps; `q` has one value for each.
pub(crate) fn run(
    q: &[f64],
    samples: &Samples,
    windows: &Windows,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Points,
) {
    let mut sorted = Sorted::default();
    let slide = windows.overlap_much();
    let mut scratch = Vec::new();
    windows.for_each(samples, |window| {
        if window.floats.is_empty() {
            return;
        }
        let q = q[window.step];
        if !(0.0..=1.0).contains(&q) {
            notes.invalid_quantile(q, site.arg);
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        let value = if slide {
            quantile_sorted(q, sorted.slide(&samples.values, window.floats.clone()))
        } else {
            scratch.clear();
            scratch.extend_from_slice(window.values());
            quantile(q, &mut scratch)
        };
        out.set(window.step, value);
    });
}

/// Computes `mad_over_time`, the median of the distances from the median, for all steps.
pub(crate) fn run_mad(
    samples: &Samples,
    windows: &Windows,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Points,
) {
    let mut scratch = Vec::new();
    windows.for_each(samples, |window| {
        if window.floats.is_empty() {
            return;
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        if window.values().iter().any(|v| v.is_nan()) {
            return out.set(window.step, f64::NAN);
        }
        scratch.clear();
        scratch.extend_from_slice(window.values());
        let median = quantile(0.5, &mut scratch);
        scratch.iter_mut().for_each(|v| *v = (*v - median).abs());
        out.set(window.step, quantile(0.5, &mut scratch));
    });
}

/// The values of a window that only moves forward, sorted with NaN first.
#[derive(Debug, Default)]
struct Sorted {
    values: Vec<f64>,
    covered: Range<usize>,
}

impl Sorted {
    fn slide(&mut self, all: &[f64], window: Range<usize>) -> &[f64] {
        if window.start >= self.covered.end {
            self.values.clear();
            self.covered = window.start..window.start;
        }
        for value in &all[self.covered.start..window.start] {
            let at = self.values.partition_point(|v| nan_first(v, value) == Ordering::Less);
            self.values.remove(at);
        }
        for value in &all[self.covered.end..window.end] {
            let at = self.values.partition_point(|v| nan_first(v, value) == Ordering::Less);
            self.values.insert(at, *value);
        }
        self.covered = window;
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_and_saturate() {
        assert_eq!(quantile(0.5, &mut [3.0, 1.0, 2.0, 4.0]), 2.5);
        assert_eq!(quantile(0.0, &mut [3.0, 1.0]), 1.0);
        assert_eq!(quantile(1.0, &mut [3.0, 1.0]), 3.0);
        assert_eq!(quantile(-0.1, &mut [1.0]), f64::NEG_INFINITY);
        assert_eq!(quantile(1.1, &mut [1.0]), f64::INFINITY);
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan());
        assert!(quantile(0.5, &mut []).is_nan());
        assert!(quantile(0.0, &mut [1.0, f64::NAN]).is_nan());
        assert_eq!(quantile(1.0, &mut [1.0, f64::NAN]), 1.0);
    }
}
