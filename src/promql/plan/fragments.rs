//! Which parts of a plan can run where the series are.
//!
//! Knows the rules for what is the same whether a partition is evaluated alone or with all others. Does not know
//! partitions. Path: `engine` marks a plan for a source that is spread -> **here**; `fragment` asks again on the other
//! side, where the plan comes from another node.
//!
//! - FR1: below the root of a fragment every series is worked on alone, and none becomes the same as another: a metric
//!   name is only dropped where a single metric is selected, or at the end of the query.
//! - FR2: operators below the root hand each series on before they read the next, so that a result can be told the
//!   series that it comes from.

use super::{Call, Node, QueryTimes, Selector, Window, WindowInput};
use crate::ast::{AggregateOp, BinaryOp, Span};
use crate::eval::binary::drops_names;
use crate::functions::{FunctionId, math};
use quorate_model::{METRIC_NAME, MatchOp, Matcher};

/// A part of a plan that can run where the series are.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The part, for sources that do not take it.
    pub(crate) node: Node,
    /// Its place in the query.
    pub(crate) span: Span,
    /// The selection that it works on: position in [`super::Plan::selects`].
    pub(crate) select: usize,
    /// The times of the query.
    pub(crate) times: QueryTimes,
}

/// Most fragments of a query: each is a request to every node, and further ones would rather share their series.
const MAX_FRAGMENTS: usize = 32;

/// Most nodes above a fragment: they are on the stack while its text is parsed.
const MAX_ABOVE: usize = 32;

/// Puts the largest parts of `node` that are fragments under [`Node::Fragment`].
pub(crate) fn mark(node: &mut Node, times: QueryTimes, delays_names: bool) {
    Marking { times, delays_names, left: MAX_FRAGMENTS, deeper: MAX_ABOVE }.mark(node);
}

struct Marking {
    times: QueryTimes,
    delays_names: bool,
    /// Fragments that there may be yet.
    left: usize,
    /// Nodes that there may be above one, besides those that there are.
    deeper: usize,
}

impl Marking {
    fn mark(&mut self, node: &mut Node) {
        if self.left == 0 {
            return;
        }
        if let Some((span, select)) = root(node, self.delays_names) {
            self.left -= 1;
            let inner = std::mem::replace(node, Node::Number(f64::NAN));
            *node = Node::Fragment(Box::new(Remote { node: inner, span, select, times: self.times }));
            return;
        }
        if self.deeper > 0 {
            self.deeper -= 1;
            self.mark_below(node);
            self.deeper += 1;
        }
    }

    fn mark_below(&mut self, node: &mut Node) {
        match node {
            Node::Negate(inner) | Node::Once(inner) => self.mark(inner),
            Node::Binary(binary) => {
                self.mark(&mut binary.lhs);
                self.mark(&mut binary.rhs);
            }
            Node::Aggregate(aggregate) => {
                self.mark(&mut aggregate.input);
                if let Some(param) = &mut aggregate.param {
                    self.mark(param);
                }
            }
            Node::Call(call) if !looks_at_its_selector(call) => {
                call.args.iter_mut().for_each(|arg| self.mark(arg));
            }
            Node::Window(Window { input: WindowInput::Subquery(inner, _), .. }) => self.mark(inner),
            _ => {}
        }
    }
}

/// The place of `node` in the query and its selection, if it is a fragment.
pub(crate) fn root(node: &Node, delays_names: bool) -> Option<(Span, usize)> {
    let (input, span) = match node {
        Node::Aggregate(aggregate) if folds(aggregate.op) => (&aggregate.input, aggregate.span),
        Node::Selector(selector) => (node, selector.span),
        Node::Binary(binary) => (node, binary.span),
        Node::Call(call) => (node, call.span),
        _ => return None,
    };
    let each = each_alone(input)?;
    (delays_names || !each.drops_names || selects_one_metric(each.selector))
        .then_some((span, each.selector.select))
}

/// Whether results of parts of the input of an aggregation can be put together.
fn folds(op: AggregateOp) -> bool {
    matches!(
        op,
        AggregateOp::Sum
            | AggregateOp::Avg
            | AggregateOp::Count
            | AggregateOp::Min
            | AggregateOp::Max
            | AggregateOp::Group
            | AggregateOp::Stddev
            | AggregateOp::Stdvar
    )
}

/// Calls that do something else with a selector than with any other argument.
fn looks_at_its_selector(call: &Call) -> bool {
    match call.function {
        FunctionId::Info => true,
        FunctionId::Timestamp | FunctionId::StartTimestamp => {
            matches!(call.args.first(), Some(Node::Selector(_)))
        }
        _ => false,
    }
}

/// A part that works on each series of one selector alone (FR1, FR2).
struct EachAlone<'n> {
    selector: &'n Selector,
    drops_names: bool,
}

impl EachAlone<'_> {
    fn dropping(self, drops: bool) -> Self {
        Self { drops_names: self.drops_names || drops, ..self }
    }
}

fn each_alone(node: &Node) -> Option<EachAlone<'_>> {
    match node {
        Node::Selector(selector) => Some(EachAlone { selector, drops_names: false }),
        Node::Binary(binary) => {
            let vector = match (is_plain_scalar(&binary.lhs), is_plain_scalar(&binary.rhs)) {
                (false, true) => &binary.lhs,
                (true, false) => &binary.rhs,
                _ => return None,
            };
            let is_set = matches!(binary.op, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless);
            let each = each_alone(vector).filter(|_| !is_set)?;
            Some(each.dropping(drops_names(binary)))
        }
        Node::Call(call) => call_alone(call),
        // Negation collects its input first, what is the same at every step too; their inputs are fragments.
        _ => None,
    }
}

fn call_alone(call: &Call) -> Option<EachAlone<'_>> {
    let (vectors, scalars): (Vec<&Node>, Vec<&Node>) =
        call.args.iter().partition(|arg| !is_plain_scalar(arg));
    let [input] = vectors[..] else { return None };
    if let Node::Window(window) = input {
        let each = match &window.input {
            WindowInput::Selector(selector) => EachAlone { selector, drops_names: false },
            WindowInput::Subquery(inner, _) => each_alone(inner)?,
        };
        let keeps = matches!(call.function, FunctionId::LastOverTime | FunctionId::FirstOverTime);
        return (call.function != FunctionId::AbsentOverTime).then(|| each.dropping(!keeps));
    }
    let is_map = math::of_one(call.function).is_some() && scalars.is_empty();
    (is_map || maps_with_scalars(call.function)).then(|| each_alone(input))?.map(|each| each.dropping(true))
}

/// Functions of one vector, and of scalars beside it, that change each sample alone.
fn maps_with_scalars(function: FunctionId) -> bool {
    matches!(
        function,
        FunctionId::Round
            | FunctionId::Clamp
            | FunctionId::ClampMin
            | FunctionId::ClampMax
            | FunctionId::Timestamp
            | FunctionId::StartTimestamp
            | FunctionId::HistogramCount
            | FunctionId::HistogramSum
            | FunctionId::HistogramAvg
            | FunctionId::HistogramStddev
            | FunctionId::HistogramStdvar
    )
}

/// A scalar that no series has a part in.
fn is_plain_scalar(node: &Node) -> bool {
    match node {
        Node::Number(_) => true,
        Node::Negate(inner) | Node::Once(inner) => is_plain_scalar(inner),
        Node::Binary(binary) => is_plain_scalar(&binary.lhs) && is_plain_scalar(&binary.rhs),
        Node::Call(call) => match call.function {
            FunctionId::Time => true,
            FunctionId::MaxOf | FunctionId::MinOf => call.args.iter().all(is_plain_scalar),
            _ => false,
        },
        _ => false,
    }
}

fn selects_one_metric(selector: &Selector) -> bool {
    let names_one =
        |m: &Matcher| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && !m.value().is_empty();
    selector.matchers.iter().any(names_one)
}
