//! `first_over_time`, `last_over_time` and the times of the first and last sample.

use super::output::Output;
use super::window::{Samples, Window, Windows};
use crate::engine::QueryError;
use crate::eval::poll::Poll;
use std::sync::Arc;

/// Computes `last_over_time` or, if not `last`, `first_over_time` for all steps.
pub(crate) fn run_value(
    last: bool,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |window| {
        match pick(last, window) {
            Picked::Float(at) => out.set(window.step, samples.values[at]),
            Picked::Histogram(at) => out.share_histogram(window.step, Arc::clone(&samples.hists[at]))?,
        }
        Ok(())
    })
}

/// Computes `ts_of_last_over_time` or, if not `last`, `ts_of_first_over_time` for all steps.
pub(crate) fn run_time(
    last: bool,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |window| {
        let ts = match pick(last, window) {
            Picked::Float(at) => samples.ts[at],
            Picked::Histogram(at) => samples.h_ts[at],
        };
        out.set(window.step, ts as f64 / 1000.0);
        Ok(())
    })
}

enum Picked {
    Float(usize),
    Histogram(usize),
}

/// The position of the first or last sample; the window holds one.
fn pick(last: bool, window: &Window<'_>) -> Picked {
    let end = |range: &std::ops::Range<usize>| if last { range.end.saturating_sub(1) } else { range.start };
    let (f, h) = (end(&window.floats), end(&window.hists));
    let float_wins = match (window.floats.is_empty(), window.hists.is_empty()) {
        (true, _) => false,
        (_, true) => true,
        _ if last => window.samples.ts[f] > window.samples.h_ts[h],
        _ => window.samples.ts[f] < window.samples.h_ts[h],
    };
    if float_wins { Picked::Float(f) } else { Picked::Histogram(h) }
}
