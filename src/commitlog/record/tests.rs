use super::*;
use proptest::prelude::*;
use quorate_model::*;

fn header() -> RecordHeader {
    RecordHeader {
        log_incarnation: 7,
        epoch: 1,
        session: SessionId { node: 2, incarnation: 3 },
        sequence: 0x0102_0304_0506_0708,
    }
}

fn data(batches: Vec<SubBatch>) -> LogRecord {
    LogRecord { header: header(), body: RecordBody::Data(batches) }
}

fn bytes_of(record: &LogRecord) -> Vec<u8> {
    let mut out = Vec::new();
    encode(record, &mut out);
    out
}

/// Equality that takes a NaN for itself: the bytes of both records.
#[track_caller]
fn check_round_trip(record: &LogRecord) {
    let bytes = bytes_of(record);
    let back = decode(&bytes).unwrap();
    assert_eq!(bytes_of(&back), bytes);
    assert_eq!(format!("{back:?}"), format!("{record:?}"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn scrape(first_ref: u32, count: usize, ts_ms: i64) -> SubBatch {
    SubBatch {
        tenant: TenantId(1),
        floor_ms: ts_ms - 1_000_000,
        refs: (first_ref..).take(count).map(SeriesRef).collect(),
        ts_ms: vec![ts_ms; count],
        values: (0..count).map(|i| i as f64 * 1.5).collect(),
        ..SubBatch::default()
    }
}

fn small_histogram() -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::NoReset,
        schema: 3,
        zero_threshold: 0.001,
        sum: 12.5,
        positive_spans: vec![Span { offset: -2, length: 2 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Integer { count: 5, zero_count: 1, positive: vec![1, 2], negative: vec![] },
    }
}

fn full_batch() -> SubBatch {
    let labels = |instance| Labels::from_pairs([("__name__", "up"), ("instance", instance)]);
    SubBatch {
        tenant: TenantId(9),
        floor_ms: -5,
        definitions: vec![
            Definition { reference: SeriesRef(4), slot: Slot(513), labels: labels("a") },
            Definition { reference: SeriesRef(5), slot: Slot(2), labels: labels("up") },
        ],
        refs: vec![SeriesRef(4), SeriesRef(5), SeriesRef(3)],
        ts_ms: vec![1000, 1000, 985],
        values: vec![1.0, f64::from_bits(STALE_NAN_BITS), -0.0],
        starts: vec![(0, 10), (1, 10)],
        histograms: vec![HistogramSample {
            reference: SeriesRef(6),
            ts_ms: 1001,
            start_ms: 1,
            histogram: small_histogram(),
        }],
        metadata: vec![MetadataEntry {
            family: "up".into(),
            metric_type: MetricType::Gauge,
            help: "h".into(),
            unit: String::new(),
        }],
    }
}

#[test]
fn golden_bytes_of_a_data_record() {
    let bytes = bytes_of(&data(vec![full_batch()]));
    assert_eq!(hex(&bytes), include_str!("golden/data.hex").trim());
    assert_eq!(decode(&bytes).map(|r| format!("{r:?}")), Ok(format!("{:?}", data(vec![full_batch()]))));
}

#[test]
fn golden_bytes_of_control_records() {
    let bodies = [
        RecordBody::FlushMark(vec![
            FlushMark { window_start_ms: -3_600_000, generation: 0 },
            FlushMark { window_start_ms: 3_600_000, generation: 2 },
        ]),
        RecordBody::Delete {
            tenant: TenantId(3),
            matchers: vec![
                ("job".into(), MatchOp::Equal, "a".into()),
                ("env".into(), MatchOp::NotRegex, "d.*".into()),
            ],
            range: TimeRange::new(1, 2),
        },
        RecordBody::RetentionMark { tenant: TenantId(3), floor_ms: 77 },
        RecordBody::SessionForget(SessionId { node: 5, incarnation: 6 }),
    ];
    let golden: Vec<&str> = include_str!("golden/control.hex").lines().collect();
    assert_eq!(golden.len(), bodies.len());
    for (body, golden) in bodies.into_iter().zip(golden) {
        let record = LogRecord { header: header(), body };
        assert_eq!(hex(&bytes_of(&record)), golden, "{record:?}");
        check_round_trip(&record);
    }
}

#[test]
fn a_sample_of_a_scrape_takes_between_9_and_10_bytes() {
    // Five targets of 400 series each, scraped at different times.
    let mut batch = scrape(0, 0, 1_700_000_000_000);
    for target in 0..5u32 {
        let part = scrape(target * 5_000, 400, 1_700_000_000_000 + i64::from(target) * 733);
        batch.refs.extend(part.refs);
        batch.ts_ms.extend(part.ts_ms);
        batch.values.extend(part.values);
    }
    let per_sample = bytes_of(&data(vec![batch])).len() as f64 / 2_000.0;
    assert!((9.0..10.0).contains(&per_sample), "{per_sample} bytes per sample");
}

#[test]
fn sub_batches_encoded_apart_join_to_the_same_record() {
    let batches = vec![full_batch(), scrape(100, 10, 5), SubBatch::default()];
    let mut encoder = SubBatchEncoder::default();
    let mut part = |batches: &[SubBatch]| {
        let mut out = Vec::new();
        batches.iter().for_each(|batch| encoder.encode(batch, Values::Raw, &mut out));
        out
    };
    let parts = [part(&batches[..2]), part(&batches[2..])];
    let mut joined = Vec::new();
    assemble(&header(), 3, parts.iter().map(Vec::as_slice), &mut joined);
    assert_eq!(joined, bytes_of(&data(batches)));
}

fn packed(batch: &SubBatch) -> Vec<u8> {
    let (mut part, mut out) = (Vec::new(), Vec::new());
    SubBatchEncoder::default().encode(batch, Values::Packed, &mut part);
    assemble(&header(), 1, [part.as_slice()].into_iter(), &mut out);
    out
}

#[test]
fn golden_bytes_of_packed_values() {
    let bytes = packed(&full_batch());
    assert_eq!(hex(&bytes), include_str!("golden/packed.hex").trim());
    assert_eq!(decode(&bytes).map(|r| format!("{r:?}")), Ok(format!("{:?}", data(vec![full_batch()]))));
}

#[test]
fn values_are_packed_only_where_that_is_shorter() {
    let whole = SubBatch { values: vec![1.0; 50], ..scrape(1, 50, 5) };
    assert!(packed(&whole).len() + 6 * 50 < bytes_of(&data(vec![whole.clone()])).len());
    assert_eq!(decode(&packed(&whole)), Ok(data(vec![whole])));
    let broken = SubBatch { values: vec![1.0 / 3.0; 50], ..scrape(1, 50, 5) };
    assert_eq!(packed(&broken), bytes_of(&data(vec![broken])));
}

#[test]
fn buffers_are_used_again_and_nothing_of_an_older_record_stays() {
    let mut decoder = RecordDecoder::default();
    let mut record = empty_record();
    let large = bytes_of(&data(vec![full_batch(), scrape(0, 50, 1)]));
    decoder.decode(&large, &mut record).unwrap();
    assert!(decoder.decode(&large[..large.len() - 1], &mut record).is_err());
    let small = data(vec![scrape(3, 2, 9)]);
    decoder.decode(&bytes_of(&small), &mut record).unwrap();
    assert_eq!(record, small);
    let RecordBody::Data(batches) = &record.body else { panic!("{record:?}") };
    assert!(batches.iter().chain(&decoder.spare).any(|batch| batch.refs.capacity() >= 50));
}

#[test]
fn newer_versions_and_reserved_kinds_are_refused_by_name() {
    let mut bytes = bytes_of(&data(vec![]));
    bytes[0] = VERSION + 1;
    assert_eq!(decode(&bytes), Err(RecordError::Version { found: VERSION + 1 }));
    bytes[0] = VERSION;
    for kind in [RecordKind::Barrier as u8, RecordKind::BulkBlock as u8, 200] {
        bytes[1] = kind;
        finish(0, &mut bytes);
        assert_eq!(decode(&bytes), Err(RecordError::Kind { found: kind }));
    }
}

#[test]
fn every_changed_bit_is_found() {
    let bytes = bytes_of(&data(vec![full_batch()]));
    for at in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(decode(&damaged).is_err(), "bit {at}");
    }
}

/// A sub-batch with one sample and one extra section of the given id.
fn with_extra_section(id: u8) -> Vec<u8> {
    let mut part = Vec::new();
    SubBatchEncoder::default().encode(&scrape(1, 1, 5), Values::Raw, &mut part);
    let table_at = 4 + 8 + 8 + 2;
    let sections = part[table_at];
    part[table_at] += 1;
    let end_of_table = table_at + 1 + 2 * usize::from(sections);
    part.splice(end_of_table..end_of_table, [id, 3]);
    part.extend_from_slice(&[1, 2, 3]);
    let mut out = Vec::new();
    assemble(&header(), 1, [part.as_slice()].into_iter(), &mut out);
    out
}

#[test]
fn an_unknown_section_is_skipped_only_if_it_is_optional() {
    assert_eq!(decode(&with_extra_section(0x81)).unwrap(), data(vec![scrape(1, 1, 5)]));
    assert_eq!(decode(&with_extra_section(0xff)).unwrap(), data(vec![scrape(1, 1, 5)]));
    assert_eq!(decode(&with_extra_section(10)), Err(RecordError::Section { id: 10 }));
}

#[test]
fn counts_are_bounded_by_the_bytes_before_anything_is_allocated() {
    let mut out = Vec::new();
    begin(&header(), RecordKind::Data, &mut out);
    put_varint(&mut out, u64::MAX);
    finish(0, &mut out);
    assert_eq!(decode(&out), Err(malformed("more sub-batches than bytes")));

    let huge_run = |samples: u64| {
        let mut out = Vec::new();
        begin(&header(), RecordKind::Data, &mut out);
        put_varint(&mut out, 1);
        out.extend_from_slice(&[0; 20]);
        put_varint(&mut out, samples);
        out.extend_from_slice(&[0, 1, 4, 6, 0]);
        put_varint(&mut out, samples);
        out.resize(out.len() + 10, 0);
        finish(0, &mut out);
        out
    };
    assert_eq!(decode(&huge_run(1 << 31)), Err(malformed("times without refs")));
}

#[test]
fn large_layouts_are_repeated_only_as_often_as_a_reader_copies_them() {
    let spans = vec![Span { offset: 0, length: 0 }; 65_536];
    let histogram = Histogram { positive_spans: spans, ..small_histogram() };
    let sample = HistogramSample { reference: SeriesRef(1), ts_ms: 1, start_ms: 0, histogram };
    let batch = SubBatch { histograms: vec![sample; 140], ..SubBatch::default() };
    let mut bytes = Vec::new();
    SubBatchEncoder::default().encode(&batch, Values::Raw, &mut bytes);
    assert_eq!(RecordDecoder::default().check(&bytes, 1), Ok(()));
    // 128 copies of 512 KiB; the first layout and those beyond are written.
    assert_eq!(bytes.len() / (2 * 65_536), 12);
}

#[test]
fn a_part_is_checked_as_a_record_would_be() {
    let mut bytes = Vec::new();
    SubBatchEncoder::default().encode(&full_batch(), Values::Packed, &mut bytes);
    SubBatchEncoder::default().encode(&scrape(1, 3, 1), Values::Packed, &mut bytes);
    let mut decoder = RecordDecoder::default();
    assert_eq!(decoder.check(&bytes, 2), Ok(()));
    assert!(decoder.check(&bytes, 1).is_err());
    assert!(decoder.check(&bytes, 3).is_err());
    assert!(decoder.check(&bytes[1..], 2).is_err());
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    let spans = || prop::collection::vec((any::<i32>(), any::<u32>()), 0..4);
    let sides = (prop::collection::vec(any::<i64>(), 0..6), prop::collection::vec(any::<i64>(), 0..6));
    (spans(), spans(), sides, any::<[u64; 5]>(), any::<i8>(), 0..4u8, any::<bool>()).prop_map(
        |(positive, negative, (a, b), bits, schema, hint, is_float)| {
            let spans = |s: Vec<(i32, u32)>| s.into_iter().map(|(offset, length)| Span { offset, length });
            let floats = |s: &[i64]| s.iter().map(|v| f64::from_bits(*v as u64)).collect::<Vec<_>>();
            let counts = if is_float {
                BucketCounts::Float {
                    count: f64::from_bits(bits[0]),
                    zero_count: f64::from_bits(bits[1]),
                    positive: floats(&a),
                    negative: floats(&b),
                }
            } else {
                BucketCounts::Integer { count: bits[0], zero_count: bits[1], positive: a, negative: b }
            };
            Histogram {
                reset_hint: [
                    CounterResetHint::Unknown,
                    CounterResetHint::Reset,
                    CounterResetHint::NoReset,
                    CounterResetHint::Gauge,
                ][usize::from(hint)],
                schema,
                zero_threshold: f64::from_bits(bits[2]),
                sum: f64::from_bits(bits[3]),
                positive_spans: spans(positive).collect(),
                negative_spans: spans(negative).collect(),
                custom_values: if schema < 0 { vec![f64::from_bits(bits[4])] } else { vec![] },
                counts,
            }
        },
    )
}

fn any_batch() -> impl Strategy<Value = SubBatch> {
    let labels = prop::collection::btree_map("[a-c]{0,3}", ".{1,4}", 0..4).prop_map(Labels::from_pairs);
    let definitions = prop::collection::vec((any::<u32>(), any::<u16>(), labels), 0..6);
    let samples = prop::collection::vec((any::<u32>(), any::<i64>(), any::<u64>(), 0..3i64), 0..40);
    let histograms = prop::collection::vec(
        (any::<u32>(), any::<i64>(), any::<i64>(), any_histogram(), any::<bool>()),
        0..4,
    );
    let metadata = prop::collection::vec((".{0,5}", 0..8u64, ".{0,5}", ".{0,3}"), 0..3);
    (any::<u32>(), any::<i64>(), definitions, samples, histograms, metadata).prop_map(
        |(tenant, floor_ms, definitions, samples, histograms, metadata)| {
            let mut batch = SubBatch { tenant: TenantId(tenant), floor_ms, ..SubBatch::default() };
            for (reference, slot, labels) in definitions {
                batch.definitions.push(Definition {
                    reference: SeriesRef(reference),
                    slot: Slot(slot),
                    labels,
                });
            }
            for (at, (reference, ts_ms, bits, start)) in samples.into_iter().enumerate() {
                batch.refs.push(SeriesRef(reference));
                batch.ts_ms.push(ts_ms);
                batch.values.push(f64::from_bits(bits));
                if start > 0 {
                    batch.starts.push((at as u32, start * 1_000));
                }
            }
            for (reference, ts_ms, start_ms, histogram, twice) in histograms {
                let sample = HistogramSample { reference: SeriesRef(reference), ts_ms, start_ms, histogram };
                batch.histograms.extend(std::iter::repeat_n(sample, 1 + usize::from(twice)));
            }
            for (family, number, help, unit) in metadata {
                let metric_type = MetricType::from_number(number);
                batch.metadata.push(MetadataEntry { family, metric_type, help, unit });
            }
            batch
        },
    )
}

proptest! {
    #[test]
    fn any_batches_round_trip_bit_for_bit(batches in prop::collection::vec(any_batch(), 0..4)) {
        check_round_trip(&data(batches));
    }

    #[test]
    fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        for kind in [RecordKind::Data, RecordKind::FlushMark, RecordKind::Delete, RecordKind::RetentionMark] {
            let mut bytes = Vec::new();
            begin(&header(), kind, &mut bytes);
            bytes.extend_from_slice(&body);
            finish(0, &mut bytes);
            let _ = decode(&bytes);
        }
        prop_assert!(decode(&body).is_err());
    }

    #[test]
    fn damage_under_a_valid_checksum_never_panics(
        batch in any_batch(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes_of(&data(vec![batch]));
        for (at, value) in changes {
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = value;
        }
        finish(0, &mut bytes);
        let _ = decode(&bytes);
        bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES));
        finish(0, &mut bytes);
        let _ = decode(&bytes);
    }
}
