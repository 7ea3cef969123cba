//! openraft's messages as they go between nodes. The page of the form is `proto/raft.proto`.
//!
//! A message that lacks a part is refused with the name of the part; nothing is guessed.

use crate::segment_log::{Entry, EntryKind, GroupId, LogId, Vote};
use crate::sleep::Rest;
use crate::snapshot::Given;
use crate::types::{
    RaftEntry, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, RaftVote, TypeConfig, decode_membership,
    encode_membership, from_entry, from_log_id, from_vote, to_entry, to_log_id, to_vote,
};
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use quorate_wire::raft as wire;
use quorate_wire::raft::append_answer::{Done, LogIdOption, Outcome};
use quorate_wire::raft::entry::Kind;

/// What is missing or wrong in a message.
pub(crate) type Malformed = String;

fn missing(part: &str) -> Malformed {
    format!("a message without {part}")
}

fn log_id(id: &RaftLogId) -> wire::LogId {
    let LogId { term, node, index } = to_log_id(id);
    wire::LogId { term, node, index }
}

fn read_log_id(id: &wire::LogId) -> RaftLogId {
    from_log_id(LogId { term: id.term, node: id.node, index: id.index })
}

fn vote(vote: &RaftVote) -> wire::Vote {
    let Vote { term, node, committed } = to_vote(vote);
    wire::Vote { term, node, committed }
}

pub(crate) fn read_vote(vote: Option<wire::Vote>) -> Result<RaftVote, Malformed> {
    let wire::Vote { term, node, committed } = vote.ok_or_else(|| missing("a vote"))?;
    Ok(from_vote(Vote { term, node, committed }))
}

fn entry(entry: RaftEntry) -> wire::Entry {
    let (Entry { id, kind, payload }, _) = to_entry(entry);
    let kind = match kind {
        EntryKind::Blank => Kind::Blank,
        EntryKind::Normal => Kind::Normal,
        EntryKind::Membership => Kind::Membership,
    };
    let log_id = Some(wire::LogId { term: id.term, node: id.node, index: id.index });
    wire::Entry { log_id, kind: kind.into(), payload }
}

fn read_entry(entry: wire::Entry) -> Result<RaftEntry, Malformed> {
    let kind =
        match Kind::try_from(entry.kind).map_err(|_| format!("an entry of unknown kind {}", entry.kind))? {
            Kind::Blank => EntryKind::Blank,
            Kind::Normal => EntryKind::Normal,
            Kind::Membership => EntryKind::Membership,
        };
    let wire::LogId { term, node, index } = entry.log_id.ok_or_else(|| missing("the id of an entry"))?;
    let entry = Entry { id: LogId { term, node, index }, kind, payload: entry.payload };
    from_entry(entry).map_err(|error| error.to_string())
}

pub(crate) fn append(rpc: AppendEntriesRequest<TypeConfig>) -> wire::Append {
    wire::Append {
        vote: Some(vote(&rpc.vote)),
        previous: rpc.prev_log_id.as_ref().map(log_id),
        entries: rpc.entries.into_iter().map(entry).collect(),
        committed: rpc.leader_commit.as_ref().map(log_id),
    }
}

pub(crate) fn read_append(message: wire::Append) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: read_vote(message.vote)?,
        prev_log_id: message.previous.as_ref().map(read_log_id),
        entries: message.entries.into_iter().map(read_entry).collect::<Result<_, _>>()?,
        leader_commit: message.committed.as_ref().map(read_log_id),
    })
}

pub(crate) fn append_answer(answer: AppendEntriesResponse<TypeConfig>) -> wire::AppendAnswer {
    let outcome = match answer {
        AppendEntriesResponse::Success => Outcome::Done(Done {}),
        AppendEntriesResponse::PartialSuccess(up_to) => {
            Outcome::UpTo(LogIdOption { log_id: up_to.as_ref().map(log_id) })
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(Done {}),
        AppendEntriesResponse::HigherVote(higher) => Outcome::HigherVote(vote(&higher)),
    };
    wire::AppendAnswer { outcome: Some(outcome) }
}

pub(crate) fn read_append_answer(
    answer: wire::AppendAnswer,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    Ok(match answer.outcome.ok_or_else(|| missing("an outcome"))? {
        Outcome::Done(_) => AppendEntriesResponse::Success,
        Outcome::UpTo(up_to) => AppendEntriesResponse::PartialSuccess(up_to.log_id.as_ref().map(read_log_id)),
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(higher) => AppendEntriesResponse::HigherVote(read_vote(Some(higher))?),
    })
}

pub(crate) fn snapshot(leader: &RaftVote, given: Given) -> wire::Snapshot {
    let Given { meta, proposal, state } = given;
    wire::Snapshot {
        vote: Some(vote(leader)),
        last: meta.last_log_id.as_ref().map(log_id),
        proposal,
        membership_id: meta.last_membership.log_id().as_ref().map(log_id),
        membership: encode_membership(meta.last_membership.membership()),
        state,
    }
}

/// A snapshot as it arrives.
pub(crate) struct Arrived {
    pub(crate) vote: RaftVote,
    pub(crate) meta: RaftSnapshotMeta,
    pub(crate) proposal: u64,
    pub(crate) state: Bytes,
}

pub(crate) fn read_snapshot(message: wire::Snapshot) -> Result<Arrived, Malformed> {
    let last =
        message.last.as_ref().map(read_log_id).ok_or_else(|| missing("the last entry of a snapshot"))?;
    if message.proposal > last.index {
        return Err(format!("a snapshot up to {} with proposal {}", last.index, message.proposal));
    }
    let membership = decode_membership(&message.membership).map_err(|error| error.to_string())?;
    let membership_id = message.membership_id.as_ref().map(read_log_id);
    Ok(Arrived {
        vote: read_vote(message.vote)?,
        meta: RaftSnapshotMeta {
            last_log_id: Some(last),
            last_membership: RaftStoredMembership::new(membership_id, membership),
        },
        proposal: message.proposal,
        state: message.state,
    })
}

pub(crate) fn snapshot_answer(higher_or_same: &RaftVote) -> wire::SnapshotAnswer {
    wire::SnapshotAnswer { vote: Some(vote(higher_or_same)) }
}

pub(crate) fn read_snapshot_answer(answer: wire::SnapshotAnswer) -> Result<RaftVote, Malformed> {
    read_vote(answer.vote)
}

pub(crate) fn ballot(rpc: &VoteRequest<TypeConfig>) -> wire::Ballot {
    wire::Ballot {
        vote: Some(vote(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(log_id),
        is_transfer: rpc.leadership_transfer,
    }
}

/// The last entry of the one who stands.
pub(crate) fn ballot_last(message: &wire::Ballot) -> Option<LogId> {
    message.last.map(|id| LogId { term: id.term, node: id.node, index: id.index })
}

pub(crate) fn read_ballot(message: wire::Ballot) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut rpc = VoteRequest::new(read_vote(message.vote)?, message.last.as_ref().map(read_log_id));
    rpc.leadership_transfer = message.is_transfer;
    Ok(rpc)
}

pub(crate) fn ballot_answer(answer: &VoteResponse<TypeConfig>) -> wire::BallotAnswer {
    wire::BallotAnswer {
        vote: Some(vote(&answer.vote)),
        last: answer.last_log_id.as_ref().map(log_id),
        granted: answer.vote_granted,
    }
}

pub(crate) fn read_ballot_answer(answer: wire::BallotAnswer) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse::new(read_vote(answer.vote)?, answer.last.as_ref().map(read_log_id), answer.granted))
}

pub(crate) fn rest(group: GroupId, rest: &Rest) -> wire::Rest {
    let LogId { term, node, index } = rest.last;
    let Vote { term: vote_term, node: voter, committed } = rest.vote;
    wire::Rest {
        group: group.0,
        vote: Some(wire::Vote { term: vote_term, node: voter, committed }),
        last: Some(wire::LogId { term, node, index }),
    }
}

/// `None` if a part is missing: such a group does not sleep.
pub(crate) fn read_rest(message: &wire::Rest) -> Option<Rest> {
    let wire::Vote { term, node, committed } = message.vote?;
    let last = message.last?;
    let vote = Vote { term, node, committed };
    Some(Rest { vote, last: LogId { term: last.term, node: last.node, index: last.index } })
}

pub(crate) fn led(group: GroupId, vote: Vote) -> wire::Led {
    let Vote { term, node, committed } = vote;
    wire::Led { group: group.0, vote: Some(wire::Vote { term, node, committed }) }
}

/// `None` if a part is missing: such a group is not confirmed.
pub(crate) fn read_led(message: &wire::Led) -> Option<(GroupId, Vote)> {
    let wire::Vote { term, node, committed } = message.vote?;
    Some((GroupId(message.group), Vote { term, node, committed }))
}

pub(crate) fn transfer(rpc: &TransferLeaderRequest<TypeConfig>) -> wire::Transfer {
    wire::Transfer {
        from: Some(vote(rpc.from_leader())),
        to: *rpc.to_node_id(),
        last: rpc.last_log_id().map(log_id),
    }
}

pub(crate) fn read_transfer(message: wire::Transfer) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let last = message.last.as_ref().map(read_log_id);
    Ok(TransferLeaderRequest::new(read_vote(message.from)?, message.to, last))
}

pub(crate) fn transfer_answer(answer: TransferLeaderResponse<TypeConfig>) -> wire::TransferAnswer {
    wire::TransferAnswer { refused: answer.err().map(|error| error.to_string()).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Proposal, RaftPayload};

    fn some_vote() -> RaftVote {
        from_vote(Vote { term: 7, node: 2, committed: true })
    }

    fn id(index: u64) -> RaftLogId {
        from_log_id(LogId { term: 6, node: 3, index })
    }

    #[test]
    fn appends_and_their_answers_arrive_as_they_were_sent() {
        let payloads = [
            RaftPayload::Blank,
            RaftPayload::Normal(Proposal { payload: vec![1, 2, 3].into(), permit: None }),
            RaftPayload::Membership(openraft::Membership::new_with_defaults(vec![[1, 2].into()], [3])),
        ];
        let entries =
            payloads.into_iter().zip(5..).map(|(payload, at)| openraft::Entry { log_id: id(at), payload });
        let sent = AppendEntriesRequest {
            vote: some_vote(),
            prev_log_id: Some(id(4)),
            entries: entries.collect(),
            leader_commit: None,
        };
        let received = read_append(append(sent.clone())).unwrap();
        assert_eq!(format!("{received:?}"), format!("{sent:?}"));
        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(None),
            AppendEntriesResponse::PartialSuccess(Some(id(9))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(some_vote()),
        ] {
            assert_eq!(read_append_answer(append_answer(answer.clone())), Ok(answer));
        }
    }

    #[test]
    fn ballots_and_transfers_arrive_as_they_were_sent() {
        let mut sent = VoteRequest::new(some_vote(), Some(id(4)));
        sent.leadership_transfer = true;
        assert_eq!(read_ballot(ballot(&sent)), Ok(sent));
        let answer = VoteResponse::new(some_vote(), None, true);
        assert_eq!(read_ballot_answer(ballot_answer(&answer)), Ok(answer));
        let sent = TransferLeaderRequest::new(some_vote(), 5, Some(id(4)));
        assert_eq!(read_transfer(transfer(&sent)), Ok(sent));
    }

    #[test]
    fn rests_arrive_as_they_were_sent_and_whole() {
        let sent = Rest {
            vote: Vote { term: 7, node: 2, committed: true },
            last: LogId { term: 6, node: 3, index: 9 },
        };
        let message = rest(GroupId(4), &sent);
        assert_eq!((message.group, read_rest(&message)), (4, Some(sent)));
        assert_eq!(read_rest(&wire::Rest { vote: None, ..message }), None);
        assert_eq!(read_rest(&wire::Rest { last: None, ..message }), None);
    }

    #[test]
    fn groups_that_are_led_arrive_as_they_were_sent_and_whole() {
        let vote = Vote { term: 7, node: 2, committed: true };
        let message = led(GroupId(4), vote);
        assert_eq!(read_led(&message), Some((GroupId(4), vote)));
        assert_eq!(read_led(&wire::Led { vote: None, ..message }), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(read_append(wire::Append::default()).unwrap_err().contains("a vote"));
        assert!(read_append_answer(wire::AppendAnswer::default()).unwrap_err().contains("outcome"));
        let message = append(AppendEntriesRequest {
            vote: some_vote(),
            prev_log_id: None,
            entries: vec![openraft::Entry { log_id: id(1), payload: RaftPayload::Blank }],
            leader_commit: None,
        });
        let mut unknown = message.clone();
        unknown.entries[0].kind = 9;
        assert!(read_append(unknown).unwrap_err().contains("kind 9"));
        let mut nameless = message;
        nameless.entries[0].log_id = None;
        assert!(read_append(nameless).unwrap_err().contains("id of an entry"));
    }
}
