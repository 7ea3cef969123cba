//! Freeing rows of series that have nothing unflushed, and finding them again (C6).
//!
//! Knows that freeing is a decision of this replica alone: no verdict depends on it. Does not know when it is
//! worth it.

use super::{Head, row_at};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;

impl Head {
    /// Frees the rows without unflushed samples whose newest one is before `before_ms`. Gives their number.
    pub(crate) fn free_idle(&self, before_ms: i64) -> u64 {
        let writer = &mut *self.writer.lock();
        let sealed = self.views.pin().sealed();
        let mut freed = RoaringBitmap::new();
        for (number, stripe) in self.stripes.iter().enumerate() {
            let index = self.index.read();
            let stripe = stripe.read();
            for within in stripe.row_numbers() {
                let is_flushed =
                    || !sealed.iter().filter_map(|s| s.part(number)).any(|part| part.has(within));
                let row = row_at(number, within);
                if !index.is_free(row) && stripe.is_idle(within, before_ms) && is_flushed() {
                    freed.insert(row);
                }
            }
        }
        if freed.is_empty() {
            return 0;
        }
        writer.sessions.clear_rows(|row| freed.contains(row));
        let mut index = self.index.write();
        freed.iter().for_each(|row| index.free(row));
        drop(index);
        let index = self.index.read();
        // Only the writer changes the index, so it stays as it is between the two locks; readers go on meanwhile.
        let rebuilt = index.is_sparse().then(|| index.rebuilt());
        for (number, stripe) in self.stripes.iter().enumerate() {
            stripe.write().release_pages(|within| index.is_free(row_at(number, within)));
        }
        drop(index);
        if let Some(rebuilt) = rebuilt {
            *self.index.write() = rebuilt;
        }
        freed.len()
    }

    /// Sizes of the unflushed windows by start, without open chunks.
    pub(crate) fn window_sizes(&self) -> BTreeMap<i64, WindowSize> {
        let mut sizes: BTreeMap<i64, WindowSize> = BTreeMap::new();
        for stripe in &self.stripes {
            for window in stripe.read().windows() {
                let size = sizes.entry(window.start_ms()).or_default();
                size.memory_bytes += window.memory_bytes() as u64;
                size.late_bytes += window.late_bytes() as u64;
            }
        }
        sizes
    }
}

/// Memory of one window, without open chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WindowSize {
    /// All of it.
    pub(crate) memory_bytes: u64,
    /// What counts as late by what apply knows.
    pub(crate) late_bytes: u64,
}
