//! Queries while records are applied, generations sealed, blocks published and merged, and idle series freed.

use crate::support::*;
use quorate_model::{Position, SeriesBuffer, TimeRange};
use quorate_tsdb::{PartitionStore, SelectLimits, Unmetered};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const SERIES: u32 = 20;
const ROUNDS: i64 = 1_000;
/// Distance between two samples of a series: six in a window, each cut into a generation of its own.
const STEP_MS: i64 = HOUR / 6;

/// Checks that a query sees each sample up to `applied` once, and none that was not written. `applied` is the round
/// before the one that is being applied.
fn check_query(store: &PartitionStore, applied: &AtomicI64) {
    let at_least = applied.load(Ordering::SeqCst);
    let selection = store.select(TENANT, &[], TimeRange::ALL, SelectLimits::NONE, &Unmetered).unwrap();
    assert!(at_least < 0 || selection.len() == SERIES as usize);
    let mut out = SeriesBuffer::default();
    for index in 0..selection.len() {
        selection.read(index, &mut out).unwrap();
        // Unsealed samples are copied when they are read.
        let (seen, at_most) = (out.ts_ms.len() as i64, applied.load(Ordering::SeqCst) + 2);
        assert!(seen > at_least && seen <= at_most, "{seen} of {} to {at_most} samples", at_least + 1);
        assert!(out.ts_ms.iter().enumerate().all(|(n, ts)| *ts == n as i64 * STEP_MS));
    }
}

/// In each round a sample comes to each series and a generation is cut, and the next round waits for a query that
/// began after both; blocks are published and merged, images cut and rows freed all the while.
#[test]
fn query_during_publish_1000x() {
    let node = Node::new();
    let store = node.store();
    let (applied, queries, done) = (AtomicI64::new(-1), AtomicI64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Ends the other threads when this one fails.
        let _end = SetWhenDropped(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                let _end = SetWhenDropped(&done);
                while !done.load(Ordering::SeqCst) {
                    check_query(store, &applied);
                    queries.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let background = scope.spawn(|| {
            let _end = SetWhenDropped(&done);
            let mut published = 0;
            while !done.load(Ordering::SeqCst) {
                published += store.flush().unwrap().blocks;
                store.merge(i64::MAX / 2).unwrap();
                store.cut_image().unwrap();
                store.free_idle(i64::MAX);
            }
            published
        });
        for round in 0..ROUNDS {
            let position = 2 * round as u64 + 1;
            store.apply(Position(position), &scrape(0..SERIES, round * STEP_MS)).unwrap();
            applied.store(round, Ordering::SeqCst);
            store.apply(Position(position + 1), &mark(round / 6, (round % 6) as u32)).unwrap();
            // Of three queries that end from now on, two by one thread, one began after the mark.
            let until = queries.load(Ordering::SeqCst) + 3;
            while queries.load(Ordering::SeqCst) < until && !done.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::SeqCst);
        let published = background.join().unwrap();
        assert!(published > 100, "only {published} blocks were published beside");
    });
    store.flush().unwrap();
    check_query(store, &applied);
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
