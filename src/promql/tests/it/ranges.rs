//! A range query gives at each of its steps what an instant query gives at that time.

use crate::histograms::Hist;
use proptest::prelude::*;
use quorate_model::{Labels, stale_nan};
use quorate_promql::engine::{self, EngineOptions, NoGuard, SampleValue, Value};
use quorate_promql::source::MemSource;
use quorate_promql::{Expr, Features, parse};
use std::collections::BTreeMap;
use std::sync::Arc;

const QUERIES: &[&str] = &[
    "m",
    "m offset 40s",
    "-m",
    "abs(m) + 1",
    "sum by (job) (rate(m[2m]))",
    "increase(m[7m])",
    "avg without (job) (avg_over_time(m[90s]))",
    "stddev(m) or count(m)",
    "topk(1, m)",
    "quantile(0.3, m)",
    "count_values(\"v\", m > 3)",
    "max_over_time(m[5m]) - on (job) group_left min_over_time(n[5m])",
    "m and on (job) n > 5",
    "m unless on (job) n",
    "m == bool 3",
    "quantile_over_time(0.5, m[10m])",
    "deriv(m[4m]) or predict_linear(n[6m], 60)",
    "sum_over_time(rate(m[1m])[5m:20s])",
    "absent(n{job=\"a\"}) or absent_over_time(n[1m])",
    "timestamp(m) - time()",
    "changes(m[3m]) + resets(m[3m])",
    "last_over_time(h[2m])",
    "histogram_quantile(0.7, rate(h[4m])) or histogram_count(sum(h))",
    "scalar(n{job=\"b\"}) * m",
    "label_replace(m, \"x\", \"$1\", \"job\", \"(.*)\")",
    "rate(m[2m] smoothed) or rate(n[2m] anchored)",
];

fn value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        12 => (0..20i32).prop_map(|v| Some(f64::from(v))),
        2 => Just(None),
        1 => Just(Some(stale_nan())),
        1 => Just(Some(f64::NAN)),
    ]
}

fn source(values: &[Vec<Option<f64>>]) -> MemSource {
    let mut source = MemSource::new();
    let names = [("m", "a"), ("m", "b"), ("n", "a"), ("n", "b"), ("h", "a")];
    for ((name, job), values) in names.iter().zip(values) {
        let labels = Labels::from_pairs([("__name__", *name), ("job", *job)]);
        for (i, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let ts = i as i64 * 15_000 + 7;
            if *name == "h" && !value.is_nan() {
                let positive = BTreeMap::from([(0, *value), (3, value / 2.0)]);
                let h = Hist { count: value * 1.5, sum: *value, positive, ..Hist::default() };
                source.push_histogram(&labels, ts, Arc::new(h.to_model()), 0);
            } else {
                source.push_float(&labels, ts, *value, 0);
            }
        }
    }
    source
}

/// What of a sample must be the same in a range as at an instant.
#[derive(Debug, PartialEq)]
struct Facts {
    /// Of a histogram its count and its sum.
    numbers: Vec<f64>,
    /// The positive buckets of a histogram.
    buckets: Vec<i32>,
}

impl Facts {
    fn of(value: &SampleValue) -> Self {
        match value {
            SampleValue::Float(v) => Self { numbers: vec![*v], buckets: Vec::new() },
            SampleValue::Histogram(h) => {
                let h = Hist::from_model(h);
                Self { numbers: vec![h.count, h.sum], buckets: h.positive.into_keys().collect() }
            }
        }
    }

    /// Whether nothing but rounding differs. A sliding kernel adds in another order than a scan, so a difference
    /// that cancels out in one may leave a little of its terms in the other.
    fn is_close(&self, other: &Self) -> bool {
        let close = |(a, b): (&f64, &f64)| {
            a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= (1e-9 * a.abs().max(b.abs())).max(1e-12)
        };
        self.buckets == other.buckets
            && self.numbers.len() == other.numbers.len()
            && self.numbers.iter().zip(&other.numbers).all(close)
    }
}

/// The samples of a result by time and labels.
fn samples(value: &Value) -> BTreeMap<(i64, Labels), Facts> {
    match value {
        Value::Vector(vector) => {
            vector.iter().map(|s| ((s.ts_ms, s.labels.clone()), Facts::of(&s.value))).collect()
        }
        Value::Matrix(series) => {
            let rows = series.iter().flat_map(|row| {
                let floats = row.floats.iter().map(|(t, v)| (*t, SampleValue::Float(*v)));
                let histograms = row.histograms.iter().map(|(t, h)| (*t, SampleValue::Histogram(h.clone())));
                let all = floats.chain(histograms);
                all.map(|(t, value)| ((t, row.labels.clone()), Facts::of(&value)))
            });
            rows.collect()
        }
        Value::Scalar { ts_ms, value } => {
            [((*ts_ms, Labels::empty()), Facts::of(&SampleValue::Float(*value)))].into()
        }
        other => panic!("not a set of series: {other:?}"),
    }
}

/// Compares a range query from start to end at a step with instant queries at its times.
pub(crate) fn same_as_instants(
    source: &MemSource,
    expr: &Expr,
    (start, end, step): (i64, i64, i64),
    options: &EngineOptions,
) -> Result<(), String> {
    let range = engine::range(source, expr, start, end, step, options, &NoGuard);
    let times = (0..).map(|i| start + i * step).take_while(|time| *time <= end);
    let instants: Result<Vec<_>, _> =
        times.map(|time| engine::instant(source, expr, time, options, &NoGuard)).collect();
    match (range, instants) {
        (Ok(range), Ok(instants)) => {
            let all: BTreeMap<_, _> = instants.iter().flat_map(|out| samples(&out.value)).collect();
            let got = samples(&range.value);
            let differs = |key: &&(i64, Labels)| match (got.get(*key), all.get(*key)) {
                (Some(range), Some(instant)) => !range.is_close(instant),
                (range, instant) => range.is_some() || instant.is_some(),
            };
            match got.keys().chain(all.keys()).find(differs) {
                None => Ok(()),
                Some(key) => Err(format!("{key:?}: range {:?}, instant {:?}", got.get(key), all.get(key))),
            }
        }
        (Err(_), Err(_)) => Ok(()),
        (range, instants) => Err(format!("range {:?}, instants {:?}", range.err(), instants.err())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn range_queries_equal_instant_queries_at_their_steps(
        values in prop::collection::vec(prop::collection::vec(value(), 40), 5),
        start in 0..600_000i64,
        step in 1_000..90_000i64,
        steps in 1..12i64,
        delayed: bool,
    ) {
        let source = source(&values);
        let features = Features { delayed_name_removal: delayed, ..Features::all() };
        let options = EngineOptions { features, ..EngineOptions::default() };
        let end = start + step * (steps - 1);
        for query in QUERIES {
            let expr = parse(query, &Features::all()).unwrap();
            let same = same_as_instants(&source, &expr, (start, end, step), &options);
            prop_assert!(same.is_ok(), "{query}: {}", same.unwrap_err());
        }
    }
}
