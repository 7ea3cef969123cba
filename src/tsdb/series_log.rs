//! The series log: what rows and refs mean, append-only, so that an image need not repeat labels.
//!
//! Knows definitions and one file per partition. Does not know samples or positions: which length of the file is
//! valid stands in the image. Path: `head::apply` -> [`PendingSeries`] -> `image` writes it with each image.
//! Format: `docs/formats/series_log.md`. R1: definitions reach the file before the image that needs them is
//! published; what lies behind the image's length is the rest of an unfinished image and is cut off at start.

use crate::durable::sync_file;
use crate::error::StoreError;
use quorate_chunk::varint;
use quorate_model::failpoint;
use quorate_model::{Labels, SeriesRef, SessionId, Slot, TenantId};
use roaring::RoaringBitmap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::Path;

const MAGIC: [u8; 4] = *b"QSRL";
const VERSION: u32 = 1;
/// Bytes before the first frame: magic and version.
pub(crate) const HEADER_LEN: u64 = 8;
const FRAME_HEADER: usize = 12;
const FRAME_RAW: usize = 256 << 10;
const MAX_FRAME: usize = 64 << 20;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeriesEntry {
    /// A row stands for a series.
    Row { row: u32, tenant: TenantId, slot: Slot, labels: Labels },
    /// A ref of a session means a row.
    Reference { session: SessionId, reference: SeriesRef, row: u32 },
    /// A session is forgotten.
    Forget(SessionId),
    /// Every session is forgotten.
    ForgetAll,
}

/// Entries that are not in the file yet, packed in frames.
#[derive(Debug, Default)]
pub(crate) struct PendingSeries {
    raw: Vec<u8>,
    frames: Vec<u8>,
    entries: u64,
}

impl PendingSeries {
    pub(crate) fn row(&mut self, row: u32, tenant: TenantId, slot: Slot, labels: &Labels) {
        self.raw.push(1);
        for number in [row, tenant.0, u32::from(slot.0), labels.as_packed().len() as u32] {
            varint::put(&mut self.raw, u64::from(number));
        }
        self.raw.extend_from_slice(labels.as_packed());
        self.entries += 1;
        self.close_full_frame();
    }

    pub(crate) fn reference(&mut self, session: SessionId, reference: SeriesRef, row: u32) {
        self.put(2, &[session.node, session.incarnation, reference.0, row]);
    }

    pub(crate) fn forget_session(&mut self, session: SessionId) {
        self.put(3, &[session.node, session.incarnation]);
    }

    pub(crate) fn forget_all_sessions(&mut self) {
        self.put(4, &[]);
    }

    /// Takes all entries as frames, and the number of entries.
    pub(crate) fn take(&mut self) -> (Vec<u8>, u64) {
        self.close_frame();
        self.raw.shrink_to(FRAME_RAW);
        (std::mem::take(&mut self.frames), std::mem::take(&mut self.entries))
    }

    /// Puts frames back in front: an image failed after they were taken.
    pub(crate) fn put_back(&mut self, mut frames: Vec<u8>, entries: u64) {
        frames.append(&mut self.frames);
        self.frames = frames;
        self.entries += entries;
    }

    /// Visits the wanted rows, in their order.
    pub(crate) fn find_rows(
        &self,
        wanted: &RoaringBitmap,
        visit: &mut dyn FnMut(SeriesEntry),
    ) -> Result<(), StoreError> {
        find_rows(&self.frames, "pending series", wanted, visit)?;
        let mut entries = self.raw.as_slice();
        find_in_frame(&mut entries, wanted, visit).ok_or_else(|| StoreError::Damaged {
            place: "pending series".to_owned(),
            detail: "an entry does not decode".to_owned(),
        })
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.raw.capacity() + self.frames.capacity()
    }

    fn put(&mut self, kind: u8, numbers: &[u32]) {
        self.raw.push(kind);
        numbers.iter().for_each(|n| varint::put(&mut self.raw, u64::from(*n)));
        self.entries += 1;
        self.close_full_frame();
    }

    fn close_full_frame(&mut self) {
        if self.raw.len() >= FRAME_RAW {
            self.close_frame();
        }
    }

    fn close_frame(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let stored = zstd::bulk::compress(&self.raw, 1).expect("compressing into memory cannot fail");
        self.frames.extend_from_slice(&(self.raw.len() as u32).to_le_bytes());
        self.frames.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        self.frames.extend_from_slice(&crc32c::crc32c(&stored).to_le_bytes());
        self.frames.extend_from_slice(&stored);
        self.raw.clear();
    }
}

/// Writes a new file with these frames and syncs it. Returns its length.
pub(crate) fn create(path: &Path, frames: &[u8]) -> Result<u64, StoreError> {
    let write = || -> std::io::Result<u64> {
        let mut file = File::create(path)?;
        file.write_all(&MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(frames)?;
        failpoint::hit("series_log.after_write");
        sync_file(&file, path);
        failpoint::hit("series_log.after_sync");
        Ok(HEADER_LEN + frames.len() as u64)
    };
    write().map_err(|e| StoreError::file(path, e))
}

/// Appends frames behind the valid `length`, cuts off what was there, and syncs. Returns the new length.
pub(crate) fn append(path: &Path, length: u64, frames: &[u8]) -> Result<u64, StoreError> {
    let write = || -> std::io::Result<u64> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        file.write_all(frames)?;
        failpoint::hit("series_log.after_write");
        sync_file(&file, path);
        failpoint::hit("series_log.after_sync");
        Ok(length + frames.len() as u64)
    };
    write().map_err(|e| StoreError::file(path, e))
}

/// Visits the entries of the first `length` bytes of a file, in their order.
///
/// # Errors
/// [`StoreError::Damaged`] if the file is shorter, a checksum does not fit or an entry is unknown.
pub(crate) fn read(path: &Path, length: u64, visit: &mut dyn FnMut(SeriesEntry)) -> Result<(), StoreError> {
    let place = path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| StoreError::file(path, e))?;
    file.take(length).read_to_end(&mut bytes).map_err(|e| StoreError::file(path, e))?;
    if (bytes.len() as u64) < length || bytes.len() < HEADER_LEN as usize {
        let detail = format!("has {} bytes where the image needs {length}", bytes.len());
        return Err(StoreError::Damaged { place, detail });
    }
    let (header, frames) = bytes.split_at(HEADER_LEN as usize);
    if header[..4] != MAGIC || header[4..] != VERSION.to_le_bytes() {
        let detail = format!("is no series log of version {VERSION}: {header:02x?}");
        return Err(StoreError::Damaged { place, detail });
    }
    read_frames(frames, &place, visit)
}

/// Visits the entries of frames, in their order.
pub(crate) fn read_frames(
    frames: &[u8],
    place: &str,
    visit: &mut dyn FnMut(SeriesEntry),
) -> Result<(), StoreError> {
    unpack(frames, place, &mut |entries| {
        while !entries.is_empty() {
            visit(take_entry(entries)?.entry()?);
        }
        Some(())
    })
}

/// Visits the wanted rows of frames, in their order.
pub(crate) fn find_rows(
    frames: &[u8],
    place: &str,
    wanted: &RoaringBitmap,
    visit: &mut dyn FnMut(SeriesEntry),
) -> Result<(), StoreError> {
    unpack(frames, place, &mut |entries| find_in_frame(entries, wanted, visit))
}

fn find_in_frame(
    entries: &mut &[u8],
    wanted: &RoaringBitmap,
    visit: &mut dyn FnMut(SeriesEntry),
) -> Option<()> {
    while !entries.is_empty() {
        match take_entry(entries)? {
            raw @ Raw::Row { row, .. } if wanted.contains(row) => visit(raw.entry()?),
            _ => {}
        }
    }
    Some(())
}

/// Where a frame lies and which rows it defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRows {
    pub(crate) at: u64,
    pub(crate) len: usize,
    pub(crate) rows: RangeInclusive<u32>,
}

/// What frames that begin at `at` of a file define; those without rows are left out.
pub(crate) fn rows_of_frames(frames: &[u8], place: &str, at: u64) -> Result<Vec<FrameRows>, StoreError> {
    let (mut rest, mut found) = (frames, Vec::new());
    while !rest.is_empty() {
        let at = at + (frames.len() - rest.len()) as u64;
        let stored = rest.get(4..8).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        let (frame, tail) = rest.split_at(rest.len().min(FRAME_HEADER + stored as usize));
        let mut rows: Option<RangeInclusive<u32>> = None;
        unpack(frame, place, &mut |entries| {
            while !entries.is_empty() {
                if let Raw::Row { row, .. } = take_entry(entries)? {
                    rows = Some(rows.as_ref().map_or(row, |rows| *rows.start())..=row);
                }
            }
            Some(())
        })?;
        found.extend(rows.map(|rows| FrameRows { at, len: frame.len(), rows }));
        rest = tail;
    }
    Ok(found)
}

/// Checks and unpacks frame after frame; `read` gets the entries of each, and `None` from it is damage.
fn unpack(
    mut rest: &[u8],
    place: &str,
    read: &mut dyn FnMut(&mut &[u8]) -> Option<()>,
) -> Result<(), StoreError> {
    let damaged = |detail: &str| StoreError::Damaged { place: place.to_owned(), detail: detail.to_owned() };
    while !rest.is_empty() {
        let (header, tail) =
            rest.split_at_checked(FRAME_HEADER).ok_or_else(|| damaged("cut frame header"))?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (raw_len, stored_len, crc) = (word(0) as usize, word(4) as usize, word(8));
        let (stored, tail) = tail.split_at_checked(stored_len).ok_or_else(|| damaged("cut frame"))?;
        if crc32c::crc32c(stored) != crc || raw_len > MAX_FRAME {
            return Err(damaged("a frame's checksum or length does not fit"));
        }
        let raw = zstd::bulk::decompress(stored, raw_len).map_err(|e| damaged(&e.to_string()))?;
        let mut entries = raw.as_slice();
        read(&mut entries).ok_or_else(|| damaged("an entry does not decode"))?;
        rest = tail;
    }
    Ok(())
}

/// An entry whose labels are not copied yet.
enum Raw<'a> {
    Row { row: u32, tenant: TenantId, slot: Slot, packed: &'a [u8] },
    Other(SeriesEntry),
}

impl Raw<'_> {
    fn entry(self) -> Option<SeriesEntry> {
        match self {
            Self::Row { row, tenant, slot, packed } => {
                Some(SeriesEntry::Row { row, tenant, slot, labels: Labels::from_packed(packed)? })
            }
            Self::Other(entry) => Some(entry),
        }
    }
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<Raw<'a>> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    let mut number = || u32::try_from(varint::take(rest)?).ok();
    Some(match kind {
        1 => {
            let (row, tenant, slot) = (number()?, TenantId(number()?), Slot(u16::try_from(number()?).ok()?));
            let len = number()? as usize;
            Raw::Row { row, tenant, slot, packed: varint::take_bytes(rest, len)? }
        }
        2 => {
            let session = SessionId { node: number()?, incarnation: number()? };
            let (reference, row) = (SeriesRef(number()?), number()?);
            Raw::Other(SeriesEntry::Reference { session, reference, row })
        }
        3 => Raw::Other(SeriesEntry::Forget(SessionId { node: number()?, incarnation: number()? })),
        4 => Raw::Other(SeriesEntry::ForgetAll),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> (PendingSeries, Vec<SeriesEntry>) {
        let session = SessionId { node: 7, incarnation: 2 };
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]);
        let mut pending = PendingSeries::default();
        pending.row(3, TenantId(1), Slot(65_535), &labels);
        pending.reference(session, SeriesRef(0), 3);
        pending.forget_session(session);
        pending.forget_all_sessions();
        let expected = vec![
            SeriesEntry::Row { row: 3, tenant: TenantId(1), slot: Slot(65_535), labels },
            SeriesEntry::Reference { session, reference: SeriesRef(0), row: 3 },
            SeriesEntry::Forget(session),
            SeriesEntry::ForgetAll,
        ];
        (pending, expected)
    }

    fn read_all(path: &Path, length: u64) -> Result<Vec<SeriesEntry>, StoreError> {
        let mut found = Vec::new();
        read(path, length, &mut |entry| found.push(entry)).map(|()| found)
    }

    #[test]
    fn entries_come_back_in_their_order_and_a_torn_tail_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let (mut pending, expected) = entries();
        let length = create(&path, &pending.take().0).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
        assert_eq!(read_all(&path, length).unwrap(), expected);
        let (mut again, _) = entries();
        let longer = append(&path, length, &again.take().0).unwrap();
        assert_eq!(read_all(&path, longer).unwrap(), [expected.clone(), expected].concat());
    }

    /// The entries of a frame, one a line.
    const ENTRIES: [&str; 4] =
        ["010301ffff0312085f5f6e616d655f5f027570036a6f620161", "0207020003", "030702", "04"];

    #[test]
    fn the_stored_form_does_not_change() {
        let hex: String = entries().0.raw.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, ENTRIES.concat());
    }

    /// A file as it was written first; what zstd makes of the same entries may change.
    #[test]
    fn an_old_file_is_read() {
        let (header, frame, zstd) = ("5153524c01000000", "220000002b000000c13406b6", "28b52ffd2022110100");
        let hex = [header, frame, zstd, &ENTRIES.concat()].concat();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_all(&path, bytes.len() as u64).unwrap(), entries().1);
    }

    #[test]
    fn damage_and_short_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let length = create(&path, &entries().0.take().0).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert!(read_all(&path, length + 1).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let result = read_all(&path, length);
            assert!(result.is_err() || (8..12).contains(&at), "flip at {at}: {result:?}");
        }
    }
}
