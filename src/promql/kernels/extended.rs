//! `rate`, `increase` and `delta` over `anchored` and `smoothed` range selectors, and `smoothed` instant selectors.
//!
//! The window sees samples around it too: anchored takes the value at its start from the last sample before it,
//! smoothed interpolates at both ends. Nothing is extrapolated.
//! Source: Prometheus 3.14, `extendedRate` and `smoothSeries`.

use super::output::Output;
use super::rate::RateKind;
use super::window::{CallSite, Samples, Window, Windows};
use crate::ast::RangeMode;
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::Poll;
use crate::histogram;

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
    windows.for_each(samples, poll, |window| {
        if window.is_mixed() {
            notes.mixed_floats_histograms(site.metric, site.arg);
        } else if !window.hists.is_empty() {
            if let Some(h) = histogram::extended::rate(kind, window, site, notes)? {
                out.set_histogram(window.step, h)?;
            }
        } else if let Some(value) = float_rate(kind, window)? {
            out.set(window.step, value);
        }
        Ok(())
    })
}

/// The first and last sample that count, as positions in `ts`, or `None` if no sample bears on the window.
pub(crate) fn bounds(window: &Window<'_>, ts: &[i64]) -> Option<(usize, usize)> {
    let (start, end) = (window.windows.start(window.step), window.windows.end(window.step));
    let smoothed = window.windows.mode == RangeMode::Smoothed;
    let mut last = ts.len() - 1;
    let first = ts[..last].partition_point(|t| *t <= start).saturating_sub(1);
    if smoothed {
        last = ts[..last].partition_point(|t| *t < end);
    }
    if ts[last] <= start || (smoothed && ts[first] > end) {
        return None;
    }
    Some((first, last))
}

fn float_rate(kind: RateKind, window: &Window<'_>) -> Result<Option<f64>, QueryError> {
    let (ts, values) = (window.ts(), window.values());
    let (start, end) = (window.windows.start(window.step), window.windows.end(window.step));
    let smoothed = window.windows.mode == RangeMode::Smoothed;
    let Some((mut first, last)) = bounds(window, ts) else { return Ok(None) };
    let point = |at: usize| (ts[at], values[at]);
    let left = if smoothed && ts[first] < start {
        interpolate(point(first), point(first + 1), start, kind.is_counter)
    } else {
        values[first]
    };
    let right = if smoothed && last > 0 && ts[last] > end {
        interpolate(point(last - 1), point(last), end, kind.is_counter)
    } else {
        values[last]
    };
    let mut result = right - left;
    if kind.is_counter {
        first += usize::from(ts[first] <= start);
        let after = if ts[last] >= end { last } else { last + 1 };
        let inside = if first < after { &values[first..after] } else { &[] };
        result += lost_to_resets(left, right, inside, window.poll)?;
    }
    Ok(Some(if kind.is_rate { result / window.windows.range_seconds() } else { result }))
}

/// The value at `ts` on the line between two samples. A counter that falls is taken to restart from zero.
pub(crate) fn interpolate(before: (i64, f64), after: (i64, f64), ts: i64, is_counter: bool) -> f64 {
    let from = if is_counter && after.1 < before.1 { 0.0 } else { before.1 };
    from + (after.1 - from) * (ts - before.0) as f64 / (after.0 - before.0) as f64
}

fn lost_to_resets(left: f64, right: f64, inside: &[f64], poll: &Poll<'_>) -> Result<f64, QueryError> {
    let (mut lost, mut previous) = (0.0, left);
    let mut see = |value: &f64| {
        if *value < previous {
            lost += previous;
        }
        previous = *value;
    };
    poll.each(inside, &mut see)?;
    see(&right);
    Ok(lost)
}

/// Computes a `smoothed` instant selector for all steps: the value on the line between the samples around it, or
/// the last one if none follows. The windows reach a lookback to both sides.
pub(crate) fn run_instant(
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |window| {
        let ts = window.windows.end(window.step) - window.windows.lookback;
        if window.is_mixed() {
            notes.mixed_floats_histograms(site.metric, site.arg);
        } else if !window.hists.is_empty() {
            poll.touched(window.histograms()[0].weight() as usize)?;
            if let Some(h) = histogram::extended::at(window, ts, site, notes) {
                out.set_histogram(window.step, h)?;
            }
        } else if let Some(value) = float_at(window, ts) {
            out.set(window.step, value);
        }
        Ok(())
    })
}

fn float_at(window: &Window<'_>, ts: i64) -> Option<f64> {
    let (times, values) = (window.ts(), window.values());
    let next = times.partition_point(|t| *t < ts);
    match times.get(next) {
        Some(t) if *t == ts => Some(values[next]),
        Some(t) if next > 0 => {
            Some(interpolate((times[next - 1], values[next - 1]), (*t, values[next]), ts, false))
        }
        Some(_) => None,
        None => values.last().copied(),
    }
}
