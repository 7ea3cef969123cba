//! Which blocks to merge and which to drop: plain functions of what is listed, the time and the floors.
//!
//! Knows windows, generations and tiers. Does not know samples or files.
//! C3: a merge takes, for each window, a contiguous run of generations, and lists exactly those.

use crate::block::{BlockId, BlockMeta, BlockSpec, GenerationRef, Tier};
use crate::head::Hidden;
use quorate_model::{TenantId, TimeRange};
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;
/// Blocks of one window that are merged before the day is over.
const MAX_GENERATIONS: usize = 8;
/// Late blocks of a merged day that make it be merged again.
const LATE_BLOCKS: usize = 4;

/// Blocks to merge, by their place in the list, and what comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MergePlan {
    pub(crate) inputs: Vec<usize>,
    pub(crate) spec: MergedSpec,
}

/// What comes out of a merge, but for its id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MergedSpec {
    partition: quorate_model::PartitionId,
    range: (i64, i64),
    tier: Tier,
    generations: Vec<GenerationRef>,
}

impl MergedSpec {
    pub(crate) fn with_id(self, id: BlockId) -> BlockSpec {
        BlockSpec {
            id,
            partition: self.partition,
            window_start_ms: self.range.0,
            window_length_ms: self.range.1,
            tier: self.tier,
            generations: self.generations,
        }
    }
}

/// The next merge, if one is due: a window with many generations first, then a day that closed before
/// `closed_ms` and has nothing `waiting` (windows of sealed generations that are not flushed).
pub(crate) fn plan(blocks: &[&BlockMeta], waiting: &[i64], closed_ms: i64) -> Option<MergePlan> {
    let mut windows: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    let mut days: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (at, block) in blocks.iter().enumerate() {
        let start = block.spec.window_start_ms;
        if block.spec.tier == Tier::Hour {
            windows.entry(start).or_default().push(at);
        }
        days.entry(day_of(start)).or_default().push(at);
    }
    let crowded = windows.into_values().find(|inputs| inputs.len() > MAX_GENERATIONS);
    if let Some(inputs) = crowded {
        return Some(make(blocks, inputs, None));
    }
    let is_due = |(day, inputs): &(i64, Vec<usize>)| {
        let is_closed = day.saturating_add(DAY_MS) <= closed_ms;
        let has_merged = inputs.iter().any(|at| blocks[*at].spec.tier == Tier::Day);
        let enough = if has_merged { inputs.len() > LATE_BLOCKS } else { inputs.len() > 1 };
        is_closed && enough && !waiting.iter().any(|window| day_of(*window) == *day)
    };
    days.into_iter().find(is_due).map(|(day, inputs)| make(blocks, inputs, Some(day)))
}

/// Whether every tenant of a block hides all of its window.
pub(crate) fn is_expired(
    window: TimeRange,
    mut tenants: impl Iterator<Item = TenantId>,
    hidden: &Hidden,
) -> bool {
    !hidden.floors.is_empty() && tenants.all(|tenant| hidden.floor_ms(tenant) > window.end_ms)
}

fn day_of(start_ms: i64) -> i64 {
    start_ms.div_euclid(DAY_MS).checked_mul(DAY_MS).unwrap_or(i64::MIN)
}

fn make(blocks: &[&BlockMeta], inputs: Vec<usize>, day: Option<i64>) -> MergePlan {
    let first = &blocks[inputs[0]].spec;
    let range = day.map_or((first.window_start_ms, first.window_length_ms), |day| (day, DAY_MS));
    let tier = if day.is_some() { Tier::Day } else { Tier::Hour };
    let mut generations: Vec<_> =
        inputs.iter().flat_map(|at| blocks[*at].spec.generations.iter().copied()).collect();
    generations.sort_unstable();
    MergePlan { spec: MergedSpec { partition: first.partition, range, tier, generations }, inputs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::PartitionId;

    const HOUR: i64 = 3_600_000;

    fn block(window: i64, generations: std::ops::Range<u32>, tier: Tier) -> BlockMeta {
        let length = if tier == Tier::Day { DAY_MS } else { HOUR };
        let generation =
            |generation| GenerationRef { window_start_ms: window * HOUR, window_length_ms: HOUR, generation };
        BlockMeta {
            spec: BlockSpec {
                id: BlockId(u64::from(generations.start)),
                partition: PartitionId(0),
                window_start_ms: window * HOUR,
                window_length_ms: length,
                tier,
                generations: generations.map(generation).collect(),
            },
            min_ts_ms: 0,
            max_ts_ms: 0,
            series: 0,
            samples: 0,
            page_bytes: 0,
            idx_bytes: 0,
            content_checksum: 0,
        }
    }

    #[track_caller]
    fn check(blocks: &[BlockMeta], waiting: &[i64], closed_ms: i64, expected: Option<&[usize]>) {
        let refs: Vec<_> = blocks.iter().collect();
        let inputs = plan(&refs, waiting, closed_ms).map(|plan| plan.inputs);
        assert_eq!(inputs.as_deref(), expected);
    }

    #[test]
    fn a_day_is_merged_when_it_is_over_and_flushed() {
        let day = [block(0, 0..1, Tier::Hour), block(1, 0..1, Tier::Hour), block(24, 0..1, Tier::Hour)];
        check(&day, &[], DAY_MS - 1, None);
        check(&day, &[], DAY_MS, Some(&[0, 1]));
        check(&day, &[HOUR * 5], DAY_MS, None);
        check(&[block(-1, 0..1, Tier::Hour), block(-24, 0..1, Tier::Hour)], &[], 0, Some(&[0, 1]));
    }

    #[test]
    fn a_window_with_many_generations_is_merged_early() {
        let blocks: Vec<_> = (0..9).map(|g| block(3, g..g + 1, Tier::Hour)).collect();
        check(&blocks[..8], &[], 0, None);
        check(&blocks, &[], 0, Some(&[0, 1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn a_merged_day_waits_for_several_late_blocks() {
        let mut blocks = vec![block(0, 0..3, Tier::Day)];
        check(&blocks, &[], 9 * DAY_MS, None);
        blocks.extend((3..7).map(|g| block(2, g..g + 1, Tier::Hour)));
        check(&blocks[..4], &[], 9 * DAY_MS, None);
        check(&blocks, &[], 9 * DAY_MS, Some(&[0, 1, 2, 3, 4]));
    }
}
