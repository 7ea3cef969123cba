//! The node's cache of parts of blocks that were taken apart: pages and index records, in one budget.
//!
//! Ids are never reused, so an entry cannot be stale; those of removed blocks age out.

use super::BlockId;
use super::names::NameIndex;
use super::page::Page;
use super::rows::Rows;
use super::tenant::TenantIndex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use quorate_model::TenantId;
use std::sync::Arc;

/// Which part of a tenant's share of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Tenant,
    Name(u32),
    Postings(u32, u32),
    Rows(u32),
    Page(u32),
}

/// Key of a cached part.
pub(super) type PartKey = (BlockId, TenantId, Part);

/// A part taken apart.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Tenant(Arc<TenantIndex>),
    Name(Arc<NameIndex>),
    Postings(Arc<Vec<u8>>),
    Rows(Arc<Rows>),
    Page(Arc<Page>),
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<PartKey, Item> for Weight {
    fn weight(&self, _: &PartKey, item: &Item) -> u64 {
        const ENTRY: u64 = 100;
        ENTRY
            + match item {
                Item::Tenant(tenant) => tenant.weight(),
                Item::Name(name) => name.weight(),
                Item::Postings(bytes) => bytes.len() as u64,
                Item::Rows(rows) => rows.weight(),
                Item::Page(page) => page.weight(),
            }
    }
}

/// Decoded parts of blocks, shared by all readers of a node.
#[derive(Debug)]
pub struct BlockCache {
    parts: Cache<PartKey, Item, Weight>,
}

impl BlockCache {
    /// A cache of at most `bytes`, counted as the memory of what it holds.
    pub fn new(bytes: u64) -> Self {
        const MEAN_PART: u64 = 32 << 10;
        let parts = usize::try_from(bytes / MEAN_PART).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self { parts: Cache::with_weighter(parts, bytes, Weight) }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.parts.weight()
    }

    pub(super) fn get_or<E>(&self, key: &PartKey, load: impl FnOnce() -> Result<Item, E>) -> Result<Item, E> {
        self.parts.get_or_insert_with(key, load)
    }
}
