//! The values of one label name within a tenant: an FST from value to id, and the postings of each id.
//!
//! Form of the record: number of values, list of series that have the name (length, then postings; length 0
//! if all have it), parts and the first value id of each (varints); then for each value a handle u32 little
//! endian; then the FST. Ids are ranks, so the FST also gives a value back from its id. A handle with its
//! highest bit set is the only ordinal itself; else it is an offset in the part of postings that holds the
//! id, where length varint and list follow.

use super::postings;
use fst::{IntoStreamer, Streamer};
use quorate_chunk::varint;
use roaring::RoaringBitmap;

const ONLY: u32 = 1 << 31;
/// Bytes from which on a part of postings is closed.
const PART_BYTES: usize = 32 << 10;

/// The stored form of one name's values.
#[derive(Debug)]
pub(super) struct NameRecord {
    pub(super) record: Vec<u8>,
    pub(super) parts: Vec<Vec<u8>>,
}

/// Encodes the values of a name, in increasing order, each with its ordinals. `present` are all of them
/// together, of a tenant with `series` series.
pub(super) fn encode<'a>(
    values: impl ExactSizeIterator<Item = (&'a str, &'a [u32])>,
    present: &[u32],
    series: u32,
) -> Result<NameRecord, fst::Error> {
    let count = values.len();
    let mut parts: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut handles = Vec::with_capacity(count * 4);
    let mut map = fst::MapBuilder::memory();
    let mut list = Vec::new();
    for (id, (value, ordinals)) in values.enumerate() {
        map.insert(value, id as u64)?;
        let handle = match ordinals {
            [only] if *only < ONLY => ONLY | only,
            _ => {
                list.clear();
                postings::encode(ordinals, &mut list);
                put_list(id as u32, &list, &mut parts)
            }
        };
        handles.extend_from_slice(&handle.to_le_bytes());
    }
    let mut record = Vec::new();
    varint::put(&mut record, count as u64);
    list.clear();
    if present.len() != series as usize {
        postings::encode(present, &mut list);
    }
    varint::put(&mut record, list.len() as u64);
    record.extend_from_slice(&list);
    varint::put(&mut record, parts.len() as u64);
    parts.iter().for_each(|(first, _)| varint::put(&mut record, u64::from(*first)));
    record.extend_from_slice(&handles);
    record.extend_from_slice(&map.into_inner()?);
    Ok(NameRecord { record, parts: parts.into_iter().map(|(_, part)| part).collect() })
}

/// Appends a list to the open part and returns its offset there.
fn put_list(id: u32, list: &[u8], parts: &mut Vec<(u32, Vec<u8>)>) -> u32 {
    if parts.last().is_none_or(|(_, part)| part.len() >= PART_BYTES) {
        parts.push((id, Vec::new()));
    }
    let part = &mut parts.last_mut().expect("a part was pushed above").1;
    let offset = part.len() as u32;
    varint::put(part, list.len() as u64);
    part.extend_from_slice(list);
    offset
}

/// Where the postings of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handle {
    /// A single series.
    Only(u32),
    /// At an offset of a part.
    Listed { part: u32, offset: u32 },
}

/// A record taken apart.
#[derive(Debug)]
pub(super) struct NameIndex {
    values: fst::Map<Vec<u8>>,
    handles: Vec<u32>,
    part_firsts: Vec<u32>,
    present: Option<RoaringBitmap>,
    series: u32,
}

impl NameIndex {
    /// Takes a record apart; the tenant has `series` series. `None` if it is not one.
    pub(super) fn parse(mut record: &[u8], series: u32) -> Option<Self> {
        let rest = &mut record;
        let count = varint::take_len(rest, rest.len() / 4)?;
        let present = varint::take_len(rest, rest.len()).and_then(|len| varint::take_bytes(rest, len))?;
        let present = if present.is_empty() { None } else { Some(postings::decode(present, series)?) };
        let parts = varint::take_len(rest, rest.len())?;
        let first = |_| u32::try_from(varint::take(rest)?).ok();
        let part_firsts = (0..parts).map(first).collect::<Option<Vec<_>>>()?;
        let handles = varint::take_bytes(rest, count * 4)?;
        let handle = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let handles = handles.as_chunks::<4>().0.iter().map(handle).collect();
        let values = fst::Map::new(rest.to_vec()).ok()?;
        (values.len() == count).then_some(Self { values, handles, part_firsts, present, series })
    }

    /// Number of values.
    pub(super) fn len(&self) -> u32 {
        self.handles.len() as u32
    }

    /// The id of a value.
    pub(super) fn id(&self, value: &str) -> Option<u32> {
        self.values.get(value).map(|id| id as u32)
    }

    /// Puts the value of an id into `out`, which is cleared. Returns whether there is one.
    pub(super) fn value(&self, id: u32, out: &mut String) -> bool {
        let mut bytes = std::mem::take(out).into_bytes();
        bytes.clear();
        let found = id < self.len() && self.values.as_fst().get_key_into(u64::from(id), &mut bytes);
        match String::from_utf8(bytes) {
            Ok(value) => {
                *out = value;
                found
            }
            Err(_) => false,
        }
    }

    /// Calls `each` with the values that begin with `prefix`, in order, with their ids.
    pub(super) fn for_prefix(&self, prefix: &str, mut each: impl FnMut(&str, u32)) -> Option<()> {
        let mut stream = self.values.range().ge(prefix).into_stream();
        while let Some((value, id)) = stream.next() {
            if !value.starts_with(prefix.as_bytes()) {
                break;
            }
            each(std::str::from_utf8(value).ok()?, id as u32);
        }
        Some(())
    }

    /// The ids whose values an automaton accepts.
    pub(super) fn accepted(&self, automaton: impl fst::Automaton) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut stream = self.values.search(automaton).into_stream();
        while let Some((_, id)) = stream.next() {
            ids.push(id as u32);
        }
        ids
    }

    /// The series that have the name.
    pub(super) fn present(&self) -> RoaringBitmap {
        self.present.clone().unwrap_or_else(|| all(self.series))
    }

    /// Where the postings of an id are.
    pub(super) fn handle(&self, id: u32) -> Option<Handle> {
        let handle = *self.handles.get(id as usize)?;
        if handle & ONLY != 0 {
            return Some(Handle::Only(handle & !ONLY));
        }
        let part = self.part_firsts.partition_point(|first| *first <= id).checked_sub(1)?;
        Some(Handle::Listed { part: part as u32, offset: handle })
    }

    /// Memory it takes.
    pub(super) fn weight(&self) -> u64 {
        let fst = self.values.as_fst().as_bytes().len() + self.handles.len() * 4 + self.part_firsts.len() * 4;
        fst as u64 + self.present.as_ref().map_or(0, |p| p.serialized_size() as u64) + 200
    }
}

/// The list at `offset` of a part. `None` if there is none.
pub(super) fn list_at(part: &[u8], offset: u32, series: u32) -> Option<RoaringBitmap> {
    let mut rest = part.get(offset as usize..)?;
    let length = varint::take_len(&mut rest, part.len())?;
    postings::decode(rest.get(..length)?, series)
}

/// Every ordinal of a tenant.
pub(super) fn all(series: u32) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    all.insert_range(0..series);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_ids_and_postings_are_found_again() {
        let values: Vec<(String, Vec<u32>)> = (0..3_000u32)
            .map(|i| (format!("v{i:05}"), if i % 3 == 0 { vec![i] } else { vec![i, i + 3_000, i + 9_000] }))
            .collect();
        let mut present: Vec<u32> = values.iter().flat_map(|v| v.1.clone()).collect();
        present.sort_unstable();
        let iter = values.iter().map(|(value, ordinals)| (value.as_str(), ordinals.as_slice()));
        let stored = encode(iter, &present, 20_000).unwrap();
        let index = NameIndex::parse(&stored.record, 20_000).unwrap();
        assert_eq!(index.present().into_iter().collect::<Vec<_>>(), present);
        let mut value = String::new();
        for (id, (expected, ordinals)) in values.iter().enumerate() {
            assert!(index.value(id as u32, &mut value));
            assert_eq!((&value, index.id(expected)), (expected, Some(id as u32)));
            let found = match index.handle(id as u32).unwrap() {
                Handle::Only(only) => vec![only],
                Handle::Listed { part, offset } => {
                    list_at(&stored.parts[part as usize], offset, 20_000).unwrap().into_iter().collect()
                }
            };
            assert_eq!(&found, ordinals);
        }
        assert!(!index.value(3_000, &mut value));
        assert_eq!(index.id("v"), None);
        let mut seen = 0;
        index.for_prefix("v001", |_, _| seen += 1).unwrap();
        assert_eq!(seen, 100);
    }

    #[test]
    fn a_cut_record_is_refused() {
        let stored = encode([("a", &[1u32, 2][..]), ("b", &[3][..])].into_iter(), &[1, 2, 3], 4).unwrap();
        for cut in 0..stored.record.len() {
            assert!(NameIndex::parse(&stored.record[..cut], 4).is_none(), "cut at {cut}");
        }
    }
}
