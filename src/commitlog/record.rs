//! The byte form of a log record: columns over dense refs, never protobuf.
//!
//! Knows the layout, its versions and its checksum. Does not know logs, partitions or what apply does with
//! a record. The page is `docs/formats/record.md`; golden bytes stand in the tests.
//! Path: `ingest::distributor` -> **here** -> `PartitionLog` -> **here** -> `ingest::applier`.
//!
//! - R1: `decode(encode(r)) == r` bit for bit, NaN payloads included.
//! - R2: no bytes make the decoder panic; every declared count is bounded by the bytes that are left before
//!   anything is allocated for it, and the labels of a sub-batch by [`MAX_LABEL_BYTES`].
//! - R3: an unknown version, kind or mandatory section is an error, because skipping it would let replicas
//!   differ; a section whose id has the high bit set may be skipped.
//!
//! Cost: about 9 bytes a sample, about 6 with packed values; with a reused [`SubBatchEncoder`] and [`RecordDecoder`] nothing is
//! allocated per sample.

mod bytes;
mod columns;
mod control;
mod definitions;
mod histograms;
mod metadata;
mod packed;
mod sub_batch;
#[cfg(test)]
mod tests;

pub use sub_batch::{SubBatchEncoder, Values};

use bytes::{Reader, put_varint};
use definitions::Scratch;
use quorate_model::{LogRecord, RecordBody, RecordHeader, RecordKind, SessionId, SubBatch};

/// The version that this build writes, and the newest that it reads.
pub const VERSION: u8 = 1;
/// Bytes of the header, before the body.
pub const HEADER_BYTES: usize = 30;
/// Most bytes that the labels defined in one sub-batch may take once they are expanded.
pub const MAX_LABEL_BYTES: usize = 64 << 20;

const CRC_AT: usize = 26;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer build: this one must stop, not skip.
    #[error("record version {found} is newer than {VERSION}, the newest that this build reads")]
    Version {
        /// The version in the record.
        found: u8,
    },
    /// A kind that this build does not apply.
    #[error("record kind {found} is not known to this build")]
    Kind {
        /// The kind in the record.
        found: u8,
    },
    /// A section that must not be skipped is not known.
    #[error("record section {id} is mandatory and not known to this build")]
    Section {
        /// The id of the section.
        id: u8,
    },
    /// The bytes were changed after they were written.
    #[error("record checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// Of the bytes read.
        computed: u32,
    },
    /// The checksum holds but the content does not follow the format, or the bytes end early.
    #[error("record is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

pub(crate) fn malformed(what: &'static str) -> RecordError {
    RecordError::Malformed { what }
}

/// Appends the byte form of `record` to `out`, one that every version reads.
///
/// # Panics
/// Never on records whose columns have equal lengths, which [`SubBatch`] promises.
pub fn encode(record: &LogRecord, out: &mut Vec<u8>) {
    let start = out.len();
    match &record.body {
        RecordBody::Data(batches) => {
            begin(&record.header, RecordKind::Data, out);
            put_varint(out, batches.len() as u64);
            let mut encoder = SubBatchEncoder::default();
            for batch in batches {
                encoder.encode(batch, Values::Raw, out);
            }
        }
        RecordBody::FlushMark(marks) => {
            begin(&record.header, RecordKind::FlushMark, out);
            control::put_marks(marks, out);
        }
        RecordBody::Delete { tenant, matchers, range } => {
            begin(&record.header, RecordKind::Delete, out);
            control::put_delete(*tenant, matchers, *range, out);
        }
        RecordBody::RetentionMark { tenant, floor_ms } => {
            begin(&record.header, RecordKind::RetentionMark, out);
            out.extend_from_slice(&tenant.0.to_le_bytes());
            out.extend_from_slice(&floor_ms.to_le_bytes());
        }
        RecordBody::SessionForget(session) => {
            begin(&record.header, RecordKind::SessionForget, out);
            control::put_session(*session, out);
        }
    }
    finish(start, out);
}

/// Appends a data record of `count` sub-batches that [`SubBatchEncoder::encode`] wrote earlier; a part may hold
/// several of them, one after the other.
pub fn assemble<'a>(
    header: &RecordHeader,
    count: usize,
    parts: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    begin(header, RecordKind::Data, out);
    put_varint(out, count as u64);
    for bytes in parts {
        out.extend_from_slice(bytes);
    }
    finish(start, out);
}

/// Decodes one record; [`RecordDecoder`] is for many.
///
/// # Errors
/// [`RecordError`]; no bytes make it panic.
pub fn decode(bytes: &[u8]) -> Result<LogRecord, RecordError> {
    let mut record = empty_record();
    RecordDecoder::default().decode(bytes, &mut record)?;
    Ok(record)
}

/// The header of a data record whose bytes are as they were written; the sub-batches are not looked at.
///
/// # Errors
/// [`RecordError`]; other kinds of records are one.
pub fn data_header(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
    match open(bytes)? {
        (header, RecordKind::Data, _) => Ok(header),
        (_, other, _) => Err(RecordError::Kind { found: other as u8 }),
    }
}

/// Whether a record that cannot be read was written so on purpose, by a build that knows more than this one: its checksum
/// holds, which stands at the same place in every version.
pub fn is_newer(bytes: &[u8]) -> bool {
    let Some(found) = bytes.get(CRC_AT..HEADER_BYTES) else { return false };
    found == checksum(bytes).to_le_bytes()
}

/// A data record without sub-batches, to be decoded into.
pub fn empty_record() -> LogRecord {
    let header = RecordHeader { log_incarnation: 0, epoch: 0, session: SessionId::default(), sequence: 0 };
    LogRecord { header, body: RecordBody::Data(Vec::new()) }
}

/// Decodes records one after the other into the same buffers.
#[derive(Debug, Default)]
pub struct RecordDecoder {
    scratch: Scratch,
    spare: Vec<SubBatch>,
}

impl RecordDecoder {
    /// Replaces `record` by what `bytes` hold; its sub-batches' capacity is used again.
    ///
    /// # Errors
    /// [`RecordError`]; `record` then holds no complete record and may be decoded into again.
    pub fn decode(&mut self, bytes: &[u8], record: &mut LogRecord) -> Result<(), RecordError> {
        if let RecordBody::Data(batches) = &mut record.body {
            self.spare.append(batches);
        }
        let (header, kind, body) = open(bytes)?;
        record.header = header;
        let mut reader = Reader::new(body);
        record.body = match kind {
            RecordKind::Data => RecordBody::Data(self.decode_data(&mut reader)?),
            RecordKind::FlushMark => RecordBody::FlushMark(control::take_marks(&mut reader)?),
            RecordKind::Delete => control::take_delete(&mut reader)?,
            RecordKind::RetentionMark => control::take_retention(&mut reader)?,
            RecordKind::SessionForget => RecordBody::SessionForget(control::take_session(&mut reader)?),
            other => return Err(RecordError::Kind { found: other as u8 }),
        };
        reader.end("bytes follow the body")
    }

    /// Whether `part` holds `count` sub-batches that a record could carry: what a writer asks before it logs
    /// something that every replica must be able to read.
    ///
    /// # Errors
    /// [`RecordError`], as decoding the record would give.
    pub fn check(&mut self, part: &[u8], count: usize) -> Result<(), RecordError> {
        let mut reader = Reader::new(part);
        let mut batch = self.spare.pop().unwrap_or_default();
        let mut read = Ok(());
        for _ in 0..count {
            batch.clear();
            read = read.and_then(|()| sub_batch::decode(&mut reader, &mut self.scratch, &mut batch));
        }
        self.spare.push(batch);
        read.and_then(|()| reader.end("bytes follow the sub-batches"))
    }

    fn decode_data(&mut self, reader: &mut Reader<'_>) -> Result<Vec<SubBatch>, RecordError> {
        let count = reader.count(sub_batch::MIN_BYTES, "more sub-batches than bytes")?;
        let mut batches = Vec::with_capacity(count);
        for _ in 0..count {
            let mut batch = self.spare.pop().unwrap_or_default();
            batch.clear();
            let read = sub_batch::decode(reader, &mut self.scratch, &mut batch);
            batches.push(batch);
            if let Err(error) = read {
                self.spare.append(&mut batches);
                return Err(error);
            }
        }
        Ok(batches)
    }
}

fn begin(header: &RecordHeader, kind: RecordKind, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.push(kind as u8);
    out.extend_from_slice(&header.log_incarnation.to_le_bytes());
    out.extend_from_slice(&header.epoch.to_le_bytes());
    control::put_session(header.session, out);
    out.extend_from_slice(&header.sequence.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn finish(start: usize, out: &mut [u8]) {
    let crc = checksum(&out[start..]);
    out[start + CRC_AT..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// CRC32C of the record without the four bytes of the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..CRC_AT]), &record[HEADER_BYTES..])
}

fn open(bytes: &[u8]) -> Result<(RecordHeader, RecordKind, &[u8]), RecordError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if version == 0 || version > VERSION {
        return Err(RecordError::Version { found: version });
    }
    let kind = reader.u8()?;
    let log_incarnation = reader.u32()?;
    let epoch = reader.u32()?;
    let session = control::take_session(&mut reader)?;
    let sequence = reader.u64()?;
    let found = reader.u32()?;
    let computed = checksum(bytes);
    if found != computed {
        return Err(RecordError::Checksum { found, computed });
    }
    let header = RecordHeader { log_incarnation, epoch, session, sequence };
    Ok((header, kind_of(kind)?, reader.rest()))
}

fn kind_of(found: u8) -> Result<RecordKind, RecordError> {
    Ok(match found {
        0 => RecordKind::Data,
        1 => RecordKind::FlushMark,
        2 => RecordKind::Delete,
        3 => RecordKind::RetentionMark,
        4 => RecordKind::SessionForget,
        _ => return Err(RecordError::Kind { found }),
    })
}
