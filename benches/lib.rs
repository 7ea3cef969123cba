//! The project's own load: seeded series that look like node_exporter's and a Kubernetes cluster's, made into
//! remote write bodies before any clock starts, and sent over any number of connections; the queries asked of them,
//! what the kernel tells of the processes meanwhile, and the tables of what was measured.
//!
//! Knows remote write senders and real series. Does not know Quorate: peers are driven by the same code.

pub mod bodies;
pub mod figure;
pub mod gauge;
pub mod queries;
pub mod results;
pub mod scrapes;
pub mod sender;
pub mod templates;
pub mod universe;
