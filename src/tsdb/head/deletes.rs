//! What is hidden: tombstones of deletes, and the retention floor of each tenant (C13).
//!
//! Knows matchers, ranges, windows and generations. Does not know where samples lie.
//! D1: a tombstone hides exactly the generations that were cut at or before it: a sample written after a delete
//! stays visible even at a deleted time.

use crate::block::BlockMeta;
use quorate_model::{Labels, MatchOp, Matcher, MatcherError, Position, TenantId, TimeRange};
use std::collections::BTreeMap;

/// One delete.
#[derive(Debug, Clone)]
pub struct Tombstone {
    /// Where the delete stands in the log.
    pub position: Position,
    /// Tenant whose samples are deleted.
    pub tenant: TenantId,
    /// Series must pass all.
    pub matchers: Vec<Matcher>,
    /// Deleted times.
    pub range: TimeRange,
    /// For each touched window: generations below this one are hidden. By window start.
    pub windows: Vec<(i64, u32)>,
}

impl Tombstone {
    /// Compiles the matchers of a delete.
    ///
    /// # Errors
    /// [`MatcherError`] of the first that does not compile.
    pub(crate) fn matchers(raw: &[(String, MatchOp, String)]) -> Result<Vec<Matcher>, MatcherError> {
        raw.iter().map(|(name, op, value)| Matcher::new(name, *op, value)).collect()
    }

    /// Whether generation `generation` of the window was cut at or before the delete.
    pub fn covers(&self, window_start_ms: i64, generation: u32) -> bool {
        let found = self.windows.binary_search_by_key(&window_start_ms, |w| w.0);
        found.is_ok_and(|at| generation < self.windows[at].1)
    }

    /// Appends the deleted times of a matching series in a block: those of the windows all of whose generations
    /// in the block were cut at or before the delete.
    pub(crate) fn masks(&self, block: &BlockMeta, out: &mut Vec<TimeRange>) {
        for (window_start_ms, visible_from) in &self.windows {
            let of_window = block.spec.generations.iter().filter(|g| g.window_start_ms == *window_start_ms);
            let Some(newest) = of_window.max_by_key(|g| g.generation) else { continue };
            if newest.generation < *visible_from {
                let last = window_start_ms.saturating_add(newest.window_length_ms - 1);
                let mask = self.range.intersect(&TimeRange::new(*window_start_ms, last));
                out.extend((!mask.is_empty()).then_some(mask));
            }
        }
    }

    /// Whether the series is one of those deleted.
    pub fn matches(&self, tenant: TenantId, labels: &Labels) -> bool {
        let passes = |m: &Matcher| m.matches(labels.get(m.name()).unwrap_or_default());
        self.tenant == tenant && self.matchers.iter().all(passes)
    }
}

/// Everything that is hidden at one position of the log.
#[derive(Debug, Clone, Default)]
pub struct Hidden {
    /// Deletes in log order.
    pub tombstones: Vec<Tombstone>,
    /// First visible time of each tenant that has one.
    pub floors: BTreeMap<TenantId, i64>,
}

impl Hidden {
    /// First visible time of the tenant.
    pub fn floor_ms(&self, tenant: TenantId) -> i64 {
        self.floors.get(&tenant).copied().unwrap_or(i64::MIN)
    }

    /// The tombstones that concern a series within `range`.
    pub fn of(&self, tenant: TenantId, labels: &Labels, range: TimeRange) -> Vec<&Tombstone> {
        let touches = |t: &&Tombstone| t.range.overlaps(&range) && t.matches(tenant, labels);
        self.tombstones.iter().filter(touches).collect()
    }
}
