//! Why a group cannot do what was asked.

use quorate_model::{ErrorCode, NodeId, Position};

use crate::segment_log::{GroupId, SegmentError};

/// An error of a Raft group.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// This node does not lead the group; the proposal had no effect.
    #[error("group {group} is not led by this node{}", leader.map(|l| format!(", but by {l}")).unwrap_or_default())]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads it, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// This node leads the group and hears of no majority; nothing was asked to change.
    #[error("group {group} has no majority now: {reason}")]
    NoMajority {
        /// The group.
        group: GroupId,
        /// What is missing.
        reason: String,
    },
    /// The proposal may or may not be committed, now or later.
    #[error("no answer from group {group}: {reason}; the entry may still appear")]
    Unknown {
        /// The group.
        group: GroupId,
        /// What happened.
        reason: String,
    },
    /// The group was stopped; a proposal had no effect.
    #[error("group {group} is stopped")]
    Stopped {
        /// The group.
        group: GroupId,
    },
    /// The group has members on other nodes, and this node was started without a way to them.
    #[error("group {group} has the members {members:?}, but this node was started alone")]
    OtherMembers {
        /// The group.
        group: GroupId,
        /// Its members.
        members: Vec<u64>,
    },
    /// The group could not be started.
    #[error("group {group} cannot start: {reason}")]
    Start {
        /// The group.
        group: GroupId,
        /// What happened.
        reason: String,
    },
    /// A reader asks for entries that were trimmed: what it has is older than the log.
    #[error("group {group} is trimmed beyond position {after}")]
    Trimmed {
        /// The group.
        group: GroupId,
        /// The reader's position.
        after: Position,
    },
    /// A reader is ahead of the log: acknowledged entries were lost.
    #[error("group {group} ends at position {last}, before position {after}, which was committed once")]
    Lost {
        /// The group.
        group: GroupId,
        /// The reader's position.
        after: Position,
        /// The last entry there is.
        last: Position,
    },
    /// The segment log refused.
    #[error(transparent)]
    Log(#[from] SegmentError),
}

impl RaftError {
    /// What the error means to the caller.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. }
            | Self::NoMajority { .. }
            | Self::Stopped { .. }
            | Self::OtherMembers { .. } => ErrorCode::Unavailable,
            Self::Unknown { .. } => ErrorCode::Indeterminate,
            Self::Start { .. } => ErrorCode::Internal,
            Self::Trimmed { .. } | Self::Lost { .. } => ErrorCode::Corrupt,
            Self::Log(error) => error.code(),
        }
    }
}
