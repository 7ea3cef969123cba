//! Aggregations: each input series is folded into its group as it comes.
//!
//! Knows groups and the parameter. Does not know where series come from. Source: Prometheus 3.14, `aggregation` and
//! `aggregationK`, for the order of operations and the texts.

mod count_values;
mod fold;
mod histograms;
mod partial;
mod quantile;
mod ranking;

pub(super) use partial::columns_of;

use super::column::Columns;
use super::labels::{group, in_group};
use super::scalars::ScalarColumn;
use super::{Evaluator, Sink};
use crate::ast::AggregateOp;
use crate::engine::QueryError;
use crate::plan::{Aggregate, TimeGrid};
use quorate_model::Labels;
use std::collections::HashMap;

impl<'q> Evaluator<'q> {
    /// Hands on the series of an aggregation.
    pub(super) fn stream_aggregate(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let before = self.held;
        let result = match aggregate.op {
            AggregateOp::CountValues => self.count_values(aggregate, grid)?,
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                let params = self.parameter(aggregate, grid)?;
                self.rank(aggregate, &params, grid)?
            }
            AggregateOp::Quantile => {
                let params = self.parameter(aggregate, grid)?;
                self.quantiles(aggregate, &params, grid)?
            }
            _ => self.fold(aggregate, grid)?,
        };
        self.held = before;
        self.hold(result.weight())?;
        self.replay(result, sink)
    }

    fn parameter(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
    ) -> Result<ScalarColumn<'q>, QueryError> {
        match &aggregate.param {
            Some(param) => self.scalar(param, grid),
            None => Err(QueryError::Execution("the aggregation lacks its parameter".into())),
        }
    }
}

/// Numbers the groups of an aggregation in the order in which they are first seen.
struct Grouping<'a> {
    aggregate: &'a Aggregate,
    numbers: HashMap<Vec<u8>, usize>,
    /// Scratch space, so that a series of a known group costs no allocation.
    key: Vec<u8>,
}

impl<'a> Grouping<'a> {
    fn new(aggregate: &'a Aggregate) -> Self {
        Self { aggregate, numbers: HashMap::new(), key: Vec::new() }
    }

    /// The number of the group of a series, and its labels if it is new.
    fn number(&mut self, labels: &Labels) -> (usize, Option<Labels>) {
        let (names, without) = (&self.aggregate.grouping, self.aggregate.without);
        self.key.clear();
        for (name, value) in labels.iter().filter(|(name, _)| in_group(name, names, without)) {
            for text in [name, value] {
                self.key.extend((text.len() as u32).to_le_bytes());
                self.key.extend_from_slice(text.as_bytes());
            }
        }
        if let Some(number) = self.numbers.get(self.key.as_slice()) {
            return (*number, None);
        }
        let next = self.numbers.len();
        self.numbers.insert(self.key.clone(), next);
        (next, Some(group(labels, names, without)))
    }
}

/// Removes series without samples.
fn without_empty<'q>(mut columns: Columns<'q>) -> Columns<'q> {
    columns.list_mut().retain(|column| !column.points.is_empty());
    columns
}
