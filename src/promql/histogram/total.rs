//! Sums and means of many histograms, for aggregations and windows.

use super::kahan::KahanHistogram;
use super::{FloatHistogram, Incompatible, Told};
use crate::ast::Span;
use crate::eval::notes::{HistogramOp, Notes};
use quorate_model::CounterResetHint;
use std::sync::Arc;

/// A running sum or mean.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    average: bool,
    sum: KahanHistogram,
    count: f64,
    /// The sum would have overflowed, so `sum` holds the mean.
    incremental: bool,
    incompatible: bool,
    reset_seen: bool,
    no_reset_seen: bool,
}

impl Total {
    /// Starts from one histogram.
    pub(crate) fn new(average: bool, first: &FloatHistogram) -> Self {
        let mut total = Self {
            average,
            sum: KahanHistogram::new(first),
            count: 1.0,
            incremental: false,
            incompatible: false,
            reset_seen: false,
            no_reset_seen: false,
        };
        total.see(first);
        total
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        size_of::<Self>() as u64 + self.sum.heap_bytes()
    }

    /// Bytes that a total takes that starts from `first`.
    pub(crate) fn bytes_of(first: &FloatHistogram) -> u64 {
        size_of::<Self>() as u64 + KahanHistogram::heap_bytes_of(first)
    }

    fn see(&mut self, h: &FloatHistogram) {
        self.reset_seen |= h.hint == CounterResetHint::Reset;
        self.no_reset_seen |= h.hint == CounterResetHint::NoReset;
    }

    /// Adds a histogram; one that does not fit makes the whole total void.
    pub(crate) fn add(&mut self, h: &FloatHistogram, metric: &str, span: Span, notes: &mut Notes) {
        if self.incompatible {
            return;
        }
        self.see(h);
        self.count += 1.0;
        match self.try_add(h) {
            Ok(told) if told.reconciled => notes.mismatched_custom_buckets(HistogramOp::Aggregation, span),
            Ok(_) => {}
            Err(Incompatible) => {
                notes.mixed_exponential_custom(metric, span);
                self.incompatible = true;
            }
        }
    }

    fn try_add(&mut self, h: &FloatHistogram) -> Result<Told, Incompatible> {
        if !self.average {
            return self.sum.add(h);
        }
        let n = self.count;
        if !self.incremental {
            let mut next = self.sum.clone();
            let told = next.add(h)?;
            if !next.has_overflow() {
                self.sum = next;
                return Ok(told);
            }
            self.incremental = true;
            self.sum.map(|v| v / (n - 1.0));
        }
        self.sum.map(|v| v * ((n - 1.0) / n));
        self.sum.add(&h.divided(n))
    }

    /// The sum or mean.
    pub(crate) fn finish(mut self, span: Span, notes: &mut Notes) -> Option<Arc<FloatHistogram>> {
        if self.incompatible {
            return None;
        }
        if self.reset_seen && self.no_reset_seen {
            notes.counter_reset_collision(HistogramOp::Aggregation, span);
        }
        if self.average && !self.incremental {
            let n = self.count;
            self.sum.map(|v| v / n);
        }
        Some(Arc::new(self.sum.value()))
    }
}
