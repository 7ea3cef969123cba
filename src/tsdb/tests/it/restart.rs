//! Whatever was done before a crash, a replay of the log leads to the same state and the same answers.

use crate::support::*;
use quorate_model::{
    BucketCounts, Histogram, HistogramSample, Labels, LogRecord, Position, RecordBody, SeriesRef, SessionId,
    Span, TimeRange,
};
use quorate_tsdb::StoreConfig;

/// A log with everything in it: chunks that fill, windows that change, late and out-of-order samples, conflicts,
/// histograms, start timestamps, marks that are too late, deletes, retention and sessions.
pub(crate) fn log() -> Vec<LogRecord> {
    let mut log = vec![metadata("up", "first"), metadata("down", "d")];
    (0..130).for_each(|i| log.push(scrape(0..3, i * 15_000)));
    log.push(floats(&[(0, 7_000, 1.5), (0, 15_000, 9.0), (1, 15_000, 2.0), (4, 5, f64::NAN)]));
    (0..40).for_each(|i| log.push(with_histogram(5, i * 60_000, i as u64)));
    log.push(with_histogram(0, HOUR + 5, 3));
    let mut started = batch(&[(6, HOUR, 1.0), (6, HOUR + 1, 2.0), (6, HOUR + 2, 3.0)]);
    started.starts = vec![(0, 77), (2, 99)];
    log.push(data(1, started));
    log.push(mark(0, 0));
    log.push(floats(&[(0, 8_000, 2.5), (0, 7_000, 3.5), (2, 30_000, -1.0)]));
    log.push(mark(0, 0));
    log.push(metadata("up", "second"));
    log.push(delete(0, TimeRange::new(0, 20_000)));
    log.push(floats(&[(0, 7_000, 8.5), (1, -5, 1.0), (1, -4, 2.0)]));
    log.push(mark(0, 2));
    log.push(mark(-1, 0));
    log.push(mark(1, 0));
    log.push(data(2, batch(&[(0, 2 * HOUR, 4.0), (9, 2 * HOUR, 5.0)])));
    log.push(LogRecord {
        header: header(2),
        body: RecordBody::SessionForget(SessionId { node: 1, incarnation: 2 }),
    });
    log.push(data(3, batch(&[(0, 3 * HOUR, 4.0)])));
    log.push(retention(10_000));
    log.push(floats(&[(0, 3 * HOUR + 1, 1.0)]));
    log
}

fn reference(log: &[LogRecord]) -> Answers {
    let node = Node::new();
    node.replay(log);
    read(node.store(), TimeRange::ALL)
}

#[test]
fn restart_at_every_record_equals_never_restarted() {
    let log = log();
    let expected = reference(&log);
    assert!(expected.samples.len() > 400 && expected.starts.len() == 2);
    for cut in 0..log.len() {
        let mut node = Node::new();
        node.replay(&log[..cut]);
        match cut % 4 {
            0 => assert_eq!(node.store().cut_image().unwrap(), Position(cut as u64)),
            1 => assert!(node.store().flush().is_ok()),
            2 => {
                node.store().flush().unwrap();
                node.store().cut_image().unwrap();
            }
            _ => {
                node.store().cut_image().unwrap();
                node.store().flush().unwrap();
                node.store().merge(i64::MAX / 2).unwrap();
            }
        }
        node.restart();
        assert_eq!(node.store().applied(), node.store().durable());
        node.replay(&log);
        assert_eq!(read(node.store(), TimeRange::ALL), expected, "cut at {cut}");
        node.store().flush().unwrap();
        node.store().merge(i64::MAX / 2).unwrap();
        node.store().cut_image().unwrap();
        assert_eq!(read(node.store(), TimeRange::ALL), expected, "flushed after a cut at {cut}");
        node.restart();
        assert_eq!(read(node.store(), TimeRange::ALL), expected, "read from disk after a cut at {cut}");
    }
}

/// What is applied depends on the log alone: no setting around it, even one that changes on the way, refuses or
/// cuts anything. Samples of any age, long labels, many series and wide histograms are in the log, for the
/// gateway took them.
#[test]
fn limit_change_between_replicas() {
    let mut log = log();
    log.push(data(4, batch(&[(0, i64::MIN, 1.0), (0, i64::MAX, 2.0), (1, -40 * 24 * HOUR, 3.0)])));
    log.push(data(4, batch(&(0..5_000).map(|i| (i, 9 * HOUR, f64::from(i))).collect::<Vec<_>>())));
    let long = Labels::from_pairs([("__name__", "x".repeat(5_000)), ("v", "y".repeat(100_000))]);
    let mut wide = batch(&[(6_000, HOUR, 1.0)]);
    wide.definitions[0].labels = long;
    wide.floor_ms = i64::MAX;
    wide.histograms.push(HistogramSample {
        reference: SeriesRef(6_000),
        ts_ms: HOUR + 1,
        start_ms: 0,
        histogram: wide_histogram(2_000),
    });
    log.push(data(4, wide));
    let strict =
        StoreConfig { close_delay_ms: 0, late_budget_bytes: 1, late_delay_ms: 0, ..StoreConfig::default() };
    let lax = StoreConfig {
        close_delay_ms: i64::MAX / 4,
        late_budget_bytes: u64::MAX,
        late_delay_ms: i64::MAX / 4,
        ..StoreConfig::default()
    };
    let expected = reference(&log);
    assert!(expected.samples.len() > 5_400);
    for configs in [[&strict, &lax], [&lax, &strict]] {
        let mut node = Node::with_config(configs[0].clone());
        for (at, record) in log.iter().enumerate() {
            if at == log.len() / 2 {
                node.store().cut_image().unwrap();
                node.restart_with(configs[1].clone());
            }
            node.store().apply(Position(at as u64 + 1), record).unwrap();
            // What is due differs, and is not in the log.
            node.store().marks_due(at as i64 * HOUR);
            node.store().retention_due(at as i64 * HOUR, |_| HOUR);
        }
        assert_eq!(read(node.store(), TimeRange::ALL), expected);
        node.store().flush().unwrap();
        assert_eq!(read(node.store(), TimeRange::ALL), expected, "flushed");
    }
}

fn wide_histogram(buckets: u32) -> Histogram {
    let counts = BucketCounts::Integer {
        count: u64::from(buckets),
        zero_count: 0,
        positive: (0..buckets).map(|at| i64::from(at == 0)).collect(),
        negative: Vec::new(),
    };
    Histogram { positive_spans: vec![Span { offset: 0, length: buckets }], counts, ..histogram(0) }
}

#[test]
fn apply_twice_is_once() {
    let log = log();
    let node = Node::new();
    for (at, record) in log.iter().enumerate() {
        node.store().apply(Position(at as u64 + 1), record).unwrap();
        let again = node.store().apply(Position(at as u64 + 1), record).unwrap();
        assert!(again.sub_batches.is_empty());
        node.store().apply(Position(at as u64 / 2), record).unwrap();
    }
    assert_eq!(read(node.store(), TimeRange::ALL), reference(&log));
}

#[test]
fn a_crash_between_ingest_and_cat_leaves_nothing_behind() {
    let log = log();
    let expected = reference(&log);
    let mut node = Node::new();
    node.replay(&log);
    node.kv.refuse_cat(true);
    assert!(node.store().flush().is_err());
    assert!(node.store().cut_image().is_err());
    node.kv.refuse_cat(false);
    assert_eq!(read(node.store(), TimeRange::ALL), expected);
    node.restart();
    assert_eq!(quorate_tsdb::block::stored_ids(node.kv.as_ref()).unwrap().len(), 0);
    assert_eq!((node.store().applied(), node.files().len()), (Position(0), 0));
    node.replay(&log);
    assert!(node.store().flush().unwrap().blocks > 0);
    assert_eq!(read(node.store(), TimeRange::ALL), expected);
}

#[test]
fn an_image_that_failed_loses_no_definition() {
    let log = log();
    let expected = reference(&log);
    let mut node = Node::new();
    node.replay(&log[..50]);
    node.store().cut_image().unwrap();
    node.replay(&log[..90]);
    node.kv.refuse_cat(true);
    assert!(node.store().cut_image().is_err());
    node.kv.refuse_cat(false);
    node.replay(&log);
    node.store().cut_image().unwrap();
    node.restart();
    assert_eq!(node.store().applied(), Position(log.len() as u64));
    assert_eq!(read(node.store(), TimeRange::ALL), expected);
    assert_eq!(node.files().len(), 2, "one image and one series log stay");
}

#[test]
fn damaged_files_and_missing_ones_are_errors() {
    let mut node = Node::new();
    node.replay(&log());
    node.store().cut_image().unwrap();
    node.store = None;
    for name in node.files() {
        let path = node.dir().join(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(node.open().is_err(), "{path:?} damaged");
        std::fs::remove_file(&path).unwrap();
        assert!(node.open().is_err(), "{path:?} missing");
        std::fs::write(&path, &good).unwrap();
    }
    node.open().unwrap();
}

#[test]
fn rocksdb_holds_the_same_over_restarts() {
    use quorate_kv::{KvOptions, RocksKv};
    use quorate_model::PartitionId;
    use quorate_tsdb::{Disk, PartitionStore, StoreConfig};
    use std::sync::Arc;
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let expected = reference(&log);
    for cut in [40, 120, log.len() - 4, log.len()] {
        let kv = Arc::new(RocksKv::open(&dir.path().join("kv"), &KvOptions::default()).unwrap());
        let disk = Disk::open(kv, 1, 8 << 20).unwrap();
        let (path, config) = (dir.path().join("p3"), StoreConfig::default());
        let store = PartitionStore::open(&disk, &path, PartitionId(3), config).unwrap();
        for (at, record) in log[..cut].iter().enumerate() {
            store.apply(Position(at as u64 + 1), record).unwrap();
        }
        store.flush().unwrap();
        store.merge(i64::MAX / 2).unwrap();
        store.cut_image().unwrap();
        if cut == log.len() {
            assert_eq!(read(&store, TimeRange::ALL), expected);
        }
    }
}
