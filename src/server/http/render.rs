//! Query results as JSON.
//!
//! Knows the engine's values and Prometheus' form of them.
//! Source: Prometheus `web/api/v1`: `QueryData`, `json_codec.go`; `util/stats`.

use super::float::push_u64;
use super::float::{push_float, push_timestamp};
use super::json::{
    push_array, push_histogram, push_histogram_point, push_labels, push_point, push_quoted_float, push_string,
};
use super::reply::charge;
use quorate_model::{BucketCounts, Histogram, Labels};
use quorate_promql::engine::{
    InstantSample, QueryError, QueryGuard, QueryStats, RangeSeries, SampleValue, Value,
};
use quorate_query::Timings;

/// About what one point takes as text.
const POINT_BYTES: usize = 40;
/// About what one bucket of a histogram takes as text.
const BUCKET_BYTES: usize = 80;

/// Statistics to be shown with a result.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// What the query cost.
    pub figures: &'a QueryStats,
    /// How long it took.
    pub timings: Timings,
    /// First time and step, milliseconds, if the figures of each step are wanted.
    pub steps: Option<(i64, i64)>,
}

/// Appends the `data` of a query's answer, with statistics if they are given.
///
/// # Errors
/// The objection of `guard`, which is charged before each series is written.
pub fn push_result(
    out: &mut Vec<u8>,
    value: &Value,
    shown: Option<Shown<'_>>,
    guard: &dyn QueryGuard,
) -> Result<(), QueryError> {
    let kind = match value {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        Value::Matrix(_) => "matrix",
    };
    out.extend_from_slice(b"{\"resultType\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"result\":");
    let mut charged = Ok(());
    match value {
        Value::Scalar { ts_ms, value } => push_point(out, *ts_ms, *value),
        Value::String { ts_ms, value } => {
            out.push(b'[');
            push_timestamp(out, *ts_ms);
            out.push(b',');
            push_string(out, value);
            out.push(b']');
        }
        Value::Vector(samples) => push_array(out, samples, |out, sample| {
            if charged.is_ok() {
                charged = charge(guard, instant_bytes(sample)).map(|()| push_instant(out, sample));
            }
        }),
        Value::Matrix(series) => push_array(out, series, |out, series| {
            if charged.is_ok() {
                charged = charge(guard, series_bytes(series)).map(|()| push_series(out, series));
            }
        }),
    }
    charged?;
    if let Some(shown) = shown {
        push_stats(out, shown);
    }
    out.push(b'}');
    Ok(())
}

fn instant_bytes(sample: &InstantSample) -> usize {
    let value = match &sample.value {
        SampleValue::Float(_) => POINT_BYTES,
        SampleValue::Histogram(histogram) => histogram_bytes(histogram),
    };
    labels_bytes(&sample.labels) + value
}

fn series_bytes(series: &RangeSeries) -> usize {
    let histograms = series.histograms.iter().map(|(_, histogram)| histogram_bytes(histogram));
    labels_bytes(&series.labels) + series.floats.len() * POINT_BYTES + histograms.sum::<usize>()
}

fn histogram_bytes(histogram: &Histogram) -> usize {
    let buckets = match &histogram.counts {
        BucketCounts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        BucketCounts::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    (buckets + 2) * BUCKET_BYTES
}

/// About what a label set takes as text.
pub fn labels_bytes(labels: &Labels) -> usize {
    labels.as_packed().len() + 6 * labels.len() + 16
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

fn push_stats(out: &mut Vec<u8>, shown: Shown<'_>) {
    let Shown { figures, timings, steps } = shown;
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
    if let Some((first_ms, step_ms)) = steps {
        out.extend_from_slice(b",\"totalQueryableSamplesPerStep\":");
        let times = (0..).map(|nth| first_ms + nth * step_ms);
        push_array(out, times.zip(&figures.total_samples_per_step), |out, (ts_ms, samples)| {
            out.push(b'[');
            push_timestamp(out, ts_ms);
            out.push(b',');
            push_u64(out, *samples);
            out.push(b']');
        });
    }
    out.extend_from_slice(b"}}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_promql::engine::NoGuard;
    use std::time::Duration;

    #[track_caller]
    fn check(value: &Value, expected: &str) {
        let mut out = Vec::new();
        push_result(&mut out, value, None, &NoGuard).unwrap();
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
        for steps in [Some((1_500, 30_000)), None] {
            let mut out = Vec::new();
            let shown = Shown { figures: &figures, timings, steps };
            push_result(&mut out, &Value::Vector(Vec::new()), Some(shown), &NoGuard).unwrap();
            let tree: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let samples = &tree["stats"]["samples"];
            assert_eq!(samples["totalQueryableSamples"], 3);
            let expected = steps.map(|_| serde_json::json!([[1.5, 1], [31.5, 2]]));
            assert_eq!(samples.get("totalQueryableSamplesPerStep"), expected.as_ref());
        }
    }

    /// Has so many bytes left.
    struct Purse(std::sync::atomic::AtomicU64);

    impl QueryGuard for Purse {
        fn check(&self) -> Result<(), QueryError> {
            Ok(())
        }

        fn charge(&self, bytes: u64) -> Result<(), QueryError> {
            let take = |left: u64| left.checked_sub(bytes);
            let order = std::sync::atomic::Ordering::Relaxed;
            self.0.try_update(order, order, take).map(drop).map_err(|_| QueryError::Budget("empty".into()))
        }

        fn release(&self, _bytes: u64) {}
    }

    #[test]
    fn what_is_written_was_charged_before() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "a\"b")]);
        let floats: Vec<_> = (0..1_000).map(|n| (1_700_000_000_123 + n, -1.0 / 3.0)).collect();
        let series = RangeSeries { labels, floats, histograms: Vec::new() };
        let value = Value::Matrix(vec![series.clone(), series]);
        let write = |purse: u64| {
            let mut out = Vec::new();
            push_result(&mut out, &value, None, &Purse(purse.into())).map(|()| out.len() as u64)
        };
        let length = write(u64::MAX).unwrap();
        assert!(write(length).is_err(), "a buffer that doubles takes more than its content");
        assert_eq!(write(4 * length).unwrap(), length);
    }
}
