//! What stops a query: its caller, its memory, its number of samples.

use quorate_model::{ErrorCode, Labels};
use quorate_promql::engine::{self, EngineOptions, QueryError, QueryGuard, QueryOutput};
use quorate_promql::source::MemSource;
use quorate_promql::{Features, parse};
use std::sync::atomic::{AtomicU64, Ordering};

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
fn all_memory_is_given_back() {
    for query in QUERIES {
        let guard = Guard::new(u64::MAX, u64::MAX);
        range(query, 20, 1 << 30, &guard).unwrap();
        assert!(guard.peak.into_inner() > 0, "{query} charged nothing");
        assert_eq!(guard.held.into_inner(), 0, "{query}");
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
