//! Parts of queries that run where the series are: what they save, and when series are asked for instead.

use super::support::{TENANT, TestCluster, config, gauges, instant, same_value};
use async_trait::async_trait;
use quorate_model::{BucketCounts, CounterResetHint, Histogram, Labels, SeriesBuffer, Span};
use quorate_promql::ast::Span as Place;
use quorate_promql::engine::{EngineOptions, QueryError, QueryGuard, QueryOutput, QueryStats};
use quorate_promql::fragment::{Fragment, FragmentTimes};
use quorate_promql::source::SeriesSource;
use quorate_promql::source::conformance::TestSeries;
use quorate_query::{EvalTimes, FragmentService, QueryLimits, QueryParams, ReadConsistency};
use quorate_wire::store::frame::{Content, end};
use quorate_wire::{StoreHandler, store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver};

/// What a peer does with the requests for series that it gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Answers them.
    Able,
    /// Does not know fragments, as a node of an older version.
    Old,
    /// Does not know the features that a fragment names, as one that is a little older.
    Odd,
}

/// Counts the bytes of all frames that a peer sends, and its answers.
struct Counting {
    inner: Arc<dyn StoreHandler>,
    peer: Peer,
    bytes: Arc<AtomicU64>,
    /// Requests that name a fragment.
    fragments: Arc<AtomicU64>,
}

#[async_trait]
impl StoreHandler for Counting {
    async fn read_index(&self, request: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        self.inner.read_index(request).await
    }

    async fn select(&self, mut request: store::SelectRequest) -> Result<Receiver<store::Frame>, String> {
        if let Some(fragment) = &mut request.fragment {
            self.fragments.fetch_add(1, Ordering::Relaxed);
            fragment.features.extend((self.peer == Peer::Odd).then(|| "promql-next".to_owned()));
        }
        if self.peer == Peer::Old {
            request.fragment = None;
        }
        let mut frames = self.inner.select(request).await?;
        let (counted, answer) = mpsc::channel(1);
        let bytes = self.bytes.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if let Some(Content::Part(part)) = &frame.content {
                    bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                }
                if counted.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Ok(answer)
    }

    async fn list(&self, request: store::ListRequest) -> Result<Receiver<store::Frame>, String> {
        self.inner.list(request).await
    }
}

/// A cluster whose node 1 has no replica, and what comes to it.
struct Counted {
    cluster: TestCluster,
    bytes: Arc<AtomicU64>,
    fragments: Arc<AtomicU64>,
}

impl Counted {
    fn new(series: &TestSeries, places: &[&[u64]], peers: &[(u64, Peer)]) -> Self {
        let cluster = TestCluster::new(series, places, &config(1 << 30));
        let (bytes, fragments) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        for (node, peer) in peers {
            let (bytes, fragments) = (bytes.clone(), fragments.clone());
            cluster.wrap(*node, |inner| Arc::new(Counting { inner, peer: *peer, bytes, fragments }));
        }
        Self { cluster, bytes, fragments }
    }

    /// What a query gives, and the bytes of its frames.
    async fn ask(&self, query: QueryParams) -> (QueryOutput, u64) {
        let before = self.bytes.load(Ordering::Relaxed);
        let answer = self.cluster.node(1).queries.query(query, |found, _, _| Ok(found)).await;
        let answer = answer.expect("a healthy cluster").output;
        (answer, self.bytes.load(Ordering::Relaxed) - before)
    }
}

/// `count` counters in ten clusters, with a sample each 15 seconds for an hour.
fn counters(count: usize) -> Vec<(Labels, SeriesBuffer)> {
    let counter = |nth: usize| {
        let (cluster, pod) = (format!("prod-{}", nth % 10), format!("api-7d9f8b6c5d-{nth:05}"));
        let labels = Labels::from_pairs([
            ("__name__", "http_requests_total"),
            ("cluster", &cluster),
            ("job", "api"),
            ("pod", &pod),
        ]);
        let ts_ms: Vec<i64> = (0..240).map(|at| at * 15_000).collect();
        let values = (0..240).map(|at| (at * (nth % 17 + 1)) as f64 + nth as f64 / 3.0).collect();
        (labels, SeriesBuffer { ts_ms, values, ..SeriesBuffer::default() })
    };
    (0..count).map(counter).collect()
}

const SUM: &str = "sum by (cluster) (rate(http_requests_total[5m]))";

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_of_rates_moves_less_than_a_hundredth_of_its_samples() {
    let places: &[&[u64]] = &[&[2], &[3], &[2]];
    let series = counters(2_000);
    let counted = Counted::new(&series, places, &[(2, Peer::Able), (3, Peer::Able)]);
    let alone = TestCluster::new(&series, &[&[1], &[1], &[1]], &config(1 << 30));
    let hour = EvalTimes::Range { start_ms: 300_000, end_ms: 3_585_000, step_ms: 60_000 };
    let cases = [(EvalTimes::Instant(3_585_000), "[5m]"), (hour, "[1h]")];
    for (times, raw) in cases {
        let (found, bytes) = counted.ask(QueryParams { times, ..instant(SUM) }).await;
        let raw = format!("http_requests_total{raw}");
        let at_end = EvalTimes::Instant(3_585_000);
        let (_, raw) = counted.ask(QueryParams { times: at_end, ..instant(&raw) }).await;
        println!("{bytes} bytes of {raw}, {:.2} %", 100.0 * bytes as f64 / raw as f64);
        assert!(bytes > 0 && bytes * 100 <= raw, "{bytes} bytes of {raw}");
        let expected =
            alone.node(1).queries.query(QueryParams { times, ..instant(SUM) }, |found, _, _| Ok(found));
        let expected = expected.await.expect("a healthy cluster").output;
        assert!(same_value(&found.value, &expected.value), "{found:?} is not {expected:?}");
        assert_eq!((&found.infos, &found.warnings), (&expected.infos, &expected.warnings));
        let counts = |stats: &QueryStats| (stats.series, stats.samples_read, stats.total_samples);
        assert_eq!(counts(&found.stats), counts(&expected.stats));
        assert_eq!(found.stats.total_samples_per_step, expected.stats.total_samples_per_step);
    }
    assert_eq!(counted.cluster.node(1).queries.memory().in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_series_come_instead_of_their_samples() {
    let counted = Counted::new(&counters(100), &[&[2], &[3]], &[(2, Peer::Able), (3, Peer::Able)]);
    let at = |query: &str| QueryParams { times: EvalTimes::Instant(3_585_000), ..instant(query) };
    let (_, raw) = counted.ask(at("http_requests_total[5m]")).await;
    for query in ["rate(http_requests_total[5m])", "http_requests_total", "topk(3, http_requests_total)"] {
        let (_, bytes) = counted.ask(at(query)).await;
        assert!(bytes * 2 < raw, "{query}: {bytes} bytes of {raw}");
    }
}

fn histograms() -> Vec<(Labels, SeriesBuffer)> {
    let histogram = |nth: usize| {
        let labels = Labels::from_pairs([("__name__", "h"), ("pod", format!("p{nth}").as_str())]);
        let value = Histogram {
            reset_hint: CounterResetHint::Unknown,
            schema: 3,
            zero_threshold: 0.001,
            sum: nth as f64,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            negative_spans: vec![],
            custom_values: vec![],
            counts: BucketCounts::Float {
                count: 3.0,
                zero_count: 0.0,
                positive: vec![1.0, 2.0],
                negative: vec![],
            },
        };
        let buffer = SeriesBuffer {
            histogram_ts_ms: vec![1_000],
            histograms: vec![Arc::new(value)],
            ..SeriesBuffer::default()
        };
        (labels, buffer)
    };
    (0..9).map(histogram).chain(gauges(9)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_asked_for_where_parts_are_not_to_be_had() {
    let series = histograms();
    let alone = TestCluster::new(&series, &[&[1], &[1]], &config(1 << 30));
    let queries = [
        "sum(h)",
        "h",
        "histogram_quantile(0.5, sum(h))",
        "histogram_count(h)",
        "sum(up) + count(h)",
        "sum by (pod) ({pod!=\"\"})",
    ];
    // Some nodes may have another version, and some partitions may be here.
    let places: [&[&[u64]]; 2] = [&[&[2], &[3]], &[&[3], &[2], &[1]]];
    for places in places {
        for [two, three] in
            [[Peer::Able; 2], [Peer::Old, Peer::Able], [Peer::Able, Peer::Odd], [Peer::Old; 2]]
        {
            let counted = Counted::new(&series, places, &[(2, two), (3, three)]);
            for query in queries {
                let (found, _) = counted.ask(instant(query)).await;
                let expected = alone.node(1).queries.query(instant(query), |found, _, _| Ok(found)).await;
                let expected = expected.expect("a healthy cluster").output;
                assert!(same_value(&found.value, &expected.value), "{query}: {found:?}, {expected:?}");
                assert_eq!(found.stats.series, expected.stats.series, "{query}");
            }
            assert!(counted.fragments.load(Ordering::Relaxed) > 0);
            assert_eq!(counted.cluster.node(1).queries.memory().in_use(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_that_makes_no_sense_is_declined() {
    let cluster = TestCluster::new(&gauges(3), &[&[1]], &config(1 << 30));
    let service = FragmentService::new(cluster.node(1).queries.clone());
    let good = store::Fragment {
        query: "sum(up)".into(),
        span_end: 7,
        step_ms: 1,
        steps: 1,
        lookback_delta_ms: 300_000,
        subquery_step_ms: 60_000,
        max_samples: u64::MAX,
        ..store::Fragment::default()
    };
    let cases = [
        (good.clone(), true),
        (store::Fragment { query: "sum(".into(), ..good.clone() }, false),
        (store::Fragment { query: "abc(up)".into(), ..good.clone() }, false),
        (store::Fragment { query: "topk(1,up)".into(), span_end: 10, ..good.clone() }, false),
        (store::Fragment { span_end: u64::MAX, ..good.clone() }, false),
        (store::Fragment { steps: u64::MAX, ..good.clone() }, false),
        (store::Fragment { features: vec!["promql-next".into()], ..good.clone() }, false),
    ];
    for (fragment, is_good) in cases {
        let request = store::SelectRequest {
            tenant: TENANT.0,
            replicas: vec![store::Replica { partition: 0, position: 1 }],
            timeout_ms: 60_000,
            fragment: Some(fragment.clone()),
            ..store::SelectRequest::default()
        };
        let mut frames = service.select(request).await.unwrap();
        let end = loop {
            match frames.recv().await.expect("an answer has an end").content {
                Some(Content::End(end)) => break end.outcome.expect("an end says what it is"),
                _ => continue,
            }
        };
        let is_expected = match end {
            end::Outcome::Complete(_) => is_good,
            end::Outcome::Declined(_) => !is_good,
            _ => false,
        };
        assert!(is_expected, "{fragment:?}");
    }
}

/// A peer that says again and again that it works, and never answers.
struct Slow(mpsc::UnboundedSender<()>);

#[async_trait]
impl StoreHandler for Slow {
    async fn read_index(&self, _: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        Err("not now".to_owned())
    }

    async fn select(&self, _: store::SelectRequest) -> Result<Receiver<store::Frame>, String> {
        let (frames, answer) = mpsc::channel(1);
        let given_up = self.0.clone();
        tokio::spawn(async move {
            let sign = || store::Frame { content: Some(Content::Part(bytes::Bytes::new())) };
            while frames.send(sign()).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            given_up.send(()).ok();
        });
        Ok(answer)
    }

    async fn list(&self, _: store::ListRequest) -> Result<Receiver<store::Frame>, String> {
        Err("not now".to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_slow_to_begin_is_overtaken_by_another_and_told_to_stop() {
    let cluster = TestCluster::new(&gauges(9), &[&[2, 3], &[2, 4]], &config(1 << 30));
    let (given_up, mut told) = mpsc::unbounded_channel();
    cluster.wrap(2, |_| Arc::new(Slow(given_up)));
    let eventual = QueryParams { consistency: ReadConsistency::Eventual, ..instant("count(up)") };
    let found = cluster.node(1).ask(eventual).await.unwrap();
    assert!(found.contains("Float(9.0)"), "{found}");
    told.recv().await.unwrap();
    assert_eq!(cluster.node(1).queries.memory().in_use(), 0);
}

/// A peer that answers once it is told to, and tells when its answer has been taken whole.
struct Paced {
    inner: Arc<dyn StoreHandler>,
    begin: Option<Arc<Notify>>,
    taken: Option<Arc<Notify>>,
    is_odd: bool,
}

#[async_trait]
impl StoreHandler for Paced {
    async fn read_index(&self, request: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        self.inner.read_index(request).await
    }

    async fn select(&self, mut request: store::SelectRequest) -> Result<Receiver<store::Frame>, String> {
        if let Some(begin) = &self.begin {
            begin.notified().await;
        }
        if let Some(fragment) = &mut request.fragment {
            fragment.features.extend(self.is_odd.then(|| "promql-next".to_owned()));
        }
        let mut frames = self.inner.select(request).await?;
        let (passed_on, answer) = mpsc::channel(1);
        let taken = self.taken.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if passed_on.send(frame).await.is_err() {
                    return;
                }
            }
            passed_on.closed().await;
            if let Some(taken) = taken {
                taken.notify_one();
            }
        });
        Ok(answer)
    }

    async fn list(&self, request: store::ListRequest) -> Result<Receiver<store::Frame>, String> {
        self.inner.list(request).await
    }
}

/// Node 3 has answered for its part of node 2's, node 4 never does, and then node 2 answers for both.
#[tokio::test(flavor = "multi_thread")]
async fn series_of_a_replica_that_is_overtaken_do_not_count() {
    let cluster = TestCluster::new(&gauges(9), &[&[2, 3], &[2, 4]], &config(1 << 30));
    let turn = Arc::new(Notify::new());
    let begin = Some(turn.clone());
    cluster.wrap(2, |inner| Arc::new(Paced { inner, begin, taken: None, is_odd: false }));
    cluster.wrap(3, |inner| Arc::new(Paced { inner, begin: None, taken: Some(turn), is_odd: false }));
    let (given_up, _told) = mpsc::unbounded_channel();
    cluster.wrap(4, |_| Arc::new(Slow(given_up)));
    let limits = QueryLimits { max_series: 9, ..QueryLimits::default() };
    let query = QueryParams { consistency: ReadConsistency::Eventual, limits, ..instant("count(up)") };
    let found = cluster.node(1).ask(query).await.unwrap();
    assert!(found.contains("Float(9.0)"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn series_that_are_read_after_all_count_once() {
    // Each partition has a finite sum, both together have none: it is made of the series.
    let mut series = gauges(4);
    for (nth, (_, samples)) in series.iter_mut().enumerate() {
        samples.values = vec![if nth < 2 { 1e308 } else { 0.0 }];
    }
    for exact in [4, 3] {
        let able = [(2, Peer::Able), (3, Peer::Able)];
        let counted = Counted::new(&series, &[&[2], &[3]], &able);
        let limits = QueryLimits { max_series: exact, ..QueryLimits::default() };
        let query = QueryParams { limits, ..instant("sum(up) + sum(up)") };
        let found = counted.cluster.node(1).ask(query).await;
        assert_eq!(found.is_ok(), exact == 4, "{found:?}");
        assert!(counted.fragments.load(Ordering::Relaxed) > 0);
    }
}

/// Counts what is charged.
#[derive(Default)]
struct Balance(AtomicU64);

impl QueryGuard for Balance {
    fn check(&self) -> Result<(), QueryError> {
        Ok(())
    }

    fn charge(&self, bytes: u64) -> Result<(), QueryError> {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_gave_is_given_back_when_another_declines() {
    let cluster = TestCluster::new(&gauges(9), &[&[2], &[3]], &config(1 << 30));
    let turn = Arc::new(Notify::new());
    let taken = Some(turn.clone());
    cluster.wrap(2, |inner| Arc::new(Paced { inner, begin: None, taken, is_odd: false }));
    cluster.wrap(3, |inner| Arc::new(Paced { inner, begin: Some(turn), taken: None, is_odd: true }));
    let source = cluster.node(1).source(QueryLimits::default(), &ReadConsistency::Strong).await;
    let fragment = Fragment {
        options: EngineOptions { query_text: "sum(up)".into(), ..EngineOptions::default() },
        span: Place { start: 0, end: 7 },
        selection: 0,
        query: FragmentTimes { start_ms: 1_000, end_ms: 1_000, step_ms: 0 },
        start_ms: 1_000,
        step_ms: 1,
        steps: 1,
    };
    let run = tokio::task::spawn_blocking(move || {
        let balance = Balance::default();
        let answers = source.fragments().expect("other nodes have it").run(&fragment, &balance);
        (answers.expect("it is declined").is_none(), balance.0.into_inner())
    });
    assert_eq!(run.await.unwrap(), (true, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subquery_of_too_many_steps_for_a_frame_is_evaluated_from_series() {
    let counted = Counted::new(&gauges(3), &[&[2], &[3]], &[(2, Peer::Able), (3, Peer::Able)]);
    for (steps, is_pushed) in [(50_000, true), (120_000, false)] {
        counted.fragments.store(0, Ordering::Relaxed);
        let query = format!("max_over_time(count(up)[{steps}s:1s])");
        let (found, _) = counted.ask(instant(&query)).await;
        assert!(format!("{:?}", found.value).contains("Float(3.0)"), "{found:?}");
        assert_eq!(counted.fragments.load(Ordering::Relaxed) > 0, is_pushed, "{steps} steps");
    }
}
