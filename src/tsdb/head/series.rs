//! The series of a head: row -> labels, labels -> row, and the postings of each tenant.
//!
//! Knows labels, tenants and rows. Does not know samples, sessions or stripes.
//! Path: `head::apply` defines here, `head::select` finds here.
//! N1: rows are given in log order and never twice in one head's life. N2: one row per (tenant, label set). N3: symbols
//! and shapes keep their numbers as long as a lock on the index is held, not longer.
//! Form of a series: slot, shape (the sorted label names, shared) and value symbols as varints, about 35 bytes.

use super::ROWS_PER_PAGE;
use super::id_table::IdTable;
use super::offset::Offset;
use super::postings::TenantIndex;
use super::sessions::ROW_LIMIT;
use super::symbols::{Symbols, reserve};
use quorate_chunk::varint;
use quorate_model::{Labels, MatchOp, Matcher, Slot, TenantId};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Candidates up to this many are tested one by one instead of by postings.
const TESTED_SINGLY: u64 = 1000;
/// Freed series below which their symbols and records are not worth a rebuild.
const SPARSE: u64 = 16_384;

/// What is kept of a row here.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed(4))]
struct Series {
    hash: u64,
    tenant: TenantId,
    /// Where its record begins, or [`Offset::NONE`] for a row that is free.
    record: Offset,
}

const _: () = assert!(size_of::<Series>() == 20);

const FREE: Series = Series { hash: 0, tenant: TenantId(0), record: Offset::NONE };

impl Series {
    fn is_free(self) -> bool {
        self.record == Offset::NONE
    }
}

/// Rows by number; pages without live rows take no memory.
#[derive(Debug, Default)]
struct Rows {
    pages: Vec<Option<Page>>,
    next: u32,
}

#[derive(Debug)]
struct Page {
    live: usize,
    rows: Box<[Series; ROWS_PER_PAGE]>,
}

impl Rows {
    fn get(&self, row: u32) -> Series {
        let page = self.pages.get(row as usize / ROWS_PER_PAGE).and_then(Option::as_ref);
        page.map_or(FREE, |page| page.rows[row as usize % ROWS_PER_PAGE])
    }

    /// Adds the row `next`.
    fn push(&mut self, series: Series) -> u32 {
        let row = self.next;
        let at = row as usize / ROWS_PER_PAGE;
        if self.pages.len() <= at {
            self.pages.resize_with(at + 1, || None);
        }
        let page =
            self.pages[at].get_or_insert_with(|| Page { live: 0, rows: Box::new([FREE; ROWS_PER_PAGE]) });
        page.rows[row as usize % ROWS_PER_PAGE] = series;
        page.live += 1;
        self.next += 1;
        row
    }

    /// Frees a live row.
    fn free(&mut self, row: u32) {
        let place = &mut self.pages[row as usize / ROWS_PER_PAGE];
        if let Some(page) = place {
            page.rows[row as usize % ROWS_PER_PAGE] = FREE;
            page.live -= 1;
            if page.live == 0 {
                *place = None;
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = (u32, Series)> + '_ {
        (0..self.next).step_by(ROWS_PER_PAGE).zip(&self.pages).flat_map(|(first, page)| {
            let rows = page.iter().flat_map(|page| page.rows.iter().copied());
            (first..).zip(rows).filter(|(_, series)| !series.is_free())
        })
    }

    fn memory_bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count();
        pages * size_of::<[Series; ROWS_PER_PAGE]>() + self.pages.capacity() * size_of::<Option<Page>>()
    }
}

/// See the module header.
#[derive(Debug, Default)]
pub(crate) struct SeriesIndex {
    symbols: Symbols,
    shapes: Vec<Box<[u32]>>,
    shape_table: IdTable,
    records: Vec<u8>,
    rows: Rows,
    /// Rows freed since the arenas held live series only.
    freed: u64,
    table: IdTable,
    tenants: BTreeMap<TenantId, TenantIndex>,
}

/// Hash of a series within all tenants; also its part in the state hash.
pub(crate) fn series_hash(tenant: TenantId, labels: &Labels) -> u64 {
    xxh3_64_with_seed(labels.as_packed(), u64::from(tenant.0))
}

impl SeriesIndex {
    /// The row of a series.
    pub(crate) fn find(&self, tenant: TenantId, labels: &Labels, hash: u64) -> Option<u32> {
        self.table.find(hash, |row| {
            let series = self.rows.get(row);
            series.hash == hash && series.tenant == tenant && self.has_labels(row, labels)
        })
    }

    /// Gives the next row to a series that has none. `None` if every number was given.
    pub(crate) fn define(&mut self, tenant: TenantId, slot: Slot, labels: &Labels, hash: u64) -> Option<u32> {
        if self.rows.next >= ROW_LIMIT {
            return None;
        }
        let record = self.store(slot, labels);
        Some(self.push(Series { hash, tenant, record }))
    }

    /// Puts a series back under its number; rows before it that were not put back stay free.
    pub(crate) fn restore(&mut self, row: u32, tenant: TenantId, slot: Slot, labels: &Labels) -> u64 {
        let hash = series_hash(tenant, labels);
        self.skip_to(row);
        let record = self.store(slot, labels);
        self.push(Series { hash, tenant, record });
        hash
    }

    /// Leaves the rows below `row` that were never given free for ever.
    pub(crate) fn skip_to(&mut self, row: u32) {
        self.rows.next = self.rows.next.max(row);
    }

    /// Forgets a row. Its number is not given again.
    pub(crate) fn free(&mut self, row: u32) {
        let series = self.rows.get(row);
        if series.is_free() {
            return;
        }
        let (rows, tenant) = (&self.rows, series.tenant);
        self.table.remove(series.hash, row, |other| rows.get(other).hash);
        let pairs: Vec<_> = self.pairs(row).collect();
        if let Some(index) = self.tenants.get_mut(&tenant) {
            index.remove(row, pairs.into_iter());
            if index.all().is_empty() {
                self.tenants.remove(&tenant);
            }
        }
        self.rows.free(row);
        self.freed += 1;
    }

    /// Whether most of what symbols and records hold is of freed rows.
    pub(crate) fn is_sparse(&self) -> bool {
        self.freed >= SPARSE && self.freed > self.live_rows()
    }

    /// The same rows and series without what only freed ones needed. Symbols and shapes get other numbers.
    pub(crate) fn rebuilt(&self) -> Self {
        let mut new = Self::default();
        for (row, series) in self.rows.live() {
            let slot = Slot(self.record(row).0 as u16);
            new.skip_to(row);
            let record = new.store(slot, &self.labels(row));
            new.push(Series { record, ..series });
        }
        new.skip_to(self.rows.next);
        new
    }

    /// Whether the row was never given or is forgotten.
    pub(crate) fn is_free(&self, row: u32) -> bool {
        self.rows.get(row).is_free()
    }

    /// Tenant of a live row.
    pub(crate) fn tenant(&self, row: u32) -> TenantId {
        self.rows.get(row).tenant
    }

    /// Slot of a live row.
    #[cfg(test)]
    pub(crate) fn slot(&self, row: u32) -> Slot {
        Slot(self.record(row).0 as u16)
    }

    /// Labels of a live row.
    pub(crate) fn labels(&self, row: u32) -> Labels {
        Labels::from_sorted(self.pairs(row).map(|(n, v)| (self.symbols.get(n), self.symbols.get(v))))
    }

    /// Whether the live row has exactly these labels.
    pub(crate) fn has_labels(&self, row: u32, labels: &Labels) -> bool {
        self.pairs(row).map(|(n, v)| (self.symbols.get(n), self.symbols.get(v))).eq(labels.iter())
    }

    /// Value of one label of a live row, empty if it has none.
    pub(crate) fn value(&self, row: u32, name: u32) -> &str {
        self.pairs(row).find(|(n, _)| *n == name).map_or("", |(_, v)| self.symbols.get(v))
    }

    /// Rows of the tenant whose labels pass every matcher.
    pub(crate) fn select(&self, tenant: TenantId, matchers: &[Matcher]) -> RoaringBitmap {
        let Some(index) = self.tenants.get(&tenant) else { return RoaringBitmap::new() };
        let is_exact = |m: &&Matcher| m.op() == MatchOp::Equal && !m.value().is_empty();
        let (exact, others): (Vec<_>, Vec<_>) = matchers.iter().partition(is_exact);
        let mut rows: Option<RoaringBitmap> = None;
        for matcher in exact {
            let found = self.symbols.find(matcher.name()).zip(self.symbols.find(matcher.value()));
            let list = found.map(|(n, v)| index.exact(n, v)).unwrap_or_default();
            rows = Some(rows.map_or_else(|| list.clone(), |r| r & &list));
        }
        for matcher in others {
            let name = self.symbols.find(matcher.name());
            rows = Some(match rows {
                Some(few) if few.len() <= TESTED_SINGLY => self.keep(few, matcher, name),
                rows => {
                    let find = |text: &str| self.symbols.find(text);
                    let list = index.matching(matcher, name, |v| self.symbols.get(v), find);
                    rows.map_or_else(|| list.clone(), |r| r & &list)
                }
            });
        }
        rows.unwrap_or_else(|| index.all().clone())
    }

    /// Postings of a tenant.
    pub(crate) fn tenant_index(&self, tenant: TenantId) -> Option<&TenantIndex> {
        self.tenants.get(&tenant)
    }

    /// Tenants with live rows, increasing.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (TenantId, &TenantIndex)> {
        self.tenants.iter().map(|(tenant, index)| (*tenant, index))
    }

    /// Label pairs of a live row as symbols, by name.
    pub(crate) fn pairs(&self, row: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let (_, shape, mut values) = self.record(row);
        let names = self.shapes[shape as usize].iter();
        names.map(move |name| (*name, varint::take(&mut values).unwrap_or_default() as u32))
    }

    /// Shape of a live row: rows of one shape have the same label names.
    pub(crate) fn shape_of(&self, row: u32) -> u32 {
        self.record(row).1 as u32
    }

    /// Label names of a shape, as symbols.
    pub(crate) fn names_of(&self, shape: u32) -> &[u32] {
        &self.shapes[shape as usize]
    }

    /// The strings behind the numbers.
    pub(crate) fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The number that the next new series gets.
    pub(crate) fn next_row(&self) -> u32 {
        self.rows.next
    }

    /// Number of live rows.
    pub(crate) fn live_rows(&self) -> u64 {
        self.tenants.values().map(|t| t.all().len()).sum()
    }

    /// Memory held by labels and the canonical map, and by postings, in bytes.
    pub(crate) fn memory_bytes(&self) -> (usize, usize) {
        let shapes: usize = self.shapes.iter().map(|s| 16 + s.len() * 4).sum();
        let rows = self.rows.memory_bytes() + self.table.bytes();
        let labels = self.symbols.memory_bytes() + shapes + self.records.capacity() + rows;
        (labels, self.tenants.values().map(TenantIndex::memory_bytes).sum())
    }

    fn keep(&self, rows: RoaringBitmap, matcher: &Matcher, name: Option<u32>) -> RoaringBitmap {
        let value = |row| name.map_or("", |name| self.value(row, name));
        rows.iter().filter(|row| matcher.matches(value(*row))).collect()
    }

    fn push(&mut self, series: Series) -> u32 {
        let row = self.rows.push(series);
        let rows = &self.rows;
        self.table.insert(series.hash, row, |other| rows.get(other).hash);
        let pairs: Vec<_> = self.pairs(row).collect();
        self.tenants.entry(series.tenant).or_default().insert(row, pairs.into_iter());
        row
    }

    /// Slot, shape and the bytes that begin with the value symbols.
    fn record(&self, row: u32) -> (u64, u64, &[u8]) {
        let mut rest = &self.records[self.rows.get(row).record.get()..];
        let slot = varint::take(&mut rest).unwrap_or_default();
        let shape = varint::take(&mut rest).unwrap_or_default();
        (slot, shape, rest)
    }

    fn store(&mut self, slot: Slot, labels: &Labels) -> Offset {
        let (mut names, mut record) = (Vec::with_capacity(16), Vec::with_capacity(48));
        let pairs: Vec<_> = labels.iter().collect();
        names.extend(pairs.iter().map(|(name, _)| self.symbols.intern(name)));
        varint::put(&mut record, u64::from(slot.0));
        varint::put(&mut record, u64::from(self.shape(&names)));
        for (_, value) in pairs {
            varint::put(&mut record, u64::from(self.symbols.intern(value)));
        }
        reserve(&mut self.records, record.len());
        let at = Offset::new(self.records.len());
        self.records.extend_from_slice(&record);
        at
    }

    fn shape(&mut self, names: &[u32]) -> u32 {
        let hash = shape_hash(names);
        if let Some(shape) = self.shape_table.find(hash, |id| *self.shapes[id as usize] == *names) {
            return shape;
        }
        let shape = self.shapes.len() as u32;
        self.shapes.push(names.into());
        let shapes = &self.shapes;
        self.shape_table.insert(hash, shape, |id| shape_hash(&shapes[id as usize]));
        shape
    }
}

fn shape_hash(names: &[u32]) -> u64 {
    let mut bytes = Vec::with_capacity(names.len() * 4);
    names.iter().for_each(|name| bytes.extend_from_slice(&name.to_le_bytes()));
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(1);

    fn labels(i: u32) -> Labels {
        let (pod, zone) = (format!("pod-{i}"), format!("z{}", i % 3));
        Labels::from_pairs([("__name__", "up"), ("pod", pod.as_str()), ("zone", zone.as_str())])
    }

    fn index(series: u32) -> SeriesIndex {
        let mut index = SeriesIndex::default();
        for i in 0..series {
            let hash = series_hash(TENANT, &labels(i));
            assert_eq!(index.define(TENANT, Slot(i as u16), &labels(i), hash), Some(i));
        }
        index
    }

    #[test]
    fn series_are_found_by_labels_within_their_tenant() {
        let index = index(3000);
        let found = |tenant, i| index.find(tenant, &labels(i), series_hash(tenant, &labels(i)));
        assert_eq!(found(TENANT, 2999), Some(2999));
        assert_eq!(found(TENANT, 3000), None);
        assert_eq!(found(TenantId(2), 5), None);
        assert_eq!(index.labels(17), labels(17));
        assert_eq!(index.slot(17), Slot(17));
    }

    #[test]
    fn matchers_intersect() {
        let index = index(3000);
        let select = |matchers: &[Matcher]| index.select(TENANT, matchers).len();
        assert_eq!(select(&[Matcher::equal("zone", "z1")]), 1000);
        let pod = |op, value: &str| Matcher::new("pod", op, value).unwrap();
        let ends_in_one = pod(MatchOp::Regex, "pod-.*1");
        assert_eq!(select(&[Matcher::equal("zone", "z1"), ends_in_one.clone()]), 100);
        assert_eq!(select(&[ends_in_one, pod(MatchOp::NotEqual, "pod-1")]), 299);
        assert_eq!(select(&[Matcher::equal("none", "")]), 3000);
        assert_eq!(select(&[Matcher::equal("none", "x")]), 0);
        assert_eq!(index.select(TenantId(2), &[]).len(), 0);
    }

    #[test]
    fn a_freed_row_is_not_found_and_its_number_not_given_again() {
        let mut index = index(10);
        index.free(4);
        assert!(index.is_free(4));
        assert_eq!(index.find(TENANT, &labels(4), series_hash(TENANT, &labels(4))), None);
        assert_eq!(index.select(TENANT, &[]).len(), 9);
        assert_eq!(index.define(TENANT, Slot(0), &labels(4), series_hash(TENANT, &labels(4))), Some(10));
    }

    #[test]
    fn freed_rows_give_their_memory_back_and_the_others_keep_their_numbers() {
        let mut index = index(40_000);
        let before = index.memory_bytes();
        (0..39_000).filter(|row| row % 7_000 != 0).for_each(|row| index.free(row));
        assert!(index.is_sparse());
        index = index.rebuilt();
        assert!(!index.is_sparse());
        let after = index.memory_bytes();
        assert!(after.0 < before.0 / 10 && after.1 < before.1 / 10, "{before:?} {after:?}");
        assert_eq!((index.live_rows(), index.next_row()), (1_006, 40_000));
        for row in [0, 35_000, 39_000, 39_999] {
            assert_eq!(index.find(TENANT, &labels(row), series_hash(TENANT, &labels(row))), Some(row));
            assert_eq!((index.labels(row), index.slot(row)), (labels(row), Slot(row as u16)));
        }
        assert_eq!(
            index.select(TENANT, &[Matcher::equal("pod", "pod-7000")]).iter().collect::<Vec<_>>(),
            [7_000]
        );
        assert!(index.is_free(1) && index.is_free(40_000));
    }

    #[test]
    fn numbers_that_are_used_up_are_not_given_again() {
        let mut index = index(1);
        index.skip_to(ROW_LIMIT);
        assert_eq!(index.define(TENANT, Slot(0), &labels(4), series_hash(TENANT, &labels(4))), None);
    }
}
