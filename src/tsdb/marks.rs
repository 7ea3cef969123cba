//! When windows are due: what a leader proposes (C2). Nothing here is state of the partition.
//!
//! Knows the window table, memory of windows and a time that is given. Remembers since when it has seen a window
//! wait, so that a backfill of old windows is not cut at its first sample.

use crate::config::StoreConfig;
use crate::head::{Head, WindowState};
use parking_lot::Mutex;
use quorate_model::FlushMark;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

/// Since when each waiting window has been seen.
#[derive(Debug)]
pub(crate) struct Marks {
    seen: Mutex<BTreeMap<i64, i64>>,
    /// Windows that start before this are old: what comes for them is late also before their first mark.
    old_before: AtomicI64,
}

impl Default for Marks {
    fn default() -> Self {
        Self { seen: Mutex::default(), old_before: AtomicI64::new(i64::MIN) }
    }
}

impl Marks {
    pub(crate) fn due(&self, head: &Head, config: &StoreConfig, now_ms: i64) -> Vec<FlushMark> {
        self.old_before.store(now_ms.saturating_sub(3 * config.window_ms), Ordering::Relaxed);
        let waiting: BTreeMap<i64, WindowState> = {
            let writer = head.writer().lock();
            writer.windows.iter().filter(|(_, state)| state.has_data).map(|(start, s)| (*start, *s)).collect()
        };
        let mut seen = self.seen.lock();
        seen.retain(|window, _| waiting.contains_key(window));
        let is_over = self.late_bytes(head) >= config.late_budget_bytes;
        let mut due = Vec::new();
        for (window_start_ms, state) in waiting {
            let since = *seen.entry(window_start_ms).or_insert(now_ms);
            let ended = now_ms.saturating_sub(window_start_ms.saturating_add(config.window_ms));
            let waited = now_ms.saturating_sub(since);
            let is_due = if self.is_late(window_start_ms, state) {
                let delay =
                    if state.next_generation > 0 { config.late_delay_ms } else { config.close_delay_ms };
                is_over || waited >= delay
            } else {
                ended >= config.close_delay_ms
            };
            if is_due {
                due.push(FlushMark { window_start_ms, generation: state.next_generation });
            }
        }
        due
    }

    /// Memory of late samples: of windows that were cut before, and of old ones. Open chunks do not count: a series
    /// has one, wherever it lies.
    pub(crate) fn late_bytes(&self, head: &Head) -> u64 {
        head.window_bytes(&|start, state| self.is_late(start, state))
    }

    fn is_late(&self, window_start_ms: i64, state: WindowState) -> bool {
        state.next_generation > 0 || window_start_ms < self.old_before.load(Ordering::Relaxed)
    }
}
