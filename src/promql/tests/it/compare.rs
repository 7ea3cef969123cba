//! Compares results with what a case expects.

use crate::histograms::Hist;
use crate::lines::Item;
use crate::script::Eval;
use quorate_model::{CounterResetHint, Labels};
use quorate_promql::engine::{InstantSample, QueryOutput, RangeSeries, SampleValue, Value};
use std::collections::BTreeSet;

/// Why a case does not pass.
pub(crate) type Check = Result<(), String>;

fn close(a: f64, b: f64, epsilon: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (total, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || total < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / total.min(f64::MAX) < epsilon
}

fn check_value(expected: &Item, got: &SampleValue, what: &str) -> Check {
    let fits = match (expected, got) {
        (Item::Omitted, SampleValue::Float(value)) => *value == 0.0,
        (Item::Float(expected), SampleValue::Float(value)) => close(*expected, *value, 1e-6),
        (Item::Histogram(expected), SampleValue::Histogram(value)) => {
            same(expected, &Hist::from_model(value))
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

fn same(expected: &Hist, got: &Hist) -> bool {
    let (want, have) = (expected.api_buckets(), got.api_buckets());
    close(expected.count, got.count, 1e-6)
        && close(expected.sum, got.sum, 1e-6)
        && same_hint(expected, got)
        && want.len() == have.len()
        && want.iter().zip(&have).all(|(a, b)| {
            a.0 == b.0 && close(a.1, b.1, 1e-9) && close(a.2, b.2, 1e-9) && close(a.3, b.3, 1e-6)
        })
}

/// Whether the hint is the one that the script names. Where no sample before is read, "no reset" is not known.
fn same_hint(expected: &Hist, got: &Hist) -> bool {
    let unknown = expected.hint == CounterResetHint::NoReset && got.hint == CounterResetHint::Unknown;
    !expected.hint_set || expected.hint == got.hint || unknown
}

/// Compares a value with the expected one.
pub(crate) fn check_result(case: &Eval, value: &Value) -> Check {
    match value {
        Value::Scalar { value, .. } => check_scalar(case, *value),
        Value::String { value, .. } if case.string.as_deref().unwrap_or("") == value => Ok(()),
        Value::String { value, .. } => Err(format!("expected string {:?}, got {value:?}", case.string)),
        Value::Vector(samples) => check_vector(case, samples, case.ordered()),
        Value::Matrix(series) => check_matrix(case, series),
    }
}

fn check_scalar(case: &Eval, value: f64) -> Check {
    match case.scalar {
        Some(expected) if close(expected, value, 1e-6) => Ok(()),
        expected => Err(format!("expected scalar {expected:?}, got {value}")),
    }
}

fn check_vector(case: &Eval, samples: &[InstantSample], ordered: bool) -> Check {
    if let Some(expected) = case.scalar {
        return Err(format!("expected scalar {expected}, got a vector"));
    }
    let mut seen = BTreeSet::new();
    for (at, sample) in samples.iter().enumerate() {
        let what = format!("{:?}", sample.labels);
        let Some((place, items)) = case.expected.get(&sample.labels) else {
            return Err(format!("unexpected series {what} = {:?}", sample.value));
        };
        if !seen.insert(&sample.labels) {
            return Err(format!("series {what} is there twice"));
        }
        if ordered && *place != at + 1 {
            return Err(format!("series {what} is at place {}, expected {place}", at + 1));
        }
        check_value(items.first().unwrap_or(&Item::Omitted), &sample.value, &what)?;
    }
    check_missing(case, &seen)
}

fn check_missing(case: &Eval, seen: &BTreeSet<&Labels>) -> Check {
    match case.expected.keys().find(|labels| !seen.contains(labels)) {
        Some(labels) => Err(format!("missing series {labels:?} = {:?}", case.expected[labels].1)),
        None => Ok(()),
    }
}

fn check_sorted(series: &[RangeSeries]) -> Check {
    match series.windows(2).find(|pair| pair[0].labels > pair[1].labels) {
        Some(pair) => Err(format!("{:?} stands after {:?}", pair[1].labels, pair[0].labels)),
        None => Ok(()),
    }
}

fn check_matrix(case: &Eval, series: &[RangeSeries]) -> Check {
    if case.scalar.is_some() || case.ordered() {
        return Err("expected no matrix".into());
    }
    check_sorted(series)?;
    let mut seen = BTreeSet::new();
    for row in series {
        let what = format!("{:?}", row.labels);
        let Some((_, items)) = case.expected.get(&row.labels) else {
            return Err(format!("unexpected series {what}: {:?}", row.floats));
        };
        if !seen.insert(&row.labels) {
            return Err(format!("series {what} is there twice"));
        }
        check_row(case, row, items, &what)?;
    }
    check_missing(case, &seen)
}

fn check_row(case: &Eval, row: &RangeSeries, items: &[Item], what: &str) -> Check {
    let mut got: Vec<(i64, SampleValue)> =
        row.floats.iter().map(|(t, v)| (*t, SampleValue::Float(*v))).collect();
    got.extend(row.histograms.iter().map(|(t, h)| (*t, SampleValue::Histogram(h.clone()))));
    got.sort_by_key(|(t, _)| *t);
    let times = (0..).map(|i| case.start + i * case.step);
    let want: Vec<(i64, &Item)> = times.zip(items).filter(|(_, item)| **item != Item::Omitted).collect();
    let same_times = want.len() == got.len() && want.iter().zip(&got).all(|(a, b)| a.0 == b.0);
    if !same_times {
        return Err(format!("{what}: expected {want:?}, got {got:?}"));
    }
    for ((t, item), (_, value)) in want.iter().zip(&got) {
        check_value(item, value, &format!("{what} at {t} ms"))?;
    }
    Ok(())
}

/// Compares the point at the case's time of a range result with what the instant query must give.
pub(crate) fn check_middle(case: &Eval, value: &Value, at: i64, was_scalar: bool) -> Check {
    let Value::Matrix(series) = value else { return Err("a range query must give a matrix".into()) };
    if case.ordered() {
        return Ok(());
    }
    check_sorted(series)?;
    let mut samples = Vec::new();
    for row in series {
        let floats = row.floats.iter().map(|(t, v)| (*t, SampleValue::Float(*v)));
        let histograms = row.histograms.iter().map(|(t, h)| (*t, SampleValue::Histogram(h.clone())));
        let at = floats.chain(histograms).filter(|(t, _)| *t == at);
        samples.extend(at.map(|(ts_ms, value)| InstantSample { labels: row.labels.clone(), ts_ms, value }));
    }
    if !was_scalar {
        return check_vector(case, &samples, false);
    }
    match samples.first().map(|sample| &sample.value) {
        Some(SampleValue::Float(value)) => check_scalar(case, *value),
        other => Err(format!("expected a scalar in the range result, got {other:?}")),
    }
}

/// Compares warnings and infos.
pub(crate) fn check_annotations(case: &Eval, output: &QueryOutput) -> Check {
    for (kind, got) in [("warn", &output.warnings), ("info", &output.infos)] {
        if case.legacy == kind && got.is_empty() {
            return Err(format!("expected an annotation of kind {kind}"));
        }
        if case.expects.contains_key(&format!("no_{kind}")) && !got.is_empty() {
            return Err(format!("unexpected annotations {got:?}"));
        }
        let Some(want) = case.expects.get(kind) else { continue };
        if let Some(missing) = want.iter().find(|pattern| !got.iter().any(|text| pattern.matches(text))) {
            return Err(format!("no annotation matches {missing:?}; got {got:?}"));
        }
        if let Some(text) = got.iter().find(|text| !want.iter().any(|pattern| pattern.matches(text))) {
            return Err(format!("unexpected annotation {text:?}"));
        }
    }
    Ok(())
}

/// Compares the text of an error.
pub(crate) fn check_failure(case: &Eval, message: &str) -> Check {
    if !case.fails() {
        return Err(format!("failed: {message}"));
    }
    match case.expects.get("fail").and_then(|patterns| patterns.first()) {
        Some(pattern) if !pattern.matches(message) => {
            Err(format!("expected error {pattern:?}, got {message:?}"))
        }
        _ => Ok(()),
    }
}
