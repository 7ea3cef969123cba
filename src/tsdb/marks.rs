//! When windows are due: what a leader proposes (C2). Nothing here is state of the partition.
//!
//! Knows the window table, memory of side buffers and a time that is given. Remembers since when it has seen a
//! window wait, so that a backfill of old windows is not cut at its first sample.

use crate::config::StoreConfig;
use crate::head::Head;
use parking_lot::Mutex;
use quorate_model::FlushMark;
use std::collections::BTreeMap;

/// Since when each waiting window has been seen.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    seen: Mutex<BTreeMap<i64, i64>>,
}

impl Marks {
    pub(crate) fn due(&self, head: &Head, config: &StoreConfig, now_ms: i64) -> Vec<FlushMark> {
        let waiting: Vec<(i64, u32)> = {
            let writer = head.writer().lock();
            let waiting = writer.windows.iter().filter(|(_, state)| state.has_data);
            waiting.map(|(start, state)| (*start, state.next_generation)).collect()
        };
        let mut seen = self.seen.lock();
        seen.retain(|window, _| waiting.iter().any(|(start, _)| start == window));
        let late_bytes = head.late_bytes();
        let mut due = Vec::new();
        for (window_start_ms, generation) in waiting {
            let since = *seen.entry(window_start_ms).or_insert(now_ms);
            let ended = now_ms.saturating_sub(window_start_ms.saturating_add(config.window_ms));
            let waited = now_ms.saturating_sub(since);
            let is_due = if generation > 0 {
                late_bytes >= config.late_budget_bytes || waited >= config.late_delay_ms
            } else {
                let is_old = ended > 2 * config.window_ms;
                ended >= config.close_delay_ms && (!is_old || waited >= config.close_delay_ms)
            };
            if is_due {
                due.push(FlushMark { window_start_ms, generation });
            }
        }
        due
    }
}
