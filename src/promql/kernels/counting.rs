//! `changes`, `resets`, `count_over_time` and `present_over_time`.
//!
//! Cost: `changes` and `resets` of float series count once up to each sample and take differences, O(1) a step.
//! Series with histograms are scanned window by window.

use super::output::Output;
use super::starts;
use super::window::{Samples, Window, Windows};
use crate::ast::RangeMode;
use crate::engine::QueryError;
use crate::eval::poll::Poll;
use crate::histogram::FloatHistogram;
use std::ops::Range;

/// Which of the functions of neighbouring samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairKind {
    /// `changes`
    Changes,
    /// `resets`
    Resets,
}

/// Computes `count_over_time` for all steps.
pub(crate) fn run_count(
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |w| {
        out.set(w.step, (w.floats.len() + w.hists.len()) as f64);
        Ok(())
    })
}

/// Computes `present_over_time`, and the raw form of `absent_over_time`, for all steps.
pub(crate) fn run_present(
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |w| {
        out.set(w.step, 1.0);
        Ok(())
    })
}

/// Computes `changes` or `resets` for all steps.
pub(crate) fn run_pairs(
    kind: PairKind,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let counts = samples.h_ts.is_empty().then(|| prefix_counts(kind, samples));
    windows.for_each(samples, poll, |window| {
        let Some((floats, hists)) = seen(window) else { return Ok(()) };
        let count = match &counts {
            Some(counts) => counts[floats.end - 1] - counts[floats.start],
            None => scan(kind, samples, floats, hists, poll)?,
        };
        out.set(window.step, count as f64);
        Ok(())
    })
}

/// For each float sample the number of pairs up to it that count.
fn prefix_counts(kind: PairKind, samples: &Samples) -> Vec<usize> {
    let mut count = 0;
    let mut counts = Vec::with_capacity(samples.values.len());
    for i in 0..samples.values.len() {
        if i > 0 && float_pair(kind, samples, i - 1, i) {
            count += 1;
        }
        counts.push(count);
    }
    counts
}

fn float_pair(kind: PairKind, samples: &Samples, i: usize, j: usize) -> bool {
    let (a, b) = (samples.values[i], samples.values[j]);
    match kind {
        PairKind::Changes => a != b && !(a.is_nan() && b.is_nan()),
        PairKind::Resets => b < a || by_start(&samples.starts, i, &samples.ts, j),
    }
}

fn by_start(starts: &[i64], i: usize, ts: &[i64], j: usize) -> bool {
    !starts.is_empty() && starts::is_reset(starts[i], ts[i], starts[j], ts[j])
}

fn scan(
    kind: PairKind,
    samples: &Samples,
    mut floats: Range<usize>,
    mut hists: Range<usize>,
    poll: &Poll<'_>,
) -> Result<usize, QueryError> {
    let mut previous: Option<(bool, usize)> = None;
    let mut count = 0;
    loop {
        let float_next = match (floats.start < floats.end, hists.start < hists.end) {
            (false, false) => return Ok(count),
            (true, true) => samples.ts[floats.start] < samples.h_ts[hists.start],
            (float, _) => float,
        };
        let current = if float_next { floats.next() } else { hists.next() };
        let Some(at) = current else { return Ok(count) };
        poll.touched(if float_next { 1 } else { samples.hists[at].weight() as usize })?;
        count += usize::from(match previous {
            None => false,
            Some((true, before)) if float_next => float_pair(kind, samples, before, at),
            Some((false, before)) if !float_next => histogram_pair(kind, samples, before, at),
            Some(_) => true,
        });
        previous = Some((float_next, at));
    }
}

fn histogram_pair(kind: PairKind, samples: &Samples, i: usize, j: usize) -> bool {
    let (a, b): (&FloatHistogram, &FloatHistogram) = (&samples.hists[i], &samples.hists[j]);
    match kind {
        PairKind::Changes => !b.equals(a),
        PairKind::Resets => {
            let (starts, ts) = (&samples.h_starts, &samples.h_ts);
            (!starts.is_empty() && starts::is_reset(starts[i], ts[i], starts[j], ts[j])) || b.detect_reset(a)
        }
    }
}

/// The samples that are compared. Under `anchored` the last sample at or before the start of the window comes
/// first, and without a sample after it there is nothing to compare.
fn seen(window: &Window<'_>) -> Option<(Range<usize>, Range<usize>)> {
    let (floats, hists) = (window.floats.clone(), window.hists.clone());
    if window.windows.mode != RangeMode::Anchored {
        return Some((floats, hists));
    }
    let start = window.windows.start(window.step);
    let after_f = floats.start + window.ts().partition_point(|t| *t <= start);
    let after_h = hists.start + window.h_ts().partition_point(|t| *t <= start);
    if after_f == floats.end && after_h == hists.end {
        return None;
    }
    let anchor_f = (after_f > floats.start).then(|| window.samples.ts[after_f - 1]);
    let anchor_h = (after_h > hists.start).then(|| window.samples.h_ts[after_h - 1]);
    match (anchor_f, anchor_h) {
        (None, None) => Some((floats, hists)),
        (Some(f), h) if h.is_none_or(|h| f >= h) => Some((after_f - 1..floats.end, after_h..hists.end)),
        _ => Some((after_f..floats.end, after_h - 1..hists.end)),
    }
}
