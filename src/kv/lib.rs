//! The key-value seam: everything that Quorate stores in blocks and control state goes through [`Kv`].
//!
//! Knows column families, keys and durability. Does not know partitions, blocks, series or Raft; what a key
//! or value means is decided by the crate that writes it.
//! Path: `tsdb`, `raft` -> **here** -> RocksDB ([`RocksKv`]) or a map in memory ([`MemKv`]).
//!
//! - K1: a batch is applied whole or not at all, also across column families and after a crash.
//! - K2: when a [`Durability::Synced`] write returns, it and every write before it survive a power loss.
//!   A [`Durability::Buffered`] write may be forgotten until then; what is forgotten is always a suffix.
//! - K3: page, index and rollup families take no single writes, only [`Kv::ingest`] of sorted runs and
//!   removal of ranges. A finished ingest is durable at once and is visible whole or not at all; several
//!   families are several ingests, so a reader needs its own rule for when they belong together.
//! - K4: a scan that returns `Ok` has seen every key of its range. Damage is an error, never an early end.
//! - K5: a failed synced write may still be there after a restart; the caller must stop and replay.

pub mod conformance;
mod error;
mod mem;
mod rocks;

pub use error::KvError;
pub use mem::MemKv;
pub use rocks::{KvOptions, KvUsage, RocksKv};

use std::fmt;
use std::ops::ControlFlow;

/// The column families. Their names are stored and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cf {
    /// Pages of chunks. Bulk.
    Page,
    /// Indexes of blocks. Bulk.
    Idx,
    /// Rollups. Bulk.
    Sum,
    /// Exemplars.
    Ex,
    /// Metric metadata.
    Meta,
    /// Tombstones.
    Del,
    /// The manifest: which blocks, images and logs exist.
    Cat,
    /// Control state of the node and of the metadata group.
    Ctl,
}

impl Cf {
    /// Every family.
    pub const ALL: [Self; 8] =
        [Self::Page, Self::Idx, Self::Sum, Self::Ex, Self::Meta, Self::Del, Self::Cat, Self::Ctl];

    /// The stored name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Idx => "idx",
            Self::Sum => "sum",
            Self::Ex => "ex",
            Self::Meta => "meta",
            Self::Del => "del",
            Self::Cat => "cat",
            Self::Ctl => "ctl",
        }
    }

    /// Whether the family takes only ingests and range removals (K3).
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Page | Self::Idx | Self::Sum)
    }
}

impl fmt::Display for Cf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keys from `start`, included, to `end`, excluded. Keys are compared as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Vec::new(), end: None }
    }

    /// The keys in `start..end`.
    pub fn new(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// The keys from `start` on.
    pub fn from(start: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), end: None }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let kept = prefix.iter().rposition(|b| *b != 0xff).map_or(0, |at| at + 1);
        let end = (kept > 0).then(|| {
            let mut end = prefix[..kept].to_vec();
            end[kept - 1] += 1;
            end
        });
        Self { start: prefix.to_vec(), end }
    }

    /// First key of the range.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// First key behind the range, or `None` if it has no end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
    DeleteRange { start: Vec<u8>, end: Vec<u8> },
}

/// Changes that become visible and durable together (K1), applied in the order of the calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    changes: Vec<(Cf, Change)>,
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, cf: Cf, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push((cf, Change::Put { key: key.into(), value: value.into() }));
        self
    }

    /// Removes `key` if it is there.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push((cf, Change::Delete { key: key.into() }));
        self
    }

    /// Removes every key in `start..end`. Few and large: each one slows later scans until it is compacted.
    pub fn delete_range(&mut self, cf: Cf, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push((cf, Change::DeleteRange { start: start.into(), end: end.into() }));
        self
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn changes(&self) -> &[(Cf, Change)] {
        &self.changes
    }

    /// Refuses what K3 forbids.
    pub(crate) fn check(&self) -> Result<(), KvError> {
        for (cf, _) in &self.changes {
            if cf.is_bulk() {
                return Err(KvError::BulkOnly { cf: *cf });
            }
        }
        Ok(())
    }
}

/// When a write survives a crash (K2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    Synced,
    /// With the next synced write.
    Buffered,
}

/// Called with each key and value of a scan in key order; `Break` ends it.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads.
pub trait KvRead: Send + Sync {
    /// The value of `key`, or `None`.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] if the bytes that would hold it are damaged, [`KvError::Io`].
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Visits the keys of `range` in increasing order, all as of the moment of the call (K4).
    ///
    /// # Errors
    /// As [`KvRead::get`]; the visitor may have seen a part of the range by then.
    fn scan(&self, cf: Cf, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError>;
}

/// An ordered, durable map of bytes in several column families. See the module header for K1 to K5.
pub trait Kv: KvRead {
    /// Applies a batch.
    ///
    /// # Errors
    /// [`KvError::BulkOnly`] with no effect; [`KvError::Full`] with no effect; [`KvError::Io`] with an
    /// unknown effect (K5).
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), KvError>;

    /// Begins a sorted run for a bulk family.
    ///
    /// # Errors
    /// [`KvError::NotBulk`], [`KvError::Full`], [`KvError::Io`].
    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingest + '_>, KvError>;

    /// Removes every key of `range` from a bulk family, durably, giving the space back at once where whole
    /// runs lie inside. Scans that run may lose the keys too: callers drop only what no reader can reach.
    ///
    /// # Errors
    /// [`KvError::NotBulk`]; [`KvError::Io`], then a part may be gone and repeating is safe.
    fn drop_range(&self, cf: Cf, range: &KeyRange) -> Result<(), KvError>;
}

/// A sorted run on its way into a bulk family. Dropped before [`Ingest::finish`] it leaves nothing behind.
pub trait Ingest {
    /// Adds a key, greater than the one before.
    ///
    /// # Errors
    /// [`KvError::OutOfOrder`], [`KvError::Full`], [`KvError::Io`]; the run is then of no more use.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError>;

    /// Bytes of keys and values so far.
    fn bytes(&self) -> u64;

    /// Makes the run durable and visible; its keys replace older ones. An empty run changes nothing.
    ///
    /// # Errors
    /// [`KvError::Full`] and [`KvError::Io`]; the run may have become visible after [`KvError::Io`].
    fn finish(self: Box<Self>) -> Result<(), KvError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ranges_end_behind_the_last_key_of_the_prefix() {
        assert_eq!(KeyRange::prefix(b"ab"), KeyRange::new(*b"ab", *b"ac"));
        assert_eq!(KeyRange::prefix(&[1, 0xff]), KeyRange::new([1, 0xff], [2]));
        assert_eq!(KeyRange::prefix(&[0xff, 0xff]).end(), None);
        assert_eq!(KeyRange::prefix(&[]), KeyRange::all());
        assert!(KeyRange::prefix(&[1, 0xff]).contains(&[1, 0xff, 0xff]));
        assert!(!KeyRange::prefix(&[1, 0xff]).contains(&[2]));
    }
}
