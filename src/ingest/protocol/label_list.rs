//! The labels of one line of a text, in the form that a body is written from.
//!
//! Knows names and values. Does not know the format that they come from.
//! Path: `influx` and `text` -> **here** -> `body`.
//! Cost: every text is copied once; buffers are used again, so that a line of known size allocates nothing.

use super::lines::LineFault;
use quorate_model::METRIC_NAME;
use std::ops::Range;

/// Names and values of one line.
#[derive(Debug, Default)]
pub(super) struct LabelList {
    /// All texts of the line; others than labels may stand there too.
    pub(super) text: String,
    /// Places of name and value.
    places: Vec<(Range<usize>, Range<usize>)>,
    /// Empty between lines; its memory is used again.
    labels: Vec<(&'static str, &'static str)>,
}

impl LabelList {
    /// Forgets the line.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
    }

    /// Number of labels.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a label whose texts stand in `text`.
    pub(super) fn add(&mut self, name: Range<usize>, value: Range<usize>) {
        self.places.push((name, value));
    }

    /// Appends a text and tells its place.
    pub(super) fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// Sorts the labels by name.
    ///
    /// # Errors
    /// A name stands twice, or is that of the metric name.
    pub(super) fn arrange(&mut self) -> Result<(), LineFault<'static>> {
        let Self { text, places, .. } = self;
        let name = |(name, _): &(Range<usize>, Range<usize>)| &text[name.clone()];
        if !places.is_sorted_by(|a, b| name(a) < name(b)) {
            places.sort_by(|a, b| name(a).cmp(name(b)));
        }
        if let Some(twice) = places.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            return Err(LineFault::Name("a label name stands twice", name(&twice[0]).to_owned()));
        }
        if places.iter().any(|place| name(place) == METRIC_NAME) {
            return Err(LineFault::At("a label has the name of the metric name", METRIC_NAME));
        }
        Ok(())
    }

    /// Names and values in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.places.iter().map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }

    /// Gives `text` and the labels to `write`. The first of them is the metric name, which `write` sets.
    pub(super) fn with<R>(
        &mut self,
        write: impl for<'b> FnOnce(&'b str, &mut [(&'b str, &'b str)]) -> R,
    ) -> R {
        let mut labels: Vec<(&str, &str)> = std::mem::take(&mut self.labels);
        labels.push((METRIC_NAME, ""));
        labels.extend(self.iter());
        let result = write(&self.text, &mut labels);
        labels.clear();
        // Collected in place: nothing is left to borrow, and the memory stays.
        self.labels = labels.into_iter().map(|_| ("", "")).collect();
        result
    }
}

/// Whether `byte` may stand in a name of Prometheus' old character set; digits only behind the first.
pub(super) fn is_name_byte(byte: u8, is_first: bool, is_metric: bool) -> bool {
    byte.is_ascii_alphabetic()
        || byte == b'_'
        || (byte == b':' && is_metric)
        || (byte.is_ascii_digit() && !is_first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(labels: &[(&str, &str)]) -> LabelList {
        let mut list = LabelList::default();
        for (name, value) in labels {
            let (name, value) = (list.push(name), list.push(value));
            list.add(name, value);
        }
        list
    }

    #[test]
    fn labels_are_sorted_and_stand_behind_the_metric_name() {
        let mut list = list(&[("b", "1"), ("a", "2"), ("c", "")]);
        assert_eq!(list.arrange(), Ok(()));
        let metric = list.push("up");
        list.with(|text, labels| {
            labels[0].1 = &text[metric];
            assert_eq!(labels, [("__name__", "up"), ("a", "2"), ("b", "1"), ("c", "")]);
        });
    }

    #[test]
    fn names_that_stand_twice_are_told() {
        let reason = |labels| list(labels).arrange().unwrap_err().to_string();
        assert_eq!(reason(&[("b", "1"), ("a", "2"), ("b", "1")]), "a label name stands twice: \"b\"");
        let name = reason(&[("b", "1"), ("__name__", "2")]);
        assert_eq!(name, "a label has the name of the metric name: \"__name__\"");
    }

    #[test]
    fn a_second_line_uses_the_memory_of_the_first() {
        let mut list = list(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let first = list.with(|_, labels| labels.as_ptr() as usize);
        assert_eq!(list.with(|_, labels| labels.as_ptr() as usize), first);
    }
}
