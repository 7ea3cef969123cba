//! Native histograms of a buffer, with what their neighbours tell of counter resets.
//!
//! Senders mostly leave the hint open. Where the sample before is at hand, a comparison settles it once for all
//! windows: no reset is said so. A reset is left to be found again, as Prometheus' storage does, but under
//! `histogram_count` and its like it is said too.

use crate::histogram::FloatHistogram;
use quorate_model::{CounterResetHint, SeriesBuffer};
use std::sync::Arc;

/// Converts the histograms of one series in order of time.
pub(super) struct HistogramReader<'a> {
    buffer: &'a SeriesBuffer,
    says_resets: bool,
    last: Option<(usize, Arc<FloatHistogram>)>,
}

impl<'a> HistogramReader<'a> {
    pub(super) fn new(buffer: &'a SeriesBuffer, says_resets: bool) -> Self {
        Self { buffer, says_resets, last: None }
    }

    /// The samples of the series.
    pub(super) fn buffer(&self) -> &'a SeriesBuffer {
        self.buffer
    }

    /// Histogram `at`, which is no stale marker.
    pub(super) fn get(&mut self, at: usize) -> Arc<FloatHistogram> {
        if let Some((last, h)) = &self.last
            && *last == at
        {
            return Arc::clone(h);
        }
        let mut h = FloatHistogram::from_model(&self.buffer.histograms[at]);
        if h.hint == CounterResetHint::Unknown
            && let Some(previous) = self.previous(at)
        {
            h.hint = match (h.detect_reset(&previous), self.says_resets) {
                (false, _) => CounterResetHint::NoReset,
                (true, true) => CounterResetHint::Reset,
                (true, false) => CounterResetHint::Unknown,
            };
        }
        let h = Arc::new(h);
        self.last = Some((at, Arc::clone(&h)));
        h
    }

    /// The sample right before `at`, unless it is a stale marker or a float.
    fn previous(&self, at: usize) -> Option<Arc<FloatHistogram>> {
        let before = at.checked_sub(1)?;
        let buffer = self.buffer;
        let times = &buffer.histogram_ts_ms;
        let float = buffer.ts_ms.partition_point(|ts| *ts < times[at]).checked_sub(1);
        if buffer.histograms[before].is_stale()
            || float.is_some_and(|float| buffer.ts_ms[float] > times[before])
        {
            return None;
        }
        match &self.last {
            Some((last, h)) if *last == before => Some(Arc::clone(h)),
            _ => Some(Arc::new(FloatHistogram::from_model(&buffer.histograms[before]))),
        }
    }
}
