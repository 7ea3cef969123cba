//! Queries while records are applied, generations sealed, blocks published and merged, and idle series freed.

use crate::support::*;
use quorate_model::{Position, SeriesBuffer, TimeRange};
use quorate_tsdb::{PartitionStore, SelectLimits, Unmetered};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const SERIES: u32 = 40;
const ROUNDS: i64 = 300;

/// Checks that a query sees each sample up to `applied` once, and none that was not written.
fn check_query(store: &PartitionStore, applied: &AtomicI64) {
    let at_least = applied.load(Ordering::SeqCst);
    let selection = store.select(TENANT, &[], TimeRange::ALL, SelectLimits::NONE, &Unmetered).unwrap();
    assert!(at_least < 0 || selection.len() == SERIES as usize);
    let mut out = SeriesBuffer::default();
    for index in 0..selection.len() {
        selection.read(index, &mut out).unwrap();
        assert!(out.ts_ms.len() as i64 > at_least, "{} of {} samples", out.ts_ms.len(), at_least + 1);
        assert!(out.ts_ms.iter().enumerate().all(|(n, ts)| *ts == n as i64 * 600_000));
    }
}

#[test]
fn query_during_publish_sees_every_sample_once() {
    let node = Node::new();
    let store = node.store();
    let (applied, done) = (AtomicI64::new(-1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut queries = 0;
                    while !done.load(Ordering::SeqCst) || queries == 0 {
                        check_query(store, &applied);
                        queries += 1;
                    }
                    queries
                })
            })
            .collect();
        let background = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.flush().unwrap();
                store.merge(i64::MAX / 2).unwrap();
                store.cut_image().unwrap();
                store.free_idle(i64::MAX);
            }
        });
        let mut position = 0;
        let mut apply = |record| {
            position += 1;
            store.apply(Position(position), &record).unwrap();
        };
        for round in 0..ROUNDS {
            apply(scrape(0..SERIES, round * 600_000));
            applied.store(round, Ordering::SeqCst);
            if round % 2 == 1 {
                let window = round / 6;
                apply(mark(window, (round % 6 / 2) as u32));
            }
        }
        done.store(true, Ordering::SeqCst);
        background.join().unwrap();
        let queries: i32 = readers.into_iter().map(|r| r.join().unwrap()).sum();
        assert!(queries > 10, "only {queries} queries ran beside");
    });
    check_query(store, &applied);
}
