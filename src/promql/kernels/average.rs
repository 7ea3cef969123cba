//! `sum_over_time`, `avg_over_time`, `stddev_over_time` and `stdvar_over_time`.
//!
//! Source: Prometheus 3.14 for the order of operations of a scan; Chan et al., "Updating formulae and a pairwise
//! algorithm for computing sample variances", 1979, for putting variances together.

use super::kahan::{Kahan, Mean};
use super::output::Output;
use super::sliding::{Part, Slider};
use super::window::{CallSite, Samples, Window, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::Poll;
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
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut slider = (windows.overlap_much() && samples.is_tame()).then(Slider::new);
    windows.for_each(samples, poll, |window| {
        if window.is_mixed() {
            notes.mixed_floats_histograms(site.metric, site.arg);
        } else if !window.hists.is_empty() {
            if let Some(h) = histogram::over_time::total(kind, window, site, notes)? {
                out.set_histogram(window.step, h)?;
            }
        } else {
            out.set(window.step, float_sum(kind, window, slider.as_mut())?);
        }
        Ok(())
    })
}

fn float_sum(
    kind: SumKind,
    window: &Window<'_>,
    slider: Option<&mut Slider<Kahan>>,
) -> Result<f64, QueryError> {
    let values = window.values();
    if let Some(slider) = slider {
        let all = &window.samples.values;
        if let Some(total) = slider.slide(window.floats.clone(), window.poll, |at| Kahan::new(all[at]))? {
            let count = values.len() as f64;
            return Ok(match kind {
                SumKind::Sum => total.value(),
                SumKind::Avg => total.sum / count + total.c / count,
            });
        }
    }
    match kind {
        SumKind::Sum => scan_sum(values, window.poll),
        SumKind::Avg => scan_avg(values, window.poll),
    }
}

impl Part for Kahan {
    fn followed_by(mut self, later: Self) -> Self {
        self.merge(later);
        self
    }
}

fn scan_sum(values: &[f64], poll: &Poll<'_>) -> Result<f64, QueryError> {
    let mut total = Kahan::default();
    poll.each(values, |v| total.add(*v))?;
    Ok(if total.sum.is_infinite() { total.sum } else { total.value() })
}

fn scan_avg(values: &[f64], poll: &Poll<'_>) -> Result<f64, QueryError> {
    let mut mean = Mean::new(values[0]);
    poll.each(&values[1..], |v| mean.add(*v))?;
    Ok(mean.value())
}

/// Computes `stdvar_over_time`, or `stddev_over_time` if `root`, for all steps.
pub(crate) fn run_variance(
    root: bool,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut slider = (windows.overlap_much() && samples.is_tame()).then(Slider::new);
    windows.for_each(samples, poll, |window| {
        if window.floats.is_empty() {
            return Ok(());
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        let part = |at: usize| Moments { n: 1.0, mean: samples.values[at], squares: 0.0 };
        let slid = match &mut slider {
            Some(slider) => slider.slide(window.floats.clone(), poll, part)?,
            None => None,
        };
        let variance = match slid {
            Some(moments) => moments.squares / moments.n,
            None => scan_variance(window.values(), poll)?,
        };
        out.set(window.step, if root { variance.sqrt() } else { variance });
        Ok(())
    })
}

/// Number, mean and sum of squared distances from the mean.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    pub(crate) n: f64,
    pub(crate) mean: f64,
    pub(crate) squares: f64,
}

impl Moments {
    /// Adds a value.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.n += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.n;
        self.squares += delta * (value - self.mean);
    }
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

fn scan_variance(values: &[f64], poll: &Poll<'_>) -> Result<f64, QueryError> {
    let (mut mean, mut squares) = (Kahan::default(), Kahan::default());
    let mut count = 0.0;
    poll.each(values, |v| {
        count += 1.0;
        let delta = v - mean.value();
        mean.add(delta / count);
        squares.add(delta * (v - mean.value()));
    })?;
    Ok(squares.value() / count)
}
