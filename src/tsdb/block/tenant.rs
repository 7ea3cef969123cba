//! One tenant's share of a block: label names, shapes, where pages begin, and counts.
//!
//! Form of the record: `version u8`, series, samples; names in increasing order, each as length, text, number
//! of values, number of series that have it; shapes, each as number of labels and the name ids; pages, each
//! as ordinals since the last one's first; the label pairs of most series, each as name id, length, text,
//! series. All numbers are varints.

use super::BlockId;
use super::frame::{Kind, idx_key};
use super::names::{self, NameRecord};
use super::rows::{ROWS, RowsBuilder};
use quorate_chunk::varint;
use quorate_model::{Labels, TenantId};
use std::collections::HashMap;

const VERSION: u8 = 1;
/// Label pairs whose counts are kept.
const TOP_PAIRS: usize = 1_000;

/// Key and body of an index record.
type Record = (Vec<u8>, Vec<u8>);

/// A label name and how much of it there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameStats {
    /// The name.
    pub name: String,
    /// Distinct values.
    pub values: u32,
    /// Series that have it.
    pub series: u32,
}

/// A label pair and the number of series that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairStats {
    /// Label name.
    pub name: String,
    /// Label value.
    pub value: String,
    /// Series with this pair.
    pub series: u32,
}

/// Counts of one tenant in one block, all exact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantStats {
    /// Series.
    pub series: u32,
    /// Samples.
    pub samples: u64,
    /// Every label name.
    pub names: Vec<NameStats>,
    /// The 1,000 pairs of most series, most first.
    pub pairs: Vec<PairStats>,
}

#[derive(Debug, Default)]
struct NameBuilder {
    name: String,
    id_of: HashMap<Box<str>, u32>,
    /// Ordinals of each value, by id in order of arrival.
    postings: Vec<Vec<u32>>,
    present: Vec<u32>,
}

impl NameBuilder {
    fn push(&mut self, value: &str, ordinal: u32) -> u32 {
        self.present.push(ordinal);
        if let Some(id) = self.id_of.get(value) {
            self.postings[*id as usize].push(ordinal);
            return *id;
        }
        let id = self.postings.len() as u32;
        self.id_of.insert(value.into(), id);
        self.postings.push(vec![ordinal]);
        id
    }

    /// Values in order, with their ids of arrival.
    fn sorted(&self) -> Vec<(&str, u32)> {
        let mut values: Vec<(&str, u32)> = self.id_of.iter().map(|(value, id)| (&**value, *id)).collect();
        values.sort_unstable();
        values
    }
}

/// Collects the series of one tenant. Ids are given in order of arrival and put in order at the end.
#[derive(Debug, Default)]
pub(super) struct TenantBuilder {
    samples: u64,
    names: Vec<NameBuilder>,
    name_of: HashMap<Box<str>, u32>,
    shape_of: HashMap<Vec<u32>, u32>,
    shapes: Vec<Vec<u32>>,
    /// Shape of each series, and its value ids one after the other.
    rows: Vec<u32>,
    ids: Vec<u32>,
    pages: Vec<u32>,
    shape: Vec<u32>,
}

impl TenantBuilder {
    /// Number of series so far: the next ordinal.
    pub(super) fn series(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Adds the next series.
    pub(super) fn push(&mut self, labels: &Labels, samples: u64) {
        let ordinal = self.series();
        self.samples += samples;
        self.shape.clear();
        for (name, value) in labels {
            let name_id = self.name_id(name);
            self.shape.push(name_id);
            let value_id = self.names[name_id as usize].push(value, ordinal);
            self.ids.push(value_id);
        }
        let shape = match self.shape_of.get(&self.shape) {
            Some(shape) => *shape,
            None => {
                let shape = self.shapes.len() as u32;
                self.shapes.push(self.shape.clone());
                self.shape_of.insert(self.shape.clone(), shape);
                shape
            }
        };
        self.rows.push(shape);
    }

    fn name_id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.name_of.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.name_of.insert(name.into(), id);
        self.names.push(NameBuilder { name: name.to_owned(), ..NameBuilder::default() });
        id
    }

    /// A page begins with the series `first`.
    pub(super) fn page(&mut self, first: u32) {
        self.pages.push(first);
    }

    /// Every record of the tenant as key and body, in key order.
    pub(super) fn finish(&self, block: BlockId, tenant: TenantId) -> Result<Vec<Record>, fst::Error> {
        let mut order: Vec<u32> = (0..self.names.len() as u32).collect();
        order.sort_unstable_by_key(|id| &self.names[*id as usize].name);
        let mut rank_of_name = vec![0u32; order.len()];
        let mut rank_of_value: Vec<Vec<u32>> = vec![Vec::new(); order.len()];
        let mut top = TopPairs::default();
        let mut name_records = Vec::new();
        let mut part_records = Vec::new();
        for (rank, id) in order.iter().enumerate() {
            let name = &self.names[*id as usize];
            rank_of_name[*id as usize] = rank as u32;
            let sorted = name.sorted();
            let ranks = &mut rank_of_value[*id as usize];
            ranks.resize(sorted.len(), 0);
            for (value_rank, (value, value_id)) in sorted.iter().enumerate() {
                ranks[*value_id as usize] = value_rank as u32;
                top.offer(rank as u32, value, name.postings[*value_id as usize].len() as u32);
            }
            let values = sorted.iter().map(|(value, id)| (*value, name.postings[*id as usize].as_slice()));
            let NameRecord { record, parts } = names::encode(values, &name.present, self.series())?;
            name_records.push((idx_key(block, tenant, Kind::Name, &[rank as u32]), record));
            for (part, body) in parts.into_iter().enumerate() {
                let key = idx_key(block, tenant, Kind::Postings, &[rank as u32, part as u32]);
                part_records.push((key, body));
            }
        }
        let mut out = vec![(
            idx_key(block, tenant, Kind::Tenant, &[]),
            self.tenant_record(&order, &rank_of_name, top.finish()),
        )];
        out.append(&mut name_records);
        out.append(&mut part_records);
        self.push_rows(block, tenant, &rank_of_value, &mut out);
        Ok(out)
    }

    fn tenant_record(&self, order: &[u32], rank_of_name: &[u32], pairs: Vec<(u32, u32, &str)>) -> Vec<u8> {
        let mut out = vec![VERSION];
        varint::put(&mut out, u64::from(self.series()));
        varint::put(&mut out, self.samples);
        varint::put(&mut out, order.len() as u64);
        for id in order {
            let name = &self.names[*id as usize];
            put_text(&mut out, &name.name);
            varint::put(&mut out, name.postings.len() as u64);
            varint::put(&mut out, name.present.len() as u64);
        }
        varint::put(&mut out, self.shapes.len() as u64);
        for shape in &self.shapes {
            varint::put(&mut out, shape.len() as u64);
            shape.iter().for_each(|id| varint::put(&mut out, u64::from(rank_of_name[*id as usize])));
        }
        varint::put(&mut out, self.pages.len() as u64);
        let mut last = 0;
        for first in &self.pages {
            varint::put(&mut out, u64::from(first - last));
            last = *first;
        }
        varint::put(&mut out, pairs.len() as u64);
        for (series, name, value) in pairs {
            varint::put(&mut out, u64::from(name));
            put_text(&mut out, value);
            varint::put(&mut out, u64::from(series));
        }
        out
    }

    fn push_rows(&self, block: BlockId, tenant: TenantId, rank_of_value: &[Vec<u32>], out: &mut Vec<Record>) {
        let mut rows = RowsBuilder::default();
        let mut ids = self.ids.iter();
        let mut ranks = Vec::new();
        for (ordinal, shape) in self.rows.iter().enumerate() {
            ranks.clear();
            for name in &self.shapes[*shape as usize] {
                ranks.extend(ids.next().map(|id| rank_of_value[*name as usize][*id as usize]));
            }
            rows.push(*shape, &ranks);
            let behind = ordinal as u32 + 1;
            if behind.is_multiple_of(ROWS) || behind == self.series() {
                let first = (behind - 1) / ROWS * ROWS;
                out.push((idx_key(block, tenant, Kind::Rows, &[first]), rows.finish()));
            }
        }
    }
}

/// Keeps the pairs of most series; of equal ones those that come first.
#[derive(Debug, Default)]
struct TopPairs<'a> {
    pairs: Vec<(u32, u32, &'a str)>,
    least: u32,
}

impl<'a> TopPairs<'a> {
    fn offer(&mut self, name: u32, value: &'a str, series: u32) {
        if self.pairs.len() >= TOP_PAIRS && series <= self.least {
            return;
        }
        self.pairs.push((series, name, value));
        if self.pairs.len() >= 2 * TOP_PAIRS {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        self.pairs.truncate(TOP_PAIRS);
        if self.pairs.len() == TOP_PAIRS {
            self.least = self.pairs[TOP_PAIRS - 1].0;
        }
    }

    fn finish(mut self) -> Vec<(u32, u32, &'a str)> {
        self.cut();
        self.pairs
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = varint::take_len(rest, rest.len())?;
    String::from_utf8(varint::take_bytes(rest, length)?.to_vec()).ok()
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint::take(rest)?).ok()
}

/// A tenant's record taken apart.
#[derive(Debug)]
pub(super) struct TenantIndex {
    stats: TenantStats,
    shapes: Vec<Vec<u32>>,
    pages: Vec<u32>,
    weight: u64,
}

impl TenantIndex {
    /// Takes a record apart. `None` if it is not one.
    pub(super) fn parse(mut record: &[u8]) -> Option<Self> {
        let weight = record.len() as u64 * 3 + 200;
        let rest = &mut record;
        if varint::take_bytes(rest, 1)?[0] != VERSION {
            return None;
        }
        let series = take_u32(rest)?;
        let samples = varint::take(rest)?;
        let mut names: Vec<NameStats> = Vec::new();
        for _ in 0..varint::take_len(rest, rest.len())? {
            let name = take_text(rest)?;
            if names.last().is_some_and(|last| last.name >= name) {
                return None;
            }
            names.push(NameStats { name, values: take_u32(rest)?, series: take_u32(rest)? });
        }
        let shapes = take_shapes(rest, &names)?;
        let pages = take_pages(rest)?;
        let mut pairs = Vec::new();
        for _ in 0..varint::take_len(rest, rest.len())? {
            let name = names.get(take_u32(rest)? as usize)?.name.clone();
            pairs.push(PairStats { name, value: take_text(rest)?, series: take_u32(rest)? });
        }
        let stats = TenantStats { series, samples, names, pairs };
        rest.is_empty().then_some(Self { stats, shapes, pages, weight })
    }

    pub(super) fn stats(&self) -> &TenantStats {
        &self.stats
    }

    pub(super) fn series(&self) -> u32 {
        self.stats.series
    }

    /// The id of a label name.
    pub(super) fn name_id(&self, name: &str) -> Option<u32> {
        let names = &self.stats.names;
        names.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok().map(|id| id as u32)
    }

    /// The name of an id of a shape.
    pub(super) fn name(&self, id: u32) -> &str {
        &self.stats.names[id as usize].name
    }

    /// Label names of a shape, by id, in increasing order.
    pub(super) fn shape(&self, shape: u32) -> Option<&[u32]> {
        self.shapes.get(shape as usize).map(Vec::as_slice)
    }

    /// The first ordinal of the page that holds `ordinal`.
    pub(super) fn page_of(&self, ordinal: u32) -> Option<u32> {
        let behind = self.pages.partition_point(|first| *first <= ordinal);
        behind.checked_sub(1).filter(|_| ordinal < self.series()).map(|page| self.pages[page])
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }
}

fn take_shapes(rest: &mut &[u8], names: &[NameStats]) -> Option<Vec<Vec<u32>>> {
    let mut shapes = Vec::new();
    for _ in 0..varint::take_len(rest, rest.len())? {
        let mut shape: Vec<u32> = Vec::new();
        for _ in 0..varint::take_len(rest, rest.len())? {
            let id = take_u32(rest).filter(|id| (*id as usize) < names.len())?;
            if shape.last().is_some_and(|last| *last >= id) {
                return None;
            }
            shape.push(id);
        }
        shapes.push(shape);
    }
    Some(shapes)
}

fn take_pages(rest: &mut &[u8]) -> Option<Vec<u32>> {
    let mut pages = Vec::new();
    let mut last = 0u32;
    for _ in 0..varint::take_len(rest, rest.len())? {
        last = last.checked_add(take_u32(rest)?)?;
        pages.push(last);
    }
    Some(pages)
}
