//! One line of the table: a measured value, its bar, and what else was seen.

use std::fmt;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A ratio of two figures of one run.
    Times,
    /// Seconds.
    Seconds,
    /// Of a hundred.
    Percent,
    /// Requests.
    Requests,
    /// Bytes.
    Bytes,
}

/// What a value is held to, in the value's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// The value must not exceed it.
    AtMost(f64),
    /// The value must reach it.
    AtLeast(f64),
}

/// A measured value and its bar, in the same unit.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The result.
    pub value: f64,
    /// What it is held to.
    pub bar: Bar,
    /// The unit of both.
    pub unit: Unit,
    /// The figures behind the value.
    pub how: String,
}

impl Figure {
    /// Whether the value keeps to its bar. One that is no number does not.
    pub fn is_met(&self) -> bool {
        match self.bar {
            Bar::AtMost(bar) => self.value <= bar,
            Bar::AtLeast(bar) => self.value >= bar,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (decimals, unit) = match self.unit {
            Unit::Times => (2, " ×"),
            Unit::Seconds => (2, " s"),
            Unit::Percent => (2, " %"),
            Unit::Requests => (0, ""),
            Unit::Bytes => (2, " B"),
        };
        let (relation, bar) = match self.bar {
            Bar::AtMost(bar) => ("≤", bar),
            Bar::AtLeast(bar) => ("≥", bar),
        };
        let verdict = if self.is_met() { "met" } else { "missed" };
        write!(f, "| {} | {:.decimals$}{unit} ", self.name, self.value)?;
        write!(f, "| {relation} {bar}{unit} | {verdict} | {} |", self.how)
    }
}

/// The middle one of `values`, the higher of two; NaN, which meets no bar, of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, bar: Bar) -> Figure {
        Figure { name: "a".into(), value, bar, unit: Unit::Times, how: "b".into() }
    }

    #[test]
    fn a_value_at_the_bar_meets_it_and_no_number_does_not() {
        for bar in [Bar::AtMost(2.5), Bar::AtLeast(2.5)] {
            assert!(figure(2.5, bar).is_met());
            assert!(!figure(f64::NAN, bar).is_met());
        }
        assert!(!figure(2.500_1, Bar::AtMost(2.5)).is_met());
        assert!(!figure(2.499_9, Bar::AtLeast(2.5)).is_met());
    }

    #[test]
    fn a_figure_is_a_row_of_the_table() {
        assert_eq!(figure(2.0, Bar::AtMost(2.5)).to_string(), "| a | 2.00 × | ≤ 2.5 × | met | b |");
        assert_eq!(figure(2.0, Bar::AtLeast(2.5)).to_string(), "| a | 2.00 × | ≥ 2.5 × | missed | b |");
    }

    #[test]
    fn of_an_even_number_the_higher_is_the_median() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
