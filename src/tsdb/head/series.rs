//! The series of a head: row -> labels, labels -> row, and the postings of each tenant.
//!
//! Knows labels, tenants and rows. Does not know samples, sessions or stripes.
//! Path: `head::apply` defines here, `head::select` finds here.
//! N1: rows are given in log order and never twice in one head's life. N2: one row per (tenant, label set).
//! Form of a series: slot, shape (the sorted label names, shared) and value symbols as varints, about 35 bytes.

use super::id_table::IdTable;
use super::postings::TenantIndex;
use super::symbols::{Symbols, reserve};
use quorate_chunk::varint;
use quorate_model::{Labels, MatchOp, Matcher, Slot, TenantId};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Candidates up to this many are tested one by one instead of by postings.
const TESTED_SINGLY: u64 = 1000;
const FREE: u32 = u32::MAX;

/// What is kept of a row here.
#[derive(Debug, Clone, Copy)]
struct Series {
    hash: u64,
    tenant: TenantId,
    /// Where its record begins, or [`FREE`].
    record: u32,
}

/// See the module header.
#[derive(Debug, Default)]
pub(crate) struct SeriesIndex {
    symbols: Symbols,
    shapes: Vec<Box<[u32]>>,
    shape_table: IdTable,
    records: Vec<u8>,
    series: Vec<Series>,
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
            let series = &self.series[row as usize];
            series.hash == hash && series.tenant == tenant && self.has_labels(row, labels)
        })
    }

    /// Gives the next row to a series that has none.
    pub(crate) fn define(&mut self, tenant: TenantId, slot: Slot, labels: &Labels, hash: u64) -> u32 {
        let record = self.store(slot, labels);
        let row = self.series.len() as u32;
        self.push(Series { hash, tenant, record });
        row
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
        let free = Series { hash: 0, tenant: TenantId(0), record: FREE };
        if self.series.len() < row as usize {
            self.series.resize(row as usize, free);
        }
    }

    /// Forgets a row. Its number is not given again.
    pub(crate) fn free(&mut self, row: u32) {
        let Series { hash, tenant, record } = self.series[row as usize];
        if record == FREE {
            return;
        }
        let series = &self.series;
        self.table.remove(hash, row, |other| series[other as usize].hash);
        let pairs: Vec<_> = self.pairs(row).collect();
        if let Some(index) = self.tenants.get_mut(&tenant) {
            index.remove(row, pairs.into_iter());
            if index.all().is_empty() {
                self.tenants.remove(&tenant);
            }
        }
        self.series[row as usize].record = FREE;
    }

    /// Whether the row was never given or is forgotten.
    pub(crate) fn is_free(&self, row: u32) -> bool {
        self.series.get(row as usize).is_none_or(|s| s.record == FREE)
    }

    /// Tenant of a live row.
    pub(crate) fn tenant(&self, row: u32) -> TenantId {
        self.series[row as usize].tenant
    }

    /// Hash of a live row's tenant and labels.
    pub(crate) fn hash(&self, row: u32) -> u64 {
        self.series[row as usize].hash
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
        self.series.len() as u32
    }

    /// Number of live rows.
    pub(crate) fn live_rows(&self) -> u64 {
        self.tenants.values().map(|t| t.all().len()).sum()
    }

    /// Memory held by labels and the canonical map, and by postings, in bytes.
    pub(crate) fn memory_bytes(&self) -> (usize, usize) {
        let shapes: usize = self.shapes.iter().map(|s| 16 + s.len() * 4).sum();
        let rows = self.series.capacity() * size_of::<Series>() + self.table.bytes();
        let labels = self.symbols.memory_bytes() + shapes + self.records.capacity() + rows;
        (labels, self.tenants.values().map(TenantIndex::memory_bytes).sum())
    }

    fn keep(&self, rows: RoaringBitmap, matcher: &Matcher, name: Option<u32>) -> RoaringBitmap {
        let value = |row| name.map_or("", |name| self.value(row, name));
        rows.iter().filter(|row| matcher.matches(value(*row))).collect()
    }

    fn push(&mut self, series: Series) {
        let row = self.series.len() as u32;
        if self.series.len() == self.series.capacity() {
            self.series.reserve_exact((self.series.len() / 8).max(64));
        }
        self.series.push(series);
        let all = &self.series;
        self.table.insert(series.hash, row, |other| all[other as usize].hash);
        let pairs: Vec<_> = self.pairs(row).collect();
        self.tenants.entry(series.tenant).or_default().insert(row, pairs.into_iter());
    }

    /// Slot, shape and the bytes that begin with the value symbols.
    fn record(&self, row: u32) -> (u64, u64, &[u8]) {
        let mut rest = &self.records[self.series[row as usize].record as usize..];
        let slot = varint::take(&mut rest).unwrap_or_default();
        let shape = varint::take(&mut rest).unwrap_or_default();
        (slot, shape, rest)
    }

    fn store(&mut self, slot: Slot, labels: &Labels) -> u32 {
        let (mut names, mut record) = (Vec::with_capacity(16), Vec::with_capacity(48));
        let pairs: Vec<_> = labels.iter().collect();
        names.extend(pairs.iter().map(|(name, _)| self.symbols.intern(name)));
        varint::put(&mut record, u64::from(slot.0));
        varint::put(&mut record, u64::from(self.shape(&names)));
        for (_, value) in pairs {
            varint::put(&mut record, u64::from(self.symbols.intern(value)));
        }
        reserve(&mut self.records, record.len());
        let at = self.records.len() as u32;
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
            assert_eq!(index.define(TENANT, Slot(i as u16), &labels(i), hash), i);
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
        assert_eq!(index.define(TENANT, Slot(0), &labels(4), series_hash(TENANT, &labels(4))), 10);
    }
}
