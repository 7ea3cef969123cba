//! The bytes that commands and images are made of: little-endian numbers, and texts as a length u32 and UTF-8.

use super::secret::Secret;

/// Bytes as they are written.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn secret(&mut self, secret: &Secret) {
        self.0.extend(secret.bytes());
    }

    /// Number of what follows.
    pub(super) fn count(&mut self, count: usize) {
        self.u32(count as u32);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.rest(text);
    }

    /// A text that ends with the bytes.
    pub(super) fn rest(&mut self, text: &str) {
        self.0.extend(text.as_bytes());
    }
}

/// Bytes that are not read yet.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".to_owned())
    }

    pub(super) fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, String> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn secret(&mut self) -> Result<Secret, String> {
        Ok(Secret(self.array()?))
    }

    /// Number of things of at least `least` bytes that follow: never more than there are bytes for.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, String> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least.max(1) {
            return Err(format!("it says that {count} follow, which do not fit"));
        }
        Ok(count)
    }

    pub(super) fn text(&mut self) -> Result<String, String> {
        let length = self.u32()? as usize;
        text(self.take(length)?)
    }

    pub(super) fn rest(&mut self) -> Result<String, String> {
        text(std::mem::take(&mut self.0))
    }

    /// Nothing is left over.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(format!("{left} bytes are left over")),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
}
