//! Operations between two scalars and between a vector and a scalar.

use super::drops_names;
use super::element::{arithmetic, compare, element, scalar_op};
use crate::ast::BinaryOp;
use crate::engine::QueryError;
use crate::eval::column::{Column, Columns};
use crate::eval::notes::Notes;
use crate::eval::points::Point;
use crate::eval::poll::Poll;
use crate::eval::scalars::ScalarColumn;
use crate::eval::{Evaluator, Sink};
use crate::plan::{Binary, TimeGrid};

impl<'q> Evaluator<'q> {
    /// The values of an operation between scalars.
    pub(in crate::eval) fn scalar_binary(
        &mut self,
        binary: &'q Binary,
        grid: TimeGrid,
    ) -> Result<ScalarColumn<'q>, QueryError> {
        let mut lhs = self.scalar(&binary.lhs, grid)?;
        let rhs = self.scalar(&binary.rhs, grid)?;
        for (a, b) in lhs.iter_mut().zip(rhs.iter()) {
            self.poll.touched(1)?;
            *a = scalar_op(binary.op, *a, *b).ok_or_else(|| {
                let op = binary.op.symbol();
                QueryError::Execution(format!("operator {op:?} not allowed for Scalar operations"))
            })?;
        }
        Ok(lhs)
    }

    /// Hands on the series of an operation between a vector and a scalar.
    pub(super) fn stream_vector_scalar(
        &mut self,
        binary: &'q Binary,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let scalar_first = binary.lhs.is_scalar();
        let (vector, scalar) =
            if scalar_first { (&binary.rhs, &binary.lhs) } else { (&binary.lhs, &binary.rhs) };
        let scalars = self.scalar(scalar, grid)?;
        let drops_name = drops_names(binary);
        let apply = |ev: &mut Self, column: &mut Column| {
            combine(binary, scalar_first, column, &scalars, &ev.poll, &mut ev.notes)?;
            if drops_name {
                ev.drop_name(column);
            }
            Ok::<_, QueryError>(!column.points.is_empty())
        };
        if !drops_name || self.keeps_series_apart(vector) {
            return self.stream(vector, grid, &mut |ev, c| if apply(ev, c)? { sink(ev, c) } else { Ok(()) });
        }
        let mut columns = Columns::new(self.guard);
        self.stream(vector, grid, &mut |ev, c| if apply(ev, c)? { columns.push(c) } else { Ok(()) })?;
        columns.merge_same_labels()?;
        self.replay(columns, sink)
    }
}

fn combine(
    binary: &Binary,
    scalar_first: bool,
    column: &mut Column,
    scalars: &[f64],
    poll: &Poll<'_>,
    notes: &mut Notes,
) -> Result<(), QueryError> {
    let points = &mut column.points;
    if !points.has_histograms() && !matches!(binary.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
        return combine_floats(binary, scalar_first, column, scalars, poll);
    }
    for (step, scalar) in scalars.iter().enumerate() {
        let Some(point) = points.get(step) else { continue };
        poll.touched(point.weight() as usize)?;
        let scalar = Point::Float(*scalar);
        let (a, b) = if scalar_first { (&scalar, &point) } else { (&point, &scalar) };
        let result = element(binary.op, a, b, binary.span, notes);
        points.remove(step);
        let Some(outcome) = result else { continue };
        if binary.return_bool {
            points.set(step, f64::from(outcome.keep));
        } else if outcome.keep {
            // A comparison keeps the vector's sample, on whichever side it stands.
            let swapped = scalar_first && binary.op.is_comparison();
            points.put(step, if swapped { point } else { outcome.value });
        }
    }
    Ok(())
}

fn combine_floats(
    binary: &Binary,
    scalar_first: bool,
    column: &mut Column,
    scalars: &[f64],
    poll: &Poll<'_>,
) -> Result<(), QueryError> {
    let points = &mut column.points;
    let ordered = |value: f64, scalar: f64| if scalar_first { (scalar, value) } else { (value, scalar) };
    for (step, scalar) in scalars.iter().enumerate() {
        poll.touched(1)?;
        let Some(value) = points.float(step) else { continue };
        let (a, b) = ordered(value, *scalar);
        if let Some(result) = arithmetic(binary.op, a, b) {
            points.set(step, result);
        } else if let Some(keep) = compare(binary.op, a, b) {
            if binary.return_bool {
                points.set(step, f64::from(keep));
            } else if !keep {
                points.remove(step);
            }
        }
    }
    Ok(())
}
