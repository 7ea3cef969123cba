//! Segment files: names, creation, reading, deletion. Every new name and every removal is made durable.
//!
//! Knows the directory. Does not know records or groups.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_model::failpoint;

use crate::disk::{Disk, DiskFile, Open};

/// An open segment. Readers keep it while they read, even when it is deleted meanwhile.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
}

impl SegmentFile {
    /// Reads `len` bytes at `offset`.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// The segments of one log, by number.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<SegmentFile>>>,
}

impl Segments {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, files: Vec<SegmentFile>) -> Self {
        let open = files.into_iter().map(|file| (file.sequence, Arc::new(file))).collect();
        Self { disk, dir: dir.to_owned(), open: Mutex::new(open) }
    }

    /// Time that the next sync takes.
    #[cfg(feature = "simulation")]
    pub(super) fn sync_delay(&self) -> std::time::Duration {
        self.disk.sync_delay()
    }

    pub(super) fn get(&self, sequence: u64) -> Option<Arc<SegmentFile>> {
        self.open.lock().get(&sequence).cloned()
    }

    /// Creates segment `sequence` with `content` and makes it and its name durable.
    pub(super) fn create(&self, sequence: u64, content: &[u8]) -> io::Result<Arc<SegmentFile>> {
        let file = Arc::new(create(&*self.disk, &self.dir, sequence, content)?);
        failpoint::hit("segment.after_create");
        self.open.lock().insert(sequence, Arc::clone(&file));
        Ok(file)
    }

    /// Deletes every segment below `oldest`, the oldest first, so that a crash leaves no gap.
    pub(super) fn delete_below(&self, oldest: u64) -> io::Result<u64> {
        let mut deleted = 0;
        loop {
            let first = {
                let mut open = self.open.lock();
                let Some(entry) = open.first_entry().filter(|entry| *entry.key() < oldest) else { break };
                entry.remove()
            };
            self.disk.remove(&first.path)?;
            failpoint::hit("segment.after_remove");
            self.disk.sync_dir(&self.dir)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    /// The number of segments and the lowest and highest of their numbers.
    pub(super) fn numbers(&self) -> (usize, u64, u64) {
        let open = self.open.lock();
        let first = open.keys().next().copied().unwrap_or(0);
        (open.len(), first, open.keys().next_back().copied().unwrap_or(0))
    }
}

/// Name of a segment's file.
pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.seg")
}

/// The segments in `dir` in order of their numbers; leftovers of an interrupted creation are removed.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for path in disk.list(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".tmp") {
            disk.remove(&path)?;
        } else if let Some(hex) = name.strip_suffix(".seg") {
            let sequence = u64::from_str_radix(hex, 16)
                .map_err(|error| io::Error::other(format!("{}: not a segment: {error}", path.display())))?;
            found.push((sequence, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Creates a segment under a temporary name, syncs it, gives it its name and syncs the directory: a segment
/// with its name is complete.
fn create(disk: &dyn Disk, dir: &Path, sequence: u64, content: &[u8]) -> io::Result<SegmentFile> {
    let path = dir.join(file_name(sequence));
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, Open::Empty)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    disk.rename(&temporary, &path)?;
    disk.sync_dir(dir)?;
    Ok(SegmentFile { sequence, path, file })
}
