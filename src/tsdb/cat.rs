//! `cat`: the manifest. A block, an image or a series log exists if and only if it is listed here (C8).
//!
//! Knows the keys of one column family and the value of images; the value of a block is [`BlockMeta`]. Does not
//! know what is inside blocks and images. Path: `background`, `disk` -> **here** -> `kv`.
//! Keys: partition u32, kind u8 (1 block, 2 image), for a block its id u64; all big endian. Format:
//! `docs/formats/image.md` and `docs/formats/block.md`.

use crate::block::{BlockId, BlockMeta};
use crate::error::StoreError;
use quorate_kv::{Cf, Durability, KeyRange, Kv, KvError, KvRead, WriteBatch};
use quorate_model::{PartitionId, Position};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

const VERSION: u8 = 1;
const BLOCK: u8 = 1;
const IMAGE: u8 = 2;

/// Which files hold the newest durable image of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImagePointer {
    /// The state's place in the log.
    pub position: Position,
    /// Number in the image file's name.
    pub image: u64,
    /// Number in the series log's name.
    pub series_log: u64,
    /// Valid bytes of the series log.
    pub series_log_len: u64,
}

impl ImagePointer {
    /// The key under which it stands.
    pub fn key(partition: PartitionId) -> Vec<u8> {
        partition_key(partition, IMAGE)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.position.0, self.image, self.series_log, self.series_log_len] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = value;
        let [version] = take(&mut rest)?;
        let mut number = || take(&mut rest).map(u64::from_be_bytes);
        let (position, image) = (Position(number()?), number()?);
        let (series_log, series_log_len) = (number()?, number()?);
        let pointer = Self { position, image, series_log, series_log_len };
        (version == VERSION && rest.is_empty()).then_some(pointer)
    }
}

/// The key of a block's entry.
pub fn block_key(partition: PartitionId, id: BlockId) -> Vec<u8> {
    let mut key = partition_key(partition, BLOCK);
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

/// Everything listed of one partition.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Its blocks by id.
    pub blocks: Vec<BlockMeta>,
    /// Its image, if one was ever cut.
    pub image: Option<ImagePointer>,
}

/// Reads what is listed of one partition.
///
/// # Errors
/// [`StoreError::Kv`]; [`StoreError::Damaged`] for an entry that does not decode or stands under a wrong key.
pub fn read(kv: &dyn KvRead, partition: PartitionId) -> Result<Manifest, StoreError> {
    let mut manifest = Manifest::default();
    for (key, value) in scan(kv, &KeyRange::prefix(&partition.0.to_be_bytes()))? {
        match parse_key(&key) {
            Some((IMAGE, None)) => {
                manifest.image = Some(ImagePointer::decode(&value).ok_or_else(|| damaged(&key))?);
            }
            Some((BLOCK, Some(id))) => {
                let meta = BlockMeta::decode(&value)?;
                if meta.id() != id || meta.spec.partition != partition {
                    return Err(damaged(&key));
                }
                manifest.blocks.push(meta);
            }
            _ => return Err(damaged(&key)),
        }
    }
    Ok(manifest)
}

/// Ids of the listed blocks of every partition in this store.
///
/// # Errors
/// As [`read`].
pub fn all_block_ids(kv: &dyn KvRead) -> Result<BTreeSet<BlockId>, StoreError> {
    let mut ids = BTreeSet::new();
    for (key, _) in scan(kv, &KeyRange::all())? {
        match parse_key(&key) {
            Some((BLOCK, Some(id))) => {
                ids.insert(id);
            }
            Some((IMAGE, None)) => {}
            _ => return Err(damaged(&key)),
        }
    }
    Ok(ids)
}

/// Writes to `cat`, synced. An error means no effect; when that is not certain the process ends, for only opening the
/// partition again tells what `cat` lists (K5).
///
/// # Errors
/// [`StoreError::Kv`].
pub(crate) fn commit(kv: &dyn Kv, partition: PartitionId, batch: &WriteBatch) -> Result<(), StoreError> {
    let written = kv.write(batch, Durability::Synced);
    if let Err(error @ (KvError::Io { .. } | KvError::Corrupt { .. })) = &written {
        tracing::error!(
            %partition,
            %error,
            "a write to the manifest failed with an unknown effect; the process ends"
        );
        std::process::abort();
    }
    Ok(written?)
}

type Pair = (Vec<u8>, Vec<u8>);

fn scan(kv: &dyn KvRead, range: &KeyRange) -> Result<Vec<Pair>, StoreError> {
    let mut found = Vec::new();
    kv.scan(Cf::Cat, range, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Kind and block id of a key.
fn parse_key(key: &[u8]) -> Option<(u8, Option<BlockId>)> {
    let mut rest = key;
    let [_, _, _, _, kind] = take(&mut rest)?;
    let id = if rest.is_empty() { None } else { Some(BlockId(take(&mut rest).map(u64::from_be_bytes)?)) };
    rest.is_empty().then_some((kind, id))
}

fn partition_key(partition: PartitionId, kind: u8) -> Vec<u8> {
    let mut key = partition.0.to_be_bytes().to_vec();
    key.push(kind);
    key
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*taken)
}

fn damaged(key: &[u8]) -> StoreError {
    let detail = "entry does not decode, or is of a newer version".to_owned();
    StoreError::Damaged { place: format!("cat key {key:02x?}"), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_kv::MemKv;

    fn pointer() -> ImagePointer {
        ImagePointer { position: Position(7), image: 1, series_log: 2, series_log_len: 3 }
    }

    fn store(key: Vec<u8>, value: Vec<u8>) -> MemKv {
        let kv = MemKv::default();
        let mut batch = WriteBatch::new();
        batch.put(Cf::Cat, key, value);
        kv.write(&batch, Durability::Synced).unwrap();
        kv
    }

    #[test]
    fn an_image_is_read_back_for_its_partition_only() {
        let kv = store(ImagePointer::key(PartitionId(1)), pointer().encode());
        assert_eq!(read(&kv, PartitionId(1)).unwrap().image, Some(pointer()));
        assert_eq!(read(&kv, PartitionId(256)).unwrap().image, None);
    }

    #[test]
    fn entries_of_another_version_and_unknown_keys_are_damage() {
        let mut value = pointer().encode();
        value[0] = 2;
        let kv = store(ImagePointer::key(PartitionId(1)), value);
        assert!(matches!(read(&kv, PartitionId(1)), Err(StoreError::Damaged { .. })));
        let kv = store(partition_key(PartitionId(1), 9), pointer().encode());
        assert!(matches!(read(&kv, PartitionId(1)), Err(StoreError::Damaged { .. })));
        assert!(matches!(all_block_ids(&kv), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let hex: String = pointer().encode().iter().map(|b| format!("{b:02x}")).collect();
        let numbers = ["0000000000000007", "0000000000000001", "0000000000000002", "0000000000000003"];
        assert_eq!(hex, format!("01{}", numbers.concat()));
        assert_eq!(block_key(PartitionId(1), BlockId(2)), [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
}
