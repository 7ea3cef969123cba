//! What is planned for which query.

use super::{Node, Plan, TimeGrid, WindowInput};
use crate::engine::EngineOptions;
use crate::features::Features;
use crate::parser::parse;
use quorate_model::TimeRange;

/// Plans a range query from 1,000 s to 2,000 s at steps of 100 s.
fn plan(query: &str) -> Plan {
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    let expr = parse(query, &options.features).unwrap();
    let grid = TimeGrid::range(1_000_000, 2_000_000, 100_000).unwrap();
    Plan::range(&expr, grid, 2_000_000, &options).unwrap()
}

#[track_caller]
fn check_ranges(query: &str, expected: &[(i64, i64)]) {
    let ranges: Vec<TimeRange> = plan(query).selects.iter().map(|s| s.range).collect();
    let expected: Vec<TimeRange> = expected.iter().map(|(start, end)| TimeRange::new(*start, *end)).collect();
    assert_eq!(ranges, expected, "{query}");
}

#[test]
fn selections_cover_what_selectors_look_at() {
    check_ranges("a", &[(700_001, 2_000_000)]);
    check_ranges("a offset 1m", &[(640_001, 1_940_000)]);
    check_ranges("a @ 500", &[(200_001, 500_000)]);
    check_ranges("a @ end() offset -10s", &[(1_710_001, 2_010_000)]);
    check_ranges("rate(a[1m])", &[(940_001, 2_000_000)]);
    check_ranges("rate(a[1m] anchored)", &[(640_001, 2_000_000)]);
    check_ranges("rate(a[1m] smoothed)", &[(640_001, 2_300_000)]);
    check_ranges("a smoothed", &[(700_001, 2_300_000)]);
    check_ranges("rate(a[step() * 2])", &[(800_001, 2_000_000)]);
    check_ranges("sum_over_time(a[10m:1m] offset 1m)", &[(40_001, 1_940_000)]);
    check_ranges("sum_over_time(rate(a[1m])[10m:1m] @ 900)", &[(240_001, 900_000)]);
    check_ranges("histogram_count(rate(a[1m]))", &[(640_001, 2_000_000)]);
}

#[test]
fn selectors_of_the_same_series_share_a_selection_where_their_ranges_meet() {
    check_ranges("a{x=\"1\",y=\"2\"} / rate(a{y=\"2\",x=\"1\"}[10m])", &[(400_001, 2_000_000)]);
    check_ranges("a - a offset 1w", &[(700_001, 2_000_000), (-604_099_999, -602_800_000)]);
    check_ranges("a + b", &[(700_001, 2_000_000), (700_001, 2_000_000)]);
}

#[track_caller]
fn is_once(node: &Node) -> bool {
    matches!(node, Node::Once(_))
}

#[test]
fn what_is_the_same_at_every_step_is_evaluated_once() {
    assert!(is_once(&plan("sum(rate(a[1m] @ 500)) + 1").root));
    assert!(!is_once(&plan("sum(rate(a[1m]))").root));
    assert!(is_once(&plan("timestamp(a @ 500)").root), "the time of the sample does not move");
    assert!(!is_once(&plan("timestamp(abs(a @ 500))").root), "the evaluation time does");
    assert!(!is_once(&plan("predict_linear(a[1m] @ 500, 60)").root));
    let Node::Binary(binary) = plan("a / (a @ end() * 2)").root else { panic!("not a binary operation") };
    assert!(!is_once(&binary.lhs) && is_once(&binary.rhs));
}

#[test]
fn inside_a_subquery_a_pinned_selector_is_evaluated_once() {
    let Node::Call(call) = plan("sum_over_time((a @ 500)[10m:1m])").root else { panic!("not a call") };
    let Node::Window(window) = &call.args[0] else { panic!("not a window") };
    let WindowInput::Subquery(inner, 60_000) = &window.input else { panic!("not a subquery of one minute") };
    assert!(is_once(inner));
}

#[test]
fn constants_are_folded() {
    let number = |query: &str| match plan(query).root {
        Node::Number(value) => value,
        other => panic!("{query} is planned as {other:?}"),
    };
    assert_eq!(number("1 + 2 * -3 ^ 2"), -17.0);
    assert_eq!(number("(end() - start()) / step()"), 10.0);
    assert_eq!(number("range() == bool 1000"), 1.0);
    assert!(matches!(plan("time() + 1").root, Node::Binary(_)));
}
