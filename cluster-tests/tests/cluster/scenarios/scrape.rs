//! A real Prometheus scrapes itself and a node_exporter for minutes and remote-writes into Quorate, which is
//! killed in the middle; afterwards both answer the same queries alike.

use super::kills::report;
use quorate_cluster_tests::compare::{Verdict, compare};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::prometheus::{NodeExporter, Prometheus, RemoteWrite, Setup};
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{find_tool, now_ms, pause, skip, wait_for};
use quorate_model::{Clock, SystemClock};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const INTERVAL_S: u32 = 5;
/// Data to wait for: five minutes and some.
const DATA_S: u32 = 315;
/// Limit on waiting for data: the time itself, and a slow machine.
const DATA_LIMIT: Duration = Duration::from_secs(DATA_S as u64 + 120);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(90);
const LEAST_NONEMPTY: usize = 25;
const QUERIES: &str = include_str!("../../../promql/scrape.txt");

/// One Prometheus and the tenant it writes to.
struct Source {
    name: &'static str,
    tenant: &'static str,
    server: Prometheus,
}

#[test]
fn prometheus_and_quorate_answer_alike_over_scraped_data() {
    let name = "prometheus_and_quorate_answer_alike_over_scraped_data";
    let folder = tempfile::Builder::new().prefix("quorate-scrape-").tempdir().expect("a temporary folder");
    let Some(exporter) = NodeExporter::start(folder.path()) else {
        return skip(name, "prometheus-node-exporter is not installed");
    };
    let mut quorate = Server::start(Options::default().args(&["--self-monitor", "false"]));
    let sources = start_sources(name, &quorate, &exporter, folder.path());
    if sources.is_empty() {
        return;
    }
    let seconds = |source: &Source, of: u32| {
        let query = format!("count_over_time(up{{job=\"node\"}}[1h]) * {INTERVAL_S} >= {of}");
        let data = source.server.client().api("/api/v1/query", &[("query", &query)]);
        (!data["result"].as_array().is_none_or(Vec::is_empty)).then_some(())
    };
    wait_for("half of the data", DATA_LIMIT, || seconds(&sources[0], DATA_S / 2));
    quorate.restart();
    for source in &sources {
        wait_for("all of the data", DATA_LIMIT, || seconds(source, DATA_S));
    }
    for source in &sources {
        let tenant = quorate.client().with_header("X-Scope-OrgID", source.tenant);
        let end_ms = quiet_time(source.server.client());
        catch_up(source, &tenant, end_ms);
        let line = compare_all(source, &tenant, end_ms);
        report(&format!("{}: {line}", source.name));
    }
    quorate.process();
}

/// Debian's Prometheus with remote write 1.0, and a 3.x with 2.0 where one can be had.
fn start_sources(name: &str, quorate: &Server, exporter: &NodeExporter, folder: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut start = |name: &'static str, tenant: &'static str, program: PathBuf, message, flags: &[&str]| {
        let setup = Setup {
            program,
            folder: folder.join(name),
            targets: vec![("node".into(), exporter.target.clone())],
            interval_s: INTERVAL_S,
            remote_write: Some(RemoteWrite {
                url: format!("{}/api/v1/write", quorate.url()),
                tenant: tenant.into(),
                message,
            }),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        };
        sources.push(Source { name, tenant, server: Prometheus::start(&setup) });
    };
    match find_tool("prometheus") {
        // Debian's build drops the configured headers of remote write, so it writes as the default tenant.
        Some(program) => start("debian", "anonymous", program, None, &[]),
        None => skip(name, "prometheus is not installed"),
    }
    match std::env::var_os("QUORATE_NEWEST_PROMETHEUS") {
        Some(program) => {
            let message = Some("io.prometheus.write.v2.Request");
            // The WAL keeps the metadata that 2.0 carries only with this flag.
            start("newest", "newest", program.into(), message, &["--enable-feature=metadata-wal-records"]);
        }
        None => skip(name, "remote write 2.0: no Prometheus 3.x could be had"),
    }
    sources
}

/// A time shortly ago at which no window edge falls on a sample: no scrape of any target happened at the same
/// fraction of a second. Prometheus 2.x counts a sample at the left edge of a range, 3.x and Quorate do not.
fn quiet_time(client: &Client) -> i64 {
    let data = client.api("/api/v1/query", &[("query", "max_over_time(timestamp(up)[5m:1s])")]);
    assert!(!data["result"].as_array().is_none_or(Vec::is_empty), "there are scrapes");
    let data = client.api("/api/v1/query", &[("query", "up[5m]")]);
    let rows = data["result"].as_array().expect("a matrix").iter();
    let stamps = rows.flat_map(|row| row["values"].as_array().expect("samples").clone());
    let fractions: Vec<i64> =
        stamps.map(|s| (s[0].as_f64().expect("a time") * 1000.0).round() as i64 % 1000).collect();
    let is_quiet =
        |ms: &i64| fractions.iter().all(|f| (f - ms).rem_euclid(1000).min((ms - f).rem_euclid(1000)) > 20);
    // Never a whole second: the steps of subqueries are, and one of them at their left edge counts in 2.x only.
    let fraction = (10..1000).step_by(10).find(is_quiet).expect("some part of a second is free");
    (now_ms() - 10_000) / 1000 * 1000 + fraction
}

/// Waits until every raw sample that Prometheus has of the last minutes is in Quorate too, and no other.
fn catch_up(source: &Source, tenant: &Client, end_ms: i64) {
    let time = seconds(end_ms);
    let raw = |client: &Client| {
        client.api("/api/v1/query", &[("query", "{__name__=~\".+\"}[4m]"), ("time", &time)])
    };
    let expected = raw(source.server.client());
    let begin = SystemClock.instant();
    loop {
        match compare(&expected, &raw(tenant)) {
            Verdict::Equal(samples) => {
                assert!(samples > 10_000, "{} has only {samples} samples", source.name);
                return;
            }
            Verdict::Different(what) => {
                assert!(begin.elapsed() < CATCH_UP_LIMIT, "raw samples of {}: {what}", source.name);
                pause(Duration::from_millis(500));
            }
        }
    }
}

fn compare_all(source: &Source, tenant: &Client, end_ms: i64) -> String {
    let (mut equal, mut nonempty, mut problems) = (0, 0, Vec::new());
    for line in QUERIES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let expected = ask(source.server.client(), line, end_ms);
        let got = ask(tenant, line, end_ms);
        match compare(&expected, &got) {
            Verdict::Equal(samples) => {
                equal += 1;
                nonempty += usize::from(samples > 0);
            }
            Verdict::Different(what) => problems.push(format!("{line}\n    {what}")),
        }
    }
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), source.name, problems.join("\n"));
    assert!(nonempty >= LEAST_NONEMPTY, "only {nonempty} queries have a result");
    format!("{equal} queries equal, {nonempty} of them with a result")
}

#[track_caller]
fn ask(client: &Client, line: &str, end_ms: i64) -> Value {
    let end = seconds(end_ms);
    if let Some(query) = line.strip_prefix("instant ") {
        return client.api("/api/v1/query", &[("query", query), ("time", &end)]);
    }
    let parts: Vec<&str> = line.splitn(4, ' ').collect();
    let ["range", range_s, step, query] = parts[..] else { panic!("not a query line: {line}") };
    let range_s: i64 = range_s.parse().expect("a range in seconds");
    let start = seconds(end_ms - range_s * 1000);
    client.api("/api/v1/query_range", &[("query", query), ("start", &start), ("end", &end), ("step", step)])
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}
