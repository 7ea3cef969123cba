//! `deriv` and `predict_linear`: least squares lines through the samples of a window.
//!
//! Source: Prometheus 3.14, `linearRegression`, for the scan; the sliding form keeps centred sums, which lose less
//! to rounding than sums around the evaluation time.

use super::kahan::Kahan;
use super::output::Output;
use super::sliding::{Part, Slider};
use super::window::{CallSite, Samples, Window, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::{PIECE, Poll};

/// Computes `predict_linear` for all steps, or `deriv` if there is no `ahead`, which has one value for each step:
/// how many seconds after the evaluation time.
pub(crate) fn run(
    ahead: Option<&[f64]>,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut slider = (windows.overlap_much() && samples.is_tame()).then(|| Sliding::new(samples));
    windows.for_each(samples, poll, |window| {
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        if window.floats.len() < 2 {
            return Ok(());
        }
        let origin = match ahead {
            Some(_) => windows.eval_time(window.step),
            None => window.ts()[0],
        };
        let line = match &mut slider {
            Some(slider) => slider.line(window, origin)?,
            None => scan(window, origin)?,
        };
        let value = ahead.map_or(line.slope, |ahead| line.slope * ahead[window.step] + line.intercept);
        out.set(window.step, value);
        Ok(())
    })
}

/// A line: its rise per second and its value at the origin.
struct Line {
    slope: f64,
    intercept: f64,
}

fn constant(value: f64) -> Line {
    if value.is_infinite() {
        return Line { slope: f64::NAN, intercept: f64::NAN };
    }
    Line { slope: 0.0, intercept: value }
}

fn scan(window: &Window<'_>, origin: i64) -> Result<Line, QueryError> {
    let values = window.values();
    if values.iter().all(|v| *v == values[0]) {
        window.poll.touched(values.len())?;
        return Ok(constant(values[0]));
    }
    let (mut x_sum, mut y_sum) = (Kahan::default(), Kahan::default());
    let (mut xy_sum, mut x2_sum) = (Kahan::default(), Kahan::default());
    for (ts, values) in window.ts().chunks(PIECE).zip(values.chunks(PIECE)) {
        window.poll.touched(values.len())?;
        for (ts, y) in ts.iter().zip(values) {
            let x = (ts - origin) as f64 / 1e3;
            x_sum.add(x);
            y_sum.add(*y);
            xy_sum.add(x * y);
            x2_sum.add(x * x);
        }
    }
    let n = values.len() as f64;
    let (x, y) = (x_sum.value(), y_sum.value());
    let slope = (xy_sum.value() - x * y / n) / (x2_sum.value() - x * x / n);
    Ok(Line { slope, intercept: y / n - slope * x / n })
}

/// Number, means and centred sums of products.
#[derive(Debug, Clone, Copy)]
struct Moments {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Part for Moments {
    fn followed_by(self, later: Self) -> Self {
        let n = self.n + later.n;
        let (dx, dy) = (later.x - self.x, later.y - self.y);
        let (share, both) = (later.n / n, self.n * later.n / n);
        Self {
            n,
            x: self.x + dx * share,
            y: self.y + dy * share,
            xx: self.xx + later.xx + dx * dx * both,
            xy: self.xy + later.xy + dx * dy * both,
        }
    }
}

struct Sliding {
    slider: Slider<Moments>,
    /// For each sample the number of changes of value up to it.
    changes: Vec<u32>,
    base: i64,
}

impl Sliding {
    fn new(samples: &Samples) -> Self {
        let mut changes = Vec::with_capacity(samples.values.len());
        let mut count = 0;
        for (i, value) in samples.values.iter().enumerate() {
            count += u32::from(i > 0 && *value != samples.values[i - 1]);
            changes.push(count);
        }
        Self { slider: Slider::new(), changes, base: samples.ts.first().copied().unwrap_or(0) }
    }

    fn line(&mut self, window: &Window<'_>, origin: i64) -> Result<Line, QueryError> {
        let samples = window.samples;
        let base = self.base;
        let part = |at: usize| Moments {
            n: 1.0,
            x: (samples.ts[at] - base) as f64 / 1e3,
            y: samples.values[at],
            xx: 0.0,
            xy: 0.0,
        };
        let moments = self.slider.slide(window.floats.clone(), window.poll, part)?;
        let is_constant = self.changes[window.floats.start] == self.changes[window.floats.end - 1];
        Ok(match moments {
            Some(m) if !is_constant => {
                let slope = m.xy / m.xx;
                Line { slope, intercept: m.y + slope * ((origin - base) as f64 / 1e3 - m.x) }
            }
            _ => constant(window.values()[0]),
        })
    }
}
