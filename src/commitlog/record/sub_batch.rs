//! A sub-batch: header, section table, sections. One tenant and one request each.

use super::bytes::{Reader, put_varint};
use super::definitions::{Interner, Scratch};
use super::{RecordError, columns, histograms, malformed, metadata, packed};
use quorate_model::{SubBatch, TenantId};

/// Shortest sub-batch: tenant, floor, base time, two counts and the number of sections.
pub(super) const MIN_BYTES: usize = 4 + 8 + 8 + 3;

const DICTIONARY: u8 = 1;
const DEFINITIONS: u8 = 2;
const REFS: u8 = 3;
const TIMES: u8 = 4;
const VALUES: u8 = 5;
const STARTS: u8 = 6;
const HISTOGRAMS: u8 = 7;
const METADATA: u8 = 8;
const PACKED_VALUES: u8 = 9;
/// Sections with this bit may be skipped by a build that does not know them. 0x81 is reserved for exemplars.
const OPTIONAL: u8 = 0x80;
const MAX_SECTIONS: usize = 64;

/// The form of a batch's float values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Values {
    /// Eight bytes each, which every version reads.
    #[default]
    Raw,
    /// As few bytes as each needs, or eight each where that is less; for clusters in which every node reads it.
    Packed,
}

/// Encodes sub-batches, each into its own bytes, with buffers that are used again.
#[derive(Debug, Default)]
pub struct SubBatchEncoder {
    interner: Interner,
    body: Vec<u8>,
    dictionary: Vec<u8>,
    rows: Vec<u8>,
    packed: Vec<u8>,
    sections: Vec<(u8, usize)>,
}

impl SubBatchEncoder {
    /// Appends `batch` to `out`. The columns of float samples have equal lengths; `starts` increase.
    ///
    /// About 9 bytes a sample, packed about 5; allocates nothing once its buffers have grown.
    pub fn encode(&mut self, batch: &SubBatch, values: Values, out: &mut Vec<u8>) {
        debug_assert!(batch.refs.len() == batch.ts_ms.len() && batch.refs.len() == batch.values.len());
        let base_ms =
            batch.ts_ms.first().or_else(|| batch.histograms.first().map(|h| &h.ts_ms)).map_or(0, |ms| *ms);
        self.body.clear();
        self.sections.clear();
        self.put_definitions(batch);
        if !batch.refs.is_empty() {
            self.section(REFS, |body| columns::put_refs(&batch.refs, body));
            self.section(TIMES, |body| columns::put_times(&batch.ts_ms, base_ms, body));
        }
        let is_packed = values == Values::Packed && self.pack(&batch.values);
        if !is_packed && !batch.refs.is_empty() {
            self.section(VALUES, |body| columns::put_values(&batch.values, body));
        }
        if !batch.starts.is_empty() {
            self.section(STARTS, |body| columns::put_starts(&batch.starts, base_ms, body));
        }
        if !batch.histograms.is_empty() {
            self.section(HISTOGRAMS, |body| histograms::put(&batch.histograms, base_ms, body));
        }
        if !batch.metadata.is_empty() {
            self.section(METADATA, |body| metadata::put(&batch.metadata, body));
        }
        if is_packed {
            self.sections.push((PACKED_VALUES, self.packed.len()));
            self.body.extend_from_slice(&self.packed);
        }
        self.put_header(batch, base_ms, out);
        out.extend_from_slice(&self.body);
    }

    /// Packs values for the last section, if that makes them shorter.
    fn pack(&mut self, values: &[f64]) -> bool {
        self.packed.clear();
        packed::put(values, &mut self.packed);
        !self.packed.is_empty() && self.packed.len() < values.len() * 8
    }

    fn put_definitions(&mut self, batch: &SubBatch) {
        if batch.definitions.is_empty() {
            return;
        }
        self.dictionary.clear();
        self.rows.clear();
        self.interner.put(&batch.definitions, &mut self.dictionary, &mut self.rows);
        self.body.extend_from_slice(&self.dictionary);
        self.body.extend_from_slice(&self.rows);
        self.sections.push((DICTIONARY, self.dictionary.len()));
        self.sections.push((DEFINITIONS, self.rows.len()));
    }

    fn section(&mut self, id: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.body.len();
        write(&mut self.body);
        self.sections.push((id, self.body.len() - start));
    }

    fn put_header(&self, batch: &SubBatch, base_ms: i64, out: &mut Vec<u8>) {
        out.reserve(self.body.len() + MIN_BYTES + 6 * self.sections.len());
        out.extend_from_slice(&batch.tenant.0.to_le_bytes());
        out.extend_from_slice(&batch.floor_ms.to_le_bytes());
        out.extend_from_slice(&base_ms.to_le_bytes());
        put_varint(out, batch.refs.len() as u64);
        put_varint(out, batch.definitions.len() as u64);
        out.push(self.sections.len() as u8);
        for (id, len) in &self.sections {
            out.push(*id);
            put_varint(out, *len as u64);
        }
    }
}

/// Reads one sub-batch from the front of `reader` into the cleared `batch`.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    scratch: &mut Scratch,
    batch: &mut SubBatch,
) -> Result<(), RecordError> {
    batch.tenant = TenantId(reader.u32()?);
    batch.floor_ms = reader.i64()?;
    let base_ms = reader.i64()?;
    let samples = bounded(reader.varint()?)?;
    let definitions = bounded(reader.varint()?)?;
    let mut sections = Sections { samples, definitions, base_ms, dictionary: &[] };
    let (table, count) = take_table(reader)?;
    for (id, len) in &table[..count] {
        let bytes = reader.take(*len)?;
        sections.decode(*id, bytes, scratch, batch)?;
    }
    sections.check(batch)
}

fn bounded(count: u64) -> Result<usize, RecordError> {
    u32::try_from(count).map(|n| n as usize).map_err(|_| malformed("a count is over 32 bits"))
}

type Table = [(u8, usize); MAX_SECTIONS];

fn take_table(reader: &mut Reader<'_>) -> Result<(Table, usize), RecordError> {
    let count = usize::from(reader.u8()?);
    if count > MAX_SECTIONS {
        return Err(malformed("too many sections"));
    }
    let mut table = [(0, 0); MAX_SECTIONS];
    let mut previous = 0;
    for entry in &mut table[..count] {
        let id = reader.u8()?;
        if id <= previous {
            return Err(malformed("section ids do not increase"));
        }
        previous = id;
        *entry = (id, bounded(reader.varint()?)?);
    }
    Ok((table, count))
}

struct Sections<'a> {
    samples: usize,
    definitions: usize,
    base_ms: i64,
    dictionary: &'a [u8],
}

impl<'a> Sections<'a> {
    fn decode(
        &mut self,
        id: u8,
        bytes: &'a [u8],
        scratch: &mut Scratch,
        batch: &mut SubBatch,
    ) -> Result<(), RecordError> {
        let mut reader = Reader::new(bytes);
        match id {
            DICTIONARY => {
                self.dictionary = bytes;
                return scratch.take_dictionary(bytes);
            }
            DEFINITIONS => {
                if self.dictionary.is_empty() {
                    return Err(malformed("definitions without a dictionary"));
                }
                return scratch.take_rows(bytes, self.dictionary, self.definitions, &mut batch.definitions);
            }
            REFS => columns::take_refs(&mut reader, self.samples, &mut batch.refs)?,
            TIMES => {
                // Runs expand, so the count must already be paid for by one byte of refs each.
                if batch.refs.len() != self.samples {
                    return Err(malformed("times without refs"));
                }
                columns::take_times(&mut reader, self.samples, self.base_ms, &mut batch.ts_ms)?;
            }
            VALUES => columns::take_values(&mut reader, self.samples, &mut batch.values)?,
            PACKED_VALUES => {
                if batch.refs.len() != self.samples || !batch.values.is_empty() {
                    return Err(malformed("packed values without refs, or values twice"));
                }
                packed::take(&mut reader, self.samples, &mut batch.values)?;
            }
            STARTS => {
                if batch.refs.len() != self.samples {
                    return Err(malformed("start times without refs"));
                }
                columns::take_starts(&mut reader, self.samples, self.base_ms, &mut batch.starts)?;
            }
            HISTOGRAMS => histograms::take(&mut reader, self.base_ms, &mut batch.histograms)?,
            METADATA => metadata::take(&mut reader, &mut batch.metadata)?,
            other if other & OPTIONAL != 0 => return Ok(()),
            other => return Err(RecordError::Section { id: other }),
        }
        reader.end("bytes follow a section")
    }

    fn check(&self, batch: &SubBatch) -> Result<(), RecordError> {
        let is_whole = batch.refs.len() == self.samples
            && batch.ts_ms.len() == self.samples
            && batch.values.len() == self.samples
            && batch.definitions.len() == self.definitions;
        if is_whole { Ok(()) } else { Err(malformed("a section is missing")) }
    }
}
