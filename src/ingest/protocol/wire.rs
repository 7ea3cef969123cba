//! The protobuf wire format: tags, varints, lengths, and skipping what is not known.
//!
//! Source: protobuf.dev, "Encoding". Positions are offsets in the whole body, so ranges can be kept as `u32`.

use super::{BodyError, malformed};

/// Deepest nesting of unknown groups that is skipped.
const MAX_GROUP_DEPTH: u32 = 32;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LEN: u8 = 2;
const GROUP_START: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// A reader of one message: everything from `at` to the end of `bytes`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A reader of the bytes of `range`, whose positions are still those of the whole body.
    pub(super) fn within(&self, range: (usize, usize)) -> Self {
        Self { bytes: &self.bytes[..range.1], at: range.0 }
    }

    #[inline]
    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next byte, if it is a tag of one byte.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, BodyError> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    #[inline]
    fn long_varint(&mut self) -> Result<u64, BodyError> {
        let mut value = 0u64;
        for shift in 0..10 {
            let byte = *self.bytes.get(self.at + shift).ok_or(malformed("the message ends early"))?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                if shift == 9 && byte > 1 {
                    return Err(malformed("a varint is over 64 bits"));
                }
                self.at += shift + 1;
                return Ok(value);
            }
        }
        Err(malformed("a varint is over 10 bytes"))
    }

    /// Field number and wire type of the next field.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<(u32, u8), BodyError> {
        let tag = self.varint()?;
        let field = u32::try_from(tag >> 3).map_err(|_| malformed("a field number is over 29 bits"))?;
        if field == 0 {
            return Err(malformed("a field has the number 0"));
        }
        Ok((field, (tag & 7) as u8))
    }

    /// Start and end of a length-delimited field; moves behind it.
    #[inline]
    pub(super) fn range(&mut self) -> Result<(usize, usize), BodyError> {
        let len = self.varint()?;
        let start = self.at;
        if len > (self.bytes.len() - start) as u64 {
            return Err(malformed("a length runs over the end"));
        }
        self.at = start + len as usize;
        Ok((start, self.at))
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, BodyError> {
        let bytes = self.bytes[self.at..].first_chunk::<8>().ok_or(malformed("the message ends early"))?;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// A sample as every sender writes it: value, then time, and nothing else. `None` leaves everything to the
    /// general reader.
    #[inline]
    pub(super) fn plain_sample(&self, range: (usize, usize)) -> Option<(i64, f64)> {
        let message = &self.bytes[range.0..range.1];
        let (head, time) = message.split_first_chunk::<10>()?;
        if head[0] != 0x09 || head[9] != 0x10 || time.len() > 9 {
            return None;
        }
        let mut ts_ms = 0u64;
        for (at, byte) in time.iter().enumerate() {
            ts_ms |= u64::from(byte & 0x7f) << (7 * at);
            let is_last = at + 1 == time.len();
            if (*byte < 0x80) != is_last {
                return None;
            }
        }
        let value = head[1..9].first_chunk::<8>().filter(|_| !time.is_empty())?;
        Some((ts_ms as i64, f64::from_bits(u64::from_le_bytes(*value))))
    }

    pub(super) fn double(&mut self) -> Result<f64, BodyError> {
        Ok(f64::from_bits(self.fixed64()?))
    }

    /// A `sint32` or `sint64`.
    pub(super) fn zigzag(&mut self) -> Result<i64, BodyError> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Moves behind a field that is not known.
    pub(super) fn skip(&mut self, field: u32, wire: u8) -> Result<(), BodyError> {
        let mut open = [0u32; MAX_GROUP_DEPTH as usize];
        let mut depth = 0;
        let (mut field, mut wire) = (field, wire);
        loop {
            match wire {
                GROUP_START => {
                    let level = open.get_mut(depth).ok_or(malformed("groups are nested too deep"))?;
                    *level = field;
                    depth += 1;
                }
                GROUP_END => {
                    if depth == 0 || open[depth - 1] != field {
                        return Err(malformed("a group ends that did not begin"));
                    }
                    depth -= 1;
                }
                other => self.skip_value(other)?,
            }
            if depth == 0 {
                return Ok(());
            }
            (field, wire) = self.tag()?;
        }
    }

    fn skip_value(&mut self, wire: u8) -> Result<(), BodyError> {
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LEN => self.range().map(drop),
            FIXED32 if self.bytes.len() - self.at >= 4 => {
                self.at += 4;
                Ok(())
            }
            FIXED32 => Err(malformed("the message ends early")),
            _ => Err(malformed("a field has an unknown wire type")),
        }
    }
}

/// Fails unless a known field has its wire type.
#[inline]
pub(super) fn expect(wire: u8, expected: u8) -> Result<(), BodyError> {
    if wire == expected { Ok(()) } else { Err(malformed("a known field has another wire type")) }
}
