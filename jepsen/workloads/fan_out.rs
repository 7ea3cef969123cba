//! Series that are there from the start, in every partition, and are counted all the time.

use super::{HOUR_MS, Workload};
use crate::history::Op;
use crate::worker::{Level, Told, Worker, body, query, write};
use quorate_model::Labels;
use std::sync::atomic::{AtomicU64, Ordering};

const METRIC: &str = "jepsen_fan_out";
/// Enough for every partition to have some.
const COUNTED: u64 = 64;
const WRITES: usize = 8;

/// See the module header.
pub(super) struct FanOut {
    base_ms: i64,
    labels: Vec<Labels>,
    next: AtomicU64,
}

impl FanOut {
    pub(super) fn new(base_ms: i64) -> Self {
        let labels = |series: u64| {
            let series = series.to_string();
            Labels::from_pairs([("__name__", METRIC), ("series", series.as_str())])
        };
        Self { base_ms, labels: (0..COUNTED).map(labels).collect(), next: AtomicU64::new(0) }
    }

    /// Writes to all series, or says why not.
    fn write_all(&self, worker: &mut Worker) -> Told {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ts_ms = self.base_ms + number as i64;
        let body = body(self.labels.iter().map(|labels| (labels, ts_ms, number as f64)));
        let (node, op) = (worker.node(), Op::Increment { element: number, by: 1 });
        worker.perform(node, op.clone(), |client| (Told::of_write(write(client, &body)), op))
    }

    fn count(&self, worker: &mut Worker, node: usize, level: Level<'_>) -> Told {
        let text = format!("count(last_over_time({METRIC}[2h]))");
        worker.perform(node, Op::Count { expected: COUNTED, found: 0 }, |client| {
            match query(client, level, &text, self.base_ms + HOUR_MS) {
                Ok(rows) => (Told::Done, Op::Count { expected: COUNTED, found: rows.scalar() as u64 }),
                Err(told) => (told, Op::Count { expected: COUNTED, found: 0 }),
            }
        })
    }
}

impl Workload for FanOut {
    /// Eventual reads may lie behind, so they begin when every node has shown that it has the series.
    fn prepare(&self, worker: &mut Worker) -> Result<(), String> {
        match self.write_all(worker) {
            Told::Done => {}
            other => return Err(format!("the series were not written: {other:?}")),
        }
        let mut nodes = 0..worker.nodes();
        let failed = nodes.find_map(|node| match self.count(worker, node, Level::Strong) {
            Told::Done => None,
            other => Some(format!("n{} does not count: {other:?}", node + 1)),
        });
        failed.map_or(Ok(()), Err)
    }

    fn step(&self, worker: &mut Worker) {
        if worker.random.one_in(WRITES) {
            self.write_all(worker);
            return;
        }
        let level = if worker.random.one_in(2) { Level::Strong } else { Level::Eventual };
        let node = worker.node();
        self.count(worker, node, level);
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        match self.count(worker, node, Level::Eventual) {
            Told::Done => self.count(worker, node, Level::Strong),
            other => other,
        }
    }
}
