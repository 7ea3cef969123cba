//! What nodes say to each other, and how it gets there.
//!
//! Knows messages, peers and connections. Does not know what a message leads to, nor openraft.
//! Path: `raft` of one node -> **here** -> network -> **here** -> `raft` of another.
//! Drivers of [`Transport`]: [`grpc`], and [`memory`] for tests; [`conformance`] runs on both.

pub mod conformance;
pub mod grpc;
pub mod memory;
mod transport;

pub use transport::{Handler, Transport, TransportError};

/// The messages of `proto/raft.proto`.
#[allow(missing_docs, reason = "generated; proto/raft.proto says what each is")]
pub mod raft {
    tonic::include_proto!("quorate.raft.v1");
}
