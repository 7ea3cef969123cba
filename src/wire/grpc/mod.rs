//! The network over gRPC: to each peer one stream for the Raft requests of all groups, and two connections for calls.
//!
//! Knows addresses, connections and time limits. Does not know groups or what messages mean.
//! G1: nothing waits for ever: connecting, each call and a silent connection have their bounds.
//! G2: a peer that is down costs one attempt each [`Timing::pause`] and connection, however many calls there are.
//! G3: large answers delay neither writes nor heartbeats: each has connections of its own.
//! G4: a node answers only calls that are for it and its cluster, except those that ask who it is.
//! G5: with TLS each side knows by the other's certificate that it is the node that it says, or that was asked for.

mod calls;
mod channels;
mod client;
mod identity;
mod inbox;
mod line;
mod listener;
mod server;
mod services;
mod socket;
mod status;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;

pub use calls::GrpcCalls;
pub use client::{Grpc, Peers, Timing};
pub use identity::ClusterName;
pub use inbox::Inbox;
pub use listener::serve;
pub use tls::{Tls, TlsError, TlsFiles, TlsMode};

/// Bytes of a message of Raft or of a write: more than the largest entry of a log.
const MAX_MESSAGE: usize = 80 << 20;
/// Bytes of a message about the cluster.
const MAX_META: usize = 64 << 20;
/// Bytes of a frame of an answer, and of a call for one.
const MAX_FRAME: usize = 4 << 20;
/// Bytes that may be on their way in one stream of Raft, and over its connection.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
