//! Numbers as bytes: little endian, varint and zigzag, and a reader that cannot run over the end.

use super::{RecordError, malformed};

/// Appends a varint: seven bits a byte, low bits first.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed varint: zigzag, so that small magnitudes are short.
#[inline]
pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends text with its length.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails with `what` unless everything has been read.
    pub(super) fn end(&self, what: &'static str) -> Result<(), RecordError> {
        if self.is_empty() { Ok(()) } else { Err(malformed(what)) }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(malformed("the bytes end early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(malformed("the bytes end early"))?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, RecordError> {
        Ok(f64::from_bits(self.u64()?))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, RecordError> {
        match self.0 {
            [first, tail @ ..] if *first < 0x80 => {
                self.0 = tail;
                Ok(u64::from(*first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, RecordError> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return Err(malformed("a varint is over 64 bits"));
            }
            value |= bits << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(malformed("a varint does not end"))
    }

    #[inline]
    pub(super) fn zigzag(&mut self) -> Result<i64, RecordError> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A varint that fits 32 bits.
    pub(super) fn varint_u32(&mut self) -> Result<u32, RecordError> {
        u32::try_from(self.varint()?).map_err(|_| malformed("a number is over 32 bits"))
    }

    /// A count of things of at least `least` bytes each, bounded by the bytes left.
    pub(super) fn count(&mut self, least: usize, what: &'static str) -> Result<usize, RecordError> {
        let count = self.varint()?;
        if count > (self.0.len() / least) as u64 {
            return Err(malformed(what));
        }
        Ok(count as usize)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, RecordError> {
        let len = self.count(1, "text is longer than the bytes")?;
        std::str::from_utf8(self.take(len)?).map_err(|_| malformed("text is not UTF-8"))
    }
}
