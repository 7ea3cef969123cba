//! Counter resets between two histograms.

use super::bounds::{exponential_bound, reduced_index};
use super::custom::{common_bounds, pour, same_bounds};
use super::{Buckets, FloatHistogram};
use crate::kernels::kahan::Kahan;
use quorate_model::CounterResetHint;

impl FloatHistogram {
    /// Whether the counter was reset between `previous` and this: by the hint, or because a count fell or a
    /// populated bucket went away.
    pub(crate) fn detect_reset(&self, previous: &Self) -> bool {
        match self.hint {
            CounterResetHint::Reset => return true,
            CounterResetHint::NoReset => return false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
        if self.count < previous.count || self.schema > previous.schema {
            return true;
        }
        if self.is_custom() {
            return !previous.is_custom() || self.custom_fell(previous);
        }
        if self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold) = previous.zero_at(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let reduced = |buckets: &Buckets| -> Buckets {
            let outside = buckets.iter().filter(|(i, _)| exponential_bound(*i, previous.schema) > threshold);
            let mut out: Buckets = Vec::new();
            for (index, count) in outside {
                let index = reduced_index(*index, previous.schema, self.schema);
                match out.last_mut() {
                    Some((last, sum)) if *last == index => *sum += count,
                    _ => out.push((index, *count)),
                }
            }
            out
        };
        fell(&self.positive, &reduced(&previous.positive))
            || fell(&self.negative, &reduced(&previous.negative))
    }

    fn custom_fell(&self, previous: &Self) -> bool {
        if same_bounds(&self.custom, &previous.custom) {
            return fell(&self.positive, &previous.positive);
        }
        let bounds = common_bounds(&self.custom, &previous.custom);
        let counts = |h: &Self| {
            let mut counts = vec![Kahan::default(); bounds.len() + 1];
            pour(&h.positive, &h.custom, &bounds, 1.0, &mut counts);
            counts
        };
        counts(self).iter().zip(counts(previous)).any(|(now, before)| now.value() < before.value())
    }
}

/// Whether any bucket of `before` is lower or missing in `now`.
fn fell(now: &Buckets, before: &Buckets) -> bool {
    let mut now = now.iter().peekable();
    before.iter().any(|(index, count)| {
        while now.peek().is_some_and(|(i, _)| i < index) {
            now.next();
        }
        match now.peek() {
            Some((i, current)) if i == index => current < count,
            _ => *count != 0.0,
        }
    })
}
