//! The series that data points become, and their exemplars.
//!
//! Knows families, labels and the body that is written. Does not know how points are read.
//! Path: `otlp::points` and `otlp::histograms` -> **here** -> `body`.

use super::super::{BodyError, Rw2Body, SeriesWriter, TooLarge};
use super::OtlpError;
use super::label_set::LabelSet;
use super::points::Exemplar;
use super::values::{self, Attribute};
use quorate_model::{METRIC_NAME, MetricType};

/// Most characters of an exemplar's labels with which its attributes are kept.
/// Source: OpenMetrics 1.0, "Exemplars".
const MAX_EXEMPLAR_CHARS: usize = 128;

/// What the series of one metric share.
#[derive(Debug)]
pub(super) struct Family<'a> {
    /// Names of its series.
    pub(super) name: String,
    pub(super) sum: String,
    pub(super) count: String,
    pub(super) bucket: String,
    pub(super) metric_type: MetricType,
    pub(super) help: &'a str,
    pub(super) unit: String,
    pub(super) is_delta: bool,
}

impl<'a> Family<'a> {
    /// A family whose series all have its name, until [`Family::with_parts`].
    pub(super) fn new(name: String, metric_type: MetricType) -> Self {
        let [sum, count, bucket, unit] = [const { String::new() }; 4];
        Self { name, sum, count, bucket, metric_type, help: "", unit, is_delta: false }
    }

    /// Names the series of sums, counts and buckets.
    pub(super) fn with_parts(self) -> Self {
        let [sum, count, bucket] =
            ["_sum", "_count", "_bucket"].map(|suffix| format!("{}{suffix}", self.name));
        Self { sum, count, bucket, ..self }
    }
}

/// The body of one tenant in the making.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) body: Rw2Body,
    /// Empty between series; its memory is used again.
    pairs: Vec<(&'static str, &'static str)>,
}

impl Output {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { body: Rw2Body::new(max_bytes), pairs: Vec::new() }
    }

    /// Begins the series `name` of a family; `extra` takes the place of a label of the same name.
    pub(super) fn series(
        &mut self,
        name: &str,
        labels: &LabelSet,
        extra: Option<(&str, &str)>,
        family: &Family<'_>,
    ) -> Result<SeriesWriter<'_>, TooLarge> {
        let mut pairs = reuse(std::mem::take(&mut self.pairs));
        pairs.push((METRIC_NAME, name));
        let is_replaced = |label: &str| label == METRIC_NAME || extra.is_some_and(|extra| extra.0 == label);
        pairs.extend(labels.iter().filter(|label| !is_replaced(label.0)));
        pairs.extend(extra);
        let mut series = self.body.series(&pairs)?;
        self.pairs = reuse(pairs);
        series.metadata(family.metric_type, family.help, &family.unit)?;
        Ok(series)
    }
}

/// An empty list in the memory of another.
fn reuse<'b>(mut pairs: Vec<(&str, &str)>) -> Vec<(&'b str, &'b str)> {
    pairs.clear();
    // Collecting in place keeps the memory; nothing is left to map.
    pairs.into_iter().map(|_| ("", "")).collect()
}

/// Writes an exemplar to the series at hand: the ids, and the attributes if all is short enough.
pub(super) fn put_exemplar(series: &mut SeriesWriter<'_>, exemplar: &Exemplar<'_>) -> Result<(), OtlpError> {
    let (mut trace, mut span) = (String::new(), String::new());
    values::hex(exemplar.trace_id, &mut trace);
    values::hex(exemplar.span_id, &mut span);
    let mut labels: Vec<(&str, &str)> = [("trace_id", trace.as_str()), ("span_id", span.as_str())]
        .into_iter()
        .filter(|(_, id)| !id.is_empty())
        .collect();
    let attributes = attribute_texts(exemplar)?;
    let chars = |(name, value): (&str, &str)| name.chars().count() + value.chars().count();
    let attribute_pairs = || attributes.iter().map(|(attribute, value)| (attribute.key, value.as_str()));
    let all: usize = labels.iter().copied().chain(attribute_pairs()).map(chars).sum();
    if all <= MAX_EXEMPLAR_CHARS {
        labels.extend(attribute_pairs());
    }
    labels.sort_unstable();
    Ok(series.exemplar(&labels, exemplar.value, exemplar.ts_ms)?)
}

fn attribute_texts<'a>(exemplar: &Exemplar<'a>) -> Result<Vec<(Attribute<'a>, String)>, BodyError> {
    let mut attributes = Vec::new();
    values::read_attributes(exemplar.message, 7, &mut attributes)?;
    let text = |attribute: Attribute<'a>| {
        let mut value = String::new();
        attribute.put(&mut value).map(|()| (attribute, value))
    };
    attributes.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_memory_of_a_list_is_used_again() {
        let mut pairs = Vec::with_capacity(64);
        pairs.push(("a", "b"));
        let again = super::reuse(pairs);
        assert_eq!((again.len(), again.capacity()), (0, 64));
    }
}
