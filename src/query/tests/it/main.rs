//! The node's partitions as one source, over real stores in memory.

use quorate_kv::{Kv, MemKv};
use quorate_model::{
    Definition, FlushMark, HistogramSample, Labels, LogRecord, Matcher, PartitionId, Position, RecordBody,
    RecordHeader, SeriesBuffer, SeriesRef, SessionId, Slot, SubBatch, SystemClock, TenantId, TimeRange,
};
use quorate_promql::engine::{NoGuard, QueryError, QueryGuard};
use quorate_promql::source::conformance::{TestSeries, check_source};
use quorate_promql::source::{SelectRequest, Selection, SeriesSource, SourceError};
use quorate_query::source::LocalSource;
use quorate_query::{
    CatalogParams, EvalTimes, QueryConfig, QueryFailure, QueryLimits, QueryParams, QueryService,
};
use quorate_tsdb::{Disk, PartitionStore, StoreConfig};
use std::sync::Arc;
use std::time::Duration;

const TENANT: TenantId = TenantId(7);
const PARTITIONS: usize = 3;

/// Three partitions that hold `series`, dealt out in turn; the second one has flushed what it has.
struct Node {
    stores: Arc<[Arc<PartitionStore>]>,
    _folder: tempfile::TempDir,
}

impl Node {
    fn holding(series: &TestSeries) -> Self {
        let folder = tempfile::tempdir().expect("a store in memory works");
        let kv: Arc<dyn Kv> = Arc::new(MemKv::default());
        let disk = Disk::open(kv, 1, 8 << 20).expect("a store in memory works");
        let open = |number: usize| {
            let dir = folder.path().join(number.to_string());
            let id = PartitionId(number as u32);
            let store = PartitionStore::open(&disk, &dir, id, StoreConfig::default())
                .expect("a store in memory works");
            let mine = series.iter().skip(number).step_by(PARTITIONS);
            store
                .apply(Position(1), &record(RecordBody::Data(vec![batch(mine)])))
                .expect("a store in memory works");
            if number == 1 {
                let marks = vec![FlushMark { window_start_ms: 0, generation: 0 }];
                store
                    .apply(Position(2), &record(RecordBody::FlushMark(marks)))
                    .expect("a store in memory works");
                assert_eq!(store.flush().expect("a store in memory works").blocks, 1);
            }
            Arc::new(store)
        };
        Self { stores: (0..PARTITIONS).map(open).collect(), _folder: folder }
    }

    fn with_gauges(count: usize) -> Self {
        let series: Vec<_> = (0..count)
            .map(|nth| {
                let labels = Labels::from_pairs([("__name__", "up"), ("pod", format!("p{nth:03}").as_str())]);
                (labels, SeriesBuffer { ts_ms: vec![1_000], values: vec![nth as f64], ..Default::default() })
            })
            .collect();
        Self::holding(&series)
    }

    fn source(&self, limits: QueryLimits) -> LocalSource {
        LocalSource::new(self.stores.clone(), Some(TENANT), limits)
    }

    fn service(&self, memory_budget: u64) -> QueryService {
        let config = QueryConfig {
            max_concurrent: 2,
            timeout: Duration::from_secs(60),
            max_samples: 1_000_000,
            lookback_delta_ms: 300_000,
            memory_budget,
            features: quorate_promql::Features::default(),
        };
        QueryService::new(self.stores.to_vec(), config, Arc::new(SystemClock))
    }
}

fn record(body: RecordBody) -> LogRecord {
    let session = SessionId { node: 1, incarnation: 1 };
    LogRecord { header: RecordHeader { log_incarnation: 1, epoch: 1, session, sequence: 0 }, body }
}

fn batch<'a>(series: impl Iterator<Item = &'a (Labels, SeriesBuffer)>) -> SubBatch {
    let mut batch = SubBatch { tenant: TENANT, ..SubBatch::default() };
    for (nth, (labels, samples)) in series.enumerate() {
        let reference = SeriesRef(nth as u32);
        batch.definitions.push(Definition { reference, slot: Slot(0), labels: labels.clone() });
        batch.refs.extend(samples.ts_ms.iter().map(|_| reference));
        batch.ts_ms.extend(&samples.ts_ms);
        batch.values.extend(&samples.values);
        for (ts_ms, histogram) in samples.histogram_ts_ms.iter().zip(&samples.histograms) {
            let histogram = (**histogram).clone();
            batch.histograms.push(HistogramSample { reference, ts_ms: *ts_ms, start_ms: 0, histogram });
        }
    }
    batch
}

/// A source and what it reads from.
struct Kept(LocalSource, Node);

impl SeriesSource for Kept {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        assert_eq!(self.1.stores.len(), PARTITIONS);
        self.0.select(request, guard)
    }
}

#[test]
fn the_partitions_of_a_node_keep_the_contract() {
    check_source(|series| {
        let node = Node::holding(series);
        Box::new(Kept(node.source(QueryLimits::default()), node))
    });
}

#[test]
fn the_series_limit_counts_all_selectors_of_a_query() {
    let node = Node::with_gauges(10);
    let limits = QueryLimits { max_series: 12, ..QueryLimits::default() };
    let source = node.source(limits);
    let select = |pod: &str| {
        let matchers = [Matcher::new("pod", quorate_model::MatchOp::Regex, pod).unwrap()];
        let request = SelectRequest { matchers: &matchers, range: TimeRange::ALL, step_ms: 0 };
        source.select(&request, &NoGuard).map(|selection| selection.len())
    };
    assert_eq!(select("p00[0-4]").unwrap(), 5);
    assert_eq!(select("p00[3-9]").unwrap(), 7);
    let refused = select("p000").unwrap_err();
    assert!(matches!(&refused, SourceError::Limit(text) if text.contains("limit: 12 series")), "{refused}");
}

fn instant(query: &str) -> QueryParams {
    QueryParams {
        tenant: Some(TENANT),
        query: query.into(),
        times: EvalTimes::Instant(1_000),
        timeout: None,
        lookback_delta_ms: None,
        limits: QueryLimits::default(),
    }
}

#[tokio::test]
async fn an_answer_stays_charged_until_it_is_dropped() {
    let node = Node::with_gauges(10);
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
    let node = Node::with_gauges(300);
    let service = node.service(40_000); // a query gets a quarter
    let refused = service.query(instant("count(up)"), |_, _, _| Ok(())).await.unwrap_err();
    assert!(refused.to_string().contains("memory limit of 10000 bytes"), "{refused}");
    let params = |matcher_sets| CatalogParams {
        tenant: Some(TENANT),
        matcher_sets,
        range: TimeRange::ALL,
        limit: 0,
        limits: QueryLimits::default(),
    };
    let series = service.series(params(Vec::new()), |found, _| Ok(found.entries.len())).await;
    assert!(matches!(series, Err(QueryFailure::Engine(QueryError::Budget(_)))));
    let pods = || service.label_values("pod".into(), params(Vec::new()), |found, _| Ok(found.entries.len()));
    assert!(matches!(pods().await, Err(QueryFailure::Engine(QueryError::Budget(_)))));
    let names = service.label_names(params(Vec::new()), |found, _| Ok(found.entries)).await.unwrap();
    assert_eq!(names.output, ["__name__", "pod"]);
    drop(names);
    assert_eq!(service.memory().in_use(), 0);
}

#[tokio::test]
async fn a_wrong_text_is_the_clients_error() {
    let node = Node::with_gauges(PARTITIONS);
    let failure = node.service(1 << 30).query(instant("up{"), |_, _, _| Ok(())).await.unwrap_err();
    assert!(matches!(failure, QueryFailure::Parse(_)), "{failure}");
}
