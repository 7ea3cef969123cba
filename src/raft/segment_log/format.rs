//! Bytes of the segment log: segment header, batch header, records. The page is `docs/formats/segment_log.md`.
//!
//! Knows layouts and checksums. Does not know files, threads, groups' states or openraft. All numbers are
//! little endian, all checksums CRC-32C. Decoders never panic and never allocate by a declared size.

use bytes::Bytes;

/// A Raft group on this node. 0 is the metadata group, others belong to partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a log entry. Ordered by term, then leader, then index, as Raft compares logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term in which the entry was proposed.
    pub term: u64,
    /// Node that led the term.
    pub node: u64,
    /// Place in the group's log.
    pub index: u64,
}

/// A vote, granted or won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// Whether a quorum granted it: the node leads the term.
    pub committed: bool,
}

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank = 0,
    /// A proposal.
    Normal = 1,
    /// A membership of the group, encoded.
    Membership = 2,
}

/// One log entry of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Identity.
    pub id: LogId,
    /// What the payload is.
    pub kind: EntryKind,
    /// The payload.
    pub payload: Bytes,
}

/// What stands for the purged beginning of a group's log: a position and the membership at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Last entry the snapshot stands for.
    pub last: Option<LogId>,
    /// Entry that set the membership.
    pub membership_id: Option<LogId>,
    /// The membership, encoded.
    pub membership: Bytes,
}

/// How far a group's log is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Purge {
    /// Last purged entry.
    pub up_to: LogId,
    /// Index of the last purged proposal, 0 if there was none: a reader behind it has missed something.
    pub proposal: u64,
}

/// One record of the stream, always of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The group exists; its log began with this incarnation.
    Group {
        /// Differs whenever the log was lost and begun again.
        incarnation: u32,
    },
    /// The newest vote.
    Vote(Vote),
    /// An entry; it replaces all entries from its index on.
    Entry(Entry),
    /// Removes every entry after the index, or all.
    TruncateAfter(Option<u64>),
    /// Removes every entry up to the id, which need not be in the log.
    Purge(Purge),
    /// Replaces the group's snapshot.
    Snapshot(Snapshot),
    /// Everything up to the id is committed.
    Committed(LogId),
    /// The last entry of a log that was forgotten: votes still go by it.
    Floor(LogId),
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early.
    #[error("bytes end within {0}")]
    Short(&'static str),
    /// A magic number is missing.
    #[error("{0} does not begin with its magic number")]
    Magic(&'static str),
    /// A checksum differs.
    #[error("checksum of {0} does not match")]
    Checksum(&'static str),
    /// Written by a newer version.
    #[error("{what} has the unknown number {found}; it was written by a newer version")]
    Unknown {
        /// What is numbered.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// Bytes are left over where none may be.
    #[error("{0} does not fill its length")]
    LeftOver(&'static str),
}

/// Length of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 48;
/// Length of a batch's header.
pub const BATCH_HEADER_LEN: usize = 32;
/// Bytes of an entry record before its payload.
pub const ENTRY_HEADER_LEN: usize = 1 + 8 + 24 + 1 + 4 + 4;

const SEGMENT_MAGIC: &[u8; 8] = b"QRT-SEGL";
/// The first bytes of every batch; recovery looks for them behind a bad one.
pub const BATCH_MAGIC: &[u8; 4] = b"QBAT";
const VERSION: u16 = 1;

/// Header of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Node that owns the log.
    pub node: u64,
    /// Number of the segment, from 1, without gaps.
    pub sequence: u64,
    /// Stream offset of the first batch: bytes of batches in all segments before.
    pub start: u64,
    /// Checksum of the batch before, 0 at the beginning of the stream.
    pub chain: u32,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0u8; SEGMENT_HEADER_LEN];
        out[0..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.chain.to_le_bytes());
        out[16..24].copy_from_slice(&self.node.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.start.to_le_bytes());
        let crc = crc32c::crc32c(&out[..44]);
        out[44..48].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the beginning of a segment.
    ///
    /// # Errors
    /// [`FormatError`] when it is cut, damaged or of an unknown version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "the segment header";
        let bytes = bytes.get(..SEGMENT_HEADER_LEN).ok_or(FormatError::Short(what))?;
        if &bytes[0..8] != SEGMENT_MAGIC {
            return Err(FormatError::Magic(what));
        }
        if crc32c::crc32c(&bytes[..44]) != u32_at(bytes, 44) {
            return Err(FormatError::Checksum(what));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(FormatError::Unknown { what: "the segment version", found: u64::from(version) });
        }
        Ok(Self {
            chain: u32_at(bytes, 12),
            node: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            start: u64_at(bytes, 32),
        })
    }
}

/// Starts a batch in `out`, which is cleared: room for the header, filled in by [`finish_batch`].
pub fn begin_batch(out: &mut Vec<u8>) {
    out.clear();
    out.resize(BATCH_HEADER_LEN, 0);
}

/// Fills in the header of the batch in `out` and returns its checksum, the `chain` of the next batch.
pub fn finish_batch(out: &mut [u8], start: u64, chain: u32, records: u32) -> u32 {
    let body =
        u32::try_from(out.len() - BATCH_HEADER_LEN).expect("the writer bounds batches far below 4 GiB");
    out[0..4].copy_from_slice(BATCH_MAGIC);
    out[4..8].copy_from_slice(&body.to_le_bytes());
    out[8..16].copy_from_slice(&start.to_le_bytes());
    out[16..20].copy_from_slice(&chain.to_le_bytes());
    out[20..24].copy_from_slice(&records.to_le_bytes());
    let crc = batch_crc(out);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A whole batch found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Stream offset at which it was written.
    pub start: u64,
    /// Checksum of the batch before it.
    pub chain: u32,
    /// Its own checksum.
    pub crc: u32,
    /// Number of records in the body.
    pub records: u32,
    /// Length with the header.
    pub len: usize,
}

/// Reads and checks the batch at the beginning of `bytes`.
///
/// # Errors
/// [`FormatError`] when it is cut or damaged.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, FormatError> {
    let header = bytes.get(..BATCH_HEADER_LEN).ok_or(FormatError::Short("a batch header"))?;
    if &header[0..4] != BATCH_MAGIC {
        return Err(FormatError::Magic("a batch"));
    }
    let len = BATCH_HEADER_LEN + u32_at(header, 4) as usize;
    let whole = bytes.get(..len).ok_or(FormatError::Short("a batch"))?;
    let crc = u32_at(header, 28);
    if batch_crc(whole) != crc {
        return Err(FormatError::Checksum("a batch"));
    }
    Ok(Batch { start: u64_at(header, 8), chain: u32_at(header, 16), records: u32_at(header, 20), crc, len })
}

fn batch_crc(whole: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&whole[..28]), &whole[BATCH_HEADER_LEN..])
}

const GROUP: u8 = 1;
const VOTE: u8 = 2;
const ENTRY: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const SNAPSHOT: u8 = 6;
const COMMITTED: u8 = 7;
const FLOOR: u8 = 8;

/// Appends one record to a batch.
pub fn encode_record(out: &mut Vec<u8>, group: GroupId, record: &Record) {
    let kind = match record {
        Record::Group { .. } => GROUP,
        Record::Vote(_) => VOTE,
        Record::Entry(_) => ENTRY,
        Record::TruncateAfter(_) => TRUNCATE,
        Record::Purge(_) => PURGE,
        Record::Snapshot(_) => SNAPSHOT,
        Record::Committed(_) => COMMITTED,
        Record::Floor(_) => FLOOR,
    };
    out.push(kind);
    out.extend_from_slice(&group.0.to_le_bytes());
    match record {
        Record::Group { incarnation } => out.extend_from_slice(&incarnation.to_le_bytes()),
        Record::Vote(vote) => {
            out.extend_from_slice(&vote.term.to_le_bytes());
            out.extend_from_slice(&vote.node.to_le_bytes());
            out.push(u8::from(vote.committed));
        }
        Record::Entry(entry) => {
            put_id(out, entry.id);
            out.push(entry.kind as u8);
            put_len(out, entry.payload.len());
            out.extend_from_slice(&crc32c::crc32c(&entry.payload).to_le_bytes());
            out.extend_from_slice(&entry.payload);
        }
        Record::TruncateAfter(after) => {
            out.push(u8::from(after.is_some()));
            out.extend_from_slice(&after.unwrap_or(0).to_le_bytes());
        }
        Record::Purge(purge) => {
            put_id(out, purge.up_to);
            out.extend_from_slice(&purge.proposal.to_le_bytes());
        }
        Record::Committed(id) | Record::Floor(id) => put_id(out, *id),
        Record::Snapshot(snapshot) => {
            put_option(out, snapshot.last);
            put_option(out, snapshot.membership_id);
            put_len(out, snapshot.membership.len());
            out.extend_from_slice(&snapshot.membership);
        }
    }
}

/// A record with the place of its payload within the batch's body, for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Group of the record.
    pub group: GroupId,
    /// The record; payloads share the bytes it was read from.
    pub record: Record,
    /// Offset of an entry's payload in the body.
    pub payload_at: usize,
    /// Checksum of an entry's payload.
    pub payload_crc: u32,
}

/// Reads the records of a batch body one after the other.
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    at: usize,
}

impl Records {
    /// Reads `body`, the bytes of a checked batch after its header.
    pub fn new(body: Bytes) -> Self {
        Self { body, at: 0 }
    }

    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// [`FormatError`] when a record is cut or of an unknown kind.
    pub fn read_next(&mut self) -> Result<Option<Decoded>, FormatError> {
        if self.at == self.body.len() {
            return Ok(None);
        }
        let kind = self.u8()?;
        let group = GroupId(self.u64()?);
        let (mut payload_at, mut payload_crc) = (0, 0);
        let record = match kind {
            GROUP => Record::Group { incarnation: self.u32()? },
            VOTE => Record::Vote(Vote { term: self.u64()?, node: self.u64()?, committed: self.u8()? != 0 }),
            ENTRY => {
                let id = self.id()?;
                let kind = entry_kind(self.u8()?)?;
                let len = self.u32()? as usize;
                payload_crc = self.u32()?;
                payload_at = self.at;
                Record::Entry(Entry { id, kind, payload: self.bytes(len)? })
            }
            TRUNCATE => {
                let (has, index) = (self.u8()?, self.u64()?);
                Record::TruncateAfter((has != 0).then_some(index))
            }
            PURGE => Record::Purge(Purge { up_to: self.id()?, proposal: self.u64()? }),
            SNAPSHOT => {
                let (last, membership_id) = (self.option()?, self.option()?);
                let len = self.u32()? as usize;
                Record::Snapshot(Snapshot { last, membership_id, membership: self.bytes(len)? })
            }
            COMMITTED => Record::Committed(self.id()?),
            FLOOR => Record::Floor(self.id()?),
            found => {
                return Err(FormatError::Unknown { what: "a log record's kind", found: u64::from(found) });
            }
        };
        Ok(Some(Decoded { group, record, payload_at, payload_crc }))
    }

    fn bytes(&mut self, len: usize) -> Result<Bytes, FormatError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.body.len());
        let end = end.ok_or(FormatError::Short("a log record"))?;
        let taken = self.body.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let taken = self.body.get(self.at..self.at + N).ok_or(FormatError::Short("a log record"))?;
        self.at += N;
        Ok(taken.try_into().expect("the slice has N bytes"))
    }

    fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn id(&mut self) -> Result<LogId, FormatError> {
        Ok(LogId { term: self.u64()?, node: self.u64()?, index: self.u64()? })
    }

    fn option(&mut self) -> Result<Option<LogId>, FormatError> {
        let has = self.u8()? != 0;
        let id = self.id()?;
        Ok(has.then_some(id))
    }
}

fn entry_kind(found: u8) -> Result<EntryKind, FormatError> {
    match found {
        0 => Ok(EntryKind::Blank),
        1 => Ok(EntryKind::Normal),
        2 => Ok(EntryKind::Membership),
        _ => Err(FormatError::Unknown { what: "an entry's kind", found: u64::from(found) }),
    }
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.node.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

fn put_option(out: &mut Vec<u8>, id: Option<LogId>) {
    out.push(u8::from(id.is_some()));
    put_id(out, id.unwrap_or(LogId { term: 0, node: 0, index: 0 }));
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("append refuses payloads over 1 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0u8; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 3, node: 1, index }
    }

    fn every_record() -> Vec<Record> {
        vec![
            Record::Group { incarnation: 0xAABB_CCDD },
            Record::Vote(Vote { term: 3, node: 1, committed: true }),
            Record::Entry(Entry { id: id(7), kind: EntryKind::Normal, payload: Bytes::from_static(b"abc") }),
            Record::TruncateAfter(Some(6)),
            Record::TruncateAfter(None),
            Record::Purge(Purge { up_to: id(5), proposal: 4 }),
            Record::Snapshot(Snapshot {
                last: Some(id(5)),
                membership_id: None,
                membership: Bytes::from_static(b"m"),
            }),
            Record::Committed(id(4)),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// These bytes are on disks: a change here is a new format version.
    #[test]
    fn bytes_are_golden() {
        let header = SegmentHeader { node: 1, sequence: 2, start: 0x1000, chain: 0x0102_0304 };
        assert_eq!(
            hex(&header.encode()),
            "5152542d5345474c010000000403020101000000000000000200000000000000001000000000000000000000aeb935a5"
        );
        let mut batch = Vec::new();
        begin_batch(&mut batch);
        for record in every_record() {
            encode_record(&mut batch, GroupId(9), &record);
        }
        finish_batch(&mut batch, 0x1000, 0x0102_0304, 8);
        assert_eq!(hex(&batch), include_str!("golden_batch_v1.hex").trim());
    }

    #[test]
    fn bytes_of_a_floor_are_golden() {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, GroupId(9), &Record::Floor(id(7)));
        assert_eq!(hex(&bytes), "080900000000000000030000000000000001000000000000000700000000000000");
        let read = Records::new(bytes.into()).read_next().unwrap().unwrap();
        assert_eq!((read.group, read.record), (GroupId(9), Record::Floor(id(7))));
    }

    #[test]
    fn records_read_back_as_written() {
        let mut batch = Vec::new();
        begin_batch(&mut batch);
        for record in every_record() {
            encode_record(&mut batch, GroupId(9), &record);
        }
        let crc = finish_batch(&mut batch, 77, 5, 8);
        let read = decode_batch(&batch).unwrap();
        assert_eq!(read, Batch { start: 77, chain: 5, crc, records: 8, len: batch.len() });
        let mut records = Records::new(Bytes::copy_from_slice(&batch[BATCH_HEADER_LEN..]));
        for expected in every_record() {
            let decoded = records.read_next().unwrap().unwrap();
            assert_eq!((decoded.group, &decoded.record), (GroupId(9), &expected));
            if let Record::Entry(entry) = &decoded.record {
                assert_eq!(&batch[BATCH_HEADER_LEN + decoded.payload_at..][..3], &entry.payload[..]);
                assert_eq!(decoded.payload_crc, crc32c::crc32c(b"abc"));
            }
        }
        assert_eq!(records.read_next().unwrap(), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut batch = Vec::new();
        begin_batch(&mut batch);
        for record in every_record() {
            encode_record(&mut batch, GroupId(9), &record);
        }
        finish_batch(&mut batch, 77, 5, 8);
        for cut in 0..batch.len() {
            assert!(decode_batch(&batch[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..batch.len() * 8 {
            // Bytes 24 to 27 are zero and covered like the rest of the header.
            let mut damaged = batch.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_batch(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_and_never_skipped() {
        let mut records = Records::new(Bytes::from_static(&[99, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert!(matches!(records.read_next(), Err(FormatError::Unknown { found: 99, .. })));
    }
}
