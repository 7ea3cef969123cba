use super::*;
use proptest::prelude::*;
use quorate_model::stale_nan;

#[track_caller]
fn check(histograms: &[Histogram]) -> usize {
    let mut stream = Vec::new();
    encode(histograms, &mut stream).unwrap();
    let mut back = Vec::new();
    decode(&stream, histograms.len() as u32, &mut back).unwrap();
    assert_eq!(back.len(), histograms.len());
    for (back, given) in back.iter().zip(histograms) {
        assert!(back.same_bits(given), "{back:?} is not {given:?}");
    }
    stream.len()
}

fn integer(counts: &[u64]) -> Histogram {
    let mut last = 0;
    let deltas = counts.iter().map(|c| {
        let delta = *c as i64 - last;
        last = *c as i64;
        delta
    });
    Histogram {
        reset_hint: CounterResetHint::Unknown,
        schema: 3,
        zero_threshold: 2.0f64.powi(-128),
        sum: counts.iter().sum::<u64>() as f64 * 0.25,
        positive_spans: vec![Span { offset: -2, length: counts.len() as u32 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Integer {
            count: counts.iter().sum(),
            zero_count: 0,
            positive: deltas.collect(),
            negative: vec![],
        },
    }
}

#[test]
fn a_busy_integer_histogram_takes_few_bits_a_bucket() {
    let histograms: Vec<_> = (0..120u64)
        .map(|i| integer(&(0..20).map(|b| i * (b % 7) + (i * b * 31 % 5)).collect::<Vec<_>>()))
        .collect();
    let bits = check(&histograms) as f64 * 8.0 / (120.0 * 20.0);
    assert!(bits < 5.0, "{bits} bits a bucket and sample");
    let idle = vec![integer(&[5; 20]); 120];
    assert!(check(&idle) < 110);
}

#[test]
fn layouts_hints_and_stale_markers_are_kept() {
    let mut stale = integer(&[]);
    stale.sum = stale_nan();
    let mut reset = integer(&[1, 2]);
    reset.reset_hint = CounterResetHint::Reset;
    let custom = Histogram { schema: -53, custom_values: vec![0.1, 1.0, f64::INFINITY], ..integer(&[3, 4]) };
    let gauge = Histogram {
        reset_hint: CounterResetHint::Gauge,
        negative_spans: vec![Span { offset: 0, length: 1 }, Span { offset: 3, length: 1 }],
        counts: BucketCounts::Float {
            count: 1.5,
            zero_count: -0.0,
            positive: vec![f64::NAN, 2.0],
            negative: vec![0.25, f64::INFINITY],
        },
        ..integer(&[1, 1])
    };
    check(&[integer(&[1, 2]), stale.clone(), integer(&[3, 4]), reset, custom, gauge.clone(), stale, gauge]);
}

#[test]
fn counts_of_any_bits_are_kept() {
    let mut wild = integer(&[1, 2, 3]);
    wild.negative_spans = vec![Span { offset: 7, length: 2 }];
    wild.counts = BucketCounts::Integer {
        count: u64::MAX,
        zero_count: 1 << 63,
        positive: vec![i64::MIN, i64::MAX, -1],
        negative: vec![i64::MAX; 2],
    };
    check(&[wild.clone(), integer(&[1, 2, 3]), wild]);
}

#[test]
fn more_cells_than_a_chunk_holds_are_refused() {
    let wide = integer(&vec![1; 1 << 16]);
    let error = encode(&vec![wide; 65], &mut Vec::new());
    assert!(matches!(error, Err(ChunkError::TooManyCells { .. })));
}

#[test]
fn spans_that_describe_other_buckets_are_refused() {
    let mut histogram = integer(&[1, 2, 3]);
    histogram.negative_spans = vec![Span { offset: 0, length: u32::MAX }; 2];
    let mut stream = Vec::new();
    let error = ChunkError::Spans { described: 2 * u64::from(u32::MAX), buckets: 0 };
    assert_eq!(encode(&[&histogram], &mut stream), Err(error.clone()));
    // The same in bytes: one sample of a layout that says so.
    stream = vec![VERSION, 1];
    Layout::of(&histogram).write(&mut stream);
    stream.extend([0, 1]);
    write_hints(&[&histogram], &mut stream);
    assert_eq!(decode(&stream, 1, &mut Vec::new()), Err(error));
}

/// 65,536 samples share a layout of 65,000 empty spans or of 8,000 bounds: some 100 KB that would become tens of GB.
#[test]
fn few_bytes_never_become_many_cells() {
    let spans = Histogram { positive_spans: vec![Span { offset: 0, length: 0 }; 65_000], ..integer(&[]) };
    let bounds = Histogram { custom_values: vec![1.0; 8_000], ..integer(&[]) };
    for histogram in [spans, bounds] {
        let samples = vec![&histogram; crate::MAX_SAMPLES];
        let refused = |result| matches!(result, Err(ChunkError::TooManyCells { .. }));
        assert!(refused(encode(&samples, &mut Vec::new())));
        let mut stream = vec![VERSION, 1];
        Layout::of(&histogram).write(&mut stream);
        stream.push(0);
        varint::put(&mut stream, samples.len() as u64);
        write_hints(&samples, &mut stream);
        write_floats(&vec![0.0; samples.len()], &mut stream);
        for _ in 0..2 {
            ints::encode(&vec![0; samples.len()], &mut Scratch::default(), &mut stream);
        }
        assert!(stream.len() < 1 << 18);
        assert!(refused(decode(&stream, samples.len() as u32, &mut Vec::new())));
    }
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![any::<u64>().prop_map(f64::from_bits), (-500i32..500).prop_map(|v| f64::from(v) / 4.0)]
}

/// Spans of `buckets` buckets, some of them empty.
fn spans_of(offsets: &[i32], buckets: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = offsets.iter().map(|offset| Span { offset: *offset, length: 1 }).collect();
    spans.truncate(buckets);
    spans.push(Span { offset: -1, length: (buckets - spans.len()) as u32 });
    spans
}

fn any_counts() -> impl Strategy<Value = BucketCounts> {
    let ints = || prop::collection::vec(any::<i64>(), 0..4);
    let floats = || prop::collection::vec(any_float(), 0..4);
    prop_oneof![
        (any::<u64>(), any::<u64>(), ints(), ints()).prop_map(|(count, zero_count, positive, negative)| {
            BucketCounts::Integer { count, zero_count, positive, negative }
        }),
        (any_float(), any_float(), floats(), floats()).prop_map(|(count, zero_count, positive, negative)| {
            BucketCounts::Float { count, zero_count, positive, negative }
        }),
    ]
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    let offsets = || prop::collection::vec(any::<i32>(), 0..3);
    let rest = (offsets(), offsets(), prop::collection::vec(any_float(), 0..3), any_counts());
    (0u64..4, any::<i8>(), any_float(), any_float(), rest).prop_map(
        |(hint, schema, zero_threshold, sum, (positive_offsets, negative_offsets, custom_values, counts))| {
            let (_, positive, negative) = shape(&counts);
            Histogram {
                reset_hint: hint_of(hint),
                schema,
                zero_threshold,
                sum,
                positive_spans: spans_of(&positive_offsets, positive),
                negative_spans: spans_of(&negative_offsets, negative),
                custom_values,
                counts,
            }
        },
    )
}

proptest! {
    #[test]
    fn histograms_round_trip(pool in prop::collection::vec(any_histogram(), 1..4), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..40)) {
        let histograms: Vec<Histogram> = picks.iter().map(|pick| pick.get(&pool).clone()).collect();
        check(&histograms);
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..100) {
        let _ = decode(&[&[VERSION], &bytes[..]].concat(), count, &mut Vec::new());
    }

    #[test]
    fn one_changed_byte_never_panics(
        histograms in prop::collection::vec(any_histogram(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut stream = Vec::new();
        encode(&histograms, &mut stream).unwrap();
        let at = at.index(stream.len());
        stream[at] = byte;
        let _ = decode(&stream, histograms.len() as u32, &mut Vec::new());
        stream.truncate(at);
        prop_assert!(decode(&stream, histograms.len() as u32, &mut Vec::new()).is_err());
    }
}
