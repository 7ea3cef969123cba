//! The labels of one data point: its attributes, what its resource and scope add, and which of them wins.
//!
//! Knows attributes, label names and their precedence. Does not know samples or metric names.
//! Path: `otlp::walk` -> **here** -> `body`.
//! Cost: a sort of the attributes and one of all labels for each data point; buffers are used again.

use super::super::BodyError;
use super::names::{self, Unnamed};
use super::settings::OtlpSettings;
use super::values::Attribute;
use std::cmp::Reverse;
use std::ops::Range;

/// Where a label comes from; of two with one name the later stays, even if its value is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// A promoted resource attribute.
    Promoted,
    /// An attribute of the data point.
    Attribute,
    /// `job` and `instance`.
    Target,
    /// An attribute of the scope.
    ScopeAttribute,
    /// Name, version and schema URL of the scope.
    Scope,
    /// `__type__` and `__unit__`.
    Metric,
}

/// A label that many data points share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layer: Layer,
    pub(super) name: String,
    pub(super) value: String,
}

/// Why the labels of a data point cannot be made.
#[derive(Debug)]
pub(super) enum LabelsError<'a> {
    Body(BodyError),
    /// No label can have the name of this attribute.
    Unnamed(&'a str),
}

impl From<BodyError> for LabelsError<'_> {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    name: Range<usize>,
    value: Range<usize>,
    layer: Layer,
    /// Order within the layer.
    rank: usize,
}

/// Sorted labels without duplicates; empty between data points.
#[derive(Debug, Default)]
pub(super) struct LabelSet {
    text: String,
    entries: Vec<Entry>,
    joined: String,
}

impl LabelSet {
    /// Begins with the attributes, which are left sorted by their keys. Values of attributes whose label names are
    /// the same are joined with `;` in that order. The metric name cannot come from an attribute.
    pub(super) fn begin<'a>(
        &mut self,
        settings: &OtlpSettings,
        attributes: &mut [Attribute<'a>],
    ) -> Result<(), LabelsError<'a>> {
        self.text.clear();
        self.entries.clear();
        attributes.sort_unstable_by_key(|attribute| attribute.key);
        for attribute in attributes.iter().filter(|a| a.key != quorate_model::METRIC_NAME) {
            let name_start = self.text.len();
            names::label(settings, attribute.key, &mut self.text)
                .map_err(|Unnamed| LabelsError::Unnamed(attribute.key))?;
            let name = name_start..self.text.len();
            attribute.put(&mut self.text)?;
            let value = name.end..self.text.len();
            self.entries.push(Entry { name, value, layer: Layer::Attribute, rank: self.entries.len() });
        }
        self.join();
        Ok(())
    }

    /// Joins the values of attributes with one label name.
    fn join(&mut self) {
        let Self { text, entries, joined } = self;
        sort(text, entries);
        let mut kept: usize = 0;
        let mut at = 0;
        while at < entries.len() {
            let name = entries[at].name.clone();
            let end =
                at + entries[at..].iter().take_while(|e| text[e.name.clone()] == text[name.clone()]).count();
            // The newest of a layer stands first.
            let mut value = entries[end - 1].value.clone();
            if end - at > 1 {
                joined.clear();
                for entry in entries[at..end].iter().rev() {
                    if !joined.is_empty() {
                        joined.push(';');
                    }
                    joined.push_str(&text[entry.value.clone()]);
                }
                value = text.len()..text.len() + joined.len();
                text.push_str(joined);
            }
            entries[kept] = Entry { name, value, layer: Layer::Attribute, rank: 0 };
            kept += 1;
            at = end;
        }
        entries.truncate(kept);
        entries.retain(|entry| !entry.value.is_empty());
    }

    /// Adds labels of other layers.
    pub(super) fn add<'b>(&mut self, labels: impl IntoIterator<Item = (Layer, &'b str, &'b str)>) {
        for (layer, name, value) in labels {
            let start = self.text.len();
            self.text.push_str(name);
            let name = start..self.text.len();
            self.text.push_str(value);
            let value = name.end..self.text.len();
            self.entries.push(Entry { name, value, layer, rank: self.entries.len() });
        }
    }

    /// Ends adding: sorts by name and keeps what wins.
    pub(super) fn arrange(&mut self) {
        let Self { text, entries, .. } = self;
        sort(text, entries);
        entries.dedup_by(|later, first| text[later.name.clone()] == text[first.name.clone()]);
        entries.retain(|entry| !entry.value.is_empty());
    }

    /// Names and values, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|entry| (&self.text[entry.name.clone()], &self.text[entry.value.clone()]))
    }
}

/// By name, and of one name the winner first.
fn sort(text: &str, entries: &mut [Entry]) {
    entries.sort_unstable_by(|a, b| {
        let key = |entry: &Entry| (Reverse(entry.layer), Reverse(entry.rank));
        text[a.name.clone()].cmp(&text[b.name.clone()]).then_with(|| key(a).cmp(&key(b)))
    });
}
