//! `sum`, `avg`, `count`, `min`, `max`, `group`, `stddev` and `stdvar`.

use super::histograms::HistogramTotals;
use super::{Grouping, without_empty};
use crate::ast::AggregateOp;
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::{Column, Columns};
use crate::eval::notes::Notes;
use crate::eval::points::{Points, StepSet};
use crate::eval::poll::Poll;
use crate::kernels::average::Moments;
use crate::kernels::kahan::{Kahan, Mean};
use crate::plan::{Aggregate, TimeGrid};
use quorate_model::Labels;

/// What sees a series before it is folded into its group, with whether the group is new.
pub(super) type Visit<'v, 'q> = &'v mut dyn FnMut(&Evaluator<'q>, (&Column, bool)) -> Result<(), QueryError>;

impl<'q> Evaluator<'q> {
    pub(super) fn fold(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
    ) -> Result<Columns<'q>, QueryError> {
        let mut out = Columns::new(self.guard);
        let groups = self.groups(aggregate, grid, &mut out, &mut |_, _| Ok(()))?;
        self.finish_groups(aggregate, groups, out)
    }

    /// The groups of an aggregation with all series folded in, in the order in which they are first seen. Their memory
    /// is charged to `out`.
    pub(super) fn groups(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
        out: &mut Columns<'q>,
        visit: Visit<'_, 'q>,
    ) -> Result<Vec<Group>, QueryError> {
        let mut grouping = Grouping::new(aggregate);
        let mut groups: Vec<Group> = Vec::new();
        self.stream(&aggregate.input, grid, &mut |ev, column| {
            let (number, new) = grouping.number(&column.labels);
            visit(ev, (column, new.is_some()))?;
            if let Some(labels) = new {
                out.reserve(Group::bytes(aggregate.op, grid.steps))?;
                groups.push(Group::new(aggregate.op, labels, grid.steps));
            }
            groups[number].add(aggregate, column, &ev.poll, &mut ev.notes, out)
        })?;
        Ok(groups)
    }

    /// The series of groups that nothing more is folded into.
    pub(super) fn finish_groups(
        &mut self,
        aggregate: &Aggregate,
        groups: Vec<Group>,
        mut out: Columns<'q>,
    ) -> Result<Columns<'q>, QueryError> {
        for group in groups {
            let column = group.finish(aggregate, &self.poll, &mut self.notes)?;
            out.add(column);
        }
        Ok(without_empty(out))
    }
}

/// The state of one group at all steps.
pub(super) struct Group {
    labels: Labels,
    pub(super) drop_name: bool,
    /// Steps at which a float was seen; for `count` and `group` any sample.
    pub(super) seen: StepSet,
    pub(super) state: State,
    histograms: Option<Box<HistogramTotals>>,
}

pub(super) enum State {
    Sum(Vec<Kahan>),
    Avg(Vec<Option<Mean>>),
    /// One value a step: the count, the minimum, the maximum or 1.
    Single(Vec<f64>),
    Variance(Vec<Moments>),
}

impl Group {
    /// Bytes that a group takes, with the column of its result.
    pub(super) fn bytes(op: AggregateOp, steps: usize) -> u64 {
        let per_step = match op {
            AggregateOp::Sum => size_of::<Kahan>(),
            AggregateOp::Avg => size_of::<Option<Mean>>(),
            AggregateOp::Stddev | AggregateOp::Stdvar => size_of::<Moments>(),
            _ => size_of::<f64>(),
        };
        Points::bytes(steps) + (steps * per_step) as u64
    }

    /// A group without samples.
    pub(super) fn new(op: AggregateOp, labels: Labels, steps: usize) -> Self {
        let state = match op {
            AggregateOp::Sum => State::Sum(vec![Kahan::default(); steps]),
            AggregateOp::Avg => State::Avg(vec![None; steps]),
            AggregateOp::Stddev | AggregateOp::Stdvar => State::Variance(vec![Moments::default(); steps]),
            _ => State::Single(vec![0.0; steps]),
        };
        Self { labels, drop_name: false, seen: StepSet::new(steps), state, histograms: None }
    }

    /// Adds a series; what the group takes more by that is charged to `out`.
    fn add(
        &mut self,
        aggregate: &Aggregate,
        column: &Column,
        poll: &Poll<'_>,
        notes: &mut Notes,
        out: &mut Columns<'_>,
    ) -> Result<(), QueryError> {
        self.drop_name |= column.drop_name;
        let points = &column.points;
        poll.touched(points.steps())?;
        for step in points.float_steps() {
            if let Some(value) = points.float(step) {
                let first = self.seen.insert(step);
                self.state.add(aggregate.op, step, value, first);
            }
        }
        if points.has_histograms() {
            self.add_histograms(aggregate, column, poll, notes, out)
        } else {
            Ok(())
        }
    }

    fn add_histograms(
        &mut self,
        aggregate: &Aggregate,
        column: &Column,
        poll: &Poll<'_>,
        notes: &mut Notes,
        out: &mut Columns<'_>,
    ) -> Result<(), QueryError> {
        let name = match aggregate.op {
            AggregateOp::Sum | AggregateOp::Avg => {
                let steps = column.points.steps();
                let average = aggregate.op == AggregateOp::Avg;
                let totals = match &mut self.histograms {
                    Some(totals) => totals,
                    none => {
                        out.reserve(HistogramTotals::bytes(steps))?;
                        none.insert(HistogramTotals::boxed(average, steps))
                    }
                };
                return totals.add(column, aggregate.input_span, poll, notes, out);
            }
            AggregateOp::Count | AggregateOp::Group => {
                for (step, _) in column.points.histogram_steps() {
                    let first = self.seen.insert(step);
                    self.state.add(aggregate.op, step, 1.0, first);
                }
                return Ok(());
            }
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Stddev => "stddev",
            _ => "stdvar",
        };
        notes.histogram_ignored_in_aggregation(name, aggregate.input_span);
        Ok(())
    }

    fn finish(self, aggregate: &Aggregate, poll: &Poll<'_>, notes: &mut Notes) -> Result<Column, QueryError> {
        let Self { labels, drop_name, seen, state, histograms } = self;
        poll.touched(state.steps())?;
        let mut points = Points::new(state.steps());
        for step in seen.iter() {
            points.set(step, state.value(aggregate.op, step));
        }
        if let Some(totals) = histograms {
            totals.finish(&mut points, aggregate.input_span, poll, notes)?;
        }
        Ok(Column { labels, drop_name, points })
    }
}

impl State {
    fn steps(&self) -> usize {
        match self {
            Self::Sum(steps) => steps.len(),
            Self::Avg(steps) => steps.len(),
            Self::Single(steps) => steps.len(),
            Self::Variance(steps) => steps.len(),
        }
    }

    #[inline]
    fn add(&mut self, op: AggregateOp, step: usize, value: f64, first: bool) {
        match self {
            Self::Sum(steps) if first => steps[step] = Kahan::new(value),
            Self::Sum(steps) => steps[step].add(value),
            Self::Avg(steps) => match &mut steps[step] {
                Some(mean) => mean.add(value),
                none => *none = Some(Mean::new(value)),
            },
            Self::Single(steps) => add_single(op, &mut steps[step], value, first),
            Self::Variance(steps) if first => {
                let squares = if value.is_finite() { 0.0 } else { f64::NAN };
                steps[step] = Moments { n: 1.0, mean: value, squares };
            }
            Self::Variance(steps) => steps[step].add(value),
        }
    }

    fn value(&self, op: AggregateOp, step: usize) -> f64 {
        match self {
            Self::Sum(steps) => steps[step].value(),
            Self::Avg(steps) => steps[step].map_or(f64::NAN, |mean| mean.value()),
            Self::Single(steps) => steps[step],
            Self::Variance(steps) => {
                let Moments { n, squares, .. } = steps[step];
                if op == AggregateOp::Stddev { (squares / n).sqrt() } else { squares / n }
            }
        }
    }
}

#[inline]
pub(super) fn add_single(op: AggregateOp, state: &mut f64, value: f64, first: bool) {
    *state = match op {
        AggregateOp::Count => *state + 1.0,
        AggregateOp::Group => 1.0,
        _ if first => value,
        AggregateOp::Min if *state > value || state.is_nan() => value,
        AggregateOp::Max if *state < value || state.is_nan() => value,
        _ => *state,
    };
}
