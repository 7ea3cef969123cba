//! Several nodes answer as one does.

use super::support::{TENANT, TestCluster, TestNode, catalog, config, data, gauges, instant, same_value};
use proptest::prelude::*;
use quorate_model::{Labels, MatchOp, Matcher, NodeId, SeriesBuffer};
use quorate_promql::engine::{QueryGuard, Value};
use quorate_promql::source::conformance::check_source;
use quorate_promql::source::{SelectRequest, Selection, SeriesSource, SourceError};
use quorate_query::source::ClusterSource;
use quorate_query::{
    CatalogParams, EvalTimes, FragmentService, QueryFailure, QueryLimits, QueryParams, ReadConsistency,
};
use quorate_wire::store::read_index_answer::index::Outcome;
use quorate_wire::{StoreHandler, store};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Three partitions, none of them with all on one node.
const SPREAD: &[&[u64]] = &[&[1], &[2], &[3]];
/// Five partitions on two of three nodes each.
const DOUBLE: &[&[u64]] = &[&[1, 2], &[2, 3], &[3, 1], &[1, 2], &[2, 3]];
/// As many on one node.
const ALONE: &[&[u64]] = &[&[1], &[1], &[1], &[1], &[1]];

/// A source, and the nodes that it reads from.
struct Kept {
    source: ClusterSource,
    _cluster: TestCluster,
}

impl SeriesSource for Kept {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        self.source.select(request, guard)
    }
}

#[test]
fn partitions_of_several_nodes_keep_the_contract() {
    let runtime = Runtime::new().unwrap();
    for (places, node) in [(SPREAD, 1), (SPREAD, 3), (DOUBLE, 1), (ALONE, 1)] {
        check_source(|series| {
            let _context = runtime.enter();
            let cluster = TestCluster::new(series, places, &config(1 << 30));
            let asked = cluster.node(node).source(QueryLimits::default(), &ReadConsistency::Strong);
            let source = runtime.block_on(asked);
            Box::new(Kept { source, _cluster: cluster })
        });
    }
}

const QUERIES: &[&str] = &[
    "m",
    "m[1m]",
    "sum by (job) (rate(m[30s]))",
    "count(m)",
    r#"m{job=~"a|b",pod!="p1"}"#,
    r#"m{absent=""} + on (pod, job) group_left m"#,
    "topk(3, m)",
    "stddev(m) / avg(m)",
    "absent(nothing)",
    "sum(m) without (pod)",
    "avg by (pod) (m) > 0",
    "max(m) or min(m)",
    "sum(max_over_time(m[30s] offset 5s)) by (job)",
    "quantile by (job) (0.4, m)",
    "max_over_time(count(m > 1)[1m:10s])",
    "rate({job=\"a\"}[30s])",
];

fn any_series() -> impl Strategy<Value = Vec<(Labels, SeriesBuffer)>> {
    let sample = (0i64..120, prop_oneof![any::<f64>(), (0u32..100).prop_map(f64::from)]);
    let samples = prop::collection::btree_map(0i64..120, sample.prop_map(|(_, value)| value), 1..20);
    let labels = ("[abc]", "p[0-9]");
    prop::collection::btree_map(labels, samples, 0..12).prop_map(|series| {
        let series = series.into_iter().map(|((job, pod), samples)| {
            let labels = Labels::from_pairs([("__name__", "m"), ("job", &*job), ("pod", &*pod)]);
            let (ts_ms, values) = samples.into_iter().map(|(t, value)| (t * 1_000, value)).unzip();
            (labels, SeriesBuffer { ts_ms, values, ..SeriesBuffer::default() })
        });
        series.collect()
    })
}

/// What a query gives at one time and at many, values of series instead of samples included.
async fn values(node: &TestNode) -> Vec<Result<Value, String>> {
    let mut values = Vec::new();
    for query in QUERIES {
        let range = |step_ms| EvalTimes::Range { start_ms: 10_000, end_ms: 110_000, step_ms };
        for times in [EvalTimes::Instant(60_000), range(7_000), range(20_000)] {
            let query = QueryParams { times, ..instant(query) };
            let answer = node.queries.query(query, |found, _, _| Ok(found.value)).await;
            values.push(answer.map(|answer| answer.output).map_err(|failure| failure.to_string()));
        }
    }
    values
}

/// Asks for everything but values. Failures are part of the answer.
async fn answers(node: &TestNode) -> Vec<String> {
    let mut answers = Vec::new();
    let matchers = |op, value| vec![Matcher::new("job", op, value).expect("a good matcher")];
    let sets = [vec![], vec![matchers(MatchOp::Equal, "a"), matchers(MatchOp::NotRegex, "a|b")]];
    for (matcher_sets, limit) in sets.into_iter().flat_map(|sets| [(sets.clone(), 0), (sets, 2)]) {
        let params = || CatalogParams { matcher_sets: matcher_sets.clone(), limit, ..catalog() };
        let queries = &node.queries;
        answers.push(said(
            queries.series(params(), |found, _| Ok(format!("{found:?}"))).await.map(|a| a.output),
        ));
        let names = queries.label_names(params(), |found, _| Ok(format!("{found:?}"))).await;
        answers.push(said(names.map(|answer| answer.output)));
        let pods = queries.label_values("pod".into(), params(), |found, _| Ok(format!("{found:?}"))).await;
        answers.push(said(pods.map(|answer| answer.output)));
    }
    answers.extend(figures(node).await);
    answers
}

async fn figures(node: &TestNode) -> Vec<String> {
    let strong = || ReadConsistency::Strong;
    let metadata =
        |family| node.queries.metadata(Some(TENANT), family, strong(), |found, _| Ok(format!("{found:?}")));
    let all = metadata(None).await.expect("a healthy cluster").output;
    let one = metadata(Some("m".into())).await.expect("a healthy cluster").output;
    let none = metadata(Some("n".into())).await.expect("a healthy cluster").output;
    let counts = node.queries.cardinality(Some(TENANT), strong(), |found, _| Ok(format!("{found:?}"))).await;
    vec![all, one, none, counts.expect("a healthy cluster").output]
}

fn said(answer: Result<String, QueryFailure>) -> String {
    answer.unwrap_or_else(|failure| failure.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_node_of_a_cluster_answers_what_one_node_answers(series in any_series()) {
        let runtime = Runtime::new().expect("a runtime");
        let ask_all = |places, asked: &[u64]| -> Vec<(Vec<_>, Vec<String>)> {
            runtime.block_on(async {
                let cluster = TestCluster::new(&series, places, &config(1 << 30));
                let mut all = Vec::new();
                for node in asked {
                    all.push((values(cluster.node(*node)).await, answers(cluster.node(*node)).await));
                }
                all
            })
        };
        let (values, answers) = ask_all(ALONE, &[1]).remove(0);
        for (places, asked) in [(DOUBLE, &[1, 2, 3][..]), (SPREAD, &[2])] {
            for (found_values, found) in ask_all(places, asked) {
                prop_assert!(places == SPREAD || found == answers, "{found:?} is not {answers:?}");
                for (nth, (found, expected)) in found_values.iter().zip(&values).enumerate() {
                    let is_same = match (found, expected) {
                        (Ok(found), Ok(expected)) => same_value(found, expected),
                        (found, expected) => found == expected,
                    };
                    prop_assert!(is_same, "{}: {found:?} is not {expected:?}", QUERIES[nth / 3]);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_over_all_nodes_with_the_same_words() {
    let limits = QueryLimits { max_series: 5, ..QueryLimits::default() };
    let query = || QueryParams { limits, ..instant("up") };
    let (series, three) = (gauges(9), gauges(6));
    let alone = TestCluster::new(&series, &[&[1]], &config(1 << 30)).node(1).ask(query()).await.unwrap_err();
    let whole = TestCluster::new(&three, SPREAD, &config(1 << 30)).node(1).ask(query()).await.unwrap_err();
    let one_partition = TestCluster::new(&series, &[&[2], &[1]], &config(1 << 30));
    let remote =
        one_partition.node(1).ask(QueryParams { limits: QueryLimits { max_series: 4, ..limits }, ..query() });
    assert_eq!(alone.to_string(), whole.to_string());
    assert_eq!(alone.code(), remote.await.unwrap_err().code());
    let listed = TestCluster::new(&series, SPREAD, &config(1 << 30));
    let listed = listed.node(1).queries.series(CatalogParams { limits, ..catalog() }, |_, _| Ok(())).await;
    assert!(listed.unwrap_err().to_string().contains("limit: 5 series"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lower_partition_wins_if_two_have_a_series() {
    let series = |value| {
        let samples = SeriesBuffer { ts_ms: vec![1_000], values: vec![value], ..SeriesBuffer::default() };
        vec![(Labels::from_pairs([("__name__", "up")]), samples)]
    };
    let cluster = TestCluster::new(&[], SPREAD, &config(1 << 30));
    for (nth, value) in [(1, 1.0), (2, 2.0)] {
        let replica = cluster.node(nth + 1).replicas[nth as usize].as_ref().unwrap();
        replica.apply(&data(0, series(value).iter()));
    }
    for node in &cluster.nodes {
        let found = node.ask(instant("up")).await.unwrap();
        assert!(found.contains("Float(1.0)") && !found.contains("Float(2.0)"), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_a_number_has_nothing_and_asks_nobody() {
    let cluster = TestCluster::new(&gauges(3), SPREAD, &config(1 << 30));
    cluster.board.isolate(NodeId(1));
    let nobody = QueryParams { tenant: None, ..instant("up") };
    assert_eq!(cluster.node(1).ask(nobody).await.unwrap(), "Vector([])");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_for_others_is_charged_here_and_there_and_given_back() {
    let cluster = TestCluster::new(&gauges(300), SPREAD, &config(1 << 30));
    let answer = cluster.node(1).queries.query(instant("up"), |_, _, _| Ok(())).await.unwrap();
    assert!(cluster.node(1).queries.memory().in_use() > 0);
    drop(answer);
    for node in &cluster.nodes {
        assert_eq!(node.queries.memory().in_use(), 0);
    }
    let small = TestCluster::new(&gauges(300), &[&[2]], &config(40_000));
    let refused = small.node(1).ask(instant("count(up)")).await.unwrap_err();
    assert!(refused.to_string().contains("memory limit of 10000 bytes"), "{refused}");
}

async fn indexes(node: &TestNode, partitions: Vec<u32>) -> Vec<Option<Outcome>> {
    let service = FragmentService::new(node.queries.clone());
    let answer =
        service.read_index(store::ReadIndexRequest { partitions }).await.expect("a request that makes sense");
    answer.indexes.into_iter().map(|index| index.outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_positions_of_what_it_leads_and_else_who_does() {
    let cluster = TestCluster::new(&gauges(3), &[&[1, 2], &[2, 1], &[3]], &config(1 << 30));
    let found = indexes(cluster.node(1), vec![0, 1, 2]).await;
    assert_eq!(found, [Outcome::Position(1), Outcome::NotLeader(2), Outcome::NotLeader(3)].map(Some));
    cluster.truths[0].leader.send_replace(None);
    assert_eq!(
        indexes(cluster.node(1), vec![9, 0]).await,
        [Outcome::NotLeader(0), Outcome::NotLeader(0)].map(Some)
    );
    let service = FragmentService::new(cluster.node(1).queries.clone());
    let many = service.read_index(store::ReadIndexRequest { partitions: vec![0; 4] }).await;
    assert_eq!(many, Err("4 partitions are more than there are".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused() {
    let cluster = TestCluster::new(&gauges(3), &[&[1], &[2]], &config(1 << 30));
    let service: Arc<dyn StoreHandler> = Arc::new(FragmentService::new(cluster.node(1).queries.clone()));
    let replica = |partition| store::Replica { partition, position: 0 };
    let select = |replicas| store::SelectRequest { replicas, timeout_ms: 1_000, ..Default::default() };
    for replicas in [vec![replica(1)], vec![replica(7)], vec![replica(0), replica(0)]] {
        assert!(service.select(select(replicas)).await.is_err());
    }
    assert!(service.list(store::ListRequest::default()).await.is_err());
}
