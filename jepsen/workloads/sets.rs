//! Elements in sets: each is one sample, its time and its value say which. Of one tenant, or of two that use the same
//! series names and times.

use super::{HOUR_MS, SERIES, Workload};
use crate::history::Op;
use crate::worker::{Level, Told, Worker, body, query, write};
use quorate_cluster_tests::harness::http::Client;
use quorate_model::Labels;
use std::sync::atomic::{AtomicU64, Ordering};

const METRIC: &str = "jepsen_set";
const TENANT: &str = "X-Scope-OrgID";
/// Elements of one set, so that a read stays small.
const PER_SET: u64 = 256;
/// Of so many operations one is a read.
const READS: usize = 6;
/// How old the samples are of which blocks are made while the run goes on.
const PAST_MS: i64 = 5 * HOUR_MS;
/// What is no element: its time and its value do not belong together.
const FOREIGN: u64 = 1 << 40;

/// See the module header.
pub(super) struct Sets {
    base_ms: i64,
    tenants: u64,
    next: AtomicU64,
}

impl Sets {
    pub(super) fn of_one_tenant(base_ms: i64) -> Self {
        Self { base_ms, tenants: 1, next: AtomicU64::new(0) }
    }

    pub(super) fn of_two_tenants(base_ms: i64) -> Self {
        Self { tenants: 2, ..Self::of_one_tenant(base_ms) }
    }

    /// Elements go to the tenants in turn; what stands at one place in all of them is `element / tenants`.
    fn key(&self, element: u64) -> u64 {
        element / self.tenants / PER_SET * self.tenants + element % self.tenants
    }

    fn labels(&self, element: u64) -> Labels {
        let place = element / self.tenants;
        let (set, series) = ((place / PER_SET).to_string(), (place % SERIES).to_string());
        Labels::from_pairs([("__name__", METRIC), ("series", series.as_str()), ("set", set.as_str())])
    }

    /// Every other place of two tenants is in hours that are over, so that it comes from blocks soon.
    fn ts_ms(&self, element: u64) -> i64 {
        let place = element / self.tenants;
        let is_past = self.tenants > 1 && place / SERIES % 2 == 1;
        self.base_ms + place as i64 - if is_past { PAST_MS } else { 0 }
    }

    fn tenant(&self, client: &Client, key: u64) -> Client {
        match self.tenants {
            1 => client.clone(),
            tenants => client.clone().with_header(TENANT, &format!("jepsen-{}", key % tenants)),
        }
    }

    fn add(&self, worker: &mut Worker) -> Told {
        let element = self.next.fetch_add(1, Ordering::Relaxed);
        let op = Op::Add { key: self.key(element), element };
        let body = body([(&self.labels(element), self.ts_ms(element), element as f64)]);
        let node = worker.node();
        worker.perform(node, op.clone(), |client| {
            (Told::of_write(write(&self.tenant(client, self.key(element)), &body)), op)
        })
    }

    fn read(&self, worker: &mut Worker, node: usize, key: u64) -> Told {
        let op = Op::ReadSet { key, elements: Vec::new() };
        worker.perform(node, op.clone(), |client| {
            let text = format!("{METRIC}{{set=\"{}\"}}[7h]", key / self.tenants);
            let client = self.tenant(client, key);
            match query(&client, Level::Strong, &text, self.base_ms + HOUR_MS) {
                Ok(found) => {
                    let samples = found.rows.iter().flat_map(|row| &row.samples);
                    let elements = samples.map(|(ts_ms, value)| self.element(*ts_ms, *value)).collect();
                    (Told::Done, Op::ReadSet { key, elements })
                }
                Err(told) => (told, op),
            }
        })
    }

    /// The element that a sample stands for.
    fn element(&self, ts_ms: i64, value: f64) -> u64 {
        let element = value as u64;
        if value >= 0.0 && self.ts_ms(element) == ts_ms { element } else { FOREIGN + element }
    }
}

impl Workload for Sets {
    fn step(&self, worker: &mut Worker) {
        let newest = self.next.load(Ordering::Relaxed);
        if newest == 0 || !worker.random.one_in(READS) {
            self.add(worker);
            return;
        }
        // Mostly what is growing, sometimes anything.
        let recent = newest.saturating_sub(PER_SET * self.tenants);
        let from = if worker.random.one_in(4) { 0 } else { recent };
        let element = from + worker.random.number() % (newest - from);
        let node = worker.node();
        self.read(worker, node, self.key(element));
    }

    fn read_all(&self, worker: &mut Worker, node: usize) -> Told {
        let newest = self.next.load(Ordering::Relaxed);
        let keys = (0..newest.div_ceil(PER_SET * self.tenants))
            .flat_map(|set| (0..self.tenants).map(move |tenant| set * self.tenants + tenant));
        for key in keys {
            let told = self.read(worker, node, key);
            if told != Told::Done {
                return told;
            }
        }
        Told::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashMap};

    #[test]
    fn a_sample_says_which_element_it_is() {
        for sets in [Sets::of_one_tenant(1_000_000_000), Sets::of_two_tenants(1_000_000_000)] {
            for element in 0..2_000 {
                assert_eq!(sets.element(sets.ts_ms(element), element as f64), element);
                assert!(
                    sets.element(sets.ts_ms(element), (element + 1) as f64) != element + 1
                        || sets.tenants > 1
                );
                assert!(sets.element(sets.ts_ms(element) + 1, element as f64) >= FOREIGN);
            }
        }
    }

    #[test]
    fn no_two_elements_of_a_tenant_are_one_sample_and_tenants_have_the_same() {
        let sets = Sets::of_two_tenants(1_000_000_000);
        let mut places: BTreeMap<u64, HashMap<(Labels, i64), u64>> = BTreeMap::new();
        for element in 0..4_000 {
            let place = (sets.labels(element), sets.ts_ms(element));
            let of_tenant = places.entry(sets.key(element) % 2).or_default();
            assert_eq!(of_tenant.insert(place, element), None);
        }
        let names = |tenant: u64| places[&tenant].keys().cloned().collect::<std::collections::HashSet<_>>();
        assert_eq!(names(0), names(1));
    }
}
