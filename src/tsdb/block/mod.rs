//! Blocks: what is immutable of a partition, one window and run of generations each.
//!
//! Knows series, chunks, pages, postings and the keys of the bulk families. Does not know heads, logs, views
//! or which blocks exist: that is the `cat` entry, written by `partition_store`.
//! Path: `flush`, `merge` -> [`BlockWriter`] -> `kv`; `selection` -> [`BlockReader`] -> `kv`.
//!
//! - B1: every key of a block begins with its id, and ids are never reused, so what is cached stays true.
//! - B2: ordinals of a tenant are its series in [`series_order`]; a metric is a run of ordinals.
//! - B3: every stored value carries a checksum over its key and bytes. Damage is an error that names the
//!   key; no answer is short because something could not be read.
//! - B4: equal content has an equal content checksum, however it was cut into chunks.
//!
//! The stored form is in `docs/formats/block.md`.

mod cache;
mod checksum;
mod frame;
mod label_reader;
mod matching;
mod merge;
mod meta;
mod names;
mod page;
mod postings;
mod reader;
mod rows;
mod tenant;
mod values;
mod writer;

pub use cache::BlockCache;
pub use label_reader::LabelReader;
pub use merge::{MergeHooks, merge};
pub use meta::{BlockId, BlockMeta, BlockSpec, GenerationRef, Tier};
pub use reader::BlockReader;
pub use tenant::{NameStats, PairStats, TenantStats};
pub use writer::BlockWriter;

pub(crate) use frame::{damaged, is_sound, reseal};

use crate::StoreError;
use quorate_kv::{Cf, KeyRange, Kv};
use quorate_model::Labels;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The families that hold a block.
pub(crate) const FAMILIES: [Cf; 3] = [Cf::Page, Cf::Idx, Cf::Sum];

/// Order of series in a block: by metric name, then by labels. Not always the order of `Labels`, because a
/// label name may sort before `__name__`.
pub fn series_order(a: &Labels, b: &Labels) -> Ordering {
    a.metric_name().cmp(&b.metric_name()).then_with(|| a.cmp(b))
}

/// Removes every key of a block. Repeating it, or a block that is not there, changes nothing.
///
/// # Errors
/// [`StoreError::Kv`]; a part may be left then.
pub fn remove(kv: &dyn Kv, id: BlockId) -> Result<(), StoreError> {
    let range = KeyRange::prefix(&id.0.to_be_bytes());
    for cf in FAMILIES {
        kv.drop_range(cf, &range)?;
    }
    Ok(())
}

/// Whether anything is stored under an id.
///
/// # Errors
/// [`StoreError::Kv`].
pub(crate) fn has_keys(kv: &dyn Kv, id: BlockId) -> Result<bool, StoreError> {
    let mut found = false;
    for cf in FAMILIES {
        kv.scan(cf, &KeyRange::prefix(&id.0.to_be_bytes()), &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        })?;
    }
    Ok(found)
}

/// The ids that have keys, listed in `cat` or not. One seek for each id and family.
///
/// # Errors
/// [`StoreError::Kv`]; [`StoreError::Damaged`] on a key that belongs to no block.
pub fn stored_ids(kv: &dyn Kv) -> Result<BTreeSet<BlockId>, StoreError> {
    let mut ids = BTreeSet::new();
    for cf in FAMILIES {
        let mut next = Some(0u64);
        while let Some(from) = next.take() {
            let mut found: Option<Vec<u8>> = None;
            kv.scan(cf, &KeyRange::from(from.to_be_bytes()), &mut |key, _| {
                found = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
            if let Some(key) = found {
                let id = key.first_chunk::<8>().map(|id| u64::from_be_bytes(*id));
                let id = id.ok_or_else(|| frame::damaged(cf, &key, "a key without block id"))?;
                ids.insert(BlockId(id));
                next = id.checked_add(1);
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
