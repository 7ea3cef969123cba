//! How long queries take: sum and number since the start, quantiles over the last ten minutes, as the summaries of
//! Prometheus' engine have them.
//!
//! Knows durations. Path: `service` -> **here** <- the server's page of metrics.
//! Cost: recording is one lock and one addition; a reading adds up 5 x 512 counts. 10 KiB, whatever is recorded.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Time of one window, and how many are kept.
const WINDOW: Duration = Duration::from_secs(120);
const WINDOWS: usize = 5;
/// Counts of a window: each is of durations that differ by less than 2^(1/16), 4.4 %, from 1 µs to over an hour.
const COUNTS: usize = 512;
const COUNTS_PER_DOUBLING: f64 = 16.0;

/// Durations of one kind.
#[derive(Debug)]
pub struct Durations {
    begin: Instant,
    recorded: Mutex<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    sum: f64,
    number: u64,
    windows: [Window; WINDOWS],
}

/// What was recorded in the `at`-th window since the begin.
#[derive(Debug)]
struct Window {
    at: u64,
    counts: [u32; COUNTS],
}

/// Figures of durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary<const N: usize> {
    /// Sum since the start.
    pub sum: f64,
    /// Number since the start.
    pub number: u64,
    /// The wanted quantiles over the last ten minutes, off by 2.2 % at most; NaN if nothing was recorded then.
    pub quantiles: [f64; N],
}

impl Durations {
    /// Nothing yet; `now` is the beginning of the first window.
    pub fn new(now: Instant) -> Self {
        let windows = std::array::from_fn(|_| Window { at: 0, counts: [0; COUNTS] });
        Self { begin: now, recorded: Mutex::new(Recorded { sum: 0.0, number: 0, windows }) }
    }

    /// Adds what took `duration` and ended `now`.
    pub fn record(&self, now: Instant, duration: Duration) {
        let at = self.window_at(now);
        let mut recorded = self.recorded.lock();
        recorded.sum += duration.as_secs_f64();
        recorded.number += 1;
        let window = &mut recorded.windows[at as usize % WINDOWS];
        if window.at != at {
            *window = Window { at, counts: [0; COUNTS] };
        }
        let count = &mut window.counts[count_of(duration)];
        *count = count.saturating_add(1);
    }

    /// The figures as they are `now`, with the quantiles `wanted`, each of 0 to 1.
    pub fn summary<const N: usize>(&self, now: Instant, wanted: [f64; N]) -> Summary<N> {
        let at = self.window_at(now);
        let mut counts = [0_u64; COUNTS];
        let recorded = self.recorded.lock();
        for window in recorded.windows.iter().filter(|window| window.at + WINDOWS as u64 > at) {
            counts.iter_mut().zip(&window.counts).for_each(|(sum, count)| *sum += u64::from(*count));
        }
        let quantiles = wanted.map(|quantile| seconds_at(&counts, quantile));
        Summary { sum: recorded.sum, number: recorded.number, quantiles }
    }

    fn window_at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_secs() / WINDOW.as_secs()
    }
}

/// The count that a duration belongs to.
fn count_of(duration: Duration) -> usize {
    let micros = duration.as_secs_f64() * 1e6;
    // Below 1 µs the logarithm is negative or infinite, and the conversion gives 0.
    ((micros.log2() * COUNTS_PER_DOUBLING) as usize).min(COUNTS - 1)
}

/// The duration below which a share `quantile` of what was counted lies, in seconds.
fn seconds_at(counts: &[u64; COUNTS], quantile: f64) -> f64 {
    let number: u64 = counts.iter().sum();
    let rank = ((number as f64 * quantile).ceil() as u64).max(1);
    let mut below = 0;
    let found = counts.iter().position(|count| {
        below += count;
        below >= rank
    });
    found.map_or(f64::NAN, |at| ((at as f64 + 0.5) / COUNTS_PER_DOUBLING).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::{Clock, SystemClock};

    const WANTED: [f64; 3] = [0.5, 0.9, 0.99];

    #[track_caller]
    fn check_near(got: f64, expected: f64) {
        assert!((got / expected - 1.0).abs() < 0.023, "{got}, not {expected}");
    }

    #[test]
    fn quantiles_are_near_whatever_their_range() {
        let now = SystemClock.instant();
        let durations = Durations::new(now);
        for ms in 1..=100 {
            durations.record(now, Duration::from_millis(ms));
        }
        let [half, most, nearly_all] = durations.summary(now, WANTED).quantiles;
        check_near(half, 0.050);
        check_near(most, 0.090);
        check_near(nearly_all, 0.099);
        for _ in 0..1_000 {
            durations.record(now, Duration::from_micros(20));
        }
        durations.record(now, Duration::from_secs(100));
        let [half, _, nearly_all] = durations.summary(now, WANTED).quantiles;
        check_near(half, 0.000_020);
        check_near(nearly_all, 0.090);
    }

    #[test]
    fn sum_and_number_stay_and_quantiles_forget() {
        let begin = SystemClock.instant();
        let durations = Durations::new(begin);
        durations.record(begin, Duration::from_secs(4));
        let later = begin + WINDOW * 4;
        durations.record(later, Duration::from_secs(1));
        check_near(durations.summary(later, [0.99]).quantiles[0], 4.0);
        check_near(durations.summary(later + WINDOW, [0.99]).quantiles[0], 1.0);
        let Summary { sum, number, quantiles } = durations.summary(later + WINDOW * 5, [0.99]);
        assert_eq!((sum, number), (5.0, 2));
        assert!(quantiles[0].is_nan(), "{quantiles:?}");
        durations.record(begin + WINDOW * 10, Duration::from_secs(2));
        check_near(durations.summary(begin + WINDOW * 10, [0.5]).quantiles[0], 2.0);
    }

    #[test]
    fn every_duration_is_counted() {
        let now = SystemClock.instant();
        let durations = Durations::new(now);
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            durations.record(now, duration);
        }
        assert_eq!(durations.summary(now, [0.5]).number, 3);
    }
}
