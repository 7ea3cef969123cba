//! `double_exponential_smoothing`, formerly `holt_winters`.
//!
//! The result depends on the order of all samples in the window, so every window is scanned.

use super::window::{CallSite, Samples, Windows};
use crate::eval::notes::Notes;
use crate::eval::points::Points;

/// A factor outside 0 to 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum FactorError {
    /// The first scalar argument.
    #[error("invalid smoothing factor. Expected: 0 < sf < 1, got: {0:.6}")]
    Smoothing(f64),
    /// The second scalar argument.
    #[error("invalid trend factor. Expected: 0 < tf < 1, got: {0:.6}")]
    Trend(f64),
}

/// Computes the function for all steps; both factors have one value for each.
///
/// # Errors
/// [`FactorError`] if a factor is not between 0 and 1 at a step that has samples.
pub(crate) fn run(
    (smoothing, trend): (&[f64], &[f64]),
    samples: &Samples,
    windows: &Windows,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Points,
) -> Result<(), FactorError> {
    let mut result = Ok(());
    windows.for_each(samples, |window| {
        let (sf, tf) = (smoothing[window.step], trend[window.step]);
        if result.is_ok() {
            result = check(sf, tf);
        }
        if result.is_err() || window.floats.is_empty() {
            return;
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        if let Some(value) = smooth(sf, tf, window.values()) {
            out.set(window.step, value);
        }
    });
    result
}

fn check(sf: f64, tf: f64) -> Result<(), FactorError> {
    if sf <= 0.0 || sf >= 1.0 {
        return Err(FactorError::Smoothing(sf));
    }
    if tf <= 0.0 || tf >= 1.0 {
        return Err(FactorError::Trend(tf));
    }
    Ok(())
}

fn smooth(sf: f64, tf: f64, values: &[f64]) -> Option<f64> {
    let [first, second, ..] = values else { return None };
    let (mut before, mut now, mut slope) = (0.0, *first, second - first);
    for (i, value) in values.iter().enumerate().skip(1) {
        if i > 1 {
            slope = tf * (now - before) + (1.0 - tf) * slope;
        }
        let next = sf * value + (1.0 - sf) * (now + slope);
        (before, now) = (now, next);
    }
    Some(now)
}
