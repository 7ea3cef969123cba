//! Bit strings in byte slices, lowest bit first.
//!
//! Knows bits. Does not know what they mean. Path: `head::open_chunk` -> **here**.

/// Writes the lowest `width` bits (0 to 64) of `value` at bit `at`. Bits of `buf` from `at` on may hold
/// anything; what follows the written bits in their last byte becomes zero.
pub(crate) fn put(buf: &mut [u8], at: usize, value: u64, width: u32) {
    if width == 0 {
        return;
    }
    let value = if width == 64 { value } else { value & ((1 << width) - 1) };
    let (mut byte, shift) = (at >> 3, (at & 7) as u32);
    let kept = buf[byte] & ((1u8 << shift) - 1);
    buf[byte] = kept | (value << shift) as u8;
    let mut written = 8 - shift;
    while written < width {
        byte += 1;
        buf[byte] = (value >> written) as u8;
        written += 8;
    }
}

/// Reads a bit string from its start.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// The next `width` bits (0 to 64). Past the end they are zero.
    pub(crate) fn take(&mut self, width: u32) -> u64 {
        if width > 56 {
            let low = self.take(32);
            return low | self.take(width - 32) << 32;
        }
        let value = self.peek() & ((1u64 << width) - 1);
        self.at += width as usize;
        value
    }

    /// How many of the next bits are one before a zero, at most `limit`; they and the zero are taken.
    pub(crate) fn take_unary(&mut self, limit: u32) -> u32 {
        let ones = self.peek().trailing_ones().min(limit);
        self.at += ones as usize + usize::from(ones < limit);
        ones
    }

    /// At least 57 bits from the current place.
    fn peek(&self) -> u64 {
        let byte = self.at >> 3;
        let word = match self.buf.get(byte..byte + 8) {
            Some(whole) => u64::from_le_bytes(whole.try_into().expect("eight bytes")),
            None => {
                let mut padded = [0; 8];
                let rest = self.buf.get(byte..).unwrap_or_default();
                padded[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(padded)
            }
        };
        word >> (self.at & 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(fields in prop::collection::vec((any::<u64>(), 0u32..=64), 1..60)) {
            let mut buf = vec![0xff; 60 * 8 + 1];
            let mut at = 0;
            for (value, width) in &fields {
                put(&mut buf, at, *value, *width);
                at += *width as usize;
            }
            let mut reader = BitReader::new(&buf[..at.div_ceil(8)]);
            for (value, width) in &fields {
                let mask = if *width == 64 { u64::MAX } else { (1 << width) - 1 };
                prop_assert_eq!(reader.take(*width), value & mask);
            }
        }
    }

    #[test]
    fn unary_stops_at_its_limit() {
        let mut reader = BitReader::new(&[0b0111_0110]);
        assert_eq!([reader.take_unary(6), reader.take_unary(6), reader.take_unary(2)], [0, 2, 2]);
        assert_eq!(reader.take(2), 1);
    }
}
