//! The dense columns: refs, times, values and start timestamps.

use super::bytes::{Reader, put_varint, put_zigzag};
use super::{RecordError, malformed};
use quorate_model::SeriesRef;

/// Zigzag of the difference to the ref before: one byte a sample while refs come in scrape order.
pub(super) fn put_refs(refs: &[SeriesRef], out: &mut Vec<u8>) {
    out.reserve(refs.len() + refs.len() / 8);
    let mut previous = 0i64;
    for reference in refs {
        let reference = i64::from(reference.0);
        put_zigzag(out, reference - previous);
        previous = reference;
    }
}

pub(super) fn take_refs(
    reader: &mut Reader<'_>,
    count: usize,
    out: &mut Vec<SeriesRef>,
) -> Result<(), RecordError> {
    if count > reader.rest().len() {
        return Err(malformed("more refs than bytes"));
    }
    out.reserve(count);
    let mut previous = 0i64;
    for _ in 0..count {
        previous = previous.wrapping_add(reader.zigzag()?);
        out.push(SeriesRef(u32::try_from(previous).map_err(|_| malformed("a ref is over 32 bits"))?));
    }
    Ok(())
}

/// Runs of equal times: zigzag of the difference to the run before, then the run's length.
pub(super) fn put_times(ts_ms: &[i64], base_ms: i64, out: &mut Vec<u8>) {
    let mut previous = base_ms;
    for run in ts_ms.chunk_by(|a, b| a == b) {
        put_zigzag(out, run[0].wrapping_sub(previous));
        put_varint(out, run.len() as u64);
        previous = run[0];
    }
}

/// `count` times; the caller has bounded `count` by the bytes of refs and values.
pub(super) fn take_times(
    reader: &mut Reader<'_>,
    count: usize,
    base_ms: i64,
    out: &mut Vec<i64>,
) -> Result<(), RecordError> {
    out.reserve(count);
    let mut time = base_ms;
    while out.len() < count {
        time = time.wrapping_add(reader.zigzag()?);
        let run = reader.varint()?;
        if run == 0 || run > (count - out.len()) as u64 {
            return Err(malformed("a run of times does not fit the samples"));
        }
        out.resize(out.len() + run as usize, time);
    }
    Ok(())
}

pub(super) fn put_values(values: &[f64], out: &mut Vec<u8>) {
    out.reserve(values.len() * 8);
    for value in values {
        out.extend_from_slice(&value.to_bits().to_le_bytes());
    }
}

pub(super) fn take_values(
    reader: &mut Reader<'_>,
    count: usize,
    out: &mut Vec<f64>,
) -> Result<(), RecordError> {
    let len = count.checked_mul(8).ok_or(malformed("more values than bytes"))?;
    let (values, _) = reader.take(len)?.as_chunks::<8>();
    out.extend(values.iter().map(|bits| f64::from_bits(u64::from_le_bytes(*bits))));
    Ok(())
}

/// Runs of neighbouring samples with one start: gap to the run before, length, zigzag difference of the start.
pub(super) fn put_starts(starts: &[(u32, i64)], base_ms: i64, out: &mut Vec<u8>) {
    let mut next_index = 0u32;
    let mut previous = base_ms;
    for run in starts.chunk_by(|a, b| a.1 == b.1 && a.0.checked_add(1) == Some(b.0)) {
        let (first, start_ms) = run[0];
        put_varint(out, u64::from(first.wrapping_sub(next_index)));
        put_varint(out, run.len() as u64);
        put_zigzag(out, start_ms.wrapping_sub(previous));
        next_index = first.wrapping_add(run.len() as u32);
        previous = start_ms;
    }
}

/// Reads to the end of the section; indexes are below `samples`.
pub(super) fn take_starts(
    reader: &mut Reader<'_>,
    samples: usize,
    base_ms: i64,
    out: &mut Vec<(u32, i64)>,
) -> Result<(), RecordError> {
    let mut index = 0u64;
    let mut start_ms = base_ms;
    while !reader.is_empty() {
        let gap = reader.varint()?;
        let run = reader.varint()?;
        start_ms = start_ms.wrapping_add(reader.zigzag()?);
        let first = index.checked_add(gap).ok_or(malformed("start times run past the samples"))?;
        index = first.checked_add(run).ok_or(malformed("start times run past the samples"))?;
        if run == 0 || index > samples as u64 {
            return Err(malformed("start times run past the samples"));
        }
        out.extend((first..index).map(|at| (at as u32, start_ms)));
    }
    Ok(())
}
