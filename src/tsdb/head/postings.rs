//! Mutable postings of one tenant: which rows carry a label pair.
//!
//! Knows rows and symbol numbers. Does not know strings, samples or time.
//! Path: `head::series` -> **here**. Most pairs of a churning tenant name one or a few rows, so short lists are
//! plain and only long ones are bitmaps.

use quorate_model::Matcher;
use roaring::RoaringBitmap;
use std::collections::HashMap;

const FEW: usize = 12;

/// Rows that carry one label pair.
#[derive(Debug, Clone)]
pub(crate) enum Postings {
    One(u32),
    Few(Vec<u32>),
    Many(RoaringBitmap),
}

impl Postings {
    fn insert(&mut self, row: u32) {
        match self {
            Self::One(first) => *self = Self::Few(vec![*first, row]),
            Self::Few(rows) if rows.len() < FEW => rows.push(row),
            Self::Few(rows) => {
                let mut many: RoaringBitmap = rows.iter().copied().collect();
                many.insert(row);
                *self = Self::Many(many);
            }
            Self::Many(rows) => {
                rows.insert(row);
            }
        }
    }

    /// Removes a row; true if none is left.
    fn remove(&mut self, row: u32) -> bool {
        match self {
            Self::One(only) => *only == row,
            Self::Few(rows) => {
                rows.retain(|r| *r != row);
                rows.is_empty()
            }
            Self::Many(rows) => {
                rows.remove(row);
                rows.is_empty()
            }
        }
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Few(rows) => rows.len() as u64,
            Self::Many(rows) => rows.len(),
        }
    }

    /// Adds the rows to `out`.
    pub(crate) fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Self::One(row) => {
                out.insert(*row);
            }
            Self::Few(rows) => out.extend(rows.iter().copied()),
            Self::Many(rows) => *out |= rows,
        }
    }

    fn to_bitmap(&self) -> RoaringBitmap {
        let mut out = RoaringBitmap::new();
        self.add_to(&mut out);
        out
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Few(rows) => rows.capacity() * 4,
            Self::Many(rows) => rows.serialized_size() + 64,
        }
    }
}

/// Postings by label name and value, both as symbol numbers.
#[derive(Debug, Default)]
pub(crate) struct TenantIndex {
    all: RoaringBitmap,
    names: HashMap<u32, HashMap<u32, Postings>>,
}

impl TenantIndex {
    /// Adds a row with its label pairs.
    pub(crate) fn insert(&mut self, row: u32, pairs: impl Iterator<Item = (u32, u32)>) {
        self.all.insert(row);
        for (name, value) in pairs {
            let values = self.names.entry(name).or_default();
            values.entry(value).and_modify(|p| p.insert(row)).or_insert(Postings::One(row));
        }
    }

    /// Removes a row with its label pairs.
    pub(crate) fn remove(&mut self, row: u32, pairs: impl Iterator<Item = (u32, u32)>) {
        self.all.remove(row);
        for (name, value) in pairs {
            let Some(values) = self.names.get_mut(&name) else { continue };
            if values.get_mut(&value).is_some_and(|p| p.remove(row)) {
                values.remove(&value);
            }
            if values.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    /// Every row of the tenant.
    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// The postings by value of one label name.
    pub(crate) fn values(&self, name: u32) -> Option<&HashMap<u32, Postings>> {
        self.names.get(&name)
    }

    /// All label names with their postings by value.
    pub(crate) fn names(&self) -> impl Iterator<Item = (u32, &HashMap<u32, Postings>)> {
        self.names.iter().map(|(name, values)| (*name, values))
    }

    /// Rows whose value of label `name` (a symbol, if any series has that label) passes the test.
    ///
    /// `text` gives the string of a value and `find` the symbol of a string.
    pub(crate) fn matching<'a>(
        &self,
        matcher: &Matcher,
        name: Option<u32>,
        text: impl Fn(u32) -> &'a str,
        find: impl Fn(&str) -> Option<u32>,
    ) -> RoaringBitmap {
        let values = name.and_then(|name| self.names.get(&name));
        let matches_empty = matcher.matches_empty();
        let mut listed = RoaringBitmap::new();
        if let Some(literals) = literals(matcher) {
            let found = literals.iter().filter_map(|l| values?.get(&find(l)?));
            found.for_each(|postings| postings.add_to(&mut listed));
        } else {
            let wanted = values.into_iter().flatten();
            let wanted = wanted.filter(|(value, _)| matcher.matches(text(**value)) != matches_empty);
            wanted.for_each(|(_, postings)| postings.add_to(&mut listed));
        }
        if matches_empty { &self.all - &listed } else { listed }
    }

    /// Rows that carry exactly this pair.
    pub(crate) fn exact(&self, name: u32, value: u32) -> RoaringBitmap {
        self.names.get(&name).and_then(|v| v.get(&value)).map(Postings::to_bitmap).unwrap_or_default()
    }

    /// Memory held, in bytes; bitmaps by their stored size.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lists: usize = self
            .names
            .values()
            .map(|v| v.capacity() * 40 + v.values().map(Postings::heap_bytes).sum::<usize>())
            .sum();
        lists + self.names.capacity() * 56 + self.all.serialized_size()
    }
}

/// The values to look up instead of testing every value: those that pass a test that the empty value fails,
/// or those that fail a test that the empty value passes.
fn literals(matcher: &Matcher) -> Option<Vec<&str>> {
    use quorate_model::MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let is_plain =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '/' | ' ' | '=' | '@' | ',');
    match matcher.op() {
        Equal | NotEqual if !matcher.value().is_empty() => Some(vec![matcher.value()]),
        Regex | NotRegex => {
            let parts: Vec<_> = matcher.value().split('|').collect();
            let plain = parts.iter().all(|p| !p.is_empty() && p.chars().all(is_plain));
            plain.then_some(parts)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::MatchOp;

    #[test]
    fn lists_grow_into_bitmaps_and_shrink_to_nothing() {
        let mut index = TenantIndex::default();
        for row in 0..100 {
            index.insert(row, [(1, 7), (2, row)].into_iter());
        }
        assert_eq!(index.exact(1, 7).len(), 100);
        assert_eq!(index.exact(2, 42).iter().collect::<Vec<_>>(), [42]);
        for row in 0..100 {
            index.remove(row, [(1, 7), (2, row)].into_iter());
        }
        assert_eq!((index.all().len(), index.names().count()), (0, 0));
    }

    #[track_caller]
    fn check(op: MatchOp, value: &str, expected: &[u32]) {
        let texts = ["env", "prod", "dev", "a.b"];
        let mut index = TenantIndex::default();
        (1..4).for_each(|value| index.insert(value, [(0, value)].into_iter()));
        index.insert(9, std::iter::empty());
        let matcher = Matcher::new("env", op, value).unwrap();
        let find = |t: &str| texts.iter().position(|x| *x == t).map(|at| at as u32);
        let rows = index.matching(&matcher, Some(0), |v| texts[v as usize], find);
        assert_eq!(rows.iter().collect::<Vec<_>>(), expected, "{matcher}");
    }

    #[test]
    fn a_missing_label_is_the_empty_value() {
        check(MatchOp::Equal, "dev", &[2]);
        check(MatchOp::Equal, "", &[9]);
        check(MatchOp::NotEqual, "dev", &[1, 3, 9]);
        check(MatchOp::NotEqual, "", &[1, 2, 3]);
        check(MatchOp::Regex, "dev|prod|none", &[1, 2]);
        check(MatchOp::Regex, "(dev)?", &[2, 9]);
        check(MatchOp::Regex, "a.b", &[3]);
        check(MatchOp::NotRegex, "dev|prod", &[3, 9]);
        check(MatchOp::NotRegex, ".*", &[]);
        check(MatchOp::Regex, ".+", &[1, 2, 3]);
    }
}
