//! Proposals and fresh reads, at the leader wherever it is.
//!
//! Every command may be proposed twice without harm, so a proposal whose answer got lost is made again until its time is
//! over. Path: the calls of `MetaHandle` -> **here** -> the group, here or by way of the leader's node.

use super::command::{Command, Response};
use super::{MetaError, MetaHandle, stopped};
use ::bytes::Bytes;
use quorate_model::{NodeId, Position};
use quorate_raft::RaftError;
use quorate_wire::meta::{Proposal, ProposalAnswer, proposal_answer};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time for a proposal, all attempts together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for the answer to one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of an attempt.
enum Attempt {
    /// Committed at this position, with the response in bytes; without one it was a read.
    Done(Position, Bytes),
    /// It may be made again.
    Again(String),
}

impl MetaHandle {
    /// Proposes a command and returns what it led to, once this node has applied it as well.
    pub(super) async fn propose(&self, command: Command) -> Result<Response, MetaError> {
        if self.read(|state| state.allows(&command)).is_err() {
            // What this node knows may be old.
            self.fresh().await?;
            self.read(|state| state.allows(&command))?;
        }
        let (position, response) = self.at_leader(command.encode().into()).await?;
        self.reached(position).await?;
        Response::decode(&response)
            .map_err(|detail| MetaError::Damaged { place: "response".to_owned(), detail })
    }

    /// Waits until this node has applied all that was committed when this was called.
    ///
    /// # Errors
    /// [`MetaError::NoLeader`] when no leader could confirm how far that is.
    pub async fn fresh(&self) -> Result<(), MetaError> {
        let (position, _) = self.at_leader(Bytes::new()).await?;
        self.reached(position).await
    }

    async fn at_leader(&self, command: Bytes) -> Result<(Position, Bytes), MetaError> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let reason = match self.attempt(command.clone(), until).await? {
                Attempt::Done(position, response) => return Ok((position, response)),
                Attempt::Again(reason) => reason,
            };
            if Instant::now() + PAUSE >= until {
                return Err(MetaError::NoLeader { reason });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&self, command: Bytes, until: Instant) -> Result<Attempt, MetaError> {
        let left = until.saturating_duration_since(Instant::now()).min(ATTEMPT_TIMEOUT);
        let proposed = tokio::time::timeout(left, self.propose_here(command.clone())).await;
        let Ok(here) = proposed else {
            // A leader that has lost its majority would wait for ever.
            return Ok(Attempt::Again(format!("this node leads and nothing is committed within {left:?}")));
        };
        let leader = match (here, &self.0.calls) {
            (Ok((position, response)), _) => return Ok(Attempt::Done(position, response)),
            (Err(MetaError::Raft(RaftError::NotLeader { leader: Some(leader), .. })), Some(calls)) => {
                let called = calls.propose(leader, Proposal { command }, left).await;
                return match called {
                    Ok(answer) => read_answer(leader, answer),
                    Err(error) => Ok(Attempt::Again(error.to_string())),
                };
            }
            (
                Err(MetaError::Raft(
                    error @ (RaftError::NotLeader { .. }
                    | RaftError::NoMajority { .. }
                    | RaftError::Unknown { .. }),
                )),
                Some(_),
            ) => error.to_string(),
            (Err(error), _) => return Err(error),
        };
        Ok(Attempt::Again(leader))
    }

    /// Proposes a command if this node leads; an empty one asks for the newest committed position.
    async fn propose_here(&self, command: Bytes) -> Result<(Position, Bytes), MetaError> {
        if command.is_empty() {
            return Ok((self.0.group.read_index().await?, Bytes::new()));
        }
        let position = self.0.group.propose(command).await?;
        self.reached(position).await?;
        let recent = self.0.recent.lock();
        let response = recent.iter().rev().find(|(at, _)| *at == position);
        let response = response.map(|(_, response)| response.encode().into());
        Ok((position, response.ok_or_else(|| stopped("its response is gone"))?))
    }

    /// Answers a proposal of another node.
    ///
    /// # Errors
    /// The reason, if the command cannot be read.
    pub async fn propose_for_peer(&self, proposal: Proposal) -> Result<ProposalAnswer, String> {
        if !proposal.command.is_empty() {
            // A command that cannot be read would stop nodes.
            let command = Command::decode(&proposal.command)?;
            match self.read(|state| state.allows(&command)) {
                Ok(()) => {}
                // For good: it is told like any other refusal, once who proposes it knows as much as this node.
                Err(error @ MetaError::Outdated { .. }) => return Ok(self.refuse(&error)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let outcome = match self.propose_here(proposal.command).await {
            Ok((position, response)) => {
                proposal_answer::Outcome::Done(proposal_answer::Done { position: position.0, response })
            }
            Err(MetaError::Raft(RaftError::NotLeader { leader, .. })) => {
                let leader = leader.map_or(0, |leader| leader.0);
                proposal_answer::Outcome::NotLeader(proposal_answer::NotLeader { leader })
            }
            // Committed perhaps, and not applied here in time.
            Err(
                error @ (MetaError::Raft(RaftError::Unknown { .. })
                | MetaError::NoLeader { .. }
                | MetaError::Stopped { .. }),
            ) => proposal_answer::Outcome::Unknown(error.to_string()),
            Err(error) => proposal_answer::Outcome::Failed(error.to_string()),
        };
        Ok(ProposalAnswer { outcome: Some(outcome) })
    }

    /// The answer to a command that is not proposed, as of what is applied here.
    fn refuse(&self, error: &MetaError) -> ProposalAnswer {
        let position = self.0.applied.borrow().0;
        let response = Response::Refused(error.to_string()).encode().into();
        let done = proposal_answer::Done { position, response };
        ProposalAnswer { outcome: Some(proposal_answer::Outcome::Done(done)) }
    }

    async fn reached(&self, position: Position) -> Result<(), MetaError> {
        let mut applied = self.0.applied.clone();
        let waiting = applied.wait_for(|now| *now >= position);
        let reached = tokio::time::timeout(TIMEOUT, waiting).await;
        let late = |_| MetaError::NoLeader { reason: format!("position {position} does not arrive here") };
        reached.map_err(late)?.map(drop).map_err(|_closed| stopped(&self.why_stopped()))
    }
}

fn read_answer(leader: NodeId, answer: ProposalAnswer) -> Result<Attempt, MetaError> {
    match answer.outcome {
        Some(proposal_answer::Outcome::Done(done)) => {
            Ok(Attempt::Done(Position(done.position), done.response))
        }
        Some(proposal_answer::Outcome::NotLeader(_)) => {
            Ok(Attempt::Again(format!("node {leader} does not lead the group")))
        }
        Some(proposal_answer::Outcome::Unknown(reason)) => Ok(Attempt::Again(reason)),
        Some(proposal_answer::Outcome::Failed(reason)) => Err(MetaError::NoLeader { reason }),
        None => Ok(Attempt::Again(format!("node {leader} gave an empty answer"))),
    }
}
