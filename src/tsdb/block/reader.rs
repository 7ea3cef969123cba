//! Reads one block. Cheap to open: a tenant's records are read when they are first asked for.

use super::cache::{BlockCache, Item, Part, PartKey};
use super::checksum::Content;
use super::frame::{BODY, Kind, WHOLE_BLOCK, damaged, fetch, idx_key, page_key};
use super::label_reader::LabelReader;
use super::names::{self, Handle, NameIndex};
use super::page::{self, Page};
use super::rows::{ROWS, Rows};
use super::tenant::{TenantIndex, TenantStats};
use super::{BlockMeta, matching, writer};
use crate::StoreError;
use quorate_chunk::Chunk;
use quorate_kv::{Cf, Kv};
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{Labels, Matcher, SeriesBuffer, TenantId, TimeRange};
use roaring::RoaringBitmap;
use std::sync::Arc;

/// Series from which on label values are found by their postings instead of the series' labels.
const WALK_LABELS: u64 = 20_000;

/// A block that `cat` lists. Every method may be called from many threads.
pub struct BlockReader {
    kv: Arc<dyn Kv>,
    cache: Arc<BlockCache>,
    meta: BlockMeta,
    tenants: Vec<TenantId>,
}

impl std::fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockReader").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl BlockReader {
    /// Opens the block of a `cat` entry.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if its first record is missing or damaged.
    pub fn open(kv: Arc<dyn Kv>, cache: Arc<BlockCache>, meta: BlockMeta) -> Result<Self, StoreError> {
        let key = idx_key(meta.id(), WHOLE_BLOCK, Kind::Tenant, &[]);
        let stored = fetch(kv.as_ref(), Cf::Idx, &key)?;
        let tenants = writer::take_tenants(&stored[BODY..]);
        let tenants = tenants.ok_or_else(|| damaged(Cf::Idx, &key, "not a list of tenants"))?;
        Ok(Self { kv, cache, meta, tenants })
    }

    /// The same block read through another cache.
    pub(super) fn with_cache(&self, cache: Arc<BlockCache>) -> Self {
        Self { kv: Arc::clone(&self.kv), cache, meta: self.meta.clone(), tenants: self.tenants.clone() }
    }

    /// The `cat` entry.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Tenants with series in the block, in increasing order.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.tenants.iter().copied()
    }

    /// Number of a tenant's series; their ordinals are below it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn series_count(&self, tenant: TenantId) -> Result<u32, StoreError> {
        Ok(self.tenant(tenant)?.map_or(0, |index| index.series()))
    }

    /// The ordinals of the series that pass every matcher. A label that is absent is matched as empty.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn select(&self, tenant: TenantId, matchers: &[Matcher]) -> Result<RoaringBitmap, StoreError> {
        match self.tenant(tenant)? {
            Some(index) => matching::select(self, tenant, &index, matchers),
            None => Ok(RoaringBitmap::new()),
        }
    }

    /// The labels of one series. For many use [`BlockReader::label_reader`].
    ///
    /// # Errors
    /// [`StoreError::Damaged`], also for an ordinal that the tenant does not have; [`StoreError::Kv`].
    pub fn labels(&self, tenant: TenantId, ordinal: u32) -> Result<Labels, StoreError> {
        self.label_reader(tenant)?.labels(ordinal)
    }

    /// Reads labels of many series of a tenant; fast when their ordinals increase.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn label_reader(&self, tenant: TenantId) -> Result<LabelReader<'_>, StoreError> {
        Ok(LabelReader::new(self, tenant, self.tenant(tenant)?))
    }

    /// Appends the samples of a series in `range` to `out`, each lane in time order.
    ///
    /// # Errors
    /// As [`BlockReader::labels`]; `out` may then have grown.
    pub fn read(
        &self,
        tenant: TenantId,
        ordinal: u32,
        range: TimeRange,
        out: &mut SeriesBuffer,
    ) -> Result<(), StoreError> {
        if !self.meta.range().overlaps(&range) {
            return Ok(());
        }
        let (first, page) = self.page_with(tenant, ordinal)?;
        let place = || damaged(Cf::Page, &page_key(self.meta.id(), tenant, first), "no such series");
        let read = page.read(ordinal - first, range, out).ok_or_else(place)?;
        read.map_err(|error| page::chunk_error(&error, place()))
    }

    /// Appends copies of the chunks of a series to `out`, each lane in time order.
    ///
    /// # Errors
    /// As [`BlockReader::labels`].
    pub fn chunks(&self, tenant: TenantId, ordinal: u32, out: &mut Vec<Chunk>) -> Result<(), StoreError> {
        let (first, page) = self.page_with(tenant, ordinal)?;
        let place = || damaged(Cf::Page, &page_key(self.meta.id(), tenant, first), "no such series");
        page.chunks(ordinal - first, out).ok_or_else(place)
    }

    /// Label names, sorted: all of the tenant, or those that the series of `among` have.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn label_names(
        &self,
        tenant: TenantId,
        among: Option<&RoaringBitmap>,
    ) -> Result<Vec<String>, StoreError> {
        let Some(index) = self.tenant(tenant)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (id, name) in index.stats().names.iter().enumerate() {
            let wanted = match among {
                None => true,
                Some(among) => !self.name(tenant, &index, id as u32)?.present().is_disjoint(among),
            };
            if wanted {
                found.push(name.name.clone());
            }
        }
        Ok(found)
    }

    /// Values of a label, sorted: all of the tenant, or those that the series of `among` have.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn label_values(
        &self,
        tenant: TenantId,
        name: &str,
        among: Option<&RoaringBitmap>,
    ) -> Result<Vec<String>, StoreError> {
        let Some(index) = self.tenant(tenant)? else { return Ok(Vec::new()) };
        let Some(name_id) = index.name_id(name) else { return Ok(Vec::new()) };
        let values = self.name(tenant, &index, name_id)?;
        let mut found = Vec::new();
        let Some(among) = among else {
            let all = values.for_prefix("", |value, _| found.push(value.to_owned()));
            all.ok_or_else(|| self.damaged_name(tenant, name_id))?;
            return Ok(found);
        };
        let ids = if among.len() < WALK_LABELS {
            self.ids_by_labels(tenant, name_id, among)?
        } else {
            self.ids_by_postings(tenant, &index, (name_id, &values), among)?
        };
        let mut value = String::new();
        for id in ids {
            if !values.value(id, &mut value) {
                return Err(self.damaged_name(tenant, name_id));
            }
            found.push(value.clone());
        }
        Ok(found)
    }

    fn ids_by_labels(
        &self,
        tenant: TenantId,
        name_id: u32,
        among: &RoaringBitmap,
    ) -> Result<RoaringBitmap, StoreError> {
        let mut labels = self.label_reader(tenant)?;
        let mut ids = RoaringBitmap::new();
        for ordinal in among {
            ids.extend(labels.value_id(ordinal, name_id)?);
        }
        Ok(ids)
    }

    fn ids_by_postings(
        &self,
        tenant: TenantId,
        index: &TenantIndex,
        (name_id, values): (u32, &NameIndex),
        among: &RoaringBitmap,
    ) -> Result<RoaringBitmap, StoreError> {
        let mut ids = RoaringBitmap::new();
        for id in 0..values.len() {
            if !self.union(tenant, index, (name_id, values), &[id])?.is_disjoint(among) {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// Exact counts of a tenant; all zero if it has no series here.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Kv`].
    pub fn stats(&self, tenant: TenantId) -> Result<TenantStats, StoreError> {
        Ok(self.tenant(tenant)?.map(|index| index.stats().clone()).unwrap_or_default())
    }

    /// Reads every record, page and sample, and compares counts and content with the `cat` entry.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at the first difference, [`StoreError::Kv`].
    pub fn verify(&self) -> Result<(), StoreError> {
        let mut content = Content::new();
        let (mut series, mut samples) = (0, 0);
        let mut buffer = SeriesBuffer::default();
        for tenant in self.tenants() {
            self.verify_postings(tenant)?;
            let mut labels = self.label_reader(tenant)?;
            for ordinal in 0..self.series_count(tenant)? {
                buffer.clear();
                self.read(tenant, ordinal, TimeRange::ALL, &mut buffer)?;
                content.push(tenant, &labels.labels(ordinal)?, &buffer);
                series += 1;
                samples += buffer.len() as u64;
            }
        }
        let found = (series, samples, content.finish());
        if found != (self.meta.series, self.meta.samples, self.meta.content_checksum) {
            let key = self.meta.id().0.to_be_bytes();
            return Err(damaged(Cf::Idx, &key, "series, samples or content differ from the cat entry"));
        }
        Ok(())
    }

    fn verify_postings(&self, tenant: TenantId) -> Result<(), StoreError> {
        let Some(index) = self.tenant(tenant)? else { return Ok(()) };
        for name_id in 0..index.stats().names.len() as u32 {
            let name = self.name(tenant, &index, name_id)?;
            let ids: Vec<u32> = (0..name.len()).collect();
            if self.union(tenant, &index, (name_id, &name), &ids)? != name.present() {
                return Err(self.damaged_name(tenant, name_id));
            }
        }
        Ok(())
    }

    /// The union of the postings of some values.
    pub(super) fn union(
        &self,
        tenant: TenantId,
        index: &TenantIndex,
        (name_id, name): (u32, &NameIndex),
        ids: &[u32],
    ) -> Result<RoaringBitmap, StoreError> {
        let mut only = Vec::new();
        let mut union = RoaringBitmap::new();
        let mut held: Option<(u32, Arc<Vec<u8>>)> = None;
        for id in ids {
            match name.handle(*id).ok_or_else(|| self.damaged_name(tenant, name_id))? {
                Handle::Only(ordinal) => only.push(ordinal),
                Handle::Listed { part, offset } => {
                    let bytes = match &held {
                        Some((number, bytes)) if *number == part => bytes,
                        _ => &held.insert((part, self.postings(tenant, name_id, part)?)).1,
                    };
                    let list = names::list_at(&bytes[BODY..], offset, index.series());
                    let list = list.ok_or_else(|| {
                        let key = idx_key(self.meta.id(), tenant, Kind::Postings, &[name_id, part]);
                        damaged(Cf::Idx, &key, "not postings")
                    })?;
                    union |= list;
                }
            }
        }
        only.sort_unstable();
        union.extend(only);
        Ok(union)
    }

    pub(super) fn damaged_name(&self, tenant: TenantId, name_id: u32) -> StoreError {
        damaged(Cf::Idx, &idx_key(self.meta.id(), tenant, Kind::Name, &[name_id]), "not the values of a name")
    }

    fn part(&self, tenant: TenantId, part: Part) -> PartKey {
        let tenant = if is_planted(Bug::TenantDropped) { TenantId(0) } else { tenant };
        (self.meta.id(), tenant, part)
    }

    /// Loads an index record, unless it is cached.
    fn record(
        &self,
        tenant: TenantId,
        part: Part,
        (kind, numbers): (Kind, &[u32]),
        parse: impl FnOnce(Vec<u8>) -> Option<Item>,
    ) -> Result<Item, StoreError> {
        self.cache.get_or(&self.part(tenant, part), || {
            let key = idx_key(self.meta.id(), tenant, kind, numbers);
            let stored = fetch(self.kv.as_ref(), Cf::Idx, &key)?;
            parse(stored).ok_or_else(|| damaged(Cf::Idx, &key, "not a record of its kind"))
        })
    }

    pub(super) fn tenant(&self, tenant: TenantId) -> Result<Option<Arc<TenantIndex>>, StoreError> {
        if self.tenants.binary_search(&tenant).is_err() {
            return Ok(None);
        }
        let item = self.record(tenant, Part::Tenant, (Kind::Tenant, &[]), |stored| {
            TenantIndex::parse(&stored[BODY..]).map(|index| Item::Tenant(Arc::new(index)))
        })?;
        match item {
            Item::Tenant(index) => Ok(Some(index)),
            _ => unreachable!("a part has one kind of item"),
        }
    }

    pub(super) fn name(
        &self,
        tenant: TenantId,
        index: &TenantIndex,
        name_id: u32,
    ) -> Result<Arc<NameIndex>, StoreError> {
        let item = self.record(tenant, Part::Name(name_id), (Kind::Name, &[name_id]), |stored| {
            NameIndex::parse(&stored[BODY..], index.series()).map(|name| Item::Name(Arc::new(name)))
        })?;
        match item {
            Item::Name(name) => Ok(name),
            _ => unreachable!("a part has one kind of item"),
        }
    }

    fn postings(&self, tenant: TenantId, name_id: u32, part: u32) -> Result<Arc<Vec<u8>>, StoreError> {
        let numbers = [name_id, part];
        let item =
            self.record(tenant, Part::Postings(name_id, part), (Kind::Postings, &numbers), |stored| {
                Some(Item::Postings(Arc::new(stored)))
            })?;
        match item {
            Item::Postings(bytes) => Ok(bytes),
            _ => unreachable!("a part has one kind of item"),
        }
    }

    pub(super) fn rows(
        &self,
        tenant: TenantId,
        index: &TenantIndex,
        first: u32,
    ) -> Result<Arc<Rows>, StoreError> {
        let item = self.record(tenant, Part::Rows(first), (Kind::Rows, &[first]), |stored| {
            let rows = Rows::parse(&stored[BODY..], |shape| index.shape(shape).map(<[u32]>::len));
            let expected = (index.series() - first).min(ROWS);
            rows.filter(|rows| rows.len() == expected).map(|rows| Item::Rows(Arc::new(rows)))
        })?;
        match item {
            Item::Rows(rows) => Ok(rows),
            _ => unreachable!("a part has one kind of item"),
        }
    }

    /// The page that holds a series, and the ordinal it begins with.
    fn page_with(&self, tenant: TenantId, ordinal: u32) -> Result<(u32, Arc<Page>), StoreError> {
        let index = self.tenant(tenant)?;
        let first = index.as_ref().and_then(|index| index.page_of(ordinal));
        let first = first.ok_or_else(|| {
            damaged(Cf::Page, &page_key(self.meta.id(), tenant, ordinal), "no page has this series")
        })?;
        let item = self.cache.get_or(&self.part(tenant, Part::Page(first)), || {
            let key = page_key(self.meta.id(), tenant, first);
            let stored = fetch(self.kv.as_ref(), Cf::Page, &key)?;
            let page = Page::parse(stored, BODY).ok_or_else(|| damaged(Cf::Page, &key, "not a page"))?;
            Ok::<_, StoreError>(Item::Page(Arc::new(page)))
        })?;
        match item {
            Item::Page(page) => Ok((first, page)),
            _ => unreachable!("a part has one kind of item"),
        }
    }
}
