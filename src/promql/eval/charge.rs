//! Memory that was charged to a query and is given back when its owner goes.

use crate::engine::{QueryError, QueryGuard};

/// A number of bytes charged to a guard.
pub(crate) struct Charge<'q> {
    guard: &'q dyn QueryGuard,
    bytes: u64,
}

impl<'q> Charge<'q> {
    /// Charges `bytes`.
    pub(crate) fn new(guard: &'q dyn QueryGuard, bytes: u64) -> Result<Self, QueryError> {
        guard.charge(bytes)?;
        Ok(Self { guard, bytes })
    }

    /// Charges `bytes` more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), QueryError> {
        self.guard.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Charges what is missing to `bytes`; never gives back.
    pub(crate) fn at_least(&mut self, bytes: u64) -> Result<(), QueryError> {
        if bytes > self.bytes { self.add(bytes - self.bytes) } else { Ok(()) }
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.guard.release(self.bytes);
    }
}
