//! Snapshots between this node and others: how fast they are given, and how far those are that arrive.
//!
//! Knows bytes and time. Does not know what is in them. Path: [`super::snapshots`] -> **here** -> [`super::life`],
//! [`super::figures`].
//! T1: over any span of time no more leaves than the rate allows, and one piece. T2: who would wait for longer than
//! `LONGEST_WAIT` is refused, so the queue is bounded.

use parking_lot::Mutex;
use quorate_model::{Clock, PartitionId, SystemClock};
use quorate_wire::meta::{Transfer, transfer::Phase};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shorter than whoever asks waits for an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// See the module header.
pub struct Traffic {
    pace: Pace,
    sent: AtomicU64,
    received: AtomicU64,
    arriving: Mutex<BTreeMap<PartitionId, Arriving>>,
}

struct Arriving {
    bytes: u64,
    total: u64,
    phase: Phase,
    since: Instant,
}

impl Traffic {
    /// Gives so many bytes a second at most; as many as there are if it is 0.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            pace: Pace { bytes_per_second, free_at: Mutex::new(None) },
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            arriving: Mutex::default(),
        }
    }

    /// Waits until so many bytes may leave, and counts them.
    ///
    /// # Errors
    /// That too many wait; nothing is counted.
    pub async fn give(&self, bytes: u64) -> Result<(), String> {
        let wait = self.pace.reserve(bytes, SystemClock.instant());
        tokio::time::sleep(wait.ok_or("too many snapshots are being given; ask again")?).await;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes given and taken since the start.
    pub fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// A snapshot of `total` bytes begins to arrive; until what is returned is dropped it is listed.
    pub fn arrival(self: &Arc<Self>, partition: PartitionId, total: u64) -> Arrival {
        let since = SystemClock.instant();
        self.arriving.lock().insert(partition, Arriving { bytes: 0, total, phase: Phase::Copying, since });
        Arrival { traffic: self.clone(), partition }
    }

    /// Those that arrive.
    pub fn arriving(&self) -> Vec<Transfer> {
        let (now, arriving) = (SystemClock.instant(), self.arriving.lock());
        let transfer = |(partition, arriving): (&PartitionId, &Arriving)| Transfer {
            partition: partition.0,
            bytes: arriving.bytes.min(arriving.total),
            total: arriving.total,
            phase: arriving.phase.into(),
            age_ms: now.saturating_duration_since(arriving.since).as_millis() as u64,
        };
        arriving.iter().map(transfer).collect()
    }
}

/// A snapshot that arrives.
pub struct Arrival {
    traffic: Arc<Traffic>,
    partition: PartitionId,
}

impl Arrival {
    /// So many bytes are missing now.
    pub fn set_missing(&self, bytes: u64) {
        self.change(|arriving| arriving.bytes = arriving.total.saturating_sub(bytes));
    }

    /// So many bytes came.
    pub fn add(&self, bytes: u64) {
        self.traffic.received.fetch_add(bytes, Ordering::Relaxed);
        self.change(|arriving| arriving.bytes += bytes);
    }

    /// What is done with it from now on.
    pub fn enter(&self, phase: Phase) {
        self.change(|arriving| arriving.phase = phase);
    }

    fn change(&self, change: impl FnOnce(&mut Arriving)) {
        if let Some(arriving) = self.traffic.arriving.lock().get_mut(&self.partition) {
            change(arriving);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.traffic.arriving.lock().remove(&self.partition);
    }
}

/// When the next bytes may leave.
struct Pace {
    bytes_per_second: u64,
    /// The bytes of before have left by then.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// How long to wait before `bytes` may leave; `None`, and nothing is reserved, if that is too long.
    fn reserve(&self, bytes: u64, now: Instant) -> Option<Duration> {
        if self.bytes_per_second == 0 {
            return Some(Duration::ZERO);
        }
        let mut free_at = self.free_at.lock();
        let begin = free_at.map_or(now, |free_at| free_at.max(now));
        let wait = begin.saturating_duration_since(now);
        if wait > LONGEST_WAIT {
            return None;
        }
        *free_at = Some(begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_arrives_is_listed_until_it_is_there() {
        let traffic = Arc::new(Traffic::new(0));
        let arrival = traffic.arrival(PartitionId(3), 100);
        arrival.set_missing(70);
        arrival.add(20);
        arrival.enter(Phase::Checking);
        let listed = traffic.arriving();
        assert_eq!((listed[0].partition, listed[0].bytes, listed[0].total), (3, 50, 100));
        assert_eq!((listed[0].phase(), traffic.totals()), (Phase::Checking, (0, 20)));
        drop(arrival);
        assert_eq!(traffic.arriving(), []);
    }

    proptest! {
        /// Pieces that ask at any times leave no faster than the rate, but for one piece.
        #[test]
        fn no_more_leaves_than_the_rate_allows(
            rate in 1_000..1_000_000u64, asks in prop::collection::vec((0..2_000u64, 1..300_000u64), 1..50),
        ) {
            let start = SystemClock.instant();
            let pace = Pace { bytes_per_second: rate, free_at: Mutex::new(None) };
            let (mut now, mut left, mut largest, mut latest) = (start, 0u64, 0u64, start);
            for (gap_ms, bytes) in asks {
                now += Duration::from_millis(gap_ms);
                let Some(wait) = pace.reserve(bytes, now) else { continue };
                prop_assert!(wait <= LONGEST_WAIT);
                latest = latest.max(now + wait);
                (left, largest) = (left + bytes, largest.max(bytes));
                let seconds = latest.saturating_duration_since(start).as_secs_f64();
                prop_assert!((left - largest) as f64 <= rate as f64 * seconds + 1.0, "{} in {}", left, seconds);
            }
        }
    }
}
