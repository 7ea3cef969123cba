//! Query results as JSON.
//!
//! Knows the engine's values and Prometheus' form of them.
//! Source: Prometheus `web/api/v1`: `QueryData`, `json_codec.go`; `util/stats`.

use super::float::push_u64;
use super::float::{push_float, push_timestamp};
use super::json::{
    push_array, push_histogram, push_histogram_point, push_labels, push_point, push_quoted_float, push_string,
};
use quorate_promql::engine::{InstantSample, QueryStats, RangeSeries, SampleValue, Value};
use std::time::Duration;

/// How long a query waited and ran.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Waiting for a free place.
    pub queued: Duration,
    /// Running.
    pub executed: Duration,
}

/// Appends the `data` of a query's answer; with statistics if they are asked for, per step if `true`.
pub fn push_result(out: &mut Vec<u8>, value: &Value, stats: Option<(bool, &QueryStats, Timings)>) {
    let kind = match value {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        Value::Matrix(_) => "matrix",
    };
    out.extend_from_slice(b"{\"resultType\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"result\":");
    match value {
        Value::Scalar { ts_ms, value } => push_point(out, *ts_ms, *value),
        Value::String { ts_ms, value } => {
            out.push(b'[');
            push_timestamp(out, *ts_ms);
            out.push(b',');
            push_string(out, value);
            out.push(b']');
        }
        Value::Vector(samples) => push_array(out, samples, push_instant),
        Value::Matrix(series) => push_array(out, series, push_series),
    }
    if let Some((per_step, figures, timings)) = stats {
        push_stats(out, per_step, figures, timings);
    }
    out.push(b'}');
}

fn push_instant(out: &mut Vec<u8>, sample: &InstantSample) {
    out.extend_from_slice(b"{\"metric\":");
    push_labels(out, &sample.labels);
    match &sample.value {
        SampleValue::Float(value) => {
            out.extend_from_slice(b",\"value\":[");
            push_timestamp(out, sample.ts_ms);
            out.push(b',');
            push_quoted_float(out, *value);
        }
        SampleValue::Histogram(histogram) => {
            out.extend_from_slice(b",\"histogram\":[");
            push_timestamp(out, sample.ts_ms);
            out.push(b',');
            push_histogram(out, histogram);
        }
    }
    out.extend_from_slice(b"]}");
}

fn push_series(out: &mut Vec<u8>, series: &RangeSeries) {
    out.extend_from_slice(b"{\"metric\":");
    push_labels(out, &series.labels);
    if !series.floats.is_empty() || series.histograms.is_empty() {
        out.extend_from_slice(b",\"values\":");
        push_array(out, &series.floats, |out, (ts_ms, value)| push_point(out, *ts_ms, *value));
    }
    if !series.histograms.is_empty() {
        out.extend_from_slice(b",\"histograms\":");
        push_array(out, &series.histograms, |out, (ts_ms, value)| push_histogram_point(out, *ts_ms, value));
    }
    out.push(b'}');
}

fn push_stats(out: &mut Vec<u8>, per_step: bool, figures: &QueryStats, timings: Timings) {
    out.extend_from_slice(b",\"stats\":{\"timings\":{");
    let (run, queued) = (timings.executed.as_secs_f64(), timings.queued.as_secs_f64());
    let parts = [
        ("evalTotalTime", run + queued),
        ("resultSortTime", 0.0),
        ("queryPreparationTime", 0.0),
        ("innerEvalTime", run),
        ("execQueueTime", queued),
        ("execTotalTime", run + queued),
    ];
    for (at, (name, seconds)) in parts.into_iter().enumerate() {
        out.extend_from_slice(format!("{}\"{name}\":", if at > 0 { "," } else { "" }).as_bytes());
        push_float(out, seconds);
    }
    out.extend_from_slice(b"},\"samples\":{\"totalQueryableSamples\":");
    push_u64(out, figures.total_samples);
    out.extend_from_slice(b",\"peakSamples\":");
    push_u64(out, figures.peak_samples);
    out.extend_from_slice(b",\"samplesRead\":");
    push_u64(out, figures.samples_read);
    if per_step {
        out.extend_from_slice(b",\"totalQueryableSamplesPerStep\":");
        push_array(out, &figures.total_samples_per_step, |out, samples| push_u64(out, *samples));
    }
    out.extend_from_slice(b"}}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::Labels;

    #[track_caller]
    fn check(value: &Value, expected: &str) {
        let mut out = Vec::new();
        push_result(&mut out, value, None);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn every_type_has_its_form() {
        let labels = Labels::from_pairs([("__name__", "up")]);
        check(
            &Value::Scalar { ts_ms: 1_500, value: f64::INFINITY },
            r#"{"resultType":"scalar","result":[1.500,"+Inf"]}"#,
        );
        check(
            &Value::String { ts_ms: 0, value: "a\"".into() },
            r#"{"resultType":"string","result":[0,"a\""]}"#,
        );
        let sample = InstantSample { labels: labels.clone(), ts_ms: 1_000, value: SampleValue::Float(0.5) };
        check(
            &Value::Vector(vec![sample]),
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up"},"value":[1,"0.5"]}]}"#,
        );
        let series = RangeSeries { labels, floats: vec![(1_000, 1.0), (2_000, 2.0)], histograms: Vec::new() };
        check(
            &Value::Matrix(vec![series]),
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[1,"1"],[2,"2"]]}]}"#,
        );
        check(&Value::Vector(Vec::new()), r#"{"resultType":"vector","result":[]}"#);
    }

    #[test]
    fn statistics_are_shown_per_step_only_on_demand() {
        let figures =
            QueryStats { total_samples: 3, total_samples_per_step: vec![1, 2], ..QueryStats::default() };
        let timings = Timings { queued: Duration::ZERO, executed: Duration::from_millis(5) };
        for (per_step, expected) in [(true, true), (false, false)] {
            let mut out = Vec::new();
            push_result(&mut out, &Value::Vector(Vec::new()), Some((per_step, &figures, timings)));
            let tree: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let samples = &tree["stats"]["samples"];
            assert_eq!(samples["totalQueryableSamples"], 3);
            assert_eq!(samples.get("totalQueryableSamplesPerStep").is_some(), expected);
        }
    }
}
