//! `rate`, `increase`, `delta`, `irate` and `idelta` of histograms.
//!
//! Source: Prometheus 3.14, `histogramRate` and `instantValue`.

use super::{FloatHistogram, Incompatible, NoResult, if_fit};
use crate::engine::QueryError;
use crate::eval::notes::{HistogramOp, Notes};
use crate::kernels::rate::{Edges, RateKind, first_start};
use crate::kernels::starts;
use crate::kernels::window::{CallSite, Window};
use quorate_model::CounterResetHint;
use std::sync::Arc;

/// `rate`, `increase` or `delta` of the histograms of a window.
pub(crate) fn extrapolated(
    kind: RateKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Option<Arc<FloatHistogram>>, QueryError> {
    if_fit(extrapolate(kind, window, site, notes))
}

fn extrapolate(
    kind: RateKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Arc<FloatHistogram>, NoResult> {
    let (hists, ts) = (window.histograms(), window.h_ts());
    let last = hists.len() - 1;
    let mut result = None;
    if last > 0 {
        result = Some(difference(kind, window, site, notes)?);
    }
    let start = first_start(kind, window.samples.h_starts.get(window.hists.start), window, ts[0]);
    if start.is_some() {
        result = Some(match result {
            None => (*hists[0]).clone(),
            Some(mut sum) => {
                add(&mut sum, &hists[0], HistogramOp::Addition, site, notes).ok_or(NoResult::Unfit)?;
                sum
            }
        });
    }
    let edges = Edges { first_ts: ts[0], last_ts: ts[last], intervals: last, start_inside: start };
    let increase = result.as_ref().map_or(0.0, |h| h.count);
    let factor = edges.factor(kind, window, hists[0].count, increase).ok_or(NoResult::Unfit)?;
    result.map(|h| Arc::new(h.scaled(factor))).ok_or(NoResult::Unfit)
}

/// Last less first, with what was lost at counter resets.
fn difference(
    kind: RateKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<FloatHistogram, NoResult> {
    let hists = window.histograms();
    window.poll.touched(hists.len())?;
    let (mut first, last) = (Arc::clone(&hists[0]), &hists[hists.len() - 1]);
    let is_gauge = |h: &FloatHistogram| h.hint == CounterResetHint::Gauge;
    if kind.is_counter && (is_gauge(&first) || is_gauge(last)) {
        notes.native_histogram_not_counter(site.metric, site.arg);
    }
    if kind.is_counter && (started(window, 1) || hists[1].detect_reset(&first)) {
        // The first sample does not count then, so its layout need not fit.
        first = Arc::new(hists[1].empty_like());
    }
    let inner = &hists[1..hists.len() - 1];
    let fits = |h: &FloatHistogram| h.is_custom() == first.is_custom();
    if !fits(last) || (kind.is_counter && !inner.iter().all(|h| fits(h))) {
        notes.mixed_exponential_custom(site.metric, site.arg);
        return Err(NoResult::Unfit);
    }
    if kind.is_counter && inner.iter().any(|h| is_gauge(h)) {
        notes.native_histogram_not_counter(site.metric, site.arg);
    }
    let mut result = (**last).clone();
    let schemas = inner.iter().filter(|_| kind.is_counter).map(|h| h.schema);
    let schema = schemas.fold(first.schema.min(last.schema), i8::min);
    if schema < result.schema {
        result.reduce(schema);
    }
    sub(&mut result, &first, site, notes).ok_or(NoResult::Unfit)?;
    if kind.is_counter {
        correct(&mut result, first, window, site, notes)?;
    } else if !is_gauge(&hists[0]) || !is_gauge(last) {
        notes.native_histogram_not_gauge(site.metric, site.arg);
    }
    result.hint = CounterResetHint::Gauge;
    Ok(result)
}

fn correct(
    result: &mut FloatHistogram,
    first: Arc<FloatHistogram>,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<(), NoResult> {
    let (starts, ts) = (&window.samples.h_starts, &window.samples.h_ts);
    let mut previous = first;
    for (i, current) in window.histograms().iter().enumerate().skip(1) {
        window.poll.touched(current.weight() as usize)?;
        let at = window.hists.start + i;
        if !starts.is_empty() && starts::overlaps(starts[at - 1], ts[at - 1], starts[at]) {
            notes.start_time_overlap(site.metric, site.arg);
        }
        if started(window, i) || current.detect_reset(&previous) {
            add(result, &previous, HistogramOp::Addition, site, notes).ok_or(NoResult::Unfit)?;
        }
        previous = Arc::clone(current);
    }
    Ok(())
}

/// Whether the start timestamp of sample `i` of the window says that the counter began anew.
fn started(window: &Window<'_>, i: usize) -> bool {
    let (starts, ts) = (&window.samples.h_starts, &window.samples.h_ts);
    let at = window.hists.start + i;
    !starts.is_empty() && starts::is_reset(starts[at - 1], ts[at - 1], starts[at], ts[at])
}

/// Adds `other`; `None` with a note if it does not fit.
pub(super) fn add(
    sum: &mut FloatHistogram,
    other: &FloatHistogram,
    op: HistogramOp,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<()> {
    let sign = if op == HistogramOp::Subtraction { -1.0 } else { 1.0 };
    match sum.combine(other, sign) {
        Ok(told) => {
            if told.reconciled {
                notes.mismatched_custom_buckets(op, site.arg);
            }
            Some(())
        }
        Err(Incompatible) => {
            notes.mixed_exponential_custom(site.metric, site.arg);
            None
        }
    }
}

/// Subtracts `other`; `None` with a note if it does not fit.
pub(super) fn sub(
    from: &mut FloatHistogram,
    other: &FloatHistogram,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<()> {
    add(from, other, HistogramOp::Subtraction, site, notes)
}

/// `irate` (`is_rate`) or `idelta` between two histograms that lie `seconds` apart.
pub(crate) fn between(
    is_rate: bool,
    started: bool,
    (previous, last): (&FloatHistogram, &FloatHistogram),
    seconds: f64,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<Arc<FloatHistogram>> {
    let gauges = [previous, last].map(|h| h.hint == CounterResetHint::Gauge);
    if is_rate && gauges.contains(&true) {
        notes.native_histogram_not_counter(site.metric, site.arg);
    }
    if !is_rate && gauges.contains(&false) {
        notes.native_histogram_not_gauge(site.metric, site.arg);
    }
    let mut result = last.clone();
    if !is_rate || (!started && !last.detect_reset(previous)) {
        sub(&mut result, previous, site, notes)?;
    }
    result.hint = CounterResetHint::Gauge;
    Some(Arc::new(if is_rate { result.divided(seconds) } else { result }))
}
