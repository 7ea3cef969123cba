//! Aggregations in two halves: groups of one partition become numbers, and numbers of several become groups again.
//!
//! Knows what each operator needs of a half. Does not know partitions or how numbers travel.
//! Columns of a half: `sum` has sum and compensation, `avg` those and the number of values, `stddev` and `stdvar` the
//! number, the mean and the sum of squared distances, the others their only value.
//! Halves are put together in the order in which they are given, so the result does not depend on chance. Where a sum
//! is infinite the order of single values may decide over the result: such a group is not given away.

use super::fold::{Group, State, add_single};
use crate::ast::AggregateOp;
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::charge::Charge;
use crate::eval::column::Columns;
use crate::eval::labels::group;
use crate::fragment::{FragmentAnswer, PartialSeries};
use crate::kernels::average::Moments;
use crate::kernels::kahan::{Kahan, Mean};
use crate::kernels::sliding::Part;
use crate::plan::{Aggregate, TimeGrid};
use quorate_model::Labels;
use std::collections::HashMap;

impl<'q> Evaluator<'q> {
    /// Gives `sink` the groups of an aggregation over the series of one partition.
    ///
    /// # Errors
    /// [`QueryError::Execution`] where numbers cannot stand for a group, besides what the evaluation fails with.
    pub(in crate::eval) fn partial_groups(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
        sink: &mut dyn FnMut(PartialSeries) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let takes_histograms = !matches!(aggregate.op, AggregateOp::Sum | AggregateOp::Avg);
        let mut firsts: Vec<(Labels, bool)> = Vec::new();
        let mut out = Columns::new(self.guard);
        let groups = self.groups(aggregate, grid, &mut out, &mut |ev, (column, is_new)| {
            if is_new {
                firsts.push((ev.origin.clone(), column.labels != ev.origin));
            }
            match column.points.has_histograms() && !takes_histograms {
                true => Err(not_numbers("native histograms")),
                false => Ok(()),
            }
        })?;
        for (group, (labels, names_gone)) in groups.into_iter().zip(firsts) {
            self.poll.touched(grid.steps)?;
            let _memory = Charge::new(self.guard, Group::bytes(aggregate.op, grid.steps))?;
            let columns = group.state.halves(&group.seen.iter().collect::<Vec<_>>())?;
            let (drop_name, present) = (group.drop_name, group.seen);
            if !present.is_empty() {
                sink(PartialSeries { labels, names_gone, drop_name, present, columns })?;
            }
        }
        Ok(())
    }

    /// The series of an aggregation, made of the groups of all partitions. `None` if numbers are not enough for that.
    pub(in crate::eval) fn combine_groups(
        &mut self,
        aggregate: &Aggregate,
        grid: TimeGrid,
        answers: &[FragmentAnswer],
    ) -> Result<Option<Columns<'q>>, QueryError> {
        let mut numbers: HashMap<Labels, usize> = HashMap::new();
        let mut groups: Vec<(&Labels, Group)> = Vec::new();
        let mut out = Columns::new(self.guard);
        for half in answers.iter().flat_map(|answer| &answer.series) {
            self.poll.touched(half.present.len())?;
            let labels = group(&half.labels_now(), &aggregate.grouping, aggregate.without);
            let number = match numbers.get(&labels) {
                Some(number) => *number,
                None => {
                    out.reserve(Group::bytes(aggregate.op, grid.steps))?;
                    groups.push((&half.labels, Group::new(aggregate.op, labels.clone(), grid.steps)));
                    numbers.insert(labels, groups.len() - 1);
                    groups.len() - 1
                }
            };
            let (first, group) = &mut groups[number];
            *first = (*first).min(&half.labels);
            group.drop_name |= half.drop_name;
            if !group.take(aggregate.op, half) {
                return Ok(None);
            }
        }
        // As if all series had been seen in their order.
        groups.sort_by_key(|(first, _)| *first);
        let groups = groups.into_iter().map(|(_, group)| group).collect();
        self.finish_groups(aggregate, groups, out).map(Some)
    }
}

/// How many columns a half of an aggregation has.
pub(in crate::eval) fn columns_of(op: AggregateOp) -> usize {
    match op {
        AggregateOp::Sum => 2,
        AggregateOp::Avg | AggregateOp::Stddev | AggregateOp::Stdvar => 3,
        _ => 1,
    }
}

fn not_numbers(what: &str) -> QueryError {
    QueryError::Execution(format!("{what} cannot be aggregated in parts"))
}

impl Group {
    /// Adds the values of a half, which has the columns of `op`. Whether all sums stay finite.
    fn take(&mut self, op: AggregateOp, half: &PartialSeries) -> bool {
        for (nth, step) in half.present.iter().enumerate() {
            let first = self.seen.insert(step);
            let value = |column: usize| half.columns[column][nth];
            if !self.state.take(op, step, &value, first) {
                return false;
            }
        }
        true
    }
}

impl State {
    /// The columns of the steps in `present`.
    fn halves(&self, present: &[usize]) -> Result<Vec<Vec<f64>>, QueryError> {
        fn columns<T: Copy, const N: usize>(
            steps: &[T],
            present: &[usize],
            numbers: impl Fn(T) -> Option<[f64; N]>,
        ) -> Result<Vec<Vec<f64>>, QueryError> {
            let mut columns = vec![Vec::with_capacity(present.len()); N];
            for step in present {
                let numbers = numbers(steps[*step]).ok_or_else(|| not_numbers("infinite sums"))?;
                columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
            }
            Ok(columns)
        }
        match self {
            Self::Sum(steps) => {
                columns(steps, present, |Kahan { sum, c }| (!sum.is_infinite()).then_some([sum, c]))
            }
            Self::Avg(steps) => columns(steps, present, |mean| {
                mean.and_then(|mean| mean.parts()).map(|(Kahan { sum, c }, count)| [sum, c, count])
            }),
            Self::Single(steps) => columns(steps, present, |value| Some([value])),
            Self::Variance(steps) => columns(steps, present, |Moments { n, mean, squares }| {
                (!squares.is_infinite()).then_some([n, mean, squares])
            }),
        }
    }

    /// Adds what another half has of a step. Whether all sums stay finite.
    fn take(&mut self, op: AggregateOp, step: usize, value: &dyn Fn(usize) -> f64, first: bool) -> bool {
        match self {
            Self::Sum(steps) => {
                let half = Kahan { sum: value(0), c: value(1) };
                if first {
                    steps[step] = half
                } else {
                    steps[step].merge(half)
                }
                !steps[step].sum.is_infinite()
            }
            Self::Avg(steps) => {
                let (total, count) = (Kahan { sum: value(0), c: value(1) }, value(2));
                match &mut steps[step] {
                    Some(mean) => mean.merge(total, count),
                    none => *none = Some(Mean::of(total, count)),
                }
                steps[step].is_some_and(|mean| mean.parts().is_some())
            }
            Self::Single(steps) if op == AggregateOp::Count => {
                steps[step] += value(0);
                true
            }
            Self::Single(steps) => {
                add_single(op, &mut steps[step], value(0), first);
                true
            }
            Self::Variance(steps) => {
                let half = Moments { n: value(0), mean: value(1), squares: value(2) };
                steps[step] = if first { half } else { steps[step].followed_by(half) };
                !steps[step].squares.is_infinite()
            }
        }
    }
}
