//! Reading entries: from memory when they are recent, else from the segments, checksum checked.

use std::sync::Arc;

use bytes::Bytes;

use super::SegmentError;
use super::format::Entry;
use super::index::{EntryMeta, GroupIndex};
use super::segments::{SegmentFile, Segments};

/// Neighbours on disk closer than this are read in one go.
const READ_GAP: u64 = 64 << 10;
/// The most that is read in one go.
const READ_BYTES: u64 = 4 << 20;

/// Entries to be read: where each is. Holds its segments open, so a purge meanwhile does no harm.
#[derive(Debug)]
pub struct ReadPlan {
    entries: Vec<(EntryMeta, Option<Arc<SegmentFile>>)>,
}

impl ReadPlan {
    pub(super) fn new(
        segments: &Segments,
        index: &GroupIndex,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Self, SegmentError> {
        let mut entries: Vec<(EntryMeta, Option<Arc<SegmentFile>>)> = Vec::new();
        let mut bytes = 0usize;
        for meta in index.range(from, to) {
            bytes = bytes.saturating_add(meta.len as usize);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            let file = match (&meta.payload, meta.place) {
                (Some(_), _) => None,
                (None, Some(place)) => Some(segments.get(place.segment).ok_or(SegmentError::Closed)?),
                (None, None) => return Err(SegmentError::Closed),
            };
            entries.push((meta.clone(), file));
        }
        Ok(Self { entries })
    }

    /// Index of the first entry.
    pub fn first(&self) -> Option<u64> {
        self.entries.first().map(|(meta, _)| meta.id.index)
    }

    /// Whether [`Self::load`] needs no disk.
    pub fn is_in_memory(&self) -> bool {
        self.entries.iter().all(|(meta, _)| meta.payload.is_some())
    }

    /// The entries. Blocks on the disk unless they are in memory.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when a payload does not match its checksum.
    pub fn load(self) -> Result<Vec<Entry>, SegmentError> {
        let mut out = Vec::with_capacity(self.entries.len());
        let mut rest = self.entries.as_slice();
        while let Some(((meta, file), after)) = rest.split_first() {
            match (&meta.payload, file) {
                (Some(payload), _) => {
                    out.push(Entry { id: meta.id, kind: meta.kind, payload: payload.clone() });
                    rest = after;
                }
                (None, Some(file)) => {
                    let run = run_length(rest);
                    load_run(file, &rest[..run], &mut out)?;
                    rest = &rest[run..];
                }
                (None, None) => return Err(SegmentError::Closed),
            }
        }
        Ok(out)
    }
}

fn end_of(meta: &EntryMeta) -> u64 {
    meta.place.map_or(0, |place| place.offset + u64::from(meta.len))
}

/// How many entries from the first on lie close enough together to be read in one go.
fn run_length(entries: &[(EntryMeta, Option<Arc<SegmentFile>>)]) -> usize {
    let Some(first) = entries[0].0.place else { return 1 };
    let pairs = entries.iter().zip(&entries[1..]);
    let close = pairs.take_while(|((before, _), (meta, _))| {
        let Some(place) = meta.place.filter(|_| meta.payload.is_none()) else { return false };
        let behind = place.offset.checked_sub(end_of(before)).is_some_and(|gap| gap <= READ_GAP);
        place.segment == first.segment && behind && end_of(meta) - first.offset <= READ_BYTES
    });
    1 + close.count()
}

fn load_run(
    file: &SegmentFile,
    run: &[(EntryMeta, Option<Arc<SegmentFile>>)],
    out: &mut Vec<Entry>,
) -> Result<(), SegmentError> {
    let start = run[0].0.place.map_or(0, |place| place.offset);
    let len = run.last().map_or(0, |(meta, _)| end_of(meta)) - start;
    let bytes = file.read(start, len as usize).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            SegmentError::damaged(&file.path, start, "the file ends within an entry".into())
        }
        _ => SegmentError::io("read", &file.path, error),
    })?;
    let bytes = Bytes::from(bytes);
    for (meta, _) in run {
        let end = (end_of(meta) - start) as usize;
        let payload = bytes.slice(end - meta.len as usize..end);
        if crc32c::crc32c(&payload) != meta.crc {
            let reason = format!("checksum of entry {} does not match", meta.id.index);
            return Err(SegmentError::damaged(
                &file.path,
                start + (end as u64 - u64::from(meta.len)),
                reason,
            ));
        }
        out.push(Entry { id: meta.id, kind: meta.kind, payload });
    }
    Ok(())
}
