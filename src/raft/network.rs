//! The network between the members of a group: openraft's calls over a transport.
//!
//! Knows one group and one peer each. Does not know addresses or connections: that is `wire`.
//! Path: openraft -> **here** -> `wire::Transport` -> ... -> [`crate::inbound`] of the peer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use openraft::type_config::alias::SnapshotOf;
use quorate_model::NodeId;
use quorate_wire::raft::{answer, request};
use quorate_wire::{Transport, TransportError};

use crate::confirm::Told;
use crate::convert;
use crate::segment_log::GroupId;
use crate::snapshot::{SnapshotData, Snapshots};
use crate::types::{RaftVote, TypeConfig};

/// Least time for entries to arrive and be synced: openraft's own bound is made for messages without entries.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for a member to fetch and install a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Makes connections for one group.
pub(crate) struct Network {
    group: GroupId,
    transport: Arc<dyn Transport>,
    snapshots: Snapshots,
    told: Told,
}

impl Network {
    pub(crate) fn new(
        group: GroupId,
        transport: Arc<dyn Transport>,
        snapshots: Snapshots,
        told: Told,
    ) -> Self {
        Self { group, transport, snapshots, told }
    }
}

/// One group's way to one peer.
pub(crate) struct Connection {
    target: NodeId,
    group: GroupId,
    transport: Arc<dyn Transport>,
    snapshots: Snapshots,
    told: Told,
}

type Failure = RPCError<TypeConfig>;

impl Connection {
    async fn call(&self, message: request::Message, timeout: Duration) -> Result<answer::Message, Failure> {
        let called = self.transport.call(self.target, self.group.0, message, timeout).await;
        called.map_err(|error| match error {
            // openraft waits before it tries again.
            TransportError::Unreachable { .. } | TransportError::Refused { .. } => {
                Unreachable::from_string(error).into()
            }
            TransportError::NoAnswer { .. } => NetworkError::from_string(error).into(),
        })
    }
}

fn unexpected(answer: &answer::Message) -> Failure {
    NetworkError::from_string(format!("{answer:?} answers another request")).into()
}

fn malformed(reason: String) -> Failure {
    NetworkError::from_string(reason).into()
}

fn streaming_error(failure: &Failure) -> StreamingError<TypeConfig> {
    // openraft waits before it tries again.
    StreamingError::Unreachable(Unreachable::from_string(failure))
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Connection {
        let (group, transport, snapshots) = (self.group, self.transport.clone(), self.snapshots.clone());
        Connection { target: NodeId(target), group, transport, snapshots, told: self.told.clone() }
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Failure> {
        self.told.note(rpc.leader_commit.as_ref());
        let is_heartbeat = rpc.entries.is_empty();
        let least = if is_heartbeat { Duration::ZERO } else { APPEND_TIMEOUT };
        let message = request::Message::Append(convert::append(rpc));
        match self.call(message, option.soft_ttl().max(least)).await? {
            answer::Message::Append(answer) => convert::read_append_answer(answer).map_err(malformed),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failure> {
        match self.call(request::Message::Vote(convert::ballot(&rpc)), option.soft_ttl()).await? {
            answer::Message::Vote(answer) => convert::read_ballot_answer(answer).map_err(malformed),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failure> {
        match self.call(request::Message::PreVote(convert::ballot(&rpc)), option.soft_ttl()).await? {
            answer::Message::PreVote(answer) => convert::read_ballot_answer(answer).map_err(malformed),
            other => Err(unexpected(&other)),
        }
    }

    /// The snapshot in the log is only a promise of the owner that it needs nothing before a position. What is sent is
    /// the owner's state as it is now, with its own place in the log.
    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (group, target) = (self.group, self.target);
        let given = self.snapshots.give().await.map_err(|reason| {
            tracing::warn!(%group, %target, reason, "a member needs a snapshot, and there is none");
            StreamingError::Unreachable(Unreachable::from_string(reason))
        })?;
        let position = given.proposal;
        tracing::info!(%group, %target, position, "sending a snapshot");
        let message = request::Message::Snapshot(convert::snapshot(&vote, given));
        let sending = self.call(message, SNAPSHOT_TIMEOUT);
        let answered = tokio::select! {
            answered = sending => answered,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match answered.map_err(|failure| streaming_error(&failure))? {
            answer::Message::Snapshot(answer) => {
                let vote = convert::read_snapshot_answer(answer);
                let malformed = |reason| StreamingError::Network(NetworkError::from_string(reason));
                Ok(SnapshotResponse { vote: vote.map_err(malformed)? })
            }
            other => Err(streaming_error(&unexpected(&other))),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failure> {
        match self.call(request::Message::Transfer(convert::transfer(&rpc)), option.soft_ttl()).await? {
            answer::Message::Transfer(answer) if answer.refused.is_empty() => Ok(Ok(())),
            answer::Message::Transfer(answer) => Err(NetworkError::from_string(answer.refused).into()),
            other => Err(unexpected(&other)),
        }
    }
}

/// The transport of a node without peers.
pub(crate) struct Alone;

#[async_trait]
impl Transport for Alone {
    async fn call(
        &self,
        to: NodeId,
        _group: u64,
        _request: request::Message,
        _timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        Err(TransportError::Unreachable { to, reason: "this node was started without peers".to_owned() })
    }
}
