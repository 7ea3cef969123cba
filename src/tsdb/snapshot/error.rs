//! What can go wrong when a state is taken, one variant per thing the caller can do.

use crate::error::StoreError;
use quorate_model::{ErrorCode, Position};

/// An error of taking over a state. The partition is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The disk or the store failed, or the partition is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The description is damaged, of another version, or of another partition: ask for another one.
    #[error("description of a snapshot: {detail}")]
    Description {
        /// What is wrong.
        detail: String,
    },
    /// The bytes of a part are not those that were described. What came of it is thrown away: transfer it again.
    #[error("part {part} of a snapshot: {detail}")]
    WrongBytes {
        /// Place of the part in the description.
        part: usize,
        /// What is wrong.
        detail: String,
    },
    /// Bytes that do not follow those that came before. Go on at `expected`.
    #[error("part {part} of a snapshot goes on at byte {expected}, not at {offset}")]
    OutOfPlace {
        /// Place of the part in the description.
        part: usize,
        /// Where the bytes were to stand.
        offset: u64,
        /// Bytes of the part that are here.
        expected: u64,
    },
    /// Not every part is here: see [`super::Install::missing`].
    #[error("{parts} parts of a snapshot are missing")]
    Incomplete {
        /// How many.
        parts: usize,
    },
    /// The state here is newer: replay the log instead.
    #[error("a snapshot of position {offered} is older than the state here, of position {held}")]
    Older {
        /// Position of the snapshot.
        offered: Position,
        /// Position of the durable image here.
        held: Position,
    },
}

impl InstallError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) => error.code(),
            Self::Description { .. }
            | Self::WrongBytes { .. }
            | Self::OutOfPlace { .. }
            | Self::Incomplete { .. } => ErrorCode::BadInput,
            Self::Older { .. } => ErrorCode::Refused,
        }
    }

    pub(super) fn description(detail: impl Into<String>) -> Self {
        Self::Description { detail: detail.into() }
    }

    pub(super) fn wrong(part: usize, detail: impl Into<String>) -> Self {
        Self::WrongBytes { part, detail: detail.into() }
    }
}
