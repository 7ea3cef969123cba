//! Queries over the node's partitions: budgets, concurrency, cancellation, and the series source.
//!
//! Knows tenants, partitions and limits. Does not know HTTP. Evaluation itself is `promql`'s.
//! Path: `server::http` -> **here** -> `promql::engine` -> `tsdb::PartitionStore`.

pub mod budget;
pub mod catalog;
pub mod durations;
pub mod guard;
pub mod limits;
pub mod service;
pub mod source;

pub use catalog::{CatalogParams, Entries, cardinality};
pub use limits::QueryLimits;
pub use service::{
    Answer, EvalTimes, QueryConfig, QueryFailure, QueryParams, QueryService, QueryTimes, Timings,
};
