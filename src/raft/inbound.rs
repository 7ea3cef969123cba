//! Requests of peers: to the group that they are for, and its answer back.
//!
//! Knows the running groups. Does not know who asks: openraft checks votes and logs.

use async_trait::async_trait;
use quorate_wire::Handler;
use quorate_wire::raft::{answer, request};

use crate::convert;
use crate::segment_log::GroupId;
use crate::{Group, RaftNode};

#[async_trait]
impl Handler for RaftNode {
    async fn handle(&self, group: u64, request: request::Message) -> Result<answer::Message, String> {
        let id = GroupId(group);
        let running = self.running(id).ok_or_else(|| format!("group {id} does not run here"))?;
        running.handle(request).await
    }
}

impl Group {
    async fn handle(&self, request: request::Message) -> Result<answer::Message, String> {
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
            request::Message::Transfer(message) => {
                let answered = raft.handle_transfer_leader(convert::read_transfer(message)?).await;
                let answer = answered.map_err(|e| failed(&e))?;
                Ok(answer::Message::Transfer(convert::transfer_answer(answer)))
            }
        }
    }
}
