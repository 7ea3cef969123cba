//! The bytes of blocks: the same wherever a read begins, and those of an old version are taken.

use super::block_bytes::{BlockBytes, BlockFile, length_of};
use super::{InstallError, Part, PartKind};
use crate::block::{BlockId, BlockMeta, FAMILIES};
use crate::head::testing::{TENANT, floats, mark};
use crate::store_block::StoreBlock;
use crate::uses::Use;
use crate::{Disk, PartitionStore, StoreConfig};
use quorate_kv::{KeyRange, Kv, MemKv};
use quorate_model::{PartitionId, Position};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PARTITION: PartitionId = PartitionId(3);
/// One block as it was sent first, in hexadecimal.
const GOLDEN: &str = include_str!("golden/block-1.txt");

fn disk(kv: MemKv) -> Arc<Disk> {
    Disk::open(Arc::new(kv), 1, 1 << 20).unwrap()
}

fn open(disk: &Disk, meta: BlockMeta) -> BlockBytes {
    let hold = Arc::new(disk.uses().hold(PARTITION, Use::Store).unwrap());
    BlockBytes::new(StoreBlock::open(disk, &hold, meta).unwrap())
}

/// A block with this many series, on a disk of its own.
fn block(series: u32) -> (Arc<Disk>, BlockMeta) {
    let (disk, dir) = (disk(MemKv::new()), tempfile::tempdir().unwrap());
    let store = PartitionStore::open(&disk, dir.path(), PARTITION, StoreConfig::default()).unwrap();
    let samples: Vec<_> = (0..series).map(|i| (i, 5 + i64::from(i), f64::from(i).sqrt())).collect();
    store.apply(Position(1), &floats(&samples)).unwrap();
    store.apply(Position(2), &mark(0, 0)).unwrap();
    store.flush().unwrap();
    let meta = store.views.pin().blocks()[0].meta().clone();
    drop(store);
    (disk, meta)
}

fn part(meta: &BlockMeta) -> Part {
    let (id, length) = (meta.id().0, length_of(meta));
    Part { kind: PartKind::Block, id, length, checksum: meta.content_checksum }
}

fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("block");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The form, made in the plainest way.
fn plain(kv: &dyn Kv, meta: &BlockMeta) -> Vec<u8> {
    let entry = meta.encode();
    let mut out = [&(entry.len() as u32).to_le_bytes(), entry.as_slice()].concat();
    for (number, cf) in FAMILIES.into_iter().enumerate() {
        kv.scan(cf, &KeyRange::prefix(&meta.id().0.to_be_bytes()), &mut |key, value| {
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(&[number as u8, key.len() as u8 - 8, 0, 0]);
            out.extend_from_slice(&key[8..]);
            out.extend_from_slice(value);
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    out
}

#[test]
fn a_read_may_begin_and_end_anywhere() {
    let (disk, meta) = block(40_000);
    let expected = plain(disk.kv().as_ref(), &meta);
    assert!(expected.len() > 600_000, "several places are remembered: {} bytes", expected.len());
    let bytes = open(&disk, meta);
    assert_eq!(bytes.length(), expected.len() as u64);
    // Backwards first, so that nothing is remembered yet, then forwards.
    let offsets: Vec<usize> = (0..expected.len()).step_by(49_999).chain([3, expected.len()]).collect();
    for (offset, len) in offsets.iter().rev().zip([1, 70_000, usize::MAX].into_iter().cycle()) {
        let end = offset.saturating_add(len).min(expected.len());
        let read = bytes.read(disk.kv().as_ref(), *offset as u64, len.min(1 << 20)).unwrap();
        assert!(read == expected[*offset..end.min(offset + (1 << 20))], "{len} bytes at {offset}");
    }
    let mut joined = Vec::new();
    while joined.len() < expected.len() {
        joined.extend(bytes.read(disk.kv().as_ref(), joined.len() as u64, 10_007).unwrap());
    }
    assert!(joined == expected);
    assert_eq!(bytes.read(disk.kv().as_ref(), u64::MAX, 5).unwrap(), [0u8; 0]);
}

#[test]
fn a_block_that_was_sent_by_an_old_version_is_taken_and_sent_on_as_it_is() {
    let hex: String = GOLDEN.split_whitespace().collect();
    let golden: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let entry_len = u32::from_le_bytes(golden[..4].try_into().unwrap()) as usize;
    let meta = BlockMeta::decode(&golden[4..4 + entry_len]).unwrap();
    assert_eq!((meta.id(), meta.series, meta.samples), (BlockId::new(1, 1), 3, 3));
    let (disk, dir) = (disk(MemKv::new()), tempfile::tempdir().unwrap());
    let (path, part) = (file(dir.path(), &golden), part(&meta));
    let source = BlockFile { path: &path, number: 2, part: &part, partition: PARTITION };
    assert_eq!(source.ingest(disk.kv().as_ref(), meta.id()).unwrap(), meta);
    let bytes = open(&disk, meta).read(disk.kv().as_ref(), 0, 1 << 20).unwrap();
    assert!(bytes == golden);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (disk, meta) = block(3);
    let good = plain(disk.kv().as_ref(), &meta);
    let (dir, part) = (tempfile::tempdir().unwrap(), part(&meta));
    let check = |bytes: &[u8]| {
        let path = file(dir.path(), bytes);
        BlockFile { path: &path, number: 2, part: &part, partition: PARTITION }.check()
    };
    assert_eq!(check(&good).unwrap(), meta);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(matches!(check(&bad), Err(InstallError::WrongBytes { part: 2, .. })), "flip at {at}");
        assert!(check(&good[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_block_under_another_id_is_the_same_block() {
    let (disk, meta) = block(500);
    let (dir, part) = (tempfile::tempdir().unwrap(), part(&meta));
    let path = file(dir.path(), &plain(disk.kv().as_ref(), &meta));
    let source = BlockFile { path: &path, number: 2, part: &part, partition: PARTITION };
    let moved = source.ingest(disk.kv().as_ref(), BlockId::new(9, 4)).unwrap();
    assert_eq!((moved.id(), moved.content_checksum), (BlockId::new(9, 4), meta.content_checksum));
    for meta in [meta, moved] {
        let hold = Arc::new(disk.uses().hold(PARTITION, Use::Store).unwrap());
        let block = StoreBlock::open(&disk, &hold, meta).unwrap();
        block.reader().verify().unwrap();
        assert_eq!(block.reader().series_count(TENANT).unwrap(), 500);
    }
}
