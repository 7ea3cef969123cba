//! Snapshots: the durable state of a partition, given to a node that is too far behind to replay the log (C10).
//!
//! Knows the parts of a state and how they become bytes and a state again. Does not know networks, leases or who
//! asks: the caller moves the bytes. Path: giver's [`PartitionStore::offer`](crate::PartitionStore::offer) ->
//! [`Offer::read`] -> the caller -> [`Install::put`] -> [`Install::finish`] -> `PartitionStore::open`.
//!
//! - N1: an offer is of one moment, and what it lists can be read as long as it lives.
//! - N2: an install changes nothing of the partition before the one write to `cat` in [`Install::finish`].
//! - N3: every byte is checked before that write: parts by their checksums, blocks also by their content, and the
//!   image by loading it.
//!
//! The bytes are described in `docs/formats/snapshot.md`.

mod block_bytes;
mod description;
mod error;
mod install;
mod offer;
mod staging;
#[cfg(test)]
mod tests;

pub use description::{Description, Part, PartKind};
pub use error::InstallError;
pub use install::{Install, Missing};
pub use offer::Offer;

pub(crate) use staging::remove_if_obsolete;

/// Bytes that one [`Offer::read`] gives at most.
pub const MAX_READ: usize = 1 << 20;
