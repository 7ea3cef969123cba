//! What the node tells about itself: log lines, trace ids and metrics.
//!
//! Knows tracing and metrics. Does not know what the other crates measure; they use the `metrics` and
//! `tracing` facades.

pub mod exposition;
pub mod log;
pub mod metrics;
pub mod process;
pub mod trace;
