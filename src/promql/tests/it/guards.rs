//! What stops a query: its caller, its memory, its number of samples.

use quorate_model::{BucketCounts, Clock, CounterResetHint, ErrorCode, Histogram, Labels, Span, SystemClock};
use quorate_promql::engine::{self, EngineOptions, QueryError, QueryGuard, QueryOutput, Value};
use quorate_promql::source::MemSource;
use quorate_promql::{Features, parse};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A guard with a budget that cancels at the `checks`-th question.
struct Guard {
    budget: u64,
    checks: AtomicU64,
    held: AtomicU64,
    peak: AtomicU64,
}

impl Guard {
    fn new(budget: u64, checks: u64) -> Self {
        Self { budget, checks: checks.into(), held: 0.into(), peak: 0.into() }
    }
}

impl QueryGuard for Guard {
    fn check(&self) -> Result<(), QueryError> {
        let left = self.checks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map(|_| ()).map_err(|_| QueryError::Cancelled)
    }

    fn charge(&self, bytes: u64) -> Result<(), QueryError> {
        let held = self.held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if held > self.budget {
            self.held.fetch_sub(bytes, Ordering::SeqCst);
            return Err(QueryError::Budget(format!("query needs more than {} bytes", self.budget)));
        }
        self.peak.fetch_max(held, Ordering::SeqCst);
        Ok(())
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
    }
}

fn source(series: usize) -> MemSource {
    let mut source = MemSource::new();
    for i in 0..series {
        let labels = Labels::from_pairs([("__name__", "requests_total"), ("pod", format!("p{i}").as_str())]);
        (0..120).for_each(|k| source.push_float(&labels, k * 15_000, (k * 3) as f64, 0));
    }
    source
}

fn range(
    query: &str,
    series: usize,
    max_samples: u64,
    guard: &dyn QueryGuard,
) -> Result<QueryOutput, QueryError> {
    let options = EngineOptions { max_samples, features: Features::all(), ..EngineOptions::default() };
    let expr = parse(query, &options.features).unwrap();
    engine::range(&source(series), &expr, 0, 1_800_000, 15_000, &options, guard)
}

const QUERIES: [&str; 7] = [
    "requests_total",
    "sum(rate(requests_total[5m]))",
    "topk(3, requests_total) + on (pod) requests_total",
    "sum_over_time(sum by (pod) (requests_total)[5m:30s])",
    "label_replace(requests_total, \"x\", \"$1\", \"pod\", \"(.*)\") or -requests_total",
    "quantile(0.5, requests_total) / scalar(count(requests_total @ 900))",
    "count_values(\"v\", requests_total)",
];

#[test]
fn only_the_result_stays_charged() {
    for query in QUERIES {
        let guard = Guard::new(u64::MAX, u64::MAX);
        let output = range(query, 20, 1 << 30, &guard).unwrap();
        let Value::Matrix(series) = output.value else { panic!("{query}") };
        let samples: usize = series.iter().map(|s| s.floats.len()).sum();
        let (held, least) = (guard.held.into_inner(), samples as u64 * 16);
        assert!(held >= least && held <= least + series.len() as u64 * 128, "{query}: {held}, not {least}");
        assert!(guard.peak.into_inner() > held, "{query} charged nothing else");
    }
}

#[test]
fn results_of_all_forms_stay_charged() {
    let check = |query: &str, least: u64| {
        let guard = Guard::new(u64::MAX, u64::MAX);
        instant(&source(20), query, 1_800, &guard).unwrap();
        let held = guard.held.into_inner();
        assert!(held >= least && held < 2 * least + 20 * 128, "{query}: {held}, not {least}");
    };
    check("requests_total", 20 * 16);
    check("requests_total[30m]", 20 * 120 * 16);
    check("vector(1)[30m:1s]", 1_800 * 16);
    let guard = Guard::new(u64::MAX, u64::MAX);
    range("time()", 0, 1 << 30, &guard).unwrap();
    assert_eq!(guard.held.into_inner(), 121 * 16);
}

fn instant(
    source: &MemSource,
    query: &str,
    seconds: i64,
    guard: &dyn QueryGuard,
) -> Result<QueryOutput, QueryError> {
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    let expr = parse(query, &options.features).unwrap();
    engine::instant(source, &expr, seconds * 1_000, &options, guard)
}

/// Evaluates at each second from 1 h to 2 h.
fn each_second(source: &MemSource, query: &str, guard: &dyn QueryGuard) -> Result<QueryOutput, QueryError> {
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    let expr = parse(query, &options.features).unwrap();
    engine::range(source, &expr, 3_600_000, 7_200_000, 1_000, &options, guard)
}

/// Two hours of a native histogram with 100 buckets.
fn histograms() -> MemSource {
    let mut source = MemSource::new();
    let labels = Labels::from_pairs([("__name__", "latency")]);
    for k in 0..480 {
        let histogram = Histogram {
            reset_hint: CounterResetHint::Unknown,
            schema: 3,
            zero_threshold: 1e-9,
            sum: k as f64,
            positive_spans: vec![Span { offset: 0, length: 100 }],
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            counts: BucketCounts::Float {
                count: 100.0 * k as f64,
                zero_count: 0.0,
                positive: vec![k as f64; 100],
                negative: Vec::new(),
            },
        };
        source.push_histogram(&labels, k * 15_000, Arc::new(histogram), 0);
    }
    source
}

#[test]
fn scalars_are_charged_as_long_as_they_live() {
    let nested = |open: &str, inner: &str, close: &str| {
        format!("sum_over_time({}{inner}{}[5000s:1s])", open.repeat(50), close.repeat(50))
    };
    let queries = [
        nested("vector(scalar(", "vector(time())", "))"),
        format!("sum_over_time(vector({}1{})[5000s:1s])", "time() + (".repeat(50), ")".repeat(50)),
        nested("round(", "vector(1)", ", time())"),
        nested("clamp(", "vector(1)", ", time(), time())"),
        nested("", "(vector(1) + quantile(time() + time(), vector(1) + vector(1)))", ""),
    ];
    for query in &queries[..4] {
        let guard = Guard::new(1 << 20, u64::MAX);
        let error = instant(&source(0), query, 100_000, &guard).map(drop).unwrap_err();
        assert!(matches!(error, QueryError::Budget(_)), "{query}: {error}");
        assert_eq!(guard.held.into_inner(), 0, "{query}");
    }
    let guard = Guard::new(1 << 20, u64::MAX);
    instant(&source(0), &queries[4], 100_000, &guard).unwrap();
}

#[test]
fn histograms_of_groups_and_windows_are_charged() {
    let source = histograms();
    // 3,601 steps with 100 buckets of at least 16 bytes each.
    let least = 3_601 * 100 * 16;
    for query in [
        "sum(latency)",
        "avg(latency)",
        "rate(latency[1m])",
        "sum_over_time(latency[1m])",
        "irate(latency[1m])",
    ] {
        let guard = Guard::new(least, u64::MAX);
        let result = each_second(&source, &format!("count({query})"), &guard).map(drop);
        assert!(matches!(result, Err(QueryError::Budget(_))), "{query}: {result:?}");
        assert_eq!(guard.held.into_inner(), 0, "{query}");
    }
    let peak = |query: &str| {
        let guard = Guard::new(u64::MAX, u64::MAX);
        each_second(&source, query, &guard).unwrap();
        guard.peak.into_inner()
    };
    assert!(peak("count(latency)") < least, "counting needs no histograms of its own");
    assert!(peak("count(latency + on() latency)") > 3 * least, "both sides and the result");
}

#[test]
fn kernels_ask_for_each_piece_of_what_they_scan() {
    let source = histograms();
    let check = |query: &str, touched: u64| {
        let guard = Guard::new(u64::MAX, u64::MAX);
        each_second(&source, query, &guard).unwrap_or_else(|e| panic!("{query}: {e}"));
        let checks = u64::MAX - guard.checks.into_inner();
        assert!(checks >= touched >> 16, "{query} asked {checks} times");
    };
    // Values that are too large for sums to be put together, so that each window is scanned.
    let large = "(vector(1e200) + time())[20m:1s]";
    for function in ["sum_over_time", "avg_over_time", "stddev_over_time", "deriv", "mad_over_time"] {
        check(&format!("{function}({large})"), 3_600 * 1_200);
    }
    check(&format!("double_exponential_smoothing({large}, 0.5, 0.5)"), 3_600 * 1_200);
    check(&format!("quantile_over_time(0.5, {large})"), 3_600 * 1_200 / 64);
    // Windows that overlap too little to slide.
    check("max_over_time(vector(1)[2h:10ms])", 3_600 + 720_000);
    for function in ["rate", "sum_over_time", "avg_over_time", "resets", "changes"] {
        check(&format!("{function}(latency[5m])"), 3_600 * 18 * 60);
    }
}

/// Cancels a while after its first question.
struct CancelSoon(OnceLock<Instant>);

impl CancelSoon {
    const AFTER: Duration = Duration::from_millis(100);
}

impl QueryGuard for CancelSoon {
    fn check(&self) -> Result<(), QueryError> {
        let first = self.0.get_or_init(|| SystemClock.instant());
        if SystemClock.instant() - *first > Self::AFTER { Err(QueryError::Cancelled) } else { Ok(()) }
    }

    fn charge(&self, _bytes: u64) -> Result<(), QueryError> {
        Ok(())
    }

    fn release(&self, _bytes: u64) {}
}

#[test]
fn long_kernels_stop_within_a_second() {
    let queries = [
        "max_over_time(quantile_over_time(0.5, (vector(1) + time())[1h:1s])[30d:1s])",
        "max_over_time(quantile_over_time(0.5, (vector(1) + time())[100d:1s])[100s:1s])",
        "max_over_time(mad_over_time((vector(1) + time())[100d:1s])[1d:1s])",
        "max_over_time(sum_over_time((vector(1e200) + time())[1h:1s])[10d:1s])",
        "max_over_time((vector(1) + sin(cos(tan(time() + vector(1) ^ 0.5))))[200d:1s])",
        "sum_over_time(histogram_quantile(time(), vector(1))[200d:1s])",
    ];
    for query in queries {
        let guard = CancelSoon(OnceLock::new());
        let error = instant(&source(0), query, 1_700_000_000, &guard).map(drop).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled, "{query}: {error}");
        let late = (SystemClock.instant() - *guard.0.get().unwrap()).saturating_sub(CancelSoon::AFTER);
        assert!(late < Duration::from_secs(1), "{query} went on for {late:?}");
    }
}

#[test]
fn annotations_do_not_grow_with_the_number_of_steps() {
    let queries = ["quantile_over_time(time(), latency[1m])", "histogram_quantile(time(), latency)"];
    for query in queries {
        let mut source = histograms();
        source.push_float(&Labels::from_pairs([("__name__", "latency"), ("le", "1")]), 3_600_000, 1.0, 0);
        let output = each_second(&source, query, &engine::NoGuard).unwrap();
        assert!((50..=110).contains(&output.warnings.len()), "{query}: {}", output.warnings.len());
    }
}

#[test]
fn a_query_over_its_budget_fails_and_gives_back_what_it_had() {
    for query in QUERIES {
        let guard = Guard::new(2_000, u64::MAX);
        let error = range(query, 20, 1 << 30, &guard).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unprocessable, "{query}: {error}");
        assert_eq!(guard.held.into_inner(), 0, "{query}");
    }
}

#[test]
fn a_cancelled_query_stops_before_the_next_series() {
    for query in QUERIES {
        let guard = Guard::new(u64::MAX, 7);
        let error = range(query, 20, 1 << 30, &guard).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled, "{query}: {error}");
        assert_eq!(guard.held.into_inner(), 0, "{query}");
    }
}

#[test]
fn an_aggregation_over_a_selector_holds_one_series_and_its_groups() {
    let peak = |series| {
        let guard = Guard::new(u64::MAX, u64::MAX);
        range("sum(rate(requests_total[5m]))", series, 1 << 30, &guard).unwrap();
        guard.peak.into_inner()
    };
    assert_eq!(peak(5), peak(100));
}

#[test]
fn too_many_samples_are_refused_in_prometheus_words() {
    let error = range("requests_total", 20, 1_000, &engine::NoGuard).unwrap_err();
    let text = "query processing would load too many samples into memory in query execution";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.code(), ErrorCode::Unprocessable);
    range("requests_total", 20, 20 * 121, &engine::NoGuard).unwrap();
}

#[test]
fn statistics_count_what_was_read_and_seen() {
    let out = range("sum(count_over_time(requests_total[30s]))", 2, 1 << 30, &engine::NoGuard).unwrap();
    assert_eq!(out.stats.series, 2);
    assert_eq!(out.stats.samples_read, 2 * 120);
    // Each window holds two samples, but the first one and the last.
    assert_eq!(out.stats.total_samples, 2 * (1 + 119 * 2 + 1));
    assert_eq!(out.stats.total_samples_per_step.iter().sum::<u64>(), out.stats.total_samples);
    assert_eq!(out.stats.total_samples_per_step[0], 2);
}

#[test]
fn steps_that_make_no_grid_are_refused() {
    let expr = parse("1", &Features::all()).unwrap();
    let (source, options) = (MemSource::new(), EngineOptions::default());
    for (start, end, step) in
        [(0, 10, 0), (10, 0, 1), (i64::MIN, i64::MAX, 1), (0, i64::MAX, 1), (i64::MAX - 5, i64::MAX, 1)]
    {
        let error = engine::range(&source, &expr, start, end, step, &options, &engine::NoGuard).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadInput, "{start} {end} {step}");
    }
}

#[test]
fn extreme_times_and_offsets_give_empty_results() {
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    for query in [
        "requests_total @ 9223372036854775",
        "requests_total @ -9223372036854775 offset 290y",
        "sum_over_time(requests_total[290y:1ms] @ -9e15)",
        "rate(requests_total[290y] smoothed offset -290y)",
    ] {
        let expr = parse(query, &options.features).unwrap();
        for time in [-(1 << 61), 1 << 61] {
            // Such a subquery has too many steps: an error, but no panic.
            let _ =
                engine::instant(&source(1), &expr, time, &options, &engine::NoGuard).map_err(|e| e.code());
        }
    }
}

#[test]
fn the_deepest_query_fits_the_stack_of_a_worker_thread() {
    let nested =
        |open: &str, close: &str, n: usize| format!("{}requests_total{}", open.repeat(n), close.repeat(n));
    let queries = [
        nested("abs(", ")", 498),
        nested("sum(", ")", 498),
        nested("-(", ")", 249),
        nested("max_over_time(", "[1m:1m])", 249),
        nested("(1 + ", ")", 249),
        format!("requests_total{}", " + requests_total".repeat(498)),
        format!("requests_total{}", " or requests_total".repeat(498)),
    ];
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let run = move || {
        for query in &queries {
            let text = &query[..20];
            range(query, 2, 1 << 30, &engine::NoGuard).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}
