use super::encoder::{self, Message, TestSeries, integer_histogram, series};
use super::*;
use crate::in_flight::InFlight;
use proptest::prelude::*;
use quorate_model::{BucketCounts, CounterResetHint, MetricType, Span, is_stale, stale_nan};

const RW1: Protocol = Protocol::RemoteWrite1;
const RW2: Protocol = Protocol::RemoteWrite2;

fn parse_with(
    protocol: Protocol,
    body: &[u8],
    hashing: &Hashing,
    request: &mut ParsedRequest,
) -> Result<(), BodyError> {
    parse(protocol, body, hashing, 32 << 20, Held::unbounded(), request).map(drop)
}

const BOUNDS: LabelBounds = LabelBounds { names: 30, name_bytes: 1024, value_bytes: 2048, bytes: 1 << 20 };

fn read(protocol: Protocol, body: &[u8]) -> Result<ParsedRequest, BodyError> {
    let mut request = ParsedRequest::default();
    parse_with(protocol, body, &Hashing::new(1), &mut request).map(|()| request)
}

/// What a request says, in the form tests write it: empty-valued labels are gone, labels are sorted.
fn told(body: &[u8], request: &ParsedRequest) -> Vec<TestSeries> {
    let mut pairs = LabelPairs::default();
    (0..request.series.len())
        .map(|index| {
            pairs.split(body, request, index, &BOUNDS).unwrap();
            TestSeries {
                labels: pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect(),
                samples: request
                    .samples_of(index)
                    .map(|at| {
                        (request.ts_ms[at], request.values[at], request.starts.get(at).copied().unwrap_or(0))
                    })
                    .collect(),
                ..TestSeries::default()
            }
        })
        .collect()
}

#[track_caller]
fn check_equal(read: &[TestSeries], sent: &[TestSeries], has_starts: bool) {
    assert_eq!(read.len(), sent.len());
    for (read, sent) in read.iter().zip(sent) {
        let mut labels = sent.labels.clone();
        labels.retain(|(_, value)| !value.is_empty());
        labels.sort();
        assert_eq!(read.labels, labels);
        let bits = |samples: &[encoder::TestSample]| {
            samples
                .iter()
                .map(|(t, v, s)| (*t, v.to_bits(), if has_starts { *s } else { 0 }))
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&read.samples), bits(&sent.samples));
    }
}

#[track_caller]
fn check_refused(protocol: Protocol, body: &[u8], code: quorate_model::ErrorCode) {
    assert_eq!(read(protocol, body).map(|_| ()).map_err(|e| e.code()), Err(code));
}

fn malformed_code() -> quorate_model::ErrorCode {
    quorate_model::ErrorCode::BadInput
}

#[test]
fn series_samples_and_stale_markers_are_read_from_both_protocols() {
    let sent = [
        series(&[("__name__", "up"), ("job", "a")], &[(1_700_000_000_000, 1.0), (i64::MAX, -0.0)]),
        series(&[("zz", "1"), ("__name__", "up"), ("gone", "")], &[(-5, stale_nan())]),
    ];
    for protocol in [RW1, RW2] {
        let body = if protocol == RW1 { encoder::rw1(&sent) } else { encoder::rw2(&sent) };
        let request = read(protocol, &body).unwrap();
        check_equal(&told(&body, &request), &sent, true);
        assert!(is_stale(request.values[2]));
        assert!(request.starts.is_empty());
    }
}

#[test]
fn equal_label_bytes_have_equal_hashes_and_order_is_normalised_in_the_canonical_form() {
    let hashing = Hashing::new(3);
    let mut request = ParsedRequest::default();
    let body = encoder::rw1(&[
        series(&[("__name__", "up"), ("a", "1")], &[(1, 1.0)]),
        series(&[("a", "1"), ("__name__", "up"), ("b", "")], &[(2, 1.0)]),
        series(&[("__name__", "up"), ("a", "1")], &[(3, 1.0)]),
        series(&[("__name__", "up"), ("a", "2")], &[(3, 1.0)]),
    ]);
    parse_with(RW1, &body, &hashing, &mut request).unwrap();
    let raw: Vec<RawHash> = request.series.iter().map(|s| s.hash).collect();
    assert!(raw[0] == raw[2] && raw[0] != raw[1] && raw[0] != raw[3]);
    let mut pairs = LabelPairs::default();
    let mut bytes = Vec::new();
    for index in [0, 1] {
        pairs.split(&body, &request, index, &BOUNDS).unwrap();
        pairs.canonical_bytes(&mut bytes);
        assert_eq!(hashing.bytes(&bytes), raw[0], "the usual form is its own canonical form");
    }
    assert_ne!(Hashing::new(4).bytes(&bytes), raw[0]);
}

#[test]
fn symbol_lists_that_differ_in_order_or_borders_have_different_hashes() {
    let body = encoder::rw2(&[
        series(&[("a", "b"), ("c", "d")], &[(1, 1.0)]),
        series(&[("c", "d"), ("a", "b")], &[(1, 1.0)]),
        series(&[("b", "a"), ("c", "d")], &[(1, 1.0)]),
        series(&[("a", "b")], &[(1, 1.0)]),
        series(&[], &[(1, 1.0)]),
    ]);
    let request = read(RW2, &body).unwrap();
    let mut hashes: Vec<RawHash> = request.series.iter().map(|s| s.hash).collect();
    hashes.sort_by_key(|h| (h.low, h.high));
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}

#[test]
fn labels_that_other_fields_stand_between_are_collected() {
    let label = |n: &str, v: &str| encoder::rw1_label(n.as_bytes(), v.as_bytes()).0;
    let sample = Message::default().double(1, 2.0).varint(2, 7).0;
    let odd = Message::default()
        .bytes(1, &label("a", "1"))
        .bytes(2, &sample)
        .varint(99, 5)
        .bytes(1, &label("__name__", "up"));
    let body = Message::default().bytes(1, &odd.0).0;
    let request = read(RW1, &body).unwrap();
    check_equal(&told(&body, &request), &[series(&[("__name__", "up"), ("a", "1")], &[(7, 2.0)])], false);

    // 2.0: references one by one, split in two packs, symbols behind the series.
    let sample = Message::default().double(1, 2.0).varint(2, 7).0;
    let scattered = Message::default().varint(1, 1).packed(1, [2]).bytes(2, &sample).packed(1, [3, 4]);
    let body = Message::default().bytes(5, &scattered.0);
    let body = ["", "__name__", "up", "a", "1"].iter().fold(body, |b, s| b.bytes(4, s.as_bytes())).0;
    let request = read(RW2, &body).unwrap();
    check_equal(&told(&body, &request), &[series(&[("__name__", "up"), ("a", "1")], &[(7, 2.0)])], false);
}

#[test]
fn start_timestamps_come_from_samples_and_from_the_draft_field() {
    let mut one = series(&[("__name__", "a_total")], &[(10, 1.0), (20, 2.0)]);
    one.samples[1].2 = 5;
    let body = encoder::rw2(std::slice::from_ref(&one));
    assert_eq!(read(RW2, &body).unwrap().starts, [0, 5]);

    let sample = |ts| Message::default().double(1, 1.0).varint(2, ts).0;
    let with_created = Message::default().packed(1, [1, 2]).bytes(2, &sample(10)).varint(6, 3);
    let body =
        Message::default().bytes(4, b"").bytes(4, b"__name__").bytes(4, b"up").bytes(5, &with_created.0);
    let request = read(RW2, &body.0).unwrap();
    assert_eq!((request.starts.as_slice(), request.ts_ms.as_slice()), (&[3][..], &[10][..]));
}

#[test]
fn bodies_that_are_no_message_are_refused() {
    let good = encoder::rw1(&[series(&[("__name__", "up")], &[(1, 1.0)])]);
    let deep: Vec<u8> = std::iter::repeat_n([0x33], 2_000).flatten().collect();
    let cases: [(&str, Vec<u8>); 8] = [
        ("random bytes", vec![0xde, 0xad, 0xbe, 0xef, 0xff, 0xff]),
        ("cut", good[..good.len() - 1].to_vec()),
        ("varint of 11 bytes", [vec![0x30], vec![0xff; 10], vec![1]].concat()),
        ("negative length", [vec![0x0a], vec![0xff; 9], vec![1]].concat()),
        ("deep groups", deep),
        ("field 0", vec![0x00, 0x01]),
        ("known field of another type", Message::default().varint(1, 5).0),
        ("end of a group that did not begin", vec![0x34]),
    ];
    for (name, body) in cases {
        for protocol in [RW1, RW2] {
            let body = match (name, protocol) {
                ("known field of another type", RW2) => Message::default().varint(5, 5).0,
                ("cut", RW2) => {
                    let good = encoder::rw2(&[series(&[("__name__", "up")], &[(1, 1.0)])]);
                    good[..good.len() - 1].to_vec()
                }
                _ => body.clone(),
            };
            let got = read(protocol, &body).map(|r| r.series.len()).map_err(|e| e.code());
            assert_eq!(got, Err(malformed_code()), "{name} as {protocol:?}");
        }
    }
}

#[test]
fn unknown_fields_are_skipped_groups_included() {
    let group = [vec![0x33], Message::default().varint(9, 1).double(2, 0.5).0, vec![0x34]].concat();
    for protocol in [RW1, RW2] {
        let mut body = Message::default().varint(100, 7).bytes(101, b"x").double(102, 1.0).0;
        body.extend_from_slice(&group);
        body.extend_from_slice(&[0x35, 1, 2, 3, 4]);
        let request = read(protocol, &body).unwrap();
        assert!(request.series.is_empty());
        assert!(read(protocol, &[]).unwrap().series.is_empty());
    }
}

#[test]
fn a_body_of_the_other_protocol_is_told_apart() {
    let sent = [series(&[("__name__", "up")], &[(1, 1.0)])];
    check_refused(RW1, &encoder::rw2(&sent), quorate_model::ErrorCode::UnsupportedMedia);
    check_refused(RW2, &encoder::rw1(&sent), quorate_model::ErrorCode::UnsupportedMedia);
}

#[test]
fn faults_of_one_series_leave_the_others_alone() {
    let sample = Message::default().double(1, 1.0).varint(2, 7).0;
    let histogram = integer_histogram(7, 0, 0, &[], &[]).0;
    let messages = [
        (Message::default().packed(1, [1, 2]).bytes(2, &sample), None),
        (Message::default().packed(1, [1, 2, 1]).bytes(2, &sample), Some(Fault::OddReferences)),
        (Message::default().packed(1, [1, 77]).bytes(2, &sample), Some(Fault::SymbolRange)),
        (Message::default().packed(1, [1, 2]), Some(Fault::NoSamples)),
        (Message::default().packed(1, [1, 2]).bytes(2, &sample).bytes(3, &histogram), Some(Fault::TwoKinds)),
    ];
    let mut body = Message::default().bytes(4, b"").bytes(4, b"__name__").bytes(4, b"up");
    for (message, _) in &messages {
        body = body.bytes(5, &message.0);
    }
    let request = read(RW2, &body.0).unwrap();
    let faults: Vec<_> = request.series.iter().map(|s| s.fault).collect();
    assert_eq!(faults, messages.map(|(_, fault)| fault));
    assert_eq!(request.samples_of(4).len(), 1);
}

#[test]
fn labels_that_cannot_be_are_told() {
    let fault = |labels: &[(&[u8], &[u8])]| {
        let one = TestSeries {
            labels: labels.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
            samples: vec![(1, 1.0, 0)],
            ..TestSeries::default()
        };
        [encoder::rw1(std::slice::from_ref(&one)), encoder::rw2(std::slice::from_ref(&one))]
            .iter()
            .zip([RW1, RW2])
            .map(|(body, protocol)| {
                let request = read(protocol, body).unwrap();
                LabelPairs::default().split(body, &request, 0, &BOUNDS)
            })
            .collect::<Vec<_>>()
    };
    let both = |result: Result<(), LabelFault>| vec![result.clone(), result];
    assert_eq!(fault(&[(b"", b"x")]), both(Err(LabelFault::EmptyName)));
    assert_eq!(fault(&[(b"a", b"1"), (b"a", b"2")]), both(Err(LabelFault::Duplicate("a".into()))));
    assert_eq!(fault(&[(b"a", b"\xff")]), both(Err(LabelFault::NotUtf8)));
    // Valid only as long as the border between the two is not seen.
    assert_eq!(fault(&[(b"a\xc3", b"\xa9")]), both(Err(LabelFault::NotUtf8)));
    assert_eq!(fault(&[(b"a", b"x\0y")]), both(Ok(())));
}

#[test]
fn metadata_is_read_once_for_each_family() {
    let body =
        [encoder::rw1_metadata(1, "a_total", "helps", "bytes"), encoder::rw1_metadata(99, "b", "", "")]
            .concat();
    let request = read(RW1, &body).unwrap();
    let text = |range: &std::ops::Range<usize>| std::str::from_utf8(&body[range.clone()]).unwrap();
    let first = &request.metadata[0];
    assert_eq!((first.metric_type, text(&first.family)), (MetricType::Counter, "a_total"));
    assert_eq!((text(&first.help), text(&first.unit)), ("helps", "bytes"));
    assert_eq!(request.metadata[1].metric_type, MetricType::Unknown);

    let mut one = series(&[("__name__", "h_bucket"), ("le", "1")], &[(1, 1.0)]);
    one.metadata = Some((3, "helps", ""));
    let mut other = series(&[("__name__", "h_bucket"), ("le", "2")], &[(1, 1.0)]);
    other.metadata = one.metadata;
    let body = encoder::rw2(&[one, other]);
    let request = read(RW2, &body).unwrap();
    assert_eq!(request.metadata.len(), 1);
    assert_eq!(&body[request.metadata[0].family.clone()], b"h_bucket");
    assert!(request.metadata[0].is_metric_name);
}

#[test]
fn exemplars_are_counted_and_long_ones_remembered() {
    let mut one = series(&[("__name__", "up")], &[(1, 1.0)]);
    one.exemplars = vec![10, 126, 127, 10_240];
    for protocol in [RW1, RW2] {
        let sent = [series(&[("__name__", "other")], &[(1, 1.0)]), one.clone()];
        let body = if protocol == RW1 { encoder::rw1(&sent) } else { encoder::rw2(&sent) };
        let request = read(protocol, &body).unwrap();
        assert_eq!((request.exemplars, request.long_exemplars.as_slice()), (4, &[1][..]));
    }
}

#[test]
fn a_symbol_named_again_and_again_is_not_copied() {
    let value = vec![b'v'; 1 << 20];
    let references = (0..50_000).flat_map(|_| [1, 2]);
    let sample = Message::default().double(1, 1.0).varint(2, 7).0;
    let one = Message::default().packed(1, references).bytes(2, &sample);
    let body = Message::default().bytes(4, b"").bytes(4, b"a").bytes(4, &value).bytes(5, &one.0).0;
    let request = read(RW2, &body).unwrap();
    let mut pairs = LabelPairs::default();
    let fault = pairs.split(&body, &request, 0, &BOUNDS).unwrap_err();
    assert!(matches!(fault, LabelFault::ValueTooLong { bytes: 0x10_0000, .. }), "{fault:?}");
    assert!(pairs.capacity() < 1 << 10, "{} bytes were copied", pairs.capacity());
    let no_limits = LabelBounds { names: 65_535, name_bytes: 65_535, value_bytes: 2 << 20, bytes: 3 << 20 };
    assert_eq!(pairs.split(&body, &request, 0, &no_limits), Err(LabelFault::OverBudget));
    assert!(pairs.capacity() <= 6 << 20, "{} bytes were copied", pairs.capacity());
    let short = LabelBounds { value_bytes: 1, ..BOUNDS };
    let body = encoder::rw2(&[series(&[("a", "1"); 3_000], &[(1, 1.0)])]);
    let request = read(RW2, &body).unwrap();
    let bounds = LabelBounds { names: 10, name_bytes: 20, ..short };
    assert_eq!(pairs.split(&body, &request, 0, &bounds), Err(LabelFault::TooMany { labels: 106 }));
}

#[test]
fn symbols_of_an_exemplar_may_stand_behind_its_series() {
    let exemplar = Message::default().packed(1, [1, 1]);
    let one = Message::default().varint(1, 0).varint(1, 0).bytes(4, &exemplar.0);
    let body = Message::default().bytes(5, &one.0).bytes(4, b"").bytes(4, &[b'v'; 65]);
    let request = read(RW2, &body.0).unwrap();
    assert_eq!((request.exemplars, request.long_exemplars.as_slice()), (1, &[0][..]));
}

#[test]
fn a_long_symbol_is_not_counted_for_every_exemplar() {
    let mut body = Message::default().bytes(4, b"").bytes(4, &vec![b'v'; 1 << 20]);
    let exemplar = Message::default().packed(1, [1; 100]);
    let mut one = Message::default().varint(1, 0).varint(1, 0);
    for _ in 0..5_000 {
        one = one.bytes(4, &exemplar.0);
    }
    body = body.bytes(5, &one.0);
    let started = quorate_model::Clock::instant(&quorate_model::SystemClock);
    let request = read(RW2, &body.0).unwrap();
    assert_eq!((request.exemplars, request.long_exemplars.as_slice()), (5_000, &[0][..]));
    // To count them all is half a terabyte.
    let took = quorate_model::Clock::instant(&quorate_model::SystemClock).duration_since(started);
    assert!(took.as_secs() < 10, "{took:?}");
}

#[test]
fn small_parts_that_become_large_are_bounded() {
    let empty = |field, times| (0..times).fold(Message::default(), |m, _| m.bytes(field, b""));
    let cases = [
        ("samples", RW1, Message::default().bytes(1, &empty(2, 100_000).0)),
        ("histograms", RW1, Message::default().bytes(1, &empty(4, 100_000).0)),
        ("series", RW1, empty(1, 100_000)),
        ("metadata", RW1, empty(3, 100_000)),
        ("samples", RW2, Message::default().bytes(5, &empty(2, 100_000).0)),
        ("histograms", RW2, Message::default().bytes(5, &empty(3, 100_000).0)),
        ("symbols", RW2, empty(4, 100_000)),
        ("series", RW2, empty(5, 100_000)),
    ];
    let limit = 2_000_000;
    for (name, protocol, body) in cases {
        let mut request = ParsedRequest::default();
        let node = InFlight::new(usize::MAX);
        let got = parse(protocol, &body.0, &Hashing::new(1), limit, node.enter(), &mut request);
        assert_eq!(got.unwrap_err(), BodyError::Expands { limit }, "{name} {protocol:?}");
        assert_eq!(node.used(), 0, "{name}: given back");
        let full = InFlight::new(limit / 2);
        let mut other = full.enter();
        other.grow(1).unwrap();
        let got = parse(protocol, &body.0, &Hashing::new(1), limit, full.enter(), &mut request).unwrap_err();
        assert_eq!(got.code(), quorate_model::ErrorCode::Unavailable, "{name}: {got}");
    }
    let long = Message::default().varint(1, 0).packed_zigzag(12, &vec![0; 5_000_000]);
    let body = Message::default().bytes(1, &Message::default().bytes(4, &long.0).0);
    let request = read(RW1, &body.0).unwrap();
    assert_eq!(request.histograms[0].value, Err(HistogramFault::TooManyBuckets { buckets: 5_000_000 }));
}

fn histogram_of(message: &Message) -> Result<quorate_model::Histogram, HistogramFault> {
    let one = TestSeries {
        labels: vec![(b"__name__".to_vec(), b"h".to_vec())],
        histograms: vec![message.clone()],
        ..TestSeries::default()
    };
    let request = read(RW1, &encoder::rw1(&[one])).unwrap();
    request.histograms.into_iter().next().unwrap().value
}

#[test]
fn an_integer_histogram_is_read_field_by_field() {
    let spans = [Span { offset: -3, length: 2 }, Span { offset: 1, length: 1 }];
    let message = integer_histogram(77, 10, 1, &spans, &[3, -1, 2]).varint(14, 3).varint(17, 9);
    let histogram = histogram_of(&message).unwrap();
    assert_eq!(histogram.schema, 2);
    assert_eq!(histogram.positive_spans, spans);
    assert_eq!(histogram.reset_hint, CounterResetHint::Gauge);
    assert_eq!(
        histogram.counts,
        BucketCounts::Integer { count: 10, zero_count: 1, positive: vec![3, -1, 2], negative: vec![] }
    );
    let one = TestSeries { histograms: vec![message], ..series(&[("__name__", "h")], &[]) };
    let request = read(RW2, &encoder::rw2(&[one])).unwrap();
    assert_eq!((request.histograms[0].ts_ms, request.histograms[0].start_ms), (77, 9));
}

#[test]
fn wrong_histograms_are_refused() {
    let spans = |pairs: &[(i32, u32)]| {
        pairs.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect::<Vec<_>>()
    };
    let integer = |count, pairs: &[(i32, u32)], deltas: &[i64]| {
        histogram_of(&integer_histogram(1, count, 0, &spans(pairs), deltas)).map(|_| ())
    };
    assert_eq!(integer(3, &[(0, 2)], &[1, 1]), Ok(()));
    assert_eq!(integer(3, &[(0, 2)], &[1, -2]), Err(HistogramFault::NegativeCount));
    let many = vec![0; 1_000_000];
    assert_eq!(
        integer(0, &[(0, 1_000_000)], &many),
        Err(HistogramFault::TooManyBuckets { buckets: 1_000_000 })
    );
    assert_eq!(integer(1, &[(i32::MAX, 1)], &[1]), Ok(()));
    assert_eq!(integer(2, &[(i32::MAX, 1), (5, 1)], &[1, 0]), Err(HistogramFault::SpanOverflow));
    assert_eq!(integer(9, &[(0, 2)], &[1, 1]), Err(HistogramFault::CountMismatch { sum: 3, count: 9 }));
    assert_eq!(
        integer(3, &[(0, 3)], &[1, 1]),
        Err(HistogramFault::SpanMismatch { described: 3, buckets: 2 })
    );
    assert_eq!(integer(3, &[(0, 1), (-1, 1)], &[1, 1]), Err(HistogramFault::NegativeOffset));
    let wide = Message::default().zigzag(1, i64::from(i32::MAX) + 1).varint(2, 1);
    let message = integer_histogram(1, 1, 0, &[], &[1]).bytes(11, &wide.0);
    assert_eq!(histogram_of(&message), Err(HistogramFault::SpanOverflow));
    let message = integer_histogram(1, 0, 0, &[], &[]).zigzag(4, 9);
    assert_eq!(histogram_of(&message), Err(HistogramFault::Schema { schema: 9 }));
    let mixed = integer_histogram(1, 0, 0, &[], &[]).double(2, 1.0);
    assert_eq!(histogram_of(&mixed), Err(HistogramFault::MixedCounts));
    let negative = Message::default().double(2, -1.0);
    assert_eq!(histogram_of(&negative), Err(HistogramFault::NegativeCount));
}

#[test]
fn custom_buckets_need_increasing_finite_bounds_that_fit() {
    let custom = |bounds: &[f64], buckets: u32| {
        let message = Message::default()
            .varint(1, u64::from(buckets))
            .double(3, 1.0)
            .zigzag(4, -53)
            .spans(11, &[Span { offset: 0, length: buckets }])
            .packed_zigzag(12, &std::iter::once(1).chain(vec![0; buckets as usize - 1]).collect::<Vec<_>>())
            .packed_double(16, bounds);
        histogram_of(&message).map(|h| h.custom_values)
    };
    assert_eq!(custom(&[1.0, 2.0], 3), Ok(vec![1.0, 2.0]));
    assert_eq!(custom(&[1.0, 2.0], 4), Err(HistogramFault::CustomBounds));
    assert_eq!(custom(&[2.0, 2.0], 2), Err(HistogramFault::CustomBounds));
    assert_eq!(custom(&[1.0, f64::INFINITY], 2), Err(HistogramFault::CustomBounds));
    assert_eq!(custom(&[1.0, f64::NAN], 2), Err(HistogramFault::CustomBounds));
    let exponential = integer_histogram(1, 0, 0, &[], &[]).packed_double(16, &[1.0]);
    assert_eq!(histogram_of(&exponential), Err(HistogramFault::MixedSchemas));
}

#[test]
fn a_stale_histogram_is_kept() {
    let message = Message::default().varint(1, 0).double(3, stale_nan()).varint(15, 5);
    assert!(histogram_of(&message).unwrap().is_stale());
}

#[test]
fn snappy_sizes_are_checked_before_anything_is_allocated() {
    let mut buffer = BodyBuffer::default();
    let mut code = |block: &[u8], limit| {
        buffer.decode(block, limit, &mut Held::unbounded()).map(<[u8]>::len).map_err(|e| e.code())
    };
    let too_large = Err(quorate_model::ErrorCode::TooLarge);
    let bad = Err(malformed_code());
    assert_eq!(code(&[0xff, 0xff, 0xff, 0xff, 0x0f], 32 << 20), too_large);
    let zeros = encoder::snappy(&vec![0; 1 << 20]);
    assert_eq!(code(&zeros, 1 << 20), Ok(1 << 20));
    assert_eq!(code(&zeros, (1 << 20) - 1), too_large);
    assert_eq!(code(&[], 100), bad);
    assert_eq!(code(b"\xff\x06\x00\x00sNaPpY", 32 << 20), bad);
    assert_eq!(code(&[0xff, 0xff, 0xff, 0x07, 0, 0], 32 << 20), bad, "a claim of 16 MiB in 6 bytes");
    assert_eq!(code(&[0xff; 12], 32 << 20), bad);
    let mut cut = encoder::snappy(b"a body that is long enough to be cut somewhere");
    cut.truncate(cut.len() - 3);
    assert_eq!(code(&cut, 100), bad);
    assert_eq!(code(&encoder::snappy(b""), 100), Ok(0));
    assert!(buffer.bytes.len() <= 1 << 20, "no claim was believed");
}

fn any_series() -> impl Strategy<Value = TestSeries> {
    let labels = prop::collection::btree_map("[a-z_]{1,6}", ".{0,8}", 0..6);
    let samples = prop::collection::vec((any::<i64>(), any::<u64>(), 0..2i64), 1..5);
    (labels, samples).prop_map(|(labels, samples)| TestSeries {
        labels: labels.into_iter().map(|(n, v)| (n.into_bytes(), v.into_bytes())).collect(),
        samples: samples.into_iter().map(|(t, v, s)| (t, f64::from_bits(v), s * 1_000)).collect(),
        ..TestSeries::default()
    })
}

proptest! {
    #[test]
    fn both_walks_read_what_a_naive_encoder_wrote(sent in prop::collection::vec(any_series(), 0..6)) {
        let body = encoder::rw1(&sent);
        check_equal(&told(&body, &read(RW1, &body).unwrap()), &sent, false);
        let body = encoder::rw2(&sent);
        check_equal(&told(&body, &read(RW2, &body).unwrap()), &sent, true);
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for protocol in [RW1, RW2] {
            if let Ok(request) = read(protocol, &body) {
                for index in 0..request.series.len() {
                    let _ = LabelPairs::default().split(&body, &request, index, &BOUNDS);
                }
            }
        }
        let _ = BodyBuffer::default().decode(&body, 1 << 20, &mut Held::unbounded());
    }

    #[test]
    fn changed_bodies_never_panic(
        sent in prop::collection::vec(any_series(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        for protocol in [RW1, RW2] {
            let mut body = if protocol == RW1 { encoder::rw1(&sent) } else { encoder::rw2(&sent) };
            for (at, value) in &changes {
                let at = at.index(body.len());
                body[at] = *value;
            }
            if let Ok(request) = read(protocol, &body) {
                for index in 0..request.series.len() {
                    let _ = LabelPairs::default().split(&body, &request, index, &BOUNDS);
                }
            }
        }
    }
}
