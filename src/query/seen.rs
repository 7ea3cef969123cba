//! What an answer reflects: positions, partitions that it lacks, and whether it may be old.
//!
//! Knows what a reading found out. Path: `freshness`, `fanout` -> **here** -> `service::Answer` -> `server::http`.

use crate::token::PositionToken;
use quorate_model::PartitionId;

/// A partition that an answer lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: PartitionId,
    /// Why.
    pub reason: String,
}

/// What an answer reflects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Everything of the answer, and what it had to see, stands up to here. A session that shows it never sees less.
    /// `None` for an eventual read.
    pub positions: Option<PositionToken>,
    /// Partitions that it lacks, by number. Only where the query allows it.
    pub gaps: Vec<Gap>,
    /// Partitions of an eventual read of which no leader has confirmed lately how far they go: the answer may lack
    /// whatever was written to them since, however long ago that is.
    pub stale: Vec<PartitionId>,
}
