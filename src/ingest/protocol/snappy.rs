//! Snappy blocks into a buffer that is used again. The declared size is checked before anything is allocated.

use super::{BodyError, malformed};
use crate::in_flight::Held;

/// A block cannot hold more than this many decoded bytes per encoded byte: its densest element copies 64 bytes
/// from 3. A larger claim is a lie, whatever the limit.
const MAX_RATIO: u64 = 22;

/// The decoded body. Keeps its capacity, up to a bound, between requests.
#[derive(Debug, Default)]
pub struct BodyBuffer {
    pub(super) bytes: Vec<u8>,
    /// Bytes of the last body; what stands behind them is older.
    len: usize,
}

impl BodyBuffer {
    /// Decodes `block`, at most `limit` bytes, which `held` takes of the node, and returns the decoded bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] if it declares more than `limit`, [`BodyError::Malformed`] if it is no block,
    /// [`BodyError::NoRoom`].
    pub fn decode(&mut self, block: &[u8], limit: usize, held: &mut Held) -> Result<&[u8], BodyError> {
        self.len = 0;
        let declared = declared_len(block)?;
        if declared > limit as u64 {
            return Err(BodyError::TooLarge { bytes: declared, limit: limit as u64 });
        }
        if declared > block.len() as u64 * MAX_RATIO {
            return Err(malformed("the snappy block is shorter than its declared size allows"));
        }
        let len = declared as usize;
        held.grow(len).map_err(BodyError::NoRoom)?;
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        let decoded = snap::raw::Decoder::new()
            .decompress(block, &mut self.bytes[..len])
            .map_err(|_| malformed("the body is not a snappy block"))?;
        if decoded != len {
            return Err(malformed("the snappy block is shorter than it declares"));
        }
        self.len = len;
        Ok(self.decoded())
    }

    /// The body that was decoded last.
    pub(crate) fn decoded(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Gives memory back if the last body was unusually large.
    pub fn shrink(&mut self, keep: usize) {
        self.len = 0;
        if self.bytes.len() > keep {
            self.bytes.truncate(keep);
            self.bytes.shrink_to(keep);
        }
    }
}

/// The varint at the start of a block. Read here because `snap` takes lengths up to 4 GiB for valid.
fn declared_len(block: &[u8]) -> Result<u64, BodyError> {
    let mut value = 0u64;
    for (at, byte) in block.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("the body is not a snappy block"))
}
