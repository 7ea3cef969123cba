//! The project's own load: seeded series that look like node_exporter's and a Kubernetes cluster's, made into
//! remote write bodies before any clock starts, and sent over any number of connections; the queries asked of them,
//! and what the kernel tells of the processes meanwhile.
//!
//! Knows remote write senders and real series. Does not know Quorate: peers are driven by the same code.

pub mod bodies;
pub mod gauge;
pub mod queries;
pub mod sender;
pub mod templates;
pub mod universe;
