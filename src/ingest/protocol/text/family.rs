//! The metric family that lines belong to: its metadata, and when its metrics were created.
//!
//! Knows the suffixes that types give to samples. Does not know how lines are written.
//! Path: `text` -> **here**.

use super::super::TooLarge;
use super::super::label_list::LabelList;
use quorate_model::MetricType;
use std::collections::HashMap;

/// What an entry of `starts` takes beside its key.
const ENTRY: usize = size_of::<(Vec<u8>, Start)>() + 8;
const CREATED: &str = "_created";

/// What a sample is to its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Tells when the metric was created.
    Created,
    /// Anything else.
    Value,
}

/// The family of the last line of metadata.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) metric_type: MetricType,
    pub(super) help: String,
    pub(super) unit: String,
    /// Of each metric with a `_created` line, by time and labels.
    starts: HashMap<Vec<u8>, Start>,
    /// Bytes of `starts`.
    bytes: usize,
    key: Vec<u8>,
}

#[derive(Debug)]
struct Start {
    ms: i64,
    line: u64,
    is_used: bool,
}

impl Family {
    /// Begins a family of which nothing but its name is known.
    pub(super) fn begin(&mut self, name: &str) {
        self.metric_type = MetricType::Unknown;
        for text in [&mut self.name, &mut self.help, &mut self.unit] {
            text.clear();
        }
        self.name.push_str(name);
    }

    /// Whether more than the name is known.
    pub(super) fn has_metadata(&self) -> bool {
        self.metric_type != MetricType::Unknown || !self.help.is_empty() || !self.unit.is_empty()
    }

    /// What the metric `name` is to the family; `None` if it does not belong to it.
    pub(super) fn part(&self, name: &str) -> Option<Part> {
        let suffix = name.strip_prefix(self.name.as_str()).filter(|_| !self.name.is_empty())?;
        let values: &[&str] = match self.metric_type {
            MetricType::Counter => &["_total"],
            MetricType::Histogram => &["_bucket", "_count", "_sum"],
            MetricType::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
            MetricType::Summary => &["_count", "_sum"],
            MetricType::Info => &["_info"],
            MetricType::Unknown | MetricType::Gauge | MetricType::StateSet => &[],
        };
        match suffix {
            CREATED if self.has_created() => Some(Part::Created),
            suffix => (suffix.is_empty() || values.contains(&suffix)).then_some(Part::Value),
        }
    }

    /// Whether its metrics may tell when they were created.
    fn has_created(&self) -> bool {
        matches!(self.metric_type, MetricType::Counter | MetricType::Histogram | MetricType::Summary)
    }

    /// Whether a line may be a `_created` line of the family; cheap, and never false for one that is.
    pub(super) fn may_be_created(&self, line: &str) -> bool {
        if !self.has_created() || line.starts_with('#') {
            return false;
        }
        let suffix = line.strip_prefix(self.name.as_str());
        line.starts_with('{') || suffix.is_some_and(|suffix| suffix.starts_with(CREATED))
    }

    /// Remembers when the metric with the labels of `list` was created, in milliseconds, as line `line` tells.
    ///
    /// # Errors
    /// [`TooLarge`] if all of them take more than `limit` bytes.
    pub(super) fn add_start(
        &mut self,
        list: &LabelList,
        ts_ms: Option<i64>,
        ms: i64,
        line: u64,
        limit: usize,
    ) -> Result<(), TooLarge> {
        self.make_key(list, ts_ms);
        self.bytes += self.key.len() + ENTRY;
        if self.bytes > limit {
            return Err(TooLarge { limit });
        }
        self.starts.insert(self.key.clone(), Start { ms, line, is_used: false });
        Ok(())
    }

    /// When the metric of a sample was created, 0 if nothing tells.
    pub(super) fn start_ms(&mut self, list: &LabelList, ts_ms: Option<i64>) -> i64 {
        if self.starts.is_empty() {
            return 0;
        }
        self.make_key(list, ts_ms);
        let Some(start) = self.starts.get_mut(&self.key) else { return 0 };
        start.is_used = true;
        start.ms
    }

    /// Forgets the starts and tells the line of each, and whether a sample used it, in the order of the text.
    pub(super) fn end_starts(&mut self, mut tell: impl FnMut(u64, bool)) {
        let mut starts: Vec<Start> = self.starts.drain().map(|(_, start)| start).collect();
        self.bytes = 0;
        starts.sort_unstable_by_key(|start| start.line);
        starts.iter().for_each(|start| tell(start.line, start.is_used));
    }

    /// Makes `key` the time and the labels of a metric, without the label that tells its samples apart.
    fn make_key(&mut self, list: &LabelList, ts_ms: Option<i64>) {
        let own = match self.metric_type {
            MetricType::Histogram => "le",
            MetricType::Summary => "quantile",
            _ => "",
        };
        self.key.clear();
        self.key.push(u8::from(ts_ms.is_some()));
        self.key.extend_from_slice(&ts_ms.unwrap_or(0).to_le_bytes());
        for (name, value) in list.iter().filter(|(name, value)| *name != own && !value.is_empty()) {
            for text in [name, value] {
                self.key.extend_from_slice(&text.len().to_le_bytes());
                self.key.extend_from_slice(text.as_bytes());
            }
        }
    }
}
