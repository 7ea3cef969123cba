//! Label sets: the identity of a series within its tenant.
//!
//! Promises: names are strictly increasing in byte order and no value is empty, so equal sets have equal
//! bytes. A clone is one reference count. Form: for each label `varint length, name, varint length, value`.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Name of the label that holds the metric name.
pub const METRIC_NAME: &str = "__name__";

/// A sorted, immutable label set, `__name__` included.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl Labels {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from([]))
    }

    /// Builds a set from pairs in any order. A later pair replaces an earlier one of the same name; empty
    /// values mean the label is absent.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = LabelsBuilder::new(&Self::empty());
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Builds a set from pairs whose names are strictly increasing and whose values are not empty.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut packed = Vec::with_capacity(256);
        let mut previous: Option<&str> = None;
        for (name, value) in pairs {
            debug_assert!(
                previous.is_none_or(|p| p < name),
                "label names must increase: {previous:?}, {name}"
            );
            debug_assert!(!value.is_empty(), "label {name} has an empty value");
            push_str(&mut packed, name);
            push_str(&mut packed, value);
            previous = Some(name);
        }
        Self(packed.into())
    }

    /// The packed form, for hashing and storing. See the module header.
    pub fn as_packed(&self) -> &[u8] {
        &self.0
    }

    /// Reads a packed form. Returns `None` unless it is canonical: valid UTF-8, increasing names, no empty
    /// value, nothing left over.
    pub fn from_packed(packed: &[u8]) -> Option<Self> {
        let mut rest = packed;
        let mut previous: Option<&str> = None;
        while !rest.is_empty() {
            let name = take_str(&mut rest)?;
            let value = take_str(&mut rest)?;
            if value.is_empty() || previous.is_some_and(|p| p >= name) {
                return None;
            }
            previous = Some(name);
        }
        Some(Self(packed.into()))
    }

    /// The labels in increasing order of their names.
    pub fn iter(&self) -> LabelsIter<'_> {
        LabelsIter(&self.0)
    }

    /// The value of label `name`, or `None`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().take_while(|(n, _)| *n <= name).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The metric name, or `None`.
    pub fn metric_name(&self) -> Option<&str> {
        self.get(METRIC_NAME)
    }

    /// Number of labels. O(labels).
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set without the labels whose names `drop` accepts.
    pub fn without(&self, mut drop: impl FnMut(&str) -> bool) -> Self {
        Self::from_sorted(self.iter().filter(|(n, _)| !drop(n)))
    }
}

impl Ord for Labels {
    /// Compares pair by pair, name before value, as Prometheus orders series. Skips what both have in common
    /// without reading it as text.
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&*self.0, &*other.0);
        let common = common_prefix(a, b);
        if common == a.len() || common == b.len() {
            return a.len().cmp(&b.len());
        }
        let mut at = 0;
        loop {
            let (mut rest_a, mut rest_b) = (&a[at..], &b[at..]);
            let (text_a, text_b) = (take_bytes(&mut rest_a), take_bytes(&mut rest_b));
            at = a.len() - rest_a.len();
            if common < at || text_a.is_none() {
                return text_a.cmp(&text_b);
            }
        }
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = LabelsIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over the labels of a set.
#[derive(Debug, Clone)]
pub struct LabelsIter<'a>(&'a [u8]);

impl<'a> Iterator for LabelsIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some((take_str(&mut self.0)?, take_str(&mut self.0)?))
    }
}

/// Changes a label set: starts from one, sets and removes labels, builds another.
#[derive(Debug, Clone)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Starts from `base`.
    pub fn new(base: &Labels) -> Self {
        Self { pairs: base.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// Sets `name` to `value`; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match (self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)), value.is_empty()) {
            (Ok(at), true) => {
                self.pairs.remove(at);
            }
            (Ok(at), false) => value.clone_into(&mut self.pairs[at].1),
            (Err(_), true) => {}
            (Err(at), false) => self.pairs.insert(at, (name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.set(name, "")
    }

    /// The value that `name` has now, or `None`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|at| self.pairs[at].1.as_str())
    }

    /// The changed set.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

fn push_str(packed: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length >= 0x80 {
        packed.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    packed.push(length as u8);
    packed.extend_from_slice(text.as_bytes());
}

/// Number of bytes that both begin with.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(x, y)| x == y).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(x, y)| x == y).count()
}

fn take_str<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(rest)?).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0usize;
    let mut shift = 0;
    let mut at = 0;
    loop {
        let byte = *rest.get(at)?;
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    let end = at.checked_add(length)?;
    let bytes = rest.get(at..end)?;
    *rest = &rest[end..];
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_values_mean_absent_and_later_pairs_win() {
        let labels = Labels::from_pairs([("job", "a"), ("env", ""), ("__name__", "up"), ("job", "b")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("__name__", "up"), ("job", "b")]);
        assert_eq!(labels.get("env"), None);
        assert_eq!(labels.metric_name(), Some("up"));
    }

    #[test]
    fn order_is_by_pairs_not_by_packed_bytes() {
        let short_name = Labels::from_pairs([("b", "1")]);
        let long_name = Labels::from_pairs([("aaaa", "1")]);
        assert!(long_name < short_name);
        assert!(Labels::empty() < long_name);
    }

    #[test]
    fn damaged_packed_forms_are_refused() {
        let good = Labels::from_pairs([("a", "1"), ("b", "2")]);
        for cut in 1..good.as_packed().len() {
            let is_whole_label = cut == 4;
            assert_eq!(
                Labels::from_packed(&good.as_packed()[..cut]).is_some(),
                is_whole_label,
                "cut at {cut}"
            );
        }
        let unsorted = [1, b'b', 1, b'2', 1, b'a', 1, b'1'];
        assert_eq!(Labels::from_packed(&unsorted), None);
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_pairs(
            a in prop::collection::btree_map("[ab]{1,2}", "[ab]{1,3}|a{120,140}b?", 0..4),
            b in prop::collection::btree_map("[ab]{1,2}", "[ab]{1,3}|a{120,140}b?", 0..4),
        ) {
            prop_assert_eq!(Labels::from_pairs(&a).cmp(&Labels::from_pairs(&b)), a.iter().cmp(b.iter()));
        }

        #[test]
        fn packed_form_round_trips(pairs in prop::collection::btree_map(".{0,200}", ".{1,200}", 0..8)) {
            let labels = Labels::from_pairs(&pairs);
            prop_assert_eq!(Labels::from_packed(labels.as_packed()), Some(labels.clone()));
            prop_assert!(labels.iter().eq(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))));
        }
    }
}
