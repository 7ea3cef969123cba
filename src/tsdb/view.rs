//! Views: what a query pins (C9).
//!
//! Knows blocks and sealed generations. Does not know rows, matchers or files.
//! Path: `head::apply` seals into, `publish` swaps -> **here** -> `selection` pins.
//! V1: a View's block list never changes. V2: a generation that is sealed is added to every View that somebody
//! still holds, before the first sample leaves its stripe; so a query that copies a stripe first and asks its View
//! second sees every sample. What both places show is the same sample, and reads count it once.

use crate::head::SealedGeneration;
use crate::store_block::StoreBlock;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use std::sync::{Arc, Weak};

/// One state of a partition's storage.
#[derive(Debug, Default)]
pub(crate) struct View {
    blocks: Vec<Arc<StoreBlock>>,
    sealed: RwLock<Vec<Arc<SealedGeneration>>>,
}

impl View {
    /// The published blocks.
    pub(crate) fn blocks(&self) -> &[Arc<StoreBlock>] {
        &self.blocks
    }

    /// Sealed generations that are not in the blocks, as of now.
    pub(crate) fn sealed(&self) -> Vec<Arc<SealedGeneration>> {
        self.sealed.read().clone()
    }

    /// Visits the same without copying the list.
    pub(crate) fn for_each_sealed(&self, visit: impl FnMut(&Arc<SealedGeneration>)) {
        self.sealed.read().iter().for_each(visit);
    }

    /// Whether a block holds this generation of the window.
    pub(crate) fn lists(&self, window_start_ms: i64, generation: u32) -> bool {
        self.blocks.iter().any(|block| block.meta().lists(window_start_ms, generation))
    }
}

/// The newest View, and all that are still held.
#[derive(Debug)]
pub(crate) struct Views {
    current: ArcSwap<View>,
    held: Mutex<Vec<Weak<View>>>,
}

impl Views {
    /// Begins with these blocks and nothing sealed.
    pub(crate) fn new(blocks: Vec<Arc<StoreBlock>>) -> Self {
        let view = Arc::new(View { blocks, sealed: RwLock::default() });
        let held = Mutex::new(vec![Arc::downgrade(&view)]);
        Self { current: ArcSwap::new(view), held }
    }

    /// Pins the newest View.
    pub(crate) fn pin(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Adds a sealed generation to every View in use (V2).
    pub(crate) fn seal(&self, sealed: &Arc<SealedGeneration>) {
        let mut held = self.held.lock();
        held.retain(|view| {
            let view = view.upgrade();
            view.inspect(|v| v.sealed.write().push(Arc::clone(sealed))).is_some()
        });
    }

    /// Makes a new View current: the blocks that `change` makes of the old ones, and what they do not hold of
    /// the sealed generations.
    pub(crate) fn publish(&self, change: impl FnOnce(&[Arc<StoreBlock>]) -> Vec<Arc<StoreBlock>>) {
        let mut held = self.held.lock();
        let old = self.current.load_full();
        let view = View { blocks: change(&old.blocks), sealed: RwLock::default() };
        let mut sealed = old.sealed();
        sealed.retain(|s| !view.lists(s.window_start_ms(), s.generation()));
        *view.sealed.write() = sealed;
        let view = Arc::new(view);
        held.push(Arc::downgrade(&view));
        self.current.store(view);
    }
}
