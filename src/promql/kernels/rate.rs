//! `rate`, `increase` and `delta` of floats.
//!
//! Knows counter resets and extrapolation to the ends of the window. Histograms go to `histogram::rate`.
//! Source: Prometheus 3.14, `extrapolatedRate`.

use super::output::Output;
use super::starts;
use super::window::{CallSite, Samples, Window, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::Poll;
use crate::histogram;
use std::ops::Range;

/// Which of the functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateKind {
    /// Whether falling values are counter resets.
    pub(crate) is_counter: bool,
    /// Whether the result is per second.
    pub(crate) is_rate: bool,
}

/// Computes the function for all steps.
pub(crate) fn run(
    kind: RateKind,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut resets = Resets::new(samples, kind.is_counter);
    windows.for_each(samples, poll, |window| {
        if window.is_mixed() {
            notes.mixed_floats_histograms(site.metric, site.arg);
        } else if !window.hists.is_empty() {
            if let Some(h) = histogram::rate::extrapolated(kind, window, site, notes)? {
                out.set_histogram(window.step, h)?;
            }
        } else if let Some(value) = float_rate(kind, window, &mut resets, site, notes)? {
            out.set(window.step, value);
        }
        Ok(())
    })
}

fn float_rate(
    kind: RateKind,
    window: &Window<'_>,
    resets: &mut Resets,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Option<f64>, QueryError> {
    let (values, ts) = (window.values(), window.ts());
    let last = values.len() - 1;
    let mut result = values[last] - values[0];
    if kind.is_counter {
        result = resets.correct(window.floats.clone(), result, window.poll)?;
        if resets.overlap_in(window.floats.start, window.floats.end) {
            notes.start_time_overlap(site.metric, site.arg);
        }
    }
    let first_start = first_start(kind, window.samples.starts.get(window.floats.start), window, ts[0]);
    if first_start.is_some() {
        result += values[0];
    }
    let edges = Edges { first_ts: ts[0], last_ts: ts[last], intervals: last, start_inside: first_start };
    Ok(edges.factor(kind, window, values[0], result).map(|factor| result * factor))
}

/// The start timestamp of the first sample if the counter is known to have begun inside the window.
pub(crate) fn first_start(
    kind: RateKind,
    start: Option<&i64>,
    window: &Window<'_>,
    first_ts: i64,
) -> Option<i64> {
    let start = *start?;
    let inside = start != 0 && start > window.windows.start(window.step) && start < first_ts;
    (kind.is_counter && inside).then_some(start)
}

/// Where the samples of a window lie, for the extrapolation to its ends.
pub(crate) struct Edges {
    /// Time of the first sample.
    pub(crate) first_ts: i64,
    /// Time of the last sample.
    pub(crate) last_ts: i64,
    /// Number of samples less one.
    pub(crate) intervals: usize,
    /// When the counter began, if that is known and inside the window.
    pub(crate) start_inside: Option<i64>,
}

impl Edges {
    /// What the difference between the samples is multiplied with, `None` if there are too few of them. `first` and
    /// `result` are the first value and the difference, counts for histograms.
    pub(crate) fn factor(&self, kind: RateKind, window: &Window<'_>, first: f64, result: f64) -> Option<f64> {
        let (start, end) = (window.windows.start(window.step), window.windows.end(window.step));
        let mut to_start = (self.first_ts - start) as f64 / 1000.0;
        let mut to_end = (end - self.last_ts) as f64 / 1000.0;
        let mut sampled = (self.last_ts - self.first_ts) as f64 / 1000.0;
        let between = if self.intervals > 0 { sampled / self.intervals as f64 } else { 0.0 };
        let threshold = between * 1.1;
        if let Some(began) = self.start_inside {
            to_start = 0.0;
            sampled = (self.last_ts - began) as f64 / 1000.0;
        } else if self.intervals == 0 {
            return None;
        } else {
            if to_start >= threshold {
                to_start = between / 2.0;
            }
            // A counter does not go below zero: extrapolate no further than to where it would have been zero.
            if kind.is_counter && result > 0.0 && first >= 0.0 {
                to_start = to_start.min(sampled * (first / result));
            }
        }
        if to_end >= threshold {
            to_end = between / 2.0;
        }
        let mut factor = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
        if kind.is_rate {
            factor /= window.windows.range_seconds();
        }
        Some(factor)
    }
}

/// The counter resets of a series, and the part of them that lies in a window that only moves forward.
pub(crate) struct Resets {
    /// Positions of the samples before which the counter was reset.
    at: Vec<usize>,
    /// Values before each reset.
    lost: Vec<f64>,
    /// Sums of `lost` up to each reset, high and low part; `prefix[i]` lies before `lost[i]`.
    prefix: Vec<(f64, f64)>,
    /// Whether every lost value is finite and so small that no sum overflows.
    tame: bool,
    /// Positions of samples whose start timestamp overlaps the sample before.
    overlaps: Vec<usize>,
    lo: usize,
    hi: usize,
}

/// Up to so many resets in a window are added one by one.
const FEW: usize = 16;

impl Resets {
    /// Finds all resets of the float lane. O(samples).
    pub(crate) fn new(samples: &Samples, is_counter: bool) -> Self {
        let mut resets = Self {
            at: Vec::new(),
            lost: Vec::new(),
            prefix: vec![(0.0, 0.0)],
            tame: true,
            overlaps: Vec::new(),
            lo: 0,
            hi: 0,
        };
        if !is_counter {
            return resets;
        }
        for i in 1..samples.values.len() {
            if samples.values[i] < samples.values[i - 1] || resets.by_start(samples, i) {
                resets.push(i, samples.values[i - 1]);
            }
        }
        resets
    }

    fn by_start(&mut self, samples: &Samples, i: usize) -> bool {
        if samples.starts.is_empty() {
            return false;
        }
        let (starts, ts) = (&samples.starts, &samples.ts);
        if starts::overlaps(starts[i - 1], ts[i - 1], starts[i]) {
            self.overlaps.push(i);
        }
        starts::is_reset(starts[i - 1], ts[i - 1], starts[i], ts[i])
    }

    fn push(&mut self, at: usize, lost: f64) {
        let (hi, lo) = self.prefix[self.prefix.len() - 1];
        let sum = hi + lost;
        let shift = sum - hi;
        let rounded = (hi - (sum - shift)) + (lost - shift);
        self.tame &= lost.abs() < 1e290;
        self.at.push(at);
        self.lost.push(lost);
        self.prefix.push((sum, lo + rounded));
    }

    /// `difference` plus what was lost by resets between the samples of `window`. Windows must not move back.
    fn correct(&mut self, window: Range<usize>, difference: f64, poll: &Poll<'_>) -> Result<f64, QueryError> {
        if self.at.is_empty() {
            return Ok(difference);
        }
        while self.hi < self.at.len() && self.at[self.hi] < window.end {
            self.hi += 1;
        }
        while self.lo < self.hi && self.at[self.lo] <= window.start {
            self.lo += 1;
        }
        if self.hi - self.lo <= FEW || !self.tame {
            let mut sum = difference;
            poll.each(&self.lost[self.lo..self.hi], |lost| sum += lost)?;
            return Ok(sum);
        }
        let (from, to) = (self.prefix[self.lo], self.prefix[self.hi]);
        Ok(difference + ((to.0 - from.0) + (to.1 - from.1)))
    }

    /// Whether a start timestamp overlaps a sample between the samples `first..end`.
    pub(crate) fn overlap_in(&self, first: usize, end: usize) -> bool {
        let at = self.overlaps.partition_point(|i| *i <= first);
        self.overlaps.get(at).is_some_and(|i| *i < end)
    }
}
