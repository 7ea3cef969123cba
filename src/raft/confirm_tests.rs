//! Strong reads by one question to a node, over a transport in memory whose messages can be lost by kind.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use quorate_model::{NodeId, Position};
use quorate_wire::raft::{Confirm, Led, answer, request};
use quorate_wire::{Handler, Transport, TransportError};

use crate::confirm::Question;
use crate::member_tests::{Cluster, GROUP, LONG, ids, node, others, payload, wait_until};
use crate::{Group, GroupId, QuietGroups, RaftConfig, RaftError};

/// What one test does to messages.
struct Way {
    /// Questions that were sent.
    asked: AtomicU32,
    /// Nothing but questions and signs of life passes.
    only_questions: AtomicBool,
    /// Questions are not known.
    is_older: AtomicBool,
}

impl Way {
    const fn new() -> Self {
        let (only_questions, is_older) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { asked: AtomicU32::new(0), only_questions, is_older }
    }
}

/// Of each test its own.
static WAYS: [Way; 9] = [const { Way::new() }; 9];

/// The way from a node in the test of that number.
struct Watched<const TEST: usize>(Arc<dyn Transport>);

#[async_trait]
impl<const TEST: usize> Transport for Watched<TEST> {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        let way = &WAYS[TEST];
        match &request {
            request::Message::Confirm(_) => {
                way.asked.fetch_add(1, Ordering::SeqCst);
                if way.is_older.load(Ordering::SeqCst) {
                    return Err(TransportError::Refused { to, reason: "of a newer version".to_owned() });
                }
            }
            request::Message::Sign(_) => {}
            _ if way.only_questions.load(Ordering::SeqCst) => {
                return Err(TransportError::NoAnswer { to, reason: "it got lost".to_owned() });
            }
            _ => {}
        }
        self.0.call(to, group, request, timeout).await
    }
}

async fn start<const TEST: usize>(voters: u64, others: u64) -> Cluster {
    let config = RaftConfig { sleep_after: Duration::from_millis(300), ..RaftConfig::default() };
    Cluster::start_with(voters, others, config, |_, way| Arc::new(Watched::<TEST>(way))).await
}

/// What a question finds out, without a round of openraft's.
async fn asked(group: &Group) -> Option<Position> {
    let mut question = Question::ask(slice::from_ref(group));
    let (_, position) = question.next().await.expect("it is decided");
    position
}

async fn is_confirmed(group: &Group) -> bool {
    asked(group).await.is_some()
}

/// Has the first node lead `id`, and confirm it.
async fn led_by_the_first(cluster: &Cluster, id: GroupId) {
    let group = taken_by_the_first(cluster, id).await;
    let confirmed = async {
        while group.read_index().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, confirmed).await.expect("the first node leads");
    group.propose(payload(id.0)).await.unwrap();
}

/// Has the first node lead `id`; it has not asked openraft yet.
async fn taken_by_the_first(cluster: &Cluster, id: GroupId) -> Group {
    let mut members = Vec::new();
    for node in &cluster.nodes {
        members.push(node.member(id).await.unwrap());
    }
    for member in &members {
        member.begin(&ids(1..=3)).await.unwrap();
    }
    let led = async {
        while members[0].leader() != Some(NodeId(1)) {
            let leader = members.iter().zip(1..).find(|(member, at)| member.leader() == Some(NodeId(*at)));
            if let Some((leader, 2..)) = leader {
                leader.transfer_leader(NodeId(1)).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, led).await.expect("the first node leads");
    members.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sleeping_groups_are_read_by_one_message_to_each_peer_and_stay_asleep() {
    let (cluster, way) = (start::<0>(3, 0).await, &WAYS[0]);
    let groups: Vec<GroupId> = (GROUP.0..GROUP.0 + 6).map(GroupId).collect();
    for id in &groups {
        led_by_the_first(&cluster, *id).await;
    }
    let asleep = QuietGroups { asleep: groups.len(), awake: 0 };
    let all_sleep = || cluster.nodes.iter().all(|node| node.quiet_groups() == asleep);
    wait_until("all asleep", all_sleep).await;
    let mut expected = Vec::new();
    for id in &groups {
        let group = cluster.nodes[0].member(*id).await.unwrap();
        assert_eq!(group.leader(), Some(NodeId(1)), "nobody else has led since");
        expected.push(group.known_index());
    }
    way.only_questions.store(true, Ordering::SeqCst);
    let before = way.asked.load(Ordering::SeqCst);
    let unknown = GroupId(99);
    let read = cluster.nodes[0].read_indexes(&[&groups[..], &[unknown]].concat(), LONG).await;
    let asked = way.asked.load(Ordering::SeqCst) - before;
    assert!((1..=2).contains(&asked), "{asked} messages; one peer that answers at once is enough");
    let found: Vec<Position> = read[..groups.len()].iter().map(|read| *read.as_ref().unwrap()).collect();
    assert_eq!(found, expected);
    assert!(matches!(read.last(), Some(Err(RaftError::NotLeader { group, .. })) if *group == unknown));
    assert!(all_sleep(), "nobody had to wake for it");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_know_yet_that_it_is_deposed_is_not_confirmed() {
    let (cluster, way) = (start::<1>(3, 0).await, &WAYS[1]);
    let old = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[old].propose(payload(0)).await.unwrap();
    assert!(is_confirmed(&cluster.groups[old]).await);
    let vote = cluster.groups[old].log().vote();
    cluster.board.isolate(node(old));
    let new = cluster.leader(&others(old)).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    assert!(!is_confirmed(&cluster.groups[old]).await, "nobody answers");
    // Questions pass again, and nothing else that could tell it.
    way.only_questions.store(true, Ordering::SeqCst);
    cluster.board.heal();
    assert_eq!(cluster.groups[old].log().vote(), vote, "it does not know");
    assert!(!is_confirmed(&cluster.groups[old]).await, "both have another vote");
    assert!(cluster.groups[old].read_index().await.is_err());
    // The other member that voted for the new one does not help either, when that is the only one to be heard.
    cluster.board.isolate(node(new));
    assert!(!is_confirmed(&cluster.groups[old]).await);
    way.only_questions.store(false, Ordering::SeqCst);
    cluster.board.heal();
    cluster.check_equal(&[0, 1, 2], 2).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    assert!(is_confirmed(&cluster.groups[leader]).await);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_started_again_has_to_ask_openraft_first() {
    let mut cluster = start::<2>(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    let vote = cluster.groups[leader].log().vote();
    cluster.stop(leader).await;
    // Alone it cannot stand, so its log keeps the vote by which it led.
    others(leader).iter().for_each(|other| {
        cluster.board.cut(node(leader), node(*other));
        cluster.board.cut(node(*other), node(leader));
    });
    cluster.restart(leader).await;
    assert_eq!(cluster.groups[leader].log().vote(), vote);
    cluster.board.heal();
    assert!(!is_confirmed(&cluster.groups[leader]).await, "it does not lead");
    let now = cluster.leader(&[0, 1, 2]).await;
    assert!(is_confirmed(&cluster.groups[now]).await, "a round has succeeded");
    cluster.nodes[now].stop(GROUP).await;
    let again = cluster.nodes[now].member(GROUP).await.unwrap();
    assert!(!is_confirmed(&again).await, "nor is it known to a group that was started again in the process");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_members_change_both_sets_of_voters_have_to_agree() {
    let cluster = start::<3>(3, 2).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let group = cluster.groups[leader].clone();
    group.propose(payload(0)).await.unwrap();
    for learner in [4, 5] {
        group.add_learner(NodeId(learner)).await.unwrap();
    }
    assert!(is_confirmed(&group).await, "those who only follow are not asked");
    let voters: BTreeSet<NodeId> = [node(leader), NodeId(4), NodeId(5)].into();
    let cut = |from: NodeId, to: NodeId| cluster.board.cut(from, to);
    for new in [NodeId(4), NodeId(5)] {
        cut(node(leader), new);
        cut(new, node(leader));
    }
    let changing = tokio::spawn({
        let (group, voters) = (group.clone(), voters.clone());
        async move { group.change_voters(&voters).await }
    });
    wait_until("a change is under way", || group.members().voters.contains(&NodeId(5))).await;
    assert!(!is_confirmed(&group).await, "the old voters are not enough");
    cluster.board.heal();
    changing.await.unwrap().unwrap();
    assert!(is_confirmed(&group).await || group.read_index().await.is_ok());
    others(leader).iter().for_each(|gone| cluster.board.isolate(node(*gone)));
    wait_until("the new voters are known", || group.members().voters == voters).await;
    assert!(group.read_index().await.is_ok() && is_confirmed(&group).await, "the new voters are enough");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_follower_knows_to_be_committed_its_leader_counts() {
    let cluster = start::<4>(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let group = &cluster.groups[leader];
    for number in 0..30 {
        let position = group.propose(payload(number)).await.unwrap();
        let follower = &cluster.groups[others(leader)[number as usize % 2]];
        let mut committed = follower.watch_committed();
        let known = committed.wait_for(|committed| *committed >= position.0);
        tokio::time::timeout(LONG, known).await.expect("the follower is told").unwrap();
        assert!(group.told().newest() >= position.0, "it was told by the leader");
        let read = asked(group).await.unwrap();
        assert!(read >= position, "{read} against {position}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_an_older_version_are_asked_by_rounds() {
    let (cluster, way) = (start::<5>(3, 0).await, &WAYS[5]);
    way.is_older.store(true, Ordering::SeqCst);
    let leader = cluster.leader(&[0, 1, 2]).await;
    let position = cluster.groups[leader].propose(payload(0)).await.unwrap();
    assert_eq!(cluster.groups[leader].read_index().await.unwrap(), position);
    assert!(!is_confirmed(&cluster.groups[leader]).await);
    assert!(way.asked.load(Ordering::SeqCst) >= 2);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_without_a_majority_holds_up_no_other() {
    let (cluster, way) = (start::<7>(3, 0).await, &WAYS[7]);
    let (settled, unsettled) = (GroupId(GROUP.0 + 1), GroupId(GROUP.0 + 2));
    led_by_the_first(&cluster, settled).await;
    taken_by_the_first(&cluster, unsettled).await;
    way.only_questions.store(true, Ordering::SeqCst);
    let patience = Duration::from_millis(300);
    let read = cluster.nodes[0].read_indexes(&[unsettled, settled], patience).await;
    assert!(matches!(&read[0], Err(RaftError::NoMajority { group, .. }) if *group == unsettled), "{read:?}");
    let known = cluster.nodes[0].member(settled).await.unwrap().known_index();
    assert_eq!(read[1].as_ref().ok(), Some(&known), "{read:?}");
    way.only_questions.store(false, Ordering::SeqCst);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_forgotten_while_its_peers_are_asked_gives_no_older_position() {
    let cluster = start::<8>(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let group = cluster.groups[leader].clone();
    let position = group.propose(payload(0)).await.unwrap();
    group.read_index().await.unwrap();
    let mut question = Question::ask(slice::from_ref(&group));
    cluster.nodes[leader].stop(GROUP).await;
    cluster.nodes[leader].forget(GROUP).await.unwrap();
    assert_eq!(group.known_index(), Position(0), "its log is empty");
    let (_, read) = question.next().await.expect("it is decided");
    assert!(read.is_none_or(|read| read == position), "{read:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_make_no_sense_are_refused_or_not_agreed_to() {
    let cluster = start::<6>(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let vote = cluster.groups[leader].log().vote().unwrap();
    let vote = quorate_wire::raft::Vote { term: vote.term, node: vote.node, committed: vote.committed };
    let led = |group: GroupId, vote| Led { group: group.0, vote };
    let asks = async |led: Vec<Led>| {
        cluster.nodes[leader].handle(0, request::Message::Confirm(Confirm { led })).await
    };
    let answer = asks(vec![led(GROUP, Some(vote)), led(GROUP, None), led(GroupId(77), Some(vote))]).await;
    assert!(matches!(answer, Ok(answer::Message::Confirmed(it)) if it.groups == [GROUP.0]));
    let older = quorate_wire::raft::Vote { term: vote.term - 1, ..vote };
    let answer = asks(vec![led(GROUP, Some(older))]).await;
    assert!(matches!(answer, Ok(answer::Message::Confirmed(it)) if it.groups.is_empty()));
    assert!(asks(vec![led(GROUP, Some(vote)); 4_097]).await.unwrap_err().contains("4097 groups"));
    cluster.end().await;
}
