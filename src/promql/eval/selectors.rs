//! Instant selectors: at each step the newest sample within the lookback delta, unless it is a stale marker.

use super::charge::Charge;
use super::column::Column;
use super::hints::HistogramReader;
use super::labels::metric_name;
use super::points::Points;
use super::windows::load;
use super::{Evaluator, Sink};
use crate::ast::RangeMode;
use crate::engine::QueryError;
use crate::kernels::extended;
use crate::kernels::output::Output;
use crate::kernels::window::{CallSite, Samples, Windows};
use crate::plan::{Selector, TimeGrid};
use quorate_model::{BucketCounts, Histogram, SeriesBuffer, is_stale};
use std::sync::Arc;

/// What is taken from the sample that a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// Its value.
    Value,
    /// Its time in seconds.
    Time,
    /// Its start timestamp in seconds.
    Start,
}

impl<'q> Evaluator<'q> {
    /// Hands on the values of an instant selector.
    pub(super) fn stream_selector(
        &mut self,
        selector: &'q Selector,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        if selector.mode == RangeMode::Smoothed {
            return self.stream_smoothed(selector, grid, sink);
        }
        self.stream_lookups(Take::Value, selector, grid, sink)
    }

    /// Hands on values, times or start timestamps of what an instant selector sees.
    pub(super) fn stream_lookups(
        &mut self,
        take: Take,
        selector: &'q Selector,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let selection = self.selection(selector.select)?;
        let mut memory = self.charge(Points::bytes(grid.steps))?;
        let mut buffer = SeriesBuffer::default();
        let mut column = Column::new(grid.steps);
        for index in 0..selection.len() {
            self.read(&*selection, index, &mut buffer)?;
            memory.at_least(Points::bytes(grid.steps) + buffer_bytes(&buffer))?;
            column.points.reset(grid.steps);
            self.look_up(take, &buffer, selector, grid, &mut column.points)?;
            if column.points.is_empty() {
                continue;
            }
            column.labels = selection.labels(index).clone();
            column.drop_name = false;
            self.hold(column.points.weight())?;
            sink(self, &mut column)?;
        }
        Ok(())
    }

    pub(super) fn look_up(
        &mut self,
        take: Take,
        buffer: &SeriesBuffer,
        selector: &Selector,
        grid: TimeGrid,
        out: &mut Points,
    ) -> Result<(), QueryError> {
        let lookback = self.options.lookback_delta_ms;
        let (mut floats, mut hists) = (Lane::default(), Lane::default());
        let mut reader = HistogramReader::new(buffer, selector.stats_only);
        for step in 0..grid.steps {
            self.poll.touched(1)?;
            let time = selector.at.unwrap_or_else(|| grid.at(step)) - selector.offset;
            let float = floats.newest(&buffer.ts_ms, time, lookback);
            let hist = hists.newest(&buffer.histogram_ts_ms, time, lookback);
            let weight = match (float, hist) {
                (Some(f), h) if h.is_none_or(|h| buffer.ts_ms[f] >= buffer.histogram_ts_ms[h]) => {
                    take_float(take, buffer, f, step, out)
                }
                (_, Some(h)) => take_histogram(take, &mut reader, h, step, out),
                _ => 0,
            };
            if weight > 0 {
                self.saw(grid, step, weight);
            }
        }
        Ok(())
    }

    /// Hands on the values of a `smoothed` instant selector.
    fn stream_smoothed(
        &mut self,
        selector: &'q Selector,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let selection = self.selection(selector.select)?;
        let lookback = self.options.lookback_delta_ms;
        let windows = Windows {
            eval_start: grid.start,
            step: grid.step,
            steps: grid.steps,
            offset: selector.offset - lookback,
            at: selector.at,
            range: 2 * lookback,
            mode: RangeMode::Plain,
            lookback,
        };
        let mut memory = self.charge(Points::bytes(grid.steps))?;
        let (mut buffer, mut samples) = (SeriesBuffer::default(), Samples::default());
        let mut column = Column::new(grid.steps);
        for index in 0..selection.len() {
            self.read(&*selection, index, &mut buffer)?;
            load(&buffer, false, selector.stats_only, &mut samples);
            memory.at_least(Points::bytes(grid.steps) + buffer_bytes(&buffer) + samples.allocated())?;
            column.points.reset(grid.steps);
            column.labels = selection.labels(index).clone();
            column.drop_name = false;
            let site = CallSite { metric: metric_name(selection.labels(index)), arg: selector.span };
            let mut produced = Charge::empty(self.guard);
            let mut out = Output::new(&mut column.points, &mut produced);
            extended::run_instant(&samples, &windows, &self.poll, site, &mut self.notes, &mut out)?;
            if !column.points.is_empty() {
                self.hold(column.points.weight())?;
                sink(self, &mut column)?;
            }
        }
        Ok(())
    }
}

/// Puts what is taken from a float sample; its weight, 0 for a stale marker.
fn take_float(take: Take, buffer: &SeriesBuffer, at: usize, step: usize, out: &mut Points) -> u64 {
    if is_stale(buffer.values[at]) {
        return 0;
    }
    out.set(
        step,
        match take {
            Take::Value => buffer.values[at],
            Take::Time => seconds(&buffer.ts_ms, at),
            Take::Start => seconds(&buffer.start_ms, at),
        },
    );
    1
}

/// The same for a histogram sample.
fn take_histogram(
    take: Take,
    reader: &mut HistogramReader<'_>,
    at: usize,
    step: usize,
    out: &mut Points,
) -> u64 {
    let buffer = reader.buffer();
    if buffer.histograms[at].is_stale() {
        return 0;
    }
    match take {
        Take::Time => out.set(step, seconds(&buffer.histogram_ts_ms, at)),
        Take::Start => out.set(step, seconds(&buffer.histogram_start_ms, at)),
        Take::Value => {
            let h = reader.get(at);
            let weight = h.weight();
            out.set_histogram(step, h);
            return weight;
        }
    }
    1
}

/// Entry `at` in seconds, 0 if there is none.
fn seconds(times_ms: &[i64], at: usize) -> f64 {
    times_ms.get(at).copied().unwrap_or(0) as f64 / 1000.0
}

/// Bytes that a buffer holds.
pub(super) fn buffer_bytes(buffer: &SeriesBuffer) -> u64 {
    let words = buffer.ts_ms.capacity()
        + buffer.values.capacity()
        + buffer.histogram_ts_ms.capacity()
        + buffer.histograms.capacity()
        + buffer.start_ms.capacity()
        + buffer.histogram_start_ms.capacity();
    let histogram = |h: &Arc<Histogram>| {
        let spans = h.positive_spans.len() + h.negative_spans.len();
        let buckets = match &h.counts {
            BucketCounts::Integer { positive, negative, .. } => positive.len() + negative.len(),
            BucketCounts::Float { positive, negative, .. } => positive.len() + negative.len(),
        };
        size_of::<Histogram>() + 8 * (spans + buckets + h.custom_values.len())
    };
    (words * 8 + buffer.histograms.iter().map(histogram).sum::<usize>()) as u64
}

/// An index into a lane that only moves forward.
#[derive(Debug, Default)]
struct Lane {
    next: usize,
}

impl Lane {
    /// The newest sample at or before `time` that is less than a lookback away from it.
    #[inline]
    fn newest(&mut self, times: &[i64], time: i64, lookback: i64) -> Option<usize> {
        while self.next < times.len() && times[self.next] <= time {
            self.next += 1;
        }
        let at = self.next.checked_sub(1)?;
        (times[at] > time - lookback).then_some(at)
    }
}
