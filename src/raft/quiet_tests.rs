//! Groups that sleep, over a transport in memory whose links can be cut.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use quorate_model::NodeId;
use quorate_wire::raft::{answer, request};
use quorate_wire::{Transport, TransportError};
use tokio::time::Instant;

use crate::member_tests::{Between, Cluster, ids, node, others, payload, wait_until};
use crate::{Members, QuietGroups, RaftConfig, RaftError};

/// A leader whose node is lost is replaced within this, asleep or not.
const TAKEOVER: Duration = Duration::from_secs(5);

fn config() -> RaftConfig {
    RaftConfig { sleep_after: Duration::from_millis(300), ..RaftConfig::default() }
}

async fn start(voters: u64, others: u64) -> Cluster {
    start_over(voters, others, |_, transport| transport).await
}

async fn start_over(voters: u64, others: u64, between: Between) -> Cluster {
    Cluster::start_with(voters, others, config(), between).await
}

fn sleeps(cluster: &Cluster, at: usize) -> bool {
    cluster.nodes[at].quiet_groups() == QuietGroups { asleep: 1, awake: 0 }
}

async fn all_sleep(cluster: &Cluster, nodes: &[usize]) {
    wait_until("all asleep", || nodes.iter().all(|at| sleeps(cluster, *at))).await;
}

/// Three nodes with an entry, asleep, and who leads them.
async fn asleep() -> (Cluster, usize) {
    let cluster = start(3, 0).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    all_sleep(&cluster, &[0, 1, 2]).await;
    (cluster, leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_sleeps_until_a_proposal_wakes_it() {
    let (cluster, leader) = asleep().await;
    let proposals = (1..50).map(|number| cluster.groups[leader].propose(payload(number)));
    futures::future::try_join_all(proposals).await.unwrap();
    cluster.check_equal(&[0, 1, 2], 50).await;
    all_sleep(&cluster, &[0, 1, 2]).await;
    assert_eq!(cluster.groups[leader].leader(), Some(node(leader)));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strong_read_of_a_sleeping_group_asks_a_majority() {
    let (cluster, leader) = asleep().await;
    let position = cluster.groups[leader].read_index().await.unwrap();
    assert_eq!(position, cluster.groups[leader].known_index());
    assert!((0..3).all(|at| sleeps(&cluster, at)), "it was confirmed, and nobody had to wake for it");
    cluster.board.isolate(node(leader));
    assert!(
        cluster.groups[leader].read_index().await.is_err(),
        "a sleeping leader knows nothing of the others"
    );
    assert!(!sleeps(&cluster, leader));
    let new = cluster.leader(&others(leader)).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    assert!(cluster.groups[leader].read_index().await.is_err());
    cluster.board.heal();
    cluster.check_equal(&[0, 1, 2], 2).await;
    all_sleep(&cluster, &[0, 1, 2]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_its_leaders_node_wakes_a_group() {
    let (mut cluster, leader) = asleep().await;
    let begin = Instant::now();
    cluster.stop(leader).await;
    let new = cluster.leader(&others(leader)).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    assert!(begin.elapsed() < TAKEOVER, "{:?}", begin.elapsed());
    cluster.restart(leader).await;
    cluster.check_equal(&[0, 1, 2], 2).await;
    all_sleep(&cluster, &[0, 1, 2]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_were_started_again_wake_the_others() {
    let (mut cluster, leader) = asleep().await;
    for away in [others(leader)[0], leader] {
        cluster.stop(away).await;
        cluster.restart(away).await;
        let now = cluster.leader(&[0, 1, 2]).await;
        assert!(cluster.groups[now].read_index().await.is_ok());
        all_sleep(&cluster, &[0, 1, 2]).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_and_leaders_hand_over_while_a_group_sleeps() {
    let cluster = start(3, 1).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    all_sleep(&cluster, &[0, 1, 2]).await;
    cluster.groups[leader].add_learner(NodeId(4)).await.unwrap();
    all_sleep(&cluster, &[0, 1, 2, 3]).await;
    let gone = others(leader)[0];
    let voters: BTreeSet<NodeId> = (0..4).filter(|at| *at != gone).map(node).collect();
    cluster.groups[leader].change_voters(&voters).await.unwrap();
    assert_eq!(cluster.groups[leader].members(), Members { voters, learners: ids([]) });
    let left = [leader, others(leader)[1], 3];
    all_sleep(&cluster, &left).await;
    cluster.groups[leader].transfer_leader(NodeId(4)).await.unwrap();
    let new = cluster.leader(&[3]).await;
    cluster.groups[new].propose(payload(1)).await.unwrap();
    cluster.check_equal(&left, 2).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_while_its_group_slept_catches_up() {
    let (cluster, leader) = asleep().await;
    let away = others(leader)[0];
    cluster.board.isolate(node(away));
    for number in 1..20 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    wait_until("awake", || !sleeps(&cluster, away)).await;
    assert!(matches!(cluster.groups[away].propose(payload(99)).await, Err(RaftError::NotLeader { .. })));
    cluster.board.heal();
    cluster.check_equal(&[0, 1, 2], 20).await;
    all_sleep(&cluster, &[0, 1, 2]).await;
    cluster.end().await;
}

/// Ballots of each node so far.
static BALLOTS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Counts the ballots that a node asks for.
struct Counts {
    from: NodeId,
    way: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Counts {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        if matches!(request, request::Message::Vote(_) | request::Message::PreVote(_)) {
            BALLOTS[self.from.0 as usize - 1].fetch_add(1, Ordering::SeqCst);
        }
        self.way.call(to, group, request, timeout).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_alone_misses_its_leader_does_not_depose_it() {
    let cluster = start_over(3, 0, |from, way| Arc::new(Counts { from, way })).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    all_sleep(&cluster, &[0, 1, 2]).await;
    let [away, third] = others(leader);
    let term = cluster.groups[leader].log().state().vote;
    cluster.board.cut(node(away), node(leader));
    cluster.board.cut(node(leader), node(away));
    wait_until("awake", || !sleeps(&cluster, away) && !sleeps(&cluster, leader)).await;
    let asked = || BALLOTS[away].load(Ordering::SeqCst);
    let before = asked();
    for number in 1..15 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    // Both of the others, twice.
    wait_until("asked for votes", || asked() >= before + 4).await;
    for number in 15..30 {
        cluster.groups[leader].propose(payload(number)).await.unwrap();
    }
    cluster.board.heal();
    cluster.check_equal(&[0, 1, 2], 30).await;
    assert_eq!(cluster.groups[third].log().state().vote, term, "nobody else was elected");
    all_sleep(&cluster, &[0, 1, 2]).await;
    cluster.end().await;
}

/// Offers whose answers get lost yet.
static TO_LOSE: AtomicU32 = AtomicU32::new(20);
/// Signs that an older version has refused.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Loses answers to some signs after they had their effect.
struct Loses(Arc<dyn Transport>);

#[async_trait]
impl Transport for Loses {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        let is_offer = matches!(&request, request::Message::Sign(sign) if !sign.rests.is_empty());
        let answered = self.0.call(to, group, request, timeout).await;
        let takes = |left: u32| left.checked_sub(1);
        if is_offer && TO_LOSE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes).is_ok() {
            return Err(TransportError::NoAnswer { to, reason: "it got lost".to_owned() });
        }
        answered
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_get_lost_at_falling_asleep_keep_the_leader_awake() {
    let cluster = start_over(3, 0, |_, transport| Arc::new(Loses(transport))).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    let followers = others(leader);
    all_sleep(&cluster, &followers).await;
    if TO_LOSE.load(Ordering::SeqCst) > 0 {
        assert!(!sleeps(&cluster, leader), "it has no word of all");
    }
    cluster.groups[leader].propose(payload(1)).await.unwrap();
    cluster.check_equal(&[0, 1, 2], 2).await;
    all_sleep(&cluster, &[0, 1, 2]).await;
    assert_eq!(TO_LOSE.load(Ordering::SeqCst), 0, "answers got lost");
    assert_eq!(cluster.groups[leader].leader(), Some(node(leader)));
    cluster.end().await;
}

/// A way to or from node 3, which is of an older version.
struct Older {
    from: NodeId,
    way: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Older {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        if [self.from, to].contains(&NodeId(3)) && matches!(request, request::Message::Sign(_)) {
            REFUSED.fetch_add(1, Ordering::SeqCst);
            return Err(TransportError::Refused { to, reason: "of a newer version".to_owned() });
        }
        self.way.call(to, group, request, timeout).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_a_member_that_knows_no_signs_stays_awake() {
    let cluster = start_over(3, 0, |from, way| Arc::new(Older { from, way })).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    cluster.groups[leader].propose(payload(0)).await.unwrap();
    let before = REFUSED.load(Ordering::SeqCst);
    wait_until("refused often", || REFUSED.load(Ordering::SeqCst) >= before + 20).await;
    assert!((0..3).all(|at| !sleeps(&cluster, at)));
    cluster.groups[leader].propose(payload(1)).await.unwrap();
    cluster.end().await;
}
