//! `quantile`: keeps all values of a group until the last series is in.

use super::{Grouping, without_empty};
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::{Column, Columns};
use crate::eval::points::Points;
use crate::kernels::quantile::quantile;
use crate::plan::{Aggregate, TimeGrid};

impl<'q> Evaluator<'q> {
    pub(super) fn quantiles(
        &mut self,
        aggregate: &'q Aggregate,
        params: &[f64],
        grid: TimeGrid,
    ) -> Result<Columns<'q>, QueryError> {
        self.note_quantiles(aggregate, params);
        let mut grouping = Grouping::new(aggregate);
        let mut values: Vec<Vec<Vec<f64>>> = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        let mut out = Columns::new(self.guard);
        self.stream(&aggregate.input, grid, &mut |ev, column| {
            let (number, new) = grouping.number(&column.labels);
            if let Some(labels) = new {
                out.reserve(Points::bytes(grid.steps) + grid.steps as u64 * 24)?;
                columns.push(Column { labels, drop_name: false, points: Points::new(grid.steps) });
                values.push(vec![Vec::new(); grid.steps]);
            }
            columns[number].drop_name |= column.drop_name;
            if column.points.has_histograms() {
                ev.notes.histogram_ignored_in_aggregation("quantile", aggregate.input_span);
            }
            out.reserve(column.points.weight() * 16)?;
            for step in column.points.float_steps() {
                ev.poll.touched(1)?;
                values[number][step].extend(column.points.float(step));
            }
            Ok(())
        })?;
        for (mut column, steps) in columns.into_iter().zip(values) {
            for (step, mut values) in steps.into_iter().enumerate().filter(|(_, v)| !v.is_empty()) {
                self.poll.touched(values.len())?;
                column.points.set(step, quantile(params[step], &mut values));
            }
            out.add(column);
        }
        Ok(without_empty(out))
    }

    fn note_quantiles(&mut self, aggregate: &Aggregate, params: &[f64]) {
        let span = aggregate.param_span;
        let (min, max) = (fold_min(params), fold_max(params));
        if params.iter().any(|q| q.is_nan()) {
            return self.notes.invalid_quantile(f64::NAN, span);
        }
        if max > 1.0 {
            self.notes.invalid_quantile(max, span);
        }
        if min < 0.0 {
            self.notes.invalid_quantile(min, span);
        }
    }
}

/// The smallest value that is not NaN.
pub(super) fn fold_min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The greatest value that is not NaN.
pub(super) fn fold_max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
