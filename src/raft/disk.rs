//! The disk under a node's log as a seam: the real one, and in a simulation one that forgets what was not synced.
//!
//! Knows files, names and when they are durable. Does not know segments, records or images.
//! Path: `segment_log`, `cluster::meta` -> **here** -> the file system.
//! F1: bytes are durable once [`DiskFile::sync`] has returned, names and removals once [`Disk::sync_dir`] has; both
//! include what another process left behind. F2: an open file can be read after its name is gone.
//! Cost: a call through the seam for a batch or a file, never for an entry.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use quorate_model::create_dir_durable;

/// Which file to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// One that is there.
    Existing,
    /// A new one, or an existing one made empty.
    Empty,
}

/// Where files are.
pub trait Disk: Send + Sync + 'static {
    /// Creates the folder `dir` durably unless it is there, and keeps other processes out of it until the claim is
    /// dropped. [`io::ErrorKind::WouldBlock`] when another has it.
    fn claim(&self, dir: &Path) -> io::Result<Box<dyn Claim>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, which: Open) -> io::Result<Box<dyn DiskFile>>;

    /// The files in `dir`, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Time that the next sync takes; who runs in simulated time waits for it before the sync.
    #[cfg(feature = "simulation")]
    fn sync_delay(&self) -> std::time::Duration;
}

/// A folder that belongs to one process until this is dropped.
pub trait Claim: Send + 'static {}

/// An open file. Offsets and lengths are in bytes.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Its length.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on. [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may be there.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or fills it up with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes bytes and length durable. After an error nobody knows which of them are: read them again.
    fn sync(&self) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// Those of the disk.
pub fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn claim(&self, dir: &Path) -> io::Result<Box<dyn Claim>> {
        create_dir_durable(dir)?;
        let file = File::create(dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DirLock(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn open(&self, path: &Path, which: Open) -> io::Result<Box<dyn DiskFile>> {
        let is_new = which == Open::Empty;
        let file = OpenOptions::new().read(true).write(true).create(is_new).truncate(is_new).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    #[cfg(feature = "simulation")]
    fn sync_delay(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

struct DirLock(File);

impl Claim for DirLock {}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file is not enough while a process that was begun meanwhile still has a copy of it.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock a folder");
        }
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Does what may wait for the disk where it holds nobody up; in a simulation, which has one thread, at once.
///
/// # Errors
/// The work panicked, or the runtime is ending.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(not(feature = "simulation"))]
    return tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    #[cfg(feature = "simulation")]
    Ok(work())
}
