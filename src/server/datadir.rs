//! The data dir: one process at a time, one node number for good, one format version.
//!
//! Knows two files. `LOCK` is held by an advisory lock that the kernel drops with the process, so a crash
//! leaves nothing to clean up. `FORMAT` says which version of the layout the folder has, whose it is and
//! how many partitions it was made with. It is written before anything else, so a folder without it holds no data.

use quorate_model::create_dir_durable;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Newest version of the layout that this build writes and reads.
pub const FORMAT_VERSION: u32 = 2;

/// The version of a folder that is not part of a cluster.
const ALONE_VERSION: u32 = 1;

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
    #[error("{} belongs to node {found}; node_id is {wanted}", dir.display())]
    OtherNode {
        /// The folder.
        dir: PathBuf,
        /// Name of the node in the folder.
        found: String,
        /// Configured name.
        wanted: String,
    },
    /// The file that says what it is cannot be understood.
    #[error("{} is not a format file: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Making it the beginning of another cluster was interrupted.
    #[error(
        "{} is being made the beginning of another cluster, and that was interrupted; run again: \
         quorate cluster recover --from-survivor", .0.display()
    )]
    Recovering(PathBuf),
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
    identity: Option<Identity>,
    recovering: Option<u128>,
    lock: Arc<File>,
}

/// Whose a data dir is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Number of the node.
    pub node: u64,
    /// Partitions that the folder was made with. A cluster's count is in its metadata.
    pub partitions: u32,
    /// What makes the node part of a cluster.
    pub membership: Option<Membership>,
}

/// The part of a node in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Name of the node.
    pub name: String,
    /// Id of the cluster; `None` while it is being founded.
    pub cluster: Option<u128>,
}

#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
    node_id: u64,
    partitions: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovering: Option<String>,
}

impl Format {
    fn of(identity: &Identity, recovering: Option<u128>) -> Self {
        let membership = identity.membership.as_ref();
        Self {
            version: if membership.is_some() { FORMAT_VERSION } else { ALONE_VERSION },
            node_id: identity.node,
            partitions: identity.partitions,
            name: membership.map(|membership| membership.name.clone()),
            cluster: membership.and_then(|membership| membership.cluster).map(|id| format!("{id:032x}")),
            recovering: recovering.map(|id| format!("{id:032x}")),
        }
    }

    /// Whose the folder is, and the cluster that it was of if it is being recovered.
    fn identity(self) -> Result<(Identity, Option<u128>), String> {
        let not_an_id = |text: String| format!("{text:?} is not the id of a cluster");
        let parse = |text: String| u128::from_str_radix(&text, 16).map_err(|_| not_an_id(text));
        let [cluster, recovering] =
            [self.cluster.map(parse).transpose()?, self.recovering.map(parse).transpose()?];
        let membership = self.name.map(|name| Membership { name, cluster });
        Ok((Identity { node: self.node_id, partitions: self.partitions, membership }, recovering))
    }
}

impl DataDir {
    /// Locks `path`, and makes the folder if it is new.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing but an empty folder was made then.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
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
            Ok(text) => Some(read_format(path, &file, &text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(found) = DATA.into_iter().find(|name| path.join(name).exists()) {
                    return Err(DataDirError::NoFormat { dir: path.to_owned(), found });
                }
                None
            }
            Err(error) => return Err(at(&file, error)),
        };
        let (identity, recovering) = format.unzip();
        Ok(Self { path: path.to_owned(), identity, recovering: recovering.flatten(), lock: Arc::new(lock) })
    }

    /// The folder of a node that is alone; a new one gets number 1 and `partitions`, an existing one keeps its own.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn alone(&mut self, partitions: u32, default: u32) -> Result<Identity, DataDirError> {
        if let Some(kept) = &self.identity {
            let (kept_count, asked) = (kept.partitions, partitions);
            if asked != 0 && asked != kept_count {
                let kept = kept_count;
                tracing::warn!(
                    kept,
                    asked,
                    "the data dir keeps the number of partitions that it was made with"
                );
            }
            return Ok(kept.clone());
        }
        let partitions = if partitions == 0 { default } else { partitions };
        self.settle(Identity { node: 1, partitions, membership: None })
    }

    /// Says whose the folder is, durably.
    ///
    /// # Errors
    /// [`DataDirError::Io`]; it is then whose it was.
    pub fn settle(&mut self, identity: Identity) -> Result<Identity, DataDirError> {
        if self.identity.as_ref() != Some(&identity) {
            let file = self.path.join("FORMAT");
            write_format(&self.path, &file, &Format::of(&identity, None))
                .map_err(|cause| DataDirError::Io { path: file, cause })?;
            self.identity = Some(identity.clone());
        }
        Ok(identity)
    }

    /// From now on, durably, the folder is of cluster `id`, and of nothing else until [`DataDir::end_recovery`].
    ///
    /// # Errors
    /// [`DataDirError::Io`]; it is then whose it was.
    pub fn begin_recovery(&mut self, was: u128, id: u128) -> Result<(), DataDirError> {
        self.write_cluster(id, Some(was))
    }

    /// Everything in the folder is of its cluster.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn end_recovery(&mut self, id: u128) -> Result<(), DataDirError> {
        self.write_cluster(id, None)
    }

    fn write_cluster(&mut self, id: u128, recovering: Option<u128>) -> Result<(), DataDirError> {
        let Some(mut identity) = self.identity.clone() else { return Ok(()) };
        identity.membership = identity.membership.map(|of| Membership { cluster: Some(id), ..of });
        let file = self.path.join("FORMAT");
        write_format(&self.path, &file, &Format::of(&identity, recovering))
            .map_err(|cause| DataDirError::Io { path: file, cause })?;
        (self.identity, self.recovering) = (Some(identity), recovering);
        Ok(())
    }

    /// The cluster that the folder was of, if a recovery has begun and not ended.
    pub fn recovering(&self) -> Option<u128> {
        self.recovering
    }

    /// Whether a node may run in the folder.
    ///
    /// # Errors
    /// [`DataDirError::Recovering`].
    pub fn check_whole(&self) -> Result<(), DataDirError> {
        self.recovering.map_or(Ok(()), |_| Err(DataDirError::Recovering(self.path.clone())))
    }

    /// Whether the folder of a cluster's node is that of the node called `name`.
    ///
    /// # Errors
    /// [`DataDirError::OtherNode`].
    pub fn check_name(&self, name: &str) -> Result<(), DataDirError> {
        let membership = self.identity.as_ref().and_then(|identity| identity.membership.as_ref());
        match membership.filter(|membership| membership.name != name) {
            None => Ok(()),
            Some(Membership { name: found, .. }) => Err(DataDirError::OtherNode {
                dir: self.path.clone(),
                found: found.clone(),
                wanted: name.to_owned(),
            }),
        }
    }

    /// Keeps the folder locked as long as the process lives: tasks and threads of a start that was given up may still
    /// write for a moment.
    pub fn hold_until_exit(&self) {
        std::mem::forget(self.lock.clone());
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is, if it was ever used.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

/// Reads the version first and alone: of a newer file nothing else is understood.
fn read_format(dir: &Path, file: &Path, text: &str) -> Result<(Identity, Option<u128>), DataDirError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let unreadable = |reason: String| DataDirError::Unreadable { file: file.to_owned(), reason };
    let VersionOnly { version: found } = serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    if found > FORMAT_VERSION {
        return Err(DataDirError::Newer { dir: dir.to_owned(), found });
    }
    let format: Format = serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    format.identity().map_err(unreadable)
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

    fn open(path: &Path, partitions: u32) -> Result<(DataDir, Identity), DataDirError> {
        let mut dir = DataDir::lock(path)?;
        let identity = dir.alone(partitions, 4)?;
        Ok((dir, identity))
    }

    #[test]
    fn data_without_a_format_file_is_not_opened_as_if_it_were_new() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), 8).unwrap());
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::remove_file(dir.path().join("FORMAT")).unwrap();
        let error = DataDir::lock(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NoFormat { found: "log", .. }), "{error}");
        assert!(!dir.path().join("FORMAT").exists());
    }

    #[test]
    fn the_format_file_never_changes() {
        let dir = tempfile::tempdir().unwrap();
        let read = || fs::read_to_string(dir.path().join("FORMAT")).unwrap();
        let (mut held, mut identity) = open(dir.path(), 0).unwrap();
        assert_eq!(read(), "{\"version\":1,\"node_id\":1,\"partitions\":4}\n");
        identity.membership = Some(Membership { name: "n1".to_owned(), cluster: None });
        held.settle(identity.clone()).unwrap();
        assert_eq!(read(), "{\"version\":2,\"node_id\":1,\"partitions\":4,\"name\":\"n1\"}\n");
        identity.membership = Some(Membership { name: "n1".to_owned(), cluster: Some(7) });
        held.settle(identity.clone()).unwrap();
        let id = "00000000000000000000000000000007";
        let cluster = format!(
            "{{\"version\":2,\"node_id\":1,\"partitions\":4,\"name\":\"n1\",\"cluster\":\"{id}\"}}\n"
        );
        assert_eq!(read(), cluster);
        drop(held);
        assert_eq!(DataDir::lock(dir.path()).unwrap().identity(), Some(&identity));
    }

    #[test]
    fn no_node_runs_while_a_recovery_is_not_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut held, mut identity) = open(dir.path(), 4).unwrap();
        identity.membership = Some(Membership { name: "n1".to_owned(), cluster: Some(7) });
        held.settle(identity.clone()).unwrap();
        held.begin_recovery(7, 8).unwrap();
        drop(held);
        let mut held = DataDir::lock(dir.path()).unwrap();
        assert_eq!(held.recovering(), Some(7));
        let error = held.check_whole().unwrap_err().to_string();
        assert!(error.contains("recover --from-survivor"), "{error}");
        held.end_recovery(8).unwrap();
        drop(held);
        let held = DataDir::lock(dir.path()).unwrap();
        held.check_whole().unwrap();
        identity.membership = Some(Membership { name: "n1".to_owned(), cluster: Some(8) });
        assert_eq!((held.recovering(), held.identity()), (None, Some(&identity)));
        let id = "00000000000000000000000000000008";
        let text = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
        let expected = format!(
            "{{\"version\":2,\"node_id\":1,\"partitions\":4,\"name\":\"n1\",\"cluster\":\"{id}\"}}\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::InUse(_))));
        drop(first);
        DataDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn the_partition_count_is_that_of_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), 4).unwrap());
        assert_eq!(open(dir.path(), 16).unwrap().1.partitions, 4);
    }

    #[test]
    fn a_folder_of_a_cluster_is_of_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut held, mut identity) = open(dir.path(), 4).unwrap();
        held.check_name("n2").unwrap();
        identity.membership = Some(Membership { name: "n1".to_owned(), cluster: Some(7) });
        held.settle(identity).unwrap();
        held.check_name("n1").unwrap();
        let error = held.check_name("n2").unwrap_err().to_string();
        assert!(error.contains("belongs to node n1") && error.contains("n2"), "{error}");
    }

    #[track_caller]
    fn check_refused(content: &str, parts: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT"), content).unwrap();
        let error = DataDir::lock(dir.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), content, "it stays as it was");
    }

    #[test]
    fn a_newer_format_is_refused_naming_both_versions() {
        check_refused(r#"{"version":7,"something":"new"}"#, &["version 7", "up to 2"]);
    }

    #[test]
    fn damage_is_refused() {
        check_refused("quorate", &["not a format file"]);
        check_refused("", &["not a format file"]);
        let other = r#"{"version":2,"node_id":1,"partitions":4,"name":"n1","cluster":"x"}"#;
        check_refused(other, &["not a format file", "\"x\""]);
    }
}
