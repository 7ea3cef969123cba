//! Float values as differences of bits: what is left for values that are no short decimals.
//!
//! Form, in bits: the first value raw; then for each value `0` if it equals the one before, `10` and the
//! differing bits in the window of the last difference, or `11`, five bits of leading zeros (at most 31),
//! six bits of window length minus one, and the window.
//! Source: Pelkonen et al., "Gorilla", VLDB 2015, section 4.1.2.

use crate::ChunkError;
use crate::bits::{BitReader, BitWriter};

const STREAM: &str = "xor";

/// The window of differing bits that was sent last.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    leading: u32,
    length: u32,
}

/// Appends the stream of `values`, which are not empty.
///
/// # Panics
/// If `values` is empty.
pub fn encode(values: &[f64], out: &mut Vec<u8>) {
    let mut writer = BitWriter::new(out);
    let mut last = values[0].to_bits();
    writer.bits(last, 64);
    let mut window = Window::default();
    for value in &values[1..] {
        let difference = value.to_bits() ^ last;
        last = value.to_bits();
        if difference == 0 {
            writer.bit(false);
            continue;
        }
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        let behind = 64 - window.leading - window.length;
        let length = 64 - leading - trailing;
        // A window that is far too wide is worth its eleven bits of replacement.
        let inside = window.length > 0 && leading >= window.leading && trailing >= behind;
        if inside && window.length <= length + 11 {
            writer.bits(0b10, 2);
            writer.bits(difference >> behind, window.length);
        } else {
            window = Window { leading, length };
            writer.bits(0b11, 2);
            writer.bits(u64::from(leading), 5);
            writer.bits(u64::from(length - 1), 6);
            writer.bits(difference >> trailing, length);
        }
    }
}

/// Appends the `count` values of `stream` to `out`; `count` is at least 1.
///
/// # Errors
/// [`ChunkError`] if `stream` does not hold exactly `count` values; `out` may then have grown.
pub fn decode(stream: &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let mut reader = BitReader::new(stream);
    let mut last = reader.bits(64).ok_or(ChunkError::short(STREAM))?;
    out.push(f64::from_bits(last));
    let mut window = Window::default();
    for _ in 1..count {
        if reader.bit().ok_or(ChunkError::short(STREAM))? {
            last ^= take_difference(&mut reader, &mut window)?;
        }
        out.push(f64::from_bits(last));
    }
    if reader.bits_left() >= 8 {
        return Err(ChunkError::damaged(STREAM, "bytes behind its end"));
    }
    Ok(())
}

#[inline]
fn take_difference(reader: &mut BitReader<'_>, window: &mut Window) -> Result<u64, ChunkError> {
    if reader.bit().ok_or(ChunkError::short(STREAM))? {
        let head = reader.bits(11).ok_or(ChunkError::short(STREAM))? as u32;
        *window = Window { leading: head >> 6, length: (head & 63) + 1 };
        if window.leading + window.length > 64 {
            return Err(ChunkError::damaged(STREAM, "a window over 64 bits"));
        }
    }
    if window.length == 0 {
        return Err(ChunkError::damaged(STREAM, "no window yet"));
    }
    let bits = reader.bits(window.length).ok_or(ChunkError::short(STREAM))?;
    Ok(bits << (64 - window.leading - window.length))
}
