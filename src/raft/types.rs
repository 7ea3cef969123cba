//! openraft's types as we use them, and their form in the segment log.
//!
//! The stored form is ours, so that a change inside openraft, whose next versions may store their own types otherwise,
//! is a change of code only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::AsyncRuntime;
use openraft::impls::EmptyNode;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::vote::RaftLeaderIdExt;
use rand::RngExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::segment_log::{Entry, EntryKind, LogId, Snapshot, Vote};

/// A proposal on its way into the log. It holds its share of the node's pending bytes until it is durable.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.payload.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = EmptyNode,
        AsyncRuntime = Runtime,
);

/// What runs openraft's tasks; in a simulation its random numbers come from the seed.
#[cfg(not(feature = "simulation"))]
type Runtime = openraft::impls::TokioRuntime;
#[cfg(feature = "simulation")]
type Runtime = crate::simulation::Runtime;

/// A random time of a range; in a simulation it follows from the seed, as openraft's own do.
pub(crate) fn random_time(range: Range<Duration>) -> Duration {
    Runtime::thread_rng().random_range(range)
}

pub(crate) type RaftLogId = LogIdOf<TypeConfig>;
pub(crate) type RaftVote = VoteOf<TypeConfig>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type RaftPayload = openraft::EntryPayload<Proposal, u64, EmptyNode>;
pub(crate) type RaftMembership = openraft::Membership<u64, EmptyNode>;
pub(crate) type RaftStoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type RaftSnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type RaftLeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;

pub(crate) fn to_log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn from_log_id(id: LogId) -> RaftLogId {
    RaftLogId::new(RaftLeaderId::new_committed(id.term, id.node), id.index)
}

pub(crate) fn to_vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn from_vote(vote: Vote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term, vote.node)
    } else {
        RaftVote::new(vote.term, vote.node)
    }
}

/// The stored entry, and what the proposal held until now.
pub(crate) fn to_entry(entry: RaftEntry) -> (Entry, Option<Arc<OwnedSemaphorePermit>>) {
    let id = to_log_id(&entry.log_id);
    let (kind, payload, permit) = match entry.payload {
        RaftPayload::Blank => (EntryKind::Blank, Bytes::new(), None),
        RaftPayload::Normal(proposal) => (EntryKind::Normal, proposal.payload, proposal.permit),
        RaftPayload::Membership(membership) => (EntryKind::Membership, encode_membership(&membership), None),
    };
    (Entry { id, kind, payload }, permit)
}

pub(crate) fn from_entry(entry: Entry) -> io::Result<RaftEntry> {
    let payload = match entry.kind {
        EntryKind::Blank => RaftPayload::Blank,
        EntryKind::Normal => RaftPayload::Normal(Proposal { payload: entry.payload, permit: None }),
        EntryKind::Membership => RaftPayload::Membership(decode_membership(&entry.payload)?),
    };
    Ok(openraft::Entry { log_id: from_log_id(entry.id), payload })
}

pub(crate) fn to_snapshot(meta: &RaftSnapshotMeta) -> Snapshot {
    Snapshot {
        last: meta.last_log_id.as_ref().map(to_log_id),
        membership_id: meta.last_membership.log_id().as_ref().map(to_log_id),
        membership: encode_membership(meta.last_membership.membership()),
    }
}

pub(crate) fn from_snapshot(snapshot: &Snapshot) -> io::Result<RaftSnapshotMeta> {
    let membership = decode_membership(&snapshot.membership)?;
    Ok(RaftSnapshotMeta {
        last_log_id: snapshot.last.map(from_log_id),
        last_membership: RaftStoredMembership::new(snapshot.membership_id.map(from_log_id), membership),
    })
}

/// A membership: number of configurations u32, for each the number of voters u32 and their ids u64; then the
/// number of members u32 and their ids u64.
pub(crate) fn encode_membership(membership: &RaftMembership) -> Bytes {
    let configs = membership.get_joint_config();
    let mut out = Vec::with_capacity(64);
    put_count(&mut out, configs.len());
    for config in configs {
        put_ids(&mut out, config.iter().copied());
    }
    put_ids(&mut out, membership.nodes().map(|(id, _)| *id));
    out.into()
}

pub(crate) fn decode_membership(mut bytes: &[u8]) -> io::Result<RaftMembership> {
    let rest = &mut bytes;
    let count = take_u32(rest)?;
    let mut configs: Vec<BTreeSet<u64>> = Vec::new();
    for _ in 0..count {
        configs.push(take_ids(rest)?);
    }
    let nodes: BTreeMap<u64, EmptyNode> = take_ids(rest)?.into_iter().map(|id| (id, EmptyNode {})).collect();
    if !rest.is_empty() {
        return Err(bad_membership());
    }
    RaftMembership::new(configs, nodes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a group has a handful of members");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_ids(out: &mut Vec<u8>, ids: impl Iterator<Item = u64>) {
    let ids: Vec<u64> = ids.collect();
    put_count(out, ids.len());
    ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

fn take_ids(rest: &mut &[u8]) -> io::Result<BTreeSet<u64>> {
    let count = take_u32(rest)?;
    (0..count).map(|_| Ok(u64::from_le_bytes(take(rest)?))).collect()
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    Ok(u32::from_le_bytes(take(rest)?))
}

fn take<const N: usize>(rest: &mut &[u8]) -> io::Result<[u8; N]> {
    let (taken, after) = rest.split_first_chunk().ok_or_else(bad_membership)?;
    *rest = after;
    Ok(*taken)
}

fn bad_membership() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a stored membership has the wrong length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_have_the_bytes_of_their_format() {
        let joint = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let bytes = encode_membership(&RaftMembership::new_with_defaults(joint, [3]));
        let ids = |ids: &[u64]| {
            let count = (ids.len() as u32).to_le_bytes().to_vec();
            ids.iter().fold(count, |all, id| [all, id.to_le_bytes().to_vec()].concat())
        };
        let expected = [2u32.to_le_bytes().to_vec(), ids(&[1]), ids(&[1, 2]), ids(&[1, 2, 3])].concat();
        assert_eq!(&bytes[..], expected);
    }

    #[test]
    fn memberships_read_back_and_wrong_lengths_are_refused() {
        let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        let membership = RaftMembership::new_with_defaults(joint, [9]);
        let bytes = encode_membership(&membership);
        assert_eq!(decode_membership(&bytes).unwrap(), membership);
        assert_eq!(
            decode_membership(&encode_membership(&RaftMembership::default())).unwrap(),
            Default::default()
        );
        for cut in 0..bytes.len() {
            assert!(decode_membership(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode_membership(&[&bytes[..], &[0]].concat()).is_err());
    }
}
