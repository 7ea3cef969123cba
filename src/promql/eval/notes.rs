//! The annotations that a query collects: warnings and infos beside its result.
//!
//! Knows Prometheus' texts. Does not know what leads to them. A text stands once however often it is raised, with
//! the place in the query where it was raised first. Of each kind only the first hundred are kept: values and metric
//! names make as many texts as there are samples, and an answer shows ten.
//! Cost: raising an annotation again is one hash.

use crate::ast::Span;
use crate::error::position;
use crate::functions::{FunctionId, math};
use crate::go_fmt::{float_short, quote};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most annotations of a kind that are kept.
const MAX_OF_A_KIND: usize = 100;

/// Most annotations in a list to which others are added, whatever their kinds.
const MAX_ADDED: usize = 10 * MAX_OF_A_KIND;

/// What an annotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// A likely mistake.
    Warning,
    /// A possible mistake.
    Info,
    /// A warning of start timestamps before the previous sample, which are counted.
    StartOverlap,
}

/// An annotation without its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is.
    pub kind: NoteKind,
    /// Prometheus' text.
    pub text: String,
    /// Place in the query.
    pub span: Span,
    /// How often it was raised; 1 unless that is counted.
    pub count: u64,
}

/// Collected annotations.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// What was raised already, by kind.
    seen: HashMap<&'static str, HashSet<u64>>,
    warnings: BTreeMap<String, Span>,
    infos: BTreeMap<String, Span>,
    monotonicity: BTreeMap<String, Monotonicity>,
    /// Start timestamps before the previous sample: place and number by text.
    overlaps: BTreeMap<String, (Span, u64)>,
}

/// What was fixed in classic histograms to make them monotonic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonicity {
    /// Place of the vector argument.
    pub(crate) span: Span,
    /// First and last evaluation time, milliseconds.
    pub(crate) ts_ms: (i64, i64),
    /// Lowest and highest bucket that was fixed.
    pub(crate) buckets: (f64, f64),
    /// Greatest fix.
    pub(crate) max_diff: f64,
    /// Number of histograms that were fixed.
    pub(crate) count: u64,
}

/// The operation in which histograms did not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HistogramOp {
    /// Adding two.
    Addition,
    /// Subtracting two.
    Subtraction,
    /// Aggregating several.
    Aggregation,
}

impl HistogramOp {
    fn name(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

/// A set of texts whose members are built only when they are new.
macro_rules! notes {
    ($($(#[$doc:meta])* $list:ident $name:ident($($arg:ident: $type:ty),*) => $text:expr;)*) => {
        impl Notes {
            $($(#[$doc])*
            pub(crate) fn $name(&mut self, $($arg: $type,)* span: Span) {
                let seen = self.seen.entry(stringify!($name)).or_default();
                if seen.len() == MAX_OF_A_KIND {
                    return;
                }
                let mut hasher = DefaultHasher::new();
                ($(key(&$arg),)* span.start).hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    let text: String = $text;
                    self.$list.entry(text).or_insert(span);
                }
            })*
        }
    };
}

fn key(value: &dyn std::fmt::Debug) -> String {
    format!("{value:?}")
}

const MIXED: &str = "PromQL warning: encountered a mix of histograms and floats for";

notes! {
    /// A ratio outside -1 to 1.
    warnings invalid_ratio(ratio: f64, cap: f64) => format!(
        "PromQL warning: ratio value should be between -1 and 1, got {}, capping to {}",
        float_short(ratio), float_short(cap)
    );
    /// A quantile outside 0 to 1.
    warnings invalid_quantile(q: f64) => format!(
        "PromQL warning: quantile value should be between 0 and 1, got {}", float_short(q)
    );
    /// A bucket label that is no number.
    warnings bad_bucket_label(metric: &str, label: &str) => named(format!(
        "PromQL warning: bucket label \"le\" is missing or has a malformed value of {}", quote(label)
    ), metric);
    /// Floats and histograms in one window.
    warnings mixed_floats_histograms(metric: &str) => format!("{MIXED} metric name {}", quote(metric));
    /// Floats and histograms in one group.
    warnings mixed_floats_histograms_agg() => format!("{MIXED} aggregation");
    /// Classic buckets and a native histogram of the same name.
    warnings mixed_classic_native(metric: &str) => named(
        "PromQL warning: vector contains a mix of classic and native histograms".to_owned(), metric
    );
    /// A counter function on a gauge histogram.
    warnings native_histogram_not_counter(metric: &str) => format!(
        "PromQL warning: this native histogram metric is not a counter: {}", quote(metric)
    );
    /// A gauge function on a counter histogram.
    warnings native_histogram_not_gauge(metric: &str) => format!(
        "PromQL warning: this native histogram metric is not a gauge: {}", quote(metric)
    );
    /// Exponential and custom buckets together.
    warnings mixed_exponential_custom(metric: &str) => format!(
        "PromQL warning: vector contains a mix of histograms with exponential and custom buckets schemas for \
         metric name {}", quote(metric)
    );
    /// The same in a binary operation.
    warnings incompatible_bucket_layout(op: &str) => format!(
        "PromQL warning: incompatible bucket layout encountered for binary operator {op}"
    );
    /// A sort in a range query.
    warnings sort_in_range_query() =>
        "PromQL warning: sort is ineffective for range queries since results are always ordered by labels".to_owned();
    /// Contradicting counter reset hints.
    warnings counter_reset_collision(op: HistogramOp) => format!(
        "PromQL warning: conflicting counter resets during histogram {}", op.name()
    );
    /// A rate of what is no counter by its name.
    infos possible_non_counter(metric: &str) => format!(
        "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
        quote(metric)
    );
    /// An operator that does not take these types.
    infos incompatible_types(lhs: &str, op: &str, rhs: &str) => format!(
        "PromQL info: incompatible sample types encountered for binary operator {}: {lhs} {op} {rhs}", quote(op)
    );
    /// An aggregation that skips histograms.
    infos histogram_ignored_in_aggregation(op: &str) => format!(
        "PromQL info: ignored histogram in {op} aggregation"
    );
    /// A window function that skips histograms.
    infos histogram_ignored_in_mixed_range(metric: &str) => format!(
        "PromQL info: ignored histograms in a range containing both floats and histograms for metric name {}",
        quote(metric)
    );
    /// NaN observations where the quantile lies.
    infos quantile_nan_result(metric: &str) => named(
        "PromQL info: input to histogram_quantile has NaN observations, result is NaN".to_owned(), metric
    );
    /// NaN observations elsewhere.
    infos quantile_nan_skew(metric: &str) => named(
        "PromQL info: input to histogram_quantile has NaN observations, result is skewed higher".to_owned(), metric
    );
    /// NaN observations under `histogram_fraction`.
    infos fraction_nan(metric: &str) => named(
        "PromQL info: input to histogram_fraction has NaN observations, which are excluded from all fractions"
            .to_owned(),
        metric
    );
    /// Custom bounds that differ.
    infos mismatched_custom_buckets(op: HistogramOp) => format!(
        "PromQL info: mismatched custom buckets were reconciled during {}", op.name()
    );
}

fn named(text: String, metric: &str) -> String {
    if metric.is_empty() { text } else { format!("{text} for metric name {}", quote(metric)) }
}

impl Notes {
    /// Classic buckets that had to be made monotonic.
    pub(crate) fn forced_monotonicity(&mut self, metric: &str, fixed: Monotonicity) {
        let text = named(
            "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
             https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
                .to_owned(),
            metric,
        );
        if self.monotonicity.len() == MAX_OF_A_KIND && !self.monotonicity.contains_key(&text) {
            return;
        }
        let merged = self.monotonicity.entry(text).or_insert(Monotonicity { count: 0, ..fixed });
        merged.ts_ms = (merged.ts_ms.0.min(fixed.ts_ms.0), merged.ts_ms.1.max(fixed.ts_ms.1));
        merged.buckets = (merged.buckets.0.min(fixed.buckets.0), merged.buckets.1.max(fixed.buckets.1));
        merged.max_diff = merged.max_diff.max(fixed.max_diff);
        merged.count += fixed.count;
    }

    /// A start timestamp before the previous sample.
    pub(crate) fn start_time_overlap(&mut self, metric: &str, span: Span) {
        const TEXT: &str =
            "PromQL warning: sample has start time that overlaps with previous sample timestamp";
        let text = format!("{TEXT} for metric {}", quote(metric));
        if self.overlaps.len() < MAX_OF_A_KIND || self.overlaps.contains_key(&text) {
            self.overlaps.entry(text).or_insert((span, 0)).1 += 1;
        }
    }

    /// All annotations but those of `histogram_quantile`, which looks at many series at once.
    pub(crate) fn into_list(self) -> Vec<Note> {
        let of = |kind| move |(text, span)| Note { kind, text, span, count: 1 };
        let warnings = self.warnings.into_iter().map(of(NoteKind::Warning));
        let infos = self.infos.into_iter().map(of(NoteKind::Info));
        let overlaps = self.overlaps.into_iter();
        let overlaps =
            overlaps.map(|(text, (span, count))| Note { kind: NoteKind::StartOverlap, text, span, count });
        warnings.chain(infos).chain(overlaps).collect()
    }

    /// Adds annotations of another evaluation of the same query.
    pub(crate) fn add(&mut self, notes: &[Note]) {
        for Note { kind, text, span, count } in notes {
            let list = match kind {
                NoteKind::Warning => &mut self.warnings,
                NoteKind::Info => &mut self.infos,
                NoteKind::StartOverlap => {
                    if self.overlaps.len() < MAX_OF_A_KIND || self.overlaps.contains_key(text) {
                        let overlap = self.overlaps.entry(text.clone()).or_insert((*span, 0));
                        overlap.1 = overlap.1.saturating_add(*count);
                    }
                    continue;
                }
            };
            if list.len() < MAX_ADDED {
                list.entry(text.clone()).or_insert(*span);
            }
        }
    }

    /// The texts of warnings and infos, with their places in `query` unless it is empty.
    pub(crate) fn into_texts(self, query: &str) -> (Vec<String>, Vec<String>) {
        let place = |text: String, span: Span| match query {
            "" => text,
            _ => format!("{text} ({})", position(query, span.start)),
        };
        let mut warnings: Vec<String> =
            self.warnings.into_iter().map(|(text, span)| place(text, span)).collect();
        for (text, (span, count)) in self.overlaps {
            let times = if count > 1 && !query.is_empty() {
                format!(" ({count} occurrences)")
            } else {
                String::new()
            };
            warnings.push(place(format!("{text}{times}"), span));
        }
        let mut infos: Vec<String> = self.infos.into_iter().map(|(text, span)| place(text, span)).collect();
        for (text, fixed) in self.monotonicity {
            let details = if query.is_empty() { String::new() } else { fixed.details() };
            infos.push(place(format!("{text}{details}"), fixed.span));
        }
        (warnings, infos)
    }
}

impl Monotonicity {
    fn details(&self) -> String {
        format!(
            ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
            float_short(self.buckets.0),
            float_short(self.buckets.1),
            two_digits(self.max_diff),
            self.count,
            rfc3339(self.ts_ms.0.div_euclid(1000)),
            rfc3339(self.ts_ms.1.div_euclid(1000)),
        )
    }
}

/// The verb `%.2g`.
fn two_digits(value: f64) -> String {
    let rounded: f64 = format!("{value:.1e}").parse().unwrap_or(value);
    if (1e-4..100.0).contains(&rounded.abs()) || rounded == 0.0 {
        return rounded.to_string();
    }
    let text = format!("{rounded:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, number) = exponent.strip_prefix('-').map_or(('+', exponent), |n| ('-', n));
            format!("{digits}e{sign}{number:0>2}")
        }
        None => text,
    }
}

/// `2006-01-02T15:04:05Z` of seconds since the Unix epoch.
fn rfc3339(seconds: i64) -> String {
    let part = |id: FunctionId| math::of_one(id).map_or(0, |f| f(seconds as f64) as i64);
    let (year, month, day) = (part(FunctionId::Year), part(FunctionId::Month), part(FunctionId::DayOfMonth));
    let (hour, minute, second) = (part(FunctionId::Hour), part(FunctionId::Minute), seconds.rem_euclid(60));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_once_with_its_first_place() {
        let mut notes = Notes::default();
        notes.invalid_quantile(1.5, Span::new(9, 12));
        notes.invalid_quantile(1.5, Span::new(20, 23));
        notes.histogram_ignored_in_aggregation("min", Span::new(4, 5));
        let (warnings, infos) = notes.into_texts("a\nb + quantile(1.5, c)");
        let expected = "PromQL warning: quantile value should be between 0 and 1, got 1.5 (2:8)";
        assert_eq!(warnings, [expected]);
        assert_eq!(infos, ["PromQL info: ignored histogram in min aggregation (2:3)"]);
    }

    #[test]
    fn a_hundred_of_a_kind_are_kept() {
        let mut notes = Notes::default();
        for i in 0..10_000 {
            let metric = format!("m{i}");
            notes.invalid_quantile(f64::from(i) + 2.0, Span::new(0, 1));
            notes.start_time_overlap(&metric, Span::new(0, 1));
            let fixed = Monotonicity {
                span: Span::new(0, 1),
                ts_ms: (0, 0),
                buckets: (0.0, 1.0),
                max_diff: 1.0,
                count: 1,
            };
            notes.forced_monotonicity(&metric, fixed);
        }
        notes.invalid_ratio(2.0, 1.0, Span::new(0, 1));
        let (warnings, infos) = notes.into_texts("");
        assert_eq!((warnings.len(), infos.len()), (2 * MAX_OF_A_KIND + 1, MAX_OF_A_KIND));
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn two_digits_as_go_prints_them() {
        assert_eq!(two_digits(0.001234), "0.0012");
        assert_eq!(two_digits(99.9), "1e+02");
        assert_eq!(two_digits(12.0), "12");
    }
}
