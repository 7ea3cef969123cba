//! Columns of integers: differences of some order, a common factor taken out, packed in blocks of 64.
//!
//! Form: `head u8` (bits 0-1 mode, bit 2: there is a factor), `first` signed varint, `factor` varint if
//! there is one, then by mode. Differences are taken modulo 2^64, so every column of `i64` can be written.
//! Modes: 0 difference to the first, 1 to the one before, 2 difference of those (the first of them as signed
//! varint), 3 all equal.
//! Cost: one pass to take differences, one for each mode that is tried; no allocation once the scratch grew.

use crate::pack::{self, BLOCK, Plan};
use crate::{ChunkError, varint};

const FACTOR: u8 = 4;
const STREAM: &str = "integer";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Offset = 0,
    Delta = 1,
    DeltaDelta = 2,
    Equal = 3,
}

/// Working memory of the encoder.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    offsets: Vec<i64>,
    deltas: Vec<i64>,
    seconds: Vec<i64>,
    plans: [Vec<Plan>; 3],
}

/// A chosen form of one column, its size known before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    mode: Mode,
    first: i64,
    factor: u64,
    /// Size in bytes.
    pub(crate) size: usize,
}

/// Chooses the form of `values`, which are not empty. The scratch then belongs to this column.
pub(crate) fn choose(values: &[i64], scratch: &mut Scratch) -> Choice {
    let first = values[0];
    let head = 1 + varint::len(varint::zigzag(first));
    let deltas = &mut scratch.deltas;
    deltas.clear();
    deltas.extend(values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])));
    let factor = common_factor(deltas);
    if factor == 0 {
        return Choice { mode: Mode::Equal, first, factor: 1, size: head };
    }
    if factor > 1 {
        deltas.iter_mut().for_each(|d| *d = exact_quotient(*d, factor));
    }
    let factor_len = if factor > 1 { varint::len(factor) } else { 0 };
    let size = head + factor_len;
    let mut best =
        Choice { mode: Mode::Delta, first, factor, size: size + plan(deltas, &mut scratch.plans[1]) };
    let mut sum = 0i64;
    scratch.offsets.clear();
    scratch.offsets.extend(deltas.iter().map(|d| {
        sum = sum.wrapping_add(*d);
        sum
    }));
    let offset = size + plan(&scratch.offsets, &mut scratch.plans[0]);
    if offset < best.size {
        best = Choice { mode: Mode::Offset, size: offset, ..best };
    }
    if deltas.len() > 1 {
        scratch.seconds.clear();
        scratch.seconds.extend(deltas.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])));
        let first_delta = varint::len(varint::zigzag(deltas[0]));
        let second = size + first_delta + plan(&scratch.seconds, &mut scratch.plans[2]);
        if second < best.size {
            best = Choice { mode: Mode::DeltaDelta, size: second, ..best };
        }
    }
    best
}

/// Greatest common divisor of the magnitudes; 0 if all are 0.
fn common_factor(deltas: &[i64]) -> u64 {
    let mut factor = 0u64;
    for delta in deltas {
        let magnitude = delta.unsigned_abs();
        if magnitude == 0 || (factor > 1 && divides(factor, magnitude)) {
            continue;
        }
        factor = gcd(magnitude, factor);
        if factor == 1 {
            break;
        }
    }
    factor
}

/// Whether `factor` divides `magnitude`; 32-bit division is several times faster where it does.
fn divides(factor: u64, magnitude: u64) -> bool {
    match (u32::try_from(factor), u32::try_from(magnitude)) {
        (Ok(factor), Ok(magnitude)) => magnitude.is_multiple_of(factor),
        _ => magnitude.is_multiple_of(factor),
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn exact_quotient(delta: i64, factor: u64) -> i64 {
    let magnitude = delta.unsigned_abs() / factor;
    if delta < 0 { (magnitude as i64).wrapping_neg() } else { magnitude as i64 }
}

fn plan(column: &[i64], plans: &mut Vec<Plan>) -> usize {
    plans.clear();
    plans.extend(column.chunks(BLOCK).map(pack::plan));
    plans.iter().map(|plan| plan.size).sum()
}

/// Appends the column that `choice` was made for; `scratch` as [`choose`] left it.
pub(crate) fn write(choice: &Choice, scratch: &Scratch, out: &mut Vec<u8>) {
    out.push(choice.mode as u8 | if choice.factor > 1 { FACTOR } else { 0 });
    varint::put_signed(out, choice.first);
    if choice.factor > 1 {
        varint::put(out, choice.factor);
    }
    let column = match choice.mode {
        Mode::Equal => return,
        Mode::Offset => &scratch.offsets,
        Mode::Delta => &scratch.deltas,
        Mode::DeltaDelta => {
            varint::put_signed(out, scratch.deltas[0]);
            &scratch.seconds
        }
    };
    for (block, plan) in column.chunks(BLOCK).zip(&scratch.plans[choice.mode as usize]) {
        pack::encode(block, plan, out);
    }
}

/// Appends a column in its smallest form.
pub(crate) fn encode(values: &[i64], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let choice = choose(values, scratch);
    write(&choice, scratch, out);
}

/// Takes a column of `count` integers off the front of `rest` and hands it over in runs of up to 64, in
/// order. `count` is at least 1.
#[inline]
pub(crate) fn decode(rest: &mut &[u8], count: usize, mut each: impl FnMut(&[i64])) -> Result<(), ChunkError> {
    let (head, tail) = rest.split_first().ok_or(ChunkError::short(STREAM))?;
    *rest = tail;
    if *head > 7 {
        return Err(ChunkError::damaged(STREAM, "an unknown mode"));
    }
    let first = varint::take_signed(rest).ok_or(ChunkError::short(STREAM))?;
    let factor = match head & FACTOR {
        0 => 1,
        _ => varint::take(rest).ok_or(ChunkError::short(STREAM))? as i64,
    };
    let mut block = [first; BLOCK];
    each(&block[..1]);
    let mut left = count - 1;
    let mut last = first;
    let mut delta = match head & 3 {
        2 if left > 0 => varint::take_signed(rest).ok_or(ChunkError::short(STREAM))?.wrapping_mul(factor),
        _ => 0,
    };
    if head & 3 == 2 && left > 0 {
        last = last.wrapping_add(delta);
        each(&[last]);
        left -= 1;
    }
    while left > 0 {
        let run = &mut block[..left.min(BLOCK)];
        if head & 3 != 3 {
            pack::decode(rest, run)?;
        }
        match head & 3 {
            0 => run.iter_mut().for_each(|v| *v = first.wrapping_add(v.wrapping_mul(factor))),
            1 => last = sum(run, last, factor),
            2 => {
                delta = sum(run, delta, factor);
                last = sum_again(run, last);
            }
            _ => {}
        }
        each(run);
        left -= run.len();
    }
    Ok(())
}

#[inline]
fn sum(run: &mut [i64], mut last: i64, factor: i64) -> i64 {
    for value in run {
        last = last.wrapping_add(value.wrapping_mul(factor));
        *value = last;
    }
    last
}

#[inline]
fn sum_again(run: &mut [i64], mut last: i64) -> i64 {
    for value in run {
        last = last.wrapping_add(*value);
        *value = last;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(values: &[i64]) -> usize {
        let mut scratch = Scratch::default();
        let choice = choose(values, &mut scratch);
        let mut out = Vec::new();
        write(&choice, &scratch, &mut out);
        assert_eq!(out.len(), choice.size, "the chosen size");
        let mut back = Vec::new();
        let mut rest = &out[..];
        decode(&mut rest, values.len(), |run| back.extend_from_slice(run)).unwrap();
        assert_eq!(back, values);
        assert!(rest.is_empty());
        out.len()
    }

    #[test]
    fn each_mode_is_taken_where_it_is_smallest() {
        assert_eq!(check(&[7; 1_000]), 2);
        assert!(check(&(0..1_000).map(|i| i * 15_000).collect::<Vec<_>>()) < 60, "constant step");
        assert!(check(&(0..1_000).map(|i| i * i).collect::<Vec<_>>()) < 60, "constant growth of the step");
        let pages: Vec<i64> = (0..1_000i64).map(|i| 1_234 + (i * i * 7919 % 32) * 4_096).collect();
        assert!(check(&pages) < 740, "the common factor is taken out");
    }

    #[test]
    fn edges_wrap() {
        check(&[i64::MIN, i64::MAX, i64::MIN, 0, -1, i64::MAX]);
        check(&[i64::MIN]);
        check(&[0, i64::MIN, 0, i64::MIN, 0]);
        check(&[0, i64::MIN]);
    }

    proptest! {
        #[test]
        fn columns_round_trip(
            steps in prop::collection::vec(any::<i64>(), 1..300),
            shift in 0u32..64,
            factor in 1i64..5_000,
            walk in any::<bool>(),
        ) {
            let mut last = 0i64;
            let values: Vec<i64> = steps.iter().map(|step| {
                let step = (step >> shift).wrapping_mul(factor);
                last = if walk { last.wrapping_add(step) } else { step };
                last
            }).collect();
            check(&values);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 1usize..300) {
            let mut seen = 0;
            if decode(&mut &bytes[..], count, |run| seen += run.len()).is_ok() {
                prop_assert_eq!(seen, count);
            }
        }
    }
}
