//! Samples: the stale marker, and the buffer that carries one series' samples from storage to queries.

use crate::histogram::Histogram;
use std::sync::Arc;

/// The bits of Prometheus' stale marker. Any other NaN is an ordinary value.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The stale marker as a value.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the stale marker, compared bit for bit.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Samples of one series, in two lanes, each strictly increasing in time.
///
/// A time may stand in only one lane. Reused between series: `clear` keeps the capacity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SeriesBuffer {
    /// Times of float samples, milliseconds.
    pub ts_ms: Vec<i64>,
    /// Values of float samples, one for each of `ts_ms`; stale markers included.
    pub values: Vec<f64>,
    /// Times of histogram samples, milliseconds.
    pub histogram_ts_ms: Vec<i64>,
    /// Histogram samples, one for each of `histogram_ts_ms`. A stale marker is a histogram whose sum is
    /// the stale NaN.
    pub histograms: Vec<Arc<Histogram>>,
    /// Start timestamps of the float samples: empty if none is known, else one for each of `ts_ms`, 0 for
    /// unknown.
    pub start_ms: Vec<i64>,
    /// The same for the histogram samples.
    pub histogram_start_ms: Vec<i64>,
}

impl SeriesBuffer {
    /// Empties both lanes and keeps their capacity.
    pub fn clear(&mut self) {
        self.ts_ms.clear();
        self.values.clear();
        self.histogram_ts_ms.clear();
        self.histograms.clear();
        self.start_ms.clear();
        self.histogram_start_ms.clear();
    }

    /// Number of samples in both lanes.
    pub fn len(&self) -> usize {
        self.ts_ms.len() + self.histogram_ts_ms.len()
    }

    /// Whether both lanes are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
