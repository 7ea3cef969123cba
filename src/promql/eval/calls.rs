//! Function calls: which operator does which function.

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
    pub(super) fn scalar_call(&mut self, call: &'q Call, grid: TimeGrid) -> Result<Vec<f64>, QueryError> {
        match call.function {
            FunctionId::Time => Ok((0..grid.steps).map(|step| grid.at(step) as f64 / 1000.0).collect()),
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
    ) -> Result<Vec<f64>, QueryError> {
        let a = self.scalar(&call.args[0], grid)?;
        let b = self.scalar(&call.args[1], grid)?;
        Ok(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect())
    }

    /// The only float at each step, NaN where there is none or more than one.
    fn scalar_of_vector(&mut self, input: &'q Node, grid: TimeGrid) -> Result<Vec<f64>, QueryError> {
        let mut values: Vec<(f64, u64)> = vec![(f64::NAN, 0); grid.steps];
        let before = self.held;
        self.stream(input, grid, &mut |_, column| {
            for step in column.points.float_steps() {
                let (value, count) = &mut values[step];
                *value = column.points.float(step).unwrap_or(f64::NAN);
                *count += 1;
            }
            Ok(())
        })?;
        self.held = before;
        Ok(values.into_iter().map(|(value, count)| if count == 1 { value } else { f64::NAN }).collect())
    }

    fn stream_vector(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let values = self.scalar(&call.args[0], grid)?;
        let mut column = super::column::Column::new(grid.steps);
        values.into_iter().enumerate().for_each(|(step, value)| column.points.set(step, value));
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
                &mut |_, _| true,
                sink,
            );
        }
        self.map_series(input, grid, sink, &mut |_, column| {
            let present = column.points.presence();
            column.points.drop_histograms();
            present.iter().for_each(|step| column.points.set(step, grid.at(step) as f64 / 1000.0));
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
                &mut |_, _| true,
                sink,
            ),
            _ => Ok(()),
        }
    }
}
