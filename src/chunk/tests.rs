use super::*;
use proptest::prelude::*;
use quorate_model::{BucketCounts, CounterResetHint, Span, stale_nan};
use std::path::Path;

fn histogram(count: u64) -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::NoReset,
        schema: 0,
        zero_threshold: 0.001,
        sum: count as f64 / 2.0,
        positive_spans: vec![Span { offset: 1, length: 2 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Integer {
            count,
            zero_count: 1,
            positive: vec![count as i64, -3],
            negative: vec![],
        },
    }
}

fn buffer(floats: &[(i64, f64)], histograms: &[(i64, u64)]) -> SeriesBuffer {
    let mut out = SeriesBuffer::default();
    out.ts_ms.extend(floats.iter().map(|f| f.0));
    out.values.extend(floats.iter().map(|f| f.1));
    out.histogram_ts_ms.extend(histograms.iter().map(|h| h.0));
    out.histograms.extend(histograms.iter().map(|h| Arc::new(histogram(h.1))));
    out
}

#[test]
fn reading_a_range_keeps_both_ends_and_what_was_there() {
    let first = Chunk::from_floats(&[1, 2], &[1.0, 2.0], &[]).unwrap();
    let second = Chunk::from_floats(&[5, 6, 7], &[5.0, 6.0, 7.0], &[3, 3, 4]).unwrap();
    let mut out = SeriesBuffer::default();
    first.read(TimeRange::new(2, 9), &mut out).unwrap();
    second.read(TimeRange::new(2, 6), &mut out).unwrap();
    assert_eq!((out.ts_ms, out.values, out.start_ms), (vec![2, 5, 6], vec![2.0, 5.0, 6.0], vec![0, 3, 3]));
}

#[test]
fn both_lanes_are_cut_and_read_again() {
    let mut given = buffer(&[(1, 1.0), (4, stale_nan()), (6, -0.0)], &[(2, 10), (3, 20)]);
    given.histogram_start_ms = vec![0, 2];
    let mut chunks = Vec::new();
    cut_buffer(&given, 2, &mut chunks).unwrap();
    assert_eq!(
        chunks.iter().map(|c| (c.lane, c.count)).collect::<Vec<_>>(),
        [(Lane::Float, 2), (Lane::Float, 1), (Lane::Histogram, 2)]
    );
    assert_eq!(chunks.iter().map(|c| c.has_stale).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!((chunks[0].min_ts_ms, chunks[0].max_ts_ms), (1, 4));
    let mut back = SeriesBuffer::default();
    chunks.iter().for_each(|chunk| chunk.read(TimeRange::ALL, &mut back).unwrap());
    assert_eq!(back.histograms, given.histograms);
    assert_eq!(back.histogram_start_ms, given.histogram_start_ms);
    assert_eq!(back.ts_ms, given.ts_ms);
    assert!(back.values.iter().zip(&given.values).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn bad_columns_are_refused() {
    assert!(matches!(Chunk::from_floats(&[], &[], &[]), Err(ChunkError::Length { found: 0, .. })));
    assert!(matches!(Chunk::from_floats(&[1, 2], &[1.0], &[]), Err(ChunkError::Length { .. })));
    assert!(matches!(Chunk::from_floats(&[1], &[1.0], &[1, 2]), Err(ChunkError::Length { .. })));
    let repeated = Chunk::from_floats(&[1, 2, 2], &[1.0; 3], &[]);
    assert_eq!(repeated, Err(ChunkError::OutOfOrder { position: 2 }));
}

#[test]
fn equal_times_have_equal_bytes() {
    let ts_ms: Vec<i64> = (0..120).map(|i| 1_000 + i * 15_000 + i % 3).collect();
    let a = Chunk::from_floats(&ts_ms, &[1.0; 120], &[]).unwrap();
    let b = Chunk::from_floats(&ts_ms, &(0..120).map(f64::from).collect::<Vec<_>>(), &[]).unwrap();
    assert_eq!(a.times, b.times);
    assert_ne!(a.values, b.values);
}

#[test]
fn a_damaged_chunk_leaves_the_buffer_as_it_was() {
    let mut chunk = Chunk::from_floats(&[5, 6, 7], &[5.0, 6.5, 7.0], &[3, 3, 4]).unwrap();
    let mut out = buffer(&[(1, 1.0)], &[]);
    out.start_ms = vec![1];
    let before = out.clone();
    for stream in [&mut chunk.times, &mut chunk.values, &mut chunk.starts] as [&mut Vec<u8>; 3] {
        stream.push(0);
    }
    assert!(chunk.read(TimeRange::ALL, &mut out).is_err());
    chunk.times.pop();
    assert!(chunk.read(TimeRange::ALL, &mut out).is_err());
    chunk.values.pop();
    assert!(chunk.read(TimeRange::ALL, &mut out).is_err());
    assert_eq!(out, before);
    chunk.starts.pop();
    chunk.read(TimeRange::ALL, &mut out).unwrap();
    assert_eq!(out.start_ms, [1, 3, 3, 4]);
}

/// Compares a stream with the bytes kept for its format; `QUORATE_BLESS=1` writes them anew.
#[track_caller]
fn check_golden(name: &str, stream: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, stream).unwrap();
    }
    let kept = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(kept, stream, "the bytes of {name} have changed: a stored format needs a new codec number");
}

#[test]
fn streams_have_the_bytes_of_their_format() {
    let floats = |name: &str, values: &[f64]| {
        let ts_ms: Vec<i64> = (0..values.len() as i64).collect();
        check_golden(name, &Chunk::from_floats(&ts_ms, values, &[]).unwrap().values);
    };
    floats("values-1-constant.bin", &[1.0 / 3.0; 5]);
    floats("values-2-constant-decimal.bin", &[12.5; 5]);
    let mut decimals: Vec<f64> = (0..130).map(|i| f64::from(i * i % 977) / 100.0).collect();
    decimals[3] = stale_nan();
    decimals[4] = -0.0;
    decimals[5] = -0.0;
    decimals[129] = f64::from_bits(0x7ff8_0000_0000_0001);
    floats("values-3-dfor.bin", &decimals);
    floats("values-3-dfor-factor.bin", &(0..70).map(|i| f64::from(i * i * 4_096)).collect::<Vec<_>>());
    floats("values-4-xor.bin", &(1..40).map(|i| 1.0 / f64::from(i)).collect::<Vec<_>>());
    let times = |name: &str, ts_ms: &[i64]| {
        check_golden(name, &Chunk::from_floats(ts_ms, &vec![0.0; ts_ms.len()], &[]).unwrap().times);
    };
    times("times-1-step.bin", &(0..100).map(|i| -5_000 + i * 15_000).collect::<Vec<_>>());
    times("times-2-line.bin", &(0..100).map(|i| i * 15_000 + i * i % 7).collect::<Vec<_>>());
    times("times-3-deltas.bin", &(0..100).map(|i| if i < 50 { i } else { i * 1_000 }).collect::<Vec<_>>());
    let started = Chunk::from_floats(&[1, 2, 3, 4], &[1.0; 4], &[0, 7, 7, 9]).unwrap();
    check_golden("starts-1-changes.bin", &started.starts);
    let stale = Histogram { sum: stale_nan(), ..histogram(0) };
    let float = Histogram {
        counts: BucketCounts::Float {
            count: 1.5,
            zero_count: 0.0,
            positive: vec![0.5, 1.0],
            negative: vec![],
        },
        ..histogram(3)
    };
    let histograms = [histogram(10), histogram(14), stale, float, histogram(15)];
    let chunk = Chunk::from_histograms(&[1, 2, 3, 4, 5], &histograms, &[]).unwrap();
    check_golden("histogram-1.bin", &chunk.values);
}

proptest! {
    #[test]
    fn ranges_read_what_a_plain_filter_keeps(
        steps in prop::collection::vec((1i64..5, any::<u64>(), 0i64..3), 1..60),
        start in -50i64..200,
        length in -5i64..200,
    ) {
        let mut last = 0;
        let ts_ms: Vec<i64> = steps.iter().map(|s| { last += s.0; last }).collect();
        let values: Vec<f64> = steps.iter().map(|s| f64::from_bits(s.1)).collect();
        let starts: Vec<i64> = steps.iter().map(|s| s.2).collect();
        let chunk = Chunk::from_floats(&ts_ms, &values, &starts).unwrap();
        let range = TimeRange::new(start, start + length);
        let mut out = SeriesBuffer::default();
        chunk.read(range, &mut out).unwrap();
        let mut shared = SeriesBuffer::default();
        chunk.as_ref().read_at(&ts_ms, range, &mut shared).unwrap();
        prop_assert_eq!(&shared.ts_ms, &out.ts_ms);
        prop_assert_eq!(&shared.start_ms, &out.start_ms);
        prop_assert_eq!(shared.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), out.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        let kept: Vec<usize> = (0..ts_ms.len()).filter(|i| range.contains(ts_ms[*i])).collect();
        prop_assert_eq!(out.ts_ms, kept.iter().map(|i| ts_ms[*i]).collect::<Vec<_>>());
        let bits: Vec<u64> = out.values.iter().map(|v| v.to_bits()).collect();
        prop_assert_eq!(bits, kept.iter().map(|i| values[*i].to_bits()).collect::<Vec<_>>());
        if starts.iter().any(|s| *s != 0) {
            prop_assert_eq!(out.start_ms, kept.iter().map(|i| starts[*i]).collect::<Vec<_>>());
        }
    }
}
