//! A node that is alone.

use super::support::{ENOUGH, Stores, TENANT, catalog, config, gauges, instant, share};
use async_trait::async_trait;
use quorate_model::{MatchOp, Matcher, PartitionId, Position, SystemClock, TimeRange};
use quorate_promql::engine::{NoGuard, QueryError, QueryGuard};
use quorate_promql::source::conformance::{TestSeries, check_source};
use quorate_promql::source::{SelectRequest, SeriesSource, SourceError};
use quorate_query::freshness::Reading;
use quorate_query::source::ClusterSource;
use quorate_query::{
    Cluster, LocalReplica, QueryFailure, QueryLimits, QueryService, ReadConsistency, ReplicaState,
};
use std::sync::Arc;
use tokio::runtime::Runtime;

const PARTITIONS: usize = 3;

/// The state of stores that nobody writes.
struct Fixed;

#[async_trait]
impl ReplicaState for Fixed {
    fn is_ready(&self) -> bool {
        true
    }

    async fn reached(&self, _position: Position) -> Result<(), String> {
        Ok(())
    }
}

/// Three partitions that hold `series`, dealt out in turn.
struct Node {
    cluster: Arc<Cluster>,
    _stores: Stores,
}

impl Node {
    fn holding(series: &TestSeries) -> Self {
        let stores = Stores::new();
        let open = |nth| stores.open(PartitionId(nth as u32), &[share(series, nth, PARTITIONS)]);
        let fixed = |store| LocalReplica { store, state: Arc::new(Fixed), index: None };
        let replicas = (0..PARTITIONS).map(open).map(fixed).collect();
        Self { cluster: Cluster::alone(replicas), _stores: stores }
    }

    fn source(&self, runtime: &Runtime, limits: QueryLimits) -> ClusterSource {
        let until = runtime.block_on(async { tokio::time::Instant::now() }) + ENOUGH;
        let reading = runtime
            .block_on(Reading::begin(&self.cluster, &ReadConsistency::Strong, false, until))
            .expect("a node that is alone");
        ClusterSource::new(Some((TENANT, reading)), limits, until, runtime.handle().clone())
    }

    fn service(&self, memory_budget: u64) -> QueryService {
        QueryService::new(self.cluster.clone(), config(memory_budget), Arc::new(SystemClock))
    }
}

#[test]
fn the_partitions_of_a_node_keep_the_contract() {
    let runtime = Runtime::new().unwrap();
    check_source(|series| Box::new(Node::holding(series).source(&runtime, QueryLimits::default())));
}

#[test]
fn the_series_limit_counts_all_selectors_of_a_query() {
    let runtime = Runtime::new().unwrap();
    let node = Node::holding(&gauges(10));
    let source = node.source(&runtime, QueryLimits { max_series: 12, ..QueryLimits::default() });
    let select = |pod: &str| {
        let matchers = [Matcher::new("pod", MatchOp::Regex, pod).unwrap()];
        let request = SelectRequest { matchers: &matchers, range: TimeRange::ALL, step_ms: 0 };
        source.select(&request, &NoGuard).map(|selection| selection.len())
    };
    assert_eq!(select("p00[0-4]").unwrap(), 5);
    assert_eq!(select("p00[3-9]").unwrap(), 7);
    let refused = select("p000").unwrap_err();
    assert!(matches!(&refused, SourceError::Limit(text) if text.contains("limit: 12 series")), "{refused}");
}

#[tokio::test]
async fn an_answer_stays_charged_until_it_is_dropped() {
    let node = Node::holding(&gauges(10));
    let service = node.service(1 << 30);
    let answer = service
        .query(instant("up"), |_, _, guard| {
            guard.charge(1 << 20)?;
            Ok("rendered")
        })
        .await
        .unwrap();
    assert_eq!((answer.output, service.running()), ("rendered", 0));
    assert!(service.memory().in_use() > 1 << 20, "{}", service.memory().in_use());
    drop(answer);
    assert_eq!(service.memory().in_use(), 0);
}

#[tokio::test]
async fn selecting_and_listing_are_within_the_budget() {
    let node = Node::holding(&gauges(300));
    let service = node.service(40_000); // a query gets a quarter
    let refused = service.query(instant("count(up)"), |_, _, _| Ok(())).await.unwrap_err();
    assert!(refused.to_string().contains("memory limit of 10000 bytes"), "{refused}");
    let series = service.series(catalog(), |found, _| Ok(found.entries.len())).await;
    assert!(matches!(series, Err(QueryFailure::Engine(QueryError::Budget(_)))));
    let pods = service.label_values("pod".into(), catalog(), |found, _| Ok(found.entries.len())).await;
    assert!(matches!(pods, Err(QueryFailure::Engine(QueryError::Budget(_)))));
    let names = service.label_names(catalog(), |found, _| Ok(found.entries)).await.unwrap();
    assert_eq!(names.output, ["__name__", "pod"]);
    drop(names);
    assert_eq!(service.memory().in_use(), 0);
}

#[tokio::test]
async fn a_wrong_text_is_the_clients_error() {
    let node = Node::holding(&gauges(PARTITIONS));
    let failure = node.service(1 << 30).query(instant("up{"), |_, _, _| Ok(())).await.unwrap_err();
    assert!(matches!(failure, QueryFailure::Parse(_)), "{failure}");
}
