//! The ledger: which samples were sent, which were acknowledged, and whether the server holds exactly those.
//!
//! Every value is a function of (writer, series, batch), so the ledger keeps one outcome a batch instead of
//! the samples. An acknowledged sample must be there once and with its value; one whose fate nobody knows
//! (no answer, 5xx) may be there or not; anything else must not be there.

mod check;
mod writer;

pub use check::{Finding, Findings, check};
pub use writer::{Gate, Team};

use quorate_model::Labels;

/// Name of every series of a ledger.
pub const METRIC: &str = "ledger_sample";

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
        let (instance, kind) = (format!("host-{}:9100", series / 50), format!("k{}", series % 7));
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

    /// The value of `series` in `batch`: a counter, a gauge of two decimals, a constant or a wild float.
    pub fn value(&self, series: usize, batch: usize) -> f64 {
        let mix = mix((self.writer as u64) << 48 ^ (series as u64) << 24 ^ batch as u64);
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
