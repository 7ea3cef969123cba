//! When windows are due: what a leader proposes (C2). Nothing here is state of the partition.
//!
//! Knows the window table, memory of windows and a time that is given. Remembers since when it has seen a window
//! wait, so that a backfill of old windows is not cut at its first sample.
//! B1: marks that are proposed at once and applied leave late bytes of less than the budget in late windows, and
//! less in the side buffers of all others together, so twice the budget is reached only while marks are not applied.

use crate::config::StoreConfig;
use crate::head::{Head, WindowSize, WindowState};
use parking_lot::Mutex;
use quorate_model::FlushMark;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Since when each waiting window has been seen.
#[derive(Debug)]
pub(crate) struct Marks {
    seen: Mutex<BTreeMap<i64, i64>>,
    /// Windows that start before this are old: what comes for them is late also before their first mark.
    old_before: AtomicI64,
    /// Late bytes of old windows that apply does not know as late, when marks were last looked for.
    old_bytes: AtomicU64,
}

impl Default for Marks {
    fn default() -> Self {
        let old_before = AtomicI64::new(i64::MIN);
        Self { seen: Mutex::default(), old_before, old_bytes: AtomicU64::new(0) }
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
        let sizes = head.window_sizes();
        let size_of = |start: &i64| sizes.get(start).copied().unwrap_or_default();
        let (late, open): (Vec<_>, Vec<_>) =
            waiting.iter().map(|(start, s)| (*start, *s)).partition(|(start, s)| self.is_late(*start, *s));
        let late_memory: u64 = late.iter().map(|(start, _)| size_of(start).memory_bytes).sum();
        let beside: u64 = open.iter().map(|(start, _)| size_of(start).late_bytes).sum();
        let is_over = late_memory >= config.late_budget_bytes;
        // Of a window that is cut early all further samples are late, so no more than one is.
        let worst = open.iter().map(|(start, _)| *start).max_by_key(|start| size_of(start).late_bytes);
        let worst = worst.filter(|_| beside >= config.late_budget_bytes.max(1));
        self.old_bytes.store(self.old_bytes(&sizes), Ordering::Relaxed);
        let mut due = Vec::new();
        for (window_start_ms, state) in waiting {
            // A clock that was set back begins anew: what it saw while it was ahead has not waited yet.
            let since =
                *seen.entry(window_start_ms).and_modify(|at| *at = (*at).min(now_ms)).or_insert(now_ms);
            let ended = now_ms.saturating_sub(window_start_ms.saturating_add(config.window_ms));
            let waited = now_ms.saturating_sub(since);
            let is_due = if self.is_late(window_start_ms, state) {
                let delay =
                    if state.next_generation > 0 { config.late_delay_ms } else { config.close_delay_ms };
                is_over || waited >= delay
            } else {
                ended >= config.close_delay_ms || worst == Some(window_start_ms)
            };
            if is_due {
                due.push(FlushMark { window_start_ms, generation: state.next_generation });
            }
        }
        due
    }

    /// Memory of late samples: of windows that were cut before and of old ones all but the open chunks, for a series
    /// has one wherever it lies; of the others the floats in side buffers.
    pub(crate) fn late_bytes(&self, head: &Head) -> u64 {
        head.late_bytes() + self.old_bytes(&head.window_sizes())
    }

    /// Whether late samples take more than twice the budget: writes should wait until marks are applied. Two loads.
    pub(crate) fn is_over_twice(&self, head: &Head, config: &StoreConfig) -> bool {
        let late = head.late_bytes() + self.old_bytes.load(Ordering::Relaxed);
        late > config.late_budget_bytes.saturating_mul(2)
    }

    fn old_bytes(&self, sizes: &BTreeMap<i64, WindowSize>) -> u64 {
        let old = sizes.range(..self.old_before.load(Ordering::Relaxed));
        old.map(|(_, size)| size.memory_bytes - size.late_bytes).sum()
    }

    fn is_late(&self, window_start_ms: i64, state: WindowState) -> bool {
        state.next_generation > 0 || window_start_ms < self.old_before.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::WindowLength;
    use crate::head::testing::{floats, mark};
    use crate::view::Views;
    use quorate_model::Position;
    use std::sync::Arc;

    const HOUR: i64 = 3_600_000;
    /// Fifteen samples out of order stay in a side buffer, 48 bytes each.
    const SIDE: u64 = 15 * 48;

    struct Fixture {
        head: Head,
        marks: Marks,
        config: StoreConfig,
        position: u64,
    }

    impl Fixture {
        fn new(late_budget_bytes: u64) -> Self {
            let head = Head::new(WindowLength::new(HOUR), Arc::new(Views::new(Vec::new())));
            let config = StoreConfig { late_budget_bytes, ..StoreConfig::default() };
            Self { head, marks: Marks::default(), config, position: 0 }
        }

        fn apply(&mut self, record: &quorate_model::LogRecord) {
            self.position += 1;
            self.head.apply(Position(self.position), record, &|_, _| Ok(Default::default())).unwrap();
        }

        /// Fifteen samples of each series that came behind a newer one.
        fn out_of_order(&mut self, series: std::ops::Range<u32>, window: i64) {
            for i in series {
                let late = (1..16).map(|step| (i, window + step, 1.0));
                self.apply(&floats(&[(i, window + 20, 1.0)].into_iter().chain(late).collect::<Vec<_>>()));
            }
        }

        #[track_caller]
        fn check(&self, due: &[(i64, u32)], is_over_twice: bool) {
            let marks = self.marks.due(&self.head, &self.config, HOUR);
            let found: Vec<_> = marks.iter().map(|m| (m.window_start_ms, m.generation)).collect();
            assert_eq!(found, due);
            assert_eq!(self.marks.is_over_twice(&self.head, &self.config), is_over_twice);
        }
    }

    #[test]
    fn samples_out_of_order_over_the_budget_cut_the_open_window_that_has_most() {
        let mut fixture = Fixture::new(4 * SIDE);
        fixture.out_of_order(0..2, HOUR);
        fixture.out_of_order(2..3, 2 * HOUR);
        fixture.check(&[], false);
        fixture.out_of_order(3..4, HOUR);
        assert_eq!(fixture.marks.late_bytes(&fixture.head), 4 * SIDE);
        fixture.check(&[(HOUR, 0)], false);
        fixture.out_of_order(4..9, HOUR);
        fixture.check(&[(HOUR, 0)], true);
        fixture.apply(&mark(HOUR, 0));
        assert_eq!(fixture.marks.late_bytes(&fixture.head), SIDE);
        fixture.check(&[], false);
    }

    #[test]
    fn what_comes_in_order_is_not_late_until_its_window_is_cut() {
        let mut fixture = Fixture::new(1);
        let samples: Vec<_> = (0..500).map(|step| (0, HOUR + step, 1.0 / f64::from(step as u32))).collect();
        fixture.apply(&floats(&samples));
        fixture.check(&[], false);
        fixture.apply(&mark(HOUR, 0));
        fixture.check(&[], false);
        fixture.apply(&floats(&[(0, HOUR + 1_000, 1.0)]));
        fixture.check(&[(HOUR, 1)], true);
        fixture.apply(&mark(HOUR, 1));
        fixture.check(&[], false);
    }

    #[test]
    fn a_clock_that_was_ahead_holds_no_late_samples_back() {
        let mut fixture = Fixture::new(1 << 20);
        fixture.apply(&floats(&[(0, HOUR, 1.0)]));
        fixture.apply(&mark(HOUR, 0));
        fixture.apply(&floats(&[(0, HOUR + 1, 1.0)]));
        let Fixture { head, marks, config, .. } = &fixture;
        let due = |now_ms: i64| marks.due(head, config, now_ms).len();
        let waited = [365 * 24 * HOUR, 2 * HOUR, 2 * HOUR + config.late_delay_ms].map(due);
        assert_eq!(waited, [0, 0, 1]);
    }

    #[test]
    fn old_windows_are_late_before_their_first_mark() {
        let mut fixture = Fixture::new(1);
        let samples: Vec<_> = (0..500).map(|step| (0, step - 9 * HOUR, 1.0)).collect();
        fixture.apply(&floats(&samples));
        fixture.check(&[(-9 * HOUR, 0)], true);
        fixture.apply(&mark(-9 * HOUR, 0));
        fixture.check(&[], false);
    }
}
