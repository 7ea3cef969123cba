//! Which byte forms of series are known, and under which ref of which partition they stand in the log.
//!
//! Knows hashes, sessions, refs, labels and the limits on them. Does not know samples or the log.
//! Path: `distributor` -> **here**, once per request.
//!
//! - SC1: within a session a ref of a partition is given to one label set only.
//! - SC2: a series counts as defined only after a record that defines it was committed; until then every
//!   record that uses it defines it again.
//! - SC3: a series that nobody sent for two hours is forgotten; it gets another ref when it comes back.
//!
//! Cost: a known series is one probe in a flat table under a read lock taken once per request; 20 bytes a
//! byte form at a load of at most 3/4.

mod resolve;
mod session;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use resolve::{ResolveError, Resolved, Resolver, Scratch, Stored, label_bounds};
pub use session::Session;
pub(crate) use session::{DefinedSeries, NewMetadata, SentMetadata, TenantSeries, unit_of};
