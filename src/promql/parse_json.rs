//! The tree as JSON, in the form of Prometheus' `/api/v1/parse_query`.

use crate::ast::{
    AggregateExpr, AtModifier, BinaryExpr, CallExpr, Cardinality, DurationArg, DurationExpr, DurationKind,
    Expr, RangeMode, SubqueryExpr, UnaryOp, VectorMatching, VectorSelector,
};
use crate::go_fmt::float_plain;
use quorate_model::Matcher;
use serde_json::{Value, json};

/// The tree of `expr` as the query API of Prometheus shows it.
pub fn parse_json(expr: &Expr) -> Value {
    match expr {
        Expr::Number(number) => json!({ "type": "numberLiteral", "val": float_plain(number.value) }),
        Expr::String(string) => json!({ "type": "stringLiteral", "val": string.value }),
        Expr::Vector(selector) => selector_json("vectorSelector", selector, None),
        Expr::Matrix(matrix) => selector_json("matrixSelector", &matrix.selector, Some(&matrix.range)),
        Expr::Subquery(subquery) => subquery_json(subquery),
        Expr::Unary(unary) => json!({
            "type": "unaryExpr",
            "op": if unary.op == UnaryOp::Minus { "-" } else { "+" },
            "expr": parse_json(&unary.expr),
        }),
        Expr::Paren(paren) => json!({ "type": "parenExpr", "expr": parse_json(&paren.expr) }),
        Expr::StepInvariant(inner) => parse_json(inner),
        Expr::Binary(binary) => binary_json(binary),
        Expr::Aggregate(aggregate) => aggregate_json(aggregate),
        Expr::Call(call) => call_json(call),
    }
}

fn aggregate_json(aggregate: &AggregateExpr) -> Value {
    json!({
        "type": "aggregation",
        "op": aggregate.op.name(),
        "expr": parse_json(&aggregate.expr),
        "param": aggregate.param.as_deref().map(parse_json),
        "grouping": aggregate.grouping,
        "without": aggregate.without,
    })
}

fn binary_json(binary: &BinaryExpr) -> Value {
    json!({
        "type": "binaryExpr",
        "op": binary.op.symbol(),
        "lhs": parse_json(&binary.lhs),
        "rhs": parse_json(&binary.rhs),
        "matching": binary.matching.as_ref().map(matching_json),
        "bool": binary.return_bool,
    })
}

fn matching_json(matching: &VectorMatching) -> Value {
    let card = match matching.card {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    json!({
        "card": card,
        "labels": matching.labels,
        "on": matching.on,
        "include": matching.include,
        "fillValues": { "lhs": matching.fill_left, "rhs": matching.fill_right },
    })
}

fn call_json(call: &CallExpr) -> Value {
    let function = call.function;
    let arg_types: Vec<_> = function.arg_types.iter().map(|t| t.name()).collect();
    json!({
        "type": "call",
        "func": {
            "name": function.name,
            "argTypes": arg_types,
            "variadic": function.variadic,
            "returnType": function.return_type.name(),
        },
        "args": call.args.iter().map(parse_json).collect::<Vec<_>>(),
    })
}

fn selector_json(kind: &str, selector: &VectorSelector, range: Option<&DurationArg>) -> Value {
    let mut node = json!({
        "type": kind,
        "name": selector.name,
        "offset": fixed(selector.offset.as_ref()),
        "offsetExpr": computed(selector.offset.as_ref()),
        "matchers": selector.matchers.iter().map(matcher_json).collect::<Vec<_>>(),
        "timestamp": timestamp(selector.at),
        "startOrEnd": start_or_end(selector.at),
        "anchored": selector.mode == RangeMode::Anchored,
        "smoothed": selector.mode == RangeMode::Smoothed,
    });
    if range.is_some() {
        node["range"] = json!(fixed(range));
        node["rangeExpr"] = computed(range);
    }
    node
}

fn subquery_json(subquery: &SubqueryExpr) -> Value {
    json!({
        "type": "subquery",
        "expr": parse_json(&subquery.expr),
        "range": fixed(Some(&subquery.range)),
        "rangeExpr": computed(Some(&subquery.range)),
        "offset": fixed(subquery.offset.as_ref()),
        "offsetExpr": computed(subquery.offset.as_ref()),
        "step": fixed(subquery.step.as_ref()),
        "stepExpr": computed(subquery.step.as_ref()),
        "timestamp": timestamp(subquery.at),
        "startOrEnd": start_or_end(subquery.at),
    })
}

fn matcher_json(matcher: &Matcher) -> Value {
    json!({ "name": matcher.name(), "value": matcher.value(), "type": matcher.op().to_string() })
}

fn timestamp(at: Option<AtModifier>) -> Option<i64> {
    match at {
        Some(AtModifier::Timestamp(ms)) => Some(ms),
        _ => None,
    }
}

fn start_or_end(at: Option<AtModifier>) -> Option<&'static str> {
    match at {
        Some(AtModifier::Start) => Some("start"),
        Some(AtModifier::End) => Some("end"),
        _ => None,
    }
}

/// Milliseconds; 0 for what is absent or not known yet.
fn fixed(duration: Option<&DurationArg>) -> i64 {
    match duration {
        Some(DurationArg::Fixed(ms)) => *ms,
        _ => 0,
    }
}

fn computed(duration: Option<&DurationArg>) -> Value {
    match duration {
        Some(DurationArg::Computed(expr)) => duration_json(expr),
        _ => Value::Null,
    }
}

/// A number in parentheses and a sign are operators without a left side.
fn duration_json(expr: &DurationExpr) -> Value {
    let node = |op: &str, lhs: Value, rhs: Value| json!({ "type": "durationExpr", "op": op, "lhs": lhs, "rhs": rhs, "wrapped": expr.wrapped });
    match &expr.kind {
        DurationKind::Number { value, is_duration } => {
            let number =
                json!({ "type": "numberLiteral", "val": float_plain(*value), "duration": is_duration });
            if expr.wrapped { node("+", Value::Null, number) } else { number }
        }
        DurationKind::Step => node("step", Value::Null, Value::Null),
        DurationKind::Range => node("range", Value::Null, Value::Null),
        DurationKind::Neg(inner) => node("-", Value::Null, duration_json(inner)),
        DurationKind::Binary(op, left, right) => node(op.symbol(), duration_json(left), duration_json(right)),
    }
}
