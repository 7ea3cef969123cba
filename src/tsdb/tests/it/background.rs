//! Background work when the disk, the clock or the process does not go along.

use crate::support::*;
use quorate_model::{FlushMark, Position, SubBatch, TimeRange};

const DAY: i64 = 24 * HOUR;

fn stored_blocks(node: &Node) -> usize {
    quorate_tsdb::block::stored_ids(node.kv.as_ref()).unwrap().len()
}

#[test]
fn a_flush_that_cannot_be_published_leaves_no_block_behind() {
    let node = Node::new();
    node.replay(&[scrape(0..3, 5), mark(0, 0)]);
    node.store().marks_due(0);
    node.kv.refuse_cat(true);
    for _ in 0..3 {
        assert!(node.store().flush().is_err());
        assert_eq!(stored_blocks(&node), 0);
    }
    node.kv.refuse_cat(false);
    assert_eq!(node.store().flush().unwrap().blocks, 1);
    assert_eq!(read(node.store(), TimeRange::ALL).samples.len(), 3);
}

#[test]
fn a_merge_that_cannot_be_published_leaves_its_inputs_alone() {
    let node = Node::new();
    node.replay(&[scrape(0..3, 5), scrape(0..3, HOUR), mark(0, 0), mark(1, 0)]);
    node.store().flush().unwrap();
    node.kv.refuse_cat(true);
    assert!(node.store().merge(2 * DAY).is_err());
    assert_eq!(stored_blocks(&node), 2);
    node.kv.refuse_cat(false);
    assert_eq!(node.store().merge(2 * DAY).unwrap(), 1);
    assert_eq!(read(node.store(), TimeRange::ALL).samples.len(), 6);
}

#[test]
fn a_store_that_is_to_stop_merges_no_more() {
    let node = Node::new();
    node.replay(&[scrape(0..3, 5), scrape(0..3, HOUR), mark(0, 0), mark(1, 0)]);
    node.store().flush().unwrap();
    node.store().stop_background();
    assert_eq!((node.store().merge(2 * DAY).unwrap(), stored_blocks(&node)), (0, 2));
}

#[test]
#[ignore = "a part of a_manifest_write_of_unknown_effect_ends_the_process"]
fn child_whose_manifest_breaks() {
    let node = Node::new();
    node.replay(&[scrape(0..3, 5), mark(0, 0)]);
    node.store().flush().unwrap();
    node.kv.break_cat();
    println!("{:?}", node.store().cut_image());
}

#[test]
fn a_manifest_write_of_unknown_effect_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "background::child_whose_manifest_breaks", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(6), "{}", String::from_utf8_lossy(&child.stdout));
}

#[test]
fn a_clock_that_is_a_year_ahead_moves_the_floor_by_windows_and_not_by_a_year() {
    let node = Node::new();
    let mut log: Vec<_> = (0..30 * 24).map(|hour| scrape(0..1, hour * HOUR)).collect();
    node.replay(&log);
    let (now, ahead) = (30 * DAY, 395 * DAY);
    let due = |now_ms| node.store().retention_due(now_ms, |_| 20 * DAY);
    assert_eq!(due(now), [(TENANT, 10 * DAY)]);
    log.push(retention(10 * DAY));
    node.replay(&log);
    assert_eq!(due(ahead), []);
    assert_eq!(due(ahead + HOUR), [(TENANT, 10 * DAY + HOUR)]);
    assert_eq!(due(ahead + HOUR + 1), []);
    assert_eq!(due(now), [], "the clock is right again");
    // What the wrong clock itself wrote proves nothing: it lies alone.
    log.push(scrape(0..1, ahead));
    node.replay(&log);
    assert_eq!(due(ahead + 3 * HOUR), [(TENANT, 10 * DAY + HOUR)]);
}

#[test]
fn data_without_successors_goes_too() {
    let node = Node::new();
    let mut log = vec![scrape(0..1, 5), scrape(0..1, HOUR)];
    node.replay(&log);
    let mut floors = Vec::new();
    for now_ms in (0..6).map(|hour| 40 * DAY + hour * HOUR) {
        for (_, floor_ms) in node.store().retention_due(now_ms, |_| DAY) {
            floors.push(floor_ms);
            log.push(retention(floor_ms));
        }
        node.replay(&log);
    }
    assert_eq!(floors, [-22 * HOUR, HOUR, 2 * HOUR]);
    assert!(read(node.store(), TimeRange::ALL).samples.is_empty());
}

#[test]
fn late_histograms_and_old_windows_count_by_what_they_hold() {
    let node = Node::new();
    let mut log = vec![scrape(0..1, 5), mark(0, 0)];
    node.replay(&log);
    let base = node.store().late_bytes();
    log.extend((0..20).map(|i| with_histogram(1, 10 + i, i as u64)));
    node.replay(&log);
    assert!(node.store().late_bytes() >= base + 20 * 200, "{} bytes", node.store().late_bytes());
    let late = node.store().late_bytes();
    // Full chunks of a window that was over long before they came.
    log.extend((0..500).map(|i| scrape(2..4, -100 * HOUR + i * 1_000)));
    node.replay(&log);
    assert_eq!(node.store().late_bytes(), late, "nobody has told the time");
    node.store().marks_due(10 * HOUR);
    assert!(node.store().late_bytes() > late + 1_000, "{} bytes", node.store().late_bytes());
}

#[test]
fn old_windows_are_due_when_late_samples_are_many() {
    let node = Node::with_late_budget(1);
    node.replay(&[scrape(0..2, 5), scrape(0..2, 100 * HOUR), floats(&[(0, 3, 1.0)])]);
    let due = node.store().marks_due(100 * HOUR);
    assert_eq!(due, [FlushMark { window_start_ms: 0, generation: 0 }]);
    let patient = Node::new();
    patient.replay(&[scrape(0..2, 5), scrape(0..2, 100 * HOUR), floats(&[(0, 3, 1.0)])]);
    assert_eq!(patient.store().marks_due(100 * HOUR), []);
    assert_eq!(patient.store().applied(), Position(3));
}

#[test]
fn a_series_that_comes_back_brings_no_other_back() {
    let mut node = Node::new();
    let mut log = vec![scrape(0..3000, 5), mark(0, 0), scrape(0..1, 2 * HOUR)];
    node.replay(&log);
    node.store().flush().unwrap();
    assert_eq!(node.store().free_idle(HOUR), 2999);
    let mut live = 1;
    for (round, stage) in ["pending", "in the file", "restarted", "appended"].into_iter().enumerate() {
        match stage {
            "in the file" | "appended" => assert!(node.store().cut_image().is_ok()),
            "restarted" => node.restart(),
            _ => {}
        }
        let at = 2 * HOUR + 1 + round as i64;
        let back = [100, 2000, 2999, 2000].map(|i| (i - round as u32, at, 1.0));
        log.push(data(1, SubBatch { definitions: Vec::new(), ..batch(&back) }));
        node.replay(&log);
        live += 3;
        assert_eq!(node.store().stats().head_series, live, "{stage}");
        assert_eq!(read(node.store(), TimeRange::new(at, at)).samples.len(), 3, "{stage}");
    }
}

#[test]
fn series_that_are_gone_take_no_memory_after_a_restart_and_little_before() {
    let mut node = Node::new();
    let churn = 40_000;
    let mut log = vec![scrape(0..churn, 5), mark(0, 0), scrape(0..10, 2 * HOUR)];
    node.replay(&log);
    node.store().flush().unwrap();
    let full = node.store().stats().memory;
    assert_eq!(node.store().free_idle(HOUR), u64::from(churn) - 10);
    let freed = node.store().stats().memory;
    assert!(freed.labels + freed.postings < (full.labels + full.postings) / 10, "{full:?} {freed:?}");
    node.store().cut_image().unwrap();
    node.restart();
    let restarted = node.store().stats().memory;
    assert!(restarted.labels + restarted.postings < (full.labels + full.postings) / 10, "{restarted:?}");
    let expected = read(node.store(), TimeRange::new(2 * HOUR, 3 * HOUR));
    assert_eq!(expected.samples.len(), 10);
    let back = [(20_000, 2 * HOUR + 1, 1.0), (5, 2 * HOUR + 1, 1.0)];
    log.push(data(1, SubBatch { definitions: Vec::new(), ..batch(&back) }));
    node.replay(&log);
    assert_eq!(node.store().stats().head_series, 11);
    assert_eq!(read(node.store(), TimeRange::new(2 * HOUR, 3 * HOUR)).samples.len(), 12);
}
