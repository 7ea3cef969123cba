//! `anchored` and `smoothed` windows of histograms.
//!
//! Source: Prometheus 3.14, `extendedHistogramRate` and `smoothSeries`.

use super::rate::{add, sub};
use super::{FloatHistogram, Incompatible, NoResult, if_fit};
use crate::ast::RangeMode;
use crate::engine::QueryError;
use crate::eval::notes::{HistogramOp, Notes};
use crate::kernels::extended::bounds;
use crate::kernels::rate::RateKind;
use crate::kernels::window::{CallSite, Window};
use quorate_model::CounterResetHint;
use std::sync::Arc;

/// `rate`, `increase` or `delta` of an anchored or smoothed window.
pub(crate) fn rate(
    kind: RateKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Option<Arc<FloatHistogram>>, QueryError> {
    if_fit(increase(kind, window, site, notes))
}

fn increase(
    kind: RateKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Arc<FloatHistogram>, NoResult> {
    let (hists, ts) = (window.histograms(), window.h_ts());
    let (start, end) = (window.windows.start(window.step), window.windows.end(window.step));
    let smoothed = window.windows.mode == RangeMode::Smoothed;
    let (first, last) = bounds(window, ts).ok_or(NoResult::Unfit)?;
    window.poll.touched(last - first + 1)?;
    check(kind, &hists[first..=last], site, notes).ok_or(NoResult::Unfit)?;
    let point = |at: usize| (ts[at], &*hists[at]);
    let left = if smoothed && ts[first] < start {
        interpolated(point(first), point(first + 1), start, kind.is_counter, site, notes)
            .ok_or(NoResult::Unfit)?
    } else {
        (*hists[first]).clone()
    };
    let right = if smoothed && last > 0 && ts[last] > end {
        interpolated(point(last - 1), point(last), end, kind.is_counter, site, notes)
            .ok_or(NoResult::Unfit)?
    } else {
        (*hists[last]).clone()
    };
    let is_gauge = |h: &FloatHistogram| h.hint == CounterResetHint::Gauge;
    let both_gauges = is_gauge(&left) && is_gauge(&right);
    if !kind.is_counter && !both_gauges {
        notes.native_histogram_not_gauge(site.metric, site.arg);
    }
    let mut result = right.clone();
    sub(&mut result, &left, site, notes).ok_or(NoResult::Unfit)?;
    if kind.is_counter {
        let spanned = smoothed && ts[first] < start && hists[first + 1].detect_reset(&hists[first]);
        let lost = lost_to_resets(window, (first, last), spanned, (&left, &right), site, notes)?;
        if let Some(lost) = lost {
            add(&mut result, &lost, HistogramOp::Addition, site, notes).ok_or(NoResult::Unfit)?;
        }
    }
    if kind.is_rate {
        result = result.divided(window.windows.range_seconds());
    }
    result.hint = CounterResetHint::Gauge;
    Ok(Arc::new(result))
}

fn check(kind: RateKind, hists: &[Arc<FloatHistogram>], site: CallSite<'_>, notes: &mut Notes) -> Option<()> {
    let is_custom = hists.first()?.is_custom();
    for h in hists {
        if h.is_custom() != is_custom {
            notes.mixed_exponential_custom(site.metric, site.arg);
            return None;
        }
        if kind.is_counter && h.hint == CounterResetHint::Gauge {
            notes.native_histogram_not_counter(site.metric, site.arg);
        }
    }
    Some(())
}

/// What the counter had counted before each reset between the ends. `spanned`: the left end was interpolated over a
/// reset, which counts already.
fn lost_to_resets(
    window: &Window<'_>,
    (first, last): (usize, usize),
    spanned: bool,
    (left, right): (&FloatHistogram, &FloatHistogram),
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Option<FloatHistogram>, NoResult> {
    let hists = window.histograms();
    let (begin, mut previous) = if spanned { (first + 2, &*hists[first + 1]) } else { (first + 1, left) };
    // The last sample is the right end, or the right end carries its hint.
    if begin > last {
        return Ok(None);
    }
    let mut lost: Option<FloatHistogram> = None;
    for current in hists[begin..last].iter().map(|h| &**h).chain([right]) {
        window.poll.touched(current.weight() as usize)?;
        if current.detect_reset(previous) {
            match &mut lost {
                Some(sum) => {
                    add(sum, previous, HistogramOp::Addition, site, notes).ok_or(NoResult::Unfit)?;
                }
                none => *none = Some(previous.clone()),
            }
        }
        previous = current;
    }
    Ok(lost)
}

/// The histogram at `ts` between two samples. A counter that was reset is taken to restart from nothing.
fn interpolated(
    (t1, h1): (i64, &FloatHistogram),
    (t2, h2): (i64, &FloatHistogram),
    ts: i64,
    is_counter: bool,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<FloatHistogram> {
    if ts == t1 {
        return Some(h1.clone());
    }
    if ts == t2 {
        return Some(h2.clone());
    }
    let fraction = (ts - t1) as f64 / (t2 - t1) as f64;
    if is_counter && h2.detect_reset(h1) {
        return Some(h2.scaled(fraction));
    }
    let fail = |notes: &mut Notes| {
        notes.mixed_exponential_custom(site.metric, site.arg);
        None
    };
    let mut result = h2.clone();
    match result.combine(h1, -1.0) {
        Ok(told) if told.reconciled => notes.mismatched_custom_buckets(HistogramOp::Subtraction, site.arg),
        Ok(_) => {}
        Err(Incompatible) => return fail(notes),
    }
    result = result.scaled(fraction);
    match result.combine(h1, 1.0) {
        Ok(told) if told.reconciled => notes.mismatched_custom_buckets(HistogramOp::Addition, site.arg),
        Ok(_) => {}
        Err(Incompatible) => return fail(notes),
    }
    Some(result)
}

/// The value of a smoothed instant selector at `ts`.
pub(crate) fn at(
    window: &Window<'_>,
    ts: i64,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<Arc<FloatHistogram>> {
    let (hists, times) = (window.histograms(), window.h_ts());
    let next = times.partition_point(|t| *t < ts);
    match (next.checked_sub(1), times.get(next)) {
        (_, Some(t)) if *t == ts => Some(Arc::clone(&hists[next])),
        (Some(before), Some(t)) => {
            let (a, b) = (&hists[before], &hists[next]);
            if a.is_custom() != b.is_custom() {
                notes.mixed_exponential_custom(site.metric, site.arg);
                return None;
            }
            let is_gauge = |h: &FloatHistogram| h.hint == CounterResetHint::Gauge;
            let is_counter = !(is_gauge(a) && is_gauge(b));
            interpolated((times[before], a), (*t, b), ts, is_counter, site, notes).map(Arc::new)
        }
        (Some(before), None) => {
            Some(Arc::new(FloatHistogram { hint: CounterResetHint::Unknown, ..(*hists[before]).clone() }))
        }
        (None, _) => None,
    }
}
