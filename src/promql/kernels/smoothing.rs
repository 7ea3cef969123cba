//! `double_exponential_smoothing`, formerly `holt_winters`.
//!
//! The result depends on the order of all samples in the window, so every window is scanned.

use super::output::Output;
use super::window::{CallSite, Samples, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::Poll;

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
/// A factor is not between 0 and 1 at a step that has samples, or the guard objects.
pub(crate) fn run(
    (smoothing, trend): (&[f64], &[f64]),
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    windows.for_each(samples, poll, |window| {
        let (sf, tf) = (smoothing[window.step], trend[window.step]);
        check(sf, tf).map_err(|wrong| QueryError::Execution(wrong.to_string()))?;
        if window.floats.is_empty() {
            return Ok(());
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        if let Some(value) = smooth(sf, tf, window.values(), poll)? {
            out.set(window.step, value);
        }
        Ok(())
    })
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

fn smooth(sf: f64, tf: f64, values: &[f64], poll: &Poll<'_>) -> Result<Option<f64>, QueryError> {
    let [first, second, later @ ..] = values else { return Ok(None) };
    let slope = second - first;
    let (mut before, mut now, mut slope) = (*first, sf * second + (1.0 - sf) * (first + slope), slope);
    poll.each(later, |value| {
        slope = tf * (now - before) + (1.0 - tf) * slope;
        let next = sf * value + (1.0 - sf) * (now + slope);
        (before, now) = (now, next);
    })?;
    Ok(Some(now))
}
