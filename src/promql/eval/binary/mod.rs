//! Binary operations: between scalars, between a vector and a scalar, and between vectors with matching.
//!
//! Source: Prometheus 3.14, "Operators" and `VectorBinop`; texts of errors are Prometheus'.

mod element;
mod matching;
mod scalar;
mod set;
mod vector;

pub(crate) use element::scalar_op;

use super::column::Columns;
use super::{Evaluator, Sink};
use crate::ast::BinaryOp;
use crate::engine::QueryError;
use crate::plan::{Binary, TimeGrid};

impl<'q> Evaluator<'q> {
    /// Hands on the series of an operation with at least one vector.
    pub(super) fn stream_binary(
        &mut self,
        binary: &'q Binary,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let Some(matching) = &binary.matching else {
            return self.stream_vector_scalar(binary, grid, sink);
        };
        let before = self.held;
        let lhs = self.collect(&binary.lhs, grid)?;
        let rhs = self.collect(&binary.rhs, grid)?;
        let result = if binary.op.is_set() {
            set::combine(self, binary.op, matching, lhs, rhs, grid.steps)?
        } else {
            vector::combine(self, binary, matching, lhs, rhs, grid.steps)?
        };
        self.held = before;
        self.hold(result.weight())?;
        self.replay(result, sink)
    }
}

/// Whether the results of an operation have no metric name.
pub(crate) fn drops_names(binary: &Binary) -> bool {
    changes_meaning(binary.op) || binary.return_bool
}

/// Whether the result is something else than what the metric name says.
fn changes_meaning(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Pow
            | BinaryOp::Mod
            | BinaryOp::Atan2
    )
}

/// The steps at which any series holds a sample.
fn presence(columns: &Columns<'_>, steps: usize) -> super::points::StepSet {
    let mut all = super::points::StepSet::new(steps);
    columns.iter().for_each(|column| all.union(&column.points.presence()));
    all
}
