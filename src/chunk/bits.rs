//! Bit streams: appended and read from the high bit of each byte on.
//!
//! Used by [`crate::xor`] and by the open chunks of the head.

/// Appends bits to bytes.
///
/// The state is the bytes and the number of free low bits in the last one, so that a stream can be put
/// aside and continued: see [`BitWriter::resume`].
#[derive(Debug)]
pub struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    free: u8,
}

impl<'a> BitWriter<'a> {
    /// Begins a new stream behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, free: 0 }
    }

    /// Continues a stream whose last byte has `free` unused low bits, 0 to 7.
    pub fn resume(out: &'a mut Vec<u8>, free: u8) -> Self {
        debug_assert!(free < 8 && (free == 0 || !out.is_empty()), "{free} free bits of {} bytes", out.len());
        Self { out, free }
    }

    /// Unused low bits of the last byte, for [`BitWriter::resume`].
    pub fn free_bits(&self) -> u8 {
        self.free
    }

    /// Appends one bit.
    #[inline]
    pub fn bit(&mut self, bit: bool) {
        self.bits(u64::from(bit), 1);
    }

    /// Appends the low `count` bits of `value`, 0 to 64, the highest of them first.
    #[inline]
    pub fn bits(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 64);
        let mut left = count;
        if self.free > 0 && left > 0 {
            let step = left.min(u32::from(self.free));
            let part = (value >> (left - step)) as u8 & (0xffu16 >> (8 - step)) as u8;
            if let Some(last) = self.out.last_mut() {
                *last |= part << (u32::from(self.free) - step);
            }
            self.free -= step as u8;
            left -= step;
        }
        if left > 0 {
            let bytes = (value << (64 - left)).to_be_bytes();
            self.out.extend_from_slice(&bytes[..left.div_ceil(8) as usize]);
            self.free = (8 - left as u8 % 8) % 8;
        }
    }
}

/// Reads the bits that [`BitWriter`] appended.
#[derive(Debug, Clone)]
pub struct BitReader<'a> {
    rest: &'a [u8],
    /// Bits that were loaded, the next one highest.
    window: u64,
    loaded: u32,
}

impl<'a> BitReader<'a> {
    /// Begins at the first bit of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, window: 0, loaded: 0 }
    }

    /// The next bit, or `None` at the end.
    #[inline]
    pub fn bit(&mut self) -> Option<bool> {
        self.bits(1).map(|bit| bit != 0)
    }

    /// The next `count` bits, 0 to 64, as a number; `None` if fewer are left.
    #[inline]
    pub fn bits(&mut self, count: u32) -> Option<u64> {
        if count > 56 {
            let high = self.bits(count - 32)?;
            return Some(high << 32 | self.bits(32)?);
        }
        if self.loaded < count {
            self.load();
            if self.loaded < count {
                return None;
            }
        }
        if count == 0 {
            return Some(0);
        }
        let value = self.window >> (64 - count);
        self.window <<= count;
        self.loaded -= count;
        Some(value)
    }

    /// Bits that are left.
    pub fn bits_left(&self) -> usize {
        self.loaded as usize + self.rest.len() * 8
    }

    /// Fills the window to at least 56 bits if so many are left.
    #[inline]
    fn load(&mut self) {
        if let Some(word) = self.rest.first_chunk::<8>() {
            self.window |= u64::from_be_bytes(*word) >> self.loaded;
            let bytes = (63 - self.loaded) / 8;
            self.rest = &self.rest[bytes as usize..];
            self.loaded += bytes * 8;
            // Bits of a byte that was not taken whole are loaded again.
            self.window &= !(u64::MAX.checked_shr(self.loaded).unwrap_or(0));
            return;
        }
        while self.loaded <= 56 {
            let Some((byte, rest)) = self.rest.split_first() else { return };
            self.window |= u64::from(*byte) << (56 - self.loaded);
            self.loaded += 8;
            self.rest = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_round_trip_across_resumes(
            fields in prop::collection::vec((any::<u64>(), 0u32..=64, any::<bool>()), 0..60),
        ) {
            let mut out = vec![0xaa];
            let mut free = 0;
            for (value, count, _) in &fields {
                let mut writer = BitWriter::resume(&mut out, free);
                writer.bits(*value, *count);
                free = writer.free_bits();
            }
            let total: u32 = fields.iter().map(|f| f.1).sum();
            prop_assert_eq!(out.len(), 1 + total.div_ceil(8) as usize);
            let mut reader = BitReader::new(&out[1..]);
            for (value, count, _) in &fields {
                let mask = if *count == 64 { u64::MAX } else { (1 << count) - 1 };
                prop_assert_eq!(reader.bits(*count), Some(value & mask));
            }
            prop_assert_eq!(reader.bits(8), None);
        }
    }
}
