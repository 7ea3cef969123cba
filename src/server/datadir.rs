//! The data dir: one process at a time, one node number for good, one format version.
//!
//! Knows two files. `LOCK` is held by an advisory lock that the kernel drops with the process, so a crash
//! leaves nothing to clean up. `FORMAT` says which version of the layout the folder has, whose it is and
//! how many partitions it was made with.

use quorate_model::create_dir_durable;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Version of the layout that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// What a folder holds once a node has run in it.
const DATA: [&str; 4] = ["log", "blocks", "partitions", "meta.image"];

/// Why a data dir cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It was written by a newer build.
    #[error("{} has format version {found}; this build reads versions up to {FORMAT_VERSION}", dir.display())]
    Newer {
        /// The folder.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}; this node is {wanted}", dir.display())]
    OtherNode {
        /// The folder.
        dir: PathBuf,
        /// Node number in the folder.
        found: u64,
        /// Configured node number.
        wanted: u64,
    },
    /// The file that says what it is cannot be understood.
    #[error("{} is not a format file: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds data and no file that says what it is.
    #[error(
        "{} holds {found} but no FORMAT file, which is written first: it is damaged; put the file back as it was",
        dir.display()
    )]
    NoFormat {
        /// The folder.
        dir: PathBuf,
        /// What it holds.
        found: &'static str,
    },
    /// The file system refused.
    #[error("data_dir: {}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        cause: io::Error,
    },
}

/// A data dir that this process holds. Dropping it lets go of the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    partitions: u32,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
    node_id: u64,
    partitions: u32,
}

impl DataDir {
    /// Locks `path`, and makes the folder if it is new. An existing folder keeps its partition count.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing was changed then.
    pub fn open(path: &Path, node_id: u64, partitions: u32) -> Result<Self, DataDirError> {
        let at = |path: &Path, cause| DataDirError::Io { path: path.to_owned(), cause };
        create_dir_durable(path).map_err(|e| at(path, e))?;
        let lock_path = path.join("LOCK");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| at(&lock_path, e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::InUse(path.to_owned())),
            Err(errno) => return Err(at(&lock_path, errno.into())),
        }
        let file = path.join("FORMAT");
        let format = match fs::read_to_string(&file) {
            Ok(text) => read_format(path, &file, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(found) = DATA.into_iter().find(|name| path.join(name).exists()) {
                    return Err(DataDirError::NoFormat { dir: path.to_owned(), found });
                }
                let new = Format { version: FORMAT_VERSION, node_id, partitions };
                write_format(path, &file, &new).map_err(|e| at(&file, e))?;
                new
            }
            Err(error) => return Err(at(&file, error)),
        };
        if format.node_id != node_id {
            let (dir, found) = (path.to_owned(), format.node_id);
            return Err(DataDirError::OtherNode { dir, found, wanted: node_id });
        }
        if format.partitions != partitions {
            let (kept, asked) = (format.partitions, partitions);
            tracing::warn!(kept, asked, "the data dir keeps the number of partitions that it was made with");
        }
        Ok(Self { path: path.to_owned(), partitions: format.partitions, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many partitions the folder was made with.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }
}

/// Reads the version first and alone: of a newer file nothing else is understood.
fn read_format(dir: &Path, file: &Path, text: &str) -> Result<Format, DataDirError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let unreadable =
        |e: serde_json::Error| DataDirError::Unreadable { file: file.to_owned(), reason: e.to_string() };
    let VersionOnly { version: found } = serde_json::from_str(text).map_err(unreadable)?;
    if found > FORMAT_VERSION {
        return Err(DataDirError::Newer { dir: dir.to_owned(), found });
    }
    serde_json::from_str(text).map_err(unreadable)
}

/// Written beside, synced, then renamed: the file is whole or absent.
fn write_format(dir: &Path, file: &Path, format: &Format) -> io::Result<()> {
    let beside = dir.join("FORMAT.new");
    let mut out = File::create(&beside)?;
    out.write_all(&serde_json::to_vec(format)?)?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&beside, file)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_without_a_format_file_is_not_opened_as_if_it_were_new() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), 1, 8).unwrap());
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::remove_file(dir.path().join("FORMAT")).unwrap();
        let error = DataDir::open(dir.path(), 1, 4).unwrap_err();
        assert!(matches!(error, DataDirError::NoFormat { found: "log", .. }), "{error}");
        assert!(!dir.path().join("FORMAT").exists());
    }

    #[test]
    fn the_format_file_never_changes() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), 3, 4).unwrap());
        let text = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
        assert_eq!(text, "{\"version\":1,\"node_id\":3,\"partitions\":4}\n");
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), 1, 4).unwrap();
        assert!(matches!(DataDir::open(dir.path(), 1, 4), Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::open(dir.path(), 1, 4).unwrap();
    }

    #[test]
    fn the_partition_count_is_that_of_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), 1, 4).unwrap());
        assert_eq!(DataDir::open(dir.path(), 1, 16).unwrap().partitions(), 4);
    }

    #[track_caller]
    fn check_refused(content: &str, parts: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT"), content).unwrap();
        let error = DataDir::open(dir.path(), 1, 4).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), content, "it stays as it was");
    }

    #[test]
    fn a_newer_format_is_refused_naming_both_versions() {
        check_refused(r#"{"version":7,"something":"new"}"#, &["version 7", "up to 1"]);
    }

    #[test]
    fn another_nodes_folder_and_damage_are_refused() {
        check_refused(r#"{"version":1,"node_id":9,"partitions":4}"#, &["node 9", "node is 1"]);
        check_refused("quorate", &["not a format file"]);
        check_refused("", &["not a format file"]);
    }
}
