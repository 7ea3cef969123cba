//! The orders of `sort`, `sort_desc`, `sort_by_label` and `sort_by_label_desc`.

use quorate_model::Labels;
use std::cmp::Ordering;

/// Ascending, NaN at the end.
pub(crate) fn ascending(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| a.partial_cmp(&b).unwrap_or(Ordering::Equal))
}

/// Descending, NaN at the end.
pub(crate) fn descending(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| b.partial_cmp(&a).unwrap_or(Ordering::Equal))
}

/// By the values of `names`, numbers in them by size; then by all labels.
pub(crate) fn by_labels(a: &Labels, b: &Labels, names: &[String]) -> Ordering {
    names
        .iter()
        .map(|name| natural(a.get(name).unwrap_or_default(), b.get(name).unwrap_or_default()))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.cmp(b))
}

/// Compares runs of digits by their number and the rest byte by byte: `a9` stands before `a10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    while !left.is_empty() && !right.is_empty() {
        let (x, y) = (take_run(&mut left), take_run(&mut right));
        let order = if x[0].is_ascii_digit() && y[0].is_ascii_digit() { by_number(x, y) } else { x.cmp(y) };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Takes the digits, or what is none, at the front of what is not empty.
fn take_run<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let is_digit = rest[0].is_ascii_digit();
    let length = rest.iter().take_while(|b| b.is_ascii_digit() == is_digit).count();
    let (run, after) = rest.split_at(length);
    *rest = after;
    run
}

fn by_number(a: &[u8], b: &[u8]) -> Ordering {
    let significant = |digits: &[u8]| digits.iter().position(|d| *d != b'0').unwrap_or(digits.len());
    let (a, b) = (&a[significant(a)..], &b[significant(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_in_values_count_by_size() {
        let mut values = ["a10", "a9", "b1", "a", "10", "9", "a010b", "a10a", "a9.8", "a9.10"];
        values.sort_by(|a, b| natural(a, b));
        assert_eq!(values, ["9", "10", "a", "a9", "a9.8", "a9.10", "a10", "a10a", "a010b", "b1"]);
    }

    #[test]
    fn nan_stands_at_the_end_both_ways() {
        let mut values = [f64::NAN, 1.0, f64::INFINITY, -1.0];
        values.sort_by(|a, b| ascending(*a, *b));
        assert!(values[3].is_nan() && values[..3] == [-1.0, 1.0, f64::INFINITY]);
        values.sort_by(|a, b| descending(*a, *b));
        assert!(values[3].is_nan() && values[..3] == [f64::INFINITY, 1.0, -1.0]);
    }

    #[test]
    fn equal_values_leave_the_order_to_all_labels() {
        let a = Labels::from_pairs([("x", "1"), ("y", "1")]);
        let b = Labels::from_pairs([("x", "1"), ("y", "2")]);
        assert_eq!(by_labels(&a, &b, &["x".to_owned()]), Ordering::Less);
        assert_eq!(by_labels(&b, &a, &["x".to_owned()]), Ordering::Greater);
    }

    proptest! {
        #[test]
        fn natural_order_is_total(a in "[0-9ab]{0,6}", b in "[0-9ab]{0,6}", c in "[0-9ab]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
