//! Tests of the whole binary, and what they share: real processes, an HTTP client, remote write bodies,
//! a ledger of acknowledged samples, answers compared with Prometheus'.
//!
//! Knows the binary only from outside: flags, environment, HTTP, its files and its exit. Imports no crate
//! of the product but the vocabulary, so a test cannot pass by sharing a mistake with the code under test.

pub mod compare;
pub mod harness;
pub mod ledger;
pub mod random;
pub mod remote_write;
