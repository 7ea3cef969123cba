//! Native histograms as scripts write them.

use crate::lines::number;
use quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Span};
use std::collections::BTreeMap;

/// A histogram with its buckets by index.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Hist {
    pub(crate) schema: i8,
    pub(crate) count: f64,
    pub(crate) sum: f64,
    pub(crate) zero_threshold: f64,
    pub(crate) zero_count: f64,
    pub(crate) positive: BTreeMap<i32, f64>,
    pub(crate) negative: BTreeMap<i32, f64>,
    pub(crate) custom: Vec<f64>,
    pub(crate) hint: CounterResetHint,
    /// Whether the script names the hint.
    pub(crate) hint_set: bool,
}

/// A bucket as the HTTP API shows it: boundary rule, bounds, count.
pub(crate) type ApiBucket = (u8, f64, f64, f64);

/// Reads what stands between `{{` and `}}`.
pub(crate) fn parse_histogram(body: &str) -> Hist {
    let mut h = Hist::default();
    let (mut offset, mut n_offset) = (0, 0);
    let (mut buckets, mut n_buckets) = (Vec::new(), Vec::new());
    let pair = static_regex!(r"([a-z_]+):(\[[^\]]*\]|[^\s\]]+)");
    for found in pair.captures_iter(body) {
        let text = &found[2];
        let list = || text.trim_matches(['[', ']']).split_whitespace().map(|x| number(x).unwrap()).collect();
        match &found[1] {
            "schema" => h.schema = text.parse().unwrap(),
            "sum" => h.sum = number(text).unwrap(),
            "count" => h.count = number(text).unwrap(),
            "z_bucket" => h.zero_count = number(text).unwrap(),
            "z_bucket_w" => h.zero_threshold = number(text).unwrap(),
            "custom_values" => h.custom = list(),
            "buckets" => buckets = list(),
            "n_buckets" => n_buckets = list(),
            "offset" => offset = text.parse().unwrap(),
            "n_offset" => n_offset = text.parse().unwrap(),
            "counter_reset_hint" => {
                h.hint_set = true;
                h.hint = match text {
                    "reset" => CounterResetHint::Reset,
                    "not_reset" => CounterResetHint::NoReset,
                    "gauge" => CounterResetHint::Gauge,
                    _ => CounterResetHint::Unknown,
                };
            }
            other => panic!("unknown histogram key {other}"),
        }
    }
    h.positive = (offset..).zip(buckets).collect();
    h.negative = (n_offset..).zip(n_buckets).collect();
    h
}

impl Hist {
    /// This plus `sign` times `step`, for series such as `{{…}}+{{…}}x5`.
    pub(crate) fn combined(&self, step: &Self, sign: f64) -> Self {
        let (mut a, mut b) = (self.clone(), step.clone());
        assert_eq!(a.custom, b.custom, "custom bounds of an increment must fit");
        if a.schema != CUSTOM_BUCKETS_SCHEMA {
            while a.zero_threshold != b.zero_threshold {
                let wider = a.zero_threshold.max(b.zero_threshold);
                a.widen_zero(wider);
                b.widen_zero(wider.max(a.zero_threshold));
            }
            let schema = a.schema.min(b.schema);
            a.reduce(schema);
            b.reduce(schema);
        }
        a.count += sign * b.count;
        a.sum += sign * b.sum;
        a.zero_count += sign * b.zero_count;
        b.positive.iter().for_each(|(i, c)| *a.positive.entry(*i).or_default() += sign * c);
        b.negative.iter().for_each(|(i, c)| *a.negative.entry(*i).or_default() += sign * c);
        if a.hint != b.hint {
            let gauge = [a.hint, b.hint].contains(&CounterResetHint::Gauge);
            a.hint = if gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown };
        }
        a
    }

    fn widen_zero(&mut self, threshold: f64) {
        let mut threshold = threshold.max(self.zero_threshold);
        let populated = |h: &Self| {
            let all = h.positive.iter().chain(&h.negative);
            all.filter(|(_, c)| **c != 0.0).map(|(i, _)| *i).collect::<Vec<_>>()
        };
        for index in populated(self) {
            if self.upper(index - 1) < threshold && self.upper(index) > threshold {
                threshold = self.upper(index);
            }
        }
        let schema = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            buckets.retain(|index, count| {
                let inside = upper(schema, &[], *index) <= threshold;
                self.zero_count += if inside { *count } else { 0.0 };
                !inside
            });
        }
        self.zero_threshold = threshold;
    }

    fn reduce(&mut self, schema: i8) {
        let shift = self.schema - schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            let mut reduced = BTreeMap::new();
            buckets.iter().for_each(|(i, c)| *reduced.entry(((i - 1) >> shift) + 1).or_default() += c);
            *buckets = reduced;
        }
        self.schema = schema;
    }

    fn upper(&self, index: i32) -> f64 {
        upper(self.schema, &self.custom, index)
    }

    /// The populated buckets in the form of the HTTP API.
    pub(crate) fn api_buckets(&self) -> Vec<ApiBucket> {
        let mut out = Vec::new();
        let zero = self.zero_threshold;
        for (index, count) in self.negative.iter().rev().filter(|(_, c)| **c != 0.0) {
            let (lower, mut end) = (-self.upper(*index), -self.upper(index - 1));
            if end < 0.0 && end > -zero {
                end = -zero;
            }
            out.push((1, lower, end, *count));
        }
        let custom = self.schema == CUSTOM_BUCKETS_SCHEMA;
        if !custom && self.zero_count > 0.0 {
            out.push((3, -zero, zero, self.zero_count));
        }
        for (index, count) in self.positive.iter().filter(|(_, c)| **c != 0.0) {
            let (mut lower, end) = (self.upper(index - 1), self.upper(*index));
            if !custom && lower > 0.0 && lower < zero {
                lower = zero;
            }
            out.push((if custom && *index == 0 { 3 } else { 0 }, lower, end, *count));
        }
        out
    }

    /// The sample to be loaded.
    pub(crate) fn to_model(&self) -> Histogram {
        let spans = |buckets: &BTreeMap<i32, f64>| {
            let (mut spans, mut end) = (Vec::<Span>::new(), 0);
            for index in buckets.keys() {
                match spans.last_mut() {
                    Some(span) if *index == end => span.length += 1,
                    _ => spans.push(Span { offset: index - end, length: 1 }),
                }
                end = index + 1;
            }
            spans
        };
        let counts = |buckets: &BTreeMap<i32, f64>| buckets.values().copied().collect();
        Histogram {
            reset_hint: self.hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            positive_spans: spans(&self.positive),
            negative_spans: spans(&self.negative),
            custom_values: self.custom.clone(),
            counts: BucketCounts::Float {
                count: self.count,
                zero_count: self.zero_count,
                positive: counts(&self.positive),
                negative: counts(&self.negative),
            },
        }
    }

    /// A sample of a result.
    pub(crate) fn from_model(h: &Histogram) -> Self {
        let BucketCounts::Float { count, zero_count, positive, negative } = &h.counts else {
            panic!("results have float counts");
        };
        let buckets = |spans: &[Span], counts: &[f64]| {
            let mut next = 0;
            let mut indices = Vec::new();
            for span in spans {
                let first = next + span.offset;
                next = first + span.length as i32;
                indices.extend(first..next);
            }
            indices.into_iter().zip(counts.iter().copied()).collect()
        };
        Self {
            schema: h.schema,
            count: *count,
            sum: h.sum,
            zero_threshold: h.zero_threshold,
            zero_count: *zero_count,
            positive: buckets(&h.positive_spans, positive),
            negative: buckets(&h.negative_spans, negative),
            custom: h.custom_values.clone(),
            hint: h.reset_hint,
            hint_set: false,
        }
    }
}

fn upper(schema: i8, custom: &[f64], index: i32) -> f64 {
    if schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(index) {
            Ok(at) => custom.get(at).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        };
    }
    let exponent = f64::from(index) * 2f64.powi(-i32::from(schema));
    if exponent == 1024.0 { f64::MAX } else { exponent.exp2() }
}

/// The custom-bucket histogram of a classic one: cumulative counts by bound, and the values of `_count` and `_sum`.
pub(crate) fn from_classic(parts: &[(f64, f64)], count: Option<f64>, sum: Option<f64>) -> Hist {
    let mut parts = parts.to_vec();
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    parts.dedup_by(|a, b| a.0 == b.0);
    let count = count.unwrap_or_else(|| parts.last().map_or(0.0, |p| p.1));
    if parts.last().is_none_or(|p| p.0 != f64::INFINITY) {
        parts.push((f64::INFINITY, count));
    }
    let mut h = Hist { schema: CUSTOM_BUCKETS_SCHEMA, count, sum: sum.unwrap_or(0.0), ..Hist::default() };
    h.custom = parts.iter().map(|p| p.0).filter(|bound| bound.is_finite()).collect();
    let mut previous = 0.0;
    for (i, (_, cumulative)) in (0..).zip(&parts) {
        if *cumulative != previous {
            h.positive.insert(i, cumulative - previous);
        }
        previous = *cumulative;
    }
    h
}
