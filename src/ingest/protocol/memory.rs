//! What reading one request takes of memory beyond its body: a field of two bytes may become a hundred.

use super::BodyError;
use crate::in_flight::Held;

/// Bytes that are taken of the node at a time, so that most requests ask it once.
const STEP: usize = 64 << 10;

/// Counts what is read from a request and takes it of the node.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    limit: usize,
    used: usize,
    /// How much of the node's memory is taken for it; `used` stays below.
    taken: usize,
    held: Option<Held>,
}

impl Memory {
    /// Starts counting a request that may take `limit` bytes and holds `held` already.
    pub(crate) fn begin(limit: usize, held: Held) -> Self {
        Self { limit, used: 0, taken: 0, held: Some(held) }
    }

    /// Counts `bytes` before they are kept.
    #[inline]
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.used += bytes;
        if self.used <= self.taken { Ok(()) } else { self.take() }
    }

    #[cold]
    fn take(&mut self) -> Result<(), BodyError> {
        if self.used > self.limit {
            return Err(BodyError::Expands { limit: self.limit });
        }
        let step = (self.used - self.taken).max(STEP);
        if let Some(held) = &mut self.held {
            held.grow(step).map_err(BodyError::NoRoom)?;
        }
        self.taken += step;
        Ok(())
    }

    /// Bytes that were counted.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Ends counting and hands back what the request holds.
    pub(crate) fn end(&mut self) -> Held {
        self.held.take().unwrap_or_else(Held::unbounded)
    }
}
