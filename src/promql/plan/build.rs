//! From the syntax tree to the plan.
//!
//! Source of the rules for what is the same at every step: Prometheus 3.14, `preprocessExprHelper`.

use super::{
    Aggregate, Binary, Call, Node, Plan, PlanError, QueryTimes, Selector, TimeGrid, Window, WindowInput,
    selects,
};
use crate::ast::{
    AggregateExpr, BinaryExpr, BinaryOp, CallExpr, DurationArg, Expr, MatrixSelector, RangeMode, Span,
    SubqueryExpr, UnaryOp, VectorSelector,
};
use crate::durations::DurationContext;
use crate::engine::EngineOptions;
use crate::eval::binary::scalar_op;
use crate::functions::FunctionId;
use quorate_model::TimeRange;

pub(super) fn plan(
    expr: &Expr,
    grid: TimeGrid,
    times: QueryTimes,
    options: &EngineOptions,
) -> Result<Plan, PlanError> {
    let mut builder = Builder { times, options, selects: Vec::new() };
    let scope = Scope { first: grid.start, last: grid.end(), step: times.step, buckets: Buckets::Asked };
    let built = builder.build(expr, scope)?;
    Ok(Plan { root: built.once(), grid, selects: builder.selects, times })
}

struct Builder<'a> {
    times: QueryTimes,
    options: &'a EngineOptions,
    selects: Vec<selects::SelectSpec>,
}

/// The evaluation times of a node.
#[derive(Clone, Copy)]
struct Scope {
    first: i64,
    last: i64,
    step: i64,
    buckets: Buckets,
}

/// What the nodes above need of the buckets of native histograms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buckets {
    /// The result may show them.
    Asked,
    /// `histogram_count` or its like only sees counts and sums.
    Spared,
    /// A function between needs them whatever stands above.
    Needed,
}

impl Scope {
    /// The scope of the arguments of a function.
    fn under_call(self, function: FunctionId) -> Self {
        let buckets = match function {
            FunctionId::HistogramCount | FunctionId::HistogramSum | FunctionId::HistogramAvg => {
                Buckets::Spared
            }
            FunctionId::HistogramQuantile
            | FunctionId::HistogramQuantiles
            | FunctionId::HistogramFraction => Buckets::Needed,
            _ => return self,
        };
        if self.buckets == Buckets::Needed { self } else { Self { buckets, ..self } }
    }

    fn under(self, at: Option<i64>) -> Self {
        at.map_or(self, |at| Self { first: at, last: at, ..self })
    }
}

struct Built {
    node: Node,
    /// Whether it gives the same at every step.
    invariant: bool,
    /// Whether there is anything to gain from evaluating it once.
    worth: bool,
}

impl Built {
    fn constant(node: Node) -> Self {
        Self { node, invariant: true, worth: false }
    }

    fn once(self) -> Node {
        if self.invariant && self.worth { Node::Once(Box::new(self.node)) } else { self.node }
    }
}

impl Builder<'_> {
    fn build(&mut self, expr: &Expr, scope: Scope) -> Result<Built, PlanError> {
        match expr {
            Expr::Number(number) => Ok(Built::constant(Node::Number(number.value))),
            Expr::String(string) => Ok(Built::constant(Node::Text(string.value.clone()))),
            Expr::Paren(paren) => self.build(&paren.expr, scope),
            Expr::StepInvariant(inner) => self.build(inner, scope),
            Expr::Vector(selector) => {
                let (selector, _) = self.selector(selector, None, scope)?;
                let fixed = selector.at.is_some();
                Ok(Built { node: Node::Selector(selector), invariant: fixed, worth: fixed })
            }
            Expr::Matrix(matrix) => self.matrix(matrix, scope),
            Expr::Subquery(subquery) => self.subquery(subquery, scope),
            Expr::Unary(unary) => {
                let inner = self.build(&unary.expr, scope)?;
                Ok(match unary.op {
                    UnaryOp::Plus => inner,
                    UnaryOp::Minus => negate(inner),
                })
            }
            Expr::Binary(binary) => self.binary(binary, scope),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate, scope),
            Expr::Call(call) => self.call(call, scope),
        }
    }

    fn duration(&self, arg: &DurationArg, may_be_negative: bool) -> Result<i64, PlanError> {
        let range_ms = self.times.end - self.times.start;
        let context = DurationContext { step_ms: self.times.step, range_ms };
        let resolved = if may_be_negative { arg.offset_ms(context) } else { arg.range_ms(context) };
        resolved.map_err(|e| PlanError::Duration(e.to_string()))
    }

    fn offset(&self, arg: Option<&DurationArg>) -> Result<i64, PlanError> {
        arg.map_or(Ok(0), |arg| self.duration(arg, true))
    }

    /// The selector, with its selection covering a window of `range` or a lookback.
    fn selector(
        &mut self,
        selector: &VectorSelector,
        range: Option<&DurationArg>,
        scope: Scope,
    ) -> Result<(Selector, i64), PlanError> {
        let at = self.times.resolve(selector.at);
        let offset = self.offset(selector.offset.as_ref())?;
        let range = range.map(|range| self.duration(range, false)).transpose()?;
        let times = scope.under(at);
        let lookback = self.options.lookback_delta_ms;
        let stats_only = scope.buckets == Buckets::Spared;
        let (before, after) = match (range, selector.mode) {
            // The sample before the window tells whether its first one is a counter reset.
            (Some(range), RangeMode::Plain) if stats_only => (range + lookback, 0),
            (None, RangeMode::Smoothed) => (lookback, lookback),
            (None, _) => (lookback, 0),
            (Some(range), RangeMode::Plain) => (range, 0),
            (Some(range), RangeMode::Anchored) => (range + lookback, 0),
            (Some(range), RangeMode::Smoothed) => (range + lookback, lookback),
        };
        let samples = TimeRange::new(
            times.first.saturating_sub(offset).saturating_sub(before).saturating_add(1),
            times.last.saturating_sub(offset).saturating_add(after),
        );
        // The second argument of `info` selects nothing by itself.
        let select = if selector.is_label_selector {
            usize::MAX
        } else {
            selects::add(&mut self.selects, &selector.matchers, samples, scope.step)
        };
        let (matchers, mode, span) = (selector.matchers.clone(), selector.mode, selector.span);
        Ok((Selector { select, matchers, at, offset, mode, stats_only, span }, range.unwrap_or(0)))
    }

    fn matrix(&mut self, matrix: &MatrixSelector, scope: Scope) -> Result<Built, PlanError> {
        let (selector, range) = self.selector(&matrix.selector, Some(&matrix.range), scope)?;
        let (at, offset) = (selector.at, selector.offset);
        let node = Node::Window(Window { input: WindowInput::Selector(selector), range, at, offset });
        Ok(Built { node, invariant: at.is_some(), worth: false })
    }

    fn subquery(&mut self, subquery: &SubqueryExpr, scope: Scope) -> Result<Built, PlanError> {
        let at = self.times.resolve(subquery.at);
        let offset = self.offset(subquery.offset.as_ref())?;
        let range = self.duration(&subquery.range, false)?;
        let step = match &subquery.step {
            Some(step) => self.duration(step, false)?,
            None => 0,
        };
        let step = if step > 0 { step } else { self.options.subquery_step_ms };
        let times = scope.under(at);
        let inner = Scope {
            first: times.first.saturating_sub(offset).saturating_sub(range),
            last: times.last.saturating_sub(offset),
            step,
            buckets: Buckets::Needed,
        };
        let input = WindowInput::Subquery(Box::new(self.build(&subquery.expr, inner)?.once()), step);
        let node = Node::Window(Window { input, range, at, offset });
        Ok(Built { node, invariant: at.is_some(), worth: false })
    }

    fn binary(&mut self, expr: &BinaryExpr, scope: Scope) -> Result<Built, PlanError> {
        let trims = matches!(expr.op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
        let scope = if trims { Scope { buckets: Buckets::Needed, ..scope } } else { scope };
        let lhs = self.build(&expr.lhs, scope)?;
        let rhs = self.build(&expr.rhs, scope)?;
        if let (Node::Number(a), Node::Number(b)) = (&lhs.node, &rhs.node)
            && let Some(value) = scalar_op(expr.op, *a, *b)
        {
            return Ok(Built::constant(Node::Number(value)));
        }
        let invariant = lhs.invariant && rhs.invariant;
        let unwrapped = |built: Built| if invariant { built.node } else { built.once() };
        let node = Node::Binary(Box::new(Binary {
            op: expr.op,
            lhs: unwrapped(lhs),
            rhs: unwrapped(rhs),
            return_bool: expr.return_bool,
            matching: expr.matching.clone(),
            span: expr.span,
        }));
        Ok(Built { node, invariant, worth: true })
    }

    fn aggregate(&mut self, expr: &AggregateExpr, scope: Scope) -> Result<Built, PlanError> {
        if let Some(param) = &expr.param {
            check_label_name(param, "invalid label name ")?;
        }
        let input = self.build(&expr.expr, scope)?;
        let param = expr.param.as_ref().map(|param| self.build(param, scope)).transpose()?;
        let invariant = input.invariant && param.as_ref().is_none_or(|p| p.invariant);
        let unwrapped = |built: Built| if invariant { built.node } else { built.once() };
        let mut grouping = expr.grouping.clone();
        grouping.sort_unstable();
        grouping.dedup();
        let node = Node::Aggregate(Box::new(Aggregate {
            op: expr.op,
            input: unwrapped(input),
            input_span: expr.expr.unwrapped().span(),
            param: param.map(unwrapped),
            param_span: expr.param.as_ref().map_or(Span::default(), |p| p.unwrapped().span()),
            grouping,
            without: expr.without,
            span: expr.span,
        }));
        Ok(Built { node, invariant, worth: true })
    }

    fn call(&mut self, expr: &CallExpr, scope: Scope) -> Result<Built, PlanError> {
        if let Some(value) = self.context_value(expr.function.id) {
            return Ok(Built::constant(Node::Number(value)));
        }
        if matches!(expr.function.id, FunctionId::LabelReplace | FunctionId::LabelJoin) {
            let problem = format!("invalid destination label name in {}(): ", expr.function.name);
            expr.args.get(1).map_or(Ok(()), |target| check_label_name(target, &problem))?;
        }
        let scope = scope.under_call(expr.function.id);
        let args = expr.args.iter().map(|arg| self.build(arg, scope)).collect::<Result<Vec<_>, _>>()?;
        let all_fixed = args.iter().all(|arg| arg.invariant);
        let timestamp_of_fixed = expr.function.id == FunctionId::Timestamp
            && args.iter().all(|arg| matches!(arg.node, Node::Selector(_)));
        let invariant = all_fixed && (!depends_on_time(expr.function.id) || timestamp_of_fixed);
        let unwrapped = |built: Built| if invariant { built.node } else { built.once() };
        let node = Node::Call(Box::new(Call {
            function: expr.function.id,
            name: expr.function.name,
            args: args.into_iter().map(unwrapped).collect(),
            arg_spans: expr.args.iter().map(|arg| arg.unwrapped().span()).collect(),
            span: expr.span,
        }));
        Ok(Built { node, invariant, worth: true })
    }

    /// The value of functions that are constant during one query.
    fn context_value(&self, function: FunctionId) -> Option<f64> {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        match function {
            FunctionId::Pi => Some(std::f64::consts::PI),
            FunctionId::Start => Some(seconds(self.times.start)),
            FunctionId::End => Some(seconds(self.times.end)),
            FunctionId::Range => Some(seconds(self.times.end - self.times.start)),
            FunctionId::Step if self.times.start == self.times.end => Some(0.0),
            FunctionId::Step => Some(seconds(self.times.step)),
            _ => None,
        }
    }
}

/// The error with `problem` in front if `expr` is a string that is not UTF-8.
fn check_label_name(expr: &Expr, problem: &str) -> Result<(), PlanError> {
    match expr.unwrapped() {
        Expr::String(string) => match &string.not_utf8 {
            Some(quoted) => Err(PlanError::LabelName(format!("{problem}{quoted}"))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn negate(inner: Built) -> Built {
    match inner.node {
        Node::Number(value) => Built::constant(Node::Number(-value)),
        node => Built { node: Node::Negate(Box::new(node)), invariant: inner.invariant, worth: true },
    }
}

/// Whether the result depends on the evaluation time even if no argument does.
fn depends_on_time(function: FunctionId) -> bool {
    matches!(
        function,
        FunctionId::DaysInMonth
            | FunctionId::DayOfMonth
            | FunctionId::DayOfWeek
            | FunctionId::DayOfYear
            | FunctionId::Hour
            | FunctionId::Minute
            | FunctionId::Month
            | FunctionId::Year
            | FunctionId::PredictLinear
            | FunctionId::Time
            | FunctionId::Timestamp
    )
}
