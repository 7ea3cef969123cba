//! Queries over real stores in memory: on one node, and on several that reach each other within the process.

mod cluster;
mod failures;
mod fragments;
mod freshness;
mod local;
mod support;
