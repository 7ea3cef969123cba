//! Compensated sums of histograms: every count with what rounding has taken from it.

use super::bounds::{exponential_bound, reduced_index};
use super::custom::{common_bounds, same_bounds};
use super::{FloatHistogram, Incompatible, Told};
use crate::kernels::kahan::Kahan;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A sum of histograms.
#[derive(Debug, Clone)]
pub(super) struct KahanHistogram {
    /// Hint, schema, zero threshold and bounds; its counts are not used.
    layout: FloatHistogram,
    zero_count: Kahan,
    count: Kahan,
    sum: Kahan,
    positive: BTreeMap<i32, Kahan>,
    negative: BTreeMap<i32, Kahan>,
}

impl KahanHistogram {
    pub(super) fn new(h: &FloatHistogram) -> Self {
        let buckets = |b: &super::Buckets| b.iter().map(|(i, count)| (*i, Kahan::new(*count))).collect();
        Self {
            zero_count: Kahan::new(h.zero_count),
            count: Kahan::new(h.count),
            sum: Kahan::new(h.sum),
            positive: buckets(&h.positive),
            negative: buckets(&h.negative),
            layout: FloatHistogram { positive: Vec::new(), negative: Vec::new(), ..h.clone() },
        }
    }

    /// Bytes that its buckets and bounds take.
    pub(super) fn heap_bytes(&self) -> u64 {
        tree_bytes(self.positive.len())
            + tree_bytes(self.negative.len())
            + 8 * self.layout.custom.len() as u64
    }

    /// The same for a sum that starts from `h`.
    pub(super) fn heap_bytes_of(h: &FloatHistogram) -> u64 {
        tree_bytes(h.positive.len()) + tree_bytes(h.negative.len()) + 8 * h.custom.len() as u64
    }

    /// Adds a histogram.
    pub(super) fn add(&mut self, other: &FloatHistogram) -> Result<Told, Incompatible> {
        if self.layout.is_custom() != other.is_custom() {
            return Err(Incompatible);
        }
        let mut told = Told { collision: self.layout.join_hints(other), reconciled: false };
        self.count.add(other.count);
        self.sum.add(other.sum);
        if self.layout.is_custom() {
            if !same_bounds(&self.layout.custom, &other.custom) {
                told.reconciled = true;
                self.narrow_bounds(&other.custom);
            }
            for (index, count) in &other.positive {
                let upper = usize::try_from(*index).ok().and_then(|at| other.custom.get(at));
                add_to(&mut self.positive, target(upper, &self.layout.custom), Kahan::new(*count));
            }
            return Ok(told);
        }
        let aligned = self.align(other);
        self.zero_count.add(aligned.zero_count);
        for (index, count) in &aligned.positive {
            add_to(&mut self.positive, *index, Kahan::new(*count));
        }
        for (index, count) in &aligned.negative {
            add_to(&mut self.negative, *index, Kahan::new(*count));
        }
        Ok(told)
    }

    /// Every count and the sum changed by `f`.
    pub(super) fn map(&mut self, f: impl Fn(f64) -> f64) {
        let values = self.positive.values_mut().chain(self.negative.values_mut());
        for k in values.chain([&mut self.zero_count, &mut self.count, &mut self.sum]) {
            *k = Kahan { sum: f(k.sum), c: f(k.c) };
        }
    }

    pub(super) fn has_overflow(&self) -> bool {
        let buckets = self.positive.values().chain(self.negative.values());
        buckets.chain([&self.zero_count, &self.count, &self.sum]).any(|k| k.sum.is_infinite())
    }

    /// The sum, rounded.
    pub(super) fn value(&self) -> FloatHistogram {
        let buckets = |b: &BTreeMap<i32, Kahan>| {
            b.iter().map(|(i, k)| (*i, k.value())).filter(|(_, count)| *count != 0.0).collect()
        };
        FloatHistogram {
            zero_count: self.zero_count.value(),
            count: self.count.value(),
            sum: self.sum.value(),
            positive: buckets(&self.positive),
            negative: buckets(&self.negative),
            ..self.layout.clone()
        }
    }

    fn narrow_bounds(&mut self, other: &[f64]) {
        let bounds: Arc<[f64]> = common_bounds(&self.layout.custom, other);
        for (index, count) in std::mem::take(&mut self.positive) {
            let upper = usize::try_from(index).ok().and_then(|at| self.layout.custom.get(at));
            add_to(&mut self.positive, target(upper, &bounds), count);
        }
        self.layout.custom = bounds;
    }

    /// Makes the sum have the zero bucket and resolution that fit `other`, and gives `other` changed likewise.
    fn align(&mut self, other: &FloatHistogram) -> FloatHistogram {
        let mut current = self.value();
        let aligned = current.align(other).into_owned();
        if current.zero_threshold != self.layout.zero_threshold {
            let (schema, threshold) = (self.layout.schema, current.zero_threshold);
            for buckets in [&mut self.positive, &mut self.negative] {
                for (index, count) in std::mem::take(buckets) {
                    if exponential_bound(index, schema) <= threshold {
                        self.zero_count.merge(count);
                    } else {
                        buckets.insert(index, count);
                    }
                }
            }
            self.layout.zero_threshold = threshold;
        }
        if current.schema != self.layout.schema {
            let (from, to) = (self.layout.schema, current.schema);
            for buckets in [&mut self.positive, &mut self.negative] {
                for (index, count) in std::mem::take(buckets) {
                    add_to(buckets, reduced_index(index, from, to), count);
                }
            }
            self.layout.schema = to;
        }
        aligned
    }
}

/// What a tree of buckets takes: the nodes of the standard library have room for 11 entries and hold 6 or more.
fn tree_bytes(buckets: usize) -> u64 {
    const NODE_BYTES: u64 = 11 * (size_of::<i32>() + size_of::<Kahan>()) as u64 + 32;
    buckets.div_ceil(5) as u64 * NODE_BYTES
}

/// The bucket of `bounds` that takes what lies at or below `upper`.
fn target(upper: Option<&f64>, bounds: &[f64]) -> i32 {
    upper.map_or(bounds.len(), |upper| bounds.partition_point(|bound| bound < upper)) as i32
}

fn add_to(buckets: &mut BTreeMap<i32, Kahan>, index: i32, count: Kahan) {
    buckets.entry(index).or_default().merge(count);
}
