//! Functions that change each series on its own, and what happens to the names of their results.

use super::binary::drops_names;
use super::column::{Column, Columns};
use super::points::Points;
use super::scalars::ScalarColumn;
use super::{Evaluator, Sink};
use crate::engine::QueryError;
use crate::functions::{FunctionId, math};
use crate::histogram::FloatHistogram;
use crate::plan::{Call, Node, Selector, TimeGrid, Window, WindowInput};
use quorate_model::{METRIC_NAME, MatchOp, Matcher};

/// Hands the series of some input on.
type Input<'a, 'q> = &'a mut dyn FnMut(&mut Evaluator<'q>, Sink<'_, 'q>) -> Result<(), QueryError>;

/// Changes a series; whether it is to be handed on.
type Change<'a, 'q> = &'a mut dyn FnMut(&mut Evaluator<'q>, &mut Column) -> Result<bool, QueryError>;

impl<'q> Evaluator<'q> {
    /// Whether no two series of a node become the same when their metric names go.
    pub(super) fn keeps_series_apart(&self, node: &Node) -> bool {
        if self.delays_names() {
            return true;
        }
        match node {
            Node::Selector(selector) => self.selects_one_metric(selector),
            Node::Aggregate(aggregate) => {
                aggregate.without || !aggregate.grouping.iter().any(|name| super::labels::is_metadata(name))
            }
            Node::Call(call) => match (call.function, &call.args[..]) {
                (FunctionId::LabelReplace | FunctionId::LabelJoin | FunctionId::Info, _) => false,
                (
                    FunctionId::Sort
                    | FunctionId::SortDesc
                    | FunctionId::SortByLabel
                    | FunctionId::SortByLabelDesc,
                    [input, ..],
                ) => self.keeps_series_apart(input),
                (FunctionId::FirstOverTime | FunctionId::LastOverTime, [Node::Window(window)]) => {
                    self.keeps_windows_apart(window)
                }
                // The others have dropped the names of their results already.
                _ => true,
            },
            Node::Binary(binary) => match &binary.matching {
                _ if drops_names(binary) => true,
                None if binary.lhs.is_scalar() => self.keeps_series_apart(&binary.rhs),
                None => self.keeps_series_apart(&binary.lhs),
                Some(_) => false,
            },
            Node::Once(inner) | Node::Negate(inner) => self.keeps_series_apart(inner),
            Node::Fragment(remote) => self.keeps_series_apart(&remote.node),
            _ => false,
        }
    }

    /// The same for the input of a window function.
    pub(super) fn keeps_windows_apart(&self, window: &Window) -> bool {
        match &window.input {
            WindowInput::Selector(selector) => self.selects_one_metric(selector),
            WindowInput::Subquery(inner, _) => self.keeps_series_apart(inner),
        }
    }

    /// Whether all series of a selector have the same metric name, or names stay for now anyway.
    pub(super) fn selects_one_metric(&self, selector: &Selector) -> bool {
        let names_one =
            |m: &Matcher| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && !m.value().is_empty();
        self.delays_names() || selector.matchers.iter().any(names_one)
    }

    /// Hands on the changed series of an input without their metric names. Where names keep series of `node` apart,
    /// those that become the same are put together.
    pub(super) fn dropping_names(
        &mut self,
        node: &'q Node,
        input: Input<'_, 'q>,
        change: Change<'_, 'q>,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        if self.keeps_series_apart(node) {
            return input(self, &mut |ev, column| {
                if !change(ev, column)? {
                    return Ok(());
                }
                ev.drop_name(column);
                sink(ev, column)
            });
        }
        let mut columns = Columns::new(self.guard);
        input(self, &mut |ev, column| {
            if !change(ev, column)? {
                return Ok(());
            }
            ev.drop_name(column);
            columns.push(column)
        })?;
        columns.merge_same_labels()?;
        self.replay(columns, sink)
    }

    /// Hands on the series of a node, changed and without their metric names.
    pub(super) fn map_series(
        &mut self,
        node: &'q Node,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
        change: &mut dyn FnMut(&mut Self, &mut Column) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        self.dropping_names(
            node,
            &mut |ev, sink| ev.stream(node, grid, sink),
            &mut |ev, column| {
                change(ev, column)?;
                Ok(!column.points.is_empty())
            },
            sink,
        )
    }

    /// Hands on a function of floats; histograms are left out.
    pub(super) fn stream_float_map(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        if let Some(f) = math::of_one(call.function) {
            let Some(input) = call.args.first() else { return self.stream_of_time(f, grid, sink) };
            return self.map_series(input, grid, sink, &mut |ev, column| {
                column.points.drop_histograms();
                column.points.map_floats(&ev.poll, f)
            });
        }
        let bound = self.bound(call, grid)?;
        self.map_series(&call.args[0], grid, sink, &mut |ev, column| {
            column.points.drop_histograms();
            for step in 0..grid.steps {
                ev.poll.touched(1)?;
                let Some(value) = column.points.float(step) else { continue };
                match bound.apply(step, value) {
                    Some(value) => column.points.set(step, value),
                    None => column.points.remove(step),
                }
            }
            Ok(())
        })
    }

    /// The scalar arguments of `round` and `clamp` and its kin.
    fn bound(&mut self, call: &'q Call, grid: TimeGrid) -> Result<Bound<'q>, QueryError> {
        let mut scalar = |at: usize, default: f64| match call.args.get(at) {
            Some(arg) => self.scalar(arg, grid),
            None => self.constant(default, grid),
        };
        let absent = usize::MAX;
        let (min, max) = match call.function {
            FunctionId::Round => return Ok(Bound::Nearest(scalar(1, 1.0)?)),
            FunctionId::Clamp => (1, 2),
            FunctionId::ClampMin => (1, absent),
            FunctionId::ClampMax => (absent, 1),
            _ => return Err(QueryError::Execution(format!("unknown function {}()", call.name))),
        };
        Ok(Bound::Between(scalar(min, f64::NEG_INFINITY)?, scalar(max, f64::INFINITY)?))
    }

    /// Hands on a calendar function of the evaluation time.
    fn stream_of_time(
        &mut self,
        f: fn(f64) -> f64,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let _memory = self.charge(Points::bytes(grid.steps))?;
        let mut column = Column::new(grid.steps);
        for step in 0..grid.steps {
            self.poll.touched(1)?;
            column.points.set(step, f(grid.at(step).div_euclid(1000) as f64));
        }
        self.hold(column.points.weight())?;
        sink(self, &mut column)
    }

    /// Hands on a number of each histogram; floats are left out.
    pub(super) fn stream_histogram_map(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let f = |h: &FloatHistogram| match call.function {
            FunctionId::HistogramCount => h.count,
            FunctionId::HistogramSum => h.sum,
            FunctionId::HistogramAvg => h.sum / h.count,
            FunctionId::HistogramStddev => h.variance().sqrt(),
            _ => h.variance(),
        };
        self.map_series(&call.args[0], grid, sink, &mut |ev, column| {
            column.points.replace_histograms(|h| {
                ev.poll.touched(h.weight() as usize)?;
                Ok(f(h))
            })
        })
    }
}

/// A function of a float and scalars, which have one value for each step.
enum Bound<'q> {
    Nearest(ScalarColumn<'q>),
    Between(ScalarColumn<'q>, ScalarColumn<'q>),
}

impl Bound<'_> {
    fn apply(&self, step: usize, value: f64) -> Option<f64> {
        match self {
            Self::Nearest(nearest) => Some(math::round(value, nearest[step])),
            Self::Between(min, max) => math::clamp(value, min[step], max[step]),
        }
    }
}
