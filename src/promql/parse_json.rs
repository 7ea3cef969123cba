//! The tree as JSON, in the form of Prometheus' `/api/v1/parse_query`.

use crate::ast::{
    AggregateExpr, AtModifier, BinaryExpr, CallExpr, Cardinality, DurationArg, DurationExpr, DurationKind,
    Expr, RangeMode, SubqueryExpr, UnaryOp, VectorMatching, VectorSelector,
};
use crate::go_fmt::float_plain;
use quorate_model::Matcher;
use serde_json::{Map, Value, json};

/// The tree of `expr` as the query API of Prometheus shows it.
pub fn parse_json(expr: &Expr) -> Value {
    match expr {
        Expr::Number(number) => node("numberLiteral", [("val", float_plain(number.value).into())]),
        Expr::String(string) => node("stringLiteral", [("val", string.value.as_str().into())]),
        Expr::Vector(selector) => selector_json("vectorSelector", selector, None),
        Expr::Matrix(matrix) => selector_json("matrixSelector", &matrix.selector, Some(&matrix.range)),
        Expr::Subquery(subquery) => subquery_json(subquery),
        Expr::Unary(unary) => {
            let op = if unary.op == UnaryOp::Minus { "-" } else { "+" };
            node("unaryExpr", [("op", op.into()), ("expr", parse_json(&unary.expr))])
        }
        Expr::Paren(paren) => node("parenExpr", [("expr", parse_json(&paren.expr))]),
        Expr::StepInvariant(inner) => parse_json(inner),
        Expr::Binary(binary) => binary_json(binary),
        Expr::Aggregate(aggregate) => aggregate_json(aggregate),
        Expr::Call(call) => call_json(call),
    }
}

/// An object of the type `kind`. Takes the values of its fields, where `json!` would copy them at every level.
fn node<const N: usize>(kind: &str, fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::Object(Map::from_iter([("type".to_owned(), kind.into())].into_iter().chain(fields)))
}

fn aggregate_json(aggregate: &AggregateExpr) -> Value {
    node(
        "aggregation",
        [
            ("op", aggregate.op.name().into()),
            ("expr", parse_json(&aggregate.expr)),
            ("param", aggregate.param.as_deref().map_or(Value::Null, parse_json)),
            ("grouping", json!(aggregate.grouping)),
            ("without", aggregate.without.into()),
        ],
    )
}

fn binary_json(binary: &BinaryExpr) -> Value {
    node(
        "binaryExpr",
        [
            ("op", binary.op.symbol().into()),
            ("lhs", parse_json(&binary.lhs)),
            ("rhs", parse_json(&binary.rhs)),
            ("matching", binary.matching.as_ref().map_or(Value::Null, matching_json)),
            ("bool", binary.return_bool.into()),
        ],
    )
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
    let signature = json!({
        "name": function.name,
        "argTypes": arg_types,
        "variadic": function.variadic,
        "returnType": function.return_type.name(),
    });
    node("call", [("func", signature), ("args", call.args.iter().map(parse_json).collect())])
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
    node(
        "subquery",
        [
            ("expr", parse_json(&subquery.expr)),
            ("range", fixed(Some(&subquery.range)).into()),
            ("rangeExpr", computed(Some(&subquery.range))),
            ("offset", fixed(subquery.offset.as_ref()).into()),
            ("offsetExpr", computed(subquery.offset.as_ref())),
            ("step", fixed(subquery.step.as_ref()).into()),
            ("stepExpr", computed(subquery.step.as_ref())),
            ("timestamp", timestamp(subquery.at).into()),
            ("startOrEnd", start_or_end(subquery.at).into()),
        ],
    )
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
    let operation = |op: &str, lhs: Value, rhs: Value| {
        let wrapped = expr.wrapped.into();
        node("durationExpr", [("op", op.into()), ("lhs", lhs), ("rhs", rhs), ("wrapped", wrapped)])
    };
    match &expr.kind {
        DurationKind::Number { value, is_duration } => {
            let value = float_plain(*value).into();
            let number = node("numberLiteral", [("val", value), ("duration", (*is_duration).into())]);
            if expr.wrapped { operation("+", Value::Null, number) } else { number }
        }
        DurationKind::Step => operation("step", Value::Null, Value::Null),
        DurationKind::Range => operation("range", Value::Null, Value::Null),
        DurationKind::Neg(inner) => operation("-", Value::Null, duration_json(inner)),
        DurationKind::Binary(op, left, right) => {
            operation(op.symbol(), duration_json(left), duration_json(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Features, parse, parse_json};
    use serde_json::json;

    #[test]
    fn trees_have_the_form_of_prometheus() {
        let query = "topk by (b) (2, a{c!='d'} @ end() offset (1m)) > bool 1";
        let expr = parse(query, &Features::default()).unwrap();
        let expected = json!({
            "type": "binaryExpr",
            "op": ">",
            "bool": true,
            "matching": null,
            "lhs": {
                "type": "aggregation",
                "op": "topk",
                "param": { "type": "numberLiteral", "val": "2" },
                "grouping": ["b"],
                "without": false,
                "expr": {
                    "type": "vectorSelector",
                    "name": "a",
                    "matchers": [
                        { "name": "c", "value": "d", "type": "!=" },
                        { "name": "__name__", "value": "a", "type": "=" },
                    ],
                    "offset": 0,
                    "offsetExpr": {
                        "type": "durationExpr",
                        "op": "+",
                        "lhs": null,
                        "rhs": { "type": "numberLiteral", "val": "60", "duration": true },
                        "wrapped": true,
                    },
                    "timestamp": null,
                    "startOrEnd": "end",
                    "anchored": false,
                    "smoothed": false,
                },
            },
            "rhs": { "type": "numberLiteral", "val": "1" },
        });
        assert_eq!(parse_json(&expr), expected);
    }

    #[test]
    fn calls_carry_their_signature_and_joins_their_matching() {
        let query = "round(a * on (b) group_left (c) -max_over_time(d[5m:] @ 1.5 offset 1s))";
        let found = parse_json(&parse(query, &Features::default()).unwrap());
        let signature = json!({
            "name": "round", "argTypes": ["vector", "scalar"], "variadic": 1, "returnType": "vector",
        });
        assert_eq!(found["func"], signature);
        let matching = json!({
            "card": "many-to-one", "labels": ["b"], "on": true, "include": ["c"],
            "fillValues": { "lhs": null, "rhs": null },
        });
        assert_eq!(found["args"][0]["matching"], matching);
        let subquery = &found["args"][0]["rhs"]["expr"]["args"][0];
        let fields = ["range", "offset", "step", "timestamp"].map(|field| subquery[field].as_i64());
        assert_eq!(fields, [Some(300_000), Some(1_000), Some(0), Some(1_500)]);
        assert!(subquery["stepExpr"].is_null() && subquery["startOrEnd"].is_null());
    }
}
