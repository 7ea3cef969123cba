//! Native histograms, as Prometheus and remote write define them.
//!
//! Source: Prometheus "Native Histograms" specification; remote write 2.0, message `Histogram`.

use crate::sample::is_stale;

/// Schema number of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i8 = -53;
/// Lowest and highest exponential schema.
pub const EXPONENTIAL_SCHEMAS: std::ops::RangeInclusive<i8> = -4..=8;

/// A run of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Gap to the end of the previous span; for the first span the index of its first bucket.
    pub offset: i32,
    /// Number of buckets in the run.
    pub length: u32,
}

/// What the sender says about a counter reset before this sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CounterResetHint {
    /// To be found out by comparing with the previous sample.
    #[default]
    Unknown,
    /// A reset lies before this sample.
    Reset,
    /// No reset lies before this sample.
    NoReset,
    /// Not a counter.
    Gauge,
}

/// Observation counts in one of the two kinds of native histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum BucketCounts {
    /// Integer histogram. Bucket counts are deltas to the previous bucket; the first is absolute.
    Integer {
        /// Total observations.
        count: u64,
        /// Observations in the zero bucket.
        zero_count: u64,
        /// Deltas of the positive buckets.
        positive: Vec<i64>,
        /// Deltas of the negative buckets.
        negative: Vec<i64>,
    },
    /// Float histogram. Bucket counts are absolute.
    Float {
        /// Total observations.
        count: f64,
        /// Observations in the zero bucket.
        zero_count: f64,
        /// Counts of the positive buckets.
        positive: Vec<f64>,
        /// Counts of the negative buckets.
        negative: Vec<f64>,
    },
}

/// One native histogram sample. The buckets of `counts` follow `positive_spans` and `negative_spans`.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Counter reset hint.
    pub reset_hint: CounterResetHint,
    /// -4 to 8 for exponential buckets, -53 for custom bounds.
    pub schema: i8,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Sum of observations; the stale NaN marks a stale sample.
    pub sum: f64,
    /// Where the positive buckets lie.
    pub positive_spans: Vec<Span>,
    /// Where the negative buckets lie.
    pub negative_spans: Vec<Span>,
    /// Upper bounds of custom buckets, without +Inf; empty for exponential schemas.
    pub custom_values: Vec<f64>,
    /// Observation counts.
    pub counts: BucketCounts,
}

impl Histogram {
    /// Whether this sample is a stale marker.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    /// Whether two samples are the same bit for bit: NaN equals the same NaN, 0.0 differs from -0.0.
    pub fn same_bits(&self, other: &Self) -> bool {
        self.reset_hint == other.reset_hint
            && self.schema == other.schema
            && self.zero_threshold.to_bits() == other.zero_threshold.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && self.positive_spans == other.positive_spans
            && self.negative_spans == other.negative_spans
            && same_floats(&self.custom_values, &other.custom_values)
            && match (&self.counts, &other.counts) {
                (BucketCounts::Integer { .. }, BucketCounts::Integer { .. }) => self.counts == other.counts,
                (
                    BucketCounts::Float { count: a, zero_count: az, positive: ap, negative: an },
                    BucketCounts::Float { count: b, zero_count: bz, positive: bp, negative: bn },
                ) => {
                    a.to_bits() == b.to_bits()
                        && az.to_bits() == bz.to_bits()
                        && same_floats(ap, bp)
                        && same_floats(an, bn)
                }
                _ => false,
            }
    }
}

fn same_floats(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}
