//! Segment files: names, creation, reading, deletion. Every new name and every removal is made durable.
//!
//! Knows the directory. Does not know records or groups.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_model::failpoint;

/// An open segment. Readers keep it while they read, even when it is deleted meanwhile.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
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
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<SegmentFile>>>,
}

impl Segments {
    pub(super) fn new(dir: &Path, files: Vec<SegmentFile>) -> Self {
        let open = files.into_iter().map(|file| (file.sequence, Arc::new(file))).collect();
        Self { dir: dir.to_owned(), open: Mutex::new(open) }
    }

    pub(super) fn get(&self, sequence: u64) -> Option<Arc<SegmentFile>> {
        self.open.lock().get(&sequence).cloned()
    }

    /// Creates segment `sequence` with `content` and makes it and its name durable.
    pub(super) fn create(&self, sequence: u64, content: &[u8]) -> io::Result<Arc<SegmentFile>> {
        let file = Arc::new(create(&self.dir, sequence, content)?);
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
            fs::remove_file(&first.path)?;
            failpoint::hit("segment.after_remove");
            sync_dir(&self.dir)?;
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
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".tmp") {
            fs::remove_file(&path)?;
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
pub(super) fn create(dir: &Path, sequence: u64, content: &[u8]) -> io::Result<SegmentFile> {
    let path = dir.join(file_name(sequence));
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    sync_dir(dir)?;
    Ok(SegmentFile { sequence, path, file })
}

/// Makes the names in `dir` durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
