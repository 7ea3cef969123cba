//! The engine over series in memory: parsing, and the queries that dashboards are made of.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_benches::universe::Universe;
use quorate_promql::engine::{EngineOptions, NoGuard, range};
use quorate_promql::source::MemSource;
use quorate_promql::{Features, parse};
use std::hint::black_box;

const SERIES: usize = 1_000;
const SCRAPES: i64 = 480;
const STEP_MS: i64 = 15_000;

const QUERIES: [(&str, &str); 4] = [
    ("select", "node_load1"),
    ("rate", "sum by (mode) (rate(node_cpu_seconds_total[5m]))"),
    ("max_over_time", "max_over_time(node_memory_MemFree_bytes[10m])"),
    ("quantile", "histogram_quantile(0.9, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))"),
];

fn source() -> MemSource {
    let mut universe = Universe::new(SERIES, 1);
    let mut source = MemSource::new();
    for scrape in 0..SCRAPES {
        universe.scrape();
        for at in 0..universe.len() {
            source.push_float(universe.labels(at), scrape * STEP_MS, universe.value(at), 0);
        }
    }
    source
}

fn promql(criterion: &mut Criterion) {
    let source = source();
    let options = EngineOptions::default();
    let mut group = criterion.benchmark_group("promql");
    for (name, text) in QUERIES {
        let expr = parse(text, &Features::default()).expect("the query is right");
        group.bench_function(format!("parse/{name}"), |bencher| {
            bencher.iter(|| parse(black_box(text), &Features::default()));
        });
        // Two hours at 60 s, as a dashboard asks.
        let end_ms = (SCRAPES - 1) * STEP_MS;
        let steps = (end_ms / 60_000) as u64 + 1;
        group.throughput(Throughput::Elements(steps));
        group.bench_function(format!("range/{name}"), |bencher| {
            bencher.iter(|| range(&source, &expr, 0, end_ms, 60_000, &options, &NoGuard));
        });
    }
    group.finish();
}

criterion_group!(benches, promql);
criterion_main!(benches);
