//! `irate` and `idelta`: the difference between the last two samples of the window.
//!
//! Source: Prometheus 3.14, `instantValue`.

use super::output::Output;
use super::starts;
use super::window::{CallSite, Samples, Window, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::points::Point;
use crate::eval::poll::Poll;
use crate::histogram;
use std::sync::Arc;

struct Sample {
    ts: i64,
    start: i64,
    value: Point,
}

/// Computes `irate` (`is_rate`) or `idelta` for all steps.
pub(crate) fn run(
    is_rate: bool,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |window| {
        let Some((previous, last)) = last_two(window) else { return Ok(()) };
        let seconds = (last.ts - previous.ts) as f64 / 1000.0;
        let started = starts::is_reset(previous.start, previous.ts, last.start, last.ts);
        match (previous.value, last.value) {
            (Point::Float(a), Point::Float(b)) => {
                let difference = if is_rate && (b < a || started) { b } else { b - a };
                out.set(window.step, if is_rate { difference / seconds } else { difference });
            }
            (Point::Histogram(a), Point::Histogram(b)) => {
                poll.touched(b.weight() as usize)?;
                let result = histogram::rate::between(is_rate, started, (&a, &b), seconds, site, notes);
                if let Some(h) = result {
                    out.set_histogram(window.step, h)?;
                }
            }
            _ => notes.mixed_floats_histograms(site.metric, site.arg),
        }
        Ok(())
    })
}

fn last_two(window: &Window<'_>) -> Option<(Sample, Sample)> {
    let samples = window.samples;
    let float = |at: usize| Sample {
        ts: samples.ts[at],
        start: samples.starts.get(at).copied().unwrap_or(0),
        value: Point::Float(samples.values[at]),
    };
    let hist = |at: usize| Sample {
        ts: samples.h_ts[at],
        start: samples.h_starts.get(at).copied().unwrap_or(0),
        value: Point::Histogram(Arc::clone(&samples.hists[at])),
    };
    let (mut f, mut h) = (window.floats.clone(), window.hists.clone());
    let mut newest = || match (f.clone().next_back(), h.clone().next_back()) {
        (None, None) => None,
        (Some(i), Some(j)) if samples.ts[i] >= samples.h_ts[j] => f.next_back().map(float),
        (_, Some(_)) => h.next_back().map(hist),
        (Some(_), None) => f.next_back().map(float),
    };
    let last = newest()?;
    let previous = newest()?;
    Some((previous, last))
}
