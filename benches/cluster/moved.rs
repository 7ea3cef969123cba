//! Bytes that nodes send each other for an aggregation, with one replica of each partition: two of three series are
//! elsewhere.

use crate::Sizes;
use crate::load::{LIMIT, nodes_of, setup};
use quorate_benches::bodies::Body;
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_benches::sender::send;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::now_ms;
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;

const BAR_PERCENT: f64 = 1.0;
const QUERY: &str = "sum by (cluster) (rate(x[5m]))";
const CLUSTERS: usize = 20;
const STEP_MS: i64 = 15_000;
/// Scrapes of each series; the range of the query holds the last `IN_RANGE` of them.
const SCRAPES: i64 = 24;
const IN_RANGE: usize = 20;
const RAW_BYTES_PER_SAMPLE: usize = 16;
const SERIES_PER_REQUEST: usize = 200;
const CONNECTIONS: usize = 4;
const TIMES: usize = 5;

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let cluster = Cluster::start(setup().args(&["--replication-factor", "1"]));
    let end_ms = now_ms() / STEP_MS * STEP_MS;
    note(&format!("  {}", send(&nodes_of(&cluster), &bodies(sizes.moved_series, end_ms), 0)?));
    let ports = cluster.all().map(|node| port(&cluster.grpc_address(node)));
    let ports = ports.collect::<Result<Vec<u16>, String>>()?;
    let client = cluster.client(0, LIMIT);
    // The first one opens connections, and a connection that is new is not that of every query.
    ask(&client, end_ms)?;
    let mut most = 0;
    for _ in 0..TIMES {
        let before = gauge::sent_bytes(&ports)?;
        ask(&client, end_ms)?;
        most = most.max(gauge::sent_bytes(&ports)?.saturating_sub(before));
    }
    let raw = sizes.moved_series * IN_RANGE * RAW_BYTES_PER_SAMPLE;
    let how = format!(
        "{most} bytes for {} series, of {raw}; the most of {TIMES} times, by TCP's own count",
        sizes.moved_series
    );
    let name = format!("bytes between nodes for `{QUERY}`, of the raw samples'");
    let value = most as f64 / raw as f64 * 100.0;
    Ok(vec![Figure { name, value, bar: Bar::AtMost(BAR_PERCENT), unit: Unit::Percent, how }])
}

fn port(address: &str) -> Result<u16, String> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| format!("{address} has no port"))
}

/// Counters of as many clusters as the answer has rows, all scrapes of a series in one request.
fn bodies(series: usize, end_ms: i64) -> Vec<Vec<Body>> {
    let mut connections: Vec<Vec<Body>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    let mut request = RequestBuilder::new(Protocol::V1);
    for number in 0..series {
        let (cluster, instance) = (format!("c{}", number % CLUSTERS), format!("host-{number}:9100"));
        let labels =
            [("__name__", "x"), ("cluster", &cluster), ("instance", &instance), ("job", "node-exporter")];
        let sample =
            |scrape: i64| (end_ms - scrape * STEP_MS, ((SCRAPES - scrape) * (number as i64 % 97)) as f64);
        let samples: Vec<(i64, f64)> = (0..SCRAPES).rev().map(sample).collect();
        request.add(&Labels::from_pairs(labels), &samples);
        if (number + 1) % SERIES_PER_REQUEST == 0 || number + 1 == series {
            let samples = request.samples();
            let body = Body { bytes: request.finish(), samples };
            connections[number / SERIES_PER_REQUEST % CONNECTIONS].push(body);
        }
    }
    connections
}

fn ask(client: &Client, end_ms: i64) -> Result<(), String> {
    let time = (end_ms / 1_000).to_string();
    let answer = client.get("/api/v1/query", &[("query", QUERY), ("time", &time)]).map_err(|e| e.0)?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text()));
    }
    let rows = answer.json()["data"]["result"].as_array().map_or(0, Vec::len);
    if rows == CLUSTERS { Ok(()) } else { Err(format!("{rows} rows instead of {CLUSTERS}")) }
}
