//! What is written is what `protocol::parse` reads.

use super::super::{Hashing, LabelBounds, LabelPairs, ParsedRequest, Protocol, parse};
use super::*;
use crate::in_flight::Held;
use proptest::prelude::*;
use quorate_model::{BucketCounts, Histogram, Span, stale_nan};

const BOUNDS: LabelBounds = LabelBounds { names: 30, name_bytes: 1024, value_bytes: 2048, bytes: 1 << 20 };

fn read(body: &[u8]) -> ParsedRequest {
    let mut request = ParsedRequest::default();
    let hashing = Hashing::new(7);
    parse(Protocol::RemoteWrite2, body, &hashing, 32 << 20, Held::unbounded(), &mut request).unwrap();
    request
}

fn labels_of(body: &[u8], request: &ParsedRequest, index: usize) -> Vec<(String, String)> {
    assert_eq!(request.series[index].fault, None);
    let mut pairs = LabelPairs::default();
    pairs.split(body, request, index, &BOUNDS).unwrap();
    pairs.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn pairs(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const NO_BUCKETS: DenseBuckets<'static> = DenseBuckets { first: 0, counts: &[] };

fn parts<'a>(schema: i8, positive: DenseBuckets<'a>, negative: DenseBuckets<'a>) -> HistogramParts<'a> {
    let counts = [positive.counts, negative.counts].concat();
    HistogramParts {
        ts_ms: 5,
        start_ms: 2,
        count: counts.iter().sum(),
        sum: 1.5,
        schema,
        zero_threshold: 0.0,
        zero_count: 0,
        positive,
        negative,
        custom_bounds: &[],
        reset_hint: CounterResetHint::Unknown,
    }
}

fn written(parts: &HistogramParts<'_>) -> Histogram {
    let mut body = Rw2Body::new(1 << 20);
    body.series(&[("__name__", "h")]).unwrap().histogram(parts).unwrap();
    let request = read(&body.finish());
    assert_eq!(request.series[0].fault, None);
    assert_eq!((request.histograms[0].ts_ms, request.histograms[0].start_ms), (parts.ts_ms, parts.start_ms));
    request.histograms[0].value.clone().unwrap()
}

#[test]
fn series_samples_starts_metadata_and_exemplars_are_read_back() {
    let mut body = Rw2Body::new(1 << 20);
    assert!(body.is_empty());
    let mut series = body.series(&[("job", "a"), ("__name__", "up"), ("gone", "")]).unwrap();
    series.sample(1_700_000_000_000, 1.5, 0).unwrap();
    series.sample(-3, stale_nan(), 0).unwrap();
    series.metadata(MetricType::Gauge, "whether it is up", "bytes").unwrap();
    let mut series = body.series(&[("__name__", "a_total"), ("job", "a")]).unwrap();
    series.sample(0, -0.0, 7).unwrap();
    series.exemplar(&[("trace_id", "00ff"), ("no", "")], 2.0, 9).unwrap();
    series.exemplar(&[("trace_id", &"x".repeat(129))], 2.0, 9).unwrap();
    assert_eq!(body.samples(), 3);

    let bytes = body.finish();
    let request = read(&bytes);
    assert_eq!(request.series.len(), 2);
    assert_eq!(labels_of(&bytes, &request, 0), pairs(&[("__name__", "up"), ("job", "a")]));
    assert_eq!(labels_of(&bytes, &request, 1), pairs(&[("__name__", "a_total"), ("job", "a")]));
    assert_eq!(request.samples_of(0), 0..2);
    assert_eq!(request.ts_ms, [1_700_000_000_000, -3, 0]);
    let bits: Vec<u64> = request.values.iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [1.5f64.to_bits(), stale_nan().to_bits(), (-0.0f64).to_bits()]);
    assert_eq!(request.starts, [0, 0, 7]);
    assert_eq!(request.exemplars, 2);
    assert_eq!(request.long_exemplars, [1]);
    let metadata = &request.metadata[0];
    assert_eq!(metadata.metric_type, MetricType::Gauge);
    assert_eq!(&bytes[metadata.family.clone()], b"up");
    assert_eq!(&bytes[metadata.help.clone()], b"whether it is up");
    assert_eq!(&bytes[metadata.unit.clone()], b"bytes");
}

#[test]
fn exponential_buckets_become_spans_that_end_at_long_gaps() {
    let positive = DenseBuckets { first: -3, counts: &[0, 4, 0, 0, 1, 0, 0, 0, 9, 2, 0] };
    let negative = DenseBuckets { first: 10, counts: &[3, 1] };
    let told = HistogramParts {
        count: 22,
        zero_threshold: 0.25,
        zero_count: 2,
        reset_hint: CounterResetHint::Gauge,
        ..parts(3, positive, negative)
    };
    let histogram = written(&told);
    assert_eq!((histogram.schema, histogram.zero_threshold, histogram.sum), (3, 0.25, 1.5));
    assert_eq!(histogram.reset_hint, CounterResetHint::Gauge);
    assert_eq!(histogram.positive_spans, [Span { offset: -2, length: 4 }, Span { offset: 3, length: 2 }]);
    assert_eq!(histogram.negative_spans, [Span { offset: 10, length: 2 }]);
    assert_eq!(
        histogram.counts,
        BucketCounts::Integer {
            count: 22,
            zero_count: 2,
            positive: vec![4, -4, 0, 1, 8, -7],
            negative: vec![3, -2],
        }
    );
}

#[test]
fn a_histogram_without_observations_and_a_stale_one_have_no_buckets() {
    let empty = written(&parts(0, DenseBuckets { first: 4, counts: &[0, 0, 0, 0] }, NO_BUCKETS));
    assert!(empty.positive_spans.is_empty() && empty.negative_spans.is_empty());
    let stale = written(&HistogramParts { sum: stale_nan(), ..parts(0, NO_BUCKETS, NO_BUCKETS) });
    assert!(stale.is_stale());
}

#[test]
fn custom_bounds_are_read_back() {
    let positive = DenseBuckets { first: 0, counts: &[0, 5, 0, 1] };
    let told = HistogramParts { custom_bounds: &[0.5, 1.0, 2.5], ..parts(-53, positive, NO_BUCKETS) };
    let histogram = written(&told);
    assert_eq!((histogram.schema, histogram.custom_values), (-53, vec![0.5, 1.0, 2.5]));
    assert_eq!(histogram.positive_spans, [Span { offset: 1, length: 3 }]);
}

#[test]
fn a_bucket_behind_32_bits_is_the_fault_of_that_sample() {
    let mut body = Rw2Body::new(1 << 20);
    let positive = DenseBuckets { first: i32::MAX, counts: &[0, 1] };
    body.series(&[("__name__", "h")]).unwrap().histogram(&parts(0, positive, NO_BUCKETS)).unwrap();
    let request = read(&body.finish());
    assert_eq!(request.histograms[0].value, Err(super::super::HistogramFault::SpanOverflow));
}

#[test]
fn a_series_without_samples_is_left_out_and_an_emptied_body_starts_anew() {
    let mut body = Rw2Body::new(1 << 20);
    body.series(&[("__name__", "a")]).unwrap().metadata(MetricType::Counter, "h", "").unwrap();
    assert_eq!(body.finish(), b"");
    body.series(&[("__name__", "b")]).unwrap().sample(1, 1.0, 0).unwrap();
    body.reset();
    assert!(body.is_empty());
    body.series(&[("__name__", "c")]).unwrap().sample(1, 1.0, 0).unwrap();
    let bytes = body.finish();
    let request = read(&bytes);
    assert_eq!(request.series.len(), 1);
    assert_eq!(labels_of(&bytes, &request, 0), pairs(&[("__name__", "c")]));
}

#[test]
fn the_bound_is_kept_and_what_was_whole_before_it_stays() {
    let limit = 4_000;
    let mut body = Rw2Body::new(limit);
    let mut whole = 0;
    let error = loop {
        let name = format!("metric_{whole}");
        let mut series = match body.series(&[("__name__", &name), ("job", "a")]) {
            Ok(series) => series,
            Err(error) => break error,
        };
        if let Err(error) = (0..5).try_for_each(|ts_ms| series.sample(ts_ms, 1.0, 0)) {
            break error;
        }
        assert!(body.bytes() <= limit);
        whole += 1;
    };
    assert_eq!(error, TooLarge { limit });
    assert_eq!(error.to_string(), "what the request is translated to takes more than 4000 bytes");
    assert!(whole > 10);
    let bytes = body.finish();
    assert!(bytes.len() <= limit);
    let request = read(&bytes);
    assert_eq!((request.series.len(), request.ts_ms.len()), (whole, 5 * whole));
}

#[test]
fn one_text_over_the_bound_is_refused_before_it_is_kept() {
    let mut body = Rw2Body::new(1_000);
    let long = "x".repeat(2_000);
    assert_eq!(body.series(&[("__name__", &long)]).err(), Some(TooLarge { limit: 1_000 }));
    let mut series = body.series(&[("__name__", "a")]).unwrap();
    series.sample(1, 1.0, 0).unwrap();
    assert!(series.metadata(MetricType::Gauge, &long, "").is_err());
    assert!(body.is_empty() && body.bytes() < 1_000);
}

proptest! {
    #[test]
    fn any_labels_come_back(values in proptest::collection::vec("[a-c]{0,3}", 1..300)) {
        let mut body = Rw2Body::new(1 << 20);
        for (at, value) in values.iter().enumerate() {
            body.series(&[("__name__", "m"), ("v", value)]).unwrap().sample(at as i64, 1.0, 0).unwrap();
        }
        let bytes = body.finish();
        let request = read(&bytes);
        prop_assert_eq!(request.series.len(), values.len());
        for (at, value) in values.iter().enumerate() {
            let mut expected = vec![("__name__", "m")];
            expected.extend((!value.is_empty()).then_some(("v", value.as_str())));
            prop_assert_eq!(labels_of(&bytes, &request, at), pairs(&expected));
        }
    }
}
