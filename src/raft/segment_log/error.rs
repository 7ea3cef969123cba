//! Why the segment log cannot be opened, read or appended to.

use std::io;
use std::path::{Path, PathBuf};

use quorate_model::ErrorCode;

use super::format::{FormatError, GroupId};

/// An error of the segment log. Errors of writing and syncing are not here: they end the process.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Bytes that were acknowledged are damaged or missing. The node must leave its groups and be rebuilt.
    #[error("the log is damaged: {} at offset {offset}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log belongs to another node.
    #[error("{} belongs to node {found}, but this is node {expected}", path.display())]
    WrongNode {
        /// The file.
        path: PathBuf,
        /// Its owner.
        found: u64,
        /// This node.
        expected: u64,
    },
    /// Another process has the log open.
    #[error("{} is locked: another process uses this log", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Entries do not continue the group's log.
    #[error("entry {index} of group {group} does not continue its log")]
    Hole {
        /// The group.
        group: GroupId,
        /// The first entry that does not fit.
        index: u64,
    },
    /// A payload is over the limit.
    #[error("an entry of {len} bytes is over the limit of {} bytes", super::MAX_PAYLOAD)]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The group was forgotten since this part of the log was handed out: what it had is not to come back.
    #[error("group {group} was forgotten meanwhile")]
    Forgotten {
        /// The group.
        group: GroupId,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl SegmentError {
    /// What the error means to the caller.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Damaged { .. } => ErrorCode::Corrupt,
            Self::WrongNode { .. } | Self::Busy { .. } | Self::Forgotten { .. } | Self::Closed => {
                ErrorCode::Unavailable
            }
            Self::Io { .. } | Self::Hole { .. } => ErrorCode::Internal,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), cause }
    }

    pub(super) fn damaged(path: &Path, offset: u64, reason: String) -> Self {
        Self::Damaged { path: path.to_owned(), offset, reason }
    }

    pub(super) fn format(path: &Path, offset: u64, error: &FormatError) -> Self {
        Self::damaged(path, offset, error.to_string())
    }
}

impl From<SegmentError> for io::Error {
    fn from(error: SegmentError) -> Self {
        Self::other(error)
    }
}
