//! Scalars: one value at each step.

use super::Evaluator;
use super::charge::Charge;
use super::poll::PIECE;
use crate::engine::QueryError;
use crate::plan::TimeGrid;
use std::ops::{Deref, DerefMut};

/// The values of a scalar at all steps, charged as long as they live.
pub(crate) struct ScalarColumn<'q> {
    values: Vec<f64>,
    _charge: Charge<'q>,
}

impl Deref for ScalarColumn<'_> {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.values
    }
}

impl DerefMut for ScalarColumn<'_> {
    fn deref_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }
}

impl<'q> Evaluator<'q> {
    /// The same value at every step.
    pub(super) fn constant(&self, value: f64, grid: TimeGrid) -> Result<ScalarColumn<'q>, QueryError> {
        self.scalar_of_steps(grid, |_| value)
    }

    /// What `f` gives for the number of each step.
    pub(super) fn scalar_of_steps(
        &self,
        grid: TimeGrid,
        f: impl Fn(usize) -> f64,
    ) -> Result<ScalarColumn<'q>, QueryError> {
        let charge = self.charge(grid.steps as u64 * size_of::<f64>() as u64)?;
        let mut values = Vec::with_capacity(grid.steps);
        while values.len() < grid.steps {
            let until = grid.steps.min(values.len() + PIECE);
            self.poll.touched(until - values.len())?;
            values.extend((values.len()..until).map(&f));
        }
        Ok(ScalarColumn { values, _charge: charge })
    }
}
