//! Function calls: which operator does which function.

use super::column::Column;
use super::points::{Points, StepSet};
use super::scalars::ScalarColumn;
use super::selectors::Take;
use super::{Evaluator, Sink};
use crate::engine::QueryError;
use crate::functions::{FunctionId, math};
use crate::plan::{Call, Node, TimeGrid};

impl<'q> Evaluator<'q> {
    /// Hands on the series of a function call.
    pub(super) fn stream_call(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let window = call.args.iter().find_map(|arg| if let Node::Window(w) = arg { Some(w) } else { None });
        if let Some(window) = window {
            return match call.function {
                FunctionId::AbsentOverTime => self.stream_absent_over_time(call, window, grid, sink),
                _ => self.stream_window_call(call, window, grid, sink),
            };
        }
        match call.function {
            FunctionId::Absent => self.stream_absent(&call.args[0], grid, sink),
            FunctionId::Timestamp => self.stream_timestamp(call, grid, sink),
            FunctionId::StartTimestamp => self.stream_start_timestamp(call, grid, sink),
            FunctionId::Vector => self.stream_vector(call, grid, sink),
            FunctionId::LabelReplace | FunctionId::LabelJoin => self.stream_relabeled(call, grid, sink),
            FunctionId::Info => self.stream_info(call, grid, sink),
            FunctionId::Sort
            | FunctionId::SortDesc
            | FunctionId::SortByLabel
            | FunctionId::SortByLabelDesc => self.stream_sorted(call, grid, sink),
            FunctionId::HistogramQuantile
            | FunctionId::HistogramQuantiles
            | FunctionId::HistogramFraction => self.stream_buckets(call, grid, sink),
            FunctionId::HistogramCount
            | FunctionId::HistogramSum
            | FunctionId::HistogramAvg
            | FunctionId::HistogramStddev
            | FunctionId::HistogramStdvar => self.stream_histogram_map(call, grid, sink),
            _ => self.stream_float_map(call, grid, sink),
        }
    }

    /// The values of a function call that gives a scalar.
    pub(super) fn scalar_call(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
    ) -> Result<ScalarColumn<'q>, QueryError> {
        match call.function {
            FunctionId::Time => self.scalar_of_steps(grid, |step| grid.at(step) as f64 / 1000.0),
            FunctionId::Scalar => self.scalar_of_vector(&call.args[0], grid),
            FunctionId::MaxOf => self.scalar_pair(call, grid, math::max_of),
            FunctionId::MinOf => self.scalar_pair(call, grid, math::min_of),
            _ => Err(QueryError::Execution(format!("{}() does not evaluate to a scalar", call.name))),
        }
    }

    fn scalar_pair(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        f: fn(f64, f64) -> f64,
    ) -> Result<ScalarColumn<'q>, QueryError> {
        let mut a = self.scalar(&call.args[0], grid)?;
        let b = self.scalar(&call.args[1], grid)?;
        for (a, b) in a.iter_mut().zip(b.iter()) {
            self.poll.touched(1)?;
            *a = f(*a, *b);
        }
        Ok(a)
    }

    /// The only float at each step, NaN where there is none or more than one.
    fn scalar_of_vector(&mut self, input: &'q Node, grid: TimeGrid) -> Result<ScalarColumn<'q>, QueryError> {
        let mut values = self.constant(f64::NAN, grid)?;
        let _memory = self.charge(StepSet::bytes(grid.steps))?;
        let mut seen = StepSet::new(grid.steps);
        let before = self.held;
        self.stream(input, grid, &mut |ev, column| {
            for step in column.points.float_steps() {
                ev.poll.touched(1)?;
                let only = column.points.float(step).filter(|_| seen.insert(step));
                values[step] = only.unwrap_or(f64::NAN);
            }
            Ok(())
        })?;
        self.held = before;
        Ok(values)
    }

    fn stream_vector(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let values = self.scalar(&call.args[0], grid)?;
        let _memory = self.charge(Points::bytes(grid.steps))?;
        let mut column = Column::new(grid.steps);
        for (step, value) in values.iter().enumerate() {
            self.poll.touched(1)?;
            column.points.set(step, *value);
        }
        drop(values);
        self.hold(column.points.weight())?;
        sink(self, &mut column)
    }

    /// The times of the samples themselves where the argument is a selector, else the evaluation times.
    fn stream_timestamp(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let input = &call.args[0];
        if let Node::Selector(selector) = input {
            return self.dropping_names(
                input,
                &mut |ev, sink| ev.stream_lookups(Take::Time, selector, grid, sink),
                &mut |_, _| Ok(true),
                sink,
            );
        }
        self.map_series(input, grid, sink, &mut |ev, column| {
            ev.poll.touched(grid.steps)?;
            let present = column.points.presence();
            column.points.drop_histograms();
            present.iter().for_each(|step| column.points.set(step, grid.at(step) as f64 / 1000.0));
            Ok(())
        })
    }

    /// Start timestamps, if they are to be used and the argument is a selector; else nothing.
    fn stream_start_timestamp(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let input = &call.args[0];
        match input {
            Node::Selector(selector) if self.options.features.start_timestamps => self.dropping_names(
                input,
                &mut |ev, sink| ev.stream_lookups(Take::Start, selector, grid, sink),
                &mut |_, _| Ok(true),
                sink,
            ),
            _ => Ok(()),
        }
    }
}
