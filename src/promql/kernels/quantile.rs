//! `quantile_over_time` and `mad_over_time`, and the quantile of a set of values.
//!
//! Cost: a scan selects in O(samples in the window); where windows overlap much a sorted window is kept, with a
//! binary search and one move of memory for each sample that enters or leaves, or one merge if those are many.

use super::output::Output;
use super::window::{CallSite, Samples, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::{PIECE, Poll};
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

/// The same for a window, whose values may be so many that the guard must be asked in between.
fn quantile_of_window(q: f64, values: &mut [f64], poll: &Poll<'_>) -> Result<f64, QueryError> {
    poll.touched(values.len())?;
    let place = place(q, values.len()).filter(|_| values.len() > MANY);
    let Some((lower, upper, weight)) = place else { return Ok(quantile(q, values)) };
    Ok(ranked(values, lower, poll)? * (1.0 - weight) + ranked(values, upper, poll)? * weight)
}

/// Selecting from more values than this would take longer than a query may go without asking the guard.
const MANY: usize = 1 << 20;

/// The value that has `rank` values before it, digit by digit: each pass finds 16 bits more of its key.
fn ranked(values: &[f64], rank: usize, poll: &Poll<'_>) -> Result<f64, QueryError> {
    let (mut found, mut rank) = (0u64, rank);
    for shift in [48, 32, 16, 0] {
        let mut counts = vec![0usize; 1 << 16];
        poll.each(values, |value| {
            let digits = key(*value) >> shift;
            if digits >> 16 == found {
                counts[(digits & 0xffff) as usize] += 1;
            }
        })?;
        let mut digit = 0;
        while rank >= counts[digit] {
            rank -= counts[digit];
            digit += 1;
        }
        found = (found << 16) | digit as u64;
    }
    Ok(value_of(found))
}

/// A number that orders like `nan_first`.
fn key(value: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    match value.to_bits() {
        _ if value.is_nan() => 0,
        bits if bits & SIGN == 0 => bits | SIGN,
        bits => !bits,
    }
}

fn value_of(key: u64) -> f64 {
    const SIGN: u64 = 1 << 63;
    match key {
        0 => f64::NAN,
        key if key & SIGN != 0 => f64::from_bits(key & !SIGN),
        key => f64::from_bits(!key),
    }
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
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut sorted = Sorted::default();
    let slide = windows.overlap_much();
    let mut scratch = Vec::new();
    windows.for_each(samples, poll, |window| {
        if window.floats.is_empty() {
            return Ok(());
        }
        let q = q[window.step];
        if !(0.0..=1.0).contains(&q) {
            notes.invalid_quantile(q, site.arg);
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        let value = if slide {
            quantile_sorted(q, sorted.slide(&samples.values, window.floats.clone(), poll)?)
        } else {
            scratch.clear();
            scratch.extend_from_slice(window.values());
            quantile_of_window(q, &mut scratch, poll)?
        };
        out.set(window.step, value);
        Ok(())
    })
}

/// Computes `mad_over_time`, the median of the distances from the median, for all steps.
pub(crate) fn run_mad(
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut scratch = Vec::new();
    windows.for_each(samples, poll, |window| {
        if window.floats.is_empty() {
            return Ok(());
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        if window.values().iter().any(|v| v.is_nan()) {
            out.set(window.step, f64::NAN);
            return Ok(());
        }
        scratch.clear();
        scratch.extend_from_slice(window.values());
        let median = quantile_of_window(0.5, &mut scratch, poll)?;
        scratch.iter_mut().for_each(|v| *v = (*v - median).abs());
        out.set(window.step, quantile_of_window(0.5, &mut scratch, poll)?);
        Ok(())
    })
}

/// The values of a window that only moves forward, sorted with NaN first.
#[derive(Debug, Default)]
struct Sorted {
    values: Vec<f64>,
    covered: Range<usize>,
    /// Values that enter, and those that leave, while the others are merged with them.
    moving: [Vec<f64>; 2],
    scratch: Vec<f64>,
}

/// Up to so many samples that enter or leave are put into place one by one.
const FEW: usize = 16;

impl Sorted {
    fn slide(&mut self, all: &[f64], window: Range<usize>, poll: &Poll<'_>) -> Result<&[f64], QueryError> {
        if window.start >= self.covered.end {
            self.values.clear();
            self.covered = window.start..window.start;
        }
        let leaving = &all[self.covered.start..window.start];
        let entering = &all[self.covered.end..window.end];
        let moved = leaving.len() + entering.len();
        if moved > FEW {
            self.merge(leaving, entering, poll)?;
        } else {
            // What is moved in memory costs about as much as looking at a hundredth of it.
            poll.touched(moved * (1 + self.values.len() / 128))?;
            self.replace(leaving, entering);
        }
        self.covered = window;
        Ok(&self.values)
    }

    fn replace(&mut self, leaving: &[f64], entering: &[f64]) {
        for value in leaving {
            let at = self.values.partition_point(|v| nan_first(v, value) == Ordering::Less);
            self.values.remove(at);
        }
        for value in entering {
            let at = self.values.partition_point(|v| nan_first(v, value) == Ordering::Less);
            self.values.insert(at, *value);
        }
    }

    fn merge(&mut self, leaving: &[f64], entering: &[f64], poll: &Poll<'_>) -> Result<(), QueryError> {
        for (sorted, values) in self.moving.iter_mut().zip([entering, leaving]) {
            sorted.clear();
            sorted.extend_from_slice(values);
            sort(sorted, &mut self.scratch, poll)?;
        }
        let [entering, leaving] = &self.moving;
        poll.touched(self.values.len())?;
        let mut left = leaving.iter().peekable();
        self.values.retain(|v| left.next_if(|gone| nan_first(gone, v) == Ordering::Equal).is_none());
        self.scratch.clear();
        merge(&self.values, entering, &mut self.scratch, poll)?;
        std::mem::swap(&mut self.values, &mut self.scratch);
        Ok(())
    }
}

/// Sorts pieces and merges them, so that the guard can be asked in between.
fn sort(values: &mut Vec<f64>, scratch: &mut Vec<f64>, poll: &Poll<'_>) -> Result<(), QueryError> {
    for piece in values.chunks_mut(PIECE) {
        poll.touched(piece.len())?;
        piece.sort_unstable_by(nan_first);
    }
    let mut sorted = PIECE;
    while sorted < values.len() {
        let mut merged = std::mem::take(scratch);
        merged.clear();
        for pair in values.chunks(2 * sorted) {
            let (a, b) = pair.split_at(sorted.min(pair.len()));
            merge(a, b, &mut merged, poll)?;
        }
        *scratch = std::mem::replace(values, merged);
        sorted *= 2;
    }
    Ok(())
}

/// Appends the values of two sorted slices to `out`, sorted.
fn merge(a: &[f64], b: &[f64], out: &mut Vec<f64>, poll: &Poll<'_>) -> Result<(), QueryError> {
    out.reserve(a.len() + b.len());
    let mut rest = a;
    poll.each(b, |value| {
        let before = rest.iter().take_while(|v| nan_first(v, value) != Ordering::Greater).count();
        out.extend_from_slice(&rest[..before]);
        out.push(*value);
        rest = &rest[before..];
    })?;
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NoGuard;
    use proptest::prelude::*;

    fn values(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            8 => -9.0..9.0f64,
            4 => (-3..3i32).prop_map(f64::from),
            1 => Just(f64::NAN),
            1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]),
        ];
        prop::collection::vec(value, len)
    }

    fn sorted(values: &[f64]) -> Vec<f64> {
        let mut values = values.to_vec();
        values.sort_by(nan_first);
        values
    }

    fn same(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| nan_first(a, b) == Ordering::Equal)
    }

    proptest! {
        #[test]
        fn windows_stay_sorted_however_far_they_move(all in values(0..400), moves in prop::collection::vec((0..60usize, 0..60usize), 1..40)) {
            let poll = Poll::new(&NoGuard);
            let mut window = Sorted::default();
            let mut range = 0..0;
            for (leaving, entering) in moves {
                range = (range.start + leaving).min(all.len())..(range.end + entering).min(all.len());
                range.end = range.end.max(range.start);
                let slid = window.slide(&all, range.clone(), &poll).unwrap();
                prop_assert!(same(slid, &sorted(&all[range.clone()])), "{range:?}: {slid:?}");
            }
        }

        #[test]
        fn ranks_are_those_of_the_sorted_values(all in values(1..200)) {
            let poll = Poll::new(&NoGuard);
            let found: Vec<f64> = (0..all.len()).map(|rank| ranked(&all, rank, &poll).unwrap()).collect();
            prop_assert!(same(&found, &sorted(&all)), "{found:?}");
        }
    }

    #[test]
    fn more_than_a_piece_is_sorted() {
        let mut values: Vec<f64> = (0..PIECE * 3 + 7).map(|i| ((i * 7_919) % 100_003) as f64).collect();
        let expected = sorted(&values);
        sort(&mut values, &mut Vec::new(), &Poll::new(&NoGuard)).unwrap();
        assert_eq!(values, expected);
        let mut many = values.repeat(MANY / values.len() + 1);
        let expected = quantile_sorted(0.3, &sorted(&many));
        assert_eq!(quantile_of_window(0.3, &mut many, &Poll::new(&NoGuard)).unwrap(), expected);
    }

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
