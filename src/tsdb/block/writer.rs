//! Writes one block: series in order, pages as they fill, the index of each tenant when it ends.
//!
//! Memory: one page, and of the current tenant about 100 bytes a series until its index is written.

use super::checksum::Content;
use super::frame::{Kind, WHOLE_BLOCK, idx_key, page_key, seal};
use super::page::PageBuilder;
use super::tenant::TenantBuilder;
use super::{BlockId, BlockMeta, BlockSpec, series_order};
use crate::StoreError;
use quorate_chunk::{Chunk, varint};
use quorate_kv::{Cf, Ingest, Kv};
use quorate_model::{Labels, TenantId, failpoint};

/// Builds a block. Nothing of it is visible before [`BlockWriter::finish`], and it exists only when the
/// caller has put the entry that `finish` returns into `cat`.
pub struct BlockWriter<'kv> {
    kv: &'kv dyn Kv,
    meta: BlockMeta,
    pages: Box<dyn Ingest + 'kv>,
    idx: Box<dyn Ingest + 'kv>,
    page: PageBuilder,
    page_first: u32,
    /// The open tenant.
    tenant: Option<(TenantId, TenantBuilder)>,
    tenants: Vec<(TenantId, u32, u64)>,
    last: Option<Labels>,
    content: Content,
    body: Vec<u8>,
    sealed: Vec<u8>,
}

impl std::fmt::Debug for BlockWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockWriter").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl<'kv> BlockWriter<'kv> {
    /// Begins a block under an id that was never used.
    ///
    /// # Errors
    /// [`StoreError::Kv`].
    pub fn new(kv: &'kv dyn Kv, spec: BlockSpec) -> Result<Self, StoreError> {
        let meta = BlockMeta {
            spec,
            min_ts_ms: i64::MAX,
            max_ts_ms: i64::MIN,
            series: 0,
            samples: 0,
            page_bytes: 0,
            idx_bytes: 0,
            content_checksum: 0,
        };
        Ok(Self {
            kv,
            meta,
            pages: kv.ingest(Cf::Page)?,
            idx: kv.ingest(Cf::Idx)?,
            page: PageBuilder::default(),
            page_first: 0,
            tenant: None,
            tenants: Vec::new(),
            last: None,
            content: Content::new(),
            body: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Adds a series with at least one chunk. Tenants increase; within one, series increase in
    /// [`series_order`]; the chunks of a lane are in time order and no time stands twice, in neither lane.
    /// `TenantId(u32::MAX)` is no tenant.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the order is broken or a chunk cannot be read: the block is then given up;
    /// [`StoreError::Kv`].
    pub fn push(&mut self, tenant: TenantId, labels: &Labels, chunks: &[Chunk]) -> Result<(), StoreError> {
        self.check_order(tenant, labels, chunks)?;
        if self.tenant.as_ref().is_none_or(|(open, _)| *open != tenant) {
            self.end_tenant()?;
            self.tenant = Some((tenant, TenantBuilder::default()));
        }
        if self.page.is_full() {
            self.end_page()?;
        }
        let samples = self.content.push_chunks(tenant, labels, chunks)?;
        let Some((_, builder)) = &mut self.tenant else { return Ok(()) };
        if self.page.series() == 0 {
            self.page_first = builder.series();
            builder.page(self.page_first);
        }
        builder.push(labels, samples);
        self.page.push(chunks);
        for chunk in chunks {
            self.meta.min_ts_ms = self.meta.min_ts_ms.min(chunk.min_ts_ms);
            self.meta.max_ts_ms = self.meta.max_ts_ms.max(chunk.max_ts_ms);
        }
        self.meta.series += 1;
        self.meta.samples += samples;
        self.last = Some(labels.clone());
        Ok(())
    }

    /// Bytes written so far, for pacing.
    pub fn bytes(&self) -> u64 {
        self.pages.bytes() + self.idx.bytes()
    }

    /// Makes the block durable and returns its `cat` entry. Without such an entry the keys are rubbish that
    /// [`super::remove`] takes away.
    ///
    /// # Errors
    /// [`StoreError::Kv`]; what was written is removed again as far as possible.
    pub fn finish(mut self) -> Result<BlockMeta, StoreError> {
        self.end_tenant()?;
        self.put_whole_block()?;
        self.meta.page_bytes = self.pages.bytes();
        self.meta.idx_bytes = self.idx.bytes();
        self.meta.content_checksum = self.content.finish();
        let Self { kv, meta, pages, idx, .. } = self;
        let written = pages.finish().and_then(|()| {
            failpoint::hit("block.between_ingests");
            idx.finish()
        });
        if let Err(error) = written {
            // The first error is the one to tell; the start removes what cannot be removed now.
            let _ = super::remove(kv, meta.id());
            return Err(error.into());
        }
        Ok(meta)
    }

    fn check_order(&self, tenant: TenantId, labels: &Labels, chunks: &[Chunk]) -> Result<(), StoreError> {
        let refuse = |detail: &str| {
            let place = format!("block {} being written", self.id());
            Err(StoreError::Damaged { place, detail: format!("{detail}: {labels:?} of tenant {tenant}") })
        };
        if tenant == WHOLE_BLOCK || chunks.is_empty() {
            return refuse("a series without tenant or chunks");
        }
        let in_order = match (&self.tenant, &self.last) {
            (Some((open, _)), Some(last)) if *open == tenant => series_order(last, labels).is_lt(),
            (Some((open, _)), _) => *open < tenant,
            (None, _) => true,
        };
        if in_order { Ok(()) } else { refuse("a series out of order") }
    }

    fn id(&self) -> BlockId {
        self.meta.id()
    }

    fn end_page(&mut self) -> Result<(), StoreError> {
        let Some((tenant, _)) = &self.tenant else { return Ok(()) };
        if self.page.series() > 0 {
            let key = page_key(self.meta.id(), *tenant, self.page_first);
            self.page.finish(&mut self.body);
            self.pages.put(&key, seal(&key, &self.body, &mut self.sealed))?;
            self.page.clear();
        }
        Ok(())
    }

    fn end_tenant(&mut self) -> Result<(), StoreError> {
        self.end_page()?;
        let Some((tenant, builder)) = self.tenant.take() else { return Ok(()) };
        let records = builder.finish(self.id(), tenant).map_err(|error| StoreError::Damaged {
            place: format!("index of block {} being written", self.id()),
            detail: error.to_string(),
        })?;
        for (key, body) in records {
            self.idx.put(&key, seal(&key, &body, &mut self.sealed))?;
        }
        self.tenants.push((tenant, builder.series(), builder.samples()));
        self.last = None;
        Ok(())
    }

    fn put_whole_block(&mut self) -> Result<(), StoreError> {
        self.body.clear();
        varint::put(&mut self.body, self.tenants.len() as u64);
        let mut last = 0;
        for (tenant, series, samples) in &self.tenants {
            varint::put(&mut self.body, u64::from(tenant.0 - last));
            varint::put(&mut self.body, u64::from(*series));
            varint::put(&mut self.body, *samples);
            last = tenant.0;
        }
        let key = idx_key(self.meta.id(), WHOLE_BLOCK, Kind::Tenant, &[]);
        Ok(self.idx.put(&key, seal(&key, &self.body, &mut self.sealed))?)
    }
}

/// Reads the list of tenants that [`BlockWriter::finish`] wrote. `None` if it is not one.
pub(super) fn take_tenants(mut body: &[u8]) -> Option<Vec<TenantId>> {
    let rest = &mut body;
    let count = varint::take_len(rest, rest.len())?;
    let mut tenants = Vec::with_capacity(count);
    let mut last = 0u32;
    for at in 0..count {
        let gap = u32::try_from(varint::take(rest)?).ok().filter(|gap| at == 0 || *gap > 0)?;
        last = last.checked_add(gap)?;
        tenants.push(TenantId(last));
        varint::take(rest)?;
        varint::take(rest)?;
    }
    rest.is_empty().then_some(tenants)
}
