//! A published block as Views hold it. Its keys go when the last View that lists it has gone (C9).
//!
//! Knows when a block is out of use. Does not know why it was replaced.

use crate::block::{self, BlockMeta, BlockReader};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::uses::Hold;
use quorate_kv::Kv;
use quorate_model::TimeRange;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module header.
pub(crate) struct StoreBlock {
    kv: Arc<dyn Kv>,
    reader: Arc<BlockReader>,
    is_retired: AtomicBool,
    rank: Option<u32>,
    /// Ends when the keys of a replaced block are gone.
    _hold: Arc<Hold>,
}

impl std::fmt::Debug for StoreBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreBlock").field("meta", self.reader.meta()).finish_non_exhaustive()
    }
}

impl StoreBlock {
    /// Opens the block of a `cat` entry. `hold` is its store's.
    pub(crate) fn open(disk: &Disk, hold: &Arc<Hold>, meta: BlockMeta) -> Result<Arc<Self>, StoreError> {
        let rank = uniform_rank(&meta);
        let kv = Arc::clone(disk.kv());
        let reader = Arc::new(BlockReader::open(Arc::clone(&kv), Arc::clone(disk.cache()), meta)?);
        let _hold = Arc::clone(hold);
        Ok(Arc::new(Self { kv, reader, is_retired: AtomicBool::new(false), rank, _hold }))
    }

    /// The reader.
    pub(crate) fn reader(&self) -> &Arc<BlockReader> {
        &self.reader
    }

    /// The `cat` entry.
    pub(crate) fn meta(&self) -> &BlockMeta {
        self.reader.meta()
    }

    /// The lowest generation of every window in it, if that is the same for all.
    pub(crate) fn rank(&self) -> Option<u32> {
        self.rank
    }

    /// The times that it may hold.
    pub(crate) fn window(&self) -> TimeRange {
        let spec = &self.meta().spec;
        TimeRange::new(spec.window_start_ms, spec.window_start_ms.saturating_add(spec.window_length_ms - 1))
    }

    /// `cat` does not list the block any more: its keys go with the last View.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }
}

impl Drop for StoreBlock {
    fn drop(&mut self) {
        if !self.is_retired.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = block::remove(self.kv.as_ref(), self.meta().id()) {
            tracing::warn!(block = %self.meta().id(), %error, "replaced block stays until the next start");
        }
    }
}

fn uniform_rank(meta: &BlockMeta) -> Option<u32> {
    let mut lowest: BTreeMap<i64, u32> = BTreeMap::new();
    for generation in &meta.spec.generations {
        let rank = lowest.entry(generation.window_start_ms).or_insert(generation.generation);
        *rank = generation.generation.min(*rank);
    }
    let mut ranks = lowest.into_values();
    let first = ranks.next()?;
    ranks.all(|rank| rank == first).then_some(first)
}
