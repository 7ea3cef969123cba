//! Memory that was charged to a query and is given back when its owner goes.

use crate::engine::{QueryError, QueryGuard};

/// A number of bytes charged to a guard.
pub(crate) struct Charge<'q> {
    guard: &'q dyn QueryGuard,
    bytes: u64,
}

impl<'q> Charge<'q> {
    /// Nothing is charged yet.
    pub(crate) fn empty(guard: &'q dyn QueryGuard) -> Self {
        Self { guard, bytes: 0 }
    }

    /// Takes over what another has charged.
    pub(crate) fn taken_over(guard: &'q dyn QueryGuard, bytes: u64) -> Self {
        Self { guard, bytes }
    }

    /// Charges `bytes`.
    pub(crate) fn new(guard: &'q dyn QueryGuard, bytes: u64) -> Result<Self, QueryError> {
        guard.charge(bytes)?;
        Ok(Self { guard, bytes })
    }

    /// Charges `bytes` more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), QueryError> {
        if bytes > 0 {
            self.guard.charge(bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Charges what is missing to `bytes`; never gives back.
    pub(crate) fn at_least(&mut self, bytes: u64) -> Result<(), QueryError> {
        self.add(bytes.saturating_sub(self.bytes))
    }

    /// Leaves the bytes charged: their owner lives on after the evaluation.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.guard.release(self.bytes);
        }
    }
}
