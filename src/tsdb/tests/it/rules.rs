//! The rules of marks, duplicates, deletes, retention, sessions and merges, one by one.

use crate::support::*;
use quorate_model::{
    ErrorCode, FlushMark, LogRecord, Matcher, Position, RecordBody, SeriesRef, SubBatch, TenantId, TimeRange,
};
use quorate_tsdb::{ApplyError, Counters, ReadMeter, SelectLimits, StoreError, Unmetered};

const DAY: i64 = 24 * HOUR;

fn bits(answers: &Answers, i: u32, ts: i64) -> Option<f64> {
    answers.samples.get(&(series(i), ts)).map(|b| f64::from_bits(b.0))
}

#[track_caller]
fn check_values(log: &[LogRecord], expected: &[(u32, i64, Option<f64>)]) {
    let node = Node::new();
    node.replay(log);
    for round in ["in memory", "flushed", "merged"] {
        let answers = read(node.store(), TimeRange::ALL);
        for (i, ts, value) in expected {
            assert_eq!(bits(&answers, *i, *ts), *value, "series {i} at {ts} {round}");
        }
        match round {
            "in memory" => assert!(node.store().flush().is_ok()),
            _ => assert!(node.store().merge(i64::MAX / 2).is_ok()),
        }
    }
}

#[test]
fn first_in_the_log_wins_within_and_across_generations() {
    let log = [
        floats(&[(0, 10, 1.0), (0, 10, 2.0), (0, 20, 3.0)]),
        mark(0, 0),
        floats(&[(0, 10, 4.0), (0, 15, 5.0)]),
        mark(0, 1),
        floats(&[(0, 15, 6.0), (0, 16, 7.0)]),
    ];
    let expected = [(0, 10, Some(1.0)), (0, 15, Some(5.0)), (0, 16, Some(7.0)), (0, 20, Some(3.0))];
    check_values(&log, &expected);
}

#[test]
fn verdicts_add_up_to_the_samples_sent() {
    let node = Node::new();
    let samples = [(0, 10, 1.0), (0, 10, 1.0), (0, 10, 2.0), (0, 5, 7.0), (0, 5, 7.0)];
    let outcome = node.store().apply(Position(1), &floats(&samples)).unwrap();
    let verdict = &outcome.sub_batches[0];
    assert_eq!(verdict.counters, Counters { stored: 2, duplicates: 2, conflicts: 1, ..Counters::default() });
    assert_eq!(verdict.examples.len(), 1);
    assert_eq!((verdict.examples[0].labels.clone(), verdict.examples[0].ts_ms), (series(0), 10));
    node.store().apply(Position(2), &mark(0, 0)).unwrap();
    let outcome = node.store().apply(Position(3), &floats(&[(0, 10, 9.0), (0, 10, 9.0)])).unwrap();
    let late = Counters { late: 1, duplicates: 1, ..Counters::default() };
    assert_eq!(outcome.sub_batches[0].counters, late);
    assert_eq!(node.store().counters(TENANT).total(), 7);
}

#[test]
fn double_flushmark_after_leader_change_is_a_no_op() {
    let mut old_leader = mark(0, 1);
    old_leader.header.epoch = 0;
    let log =
        [floats(&[(0, 10, 1.0)]), mark(0, 0), mark(0, 0), floats(&[(0, 20, 2.0)]), mark(0, 0), old_leader];
    let node = Node::new();
    node.replay(&log);
    assert_eq!(node.store().stats().sealed_generations, 1);
    assert_eq!(node.store().flush().unwrap().blocks, 1);
    let answers = read(node.store(), TimeRange::ALL);
    assert_eq!((bits(&answers, 0, 10), bits(&answers, 0, 20)), (Some(1.0), Some(2.0)));
    node.store().apply(Position(10), &mark(0, 1)).unwrap();
    assert_eq!(node.store().flush().unwrap().blocks, 1);
}

#[test]
fn delete_then_rewrite_at_the_same_time_shows_the_new_sample_only() {
    let all = TimeRange::new(0, 100);
    let log = [
        floats(&[(0, 10, 1.0), (0, 20, 1.0), (1, 10, 1.0)]),
        mark(0, 0),
        floats(&[(0, 30, 1.0)]),
        delete(0, all),
        floats(&[(0, 10, 2.0), (0, 30, 2.0)]),
    ];
    let expected = [(0, 10, Some(2.0)), (0, 20, None), (0, 30, Some(2.0)), (1, 10, Some(1.0)), (1, 30, None)];
    check_values(&log, &expected);
    let sealed = [log.as_slice(), &[mark(0, 2)]].concat();
    check_values(&sealed, &expected);
    let twice = [sealed.as_slice(), &[delete(0, TimeRange::new(30, 30))]].concat();
    check_values(&twice, &[(0, 10, Some(2.0)), (0, 20, None), (0, 30, None)]);
}

#[test]
fn retention_hides_at_once_and_drops_whole_blocks() {
    let node = Node::new();
    let log = [scrape(0..2, 5), scrape(0..2, HOUR + 5), mark(0, 0), mark(1, 0), retention(HOUR)];
    node.replay(&log[..4]);
    assert_eq!(node.store().flush().unwrap().blocks, 2);
    assert_eq!(node.store().retention_due(2 * HOUR, |_| HOUR), [(TENANT, HOUR)]);
    assert_eq!(node.store().retention_due(2 * HOUR, |_| 0), []);
    node.replay(&log);
    assert_eq!(node.store().retention_due(2 * HOUR, |_| HOUR), []);
    assert_eq!((node.store().floor_ms(TENANT), node.store().floor_ms(TenantId(2))), (HOUR, i64::MIN));
    assert_eq!(read(node.store(), TimeRange::ALL).samples.len(), 2);
    let pinned = node.store().select(TENANT, &[], TimeRange::ALL, SelectLimits::NONE, &Unmetered).unwrap();
    assert_eq!(node.store().retain().unwrap(), 1);
    assert_eq!(quorate_tsdb::block::stored_ids(node.kv.as_ref()).unwrap().len(), 2);
    drop(pinned);
    assert_eq!(quorate_tsdb::block::stored_ids(node.kv.as_ref()).unwrap().len(), 1);
    assert_eq!(node.store().retain().unwrap(), 0);
}

#[test]
fn a_day_becomes_one_block_with_the_same_samples() {
    let mut node = Node::new();
    let mut log: Vec<_> = (0..240).map(|i| scrape(0..5, i * 360_000)).collect();
    log.extend((0..24).map(|window| mark(window, 0)));
    log.push(floats(&[(0, 1, 1.0)]));
    log.push(mark(0, 1));
    node.replay(&log);
    let expected = read(node.store(), TimeRange::ALL);
    node.store().flush().unwrap();
    assert_eq!(node.store().stats().blocks, 25);
    assert_eq!(node.store().merge(DAY).unwrap(), 0);
    assert_eq!(node.store().merge(DAY + HOUR).unwrap(), 1);
    assert_eq!(node.store().stats().blocks, 1);
    assert_eq!(read(node.store(), TimeRange::ALL), expected);
    node.restart();
    node.replay(&log);
    node.store().flush().unwrap();
    assert_eq!((node.store().stats().blocks, node.store().stats().sealed_generations), (1, 0));
    assert_eq!(read(node.store(), TimeRange::ALL), expected);
}

#[test]
fn marks_are_due_after_the_end_of_a_window_and_for_late_samples() {
    let node = Node::new();
    let due = |now| node.store().marks_due(now);
    let of = |window: i64, generation| FlushMark { window_start_ms: window * HOUR, generation };
    node.replay(&[scrape(0..2, 5)]);
    assert_eq!(due(HOUR + 299_999), []);
    assert_eq!(due(HOUR + 300_000), [of(0, 0)]);
    node.replay(&[scrape(0..2, 5), mark(0, 0), scrape(0..2, 6)]);
    assert_eq!(due(2 * HOUR), []);
    assert_eq!(due(3 * HOUR), [of(0, 1)]);
}

#[test]
fn an_unknown_ref_stops_apply_and_names_it() {
    let node = Node::new();
    let batch = SubBatch {
        tenant: TENANT,
        refs: vec![SeriesRef(9)],
        ts_ms: vec![1],
        values: vec![1.0],
        ..SubBatch::default()
    };
    let error = node.store().apply(Position(1), &data(1, batch)).unwrap_err();
    assert!(matches!(error, ApplyError::UnknownRef { reference: SeriesRef(9), .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Corrupt);
    assert_eq!(node.store().apply(Position(2), &scrape(0..1, 1)).unwrap_err(), error);
    assert_eq!(node.store().applied(), Position(0));
}

/// What came before a place that was skipped to is lost, and with it the meaning of some refs behind it: just the samples of
/// these refs are lost, and counted, wherever they stand in a record.
#[test]
fn samples_behind_a_skip_are_lost_as_far_as_their_series_were() {
    let mut node = Node::new();
    let other = TenantId(TENANT.0 + 1);
    let of_other = |i, ts| SubBatch { tenant: other, ..batch(&[(i, ts, 1.0)]) };
    node.replay(&[floats(&[(0, 1, 1.0)]), data(1, of_other(9, 1))]);
    node.store().skip(Position(5), Position(7)).unwrap();
    node.store().cut_image().unwrap();
    node.restart();
    assert_eq!(node.store().applied(), Position(5));
    let undefined = |batch| SubBatch { definitions: Vec::new(), ..batch };
    let record = |batches: Vec<SubBatch>| LogRecord {
        body: RecordBody::Data(batches),
        ..data(1, SubBatch::default())
    };
    let apply = |node: &Node, position, batches| node.store().apply(Position(position), &record(batches));
    let mut in_part = undefined(batch(&[(3, 2, 1.0), (0, 2, 1.0), (3, 3, 1.0), (0, 3, 1.0)]));
    in_part.starts = vec![(0, 1), (1, 2), (3, 3)];
    let outcome = apply(&node, 6, vec![in_part, undefined(of_other(9, 2))]).unwrap();
    let counters: Vec<_> = outcome.sub_batches.iter().map(|one| one.counters).collect();
    let stored = |stored, lost| Counters { stored, lost, ..Counters::default() };
    assert_eq!((counters, outcome.is_void), (vec![stored(2, 2), stored(1, 0)], false));
    // A replica that takes the state half way goes on like the one that gave it.
    node.store().cut_image().unwrap();
    let before = node.store().stats();
    node.restart();
    assert_eq!(node.store().stats().counters, before.counters);
    assert_eq!(
        apply(&node, 7, vec![undefined(batch(&[(3, 4, 1.0)]))]).unwrap().sub_batches[0].counters.lost,
        1
    );
    apply(&node, 8, vec![batch(&[(4, 4, 1.0)])]).unwrap();
    node.store().cut_image().unwrap();
    node.restart();
    assert_eq!(node.store().counters(TENANT), stored(4, 3));
    assert_eq!(node.store().counters(other), stored(2, 0));
    let answers = read(node.store(), TimeRange::ALL);
    let found = [(0, 1), (0, 2), (3, 2), (0, 3), (3, 3), (3, 4), (4, 4)]
        .map(|(i, ts)| bits(&answers, i, ts).is_some());
    assert_eq!(found, [true, true, false, true, false, false, true]);
    let error = apply(&node, 9, vec![undefined(batch(&[(3, 5, 1.0)]))]).unwrap_err();
    assert!(matches!(error, ApplyError::UnknownRef { .. }), "only as far as was said: {error}");
}

#[test]
fn a_ref_keeps_its_meaning_within_a_session_and_loses_it_with_the_next() {
    let node = Node::new();
    node.replay(&[floats(&[(0, 1, 1.0)]), floats(&[(0, 2, 1.0)])]);
    let redefined = |incarnation, position| {
        let mut batch = batch(&[(0, 3, 1.0)]);
        batch.definitions[0].labels = series(7);
        node.store().apply(Position(position), &data(incarnation, batch))
    };
    redefined(2, 3).unwrap();
    let answers = read(node.store(), TimeRange::ALL);
    assert_eq!(bits(&answers, 7, 3), Some(1.0));
    let stale = SubBatch { definitions: Vec::new(), ..batch(&[(0, 4, 1.0)]) };
    let outcome = node.store().apply(Position(4), &data(1, stale)).unwrap();
    assert!(outcome.is_void && outcome.sub_batches.is_empty());
    assert_eq!(read(node.store(), TimeRange::ALL), answers);
    let fresh = Node::new();
    fresh.replay(&[floats(&[(0, 1, 1.0)])]);
    let mut second = batch(&[(0, 3, 1.0)]);
    second.definitions[0].labels = series(7);
    let error = fresh.store().apply(Position(2), &data(1, second)).unwrap_err();
    assert!(matches!(error, ApplyError::Corrupt { .. }), "{error}");
}

#[test]
fn a_ref_of_another_tenant_is_refused() {
    let node = Node::new();
    node.replay(&[floats(&[(0, 1, 1.0)])]);
    let mut crossed = batch(&[(0, 2, 1.0)]);
    crossed.definitions.clear();
    crossed.tenant = TenantId(2);
    assert!(node.store().apply(Position(2), &data(1, crossed)).is_err());
}

#[test]
fn idle_series_leave_memory_and_come_back_by_their_old_refs() {
    let mut node = Node::new();
    let mut log = vec![scrape(0..3000, 5), mark(0, 0)];
    node.replay(&log);
    assert_eq!(node.store().free_idle(HOUR), 0, "unflushed series stay");
    node.store().flush().unwrap();
    log.push(scrape(0..1, 2 * HOUR));
    node.replay(&log);
    assert_eq!(node.store().free_idle(HOUR), 2999);
    assert_eq!((node.store().active_series(TENANT), node.store().stats().head_series), (1, 1));
    assert_eq!(read(node.store(), TimeRange::ALL).samples.len(), 3001);
    for restarts in [false, true] {
        node.store().cut_image().unwrap();
        if restarts {
            node.restart();
        }
        let at = 2 * HOUR + 1 + i64::from(restarts);
        let samples: Vec<_> = (0..3000).map(|i| (i, at, 1.0)).collect();
        log.push(data(1, SubBatch { definitions: Vec::new(), ..batch(&samples) }));
        node.replay(&log);
        let answers = read(node.store(), TimeRange::new(at, at));
        assert_eq!(answers.samples.len(), 3000);
        assert_eq!(bits(&answers, 2999, at), Some(1.0));
    }
}

#[test]
fn labels_and_cardinality_come_from_head_and_blocks() {
    let node = Node::new();
    node.replay(&[scrape(0..4, 5), mark(0, 0), scrape(2..6, HOUR + 5)]);
    node.store().flush().unwrap();
    let store = node.store();
    let names = store.label_names(TENANT, &[], TimeRange::ALL, &Unmetered).unwrap();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["__name__", "pod"]);
    let up = [Matcher::equal("__name__", "up")];
    let pods = |range| {
        store.label_values(TENANT, "pod", &up, range, &Unmetered).unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(pods(TimeRange::ALL), ["pod-0000", "pod-0002", "pod-0004"]);
    assert_eq!(pods(TimeRange::new(HOUR, 2 * HOUR)), ["pod-0002", "pod-0004"]);
    assert!(store.label_values(TenantId(2), "pod", &[], TimeRange::ALL, &Unmetered).unwrap().is_empty());
    let top = store.cardinality(TENANT, 1, &Unmetered).unwrap();
    assert_eq!((top.series, top.metrics), (6, vec![("down".to_owned(), 3)]));
    assert_eq!(top.label_values, [("pod".to_owned(), 6)]);
    let error =
        store.select(TENANT, &[], TimeRange::ALL, SelectLimits { max_series: 5 }, &Unmetered).unwrap_err();
    assert!(matches!(error, StoreError::TooManySeries { found: 6, limit: 5 }));
}

/// Grants so many bytes and so many questions.
struct Purse(std::cell::Cell<(u64, u64)>);

impl ReadMeter for Purse {
    fn proceed(&self, bytes: u64) -> bool {
        let (left, questions) = self.0.get();
        let granted = left >= bytes && questions > 0;
        self.0.set((left - if granted { bytes } else { 0 }, questions.saturating_sub(1)));
        granted
    }

    fn give_back(&self, bytes: u64) {
        let (left, questions) = self.0.get();
        self.0.set((left + bytes, questions));
    }
}

#[test]
fn reads_ask_their_meter_and_stop_when_it_objects() {
    let node = Node::new();
    node.replay(&[scrape(0..4, 5), mark(0, 0), scrape(2..6, HOUR + 5)]);
    node.store().flush().unwrap();
    let store = node.store();
    let select = |bytes, questions| {
        let purse = Purse((bytes, questions).into());
        let selection = store.select(TENANT, &[], TimeRange::ALL, SelectLimits::NONE, &purse);
        (selection.map(|s| s.len()), purse.0.get())
    };
    let (whole, (left, unasked)) = select(1 << 20, 1 << 20);
    assert_eq!(whole.unwrap(), 6);
    let (bytes, questions) = ((1 << 20) - left, (1 << 20) - unasked);
    assert!(bytes > 6 * 64 && questions > 3, "{bytes} bytes, {questions} questions");
    assert_eq!(select(bytes, questions).0.unwrap(), 6);
    for (bytes, questions) in [(bytes - 1, questions), (bytes, questions - 1), (bytes, 0)] {
        assert!(matches!(select(bytes, questions).0, Err(StoreError::Stopped)), "{bytes}, {questions}");
    }
    for questions in 0..3 {
        let purse = Purse((1 << 20, questions).into());
        let up = [Matcher::equal("__name__", "up")];
        let values = store.label_values(TENANT, "pod", &up, TimeRange::ALL, &purse);
        assert!(matches!(values, Err(StoreError::Stopped)), "{questions}: {values:?}");
        let names = store.label_names(TENANT, &up, TimeRange::ALL, &Purse((0, 1 << 20).into()));
        assert!(matches!(names, Err(StoreError::Stopped)), "{names:?}");
    }
}

#[test]
fn a_reserved_control_epoch_holds_deletes_back_too() {
    let node = Node::new();
    let mut stale = delete(0, TimeRange::ALL);
    stale.header.epoch = 0;
    node.replay(&[scrape(0..1, 5), mark(9, 0), stale]);
    assert_eq!(read(node.store(), TimeRange::ALL).samples.len(), 1);
    let forget = LogRecord { header: header(1), body: RecordBody::SessionForget(header(1).session) };
    node.store().apply(Position(9), &forget).unwrap();
    let unknown = SubBatch { definitions: Vec::new(), ..batch(&[(0, 9, 1.0)]) };
    assert!(node.store().apply(Position(10), &data(1, unknown)).is_err());
}

#[test]
fn a_gateway_that_crashes_again_and_again_does_not_grow_the_series_log() {
    let mut node = Node::new();
    let (mut log, mut largest) = (Vec::new(), 0);
    let size = |node: &Node| {
        let sizes = node.files().into_iter().filter(|name| name.starts_with("series-"));
        sizes.map(|name| std::fs::metadata(node.dir().join(name)).unwrap().len()).sum::<u64>()
    };
    for incarnation in 1..=90 {
        let samples: Vec<_> = (0..3000).map(|i| (i, i64::from(incarnation), 1.0)).collect();
        log.push(data(incarnation, batch(&samples)));
        node.replay(&log);
        if incarnation % 10 == 0 {
            node.store().cut_image().unwrap();
            assert_eq!(node.files().len(), 2);
        }
        largest = largest.max(size(&node));
    }
    assert!(size(&node) < largest / 2, "{} bytes of at most {largest}", size(&node));
    node.restart();
    assert_eq!(node.store().applied(), Position(90));
    let known = SubBatch { definitions: Vec::new(), ..batch(&[(2999, 100, 7.0)]) };
    node.store().apply(Position(91), &data(90, known)).unwrap();
    assert_eq!(bits(&read(node.store(), TimeRange::new(100, 100)), 2999, 100), Some(7.0));
}
