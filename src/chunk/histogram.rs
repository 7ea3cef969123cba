//! Native histograms of one chunk: layouts once, then a column for each count.
//!
//! A layout is what samples usually share: schema, zero threshold, spans, custom bounds, and whether the
//! counts are integers. Sums, total counts and zero counts stand before the buckets.
//! Form: `version u8` = 1; layouts; runs of samples of one layout; runs of reset hints; the column of sums;
//! then for each layout its columns: count, zero count, positive and negative buckets, all absolute. Integer
//! columns as in `ints.rs`, float columns as length varint and [`crate::values`]. See
//! `docs/formats/chunk.md`.

use crate::ints::{self, Scratch};
use crate::{ChunkError, check_len, values, varint};
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Span};
use std::borrow::Borrow;
use std::sync::Arc;

const VERSION: u8 = 1;
const STREAM: &str = "histogram";
const FLOAT: u8 = 1;

/// Most cells of one chunk: every sample takes one for its total, its zero count, each bucket, span and custom
/// bound, since a decoded sample holds them all, however few bytes its layout takes.
pub const MAX_CELLS: usize = 1 << 22;

/// What samples of one run share.
#[derive(Debug, Clone)]
struct Layout {
    float: bool,
    schema: i8,
    zero_threshold: u64,
    positive_spans: Vec<Span>,
    negative_spans: Vec<Span>,
    custom_values: Vec<u64>,
    positive: usize,
    negative: usize,
}

impl Layout {
    fn of(histogram: &Histogram) -> Self {
        let (float, positive, negative) = shape(&histogram.counts);
        Self {
            float,
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold.to_bits(),
            positive_spans: histogram.positive_spans.clone(),
            negative_spans: histogram.negative_spans.clone(),
            custom_values: histogram.custom_values.iter().map(|bound| bound.to_bits()).collect(),
            positive,
            negative,
        }
    }

    fn covers(&self, histogram: &Histogram) -> bool {
        self.schema == histogram.schema
            && self.zero_threshold == histogram.zero_threshold.to_bits()
            && (self.float, self.positive, self.negative) == shape(&histogram.counts)
            && self.positive_spans == histogram.positive_spans
            && self.negative_spans == histogram.negative_spans
            && self.custom_values.len() == histogram.custom_values.len()
            && self.custom_values.iter().zip(&histogram.custom_values).all(|(a, b)| *a == b.to_bits())
    }

    /// Columns of counts: total, zero and buckets.
    fn columns(&self) -> usize {
        2 + self.positive + self.negative
    }

    /// What a sample of this layout takes once decoded.
    fn cells(&self) -> usize {
        self.columns() + self.positive_spans.len() + self.negative_spans.len() + self.custom_values.len()
    }

    /// Readers walk the spans to find a bucket's bounds, and rely on both having the same length.
    fn check_spans(&self) -> Result<(), ChunkError> {
        for (spans, buckets) in [(&self.positive_spans, self.positive), (&self.negative_spans, self.negative)]
        {
            let described: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
            if described != buckets as u64 {
                return Err(ChunkError::Spans { described, buckets });
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(if self.float { FLOAT } else { 0 });
        out.push(self.schema as u8);
        out.extend_from_slice(&self.zero_threshold.to_le_bytes());
        for spans in [&self.positive_spans, &self.negative_spans] {
            varint::put(out, spans.len() as u64);
            for span in spans {
                varint::put_signed(out, i64::from(span.offset));
                varint::put(out, u64::from(span.length));
            }
        }
        varint::put(out, self.custom_values.len() as u64);
        for bound in &self.custom_values {
            out.extend_from_slice(&bound.to_le_bytes());
        }
        varint::put(out, self.positive as u64);
        varint::put(out, self.negative as u64);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let [kind, schema] = *varint::take_bytes(rest, 2)?.first_chunk::<2>()?;
        let zero_threshold = varint::take_u64_le(rest)?;
        let positive_spans = take_spans(rest)?;
        let negative_spans = take_spans(rest)?;
        let bounds = varint::take_len(rest, rest.len() / 8)?;
        let custom_values = (0..bounds).map(|_| varint::take_u64_le(rest)).collect::<Option<_>>()?;
        let positive = varint::take_len(rest, MAX_CELLS)?;
        let negative = varint::take_len(rest, MAX_CELLS)?;
        (kind <= FLOAT).then_some(Self {
            float: kind == FLOAT,
            schema: schema as i8,
            zero_threshold,
            positive_spans,
            negative_spans,
            custom_values,
            positive,
            negative,
        })
    }

    /// A sample of this layout from its row of cells.
    fn histogram(&self, cells: &[u64], sum: f64, reset_hint: CounterResetHint) -> Histogram {
        let (head, buckets) = cells.split_at(2);
        let (positive, negative) = buckets.split_at(self.positive);
        let counts = if self.float {
            let floats = |cells: &[u64]| cells.iter().map(|bits| f64::from_bits(*bits)).collect();
            BucketCounts::Float {
                count: f64::from_bits(head[0]),
                zero_count: f64::from_bits(head[1]),
                positive: floats(positive),
                negative: floats(negative),
            }
        } else {
            BucketCounts::Integer {
                count: head[0],
                zero_count: head[1],
                positive: to_deltas(positive),
                negative: to_deltas(negative),
            }
        };
        Histogram {
            reset_hint,
            schema: self.schema,
            zero_threshold: f64::from_bits(self.zero_threshold),
            sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            custom_values: self.custom_values.iter().map(|bits| f64::from_bits(*bits)).collect(),
            counts,
        }
    }
}

fn take_spans(rest: &mut &[u8]) -> Option<Vec<Span>> {
    let count = varint::take_len(rest, rest.len() / 2)?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = i32::try_from(varint::take_signed(rest)?).ok()?;
        let length = u32::try_from(varint::take(rest)?).ok()?;
        spans.push(Span { offset, length });
    }
    Some(spans)
}

/// Whether the counts are floats, and the numbers of positive and negative buckets.
fn shape(counts: &BucketCounts) -> (bool, usize, usize) {
    match counts {
        BucketCounts::Integer { positive, negative, .. } => (false, positive.len(), negative.len()),
        BucketCounts::Float { positive, negative, .. } => (true, positive.len(), negative.len()),
    }
}

fn to_deltas(absolute: &[u64]) -> Vec<i64> {
    let mut last = 0u64;
    let delta = |count: &u64| {
        let delta = count.wrapping_sub(last) as i64;
        last = *count;
        delta
    };
    absolute.iter().map(delta).collect()
}

/// Appends the counts of one sample as cells: total, zero, positive, negative, all absolute.
fn push_cells(counts: &BucketCounts, cells: &mut Vec<u64>) {
    match counts {
        BucketCounts::Integer { count, zero_count, positive, negative } => {
            cells.extend([*count, *zero_count]);
            for deltas in [positive, negative] {
                let mut last = 0u64;
                cells.extend(deltas.iter().map(|delta| {
                    last = last.wrapping_add(*delta as u64);
                    last
                }));
            }
        }
        BucketCounts::Float { count, zero_count, positive, negative } => {
            cells.extend([count.to_bits(), zero_count.to_bits()]);
            cells.extend(positive.iter().chain(negative).map(|count| count.to_bits()));
        }
    }
}

fn hint_number(hint: CounterResetHint) -> u64 {
    match hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NoReset => 2,
        CounterResetHint::Gauge => 3,
    }
}

fn hint_of(number: u64) -> CounterResetHint {
    match number & 3 {
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NoReset,
        3 => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    }
}

/// Appends the stream of `histograms`, 1 to [`crate::MAX_SAMPLES`] of them.
///
/// # Errors
/// [`ChunkError::Length`]; [`ChunkError::Spans`]; [`ChunkError::TooManyCells`] if a chunk cannot hold so many
/// buckets: cut it into smaller ones.
pub fn encode<H: Borrow<Histogram>>(histograms: &[H], out: &mut Vec<u8>) -> Result<(), ChunkError> {
    check_len(histograms.len())?;
    let (layouts, runs) = layouts_of(histograms);
    layouts.iter().try_for_each(Layout::check_spans)?;
    check_cells(&layouts, &samples_of(&layouts, &runs))?;
    out.push(VERSION);
    varint::put(out, layouts.len() as u64);
    layouts.iter().for_each(|layout| layout.write(out));
    for (layout, length) in &runs {
        varint::put(out, *layout as u64);
        varint::put(out, *length as u64);
    }
    write_hints(histograms, out);
    let sums: Vec<f64> = histograms.iter().map(|h| h.borrow().sum).collect();
    write_floats(&sums, out);
    for (number, layout) in layouts.iter().enumerate() {
        write_columns(layout, number, &runs, histograms, out);
    }
    Ok(())
}

/// The distinct layouts, and the runs of samples as (layout, length).
fn layouts_of<H: Borrow<Histogram>>(histograms: &[H]) -> (Vec<Layout>, Vec<(usize, usize)>) {
    let mut layouts: Vec<Layout> = Vec::new();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for histogram in histograms {
        let histogram = histogram.borrow();
        if let Some((layout, length)) = runs.last_mut()
            && layouts[*layout].covers(histogram)
        {
            *length += 1;
            continue;
        }
        let known = layouts.iter().position(|layout| layout.covers(histogram));
        let number = known.unwrap_or_else(|| {
            layouts.push(Layout::of(histogram));
            layouts.len() - 1
        });
        runs.push((number, 1));
    }
    (layouts, runs)
}

fn write_hints<H: Borrow<Histogram>>(histograms: &[H], out: &mut Vec<u8>) {
    for run in histograms.chunk_by(|a, b| a.borrow().reset_hint == b.borrow().reset_hint) {
        varint::put(out, (run.len() as u64) << 2 | hint_number(run[0].borrow().reset_hint));
    }
}

fn write_floats(column: &[f64], out: &mut Vec<u8>) {
    let mut stream = Vec::with_capacity(column.len());
    values::encode(column, &mut stream);
    varint::put(out, stream.len() as u64);
    out.extend_from_slice(&stream);
}

fn write_columns<H: Borrow<Histogram>>(
    layout: &Layout,
    number: usize,
    runs: &[(usize, usize)],
    histograms: &[H],
    out: &mut Vec<u8>,
) {
    let mut cells = Vec::new();
    let mut from = 0;
    for (of, length) in runs {
        if *of == number {
            histograms[from..from + length].iter().for_each(|h| push_cells(&h.borrow().counts, &mut cells));
        }
        from += length;
    }
    let width = layout.columns();
    let mut scratch = Scratch::default();
    for column in 0..width {
        let column = cells[column..].iter().step_by(width);
        if layout.float {
            let floats: Vec<f64> = column.map(|bits| f64::from_bits(*bits)).collect();
            write_floats(&floats, out);
        } else {
            let counts: Vec<i64> = column.map(|count| *count as i64).collect();
            ints::encode(&counts, &mut scratch, out);
        }
    }
}

/// Appends the `count` histograms of a stream to `out`.
///
/// # Errors
/// [`ChunkError`] if `stream` is not one of `count` samples; `out` is then as before.
pub fn decode(stream: &[u8], count: u32, out: &mut Vec<Arc<Histogram>>) -> Result<(), ChunkError> {
    let count = count as usize;
    check_len(count)?;
    let (version, mut rest) = stream.split_first().ok_or(ChunkError::short(STREAM))?;
    if *version != VERSION {
        return Err(ChunkError::UnknownCodec { stream: STREAM, codec: *version });
    }
    let rest = &mut rest;
    let layouts = take_layouts(rest, count).ok_or(ChunkError::damaged(STREAM, "its layouts"))?;
    let runs = take_runs(rest, count, layouts.len()).ok_or(ChunkError::damaged(STREAM, "its runs"))?;
    let hints = take_hints(rest, count).ok_or(ChunkError::damaged(STREAM, "its reset hints"))?;
    layouts.iter().try_for_each(Layout::check_spans)?;
    let samples = samples_of(&layouts, &runs);
    check_cells(&layouts, &samples)?;
    let mut sums = Vec::new();
    take_floats(rest, count, &mut sums)?;
    let mut cells = Vec::with_capacity(layouts.len());
    for (layout, samples) in layouts.iter().zip(&samples) {
        cells.push(take_cells(rest, layout, *samples)?);
    }
    if !rest.is_empty() {
        return Err(ChunkError::damaged(STREAM, "bytes behind its end"));
    }
    let mut next = vec![0usize; layouts.len()];
    let order = runs.iter().flat_map(|(layout, length)| std::iter::repeat_n(*layout, *length));
    out.extend(order.zip(sums).zip(hints).map(|((number, sum), hint)| {
        let (layout, at) = (&layouts[number], &mut next[number]);
        let row = &cells[number][*at..*at + layout.columns()];
        *at += layout.columns();
        Arc::new(layout.histogram(row, sum, hint))
    }));
    Ok(())
}

/// How many samples each layout has.
fn samples_of(layouts: &[Layout], runs: &[(usize, usize)]) -> Vec<usize> {
    let mut samples = vec![0; layouts.len()];
    for (layout, length) in runs {
        samples[*layout] += length;
    }
    samples
}

/// Checks what the decoded samples take before anything is allocated for them (E4).
fn check_cells(layouts: &[Layout], samples: &[usize]) -> Result<(), ChunkError> {
    let cells = layouts
        .iter()
        .zip(samples)
        .fold(0usize, |sum, (layout, samples)| sum.saturating_add(layout.cells().saturating_mul(*samples)));
    if cells > MAX_CELLS {
        return Err(ChunkError::TooManyCells { cells, limit: MAX_CELLS });
    }
    Ok(())
}

fn take_layouts(rest: &mut &[u8], count: usize) -> Option<Vec<Layout>> {
    let layouts = varint::take_len(rest, count)?;
    (0..layouts).map(|_| Layout::take(rest)).collect()
}

fn take_runs(rest: &mut &[u8], count: usize, layouts: usize) -> Option<Vec<(usize, usize)>> {
    let mut runs = Vec::new();
    let mut left = count;
    while left > 0 {
        let layout = varint::take_len(rest, layouts.checked_sub(1)?)?;
        let length = varint::take_len(rest, left).filter(|length| *length > 0)?;
        runs.push((layout, length));
        left -= length;
    }
    Some(runs)
}

fn take_hints(rest: &mut &[u8], count: usize) -> Option<Vec<CounterResetHint>> {
    let mut hints = Vec::with_capacity(count);
    while hints.len() < count {
        let run = varint::take(rest)?;
        let length = usize::try_from(run >> 2).ok().filter(|n| *n > 0 && *n <= count - hints.len())?;
        hints.resize(hints.len() + length, hint_of(run));
    }
    Some(hints)
}

fn take_floats(rest: &mut &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let stream = varint::take_len(rest, rest.len()).and_then(|length| varint::take_bytes(rest, length));
    values::decode(stream.ok_or(ChunkError::short(STREAM))?, count as u32, out)
}

/// The cells of one layout, sample after sample.
fn take_cells(rest: &mut &[u8], layout: &Layout, samples: usize) -> Result<Vec<u64>, ChunkError> {
    // Each column takes at least two bytes.
    let width = layout.columns();
    if samples == 0 || width > rest.len() {
        return Err(ChunkError::short(STREAM));
    }
    let mut cells = vec![0u64; width * samples];
    let mut floats = Vec::new();
    for column in 0..width {
        let mut at = column;
        if layout.float {
            floats.clear();
            take_floats(rest, samples, &mut floats)?;
            for value in &floats {
                cells[at] = value.to_bits();
                at += width;
            }
        } else {
            ints::decode(rest, samples, |run| {
                for value in run {
                    cells[at] = *value as u64;
                    at += width;
                }
            })?;
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests;
