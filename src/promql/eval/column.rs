//! Series of intermediate results: labels and points.
//!
//! Knows how series with the same labels are put together. Does not know where they come from.

use super::charge::Charge;
use super::labels;
use super::points::{Point, Points};
use super::poll::Poll;
use crate::engine::{QueryError, QueryGuard};
use quorate_model::Labels;
use std::collections::HashMap;
use std::sync::Arc;

/// One series of a result at all steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Column {
    /// Its labels; under delayed name removal with the name that is to be dropped.
    pub(crate) labels: Labels,
    /// Whether the metric name is to be dropped in the end.
    pub(crate) drop_name: bool,
    /// Its samples.
    pub(crate) points: Points,
}

impl Column {
    /// A series without labels and samples.
    pub(crate) fn new(steps: usize) -> Self {
        Self { labels: Labels::empty(), drop_name: false, points: Points::new(steps) }
    }

    /// Changes the sign of all samples.
    ///
    /// # Errors
    /// What the guard objects.
    pub(crate) fn negate(&mut self, poll: &Poll<'_>) -> Result<(), QueryError> {
        self.points.map_floats(poll, |v| -v)?;
        self.points.map_histograms(|h| {
            poll.touched(h.weight() as usize)?;
            Ok(Arc::new(h.scaled(-1.0)))
        })
    }
}

/// Collected series, with the memory they are charged for.
pub(crate) struct Columns<'q> {
    list: Vec<Column>,
    charge: Option<Charge<'q>>,
    guard: &'q dyn QueryGuard,
}

impl<'q> Columns<'q> {
    /// No series.
    pub(crate) fn new(guard: &'q dyn QueryGuard) -> Self {
        Self { list: Vec::new(), charge: None, guard }
    }

    /// Takes the series out of `column` and leaves it one to be used again.
    pub(crate) fn push(&mut self, column: &mut Column) -> Result<(), QueryError> {
        let steps = column.points.steps();
        self.reserve(column.points.held_bytes() + COLUMN_BYTES)?;
        let fresh = Column { points: Points::new(steps), ..Column::default() };
        self.list.push(std::mem::replace(column, fresh));
        Ok(())
    }

    /// Adds a series; its memory must have been reserved.
    pub(crate) fn add(&mut self, column: Column) {
        self.list.push(column);
    }

    /// Charges memory for series to come.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), QueryError> {
        match &mut self.charge {
            Some(charge) => charge.add(bytes),
            none => {
                *none = Some(Charge::new(self.guard, bytes)?);
                Ok(())
            }
        }
    }

    /// Charges what a point that is to be put into series `at` takes beside the column of floats.
    #[inline]
    pub(crate) fn reserve_for(&mut self, at: usize, point: &Point) -> Result<(), QueryError> {
        match point {
            Point::Float(_) => Ok(()),
            Point::Histogram(h) => self.reserve(h.bytes() + self.list[at].points.bytes_to_hold_histograms()),
        }
    }

    /// Number of series.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The series.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Column> {
        self.list.iter()
    }

    /// The series, to be changed.
    pub(crate) fn list_mut(&mut self) -> &mut Vec<Column> {
        &mut self.list
    }

    /// Series `at`.
    pub(crate) fn get(&self, at: usize) -> &Column {
        &self.list[at]
    }

    /// Samples of all series.
    pub(crate) fn weight(&self) -> u64 {
        self.list.iter().map(|column| column.points.weight()).sum()
    }

    /// Hands each series on; the memory stays charged until the last one is done.
    pub(crate) fn into_each(
        self,
        mut f: impl FnMut(Column) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let Self { list, charge, .. } = self;
        let result = list.into_iter().try_for_each(&mut f);
        drop(charge);
        result
    }

    /// Puts series with the same labels together.
    ///
    /// # Errors
    /// If two of them hold a sample at the same step.
    pub(crate) fn merge_same_labels(&mut self) -> Result<(), QueryError> {
        let mut first: HashMap<Labels, usize> = HashMap::with_capacity(self.list.len());
        let mut merged: Vec<Column> = Vec::with_capacity(self.list.len());
        for column in std::mem::take(&mut self.list) {
            match first.get(&column.labels) {
                Some(at) => join(&mut merged[*at].points, &column.points)?,
                None => {
                    first.insert(column.labels.clone(), merged.len());
                    merged.push(column);
                }
            }
        }
        self.list = merged;
        Ok(())
    }

    /// Drops the names that are to be dropped, and puts together what is the same then.
    pub(crate) fn drop_delayed_names(&mut self) -> Result<(), QueryError> {
        for column in self.list.iter_mut().filter(|c| c.drop_name) {
            column.labels = labels::without_metadata(&column.labels);
        }
        self.merge_same_labels()
    }
}

/// What a series takes beside its points.
const COLUMN_BYTES: u64 = 128;

fn join(into: &mut Points, from: &Points) -> Result<(), QueryError> {
    for step in from.presence().iter() {
        if into.has(step) {
            return Err(same_labels());
        }
        if let Some(point) = from.get(step) {
            into.put(step, point);
        }
    }
    Ok(())
}

/// Two series of a result are the same.
pub(crate) fn same_labels() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".into())
}
