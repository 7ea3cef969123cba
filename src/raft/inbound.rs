//! Requests of peers: to the group that they are for, and its answer back.
//!
//! Knows the running groups. Does not know who asks: openraft checks votes and logs.
//! V1: a node that forgot a group and is its member again votes as if it still had what it had: what others took for
//! committed because this node had it stays so. See also [`Group::may_stand`].

use async_trait::async_trait;
use openraft::storage::Snapshot;
use quorate_model::{NodeId, Position};
use quorate_wire::Handler;
use quorate_wire::raft::{Told, answer, request};

use crate::convert::{self, Arrived};
use crate::segment_log::GroupId;
use crate::snapshot::SnapshotData;
use crate::types::RaftVote;
use crate::{Group, RaftNode};

#[async_trait]
impl Handler for RaftNode {
    async fn handle(&self, group: u64, request: request::Message) -> Result<answer::Message, String> {
        let request = match request {
            request::Message::Sign(sign) => return Ok(answer::Message::Signed(self.answer_sign(sign))),
            request::Message::Confirm(confirm) => {
                return self.answer_confirm(&confirm).map(answer::Message::Confirmed);
            }
            of_a_group => of_a_group,
        };
        let id = GroupId(group);
        let running = self.running(id).ok_or_else(|| format!("group {id} does not run here"))?;
        running.handle(request).await
    }
}

impl Group {
    /// Whatever comes wakes the group, once openraft has it: its timer must not run out before.
    async fn handle(&self, request: request::Message) -> Result<answer::Message, String> {
        if let request::Message::Vote(ballot) | request::Message::PreVote(ballot) = &request
            && convert::ballot_last(ballot) < self.log().floor()
        {
            return Err(
                "the candidate lacks entries that this node had before it forgot the group".to_owned()
            );
        }
        let led_by = match &request {
            request::Message::Append(it) if it.entries.is_empty() => Some(convert::read_vote(it.vote)?),
            request::Message::Vote(ballot) | request::Message::PreVote(ballot)
                if !ballot.is_transfer && self.puts_off() =>
            {
                return Err("the group sleeps under a leader whose node lives".to_owned());
            }
            _ => None,
        };
        let handled = self.let_raft_handle(request).await;
        match led_by {
            Some(vote) => self.is_led(&vote),
            None => self.stir(),
        }
        handled
    }

    async fn let_raft_handle(&self, request: request::Message) -> Result<answer::Message, String> {
        let raft = self.raft();
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        match request {
            request::Message::Append(message) => {
                let answered = raft.append_entries(convert::read_append(message)?).await;
                let answer = answered.map_err(|e| failed(&e))?;
                Ok(answer::Message::Append(convert::append_answer(answer)))
            }
            request::Message::Vote(message) => {
                let answer = raft.vote(convert::read_ballot(message)?).await.map_err(|e| failed(&e))?;
                Ok(answer::Message::Vote(convert::ballot_answer(&answer)))
            }
            request::Message::PreVote(message) => {
                let answer = raft.pre_vote(convert::read_ballot(message)?).await.map_err(|e| failed(&e))?;
                Ok(answer::Message::PreVote(convert::ballot_answer(&answer)))
            }
            request::Message::Snapshot(message) => {
                let answer = self.take_snapshot(convert::read_snapshot(message)?).await?;
                Ok(answer::Message::Snapshot(convert::snapshot_answer(&answer)))
            }
            request::Message::Ask(message) => {
                let owner = self.snapshots().owner().ok_or("the group has no owner yet")?;
                let answer = owner.tell(message.question).await?;
                Ok(answer::Message::Told(Told { answer }))
            }
            request::Message::Transfer(message) => {
                let answered = raft.handle_transfer_leader(convert::read_transfer(message)?).await;
                let answer = answered.map_err(|e| failed(&e))?;
                Ok(answer::Message::Transfer(convert::transfer_answer(answer)))
            }
            request::Message::Sign(_) | request::Message::Confirm(_) => {
                Err("this is for a node, not for a group".to_owned())
            }
        }
    }

    /// Fetches the state first, while entries and votes go on, and only then has openraft put it in place: that may
    /// still find it old, or its leader deposed.
    async fn take_snapshot(&self, arrived: Arrived) -> Result<RaftVote, String> {
        let Arrived { vote, meta, proposal, state } = arrived;
        let owner = self.snapshots().owner().ok_or("the group has no owner yet")?;
        let state =
            owner.fetch(self.giver(NodeId(vote.leader_id.node_id)), Position(proposal), state).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Fetched { proposal, state } };
        let installed = self.raft().install_full_snapshot(vote, snapshot).await;
        installed.map(|response| response.vote).map_err(|error| error.to_string())
    }
}
