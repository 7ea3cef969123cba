//! The query API of the binary: what parameters do, and what answers look like.

use super::{instant, options, ten_series, write};
use quorate_cluster_tests::harness::http::Answer;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use serde_json::{Value, json};
use std::time::Duration;

/// A server with ten series of the metric `ten`, just written.
fn server_with_ten() -> Server {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    assert_eq!(write(&server, &ten_series(0)).status, 204);
    server
}

/// The whole answer to a successful GET.
#[track_caller]
fn get(server: &Server, path: &str, parameters: &[(&str, &str)]) -> Value {
    let answer: Answer = server.client().get(path, parameters).expect("an answer");
    assert_eq!(answer.status, 200, "{path} {parameters:?}: {}", answer.text());
    answer.json()
}

#[test]
fn a_limit_cuts_and_warns() {
    let server = server_with_ten();
    let warning = json!(["results truncated due to limit"]);
    for (path, wanted) in [
        ("/api/v1/query", [("query", "ten")]),
        ("/api/v1/series", [("match[]", "ten")]),
        ("/api/v1/label/at/values", [("match[]", "ten")]),
    ] {
        let items = |answer: &Value| match path {
            "/api/v1/query" => answer["data"]["result"].as_array().map(Vec::len),
            _ => answer["data"].as_array().map(Vec::len),
        };
        let cut = get(&server, path, &[wanted[0], ("limit", "3")]);
        assert_eq!((items(&cut), &cut["warnings"]), (Some(3), &warning), "{path}: {cut}");
        let whole = get(&server, path, &[wanted[0], ("limit", "10")]);
        assert_eq!((items(&whole), &whole["warnings"]), (Some(10), &Value::Null), "{path}: {whole}");
    }
}

#[test]
fn a_query_ends_at_its_own_timeout() {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    let query = [("query", super::LONG_QUERY), ("timeout", "200ms")];
    let answer = server.client().get("/api/v1/query", &query).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["errorType"], "timeout", "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
}

#[test]
fn a_lookback_delta_of_the_request_wins() {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    let mut request = RequestBuilder::new(Protocol::V2);
    let written_ms = now_ms() - 120_000;
    request.add(&Labels::from_pairs([("__name__", "old")]), &[(written_ms, 1.0)]);
    assert_eq!(write(&server, &request.finish()).status, 204);
    assert_eq!(instant(&server, "old"), "1", "within the five minutes of the default");
    let rows = |delta: &str| {
        let answer = get(&server, "/api/v1/query", &[("query", "old"), ("lookback_delta", delta)]);
        answer["data"]["result"].as_array().expect("a vector").len()
    };
    assert_eq!((rows("60s"), rows("1h")), (0, 1));
}

#[test]
fn statistics_are_told_when_asked_for() {
    let server = server_with_ten();
    let answer = get(&server, "/api/v1/query", &[("query", "ten"), ("stats", "all")]);
    let stats = &answer["data"]["stats"];
    assert_eq!(stats["samples"]["totalQueryableSamples"], 10, "{answer}");
    assert_eq!(stats["samples"]["totalQueryableSamplesPerStep"][0][1], 10, "{answer}");
    assert!(stats["timings"]["evalTotalTime"].as_f64().is_some_and(|seconds| seconds > 0.0), "{answer}");
    let answer = get(&server, "/api/v1/query", &[("query", "ten"), ("stats", "true")]);
    let samples = &answer["data"]["stats"]["samples"];
    assert!(samples["totalQueryableSamplesPerStep"].is_null() && !samples.is_null(), "{answer}");
    assert!(get(&server, "/api/v1/query", &[("query", "ten")])["data"]["stats"].is_null());
}

#[test]
fn values_of_an_escaped_label_name_are_found() {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    let mut request = RequestBuilder::new(Protocol::V2);
    let labels = Labels::from_pairs([("__name__", "up"), ("http.status_code", "200")]);
    request.add(&labels, &[(now_ms(), 1.0)]);
    assert_eq!(write(&server, &request.finish()).status, 204);
    let answer = get(&server, "/api/v1/label/U__http_2e_status__code/values", &[]);
    assert_eq!(answer["data"], json!(["200"]), "{answer}");
}

#[test]
fn status_tsdb_has_prometheus_shape_for_the_tenant_alone() {
    let server = server_with_ten();
    let answer = get(&server, "/api/v1/status/tsdb", &[("limit", "2")]);
    let entry = |name: &str, value: u64| json!({"name": name, "value": value});
    let expected = json!({
        "headStats": {"numSeries": 10, "numLabelPairs": 11},
        "seriesCountByMetricName": [entry("ten", 10)],
        "labelValueCountByLabelName": [entry("at", 10), entry("__name__", 1)],
        "memoryInBytesByLabelName": [entry("__name__", 30), entry("at", 10)],
        "seriesCountByLabelValuePair": [entry("__name__=ten", 10), entry("at=0", 1)],
    });
    assert_eq!(answer["data"], expected, "{answer}");
    let other = server.client().with_header("X-Scope-OrgID", "other").api("/api/v1/status/tsdb", &[]);
    assert_eq!(other["headStats"]["numSeries"], 0, "{other}");
}

#[test]
fn the_nodes_own_metadata_is_there_and_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let on_it = || Options { data_dir: Some(folder.path().join("data")), ..options() };
    let mut server = Server::start(on_it());
    let metadata = |server: &Server| {
        server.client().api("/api/v1/metadata", &[("metric", "prometheus_tsdb_head_series")])
    };
    let told = wait_for("metadata of the node's own metrics", Duration::from_secs(60), || {
        let told = metadata(&server);
        told.as_object().is_some_and(|families| !families.is_empty()).then_some(told)
    });
    let expected = json!({"prometheus_tsdb_head_series":
        [{"type": "gauge", "help": "Series in the heads.", "unit": ""}]});
    assert_eq!(told, expected);
    server.kill9();
    let silent = Server::start(on_it().args(&["--self-monitor", "false"]));
    assert_eq!(metadata(&silent), expected);
}

#[test]
fn active_series_and_query_times_are_on_the_page() {
    let server = server_with_ten();
    assert_eq!(instant(&server, "count(ten)"), "10");
    let page = server.client().get("/metrics", &[]).expect("the page of metrics").text();
    for line in [
        "cortex_ingester_active_series{user=\"anonymous\"} 10",
        "# TYPE prometheus_engine_query_duration_seconds summary",
        "prometheus_engine_query_duration_seconds_count{slice=\"inner_eval\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}: {page}");
    }
    let median = "prometheus_engine_query_duration_seconds{slice=\"inner_eval\",quantile=\"0.5\"} ";
    assert!(page.lines().any(|line| line.starts_with(median)), "{page}");
    let without_help = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| !page.contains(&format!("# HELP {name} ")));
    assert_eq!(without_help.collect::<Vec<_>>(), []);
}

#[test]
fn a_variable_that_no_key_has_is_named_in_the_log() {
    let mut options = options();
    options.env.push(("QUORATE_RETENTOIN".to_owned(), "1d".to_owned()));
    let server = Server::start(options);
    let log = std::fs::read_to_string(server.log_path()).expect("a log");
    assert!(log.contains("QUORATE_RETENTOIN"), "{log}");
}
