//! The `quorate` process: command line, configuration, a node, its HTTP and gRPC listeners.
//!
//! Knows every other crate and wires them; decides nothing about data. Path of a write: `http::write` ->
//! `ingest`. Path of a query: `http::query` -> `query`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod datadir;
pub mod http;
pub mod node;
pub mod recover;
pub mod run;
pub mod self_monitor;
pub mod status;
pub mod telemetry;
pub mod tenant;

pub use run::main;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Revision of this build, if the build was told.
pub const REVISION: &str = match option_env!("QUORATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
/// Version of the Prometheus HTTP API that is served; clients decide by it what they may ask.
pub const API_VERSION: &str = "3.14.0";
