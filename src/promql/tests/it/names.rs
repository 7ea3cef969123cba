//! Metric names that are dropped at once, as without the feature of delayed name removal: series that become the same
//! are put together where they share no step, and an error where they do.

use quorate_model::Labels;
use quorate_promql::engine::{self, EngineOptions, NoGuard, Value};
use quorate_promql::source::MemSource;
use quorate_promql::{Features, parse};

/// `early` ends before `late` begins; `both` overlaps with either.
fn source() -> MemSource {
    let mut source = MemSource::new();
    for (name, times) in [("early", 0..10), ("late", 30..40), ("both", 0..40)] {
        let labels = Labels::from_pairs([("__name__", name), ("job", "a")]);
        times.for_each(|k| source.push_float(&labels, k * 60_000, k as f64, 0));
    }
    source
}

/// The values of the only series of the result at 5, 25 and 35 minutes, or the error.
fn values(query: &str) -> Result<Vec<f64>, String> {
    let options = EngineOptions::default();
    let expr = parse(query, &Features::default()).unwrap();
    let out = engine::range(&source(), &expr, 300_000, 2_100_000, 600_000, &options, &NoGuard);
    match out.map_err(|e| e.to_string())?.value {
        Value::Matrix(series) if series.len() == 1 => Ok(series[0].floats.iter().map(|p| p.1).collect()),
        other => panic!("{query}: {other:?}"),
    }
}

#[test]
fn series_that_share_no_step_are_put_together() {
    for query in [
        "abs({__name__=~\"early|late\"})",
        "-(-{__name__=~\"early|late\"})",
        "{__name__=~\"early|late\"} * 1",
        "sum(abs({__name__=~\"early|late\"}))",
        "ceil(last_over_time({__name__=~\"early|late\"}[1m]))",
        "floor({__name__=~\"early|late\"} >= 0)",
        "label_replace({__name__=~\"early|late\"}, \"__name__\", \"x\", \"\", \"\")",
    ] {
        assert_eq!(values(query), Ok(vec![5.0, 35.0]), "{query}");
    }
}

#[test]
fn series_that_share_a_step_are_an_error() {
    for query in [
        "abs({__name__=~\"early|both\"})",
        "-{__name__=~\"early|both\"}",
        "sum({__name__=~\"early|both\"} * 1)",
        "sum(rate({__name__=~\"early|both\"}[5m]))",
        "sum(ceil(last_over_time({__name__=~\"early|both\"}[1m])))",
        "sum(floor({__name__=~\"early|both\"} >= 0))",
        "sum(sum_over_time({__name__=~\"early|both\"}[5m:1m]))",
        "sum(label_replace({__name__=~\"early|both\"}, \"__name__\", \"x\", \"\", \"\"))",
    ] {
        let expected = "vector cannot contain metrics with the same labelset";
        assert_eq!(values(query), Err(expected.to_owned()), "{query}");
    }
}

#[test]
fn one_metric_keeps_its_series_apart() {
    assert_eq!(values("sum(abs(both) + 0)"), Ok(vec![5.0, 15.0, 25.0, 35.0]));
    assert_eq!(values("sum(ceil(floor(both)))"), Ok(vec![5.0, 15.0, 25.0, 35.0]));
}
