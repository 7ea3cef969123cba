//! Strong reads: a node asks each of its peers once whether it still leads, for all groups of a read.
//!
//! Knows the votes in the logs of groups, their voters, and what is committed. Does not know openraft's loop, which
//! nothing here wakes: a group that sleeps stays asleep, and no answer counts for its timer.
//! Path: `commitlog::raft_log` -> **here** -> `wire::Transport` -> **here** of each peer.
//!
//! A read begins. Of each group the leader notes V, the vote in its log, C, up to where it has applied or told anybody to
//! apply, and the newest proposal up to there. It asks the voters whether the votes in their logs are at most V. Once a
//! majority of each set of voters has said so, itself included if its own vote is V even then, the read has to see that
//! proposal, and that is enough. The log may be purged, replaced or forgotten meanwhile, so nothing else of it counts then.
//!
//! - K1: nobody had been elected with a vote above V when the read began. A vote is in the log of who grants it before
//!   the candidate hears of it, and stays there: over a restart, and when the group is forgotten. A disk that is lost
//!   takes the number of its node with it (I17). One of the majority that elected him would be in ours, and would not
//!   have said afterwards that its vote is at most V. Whoever is elected later acknowledges nothing before that.
//! - K2: what was acknowledged or read before stands at C or before it. What V committed was in C before a writer or a
//!   follower was told so. What lesser votes committed comes before the first entry of V, and the group is *settled* in V:
//!   a round of openraft's own has succeeded while V was the vote, and that waits until this entry is applied. Settled is
//!   known to this process only: a leader that was started again has to ask openraft first, and so has one whose vote
//!   has changed.
//! - K3: the sets of voters are the newest in the leader's log after the read began. Members change in steps of which each
//!   is committed before the next, and the majorities of one step meet those of the next. Who was elected above V had
//!   every step that was committed, and the leader could commit none after that, so both stand at the same step or at
//!   neighbours. Learners are never counted.
//!
//! What is not confirmed like this, because a peer is silent, of an older version or has a greater vote, openraft judges
//! by a round of its own ([`Group::confirm`]), which also wakes a group that got no majority. Each group goes its own way
//! from the moment at which it is decided: none waits for another one's majority.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{NodeId, Position};
use quorate_wire::raft::{Confirm, Confirmed, answer, request};

use crate::convert;
use crate::segment_log::{GroupId, Vote};
use crate::types::{RaftLogId, RaftStoredMembership, from_vote};
use crate::{Group, RaftError, RaftNode};

/// Groups in one question; of more, several are asked.
const MAX_ASKED: usize = 4_096;
/// A peer that is silent for so long is not waited for: openraft's round judges as well.
const TIMEOUT: Duration = Duration::from_millis(150);

/// Up to where this node, as leader, has told any member that the log is committed. openraft tells that before it
/// applies it here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<AtomicU64>);

impl Told {
    /// To be called before the message leaves.
    pub(crate) fn note(&self, committed: Option<&RaftLogId>) {
        if let Some(id) = committed {
            self.0.fetch_max(id.index, Ordering::SeqCst);
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// In which vote a group is settled (K2).
#[derive(Debug, Default)]
pub(crate) struct Settled(Mutex<Option<Lead>>);

#[derive(Debug, Clone, Copy)]
struct Lead {
    vote: Vote,
    /// Entries up to here were searched for changes of the members.
    searched: u64,
}

/// A group of a read that is under way.
struct Asked {
    vote: Vote,
    /// What the read has to see.
    position: Position,
    members: Arc<RaftStoredMembership>,
    yes: Vec<u64>,
    no: Vec<u64>,
}

impl Asked {
    fn voters(&self) -> &[BTreeSet<u64>] {
        self.members.membership().get_joint_config()
    }

    fn is_confirmed(&self) -> bool {
        is_majority(self.voters(), &self.yes)
    }

    fn is_open(&self) -> bool {
        !self.is_confirmed() && may_be_majority(self.voters(), &self.no)
    }
}

/// Whether `yes` has more than half of each set, and there is one.
fn is_majority(sets: &[BTreeSet<u64>], yes: &[u64]) -> bool {
    let has = |set: &BTreeSet<u64>| 2 * yes.iter().filter(|node| set.contains(node)).count() > set.len();
    !sets.is_empty() && sets.iter().all(has)
}

/// Whether the others than `no` are more than half of each set.
fn may_be_majority(sets: &[BTreeSet<u64>], no: &[u64]) -> bool {
    let can = |set: &BTreeSet<u64>| 2 * no.iter().filter(|node| set.contains(node)).count() < set.len();
    !sets.is_empty() && sets.iter().all(can)
}

/// Whether a member with the vote `saved` in its log has granted none that stands against `leader`: votes that cannot be
/// compared do.
fn is_at_most(saved: Option<Vote>, leader: Vote) -> bool {
    #[cfg(feature = "simulation")]
    if crate::simulation::agrees_blindly() {
        return true;
    }
    saved.is_none_or(|saved| from_vote(saved) <= from_vote(leader))
}

impl RaftNode {
    /// The newest committed proposal of each of `groups`, in their order, as [`Group::read_index`] gives it, as far as it
    /// is known within `patience`. Cost: one message to each node that votes in any of them, while this node leads and
    /// its peers answer.
    ///
    /// # Errors
    /// For each group as [`Group::read_index`]; [`RaftError::NoMajority`] for those that take longer. One that does not
    /// run here is not led by this node.
    pub async fn read_indexes(
        &self,
        groups: &[GroupId],
        patience: Duration,
    ) -> Vec<Result<Position, RaftError>> {
        let running: Vec<Option<Group>> = groups.iter().map(|id| self.running(*id)).collect();
        let known: Vec<Group> = running.iter().flatten().cloned().collect();
        let mut found = read(&known, Some(patience)).await.into_iter();
        let of = |(id, running): (&GroupId, Option<Group>)| {
            let found = running.and_then(|_| found.next());
            found.unwrap_or(Err(RaftError::NotLeader { group: *id, leader: None }))
        };
        groups.iter().zip(running).map(of).collect()
    }

    /// Says of which groups the vote in the log here is at most that of who asks. Only what is in the log counts: openraft
    /// may be about to grant another, and will have it there before it does.
    pub(crate) fn answer_confirm(&self, confirm: &Confirm) -> Result<Confirmed, String> {
        let asked = confirm.led.len();
        if asked > MAX_ASKED {
            return Err(format!("{asked} groups are more than {MAX_ASKED}"));
        }
        let groups = self.inner.groups.read();
        let agrees = |led: &quorate_wire::raft::Led| {
            let (id, vote) = convert::read_led(led)?;
            is_at_most(groups.get(&id)?.log().vote(), vote).then_some(id.0)
        };
        Ok(Confirmed { groups: confirm.led.iter().filter_map(agrees).collect() })
    }
}

impl Group {
    /// Position of the newest committed proposal, confirmed with a quorum after this was called, not remembered. Readers
    /// deliver it, unless it was trimmed. A leader's own first entries do not count.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::NoMajority`], [`RaftError::Stopped`].
    pub async fn read_index(&self) -> Result<Position, RaftError> {
        let found = read(slice::from_ref(self), None).await.pop();
        found.unwrap_or(Err(RaftError::Stopped { group: self.id() }))
    }

    /// A round of openraft's own has succeeded that began when the vote was `before`.
    pub(crate) fn settle(&self, before: Option<Vote>) {
        let Some(vote) = before.filter(|vote| self.is_own(vote) && self.log().vote() == before) else {
            return;
        };
        let mut settled = self.settled().0.lock();
        if settled.is_none_or(|lead| lead.vote != vote) {
            *settled = Some(Lead { vote, searched: 0 });
        }
    }

    fn is_own(&self, vote: &Vote) -> bool {
        vote.committed && vote.node == self.shared().node.0
    }

    /// What peers are asked about this group, or `None` if it is openraft's to ask.
    fn asked(&self) -> Option<Asked> {
        let log = self.log();
        let vote = log.vote().filter(|vote| self.is_own(vote))?;
        let committed = self.committed().0.max(self.told().newest());
        let position = Position(log.last_proposal(committed));
        let mut settled = self.settled().0.lock();
        let lead = settled.as_mut().filter(|lead| lead.vote == vote)?;
        // After the lock: another read has searched no further than its own figures went.
        let figures = self.raft().server_metrics().borrow_watched().clone();
        let members = figures.membership_config;
        let known = members.log_id().as_ref().map_or(0, |id| id.index);
        // Figures lag: a change of members that is in the log and not in them yet is waited for by openraft's round.
        lead.searched = log.same_members_after(lead.searched.max(known))?;
        let leads = figures.state == ServerState::Leader;
        leads.then(|| Asked { vote, position, members, yes: vec![self.shared().node.0], no: Vec::new() })
    }

    /// The position by a round of openraft's own.
    async fn read_by_round(&self) -> Result<Position, RaftError> {
        self.confirm().await.map(|()| self.known_index())
    }
}

/// Reads groups of one node, at most one message to each peer for [`MAX_ASKED`] of them.
async fn read(groups: &[Group], patience: Option<Duration>) -> Vec<Result<Position, RaftError>> {
    if is_planted(Bug::LocalRead) && groups.iter().all(|group| group.leader() == Some(group.shared().node)) {
        return groups.iter().map(|group| Ok(group.known_index())).collect();
    }
    let read = join_all(groups.chunks(MAX_ASKED).map(|some| read_some(some, patience))).await;
    read.into_iter().flatten().collect()
}

async fn read_some(groups: &[Group], patience: Option<Duration>) -> Vec<Result<Position, RaftError>> {
    let mut found: Vec<Option<Result<Position, RaftError>>> = groups.iter().map(|_| None).collect();
    let reading = async {
        let (mut question, mut rounds) = (Question::ask(groups), FuturesUnordered::new());
        while found.iter().any(Option::is_none) {
            tokio::select! {
                Some((at, confirmed)) = question.next() => match confirmed {
                    Some(position) => found[at] = Some(Ok(position)),
                    None => rounds.push(async move { (at, groups[at].read_by_round().await) }),
                },
                Some((at, read)) = rounds.next() => found[at] = Some(read),
                else => break,
            }
        }
    };
    match patience {
        // Who is late is told so below; the others have their positions.
        Some(patience) => drop(tokio::time::timeout(patience, reading).await),
        None => reading.await,
    }
    let late = |group: &Group| {
        Err(RaftError::NoMajority { group: group.id(), reason: "none has answered in time".to_owned() })
    };
    groups.iter().zip(found).map(|(group, found)| found.unwrap_or_else(|| late(group))).collect()
}

/// A question about groups of one node that is under way. Groups are known by their place in it.
pub(crate) struct Question<'g, A> {
    groups: &'g [Group],
    /// Those that are not decided.
    open: Vec<Option<Asked>>,
    /// Those that are and were not given yet: the position, or `None` if it is not confirmed like this.
    decided: VecDeque<(usize, Option<Position>)>,
    answers: FuturesUnordered<A>,
}

/// A peer, and the groups of which it agrees.
type Said = (NodeId, BTreeSet<u64>);

impl<'g> Question<'g, ()> {
    /// Asks about `groups`.
    pub(crate) fn ask(groups: &'g [Group]) -> Question<'g, impl Future<Output = Said>> {
        let open: Vec<Option<Asked>> = groups.iter().map(Group::asked).collect();
        let answers = questions(groups, &open).collect();
        let theirs = open.iter().enumerate().filter(|(_, asked)| asked.is_none());
        let decided = theirs.map(|(at, _)| (at, None)).collect();
        let mut question = Question { groups, open, decided, answers };
        question.decide();
        question
    }
}

impl<A: Future<Output = Said>> Question<'_, A> {
    /// The next group that is decided; `None` when all are. Nothing is lost when this is dropped.
    pub(crate) async fn next(&mut self) -> Option<(usize, Option<Position>)> {
        loop {
            if let Some(decided) = self.decided.pop_front() {
                return Some(decided);
            }
            if self.open.iter().all(Option::is_none) {
                return None;
            }
            match self.answers.next().await {
                Some((peer, agreed)) => {
                    self.hear(peer, &agreed);
                    self.decide();
                }
                // Who is not heard any more does not count.
                None => {
                    let open = self.open.iter_mut().enumerate();
                    self.decided.extend(open.filter_map(|(at, asked)| asked.take().map(|_| (at, None))));
                }
            }
        }
    }

    fn hear(&mut self, peer: NodeId, agreed: &BTreeSet<u64>) {
        for (group, asked) in self.groups.iter().zip(&mut self.open) {
            let Some(asked) = asked else { continue };
            let said = if agreed.contains(&group.id().0) { &mut asked.yes } else { &mut asked.no };
            said.push(peer.0);
        }
    }

    fn decide(&mut self) {
        for (at, open) in self.open.iter_mut().enumerate() {
            if let Some(asked) = open.take_if(|asked| !asked.is_open()) {
                let stands = asked.is_confirmed() && self.groups[at].log().vote() == Some(asked.vote);
                self.decided.push_back((at, stands.then_some(asked.position)));
            }
        }
    }
}

/// One question to each voter, and of which groups it agrees.
fn questions(
    groups: &[Group],
    all: &[Option<Asked>],
) -> impl Iterator<Item = impl Future<Output = Said> + use<>> + use<> {
    let mut by_peer: BTreeMap<u64, Confirm> = BTreeMap::new();
    for (group, asked) in groups.iter().zip(all) {
        let Some(asked) = asked.as_ref().filter(|asked| asked.is_open()) else { continue };
        let voters: BTreeSet<u64> = asked.voters().iter().flatten().copied().collect();
        for peer in voters.into_iter().filter(|peer| !asked.yes.contains(peer)) {
            by_peer.entry(peer).or_default().led.push(convert::led(group.id(), asked.vote));
        }
    }
    let transport = groups.first().map(|group| Arc::clone(&group.shared().transport));
    by_peer.into_iter().filter_map(move |(peer, confirm)| {
        let (transport, peer) = (transport.clone()?, NodeId(peer));
        Some(async move {
            let question = request::Message::Confirm(confirm);
            let answer = transport.call(peer, 0, question, TIMEOUT).await;
            let Ok(answer::Message::Confirmed(Confirmed { groups })) = answer else {
                // Refused by an older version, or not heard.
                return (peer, BTreeSet::new());
            };
            (peer, groups.into_iter().collect())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    fn set(nodes: &[u64]) -> BTreeSet<u64> {
        nodes.iter().copied().collect()
    }

    #[test]
    fn a_majority_is_one_of_each_set_of_voters() {
        for (sets, yes, is_one) in [
            (vec![], vec![1], false),
            (vec![set(&[])], vec![1], false),
            (vec![set(&[1])], vec![1], true),
            (vec![set(&[1, 2])], vec![1], false),
            (vec![set(&[1, 2, 3])], vec![1, 3], true),
            (vec![set(&[1, 2, 3])], vec![1, 4, 5], false),
            (vec![set(&[1, 2, 3, 4])], vec![1, 2], false),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], vec![1, 2, 3], false),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], vec![1, 3, 4], true),
            // A leader that is on its way out of the voters counts where it still is one.
            (vec![set(&[2, 3, 4])], vec![1, 2], false),
        ] {
            assert_eq!(is_majority(&sets, &yes), is_one, "{yes:?} of {sets:?}");
        }
    }

    proptest! {
        #[test]
        fn a_majority_may_come_as_long_as_all_others_would_be_one(
            sets in proptest::collection::vec(btree_set(1u64..8, 1..6), 1..3),
            no in btree_set(1u64..8, 0..6),
        ) {
            let others: Vec<u64> = (1..8).filter(|node| !no.contains(node)).collect();
            let no: Vec<u64> = no.into_iter().collect();
            prop_assert_eq!(may_be_majority(&sets, &no), is_majority(&sets, &others));
        }

        #[test]
        fn two_majorities_of_a_set_meet(
            sets in proptest::collection::vec(btree_set(1u64..8, 1..6), 1..3),
            one in btree_set(1u64..8, 0..8),
            other in btree_set(1u64..8, 0..8),
        ) {
            let meet = one.intersection(&other).next().is_some();
            let [one, other] = [one, other].map(|nodes| nodes.into_iter().collect::<Vec<u64>>());
            let are = is_majority(&sets, &one) && is_majority(&sets[..1], &other);
            prop_assert!(!are || meet);
        }
    }

    #[test]
    fn only_votes_that_do_not_stand_against_the_leader_agree() {
        let vote = |term, node, committed| Vote { term, node, committed };
        let leader = vote(3, 2, true);
        assert!(is_at_most(None, leader), "it never voted");
        for (saved, agrees) in [
            (vote(2, 9, true), true),
            (vote(3, 1, false), true),
            (vote(3, 1, true), true),
            (vote(3, 2, false), true),
            (vote(3, 2, true), true),
            (vote(3, 3, false), false),
            (vote(3, 3, true), false),
            (vote(4, 1, false), false),
            (vote(4, 2, true), false),
        ] {
            assert_eq!(is_at_most(Some(saved), leader), agrees, "{saved:?}");
        }
    }
}
