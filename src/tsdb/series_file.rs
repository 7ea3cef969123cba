//! The series log as a file: which one is valid, up to where, and when it is written anew.
//!
//! Knows one directory. Does not know rows' samples. Path: `background` writes, `head::apply` asks for what a
//! cleared ref meant. R2: entries are in the head's pending part, in flight, or in the file: never in none.

use crate::cat::ImagePointer;
use crate::durable::{remove_if_there, sync_dir};
use crate::error::StoreError;
use crate::head::Head;
use crate::image_file;
use crate::series_log::{self, FrameRows, HEADER_LEN, PendingSeries, SeriesEntry};
use parking_lot::Mutex;
use quorate_model::{Labels, SeriesRef, SessionId, Slot, TenantId};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file is written anew when it has this many entries more than twice those that are still needed.
const SLACK_ENTRIES: u64 = 100_000;

#[derive(Debug, Default)]
struct State {
    number: u64,
    len: u64,
    entries: u64,
    /// Frames and entries taken from the head for an image that is not published yet.
    in_flight: (Vec<u8>, u64),
}

/// See the module header.
#[derive(Debug)]
pub(crate) struct SeriesFile {
    dir: PathBuf,
    state: Mutex<State>,
    known: Mutex<Known>,
}

/// Where the rows stand in the valid file, as far as somebody has asked.
#[derive(Debug, Default)]
struct Known {
    number: u64,
    len: u64,
    frames: Vec<FrameRows>,
}

/// What a cleared ref meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) tenant: TenantId,
    pub(crate) slot: Slot,
    pub(crate) labels: Labels,
}

impl SeriesFile {
    pub(crate) fn new(dir: &Path, image: Option<ImagePointer>, entries: u64) -> Self {
        let image = image.unwrap_or_default();
        let (number, len) = (image.series_log, image.series_log_len);
        let state = Mutex::new(State { number, len, entries, ..State::default() });
        Self { dir: dir.to_owned(), state, known: Mutex::default() }
    }

    /// Path of a series log.
    pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("series-{number:010}"))
    }

    /// Holds what was taken from the head until it is published or given back.
    pub(crate) fn take(&self, frames: Vec<u8>, entries: u64) {
        self.state.lock().in_flight = (frames, entries);
    }

    /// Writes what was taken, by appending or into a new file. Gives the file's number and valid length.
    pub(crate) fn write(&self, live: &RoaringBitmap) -> Result<(u64, u64), StoreError> {
        let (number, len, old, (frames, entries)) = {
            let state = self.state.lock();
            (state.number, state.len, state.entries, state.in_flight.clone())
        };
        if number == 0 {
            return Ok((1, series_log::create(&Self::path(&self.dir, 1), &frames)?));
        }
        if old + entries <= 2 * live.len() + SLACK_ENTRIES {
            return Ok((number, series_log::append(&Self::path(&self.dir, number), len, &frames)?));
        }
        let (kept, count) = self.compact(number, len, &frames, live)?;
        if old + entries <= 2 * count + SLACK_ENTRIES {
            return Ok((number, series_log::append(&Self::path(&self.dir, number), len, &frames)?));
        }
        Ok((number + 1, series_log::create(&Self::path(&self.dir, number + 1), &kept)?))
    }

    /// The written frames are part of the valid file now.
    pub(crate) fn published(&self, pointer: &ImagePointer) {
        let mut state = self.state.lock();
        let (_, entries) = std::mem::take(&mut state.in_flight);
        state.entries = if pointer.series_log == state.number { state.entries + entries } else { 0 };
        (state.number, state.len) = (pointer.series_log, pointer.series_log_len);
    }

    /// The image failed: what was taken goes back to the head, and a file that was begun goes.
    pub(crate) fn give_back(&self, head: &Head) {
        let mut writer = head.writer().lock();
        let (frames, entries) = std::mem::take(&mut self.state.lock().in_flight);
        writer.pending.put_back(frames, entries);
    }

    /// Removes every series log but `number`.
    pub(crate) fn remove_others(&self, dir: &Path, number: u64) -> Result<(), StoreError> {
        if number > 1 {
            remove_if_there(&Self::path(dir, number - 1))?;
            sync_dir(dir)?;
        }
        Ok(())
    }
        state.rewritten = None;
        let begun = Self::path(&self.dir, state.number + 1);
        drop((state, writer));
        image_file::remove_rest(&begun);

    /// What these rows stood for: for series that were freed and come back. Reads all of the log the first time, then
    /// the frames that name the rows.
    pub(crate) fn meanings(
        &self,
        pending: &PendingSeries,
        wanted: &RoaringBitmap,
    ) -> Result<HashMap<u32, Meant>, StoreError> {
        let (open, in_flight) = {
            let state = self.state.lock();
            let path = Self::path(&self.dir, state.number);
            // Opened under the lock: an image that writes the log anew removes this file.
            let open = (state.number > 0).then(|| File::open(&path));
            let open = open.transpose().map_err(|e| StoreError::file(&path, e))?;
            (open.map(|file| (state.number, file, path, state.len)), state.in_flight.0.clone())
        };
        let mut found = HashMap::new();
        let mut visit = |entry| {
            if let SeriesEntry::Row { row, tenant, slot, labels } = entry {
                found.insert(row, Meant { tenant, slot, labels });
            }
        };
        if let Some((number, file, path, len)) = open {
            let place = path.display().to_string();
            let read = |at, len| {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, at).map(|()| bytes).map_err(|e| StoreError::file(&path, e))
            };
            let mut known = self.known.lock();
            if known.number != number {
                *known = Known { number, len: HEADER_LEN, frames: Vec::new() };
            }
            let more = read(known.len, (len - known.len) as usize)?;
            let at = known.len;
            known.frames.extend(series_log::rows_of_frames(&more, &place, at)?);
            known.len = len;
            for frame in known.frames.iter().filter(|f| wanted.range_cardinality(f.rows.clone()) > 0) {
                series_log::find_rows(&read(frame.at, frame.len)?, &place, wanted, &mut visit)?;
            }
        }
        series_log::find_rows(&in_flight, "series in flight", wanted, &mut visit)?;
        pending.find_rows(wanted, &mut visit)?;
        Ok(found)
    }

    /// The entries that are still needed, as frames, and their number.
    fn compact(
        &self,
        number: u64,
        len: u64,
        frames: &[u8],
        live: &RoaringBitmap,
    ) -> Result<(Vec<u8>, u64), StoreError> {
        let read = |visit: &mut dyn FnMut(SeriesEntry)| {
            series_log::read(&Self::path(&self.dir, number), len, visit)?;
            series_log::read_frames(frames, "series in flight", visit)
        };
        let mut refs: BTreeMap<SessionId, BTreeMap<SeriesRef, u32>> = BTreeMap::new();
        read(&mut |entry| match entry {
            SeriesEntry::Reference { session, reference, row } => {
                refs.entry(session).or_default().insert(reference, row);
            }
            SeriesEntry::Forget(session) => {
                refs.remove(&session);
            }
            SeriesEntry::ForgetAll => refs.clear(),
            SeriesEntry::Row { .. } => {}
        })?;
        let named: RoaringBitmap = refs.values().flat_map(|refs| refs.values().copied()).collect();
        let mut kept = PendingSeries::default();
        read(&mut |entry| {
            if let SeriesEntry::Row { row, tenant, slot, labels } = entry
                && (live.contains(row) || named.contains(row))
            {
                kept.row(row, tenant, slot, &labels);
            }
        })?;
        for (session, refs) in refs {
            refs.into_iter().for_each(|(reference, row)| kept.reference(session, reference, row));
        }
        Ok(kept.take())
    }
}
