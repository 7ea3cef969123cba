//! Refusals: what of a request is not stored, why, and how it is told. Ids are Mimir's and never change.
//!
//! Knows the ids and texts. Does not know when to refuse; statuses are the server's.

use crate::protocol::{Fault, HistogramFault, LabelBounds, LabelFault, LabelPairs};
use quorate_cluster::limits::Limits;
use std::fmt::{self, Write};

/// Refusals that an answer tells in words; the rest is counted.
pub const MAX_TOLD: usize = 10;
/// Most bytes of a series or label in a message.
const MAX_SHOWN: usize = 200;

/// One thing that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable id, such as `err-mimir-label-invalid`.
    pub id: &'static str,
    /// The text for the client, the id included.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a request lost before the log, and to conflicts behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// Float samples.
    pub(crate) samples: u64,
    /// Histogram samples.
    pub(crate) histograms: u64,
    /// Exemplars.
    pub(crate) exemplars: u64,
    /// Series without anything to store, and metadata.
    pub(crate) others: u64,
    /// The first [`MAX_TOLD`], in the order of the request.
    pub(crate) told: Vec<Refusal>,
    /// Samples and histograms by id.
    pub(crate) by_id: Vec<(&'static str, u64)>,
}

/// What a refusal costs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loss {
    pub(crate) samples: u64,
    pub(crate) histograms: u64,
    pub(crate) exemplars: u64,
    pub(crate) others: u64,
}

impl Refusals {
    /// Everything that was refused.
    pub(crate) fn total(&self) -> u64 {
        self.samples + self.histograms + self.exemplars + self.others
    }

    /// Counts a refusal; `text` is asked only while there is room to tell it.
    pub(crate) fn add(&mut self, id: &'static str, loss: Loss, text: impl FnOnce() -> String) {
        self.samples += loss.samples;
        self.histograms += loss.histograms;
        self.exemplars += loss.exemplars;
        self.others += loss.others;
        let discarded = loss.samples + loss.histograms;
        match self.by_id.iter_mut().find(|(known, _)| *known == id) {
            Some((_, count)) => *count += discarded,
            None => self.by_id.push((id, discarded)),
        }
        if self.told.len() < MAX_TOLD {
            self.told.push(Refusal { id, message: text() });
        }
    }
}

pub(crate) const MISSING_NAME: &str = "err-mimir-missing-metric-name";
pub(crate) const LABEL_INVALID: &str = "err-mimir-label-invalid";
pub(crate) const DUPLICATE_NAME: &str = "err-mimir-duplicate-label-names";
pub(crate) const NAME_TOO_LONG: &str = "err-mimir-label-name-too-long";
pub(crate) const VALUE_TOO_LONG: &str = "err-mimir-label-value-too-long";
pub(crate) const TOO_MANY_NAMES: &str = "err-mimir-max-label-names-per-series";
pub(crate) const SERIES_LIMIT: &str = "err-mimir-max-series-per-user";
pub(crate) const FUTURE: &str = "err-mimir-too-far-in-future";
pub(crate) const PAST: &str = "err-mimir-too-far-in-past";
pub(crate) const TOO_OLD: &str = "err-mimir-sample-timestamp-too-old";
pub(crate) const CONFLICT: &str = "err-mimir-sample-duplicate-timestamp";
pub(crate) const RATE: &str = "err-mimir-tenant-max-ingestion-rate";
pub(crate) const TOO_MANY_BUCKETS: &str = "err-mimir-max-native-histogram-buckets";
pub(crate) const EXEMPLAR_TOO_LONG: &str = "err-mimir-exemplar-labels-too-long";
pub(crate) const METADATA_LIMIT: &str = "err-mimir-max-metadata-per-user";
pub(crate) const METADATA_NO_NAME: &str = "err-mimir-metadata-missing-metric-name";
pub(crate) const METADATA_NAME_TOO_LONG: &str = "err-mimir-metric-name-too-long";
pub(crate) const METADATA_UNIT_TOO_LONG: &str = "err-mimir-unit-too-long";
pub(crate) const NO_SAMPLES: &str = "err-quorate-series-without-samples";
pub(crate) const TWO_KINDS: &str = "err-quorate-series-of-two-kinds";
/// Label names that belong to the database.
pub(crate) const RESERVED_LABEL: &str = "__tenant_id__";

/// A series as a selector, cut to what a message can hold.
pub(crate) fn show<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut name = String::new();
    let mut pairs = String::new();
    for (label, value) in labels {
        if label == quorate_model::METRIC_NAME {
            value.clone_into(&mut name);
        } else {
            let comma = if pairs.is_empty() { "" } else { ", " };
            let _ = write!(pairs, "{comma}{label}={value:?}");
        }
        if pairs.len() > 2 * MAX_SHOWN {
            break;
        }
    }
    let text = if pairs.is_empty() { name } else { format!("{name}{{{pairs}}}") };
    cut(&text).to_owned()
}

/// At most [`MAX_SHOWN`] bytes of `text`, ending between characters.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_SHOWN)]
}

fn adjust(limit: &str) -> String {
    format!("To adjust the related per-tenant limit, configure {limit}.")
}

/// Id and text of labels that cannot be split; `read` holds those before the fault.
pub(crate) fn of_label_fault(
    fault: &LabelFault,
    bounds: &LabelBounds,
    read: &LabelPairs,
) -> (&'static str, String) {
    let series = || {
        let pairs = read.shown();
        show(pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))
    };
    match fault {
        LabelFault::NameTooLong { name, bytes } => {
            (NAME_TOO_LONG, name_too_long(name, *bytes, bounds.name_bytes, &series()))
        }
        LabelFault::ValueTooLong { name, value, bytes } => {
            (VALUE_TOO_LONG, value_too_long(name, value, *bytes, bounds.value_bytes, &series()))
        }
        LabelFault::TooMany { labels } => {
            let actual = format_args!("at least {labels}");
            (TOO_MANY_NAMES, too_many_names(actual, bounds.names, &series()))
        }
        LabelFault::OverBudget => {
            (LABEL_INVALID, format!("the labels of the request take too many bytes ({LABEL_INVALID})"))
        }
        LabelFault::Malformed(what) => {
            (LABEL_INVALID, format!("received a series with malformed labels: {what} ({LABEL_INVALID})"))
        }
        LabelFault::EmptyName => {
            (LABEL_INVALID, format!("received a series with an invalid label: '' ({LABEL_INVALID})"))
        }
        LabelFault::NotUtf8 => {
            (LABEL_INVALID, format!("received a series with a label that is not UTF-8 ({LABEL_INVALID})"))
        }
        LabelFault::Duplicate(name) => (
            DUPLICATE_NAME,
            format!("received a series with duplicate label name, label: '{}' ({DUPLICATE_NAME})", cut(name)),
        ),
    }
}

/// Id and text of what remote write 2.0 forbids in one series.
pub(crate) fn of_fault(fault: Fault) -> (&'static str, String) {
    let id = match fault {
        Fault::OddReferences | Fault::SymbolRange => LABEL_INVALID,
        Fault::NoSamples => NO_SAMPLES,
        Fault::TwoKinds => TWO_KINDS,
    };
    (id, format!("{fault} ({id})"))
}

/// Id and text of a histogram that is wrong in itself.
pub(crate) fn of_histogram_fault(fault: HistogramFault, ts_ms: i64, series: &str) -> (&'static str, String) {
    let id = fault.id();
    (
        id,
        format!(
            "received an invalid native histogram: {fault}, timestamp: {ts_ms} series: '{series}' ({id})"
        ),
    )
}

pub(crate) fn missing_name() -> String {
    format!("received series has no metric name ({MISSING_NAME})")
}

pub(crate) fn reserved_label(series: &str) -> String {
    format!(
        "received a series with the reserved label '{RESERVED_LABEL}' series: '{series}' ({LABEL_INVALID})"
    )
}

pub(crate) fn too_many_names(actual: impl fmt::Display, limit: usize, series: &str) -> String {
    format!(
        "received a series whose number of labels exceeds the limit (actual: {actual}, limit: {limit}) \
         series: '{series}' ({TOO_MANY_NAMES}). {}",
        adjust("max_label_names_per_series")
    )
}

pub(crate) fn name_too_long(name: &str, bytes: usize, limit: usize, series: &str) -> String {
    format!(
        "received a series whose label name length of {bytes} exceeds the limit of {limit}, label: '{}' \
         series: '{series}' ({NAME_TOO_LONG}). {}",
        cut(name),
        adjust("max_label_name_length")
    )
}

pub(crate) fn value_too_long(name: &str, value: &str, bytes: usize, limit: usize, series: &str) -> String {
    format!(
        "received a series whose label value length of {bytes} exceeds the limit of {limit}, label: '{}', \
         value: '{}' (truncated) series: '{series}' ({VALUE_TOO_LONG}). {}",
        cut(name),
        cut(value),
        adjust("max_label_value_length")
    )
}

pub(crate) fn series_limit(limit: u64) -> String {
    format!(
        "per-user series limit of {limit} exceeded ({SERIES_LIMIT}). {}",
        adjust("max_global_series_per_user")
    )
}

pub(crate) fn metadata_limit(limit: usize, family: &str) -> String {
    format!(
        "per-user metric metadata limit of {limit} exceeded, metric name: '{}' ({METADATA_LIMIT}). {}",
        cut(family),
        adjust("max_global_metadata_per_user")
    )
}

/// Id and text of a sample outside the bounds of time.
pub(crate) fn of_time(
    ts_ms: i64,
    bounds: &TimeBounds,
    limits: &Limits,
    series: &str,
) -> (&'static str, String) {
    if ts_ms > bounds.last_ms {
        let text = format!(
            "received a sample whose timestamp is too far in the future, timestamp: {ts_ms} series: '{series}' \
             ({FUTURE}). The limit is {}. {}",
            limits.creation_grace_period,
            adjust("creation_grace_period")
        );
        return (FUTURE, text);
    }
    if bounds.is_grace {
        let text = format!(
            "received a sample whose timestamp is too far in the past, timestamp: {ts_ms} series: '{series}' \
             ({PAST}). The limit is {}. {}",
            limits.past_grace_period,
            adjust("past_grace_period")
        );
        return (PAST, text);
    }
    let text = format!(
        "the sample has been rejected because its timestamp is too old: it is older than what is kept, \
         timestamp: {ts_ms} series: '{series}' ({TOO_OLD}). {}",
        adjust("compactor_blocks_retention_period")
    );
    (TOO_OLD, text)
}

/// The times that a tenant may write now, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeBounds {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    /// Whether the first time comes from `past_grace_period` and not from retention.
    pub(crate) is_grace: bool,
}

impl TimeBounds {
    /// No time before this is taken: window borders and deltas around it stay far from overflow.
    const MIN_MS: i64 = i64::MIN / 8;
    const MAX_MS: i64 = i64::MAX / 8;

    /// `floor_ms` is what retention has hidden already: it stays hidden when a period is made longer.
    pub(crate) fn new(now_ms: i64, limits: &Limits, retention_ms: i64, floor_ms: i64) -> Self {
        let back = |period: i64| if period > 0 { now_ms.saturating_sub(period) } else { i64::MIN };
        let (grace, kept) = (back(limits.past_grace_period.as_ms()), back(retention_ms).max(floor_ms));
        let last_ms = now_ms.saturating_add(limits.creation_grace_period.as_ms());
        Self {
            first_ms: grace.max(kept).max(Self::MIN_MS),
            last_ms: last_ms.min(Self::MAX_MS),
            is_grace: grace > kept,
        }
    }

    #[inline]
    pub(crate) fn contain(&self, ts_ms: i64) -> bool {
        self.first_ms <= ts_ms && ts_ms <= self.last_ms
    }
}

pub(crate) fn too_many_buckets(ts_ms: i64, buckets: usize, limit: usize, series: &str) -> String {
    format!(
        "received a native histogram sample with too many buckets, timestamp: {ts_ms} series: '{series}', \
         buckets: {buckets}, limit: {limit} ({TOO_MANY_BUCKETS}). {}",
        adjust("max_native_histogram_buckets")
    )
}

pub(crate) fn long_exemplar(series: &str) -> String {
    format!(
        "received an exemplar whose labels are over 128 characters, series: '{series}' ({EXEMPLAR_TOO_LONG})"
    )
}

pub(crate) fn conflict(ts_ms: i64, series: &str) -> String {
    format!(
        "the sample has been rejected because another sample with the same timestamp, but a different value, \
         has already been ingested ({CONFLICT}). The affected sample has timestamp {ts_ms} and is from \
         series '{series}'"
    )
}

pub(crate) fn rate(rate: f64, burst: u64, items: u64) -> String {
    format!(
        "the request has been rejected because the tenant exceeded the ingestion rate limit, set to {rate} items/s \
         with a maximum allowed burst of {burst}; the request has {items} samples, exemplars and metadata ({RATE}). \
         To adjust the related per-tenant limits, configure ingestion_rate and ingestion_burst_size."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_refusals_are_told_and_all_are_counted() {
        let mut refusals = Refusals::default();
        for at in 0..999 {
            let loss = Loss { samples: 1, ..Loss::default() };
            refusals.add(FUTURE, loss, || format!("number {at}"));
        }
        assert_eq!((refusals.told.len(), refusals.total()), (MAX_TOLD, 999));
        assert_eq!(refusals.by_id, [(FUTURE, 999)]);
        assert_eq!(refusals.told[9].to_string(), "number 9");
    }

    #[test]
    fn the_bound_in_the_past_tells_where_it_comes_from() {
        let hour = 3_600_000;
        let limits = |grace| Limits {
            past_grace_period: quorate_cluster::human::HumanDuration::from_ms(grace),
            ..Limits::default()
        };
        let bounds = TimeBounds::new(10 * hour, &limits(hour as u64), 2 * hour, i64::MIN);
        assert_eq!((bounds.first_ms, bounds.is_grace), (9 * hour, true));
        let bounds = TimeBounds::new(10 * hour, &limits(0), 2 * hour, i64::MIN);
        assert_eq!((bounds.first_ms, bounds.is_grace), (8 * hour, false));
        assert_eq!(of_time(0, &bounds, &limits(0), "up").0, TOO_OLD);
        let unbounded = TimeBounds::new(10 * hour, &limits(0), 0, i64::MIN);
        let hidden = TimeBounds::new(10 * hour, &limits(0), 2 * hour, 9 * hour);
        assert_eq!((hidden.first_ms, hidden.is_grace), (9 * hour, false));
        assert!(unbounded.contain(-1) && !unbounded.contain(i64::MIN) && !unbounded.contain(i64::MAX));
    }

    #[test]
    fn long_series_are_cut_between_characters() {
        let value = "é".repeat(400);
        let text = show([("__name__", "up"), ("a", value.as_str())].into_iter());
        assert!(text.len() <= MAX_SHOWN && text.starts_with("up{a=\"é"), "{text}");
    }
}
