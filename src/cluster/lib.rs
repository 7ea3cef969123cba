//! Who owns what: slots and partitions, the metadata group, the limits of tenants.
//!
//! Knows tenants' names and numbers, slots, partitions and nodes. Does not know samples, records or HTTP.
//! Path: `ingest`, `query`, `server` -> **here** -> `raft`.

pub mod admin;
pub mod board;
pub mod formation;
pub mod human;
pub mod limits;
pub mod liveness;
pub mod meta;
pub mod placement;
pub mod slots;

pub use board::Board;
pub use meta::{MetaError, MetaHandle, MetaState, NodeState};
pub use slots::{SlotTable, TargetLabels, slot_of};
