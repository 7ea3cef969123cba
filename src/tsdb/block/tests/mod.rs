//! Blocks against a plain list of series: whatever is written, selected or read must agree with it.

mod damage;
mod golden;
mod merging;
mod selecting;

use super::*;
use proptest::prelude::*;
use quorate_chunk::{Chunk, cut_buffer};
use quorate_kv::{KvOptions, MemKv, RocksKv};
use quorate_model::{
    BucketCounts, CounterResetHint, Histogram, MatchOp, Matcher, PartitionId, SeriesBuffer, Span, TenantId,
    TimeRange,
};
use std::sync::Arc;

pub(super) const HOUR: i64 = 3_600_000;

/// One series as the tests know it: time, value bits or histogram count, start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) tenant: TenantId,
    pub(super) labels: Labels,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Float(u64),
    Histogram(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) ts_ms: i64,
    pub(super) value: Value,
    pub(super) start_ms: i64,
}

pub(super) fn float(ts_ms: i64, value: f64) -> Sample {
    Sample { ts_ms, value: Value::Float(value.to_bits()), start_ms: 0 }
}

pub(super) fn labels(text: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(text.iter().copied())
}

fn histogram(count: u64) -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::Unknown,
        schema: 0,
        zero_threshold: 0.5,
        sum: count as f64,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        negative_spans: vec![],
        custom_values: vec![],
        counts: BucketCounts::Integer {
            count,
            zero_count: 0,
            positive: vec![count as i64],
            negative: vec![],
        },
    }
}

pub(super) fn buffer(samples: &[Sample]) -> SeriesBuffer {
    let mut out = SeriesBuffer::default();
    let starts = samples.iter().any(|s| s.start_ms != 0);
    for sample in samples {
        match sample.value {
            Value::Float(bits) => {
                out.ts_ms.push(sample.ts_ms);
                out.values.push(f64::from_bits(bits));
                out.start_ms.extend(starts.then_some(sample.start_ms));
            }
            Value::Histogram(count) => {
                out.histogram_ts_ms.push(sample.ts_ms);
                out.histograms.push(Arc::new(histogram(count)));
                out.histogram_start_ms.extend(starts.then_some(sample.start_ms));
            }
        }
    }
    out
}

/// The samples of a buffer in time order.
pub(super) fn samples(buffer: &SeriesBuffer) -> Vec<Sample> {
    let start = |starts: &[i64], at: usize| starts.get(at).copied().unwrap_or(0);
    let floats = buffer.ts_ms.iter().zip(&buffer.values).enumerate().map(|(at, (ts_ms, value))| Sample {
        ts_ms: *ts_ms,
        value: Value::Float(value.to_bits()),
        start_ms: start(&buffer.start_ms, at),
    });
    let histograms =
        buffer.histogram_ts_ms.iter().zip(&buffer.histograms).enumerate().map(|(at, (ts_ms, h))| {
            let BucketCounts::Integer { count, .. } = h.counts else {
                panic!("only integer histograms are written")
            };
            assert_eq!(h.as_ref(), &histogram(count));
            Sample {
                ts_ms: *ts_ms,
                value: Value::Histogram(count),
                start_ms: start(&buffer.histogram_start_ms, at),
            }
        });
    let mut out: Vec<Sample> = floats.chain(histograms).collect();
    out.sort_by_key(|sample| sample.ts_ms);
    out
}

pub(super) fn spec(counter: u64, generation: u32) -> BlockSpec {
    BlockSpec {
        id: BlockId::new(1, counter),
        partition: PartitionId(0),
        window_start_ms: 0,
        window_length_ms: HOUR,
        tier: Tier::Hour,
        generations: vec![GenerationRef { window_start_ms: 0, window_length_ms: HOUR, generation }],
    }
}

/// Writes series, which need not be sorted, as one block. Chunks hold up to `chunk` samples.
pub(super) fn write(kv: &dyn Kv, spec: BlockSpec, series: &[Series], chunk: usize) -> BlockMeta {
    let mut sorted: Vec<&Series> = series.iter().filter(|s| !s.samples.is_empty()).collect();
    sorted.sort_by(|a, b| a.tenant.cmp(&b.tenant).then_with(|| series_order(&a.labels, &b.labels)));
    let mut writer = BlockWriter::new(kv, spec).unwrap();
    for series in sorted {
        let mut chunks: Vec<Chunk> = Vec::new();
        cut_buffer(&buffer(&series.samples), chunk, &mut chunks).unwrap();
        writer.push(series.tenant, &series.labels, &chunks).unwrap();
    }
    writer.finish().unwrap()
}

pub(super) fn open(kv: &Arc<dyn Kv>, meta: &BlockMeta) -> BlockReader {
    BlockReader::open(Arc::clone(kv), Arc::new(BlockCache::new(1 << 20)), meta.clone()).unwrap()
}

pub(super) fn mem() -> (Arc<MemKv>, Arc<dyn Kv>) {
    let mem = Arc::new(MemKv::new());
    (Arc::clone(&mem), mem)
}

/// Everything a block holds, in its order.
pub(super) fn content(reader: &BlockReader) -> Vec<Series> {
    let mut out = Vec::new();
    for tenant in reader.tenants() {
        for ordinal in 0..reader.series_count(tenant).unwrap() {
            let mut buffer = SeriesBuffer::default();
            reader.read(tenant, ordinal, TimeRange::ALL, &mut buffer).unwrap();
            let labels = reader.labels(tenant, ordinal).unwrap();
            out.push(Series { tenant, labels, samples: samples(&buffer) });
        }
    }
    out
}

fn any_label_set() -> impl Strategy<Value = Labels> {
    let pair = ("(__name__|A|a|b|job|instance)", "[a-c]{1,2}|é|node-[0-3]");
    prop::collection::vec(pair, 0..5).prop_map(Labels::from_pairs)
}

fn any_samples() -> impl Strategy<Value = Vec<Sample>> {
    let value = prop_oneof![
        3 => (-100i64..100).prop_map(|v| Value::Float((v as f64 / 4.0).to_bits())),
        1 => any::<u64>().prop_map(Value::Float),
        1 => (0u64..50).prop_map(Value::Histogram),
    ];
    let sample = (value, prop_oneof![3 => Just(0i64), 1 => 1i64..5]);
    prop::collection::btree_map(0i64..HOUR, sample, 1..30).prop_map(|samples| {
        let sample = |(ts_ms, (value, start_ms))| Sample { ts_ms, value, start_ms };
        samples.into_iter().map(sample).collect()
    })
}

pub(super) fn any_series() -> impl Strategy<Value = Vec<Series>> {
    let one = ((0u32..3, any_label_set()), any_samples());
    prop::collection::vec(one, 0..30).prop_map(|series| {
        let unique: std::collections::BTreeMap<_, _> = series.into_iter().collect();
        let series = |((tenant, labels), samples)| Series { tenant: TenantId(tenant * 7), labels, samples };
        unique.into_iter().map(series).collect()
    })
}

/// What a plain list says about a selection.
pub(super) fn expected<'a>(series: &'a [Series], tenant: TenantId, matchers: &[Matcher]) -> Vec<&'a Labels> {
    let passes = |s: &&Series| {
        s.tenant == tenant && matchers.iter().all(|m| m.matches(s.labels.get(m.name()).unwrap_or("")))
    };
    let mut found: Vec<&Labels> = series.iter().filter(passes).map(|s| &s.labels).collect();
    found.sort_by(|a, b| series_order(a, b));
    found
}

#[track_caller]
pub(super) fn check_select(reader: &BlockReader, series: &[Series], tenant: TenantId, matchers: &[Matcher]) {
    let found = reader.select(tenant, matchers).unwrap();
    let labels: Vec<Labels> = found.iter().map(|ordinal| reader.labels(tenant, ordinal).unwrap()).collect();
    assert_eq!(labels.iter().collect::<Vec<_>>(), expected(series, tenant, matchers), "{matchers:?}");
}

#[test]
fn both_stores_hold_a_block_and_lose_it_when_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let rocks: Arc<dyn Kv> = Arc::new(RocksKv::open(dir.path(), &KvOptions::default()).unwrap());
    let series: Vec<Series> = (0..700i64)
        .map(|i| Series {
            tenant: TenantId(u32::from(i % 3 == 0)),
            labels: labels(&[("__name__", "up"), ("instance", &format!("host-{i}"))]),
            samples: (0..50).map(|t| float(t * 15_000, (i * t) as f64)).collect(),
        })
        .collect();
    for kv in [mem().1, rocks] {
        let meta = write(kv.as_ref(), spec(1, 0), &series, 120);
        let other = write(kv.as_ref(), spec(2, 1), &series[..5], 120);
        assert_eq!((meta.series, meta.samples), (700, 35_000));
        assert_eq!((meta.min_ts_ms, meta.max_ts_ms), (0, 49 * 15_000));
        let reader = open(&kv, &meta);
        reader.verify().unwrap();
        assert_eq!(content(&reader).len(), 700);
        let one = Matcher::equal("instance", "host-13");
        check_select(&reader, &series, TenantId(0), &[one]);
        assert_eq!(stored_ids(kv.as_ref()).unwrap(), [meta.id(), other.id()].into());
        remove(kv.as_ref(), meta.id()).unwrap();
        assert_eq!(stored_ids(kv.as_ref()).unwrap(), [other.id()].into());
        assert!(BlockReader::open(Arc::clone(&kv), Arc::new(BlockCache::new(0)), meta).is_err());
        open(&kv, &other).verify().unwrap();
    }
}

#[test]
fn series_out_of_order_are_refused() {
    let (_, kv) = mem();
    let chunk = [Chunk::from_floats(&[1], &[1.0], &[]).unwrap()];
    let (a, b) = (labels(&[("__name__", "b")]), labels(&[("A", "z"), ("__name__", "c")]));
    let mut writer = BlockWriter::new(kv.as_ref(), spec(1, 0)).unwrap();
    writer.push(TenantId(1), &a, &chunk).unwrap();
    writer.push(TenantId(1), &b, &chunk).unwrap();
    for (tenant, labels, chunks) in
        [(1, &a, &chunk[..]), (1, &b, &chunk), (0, &a, &chunk), (u32::MAX, &a, &chunk), (2, &a, &[])]
    {
        assert!(matches!(writer.push(TenantId(tenant), labels, chunks), Err(StoreError::Damaged { .. })));
    }
    drop(writer);
    assert!(stored_ids(kv.as_ref()).unwrap().is_empty(), "a block that was given up leaves nothing");
}

#[test]
fn the_content_checksum_does_not_depend_on_the_cut() {
    let (_, kv) = mem();
    let mut series = vec![Series {
        tenant: TenantId(1),
        labels: labels(&[("__name__", "up")]),
        samples: (0..500).map(|t| float(t * 1_000, t as f64 / 3.0)).collect(),
    }];
    let whole = write(kv.as_ref(), spec(1, 0), &series, 500);
    let cut = write(kv.as_ref(), spec(2, 3), &series, 7);
    assert_eq!(whole.content_checksum, cut.content_checksum);
    series[0].samples[100] = float(100_000, -0.0);
    let changed = write(kv.as_ref(), spec(3, 0), &series, 500);
    assert_ne!(whole.content_checksum, changed.content_checksum);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blocks_hold_what_was_written(series in any_series(), chunk in 1usize..40, start in -10i64..HOUR, length in 0..HOUR) {
        let (_, kv) = mem();
        let meta = write(kv.as_ref(), spec(9, 0), &series, chunk);
        prop_assert_eq!(&BlockMeta::decode(&meta.encode()).unwrap(), &meta);
        let reader = open(&kv, &meta);
        reader.verify().unwrap();
        let mut sorted = series;
        sorted.sort_by(|a, b| a.tenant.cmp(&b.tenant).then_with(|| series_order(&a.labels, &b.labels)));
        prop_assert_eq!(content(&reader), sorted.clone());
        let range = TimeRange::new(start, start + length);
        for tenant in reader.tenants() {
            let of_tenant = sorted.iter().filter(|s| s.tenant == tenant);
            for (ordinal, series) in of_tenant.enumerate() {
                let mut out = SeriesBuffer::default();
                reader.read(tenant, ordinal as u32, range, &mut out).unwrap();
                let kept: Vec<Sample> = series.samples.iter().filter(|s| range.contains(s.ts_ms)).copied().collect();
                prop_assert_eq!(samples(&out), kept);
            }
        }
    }
}
