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

/// A file is written anew when it has this many entries more than twice those that are still needed. To count those
/// all of it is read, so it is not asked again before the file has grown as much beyond the last answer.
const SLACK_ENTRIES: u64 = 100_000;

#[derive(Debug, Default)]
struct State {
    number: u64,
    len: u64,
    entries: u64,
    /// Entries that were needed when they were counted last.
    needed: u64,
    /// Entries of the file that was written anew for an image that is not published yet.
    rewritten: Option<u64>,
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
        let (number, len, all, needed, frames) = {
            let state = self.state.lock();
            let (frames, entries) = state.in_flight.clone();
            (state.number, state.len, state.entries + entries, state.needed, frames)
        };
        if number == 0 {
            return Ok((1, series_log::create(&Self::path(&self.dir, 1), &frames)?));
        }
        let is_worth_it = |needed: u64| all > 2 * needed + SLACK_ENTRIES;
        if is_worth_it(live.len().max(needed)) {
            let (kept, needed) = self.compact(number, len, &frames, live)?;
            self.state.lock().needed = needed;
            if is_worth_it(needed) {
                let len = series_log::create(&Self::path(&self.dir, number + 1), &kept)?;
                self.state.lock().rewritten = Some(needed);
                return Ok((number + 1, len));
            }
        }
        Ok((number, series_log::append(&Self::path(&self.dir, number), len, &frames)?))
    }

    /// The written frames are part of the valid file now.
    pub(crate) fn published(&self, pointer: &ImagePointer) {
        let mut state = self.state.lock();
        let (_, entries) = std::mem::take(&mut state.in_flight);
        state.entries = state.rewritten.take().unwrap_or(state.entries + entries);
        (state.number, state.len) = (pointer.series_log, pointer.series_log_len);
    }

    /// The image failed: what was taken goes back to the head, and a file that was begun goes.
    pub(crate) fn give_back(&self, head: &Head) {
        let mut writer = head.writer().lock();
        let mut state = self.state.lock();
        let (frames, entries) = std::mem::take(&mut state.in_flight);
        writer.pending.put_back(frames, entries);
        state.rewritten = None;
        let begun = Self::path(&self.dir, state.number + 1);
        drop((state, writer));
        image_file::remove_rest(&begun);
    }

    /// Removes every series log but `number`.
    pub(crate) fn remove_others(&self, dir: &Path, number: u64) -> Result<(), StoreError> {
        if number > 1 {
            remove_if_there(&Self::path(dir, number - 1))?;
            sync_dir(dir)?;
        }
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::Position;

    fn labels(row: u32) -> Labels {
        Labels::from_pairs([("pod", format!("pod-{row}").as_str())])
    }

    /// A file, and the rows that it was given.
    struct Fixture {
        dir: tempfile::TempDir,
        series: SeriesFile,
        next: u32,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let series = SeriesFile::new(dir.path(), None, 0);
            Self { dir, series, next: 0 }
        }

        /// An image with this many more rows, each with a ref of a session of its own. Gives the file's number.
        fn image(&mut self, rows: u32, live: std::ops::Range<u32>, forget: Option<u32>) -> u64 {
            let mut pending = PendingSeries::default();
            for row in self.next..self.next + rows {
                pending.row(row, TenantId(1), Slot(0), &labels(row));
                pending.reference(SessionId { node: 1, incarnation: 1 }, SeriesRef(row), row);
            }
            self.next += rows;
            if let Some(incarnation) = forget {
                pending.forget_session(SessionId { node: 1, incarnation });
            }
            let (frames, entries) = pending.take();
            self.series.take(frames, entries);
            let (series_log, series_log_len) = self.series.write(&live.collect()).unwrap();
            let pointer = ImagePointer { position: Position(1), image: 1, series_log, series_log_len };
            self.series.published(&pointer);
            self.series.remove_others(self.dir.path(), series_log).unwrap();
            series_log
        }

        fn needed(&self) -> u64 {
            self.series.state.lock().needed
        }
    }

    #[test]
    fn a_log_that_is_needed_is_not_read_again_before_it_has_doubled() {
        let mut fixture = Fixture::new();
        let mut counted = Vec::new();
        for _ in 0..60 {
            assert_eq!(fixture.image(10_000, 0..10, None), 1, "every row is named by a ref");
            counted.push(fixture.needed());
        }
        counted.dedup();
        assert_eq!(counted, [0, 120_000, 360_000, 840_000]);
    }

    #[test]
    fn a_log_is_written_anew_when_most_of_it_is_not_needed() {
        let mut fixture = Fixture::new();
        fixture.image(60_000, 0..10, None);
        assert_eq!(fixture.image(1, 0..10, Some(1)), 2);
        assert_eq!((fixture.needed(), fixture.series.state.lock().entries), (10, 10));
        assert_eq!(fixture.image(1, 0..10, None), 2);
        let rows: RoaringBitmap = (0..60_002).collect();
        let found = fixture.series.meanings(&PendingSeries::default(), &rows).unwrap();
        assert_eq!(found.len(), 11);
    }
}
