//! What an OpenTelemetry SDK was told is what queries give: straight through a topic, through a Collector, and from a
//! topic whose partitions move between three nodes.

use super::kafka_nodes::{metric, on_one_broker, strong, three_nodes};
use super::kills::report;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::{Kafka, LIMIT, is_missing};
use quorate_cluster_tests::harness::otel::{Collector, Sdk, Stream, Target, find_collector};
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::wait_for;
use quorate_model::{Clock, SystemClock};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Both topics, each of a tenant.
const BOTH: &str = "
sources:
- name: otel
  topics: [otlp_metrics]
  format: otlp-proto
  group: GROUP
  tenant: {fixed: proto}
  kafka: {brokers: [BROKERS]}
- name: otel-json
  topics: [otlp_json]
  format: otlp-json
  group: GROUP
  tenant: {fixed: json}
  kafka: {brokers: [BROKERS]}
";
const TENANTS: [&str; 2] = ["proto", "json"];

/// One topic, of a tenant that takes deltas and of one that does not.
const DELTAS: &str = "
sources:
- name: storing
  topics: [otlp_metrics]
  format: otlp-proto
  group: storing
  tenant: {fixed: storing}
  otlp: {delta: store}
  kafka: {brokers: [BROKERS]}
- name: refusing
  topics: [otlp_metrics]
  format: otlp-proto
  group: refusing
  tenant: {fixed: refusing}
  kafka: {brokers: [BROKERS]}
";
/// What has no temporality, or never that of deltas.
const WITHOUT_DELTAS: [&str; 4] =
    ["room_temperature_celsius", "disk_used_ratio", "queue_length", "target_info"];
/// Data points of [`told`] that have one.
const DELTA_POINTS: f64 = 6.0;

const SHARED: &str = "
sources:
- name: otel
  topics: [otlp_metrics]
  format: otlp-proto
  kafka: {brokers: [BROKERS]}
";
const SHARED_PARTITIONS: i32 = 12;
/// Processes with an SDK, the series of each, and the time between two of its collections.
const WORKERS: usize = 4;
const SERIES: usize = 150;
const INTERVAL: Duration = Duration::from_millis(150);
/// Data points of one record.
const BATCH: usize = 200;
/// Samples that are stored before a node is killed, and again before it comes back.
const PART: f64 = 10_000.0;
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Queries of one sample and what it is; all values are binary fractions.
const ANSWERS: &[(&str, f64)] = &[
    (r#"http_server_requests_total{job="shop/checkout",instance="i-1",http_route="/a"}"#, 8.0),
    (r#"http_server_requests_total{job="shop/checkout",instance="i-1",http_route="/b"}"#, 4.0),
    (r#"count({__name__=~"http_server_requests.*"})"#, 2.0),
    (r#"sent_bytes_total{instance="i-1"}"#, 3.75),
    ("room_temperature_celsius", 19.25),
    ("disk_used_ratio", 0.75),
    ("queue_length", 3.0),
    (r#"http_server_request_duration_seconds_bucket{le="0.1"}"#, 1.0),
    (r#"http_server_request_duration_seconds_bucket{le="0.5"}"#, 3.0),
    (r#"http_server_request_duration_seconds_bucket{le="1"}"#, 4.0),
    (r#"http_server_request_duration_seconds_bucket{le="+Inf"}"#, 5.0),
    ("count(http_server_request_duration_seconds_bucket)", 4.0),
    ("http_server_request_duration_seconds_count", 5.0),
    ("http_server_request_duration_seconds_sum", 3.3125),
    (r#"histogram_count(payload_bytes{kind="many"})"#, 7.0),
    (r#"histogram_sum(payload_bytes{kind="many"})"#, 23.0),
    // Two of seven are zero, and two more not above 2, which is the bound of a bucket.
    (r#"abs(histogram_fraction(-1, 2, payload_bytes{kind="many"}) - 4 / 7) < bool 1e-9"#, 1.0),
    (r#"abs(histogram_quantile(1, payload_bytes{kind="many"}) - 8) < bool 1e-9"#, 1.0),
    // One value alone is told in buckets finer than the finest of a native histogram.
    (r#"histogram_count(payload_bytes{kind="one"})"#, 1.0),
    (r#"histogram_sum(payload_bytes{kind="one"})"#, 3.0),
    (r#"abs(histogram_quantile(0.5, payload_bytes{kind="one"}) - 3) < bool 0.01"#, 1.0),
    (
        r#"target_info{job="shop/checkout",instance="i-1",deployment_environment_name="test",telemetry_sdk_language="python",service_name=""}"#,
        1.0,
    ),
    (r#"queue_length * on (job, instance) group_left (deployment_environment_name) target_info"#, 3.0),
];

/// Names, and the type, help and unit that their metadata tell.
const METADATA: &[(&str, [&str; 3])] = &[
    ("http_server_requests_total", ["counter", "Requests served.", ""]),
    ("sent_bytes_total", ["counter", "", "bytes"]),
    ("room_temperature_celsius", ["gauge", "", "celsius"]),
    ("queue_length", ["gauge", "", ""]),
    ("http_server_request_duration_seconds", ["histogram", "", "seconds"]),
    ("payload_bytes", ["histogram", "", "bytes"]),
];

fn told(delta: bool) -> Value {
    json!({
        "delta": delta,
        "resource": {
            "service.name": "checkout", "service.namespace": "shop", "service.instance.id": "i-1",
            "deployment.environment.name": "test",
        },
        "instruments": [
            {"kind": "counter", "name": "http.server.requests", "unit": "{request}", "help": "Requests served.",
             "told": [[3, {"http.route": "/a"}], [4, {"http.route": "/b"}], [5, {"http.route": "/a"}]]},
            {"kind": "counter", "name": "sent", "unit": "By", "told": [[1.5, {}], [2.25, {}]]},
            {"kind": "gauge", "name": "room.temperature", "unit": "Cel", "told": [[21.5, {}], [19.25, {}]]},
            {"kind": "gauge", "name": "disk.used", "unit": "1", "told": [[0.75, {}]]},
            {"kind": "up_down_counter", "name": "queue.length", "unit": "{item}", "told": [[5, {}], [-2, {}]]},
            {"kind": "histogram", "name": "http.server.request.duration", "unit": "s", "bounds": [0.1, 0.5, 1.0],
             "told": [[0.0625, {}], [0.25, {}], [0.25, {}], [0.75, {}], [2.0, {}]]},
            {"kind": "histogram", "name": "payload", "unit": "By", "exponential": true,
             "told": [[0, {"kind": "many"}], [0, {"kind": "many"}], [1, {"kind": "many"}], [2, {"kind": "many"}],
                      [4, {"kind": "many"}], [8, {"kind": "many"}], [8, {"kind": "many"}], [3, {"kind": "one"}]]},
        ],
    })
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("quorate-otel-").tempdir().expect("a temporary folder")
}

fn write_told(folder: &Path, delta: bool) -> PathBuf {
    let path = folder.join("told.json");
    std::fs::write(&path, told(delta).to_string()).expect("a file can be written");
    path
}

fn config(text: &str, kafka: &Kafka, group: &str) -> String {
    text.replace("BROKERS", &format!("'{}'", kafka.bootstrap())).replace("GROUP", group)
}

/// Results of a query by the labels `job` and `series`; `None` while the node cannot answer.
#[track_caller]
fn values(client: &Client, query: &str) -> Option<BTreeMap<(String, String), f64>> {
    let answer = client.get("/api/v1/query", &[("query", query)]).ok()?;
    if answer.status == 503 {
        return None;
    }
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let data = answer.json();
    let results = data["data"]["result"].as_array().expect("a vector").iter();
    let read = |result: &Value| {
        let label = |name: &str| result["metric"][name].as_str().unwrap_or_default().to_owned();
        let value = result["value"][1].as_str().expect("a sample").parse().expect("a number");
        ((label("job"), label("series")), value)
    };
    let values: Vec<_> = results.map(read).collect();
    let (count, map) = (values.len(), BTreeMap::from_iter(values));
    assert_eq!(map.len(), count, "{query}: series differ by job and series: {data}");
    Some(map)
}

/// Waits until the tenant has all that the SDK was told.
#[track_caller]
fn assert_told(server: &Server, tenant: &str) {
    let client = server.client().with_header("X-Scope-OrgID", tenant);
    assert_answers(&client, tenant);
    let metadata = client.api("/api/v1/metadata", &[]);
    for (name, expected) in METADATA {
        let told = &metadata[name][0];
        let told = ["type", "help", "unit"].map(|key| told[key].as_str().unwrap_or("missing"));
        assert_eq!(&told, expected, "metadata of {name} of {tenant}");
    }
}

#[track_caller]
fn assert_answers(client: &Client, tenant: &str) {
    for (query, expected) in ANSWERS {
        wait_for(&format!("{query} of {tenant} to be {expected}"), LIMIT, || {
            let found = values(client, query)?;
            (found.len() == 1 && found.values().all(|value| value == expected)).then_some(())
        });
    }
}

#[test]
fn what_an_sdk_was_told_is_what_queries_give() {
    let name = "kafka otel: an SDK";
    let Some(sdk) = Sdk::find(name) else { return };
    if is_missing(name) {
        return;
    }
    let (kafka, folder) = (Kafka::start(1, &[]), folder());
    let (brokers, told) = (kafka.bootstrap(), write_told(folder.path(), false));
    for (topic, encoding) in [("otlp_metrics", "proto"), ("otlp_json", "json")] {
        kafka.create_topic(topic, 3, 1, &[]);
        sdk.tell(Target::Topic { brokers: &brokers, topic, encoding }, &told);
    }
    let sent = kafka.read_all("otlp_json");
    let text = String::from_utf8_lossy(sent[0].value.as_deref().expect("a value"));
    assert!(sent[0].key.is_none() && text.contains("\"exemplars\""), "no key, and exemplars: {text}");

    let on_kafka = Options { args: on_one_broker(&kafka), ..Options::default() };
    let embedded = Options::default().args(&["--self-monitor=false"]);
    for (options, group) in [(on_kafka, "kafka"), (embedded, "embedded")] {
        let server = Server::start(options.config(&config(BOTH, &kafka, group)));
        TENANTS.iter().for_each(|tenant| assert_told(&server, tenant));
        assert_nothing_is_put_aside(&server);
    }
}

#[test]
fn what_an_sdk_tells_a_collector_is_what_queries_give() {
    let name = "kafka otel: a Collector";
    let Some(sdk) = Sdk::find(name) else { return };
    let Some(program) = find_collector(name) else { return };
    if is_missing(name) {
        return;
    }
    let (kafka, folder) = (Kafka::start(1, &[]), folder());
    let brokers = kafka.bootstrap();
    let exporters = [("otlp_metrics", "otlp_proto"), ("otlp_json", "otlp_json")].map(|(topic, encoding)| {
        kafka.create_topic(topic, 3, 1, &[]);
        format!("{{brokers: ['{brokers}'], metrics: {{topic: {topic}, encoding: {encoding}}}}}")
    });
    let [proto, json] = exporters;
    let exporters = [("kafka", proto), ("kafka/json", json)];
    let collector = Collector::start(&program, folder.path(), BATCH, &exporters);
    sdk.tell(Target::Collector(&collector), &write_told(folder.path(), false));
    collector.finish();

    let options = Options::default().args(&["--self-monitor=false"]);
    let server = Server::start(options.config(&config(BOTH, &kafka, "quorate")));
    TENANTS.iter().for_each(|tenant| assert_told(&server, tenant));
    assert_nothing_is_put_aside(&server);
}

#[test]
fn deltas_of_an_sdk_are_stored_or_refused_as_the_source_says() {
    let name = "kafka otel: deltas";
    let Some(sdk) = Sdk::find(name) else { return };
    if is_missing(name) {
        return;
    }
    let (kafka, folder) = (Kafka::start(1, &[]), folder());
    kafka.create_topic("otlp_metrics", 1, 1, &[]);
    let (brokers, told) = (kafka.bootstrap(), write_told(folder.path(), true));
    sdk.tell(Target::Topic { brokers: &brokers, topic: "otlp_metrics", encoding: "proto" }, &told);

    let options = Options::default().args(&["--self-monitor=false"]);
    let server = Server::start(options.config(&config(DELTAS, &kafka, "")));
    assert_answers(&server.client().with_header("X-Scope-OrgID", "storing"), "storing");
    let refusing = server.client().with_header("X-Scope-OrgID", "refusing");
    wait_for("the record of the tenant without deltas", LIMIT, || {
        (metric(&refusing, r#"quorate_source_records_total{source="refusing",outcome="partial"}"#) == 1.0)
            .then_some(())
    });
    let data = refusing.api("/api/v1/label/__name__/values", &[]);
    let mut names: Vec<&str> = data.as_array().expect("names").iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    let mut expected = WITHOUT_DELTAS;
    expected.sort_unstable();
    assert_eq!(names, expected);
    let refused = metric(&refusing, r#"quorate_source_samples_total{source="refusing",outcome="refused"}"#);
    assert_eq!(refused, DELTA_POINTS);
}

/// All is stored: an empty page tells no outcome at all.
#[track_caller]
fn assert_nothing_is_put_aside(server: &Server) {
    let page = server.client().get("/metrics", &[]).expect("metrics").text();
    let told: Vec<&str> =
        page.lines().filter(|line| line.starts_with("quorate_source_records_total{")).collect();
    assert!(told.len() == 2 && told.iter().all(|line| line.contains(r#"outcome="stored""#)), "{told:?}");
}

/// The partitions of the topic that a node has, or has had since it was started.
fn partitions_of(client: &Client) -> BTreeSet<String> {
    let page = client.get("/metrics", &[]).map(|answer| answer.text()).unwrap_or_default();
    let lags = page.lines().filter(|line| line.starts_with("quorate_source_lag_records{"));
    lags.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[test]
fn members_that_come_and_go_store_each_sample_of_a_collector_once() {
    let name = "kafka otel: three members";
    let Some(sdk) = Sdk::find(name) else { return };
    let Some(program) = find_collector(name) else { return };
    if is_missing(name) {
        return;
    }
    let (kafka, folder) = (Kafka::start(1, &[]), folder());
    kafka.create_topic("otlp_metrics", SHARED_PARTITIONS, 1, &[]);
    // Topic, encoding, keys and partitioner are its defaults.
    let exporter =
        format!("{{brokers: ['{}'], sending_queue: {{block_on_overflow: true}}}}", kafka.bootstrap());
    let collector = Collector::start(&program, folder.path(), BATCH, &[("kafka", exporter)]);
    let setup = three_nodes(["--self-monitor", "false"].map(str::to_owned).to_vec());
    let mut cluster = Cluster::start(setup.config(&config(SHARED, &kafka, "")));
    let begin = SystemClock.instant();
    let workers = Workers::start(&sdk, &collector, folder.path());

    wait_members(&cluster, &[0, 1, 2]);
    let stored = wait_stored(&cluster, PART);
    cluster.kill9(1);
    wait_members(&cluster, &[0, 2]);
    wait_stored(&cluster, stored + PART);
    cluster.restart(1);
    wait_members(&cluster, &[0, 1, 2]);
    wait_stored(&cluster, stored + 2.0 * PART);

    let ledger = workers.finish();
    collector.finish();
    assert_is_spread(&kafka);
    let samples: f64 = ledger.values().map(|(count, _)| count).sum();
    wait_stored(&cluster, samples);
    for node in cluster.all() {
        let client = strong(&cluster.client(node, ANSWER_LIMIT));
        let [counts, sums] = ["count_over_time", "sum_over_time"].map(|function| {
            let query = format!("{function}(work_done_total[1h])");
            wait_for(&format!("{query} at node {}", node + 1), LIMIT, || values(&client, &query))
        });
        assert_eq!(counts.len(), ledger.len(), "series at node {}", node + 1);
        for (series, (count, sum)) in &ledger {
            let found = (counts.get(series), sums.get(series));
            assert_eq!(found, (Some(count), Some(sum)), "{series:?} at node {}", node + 1);
        }
    }
    report(&format!(
        "kafka otel: {} series, {samples} samples of a collector stored once by three members, one killed and back, \
         in {:.1?}",
        ledger.len(),
        begin.elapsed()
    ));
}

/// Waits until each of these nodes was given partitions of the topic, and they all of them.
#[track_caller]
fn wait_members(cluster: &Cluster, nodes: &[usize]) {
    wait_for(&format!("{} members with all partitions", nodes.len()), LIMIT, || {
        let of = |node: &usize| partitions_of(&cluster.client(*node, ANSWER_LIMIT));
        let given: Vec<BTreeSet<String>> = nodes.iter().map(of).collect();
        let all: BTreeSet<&String> = given.iter().flatten().collect();
        (all.len() == SHARED_PARTITIONS as usize && given.iter().all(|some| !some.is_empty())).then_some(())
    });
}

/// Waits until so many samples are stored, and tells how many are.
#[track_caller]
fn wait_stored(cluster: &Cluster, samples: f64) -> f64 {
    let client = cluster.client(0, ANSWER_LIMIT);
    let query = "sum(count_over_time(work_done_total[1h]))";
    wait_for(&format!("{samples} samples"), LIMIT, || {
        let stored: f64 = values(&client, query)?.into_values().sum();
        (stored >= samples).then_some(stored)
    })
}

/// No record has a key, and each partition has records.
#[track_caller]
fn assert_is_spread(kafka: &Kafka) {
    let records = kafka.read_all("otlp_metrics");
    assert!(records.iter().all(|record| record.key.is_none()), "the collector gives no keys");
    for partition in 0..SHARED_PARTITIONS {
        let count = records.iter().filter(|record| record.partition == partition).count();
        assert!(count > 0, "none of {} records is in partition {partition}", records.len());
    }
}

/// Processes with an SDK each, whose counters grow until they are told to stop.
struct Workers {
    processes: Vec<(String, PathBuf, Process)>,
    until: PathBuf,
}

impl Workers {
    #[track_caller]
    fn start(sdk: &Sdk, collector: &Collector, folder: &Path) -> Self {
        let until = folder.join("stop");
        let start = |worker: usize| {
            let service = format!("worker-{worker}");
            let ledger = folder.join(&service).with_extension("json");
            let stream = Stream {
                service: &service,
                series: SERIES,
                interval: INTERVAL,
                until: &until,
                ledger: &ledger,
            };
            let process = sdk.stream(Target::Collector(collector), &stream);
            (service, ledger, process)
        };
        Self { processes: (0..WORKERS).map(start).collect(), until }
    }

    /// Lets them end; number and sum of what they delivered, by job and series.
    #[track_caller]
    fn finish(self) -> BTreeMap<(String, String), (f64, f64)> {
        std::fs::write(&self.until, "").expect("a file can be written");
        let mut all = BTreeMap::new();
        for (service, ledger, mut process) in self.processes {
            let end = process.wait(LIMIT);
            assert!(end.success(), "{service} delivers all: {end}: {}", process.output());
            let ledger = std::fs::read(&ledger).expect("a ledger");
            let ledger: BTreeMap<String, (f64, f64)> = serde_json::from_slice(&ledger).expect("a ledger");
            all.extend(ledger.into_iter().map(|(series, told)| ((service.clone(), series), told)));
        }
        assert_eq!(all.len(), WORKERS * SERIES);
        all
    }
}
