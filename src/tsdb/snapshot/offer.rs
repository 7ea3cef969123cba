//! Giving: what a store holds durably, kept readable until the taker has it.
//!
//! Knows open files and blocks. Does not know who reads or how long: a caller that waits for a taker drops the offer
//! when its time is over. Path: [`PartitionStore::offer`] -> [`Offer::read`].
//! N1 holds because files stay readable while they are open, the valid bytes of a series log never change, and a
//! block's keys go when the last holder of it has gone (C9). The image is pinned before the blocks: those may be of
//! later than the image, as after a crash, and must never lack what the image leaves out.

use super::block_bytes::BlockBytes;
use super::{Description, MAX_READ, Part, PartKind};
use crate::background::PinnedImage;
use crate::error::StoreError;
use crate::partition_store::PartitionStore;
use crate::store_block::StoreBlock;
use quorate_kv::Kv;
use quorate_model::PartitionId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A state of a partition that can be read part by part, by several readers at once. Nothing of it is deleted while
/// this lives, so it must not live longer than somebody needs it, nor longer than its store is open.
pub struct Offer {
    kv: Arc<dyn Kv>,
    description: Description,
    sources: Vec<Source>,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("description", &self.description).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, file: File, length: u64 },
    Block(BlockBytes),
}

impl PartitionStore {
    /// Offers the state of the last durable image with the blocks of now; cuts an image first if there is none.
    /// Reads the files once, for their checksums, and no block.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be read, or an image not be cut.
    pub fn offer(&self) -> Result<Offer, StoreError> {
        let image = self.background.pin_image()?;
        let mut blocks = self.views.pin().blocks().to_vec();
        blocks.sort_by_key(|block| block.meta().id());
        Offer::new(Arc::clone(self.background.kv()), self.partition(), image, blocks)
    }
}

impl Offer {
    fn new(
        kv: Arc<dyn Kv>,
        partition: PartitionId,
        image: PinnedImage,
        blocks: Vec<Arc<StoreBlock>>,
    ) -> Result<Self, StoreError> {
        let PinnedImage { pointer, image: (path, file), series_log } = image;
        let image_len = file.metadata().map_err(|e| StoreError::file(&path, e))?.len();
        let files = [
            (PartKind::Image, pointer.image, image_len, (path, file)),
            (PartKind::SeriesLog, pointer.series_log, pointer.series_log_len, series_log),
        ];
        let (mut parts, mut sources) = (Vec::new(), Vec::new());
        for (kind, id, length, (path, file)) in files {
            let checksum = u64::from(checksum_of(&file, &path, length)?);
            parts.push(Part { kind, id, length, checksum });
            sources.push(Source::File { path, file, length });
        }
        for block in blocks {
            let (id, checksum) = (block.meta().id().0, block.meta().content_checksum);
            let bytes = BlockBytes::new(block);
            parts.push(Part { kind: PartKind::Block, id, length: bytes.length(), checksum });
            sources.push(Source::Block(bytes));
        }
        Ok(Self { kv, description: Description::new(partition, pointer.position, parts), sources })
    }

    /// What is offered.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Bytes of a part from `offset` on: as many as `max_len` and [`MAX_READ`] allow, fewer at the end of the part,
    /// none behind it. Cheap where another read ended.
    ///
    /// # Errors
    /// [`StoreError::NoPart`]; [`StoreError::Damaged`] if what is stored is damaged, so that nothing damaged leaves;
    /// [`StoreError::Kv`], [`StoreError::File`].
    pub fn read(&self, part: usize, offset: u64, max_len: usize) -> Result<Vec<u8>, StoreError> {
        let max_len = max_len.min(MAX_READ);
        match self.sources.get(part).ok_or(StoreError::NoPart { part })? {
            Source::Block(bytes) => bytes.read(self.kv.as_ref(), offset, max_len),
            Source::File { path, file, length } => {
                let mut out = vec![0; length.saturating_sub(offset).min(max_len as u64) as usize];
                file.read_exact_at(&mut out, offset).map_err(|e| StoreError::file(path, e))?;
                Ok(out)
            }
        }
    }
}

/// CRC32C of the first `length` bytes of a file.
pub(super) fn checksum_of(file: &File, path: &Path, length: u64) -> Result<u32, StoreError> {
    let mut buffer = vec![0; length.min(MAX_READ as u64) as usize];
    let (mut at, mut checksum) = (0, 0);
    while at < length {
        let some = buffer.len().min((length - at) as usize);
        file.read_exact_at(&mut buffer[..some], at).map_err(|e| StoreError::file(path, e))?;
        checksum = crc32c::crc32c_append(checksum, &buffer[..some]);
        at += some as u64;
    }
    Ok(checksum)
}
