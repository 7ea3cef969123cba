//! A counter: each increment is one sample, and its client sends it again, as it was, until it is acknowledged.

use super::{HOUR_MS, SERIES, Workload};
use crate::history::Op;
use crate::worker::{Level, Rows, Told, Worker, body, query, write};
use quorate_cluster_tests::harness::pause;
use quorate_model::{Clock, Labels, SystemClock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const METRIC: &str = "jepsen_counter";
const READS: usize = 10;
/// Distance between samples of one series; none stands between them.
const STEP_MS: i64 = 16;
/// How long an increment is tried; one that is still open then stays of unknown fate.
const TRYING: Duration = Duration::from_secs(15);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
const MOST: u64 = 1_000;

/// See the module header.
pub(super) struct Counter {
    base_ms: i64,
    next: AtomicU64,
}

impl Counter {
    pub(super) fn new(base_ms: i64) -> Self {
        Self { base_ms, next: AtomicU64::new(0) }
    }

    fn increment(&self, worker: &mut Worker) {
        let element = self.next.fetch_add(1, Ordering::Relaxed);
        let by = 1 + worker.random.number() % MOST;
        let series = (element % SERIES).to_string();
        let labels = Labels::from_pairs([("__name__", METRIC), ("series", series.as_str())]);
        let ts_ms = self.base_ms + (element / SERIES) as i64 * STEP_MS;
        let body = body([(&labels, ts_ms, by as f64)]);
        let op = Op::Increment { element, by };
        let begin = SystemClock.instant();
        while begin.elapsed() < TRYING {
            let node = worker.node();
            let told =
                worker.perform(node, op.clone(), |client| (Told::of_write(write(client, &body)), op.clone()));
            if !matches!(told, Told::Unknown(_)) {
                return;
            }
            pause(BETWEEN_TRIES);
        }
    }

    fn read(&self, worker: &mut Worker, node: usize) -> Told {
        let over = |function: &str| format!("sum({function}({METRIC}[2h]))");
        let named =
            |what: &str, text: &str| format!("label_replace({text}, \"what\", \"{what}\", \"\", \"\")");
        let (sum, count) = (over("sum_over_time"), over("count_over_time"));
        let text = format!("{} or {}", named("sum", &sum), named("count", &count));
        worker.perform(node, Op::ReadSum { count: 0, sum: 0 }, |client| {
            match query(client, Level::Strong, &text, self.base_ms + HOUR_MS) {
                Ok(found) => (Told::Done, Op::ReadSum { count: of(&found, "count"), sum: of(&found, "sum") }),
                Err(told) => (told, Op::ReadSum { count: 0, sum: 0 }),
            }
        })
    }
}

/// The value of the row that `what` names; 0 if there is none.
fn of(rows: &Rows, what: &str) -> u64 {
    let row = rows.rows.iter().find(|row| row.labels["what"] == what);
    row.and_then(|row| row.samples.first()).map_or(0, |(_, value)| *value as u64)
}

impl Workload for Counter {
    fn step(&self, worker: &mut Worker) {
        if worker.random.one_in(READS) {
            let node = worker.node();
            self.read(worker, node);
        } else {
            self.increment(worker);
        }
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        self.read(worker, node)
    }
}
