//! Which series of two sides belong together.

use crate::ast::{Cardinality, VectorMatching};
use crate::eval::column::Columns;
use crate::eval::labels::{is_metadata, signature};
use quorate_model::{Labels, LabelsBuilder};
use std::collections::HashMap;

/// For each series the number of its match group; series of both sides with the same number match.
pub(super) struct Groups {
    /// Groups of the first side's series.
    pub(super) first: Vec<usize>,
    /// Groups of the second side's series.
    pub(super) second: Vec<usize>,
    /// How many groups there are.
    pub(super) count: usize,
}

impl Groups {
    /// Finds the groups of all series.
    pub(super) fn new(matching: &VectorMatching, first: &Columns<'_>, second: &Columns<'_>) -> Self {
        let mut names = matching.labels.clone();
        names.sort_unstable();
        let mut numbers: HashMap<Labels, usize> = HashMap::new();
        let mut number = |labels: &Labels| {
            let next = numbers.len();
            *numbers.entry(signature(labels, &names, matching.on)).or_insert(next)
        };
        let first = first.iter().map(|column| number(&column.labels)).collect();
        let second = second.iter().map(|column| number(&column.labels)).collect();
        Self { first, second, count: numbers.len() }
    }
}

/// The labels that a series matches by.
pub(super) fn match_labels(matching: &VectorMatching, labels: &Labels) -> Labels {
    let mut names = matching.labels.clone();
    names.sort_unstable();
    signature(labels, &names, matching.on)
}

/// The labels of the result of a pair.
pub(super) fn result_labels(
    matching: &VectorMatching,
    drops_name: bool,
    many: &Labels,
    one: &Labels,
) -> Labels {
    let mut builder = LabelsBuilder::new(many);
    if drops_name {
        many.iter().filter(|(name, _)| is_metadata(name)).for_each(|(name, _)| {
            builder.remove(name);
        });
    }
    if matching.card == Cardinality::OneToOne {
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        many.iter().filter(|(name, _)| listed(name) != matching.on).for_each(|(name, _)| {
            builder.remove(name);
        });
    }
    for name in &matching.include {
        builder.set(name, one.get(name).unwrap_or(""));
    }
    builder.build()
}
