//! Trees as deep as the parser lets them become are safe for everything in this crate that walks them.

use super::MAX_DEPTH;
use crate::engine::{EngineOptions, NoGuard, instant, range};
use crate::source::MemSource;
use crate::{Features, format, parse, parse_json};
use quorate_model::Labels;

/// Prints and evaluates `head` and `tail` around `a`, `levels` times. Test threads have small stacks.
#[track_caller]
fn check(levels: usize, head: &str, tail: &str) {
    let mut source = MemSource::new();
    source.push_float(&Labels::from_pairs([("__name__", "a")]), 0, 1.0, 0);
    let query = format!("{}a{}", head.repeat(levels), tail.repeat(levels));
    let expr = parse(&query, &Features::all()).unwrap();
    assert!(!format(&expr.clone()).is_empty());
    assert!(parse_json(&expr).is_object());
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    instant(&source, &expr, 1_000, &options, &NoGuard).unwrap();
    range(&source, &expr, 0, 60_000, 30_000, &options, &NoGuard).unwrap();
}

#[test]
fn the_deepest_queries_are_evaluated_on_a_small_stack() {
    let most = MAX_DEPTH - 1;
    check(most, "", " + a");
    check(most, "", " or a");
    check(most, "(", ")");
    check(most, "abs(", ")");
    check(most, "sum(", ")");
    check(most, "topk(1, ", ")");
    check(most, "label_replace(", ", 'x', '', '', '')");
    check(most, "histogram_quantile(1, ", ")");
    check(most / 2, "vector(scalar(", "))");
    check(most / 2, "-(", ")");
    check(most / 2, "(1 + ", ")");
    check(most / 2, "max_over_time(", "[1m:1m])");
}
