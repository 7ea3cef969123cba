//! The storage of one partition: records in, series out.
//!
//! Knows records in log order, series, windows, generations and blocks. Does not know networks, the log itself,
//! limits or tenants' policy. Path: `ingest::applier` -> **here** -> `kv`; `query` -> **here**.

pub mod block;
pub mod cat;
mod config;
mod error;
mod gather;
mod head;
mod selection;
mod series_log;
mod store_block;
mod view;

pub use config::StoreConfig;
pub use error::{ApplyError, StoreError};
pub use head::{ApplyOutcome, ConflictExample, Counters, Hidden, SubBatchVerdict, Tombstone};
pub use selection::{PartitionSelection, SelectLimits};
