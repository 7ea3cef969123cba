//! Columns of times, in milliseconds.
//!
//! Form: `codec u8`, then by codec. 1 *step*: first and step as signed varints. 2 *line*: first and step, and
//! how far each time lies from its place on the line, packed in blocks of 64. 3 *deltas*: an integer column.
//! The smallest is written; scrapes at a fixed interval need 8 bytes, with a few milliseconds of jitter
//! about 3 bits each. Equal columns have equal bytes.

use crate::ints::{self, Scratch};
use crate::pack::{self, BLOCK};
use crate::{ChunkError, check_len, varint};
use std::cell::RefCell;

const STEP: u8 = 1;
const LINE: u8 = 2;
const DELTAS: u8 = 3;
const STREAM: &str = "time";

/// The newest column and its bytes. Series of one target are encoded one after the other and share it.
#[derive(Debug, Default)]
struct Memo {
    ts_ms: Vec<i64>,
    stream: Vec<u8>,
    residuals: Vec<i64>,
    ints: Scratch,
}

thread_local! {
    static MEMO: RefCell<Memo> = RefCell::default();
}

/// Appends the column of `ts_ms`, 1 to [`crate::MAX_SAMPLES`] times in any order.
///
/// # Panics
/// If `ts_ms` is empty.
pub fn encode(ts_ms: &[i64], out: &mut Vec<u8>) {
    MEMO.with_borrow_mut(|memo| {
        if memo.ts_ms != ts_ms {
            memo.encode(ts_ms);
        }
        out.extend_from_slice(&memo.stream);
    });
}

impl Memo {
    fn encode(&mut self, ts_ms: &[i64]) {
        let Self { residuals, ints, stream, .. } = self;
        self.ts_ms.clear();
        self.ts_ms.extend_from_slice(ts_ms);
        stream.clear();
        let first = ts_ms[0];
        let step = mean_step(ts_ms);
        residuals.clear();
        residuals.extend(self::residuals(ts_ms, first, step));
        if residuals.iter().all(|r| *r == 0) {
            stream.push(STEP);
            varint::put_signed(stream, first);
            varint::put_signed(stream, step);
            return;
        }
        let plans: Vec<pack::Plan> = residuals.chunks(BLOCK).map(pack::plan).collect();
        if !is_near_line(residuals, step) {
            let line = varint::len(varint::zigzag(first))
                + varint::len(varint::zigzag(step))
                + plans.iter().map(|plan| plan.size).sum::<usize>();
            let deltas = ints::choose(ts_ms, ints);
            if deltas.size < line {
                stream.push(DELTAS);
                return ints::write(&deltas, ints, stream);
            }
        }
        stream.push(LINE);
        varint::put_signed(stream, first);
        varint::put_signed(stream, step);
        for (block, plan) in residuals.chunks(BLOCK).zip(&plans) {
            pack::encode(block, plan, stream);
        }
    }
}

/// Whether the times only jitter around the line: differences would then be noisier than the residuals.
fn is_near_line(residuals: &[i64], step: i64) -> bool {
    residuals.iter().all(|residual| residual.unsigned_abs() < step.unsigned_abs() / 8)
}

/// The step of the line through the first and last time, to the nearest millisecond.
fn mean_step(ts_ms: &[i64]) -> i64 {
    let steps = ts_ms.len() as i128 - 1;
    if steps == 0 {
        return 0;
    }
    let span = i128::from(ts_ms[ts_ms.len() - 1]) - i128::from(ts_ms[0]);
    // Beyond the ends of i64 any step will do: the residuals wrap.
    ((span + steps / 2).div_euclid(steps)) as i64
}

/// Distance of each time but the first from the line.
fn residuals(ts_ms: &[i64], first: i64, step: i64) -> impl Iterator<Item = i64> {
    let mut place = first;
    ts_ms[1..].iter().map(move |t| {
        place = place.wrapping_add(step);
        t.wrapping_sub(place)
    })
}

/// Appends the `count` times of a column to `out`.
///
/// # Errors
/// [`ChunkError`] if `stream` is not a column of `count` times; `out` may then have grown.
pub fn decode(stream: &[u8], count: u32, out: &mut Vec<i64>) -> Result<(), ChunkError> {
    let count = count as usize;
    check_len(count)?;
    let (codec, mut rest) = stream.split_first().ok_or(ChunkError::short(STREAM))?;
    out.reserve(count);
    match *codec {
        STEP | LINE => {
            let first = varint::take_signed(&mut rest).ok_or(ChunkError::short(STREAM))?;
            let step = varint::take_signed(&mut rest).ok_or(ChunkError::short(STREAM))?;
            decode_line(&mut rest, first, step, *codec == LINE, count, out)?;
        }
        DELTAS => ints::decode(&mut rest, count, |run| out.extend_from_slice(run))?,
        codec => return Err(ChunkError::UnknownCodec { stream: STREAM, codec }),
    }
    if !rest.is_empty() {
        return Err(ChunkError::damaged(STREAM, "bytes behind its end"));
    }
    Ok(())
}

fn decode_line(
    rest: &mut &[u8],
    first: i64,
    step: i64,
    residuals: bool,
    count: usize,
    out: &mut Vec<i64>,
) -> Result<(), ChunkError> {
    out.push(first);
    let mut place = first;
    let mut left = count - 1;
    let mut block = [0; BLOCK];
    while left > 0 {
        let run = &mut block[..left.min(BLOCK)];
        if residuals {
            pack::decode(rest, run)?;
        }
        out.extend(run.iter().map(|residual| {
            place = place.wrapping_add(step);
            place.wrapping_add(*residual)
        }));
        left -= run.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(ts_ms: &[i64]) -> usize {
        let mut out = Vec::new();
        encode(ts_ms, &mut out);
        let mut back = vec![42];
        decode(&out, ts_ms.len() as u32, &mut back).unwrap();
        assert_eq!(&back[1..], ts_ms);
        out.len()
    }

    #[test]
    fn regular_scrapes_cost_almost_nothing() {
        let start = 1_700_000_000_000i64;
        let exact: Vec<i64> = (0..240).map(|i| start + i * 15_000).collect();
        assert!(check(&exact) <= 10);
        let jitter: Vec<i64> = (0..240).map(|i| start + i * 15_000 + (i * 7_919 % 7) - 3).collect();
        assert!(check(&jitter) <= 240 * 4 / 8 + 20);
        let mut gap = exact;
        gap.remove(100);
        assert!(check(&gap) <= 30, "one missed scrape");
    }

    #[test]
    fn the_edges_of_i64_fit() {
        check(&[i64::MIN]);
        check(&[i64::MIN, i64::MAX]);
        check(&[i64::MIN, -1, 0, i64::MAX]);
        check(&[i64::MAX - 1, i64::MAX]);
    }

    #[test]
    fn impossible_counts_are_refused_before_anything_is_allocated() {
        let mut stream = Vec::new();
        encode(&[1, 2, 3], &mut stream);
        let mut out = Vec::new();
        assert!(matches!(decode(&stream, u32::MAX, &mut out), Err(ChunkError::Length { .. })));
        assert!(matches!(decode(&stream, 0, &mut out), Err(ChunkError::Length { .. })));
        assert_eq!(out.capacity(), 0);
        assert!(matches!(decode(&[9], 1, &mut out), Err(ChunkError::UnknownCodec { codec: 9, .. })));
    }

    proptest! {
        #[test]
        fn columns_round_trip(
            first in any::<i64>(),
            steps in prop::collection::vec(any::<i64>(), 0..200),
            shift in 0u32..64,
        ) {
            let mut last = first;
            let mut ts_ms = vec![first];
            for step in steps {
                last = last.wrapping_add(step >> shift);
                ts_ms.push(last);
            }
            check(&ts_ms);
        }

        #[test]
        fn any_bytes_decode_or_fail(
            codec in 0u8..5,
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            count in 0u32..400,
        ) {
            let mut out = Vec::new();
            if decode(&[&[codec], &bytes[..]].concat(), count, &mut out).is_ok() {
                prop_assert_eq!(out.len(), count as usize);
            }
        }
    }
}
