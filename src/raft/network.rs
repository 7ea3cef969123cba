//! The network between the members of a group: there is none yet, and every call says so.
//!
//! Groups have one voter. [`crate::group`] refuses a group with other members before openraft could call them;
//! this is the second line of defence.

use std::future::Future;

use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;

use crate::types::{RaftVote, TypeConfig};

/// Makes connections that refuse every call.
pub(crate) struct NoNetwork;

/// A connection to a member that cannot be reached.
pub(crate) struct NoConnection {
    target: u64,
}

impl NoConnection {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        let target = self.target;
        Unreachable::from_string(format!("no way to node {target}: this version runs groups of one voter"))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoNetwork {
    type Network = NoConnection;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> NoConnection {
        NoConnection { target }
    }
}

impl RaftNetworkV2<TypeConfig> for NoConnection {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: SnapshotOf<TypeConfig, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
