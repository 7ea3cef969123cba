//! Nodes with real stores in memory, and a network between them within the process.

use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_kv::{Kv, MemKv};
use quorate_model::{
    Definition, FlushMark, HistogramSample, Labels, LogRecord, MetadataEntry, MetricType, NodeId,
    PartitionId, Position, RecordBody, RecordHeader, SeriesBuffer, SeriesRef, SessionId, Slot, SubBatch,
    SystemClock, TenantId,
};
use quorate_promql::engine::{InstantSample, RangeSeries, SampleValue, Value};
use quorate_promql::source::conformance::TestSeries;
use quorate_query::freshness::Reading;
use quorate_query::source::ClusterSource;
use quorate_query::{
    CatalogParams, Cluster, EvalTimes, FragmentService, IndexError, LocalReplica, PartitionIndex,
    PartitionReplicas, PartitionView, QueryConfig, QueryFailure, QueryLimits, QueryParams, QueryService,
    ReadConsistency, ReplicaState,
};
use quorate_tsdb::{Disk, PartitionStore, StoreConfig};
use quorate_wire::memory::Switchboard;
use quorate_wire::{Handlers, StoreHandler};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub(crate) const TENANT: TenantId = TenantId(7);
/// More than any test needs.
pub(crate) const ENOUGH: Duration = Duration::from_secs(60);
/// Too short for anything that has to be waited for.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(50);

pub(crate) fn config(memory_budget: u64) -> QueryConfig {
    QueryConfig {
        max_concurrent: 2,
        timeout: ENOUGH,
        fresh_within: ENOUGH,
        max_samples: 1_000_000,
        lookback_delta_ms: 300_000,
        memory_budget,
        features: quorate_promql::Features::default(),
    }
}

/// Stores of one node.
pub(crate) struct Stores {
    disk: Arc<Disk>,
    folder: TempDir,
}

impl Stores {
    pub(crate) fn new() -> Self {
        let kv: Arc<dyn Kv> = Arc::new(MemKv::default());
        let disk = Disk::open(kv, 1, 8 << 20).expect("a store in memory works");
        Self { disk, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Partition `id`, which has applied `records` from position 1 on, and flushes if its number is odd.
    pub(crate) fn open(&self, id: PartitionId, records: &[LogRecord]) -> Arc<PartitionStore> {
        let dir = self.folder.path().join(id.to_string());
        let store = PartitionStore::open(&self.disk, &dir, id, StoreConfig::default())
            .expect("a store in memory works");
        for (position, record) in (1..).zip(records) {
            store.apply(Position(position), record).expect("a good record");
        }
        if id.0 % 2 == 1 {
            let marks = vec![FlushMark { window_start_ms: 0, generation: 0 }];
            let position = Position(records.len() as u64 + 1);
            store.apply(position, &record(RecordBody::FlushMark(marks))).expect("a good record");
            store.flush().expect("a store in memory works");
        }
        Arc::new(store)
    }
}

pub(crate) fn record(body: RecordBody) -> LogRecord {
    let session = SessionId { node: 1, incarnation: 1 };
    LogRecord { header: RecordHeader { log_incarnation: 1, epoch: 1, session, sequence: 0 }, body }
}

/// A record of `series` and the metadata of their metrics. Its refs begin at `first`.
pub(crate) fn data<'a>(first: u32, series: impl Iterator<Item = &'a (Labels, SeriesBuffer)>) -> LogRecord {
    let mut batch = SubBatch { tenant: TENANT, ..SubBatch::default() };
    for (nth, (labels, samples)) in series.enumerate() {
        let reference = SeriesRef(first + nth as u32);
        batch.definitions.push(Definition { reference, slot: Slot(0), labels: labels.clone() });
        batch.refs.extend(samples.ts_ms.iter().map(|_| reference));
        batch.ts_ms.extend(&samples.ts_ms);
        batch.values.extend(&samples.values);
        for (ts_ms, histogram) in samples.histogram_ts_ms.iter().zip(&samples.histograms) {
            let histogram = (**histogram).clone();
            batch.histograms.push(HistogramSample { reference, ts_ms: *ts_ms, start_ms: 0, histogram });
        }
        batch.metadata.extend(labels.metric_name().map(|family| MetadataEntry {
            family: family.to_owned(),
            metric_type: MetricType::Gauge,
            help: format!("As {labels:?} has it."),
            unit: String::new(),
        }));
    }
    record(RecordBody::Data(vec![batch]))
}

/// `count` series `up`, each with one sample at one second: its number.
pub(crate) fn gauges(count: usize) -> Vec<(Labels, SeriesBuffer)> {
    let gauge = |nth: usize| {
        let labels = Labels::from_pairs([("__name__", "up"), ("pod", format!("p{nth:03}").as_str())]);
        (labels, SeriesBuffer { ts_ms: vec![1_000], values: vec![nth as f64], ..Default::default() })
    };
    (0..count).map(gauge).collect()
}

/// The part of `series` that partition `nth` of `count` has: they are dealt out in turn.
pub(crate) fn share(series: &TestSeries, nth: usize, count: usize) -> LogRecord {
    data(0, series.iter().skip(nth).step_by(count))
}

/// What all replicas of a partition agree on.
pub(crate) struct Truth {
    pub(crate) leader: watch::Sender<Option<NodeId>>,
    pub(crate) committed: Mutex<Position>,
}

/// The group of a partition, as one of its members sees it.
struct Member {
    node: NodeId,
    truth: Arc<Truth>,
}

#[async_trait]
impl PartitionIndex for Member {
    async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        _patience: Duration,
    ) -> Vec<Result<Position, IndexError>> {
        let leader = *self.truth.leader.borrow();
        let index = |_: &PartitionId| match leader == Some(self.node) {
            true => Ok(*self.truth.committed.lock()),
            false => Err(IndexError::NotLeader { leader }),
        };
        partitions.iter().map(index).collect()
    }
}

/// A replica that is fed by the test.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) store: Arc<PartitionStore>,
    pub(crate) is_ready: Arc<watch::Sender<bool>>,
    changed: Arc<watch::Sender<()>>,
}

impl Replica {
    fn new(store: Arc<PartitionStore>) -> Self {
        let is_ready = Arc::new(watch::channel(true).0);
        Self { store, is_ready, changed: Arc::default() }
    }

    /// Applies the next record and tells who waits for it.
    pub(crate) fn apply(&self, record: &LogRecord) {
        self.store.apply(Position(self.store.applied().0 + 1), record).expect("a good record");
        self.changed.send_replace(());
    }
}

#[async_trait]
impl ReplicaState for Replica {
    fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    async fn reached(&self, position: Position) -> Result<(), String> {
        let mut is_ready = self.is_ready.subscribe();
        is_ready.wait_for(|is_ready| *is_ready).await.map_err(|_| "it is gone".to_owned())?;
        let mut changes = self.changed.subscribe();
        changes.wait_for(|()| self.store.applied() >= position).await.map_err(|_| "it is gone".to_owned())?;
        Ok(())
    }
}

/// Nodes 1, 2, … with replicas, led by the first node of each partition.
pub(crate) struct TestCluster {
    pub(crate) board: Switchboard,
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) truths: Vec<Arc<Truth>>,
}

pub(crate) struct TestNode {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) queries: Arc<QueryService>,
    /// The replica of each partition.
    pub(crate) replicas: Vec<Option<Replica>>,
    _stores: Stores,
}

impl TestCluster {
    /// `series` dealt out to as many partitions as `places` has, each on the nodes that stand there.
    pub(crate) fn new(series: &TestSeries, places: &[&[u64]], config: &QueryConfig) -> Self {
        let board = Switchboard::default();
        let nodes = places.iter().flat_map(|nodes| nodes.iter()).max().copied().unwrap_or(1);
        let truth = |nodes: &&[u64]| {
            let leader = watch::channel(nodes.first().map(|node| NodeId(*node))).0;
            Arc::new(Truth { leader, committed: Mutex::new(Position(1)) })
        };
        let truths: Vec<Arc<Truth>> = places.iter().map(truth).collect();
        let start = |id| TestNode::start(NodeId(id), series, places, &truths, &board, config);
        let nodes = (1..=nodes).map(start).collect();
        Self { board, nodes, truths }
    }

    /// Node `id`.
    pub(crate) fn node(&self, id: u64) -> &TestNode {
        &self.nodes[id as usize - 1]
    }

    /// Puts `around` what answers the reads of node `id`.
    pub(crate) fn wrap(&self, id: u64, around: impl FnOnce(Arc<dyn StoreHandler>) -> Arc<dyn StoreHandler>) {
        let store = around(Arc::new(FragmentService::new(self.node(id).queries.clone())));
        self.board.answer(NodeId(id), Handlers { store: Some(store), ..Handlers::default() });
    }
}

impl TestNode {
    fn start(
        id: NodeId,
        series: &TestSeries,
        places: &[&[u64]],
        truths: &[Arc<Truth>],
        board: &Switchboard,
        config: &QueryConfig,
    ) -> Self {
        let stores = Stores::new();
        let replica = |(nth, nodes): (usize, &&[u64])| {
            let records = [share(series, nth, places.len())];
            nodes.contains(&id.0).then(|| Replica::new(stores.open(PartitionId(nth as u32), &records)))
        };
        let replicas: Vec<Option<Replica>> = places.iter().enumerate().map(replica).collect();
        let view = Self::view(id, &replicas, places, truths);
        let cluster = Cluster::new(id, board.calls(id), view);
        let queries = Arc::new(QueryService::new(cluster.clone(), config.clone(), Arc::new(SystemClock)));
        let store: Arc<dyn StoreHandler> = Arc::new(FragmentService::new(queries.clone()));
        board.answer(id, Handlers { store: Some(store), ..Handlers::default() });
        Self { cluster, queries, replicas, _stores: stores }
    }

    fn view(
        id: NodeId,
        replicas: &[Option<Replica>],
        places: &[&[u64]],
        truths: &[Arc<Truth>],
    ) -> PartitionView {
        let partition = |(nth, nodes): (usize, &&[u64])| {
            let truth = &truths[nth];
            let local = replicas[nth].clone().map(|replica| LocalReplica {
                store: replica.store.clone(),
                state: Arc::new(replica),
                index: Some(Arc::new(Member { node: id, truth: truth.clone() })),
            });
            let others = nodes.iter().filter(|node| **node != id.0).map(|node| NodeId(*node));
            let leader = truth.leader.subscribe();
            PartitionReplicas { id: PartitionId(nth as u32), local, nodes: others.collect(), leader }
        };
        PartitionView::new(places.iter().enumerate().map(partition).collect())
    }

    /// A source over everything, read with `consistency`.
    pub(crate) async fn source(&self, limits: QueryLimits, consistency: &ReadConsistency) -> ClusterSource {
        let until = tokio::time::Instant::now() + ENOUGH;
        let reading =
            Reading::begin(&self.cluster, consistency, false, until).await.expect("a healthy cluster");
        ClusterSource::new(Some((TENANT, reading)), limits, until, Handle::current())
    }

    /// What `query` gives, as text, so that NaN equals NaN.
    pub(crate) async fn ask(&self, query: QueryParams) -> Result<String, QueryFailure> {
        Ok(self.queries.query(query, |found, _, _| Ok(format!("{:?}", found.value))).await?.output)
    }
}

pub(crate) fn instant(query: &str) -> QueryParams {
    QueryParams {
        tenant: Some(TENANT),
        query: query.into(),
        times: EvalTimes::Instant(1_000),
        timeout: None,
        lookback_delta_ms: None,
        limits: QueryLimits::default(),
        consistency: ReadConsistency::Strong,
        allow_partial: false,
    }
}

pub(crate) fn catalog() -> CatalogParams {
    CatalogParams {
        tenant: Some(TENANT),
        matcher_sets: Vec::new(),
        range: quorate_model::TimeRange::ALL,
        limit: 0,
        limits: QueryLimits::default(),
        consistency: ReadConsistency::Strong,
        allow_partial: false,
    }
}

/// Whether two values are the same, numbers within 1e-12 of each other, of their own size or of 1: what is left when
/// values cancel is noise.
pub(crate) fn same_value(a: &Value, b: &Value) -> bool {
    let close = |a: f64, b: f64| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
    };
    match (a, b) {
        (Value::Vector(a), Value::Vector(b)) => {
            let same = |(a, b): (&InstantSample, &InstantSample)| {
                a.labels == b.labels
                    && match (&a.value, &b.value) {
                        (SampleValue::Float(a), SampleValue::Float(b)) => close(*a, *b),
                        (a, b) => a == b,
                    }
            };
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        (Value::Matrix(a), Value::Matrix(b)) => {
            let same = |(a, b): (&RangeSeries, &RangeSeries)| {
                let mut floats = a.floats.iter().zip(&b.floats);
                a.labels == b.labels
                    && a.histograms == b.histograms
                    && a.floats.len() == b.floats.len()
                    && floats.all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
            };
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        (Value::Scalar { value: a, .. }, Value::Scalar { value: b, .. }) => close(*a, *b),
        (a, b) => a == b,
    }
}
