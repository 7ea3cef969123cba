//! What can go wrong in a partition store, one variant per thing the caller can do.

use quorate_chunk::ChunkError;
use quorate_kv::KvError;
use quorate_model::{ErrorCode, PartitionId, Position, SeriesRef, SessionId};
use std::path::PathBuf;

/// Why a record cannot be applied. Apply has stopped; every later call gives the same error, and a restart
/// meets it again. Nothing is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A record uses a ref that its session never defined.
    #[error("record at {position} uses ref {reference} that session {session} has not defined")]
    UnknownRef {
        /// Position of the record.
        position: Position,
        /// Its session.
        session: SessionId,
        /// The ref.
        reference: SeriesRef,
    },
    /// The record contradicts the ones before, or state in memory cannot be read.
    #[error("record at {position} cannot be applied: {detail}")]
    Corrupt {
        /// Position of the record.
        position: Position,
        /// What is wrong.
        detail: String,
    },
}

impl ApplyError {
    /// Always [`ErrorCode::Corrupt`]: the log and the state do not fit.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::Corrupt
    }
}

/// An error of reading or keeping a partition.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key-value store failed or is damaged.
    #[error("block store: {0}")]
    Kv(#[from] KvError),
    /// A chunk is damaged.
    #[error("damaged chunk: {0}")]
    Chunk(#[from] ChunkError),
    /// A file cannot be written or read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// Stored bytes are damaged or of a version that this binary does not know.
    #[error("{place}: {detail}")]
    Damaged {
        /// File or key.
        place: String,
        /// What was found.
        detail: String,
    },
    /// The caller's [`crate::ReadMeter`] objected.
    #[error("the read was stopped by its caller")]
    Stopped,
    /// Somebody uses the partition; nothing was changed. It can be tried again when they have ended.
    #[error("partition {partition} is in use by {by}")]
    InUse {
        /// The partition.
        partition: PartitionId,
        /// Who uses it.
        by: &'static str,
    },
    /// A part was asked for that the offer does not list.
    #[error("the offer has no part {part}")]
    NoPart {
        /// The part.
        part: usize,
    },
    /// A query would read more than its limits allow.
    #[error("the query selects {found} series, more than its limit of {limit}")]
    TooManySeries {
        /// Selected series.
        found: u64,
        /// The limit.
        limit: u64,
    },
}

impl StoreError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Kv(error) => error.code(),
            Self::Chunk(_) | Self::Damaged { .. } => ErrorCode::Corrupt,
            Self::File { .. } | Self::InUse { .. } => ErrorCode::Unavailable,
            Self::NoPart { .. } => ErrorCode::NotFound,
            Self::TooManySeries { .. } => ErrorCode::Unprocessable,
            Self::Stopped => ErrorCode::Cancelled,
        }
    }

    pub(crate) fn file(path: &std::path::Path, cause: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), cause }
    }
}
