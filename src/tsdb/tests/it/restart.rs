//! Whatever was done before a crash, a replay of the log leads to the same state and the same answers.

use crate::support::*;
use quorate_model::{LogRecord, Position, RecordBody, SessionId, TimeRange};

/// A log with everything in it: chunks that fill, windows that change, late and out-of-order samples, conflicts,
/// histograms, start timestamps, marks that are too late, deletes, retention and sessions.
fn log() -> Vec<LogRecord> {
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
