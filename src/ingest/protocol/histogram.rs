//! Native histograms of both protocols, read and checked.
//!
//! Source: Prometheus, remote write `Histogram` message and `histogram.Validate`; the checks keep out what
//! queries would misread.

use super::request::{ParsedHistogram, ParsedRequest};
use super::wire::{Cursor, FIXED64, LEN, VARINT, expect};
use super::{BodyError, malformed};
use quorate_model::histogram::{CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMAS};
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Span};

/// Most buckets of a sample, whatever the tenant's limit.
pub(crate) const MAX_BUCKETS: usize = 65_536;

/// Why a histogram sample is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistogramFault {
    /// Not -4 to 8, nor -53 where custom buckets are allowed.
    #[error("the schema {schema} is not supported")]
    Schema {
        /// The schema.
        schema: i64,
    },
    /// Integer and float counts in one sample.
    #[error("integer and float counts are mixed")]
    MixedCounts,
    /// A bucket, the zero bucket or the total is negative.
    #[error("a bucket or the count is negative")]
    NegativeCount,
    /// The spans do not describe as many buckets as there are.
    #[error("the spans describe {described} buckets, the sample has {buckets}")]
    SpanMismatch {
        /// By the spans.
        described: u64,
        /// In the sample.
        buckets: u64,
    },
    /// A gap after the first span is negative.
    #[error("a span has a negative offset")]
    NegativeOffset,
    /// A bucket index does not fit 32 bits.
    #[error("the spans overflow")]
    SpanOverflow,
    /// More buckets than any tenant may send.
    #[error("the sample has {buckets} buckets, over the bound of {MAX_BUCKETS}")]
    TooManyBuckets {
        /// In the sample.
        buckets: u64,
    },
    /// The buckets do not add up to the count.
    #[error("the buckets add up to {sum}, the count is {count}")]
    CountMismatch {
        /// Of all buckets.
        sum: u64,
        /// As told.
        count: u64,
    },
    /// Bounds of custom buckets that do not increase, are not finite, or do not fit the buckets.
    #[error("the custom bounds are invalid")]
    CustomBounds,
    /// Custom bounds with an exponential schema, or a zero or negative bucket with custom bounds.
    #[error("fields of exponential and custom buckets are mixed")]
    MixedSchemas,
}

impl HistogramFault {
    /// The stable id.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Schema { .. } => "err-mimir-invalid-native-histogram-schema",
            Self::NegativeCount => "err-mimir-native-histogram-negative-bucket-count",
            Self::SpanMismatch { .. } => "err-mimir-native-histogram-spans-buckets-mismatch",
            Self::NegativeOffset | Self::SpanOverflow => "err-mimir-native-histogram-span-negative-offset",
            Self::TooManyBuckets { .. } => "err-mimir-max-native-histogram-buckets",
            Self::CountMismatch { .. } | Self::MixedCounts => "err-mimir-native-histogram-count-mismatch",
            Self::CustomBounds => "err-mimir-native-histogram-custom-buckets-invalid",
            Self::MixedSchemas => "err-mimir-native-histogram-custom-buckets-mismatch",
        }
    }
}

/// A repeated number. What is over the bound of a sample is counted and not kept.
#[derive(Default)]
struct Numbers<T> {
    kept: Vec<T>,
    count: u64,
}

impl<T> Numbers<T> {
    fn push(&mut self, number: T) {
        self.count += 1;
        if self.kept.len() < MAX_BUCKETS {
            self.kept.push(number);
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    has_wide_span: bool,
    deltas: Numbers<i64>,
    counts: Numbers<f64>,
}

#[derive(Default)]
struct Raw {
    count_int: Option<u64>,
    count_float: Option<f64>,
    zero_int: Option<u64>,
    zero_float: Option<f64>,
    sum: f64,
    schema: i64,
    zero_threshold: f64,
    positive: Side,
    negative: Side,
    reset_hint: u64,
    ts_ms: i64,
    start_ms: i64,
    custom_values: Numbers<f64>,
}

/// Reads the histogram message in `range` into `out`; `has_start` if field 17 is the start timestamp (2.0).
pub(super) fn read(
    cursor: &Cursor<'_>,
    range: (usize, usize),
    has_start: bool,
    out: &mut ParsedRequest,
) -> Result<(), BodyError> {
    let mut c = cursor.within(range);
    let mut raw = Raw::default();
    while !c.is_at_end() {
        let (field, wire) = c.tag()?;
        match field {
            1 => raw.count_int = Some(varint(&mut c, wire)?),
            2 => raw.count_float = Some(double(&mut c, wire)?),
            3 => raw.sum = double(&mut c, wire)?,
            4 => raw.schema = zigzag(&mut c, wire)?,
            5 => raw.zero_threshold = double(&mut c, wire)?,
            6 => raw.zero_int = Some(varint(&mut c, wire)?),
            7 => raw.zero_float = Some(double(&mut c, wire)?),
            8 => span(&mut c, wire, &mut raw.negative)?,
            9 => packed(&mut c, wire, VARINT, &mut raw.negative.deltas, Cursor::zigzag)?,
            10 => packed(&mut c, wire, FIXED64, &mut raw.negative.counts, Cursor::double)?,
            11 => span(&mut c, wire, &mut raw.positive)?,
            12 => packed(&mut c, wire, VARINT, &mut raw.positive.deltas, Cursor::zigzag)?,
            13 => packed(&mut c, wire, FIXED64, &mut raw.positive.counts, Cursor::double)?,
            14 => raw.reset_hint = varint(&mut c, wire)?,
            15 => raw.ts_ms = varint(&mut c, wire)? as i64,
            16 => packed(&mut c, wire, FIXED64, &mut raw.custom_values, Cursor::double)?,
            17 if has_start => raw.start_ms = varint(&mut c, wire)? as i64,
            _ => c.skip(field, wire)?,
        }
    }
    let read = ParsedHistogram { ts_ms: raw.ts_ms, start_ms: raw.start_ms, value: raw.check() };
    out.memory.charge(size_of::<ParsedHistogram>() + read.value.as_ref().map_or(0, heap_bytes))?;
    out.histograms.push(read);
    Ok(())
}

/// Bytes of the lists of a histogram.
fn heap_bytes(histogram: &Histogram) -> usize {
    let spans = histogram.positive_spans.capacity() + histogram.negative_spans.capacity();
    let buckets = match &histogram.counts {
        BucketCounts::Integer { positive, negative, .. } => positive.capacity() + negative.capacity(),
        BucketCounts::Float { positive, negative, .. } => positive.capacity() + negative.capacity(),
    };
    size_of::<Span>() * spans + size_of::<f64>() * (buckets + histogram.custom_values.capacity())
}

fn varint(c: &mut Cursor<'_>, wire: u8) -> Result<u64, BodyError> {
    expect(wire, VARINT)?;
    c.varint()
}

fn zigzag(c: &mut Cursor<'_>, wire: u8) -> Result<i64, BodyError> {
    expect(wire, VARINT)?;
    c.zigzag()
}

fn double(c: &mut Cursor<'_>, wire: u8) -> Result<f64, BodyError> {
    expect(wire, FIXED64)?;
    c.double()
}

/// A repeated scalar, packed or not.
fn packed<'a, T>(
    c: &mut Cursor<'a>,
    wire: u8,
    single: u8,
    out: &mut Numbers<T>,
    read: impl Fn(&mut Cursor<'a>) -> Result<T, BodyError>,
) -> Result<(), BodyError> {
    if wire == single {
        out.push(read(c)?);
        return Ok(());
    }
    expect(wire, LEN)?;
    let range = c.range()?;
    let mut inner = c.within(range);
    while !inner.is_at_end() {
        out.push(read(&mut inner)?);
    }
    Ok(())
}

fn span(c: &mut Cursor<'_>, wire: u8, side: &mut Side) -> Result<(), BodyError> {
    expect(wire, LEN)?;
    let range = c.range()?;
    let mut inner = c.within(range);
    let (mut offset, mut length) = (0i64, 0u64);
    while !inner.is_at_end() {
        match inner.tag()? {
            (1, wire) => offset = zigzag(&mut inner, wire)?,
            (2, wire) => length = varint(&mut inner, wire)?,
            (field, wire) => inner.skip(field, wire)?,
        }
    }
    match (i32::try_from(offset), u32::try_from(length)) {
        (Ok(offset), Ok(length)) => side.spans.push(Span { offset, length }),
        _ => side.has_wide_span = true,
    }
    if side.spans.len() > MAX_BUCKETS {
        return Err(malformed("a histogram has too many spans"));
    }
    Ok(())
}

impl Raw {
    fn check(mut self) -> Result<Histogram, HistogramFault> {
        let is_float = self.count_float.is_some() || self.zero_float.is_some();
        let is_integer = self.count_int.is_some() || self.zero_int.is_some();
        if is_float && is_integer {
            return Err(HistogramFault::MixedCounts);
        }
        let sides = [&self.positive, &self.negative];
        let has_floats = sides.iter().any(|s| !s.counts.is_empty());
        let has_deltas = sides.iter().any(|s| !s.deltas.is_empty());
        if (is_float && has_deltas) || (!is_float && has_floats) {
            return Err(HistogramFault::MixedCounts);
        }
        for side in sides {
            side.check_spans(if is_float { side.counts.count } else { side.deltas.count })?;
        }
        self.check_schema()?;
        let counts = if is_float { self.float_counts()? } else { self.integer_counts()? };
        Ok(Histogram {
            reset_hint: match self.reset_hint {
                1 => CounterResetHint::Reset,
                2 => CounterResetHint::NoReset,
                3 => CounterResetHint::Gauge,
                _ => CounterResetHint::Unknown,
            },
            schema: self.schema as i8,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            positive_spans: self.positive.spans,
            negative_spans: self.negative.spans,
            custom_values: self.custom_values.kept,
            counts,
        })
    }

    fn check_schema(&self) -> Result<(), HistogramFault> {
        if self.schema == i64::from(CUSTOM_BUCKETS_SCHEMA) {
            return self.check_custom();
        }
        if !i8::try_from(self.schema).is_ok_and(|s| EXPONENTIAL_SCHEMAS.contains(&s)) {
            return Err(HistogramFault::Schema { schema: self.schema });
        }
        if self.custom_values.is_empty() { Ok(()) } else { Err(HistogramFault::MixedSchemas) }
    }

    fn check_custom(&self) -> Result<(), HistogramFault> {
        let has_zero = self.zero_int.is_some_and(|n| n > 0) || self.zero_float.is_some_and(|n| n != 0.0);
        let has_negative = !(self.negative.spans.is_empty()
            && self.negative.deltas.is_empty()
            && self.negative.counts.is_empty());
        if has_zero || has_negative || self.zero_threshold != 0.0 {
            return Err(HistogramFault::MixedSchemas);
        }
        let bounds = &self.custom_values;
        if bounds.count > bounds.kept.len() as u64 {
            return Err(HistogramFault::TooManyBuckets { buckets: bounds.count });
        }
        let increase = bounds.kept.is_sorted_by(|a, b| a < b);
        let are_finite = bounds.kept.iter().all(|v| v.is_finite());
        let last = self.positive.last_index();
        if !increase || !are_finite || last > bounds.kept.len() as i64 || self.positive.starts_below_zero() {
            return Err(HistogramFault::CustomBounds);
        }
        Ok(())
    }

    fn integer_counts(&mut self) -> Result<BucketCounts, HistogramFault> {
        let count = self.count_int.unwrap_or(0);
        let zero_count = self.zero_int.unwrap_or(0);
        let mut sum = u128::from(zero_count);
        for side in [&self.positive, &self.negative] {
            let mut bucket = 0i64;
            for delta in &side.deltas.kept {
                bucket = bucket.checked_add(*delta).ok_or(HistogramFault::SpanOverflow)?;
                sum += u128::try_from(bucket).map_err(|_| HistogramFault::NegativeCount)?;
            }
        }
        // Observations of NaN count, but fall in no bucket.
        let is_wrong = if self.sum.is_nan() { sum > u128::from(count) } else { sum != u128::from(count) };
        if is_wrong {
            return Err(HistogramFault::CountMismatch { sum: u64::try_from(sum).unwrap_or(u64::MAX), count });
        }
        let [positive, negative] =
            [&mut self.positive, &mut self.negative].map(|side| std::mem::take(&mut side.deltas.kept));
        Ok(BucketCounts::Integer { count, zero_count, positive, negative })
    }

    fn float_counts(&mut self) -> Result<BucketCounts, HistogramFault> {
        let count = self.count_float.unwrap_or(0.0);
        let zero_count = self.zero_float.unwrap_or(0.0);
        let buckets = self.positive.counts.kept.iter().chain(&self.negative.counts.kept);
        if buckets.chain([&count, &zero_count]).any(|n| *n < 0.0) {
            return Err(HistogramFault::NegativeCount);
        }
        let [positive, negative] =
            [&mut self.positive, &mut self.negative].map(|side| std::mem::take(&mut side.counts.kept));
        Ok(BucketCounts::Float { count, zero_count, positive, negative })
    }
}

impl Side {
    fn check_spans(&self, buckets: u64) -> Result<(), HistogramFault> {
        if self.has_wide_span {
            return Err(HistogramFault::SpanOverflow);
        }
        if buckets > MAX_BUCKETS as u64 {
            return Err(HistogramFault::TooManyBuckets { buckets });
        }
        let described: u64 = self.spans.iter().map(|s| u64::from(s.length)).sum();
        if described > MAX_BUCKETS as u64 {
            return Err(HistogramFault::TooManyBuckets { buckets: described });
        }
        if self.spans.iter().skip(1).any(|s| s.offset < 0) {
            return Err(HistogramFault::NegativeOffset);
        }
        if i32::try_from(self.last_index()).is_err() {
            return Err(HistogramFault::SpanOverflow);
        }
        if described != buckets {
            return Err(HistogramFault::SpanMismatch { described, buckets });
        }
        Ok(())
    }

    /// Index of the last bucket, -1 if there is none. Cannot overflow: at most 65,536 spans of 32 bits.
    fn last_index(&self) -> i64 {
        self.spans.iter().map(|s| i64::from(s.offset) + i64::from(s.length)).sum::<i64>() - 1
    }

    fn starts_below_zero(&self) -> bool {
        self.spans.first().is_some_and(|s| s.offset < 0)
    }
}
