//! `min_over_time`, `max_over_time` and the times of the extremes.
//!
//! NaN counts only where there is nothing else. Among equal values the value of the first and the time of the last
//! is taken, as Prometheus does.

use super::output::Output;
use super::window::{CallSite, Samples, Windows};
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::eval::poll::Poll;
use std::collections::VecDeque;
use std::ops::Range;

/// Which of the functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExtremeKind {
    /// The greatest, else the smallest.
    pub(crate) max: bool,
    /// Its time in seconds, else its value.
    pub(crate) time: bool,
}

impl ExtremeKind {
    /// Whether `a` beats `b`, both not NaN.
    #[inline]
    fn beats(self, a: f64, b: f64) -> bool {
        match (self.max, self.time) {
            (true, false) => a > b,
            (true, true) => a >= b,
            (false, false) => a < b,
            (false, true) => a <= b,
        }
    }
}

/// Computes the function for all steps.
pub(crate) fn run(
    kind: ExtremeKind,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let mut queue = windows.overlap_much().then(Queue::default);
    windows.for_each(samples, poll, |window| {
        if window.floats.is_empty() {
            return Ok(());
        }
        if window.is_mixed() {
            notes.histogram_ignored_in_mixed_range(site.metric, site.arg);
        }
        let at = match &mut queue {
            Some(queue) => queue.slide(kind, &samples.values, window.floats.clone()),
            None => scan(kind, &samples.values, window.floats.clone(), poll)?,
        };
        out.set(window.step, if kind.time { samples.ts[at] as f64 / 1000.0 } else { samples.values[at] });
        Ok(())
    })
}

fn scan(
    kind: ExtremeKind,
    values: &[f64],
    window: Range<usize>,
    poll: &Poll<'_>,
) -> Result<usize, QueryError> {
    let (mut best, mut at) = (window.start, window.start);
    poll.each(&values[window], |value| {
        if values[best].is_nan() || kind.beats(*value, values[best]) {
            best = at;
        }
        at += 1;
    })?;
    Ok(best)
}

/// Positions that may still become the best, the best one first.
#[derive(Debug, Default)]
struct Queue {
    candidates: VecDeque<usize>,
    end: usize,
}

impl Queue {
    fn slide(&mut self, kind: ExtremeKind, values: &[f64], window: Range<usize>) -> usize {
        for at in self.end.max(window.start)..window.end {
            if values[at].is_nan() {
                continue;
            }
            while self.candidates.back().is_some_and(|last| kind.beats(values[at], values[*last])) {
                self.candidates.pop_back();
            }
            self.candidates.push_back(at);
        }
        self.end = self.end.max(window.end);
        while self.candidates.front().is_some_and(|first| *first < window.start) {
            self.candidates.pop_front();
        }
        // Nothing but NaN: the scan takes the last sample.
        self.candidates.front().copied().unwrap_or(window.end - 1)
    }
}
