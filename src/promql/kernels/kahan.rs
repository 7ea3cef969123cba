//! Compensated summation.
//!
//! Source: Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", ZAMM 54, 1974; the
//! treatment of overflow is Prometheus' (`util/kahansum`).

/// A running sum and what rounding has taken from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Kahan {
    /// The rounded sum.
    pub(crate) sum: f64,
    /// The compensation; 0 once the sum has overflowed.
    pub(crate) c: f64,
}

impl Kahan {
    /// Starts from one value.
    pub(crate) fn new(sum: f64) -> Self {
        Self { sum, c: 0.0 }
    }

    /// Adds a value.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        let t = self.sum + value;
        if t.is_infinite() {
            self.c = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.c += (self.sum - t) + value;
        } else {
            self.c += (value - t) + self.sum;
        }
        self.sum = t;
    }

    /// Adds another compensated sum.
    #[inline]
    pub(crate) fn merge(&mut self, other: Self) {
        self.add(other.sum);
        if !self.sum.is_infinite() {
            self.c += other.c;
        }
    }

    /// The sum with its compensation.
    pub(crate) fn value(self) -> f64 {
        self.sum + self.c
    }
}

/// A mean that sums up as long as the sum stays finite and then goes on with a running mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    total: Kahan,
    mean: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    /// Starts from one value.
    pub(crate) fn new(first: f64) -> Self {
        Self { total: Kahan::new(first), mean: 0.0, count: 1.0, incremental: false }
    }

    /// Adds a value.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let mut next = self.total;
            next.add(value);
            if !next.sum.is_infinite() {
                self.total = next;
                return;
            }
            self.incremental = true;
            self.mean = self.total.sum / (self.count - 1.0);
            self.total.c /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        let mut next = Kahan { sum: q * self.mean, c: q * self.total.c };
        next.add(value / self.count);
        self.mean = next.sum;
        self.total.c = next.c;
    }

    /// The sum and the number of values, for [`Mean::of`] somewhere else; `None` once the sum was infinite.
    pub(crate) fn parts(&self) -> Option<(Kahan, f64)> {
        (!self.incremental && !self.total.sum.is_infinite()).then_some((self.total, self.count))
    }

    /// The mean of `count` values with a sum.
    pub(crate) fn of(total: Kahan, count: f64) -> Self {
        Self { total, mean: 0.0, count, incremental: false }
    }

    /// Adds the values that another mean has summed up. If the sum becomes infinite by that, so does the mean.
    pub(crate) fn merge(&mut self, total: Kahan, count: f64) {
        self.total.merge(total);
        self.count += count;
    }

    /// The mean of what was added.
    pub(crate) fn value(&self) -> f64 {
        if self.incremental {
            self.mean + self.total.c
        } else {
            self.total.sum / self.count + self.total.c / self.count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_survive_large_ones() {
        let mut sum = Kahan::default();
        [1.0, 1e100, 1.0, -1e100].into_iter().for_each(|v| sum.add(v));
        assert_eq!(sum.value(), 2.0);
    }

    #[test]
    fn means_do_not_overflow() {
        let mut mean = Mean::new(f64::MAX);
        mean.add(f64::MAX);
        mean.add(f64::MAX);
        assert!((mean.value() / f64::MAX - 1.0).abs() < 1e-15);
        let mut infinite = Mean::new(f64::INFINITY);
        infinite.add(1.0);
        assert_eq!(infinite.value(), f64::INFINITY);
    }
}
