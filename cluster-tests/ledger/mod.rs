//! The ledger: which samples were sent, which were acknowledged, and whether the server holds exactly those.
//!
//! Every sample is a function of (writer, series, batch), so the ledger keeps one outcome a batch instead of
//! the samples: floats, native histograms, and series that end with a stale marker again and again. An
//! acknowledged sample must be there once and as it was sent; one whose fate nobody knows (no answer, 5xx) may
//! be there or not; anything else must not be there, above all no second value of a settled sample, which a
//! sender of its own writes all the time.

mod check;
mod rewriter;
mod writer;

pub use check::{Finding, Findings, check};
pub use writer::{Gate, Recovery, Team};

use quorate_model::{BucketCounts, CounterResetHint, Histogram, Labels, Span, is_stale, stale_nan};

/// Name of every series of a ledger.
pub const METRIC: &str = "ledger_sample";
/// The label `kind` of the series that end.
const ENDING: &str = "ending";

/// Of so many series one ends again and again, and one is of native histograms.
const CLASSES: usize = 50;
/// A series that ends has a stale marker in each of so many batches.
const LIFE: usize = 4;

/// What a series has at one time.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// A float, or the stale marker.
    Float(f64),
    /// A native histogram.
    Histogram(Histogram),
}

impl Sample {
    /// Whether it is the stale marker.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Float(value) if is_stale(*value))
    }
}

/// What one writer sends: in batch `n` one sample of each of its series at `base_ms + n * step_ms`.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Number of the writer.
    pub writer: usize,
    /// Number of its series.
    pub series: usize,
    /// Time of batch 0, milliseconds.
    pub base_ms: i64,
    /// Time between batches, milliseconds.
    pub step_ms: i64,
}

impl Stream {
    /// Labels of series `series`.
    pub fn labels(&self, series: usize) -> Labels {
        let writer = self.writer.to_string();
        let instance = format!("host-{}:9100", series / 50);
        let kind = match series % CLASSES {
            0 => ENDING.to_owned(),
            1 => "histogram".to_owned(),
            _ => format!("k{}", series % 7),
        };
        Labels::from_pairs([
            ("__name__", METRIC),
            ("cluster", "test"),
            ("instance", instance.as_str()),
            ("job", "ledger"),
            ("kind", kind.as_str()),
            ("series", series.to_string().as_str()),
            ("writer", writer.as_str()),
        ])
    }

    /// Time of batch `batch`, milliseconds.
    pub fn ts_ms(&self, batch: usize) -> i64 {
        self.base_ms + batch as i64 * self.step_ms
    }

    /// Whether `series` has stale markers.
    fn is_ending(series: usize) -> bool {
        series.is_multiple_of(CLASSES)
    }

    /// The sample of `series` in `batch`.
    pub fn sample(&self, series: usize, batch: usize) -> Sample {
        match series % CLASSES {
            0 if batch % LIFE == LIFE - 1 => Sample::Float(stale_nan()),
            1 => Sample::Histogram(self.histogram(series, batch)),
            _ => Sample::Float(self.value(series, batch)),
        }
    }

    /// Another sample of `series` in `batch` than the one that it has: a float, a stale marker or a histogram,
    /// by `turn`.
    fn other(&self, series: usize, batch: usize, turn: usize) -> Sample {
        let sent = self.sample(series, batch);
        match turn % 3 {
            0 => match sent {
                Sample::Histogram(histogram) => {
                    Sample::Histogram(Histogram { sum: -histogram.sum - 1.5, ..histogram })
                }
                Sample::Float(_) => Sample::Histogram(self.histogram(series, batch)),
            },
            1 if !sent.is_stale() => Sample::Float(stale_nan()),
            _ => Sample::Float(-self.value(series, batch) - 1.5),
        }
    }

    /// A histogram whose counts grow, begin again after 97 batches and change their buckets after 40. Its bounds
    /// are powers of two, so that they are exact.
    fn histogram(&self, series: usize, batch: usize) -> Histogram {
        let age = (batch % 97) as i64;
        let counts = [age + 1, age * 2 + series as i64, age / 3 + 1];
        let zero_count = age as u64 / 5 + 1;
        let offset = (batch / 40 % 3) as i32 - 1;
        Histogram {
            reset_hint: CounterResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.001,
            sum: (self.mix(series, batch) >> 11) as f64 * 1.234_567e-9,
            positive_spans: vec![Span { offset, length: 2 }, Span { offset: 1, length: 1 }],
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            counts: BucketCounts::Integer {
                count: zero_count + counts.iter().sum::<i64>() as u64,
                zero_count,
                positive: vec![counts[0], counts[1] - counts[0], counts[2] - counts[1]],
                negative: Vec::new(),
            },
        }
    }

    fn mix(&self, series: usize, batch: usize) -> u64 {
        mix((self.writer as u64) << 48 ^ (series as u64) << 24 ^ batch as u64)
    }

    /// The float of `series` in `batch`: a counter, a gauge of two decimals, a constant or a wild float.
    fn value(&self, series: usize, batch: usize) -> f64 {
        let mix = self.mix(series, batch);
        match series % 4 {
            0 => (batch * (series + 3)) as f64,
            1 => (mix % 1_000_000) as f64 / 100.0,
            2 => series as f64,
            _ => (mix >> 11) as f64 * 1.234_567e-9,
        }
    }
}

/// The fate of a batch as its writer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 2xx.
    Acknowledged,
    /// No answer, or 5xx: may be stored, wholly, partly or not at all.
    Unknown,
}

/// What a writer knew at one moment.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// What it sends.
    pub stream: Stream,
    /// One outcome for each batch sent so far.
    pub outcomes: Vec<Outcome>,
}

impl Ledger {
    /// Number of acknowledged samples.
    pub fn acknowledged(&self) -> usize {
        let batches = self.outcomes.iter().filter(|o| **o == Outcome::Acknowledged).count();
        batches * self.stream.series
    }
}

/// SplitMix64's finisher: neighbouring inputs give unrelated outputs.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_sample_is_always_another() {
        let stream = Stream { writer: 1, series: 120, base_ms: 0, step_ms: 10 };
        for (series, batch, turn) in (0..120 * 9 * 3).map(|n| (n / 27, n / 3 % 9, n)) {
            let (sent, other) = (stream.sample(series, batch), stream.other(series, batch, turn));
            assert!(sent != other && !(sent.is_stale() && other.is_stale()), "{sent:?} {other:?}");
        }
    }

    #[test]
    fn a_ledger_has_samples_of_every_kind() {
        let stream = Stream { writer: 1, series: 120, base_ms: 0, step_ms: 10 };
        let samples: Vec<Sample> = (0..120).map(|series| stream.sample(series, LIFE - 1)).collect();
        assert_eq!(samples.iter().filter(|sample| sample.is_stale()).count(), 3);
        assert_eq!(samples.iter().filter(|sample| matches!(sample, Sample::Histogram(_))).count(), 3);
    }
}
