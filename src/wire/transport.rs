//! The seam between a node and its peers.

use crate::raft::{answer, request};
use async_trait::async_trait;
use quorate_model::NodeId;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There is no way to the peer now; the request did not reach it. Trying again at once is no use.
    #[error("node {to} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        to: NodeId,
        /// What happened.
        reason: String,
    },
    /// The request may have reached the peer; the answer did not come in time or got lost.
    #[error("no answer from node {to}: {reason}")]
    NoAnswer {
        /// The peer.
        to: NodeId,
        /// What happened.
        reason: String,
    },
    /// The peer got the request and did nothing.
    #[error("node {to} refused: {reason}")]
    Refused {
        /// The peer.
        to: NodeId,
        /// What it said.
        reason: String,
    },
}

/// Sends requests to peers.
///
/// T1: an answer belongs to its request. T2: a request is handled at most once for each call. Requests that are under
/// way at the same time may be handled in any order.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a request of `group` to `to` and waits at most `timeout` for its answer.
    ///
    /// # Errors
    /// [`TransportError`]; a dropped future leaves it open whether the request was handled.
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError>;
}

/// Handles the requests of peers.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers a request of `group`, or gives the reason why it does nothing.
    async fn handle(&self, group: u64, request: request::Message) -> Result<answer::Message, String>;
}
