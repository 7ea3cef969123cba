//! Making this node the only member of its groups, while it does not run: the others are lost for ever.
//!
//! Knows the log and its memberships. Does not know what payloads mean, nor how anybody can be sure of the loss.
//! R1: no entry is taken out of a log, so what the node has is kept, be it known committed or not. R2: what is done
//! already is left as it is, so a recovery that was interrupted is done again from its beginning.
//! Path: `cluster::meta`, `server::recover` -> **here** -> `segment_log`.

use std::collections::BTreeSet;
use std::path::Path;

use quorate_model::{NodeId, Position};

use crate::group::Committed;
use crate::segment_log::{
    Entry, EntryKind, GroupId, GroupLog, LogId, Purge, SegmentLog, SegmentLogConfig, Snapshot, Vote,
};
use crate::types::{RaftMembership, decode_membership, encode_membership};
use crate::{RaftConfig, RaftError};

/// Terms that are left out: the lost members may have led in some that the survivor has not heard of, and what stands under a
/// term elsewhere, as the epoch of a mark in Kafka, has to stay below what comes. As many as elections in a day.
const LEFT_OUT: u64 = 1 << 16;

/// The log of a node that does not run.
pub struct Survivor {
    log: SegmentLog,
    node: NodeId,
}

/// What the node has of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The group.
    pub group: GroupId,
    /// Term of the last entry.
    pub term: u64,
    /// The last proposal; 0 if there was none.
    pub last: Position,
    /// The last proposal that the node knows to be committed. More may be, up to the last and beyond.
    pub committed: Position,
    /// The members that the node knows, voters and others.
    pub members: BTreeSet<NodeId>,
}

impl Survivor {
    /// Opens the log in `dir`, which belongs to `node`.
    ///
    /// # Errors
    /// [`RaftError::Log`] when it is damaged, of another node, or in use.
    pub fn open(dir: &Path, node: NodeId, config: &RaftConfig) -> Result<Self, RaftError> {
        let settings = SegmentLogConfig {
            segment_bytes: config.segment_bytes,
            cache_bytes: config.cache_bytes,
            ..SegmentLogConfig::new(node.0)
        };
        Ok(Self { log: SegmentLog::open(dir, settings)?, node })
    }

    /// What the node has, by group. Groups that were never begun are left out.
    ///
    /// # Errors
    /// [`RaftError::Log`] when a membership cannot be read.
    pub fn held(&self) -> Result<Vec<Held>, RaftError> {
        let mut all = Vec::new();
        for group in self.log.groups() {
            let log = self.part(group)?;
            let state = log.state();
            let Some(last) = state.last else { continue };
            let committed = state.committed.map_or(0, |id| id.index);
            let membership = self.membership(&log)?;
            all.push(Held {
                group,
                term: last.term,
                last: Position(log.last_proposal(last.index)),
                committed: Position(log.last_proposal(committed)),
                members: membership.nodes().map(|(id, _)| NodeId(*id)).collect(),
            });
        }
        Ok(all)
    }

    /// The proposals of `group` after `after`, whether known committed or not.
    ///
    /// # Errors
    /// [`RaftError::Trimmed`] when the log begins later, [`RaftError::Log`] when it cannot be read.
    pub fn proposals(&self, group: GroupId, after: Position) -> Result<Vec<Committed>, RaftError> {
        let log = self.part(group)?;
        if log.state().purged.is_some_and(|purged| purged.proposal > after.0) {
            return Err(RaftError::Trimmed { group, after });
        }
        let entries = log.read(after.0.saturating_add(1), u64::MAX, usize::MAX)?;
        let proposals = entries.into_iter().filter(|entry| entry.kind == EntryKind::Normal);
        let proposal =
            |entry: Entry| Committed { position: Position(entry.id.index), payload: entry.payload };
        Ok(proposals.map(proposal).collect())
    }

    /// Makes this node the only member of `group`, by an entry behind all that it has.
    ///
    /// # Errors
    /// [`RaftError::Log`].
    pub fn claim(&self, group: GroupId) -> Result<(), RaftError> {
        let log = self.part(group)?;
        let state = log.state();
        let was_begun = state.last.is_some() || state.vote.is_some();
        // Below what it had before it forgot the group it would not lead; the entry is above all of that.
        if !was_begun || (self.is_alone(&log)? && !log.is_below_floor()) {
            return Ok(());
        }
        let vote = self.vote_above(&log)?;
        let index = state.last.map_or(0, |last| last.index + 1);
        let id = LogId { term: vote.term, node: self.node.0, index };
        let payload = encode_membership(&self.alone());
        Ok(log.append(vec![Entry { id, kind: EntryKind::Membership, payload }], Box::new(|| {}))?)
    }

    /// The same for a group whose owner has all of its state durable in an image of its own, which stands for every
    /// entry from now on: nobody is to apply them again.
    ///
    /// # Errors
    /// As [`Survivor::claim`].
    pub fn claim_from_image(&self, group: GroupId) -> Result<(), RaftError> {
        let log = self.part(group)?;
        let state = log.state();
        let Some(last) = state.last else { return Ok(()) };
        let is_whole = state.snapshot.is_some_and(|snapshot| snapshot.last == Some(last));
        if is_whole && self.is_alone(&log)? {
            return Ok(());
        }
        self.vote_above(&log)?;
        let membership = encode_membership(&self.alone());
        let snapshot = Snapshot { last: Some(last), membership_id: Some(last), membership };
        let purge = Purge { up_to: last, proposal: log.last_proposal(last.index) };
        Ok(log.save_snapshot_and_purge(snapshot, purge, Box::new(|| {}))?)
    }

    /// Makes all of it durable. Blocks.
    pub fn close(self) {
        self.log.close();
    }

    fn part(&self, group: GroupId) -> Result<GroupLog, RaftError> {
        // A group that is there keeps its incarnation; one that never was here begins with the first.
        Ok(self.log.group(group, 1)?)
    }

    /// The newest membership in the log.
    fn membership(&self, log: &GroupLog) -> Result<RaftMembership, RaftError> {
        let unreadable =
            |error: std::io::Error| RaftError::Start { group: log.id(), reason: error.to_string() };
        if let Some(id) = log.last_membership(u64::MAX - 1)
            && let Some(entry) = log.read(id.index, id.index + 1, usize::MAX)?.pop()
        {
            return decode_membership(&entry.payload).map_err(unreadable);
        }
        match log.state().snapshot {
            Some(snapshot) => decode_membership(&snapshot.membership).map_err(unreadable),
            None => Ok(RaftMembership::default()),
        }
    }

    fn is_alone(&self, log: &GroupLog) -> Result<bool, RaftError> {
        Ok(self.membership(log)? == self.alone())
    }

    fn alone(&self) -> RaftMembership {
        RaftMembership::new_with_defaults(vec![BTreeSet::from([self.node.0])], [])
    }

    /// Leads a term that is newer than any that the node knows, and than any that the others had: only that gives it entries of
    /// its own.
    fn vote_above(&self, log: &GroupLog) -> Result<Vote, RaftError> {
        let state = log.state();
        let known = state.vote.map(|vote| vote.term).max(state.last.map(|last| last.term)).unwrap_or(0);
        let vote = Vote { term: known + LEFT_OUT, node: self.node.0, committed: true };
        log.save_vote(vote, Box::new(|| {}))?;
        Ok(vote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Group, Members, RaftNode, SnapshotOwner};
    use async_trait::async_trait;
    use bytes::Bytes;
    use quorate_wire::memory::Switchboard;
    use std::sync::Arc;
    use tempfile::TempDir;

    const ENTRIES: GroupId = GroupId(3);
    const IMAGED: GroupId = GroupId(0);
    const SURVIVOR: NodeId = NodeId(2);

    async fn begin(board: &Switchboard, dirs: &[TempDir; 3]) -> Vec<RaftNode> {
        let mut nodes = Vec::new();
        for (id, dir) in (1..).map(NodeId).zip(dirs) {
            let (config, transport) = (RaftConfig::default(), board.transport(id));
            let node = RaftNode::start_with_peers(dir.path(), id, config, transport).await.unwrap();
            board.connect(id, Arc::new(node.clone()));
            nodes.push(node);
        }
        let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        for group in [ENTRIES, IMAGED] {
            for node in &nodes {
                node.member(group).await.unwrap().begin(&voters).await.unwrap();
            }
        }
        nodes
    }

    /// Proposes at whoever leads.
    async fn propose(nodes: &[RaftNode], group: GroupId, payload: &'static [u8]) {
        loop {
            for node in nodes {
                let group = node.member(group).await.unwrap();
                if group.propose(Bytes::from_static(payload)).await.is_ok() {
                    return;
                }
            }
        }
    }

    async fn read(group: &Group, count: usize) -> Vec<Bytes> {
        let (mut reader, mut read) = (group.reader(Position(0)), Vec::new());
        while read.len() < count {
            read.extend(reader.next().await.unwrap().into_iter().map(|committed| committed.payload));
        }
        read
    }

    struct Owner;

    #[async_trait]
    impl SnapshotOwner for Owner {
        async fn give(&self) -> Result<(Position, Bytes), String> {
            Err("nobody asks".to_owned())
        }

        async fn tell(&self, _question: Bytes) -> Result<Bytes, String> {
            Err("nobody asks".to_owned())
        }

        async fn fetch(
            &self,
            _giver: crate::Giver,
            _position: Position,
            _state: Bytes,
        ) -> Result<Box<dyn crate::Fetched>, String> {
            Err("nobody gives".to_owned())
        }
    }

    /// Claims both groups; `times` as after interruptions.
    fn recover(dir: &TempDir, times: usize) {
        for _ in 0..times {
            let survivor = Survivor::open(dir.path(), SURVIVOR, &RaftConfig::default()).unwrap();
            survivor.claim(ENTRIES).unwrap();
            survivor.claim_from_image(IMAGED).unwrap();
            survivor.close();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_survivor_leads_alone_with_all_that_it_had() {
        let (board, dirs) = (Switchboard::default(), [(); 3].map(|()| tempfile::tempdir().unwrap()));
        let nodes = begin(&board, &dirs).await;
        for group in [ENTRIES, IMAGED] {
            propose(&nodes, group, b"first").await;
            propose(&nodes, group, b"second").await;
        }
        // It has everything before the others are gone.
        for group in [ENTRIES, IMAGED] {
            assert_eq!(read(&nodes[1].member(group).await.unwrap(), 2).await, ["first", "second"]);
        }
        for node in nodes {
            node.shutdown().await;
        }

        let survivor = Survivor::open(dirs[1].path(), SURVIVOR, &RaftConfig::default()).unwrap();
        let held = survivor.held().unwrap();
        assert_eq!(held.iter().map(|held| held.group).collect::<Vec<_>>(), [IMAGED, ENTRIES]);
        for held in &held {
            assert_eq!(held.members, (1..=3).map(NodeId).collect());
            assert!(held.term > 0 && held.last >= held.committed && held.last.0 > 0, "{held:?}");
            let proposals = survivor.proposals(held.group, Position(0)).unwrap();
            assert_eq!(proposals.len(), 2);
            assert_eq!(proposals[1].position, held.last);
        }
        survivor.close();
        recover(&dirs[1], 2);
        let survivor = Survivor::open(dirs[1].path(), SURVIVOR, &RaftConfig::default()).unwrap();
        let terms: Vec<u64> = survivor.held().unwrap().iter().map(|held| held.term).collect();
        let above = terms[1] - held[1].term;
        assert!(
            (LEFT_OUT..2 * LEFT_OUT).contains(&above),
            "once, not each time, and above what others had: {above}"
        );
        assert!(matches!(survivor.proposals(IMAGED, Position(0)), Err(RaftError::Trimmed { .. })));
        survivor.close();

        let (config, transport) = (RaftConfig::default(), Switchboard::default().transport(SURVIVOR));
        let node = RaftNode::start_with_peers(dirs[1].path(), SURVIVOR, config, transport).await.unwrap();
        for group in [ENTRIES, IMAGED] {
            let group = node.member(group).await.unwrap();
            group.set_owner(Arc::new(Owner));
            while group.propose(Bytes::from_static(b"third")).await.is_err() {}
            let alone = Members { voters: BTreeSet::from([SURVIVOR]), learners: BTreeSet::new() };
            assert_eq!(group.members(), alone);
        }
        assert_eq!(read(&node.member(ENTRIES).await.unwrap(), 3).await, ["first", "second", "third"]);
        node.shutdown().await;
    }

    #[test]
    fn a_group_that_was_forgotten_is_claimed_above_all_that_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let survivor = Survivor::open(dir.path(), SURVIVOR, &RaftConfig::default()).unwrap();
        let entry = |index| {
            let id = LogId { term: 3, node: 1, index };
            Entry { id, kind: EntryKind::Membership, payload: encode_membership(&survivor.alone()) }
        };
        let log = survivor.part(ENTRIES).unwrap();
        let vote = Vote { term: 3, node: 1, committed: true };
        log.save_vote(vote, Box::new(|| {})).unwrap();
        log.append((0..9).map(entry).collect(), Box::new(|| {})).unwrap();
        log.forget(7, Box::new(|| {})).unwrap();
        let log = survivor.part(ENTRIES).unwrap();
        log.append(vec![entry(0)], Box::new(|| {})).unwrap();
        for _ in 0..2 {
            survivor.claim(ENTRIES).unwrap();
            let last = log.state().last.unwrap();
            assert_eq!((last.term, last.index, log.is_below_floor()), (3 + LEFT_OUT, 1, false));
        }
    }
}
