//! What a series costs in memory over an hour, with the window before until it is closed: the bar is 500 bytes.
//! Sealed generations do not count: they leave with the next flush.

use super::testing::{TENANT, data, mark};
use super::{Head, WindowLength};
use crate::view::Views;
use quorate_model::{Definition, Labels, LogRecord, Position, SeriesRef, Slot, SubBatch};
use std::sync::Arc;

const SERIES: u32 = 8_000;
const PER_HOUR: u32 = 240;
const PER_TARGET: u32 = 400;
const START: i64 = 1_700_002_800_000;

/// Labels as Kubernetes' targets have them: eleven, of which pod, container id and node vary by target.
fn labels(i: u32) -> Labels {
    let (target, metric) = (i / PER_TARGET, i % PER_TARGET);
    let value = |name: &str, n: u32| format!("{name}-{n:x}");
    Labels::from_pairs([
        ("__name__", format!("container_metric_{}_total", metric / 8)),
        ("cluster", "prod-eu-west-1".to_owned()),
        ("container", value("app", target % 20)),
        ("device", value("sd", metric % 8)),
        ("endpoint", "https-metrics".to_owned()),
        ("id", format!("/kubepods/burstable/pod{:032x}", u128::from(target) * 0x9e37_79b9_7f4a_7c15)),
        ("instance", format!("10.0.{}.{}:10250", target / 250, target % 250)),
        ("job", "kubelet".to_owned()),
        ("namespace", value("team", target % 12)),
        ("node", value("ip-10-0-1", target % 60)),
        ("pod", format!("{}-{:08x}", value("app", target % 20), target.wrapping_mul(2_654_435_761))),
    ])
}

/// A quarter constants, a half counters, two-decimal gauges, and some noisy floats.
fn value(i: u32, step: u32) -> f64 {
    let noise = f64::from(i.wrapping_mul(2_654_435_761).wrapping_add(step.wrapping_mul(40_503)) >> 16 & 0xff);
    match i % 16 {
        0..=3 => f64::from(i % 7),
        4..=11 => f64::from(step * (i % 50)) + (noise / 64.0).floor(),
        12..=14 => (5000.0 + noise).floor() / 100.0,
        _ => noise / 3.0,
    }
}

fn scrape(step: u32) -> LogRecord {
    let mut batch = SubBatch { tenant: TENANT, ..SubBatch::default() };
    for i in 0..SERIES {
        if step == 0 {
            let definition = Definition { reference: SeriesRef(i), slot: Slot(7), labels: labels(i) };
            batch.definitions.push(definition);
        }
        let jitter = i64::from((i / PER_TARGET).wrapping_mul(31).wrapping_add(step * 7) % 4);
        batch.refs.push(SeriesRef(i));
        batch.ts_ms.push(START + i64::from(step) * 15_000 + jitter);
        batch.values.push(value(i, step));
    }
    data(vec![batch])
}

/// Bytes a series: labels, postings, samples, sessions.
fn measure(head: &Head) -> [usize; 4] {
    let (labels, postings) = head.index().read().memory_bytes();
    let samples: usize = head.stripes().iter().map(|s| s.read().memory_bytes()).sum();
    let sessions = head.writer().lock().sessions.memory_bytes();
    [labels, postings, samples, sessions].map(|bytes| bytes / SERIES as usize)
}

#[test]
fn a_series_costs_at_most_500_bytes_over_an_hour() {
    let head = Head::new(WindowLength::default(), Arc::new(Views::new(Vec::new())));
    let (mut sum, mut most, mut measured) = ([0; 4], 0, 0);
    for step in 0..2 * PER_HOUR {
        let (position, closed) = (2 * u64::from(step) + 1, PER_HOUR + 20);
        head.apply(Position(position), &scrape(step), &|_, _| Ok(Default::default())).unwrap();
        if step == closed {
            head.apply(Position(position + 1), &mark(START, 0), &|_, _| Ok(Default::default())).unwrap();
        }
        if step >= PER_HOUR && step % 10 == 0 {
            let now = measure(&head);
            most = most.max(now.iter().sum());
            sum.iter_mut().zip(now).for_each(|(sum, part)| *sum += part);
            measured += 1;
        }
    }
    let mean = sum.map(|sum| sum / measured);
    println!("bytes a series: labels, postings, samples, sessions: {mean:?}, at most {most} in all");
    assert!(mean.iter().sum::<usize>() <= 500 && most <= 650, "{mean:?}, at most {most}");
}

#[test]
fn a_sender_a_minute_behind_its_twin_costs_a_series_little() {
    let head = Head::new(WindowLength::default(), Arc::new(Views::new(Vec::new())));
    for step in 0..PER_HOUR {
        head.apply(Position(2 * u64::from(step) + 1), &scrape(step), &|_, _| Ok(Default::default())).unwrap();
        let mut behind = scrape(step);
        if let quorate_model::RecordBody::Data(batches) = &mut behind.body {
            batches[0].ts_ms.iter_mut().for_each(|ts_ms| *ts_ms -= 60_000 - 7);
        }
        head.apply(Position(2 * u64::from(step) + 2), &behind, &|_, _| Ok(Default::default())).unwrap();
    }
    let [_, _, samples, _] = measure(&head);
    println!("bytes of samples a series: {samples}, of which late {}", head.late_bytes() / u64::from(SERIES));
    assert!(samples <= 3_000, "{samples}");
}
