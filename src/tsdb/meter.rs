//! What stands over a long read: may it go on, and what does it take.
//!
//! Path: `query` gives a meter -> **here** -> `selection`, `labels` ask it again and again.

use crate::error::StoreError;

/// Items that are read between two questions.
pub(crate) const ITEMS_PER_QUESTION: usize = 1024;

/// Asked by long reads before they go on and before they allocate.
pub trait ReadMeter {
    /// Whether the read may go on and take `bytes` more; nothing is taken otherwise.
    fn proceed(&self, bytes: u64) -> bool;

    /// Takes back `bytes` that were granted.
    fn give_back(&self, bytes: u64);
}

/// A meter that never objects, for callers without limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmetered;

impl ReadMeter for Unmetered {
    fn proceed(&self, _bytes: u64) -> bool {
        true
    }

    fn give_back(&self, _bytes: u64) {}
}

/// Asks `meter`; its refusal is [`StoreError::Stopped`].
pub(crate) fn ask(meter: &dyn ReadMeter, bytes: u64) -> Result<(), StoreError> {
    if meter.proceed(bytes) { Ok(()) } else { Err(StoreError::Stopped) }
}
