//! What a log can say instead of doing what was asked.

use quorate_model::{ErrorCode, NodeId, Position};

/// An error of a partition's log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log cannot take entries now. The entry had no effect, for certain.
    #[error("the log is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// Another node leads the log, or none does. The entry had no effect, for certain.
    #[error("the log is not led by this node{}", leader.map(|l| format!(", but by {l}")).unwrap_or_default())]
    NotLeader {
        /// Who leads it, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Nobody knows yet whether the entry is or will be committed.
    #[error("no answer from the log: {reason}; the entry may still appear")]
    Indeterminate {
        /// What happened.
        reason: String,
    },
    /// The entry is over the log's limit. It had no effect.
    #[error("an entry of {len} bytes is over the log's limit")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The entries after a position were trimmed: whoever asks for them has to be rebuilt.
    #[error("the entries after position {after} were trimmed")]
    Trimmed {
        /// Where reading was to continue.
        after: Position,
    },
    /// The log ends before a position that was committed once: it lost entries.
    #[error("the log ends before position {after}, which was committed once")]
    Lost {
        /// Where reading was to continue.
        after: Position,
    },
    /// Stored entries are damaged.
    #[error("the log is damaged: {reason}")]
    Damaged {
        /// File, offset and what is wrong.
        reason: String,
    },
    /// A bug.
    #[error("the log failed: {reason}")]
    Internal {
        /// What happened.
        reason: String,
    },
}

impl LogError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unavailable { .. } | Self::NotLeader { .. } => ErrorCode::Unavailable,
            Self::Indeterminate { .. } => ErrorCode::Indeterminate,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Trimmed { .. } | Self::Lost { .. } | Self::Damaged { .. } => ErrorCode::Corrupt,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }
}
