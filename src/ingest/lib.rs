//! From the body of a request to the head of a partition: walk, recognise, limit, log, apply.
//!
//! Knows remote write, tenants' limits, sessions and the partition logs, wherever they are led. Does not know HTTP,
//! queries or how samples are kept.
//! Before the log: [`protocol`] -> [`series_cache`] -> [`distributor`] -> [`appender`] -> `PartitionLog`.
//! After it: `PartitionLog` -> [`applier`] -> `tsdb::PartitionStore`; [`maintenance`] proposes flush marks and
//! drives flushes, images, trims and merges.
//!
//! - I1: an answer of success means that every sample it does not list as refused is in the committed prefix
//!   of its partition's log; anything unknown is an error, and repeating the request is safe.
//! - I2: a sample is refused for its syntax, limits or age only before the log. After it the one refusal is a
//!   conflicting value, decided by apply.
//! - I3: a caller that goes away loses only the answer: what was queued is logged, and its bytes, definitions
//!   and counters are accounted for.

pub mod appender;
pub mod applier;
pub mod distributor;
pub mod holdings;
pub mod in_flight;
pub mod maintenance;
pub mod protocol;
pub mod refusal;
pub mod series_cache;
pub mod sources;
mod target;
mod telemetry;
#[cfg(test)]
pub(crate) mod testing;

pub use appender::{
    Appended, Appender, DirectAppender, HeldHere, LocalAppender, LocalReplica, LocalReplicas, RouteConfig,
    RoutedAppender, WriteService,
};
pub use applier::{Applier, ApplyState, ApplyTarget, Strangers};
pub use distributor::{
    ClusterTotals, Distributor, DistributorConfig, PartitionInput, Placement, WriteError, WriteOutcome,
    WriteRequest, Written, placement,
};
pub use holdings::Holdings;
pub use in_flight::{Held, InFlight, NoRoom};
pub use maintenance::{Builder, MaintainedPartition, Maintenance, MaintenanceConfig};
pub use protocol::Protocol;
pub use refusal::Refusal;
