//! Placement: a series has a slot, a slot has a partition.
//!
//! Knows labels, slots and partitions. Does not know nodes or replicas.
//! S1: both functions are pure and stable: the golden test pins them, because stored data depends on them.
//! S2: series of one target and one metric share a slot, so that a scrape's neighbours stay neighbours, and a
//! large target is still split over up to 16 slots by metric.
//! Source: Karger et al., "Consistent Hashing and Random Trees", STOC 1997.

use hashring::HashRing;
use quorate_model::{Labels, METRIC_NAME, PartitionId, Slot, TenantId};
use std::hash::{BuildHasher, Hash, Hasher};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Number of slots.
pub const SLOTS: usize = 65_536;
/// Points of each partition on the ring.
const POINTS_PER_PARTITION: u32 = 256;
/// A target's metrics are spread over so many slots.
const METRIC_SPREAD: u64 = 16;

/// Partition of every slot, in one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    partitions: u32,
    owners: Box<[PartitionId]>,
}

impl SlotTable {
    /// The table of the first epoch for `partitions` partitions, at least one.
    ///
    /// Built through a hash ring, so that a table for one partition more differs in about its share only.
    pub fn build(partitions: u32) -> Self {
        let mut ring = HashRing::with_hasher(StableHash);
        let points = (0..partitions.max(1))
            .flat_map(|partition| (0..POINTS_PER_PARTITION).map(move |point| Point { partition, point }));
        ring.batch_add(points.collect());
        let owner = |slot| {
            let point = ring.get(&SlotKey(slot)).expect("the ring has points of at least one partition");
            PartitionId(point.partition)
        };
        Self { partitions: partitions.max(1), owners: (0..=u16::MAX).map(owner).collect() }
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The partition that owns `slot`. One array read.
    pub fn partition(&self, slot: Slot) -> PartitionId {
        self.owners[usize::from(slot.0)]
    }
}

/// XXH3-64, fed with explicit bytes so that it is the same on every machine.
struct StableHash;

impl BuildHasher for StableHash {
    type Hasher = Xxh3;

    fn build_hasher(&self) -> Xxh3 {
        Xxh3::new()
    }
}

#[derive(Debug, Clone, Copy)]
struct Point {
    partition: u32,
    point: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = *b"partition\0\0\0\0\0\0\0\0";
        bytes[9..13].copy_from_slice(&self.partition.to_le_bytes());
        bytes[13..].copy_from_slice(&self.point.to_le_bytes());
        state.write(&bytes);
    }
}

struct SlotKey(u16);

impl Hash for SlotKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = *b"slot\0\0";
        bytes[4..].copy_from_slice(&self.0.to_le_bytes());
        state.write(&bytes);
    }
}

/// The labels that name the target of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLabels(Vec<String>);

impl Default for TargetLabels {
    fn default() -> Self {
        Self(vec!["instance".to_owned(), "job".to_owned()])
    }
}

impl TargetLabels {
    /// The names in any order.
    pub fn new(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names)
    }
}

/// The slot of a series: hash of tenant, target labels and one of 16 classes of metric names.
///
/// A series that lacks a target label is placed by all its labels but `le`, so that the buckets of one
/// histogram stay together. Cost: one pass over the labels; nothing is allocated for short label sets.
pub fn slot_of(tenant: TenantId, labels: &Labels, target: &TargetLabels) -> Slot {
    let mut hash = Xxh3::new();
    hash.update(&tenant.0.to_le_bytes());
    let is_whole_target = target.0.iter().all(|name| labels.get(name).is_some());
    if is_whole_target && !target.0.is_empty() {
        for name in &target.0 {
            update(&mut hash, name);
            update(&mut hash, labels.get(name).unwrap_or_default());
        }
        let class = xxh3_64(labels.metric_name().unwrap_or_default().as_bytes()) % METRIC_SPREAD;
        update(&mut hash, METRIC_NAME);
        hash.update(&[class as u8]);
    } else {
        for (name, value) in labels.iter().filter(|(name, _)| *name != "le") {
            update(&mut hash, name);
            update(&mut hash, value);
        }
    }
    Slot((hash.digest() >> 48) as u16)
}

fn update(hash: &mut Xxh3, text: &str) {
    hash.update(&(text.len() as u32).to_le_bytes());
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(table: &SlotTable) -> Vec<usize> {
        let mut shares = vec![0; table.partitions() as usize];
        for slot in 0..=u16::MAX {
            shares[table.partition(Slot(slot)).0 as usize] += 1;
        }
        shares
    }

    #[test]
    fn every_partition_gets_about_its_share() {
        for partitions in [1, 2, 4, 32, 128] {
            let mean = SLOTS / partitions as usize;
            for share in shares(&SlotTable::build(partitions)) {
                assert!(share > mean / 2 && share < mean * 2, "{share} of {mean} at {partitions}");
            }
        }
    }

    #[test]
    fn one_partition_more_moves_about_its_share_of_slots() {
        for partitions in [4, 16, 32] {
            let (before, after) = (SlotTable::build(partitions), SlotTable::build(partitions + 1));
            let slots = (0..=u16::MAX).map(Slot);
            let moved: Vec<Slot> =
                slots.filter(|slot| before.partition(*slot) != after.partition(*slot)).collect();
            assert!(moved.iter().all(|slot| after.partition(*slot).0 == partitions), "only to the new one");
            let share = SLOTS as f64 / f64::from(partitions + 1);
            assert!((moved.len() as f64) < share * 1.25, "{} moved, share {share}", moved.len());
        }
    }

    #[test]
    fn tables_never_change() {
        let table = SlotTable::build(4);
        let owners: Vec<u8> = (0..=u16::MAX).map(|slot| table.partition(Slot(slot)).0 as u8).collect();
        assert_eq!(xxh3_64(&owners), GOLDEN_TABLE);
    }

    #[test]
    fn slots_never_change() {
        let target = TargetLabels::default();
        let scraped = Labels::from_pairs([
            ("__name__", "http_requests_total"),
            ("job", "api"),
            ("instance", "10.0.0.1:9090"),
            ("code", "200"),
        ]);
        let recorded = Labels::from_pairs([("__name__", "job:rate5m"), ("job", "api")]);
        let slots = [
            slot_of(TenantId(1), &scraped, &target).0,
            slot_of(TenantId(2), &scraped, &target).0,
            slot_of(TenantId(1), &recorded, &target).0,
            slot_of(TenantId(1), &Labels::empty(), &target).0,
        ];
        assert_eq!(slots, GOLDEN_SLOTS);
    }

    const GOLDEN_TABLE: u64 = 9371647590826408045;
    const GOLDEN_SLOTS: [u16; 4] = [65070, 33812, 62664, 56066];

    #[test]
    fn series_of_a_target_and_metric_stay_together_and_buckets_too() {
        let target = TargetLabels::default();
        let scraped = |name: &str, code: &str| {
            let pairs = [("__name__", name), ("job", "api"), ("instance", "a:1"), ("code", code)];
            slot_of(TenantId(1), &Labels::from_pairs(pairs), &target)
        };
        assert_eq!(scraped("up", "200"), scraped("up", "500"));
        let spread: std::collections::HashSet<Slot> =
            (0..1000).map(|n| scraped(&format!("metric_{n}"), "200")).collect();
        assert!(spread.len() > 8 && spread.len() <= METRIC_SPREAD as usize, "{} slots", spread.len());
        let bucket = |le: &str| {
            slot_of(TenantId(1), &Labels::from_pairs([("__name__", "b"), ("path", "/"), ("le", le)]), &target)
        };
        assert_eq!(bucket("1"), bucket("+Inf"));
    }
}
