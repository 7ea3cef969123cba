//! Taking: parts as they come, and the one write that makes them the partition's state (C10).
//!
//! Knows the order of durable steps: files and blocks first, synced; then one `cat` batch; old data last. Each step
//! may be the last before a crash. Does not know where bytes come from, nor the log.
//! Path: the caller -> [`Install::put`] -> `staging`; [`Install::finish`] -> `cat`.
//! T1: a block that `cat` lists here with the id and checksum of a part is that part. T2: a block comes under its
//! creator's id (C8), unless something stands under that id here: then under a new one, for keys that somebody may
//! read are never replaced.

use super::block_bytes::remove_rest;
use super::staging::Staging;
use super::{Description, InstallError, Part, PartKind};
use crate::background::image_path;
use crate::block::{self, BlockCache, BlockId, BlockMeta, BlockReader};
use crate::cat::{self, ImagePointer, Manifest};
use crate::disk::Disk;
use crate::durable::sync_dir;
use crate::error::StoreError;
use crate::image;
use crate::image_file;
use crate::series_file::SeriesFile;
use crate::series_log;
use crate::uses::{Hold, Use};
use quorate_kv::{Cf, WriteBatch};
use quorate_model::{ErrorCode, PartitionId, Position, create_dir_durable, failpoint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for the parts of a block that is being checked, apart from the node's cache.
const CACHE_BYTES: u64 = 16 << 20;
/// Places of the two files in a description.
const IMAGE: usize = 0;
const SERIES_LOG: usize = 1;

/// A part that is to be transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Place of the part in the description.
    pub part: usize,
    /// Byte at which to go on.
    pub offset: u64,
}

/// A state on its way into a partition. Dropped before [`Install::finish`] it leaves the partition as it was, and
/// whole parts in the partition's folder: the next install of this description, or of one that shares parts with
/// it, goes on from there.
#[derive(Debug)]
pub struct Install {
    disk: Arc<Disk>,
    dir: PathBuf,
    staging: Staging,
    /// Blocks that are in the store and listed nowhere, by part.
    ingested: BTreeMap<usize, BlockMeta>,
    /// Set when the state is in place.
    finished: bool,
    _hold: Hold,
}

impl Install {
    /// The parts of a described state that are not here yet: all but the blocks that the partition has.
    ///
    /// # Errors
    /// [`StoreError::Kv`], [`StoreError::Damaged`].
    pub fn wants(disk: &Disk, description: &Description) -> Result<Vec<usize>, StoreError> {
        let manifest = cat::read(disk.kv().as_ref(), description.partition())?;
        let parts = description.parts().iter().enumerate();
        Ok(parts.filter(|(_, part)| kept(&manifest, part).is_none()).map(|(number, _)| number).collect())
    }

    /// Begins to take the described state into `partition`, whose folder is `dir` as in `PartitionStore::open`. The
    /// store of the partition may be open meanwhile. Whole parts that an earlier install has left are checked and
    /// taken over, anything else that it left goes.
    ///
    /// # Errors
    /// [`InstallError::Description`] if it is of another partition; [`InstallError::Older`] than what is here;
    /// [`StoreError::InUse`] while there is another install of the partition; [`InstallError::Store`].
    pub fn begin(
        disk: &Arc<Disk>,
        dir: &Path,
        partition: PartitionId,
        description: Description,
    ) -> Result<Self, InstallError> {
        if description.partition() != partition {
            let detail = format!("is of partition {}, not of {partition}", description.partition());
            return Err(InstallError::Description { detail });
        }
        let _hold = disk.uses().hold(partition, Use::Install)?;
        check_age(&cat::read(disk.kv().as_ref(), partition)?, &description)?;
        create_dir_durable(dir).map_err(|e| StoreError::file(dir, e))?;
        let staging = Staging::open(dir, description)?;
        let (disk, dir) = (Arc::clone(disk), dir.to_owned());
        Ok(Self { disk, dir, staging, ingested: BTreeMap::new(), finished: false, _hold })
    }

    /// What is being taken.
    pub fn description(&self) -> &Description {
        self.staging.description()
    }

    /// The parts that are to be transferred, and from which byte on. Empty when [`Install::finish`] can be called. A
    /// part that was not wanted may become so: a running store drops blocks by merges and retention.
    ///
    /// # Errors
    /// As [`Install::wants`].
    pub fn missing(&self) -> Result<Vec<Missing>, StoreError> {
        if self.finished {
            return Ok(Vec::new());
        }
        let wanted = Self::wants(&self.disk, self.description())?.into_iter();
        let at = |part| self.staging.received(part).map(|offset| Missing { part, offset });
        Ok(wanted.filter_map(at).collect())
    }

    /// Adds bytes of a part behind those that are here. Parts may come in any order and turn by turn. Returns whether
    /// the part is whole; all of it was checked then.
    ///
    /// # Errors
    /// [`InstallError::OutOfPlace`] tells where to go on; [`InstallError::WrongBytes`]: the part begins anew;
    /// [`InstallError::Store`].
    pub fn put(&mut self, part: usize, offset: u64, bytes: &[u8]) -> Result<bool, InstallError> {
        self.staging.put(part, offset, bytes)
    }

    /// Takes the blocks that are whole into the store and compares their content with their checksums. This is the
    /// long part of [`Install::finish`], which does it too; called before, while the partition's store is open, it
    /// keeps the time short for which that must be closed.
    ///
    /// # Errors
    /// [`InstallError::WrongBytes`]: the block is to be transferred again; [`InstallError::Store`].
    pub fn prepare(&mut self) -> Result<(), InstallError> {
        for number in Self::wants(&self.disk, self.description())? {
            let part = self.description().parts()[number];
            let is_whole = self.staging.received(number).is_none();
            if part.kind == PartKind::Block && is_whole && !self.ingested.contains_key(&number) {
                let meta = self.ingest(number, BlockId(part.id))?;
                self.ingested.insert(number, meta);
                failpoint::hit("install.after_ingest");
            }
        }
        Ok(())
    }

    /// Makes the described state the partition's, and gives its position. The partition's store must be closed, and
    /// queries and offers that hold blocks of it have ended; it is opened again afterwards, and the log replayed from
    /// the position on. Calling it again changes nothing.
    ///
    /// # Errors
    /// The partition's state is the old one: [`StoreError::InUse`] if its store is not closed,
    /// [`InstallError::Incomplete`] if parts are missing, [`InstallError::Older`], [`InstallError::WrongBytes`],
    /// [`InstallError::Store`]. It can be called again; only a failure of the last write makes the two files missing.
    pub fn finish(&mut self) -> Result<Position, InstallError> {
        let position = self.description().position();
        if self.finished {
            return Ok(position);
        }
        let partition = self.description().partition();
        let _switching = self.disk.uses().hold(partition, Use::Switch)?;
        let parts = self.missing()?.len();
        if parts > 0 {
            return Err(InstallError::Incomplete { parts });
        }
        self.prepare()?;
        let old = cat::read(self.disk.kv().as_ref(), partition)?;
        check_age(&old, self.description())?;
        let blocks = self.new_blocks(&old)?;
        self.rehearse()?;
        let pointer = self.name_files(old.image.unwrap_or_default())?;
        failpoint::hit("install.before_cat");
        self.switch(&old, &blocks, &pointer)?;
        self.finished = true;
        failpoint::hit("install.after_cat");
        let replaced = old.blocks.iter().filter(|old| !blocks.iter().any(|new| new.id() == old.id()));
        replaced.for_each(|block| remove_rest(self.disk.kv().as_ref(), block.id()));
        self.staging.remove();
        Ok(position)
    }

    fn ingest(&mut self, number: usize, id: BlockId) -> Result<BlockMeta, InstallError> {
        let kv = self.disk.kv();
        // Before the keys are there, so that no block of this node comes under the id.
        self.disk.give_up_id(id)?;
        let id = if block::has_keys(kv.as_ref(), id)? { self.disk.next_id()? } else { id };
        let path = self.staging.path(number);
        let meta = self.staging.block(number, &path).ingest(kv.as_ref(), id)?;
        if let Err(error) = verify(&self.disk, &meta) {
            remove_rest(kv.as_ref(), id);
            if error.code() != ErrorCode::Corrupt {
                return Err(error.into());
            }
            self.staging.forget(number);
            return Err(InstallError::wrong(number, error.to_string()));
        }
        Ok(meta)
    }

    /// The blocks of the new state as `cat` will list them; each can be opened.
    fn new_blocks(&self, old: &Manifest) -> Result<Vec<BlockMeta>, InstallError> {
        let mut blocks = Vec::new();
        for (number, part) in self.description().parts().iter().enumerate() {
            if part.kind != PartKind::Block {
                continue;
            }
            let meta = kept(old, part).or_else(|| self.ingested.get(&number));
            let meta = meta.ok_or(InstallError::Incomplete { parts: 1 })?.clone();
            let (kv, cache) = (Arc::clone(self.disk.kv()), Arc::new(BlockCache::new(0)));
            BlockReader::open(kv, cache, meta.clone())?;
            blocks.push(meta);
        }
        Ok(blocks)
    }

    /// Loads the image and its series log as the next start will.
    fn rehearse(&mut self) -> Result<(), InstallError> {
        let description = self.description();
        let (partition, position) = (description.partition(), description.position());
        let (path, length) = (self.staging.path(SERIES_LOG), description.parts()[SERIES_LOG].length);
        let sections = image_file::read(&self.staging.path(IMAGE), partition, position);
        let load =
            |sections: Vec<_>| image::rehearse(&sections, |visit| series_log::read(&path, length, visit));
        match sections.and_then(load) {
            Err(error) if error.code() == ErrorCode::Corrupt => {
                [IMAGE, SERIES_LOG].into_iter().for_each(|number| self.staging.forget(number));
                Err(InstallError::wrong(IMAGE, error.to_string()))
            }
            loaded => Ok(loaded?),
        }
    }

    /// Moves the two files, which are synced, to names that nothing has.
    fn name_files(&mut self, old: ImagePointer) -> Result<ImagePointer, InstallError> {
        let pointer = ImagePointer {
            position: self.description().position(),
            image: old.image + 1,
            series_log: old.series_log + 1,
            series_log_len: self.description().parts()[SERIES_LOG].length,
        };
        let names = [image_path(&self.dir, pointer.image), SeriesFile::path(&self.dir, pointer.series_log)];
        for (number, name) in [IMAGE, SERIES_LOG].into_iter().zip(&names) {
            let path = self.staging.path(number);
            std::fs::rename(&path, name).map_err(|e| StoreError::file(&path, e))?;
            self.staging.forget(number);
        }
        sync_dir(&self.dir)?;
        Ok(pointer)
    }

    /// One synced batch: the partition's whole entry.
    fn switch(&self, old: &Manifest, blocks: &[BlockMeta], pointer: &ImagePointer) -> Result<(), StoreError> {
        let partition = self.description().partition();
        let mut batch = WriteBatch::new();
        for block in &old.blocks {
            batch.delete(Cf::Cat, cat::block_key(partition, block.id()));
        }
        for block in blocks {
            batch.put(Cf::Cat, cat::block_key(partition, block.id()), block.encode());
        }
        batch.put(Cf::Cat, ImagePointer::key(partition), pointer.encode());
        cat::commit(self.disk.kv().as_ref(), partition, &batch)
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if !self.finished {
            self.ingested.values().for_each(|block| remove_rest(self.disk.kv().as_ref(), block.id()));
        }
    }
}

/// The listed block that a part is (T1).
fn kept<'a>(manifest: &'a Manifest, part: &Part) -> Option<&'a BlockMeta> {
    let is_it = |meta: &&BlockMeta| meta.id().0 == part.id && meta.content_checksum == part.checksum;
    manifest.blocks.iter().filter(|_| part.kind == PartKind::Block).find(is_it)
}

fn check_age(manifest: &Manifest, description: &Description) -> Result<(), InstallError> {
    let (offered, held) = (description.position(), manifest.image.unwrap_or_default().position);
    if offered < held { Err(InstallError::Older { offered, held }) } else { Ok(()) }
}

fn verify(disk: &Disk, meta: &BlockMeta) -> Result<(), StoreError> {
    let cache = Arc::new(BlockCache::new(CACHE_BYTES));
    BlockReader::open(Arc::clone(disk.kv()), cache, meta.clone())?.verify()
}
