//! How far a retention floor may rise: by what the data says, not by one machine's clock alone.
//!
//! Knows times of data and a time that is given. Does not know tenants' policy. Nothing here is state of the
//! partition. Path: `partition_store::retention_due` -> **here**.
//! A floor never goes down, so a clock that runs ahead for a minute must not raise it far. T1: a floor follows the
//! clock as far as data reaches without a gap of more than [`MAX_GAP_MS`]. T2: beyond that it rises by one window
//! for each window of time that passes, so that data without successors goes too, but a wrong clock costs at most
//! what it lasts.

use parking_lot::Mutex;
use quorate_model::{TenantId, TimeRange};
use std::collections::BTreeMap;

/// Times without data that do not end what the data proves: senders may rest for some hours.
const MAX_GAP_MS: i64 = 86_400_000;

/// When each tenant's floor last rose beyond what data proves, or was first seen to want it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Mutex<BTreeMap<TenantId, i64>>,
}

impl Pace {
    /// Whether a step of one window is due at `now_ms`; then the next one is due a window later.
    pub(crate) fn step(&self, tenant: TenantId, now_ms: i64, window_ms: i64) -> bool {
        let mut last = self.last.lock();
        let last = last.entry(tenant).or_insert(now_ms);
        let is_due = now_ms.saturating_sub(*last) >= window_ms;
        // A clock that was set back begins anew.
        if is_due || now_ms < *last {
            *last = now_ms;
        }
        is_due
    }

    /// The tenant's floor is where the clock wants it.
    pub(crate) fn forget(&self, tenant: TenantId) {
        self.last.lock().remove(&tenant);
    }
}

/// First and last millisecond of the data from `from_ms` on that follows without a large gap, or `None` if there
/// is none. `data` is by start.
pub(crate) fn proven(data: &[TimeRange], from_ms: i64) -> Option<TimeRange> {
    let mut data = data.iter().filter(|range| range.end_ms >= from_ms);
    let mut run = *data.next()?;
    for range in data {
        if range.start_ms.saturating_sub(run.end_ms) > MAX_GAP_MS {
            break;
        }
        run.end_ms = run.end_ms.max(range.end_ms);
    }
    Some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = MAX_GAP_MS;

    #[test]
    fn data_proves_time_up_to_the_first_large_gap() {
        let data = [(-DAY, -5), (0, 9), (5, 7), (9 + DAY, 20 + DAY), (21 + 2 * DAY, 400 * DAY)];
        let data: Vec<_> = data.iter().map(|(from, to)| TimeRange::new(*from, *to)).collect();
        assert_eq!(proven(&data, i64::MIN), Some(TimeRange::new(-DAY, 20 + DAY)));
        assert_eq!(proven(&data, 8), Some(TimeRange::new(0, 20 + DAY)));
        assert_eq!(proven(&data, 30 + DAY), Some(TimeRange::new(21 + 2 * DAY, 400 * DAY)));
        assert_eq!(proven(&data, 401 * DAY), None);
    }

    #[test]
    fn steps_come_at_the_pace_of_time() {
        let (pace, tenant) = (Pace::default(), TenantId(1));
        let steps = [5, 14, 15, 16, 25, 3, 12, 13].map(|now| pace.step(tenant, now, 10));
        assert_eq!(steps, [false, false, true, false, true, false, false, true]);
        pace.forget(tenant);
        assert!(!pace.step(tenant, 100, 10));
    }
}
