//! Two clients write two values under one identity, through whichever nodes.

use super::{HOUR_MS, SERIES, Workload};
use crate::history::Op;
use crate::worker::{Level, Told, Worker, body, query, write};
use quorate_model::Labels;
use std::sync::atomic::{AtomicU64, Ordering};

const METRIC: &str = "jepsen_conflict";
const READS: usize = 6;
/// Identities of one page, so that a read stays small.
const PER_PAGE: u64 = 128;
/// What a node says of a second value.
const CONFLICT: &str = "another sample with the same timestamp";
/// Values tried under each identity.
const RIVALS: u64 = 2;

/// See the module header. Value `v` is written under identity `v / RIVALS`.
pub(super) struct Conflict {
    base_ms: i64,
    next: AtomicU64,
}

impl Conflict {
    pub(super) fn new(base_ms: i64) -> Self {
        Self { base_ms, next: AtomicU64::new(0) }
    }

    fn put(&self, worker: &mut Worker) {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let identity = value / RIVALS;
        let key = identity / PER_PAGE;
        let (page, series) = (key.to_string(), (identity % SERIES).to_string());
        let labels =
            Labels::from_pairs([("__name__", METRIC), ("page", page.as_str()), ("series", series.as_str())]);
        let body = body([(&labels, self.base_ms + identity as i64, value as f64)]);
        let (node, op) = (worker.node(), Op::Put { key, identity, value });
        worker.perform(node, op.clone(), |client| match Told::of_write(write(client, &body)) {
            // A refusal for another reason, as by a node whose clock is wrong, does not say that a value is there.
            Told::Refused(why) if !why.contains(CONFLICT) => (Told::Unknown(why), op),
            told => (told, op),
        });
    }

    fn read(&self, worker: &mut Worker, node: usize, key: u64) -> Told {
        let op = Op::ReadPage { key, pairs: Vec::new() };
        worker.perform(node, op.clone(), |client| {
            let text = format!("{METRIC}{{page=\"{key}\"}}[2h]");
            match query(client, Level::Strong, &text, self.base_ms + HOUR_MS) {
                Ok(found) => {
                    let samples = found.rows.iter().flat_map(|row| &row.samples);
                    let pair = |(ts_ms, value): &(i64, f64)| ((ts_ms - self.base_ms) as u64, *value as u64);
                    let mut pairs: Vec<(u64, u64)> = samples.map(pair).collect();
                    pairs.sort_unstable();
                    (Told::Done, Op::ReadPage { key, pairs })
                }
                Err(told) => (told, op),
            }
        })
    }
}

impl Workload for Conflict {
    fn step(&self, worker: &mut Worker) {
        let newest = self.next.load(Ordering::Relaxed) / RIVALS;
        if newest == 0 || !worker.random.one_in(READS) {
            self.put(worker);
            return;
        }
        let from = if worker.random.one_in(4) { 0 } else { newest.saturating_sub(PER_PAGE) };
        let identity = from + worker.random.number() % (newest - from);
        let node = worker.node();
        self.read(worker, node, identity / PER_PAGE);
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        let pages = self.next.load(Ordering::Relaxed).div_ceil(RIVALS).div_ceil(PER_PAGE);
        for key in 0..pages {
            let told = self.read(worker, node, key);
            if told != Told::Done {
                return told;
            }
        }
        Told::Done
    }
}
