//! The seam between a node and its peers for everything but Raft: finding a cluster, metadata, writes, reads.
//!
//! Knows which calls there are. Does not know what they lead to. The answering side implements the `...Handler`
//! traits; the asking side has [`Calls`], of which [`crate::grpc`] and [`crate::memory`] are the drivers.

use crate::{TransportError, meta, store, write};
use async_trait::async_trait;
use quorate_model::NodeId;
use std::time::Duration;
use tokio::sync::mpsc;

/// Frames of an answer that are on their way.
pub type Frames = mpsc::Receiver<Result<store::Frame, TransportError>>;

/// Frames that wait between a partition and the network.
pub const QUEUED_FRAMES: usize = 8;

/// Calls of one node to others.
///
/// N1: an answer belongs to its call. N2: a call is handled at most once. Nothing here tries again: whoever knows
/// whether that is safe does. N3: [`TransportError::Unreachable`] and [`TransportError::Refused`] mean no effect, for
/// certain. `timeout` is for the whole answer, its last frame included.
#[async_trait]
pub trait Calls: Send + Sync + 'static {
    /// Asks who is at `address`, `host:port`.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn hello(
        &self,
        address: &str,
        request: meta::HelloRequest,
        timeout: Duration,
    ) -> Result<meta::HelloAnswer, String>;

    /// Asks the node at `address` for a place in its cluster.
    ///
    /// # Errors
    /// As [`Calls::hello`].
    async fn join(
        &self,
        address: &str,
        request: meta::JoinRequest,
        timeout: Duration,
    ) -> Result<meta::JoinAnswer, String>;

    /// Proposes a command at `to`.
    ///
    /// # Errors
    /// [`TransportError`]; after [`TransportError::NoAnswer`] it may still take effect.
    async fn propose(
        &self,
        to: NodeId,
        request: meta::Proposal,
        timeout: Duration,
    ) -> Result<meta::ProposalAnswer, TransportError>;

    /// Asks `to` about the life of the cluster, or tells it. Changes nothing that is stored.
    ///
    /// # Errors
    /// [`TransportError`].
    async fn consult(
        &self,
        to: NodeId,
        question: meta::Question,
        timeout: Duration,
    ) -> Result<meta::Answer, TransportError>;

    /// Appends a record at `to`.
    ///
    /// # Errors
    /// [`TransportError`]; after [`TransportError::NoAnswer`] it may still be committed.
    async fn append(
        &self,
        to: NodeId,
        request: write::AppendRequest,
        timeout: Duration,
    ) -> Result<write::AppendAnswer, TransportError>;

    /// Asks `to` for committed positions.
    ///
    /// # Errors
    /// [`TransportError`].
    async fn read_index(
        &self,
        to: NodeId,
        request: store::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<store::ReadIndexAnswer, TransportError>;

    /// Asks `to` for series and samples. The frames end after the one that has an end, or with an error; dropping
    /// them tells the peer to stop.
    ///
    /// # Errors
    /// [`TransportError`] when the call cannot begin.
    async fn select(
        &self,
        to: NodeId,
        request: store::SelectRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError>;

    /// Asks `to` for a list. Frames as in [`Calls::select`].
    ///
    /// # Errors
    /// [`TransportError`] when the call cannot begin.
    async fn list(
        &self,
        to: NodeId,
        request: store::ListRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError>;
}

/// Answers calls about the cluster.
#[async_trait]
pub trait MetaHandler: Send + Sync + 'static {
    /// See [`Calls::hello`].
    async fn hello(&self, request: meta::HelloRequest) -> meta::HelloAnswer;

    /// See [`Calls::join`]. Goes on when the caller is gone.
    async fn join(&self, request: meta::JoinRequest) -> meta::JoinAnswer;

    /// See [`Calls::propose`]. Goes on when the caller is gone. An error is a refusal: it had no effect.
    async fn propose(&self, request: meta::Proposal) -> Result<meta::ProposalAnswer, String>;

    /// See [`Calls::consult`]. An error is a refusal.
    async fn consult(&self, question: meta::Question) -> Result<meta::Answer, String>;
}

/// Answers calls to write. An error is a refusal: it had no effect.
#[async_trait]
pub trait WriteHandler: Send + Sync + 'static {
    /// See [`Calls::append`]. Goes on when the caller is gone.
    async fn append(&self, request: write::AppendRequest) -> Result<write::AppendAnswer, String>;
}

/// Answers calls to read. An error is a refusal.
#[async_trait]
pub trait StoreHandler: Send + Sync + 'static {
    /// See [`Calls::read_index`].
    async fn read_index(&self, request: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String>;

    /// See [`Calls::select`]. Stops soon after the receiver was dropped.
    async fn select(&self, request: store::SelectRequest) -> Result<mpsc::Receiver<store::Frame>, String>;

    /// See [`Calls::list`]. Stops soon after the receiver was dropped.
    async fn list(&self, request: store::ListRequest) -> Result<mpsc::Receiver<store::Frame>, String>;
}
