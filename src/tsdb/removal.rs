//! Removing a partition from a disk: its replica has moved to another node.
//!
//! Knows the order of durable steps: `cat` lists nothing first, synced; then keys and files. Each step may be the last
//! before a crash: what `cat` does not list goes at the next start, and a folder without an image is an empty partition.
//! Path: the node, once the group has let it go -> **here**.

use crate::block;
use crate::cat::{self, ImagePointer};
use crate::disk::Disk;
use crate::durable::sync_dir;
use crate::error::StoreError;
use crate::uses::Use;
use quorate_kv::{Cf, WriteBatch};
use quorate_model::PartitionId;
use std::path::Path;

impl Disk {
    /// Removes all that is stored of `partition`, whose folder is `dir`; what is not there is no error. Its store must
    /// be closed, and queries and offers that hold blocks of it have ended.
    ///
    /// # Errors
    /// [`StoreError::InUse`]: nothing was removed. [`StoreError::Kv`], [`StoreError::File`]: it can be called again.
    pub fn remove(&self, partition: PartitionId, dir: &Path) -> Result<(), StoreError> {
        let _install = self.uses().hold(partition, Use::Install)?;
        let _switch = self.uses().hold(partition, Use::Switch)?;
        let listed = cat::read(self.kv().as_ref(), partition)?;
        let mut batch = WriteBatch::new();
        for block in &listed.blocks {
            batch.delete(Cf::Cat, cat::block_key(partition, block.id()));
        }
        batch.delete(Cf::Cat, ImagePointer::key(partition));
        cat::commit(self.kv().as_ref(), partition, &batch)?;
        for block in &listed.blocks {
            block::remove(self.kv().as_ref(), block.id())?;
        }
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file(dir, error)),
            _ => dir.parent().map_or(Ok(()), sync_dir),
        }
    }
}
