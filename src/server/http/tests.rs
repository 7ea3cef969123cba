//! Routes of a node whose services do not run yet, and the listener with bad clients.

use super::extract::Form;
use super::{App, AppParts, listener, router};
use crate::config::load::{Setting, Source};
use crate::config::reload::Reloader;
use axum::body::Body;
use axum::extract::FromRequest;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use quorate_cluster::limits::LimitsProvider;
use quorate_model::ManualClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

fn app(settings: &[(&str, &str)]) -> Arc<App> {
    let settings = settings
        .iter()
        .map(|(key, value)| Setting { key: (*key).into(), value: (*value).into(), origin: "test".into() })
        .collect();
    let source = Source { file: None, settings };
    let config = Arc::new(source.load().unwrap());
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let limits = Arc::new(LimitsProvider::new(config.limits.clone(), config.overrides.clone()));
    App::new(AppParts {
        features: config.features().unwrap(),
        reloader: Arc::new(Reloader::new(source, config, limits.clone(), None, clock.clone())),
        limits,
        recorder: crate::telemetry::metrics::install().unwrap(),
        clock,
        troubles: Arc::default(),
    })
}

/// Status, headers and body of one request: `METHOD TARGET`, header lines, an empty line, the body.
async fn ask(app: &Arc<App>, text: &str) -> (u16, HeaderMap, String) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let response =
        router(app.clone()).oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&bytes).into_owned())
}

#[track_caller]
fn check(settings: &[(&str, &str)], request: &str, status: u16, part: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (got, _, body) = runtime.block_on(ask(&app(settings), request));
    assert_eq!(got, status, "{request}: {body}");
    assert!(body.contains(part), "{request}: {body}");
}

#[test]
fn a_starting_node_is_healthy_and_not_ready() {
    check(&[], "GET /-/healthy", 200, "Healthy");
    check(&[], "HEAD /-/healthy", 200, "");
    check(&[], "GET /-/ready", 503, "Unavailable");
    check(&[], "GET /api/v1/query?query=up", 503, "unavailable");
    check(&[], "GET /metrics", 200, "quorate_ready 0");
    check(&[], "POST /api/v1/write\nContent-Type: application/x-protobuf", 503, "starting");
}

#[test]
fn tenants_and_browsers_do_not_change_the_cluster() {
    for path in ["move", "drain", "undrain", "remove"] {
        let request = format!("POST /api/v1/cluster/{path}?node=n1");
        check(&[], &request, 503, "unavailable");
        for header in ["X-Scope-OrgID: a", "Origin: http://127.0.0.1:9009"] {
            check(&[], &format!("{request}\n{header}"), 403, "for operators");
        }
    }
}

#[test]
fn both_prefixes_lead_to_the_same_answers() {
    for prefix in ["/api/v1", "/prometheus/api/v1"] {
        check(&[], &format!("GET {prefix}/status/buildinfo"), 200, r#""version":"3."#);
        check(&[], &format!("GET {prefix}/rules"), 200, r#"{"status":"success","data":{"groups":[]}}"#);
        check(&[], &format!("GET {prefix}/alerts"), 200, r#"{"alerts":[]}"#);
        check(&[], &format!("GET {prefix}/targets"), 200, r#""activeTargets":[]"#);
        check(&[], &format!("GET {prefix}/alertmanagers"), 200, r#""activeAlertmanagers":[]"#);
        check(&[], &format!("GET {prefix}/status/flags"), 200, r#""query.timeout":"2m""#);
        check(&[], &format!("GET {prefix}/status/runtimeinfo"), 200, r#""storageRetention":"15d""#);
        check(&[], &format!("GET {prefix}/status/config"), 200, "yaml");
        let exemplars = format!("GET {prefix}/query_exemplars?query=up&start=0&end=1");
        check(&[], &exemplars, 200, r#"{"status":"success","data":[]}"#);
        check(&[], &format!("GET {prefix}/query_exemplars?query=up"), 200, r#""data":[]"#);
    }
}

#[test]
fn wrong_parameters_get_prometheus_sentences() {
    let range = |rest: &str| format!("GET /api/v1/query_range?query=up&{rest}");
    check(&[], &range("start=5&end=1&step=1"), 400, "end timestamp must not be before start time");
    check(&[], &range("start=0&end=1&step=0"), 400, "zero or negative query resolution step widths");
    check(&[], &range("start=0&end=11001&step=1"), 400, "exceeded maximum resolution of 11,000 points");
    check(&[], &range("start=0&end=11000&step=1"), 503, "starting");
    check(&[], &range("end=1&step=1"), 400, r#"invalid parameter \"start\""#);
    check(&[], "GET /api/v1/query?query=up&time=NaN", 400, r#"cannot parse \"NaN\" to a valid timestamp"#);
    check(&[], "GET /api/v1/series", 400, "no match[] parameter provided");
    check(&[], "GET /api/v1/query?query=%ff", 400, "bad_data");
    check(
        &[],
        "POST /api/v1/format_query\nContent-Type: application/x-www-form-urlencoded\n\nquery=sum(",
        400,
        "parse error",
    );
    check(&[], "GET /api/v1/format_query?query=a%2Bb", 200, r#""data":"a + b""#);
}

#[test]
fn selectors_must_select_something() {
    let error = |text: &str| super::query::selector(text).unwrap_err().message;
    assert!(error("{}").contains("at least one non-empty matcher"), "{}", error("{}"));
    assert!(error("sum(up)").contains("not a series selector"));
    assert!(error("up offset 5m").contains("not a series selector"));
    assert!(error("up{").contains("parse error"));
    assert_eq!(super::query::selector("up{job=\"a\"}").unwrap().len(), 2);
}

#[test]
fn paths_methods_and_tenants_are_checked() {
    for path in ["/api/v1/nothing", "//api/v1/query", "/api/..;/v1/query"] {
        check(&[], &format!("GET {path}"), 404, "not_found");
    }
    check(&[], "GET /api/v1/write", 405, "not allowed");
    check(&[], "GET /-/reload", 405, "not allowed");
    check(&[], "POST /-/reload", 200, "");
    let required = [("multitenancy", "required")];
    check(&required, "GET /api/v1/rules", 401, "no org id");
    check(&required, "POST /api/v1/push", 401, "no org id");
    check(&required, "GET /api/v1/rules\nX-Scope-OrgID: a", 200, "groups");
    check(&[], "GET /api/v1/rules\nX-Scope-OrgID: a/b", 400, "not allowed");
    check(&[], "GET /api/v1/rules\nX-Scope-OrgID: a\nX-Scope-OrgID: b", 400, "2 times");
    check(&[], "GET /api/v1/rules\nX-Scope-OrgID: __internal", 403, "reserved");
}

#[test]
fn freshness_is_asked_for_by_headers() {
    let ask = |header: &str| format!("GET /api/v1/query?query=up\nX-Read-Consistency{header}");
    check(&[], &ask(": foo"), 400, "must be strong, session or eventual");
    check(&[], &ask(": session"), 400, "X-Read-Consistency-Offsets");
    check(&[], &ask("-Max-Delay: soon"), 400, "must be a duration");
    for good in [": strong", ": eventual", ": session\nX-Read-Consistency-Offsets: 00", "-Max-Delay: 5s"] {
        check(&[], &ask(good), 503, "starting");
    }
}

#[test]
fn ambiguous_requests_are_refused() {
    check(&[], "GET http://other/-/healthy\nHost: this", 400, "another host");
}

#[test]
fn bodies_over_their_bound_are_refused() {
    let small = [("http.max_write_body", "1KiB"), ("http.max_form_body", "1KiB")];
    let body = "x".repeat(1025);
    let form = "POST /api/v1/query\nContent-Type: application/x-www-form-urlencoded\n\nquery=";
    check(&small, &format!("{form}{body}"), 413, "1024 bytes");
    check(&small, &format!("GET /api/v1/query?query={body}"), 413, "1024 bytes");
}

#[tokio::test]
async fn counts_are_told_of_a_write_in_a_wrong_encoding() {
    let version = |proto: &str| format!("Content-Type: application/x-protobuf;proto={proto}");
    let ask = async |kind: &str| {
        let request = format!("POST /api/v1/write\n{kind}\nContent-Encoding: gzip");
        let (status, headers, body) = ask(&app(&[]), &request).await;
        assert_eq!(status, 415, "{body}");
        headers
            .get("x-prometheus-remote-write-samples-written")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(ask(&version("io.prometheus.write.v2.Request")).await.as_deref(), Some("0"));
    assert_eq!(ask(&version("prometheus.WriteRequest")).await, None);
    assert_eq!(ask(&version("io.prometheus.write.v3.Request")).await, None);
}

/// A form of this query, as lines of a request.
fn form(query: &str) -> String {
    format!("POST /api/v1/format_query\nContent-Type: application/x-www-form-urlencoded\n\nquery={query}")
}

#[tokio::test]
async fn a_form_waits_outside_while_other_requests_take_the_memory() {
    let app = app(&[("http.write_memory", "64KiB")]);
    let mut other = app.in_flight().enter();
    other.grow(64 << 10).unwrap();
    let (status, headers, body) = ask(&app, &form("up")).await;
    assert_eq!(status, 503, "{body}");
    assert!(headers.contains_key("retry-after"), "{headers:?}");
    assert_eq!(ask(&app, "GET /api/v1/format_query?query=up").await.0, 200, "it has no body");
    drop(other);
    assert_eq!(ask(&app, &form("up")).await.0, 200);
    assert_eq!(app.in_flight().used(), 0);
}

#[tokio::test]
async fn a_form_is_charged_decoded_until_its_request_ends() {
    let app = app(&[]);
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/query")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("query={}", "x".repeat(1_000))))
        .unwrap();
    let Form(params) = Form::from_request(request, &app).await.unwrap();
    let used = app.in_flight().used();
    assert!((1_000..1_200).contains(&used), "{used}");
    drop(params);
    assert_eq!(app.in_flight().used(), 0);
}

#[test]
fn what_is_read_takes_post_too() {
    for path in ["buildinfo", "runtimeinfo", "flags", "config"] {
        check(&[], &format!("POST /api/v1/status/{path}"), 200, "success");
    }
    for path in ["label/job/values", "metadata", "status/tsdb"] {
        check(&[], &format!("POST /api/v1/{path}"), 503, "starting");
    }
}

#[tokio::test]
async fn answers_are_compressed_on_demand() {
    for encoding in ["gzip", "zstd"] {
        let request = format!("GET /api/v1/status/flags\nAccept-Encoding: {encoding}");
        let (status, headers, _) = ask(&app(&[]), &request).await;
        assert_eq!((status, headers["content-encoding"].to_str().unwrap()), (200, encoding));
    }
}

/// The first line of what a listener answers to these bytes; empty if it only closes the connection.
async fn first_line(settings: &[(&str, &str)], bytes: &[u8]) -> String {
    let app = app(settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let config = app.config();
    let served = {
        let (router, stop) = (router(app), stop.clone());
        tokio::spawn(
            async move { listener::serve(listener, router, &config.http, stop.cancelled_owned()).await },
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).await.unwrap_or(0);
    drop(stream);
    stop.cancel();
    served.await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn headers_are_bounded_in_size_number_and_time() {
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(65 << 10));
    assert_eq!(first_line(&[], long.as_bytes()).await, "HTTP/1.1 431 Request Header Fields Too Large");
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    assert_eq!(first_line(&[], many.as_bytes()).await, "HTTP/1.1 431 Request Header Fields Too Large");
    let slow = [("http.header_timeout", "50ms")];
    assert_eq!(first_line(&slow, b"GET / HTTP/1.1\r\nhost: a\r\n").await, "");
    assert_eq!(first_line(&[], b"GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n").await, "HTTP/1.1 400 Bad Request");
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_preface_is_closed() {
    let slow = [("http.header_timeout", "50ms")];
    for begin in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let answer = tokio::time::timeout(Duration::from_secs(20), first_line(&slow, begin)).await;
        assert_eq!(answer.expect("it is closed"), "", "{begin:?}");
    }
    let post = b"POST /-/reload HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(first_line(&slow, post).await, "HTTP/1.1 200 OK", "it begins as the preface of HTTP/2 does");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert!(!first_line(&slow, preface).await.is_empty(), "settings of HTTP/2");
}

/// Everything that a listener answers until it closes the connection.
async fn whole_answer(bytes: &[u8]) -> String {
    let app = app(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let config = app.config();
    let served = listener::serve(listener, router(app), &config.http, std::future::pending());
    let mut answer = Vec::new();
    stream.write_all(bytes).await.unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    tokio::select! {
        read = asked => drop(read.expect("the connection is closed").unwrap()),
        ended = served => ended.unwrap(),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_smuggles_nothing() {
    let hidden = "GET /-/healthy HTTP/1.1\r\nhost: a\r\n\r\n";
    for framing in
        ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"]
    {
        let request = format!("POST /-/reload HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n0\r\n\r\n{hidden}");
        let answer = whole_answer(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "the connection ends behind it: {answer}");
    }
    let coding =
        "POST /-/reload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd";
    assert!(whole_answer(coding.as_bytes()).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let slow = [("http.body_timeout", "50ms")];
    let head =
        "POST /api/v1/query HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-www-form-urlencoded\r\n";
    for rest in ["content-length: 5\r\n\r\nab", "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n"] {
        let answer = first_line(&slow, format!("{head}{rest}").as_bytes()).await;
        assert_eq!(answer, "HTTP/1.1 408 Request Timeout");
    }
}

#[tokio::test]
async fn a_node_that_replays_refuses_a_write_before_its_body() {
    let request = b"POST /api/v1/write HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(first_line(&[], request).await, "HTTP/1.1 503 Service Unavailable");
}
