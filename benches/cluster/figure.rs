//! One line of the table: a measured value, the bar that it must not exceed, and what else was seen.

use std::fmt;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A ratio of two figures of one run.
    Times,
    Seconds,
    Percent,
    Requests,
}

/// A measured value and its bar, in the same unit.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) bar: f64,
    pub(crate) unit: Unit,
    /// The figures behind the value.
    pub(crate) how: String,
}

impl Figure {
    /// Whether the value does not exceed its bar. One that is no number does.
    pub(crate) fn is_met(&self) -> bool {
        self.value <= self.bar
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (decimals, unit) = match self.unit {
            Unit::Times => (2, " ×"),
            Unit::Seconds => (2, " s"),
            Unit::Percent => (2, " %"),
            Unit::Requests => (0, ""),
        };
        let verdict = if self.is_met() { "met" } else { "missed" };
        write!(f, "| {} | {:.decimals$}{unit} ", self.name, self.value)?;
        write!(f, "| ≤ {}{unit} | {verdict} | {} |", self.bar, self.how)
    }
}

/// The middle one of `values`, the higher of two; NaN, which meets no bar, of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Figure {
        Figure { name: "a".into(), value, bar: 2.5, unit: Unit::Times, how: "b".into() }
    }

    #[test]
    fn a_value_at_the_bar_meets_it_and_no_number_does_not() {
        assert!(figure(2.5).is_met());
        assert!(!figure(2.500_1).is_met());
        assert!(!figure(f64::NAN).is_met());
    }

    #[test]
    fn a_figure_is_a_row_of_the_table() {
        assert_eq!(figure(2.0).to_string(), "| a | 2.00 × | ≤ 2.5 × | met | b |");
        assert!(figure(3.0).to_string().contains("missed"));
    }

    #[test]
    fn of_an_even_number_the_higher_is_the_median() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
