//! The partition store through its one door: replay, restart, publishing, deletes, retention, merges.

#![allow(clippy::unwrap_used)] // helpers of tests unwrap as the tests do

mod background;
mod concurrency;
mod properties;
mod removal;
mod restart;
mod rules;
mod snapshot;
mod snapshot_crashes;
mod support;
