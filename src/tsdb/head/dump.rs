//! The head as bytes: the parts of an image, and back.
//!
//! Knows rows, open chunks, windows and side buffers. Does not know files, checksums or labels.
//! Path: `image` -> **here**. Format: `docs/formats/image.md`. The bytes hold samples, not the layout in memory:
//! a restored head may cut and share differently, and decides the same.

use super::open_chunk::OpenChunk;
use super::side::{SideSample, Value, push};
use super::stripe::Stripe;
use super::window::WindowStripe;
use quorate_chunk::{Chunk, ChunkError, Lane, MAX_SAMPLES, varint};
use quorate_model::{SeriesBuffer, TimeRange, is_stale};
use std::sync::Arc;

/// Appends the live rows and the unflushed windows of a stripe.
pub(crate) fn put_stripe(
    stripe: &Stripe,
    is_live: impl Fn(u32) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), ChunkError> {
    let rows: Vec<u32> = stripe.row_numbers().filter(|row| is_live(*row)).collect();
    varint::put(out, rows.len() as u64);
    for row in rows {
        let Some(found) = stripe.row(row) else { continue };
        varint::put(out, u64::from(row));
        found.open.put(out);
        let starts = stripe.starts(row).unwrap_or_default();
        varint::put(out, starts.len() as u64);
        for (index, start_ms) in starts {
            varint::put(out, u64::from(*index));
            varint::put_signed(out, *start_ms);
        }
    }
    varint::put(out, stripe.windows().len() as u64);
    stripe.windows().iter().try_for_each(|window| put_window(window, out))
}

/// Takes back what [`put_stripe`] wrote; `add_row` adds each row to the stripe. `None` if it does not decode.
pub(crate) fn take_stripe(
    rest: &mut &[u8],
    stripe: &mut Stripe,
    mut add_row: impl FnMut(&mut Stripe, u32) -> Option<()>,
) -> Option<()> {
    for _ in 0..varint::take(rest)? {
        let row = take_u32(rest)?;
        let open = OpenChunk::take(rest)?;
        let mut starts = Vec::new();
        for _ in 0..varint::take(rest)? {
            starts.push((u8::try_from(varint::take(rest)?).ok()?, varint::take_signed(rest)?));
        }
        add_row(stripe, row)?;
        stripe.restore_row(row, open, starts);
    }
    for _ in 0..varint::take(rest)? {
        let window = take_window(rest)?;
        let start_ms = window.start_ms();
        *stripe.window_mut(start_ms) = window;
    }
    Some(())
}

/// Appends one window of one stripe.
pub(crate) fn put_window(window: &WindowStripe, out: &mut Vec<u8>) -> Result<(), ChunkError> {
    varint::put_signed(out, window.start_ms());
    let rows = window.rows();
    varint::put(out, rows.len() as u64);
    for row in rows {
        varint::put(out, u64::from(row));
        let chunks = window.chunks(row);
        varint::put(out, chunks.len() as u64);
        for chunk in chunks {
            put_streams(out, chunk.lane, chunk.count, [chunk.times, chunk.values, chunk.starts]);
        }
        let mut chunks = Vec::new();
        if let Some(side) = window.side(row) {
            let mut samples = SeriesBuffer::default();
            side.for_each(|ts, sample| push(&mut samples, ts, sample));
            quorate_chunk::cut_buffer(&samples, MAX_SAMPLES, &mut chunks)?;
        }
        varint::put(out, chunks.len() as u64);
        for c in chunks {
            put_streams(out, c.lane, c.count, [&c.times, &c.values, &c.starts]);
        }
    }
    Ok(())
}

/// Takes back what [`put_window`] wrote. `None` if it does not decode.
pub(crate) fn take_window(rest: &mut &[u8]) -> Option<WindowStripe> {
    let mut window = WindowStripe::new(varint::take_signed(rest)?);
    for _ in 0..varint::take(rest)? {
        let row = take_u32(rest)?;
        for _ in 0..varint::take(rest)? {
            let (chunk, _) = take_chunk(rest)?;
            window.push_chunk(row, &chunk);
        }
        for _ in 0..varint::take(rest)? {
            let (_, samples) = take_chunk(rest)?;
            push_back(&mut window, row, &samples)?;
        }
    }
    Some(window)
}

fn push_back(window: &mut WindowStripe, row: u32, samples: &SeriesBuffer) -> Option<()> {
    let start = |column: &[i64], at: usize| column.get(at).copied().unwrap_or_default();
    for (at, (ts, value)) in samples.ts_ms.iter().zip(&samples.values).enumerate() {
        let value = Value::Float(value.to_bits());
        let sample = SideSample { start_ms: start(&samples.start_ms, at), value };
        window.push_side(row, *ts, sample).ok()?;
    }
    for (at, (ts, histogram)) in samples.histogram_ts_ms.iter().zip(&samples.histograms).enumerate() {
        let value = Value::Histogram(Arc::clone(histogram));
        let sample = SideSample { start_ms: start(&samples.histogram_start_ms, at), value };
        window.push_side(row, *ts, sample).ok()?;
    }
    Some(())
}

fn put_streams(out: &mut Vec<u8>, lane: Lane, count: u32, streams: [&[u8]; 3]) {
    out.push(lane as u8);
    varint::put(out, u64::from(count));
    streams.iter().for_each(|stream| varint::put(out, stream.len() as u64));
    streams.iter().for_each(|stream| out.extend_from_slice(stream));
}

fn take_chunk(rest: &mut &[u8]) -> Option<(Chunk, SeriesBuffer)> {
    let (lane, tail) = rest.split_first()?;
    *rest = tail;
    let count = take_u32(rest)?;
    let mut lens = [0; 3];
    for len in &mut lens {
        let limit = rest.len();
        *len = varint::take_len(rest, limit)?;
    }
    let mut stream = |len| varint::take_bytes(rest, len).map(<[u8]>::to_vec);
    let mut chunk = Chunk {
        lane: Lane::from_number(*lane)?,
        count,
        min_ts_ms: 0,
        max_ts_ms: 0,
        has_stale: false,
        times: stream(lens[0])?,
        values: stream(lens[1])?,
        starts: stream(lens[2])?,
    };
    let mut samples = SeriesBuffer::default();
    chunk.read(TimeRange::ALL, &mut samples).ok()?;
    let times = if chunk.lane == Lane::Float { &samples.ts_ms } else { &samples.histogram_ts_ms };
    (chunk.min_ts_ms, chunk.max_ts_ms) = (*times.first()?, *times.last()?);
    chunk.has_stale = samples.values.iter().any(|value| is_stale(*value))
        || samples.histograms.iter().any(|histogram| histogram.is_stale());
    Some((chunk, samples))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint::take(rest)?).ok()
}
