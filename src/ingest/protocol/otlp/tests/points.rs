//! Each kind of metric.

use super::*;
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Span};

const TIMES: &str = r#""startTimeUnixNano": "2000000", "timeUnixNano": "5999999""#;

fn metric(name: &str, unit: &str, data: &str) -> String {
    of_metrics(&format!(r#"{{"name": {name:?}, "unit": {unit:?}, "description": "what", {data}}}"#))
}

fn sum(temporality: u64, is_monotonic: bool, point: &str) -> String {
    let data = format!(
        r#""sum": {{"aggregationTemporality": {temporality}, "isMonotonic": {is_monotonic},
        "dataPoints": [{{{TIMES}, {point}}}]}}"#
    );
    metric("jobs", "", &data)
}

fn histogram(point: &str) -> String {
    let data =
        format!(r#""histogram": {{"aggregationTemporality": 2, "dataPoints": [{{{TIMES}, {point}}}]}}"#);
    metric("d", "s", &data)
}

fn exponential(temporality: u64, point: &str) -> String {
    let data = format!(
        r#""exponentialHistogram": {{"aggregationTemporality": {temporality},
        "dataPoints": [{{{TIMES}, {point}}}]}}"#
    );
    metric("d", "s", &data)
}

#[track_caller]
fn native(message: &str, settings: &OtlpSettings) -> Histogram {
    let translated = from_json(message, settings);
    assert_eq!(translated.dropped, Dropped::default());
    let body = &translated.bodies[0].body;
    let request = parsed(body);
    assert_eq!(names(body, &request), ["d_seconds{}"]);
    let told = &request.histograms[0];
    assert_eq!((told.ts_ms, told.start_ms), (5, 2));
    told.value.clone().unwrap()
}

fn nhcb() -> OtlpSettings {
    OtlpSettings { convert_histograms_to_nhcb: true, ..OtlpSettings::default() }
}

fn storing_deltas() -> OtlpSettings {
    OtlpSettings { delta: Delta::Store, ..nhcb() }
}

#[test]
fn gauges_of_integers_and_doubles_with_attributes_of_every_type() {
    let points = r#"
        {"timeUnixNano": 5000000, "asInt": "-7"},
        {"timeUnixNano": "6000000", "startTimeUnixNano": "1000000", "asDouble": 0.5, "attributes": [
            {"key": "text", "value": {"stringValue": "a b"}}, {"key": "b", "value": {"boolValue": true}},
            {"key": "i", "value": {"intValue": "12"}}, {"key": "d", "value": {"doubleValue": 1e21}},
            {"key": "f", "value": {"doubleValue": 100}}, {"key": "empty", "value": {"stringValue": ""}},
            {"key": "none", "value": {}}, {"key": "bytes", "value": {"bytesValue": "AQL/"}},
            {"key": "list", "value": {"arrayValue": {"values": [{"intValue": 1}, {"stringValue": "<x>"}, {}]}}},
            {"key": "map", "value": {"kvlistValue": {"values": [
                {"key": "z", "value": {"doubleValue": 1.5}}, {"key": "a", "value": {"boolValue": false}}]}}},
            {"key": "__name__", "value": {"stringValue": "no"}}]},
        {"timeUnixNano": "7000000", "flags": 1}"#;
    let message = metric("temp", "Cel", &format!(r#""gauge": {{"dataPoints": [{points}]}}"#));
    check_samples(
        &message,
        &OtlpSettings::default(),
        &[
            "temp_celsius{} -7 @5",
            "temp_celsius{b=true, bytes=AQL/, d=1e+21, f=100, i=12, list=[1,\"\\u003cx\\u003e\",null], \
         map={\"a\":false,\"z\":1.5}, text=a b} 0.5 @6 from 1",
            "temp_celsius{} stale @7",
        ],
    );
    let translated = from_json(&message, &OtlpSettings::default());
    assert_eq!(translated.points, 3);
    assert_eq!(metadata(&translated.bodies[0].body), ["temp_celsius gauge \"what\" celsius"]);
}

#[test]
fn sums_are_counters_if_they_only_grow() {
    let settings = OtlpSettings::default();
    let monotonic = sum(2, true, r#""asInt": "3""#);
    check_samples(&monotonic, &settings, &["jobs_total{} 3 @5 from 2"]);
    let body = from_json(&monotonic, &settings).bodies.remove(0).body;
    assert_eq!(metadata(&body), ["jobs_total counter \"what\" "]);
    let other = sum(2, false, r#""asDouble": -1.5"#);
    check_samples(&other, &settings, &["jobs{} -1.5 @5 from 2"]);
    let body = from_json(&other, &settings).bodies.remove(0).body;
    assert_eq!(metadata(&body), ["jobs gauge \"what\" "]);
}

#[test]
fn deltas_are_refused_or_stored_as_they_come() {
    let delta = sum(1, true, r#""asInt": "3""#);
    let refused = "metric \"jobs\": delta temporality is not accepted";
    check_dropped(&delta, &OtlpSettings::default(), 1, refused, &[]);
    check_samples(&delta, &storing_deltas(), &["jobs_total{} 3 @5 from 2"]);
    let body = from_json(&delta, &storing_deltas()).bodies.remove(0).body;
    assert_eq!(metadata(&body), ["jobs_total unknown \"what\" "]);
    let native = native(&exponential(1, r#""count": 1, "zeroCount": 1"#), &storing_deltas());
    assert_eq!(native.reset_hint, CounterResetHint::Gauge);
}

#[test]
fn a_temporality_that_is_not_told_is_refused() {
    for settings in [OtlpSettings::default(), storing_deltas()] {
        let reason = "metric \"jobs\": the aggregation temporality is not set";
        check_dropped(&sum(0, true, r#""asInt": 3"#), &settings, 1, reason, &[]);
        check_dropped(&sum(9, true, r#""asInt": 3"#), &settings, 1, reason, &[]);
    }
}

#[test]
fn points_without_time_or_value_are_dropped_and_the_others_stand() {
    let points = r#"{"asInt": "1"}, {"timeUnixNano": "5000000"}, {"timeUnixNano": "5000000", "asInt": "2"}"#;
    let message = metric("g", "", &format!(r#""gauge": {{"dataPoints": [{points}]}}"#));
    let reason = "metric \"g\": the data point has no time";
    check_dropped(&message, &OtlpSettings::default(), 2, reason, &["g{} 2 @5"]);
    let message = metric("g", "", r#""gauge": {"dataPoints": [{"timeUnixNano": "5000000"}]}"#);
    let reason = "metric \"g\": the data point has no value";
    check_dropped(&message, &OtlpSettings::default(), 1, reason, &[]);
}

#[test]
fn names_that_cannot_be_translated_cost_their_points_alone() {
    let message = of_metrics(
        r#"{"name": "@", "gauge": {"dataPoints": [{"timeUnixNano": "5000000", "asInt": "2"}]}},
           {"name": "g", "gauge": {"dataPoints": [
               {"timeUnixNano": "5000000", "asInt": "2", "attributes": [{"key": ""}]},
               {"timeUnixNano": "5000000", "asInt": "3"}]}}"#,
    );
    let reason = "metric \"@\": no metric name can be made of its name";
    check_dropped(&message, &OtlpSettings::default(), 2, reason, &["g{} 3 @5"]);
}

#[test]
fn explicit_histograms_become_classic_series() {
    let message = histogram(
        r#""count": "6", "sum": 3.25, "bucketCounts": ["1", "2", "3"],
        "explicitBounds": [0.5, 10], "attributes": [{"key": "le", "value": {"stringValue": "mine"}}]"#,
    );
    check_samples(
        &message,
        &OtlpSettings::default(),
        &[
            "d_seconds_sum{le=mine} 3.25 @5 from 2",
            "d_seconds_count{le=mine} 6 @5 from 2",
            "d_seconds_bucket{le=0.5} 1 @5 from 2",
            "d_seconds_bucket{le=10} 3 @5 from 2",
            "d_seconds_bucket{le=+Inf} 6 @5 from 2",
        ],
    );
    let body = from_json(&message, &OtlpSettings::default()).bodies.remove(0).body;
    assert!(metadata(&body).contains(&"d_seconds_bucket histogram \"what\" seconds".to_owned()));
    let stale = histogram(r#""flags": 1, "bucketCounts": ["0", "0"], "explicitBounds": [1]"#);
    check_samples(
        &stale,
        &OtlpSettings::default(),
        &[
            "d_seconds_count{} stale @5 from 2",
            "d_seconds_bucket{le=1} stale @5 from 2",
            "d_seconds_bucket{le=+Inf} stale @5 from 2",
        ],
    );
}

#[test]
fn explicit_histograms_become_custom_buckets_if_asked() {
    let message = histogram(
        r#""count": "6", "sum": 3.25, "bucketCounts": ["0", "2", "4"], "explicitBounds": [0.5, 10]"#,
    );
    let told = native(&message, &nhcb());
    assert_eq!((told.schema, told.sum, &told.custom_values[..]), (-53, 3.25, &[0.5, 10.0][..]));
    assert_eq!(told.positive_spans, [Span { offset: 1, length: 2 }]);
    let counts = BucketCounts::Integer { count: 6, zero_count: 0, positive: vec![2, 2], negative: vec![] };
    assert_eq!(told.counts, counts);

    let only_count = native(&histogram(r#""count": "6""#), &nhcb());
    assert_eq!(only_count.positive_spans, [Span { offset: 0, length: 1 }]);
    let stale = native(&histogram(r#""flags": 1, "explicitBounds": [1]"#), &nhcb());
    assert!(stale.is_stale() && stale.positive_spans.is_empty());
    let wrong = histogram(r#""count": "1", "bucketCounts": ["1"], "explicitBounds": [1]"#);
    let reason = "metric \"d\": the histogram has 1 bucket counts and 1 bounds, which needs one count more than bounds";
    check_dropped(&wrong, &nhcb(), 1, reason, &[]);
}

#[test]
fn exponential_histograms_become_native_ones() {
    let message = exponential(
        2,
        r#""count": "12", "sum": 4, "scale": 2, "zeroCount": "1", "zeroThreshold": 0.25,
        "positive": {"offset": -3, "bucketCounts": ["1", "0", "0", "0", "5"]},
        "negative": {"offset": 4, "bucketCounts": ["2", "3"]}"#,
    );
    let told = native(&message, &OtlpSettings::default());
    assert_eq!((told.schema, told.sum, told.zero_threshold), (2, 4.0, 0.25));
    assert_eq!(told.reset_hint, CounterResetHint::Unknown);
    // Bucket -3 of OTLP is bucket -2 of Prometheus.
    assert_eq!(told.positive_spans, [Span { offset: -2, length: 1 }, Span { offset: 3, length: 1 }]);
    assert_eq!(told.negative_spans, [Span { offset: 5, length: 2 }]);
    let counts =
        BucketCounts::Integer { count: 12, zero_count: 1, positive: vec![1, 4], negative: vec![2, 1] };
    assert_eq!(told.counts, counts);
}

#[test]
fn scales_over_8_are_merged_and_below_minus_4_dropped() {
    // Two scales down: buckets -5 to 3 fall into -2 to 0, in fours from -8, -4 and 0.
    let message = exponential(
        2,
        r#""count": "45", "scale": 10,
        "positive": {"offset": -5, "bucketCounts": ["1", "2", "3", "4", "5", "6", "7", "8", "9"]}"#,
    );
    let told = native(&message, &OtlpSettings::default());
    assert_eq!((told.schema, told.zero_threshold), (8, 1e-128));
    assert_eq!(told.positive_spans, [Span { offset: -1, length: 3 }]);
    let positive = vec![1, 13, 16];
    assert_eq!(told.counts, BucketCounts::Integer { count: 45, zero_count: 0, positive, negative: vec![] });

    let highest = native(
        &exponential(
            2,
            r#""count": "3", "scale": 2147483647,
        "positive": {"offset": -1, "bucketCounts": ["1", "2"]}"#,
        ),
        &OtlpSettings::default(),
    );
    assert_eq!(highest.positive_spans, [Span { offset: 0, length: 2 }]);
    assert_eq!(native(&exponential(2, r#""scale": -4"#), &OtlpSettings::default()).schema, -4);
    let low = exponential(2, r#""scale": -5"#);
    let reason = "metric \"d\": the scale -5 of the exponential histogram is below -4";
    check_dropped(&low, &OtlpSettings::default(), 1, reason, &[]);
    let far = exponential(2, r#""count": "1", "positive": {"offset": 2147483647, "bucketCounts": ["1"]}"#);
    let reason = "metric \"d\": the bucket indexes of the exponential histogram do not fit 32 bits";
    check_dropped(&far, &OtlpSettings::default(), 1, reason, &[]);
}

#[test]
fn a_stale_exponential_histogram_keeps_nothing_but_the_marker() {
    let message = exponential(
        2,
        r#""flags": 1, "count": "3", "zeroCount": "2",
        "positive": {"bucketCounts": ["1"]}"#,
    );
    let told = native(&message, &OtlpSettings::default());
    assert!(told.is_stale() && told.positive_spans.is_empty());
}

#[test]
fn summaries_become_quantiles_sum_and_count() {
    let data = format!(
        r#""summary": {{"dataPoints": [{{{TIMES}, "count": "4", "sum": 2.5, "quantileValues": [
        {{"quantile": 0.5, "value": 1}}, {{"quantile": 1, "value": "NaN"}}]}}]}}"#
    );
    let message = metric("d", "s", &data);
    check_samples(
        &message,
        &OtlpSettings::default(),
        &[
            "d_seconds_sum{} 2.5 @5 from 2",
            "d_seconds_count{} 4 @5 from 2",
            "d_seconds{quantile=0.5} 1 @5 from 2",
            "d_seconds{quantile=1} NaN @5 from 2",
        ],
    );
    let body = from_json(&message, &OtlpSettings::default()).bodies.remove(0).body;
    assert_eq!(metadata(&body)[2], "d_seconds summary \"what\" seconds");
}

#[test]
fn exemplars_stand_at_the_series_of_their_bucket() {
    let exemplar = |value: f64| {
        format!(
            r#"{{"timeUnixNano": "4000000", "asDouble": {value}, "traceId": "000102030405060708090a0b0c0d0e0f",
            "spanId": "0001020304050607"}}"#
        )
    };
    let exemplars = [exemplar(20.0), exemplar(0.5), exemplar(0.25), exemplar(5.0)].join(",");
    let message = histogram(&format!(
        r#""count": "4", "bucketCounts": ["2", "1", "1"], "explicitBounds": [0.5, 10], "exemplars": [{exemplars}]"#
    ));
    let body = from_json(&message, &OtlpSettings::default()).bodies.remove(0).body;
    assert_eq!(exemplars_of(&body), [0, 2, 1, 1]);
    let body = from_json(&message, &nhcb()).bodies.remove(0).body;
    assert_eq!(exemplars_of(&body), [4]);
}

/// How many exemplars each series has, counted in the bytes.
fn exemplars_of(body: &[u8]) -> Vec<usize> {
    let mut counts = Vec::new();
    let mut fields = fields::Fields::new(body);
    while let Some((number, value)) = fields.next().unwrap() {
        if number == 5 {
            let mut series = fields::Fields::new(value.bytes().unwrap());
            let mut count = 0;
            while let Some((number, _)) = series.next().unwrap() {
                count += usize::from(number == 4);
            }
            counts.push(count);
        }
    }
    counts
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn attributes_of_an_exemplar_are_kept_up_to_128_characters() {
    let with = |value: &str| {
        let attributes = attributes(&[("k.v", value)]);
        let exemplar = format!(
            r#"{{"asInt": "1", "traceId": "000102030405060708090A0B0C0D0E0F", "spanId": "0001020304050607",
            "filteredAttributes": [{attributes}]}}"#
        );
        from_json(
            &sum(2, true, &format!(r#""asInt": 1, "exemplars": [{exemplar}]"#)),
            &OtlpSettings::default(),
        )
    };
    // The ids take 8 + 32 and 7 + 16 characters, the key 3.
    let fits = "é".repeat(128 - 63 - 3);
    let body = with(&fits).bodies.remove(0).body;
    assert!(holds(&body, &fits) && holds(&body, "k.v") && holds(&body, "000102030405060708090a0b0c0d0e0f"));
    let long = "é".repeat(128 - 63 - 2);
    let translated = with(&long);
    let body = &translated.bodies[0].body;
    assert!(!holds(body, &long) && holds(body, "0001020304050607"));
    assert_eq!(parsed(body).exemplars, 1);
    assert_eq!(translated.dropped, Dropped::default());
}

#[test]
fn exemplars_that_cannot_be_stored_are_counted_and_gauges_have_none() {
    let exemplars =
        r#""exemplars": [{"timeUnixNano": "1"}, {"asInt": "1", "traceId": "00"}, {"asInt": "1"}]"#;
    let translated =
        from_json(&sum(2, true, &format!(r#""asInt": 1, {exemplars}"#)), &OtlpSettings::default());
    assert_eq!((translated.dropped.exemplars, translated.dropped.points), (2, 0));
    assert_eq!(parsed(&translated.bodies[0].body).exemplars, 1);
    let gauge =
        metric("g", "", &format!(r#""gauge": {{"dataPoints": [{{{TIMES}, "asInt": 1, {exemplars}}}]}}"#));
    assert_eq!(parsed(&from_json(&gauge, &OtlpSettings::default()).bodies[0].body).exemplars, 0);
}

#[test]
fn type_and_unit_are_labels_if_asked() {
    let settings =
        OtlpSettings { type_and_unit_labels: true, delta: Delta::Store, ..OtlpSettings::default() };
    let gauge = metric("io", "By/s", &format!(r#""gauge": {{"dataPoints": [{{{TIMES}, "asInt": "1"}}]}}"#));
    let expected = "io_bytes_per_second{__type__=gauge, __unit__=bytes_per_second} 1 @5 from 2";
    check_samples(&gauge, &settings, &[expected]);
    check_samples(&sum(2, true, r#""asInt": "1""#), &settings, &["jobs_total{__type__=counter} 1 @5 from 2"]);
    check_samples(&sum(1, true, r#""asInt": "1""#), &settings, &["jobs_total{} 1 @5 from 2"]);
}

#[test]
fn names_follow_the_strategy() {
    let strategies = [
        (TranslationStrategy::UnderscoreEscapingWithSuffixes, "http_io_bytes_total{http_path=/}"),
        (TranslationStrategy::NoUTF8EscapingWithSuffixes, "http.io_bytes_total{http.path=/}"),
        (TranslationStrategy::UnderscoreEscapingWithoutSuffixes, "http_io{http_path=/}"),
        (TranslationStrategy::NoTranslation, "http.io{http.path=/}"),
    ];
    let attributes = attributes(&[("http.path", "/")]);
    let data = format!(
        r#""sum": {{"aggregationTemporality": "AGGREGATION_TEMPORALITY_CUMULATIVE", "isMonotonic": true,
        "dataPoints": [{{{TIMES}, "asInt": "1", "attributes": [{attributes}]}}]}}"#
    );
    for (translation_strategy, name) in strategies {
        let settings = OtlpSettings { translation_strategy, ..OtlpSettings::default() };
        check_samples(&metric("http.io", "By", &data), &settings, &[&format!("{name} 1 @5 from 2")]);
    }
}
