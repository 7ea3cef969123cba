//! Topics that other systems fill: each format and codec is stored for its tenant, what cannot be read is put aside, and
//! a node that is killed in the middle loses and repeats nothing.

use super::kills::report;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::{Kafka, LIMIT, Message, Record, is_missing};
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use std::collections::BTreeMap;
use std::io::Write;

/// Records of the killed node, and samples in each.
const RECORDS: usize = 1_200;
const SERIES: usize = 20;
const PARTITIONS: i32 = 4;
const KILLS: usize = 3;

const FORMATS: &str = r#"
sources:
- name: written
  topics: [written]
  format: remote-write
  tenant: {header: X-Scope-OrgID}
  kafka: {brokers: [BROKERS]}
- name: lines
  topics: ['^lines\..*']
  format: influx
  tenant: {topic: '^lines\.([^.]+)$', default: ''}
  dead_letter_topic: aside
  kafka: {brokers: [BROKERS]}
- name: texts
  topics: [texts]
  format: prometheus
  tenant: {fixed: texts}
  kafka: {brokers: [BROKERS]}
- name: otel
  topics: [otlp_metrics]
  format: otlp-proto
  tenant: {attribute: team}
  kafka: {brokers: [BROKERS]}
- name: otel-json
  topics: [otlp_json]
  format: otlp-json
  group: json
  assignor: range
  tenant: {attribute: team}
  kafka: {brokers: [BROKERS]}
"#;

const KILLED: &str = "
kafka: {brokers: [BROKERS]}
sources:
- name: killed
  topics: [killed]
  format: remote-write
  commit_interval: 200ms
  max_in_flight: 1MiB
";

const PACED: &str = "
overrides: {limited: {ingestion_rate: 100, ingestion_burst_size: 50}}
sources:
- name: paced
  topics: [paced]
  format: remote-write
  tenant: {header: tenant}
  max_in_flight: 1MiB
  kafka: {brokers: [BROKERS]}
";

fn start(kafka: &Kafka, config: &str) -> Server {
    let brokers = format!("'{}'", kafka.bootstrap());
    let config = config.replace("BROKERS", &brokers);
    Server::start(Options::default().config(&config).args(&["--self-monitor=false"]))
}

fn of_tenant(server: &Server, tenant: &str) -> Client {
    server.client().with_header("X-Scope-OrgID", tenant)
}

/// Values of a query by the label `series`, or by nothing.
fn values(client: &Client, query: &str) -> BTreeMap<String, f64> {
    let data = client.api("/api/v1/query", &[("query", query)]);
    let results = data["result"].as_array().expect("a vector").iter();
    let read = |result: &serde_json::Value| {
        let series = result["metric"]["series"].as_str().unwrap_or_default().to_owned();
        Some((series, result["value"][1].as_str()?.parse().ok()?))
    };
    results.filter_map(read).collect()
}

#[track_caller]
fn wait_sum(server: &Server, tenant: &str, metric: &str, expected: f64) {
    let client = of_tenant(server, tenant);
    let query = format!("sum(sum_over_time({metric}[1h]))");
    let mut last = None;
    wait_for(&format!("{metric} of {tenant} to sum to {expected}"), LIMIT, || {
        last = values(&client, &query).into_values().next();
        (last == Some(expected)).then_some(())
    });
}

fn gzip(value: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(value).expect("memory takes it");
    out.finish().expect("memory takes it")
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "one byte of length");
    let mut field = vec![number << 3 | 2, content.len() as u8];
    field.extend_from_slice(content);
    field
}

/// An `ExportMetricsServiceRequest` with one gauge.
fn otlp(team: &str, metric: &str, ts_ms: i64, value: f64) -> Vec<u8> {
    let attribute = [field(1, b"team"), field(2, &field(1, team.as_bytes()))].concat();
    let mut point = vec![3 << 3 | 1];
    point.extend_from_slice(&(ts_ms as u64 * 1_000_000).to_le_bytes());
    point.push(4 << 3 | 1);
    point.extend_from_slice(&value.to_le_bytes());
    let metric = [field(1, metric.as_bytes()), field(5, &field(1, &point))].concat();
    let scope = field(2, &metric);
    field(1, &[field(1, &field(1, &attribute)), field(2, &scope)].concat())
}

fn otlp_json(team: &str, metric: &str, ts_ms: i64, value: f64) -> String {
    format!(
        r#"{{"resourceMetrics":[{{"resource":{{"attributes":[{{"key":"team","value":{{"stringValue":"{team}"}}}}]}},
        "scopeMetrics":[{{"metrics":[{{"name":"{metric}","gauge":{{"dataPoints":[
        {{"timeUnixNano":"{ts_ms}000000","asDouble":{value}}}]}}}}]}}]}}]}}"#
    )
}

fn written(protocol: Protocol, ts_ms: i64, value: f64) -> Vec<u8> {
    let mut request = RequestBuilder::new(protocol);
    request.add(&Labels::from_pairs([("__name__", "written")]), &[(ts_ms, value)]);
    request.finish()
}

fn value(value: &[u8]) -> Record<'_> {
    Record { value: Some(value), ..Record::default() }
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let found = message.headers.iter().find(|(found, _)| found == name)?;
    found.1.as_deref().and_then(|value| std::str::from_utf8(value).ok())
}

#[test]
fn each_format_is_stored_for_its_tenant_and_what_cannot_be_read_is_put_aside() {
    if is_missing("kafka sources: formats") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    for topic in ["written", "lines.a", "lines.b", "texts", "otlp_metrics", "otlp_json"] {
        kafka.create_topic(topic, 2, 1, &[]);
    }
    let server = start(&kafka, FORMATS);
    let now = now_ms();

    // Both versions, as senders write them; the second tells nothing of its own but its tenant.
    let (one, two) = (written(Protocol::V1, now, 1.0), written(Protocol::V2, now - 1, 2.0));
    let tenant: [(&str, &[u8]); 1] = [("x-scope-orgid", b"team-w")];
    let bodies = [one, two];
    let records: Vec<Record<'_>> =
        bodies.iter().map(|body| Record { headers: &tenant, ..value(body) }).collect();
    kafka.produce_all("written", &records);
    kafka.produce_all("written", &[value(b"garbage that is no message")]);
    kafka.produce_all("written", &records);
    wait_sum(&server, "team-w", "written", 3.0);

    let (lines, zipped) =
        (format!("m,host=a v=1 {now}000000\n"), gzip(format!("m,host=b v=2i {now}000000").as_bytes()));
    let encoding: [(&str, &[u8]); 1] = [("Content-Encoding", b"gzip")];
    kafka.produce_all("lines.a", &[value(lines.as_bytes()), Record { headers: &encoding, ..value(&zipped) }]);
    kafka.produce_all("lines.b", &[value(b"no line at all"), value(lines.as_bytes())]);
    wait_sum(&server, "a", "m_v", 3.0);
    wait_sum(&server, "b", "m_v", 1.0);

    kafka.produce_all("texts", &[Record { timestamp_ms: Some(now), ..value(b"# TYPE t gauge\nt 5\n") }]);
    wait_sum(&server, "texts", "t", 5.0);

    let snappy = quorate_cluster_tests::remote_write::compress(&otlp("p", "g", now, 4.0));
    let encoding: [(&str, &[u8]); 1] = [("content-encoding", b"snappy")];
    let plain = otlp("q", "g", now, 3.0);
    kafka.produce_all("otlp_metrics", &[value(&plain), Record { headers: &encoding, ..value(&snappy) }]);
    wait_sum(&server, "p", "g", 4.0);
    wait_sum(&server, "q", "g", 3.0);
    kafka.produce_all("otlp_json", &[value(otlp_json("j", "g", now, 6.0).as_bytes())]);
    wait_sum(&server, "j", "g", 6.0);

    wait_for("a dead letter of each", LIMIT, || {
        let page = server.client().get("/metrics", &[]).ok()?.text();
        let ones = ["written", "lines"]
            .map(|name| format!("quorate_source_dead_letters_total{{source=\"{name}\"}} 1"));
        ones.iter().all(|one| page.lines().any(|line| line == one)).then_some(())
    });
    let letters: Vec<Message> =
        ["written.dead-letters", "aside"].into_iter().flat_map(|topic| kafka.read_all(topic)).collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_eq!(letters[0].value.as_deref(), Some(&b"garbage that is no message"[..]));
    assert_eq!(header(&letters[0], "quorate.source.topic"), Some("written"));
    assert!(
        header(&letters[0], "quorate.reason").is_some_and(|reason| reason.contains("snappy")),
        "{letters:?}"
    );
    assert_eq!(header(&letters[1], "quorate.source.topic"), Some("lines.b"));
    assert!(
        header(&letters[1], "quorate.reason").is_some_and(|reason| reason.contains("line 1")),
        "{letters:?}"
    );
    wait_for("no lag", LIMIT, || {
        let page = server.client().get("/metrics", &[]).ok()?.text();
        let lags: Vec<&str> =
            page.lines().filter(|line| line.starts_with("quorate_source_lag_records{")).collect();
        (lags.len() == 12 && lags.iter().all(|line| line.ends_with(" 0"))).then_some(())
    });
}

#[test]
fn a_tenant_over_its_rate_waits_alone_and_records_above_its_burst_pass() {
    if is_missing("kafka sources: rates") {
        return;
    }
    const EACH: usize = 200;
    let kafka = Kafka::start(1, &[]);
    kafka.create_topic("paced", 2, 1, &[]);
    let begin = now_ms() - 600_000;
    let body = |at: usize| {
        let mut request = RequestBuilder::new(Protocol::V2);
        let samples: Vec<(i64, f64)> = (0..EACH).map(|n| (begin + (at * EACH + n) as i64, 1.0)).collect();
        request.add(&Labels::from_pairs([("__name__", "paced")]), &samples);
        request.finish()
    };
    let bodies: Vec<Vec<u8>> = (0..4).map(body).collect();
    let of = |tenant: &'static str, partition: i32| {
        let headers: &'static [(&str, &[u8])] = match tenant {
            "limited" => &[("tenant", b"limited")],
            _ => &[("tenant", b"free")],
        };
        bodies
            .iter()
            .map(move |body| Record { partition: Some(partition), headers, ..value(body) })
            .collect::<Vec<_>>()
    };
    let server = start(&kafka, PACED);
    kafka.produce_all("paced", &of("limited", 0));
    kafka.produce_all("paced", &of("free", 1));
    wait_sum(&server, "free", "paced", (4 * EACH) as f64);
    let limited = of_tenant(&server, "limited");
    let stored = values(&limited, "sum(sum_over_time(paced[1h]))").into_values().next().unwrap_or(0.0);
    assert!(stored < (4 * EACH) as f64, "800 samples take seconds at 100 a second");
    wait_sum(&server, "limited", "paced", (4 * EACH) as f64);
    let page = server.client().get("/metrics", &[]).expect("metrics").text();
    assert!(
        !page.lines().any(|line| line.starts_with("quorate_source_dead_letters_total")),
        "nothing is put aside"
    );
}

#[test]
fn a_node_that_is_killed_in_the_middle_loses_and_repeats_nothing() {
    if is_missing("kafka sources: kills") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    kafka.create_topic("killed", PARTITIONS, 1, &[]);
    let mut server = start(&kafka, KILLED);
    let begin = now_ms() - 1_800_000;
    let body = |at: usize| {
        let mut request = RequestBuilder::new(if at.is_multiple_of(2) { Protocol::V1 } else { Protocol::V2 });
        for series in 0..SERIES {
            let name = series.to_string();
            let labels = Labels::from_pairs([("__name__", "killed"), ("series", name.as_str())]);
            request.add(&labels, &[(begin + 100 * at as i64, (at + series) as f64)]);
        }
        request.finish()
    };
    let part = RECORDS / (KILLS + 1);
    for round in 0..=KILLS {
        let bodies: Vec<Vec<u8>> = (round * part..(round + 1) * part).map(body).collect();
        let records: Vec<Record<'_>> = bodies
            .iter()
            .enumerate()
            .map(|(at, body)| Record { partition: Some(at as i32 % PARTITIONS), ..value(body) })
            .collect();
        kafka.produce_all("killed", &records);
        if round < KILLS {
            // In the middle of what was just written, if the machine lets it be.
            let client = of_tenant(&server, "anonymous");
            wait_for("some of it to be stored", LIMIT, || {
                let count = values(&client, "sum(count_over_time(killed[1h]))").into_values().next()?;
                (count > (round * part * SERIES) as f64).then_some(())
            });
            server.kill9();
            server.launch(None);
            server.wait_ready();
        }
    }
    let client = of_tenant(&server, "anonymous");
    let counts = wait_for("all of it to be stored", LIMIT, || {
        let counts = values(&client, "count_over_time(killed[1h])");
        (counts.values().sum::<f64>() >= (RECORDS * SERIES) as f64).then_some(counts)
    });
    let sums = values(&client, "sum_over_time(killed[1h])");
    for series in 0..SERIES {
        let expected: f64 = (0..RECORDS).map(|at| (at + series) as f64).sum();
        let name = series.to_string();
        assert_eq!((counts[&name], sums[&name]), (RECORDS as f64, expected), "series {series}");
    }
    wait_for("all of it to be committed", LIMIT, || {
        let page = client.get("/metrics", &[]).ok()?.text();
        let lags: Vec<&str> =
            page.lines().filter(|line| line.starts_with("quorate_source_lag_records{")).collect();
        (lags.len() == PARTITIONS as usize && lags.iter().all(|line| line.ends_with(" 0"))).then_some(())
    });
    let mut kafka = kafka;
    kafka.kill(0);
    assert!(server.terminate().success(), "SIGTERM drains and exits 0, brokers or not");
    report(&format!("kafka sources: {KILLS} kills, {} samples stored once", RECORDS * SERIES));
}
