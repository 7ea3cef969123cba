//! The contract of [`SeriesSource`] as one suite, run by the fake and by every real source.

use super::{SelectRequest, SeriesSource, SourceError};
use crate::engine::{NoGuard, QueryError, QueryGuard};
use quorate_model::{
    BucketCounts, CounterResetHint, Histogram, Labels, MatchOp, Matcher, SeriesBuffer, Span, TimeRange,
    stale_nan,
};
use std::sync::Arc;

/// Samples to be loaded into a source under test.
pub type TestSeries = [(Labels, SeriesBuffer)];

/// Checks the contract on a source that holds exactly the series given to `make`.
///
/// # Panics
/// If the source breaks the contract.
pub fn check_source(make: impl Fn(&TestSeries) -> Box<dyn SeriesSource>) {
    let series = test_series();
    let source = make(&series);
    series_come_in_the_order_of_labels(&*source, &series);
    matchers_see_absent_labels_as_empty(&*source);
    ranges_include_both_ends(&*source);
    values_keep_their_bits(&*source, &series);
    buffers_are_cleared(&*source);
    an_objecting_guard_stops_the_selection(&*source);
}

fn test_series() -> Vec<(Labels, SeriesBuffer)> {
    let floats = |values: &[f64]| SeriesBuffer {
        ts_ms: (0..values.len() as i64).map(|i| i * 1_000).collect(),
        values: values.to_vec(),
        ..SeriesBuffer::default()
    };
    let histograms = SeriesBuffer {
        histogram_ts_ms: vec![0, 2_000],
        histograms: vec![Arc::new(histogram(1.0)), Arc::new(histogram(stale_nan()))],
        ..SeriesBuffer::default()
    };
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_1234);
    vec![
        (Labels::from_pairs([("__name__", "up"), ("job", "b")]), floats(&[1.0, stale_nan(), odd_nan, -0.0])),
        (Labels::from_pairs([("__name__", "up")]), floats(&[f64::INFINITY, 2.0, 3.0])),
        (Labels::from_pairs([("__name__", "size"), ("job", "a")]), histograms),
        (Labels::from_pairs([("__name__", "up"), ("aa", "x"), ("job", "a")]), floats(&[4.0])),
    ]
}

fn histogram(sum: f64) -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::Unknown,
        schema: 0,
        zero_threshold: 0.001,
        sum,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Float {
            count: 3.5,
            zero_count: 0.5,
            positive: vec![1.0, 2.0],
            negative: vec![],
        },
    }
}

fn read_all(
    source: &dyn SeriesSource,
    matchers: &[Matcher],
    range: TimeRange,
) -> Vec<(Labels, SeriesBuffer)> {
    let selection = source.select(&SelectRequest { matchers, range, step_ms: 0 }, &NoGuard).expect("select");
    (0..selection.len())
        .map(|index| {
            let mut buffer = SeriesBuffer::default();
            selection.read(index, &mut buffer).expect("read");
            (selection.labels(index).clone(), buffer)
        })
        .collect()
}

fn names(found: &[(Labels, SeriesBuffer)]) -> Vec<String> {
    found.iter().filter(|(_, buffer)| !buffer.is_empty()).map(|(labels, _)| format!("{labels:?}")).collect()
}

fn series_come_in_the_order_of_labels(source: &dyn SeriesSource, series: &TestSeries) {
    let found = read_all(source, &[], TimeRange::new(0, 10_000));
    assert!(found.windows(2).all(|w| w[0].0 < w[1].0), "series must increase strictly");
    assert_eq!(names(&found).len(), series.len());
}

fn matchers_see_absent_labels_as_empty(source: &dyn SeriesSource) {
    let select = |op, value| {
        let matchers =
            [Matcher::equal("__name__", "up"), Matcher::new("job", op, value).expect("a valid matcher")];
        names(&read_all(source, &matchers, TimeRange::new(0, 10_000))).len()
    };
    assert_eq!(select(MatchOp::NotEqual, "b"), 2);
    assert_eq!(select(MatchOp::Equal, ""), 1);
    assert_eq!(select(MatchOp::Regex, "a|b"), 2);
    assert_eq!(select(MatchOp::NotRegex, ".+"), 1);
}

fn ranges_include_both_ends(source: &dyn SeriesSource) {
    let matchers = [Matcher::equal("__name__", "up"), Matcher::equal("job", "b")];
    let found = read_all(source, &matchers, TimeRange::new(1_000, 2_000));
    assert_eq!(found[0].1.ts_ms, [1_000, 2_000]);
    let found = read_all(source, &matchers, TimeRange::new(1_001, 1_999));
    assert!(found.iter().all(|(_, buffer)| buffer.is_empty()));
}

fn values_keep_their_bits(source: &dyn SeriesSource, series: &TestSeries) {
    for (labels, expected) in series {
        let found = read_all(source, &[], TimeRange::new(0, 10_000));
        let (_, buffer) = found.iter().find(|(l, _)| l == labels).expect("the series is there");
        let bits = |buffer: &SeriesBuffer| buffer.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(buffer), bits(expected), "{labels:?}");
        assert_eq!(buffer.histogram_ts_ms, expected.histogram_ts_ms);
        let same = buffer.histograms.iter().zip(&expected.histograms).all(|(a, b)| a.same_bits(b));
        assert!(same, "histograms of {labels:?}");
    }
}

fn buffers_are_cleared(source: &dyn SeriesSource) {
    let request = SelectRequest { matchers: &[], range: TimeRange::new(0, 10_000), step_ms: 0 };
    let selection = source.select(&request, &NoGuard).expect("select");
    let mut reused = SeriesBuffer::default();
    for index in (0..selection.len()).chain((0..selection.len()).rev()) {
        selection.read(index, &mut reused).expect("read");
        let mut fresh = SeriesBuffer::default();
        selection.read(index, &mut fresh).expect("read");
        assert_eq!(reused.ts_ms, fresh.ts_ms);
        assert_eq!(reused.histogram_ts_ms, fresh.histogram_ts_ms);
    }
}

/// The client has left, and nothing is free.
struct Objecting;

impl QueryGuard for Objecting {
    fn check(&self) -> Result<(), QueryError> {
        Err(QueryError::Cancelled)
    }

    fn charge(&self, _bytes: u64) -> Result<(), QueryError> {
        Err(QueryError::Budget("nothing is free".into()))
    }

    fn release(&self, _bytes: u64) {}
}

fn an_objecting_guard_stops_the_selection(source: &dyn SeriesSource) {
    let request = SelectRequest { matchers: &[], range: TimeRange::new(0, 10_000), step_ms: 0 };
    let stopped = source.select(&request, &Objecting).map(|selection| selection.len());
    assert!(matches!(stopped, Err(SourceError::Stopped(_))), "{stopped:?}");
}
