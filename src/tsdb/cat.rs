//! `cat`: the manifest. A block, an image or a series log exists if and only if it is listed here (C8).
//!
//! Knows the keys and values of one column family. Does not know what is inside blocks and images.
//! Path: `publish`, `image` -> **here** -> `kv`. Format: `docs/formats/cat.md`.
//! Keys: partition u32, kind u8 (1 block, 2 image), for a block its id u64; all big endian.

use crate::error::StoreError;
use quorate_chunk::varint;
use quorate_kv::{Cf, KeyRange, KvRead};
use quorate_model::{PartitionId, Position};
use std::ops::ControlFlow;

const VERSION: u8 = 1;
const BLOCK: u8 = 1;
const IMAGE: u8 = 2;

/// The generations of one window that a block holds: `first` to `last`, none missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generations {
    /// First millisecond of the window.
    pub window_start_ms: i64,
    /// Lowest generation.
    pub first: u32,
    /// Highest generation.
    pub last: u32,
}

/// What is listed of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockEntry {
    /// Its id: creating node u16 and a durable counter u48. Never used twice.
    pub id: u64,
    /// First millisecond that it covers.
    pub start_ms: i64,
    /// Milliseconds that it covers.
    pub length_ms: i64,
    /// 0 for a flushed window, 1 for a merged day.
    pub tier: u8,
    /// What it holds, by window.
    pub generations: Vec<Generations>,
    /// Checksum over series, times, bits and lanes in their order.
    pub checksum: u64,
}

impl BlockEntry {
    /// The generations of one window.
    pub fn of_window(&self, window_start_ms: i64) -> Option<Generations> {
        let found = self.generations.binary_search_by_key(&window_start_ms, |g| g.window_start_ms);
        found.ok().map(|at| self.generations[at])
    }

    /// Whether the block holds this generation of the window.
    pub fn lists(&self, window_start_ms: i64, generation: u32) -> bool {
        self.of_window(window_start_ms).is_some_and(|g| (g.first..=g.last).contains(&generation))
    }

    /// The key under which the entry stands.
    pub fn key(&self, partition: PartitionId) -> Vec<u8> {
        block_key(partition, self.id)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.start_ms.to_be_bytes());
        out.extend_from_slice(&self.length_ms.to_be_bytes());
        out.push(self.tier);
        out.extend_from_slice(&self.checksum.to_be_bytes());
        varint::put(&mut out, self.generations.len() as u64);
        for generations in &self.generations {
            out.extend_from_slice(&generations.window_start_ms.to_be_bytes());
            varint::put(&mut out, u64::from(generations.first));
            varint::put(&mut out, u64::from(generations.last));
        }
        out
    }

    fn decode(id: u64, value: &[u8]) -> Option<Self> {
        let mut rest = value;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return None;
        }
        let start_ms = take(&mut rest).map(i64::from_be_bytes)?;
        let length_ms = take(&mut rest).map(i64::from_be_bytes)?;
        let [tier] = take(&mut rest)?;
        let checksum = take(&mut rest).map(u64::from_be_bytes)?;
        let mut generations = Vec::new();
        for _ in 0..varint::take(&mut rest)? {
            let window_start_ms = take(&mut rest).map(i64::from_be_bytes)?;
            let first = u32::try_from(varint::take(&mut rest)?).ok()?;
            let last = u32::try_from(varint::take(&mut rest)?).ok()?;
            generations.push(Generations { window_start_ms, first, last });
        }
        rest.is_empty().then_some(Self { id, start_ms, length_ms, tier, generations, checksum })
    }
}

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

/// Everything listed of one partition.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Its blocks by id.
    pub blocks: Vec<BlockEntry>,
    /// Its image, if one was ever cut.
    pub image: Option<ImagePointer>,
}

/// Reads what is listed of one partition.
///
/// # Errors
/// [`StoreError::Kv`]; [`StoreError::Damaged`] for an entry that does not decode.
pub fn read(kv: &dyn KvRead, partition: PartitionId) -> Result<Manifest, StoreError> {
    let mut manifest = Manifest::default();
    for (key, value) in scan(kv, &KeyRange::prefix(&partition.0.to_be_bytes()))? {
        match parse_key(&key) {
            Some((_, IMAGE, None)) => {
                manifest.image = Some(ImagePointer::decode(&value).ok_or_else(|| damaged(&key))?);
            }
            Some((_, BLOCK, Some(id))) => {
                manifest.blocks.push(BlockEntry::decode(id, &value).ok_or_else(|| damaged(&key))?);
            }
            _ => return Err(damaged(&key)),
        }
    }
    Ok(manifest)
}

/// Ids of the blocks of every partition in this store.
///
/// # Errors
/// As [`read`].
pub fn all_block_ids(kv: &dyn KvRead) -> Result<Vec<u64>, StoreError> {
    let mut ids = Vec::new();
    for (key, _) in scan(kv, &KeyRange::all())? {
        match parse_key(&key) {
            Some((_, BLOCK, Some(id))) => ids.push(id),
            Some((_, IMAGE, None)) => {}
            _ => return Err(damaged(&key)),
        }
    }
    Ok(ids)
}

fn scan(kv: &dyn KvRead, range: &KeyRange) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    let mut found = Vec::new();
    kv.scan(Cf::Cat, range, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn parse_key(key: &[u8]) -> Option<(PartitionId, u8, Option<u64>)> {
    let mut rest = key;
    let partition = PartitionId(take(&mut rest).map(u32::from_be_bytes)?);
    let [kind] = take(&mut rest)?;
    let id = if rest.is_empty() { None } else { Some(take(&mut rest).map(u64::from_be_bytes)?) };
    rest.is_empty().then_some((partition, kind, id))
}

fn block_key(partition: PartitionId, id: u64) -> Vec<u8> {
    let mut key = partition_key(partition, BLOCK);
    key.extend_from_slice(&id.to_be_bytes());
    key
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
    use quorate_kv::{Durability, Kv, MemKv, WriteBatch};

    fn entry(id: u64) -> BlockEntry {
        let generations = vec![
            Generations { window_start_ms: -3_600_000, first: 0, last: 2 },
            Generations { window_start_ms: 0, first: 1, last: 1 },
        ];
        BlockEntry { id, start_ms: -3_600_000, length_ms: 7_200_000, tier: 1, generations, checksum: 9 }
    }

    #[test]
    fn what_is_listed_is_read_back_for_its_partition_only() {
        let kv = MemKv::default();
        let pointer = ImagePointer { position: Position(7), image: 1, series_log: 2, series_log_len: 3 };
        let mut batch = WriteBatch::new();
        for (partition, id) in [(PartitionId(1), 5), (PartitionId(1), 6), (PartitionId(256), 7)] {
            batch.put(Cf::Cat, entry(id).key(partition), entry(id).encode());
        }
        batch.put(Cf::Cat, ImagePointer::key(PartitionId(1)), pointer.encode());
        kv.write(&batch, Durability::Synced).unwrap();
        let manifest = read(&kv, PartitionId(1)).unwrap();
        assert_eq!(manifest.blocks, [entry(5), entry(6)]);
        assert_eq!(manifest.image, Some(pointer));
        assert_eq!(all_block_ids(&kv).unwrap(), [5, 6, 7]);
    }

    #[test]
    fn an_entry_of_another_version_is_damage() {
        let kv = MemKv::default();
        let mut value = entry(5).encode();
        value[0] = 2;
        let mut batch = WriteBatch::new();
        batch.put(Cf::Cat, entry(5).key(PartitionId(1)), value);
        kv.write(&batch, Durability::Synced).unwrap();
        assert!(matches!(read(&kv, PartitionId(1)), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let hex: String = entry(5).encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "01",
                "ffffffffffc91180",
                "00000000006ddd00",
                "01",
                "0000000000000009",
                "02",
                "ffffffffffc91180",
                "00",
                "02",
                "0000000000000000",
                "01",
                "01",
            )
        );
    }
}
