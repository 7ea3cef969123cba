//! What nodes say to each other, and how it gets there.
//!
//! Knows messages, peers and connections. Does not know what a message leads to, nor openraft.
//! Path: `raft`, `cluster`, `ingest`, `query` of one node -> **here** -> network -> **here** -> those of another.
//! Drivers of [`Transport`] and [`Calls`]: [`grpc`], and [`memory`] for tests; [`conformance`] runs on both.

mod calls;
pub mod conformance;
mod desk;
pub mod grpc;
pub mod memory;
mod relay;
mod transport;

pub use calls::{Calls, Frames, MetaHandler, QUEUED_FRAMES, StoreHandler, WriteHandler};
pub use desk::Handlers;
pub use transport::{Handler, Transport, TransportError};

/// The messages of `proto/meta.proto`.
#[allow(missing_docs, reason = "generated; proto/meta.proto says what each is")]
pub mod meta {
    tonic::include_proto!("quorate.meta.v1");
}

/// The messages of `proto/write.proto`.
#[allow(missing_docs, reason = "generated; proto/write.proto says what each is")]
pub mod write {
    tonic::include_proto!("quorate.write.v1");
}

/// The messages of `proto/store.proto`.
#[allow(missing_docs, reason = "generated; proto/store.proto says what each is")]
pub mod store {
    tonic::include_proto!("quorate.store.v1");
}

/// The messages of `proto/raft.proto`.
#[allow(missing_docs, reason = "generated; proto/raft.proto says what each is")]
pub mod raft {
    tonic::include_proto!("quorate.raft.v1");
}
