//! What messages become, read back by the parser that stands behind. Expectations are written from the rules.

mod encodings;
mod points;
mod resources;

use super::super::{Hashing, LabelBounds, LabelPairs, ParsedRequest, Protocol, parse};
use super::*;
use crate::in_flight::Held;
use quorate_model::{METRIC_NAME, is_stale};

const LIMITS: Limits = Limits { body_bytes: 1 << 20, translated_bytes: 4 << 20 };
const BOUNDS: LabelBounds = LabelBounds { names: 100, name_bytes: 1024, value_bytes: 2048, bytes: 1 << 20 };

fn from_json(text: &str, settings: &OtlpSettings) -> Translated {
    translate(Encoding::Json, text.as_bytes(), settings, None, LIMITS).unwrap()
}

fn parsed(body: &[u8]) -> ParsedRequest {
    let mut request = ParsedRequest::default();
    let hashing = Hashing::new(3);
    parse(Protocol::RemoteWrite2, body, &hashing, 32 << 20, Held::unbounded(), &mut request).unwrap();
    request
}

/// Name and labels of each series.
fn names(body: &[u8], request: &ParsedRequest) -> Vec<String> {
    let mut pairs = LabelPairs::default();
    let mut name_of = |index: usize| {
        assert_eq!(request.series[index].fault, None);
        pairs.split(body, request, index, &BOUNDS).unwrap();
        let name = pairs.iter().find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value);
        let labels: Vec<_> = pairs.iter().filter(|(name, _)| *name != METRIC_NAME).collect();
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{name}{{{}}}", labels.join(", "))
    };
    (0..request.series.len()).map(&mut name_of).collect()
}

/// The float samples of a body: `name{label=value} 1.5 @5 from 2`.
fn samples(body: &[u8]) -> Vec<String> {
    let request = parsed(body);
    let mut lines = Vec::new();
    for (index, name) in names(body, &request).into_iter().enumerate() {
        for at in request.samples_of(index) {
            let value = request.values[at];
            let value = if is_stale(value) { "stale".to_owned() } else { value.to_string() };
            let start = request.starts.get(at).copied().unwrap_or(0);
            let start = if start == 0 { String::new() } else { format!(" from {start}") };
            lines.push(format!("{name} {value} @{}{start}", request.ts_ms[at]));
        }
    }
    lines
}

/// Metadata of a body: `name type help unit`.
fn metadata(body: &[u8]) -> Vec<String> {
    let text = |place: &std::ops::Range<usize>| String::from_utf8(body[place.clone()].to_vec()).unwrap();
    let line = |told: &super::super::ParsedMetadata| {
        let name = told.metric_type.name();
        format!("{} {name} {:?} {}", text(&told.family), text(&told.help), text(&told.unit))
    };
    parsed(body).metadata.iter().map(line).collect()
}

/// A message of one resource without attributes and one scope.
fn of_metrics(metrics: &str) -> String {
    format!(r#"{{"resourceMetrics": [{{"scopeMetrics": [{{"metrics": [{metrics}]}}]}}]}}"#)
}

/// A message of one resource with `attributes` and one gauge `g`, 1 at 5 ms.
fn of_resource(attributes: &str) -> String {
    format!(
        r#"{{"resourceMetrics": [{{"resource": {{"attributes": [{attributes}]}}, "scopeMetrics": [{{"metrics": [
        {{"name": "g", "gauge": {{"dataPoints": [{{"timeUnixNano": "5000000", "asDouble": 1}}]}}}}]}}]}}]}}"#
    )
}

/// String attributes, as JSON.
fn attributes(pairs: &[(&str, &str)]) -> String {
    let one =
        |(key, value): &(&str, &str)| format!(r#"{{"key": {key:?}, "value": {{"stringValue": {value:?}}}}}"#);
    pairs.iter().map(one).collect::<Vec<_>>().join(",")
}

#[track_caller]
fn check_samples(message: &str, settings: &OtlpSettings, expected: &[&str]) {
    let translated = from_json(message, settings);
    assert_eq!(translated.dropped, Dropped::default());
    let told = translated.bodies.first().map(|body| samples(&body.body)).unwrap_or_default();
    assert_eq!(told, expected);
    assert_eq!(translated.bodies.first().map_or(0, |body| body.samples), expected.len() as u64);
}

#[track_caller]
fn check_dropped(message: &str, settings: &OtlpSettings, points: u64, reason: &str, kept: &[&str]) {
    let translated = from_json(message, settings);
    assert_eq!((translated.dropped.points, translated.dropped.first.as_deref()), (points, Some(reason)));
    let told = translated.bodies.first().map(|body| samples(&body.body)).unwrap_or_default();
    assert_eq!(told, kept);
}
