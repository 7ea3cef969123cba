//! What Grafana's Prometheus data source sends for "Save & test", Explore and template variables, and what
//! promtool's query commands send, against a server with known data.

use flate2::read::GzDecoder;
use quorate_cluster_tests::compare::is_same_value;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{find_tool, now_ms, skip};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use serde_json::{Value, json};
use std::io::Read;
use std::process::Command;

const STEP_MS: i64 = 15_000;
const SCRAPES: i64 = 40;

/// A server with two instances of `http_requests_total` that count 15 and 30 per scrape, and `up`.
fn with_data() -> (Server, i64) {
    let server = Server::start(Options::default().args(&["--self-monitor", "false"]));
    let end_ms = now_ms() / STEP_MS * STEP_MS;
    let mut request = RequestBuilder::new(Protocol::V1);
    for (instance, per_scrape) in [("a:80", 15.0), ("b:80", 30.0)] {
        let times = (0..SCRAPES).map(|at| end_ms - (SCRAPES - 1 - at) * STEP_MS);
        let counter: Vec<(i64, f64)> = times.enumerate().map(|(n, t)| (t, n as f64 * per_scrape)).collect();
        let up: Vec<(i64, f64)> = counter.iter().map(|(t, _)| (*t, 1.0)).collect();
        let pairs = [("instance", instance), ("job", "shop"), ("code", "200")];
        request.add(&labels("http_requests_total", &pairs), &counter);
        request.add(&labels("up", &pairs[..2]), &up);
    }
    let answer = server.client().post("/api/v1/write", &Protocol::V1.headers(), &request.finish());
    let answer = answer.expect("the server answers");
    assert_eq!(answer.status, 204, "{}", answer.text());
    (server, end_ms)
}

fn labels(name: &str, pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied().chain([("__name__", name)]))
}

/// One request of the data source: POST forms where it posts, and a value expected at a JSON pointer.
struct Call<'a> {
    post: bool,
    path: &'a str,
    form: Vec<(&'a str, &'a str)>,
    pointer: &'a str,
    expected: Value,
}

#[test]
fn grafana_requests_get_the_answers_its_data_source_expects() {
    let (server, end_ms) = with_data();
    let (start, end) = ((end_ms / 1000 - 600).to_string(), (end_ms / 1000).to_string());
    let window = [("start", start.as_str()), ("end", end.as_str())];
    let with = |more: &[(&'static str, &'static str)]| [&window[..], more].concat();
    let rate = with(&[("query", "sum(rate(http_requests_total{job=\"shop\"}[1m0s]))"), ("step", "15")]);
    let one = with(&[("query", "up"), ("step", "15")]);
    let by_metric = with(&[("match[]", "up")]);
    let by_regex = with(&[("match[]", "{__name__=~\".*requests.*\"}"), ("limit", "40000")]);
    let exemplars = with(&[("query", "http_requests_total")]);
    let calls = [
        // Save & test: a constant, then what kind of server this is.
        post("/api/v1/query", &[("query", "1+1"), ("time", &end)], "/data/result/1", json!("2")),
        get("/api/v1/status/buildinfo", &[], "/status", json!("success")),
        get("/api/v1/rules", &[], "/data/groups", json!([])),
        get("/api/v1/alerts", &[], "/data/alerts", json!([])),
        // Explore: the metric browser, the builder's labels and values, the two kinds of query, exemplars.
        get("/api/v1/label/__name__/values", &window, "/data", json!(["http_requests_total", "up"])),
        get("/api/v1/labels", &window, "/data", json!(["__name__", "code", "instance", "job"])),
        post("/api/v1/labels", &by_metric, "/data", json!(["__name__", "instance", "job"])),
        get("/api/v1/label/instance/values", &by_metric, "/data", json!(["a:80", "b:80"])),
        get("/api/v1/label/__name__/values", &by_regex, "/data", json!(["http_requests_total"])),
        get("/api/v1/metadata", &[("limit", "40000")], "/status", json!("success")),
        post("/api/v1/query_range", &rate, "/data/result/0/values/38/1", json!("3")),
        post("/api/v1/query_range", &one, "/data/result/1/metric/instance", json!("b:80")),
        post(
            "/api/v1/query",
            &[("query", "topk(1, http_requests_total)"), ("time", &end)],
            "/data/result/0/value/1",
            json!("1170"),
        ),
        post("/api/v1/query_exemplars", &exemplars, "/data", json!([])),
        get("/api/v1/format_query", &[("query", "sum by(job)(up)")], "/data", json!("sum by (job) (up)")),
        get("/api/v1/parse_query", &[("query", "up")], "/data/type", json!("vectorSelector")),
        // Variables: label_values(metric, label), query_result(...), label_names().
        get("/api/v1/series", &by_metric, "/data/0/job", json!("shop")),
        post("/api/v1/series", &by_metric, "/data/1/instance", json!("b:80")),
        get("/api/v1/query", &[("query", "count(up)"), ("time", &end)], "/data/result/0/value/1", json!("2")),
        get("/api/v1/label/nothing/values", &window, "/data", json!([])),
    ];
    for call in &calls {
        for prefix in ["", "/prometheus"] {
            check_call(&server, prefix, call);
        }
    }
}

#[test]
fn a_wrong_query_is_explained_in_prometheus_words() {
    let (server, _) = with_data();
    let answer = server.client().get("/api/v1/query", &[("query", "sum(")]).expect("an answer");
    assert_eq!(answer.status, 400);
    let json = answer.json();
    assert_eq!((&json["status"], &json["errorType"]), (&json!("error"), &json!("bad_data")), "{json}");
    assert!(json["error"].as_str().is_some_and(|text| text.contains("parse error")), "{json}");
}

#[test]
fn answers_are_compressed_when_the_client_asks() {
    let (server, end_ms) = with_data();
    let end = (end_ms / 1000).to_string();
    let client = server.client().with_header("accept-encoding", "gzip");
    let query = [("query", "http_requests_total[10m]"), ("time", end.as_str())];
    let answer = client.get("/api/v1/query", &query).expect("an answer");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    GzDecoder::new(&answer.body[..]).read_to_string(&mut text).expect("gzip");
    let plain = server.client().get("/api/v1/query", &query).expect("an answer");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["data"], plain.json()["data"]);
}

#[test]
fn promtool_queries_run_unmodified() {
    let Some(promtool) = find_tool("promtool") else {
        return skip("promtool_queries_run_unmodified", "promtool is not installed");
    };
    let (server, end_ms) = with_data();
    let (url, start, end) = (server.url(), (end_ms / 1000 - 60).to_string(), (end_ms / 1000).to_string());
    let times = [format!("--start={start}"), format!("--end={end}")];
    let run = |args: &[&str], expected: &str| {
        let output = Command::new(&promtool).arg("query").args(args).output().expect("promtool starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {text}{errors}");
        assert!(text.contains(expected), "{args:?}: {text}");
    };
    let at = format!("--time={end}");
    run(&["instant", &at, &url, "sum(http_requests_total)"], "1755");
    run(&["range", &times[0], &times[1], "--step=15s", &url, "sum(up)"], "2 @[");
    run(&["series", &times[0], &times[1], "--match=up", &url], "instance=\"b:80\"");
    run(&["labels", &times[0], &times[1], &url, "instance"], "a:80");
}

fn get<'a>(path: &'a str, form: &[(&'a str, &'a str)], pointer: &'a str, expected: Value) -> Call<'a> {
    Call { post: false, path, form: form.to_vec(), pointer, expected }
}

fn post<'a>(path: &'a str, form: &[(&'a str, &'a str)], pointer: &'a str, expected: Value) -> Call<'a> {
    Call { post: true, path, form: form.to_vec(), pointer, expected }
}

#[track_caller]
fn check_call(server: &Server, prefix: &str, call: &Call<'_>) {
    let path = format!("{prefix}{}", call.path);
    let client = server.client();
    let answer = if call.post { client.post_form(&path, &call.form) } else { client.get(&path, &call.form) };
    let answer = answer.unwrap_or_else(|e| panic!("{path}: {}", e.0));
    let place = format!("{path} {:?}: {}", call.form, answer.text());
    assert_eq!(answer.status, 200, "{place}");
    assert!(answer.header("content-type").is_some_and(|t| t.starts_with("application/json")), "{place}");
    let json = answer.json();
    assert_eq!(json["status"], "success", "{place}");
    let got = json.pointer(call.pointer).unwrap_or(&Value::Null);
    let is_same = match (call.expected.as_str(), got.as_str()) {
        (Some(expected), Some(got)) => is_same_value(expected, got),
        _ => *got == call.expected,
    };
    assert!(is_same, "{} is {got}, expected {}: {place}", call.pointer, call.expected);
}
