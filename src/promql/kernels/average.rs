//! `sum_over_time`, `avg_over_time`, `stddev_over_time` and `stdvar_over_time`.
//!
//! Source: Prometheus 3.14 for the order of operations of a scan; Chan et al., "Updating formulae and a pairwise
//! algorithm for computing sample variances", 1979, for putting variances together.

use super::kahan::{Kahan, Mean};
use super::sliding::{Part, Slider};
use super::window::{CallSite, Samples, Window, Windows};
use crate::eval::notes::Notes;
use crate::eval::points::Points;
use crate::histogram;

/// Which of the functions of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumKind {
    /// `sum_over_time`
    Sum,
    /// `avg_over_time`
    Avg,
}

/// Computes `sum_over_time` or `avg_over_time` for all steps.
pub(crate) fn run_sum(
    kind: SumKind,
    samples: &Samples,
    windows: &Windows,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Points,
) {
    let mut slider = (windows.overlap_much() && samples.is_tame()).then(Slider::new);
    windows.for_each(samples, |window| {
        if window.is_mixed() {
            notes.mixed_floats_histograms(site.metric, site.arg);
        } else if !window.hists.is_empty() {
            if let Some(h) = histogram::over_time::total(kind, window.histograms(), site, notes) {
                out.set_histogram(window.step, h);
            }
        } else {
            out.set(window.step, float_sum(kind, window, slider.as_mut()));
        }
    });
}

fn float_sum(kind: SumKind, window: &Window<'_>, slider: Option<&mut Slider<Kahan>>) -> f64 {
    let values = window.values();
    if let Some(slider) = slider {
        let all = &window.samples.values;
        if let Some(total) = slider.slide(window.floats.clone(), |at| Kahan::new(all[at])) {
            let count = values.len() as f64;
            return match kind {
                SumKind::Sum => total.value(),
                SumKind::Avg => total.sum / count + total.c / count,
            };
        }
    }
    match kind {
        SumKind::Sum => scan_sum(values),
        SumKind::Avg => scan_avg(values),
    }
}

impl Part for Kahan {
    fn followed_by(mut self, later: Self) -> Self {
        self.merge(later);
        self
    }
}

fn scan_sum(values: &[f64]) -> f64 {
    let mut total = Kahan::default();
    values.iter().for_each(|v| total.add(*v));
    if total.sum.is_infinite() { total.sum } else { total.value() }
}

fn scan_avg(values: &[f64]) -> f64 {
    let mut mean = Mean::new(values[0]);
    values[1..].iter().for_each(|v| mean.add(*v));
    mean.value()
}

/// Computes `stdvar_over_time`, or `stddev_over_time` if `root`, for all steps.
pub(crate) fn run_variance(
    root: bool,
    samples: &Samples,
    windows: &Windows,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Points,
) {
    let mut slider = (windows.overlap_much() && samples.is_tame()).then(Slider::new);
    windows.for_each(samples, |window| {
        if window.floats.is_empty() {
            return;
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        let slid = slider.as_mut().and_then(|s| {
            s.slide(window.floats.clone(), |at| Moments { n: 1.0, mean: samples.values[at], squares: 0.0 })
        });
        let variance = slid.map_or_else(|| scan_variance(window.values()), |m| m.squares / m.n);
        out.set(window.step, if root { variance.sqrt() } else { variance });
    });
}

/// Number, mean and sum of squared distances from the mean.
#[derive(Debug, Clone, Copy)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Part for Moments {
    fn followed_by(self, later: Self) -> Self {
        let n = self.n + later.n;
        let delta = later.mean - self.mean;
        Self {
            n,
            mean: self.mean + delta * (later.n / n),
            squares: self.squares + later.squares + delta * delta * (self.n * later.n / n),
        }
    }
}

fn scan_variance(values: &[f64]) -> f64 {
    let (mut mean, mut squares) = (Kahan::default(), Kahan::default());
    let mut count = 0.0;
    for v in values {
        count += 1.0;
        let delta = v - mean.value();
        mean.add(delta / count);
        squares.add(delta * (v - mean.value()));
    }
    squares.value() / count
}
