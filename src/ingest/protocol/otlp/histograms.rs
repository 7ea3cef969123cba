//! Histograms: explicit bounds as classic series or custom buckets, exponential ones as native histograms.
//!
//! Knows the data point at hand. Does not know how it is encoded, or resources and scopes.
//! Path: `otlp::walk` -> **here** -> `otlp::output`.
//! Source: OpenTelemetry, "Metrics Data Model", "ExponentialHistogram"; its bucket `i` ends where bucket `i + 1` of
//! Prometheus does.

use super::super::{DenseBuckets, HistogramParts};
use super::label_set::LabelSet;
use super::output::{Family, Output, put_exemplar};
use super::points::{Point, Side};
use super::reasons::{Reason, Stop};
use super::values;
use super::walk::Translator;
use quorate_model::histogram::{CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMAS};
use quorate_model::{CounterResetHint, stale_nan};

/// Width of the zero bucket if a data point tells none.
const ZERO_THRESHOLD: f64 = 1e-128;

impl<'a> Translator<'a> {
    /// Writes the point at hand of a histogram as `_sum`, `_count` and `_bucket`.
    pub(super) fn classic(&mut self, family: &Family<'_>) -> Result<(), Stop<'a>> {
        let point = &mut self.point;
        point.exemplars.sort_unstable_by(|a, b| a.value.total_cmp(&b.value));
        let (ts_ms, start_ms) = (point.ts_ms(), point.start_ms());
        if let Some(sum) = point.sum {
            let mut series = self.out.series(&family.sum, &self.labels, None, family)?;
            series.sample(ts_ms, point.or_stale(sum), start_ms)?;
        }
        let all = point.or_stale(point.count as f64);
        self.out.series(&family.count, &self.labels, None, family)?.sample(ts_ms, all, start_ms)?;

        let mut cumulative = 0u64;
        let mut exemplars = point.exemplars.iter().peekable();
        let finite = point.bounds.iter().zip(&point.counts).filter(|(bound, _)| **bound != f64::INFINITY);
        let finite = finite.map(|(bound, count)| {
            cumulative = cumulative.saturating_add(*count);
            (*bound, point.or_stale(cumulative as f64))
        });
        for (bound, value) in finite.chain([(f64::INFINITY, all)]) {
            self.text.clear();
            values::plain_double(bound, &mut self.text);
            let extra = Some(("le", self.text.as_str()));
            let mut series = self.out.series(&family.bucket, &self.labels, extra, family)?;
            series.sample(ts_ms, value, start_ms)?;
            let is_last = bound == f64::INFINITY;
            while let Some(exemplar) = exemplars.next_if(|exemplar| is_last || exemplar.value <= bound) {
                put_exemplar(&mut series, exemplar).map_err(Stop::Error)?;
            }
        }
        Ok(())
    }

    /// Writes the point at hand of a histogram as a native one with custom buckets.
    pub(super) fn custom(&mut self, family: &Family<'_>) -> Result<(), Stop<'a>> {
        let point = &mut self.point;
        if point.counts.is_empty() && point.bounds.is_empty() {
            // Only count and sum: everything is in the one bucket that there is.
            point.counts.push(point.count);
        }
        let point = &self.point;
        let (counts, bounds) = (point.counts.len(), point.bounds.len());
        if counts != bounds + 1 && !point.is_stale() {
            return Err(Stop::Drop(Reason::BucketCounts { counts, bounds }));
        }
        let positive = DenseBuckets { first: 0, counts: &point.counts };
        let parts = HistogramParts {
            schema: CUSTOM_BUCKETS_SCHEMA,
            positive,
            custom_bounds: &point.bounds,
            ..no_buckets()
        };
        native(&mut self.out, &self.labels, point, parts, family)
    }

    /// Writes the point at hand of an exponential histogram.
    pub(super) fn exponential(&mut self, family: &Family<'_>) -> Result<(), Stop<'a>> {
        let point = &mut self.point;
        let (lowest, highest) =
            (i32::from(*EXPONENTIAL_SCHEMAS.start()), i32::from(*EXPONENTIAL_SCHEMAS.end()));
        if point.scale < lowest {
            return Err(Stop::Drop(Reason::Scale(point.scale)));
        }
        let scale_down = point.scale.saturating_sub(highest).clamp(0, 63) as u32;
        let [positive, negative] =
            [&mut point.positive, &mut point.negative].map(|side| side.merge(scale_down));
        let (Some(positive), Some(negative)) = (positive, negative) else {
            return Err(Stop::Drop(Reason::BucketIndex));
        };
        let point = &self.point;
        let is_told = point.zero_threshold > 0.0;
        let parts = HistogramParts {
            schema: point.scale.min(highest) as i8,
            zero_threshold: if is_told { point.zero_threshold } else { ZERO_THRESHOLD },
            zero_count: point.zero_count,
            positive: DenseBuckets { first: positive, counts: &point.positive.counts },
            negative: DenseBuckets { first: negative, counts: &point.negative.counts },
            ..no_buckets()
        };
        native(&mut self.out, &self.labels, point, parts, family)
    }
}

/// Writes a native histogram, with time, count and sum of the point; a stale one without what was observed.
fn native<'a>(
    out: &mut Output,
    labels: &LabelSet,
    point: &Point<'_>,
    parts: HistogramParts<'_>,
    family: &Family<'_>,
) -> Result<(), Stop<'a>> {
    let observed = if point.is_stale() {
        let none = DenseBuckets::default();
        HistogramParts { sum: stale_nan(), zero_count: 0, positive: none, negative: none, ..parts }
    } else {
        HistogramParts { count: point.count, sum: point.sum.unwrap_or_default(), ..parts }
    };
    let mut series = out.series(&family.name, labels, None, family)?;
    series.histogram(&HistogramParts {
        ts_ms: point.ts_ms(),
        start_ms: point.start_ms(),
        // A delta does not tell what was before it, so no reset is looked for.
        reset_hint: if family.is_delta { CounterResetHint::Gauge } else { CounterResetHint::Unknown },
        ..observed
    })?;
    for exemplar in &point.exemplars {
        put_exemplar(&mut series, exemplar).map_err(Stop::Error)?;
    }
    Ok(())
}

/// A histogram in which nothing was observed.
fn no_buckets<'a>() -> HistogramParts<'a> {
    HistogramParts {
        ts_ms: 0,
        start_ms: 0,
        count: 0,
        sum: 0.0,
        schema: 0,
        zero_threshold: 0.0,
        zero_count: 0,
        positive: DenseBuckets::default(),
        negative: DenseBuckets::default(),
        custom_bounds: &[],
        reset_hint: CounterResetHint::Unknown,
    }
}

impl Side {
    /// Merges each 2^`scale_down` buckets and tells the index of the first, as Prometheus counts them; `None` if
    /// indexes do not fit 32 bits.
    fn merge(&mut self, scale_down: u32) -> Option<i32> {
        let index = |at: usize| ((i64::from(self.offset) + at as i64) >> scale_down) + 1;
        let first = index(0);
        let mut merged = 0;
        for at in 0..self.counts.len() {
            let into = (index(at) - first) as usize;
            let count = self.counts[at];
            if into == merged && at > 0 {
                self.counts[into] = self.counts[into].saturating_add(count);
            } else {
                self.counts[into] = count;
                merged = into;
            }
        }
        if !self.counts.is_empty() {
            self.counts.truncate(merged + 1);
        }
        i32::try_from(first + self.counts.len() as i64).ok()?;
        i32::try_from(first).ok()
    }
}
