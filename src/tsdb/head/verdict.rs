//! What apply decided: verdicts per sub-batch, counters per tenant, and the state hash over them.
//!
//! Knows samples and verdicts. Does not know where samples are kept: the hash never covers the layout.

use super::stripe::Verdict;
use quorate_model::{Labels, TenantId};

/// Conflicts that a verdict tells by example.
pub(crate) const MAX_EXAMPLES: usize = 10;

/// Samples of committed records by what became of them: their sum is the number of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stored in a window that was not sealed.
    pub stored: u64,
    /// Already there with the same bits.
    pub duplicates: u64,
    /// Already there with other bits, which stay.
    pub conflicts: u64,
    /// Kept for a further generation of a sealed window; resolved by generation when read.
    pub late: u64,
    /// Of series whose definitions were lost with records that an operator gave up: they are nowhere.
    pub lost: u64,
}

impl Counters {
    /// All samples.
    pub fn total(&self) -> u64 {
        self.stored + self.duplicates + self.conflicts + self.late + self.lost
    }

    pub(crate) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stored => self.stored += 1,
            Verdict::Duplicate => self.duplicates += 1,
            Verdict::Conflict => self.conflicts += 1,
            Verdict::Late => self.late += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.late += other.late;
        self.lost += other.lost;
    }
}

/// One sample that was refused because its series has another value at its time.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictExample {
    /// The series.
    pub labels: Labels,
    /// The time, milliseconds.
    pub ts_ms: i64,
    /// The refused value; the sum if it is a histogram.
    pub value: f64,
}

/// What became of one sub-batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubBatchVerdict {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its samples by verdict.
    pub counters: Counters,
    /// Up to 10 conflicts.
    pub examples: Vec<ConflictExample>,
}

/// What became of one record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApplyOutcome {
    /// One verdict for each sub-batch of a data record, in its order; empty for other records and for
    /// positions that were applied before.
    pub sub_batches: Vec<SubBatchVerdict>,
    /// Whether the record had no effect, because a newer session of its gateway came before it in the log.
    pub is_void: bool,
}

/// A rolling hash over every sample and its verdict, in log order. Replicas compare it at equal positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StateHash(pub(crate) u64);

impl StateHash {
    /// Covers one sample: its series' hash, time, value and verdict.
    #[inline]
    pub(crate) fn add(&mut self, series: u64, ts_ms: i64, value: u64, verdict: Verdict) {
        const A: u64 = 0x9e37_79b9_7f4a_7c15;
        const B: u64 = 0xd6e8_feb8_6659_fd93;
        let mut h = (series ^ (ts_ms as u64).wrapping_mul(A)).wrapping_mul(B);
        h ^= h >> 32;
        h = (h ^ value).wrapping_mul(A) ^ verdict as u64;
        self.0 = (self.0.rotate_left(23) ^ h ^ (h >> 29)).wrapping_mul(B);
    }
}
