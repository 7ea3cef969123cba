//! The storage of one partition: records in, series out.
//!
//! Knows records in log order, series, windows, generations and blocks. Does not know networks, the log itself,
//! limits or tenants' policy. Path: `ingest::applier` -> **here** -> `kv`; `query` -> **here**.

mod background;
pub mod block;
pub mod cat;
mod config;
mod disk;
mod durable;
mod error;
mod flush;
mod gather;
mod head;
mod image;
mod image_file;
mod image_meta;
#[cfg(test)]
mod image_tests;
mod labels;
mod marks;
mod merge_policy;
mod meter;
mod partition_store;
mod removal;
mod retention;
mod selection;
mod series_file;
mod series_log;
pub mod snapshot;
mod stats;
mod store_block;
mod uses;
mod view;

pub use background::FlushReport;
pub use config::StoreConfig;
pub use disk::Disk;
pub use error::{ApplyError, StoreError};
pub use head::{ApplyOutcome, ConflictExample, Counters, Hidden, SubBatchVerdict, Tombstone};
pub use meter::{ReadMeter, Unmetered};
pub use partition_store::PartitionStore;
pub use selection::{PartitionSelection, SelectLimits};
pub use stats::{Cardinality, MemoryUse, PartitionStats};
