//! The windows of one series: its samples in two lanes, and the ends of the window at each step.

use crate::ast::{RangeMode, Span};
use crate::engine::QueryError;
use crate::eval::poll::Poll;
use crate::histogram::FloatHistogram;
use std::ops::Range;
use std::sync::Arc;

/// Samples of one series without stale markers. A time may stand in only one lane.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Times of float samples.
    pub(crate) ts: Vec<i64>,
    /// Values of float samples.
    pub(crate) values: Vec<f64>,
    /// Start timestamps of float samples; empty if they are not to be used.
    pub(crate) starts: Vec<i64>,
    /// Times of histogram samples.
    pub(crate) h_ts: Vec<i64>,
    /// Histogram samples.
    pub(crate) hists: Vec<Arc<FloatHistogram>>,
    /// Start timestamps of histogram samples; empty if they are not to be used.
    pub(crate) h_starts: Vec<i64>,
}

impl Samples {
    /// Empties both lanes and keeps their capacity.
    pub(crate) fn clear(&mut self) {
        self.ts.clear();
        self.values.clear();
        self.starts.clear();
        self.h_ts.clear();
        self.hists.clear();
        self.h_starts.clear();
    }

    /// Whether there is no sample.
    pub(crate) fn is_empty(&self) -> bool {
        self.ts.is_empty() && self.h_ts.is_empty()
    }

    /// Bytes that the lanes hold.
    pub(crate) fn allocated(&self) -> u64 {
        let words = self.ts.capacity()
            + self.values.capacity()
            + self.starts.capacity()
            + self.h_ts.capacity()
            + self.hists.capacity()
            + self.h_starts.capacity();
        words as u64 * 8 + self.hists.iter().map(|h| h.bytes()).sum::<u64>()
    }

    /// Whether sums of these values cannot overflow or meet an infinity or NaN, so that sums of parts may be put
    /// together in any order.
    pub(crate) fn is_tame(&self) -> bool {
        let limit = 1e140 / (self.values.len().max(1) as f64);
        self.values.iter().all(|v| v.abs() < limit)
    }
}

/// The windows of all steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Evaluation time of the first step.
    pub(crate) eval_start: i64,
    /// Distance between steps, above 0.
    pub(crate) step: i64,
    /// Number of steps.
    pub(crate) steps: usize,
    /// What is subtracted from an evaluation time to get the end of its window.
    pub(crate) offset: i64,
    /// The evaluation time that stands for all steps under an `@` modifier.
    pub(crate) at: Option<i64>,
    /// Length of a window, above 0.
    pub(crate) range: i64,
    /// Whether samples around the window are wanted too.
    pub(crate) mode: RangeMode,
    /// How far around the window samples are looked for in the modes that do.
    pub(crate) lookback: i64,
}

impl Windows {
    /// Evaluation time of a step.
    pub(crate) fn eval_time(&self, step: usize) -> i64 {
        self.eval_start + step as i64 * self.step
    }

    /// End of the window of a step, included.
    pub(crate) fn end(&self, step: usize) -> i64 {
        self.at.unwrap_or_else(|| self.eval_time(step)) - self.offset
    }

    /// Start of the window of a step, not included.
    pub(crate) fn start(&self, step: usize) -> i64 {
        self.end(step) - self.range
    }

    /// Length of a window in seconds.
    pub(crate) fn range_seconds(&self) -> f64 {
        self.range as f64 / 1000.0
    }

    /// Whether windows overlap so much that sliding is cheaper than scanning each one.
    pub(crate) fn overlap_much(&self) -> bool {
        self.steps > 1 && self.range >= self.step.saturating_mul(8)
    }

    /// Start (not included) and end (included) of the samples that are fetched for a step.
    fn fetched(&self, step: usize) -> (i64, i64) {
        let (start, end) = (self.start(step), self.end(step));
        match self.mode {
            RangeMode::Plain => (start, end),
            RangeMode::Anchored => (start - self.lookback, end),
            RangeMode::Smoothed => (start - self.lookback, end + self.lookback),
        }
    }

    /// Calls `visit` for each step whose window holds a sample, in order of time. O(steps + samples). Counts each
    /// step and each sample once; what looks at samples again and again counts them itself.
    ///
    /// # Errors
    /// What the guard objects or `visit` fails with.
    pub(crate) fn for_each(
        &self,
        samples: &Samples,
        poll: &Poll<'_>,
        mut visit: impl FnMut(&Window<'_>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut floats = Cursor::default();
        let mut hists = Cursor::default();
        for step in 0..self.steps {
            let (start, end) = self.fetched(step);
            let entered = floats.advance(&samples.ts, start, end) + hists.advance(&samples.h_ts, start, end);
            poll.touched(1 + entered)?;
            if floats.is_empty() && hists.is_empty() {
                continue;
            }
            let (floats, hists) = (floats.range(), hists.range());
            visit(&Window { samples, windows: self, poll, step, floats, hists })?;
        }
        Ok(())
    }
}

/// Two indices that only move forward.
#[derive(Debug, Default)]
struct Cursor {
    lo: usize,
    hi: usize,
}

impl Cursor {
    /// Moves to a window; how many samples entered.
    #[inline]
    fn advance(&mut self, times: &[i64], start: i64, end: i64) -> usize {
        let before = self.hi;
        while self.hi < times.len() && times[self.hi] <= end {
            self.hi += 1;
        }
        while self.lo < self.hi && times[self.lo] <= start {
            self.lo += 1;
        }
        self.hi - before
    }

    fn is_empty(&self) -> bool {
        self.lo == self.hi
    }

    fn range(&self) -> Range<usize> {
        self.lo..self.hi
    }
}

/// What one step sees.
pub(crate) struct Window<'a> {
    /// All samples of the series.
    pub(crate) samples: &'a Samples,
    /// The windows of all steps.
    pub(crate) windows: &'a Windows,
    /// What counts the samples that are looked at.
    pub(crate) poll: &'a Poll<'a>,
    /// The step.
    pub(crate) step: usize,
    /// Positions of the float samples in the window.
    pub(crate) floats: Range<usize>,
    /// Positions of the histogram samples in the window.
    pub(crate) hists: Range<usize>,
}

impl<'a> Window<'a> {
    /// Values of the float samples.
    pub(crate) fn values(&self) -> &'a [f64] {
        &self.samples.values[self.floats.clone()]
    }

    /// Times of the float samples.
    pub(crate) fn ts(&self) -> &'a [i64] {
        &self.samples.ts[self.floats.clone()]
    }

    /// The histogram samples.
    pub(crate) fn histograms(&self) -> &'a [Arc<FloatHistogram>] {
        &self.samples.hists[self.hists.clone()]
    }

    /// Times of the histogram samples.
    pub(crate) fn h_ts(&self) -> &'a [i64] {
        &self.samples.h_ts[self.hists.clone()]
    }

    /// Whether floats and histograms stand in the window.
    pub(crate) fn is_mixed(&self) -> bool {
        !self.floats.is_empty() && !self.hists.is_empty()
    }
}

/// What kernels need to know about the series and the call for their annotations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallSite<'a> {
    /// Metric name of the series, empty if it has none.
    pub(crate) metric: &'a str,
    /// Place of the range vector argument.
    pub(crate) arg: Span,
}
