//! A disk that forgets: what was not synced may be lost, kept or torn when the power goes, by the seed.
//!
//! Bytes are lost by sectors of 512 bytes, also parts of one; new names and removals are lost from the last one
//! backwards, as a journal loses them. A process that is killed loses nothing: its bytes stay visible, and are still not
//! durable. After an error of a sync the unsynced bytes are what the disk happened to write.
//! Knows files as bytes. Does not know what is in them.

use crate::dice::Dice;
use crate::world::{Counts, Fault};
use parking_lot::Mutex;
use quorate_raft::disk::{Claim, Disk, DiskFile, Open};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SECTOR: usize = 512;

/// The disk of one node, which outlives its processes. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    counts: Arc<Counts>,
    /// Counts the processes; files that an earlier one opened are dead.
    life: u64,
    is_off: bool,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable, oldest first.
    changes: Vec<Change>,
    trouble: Trouble,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<usize>,
}

enum Change {
    Name(PathBuf, u64),
    Gone(PathBuf),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// Writes find no room.
    pub is_full: bool,
    /// The next sync fails.
    pub sync_fails: bool,
    /// The node ends after so many further steps.
    pub steps_left: Option<u64>,
    /// A sync takes so long, in milliseconds.
    pub slow_ms: Option<u64>,
}

impl SimDisk {
    /// An empty one.
    pub fn new(seed: u64, node: u64, counts: Arc<Counts>) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice: Dice::new(seed, 1_000 + node),
            counts,
            life: 0,
            is_off: false,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            trouble: Trouble::default(),
        })))
    }

    /// Changes what goes wrong.
    pub fn trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.0.lock().trouble);
    }

    /// Whether the node ended at a step of the disk.
    pub fn has_ended_its_node(&self) -> bool {
        self.0.lock().is_off
    }

    /// The process ends: nothing that it still does reaches the disk.
    pub fn end_process(&self) {
        let mut state = self.0.lock();
        state.is_off = true;
        state.life += 1;
        state.trouble = Trouble { steps_left: None, sync_fails: false, ..state.trouble };
    }

    /// A next process may begin.
    pub fn begin_process(&self) {
        self.0.lock().is_off = false;
    }

    /// The power goes, and with it what is not durable, or some of it.
    pub fn lose_power(&self) {
        let state = &mut *self.0.lock();
        for content in state.files.values_mut() {
            content.settle(&mut state.dice, &state.counts);
        }
        state.settle_names();
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
    }

    /// Length of `path` up to which it would survive a loss of power.
    pub fn durable_len(&self, path: &Path) -> u64 {
        let state = self.0.lock();
        let content = state.durable_names.get(path).and_then(|id| state.files.get(id));
        content.map_or(0, |content| {
            // What was written again as it was is as durable as before.
            let same = content.now.iter().zip(&content.durable).position(|(now, durable)| now != durable);
            same.unwrap_or(content.durable.len()) as u64
        })
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.dirty.clear();
    }

    /// Decides what the disk happened to write of the unsynced bytes.
    fn settle(&mut self, dice: &mut Dice, counts: &Counts) {
        if self.dirty.is_empty() && self.now.len() == self.durable.len() {
            return;
        }
        // All, none, or each sector for itself.
        let mode = dice.below(4);
        let keeps_len = mode == 0 || (mode > 1 && dice.chance(50));
        if keeps_len {
            self.durable.resize(self.now.len(), 0);
        }
        let (mut lost, mut torn) = (!keeps_len, false);
        for sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.now.len()).min(self.durable.len());
            let cut = dice.between(1, SECTOR as u64 - 1) as usize;
            let keep = match mode {
                0 => SECTOR,
                1 => 0,
                _ => dice.pick(&[0, SECTOR, SECTOR, cut]),
            };
            let kept = end.min(start + keep);
            if start < kept {
                self.durable[start..kept].copy_from_slice(&self.now[start..kept]);
            }
            lost |= kept < end;
            torn |= keep > 0 && kept < end;
        }
        self.now.clone_from(&self.durable);
        self.dirty.clear();
        counts.add_if(lost, Fault::BytesLost);
        counts.add_if(torn, Fault::SectorTorn);
    }
}

impl State {
    fn settle_names(&mut self) {
        let kept = self.dice.below(self.changes.len() as u64 + 1) as usize;
        self.counts.add_if(kept < self.changes.len(), Fault::NamesLost);
        let changes = std::mem::take(&mut self.changes);
        changes.into_iter().take(kept).for_each(|change| apply(&mut self.durable_names, change));
    }

    fn check(&self, life: u64) -> io::Result<()> {
        if self.is_off || self.life != life { Err(ended()) } else { Ok(()) }
    }

    /// A step that changes the disk; at the last one the node ends, with the step done or not.
    fn step(&mut self, life: u64, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.check(life)?;
        if let Some(left) = &mut self.trouble.steps_left {
            if *left == 0 {
                if self.dice.chance(50) {
                    step(self)?;
                }
                self.is_off = true;
                self.counts.add(Fault::EndBetweenSteps);
                return Err(ended());
            }
            *left -= 1;
        }
        step(self)
    }

    fn room(&self) -> io::Result<()> {
        if !self.trouble.is_full {
            return Ok(());
        }
        self.counts.add(Fault::DiskFull);
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Whether this sync fails.
    fn sync_error(&mut self) -> bool {
        let fails = std::mem::take(&mut self.trouble.sync_fails);
        self.counts.add_if(fails, Fault::SyncError);
        fails
    }

    fn change(&mut self, change: Change) {
        match &change {
            Change::Name(path, id) => self.names.insert(path.clone(), *id),
            Change::Gone(path) => self.names.remove(path),
        };
        self.changes.push(change);
    }

    fn id(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: Change) {
    match change {
        Change::Name(path, id) => {
            names.retain(|_, named| *named != id);
            names.insert(path, id);
        }
        Change::Gone(path) => {
            names.remove(&path);
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the simulated process has ended")
}

fn broken() -> io::Error {
    io::Error::other("simulated error of the disk")
}

struct SimClaim;

impl Claim for SimClaim {}

impl Disk for SimDisk {
    fn claim(&self, _dir: &Path) -> io::Result<Box<dyn Claim>> {
        Ok(Box::new(SimClaim))
    }

    fn open(&self, path: &Path, which: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        let life = state.life;
        state.check(life)?;
        if which == Open::Empty {
            state.step(life, |state| {
                state.room()?;
                match state.id(path) {
                    Ok(id) => {
                        if let Some(content) = state.files.get_mut(&id) {
                            content.now.clear();
                        }
                    }
                    Err(_) => {
                        let id = state.files.last_key_value().map_or(0, |(id, _)| id + 1);
                        state.files.insert(id, Content::default());
                        state.change(Change::Name(path.to_owned(), id));
                    }
                }
                Ok(())
            })?;
        }
        let id = state.id(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), id, life }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        state.check(state.life)?;
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let life = state.life;
        state.step(life, |state| {
            let id = state.id(from)?;
            state.names.remove(from);
            state.change(Change::Name(to.to_owned(), id));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let life = state.life;
        state.step(life, |state| {
            state.id(path)?;
            state.change(Change::Gone(path.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let life = state.life;
        state.step(life, |state| {
            if state.sync_error() {
                state.settle_names();
                state.names = state.durable_names.clone();
                return Err(broken());
            }
            let changes = std::mem::take(&mut state.changes);
            changes.into_iter().for_each(|change| apply(&mut state.durable_names, change));
            Ok(())
        })
    }

    fn sync_delay(&self) -> Duration {
        let mut state = self.0.lock();
        let usual = state.dice.below(3);
        let slow = state.trouble.slow_ms;
        state.counts.add_if(slow.is_some(), Fault::SlowSync);
        Duration::from_millis(slow.unwrap_or(usual))
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    life: u64,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file {} of process {}", self.id, self.life)
    }
}

impl SimFile {
    fn step(&self, step: impl FnOnce(&mut State, &mut Content) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.step(self.life, |state| {
            let mut content = state.files.remove(&self.id).ok_or_else(ended)?;
            let done = step(state, &mut content);
            state.files.insert(self.id, content);
            done
        })
    }

    fn look<T>(&self, look: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.0.lock();
        state.check(self.life)?;
        look(state.files.get(&self.id).ok_or_else(ended)?)
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.look(|content| Ok(content.now.len() as u64))
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.look(|content| {
            let there = content.now.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
            bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step(|state, content| {
            if let Err(full) = state.room() {
                let part = state.dice.below(bytes.len() as u64 + 1) as usize;
                content.write(&bytes[..part], offset as usize);
                return Err(full);
            }
            content.write(bytes, offset as usize);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(|_, content| {
            content.now.resize(len as usize, 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.step(|state, content| {
            if state.sync_error() {
                content.settle(&mut state.dice, &state.counts);
                return Err(broken());
            }
            content.sync();
            Ok(())
        })
    }
}
