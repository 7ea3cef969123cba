//! Sealed generations: what a FlushMark or Delete cut, on its way into a block.
//!
//! Knows one (window, generation). Does not know blocks or `cat`.
//! Path: `head::apply` fills -> **here** -> `flush` writes, queries read.

use super::STRIPES;
use super::window::WindowStripe;
use std::sync::{Arc, OnceLock};

/// The content of one generation of one window. A stripe's part is there from the moment it is gone from the
/// stripe, so a reader who looks at the stripe first and here second misses nothing.
#[derive(Debug)]
pub(crate) struct SealedGeneration {
    window_start_ms: i64,
    generation: u32,
    parts: [OnceLock<Arc<WindowStripe>>; STRIPES],
}

impl SealedGeneration {
    /// A generation whose parts are still to be filled.
    pub(crate) fn new(window_start_ms: i64, generation: u32) -> Self {
        Self { window_start_ms, generation, parts: [const { OnceLock::new() }; STRIPES] }
    }

    /// First millisecond of the window.
    pub(crate) fn window_start_ms(&self) -> i64 {
        self.window_start_ms
    }

    /// Its number among the window's generations.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Sets the part of one stripe; called once for each.
    pub(crate) fn fill(&self, stripe: usize, part: WindowStripe) {
        let fresh = self.parts[stripe].set(Arc::new(part)).is_ok();
        debug_assert!(fresh, "a stripe's part is filled once");
    }

    /// The part of one stripe, or `None` while it is still in the stripe.
    pub(crate) fn part(&self, stripe: usize) -> Option<&Arc<WindowStripe>> {
        self.parts[stripe].get()
    }

    /// Whether every part is filled: the seal is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.get().is_some())
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.parts.iter().filter_map(OnceLock::get).map(|part| part.memory_bytes()).sum()
    }
}
