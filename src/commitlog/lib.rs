//! The log of a partition: the seam that every log shares, its drivers, and the record inside.
//!
//! Knows positions, entries as bytes, and the record's form. Does not know series, heads or tenants.
//! Path: `ingest::distributor` -> **here** -> `raft`; `raft` -> **here** -> `ingest::applier`.
//! Drivers: [`raft_log`], [`kafka`], and [`mem_log`] for tests; [`conformance`] runs on all.

pub mod conformance;
mod error;
pub mod kafka;
pub mod mem_log;
pub mod raft_log;
pub mod record;

use async_trait::async_trait;
use bytes::Bytes;
pub use error::LogError;
use quorate_model::Position;

/// One committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log.
    pub position: Position,
    /// What was appended; empty for a gap.
    pub payload: Bytes,
    /// Whether nothing was appended here: readers have reached a position at which no entry stands.
    pub is_gap: bool,
}

impl LogEntry {
    /// What was appended at `position`.
    pub fn new(position: Position, payload: Bytes) -> Self {
        Self { position, payload, is_gap: false }
    }

    /// CRC-32C of what was appended.
    pub fn crc(&self) -> u32 {
        crc32c::crc32c(&self.payload)
    }

    /// The end of positions without an entry.
    pub fn gap(position: Position) -> Self {
        Self { position, payload: Bytes::new(), is_gap: true }
    }
}

/// The durable, ordered log of one partition. Committed is not yet applied.
///
/// L1: positions strictly increase in the order of the log, also after reopening and trimming.
/// L2: a resolved `append` survives every crash of this process and the loss of any minority of disks.
/// L3: after `Indeterminate` or a dropped future the entry may or may not appear, at most once per attempt.
/// L4: a reader gets every committed entry after its position exactly once and in order, or an error. In a log that others
/// write into, too, gaps may stand between them, so that a reader comes to where the log ends.
#[async_trait]
pub trait PartitionLog: Send + Sync {
    /// Appends an entry and returns its position once it is committed. At most 64 MiB.
    ///
    /// # Errors
    /// Code `Indeterminate` when the entry may still appear; with any other code it never will.
    async fn append(&self, entry: Bytes) -> Result<Position, LogError>;

    /// Reads the committed entries after `after`, then those to come.
    fn read_from(&self, after: Position) -> Box<dyn LogReader>;

    /// The same for who knows position and [`LogEntry::crc`] of the `last` entry that it got, at `after` or before. A log that may
    /// lose its end and grow over it again gives what follows only if it still holds that entry, or has trimmed it.
    fn read_behind(&self, after: Position, _last: Option<(Position, u32)>) -> Box<dyn LogReader> {
        self.read_from(after)
    }

    /// Position of the newest committed entry, or of the gap behind it, confirmed with a quorum, not remembered. A reader
    /// delivers it, unless it is trimmed or the log is empty (then 0).
    async fn committed(&self) -> Result<Position, LogError>;

    /// Allows the log to forget every entry up to `up_to`. Less than before changes nothing.
    async fn trim(&self, up_to: Position) -> Result<(), LogError>;

    /// Whether this log keeps old storage from being freed, so that its owner should cut an image and trim now
    /// instead of at its next turn (C11).
    fn wants_trim(&self) -> bool;

    /// Differs whenever the log was lost and begun again (C7). Never 0.
    fn incarnation(&self) -> u32;
}

/// Reads one log in order.
#[async_trait]
pub trait LogReader: Send {
    /// The next committed entries, at least one; waits until there is one. Bounded by bytes. A dropped future
    /// loses nothing.
    ///
    /// # Errors
    /// Code `Corrupt` when the log does not hold what follows the reader's position: it was trimmed, or the
    /// log is shorter than what was committed once. Repeating the call does not help.
    async fn next(&mut self) -> Result<Vec<LogEntry>, LogError>;
}
