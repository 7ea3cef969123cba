//! One suite for every driver of [`PartitionLog`]. It panics where a log breaks the contract.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::{ErrorCode, Position};

use crate::{LogEntry, LogReader, PartitionLog};

/// Where one log lives: it can be closed and opened again.
#[async_trait]
pub trait Place: Send {
    /// Opens the log; what an earlier one committed is there.
    async fn open(&mut self) -> Arc<dyn PartitionLog>;
    /// Closes it in an orderly way.
    async fn close(&mut self);
    /// Has the entries up to `up_to` forgotten. Whether that can be done here.
    async fn trim(&mut self, log: &dyn PartitionLog, up_to: Position) -> bool {
        log.trim(up_to).await.expect("a trim succeeds");
        true
    }
}

/// Runs the whole suite; `make` gives a new, empty place each time.
pub async fn check_log<P: Place>(make: impl Fn() -> P) {
    positions_increase_and_survive_reopening(make()).await;
    readers_see_everything_once_and_in_order(make()).await;
    readers_follow_the_end(make()).await;
    concurrent_appends_get_one_place_each(make()).await;
    dropped_appends_appear_at_most_once(make()).await;
    dropped_reads_lose_nothing(make()).await;
    trimmed_entries_are_gone_and_the_rest_stays(make()).await;
    a_log_shorter_than_its_reader_is_an_error(make()).await;
    entries_of_any_length_come_back(make()).await;
}

fn entry(number: u64) -> Bytes {
    Bytes::from(number.to_be_bytes().to_vec())
}

/// Appends `numbers` one after the other.
async fn append(log: &dyn PartitionLog, numbers: std::ops::Range<u64>) -> Vec<LogEntry> {
    let mut appended = Vec::new();
    for number in numbers {
        let position = log.append(entry(number)).await.expect("an append succeeds");
        appended.push(LogEntry::new(position, entry(number)));
    }
    appended
}

async fn read(reader: &mut dyn LogReader, count: usize) -> Vec<LogEntry> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = reader.next().await.expect("a read succeeds");
        assert!(!next.is_empty(), "a read returns at least one entry");
        found.extend(next);
    }
    found
}

/// Reads everything that is committed now.
async fn read_all(log: &dyn PartitionLog, after: Position) -> Vec<LogEntry> {
    let end = log.committed().await.expect("the committed position");
    let mut reader = log.read_from(after);
    let mut found: Vec<LogEntry> = Vec::new();
    while found.last().map_or(after, |last| last.position) < end {
        found.extend(reader.next().await.expect("a read succeeds"));
    }
    found
}

fn assert_increasing(entries: &[LogEntry]) {
    assert!(entries.is_sorted_by(|a, b| a.position < b.position), "positions increase: {entries:?}");
}

async fn positions_increase_and_survive_reopening(mut place: impl Place) {
    let mut all = Vec::new();
    let mut incarnation = None;
    for round in 0..4 {
        let log = place.open().await;
        assert_ne!(log.incarnation(), 0);
        assert_eq!(*incarnation.get_or_insert(log.incarnation()), log.incarnation());
        let before = log.committed().await.expect("the committed position");
        assert_eq!(before, all.last().map_or(Position(0), |last: &LogEntry| last.position));
        all.extend(append(&*log, round * 10..round * 10 + 10).await);
        assert_increasing(&all);
        assert!(all[0].position > Position(0), "0 is before every entry");
        assert_eq!(read_all(&*log, Position(0)).await, all);
        place.close().await;
    }
}

async fn readers_see_everything_once_and_in_order(mut place: impl Place) {
    let log = place.open().await;
    let all = append(&*log, 0..300).await;
    assert_eq!(read(&mut *log.read_from(Position(0)), 300).await, all);
    for skip in [0, 1, 150, 298] {
        let mut reader = log.read_from(all[skip].position);
        assert_eq!(read(&mut *reader, all.len() - skip - 1).await, all[skip + 1..], "after {skip}");
    }
    place.close().await;
}

async fn readers_follow_the_end(mut place: impl Place) {
    let log = place.open().await;
    let mut early = log.read_from(Position(0));
    let mut expected = Vec::new();
    for round in 0..20 {
        let waiting = tokio::spawn(async move {
            let next = early.next().await.expect("a read succeeds");
            (early, next)
        });
        expected.extend(append(&*log, round..round + 1).await);
        let next;
        (early, next) = waiting.await.expect("the reader's task ends");
        assert_eq!(next, expected[round as usize..]);
    }
    place.close().await;
}

async fn concurrent_appends_get_one_place_each(mut place: impl Place) {
    let log = place.open().await;
    let tasks: Vec<_> = (0..32u64)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { append(&*log, task * 100..task * 100 + 20).await })
        })
        .collect();
    let mut appended = BTreeMap::new();
    for task in tasks {
        let entries = task.await.expect("the task ends");
        assert_increasing(&entries);
        for entry in entries {
            let other = appended.insert(entry.position, entry.payload);
            assert_eq!(other, None, "position {} was given twice", entry.position);
        }
    }
    let found = read_all(&*log, Position(0)).await;
    assert_increasing(&found);
    let found: BTreeMap<Position, Bytes> = found.into_iter().map(|e| (e.position, e.payload)).collect();
    assert_eq!(found, appended);
    place.close().await;
}

/// Polls once and drops.
fn poll_once<T>(mut future: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

async fn dropped_appends_appear_at_most_once(mut place: impl Place) {
    let log = place.open().await;
    let mut acknowledged = Vec::new();
    for number in 0..100 {
        if number % 3 == 0 {
            acknowledged.extend(append(&*log, number..number + 1).await);
        } else if let Poll::Ready(position) = poll_once(log.append(entry(number))) {
            let position = position.expect("an append succeeds");
            acknowledged.push(LogEntry::new(position, entry(number)));
        }
    }
    acknowledged.extend(append(&*log, 100..101).await);
    let found = read_all(&*log, Position(0)).await;
    assert_increasing(&found);
    for entry in &acknowledged {
        assert!(found.contains(entry), "acknowledged entry {entry:?} is missing");
    }
    let mut payloads: Vec<&Bytes> = found.iter().map(|entry| &entry.payload).collect();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), found.len(), "an attempt appears at most once");
    drop(log);
    place.close().await;
    let log = place.open().await;
    assert_eq!(read_all(&*log, Position(0)).await, found, "reopening decides nothing again");
    place.close().await;
}

async fn dropped_reads_lose_nothing(mut place: impl Place) {
    let log = place.open().await;
    let mut reader = log.read_from(Position(0));
    let mut found = Vec::new();
    let mut expected = Vec::new();
    for number in 0..50 {
        if let Poll::Ready(next) = poll_once(reader.next()) {
            found.extend(next.expect("a read succeeds"));
        }
        expected.extend(append(&*log, number..number + 1).await);
        if let Poll::Ready(next) = poll_once(reader.next()) {
            found.extend(next.expect("a read succeeds"));
        }
    }
    let missing = expected.len() - found.len();
    found.extend(read(&mut *reader, missing).await);
    assert_eq!(found, expected);
    place.close().await;
}

async fn trimmed_entries_are_gone_and_the_rest_stays(mut place: impl Place) {
    let log = place.open().await;
    let all = append(&*log, 0..30).await;
    let mut behind = log.read_from(all[3].position);
    if !place.trim(&*log, all[9].position).await {
        return place.close().await;
    }
    place.trim(&*log, all[4].position).await;
    assert_eq!(read_all(&*log, all[9].position).await, all[10..]);
    // It may have fetched them before; skipped silently they are not.
    match behind.next().await {
        Ok(found) => assert_eq!(found[0], all[4], "what was trimmed is not skipped silently"),
        Err(error) => assert_eq!(error.code(), ErrorCode::Corrupt, "{error}"),
    }
    place.close().await;

    let log = place.open().await;
    assert_eq!(read_all(&*log, all[9].position).await, all[10..]);
    let error = log.read_from(Position(0)).next().await.expect_err("trimmed for good");
    assert_eq!(error.code(), ErrorCode::Corrupt, "{error}");
    place.trim(&*log, all[29].position).await;
    assert_eq!(log.committed().await.expect("the committed position"), all[29].position);
    place.close().await;

    let log = place.open().await;
    let more = append(&*log, 30..33).await;
    assert!(more[0].position > all[29].position, "positions of trimmed entries are not given again");
    assert_eq!(read_all(&*log, all[29].position).await, more);
    place.close().await;
}

async fn a_log_shorter_than_its_reader_is_an_error(mut place: impl Place) {
    let log = place.open().await;
    let all = append(&*log, 0..3).await;
    let error = log.read_from(Position(all[2].position.0 + 1_000)).next().await;
    let error = error.expect_err("entries that were committed once are missing");
    assert_eq!(error.code(), ErrorCode::Corrupt, "{error}");
    place.close().await;
}

async fn entries_of_any_length_come_back(mut place: impl Place) {
    let log = place.open().await;
    let mut expected = Vec::new();
    for len in [0usize, 1, 4_096, 300_000, 5 << 20, 0, 70_000] {
        let payload = Bytes::from((0..len).map(|at| (at * 31) as u8).collect::<Vec<_>>());
        let position = log.append(payload.clone()).await.expect("an append succeeds");
        expected.push(LogEntry::new(position, payload));
    }
    assert!(read_all(&*log, Position(0)).await == expected, "payloads differ");
    drop(log);
    place.close().await;
    let log = place.open().await;
    assert!(read_all(&*log, Position(0)).await == expected, "payloads differ after reopening");
    place.close().await;
}
