//! A token bucket: a rate on average, with bursts.

use std::time::{Duration, Instant};

/// The tokens of one tenant. Empty until first used.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    tokens: f64,
    /// Times that more than the burst was refused since it was granted last.
    refused: u32,
    filled_at: Option<Instant>,
}

impl Bucket {
    /// Takes `items` tokens, or tells how long to wait until they are there.
    ///
    /// `rate` is in tokens a second and positive; `burst` is what the bucket holds. More items than the burst are
    /// never granted; the time told is then that of a full bucket.
    pub(super) fn take(&mut self, items: u64, rate: f64, burst: u64, now: Instant) -> Result<(), Duration> {
        self.take_up_to(items, items, rate, burst, now)
    }

    /// As [`Bucket::take`], but a full bucket grants more items than the burst too. They are a debt, and nothing is
    /// granted until it is paid off at the rate. Each time that they are refused half as much has to be there: others,
    /// who need less, would never let the bucket become full.
    pub(super) fn borrow(&mut self, items: u64, rate: f64, burst: u64, now: Instant) -> Result<(), Duration> {
        if items <= burst {
            return self.take(items, rate, burst, now);
        }
        let needed = burst.checked_shr(self.refused).unwrap_or(0).max(1);
        let taken = self.take_up_to(items, needed, rate, burst, now);
        self.refused = if taken.is_ok() { 0 } else { self.refused.saturating_add(1) };
        taken
    }

    /// Takes `items` once there are `needed` tokens.
    fn take_up_to(
        &mut self,
        items: u64,
        needed: u64,
        rate: f64,
        burst: u64,
        now: Instant,
    ) -> Result<(), Duration> {
        let burst = burst as f64;
        let filled = match self.filled_at {
            Some(at) => self.tokens + now.saturating_duration_since(at).as_secs_f64() * rate,
            None => burst,
        };
        self.tokens = filled.min(burst);
        self.filled_at = Some(now);
        let needed = needed as f64;
        if needed <= self.tokens {
            self.tokens -= items as f64;
            return Ok(());
        }
        let missing = needed.min(burst) - self.tokens;
        Err(Duration::from_secs_f64((missing / rate).clamp(0.0, 3600.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::{Clock, SystemClock};

    #[test]
    fn bursts_are_granted_and_the_rate_holds_afterwards() {
        let start = SystemClock.instant();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(200, 100.0, 200, at(0)), Ok(()));
        assert_eq!(bucket.take(50, 100.0, 200, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(50, 100.0, 200, at(500)), Ok(()));
        assert!(bucket.take(1, 100.0, 200, at(500)).is_err());
        assert_eq!(bucket.take(200, 100.0, 200, at(60_000)), Ok(()), "no more than the burst is saved");
        assert_eq!(bucket.take(1, 100.0, 200, at(60_000)), Err(Duration::from_millis(10)));
    }

    #[test]
    fn who_borrows_gets_more_than_the_burst_and_pays_for_it() {
        let start = SystemClock.instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(50, 100.0, 200, at(0)), Ok(()));
        assert_eq!(bucket.borrow(1_000, 100.0, 200, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.borrow(1_000, 100.0, 200, at(1)), Ok(()));
        assert_eq!(bucket.take(1, 100.0, 200, at(1)), Err(Duration::from_millis(8_010)));
        assert_eq!(bucket.borrow(1_000, 100.0, 200, at(1)), Err(Duration::from_secs(10)));
        assert_eq!(bucket.take(1, 100.0, 200, at(10)), Ok(()));
    }

    #[test]
    fn who_borrows_gets_its_turn_beside_others_that_leave_nothing_and_they_get_theirs() {
        let start = SystemClock.instant();
        let (mut bucket, mut small, mut large) = (Bucket::default(), 0, 0);
        bucket.take(200, 100.0, 200, start).unwrap();
        let mut next = start;
        for tick in 1..=12_000 {
            let now = start + Duration::from_millis(10 * tick);
            small += 10 * u64::from(bucket.take(10, 100.0, 200, now).is_ok());
            if now >= next {
                match bucket.borrow(1_000, 100.0, 200, now) {
                    Ok(()) => large += 1_000,
                    Err(wait) => next = now + wait.max(Duration::from_millis(10)),
                }
            }
        }
        assert!(small >= 20 && large >= 5_000, "{small} in small, {large} in large requests");
        assert!(small + large <= 12_000 + 1_000, "{small} + {large} in two minutes at 100 a second");
    }

    #[test]
    fn more_than_the_burst_is_never_granted() {
        let now = SystemClock.instant();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(201, 100.0, 200, now), Err(Duration::ZERO));
        assert_eq!(bucket.take(200, 100.0, 200, now), Ok(()));
    }
}
