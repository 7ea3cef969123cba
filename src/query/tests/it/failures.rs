//! Replicas that fail while they are read.

use super::support::{TENANT, TestCluster, catalog, config, gauges, instant};
use async_trait::async_trait;
use quorate_model::{ErrorCode, Labels, NodeId, PartitionId, SeriesBuffer};
use quorate_promql::engine::{QueryOutput, Value};
use quorate_promql::source::SourceError;
use quorate_query::{
    CatalogParams, EvalTimes, FragmentService, QueryConfig, QueryFailure, QueryParams, ReadConsistency,
};
use quorate_wire::store::frame::{Content, End, end};
use quorate_wire::{StoreHandler, store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver};

/// What a replica does wrong with each frame: gives another, or ends without one.
type Wrong = fn(store::Frame) -> Option<store::Frame>;

struct Failing {
    inner: Arc<dyn StoreHandler>,
    wrong: Wrong,
}

impl Failing {
    fn spoil(&self, mut frames: Receiver<store::Frame>) -> Receiver<store::Frame> {
        let (spoilt, answer) = mpsc::channel(1);
        let wrong = self.wrong;
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await.and_then(wrong) {
                if spoilt.send(frame).await.is_err() {
                    return;
                }
            }
        });
        answer
    }
}

#[async_trait]
impl StoreHandler for Failing {
    async fn read_index(&self, request: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        self.inner.read_index(request).await
    }

    async fn select(&self, request: store::SelectRequest) -> Result<Receiver<store::Frame>, String> {
        Ok(self.spoil(self.inner.select(request).await?))
    }

    async fn list(&self, request: store::ListRequest) -> Result<Receiver<store::Frame>, String> {
        Ok(self.spoil(self.inner.list(request).await?))
    }
}

fn end(outcome: end::Outcome) -> Option<store::Frame> {
    Some(store::Frame { content: Some(Content::End(End { outcome: Some(outcome) })) })
}

/// All ways in which an answer may go wrong after its frames began.
const WRONGS: &[Wrong] = &[
    |frame| Some(frame).filter(|frame| matches!(frame.content, Some(Content::Part(_)))),
    |frame| match frame.content {
        Some(Content::Part(part)) if !part.is_empty() => {
            Some(store::Frame { content: Some(Content::Part(part.slice(..part.len() - 1))) })
        }
        other => Some(store::Frame { content: other }),
    },
    |frame| match frame.content {
        Some(Content::Part(part)) if !part.is_empty() => {
            let other_partition = [&part[..2], &[9, 0, 0, 0], &part[6..]].concat();
            Some(store::Frame { content: Some(Content::Part(other_partition.into())) })
        }
        other => Some(store::Frame { content: other }),
    },
    |frame| match frame.content {
        Some(Content::End(_)) => end(end::Outcome::Unavailable("it is tired".into())),
        other => Some(store::Frame { content: other }),
    },
    |frame| match frame.content {
        Some(Content::End(_)) => end(end::Outcome::Failed("it is broken".into())),
        other => Some(store::Frame { content: other }),
    },
    |frame| match frame.content {
        Some(Content::End(_)) => Some(store::Frame { content: Some(Content::End(End { outcome: None })) }),
        other => Some(store::Frame { content: other }),
    },
    |_| Some(store::Frame { content: None }),
];

fn failing(cluster: &TestCluster, node: u64, wrong: Wrong) {
    cluster.wrap(node, |inner| Arc::new(Failing { inner, wrong }));
}

/// What node 1 counts, and the bytes that the answer is charged with. It has no replica itself and asks node 2 first
/// for the two partitions that it leads.
async fn count(wrong: Option<Wrong>) -> (String, u64) {
    let cluster = TestCluster::new(&gauges(9), &[&[3, 2], &[2, 3], &[2, 3]], &config(1 << 30));
    if let Some(wrong) = wrong {
        failing(&cluster, 2, wrong);
    }
    let queries = &cluster.node(1).queries;
    let listed =
        queries.series(catalog(), |found, _| Ok(found.entries.len())).await.expect("a healthy cluster");
    assert_eq!(listed.output, 9);
    drop(listed);
    let answer = queries
        .query(instant("count(up)"), |found, _, _| Ok(format!("{:?}", found.value)))
        .await
        .expect("a healthy cluster");
    let held = queries.memory().in_use();
    (answer.output, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_answers_for_one_that_fails() {
    let healthy = count(None).await;
    assert!(healthy.0.contains("Float(9.0)"), "{}", healthy.0);
    for wrong in WRONGS {
        assert_eq!(count(Some(*wrong)).await, healthy, "what the failed one sent is given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_passed_over() {
    let cluster = TestCluster::new(&gauges(9), &[&[3, 2], &[3, 2]], &config(1 << 30));
    cluster.board.disconnect(NodeId(2));
    let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
    let found = cluster.node(1).ask(eventual).await.unwrap();
    assert!(found.contains("Float(9.0)"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_partition_is_an_error() {
    let cluster = TestCluster::new(&gauges(9), &[&[1], &[3, 2]], &config(1 << 30));
    cluster.board.disconnect(NodeId(2));
    failing(&cluster, 3, WRONGS[3]);
    let eventual = || QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
    let failure = cluster.node(1).ask(eventual()).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::Unavailable);
    let text = failure.to_string();
    for part in ["partition 1 cannot be read", "node 2: ", "node 3: it is tired"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(cluster.node(1).queries.memory().in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_allows_gaps_goes_on_without_a_partition() {
    // Of 20 series partition 1 has ten, and it has them to itself.
    let config = QueryConfig { fresh_within: Duration::from_secs(4), ..config(1 << 30) };
    let cluster = TestCluster::new(&gauges(20), &[&[1], &[3, 2]], &config);
    cluster.board.disconnect(NodeId(2));
    cluster.board.disconnect(NodeId(3));
    let queries = &cluster.node(1).queries;
    for consistency in [ReadConsistency::Eventual, ReadConsistency::Strong] {
        let partial = || QueryParams {
            consistency: consistency.clone(),
            allow_partial: true,
            ..instant("count(up) + count(up)")
        };
        let complete = QueryParams { allow_partial: false, ..partial() };
        assert_eq!(cluster.node(1).ask(complete).await.unwrap_err().code(), ErrorCode::Unavailable);
        let answer = queries.query(partial(), |found, _, _| Ok(format!("{:?}", found.value))).await.unwrap();
        assert!(answer.output.contains("Float(20.0)"), "{}", answer.output);
        let [gap] = &answer.seen.gaps[..] else { panic!("{:?}", answer.seen) };
        assert!(gap.partition == PartitionId(1) && !gap.reason.is_empty(), "{gap:?}");
        let params = CatalogParams { consistency: consistency.clone(), allow_partial: true, ..catalog() };
        let listed = queries.series(params, |found, _| Ok(found.entries.len())).await.unwrap();
        assert_eq!((listed.output, listed.seen.gaps.len()), (10, 1));
    }
    assert_eq!(queries.memory().in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_no_gap() {
    let cluster = TestCluster::new(&gauges(9), &[&[1], &[2]], &config(1 << 30));
    failing(&cluster, 2, WRONGS[4]);
    let failure =
        cluster.node(1).ask(QueryParams { allow_partial: true, ..instant("up") }).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::Internal, "{failure}");
}

/// A peer that answers no more, though its connection stands.
struct Silent(mpsc::UnboundedSender<mpsc::Sender<store::Frame>>);

#[async_trait]
impl StoreHandler for Silent {
    async fn read_index(&self, _: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        std::future::pending().await
    }

    async fn select(&self, _: store::SelectRequest) -> Result<Receiver<store::Frame>, String> {
        let (frames, answer) = mpsc::channel(1);
        self.0.send(frames).map_err(|_| "the test is over")?;
        Ok(answer)
    }

    async fn list(&self, _: store::ListRequest) -> Result<Receiver<store::Frame>, String> {
        std::future::pending().await
    }
}

/// Node 1 takes node 3 for the leader of partition 1, which node 4 is. Node 2, which leads partition 0, says nothing
/// for longer than the question may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_does_not_hold_up_a_hint() {
    let config = QueryConfig { fresh_within: Duration::from_secs(4), ..config(1 << 30) };
    let cluster = TestCluster::new(&gauges(9), &[&[2], &[4, 3]], &config);
    let (calls, _called) = mpsc::unbounded_channel();
    cluster.wrap(2, |_| Arc::new(Silent(calls)));
    let mut partitions = cluster.node(1).cluster.view().partitions().to_vec();
    partitions[1].leader = tokio::sync::watch::channel(Some(NodeId(3))).1;
    cluster.node(1).cluster.publish(quorate_query::PartitionView::new(partitions));
    let query = QueryParams { allow_partial: true, ..instant("count(up)") };
    let seen = cluster.node(1).queries.query(query, |_, _, _| Ok(())).await.unwrap().seen;
    let gaps: Vec<PartitionId> = seen.gaps.iter().map(|gap| gap.partition).collect();
    assert_eq!(gaps, [PartitionId(0)], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_falls_silent_is_given_up() {
    let cluster = TestCluster::new(&gauges(9), &[&[2, 3]], &config(1 << 30));
    let (calls, mut called) = mpsc::unbounded_channel();
    cluster.wrap(2, |_| Arc::new(Silent(calls)));
    let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
    let found = cluster.node(1).ask(eventual).await.unwrap();
    assert!(found.contains("Float(9.0)"), "{found}");
    called.recv().await.unwrap().closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_work_on_other_nodes() {
    let cluster = TestCluster::new(&gauges(3), &[&[2]], &config(1 << 30));
    let (calls, mut called) = mpsc::unbounded_channel();
    cluster.wrap(2, |_| Arc::new(Silent(calls)));
    let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("up") };
    let queries = cluster.node(1).queries.clone();
    let query = tokio::spawn(async move { queries.query(eventual, |_, _, _| Ok(())).await.map(drop) });
    let frames = called.recv().await.unwrap();
    query.abort();
    frames.closed().await;
}

/// Ten series of many samples: more frames than may wait.
fn large() -> Vec<(Labels, SeriesBuffer)> {
    let samples = SeriesBuffer {
        ts_ms: (0..100_000).collect(),
        values: (0..100_000).map(f64::from).collect(),
        ..SeriesBuffer::default()
    };
    gauges(20).into_iter().map(|(labels, _)| (labels, samples.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_a_peer_ends_when_it_is_gone_and_waits_while_it_is_slow() {
    let cluster = TestCluster::new(&large(), &[&[1]], &config(1 << 30));
    let queries = cluster.node(1).queries.clone();
    let service = FragmentService::new(queries.clone());
    let request = store::SelectRequest {
        tenant: TENANT.0,
        replicas: vec![store::Replica { partition: 0, position: 1 }],
        start_ms: i64::MIN,
        end_ms: i64::MAX,
        timeout_ms: 60_000,
        ..store::SelectRequest::default()
    };
    let mut frames = service.select(request).await.unwrap();
    assert!(frames.recv().await.is_some());
    while frames.len() < quorate_wire::QUEUED_FRAMES {
        tokio::task::yield_now().await;
    }
    assert!(queries.memory().in_use() > 0);
    drop(frames);
    while queries.memory().in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_come_whole() {
    let cluster = TestCluster::new(&large(), &[&[2]], &config(1 << 30));
    let query = QueryParams { times: EvalTimes::Instant(40_000), ..instant("up[39s]") };
    let count = |found: QueryOutput| match found.value {
        Value::Matrix(series) => series.iter().map(|series| series.floats.len()).collect(),
        _ => Vec::new(),
    };
    let found = cluster.node(1).queries.query(query, move |found, _, _| Ok(count(found))).await.unwrap();
    assert_eq!(found.output, [39_000; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_one_replica_is_no_reason_to_ask_another() {
    let cluster = TestCluster::new(&gauges(9), &[&[2, 3]], &config(1 << 30));
    failing(&cluster, 2, |frame| match frame.content {
        Some(Content::End(_)) => end(end::Outcome::Limit("too much".into())),
        other => Some(store::Frame { content: other }),
    });
    let failure = cluster.node(1).ask(instant("up")).await.unwrap_err();
    let QueryFailure::Engine(quorate_promql::engine::QueryError::Source(SourceError::Limit(text))) = &failure
    else {
        panic!("{failure}")
    };
    assert_eq!(text, "too much");
}
