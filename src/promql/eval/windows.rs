//! Functions of range vectors: every input series goes through its kernel, from selectors and subqueries alike.

use super::charge::Charge;
use super::column::{Column, same_labels};
use super::hints::HistogramReader;
use super::labels::{metric_name, without_metadata};
use super::points::Points;
use super::poll::Poll;
use super::scalars::ScalarColumn;
use super::selectors::buffer_bytes;
use super::{Evaluator, Sink};
use crate::ast::{RangeMode, Span};
use crate::engine::QueryError;
use crate::functions::FunctionId;
use crate::histogram::FloatHistogram;
use crate::kernels::average::{self, SumKind};
use crate::kernels::counting::{self, PairKind};
use crate::kernels::extreme::{self, ExtremeKind};
use crate::kernels::output::Output;
use crate::kernels::rate::{self, RateKind};
use crate::kernels::window::{CallSite, Samples, Windows};
use crate::kernels::{extended, instant_delta, picking, quantile, regression, smoothing};
use crate::plan::{Call, Node, TimeGrid, Window, WindowInput};
use quorate_model::{CounterResetHint, Labels, SeriesBuffer, is_stale};
use std::collections::HashSet;
use std::sync::Arc;

/// What takes the samples of an input series: its labels, whether its name is to be dropped, its samples.
pub(super) type SampleSink<'s, 'q> =
    &'s mut dyn FnMut(&mut Evaluator<'q>, &Labels, bool, &Samples) -> Result<(), QueryError>;

/// A call of a window function with its scalar arguments evaluated.
struct WindowCall<'q> {
    call: &'q Call,
    windows: Windows,
    /// Values of the scalar arguments at each step, in their order.
    scalars: Vec<ScalarColumn<'q>>,
    arg_span: Span,
    /// Labels of the results so far, where two input series may give the same.
    seen: Option<HashSet<Labels>>,
}

impl<'q> Evaluator<'q> {
    /// Hands on the results of a window function.
    pub(super) fn stream_window_call(
        &mut self,
        call: &'q Call,
        window: &'q Window,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        check_mode(call, window)?;
        let mut scalars = Vec::new();
        for arg in call.args.iter().filter(|arg| !matches!(arg, Node::Window(_))) {
            scalars.push(self.scalar(arg, grid)?);
        }
        let mut run = WindowCall {
            call,
            windows: self.windows(window, grid),
            scalars,
            arg_span: call.arg_spans[0],
            seen: self.may_repeat(call, window).then(HashSet::new),
        };
        let memory = self.charge(Points::bytes(grid.steps))?;
        let mut out = Column::new(grid.steps);
        self.stream_samples(window, grid, &mut |ev, labels, drop_name, samples| {
            ev.apply(&mut run, grid, (labels, drop_name), samples, &mut out, &mut *sink)
        })?;
        drop(memory);
        Ok(())
    }

    /// Whether results of different series may have the same labels, which is an error then.
    fn may_repeat(&self, call: &Call, window: &Window) -> bool {
        !self.keeps_windows_apart(window) && call.function != FunctionId::AbsentOverTime
    }

    fn windows(&self, window: &Window, grid: TimeGrid) -> Windows {
        let mode = match &window.input {
            WindowInput::Selector(selector) => selector.mode,
            WindowInput::Subquery(..) => RangeMode::Plain,
        };
        Windows {
            eval_start: grid.start,
            step: grid.step,
            steps: grid.steps,
            offset: window.offset,
            at: window.at,
            range: window.range,
            mode,
            lookback: self.options.lookback_delta_ms,
        }
    }

    fn apply(
        &mut self,
        run: &mut WindowCall<'q>,
        grid: TimeGrid,
        (labels, drop_name): (&Labels, bool),
        samples: &Samples,
        out: &mut Column,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        out.points.reset(grid.steps);
        let site = CallSite { metric: metric_name(labels), arg: run.arg_span };
        self.count_windows(run, grid, samples)?;
        let mut produced = Charge::empty(self.guard);
        produced.add(scratch_bytes(run.call.function, samples))?;
        self.run_kernel(run, samples, site, &mut Output::new(&mut out.points, &mut produced))?;
        let function = run.call.function;
        if matches!(function, FunctionId::Rate | FunctionId::Increase) {
            self.note_non_counter(site, &out.points);
        }
        if out.points.is_empty() {
            return Ok(());
        }
        let keeps_name = matches!(function, FunctionId::LastOverTime | FunctionId::FirstOverTime);
        out.drop_name = !keeps_name || drop_name;
        out.labels = labels.clone();
        if out.drop_name && !self.delays_names() {
            out.labels = without_metadata(labels);
        }
        if run.seen.as_mut().is_some_and(|seen| !seen.insert(out.labels.clone())) {
            return Err(same_labels());
        }
        self.hold(out.points.weight())?;
        sink(self, out)
    }

    /// Counts what the windows of one series see, and holds its samples while its kernel runs.
    fn count_windows(
        &mut self,
        run: &WindowCall<'q>,
        grid: TimeGrid,
        samples: &Samples,
    ) -> Result<(), QueryError> {
        let mut largest = 0;
        // Weights of the histograms up to each, so that no window need be looked through.
        let mut weights = Vec::with_capacity(samples.hists.len() + 1);
        weights.push(0);
        weights.extend(samples.hists.iter().scan(0, |sum, h| {
            *sum += h.weight();
            Some(*sum)
        }));
        // It cannot be asked of `self` while windows are counted by it.
        let poll = Poll::new(self.guard);
        run.windows.for_each(samples, &poll, |window| {
            let histograms = weights[window.hists.end] - weights[window.hists.start];
            let weight = window.floats.len() as u64 + histograms;
            largest = largest.max(weight);
            self.saw(grid, window.step, weight);
            Ok(())
        })?;
        self.hold(largest)?;
        self.held -= largest;
        Ok(())
    }

    fn note_non_counter(&mut self, site: CallSite<'_>, points: &Points) {
        const COUNTER_ENDS: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];
        let named_as_counter = COUNTER_ENDS.iter().any(|end| site.metric.ends_with(end));
        if !site.metric.is_empty() && !named_as_counter && points.float_steps().next().is_some() {
            self.notes.possible_non_counter(site.metric, site.arg);
        }
    }

    fn run_kernel(
        &mut self,
        run: &WindowCall<'q>,
        samples: &Samples,
        site: CallSite<'_>,
        out: &mut Output<'_, 'q>,
    ) -> Result<(), QueryError> {
        let (w, p, notes) = (&run.windows, &self.poll, &mut self.notes);
        let scalar = |at: usize| &*run.scalars[at];
        let extreme = |max, time| ExtremeKind { max, time };
        match run.call.function {
            FunctionId::Rate => rate_kernel(true, true, samples, w, p, site, notes, out),
            FunctionId::Increase => rate_kernel(true, false, samples, w, p, site, notes, out),
            FunctionId::Delta => rate_kernel(false, false, samples, w, p, site, notes, out),
            FunctionId::Irate => instant_delta::run(true, samples, w, p, site, notes, out),
            FunctionId::Idelta => instant_delta::run(false, samples, w, p, site, notes, out),
            FunctionId::SumOverTime => average::run_sum(SumKind::Sum, samples, w, p, site, notes, out),
            FunctionId::AvgOverTime => average::run_sum(SumKind::Avg, samples, w, p, site, notes, out),
            FunctionId::StddevOverTime => average::run_variance(true, samples, w, p, site, notes, out),
            FunctionId::StdvarOverTime => average::run_variance(false, samples, w, p, site, notes, out),
            FunctionId::MaxOverTime => extreme::run(extreme(true, false), samples, w, p, site, notes, out),
            FunctionId::MinOverTime => extreme::run(extreme(false, false), samples, w, p, site, notes, out),
            FunctionId::TsOfMaxOverTime => extreme::run(extreme(true, true), samples, w, p, site, notes, out),
            FunctionId::TsOfMinOverTime => {
                extreme::run(extreme(false, true), samples, w, p, site, notes, out)
            }
            FunctionId::CountOverTime => counting::run_count(samples, w, p, out),
            FunctionId::PresentOverTime | FunctionId::AbsentOverTime => {
                counting::run_present(samples, w, p, out)
            }
            FunctionId::Changes => counting::run_pairs(PairKind::Changes, samples, w, p, out),
            FunctionId::Resets => counting::run_pairs(PairKind::Resets, samples, w, p, out),
            FunctionId::FirstOverTime => picking::run_value(false, samples, w, p, out),
            FunctionId::LastOverTime => picking::run_value(true, samples, w, p, out),
            FunctionId::TsOfFirstOverTime => picking::run_time(false, samples, w, p, out),
            FunctionId::TsOfLastOverTime => picking::run_time(true, samples, w, p, out),
            FunctionId::QuantileOverTime => quantile::run(scalar(0), samples, w, p, site, notes, out),
            FunctionId::MadOverTime => quantile::run_mad(samples, w, p, site, notes, out),
            FunctionId::Deriv => regression::run(None, samples, w, p, site, notes, out),
            FunctionId::PredictLinear => regression::run(Some(scalar(0)), samples, w, p, site, notes, out),
            FunctionId::DoubleExponentialSmoothing => {
                smoothing::run((scalar(0), scalar(1)), samples, w, p, site, notes, out)
            }
            _ => Err(QueryError::Execution(format!("{}() takes no range vector", run.call.name))),
        }
    }

    /// Reads the samples of a window's input, one series after the other, without stale markers.
    pub(super) fn stream_samples(
        &mut self,
        window: &'q Window,
        grid: TimeGrid,
        sink: SampleSink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let mut samples = Samples::default();
        match &window.input {
            WindowInput::Selector(selector) => {
                let selection = self.selection(selector.select)?;
                let with_starts = self.options.features.start_timestamps;
                let mut memory = self.charge(0)?;
                let mut buffer = SeriesBuffer::default();
                for index in 0..selection.len() {
                    self.read(&*selection, index, &mut buffer)?;
                    load(&buffer, with_starts, selector.stats_only, &mut samples);
                    memory.at_least(buffer_bytes(&buffer) + samples.allocated())?;
                    if !samples.is_empty() {
                        sink(self, selection.labels(index), false, &samples)?;
                    }
                }
                Ok(())
            }
            WindowInput::Subquery(inner, step) => {
                let inner_grid = grid.subquery(window.at, window.offset, window.range, *step);
                let Some(inner_grid) = inner_grid else { return Ok(()) };
                let _scratch = self.scratch(inner_grid)?;
                let mut inner_held = 0;
                let mut memory = self.charge(0)?;
                self.stream(inner, inner_grid, &mut |ev, column| {
                    inner_held += column.points.weight();
                    load_column(column, inner_grid, &mut samples);
                    memory.at_least(samples.allocated())?;
                    sink(ev, &column.labels, column.drop_name, &samples)
                })?;
                self.held = self.held.saturating_sub(inner_held);
                Ok(())
            }
        }
    }
}

/// What a kernel keeps beside its results: sliding windows, running counts, copies of a window.
fn scratch_bytes(function: FunctionId, samples: &Samples) -> u64 {
    let per_sample = match function {
        FunctionId::Rate | FunctionId::Increase | FunctionId::Delta => 48,
        FunctionId::SumOverTime | FunctionId::AvgOverTime => 32,
        FunctionId::StddevOverTime | FunctionId::StdvarOverTime => 48,
        FunctionId::MaxOverTime
        | FunctionId::MinOverTime
        | FunctionId::TsOfMaxOverTime
        | FunctionId::TsOfMinOverTime => 16,
        FunctionId::Changes | FunctionId::Resets => 8,
        FunctionId::QuantileOverTime | FunctionId::MadOverTime => 32,
        FunctionId::Deriv | FunctionId::PredictLinear => 88,
        _ => 0,
    };
    samples.ts.len() as u64 * per_sample
}

#[allow(clippy::too_many_arguments, reason = "one line for each of three functions")]
fn rate_kernel(
    is_counter: bool,
    is_rate: bool,
    samples: &Samples,
    windows: &Windows,
    poll: &Poll<'_>,
    site: CallSite<'_>,
    notes: &mut super::notes::Notes,
    out: &mut Output<'_, '_>,
) -> Result<(), QueryError> {
    let kind = RateKind { is_counter, is_rate };
    if windows.mode == RangeMode::Plain {
        rate::run(kind, samples, windows, poll, site, notes, out)
    } else {
        extended::run(kind, samples, windows, poll, site, notes, out)
    }
}

/// Samples without stale markers, histograms as floats.
pub(super) fn load(buffer: &SeriesBuffer, with_starts: bool, says_resets: bool, out: &mut Samples) {
    out.clear();
    let floats_have_starts = with_starts && !buffer.start_ms.is_empty();
    for (i, value) in buffer.values.iter().enumerate() {
        if !is_stale(*value) {
            out.ts.push(buffer.ts_ms[i]);
            out.values.push(*value);
            if floats_have_starts {
                out.starts.push(buffer.start_ms[i]);
            }
        }
    }
    let hists_have_starts = with_starts && !buffer.histogram_start_ms.is_empty();
    let mut reader = HistogramReader::new(buffer, says_resets);
    for (i, h) in buffer.histograms.iter().enumerate() {
        if !h.is_stale() {
            out.h_ts.push(buffer.histogram_ts_ms[i]);
            out.hists.push(reader.get(i));
            if hists_have_starts {
                out.h_starts.push(buffer.histogram_start_ms[i]);
            }
        }
    }
}

/// The results of a subquery as samples. Counter reset hints say nothing there: samples may be left out or seen
/// more than once.
fn load_column(column: &Column, grid: TimeGrid, out: &mut Samples) {
    out.clear();
    for step in column.points.float_steps() {
        out.ts.push(grid.at(step));
        out.values.push(column.points.float(step).unwrap_or(f64::NAN));
    }
    for (step, h) in column.points.histogram_steps() {
        out.h_ts.push(grid.at(step));
        let told = matches!(h.hint, CounterResetHint::Reset | CounterResetHint::NoReset);
        out.hists.push(if told {
            Arc::new(FloatHistogram { hint: CounterResetHint::Unknown, ..(**h).clone() })
        } else {
            Arc::clone(h)
        });
    }
}

fn check_mode(call: &Call, window: &Window) -> Result<(), QueryError> {
    let WindowInput::Selector(selector) = &window.input else { return Ok(()) };
    let (modifier, allowed, names) = match selector.mode {
        RangeMode::Plain => return Ok(()),
        RangeMode::Anchored => (
            "anchored",
            matches!(
                call.function,
                FunctionId::Changes
                    | FunctionId::Delta
                    | FunctionId::Increase
                    | FunctionId::Rate
                    | FunctionId::Resets
            ),
            "changes, delta, increase, rate, resets",
        ),
        RangeMode::Smoothed => (
            "smoothed",
            matches!(call.function, FunctionId::Delta | FunctionId::Increase | FunctionId::Rate),
            "delta, increase, rate",
        ),
    };
    if allowed {
        return Ok(());
    }
    let name = call.name;
    Err(QueryError::Execution(format!(
        "{modifier} modifier can only be used with: {names} - not with {name}"
    )))
}
