//! A published block as a View holds it: its entry in `cat`, and the reader of its pages and index.

use crate::cat::BlockEntry;

/// See the module header.
#[derive(Debug)]
pub(crate) struct StoreBlock {
    entry: BlockEntry,
}

impl StoreBlock {
    /// Whether the block holds this generation of the window.
    pub(crate) fn lists(&self, window_start_ms: i64, generation: u32) -> bool {
        self.entry.lists(window_start_ms, generation)
    }
}
