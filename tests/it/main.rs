//! The binary from outside: arguments, configuration, data folder, signals; `api` has its query API.

mod api;

use quorate_cluster_tests::harness::http::Answer;
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, Labels, SystemClock};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("the binary starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn options() -> Options {
    Options { binary: Some(BINARY.into()), ..Options::default() }
}

#[test]
fn the_version_names_the_package_version() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{}", text(&output));
}

#[test]
fn the_printed_defaults_pass_the_check() {
    let defaults = run(&["config", "defaults"]);
    assert!(defaults.status.success(), "{}", text(&defaults));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quorate.yaml");
    std::fs::write(&file, &defaults.stdout).unwrap();
    let check = run(&["config", "check", "--config", file.to_str().unwrap()]);
    assert!(check.status.success(), "{}", text(&check));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quorate.yaml");
    std::fs::write(&file, "retention: 3d\nretentoin: 3d\n").unwrap();
    let output = run(&["serve", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success());
    let text = text(&output);
    assert!(text.contains("retentoin") && text.contains("line 2"), "{text}");
}

#[test]
fn a_second_process_on_the_same_folder_refuses_to_start() {
    let server = Server::start(options());
    let mut second = Server::prepare(Options { data_dir: Some(server.data_dir().into()), ..options() });
    second.launch(None);
    assert!(!second.ready_or_ended(), "two processes share one data folder");
    let log = std::fs::read_to_string(second.log_path()).unwrap();
    assert!(log.contains("data"), "{log}");
}

#[test]
fn a_newer_data_format_is_refused_with_both_versions() {
    let mut server = Server::start(options());
    assert!(server.terminate().success());
    let data = server.data_dir().to_owned();
    let file = data.join("FORMAT");
    let format = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format.replacen('1', "9001", 1)).unwrap();
    let mut later = Server::prepare(Options { data_dir: Some(data), ..options() });
    later.launch(None);
    assert!(!later.ready_or_ended(), "a newer format was opened");
    let log = std::fs::read_to_string(later.log_path()).unwrap();
    assert!(log.contains("9001") && log.contains("up to 2"), "{log}");
}

#[test]
fn sigterm_drains_and_ends_with_0_and_the_folder_opens_again() {
    let mut server = Server::start(options());
    assert!(server.terminate().success());
    server.launch(None);
    server.wait_ready();
}

/// The store was closed by whatever held it last, at times while the process ended, which aborted it.
#[test]
fn a_node_that_has_just_started_ends_with_0_again_and_again() {
    let mut server = Server::start(options());
    for turn in 0..20 {
        let ended = server.terminate();
        assert!(ended.success(), "turn {turn}: {ended}");
        server.launch(None);
        server.wait_ready();
    }
}

#[test]
fn the_first_query_after_the_start_shows_the_nodes_own_data() {
    let server = Server::start(options());
    let client = server.client();
    wait_for("the node's own metrics", Duration::from_secs(60), || {
        let data = client.api("/api/v1/query", &[("query", "count({job=\"quorate\"})")]);
        data["result"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(())
    });
}

/// A query that takes half a minute: five million windows, each with a median of 86,400 values in no order.
const LONG_QUERY: &str = "max_over_time(quantile_over_time(0.5, sin(vector(time()))[1d:1s])[60d:1s])";

/// How many queries a server runs now.
fn running(server: &Server) -> f64 {
    let page = server.client().get("/metrics", &[]).expect("the page of metrics").text();
    let line = page.lines().find_map(|line| line.strip_prefix("prometheus_engine_queries "));
    line.expect("the gauge of running queries").parse().expect("a number")
}

#[test]
fn a_client_that_leaves_stops_its_query_within_a_second() {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    let address = server.url().replace("http://", "");
    let mut client = TcpStream::connect(&address).unwrap();
    let form = format!("query={}", LONG_QUERY);
    let length = form.len();
    write!(
        client,
        "POST /api/v1/query HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n{form}"
    )
    .unwrap();
    wait_for("the query to run", Duration::from_secs(20), || (running(&server) == 1.0).then_some(()));
    let begun = SystemClock.instant();
    wait_for("a query that runs long", Duration::from_secs(20), || {
        assert_eq!(running(&server), 1.0, "the query ended by itself after {:?}", begun.elapsed());
        (begun.elapsed() > Duration::from_secs(2)).then_some(())
    });
    drop(client);
    let left = SystemClock.instant();
    wait_for("the query to end", Duration::from_secs(20), || (running(&server) == 0.0).then_some(()));
    assert!(left.elapsed() < Duration::from_secs(1), "the query ran on for {:?}", left.elapsed());
}

#[test]
fn an_unknown_fail_point_is_refused_at_the_start() {
    let output = Command::new(BINARY)
        .args(["serve", "--data-dir"])
        .arg(tempfile::tempdir().unwrap().path())
        .env("QUORATE_FAILPOINT", "flush")
        .output()
        .expect("the binary starts");
    assert!(!output.status.success());
    assert!(text(&output).contains("\"flush\""), "{}", text(&output));
}

#[test]
fn a_silent_grpc_connection_does_not_hold_up_the_end() {
    let mut server = Server::start(options().args(&["--http.drain-timeout", "1s"]));
    let silent = TcpStream::connect(server.grpc_address()).unwrap();
    assert!(server.terminate().success());
    drop(silent);
}

#[test]
fn a_hangup_during_the_replay_does_not_end_the_node() {
    let mut server = Server::start(options());
    server.kill9();
    server.launch(None);
    let address = server.url().replace("http://", "");
    wait_for("a listener", Duration::from_secs(60), || TcpStream::connect(&address).ok());
    let pid = server.process().pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    server.wait_ready();
    assert!(server.terminate().success());
}

/// A remote write 2.0 request of ten series, of which the first `bad` have a sample of the far future.
fn ten_series(bad: usize) -> Vec<u8> {
    let now = now_ms();
    let mut request = RequestBuilder::new(Protocol::V2);
    for at in 0..10 {
        let labels = Labels::from_pairs([("__name__", "ten"), ("at", &at.to_string())]);
        request.add(&labels, &[(if at < bad { now + 86_400_000 } else { now }, 1.0)]);
    }
    request.finish()
}

fn write(server: &Server, body: &[u8]) -> Answer {
    server.client().post("/api/v1/write", &Protocol::V2.headers(), body).expect("an answer")
}

/// The value of a query's first row; empty without rows.
fn instant(server: &Server, query: &str) -> String {
    let data = server.client().api("/api/v1/query", &[("query", query)]);
    data["result"][0]["value"][1].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_is_good_of_a_request_is_written_counted_and_readable() {
    let server = Server::start(options().args(&["--self-monitor", "false"]));
    let answer = write(&server, &ten_series(10));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(instant(&server, "count(ten)"), "");
    let answer = write(&server, &ten_series(3));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("err-mimir-too-far-in-future"), "{}", answer.text());
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), Some("7"));
    assert_eq!(answer.header("x-prometheus-remote-write-histograms-written"), Some("0"));
    assert_eq!(instant(&server, "count(ten)"), "7");
    let answer = write(&server, &ten_series(0));
    assert_eq!(
        (answer.status, answer.header("x-prometheus-remote-write-samples-written")),
        (204, Some("10"))
    );
}

#[test]
fn a_tenant_over_its_rate_is_told_when_to_come_back() {
    let limits = "limits:\n  ingestion_rate: 0.1\n  ingestion_burst_size: 10\n";
    let server = Server::start(options().args(&["--self-monitor", "false"]).config(limits));
    assert_eq!(write(&server, &ten_series(0)).status, 204);
    let answer = write(&server, &ten_series(0));
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.text().contains("err-mimir-tenant-max-ingestion-rate"), "{}", answer.text());
    let seconds: u64 = answer.header("retry-after").expect("a Retry-After").parse().unwrap();
    assert!((60..=150).contains(&seconds), "{seconds} s until 10 samples at 0.1 a second, spread");
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), Some("0"));
}

#[test]
fn a_tenant_exists_once_something_of_it_is_stored_and_there_is_a_limit() {
    let server = Server::start(options().args(&["--self-monitor", "false", "--max-tenants", "2"]));
    let write_as = |tenant: &str, body: &[u8]| {
        let client = server.client().with_header("X-Scope-OrgID", tenant);
        let answer = client.post("/api/v1/write", &Protocol::V2.headers(), body).expect("an answer");
        (answer.status, answer.text())
    };
    for at in 0..5 {
        assert_eq!(write_as(&format!("bad-{at}"), b"no snappy").0, 400);
        assert_eq!(write_as(&format!("refused-{at}"), &ten_series(10)).0, 400);
    }
    for tenant in ["a", "b", "a"] {
        assert_eq!(write_as(tenant, &ten_series(0)).0, 204);
    }
    let (status, text) = write_as("c", &ten_series(0));
    assert_eq!(status, 400);
    assert!(text.contains("limit of 2") && text.contains("max_tenants"), "{text}");
    assert_eq!(write_as("b", &ten_series(0)).0, 204);
}

#[test]
fn a_write_that_is_too_large_or_does_not_arrive_is_refused() {
    let args = ["--self-monitor", "false", "--http.max-write-body", "1KiB", "--http.body-timeout", "100ms"];
    let server = Server::start(options().args(&args));
    let answer = write(&server, &[b'x'; 1025]);
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(answer.header("x-prometheus-remote-write-samples-written"), Some("0"));
    let address = server.url().replace("http://", "");
    for framing in ["content-length: 5\r\n\r\nab", "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n"] {
        let mut client = TcpStream::connect(&address).unwrap();
        write!(client, "POST /api/v1/write HTTP/1.1\r\nhost: {address}\r\n{framing}").unwrap();
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 408 "), "{line}");
    }
}
