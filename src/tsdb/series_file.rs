//! The series log as a file: which one is valid, up to where, and when it is written anew.
//!
//! Knows one directory. Does not know rows' samples. Path: `background` writes, `head::apply` asks for what a
//! cleared ref meant. R2: entries are in the head's pending part, in flight, or in the file: never in none.

use crate::cat::ImagePointer;
use crate::durable::{remove_if_there, sync_dir};
use crate::error::StoreError;
use crate::head::Head;
use crate::series_log::{self, PendingSeries, SeriesEntry};
use parking_lot::Mutex;
use quorate_model::{Labels, SeriesRef, SessionId, Slot, TenantId};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
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
        Self { dir: dir.to_owned(), state: Mutex::new(State { number, len, entries, ..State::default() }) }
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

    /// The image failed: what was taken goes back to the head.
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

    /// What the refs of a session mean, by the series log. Reads the whole log: for the rare ref whose row was
    /// freed.
    pub(crate) fn meanings(
        &self,
        pending: &mut PendingSeries,
        session: SessionId,
    ) -> Result<BTreeMap<SeriesRef, Meant>, StoreError> {
        let (number, len, in_flight) = {
            let state = self.state.lock();
            (state.number, state.len, state.in_flight.0.clone())
        };
        let (mut rows, mut refs) = (HashMap::new(), BTreeMap::new());
        let mut visit = |entry| match entry {
            SeriesEntry::Row { row, tenant, slot, labels } => {
                rows.insert(row, Meant { tenant, slot, labels });
            }
            SeriesEntry::Reference { session: of, reference, row } if of == session => {
                refs.insert(reference, row);
            }
            SeriesEntry::Forget(of) if of == session => refs.clear(),
            SeriesEntry::ForgetAll => refs.clear(),
            _ => {}
        };
        if number > 0 {
            series_log::read(&Self::path(&self.dir, number), len, &mut visit)?;
        }
        series_log::read_frames(&in_flight, "series in flight", &mut visit)?;
        pending.for_each(&mut visit)?;
        Ok(refs.into_iter().filter_map(|(r, row)| Some((r, rows.get(&row)?.clone()))).collect())
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
