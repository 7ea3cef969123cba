//! Recovery: reads every segment, checks the chain of batches, rebuilds the groups' indexes and tails.
//!
//! A bad batch at the very end is what an interrupted write leaves: it is cut off. A bad batch with a valid
//! one behind it, or in any but the last segment, is damage to what was acknowledged: opening fails and names
//! file and offset. Nothing is ever skipped.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{
    BATCH_HEADER_LEN, BATCH_MAGIC, Decoded, FormatError, GroupId, Record, Records, SEGMENT_HEADER_LEN,
    SegmentHeader, decode_batch,
};
use super::index::{EntryMeta, GroupIndex, Place, Tail};
use super::segments::{self, SegmentFile};
use super::{SegmentError, SegmentLogConfig};
use crate::disk::{Disk, DiskFile, Open, read_all};

/// What recovery found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) groups: BTreeMap<GroupId, GroupIndex>,
    pub(super) tails: BTreeMap<GroupId, Tail>,
    pub(super) segments: Vec<SegmentFile>,
    /// Stream offset behind the last batch.
    pub(super) offset: u64,
    /// Checksum of the last batch.
    pub(super) chain: u32,
    /// Length of the last segment up to the end of its last batch.
    pub(super) end: u64,
    /// Bytes cut off the end: an interrupted write.
    pub(super) torn: u64,
}

/// Reads the log in `dir`, which exists. Leaves no segments when there is no log yet.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    config: &SegmentLogConfig,
) -> Result<Recovered, SegmentError> {
    let listed = segments::list(disk, dir).map_err(|error| SegmentError::io("list", dir, error))?;
    let files = open_all(disk, &listed)?;
    let headers = read_headers(&listed, &files, config)?;
    let mut found = Recovered::default();
    if let Some(first) = headers.first() {
        (found.offset, found.chain) = (first.start, first.chain);
    }
    for (at, ((sequence, path), file)) in listed.iter().zip(files).enumerate() {
        let next = headers.get(at + 1);
        check_chain(path, &headers[at], &found)?;
        let bytes = read_all(&*file).map_err(|error| SegmentError::io("read", path, error))?;
        let expected_end =
            next.map(|next| SEGMENT_HEADER_LEN as u64 + next.start.saturating_sub(headers[at].start));
        scan_segment(&mut found, *sequence, path, Bytes::from(bytes), expected_end)?;
        found.segments.push(SegmentFile { sequence: *sequence, path: path.clone(), file });
    }
    found.check_holes(dir)?;
    cut_torn_end(&mut found).map_err(|error| SegmentError::io("truncate", dir, error))?;
    // A name may be there that a process did not get to make durable before it ended.
    disk.sync_dir(dir).map_err(|error| SegmentError::io("sync", dir, error))?;
    Ok(found)
}

fn open_all(disk: &dyn Disk, listed: &[(u64, PathBuf)]) -> Result<Vec<Box<dyn DiskFile>>, SegmentError> {
    let open = |(_, path): &(u64, PathBuf)| {
        disk.open(path, Open::Existing).map_err(|error| SegmentError::io("open", path, error))
    };
    listed.iter().map(open).collect()
}

fn read_headers(
    listed: &[(u64, PathBuf)],
    files: &[Box<dyn DiskFile>],
    config: &SegmentLogConfig,
) -> Result<Vec<SegmentHeader>, SegmentError> {
    let mut headers: Vec<SegmentHeader> = Vec::with_capacity(listed.len());
    for ((sequence, path), file) in listed.iter().zip(files) {
        let header = read_header(path, &**file)?;
        if header.sequence != *sequence {
            return Err(SegmentError::damaged(path, 0, format!("it says it is segment {}", header.sequence)));
        }
        if header.node != config.node {
            let (found, expected) = (header.node, config.node);
            return Err(SegmentError::WrongNode { path: path.clone(), found, expected });
        }
        if headers.last().is_some_and(|before| before.sequence + 1 != *sequence) {
            return Err(SegmentError::damaged(path, 0, "the segment before it is missing".to_owned()));
        }
        headers.push(header);
    }
    Ok(headers)
}

fn read_header(path: &Path, file: &dyn DiskFile) -> Result<SegmentHeader, SegmentError> {
    let failed = |error| SegmentError::io("read", path, error);
    let len = file.size().map_err(failed)?.min(SEGMENT_HEADER_LEN as u64);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    SegmentHeader::decode(&bytes).map_err(|error| SegmentError::format(path, 0, &error))
}

fn check_chain(path: &Path, header: &SegmentHeader, found: &Recovered) -> Result<(), SegmentError> {
    if header.start != found.offset || header.chain != found.chain {
        let reason = format!(
            "it continues offset {} and checksum {:08x}, but the segment before it ends at {} and {:08x}",
            header.start, header.chain, found.offset, found.chain
        );
        return Err(SegmentError::damaged(path, 0, reason));
    }
    Ok(())
}

/// Reads one segment's batches. `expected_end` is the file offset at which a sealed segment must end.
fn scan_segment(
    found: &mut Recovered,
    sequence: u64,
    path: &Path,
    bytes: Bytes,
    expected_end: Option<u64>,
) -> Result<(), SegmentError> {
    let mut at = SEGMENT_HEADER_LEN;
    while expected_end.is_none_or(|end| (at as u64) < end) && at < bytes.len() {
        let batch = match decode_batch(&bytes[at..]) {
            Ok(batch) if batch.start == found.offset && batch.chain == found.chain => batch,
            Ok(batch) => {
                let reason = format!(
                    "the batch says offset {} after checksum {:08x}, but it stands at {} after {:08x}",
                    batch.start, batch.chain, found.offset, found.chain
                );
                return Err(SegmentError::damaged(path, at as u64, reason));
            }
            Err(error) if expected_end.is_some() => {
                return Err(SegmentError::format(path, at as u64, &error));
            }
            Err(error) => {
                refuse_if_valid_batch_follows(path, &bytes, at, found.offset, &error)?;
                found.torn = (bytes.len() - at) as u64;
                break;
            }
        };
        let body = bytes.slice(at + BATCH_HEADER_LEN..at + batch.len);
        let body_at = (at + BATCH_HEADER_LEN) as u64;
        let records = found
            .take_records(sequence, body_at, body)
            .map_err(|error| SegmentError::format(path, at as u64, &error))?;
        if records != batch.records {
            let reason = format!("the batch says {} records and holds {records}", batch.records);
            return Err(SegmentError::damaged(path, at as u64, reason));
        }
        (found.offset, found.chain) = (found.offset + batch.len as u64, batch.crc);
        at += batch.len;
    }
    if expected_end.is_some_and(|end| at as u64 != end) {
        return Err(SegmentError::damaged(
            path,
            at as u64,
            "the segment ends before the next one begins".into(),
        ));
    }
    found.end = at as u64;
    Ok(())
}

/// One batch is written only after the one before it was synced, so a valid batch behind a bad one proves that
/// the bad one was good once.
fn refuse_if_valid_batch_follows(
    path: &Path,
    bytes: &[u8],
    bad: usize,
    offset: u64,
    error: &FormatError,
) -> Result<(), SegmentError> {
    let mut at = bad + 1;
    while let Some(step) = bytes[at.min(bytes.len())..].windows(4).position(|window| window == BATCH_MAGIC) {
        at += step;
        let expected = offset + (at - bad) as u64;
        if decode_batch(&bytes[at..]).is_ok_and(|batch| batch.start == expected) {
            let reason = format!("{error}, yet a valid batch follows at offset {at}");
            return Err(SegmentError::damaged(path, bad as u64, reason));
        }
        at += 1;
    }
    Ok(())
}

impl Recovered {
    fn take_records(&mut self, segment: u64, body_at: u64, body: Bytes) -> Result<u32, FormatError> {
        let mut records = Records::new(body);
        let mut count = 0;
        while let Some(decoded) = records.read_next()? {
            self.take_record(segment, body_at, decoded);
            count += 1;
        }
        Ok(count)
    }

    fn take_record(&mut self, segment: u64, body_at: u64, mut decoded: Decoded) {
        if let Record::Snapshot(snapshot) = &mut decoded.record {
            // A slice of the segment would keep all of it in memory.
            snapshot.membership = Bytes::copy_from_slice(&snapshot.membership);
        }
        let group = decoded.group;
        self.tails.entry(group).or_default().observe(&decoded.record, segment);
        let index = self.groups.entry(group).or_default();
        match &decoded.record {
            Record::Group { incarnation } => index.begin(*incarnation),
            Record::Vote(vote) => index.vote = Some(*vote),
            Record::Entry(entry) => {
                let offset = body_at + decoded.payload_at as u64;
                index.append(EntryMeta {
                    crc: decoded.payload_crc,
                    place: Some(Place { segment, offset }),
                    payload: None,
                    ..EntryMeta::queued(entry)
                });
            }
            Record::TruncateAfter(after) => index.truncate_after(*after),
            Record::Purge(purge) => index.purge(*purge),
            Record::Snapshot(snapshot) => index.snapshot = Some(snapshot.clone()),
            Record::Committed(id) => index.committed = index.committed.max(Some(*id)),
            Record::Floor(id) => index.floor = index.floor.max(Some(*id)),
        }
    }

    /// Entries may be missing only where a purge says so. It may stand in a later segment than the ones that
    /// were deleted because of it, so only the end of the stream tells.
    fn check_holes(&self, dir: &Path) -> Result<(), SegmentError> {
        for (group, index) in &self.groups {
            let expected = index.purged.map_or(0, |purged| purged.up_to.index + 1);
            if let Some(first) = index.first_index().filter(|first| *first != expected) {
                let reason =
                    format!("entries of group {group} from {expected} to before {first} are missing");
                return Err(SegmentError::damaged(dir, 0, reason));
            }
            let last = index.last().map(|last| last.index);
            if let Some(committed) = index.committed.filter(|committed| Some(committed.index) > last) {
                let reason = format!("entries of group {group} up to {} are missing", committed.index);
                return Err(SegmentError::damaged(dir, 0, reason));
            }
        }
        Ok(())
    }
}

/// Cuts an interrupted write off, and makes durable what was only written before a crash of the process.
fn cut_torn_end(found: &mut Recovered) -> io::Result<()> {
    let Some(last) = found.segments.last() else { return Ok(()) };
    if found.torn > 0 {
        last.file.set_len(found.end)?;
    }
    last.file.sync()
}
