//! Time: ranges in milliseconds since the Unix epoch, and the only place that reads a clock.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// A time range in `i64` milliseconds since the Unix epoch; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First millisecond of the range.
    pub start_ms: i64,
    /// Last millisecond of the range. Smaller than `start_ms` means the range is empty.
    pub end_ms: i64,
}

impl TimeRange {
    /// Every representable time.
    pub const ALL: Self = Self { start_ms: i64::MIN, end_ms: i64::MAX };

    /// A range with both ends included.
    pub fn new(start_ms: i64, end_ms: i64) -> Self {
        Self { start_ms, end_ms }
    }

    /// Whether no millisecond lies in the range.
    pub fn is_empty(&self) -> bool {
        self.end_ms < self.start_ms
    }

    /// Whether `ts_ms` lies in the range.
    pub fn contains(&self, ts_ms: i64) -> bool {
        self.start_ms <= ts_ms && ts_ms <= self.end_ms
    }

    /// Whether the two ranges share a millisecond.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start_ms <= other.end_ms
            && other.start_ms <= self.end_ms
            && !self.is_empty()
            && !other.is_empty()
    }

    /// The milliseconds in both ranges; may be empty.
    pub fn intersect(&self, other: &Self) -> Self {
        Self { start_ms: self.start_ms.max(other.start_ms), end_ms: self.end_ms.min(other.end_ms) }
    }
}

/// The seam for time. Wall time stamps and bounds samples; durations come from the monotonic clock.
pub trait Clock: Send + Sync {
    /// Wall time in milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// A monotonic instant for deadlines and durations.
    fn instant(&self) -> Instant;
    /// Time since the machine started, that in which it was suspended included. Monotonic instants leave that out.
    fn since_boot(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one owner of wall time
    fn now_ms(&self) -> i64 {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }

    #[allow(clippy::disallowed_methods)] // the one owner of monotonic time
    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn since_boot(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
    }
}

/// The fake: wall time is set by hand; the monotonic clocks are the machine's.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn new(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Moves wall time to `now_ms`.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    fn since_boot(&self) -> Duration {
        SystemClock.since_boot()
    }
}
