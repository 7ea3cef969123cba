//! Queries over the partitions of the cluster: freshness, budgets, concurrency, cancellation, and the series source.
//!
//! Knows tenants, partitions, replicas and limits. Does not know HTTP, Raft or tonic. Evaluation itself is `promql`'s.
//! Path: `server::http` -> **here** -> `promql::engine` -> `tsdb::PartitionStore`, of this node or, by way of `wire` and
//! [`fragment_service`], of another.

pub mod budget;
pub mod catalog;
mod confirmed;
mod distribute;
pub mod durations;
mod fanout;
pub mod fragment_service;
mod frames;
pub mod freshness;
pub mod guard;
mod index_here;
pub mod limits;
mod load;
mod messages;
mod read_index;
pub mod replicas;
pub mod seen;
pub mod service;
pub mod source;
pub mod token;

pub use catalog::{CardinalityTotals, CatalogParams, Entries};
pub use fragment_service::FragmentService;
pub use freshness::{NotFresh, ReadConsistency};
pub use limits::QueryLimits;
pub use replicas::{
    Cluster, IndexError, LocalReplica, PartitionIndex, PartitionReplicas, PartitionView, ReplicaState,
};
pub use seen::{Gap, Seen};
pub use service::{
    Answer, EvalTimes, QueryConfig, QueryFailure, QueryParams, QueryService, QueryTimes, Timings,
};
pub use token::{PositionToken, TokenError, TokenKey};
