//! The plan of a query: its tree with every duration, `@` and function of the query's times resolved, and the
//! selections it needs.
//!
//! Knows the syntax tree and the evaluation times. Does not know series or samples. Path: `engine` -> **here** ->
//! `eval`.
//! P1: whatever gives the same at every step stands under [`Node::Once`]. P2: the range of a selection covers every
//! sample that any of its selectors looks at, at any evaluation time. P3: for a source that is spread, the largest parts
//! that can run where the series are stand under [`Node::Fragment`].

mod build;
mod fragments;
mod grid;
mod selects;

#[cfg(test)]
mod tests;

pub(crate) use fragments::{Remote, root as fragment_root};
pub(crate) use grid::{QueryTimes, TimeGrid, check_time};
pub(crate) use selects::SelectSpec;

use crate::ast::{AggregateOp, BinaryOp, Expr, RangeMode, Span, VectorMatching};
use crate::engine::EngineOptions;
use crate::functions::FunctionId;
use quorate_model::Matcher;

/// Why a query cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// A duration expression that has no usable value, with its place.
    #[error("{0}")]
    Duration(String),
    /// A string that stands for a label name and is not UTF-8.
    #[error("{0}")]
    LabelName(String),
}

/// A query ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What is evaluated.
    pub(crate) root: Node,
    /// When.
    pub(crate) grid: TimeGrid,
    /// The selections that selectors point to.
    pub(crate) selects: Vec<SelectSpec>,
    /// The times of the query.
    times: QueryTimes,
}

impl Plan {
    /// Plans an evaluation at the single time of `grid`.
    pub(crate) fn new(expr: &Expr, grid: TimeGrid, options: &EngineOptions) -> Result<Self, PlanError> {
        let times = QueryTimes { start: grid.start, end: grid.start, step: 0 };
        build::plan(expr, grid, times, options)
    }

    /// Plans an evaluation at all times of `grid`; `end` is the end that was asked for.
    pub(crate) fn range(
        expr: &Expr,
        grid: TimeGrid,
        end: i64,
        options: &EngineOptions,
    ) -> Result<Self, PlanError> {
        let times = QueryTimes { start: grid.start, end, step: grid.step };
        build::plan(expr, grid, times, options)
    }

    /// Plans a part of a query of `times`, to be evaluated at all times of `grid`.
    pub(crate) fn part(
        expr: &Expr,
        grid: TimeGrid,
        times: QueryTimes,
        options: &EngineOptions,
    ) -> Result<Self, PlanError> {
        build::plan(expr, grid, times, options)
    }

    /// Marks what can run where the series are.
    pub(crate) fn with_fragments(mut self, options: &EngineOptions) -> Self {
        fragments::mark(&mut self.root, self.times, options.features.delayed_name_removal);
        self
    }
}

/// One node of the plan.
#[derive(Debug)]
pub(crate) enum Node {
    /// A constant scalar.
    Number(f64),
    /// A string.
    Text(String),
    /// An instant selector.
    Selector(Selector),
    /// A range selector or subquery.
    Window(Window),
    /// The sign changed.
    Negate(Box<Node>),
    /// A binary operation.
    Binary(Box<Binary>),
    /// An aggregation.
    Aggregate(Box<Aggregate>),
    /// A function call.
    Call(Box<Call>),
    /// The same at every step.
    Once(Box<Node>),
    /// What can run where the series are.
    Fragment(Box<Remote>),
}

/// What a selector looks at.
#[derive(Debug)]
pub(crate) struct Selector {
    /// Position in [`Plan::selects`].
    pub(crate) select: usize,
    /// All matchers, in the order of the query.
    pub(crate) matchers: Vec<Matcher>,
    /// The time that stands for the evaluation time.
    pub(crate) at: Option<i64>,
    /// How far before the evaluation time it looks, milliseconds.
    pub(crate) offset: i64,
    /// `anchored` or `smoothed`.
    pub(crate) mode: RangeMode,
    /// Whether only counts and sums of its native histograms matter.
    pub(crate) stats_only: bool,
    /// Place in the query.
    pub(crate) span: Span,
}

/// The samples of a window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Where samples come from.
    pub(crate) input: WindowInput,
    /// Length, milliseconds, above 0.
    pub(crate) range: i64,
    /// The time that stands for the evaluation time.
    pub(crate) at: Option<i64>,
    /// How far before the evaluation time it ends, milliseconds.
    pub(crate) offset: i64,
}

/// Where the samples of a window come from.
#[derive(Debug)]
pub(crate) enum WindowInput {
    /// A selector; its own offset and time are those of the window.
    Selector(Selector),
    /// A subquery, evaluated at all multiples of the step in milliseconds.
    Subquery(Box<Node>, i64),
}

/// A binary operation.
#[derive(Debug)]
pub(crate) struct Binary {
    /// The operator.
    pub(crate) op: BinaryOp,
    /// Left operand.
    pub(crate) lhs: Node,
    /// Right operand.
    pub(crate) rhs: Node,
    /// Whether comparisons give 0 or 1.
    pub(crate) return_bool: bool,
    /// How series are matched, if both are vectors.
    pub(crate) matching: Option<VectorMatching>,
    /// Place in the query.
    pub(crate) span: Span,
}

/// An aggregation.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// The operator.
    pub(crate) op: AggregateOp,
    /// What is aggregated.
    pub(crate) input: Node,
    /// Place of the input.
    pub(crate) input_span: Span,
    /// The parameter.
    pub(crate) param: Option<Node>,
    /// Place of the parameter.
    pub(crate) param_span: Span,
    /// Labels of `by` or `without`, sorted.
    pub(crate) grouping: Vec<String>,
    /// Whether `grouping` are the labels left out.
    pub(crate) without: bool,
    /// Place in the query.
    pub(crate) span: Span,
}

/// A function call.
#[derive(Debug)]
pub(crate) struct Call {
    /// The function.
    pub(crate) function: FunctionId,
    /// Its name.
    pub(crate) name: &'static str,
    /// The arguments.
    pub(crate) args: Vec<Node>,
    /// Places of the arguments.
    pub(crate) arg_spans: Vec<Span>,
    /// Place in the query.
    pub(crate) span: Span,
}

impl Node {
    /// Whether the node evaluates to a scalar.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Number(_) => true,
            Self::Text(_) | Self::Selector(_) | Self::Window(_) | Self::Aggregate(_) | Self::Fragment(_) => {
                false
            }
            Self::Negate(inner) | Self::Once(inner) => inner.is_scalar(),
            Self::Binary(binary) => binary.lhs.is_scalar() && binary.rhs.is_scalar(),
            Self::Call(call) => matches!(
                call.function,
                FunctionId::Scalar
                    | FunctionId::Time
                    | FunctionId::Pi
                    | FunctionId::MaxOf
                    | FunctionId::MinOf
                    | FunctionId::Start
                    | FunctionId::End
                    | FunctionId::Range
                    | FunctionId::Step
            ),
        }
    }
}
