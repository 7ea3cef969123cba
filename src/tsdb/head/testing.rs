//! Helpers of this crate's tests: records that read like what a gateway sends.

use quorate_model::{
    Definition, FlushMark, Labels, LogRecord, MatchOp, RecordBody, RecordHeader, SeriesRef, SessionId, Slot,
    SubBatch, TenantId, TimeRange,
};

/// The tenant of most tests.
pub(crate) const TENANT: TenantId = TenantId(1);

/// The `i`-th series of the tests.
pub(crate) fn series(i: u32) -> Labels {
    let pod = format!("pod-{i:04}");
    Labels::from_pairs([("__name__", "up"), ("pod", pod.as_str())])
}

pub(crate) fn header() -> RecordHeader {
    let session = SessionId { node: 1, incarnation: 1 };
    RecordHeader { log_incarnation: 1, epoch: 1, session, sequence: 0 }
}

/// A record with float samples (series, time, value), defining every ref in it.
pub(crate) fn floats(samples: &[(u32, i64, f64)]) -> LogRecord {
    let mut batch = SubBatch { tenant: TENANT, ..SubBatch::default() };
    let mut defined = std::collections::BTreeSet::new();
    for (i, ts_ms, value) in samples {
        if defined.insert(*i) {
            batch.definitions.push(define(*i));
        }
        batch.refs.push(SeriesRef(*i));
        batch.ts_ms.push(*ts_ms);
        batch.values.push(*value);
    }
    data(vec![batch])
}

pub(crate) fn define(i: u32) -> Definition {
    Definition { reference: SeriesRef(i), slot: Slot(i as u16), labels: series(i) }
}

pub(crate) fn data(batches: Vec<SubBatch>) -> LogRecord {
    LogRecord { header: header(), body: RecordBody::Data(batches) }
}

pub(crate) fn mark(window_start_ms: i64, generation: u32) -> LogRecord {
    marks(&[(window_start_ms, generation)])
}

/// A mark for each window and generation.
pub(crate) fn marks(marks: &[(i64, u32)]) -> LogRecord {
    let mark = |(window_start_ms, generation): &(i64, u32)| FlushMark {
        window_start_ms: *window_start_ms,
        generation: *generation,
    };
    let marks = marks.iter().map(mark).collect();
    LogRecord { header: header(), body: RecordBody::FlushMark(marks) }
}

pub(crate) fn delete(i: Option<u32>, range: TimeRange) -> LogRecord {
    let pod = i.map_or_else(|| ".+".to_owned(), |i| format!("pod-{i:04}"));
    let matchers = vec![("pod".to_owned(), MatchOp::Regex, pod)];
    LogRecord { header: header(), body: RecordBody::Delete { tenant: TENANT, matchers, range } }
}
