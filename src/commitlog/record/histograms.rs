//! The section of native histograms: one row a sample; a layout equal to the row before costs one bit.

use super::bytes::{Reader, put_varint, put_zigzag};
use super::{RecordError, malformed};
use quorate_model::{BucketCounts, CounterResetHint, Histogram, HistogramSample, SeriesRef, Span};

const HINT_MASK: u8 = 0b0000_0011;
const FLOAT: u8 = 0b0000_0100;
const SAME_LAYOUT: u8 = 0b0000_1000;
const HAS_START: u8 = 0b0001_0000;
const KNOWN_FLAGS: u8 = HINT_MASK | FLOAT | SAME_LAYOUT | HAS_START;
/// Flags, ref, time, sum and the four counts of the shortest row.
const MIN_ROW: usize = 1 + 1 + 1 + 8 + 4;
/// Most bytes of repeated layouts in one section: a row of 15 bytes must not copy a large one without end.
const MAX_COPIED_BYTES: usize = 64 << 20;

pub(super) fn put(samples: &[HistogramSample], base_ms: i64, out: &mut Vec<u8>) {
    put_varint(out, samples.len() as u64);
    let mut previous: Option<&HistogramSample> = None;
    let mut budget = MAX_COPIED_BYTES;
    for sample in samples {
        let histogram = &sample.histogram;
        // A layout that the reader would not copy any more is written again.
        let left = budget.checked_sub(layout_bytes(histogram));
        let same = left.is_some() && previous.is_some_and(|p| same_layout(&p.histogram, histogram));
        if let (true, Some(left)) = (same, left) {
            budget = left;
        }
        out.push(flags_of(sample, same));
        let (reference, ts_ms) = previous.map_or((0, base_ms), |p| (i64::from(p.reference.0), p.ts_ms));
        put_zigzag(out, i64::from(sample.reference.0) - reference);
        put_zigzag(out, sample.ts_ms.wrapping_sub(ts_ms));
        if sample.start_ms != 0 {
            put_zigzag(out, sample.ts_ms.wrapping_sub(sample.start_ms));
        }
        if !same {
            put_layout(histogram, out);
        }
        put_f64(out, histogram.sum);
        put_counts(&histogram.counts, out);
        previous = Some(sample);
    }
}

pub(super) fn take(
    reader: &mut Reader<'_>,
    base_ms: i64,
    out: &mut Vec<HistogramSample>,
) -> Result<(), RecordError> {
    let count = reader.count(MIN_ROW, "more histograms than bytes")?;
    out.reserve(count);
    let mut budget = MAX_COPIED_BYTES;
    for _ in 0..count {
        let sample = take_row(reader, base_ms, out.last(), &mut budget)?;
        out.push(sample);
    }
    Ok(())
}

fn take_row(
    reader: &mut Reader<'_>,
    base_ms: i64,
    previous: Option<&HistogramSample>,
    budget: &mut usize,
) -> Result<HistogramSample, RecordError> {
    let flags = reader.u8()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(malformed("a histogram has unknown flags"));
    }
    let (last_ref, last_ms) = previous.map_or((0, base_ms), |p| (i64::from(p.reference.0), p.ts_ms));
    let reference = last_ref.wrapping_add(reader.zigzag()?);
    let reference = u32::try_from(reference).map_err(|_| malformed("a ref is over 32 bits"))?;
    let ts_ms = last_ms.wrapping_add(reader.zigzag()?);
    let start_ms = if flags & HAS_START != 0 { ts_ms.wrapping_sub(reader.zigzag()?) } else { 0 };
    let mut histogram = if flags & SAME_LAYOUT != 0 {
        let model = previous.ok_or(malformed("the first histogram has no layout"))?;
        *budget = budget
            .checked_sub(layout_bytes(&model.histogram))
            .ok_or(malformed("layouts expand over their bound"))?;
        copy_layout(&model.histogram)
    } else {
        take_layout(reader)?
    };
    histogram.reset_hint = hint_of(flags);
    histogram.sum = reader.f64()?;
    histogram.counts = if flags & FLOAT != 0 { take_float(reader)? } else { take_integer(reader)? };
    Ok(HistogramSample { reference: SeriesRef(reference), ts_ms, start_ms, histogram })
}

fn flags_of(sample: &HistogramSample, same_layout: bool) -> u8 {
    let hint = match sample.histogram.reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NoReset => 2,
        CounterResetHint::Gauge => 3,
    };
    let is_float = matches!(sample.histogram.counts, BucketCounts::Float { .. });
    hint | if is_float { FLOAT } else { 0 }
        | if same_layout { SAME_LAYOUT } else { 0 }
        | if sample.start_ms != 0 { HAS_START } else { 0 }
}

fn hint_of(flags: u8) -> CounterResetHint {
    match flags & HINT_MASK {
        0 => CounterResetHint::Unknown,
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NoReset,
        _ => CounterResetHint::Gauge,
    }
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_values.iter().map(|v| v.to_bits()).eq(b.custom_values.iter().map(|v| v.to_bits()))
}

fn copy_layout(model: &Histogram) -> Histogram {
    Histogram {
        reset_hint: CounterResetHint::Unknown,
        schema: model.schema,
        zero_threshold: model.zero_threshold,
        sum: 0.0,
        positive_spans: model.positive_spans.clone(),
        negative_spans: model.negative_spans.clone(),
        custom_values: model.custom_values.clone(),
        counts: no_counts(),
    }
}

fn layout_bytes(model: &Histogram) -> usize {
    8 * (model.positive_spans.len() + model.negative_spans.len() + model.custom_values.len())
}

fn no_counts() -> BucketCounts {
    BucketCounts::Integer { count: 0, zero_count: 0, positive: Vec::new(), negative: Vec::new() }
}

fn put_layout(histogram: &Histogram, out: &mut Vec<u8>) {
    out.push(histogram.schema as u8);
    put_f64(out, histogram.zero_threshold);
    put_spans(&histogram.positive_spans, out);
    put_spans(&histogram.negative_spans, out);
    put_varint(out, histogram.custom_values.len() as u64);
    for value in &histogram.custom_values {
        put_f64(out, *value);
    }
}

fn take_layout(reader: &mut Reader<'_>) -> Result<Histogram, RecordError> {
    Ok(Histogram {
        reset_hint: CounterResetHint::Unknown,
        schema: reader.u8()? as i8,
        zero_threshold: reader.f64()?,
        sum: 0.0,
        positive_spans: take_spans(reader)?,
        negative_spans: take_spans(reader)?,
        custom_values: take_floats(reader)?,
        counts: no_counts(),
    })
}

fn put_spans(spans: &[Span], out: &mut Vec<u8>) {
    put_varint(out, spans.len() as u64);
    for span in spans {
        put_zigzag(out, i64::from(span.offset));
        put_varint(out, u64::from(span.length));
    }
}

fn take_spans(reader: &mut Reader<'_>) -> Result<Vec<Span>, RecordError> {
    let count = reader.count(2, "more spans than bytes")?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = i32::try_from(reader.zigzag()?).map_err(|_| malformed("a span is over 32 bits"))?;
        spans.push(Span { offset, length: reader.varint_u32()? });
    }
    Ok(spans)
}

fn put_counts(counts: &BucketCounts, out: &mut Vec<u8>) {
    match counts {
        BucketCounts::Integer { count, zero_count, positive, negative } => {
            put_varint(out, *count);
            put_varint(out, *zero_count);
            for side in [positive, negative] {
                put_varint(out, side.len() as u64);
                for delta in side {
                    put_zigzag(out, *delta);
                }
            }
        }
        BucketCounts::Float { count, zero_count, positive, negative } => {
            put_f64(out, *count);
            put_f64(out, *zero_count);
            for side in [positive, negative] {
                put_varint(out, side.len() as u64);
                for value in side {
                    put_f64(out, *value);
                }
            }
        }
    }
}

fn take_integer(reader: &mut Reader<'_>) -> Result<BucketCounts, RecordError> {
    Ok(BucketCounts::Integer {
        count: reader.varint()?,
        zero_count: reader.varint()?,
        positive: take_deltas(reader)?,
        negative: take_deltas(reader)?,
    })
}

fn take_float(reader: &mut Reader<'_>) -> Result<BucketCounts, RecordError> {
    Ok(BucketCounts::Float {
        count: reader.f64()?,
        zero_count: reader.f64()?,
        positive: take_floats(reader)?,
        negative: take_floats(reader)?,
    })
}

fn take_deltas(reader: &mut Reader<'_>) -> Result<Vec<i64>, RecordError> {
    let count = reader.count(1, "more buckets than bytes")?;
    (0..count).map(|_| reader.zigzag()).collect()
}

fn take_floats(reader: &mut Reader<'_>) -> Result<Vec<f64>, RecordError> {
    let count = reader.count(8, "more floats than bytes")?;
    (0..count).map(|_| reader.f64()).collect()
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}
