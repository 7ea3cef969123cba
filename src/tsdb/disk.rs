//! What all partitions on one data disk share: the store, the block cache and the block ids.
//!
//! Knows block ids. Does not know partitions' content. Path: server start -> [`Disk::open`] -> `partition_store`.
//! C8: an id is a node number and a durable counter, reserved in steps, so that it is never used twice; keys of
//! ids that `cat` does not list are the rest of an unfinished flush or merge and go at start.

use crate::block::{self, BlockCache, BlockId};
use crate::cat;
use crate::error::StoreError;
use crate::uses::Uses;
use parking_lot::Mutex;
use quorate_kv::{Cf, Durability, Kv, WriteBatch};
use std::sync::Arc;

const RESERVED: u64 = 1024;

/// See the module header.
pub struct Disk {
    kv: Arc<dyn Kv>,
    cache: Arc<BlockCache>,
    node: u16,
    ids: Mutex<Ids>,
    uses: Arc<Uses>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("node", &self.node).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Ids {
    next: u64,
    reserved: u64,
}

impl Disk {
    /// Opens the disk of node number `node`, once for each store. Removes what no partition lists.
    ///
    /// # Errors
    /// [`StoreError::Kv`]; [`StoreError::Damaged`] if the manifest or the counter does not decode.
    pub fn open(kv: Arc<dyn Kv>, node: u16, cache_bytes: u64) -> Result<Arc<Self>, StoreError> {
        let listed = cat::all_block_ids(kv.as_ref())?;
        for orphan in block::stored_ids(kv.as_ref())?.difference(&listed) {
            tracing::info!(block = %orphan, "removing a block that was never published");
            block::remove(kv.as_ref(), *orphan)?;
        }
        let stored = kv.get(Cf::Ctl, &counter_key(node))?;
        let next = match stored.as_deref().map(<[u8; 8]>::try_from) {
            None => 1,
            Some(Ok(counter)) => u64::from_be_bytes(counter),
            Some(Err(_)) => {
                let detail = "is no number".to_owned();
                return Err(StoreError::Damaged { place: "block counter".to_owned(), detail });
            }
        };
        let ids = Mutex::new(Ids { next, reserved: next });
        let cache = Arc::new(BlockCache::new(cache_bytes));
        Ok(Arc::new(Self { kv, cache, node, ids, uses: Arc::default() }))
    }

    /// The store.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// The cache of decoded parts of blocks.
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// Who uses which partition.
    pub(crate) fn uses(&self) -> &Arc<Uses> {
        &self.uses
    }

    /// An id that no block ever had.
    pub(crate) fn next_id(&self) -> Result<BlockId, StoreError> {
        let mut ids = self.ids.lock();
        if ids.next == ids.reserved {
            self.reserve(&mut ids, 0)?;
        }
        ids.next += 1;
        Ok(BlockId::new(self.node, ids.next - 1))
    }

    /// Never gives `id` from now on: another node brings a block under it. A node that lost its disk meets its own
    /// blocks so.
    ///
    /// # Errors
    /// [`StoreError::Kv`]; [`StoreError::Damaged`] if no number would be left.
    pub(crate) fn give_up_id(&self, id: BlockId) -> Result<(), StoreError> {
        let mut ids = self.ids.lock();
        if id.node() != self.node || id.counter() < ids.next {
            return Ok(());
        }
        let skipped = id.counter() + 1 - ids.next;
        if id.counter() >= ids.reserved {
            self.reserve(&mut ids, skipped)?;
        }
        ids.next += skipped;
        Ok(())
    }

    /// Reserves a further step of numbers, and `more`.
    fn reserve(&self, ids: &mut Ids, more: u64) -> Result<(), StoreError> {
        let reserved = ids.reserved + more + RESERVED;
        if reserved > BlockId::MAX_COUNTER {
            let detail = format!("would pass its end, {}", BlockId::MAX_COUNTER);
            return Err(StoreError::Damaged { place: "block counter".to_owned(), detail });
        }
        let mut batch = WriteBatch::new();
        batch.put(Cf::Ctl, counter_key(self.node), reserved.to_be_bytes());
        self.kv.write(&batch, Durability::Synced)?;
        ids.reserved = reserved;
        Ok(())
    }
}

fn counter_key(node: u16) -> Vec<u8> {
    [b"tsdb/block-counter/".as_slice(), &node.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_kv::MemKv;

    #[test]
    fn ids_are_never_given_twice_over_restarts() {
        let kv: Arc<dyn Kv> = Arc::new(MemKv::default());
        let mut last = BlockId(0);
        for _ in 0..3 {
            let disk = Disk::open(Arc::clone(&kv), 7, 1 << 20).unwrap();
            for _ in 0..1500 {
                let id = disk.next_id().unwrap();
                assert!(id > last && id.node() == 7);
                last = id;
            }
        }
    }

    #[test]
    fn an_id_that_came_from_elsewhere_is_not_given_again() {
        let kv: Arc<dyn Kv> = Arc::new(MemKv::default());
        let disk = Disk::open(Arc::clone(&kv), 7, 1 << 20).unwrap();
        disk.give_up_id(BlockId::new(7, 3)).unwrap();
        disk.give_up_id(BlockId::new(8, 900)).unwrap();
        assert_eq!(disk.next_id().unwrap(), BlockId::new(7, 4));
        disk.give_up_id(BlockId::new(7, 2)).unwrap();
        disk.give_up_id(BlockId::new(7, 90_000)).unwrap();
        assert_eq!(disk.next_id().unwrap(), BlockId::new(7, 90_001));
        assert!(disk.give_up_id(BlockId::new(7, BlockId::MAX_COUNTER)).is_err());
        assert_eq!(disk.next_id().unwrap(), BlockId::new(7, 90_002));
        let disk = Disk::open(kv, 7, 1 << 20).unwrap();
        assert!(disk.next_id().unwrap() > BlockId::new(7, 90_002));
    }

    #[test]
    fn the_stored_counter_does_not_change() {
        let kv: Arc<dyn Kv> = Arc::new(MemKv::default());
        Disk::open(Arc::clone(&kv), 0x0102, 1 << 20).unwrap().next_id().unwrap();
        let counter = kv.get(Cf::Ctl, b"tsdb/block-counter/\x01\x02").unwrap().unwrap();
        assert_eq!(counter, [0, 0, 0, 0, 0, 0, 0x04, 0x01]);
    }
}
