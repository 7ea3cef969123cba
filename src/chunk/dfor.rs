//! Float values as exact decimal integers, packed as an integer column, with a list of exceptions.
//!
//! A value `v` fits exponent `e` if an integer `m` below 2^53 gives back its bits as `m / 10^e`. The stream
//! takes one exponent; values that do not fit (stale markers, NaN, infinities, -0.0, long fractions) repeat
//! the integer before them and stand in the list.
//! Form: `exponent u8` (bit 7: there are exceptions), integer column, then `count` varint and for each
//! exception `(positions since the last) * 4 + kind` varint, followed by 8 bytes for kind 0. Kinds: 0 raw,
//! 1 stale marker, 2 same bits as the exception before, 3 the quiet NaN that Go writes.

use crate::ints;
use crate::{ChunkError, varint};
use quorate_model::STALE_NAN_BITS;

const HAS_EXCEPTIONS: u8 = 0x80;
const STREAM: &str = "decimal";
const MAX_EXPONENT: usize = 18;
const MANTISSA_LIMIT: f64 = 9_007_199_254_740_992.0;
const GO_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;
/// Values looked at before a stream of long fractions is given up.
const PROBE: usize = 8;
/// Fractions of more than 15 digits are not decimals that somebody wrote; their integers save nothing.
const FRACTION_LIMIT: f64 = 1e15;

const POW10: [f64; MAX_EXPONENT + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// Working memory of the encoder.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    mantissas: Vec<i64>,
    exceptions: Vec<(u32, u64)>,
    ints: ints::Scratch,
}

/// A form that fits, its size known before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    exponent: usize,
    ints: ints::Choice,
    pub(crate) size: usize,
}

enum Fit {
    Exact(i64),
    /// No larger exponent will fit either.
    Never,
    NotYet,
}

#[inline]
fn fit(value: f64, exponent: usize) -> Fit {
    let scaled = value * POW10[exponent];
    let size = scaled.abs();
    // NaN and infinities fail this comparison as well.
    let limit = if exponent == 0 { MANTISSA_LIMIT } else { FRACTION_LIMIT };
    if size.partial_cmp(&limit) != Some(std::cmp::Ordering::Less) {
        return Fit::Never;
    }
    let half = if size < MANTISSA_LIMIT / 2.0 { 0.5f64.copysign(scaled) } else { 0.0 };
    let mantissa = (scaled + half) as i64;
    let back = if exponent == 0 { mantissa as f64 } else { mantissa as f64 / POW10[exponent] };
    if back.to_bits() == value.to_bits() {
        return Fit::Exact(mantissa);
    }
    if value == 0.0 { Fit::Never } else { Fit::NotYet }
}

/// The integer and exponent of `value`, the exponent no smaller than `from`.
pub(crate) fn decimal(value: f64, from: usize) -> Option<(i64, usize)> {
    for exponent in from..=MAX_EXPONENT {
        match fit(value, exponent) {
            Fit::Exact(mantissa) => return Some((mantissa, exponent)),
            Fit::Never => return None,
            Fit::NotYet => {}
        }
    }
    None
}

/// The value of an integer and exponent, or `None` if no stream has such an exponent.
pub(crate) fn value_of(mantissa: i64, exponent: u8) -> Option<f64> {
    POW10.get(usize::from(exponent)).map(|power| mantissa as f64 / power)
}

/// Chooses exponent and integer form for `values`, which are not empty; `None` if most of them do not fit.
pub(crate) fn choose(values: &[f64], scratch: &mut Scratch) -> Option<Choice> {
    let mut exponent = take_mantissas(values, scratch)?;
    if scratch.exceptions.len() * 8 > values.len() {
        let other = commonest_exponent(values);
        if other != exponent {
            take_at(values, other, scratch);
            exponent = other;
        }
    }
    if scratch.exceptions.len() * 2 > values.len() {
        return None;
    }
    let ints = ints::choose(&scratch.mantissas, &mut scratch.ints);
    Some(Choice { exponent, ints, size: 1 + ints.size + exceptions_len(&scratch.exceptions) })
}

/// Fills mantissas and exceptions for the smallest exponent that all fitting values share; `None` if nearly
/// nothing at the front fits.
fn take_mantissas(values: &[f64], scratch: &mut Scratch) -> Option<usize> {
    let mut exponent = 0;
    // Begins again with each larger exponent: mostly found within a few values.
    while let Err((at, missed)) = try_at(values, exponent, scratch) {
        if missed {
            return None;
        }
        exponent = decimal(values[at], exponent).map_or(exponent, |(_, needed)| needed);
    }
    Some(exponent)
}

/// Fills mantissas and exceptions for `exponent`, up to a value that needs a larger one: its position then,
/// or whether the front has too few values that fit.
fn try_at(values: &[f64], exponent: usize, scratch: &mut Scratch) -> Result<(), (usize, bool)> {
    let Scratch { mantissas, exceptions, .. } = scratch;
    mantissas.clear();
    exceptions.clear();
    let mut last: Option<i64> = None;
    for (position, value) in values.iter().enumerate() {
        match fit(*value, exponent) {
            Fit::Exact(mantissa) => take(mantissa, &mut last, mantissas),
            Fit::NotYet if decimal(*value, exponent + 1).is_some() => return Err((position, false)),
            Fit::NotYet | Fit::Never => {
                exceptions.push((position as u32, value.to_bits()));
                mantissas.push(last.unwrap_or(0));
            }
        }
        if position + 1 == PROBE && exceptions.len() * 4 > PROBE * 3 {
            return Err((position, true));
        }
    }
    Ok(())
}

/// The first integer also stands for the exceptions before it.
#[inline]
fn take(mantissa: i64, last: &mut Option<i64>, mantissas: &mut Vec<i64>) {
    if last.is_none() {
        mantissas.fill(mantissa);
    }
    *last = Some(mantissa);
    mantissas.push(mantissa);
}

/// The exponent that most values need. The slow path, for streams of mixed precision.
fn commonest_exponent(values: &[f64]) -> usize {
    let mut needed = [0usize; MAX_EXPONENT + 1];
    for value in values {
        if let Some((_, exponent)) = decimal(*value, 0) {
            needed[exponent] += 1;
        }
    }
    let mut best = (0, 0);
    for (exponent, count) in needed.into_iter().enumerate() {
        if count > best.1 {
            best = (exponent, count);
        }
    }
    best.0
}

/// Fills mantissas and exceptions for `exponent`; every value that needs another one is an exception.
fn take_at(values: &[f64], exponent: usize, scratch: &mut Scratch) {
    let Scratch { mantissas, exceptions, .. } = scratch;
    mantissas.clear();
    exceptions.clear();
    let mut last: Option<i64> = None;
    for (position, value) in values.iter().enumerate() {
        if let Fit::Exact(mantissa) = fit(*value, exponent) {
            take(mantissa, &mut last, mantissas);
        } else {
            exceptions.push((position as u32, value.to_bits()));
            mantissas.push(last.unwrap_or(0));
        }
    }
}

fn kind(bits: u64, before: Option<u64>) -> u64 {
    match bits {
        _ if before == Some(bits) => 2,
        STALE_NAN_BITS => 1,
        GO_NAN_BITS => 3,
        _ => 0,
    }
}

fn exceptions_len(exceptions: &[(u32, u64)]) -> usize {
    if exceptions.is_empty() {
        return 0;
    }
    let mut size = varint::len(exceptions.len() as u64);
    each_exception(exceptions, |head, raw| size += varint::len(head) + raw.map_or(0, |_| 8));
    size
}

fn each_exception(exceptions: &[(u32, u64)], mut each: impl FnMut(u64, Option<u64>)) {
    let mut before = None;
    let mut next = 0;
    for (position, bits) in exceptions {
        let kind = kind(*bits, before);
        each(u64::from(position - next) << 2 | kind, (kind == 0).then_some(*bits));
        before = Some(*bits);
        next = position + 1;
    }
}

/// Appends the stream that `choice` was made for; `scratch` as [`choose`] left it.
pub(crate) fn write(choice: &Choice, scratch: &Scratch, out: &mut Vec<u8>) {
    let flag = if scratch.exceptions.is_empty() { 0 } else { HAS_EXCEPTIONS };
    out.push(choice.exponent as u8 | flag);
    ints::write(&choice.ints, &scratch.ints, out);
    if !scratch.exceptions.is_empty() {
        varint::put(out, scratch.exceptions.len() as u64);
        each_exception(&scratch.exceptions, |head, raw| {
            varint::put(out, head);
            if let Some(bits) = raw {
                out.extend_from_slice(&bits.to_le_bytes());
            }
        });
    }
}

/// Appends the `count` values of a stream to `out`; `count` was checked.
pub(crate) fn decode(rest: &mut &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let before = out.len();
    let (head, tail) = rest.split_first().ok_or(ChunkError::short(STREAM))?;
    *rest = tail;
    let exponent = usize::from(head & !HAS_EXCEPTIONS);
    let power = *POW10.get(exponent).ok_or(ChunkError::damaged(STREAM, "an exponent over 18"))?;
    if exponent == 0 {
        ints::decode(rest, count, |run| out.extend(run.iter().map(|m| *m as f64)))?;
    } else {
        ints::decode(rest, count, |run| out.extend(run.iter().map(|m| *m as f64 / power)))?;
    }
    if head & HAS_EXCEPTIONS == 0 {
        return Ok(());
    }
    put_exceptions(rest, &mut out[before..])
}

fn put_exceptions(rest: &mut &[u8], values: &mut [f64]) -> Result<(), ChunkError> {
    let exceptions = varint::take_len(rest, values.len());
    let mut bits = None;
    let mut next = 0u64;
    for _ in 0..exceptions.ok_or(ChunkError::damaged(STREAM, "more exceptions than values"))? {
        let head = varint::take(rest).ok_or(ChunkError::short(STREAM))?;
        let value = match head & 3 {
            0 => varint::take_u64_le(rest),
            1 => Some(STALE_NAN_BITS),
            2 => bits,
            _ => Some(GO_NAN_BITS),
        };
        let value = value.ok_or(ChunkError::short(STREAM))?;
        bits = Some(value);
        let position = next.saturating_add(head >> 2);
        let place = usize::try_from(position).ok().and_then(|at| values.get_mut(at));
        *place.ok_or(ChunkError::damaged(STREAM, "an exception behind the end"))? = f64::from_bits(value);
        next = position + 1;
    }
    Ok(())
}
