//! Blocks of up to 64 integers: a base, a width, packed differences, and a list of outliers.
//!
//! Form: `width u8` (bit 7: there are outliers), `base` signed varint, `ceil(n * width / 8)` bytes with the
//! differences to the base, low bits first; then `count u8` and for each outlier `position u8`, signed varint
//! of the difference. Arithmetic wraps, so every `i64` can be packed.
//! Source: Zukowski et al., "Super-Scalar RAM-CPU Cache Compression", ICDE 2006 (frame of reference with
//! patches).

use crate::ChunkError;
use crate::varint;

/// Integers of one block.
pub(crate) const BLOCK: usize = 64;
const HAS_OUTLIERS: u8 = 0x80;
const STREAM: &str = "packed";
/// Values of the upper half of the range above which none of them is called an outlier.
const MOST_OUTLIERS: usize = 16;

/// How a block will be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    base: i64,
    width: u32,
    /// Size in bytes.
    pub(crate) size: usize,
}

fn bit_len(value: u64) -> u32 {
    64 - value.leading_zeros()
}

fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

fn difference(value: i64, base: i64) -> u64 {
    value.wrapping_sub(base) as u64
}

fn outlier_len(value: i64, base: i64) -> usize {
    1 + varint::len(varint::zigzag(value.wrapping_sub(base)))
}

/// Chooses base and width for `values`, 1 to [`BLOCK`] of them.
pub(crate) fn plan(values: &[i64]) -> Plan {
    let (mut min, mut max) = (values[0], values[0]);
    for value in values {
        min = min.min(*value);
        max = max.max(*value);
    }
    let width = bit_len(difference(max, min));
    let plain = Plan { base: min, width, size: header_len(min) + packed_bytes(values.len(), width) };
    // Outliers cost at least two bytes and their count one: only then can they pay.
    if packed_bytes(values.len(), width) <= 3 {
        return plain;
    }
    let half = 1u64 << (width - 1);
    let high = values.iter().filter(|value| difference(**value, min) >= half).count();
    let mut best = plain;
    if high <= MOST_OUTLIERS {
        best = cheaper(best, plan_with_outliers(values, min));
    }
    if high <= MOST_OUTLIERS || values.len() - high <= 2 {
        let base = third_lowest(values);
        if base != min {
            best = cheaper(best, plan_with_outliers(values, base));
        }
    }
    best
}

fn cheaper(a: Plan, b: Plan) -> Plan {
    if b.size < a.size { b } else { a }
}

fn header_len(base: i64) -> usize {
    1 + varint::len(varint::zigzag(base))
}

/// A base that up to two low outliers do not move.
fn third_lowest(values: &[i64]) -> i64 {
    let mut low = [i64::MAX; 3];
    for value in values {
        if *value < low[2] {
            low[2] = *value;
            if low[2] < low[1] {
                low.swap(1, 2);
                if low[1] < low[0] {
                    low.swap(0, 1);
                }
            }
        }
    }
    low[2].min(values.iter().copied().max().unwrap_or(i64::MAX))
}

/// The cheapest width for `base` when every value that does not fit becomes an outlier.
fn plan_with_outliers(values: &[i64], base: i64) -> Plan {
    let mut count = [0usize; 65];
    let mut below = 0;
    for value in values {
        let width = bit_len(difference(*value, base));
        count[width as usize] += 1;
        if width == 64 {
            below += outlier_len(*value, base);
        }
    }
    let (mut outliers, mut outlier_bytes) = (0, 0);
    let mut best = Plan { base, width: 64, size: usize::MAX };
    for width in (0..=64usize).rev() {
        let list = if outliers == 0 { 0 } else { 1 + outlier_bytes };
        let size = header_len(base) + packed_bytes(values.len(), width as u32) + list;
        if size <= best.size {
            best = Plan { base, width: width as u32, size };
        }
        outliers += count[width];
        // Up to 63 bits the difference is positive, and zigzag adds one bit.
        outlier_bytes += if width == 64 { below } else { count[width] * (1 + (width + 1).div_ceil(7)) };
    }
    best
}

/// Appends `values` as `plan` says.
pub(crate) fn encode(values: &[i64], plan: &Plan, out: &mut Vec<u8>) {
    let Plan { base, width, .. } = *plan;
    let fits = |value: i64| bit_len(difference(value, base)) <= width;
    let outliers = values.iter().filter(|v| !fits(**v)).count();
    out.push(width as u8 | if outliers > 0 { HAS_OUTLIERS } else { 0 });
    varint::put_signed(out, base);
    pack(values.iter().map(|v| if fits(*v) { difference(*v, base) } else { 0 }), width, out);
    if outliers > 0 {
        out.push(outliers as u8);
        for (position, value) in values.iter().enumerate().filter(|(_, v)| !fits(**v)) {
            out.push(position as u8);
            varint::put_signed(out, value.wrapping_sub(base));
        }
    }
}

fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let mut window = 0u64;
    let mut held = 0;
    for value in values {
        window |= value << held;
        held += width;
        if held >= 64 {
            out.extend_from_slice(&window.to_le_bytes());
            held -= 64;
            // What did not fit; nothing if the value ended with the word.
            window = value.checked_shr(width - held).unwrap_or(0);
        }
    }
    out.extend_from_slice(&window.to_le_bytes()[..held.div_ceil(8) as usize]);
}

/// Takes a block of `out.len()` integers, 1 to [`BLOCK`], off the front of `rest`.
#[inline]
pub(crate) fn decode(rest: &mut &[u8], out: &mut [i64]) -> Result<(), ChunkError> {
    let (head, tail) = rest.split_first().ok_or(ChunkError::short(STREAM))?;
    *rest = tail;
    let width = u32::from(head & !HAS_OUTLIERS);
    if width > 64 {
        return Err(ChunkError::damaged(STREAM, "a width over 64 bits"));
    }
    let base = varint::take_signed(rest).ok_or(ChunkError::short(STREAM))?;
    let length = packed_bytes(out.len(), width);
    let packed = rest.get(..length).ok_or(ChunkError::short(STREAM))?;
    if width == 0 {
        out.fill(base);
    } else if width <= 56 {
        unpack_narrow(rest, length, width, base, out);
    } else {
        unpack_wide(packed, width, base, out);
    }
    *rest = &rest[length..];
    if head & HAS_OUTLIERS != 0 { patch(rest, base, out) } else { Ok(()) }
}

/// Widths up to 56: a value lies in the eight bytes that begin with its first one. `bytes` begin with the
/// block; what lies behind it is only loaded, never used.
fn unpack_narrow(bytes: &[u8], length: usize, width: u32, base: i64, out: &mut [i64]) {
    if bytes.len() >= length + 8 {
        return unpack_words(bytes, width, base, out);
    }
    let mut padded = [0u8; BLOCK * 7 + 8];
    padded[..length].copy_from_slice(&bytes[..length]);
    unpack_words(&padded, width, base, out);
}

/// `bytes` hold at least seven bytes behind the last packed one.
#[inline]
fn unpack_words(bytes: &[u8], width: u32, base: i64, out: &mut [i64]) {
    let mask = (1u64 << width) - 1;
    let width = width as usize;
    // Eight values take `width` bytes, so that each group begins at a byte.
    for (group, values) in out.chunks_mut(8).enumerate() {
        let bytes = &bytes[group * width..];
        for (at, value) in values.iter_mut().enumerate() {
            let bit = at * width;
            let word = bytes[bit / 8..].first_chunk::<8>().map_or(0, |w| u64::from_le_bytes(*w));
            *value = base.wrapping_add(((word >> (bit % 8)) & mask) as i64);
        }
    }
}

fn unpack_wide(packed: &[u8], width: u32, base: i64, out: &mut [i64]) {
    let mut window = 0u128;
    let mut held = 0;
    let mut bytes = packed.iter();
    for value in out {
        while held < width {
            window |= u128::from(bytes.next().copied().unwrap_or(0)) << held;
            held += 8;
        }
        let part = (window & ((1u128 << width) - 1)) as u64;
        *value = base.wrapping_add(part as i64);
        window >>= width;
        held -= width;
    }
}

#[cold]
fn patch(rest: &mut &[u8], base: i64, out: &mut [i64]) -> Result<(), ChunkError> {
    let (count, tail) = rest.split_first().ok_or(ChunkError::short(STREAM))?;
    *rest = tail;
    for _ in 0..*count {
        let (position, tail) = rest.split_first().ok_or(ChunkError::short(STREAM))?;
        *rest = tail;
        let value = varint::take_signed(rest).ok_or(ChunkError::short(STREAM))?;
        let place = out.get_mut(usize::from(*position));
        *place.ok_or(ChunkError::damaged(STREAM, "an outlier behind its block"))? = base.wrapping_add(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(values: &[i64]) -> usize {
        let plan = plan(values);
        let mut out = Vec::new();
        encode(values, &plan, &mut out);
        assert_eq!(out.len(), plan.size, "the planned size");
        let mut rest = &out[..];
        let mut back = vec![0; values.len()];
        decode(&mut rest, &mut back).unwrap();
        assert_eq!(back, values);
        assert!(rest.is_empty());
        out.push(0xee);
        out.extend([0xff; 16]);
        let mut rest = &out[..];
        decode(&mut rest, &mut back).unwrap();
        assert_eq!((back.as_slice(), rest.len()), (values, 17), "with bytes behind");
        plan.size
    }

    #[test]
    fn a_lone_outlier_does_not_widen_the_block() {
        let mut values = [5i64; BLOCK];
        assert_eq!(check(&values), 2);
        values[7] = -1_000_000;
        assert!(check(&values) <= 8);
        values[9] = i64::MAX;
        assert!(check(&values) <= 20);
        let mut noisy: Vec<i64> = (0..64).map(|i| (i * 37) % 16).collect();
        let plain = check(&noisy);
        noisy[3] = -70_000;
        noisy[30] = 1 << 40;
        assert!(check(&noisy) <= plain + 20);
    }

    #[test]
    fn the_edges_of_i64_fit() {
        check(&[i64::MIN]);
        check(&[i64::MIN, i64::MAX]);
        check(&[i64::MAX, 0, i64::MIN, -1, 1]);
        check(&(0..64).map(|i| if i % 2 == 0 { i64::MIN } else { i64::MAX }).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn blocks_round_trip(
            values in prop::collection::vec(any::<i64>(), 1..=BLOCK),
            shift in 0u32..64,
            wild in prop::collection::vec((0usize..64, any::<i64>()), 0..3),
        ) {
            let mut values: Vec<i64> = values.into_iter().map(|v| v >> shift).collect();
            for (at, value) in wild {
                let len = values.len();
                values[at % len] = value;
            }
            check(&values);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 1usize..=BLOCK) {
            let mut out = vec![0; count];
            let _ = decode(&mut &bytes[..], &mut out);
        }
    }
}
