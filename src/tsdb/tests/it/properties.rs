//! Random logs, random background work and random restarts, against a store that does neither.

use crate::support::*;
use proptest::prelude::*;
use quorate_model::{
    Definition, HistogramSample, Labels, LogRecord, RecordBody, RecordHeader, SeriesRef, SessionId, SubBatch,
    TenantId, TimeRange,
};
use quorate_tsdb::PartitionStore;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Record(LogRecord),
    /// Nobody writes for long: a mark for each window that has anything, all of it flushed, all rows freed.
    Idle,
    Flush,
    Image,
    Merge,
    Retain,
    Free,
    Restart,
    /// Another node takes the state and goes on.
    Move,
}

fn record() -> impl Strategy<Value = LogRecord> {
    let ts = (-2i64..5, 0i64..6).prop_map(|(h, i)| h * HOUR / 2 + i * 1000);
    let value = prop_oneof![(0i64..3).prop_map(|v| v as f64), any::<f64>()];
    prop_oneof![
        8 => prop::collection::vec((0u32..5, ts.clone(), value), 1..20).prop_map(|s| floats(&s)),
        2 => (0u32..5, ts, 0u64..3).prop_map(|(i, ts, n)| with_histogram(i, ts, n)),
        3 => (-1i64..3, 0u32..3).prop_map(|(w, g)| mark(w, g)),
        1 => (0u32..5, -4i64..8, 0i64..5).prop_map(|(i, from, len)| {
            delete(i, TimeRange::new(from * HOUR / 4, (from + len) * HOUR / 4))
        }),
        1 => (-4i64..3).prop_map(|h| retention(h * HOUR / 4)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => record().prop_map(Step::Record),
        1 => Just(Step::Flush),
        1 => Just(Step::Image),
        1 => Just(Step::Merge),
        1 => Just(Step::Retain),
        1 => Just(Step::Free),
        1 => Just(Step::Restart),
        1 => Just(Step::Move),
    ]
}

fn run(node: &mut Node, log: &mut Vec<LogRecord>, step: Step) {
    match step {
        Step::Record(record) => {
            log.push(record);
            node.replay(log);
        }
        Step::Idle => {
            // Long after, and later each time, so that late samples are due too.
            let marks = node.store().marks_due((1_000 + 2 * log.len() as i64) * HOUR);
            log.push(LogRecord { header: header(1), body: RecordBody::FlushMark(marks) });
            node.replay(log);
            [Step::Flush, Step::Free].into_iter().for_each(|step| run(node, log, step));
        }
        Step::Flush => assert!(node.store().flush().is_ok()),
        Step::Image => assert!(node.store().cut_image().is_ok()),
        Step::Merge => assert!(node.store().merge(i64::MAX / 2).is_ok()),
        Step::Retain => assert!(node.store().retain().is_ok()),
        Step::Free => {
            node.store().free_idle(i64::MAX);
        }
        Step::Restart => {
            node.restart();
            node.replay(log);
        }
        Step::Move => {
            *node = crate::snapshot::moved(node, 1 + log.len() as u16);
            node.replay(log);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_prefix_then_rest_equals_all(steps in prop::collection::vec(step(), 1..60)) {
        let (mut node, mut log) = (Node::new(), Vec::new());
        steps.into_iter().for_each(|step| run(&mut node, &mut log, step));
        let plain = Node::new();
        plain.replay(&log);
        let (found, expected) =
            (read(node.store(), TimeRange::ALL), read(plain.store(), TimeRange::ALL));
        prop_assert_eq!(found, expected);
        let part = TimeRange::new(-HOUR / 2 + 1, HOUR + 2000);
        prop_assert_eq!(read(node.store(), part), read(plain.store(), part));
    }
}

/// What happens at a gateway, by its node, or in the store.
#[derive(Debug, Clone)]
enum Act {
    Gateway(u32, Deed),
    Store(Step),
}

#[derive(Debug, Clone)]
enum Deed {
    /// Samples of a tenant. What is not known to be committed is defined, or all of it.
    Send { tenant: u32, samples: Vec<(u32, i64, f64)>, histogram: Option<u64>, defines_all: bool },
    /// A record of the session before, which was on its way when this one began.
    SendLate { tenant: u32, samples: Vec<(u32, i64, f64)> },
    /// Another session: refs are given anew, in another order.
    Renew,
    /// The session is forgotten, and the gateway learns of it.
    Forget,
}

fn act() -> impl Strategy<Value = Act> {
    let ts = (-2i64..5, 0i64..6).prop_map(|(h, i)| h * HOUR / 2 + i * 1000);
    let value = prop_oneof![(0i64..3).prop_map(|v| v as f64), any::<f64>()];
    let samples = prop::collection::vec((0u32..6, ts, value), 1..20);
    let tenant = 1u32..3;
    let send = (tenant.clone(), samples.clone(), prop::option::of(0u64..3), any::<bool>());
    let deed = prop_oneof![
        10 => send.prop_map(|(tenant, samples, histogram, defines_all)| {
            Deed::Send { tenant, samples, histogram, defines_all }
        }),
        1 => (tenant, samples).prop_map(|(tenant, samples)| Deed::SendLate { tenant, samples }),
        1 => Just(Deed::Renew),
        1 => Just(Deed::Forget),
    ];
    prop_oneof![
        13 => (1u32..3, deed).prop_map(|(node, deed)| Act::Gateway(node, deed)),
        3 => (-1i64..3, 0u32..3).prop_map(|(w, g)| Act::Store(Step::Record(mark(w, g)))),
        1 => (-4i64..3).prop_map(|h| Act::Store(Step::Record(retention(h * HOUR / 4)))),
        2 => Just(Act::Store(Step::Idle)),
        2 => Just(Act::Store(Step::Flush)),
        1 => Just(Act::Store(Step::Image)),
        1 => Just(Act::Store(Step::Merge)),
        1 => Just(Act::Store(Step::Retain)),
        1 => Just(Act::Store(Step::Free)),
        1 => Just(Act::Store(Step::Restart)),
        1 => Just(Act::Store(Step::Move)),
    ]
}

/// A gateway as far as its refs go.
#[derive(Debug, Clone, Default)]
struct Gateway {
    incarnation: u32,
    /// The series that each ref of the session was given to.
    given: Vec<(u32, u32)>,
    /// Refs whose definition is known to be committed.
    defined: BTreeSet<u32>,
}

impl Gateway {
    fn reference(&mut self, tenant: u32, series: u32) -> u32 {
        let at = self.given.iter().position(|given| *given == (tenant, series));
        at.unwrap_or_else(|| {
            self.given.push((tenant, series));
            self.given.len() - 1
        }) as u32
    }

    fn record(
        &mut self,
        node: u32,
        tenant: u32,
        samples: &[(u32, i64, f64)],
        histogram_count: Option<u64>,
        defines_all: bool,
    ) -> LogRecord {
        let mut batch = SubBatch { tenant: TenantId(tenant), ..SubBatch::default() };
        let mut used = BTreeSet::new();
        for (at, (i, ts_ms, value)) in samples.iter().enumerate() {
            let reference = self.reference(tenant, *i);
            if used.insert(reference) && (defines_all || !self.defined.contains(&reference)) {
                let definition = Definition { reference: SeriesRef(reference), ..definition(*i) };
                batch.definitions.push(definition);
            }
            match histogram_count.filter(|_| at == 0) {
                Some(count) => batch.histograms.push(HistogramSample {
                    reference: SeriesRef(reference),
                    ts_ms: *ts_ms,
                    start_ms: 0,
                    histogram: histogram(count),
                }),
                None => {
                    batch.refs.push(SeriesRef(reference));
                    batch.ts_ms.push(*ts_ms);
                    batch.values.push(*value);
                }
            }
        }
        self.defined.extend(used);
        let session = SessionId { node, incarnation: self.incarnation };
        LogRecord { header: RecordHeader { session, ..header(1) }, body: RecordBody::Data(vec![batch]) }
    }
}

/// The record that a deed puts into the log. A gateway has the session before and the one in use.
fn log_entry(node: u32, deed: Deed, [before, now]: &mut [Gateway; 2]) -> Option<LogRecord> {
    match deed {
        Deed::Send { tenant, samples, histogram, defines_all } => {
            Some(now.record(node, tenant, &samples, histogram, defines_all))
        }
        Deed::SendLate { tenant, samples } => {
            let is_there = before.incarnation < now.incarnation;
            is_there.then(|| before.record(node, tenant, &samples, None, true))
        }
        Deed::Renew => {
            *before = std::mem::take(now);
            now.incarnation = before.incarnation + 1;
            None
        }
        Deed::Forget => {
            now.defined.clear();
            let session = SessionId { node, incarnation: now.incarnation };
            Some(LogRecord { header: header(1), body: RecordBody::SessionForget(session) })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Records that rely on definitions of earlier ones, from several gateways and sessions for several tenants,
    /// mean the same whatever was flushed, freed and read back between.
    #[test]
    fn any_sessions_then_restarts_equal_all(acts in prop::collection::vec(act(), 1..100)) {
        let (mut node, mut log, mut gateways) = (Node::new(), Vec::new(), BTreeMap::new());
        for act in acts {
            let step = match act {
                Act::Store(step) => Some(step),
                Act::Gateway(at, deed) => {
                    log_entry(at, deed, gateways.entry(at).or_default()).map(Step::Record)
                }
            };
            step.into_iter().for_each(|step| run(&mut node, &mut log, step));
        }
        let plain = Node::new();
        plain.replay(&log);
        for tenant in [1, 2].map(TenantId) {
            for range in [TimeRange::ALL, TimeRange::new(-HOUR / 2 + 1, HOUR + 2000)] {
                let found = read_of(node.store(), tenant, range);
                prop_assert_eq!(found, read_of(plain.store(), tenant, range));
            }
        }
        let (sent, stored) = (sent(&log), stored(node.store()));
        prop_assert_eq!(sent.difference(&stored).next(), None);
    }
}

/// Tenant, labels and time of every sample that counts of a log without retention marks; nothing with one.
fn sent(log: &[LogRecord]) -> BTreeSet<(u32, Labels, i64)> {
    if log.iter().any(|record| matches!(record.body, RecordBody::RetentionMark { .. })) {
        return BTreeSet::new();
    }
    let (mut meanings, mut sent) = (BTreeMap::new(), BTreeSet::new());
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    for record in log {
        let RecordBody::Data(batches) = &record.body else { continue };
        let session = record.header.session;
        let newest = newest.entry(session.node).or_default();
        *newest = session.incarnation.max(*newest);
        if session.incarnation < *newest {
            continue; // of a session that is over
        }
        for batch in batches {
            for one in &batch.definitions {
                meanings.insert((session, one.reference), one.labels.clone());
            }
            let floats = batch.refs.iter().copied().zip(batch.ts_ms.iter().copied());
            let histograms = batch.histograms.iter().map(|sample| (sample.reference, sample.ts_ms));
            for (reference, ts_ms) in floats.chain(histograms) {
                sent.insert((batch.tenant.0, meanings[&(session, reference)].clone(), ts_ms));
            }
        }
    }
    sent
}

fn stored(store: &PartitionStore) -> BTreeSet<(u32, Labels, i64)> {
    let of = |tenant: u32| {
        let answers = read_of(store, TenantId(tenant), TimeRange::ALL);
        answers.samples.into_keys().map(move |(labels, ts_ms)| (tenant, labels, ts_ms))
    };
    [1, 2].into_iter().flat_map(of).collect()
}
