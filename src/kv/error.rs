//! What can go wrong in the key-value store, one variant per thing the caller can do.

use crate::Cf;
use quorate_model::ErrorCode;
use std::path::PathBuf;

/// An error of [`crate::Kv`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Another process, or another handle of this one, holds the directory.
    #[error("data directory {} is in use by another process: {detail}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Stored bytes are damaged.
    #[error("damaged data in {place}: {detail}")]
    Corrupt {
        /// Column family or file.
        place: String,
        /// What was found.
        detail: String,
    },
    /// No space is left; nothing was written.
    #[error("no space left on the data disk: {detail}")]
    Full {
        /// What the system said.
        detail: String,
    },
    /// The disk or the store failed; a write may or may not be there after a restart.
    #[error("storage failed: {detail}")]
    Io {
        /// What the system said.
        detail: String,
    },
    /// A single write to a family that takes only sorted runs.
    #[error("column family {cf} takes only sorted runs")]
    BulkOnly {
        /// The family.
        cf: Cf,
    },
    /// A sorted run for a family that takes only batches.
    #[error("column family {cf} takes no sorted runs")]
    NotBulk {
        /// The family.
        cf: Cf,
    },
    /// A key of a sorted run that is not greater than the one before.
    #[error("key {key:02x?} of a sorted run for {cf} is not greater than the one before")]
    OutOfOrder {
        /// The family.
        cf: Cf,
        /// The key.
        key: Vec<u8>,
    },
    /// The store runs with other options than it was given.
    #[error("option {option} of {cf} is {found}, not {expected}")]
    Options {
        /// The family.
        cf: Cf,
        /// Name of the option.
        option: &'static str,
        /// What was asked for.
        expected: String,
        /// What is in effect.
        found: String,
    },
}

impl KvError {
    /// What the error means to a client.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt { .. } => ErrorCode::Corrupt,
            Self::Full { .. } | Self::Io { .. } | Self::Locked { .. } => ErrorCode::Unavailable,
            Self::BulkOnly { .. } | Self::NotBulk { .. } | Self::OutOfOrder { .. } | Self::Options { .. } => {
                ErrorCode::Internal
            }
        }
    }
}
