//! Raft: consensus of small groups over one shared log per disk.
//!
//! The only crate that names openraft; its types end at [`Group`]. Knows groups, votes, entries and their
//! durability. Does not know partitions, records or samples: payloads are bytes.
//! Path: `commitlog::raft_log`, `cluster::meta` -> **here** -> files; between nodes by way of `wire`.

mod confirm;
mod convert;
pub mod disk;
mod error;
pub mod group;
mod inbound;
mod members;
mod network;
pub mod node;
mod quiet;
pub mod recover;
pub mod segment_log;
mod signs;
#[cfg(feature = "simulation")]
pub mod simulation;
mod sleep;
mod snapshot;
mod state_machine;
mod storage;
mod types;

#[cfg(test)]
mod confirm_tests;
#[cfg(test)]
mod member_tests;
#[cfg(test)]
mod quiet_tests;
#[cfg(test)]
mod tests;

pub use error::RaftError;
pub use group::{Committed, Group, GroupReader};
pub use members::Members;
pub use node::{RaftConfig, RaftNode};
pub use quiet::QuietGroups;
pub use segment_log::GroupId;
pub use snapshot::{Fetched, Giver, SnapshotOwner};
