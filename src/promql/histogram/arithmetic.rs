//! Sums, differences and multiples of histograms.

use super::bounds::reduced_index;
use super::custom::{common_bounds, pour, same_bounds};
use super::{Buckets, FloatHistogram, Incompatible};
use crate::kernels::kahan::Kahan;
use quorate_model::CounterResetHint;
use std::borrow::Cow;
use std::sync::Arc;

/// What an operation has to tell beside its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// One hint said reset, the other no reset.
    pub(crate) collision: bool,
    /// Different custom bounds were reduced to those that both have.
    pub(crate) reconciled: bool,
}

impl FloatHistogram {
    /// A histogram of the same layout without observations.
    pub(super) fn empty_like(&self) -> Self {
        Self {
            hint: CounterResetHint::Unknown,
            schema: self.schema,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            positive: Vec::new(),
            negative: Vec::new(),
            custom: Arc::clone(&self.custom),
        }
    }

    /// All counts and the sum times `factor`.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let mut h = self.clone();
        h.apply(|v| v * factor);
        if factor < 0.0 {
            h.hint = CounterResetHint::Gauge;
        }
        h
    }

    /// All counts and the sum over `divisor`; dividing by zero removes all buckets.
    pub(crate) fn divided(&self, divisor: f64) -> Self {
        let mut h = self.clone();
        if divisor == 0.0 {
            h.positive.clear();
            h.negative.clear();
        }
        h.apply(|v| v / divisor);
        if divisor < 0.0 {
            h.hint = CounterResetHint::Gauge;
        }
        h
    }

    fn apply(&mut self, f: impl Fn(f64) -> f64) {
        self.zero_count = f(self.zero_count);
        self.count = f(self.count);
        self.sum = f(self.sum);
        for buckets in [&mut self.positive, &mut self.negative] {
            buckets.iter_mut().for_each(|(_, count)| *count = f(*count));
            buckets.retain(|(_, count)| *count != 0.0);
        }
    }

    /// This plus `other`.
    pub(crate) fn plus(&self, other: &Self) -> Result<(Self, Told), Incompatible> {
        let mut h = self.clone();
        let told = h.combine(other, 1.0)?;
        Ok((h, told))
    }

    /// This less `other`.
    pub(crate) fn minus(&self, other: &Self) -> Result<(Self, Told), Incompatible> {
        let mut h = self.clone();
        let told = h.combine(other, -1.0)?;
        Ok((h, told))
    }

    /// Adds `sign` times `other`, 1 or -1.
    pub(super) fn combine(&mut self, other: &Self, sign: f64) -> Result<Told, Incompatible> {
        if self.is_custom() != other.is_custom() {
            return Err(Incompatible);
        }
        let mut told = Told { collision: self.join_hints(other), reconciled: false };
        if self.is_custom() {
            self.count += sign * other.count;
            self.sum += sign * other.sum;
            if same_bounds(&self.custom, &other.custom) {
                self.positive = merged(&self.positive, &other.positive, sign);
            } else {
                told.reconciled = true;
                self.combine_mismatched(other, sign);
            }
            return Ok(told);
        }
        let other = self.align(other);
        self.zero_count += sign * other.zero_count;
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        self.positive = merged(&self.positive, &other.positive, sign);
        self.negative = merged(&self.negative, &other.negative, sign);
        Ok(told)
    }

    fn combine_mismatched(&mut self, other: &Self, sign: f64) {
        let bounds = common_bounds(&self.custom, &other.custom);
        let mut counts = vec![Kahan::default(); bounds.len() + 1];
        pour(&self.positive, &self.custom, &bounds, 1.0, &mut counts);
        pour(&other.positive, &other.custom, &bounds, sign, &mut counts);
        self.positive =
            (0..).zip(counts).map(|(i, count)| (i, count.sum)).filter(|(_, c)| *c != 0.0).collect();
        self.custom = bounds;
    }

    /// Makes this and `other` have the same zero bucket and resolution: changes this, and gives `other` changed.
    pub(super) fn align<'a>(&mut self, other: &'a Self) -> Cow<'a, Self> {
        let mut other = Cow::Borrowed(other);
        while other.zero_threshold != self.zero_threshold {
            if self.zero_threshold > other.zero_threshold {
                other.to_mut().widen_zero(self.zero_threshold);
            } else {
                self.widen_zero(other.zero_threshold);
            }
        }
        if other.schema > self.schema {
            other.to_mut().reduce(self.schema);
        } else if self.schema > other.schema {
            self.reduce(other.schema);
        }
        other
    }

    /// The zero count and threshold if the threshold were at least `threshold` and not inside a populated bucket.
    pub(super) fn zero_at(&self, threshold: f64) -> (f64, f64) {
        let mut threshold = threshold;
        // The bounds of both signs are the same, so a threshold at a bound cuts no bucket of either.
        for (index, _) in self.positive.iter().chain(&self.negative) {
            let (lower, upper) = self.bounds(*index);
            if lower < threshold && upper > threshold {
                threshold = upper;
            }
        }
        let mut count = Kahan::new(self.zero_count);
        for (index, n) in self.positive.iter().chain(&self.negative) {
            if self.bounds(*index).1 <= threshold {
                count.add(*n);
            }
        }
        (count.value(), threshold)
    }

    /// Makes the zero bucket at least as wide as `threshold`.
    pub(super) fn widen_zero(&mut self, threshold: f64) {
        let (count, threshold) = self.zero_at(threshold);
        let schema = self.schema;
        (self.zero_count, self.zero_threshold) = (count, threshold);
        for buckets in [&mut self.positive, &mut self.negative] {
            buckets.retain(|(index, _)| super::bounds::exponential_bound(*index, schema) > threshold);
        }
    }

    /// Lowers the resolution to `schema`.
    pub(super) fn reduce(&mut self, schema: i8) {
        let from = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            *buckets = reduced(buckets, from, schema);
        }
        self.schema = schema;
    }

    /// Sets the hint of a sum; whether one said reset and the other no reset.
    pub(super) fn join_hints(&mut self, other: &Self) -> bool {
        use CounterResetHint::{Gauge, Unknown};
        let (a, b) = (self.hint, other.hint);
        if a == b || a == Gauge || (a == Unknown && b != Gauge) {
            return false;
        }
        self.hint = if b == Gauge { Gauge } else { Unknown };
        b != Gauge && b != Unknown
    }
}

fn reduced(buckets: &Buckets, from: i8, to: i8) -> Buckets {
    let mut out: Buckets = Vec::with_capacity(buckets.len());
    for (index, count) in buckets {
        let index = reduced_index(*index, from, to);
        match out.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => out.push((index, *count)),
        }
    }
    out
}

/// The buckets of `a` plus `sign` times those of `b`.
fn merged(a: &Buckets, b: &Buckets, sign: f64) -> Buckets {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some((i, x)), Some((j, y))) if i == j => {
                a.next();
                b.next();
                (*i, x + sign * y)
            }
            (Some((i, x)), other) if other.is_none_or(|(j, _)| i < j) => {
                a.next();
                (*i, *x)
            }
            (_, Some((j, y))) => {
                b.next();
                (*j, sign * y)
            }
            _ => return out,
        };
        if next.1 != 0.0 {
            out.push(next);
        }
    }
}
