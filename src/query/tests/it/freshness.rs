//! What strong, session, bounded and eventual reads see, and what their answers tell of it.

use super::support::{AT_ONCE, ENOUGH, TestCluster, config, data, gauges, instant};
use quorate_model::{ErrorCode, Labels, NodeId, PartitionId, Position, SeriesBuffer};
use quorate_query::{PositionToken, QueryConfig, QueryFailure, QueryParams, ReadConsistency, Seen};
use std::pin::pin;
use std::time::Duration;

/// One partition on nodes 1 and 2, which asks node `asked`; a second series is committed, but no replica has it.
struct Behind {
    cluster: TestCluster,
    second: Vec<(Labels, SeriesBuffer)>,
}

impl Behind {
    fn new(places: &[&[u64]], config: &QueryConfig) -> Self {
        let cluster = TestCluster::new(&gauges(1), places, config);
        *cluster.truths[0].committed.lock() = Position(2);
        Self { cluster, second: gauges(2).split_off(1) }
    }

    fn apply(&self, node: u64) {
        let replica = self.cluster.node(node).replicas[0].as_ref().expect("a replica of partition 0");
        replica.apply(&data(1, self.second.iter()));
    }

    async fn count(&self, node: u64, consistency: ReadConsistency) -> Result<String, QueryFailure> {
        self.cluster.node(node).ask(QueryParams { consistency, ..instant("count(up)") }).await
    }
}

#[track_caller]
fn check_count(found: &Result<String, QueryFailure>, expected: u32) {
    let found = found.as_ref().expect("an answer");
    assert!(found.contains(&format!("Float({expected}.0)")), "{found}");
}

fn token(position: u64) -> ReadConsistency {
    let mut token = PositionToken::default();
    token.note(PartitionId(0), Position(position));
    ReadConsistency::Session(token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_read_waits_for_what_is_committed() {
    // The replica is on the node that is asked, or on another.
    for (places, replica) in [(&[&[1u64][..], &[1]], 1), (&[&[2], &[1]], 2)] {
        let behind = Behind::new(places, &config(1 << 30));
        let mut strong = pin!(behind.count(1, ReadConsistency::Strong));
        assert!(tokio::time::timeout(AT_ONCE, strong.as_mut()).await.is_err(), "it does not have it yet");
        check_count(&behind.count(1, ReadConsistency::Eventual).await, 1);
        behind.apply(replica);
        check_count(&strong.await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_what_it_has_seen_and_no_more() {
    let behind = Behind::new(&[&[2], &[1]], &config(1 << 30));
    check_count(&behind.count(1, token(1)).await, 1);
    let mut session = pin!(behind.count(1, token(2)));
    assert!(tokio::time::timeout(AT_ONCE, session.as_mut()).await.is_err(), "it does not have it yet");
    behind.apply(2);
    check_count(&session.await, 2);
    let mut unknown = PositionToken::default();
    unknown.note(PartitionId(9), Position(1));
    let refused = behind.count(1, ReadConsistency::Session(unknown)).await.unwrap_err();
    assert!(refused.to_string().contains("partition 9"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_reached_in_time_is_an_error() {
    for places in [&[&[1u64][..], &[1]], &[&[2], &[1]]] {
        let config = QueryConfig { fresh_within: AT_ONCE, timeout: 4 * AT_ONCE, ..config(1 << 30) };
        let behind = Behind::new(places, &config);
        let failure = behind.count(1, ReadConsistency::Strong).await.unwrap_err();
        assert!(matches!(failure.code(), ErrorCode::Unavailable | ErrorCode::TimedOut), "{failure}");
        check_count(&behind.count(1, ReadConsistency::Eventual).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_only_eventual_reads_are_answered() {
    let config = QueryConfig { fresh_within: 3 * AT_ONCE, ..config(1 << 30) };
    let cluster = TestCluster::new(&gauges(4), &[&[1, 2], &[2, 1]], &config);
    cluster.truths[1].leader.send_replace(None);
    let failure = cluster.node(1).ask(instant("up")).await.unwrap_err();
    assert!(matches!(&failure, QueryFailure::NotFresh(not) if not.partition == PartitionId(1)), "{failure}");
    assert_eq!(failure.code(), ErrorCode::Unavailable);
    let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
    check_count(&cluster.node(1).ask(eventual).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_on_when_a_leader_is_elected() {
    let cluster = TestCluster::new(&gauges(4), &[&[1, 2], &[2, 1]], &config(1 << 30));
    cluster.truths[1].leader.send_replace(None);
    let mut strong = pin!(cluster.node(1).ask(instant("count(up)")));
    assert!(tokio::time::timeout(AT_ONCE, strong.as_mut()).await.is_err());
    cluster.truths[1].leader.send_replace(Some(NodeId(2)));
    check_count(&strong.await, 4);
}

/// The view of node 1 names a leader that is not one, or none: those that it asks know better.
#[tokio::test(flavor = "multi_thread")]
async fn hints_are_followed() {
    for wrong in [None, Some(NodeId(1)), Some(NodeId(2)), Some(NodeId(9))] {
        let cluster = TestCluster::new(&gauges(4), &[&[3, 2], &[3, 1, 2]], &config(1 << 30));
        let mislead = |partition: &quorate_query::PartitionReplicas| quorate_query::PartitionReplicas {
            leader: tokio::sync::watch::channel(wrong).1,
            ..partition.clone()
        };
        let misled = cluster.node(1).cluster.view().partitions().iter().map(mislead).collect();
        cluster.node(1).cluster.publish(quorate_query::PartitionView::new(misled));
        let found = tokio::time::timeout(ENOUGH, cluster.node(1).ask(instant("count(up)"))).await;
        check_count(&found.unwrap(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_not_ready_is_not_read() {
    let cluster = TestCluster::new(&gauges(4), &[&[1, 2]], &config(1 << 30));
    let starting = |node: u64, is_ready: bool| {
        cluster.node(node).replicas[0].as_ref().unwrap().is_ready.send_replace(!is_ready);
    };
    starting(1, true);
    for consistency in [ReadConsistency::Strong, ReadConsistency::Eventual] {
        let query = QueryParams { consistency, ..instant("count(up)") };
        check_count(&cluster.node(1).ask(query).await, 4);
    }
    starting(2, true);
    let mut waiting = pin!(cluster.node(1).ask(instant("count(up)")));
    assert!(tokio::time::timeout(AT_ONCE, waiting.as_mut()).await.is_err(), "no replica is ready");
    starting(2, false);
    check_count(&waiting.await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_no_partition_yet_refuses() {
    let cluster = TestCluster::new(&gauges(1), &[&[1]], &config(1 << 30));
    cluster.node(1).cluster.publish(quorate_query::PartitionView::default());
    let failure = cluster.node(1).ask(instant("up")).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::Unavailable, "{failure}");
}

async fn seen(cluster: &TestCluster, node: u64, query: QueryParams) -> Seen {
    let answer = cluster.node(node).queries.query(query, |_, _, _| Ok(())).await;
    answer.expect("an answer").seen
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_tells_how_far_its_replicas_had_come() {
    // The replica is on the node that is asked, or on another. It may be ahead of what the leader has confirmed.
    for (places, replica) in [(&[&[1u64][..], &[1]], 1), (&[&[2], &[1]], 2)] {
        let behind = Behind::new(places, &config(1 << 30));
        *behind.cluster.truths[0].committed.lock() = Position(1);
        for (applied, expected) in [(false, 1), (true, 2)] {
            if applied {
                behind.apply(replica);
            }
            for consistency in [ReadConsistency::Strong, token(1), ReadConsistency::Bounded(ENOUGH)] {
                let query = QueryParams { consistency, ..instant("count(up)") };
                let positions =
                    seen(&behind.cluster, 1, query).await.positions.expect("it promises something");
                assert_eq!(positions.position(PartitionId(0)), Position(expected));
            }
        }
        let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
        assert_eq!(seen(&behind.cluster, 1, eventual).await, Seen::default());
    }
}

/// Only node 1 has a replica: there is no other to ask, and what it lacks becomes a gap before anything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_leaves_a_session_where_it_was() {
    let config = QueryConfig { fresh_within: 4 * AT_ONCE, ..config(1 << 30) };
    let behind = Behind::new(&[&[1], &[1]], &config);
    let partial = QueryParams { consistency: token(2), allow_partial: true, ..instant("count(up)") };
    let partial = seen(&behind.cluster, 1, partial).await;
    assert_eq!(partial.gaps.len(), 1, "{partial:?}");
    let session = || ReadConsistency::Session(partial.positions.clone().expect("it promises something"));
    let refused = behind.count(1, session()).await.unwrap_err();
    assert!(matches!(&refused, QueryFailure::NotFresh(not) if not.partition == PartitionId(0)), "{refused}");
    behind.apply(1);
    check_count(&behind.count(1, session()).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_tenant_without_data_keeps_its_token() {
    let cluster = TestCluster::new(&gauges(1), &[&[1]], &config(1 << 30));
    let nobody = |consistency| QueryParams { tenant: None, consistency, ..instant("up") };
    let ReadConsistency::Session(shown) = token(9) else { panic!() };
    assert_eq!(seen(&cluster, 1, nobody(token(9))).await.positions, Some(shown));
    let strong = seen(&cluster, 1, nobody(ReadConsistency::Strong)).await;
    assert_eq!(strong.positions, Some(PositionToken::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_read_sees_what_was_confirmed_within_its_bound() {
    let behind = Behind::new(&[&[1], &[1]], &config(1 << 30));
    *behind.cluster.truths[0].committed.lock() = Position(1);
    check_count(&behind.count(1, ReadConsistency::Strong).await, 1);
    *behind.cluster.truths[0].committed.lock() = Position(2);
    let bounded = |delay| behind.count(1, ReadConsistency::Bounded(delay));
    check_count(&bounded(60 * ENOUGH).await, 1);
    let mut none = pin!(bounded(Duration::ZERO));
    assert!(tokio::time::timeout(AT_ONCE, none.as_mut()).await.is_err(), "it may not lie behind at all");
    behind.apply(1);
    check_count(&none.await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_nobody_confirms_is_an_error() {
    let config = QueryConfig { fresh_within: 3 * AT_ONCE, ..config(1 << 30) };
    let cluster = TestCluster::new(&gauges(4), &[&[1, 2]], &config);
    let bounded =
        |delay| QueryParams { consistency: ReadConsistency::Bounded(delay), ..instant("count(up)") };
    check_count(&cluster.node(1).ask(bounded(ENOUGH)).await, 4);
    cluster.truths[0].leader.send_replace(None);
    check_count(&cluster.node(1).ask(bounded(60 * ENOUGH)).await, 4);
    let failure = cluster.node(1).ask(bounded(Duration::ZERO)).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::Unavailable, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn eventual_answers_are_stale_without_a_leader() {
    let cluster = TestCluster::new(&gauges(4), &[&[1, 2], &[2, 1]], &config(1 << 30));
    let eventual = || QueryParams { consistency: ReadConsistency::Eventual, ..instant("up") };
    cluster.truths[1].leader.send_replace(None);
    for tenant in [eventual().tenant, None] {
        let found = seen(&cluster, 1, QueryParams { tenant, ..eventual() }).await;
        assert_eq!((found.stale, found.positions), (vec![PartitionId(1)], None));
    }
    cluster.truths[1].leader.send_replace(Some(NodeId(2)));
    check_count(&cluster.node(1).ask(instant("count(up)")).await, 4);
    assert_eq!(seen(&cluster, 1, eventual()).await, Seen::default(), "a strong read has asked meanwhile");
}
