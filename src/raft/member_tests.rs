//! Groups of several members over a transport in memory whose links can be cut.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::{NodeId, Position};
use quorate_wire::memory::Switchboard;
use quorate_wire::raft::{Ballot, LogId, Vote, answer, request};
use quorate_wire::{Handler, Transport};
use tempfile::TempDir;

use crate::{Fetched, Giver, Group, GroupId, Members, RaftConfig, RaftError, RaftNode, SnapshotOwner};

pub(crate) const GROUP: GroupId = GroupId(5);
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What stands between a node and its peers.
pub(crate) type Between = fn(NodeId, Arc<dyn Transport>) -> Arc<dyn Transport>;

pub(crate) struct Cluster {
    pub(crate) board: Switchboard,
    dirs: Vec<TempDir>,
    pub(crate) nodes: Vec<RaftNode>,
    pub(crate) groups: Vec<Group>,
    config: RaftConfig,
    between: Between,
}

pub(crate) fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

impl Cluster {
    /// `voters` nodes that vote, and `others` that only run.
    async fn start(voters: u64, others: u64) -> Self {
        Self::start_with(voters, others, RaftConfig::default(), |_, transport| transport).await
    }

    pub(crate) async fn start_with(voters: u64, others: u64, config: RaftConfig, between: Between) -> Self {
        let count = voters + others;
        let dirs = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut cluster = Self {
            board: Switchboard::default(),
            dirs,
            nodes: Vec::new(),
            groups: Vec::new(),
            config,
            between,
        };
        for at in 0..count as usize {
            let (node, group) = cluster.open(at).await;
            cluster.nodes.push(node);
            cluster.groups.push(group);
        }
        for group in &cluster.groups[..voters as usize] {
            group.begin(&ids(1..=voters)).await.unwrap();
        }
        cluster
    }

    async fn open(&self, at: usize) -> (RaftNode, Group) {
        let id = NodeId(at as u64 + 1);
        let transport = (self.between)(id, self.board.transport(id));
        let dir = self.dirs[at].path();
        let node = RaftNode::start_with_peers(dir, id, self.config.clone(), transport).await.unwrap();
        let group = node.member(GROUP).await.unwrap();
        self.board.connect(id, Arc::new(node.clone()));
        (node, group)
    }

    /// Takes a node away as a crash does: its log is not told.
    pub(crate) async fn stop(&mut self, at: usize) {
        self.board.disconnect(NodeId(at as u64 + 1));
        self.nodes[at].shutdown().await;
    }

    pub(crate) async fn restart(&mut self, at: usize) {
        let (node, group) = self.open(at).await;
        (self.nodes[at], self.groups[at]) = (node, group);
    }

    /// A node among `among` that leads and is followed by a majority, with its index.
    pub(crate) async fn leader(&self, among: &[usize]) -> usize {
        let found = async {
            loop {
                for at in among {
                    let is_leader = self.groups[*at].leader() == Some(NodeId(*at as u64 + 1));
                    if is_leader && self.groups[*at].read_index().await.is_ok() {
                        return *at;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, found).await.expect("a leader")
    }

    /// What the reader of one node delivers until `count` entries came.
    async fn read(&self, at: usize, count: usize) -> Vec<(Position, Bytes)> {
        let mut reader = self.groups[at].reader(Position(0));
        let mut all = Vec::new();
        while all.len() < count {
            let next = tokio::time::timeout(LONG, reader.next()).await.expect("entries").unwrap();
            all.extend(next.into_iter().map(|entry| (entry.position, entry.payload)));
        }
        all
    }

    /// The payloads that the reader of one node delivers after a position, `count` of them.
    async fn read_after(&self, at: usize, after: Position, count: usize) -> Vec<Bytes> {
        let mut reader = self.groups[at].reader(after);
        let mut all = Vec::new();
        while all.len() < count {
            let next = tokio::time::timeout(LONG, reader.next()).await.expect("entries").unwrap();
            all.extend(next.into_iter().map(|entry| entry.payload));
        }
        all
    }

    pub(crate) async fn check_equal(&self, nodes: &[usize], count: usize) {
        let first = self.read(nodes[0], count).await;
        for at in &nodes[1..] {
            assert_eq!(self.read(*at, count).await, first, "node {}", at + 1);
        }
    }

    pub(crate) async fn end(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

/// Looks again and again until it is so.
pub(crate) async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "never {what}");
}

/// The places of the other two of three members.
pub(crate) fn others(of: usize) -> [usize; 2] {
    [(of + 1) % 3, (of + 2) % 3]
}

/// The node at that place.
pub(crate) fn node(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

pub(crate) fn payload(number: u64) -> Bytes {
    format!("entry {number}").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_delivers_the_same_entries_in_the_same_order() {
    let cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let proposals = (0..100).map(|number| cluster.groups[leader].propose(payload(number)));
    let positions = futures::future::try_join_all(proposals).await.unwrap();
    assert_eq!(positions.into_iter().collect::<BTreeSet<_>>().len(), 100);
    cluster.check_equal(&[0, 1, 2], 100).await;
    let follower = (leader + 1) % 3;
    let refused = cluster.groups[follower].propose(payload(0)).await;
    let led_by = NodeId(leader as u64 + 1);
    assert!(
        matches!(refused, Err(RaftError::NotLeader { leader: Some(l), .. }) if l == led_by),
        "{refused:?}"
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_loses_nothing() {
    let cluster = Cluster::start(3, 0).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[old].propose(payload(0)).await.unwrap();
    cluster.board.isolate(NodeId(old as u64 + 1));
    let lonely = {
        let group = cluster.groups[old].clone();
        tokio::spawn(async move { group.propose(payload(1)).await })
    };
    let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
    let new = cluster.leader(&others).await;
    assert!(cluster.groups[old].read_index().await.is_err(), "it cannot know what is committed");
    cluster.groups[new].propose(payload(2)).await.unwrap();
    cluster.board.heal();
    cluster.check_equal(&[0, 1, 2], 2).await;
    let delivered = cluster.read(old, 2).await;
    assert_eq!(
        delivered.iter().map(|(_, payload)| payload.clone()).collect::<Vec<_>>(),
        [payload(0), payload(2)]
    );
    let answer = tokio::time::timeout(LONG, lonely).await.expect("an answer").unwrap();
    assert!(matches!(answer, Err(RaftError::Unknown { .. } | RaftError::NotLeader { .. })), "{answer:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_catches_up_and_the_log_waits_for_it() {
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    cluster.read(away, 1).await;
    cluster.stop(away).await;
    for number in 1..50 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    cluster.groups[leader].trim(Position(u64::MAX)).await.unwrap();
    cluster.restart(away).await;
    let others: Vec<usize> = (0..3).filter(|at| *at != away).collect();
    let there = cluster.read(away, 50).await;
    assert_eq!(there.len(), 50, "nothing that it lacked was trimmed");
    let leader = cluster.leader(&[0, 1, 2]).await;
    assert!(others.len() == 2 && cluster.groups[leader].read_index().await.is_ok());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_leaders_hand_over() {
    let cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    cluster.groups[leader].add_learner(NodeId(4)).await.unwrap();
    assert_eq!(cluster.groups[leader].members(), Members { voters: ids([1, 2, 3]), learners: ids([4]) });
    let gone = (leader + 1) % 3;
    let voters: BTreeSet<NodeId> = (0..4).filter(|at| *at != gone).map(|at| NodeId(at as u64 + 1)).collect();
    cluster.groups[leader].change_voters(&voters).await.unwrap();
    assert_eq!(cluster.groups[leader].members(), Members { voters, learners: ids([]) });
    cluster.read(3, 1).await;
    cluster.groups[leader].transfer_leader(NodeId(4)).await.unwrap();
    let new = cluster.leader(&[3]).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    cluster.check_equal(&[leader, 3], 2).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_knows_who_could_commit_and_changes_nothing_once_it_has_left() {
    let cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let (group, id) = (&cluster.groups[leader], leader as u64 + 1);
    group.propose(payload(0)).await.unwrap();
    let others = ids((1..=3).filter(|node| *node != id));
    while group.heirs().into_iter().collect::<BTreeSet<_>>() != others {
        tokio::task::yield_now().await;
    }
    assert!(group.is_majority_ready(&others).await && group.is_majority_ready(&ids([id])).await);
    assert!(!group.is_majority_ready(&ids([id, 4])).await, "4 has nothing, and half is no majority");
    assert!(!group.is_majority_ready(&ids([4])).await);
    group.add_learner(NodeId(4)).await.unwrap();
    assert!(group.is_majority_ready(&ids([id, 4])).await, "those that do not vote yet are asked as well");
    group.remove_learner(NodeId(4)).await.unwrap();
    group.change_voters(&others).await.unwrap();
    // It leads on for a moment.
    for refused in [group.add_learner(NodeId(4)).await, group.change_voters(&ids(1..=3)).await] {
        assert!(matches!(refused, Err(RaftError::NotLeader { .. })), "{refused:?}");
    }
    let new = cluster.leader(&others.iter().map(|node| node.0 as usize - 1).collect::<Vec<_>>()).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_died_a_moment_ago_is_not_counted_on_because_it_was_heard() {
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    let with = |at: usize| ids([leader as u64 + 1, at as u64 + 1]);
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    assert!(cluster.groups[leader].is_majority_ready(&with(dead)).await);
    cluster.stop(dead).await;
    let group = &cluster.groups[leader];
    assert!(!group.is_majority_ready(&with(dead)).await, "a group of the two could never commit");
    assert!(group.is_majority_ready(&with(alive)).await && group.is_majority_ready(&ids(1..=3)).await);
    let gone = async {
        while group.heirs() != [NodeId(alive as u64 + 1)] {
            tokio::task::yield_now().await;
        }
    };
    // Long before it is written off for the log.
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it is no heir any more");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_most_of_the_log_is_asked_first_to_take_over() {
    let cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let group = &cluster.groups[leader];
    for number in 0..3 {
        group.propose(payload(number)).await.unwrap();
    }
    while group.heirs().len() < 2 {
        tokio::task::yield_now().await;
    }
    let [behind, ahead] = group.heirs()[..] else { panic!("{:?}", group.heirs()) };
    cluster.board.isolate(behind);
    group.propose(payload(3)).await.unwrap();
    let turned = async {
        while group.heirs() == [behind, ahead] {
            tokio::task::yield_now().await;
        }
        group.heirs()
    };
    let heirs = tokio::time::timeout(LONG, turned).await.expect("another order");
    assert_eq!(heirs, [ahead, behind], "it was heard a moment ago, so it is still one");
    cluster.end().await;
}

/// An owner whose state is all payloads so far.
struct Payloads {
    state: Mutex<(Position, Vec<Bytes>)>,
    installs: AtomicU32,
}

impl Payloads {
    /// Follows `group` and owns its snapshots.
    fn follow(group: &Group) -> Arc<Self> {
        let owner = Arc::new(Self { state: Mutex::default(), installs: AtomicU32::new(0) });
        group.set_owner(Arc::new(Weakly(Arc::downgrade(&owner))));
        tokio::spawn(Self::read(owner.clone(), group.clone()));
        owner
    }

    async fn read(owner: Arc<Self>, group: Group) {
        let mut reader = group.reader(Position(0));
        loop {
            match reader.next().await {
                Ok(entries) => {
                    let mut state = owner.state.lock();
                    for entry in entries {
                        if entry.position > state.0 {
                            state.1.push(entry.payload);
                            state.0 = entry.position;
                        }
                    }
                }
                Err(RaftError::Trimmed { .. }) => reader = group.reader(owner.state.lock().0),
                Err(_) => return,
            }
        }
    }

    async fn has(&self, count: usize) {
        let full = async {
            while self.state.lock().1.len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, full).await.expect("all payloads");
    }
}

struct Weakly(Weak<Payloads>);

#[async_trait]
impl SnapshotOwner for Weakly {
    async fn give(&self) -> Result<(Position, Bytes), String> {
        let owner = self.0.upgrade().ok_or("gone")?;
        let state = owner.state.lock();
        Ok((state.0, (state.1.len() as u64).to_le_bytes().to_vec().into()))
    }

    async fn tell(&self, question: Bytes) -> Result<Bytes, String> {
        let at: usize = std::str::from_utf8(&question).unwrap().parse().unwrap();
        let owner = self.0.upgrade().ok_or("gone")?;
        let state = owner.state.lock();
        state.1.get(at).cloned().ok_or_else(|| "no such payload".to_owned())
    }

    async fn fetch(
        &self,
        giver: Giver,
        position: Position,
        state: Bytes,
    ) -> Result<Box<dyn Fetched>, String> {
        let count = u64::from_le_bytes(state[..].try_into().unwrap());
        let mut payloads = Vec::new();
        for at in 0..count {
            payloads.push(giver.ask(at.to_string().into()).await?);
        }
        Ok(Box::new(Copied { owner: self.0.upgrade().ok_or("gone")?, position, payloads }))
    }
}

struct Copied {
    owner: Arc<Payloads>,
    position: Position,
    payloads: Vec<Bytes>,
}

#[async_trait]
impl Fetched for Copied {
    async fn install(self: Box<Self>) -> Result<(), String> {
        *self.owner.state.lock() = (self.position, self.payloads);
        self.owner.installs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lacks_trimmed_entries_takes_a_snapshot_and_goes_on() {
    let mut cluster = Cluster::start(3, 1).await;
    let owners: Vec<_> = cluster.groups.iter().map(Payloads::follow).collect();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    owners[away].has(1).await;
    cluster.stop(away).await;
    for number in 1..50 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    // The entry of a new leader follows the last proposal, and is trimmed with it.
    let third = (0..3).find(|at| ![leader, away].contains(at)).unwrap();
    cluster.groups[leader].transfer_leader(NodeId(third as u64 + 1)).await.unwrap();
    let leader = cluster.leader(&[third]).await;
    owners[leader].has(50).await;
    cluster.groups[leader].trim(Position(u64::MAX)).await.unwrap();
    assert_eq!(cluster.groups[leader].trimmed(), Position(0), "little is kept for who lags");
    cluster.groups[leader].trim_fully(Position(u64::MAX)).await.unwrap();
    assert_eq!(cluster.groups[leader].trimmed(), owners[leader].state.lock().0);
    cluster.restart(away).await;
    let late = Payloads::follow(&cluster.groups[away]);
    cluster.groups[leader].add_learner(NodeId(4)).await.unwrap();
    cluster.groups[leader].propose(payload(50)).await.unwrap();
    let expected: Vec<Bytes> = (0..=50).map(payload).collect();
    for owner in [&late, &owners[3], &owners[leader]] {
        owner.has(51).await;
        assert_eq!(owner.state.lock().1, expected);
    }
    assert!(late.installs.load(Ordering::SeqCst) > 0 && owners[3].installs.load(Ordering::SeqCst) > 0);
    assert_eq!(owners[leader].installs.load(Ordering::SeqCst), 0);
    // Its log says so a moment after its owner has the state.
    let after = late.state.lock().0;
    let mut committed = cluster.groups[away].watch_committed();
    let logged = committed.wait_for(|committed| *committed >= after.0);
    tokio::time::timeout(LONG, logged).await.expect("the log follows its owner").unwrap();
    cluster.stop(away).await;
    cluster.restart(away).await;
    cluster.groups[leader].propose(payload(51)).await.unwrap();
    assert_eq!(cluster.read_after(away, after, 1).await, [payload(51)]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_left_and_forgot_comes_back_with_all_entries() {
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    let id = NodeId(away as u64 + 1);
    for number in 0..10u64 {
        cluster.groups[leader].propose(Bytes::from(number.to_string())).await.unwrap();
    }
    assert!(cluster.groups[leader].confirmed_members().await.unwrap().voters.contains(&id));
    let others = ids((1..=3).filter(|node| *node != id.0));
    cluster.groups[leader].change_voters(&others).await.unwrap();
    let leader = cluster.leader(&[leader, (leader + 2) % 3]).await;
    assert_eq!(cluster.groups[leader].confirmed_members().await.unwrap().voters, others);
    assert!(cluster.nodes[away].forget(GROUP).await.is_err(), "it runs");
    cluster.nodes[away].stop(GROUP).await;
    cluster.nodes[away].forget(GROUP).await.unwrap();
    cluster.groups[away] = cluster.nodes[away].member(GROUP).await.unwrap();
    // It voted before, so it begins nothing of its own, whatever it is told.
    cluster.groups[away].begin(&ids(1..=3)).await.unwrap();
    assert_eq!(cluster.groups[away].members(), Members::default());
    cluster.groups[leader].add_learner(id).await.unwrap();
    cluster.groups[leader].change_voters(&ids(1..=3)).await.unwrap();
    cluster.groups[leader].propose(Bytes::from("last")).await.unwrap();
    assert_eq!(cluster.read(away, 11).await, cluster.read(leader, 11).await);
    cluster.stop(away).await;
    cluster.restart(away).await;
    assert_eq!(cluster.read(away, 11).await, cluster.read(leader, 11).await, "also after a restart");
    // With all that it had before it may stand again.
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].change_voters(&ids([id.0])).await.unwrap();
    cluster.leader(&[away]).await;
}

/// Whether a node grants its vote in `term` to another whose last entry is `last`; an error when it hears of no ballot.
async fn grants(node: &RaftNode, term: u64, last: LogId) -> Result<bool, String> {
    let vote = Some(Vote { term, node: 3, committed: false });
    let ballot = Ballot { vote, last: Some(last), is_transfer: true };
    match node.handle(GROUP.0, request::Message::Vote(ballot)).await? {
        answer::Message::Vote(answer) => Ok(answer.granted),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_forgot_elects_nobody_who_lacks_what_it_had() {
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = (leader + 1) % 3;
    for number in 0..10 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    cluster.read(away, 10).await;
    cluster.nodes[away].stop(GROUP).await;
    cluster.nodes[away].forget(GROUP).await.unwrap();
    cluster.board.isolate(NodeId(away as u64 + 1));
    cluster.groups[away] = cluster.nodes[away].member(GROUP).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            cluster.stop(away).await;
            cluster.restart(away).await;
            cluster.board.isolate(NodeId(away as u64 + 1));
        }
        let (node, group) = (&cluster.nodes[away], &cluster.groups[away]);
        let floor = group.log().floor().expect("a floor");
        let last = |index| LogId { term: floor.term, node: floor.node, index };
        let older = LogId { term: floor.term - 1, node: floor.node, index: floor.index + 100 };
        let term = 100 + u64::from(restarted) * 100;
        for stale in [last(floor.index - 1), older] {
            let refused = grants(node, term, stale).await;
            assert!(refused.as_ref().is_err_and(|reason| reason.contains("lacks entries")), "{refused:?}");
        }
        assert!(!group.may_stand() && group.log().state().last.is_none());
        assert_eq!(grants(node, term, last(floor.index)).await, Ok(true), "restarted: {restarted}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_run_on_a_live_node_pins_no_log() {
    let cluster = Cluster::start(3, 0).await;
    let owners: Vec<_> = cluster.groups.iter().map(Payloads::follow).collect();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let (away, group) = ((leader + 1) % 3, &cluster.groups[leader]);
    cluster.nodes[away].stop(GROUP).await;
    for number in 0..10 {
        group.propose(payload(number)).await.unwrap();
    }
    owners[leader].has(10).await;
    let last = owners[leader].state.lock().0;
    let trimmed = async {
        while group.trimmed() != last {
            group.trim_fully(last).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG / 2, trimmed).await.expect("its silence is not waited for");
    cluster.end().await;
}
