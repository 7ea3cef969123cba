//! Remote write 1.0 and 2.0 over HTTP: what the request says it is, how much of it is read, what is answered.
//!
//! Path: client -> **here** -> `ingest::Distributor` -> the log. The body stays compressed until `ingest`.
//! Source: Prometheus remote write specifications 1.0 and 2.0; docs/operations.md has the code table.

use super::App;
use super::consistency;
use super::extract::{BodyError, Tenant, read_body};
use crate::config::Config;
use crate::node::gateway::{GatewayError, UNNUMBERED, Writer};
use crate::status;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_ingest::{InFlight, Protocol, WriteError, WriteOutcome, WriteRequest, Written};
use quorate_model::ErrorCode;
use quorate_query::TokenKey;
use std::sync::Arc;

const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");
const HISTOGRAMS_WRITTEN: HeaderName =
    HeaderName::from_static("x-prometheus-remote-write-histograms-written");
const EXEMPLARS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-exemplars-written");
const RETRY_ATTEMPT: HeaderName = HeaderName::from_static("retry-attempt");

/// Memory of write requests when the machine does not tell its own.
const LEAST_MEMORY: u64 = 256 << 20;
/// Parts of the node's memory budget, 70 % of the machine's, of which write requests get one.
const MEMORY_PARTS: u64 = 7;

/// The bound on what write requests and form bodies take while they are read.
pub fn in_flight(config: &Config) -> Arc<InFlight> {
    let bytes = match config.http.write_memory.bytes() {
        0 => quorate_query::budget::default_node_budget().map_or(LEAST_MEMORY, |node| node / MEMORY_PARTS),
        bytes => bytes,
    };
    InFlight::new(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Why a request was not written, or not in full.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    retry_after: Option<u64>,
    written: Written,
    /// The positions of what was written of it, if all of that is known.
    token: Option<HeaderValue>,
}

/// What a request wrote, and the positions of that.
#[derive(Debug)]
struct Taken {
    written: Written,
    token: HeaderValue,
}

impl Refusal {
    fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, written: Written::default(), token: None }
    }

    fn coded(code: ErrorCode, message: impl Into<String>, attempt: u32) -> Self {
        let retry_after = status::retry_after_seconds(code, attempt, status::any_number());
        Self { retry_after, ..Self::plain(status::http_status(code), message) }
    }
}

/// Takes a remote-write request of either version.
pub async fn remote_write(
    State(app): State<Arc<App>>,
    tenant: Result<Tenant, super::reply::ApiError>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let protocol = match protocol(&parts.headers) {
        Ok(protocol) => protocol,
        Err(refusal) => return answer(None, Err(refusal)),
    };
    let outcome = match (check_encoding(&parts.headers), tenant) {
        (Err(refusal), _) => Err(refusal),
        (Ok(()), Err(error)) => Err(Refusal::coded(error.code, error.message, 0)),
        (Ok(()), Ok(Tenant(tenant))) => take(&app, tenant, protocol, &parts.headers, body).await,
    };
    answer(Some(protocol), outcome)
}

async fn take(
    app: &App,
    tenant_name: Arc<str>,
    protocol: Protocol,
    headers: &HeaderMap,
    body: Body,
) -> Result<Taken, Refusal> {
    let attempt = headers.get(RETRY_ATTEMPT).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    // Before the body is read: a node that replays has nothing to do with it.
    let services = app.services().map_err(|e| Refusal::coded(e.code, e.message, attempt))?;
    let config = app.config();
    let max = config.http.max_write_body.as_usize();
    let mut held = app.in_flight().enter();
    let reading = read_body(headers, body, max, config.http.body_timeout.into(), &mut held).await;
    let body = reading.map_err(|error| match error {
        BodyError::NoRoom(_) => Refusal::coded(ErrorCode::Unavailable, error.describe().1, attempt),
        error => {
            let (status, message) = error.describe();
            Refusal::plain(status, message)
        }
    })?;
    let request = WriteRequest { tenant: UNNUMBERED, tenant_name, protocol, body };
    match services.write(request, held, config.max_tenants, Writer::Request).await {
        Ok(outcome) => partial(&outcome, &services.token_key),
        Err(GatewayError::Write(error)) => Err(failed(&error, attempt)),
        Err(GatewayError::Tenant(error)) => Err(Refusal::coded(error.code(), error.to_string(), attempt)),
    }
}

fn failed(error: &WriteError, attempt: u32) -> Refusal {
    let mut refusal = Refusal::coded(error.code(), error.to_string(), attempt);
    if let Some(wait) = error.retry_after() {
        let least = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        refusal.retry_after = refusal.retry_after.max(Some(status::spread(least, status::any_number())));
    }
    refusal.written = error.written();
    refusal
}

/// All of a request was written, or the refused part is told.
fn partial(outcome: &WriteOutcome, key: &TokenKey) -> Result<Taken, Refusal> {
    let written =
        Written { samples: outcome.samples, histograms: outcome.histograms, exemplars: outcome.exemplars };
    let token = consistency::token_of(&outcome.positions, key);
    if outcome.refused() == 0 {
        return Ok(Taken { written, token });
    }
    let mut message = format!(
        "{} of the request were refused, {} samples and {} histograms were written",
        outcome.refused(),
        written.samples,
        written.histograms
    );
    for refusal in &outcome.refusals {
        message.push('\n');
        message.push_str(&refusal.message);
    }
    let token = (!outcome.positions.is_empty()).then_some(token);
    Err(Refusal { written, token, ..Refusal::plain(StatusCode::BAD_REQUEST, message) })
}

fn answer(protocol: Option<Protocol>, outcome: Result<Taken, Refusal>) -> Response {
    let (mut response, written, token) = match outcome {
        Ok(Taken { written, token }) => (StatusCode::NO_CONTENT.into_response(), written, Some(token)),
        Err(refusal) => {
            let mut response = (refusal.status, format!("{}\n", refusal.message)).into_response();
            if let Some(seconds) = refusal.retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            (response, refusal.written, refusal.token)
        }
    };
    response.headers_mut().extend(token.map(|token| (consistency::OFFSETS, token)));
    if protocol == Some(Protocol::RemoteWrite2) {
        let headers = response.headers_mut();
        headers.insert(SAMPLES_WRITTEN, HeaderValue::from(written.samples));
        headers.insert(HISTOGRAMS_WRITTEN, HeaderValue::from(written.histograms));
        headers.insert(EXEMPLARS_WRITTEN, HeaderValue::from(written.exemplars));
    }
    response
}

/// Which message the headers announce. Without a type it is 1.0, as early senders do.
fn protocol(headers: &HeaderMap) -> Result<Protocol, Refusal> {
    let kind = text(headers, &header::CONTENT_TYPE)?;
    let mut parts = kind.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    if !media.is_empty() && !media.eq_ignore_ascii_case("application/x-protobuf") {
        return Err(unsupported(format!(
            "expected application/x-protobuf as the content type, got {kind:?}"
        )));
    }
    let message = parts.find_map(|part| part.strip_prefix("proto=")).map(|name| name.trim_matches('"'));
    match message {
        None | Some("prometheus.WriteRequest") => Ok(Protocol::RemoteWrite1),
        Some("io.prometheus.write.v2.Request") => Ok(Protocol::RemoteWrite2),
        Some(other) => Err(unsupported(format!("{other:?} is not a known remote write message"))),
    }
}

/// Whether the body is compressed as both versions want it. Without a word about it, it is.
fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let encoding = text(headers, &header::CONTENT_ENCODING)?;
    if encoding.is_empty() || encoding.eq_ignore_ascii_case("snappy") {
        return Ok(());
    }
    Err(unsupported(format!("{encoding:?} encoding (compression) is not accepted, only snappy is")))
}

/// The value of a header, empty if it is absent.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Refusal> {
    let value = headers.get(name).map_or(Ok(""), HeaderValue::to_str);
    value.map_err(|_not_text| unsupported(format!("the header {name} is not text")))
}

fn unsupported(message: String) -> Refusal {
    Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::{PartitionId, Position};

    #[track_caller]
    fn check(kind: &str, encoding: &str, expected: Option<Protocol>) {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, encoding)] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let got = protocol(&headers).and_then(|protocol| check_encoding(&headers).map(|()| protocol));
        assert_eq!(got.as_ref().ok().copied(), expected, "{kind:?} {encoding:?}");
        if let Err(refusal) = got {
            assert_eq!(refusal.status, 415);
        }
    }

    #[test]
    fn the_content_type_decides_the_version() {
        let one = Some(Protocol::RemoteWrite1);
        check("application/x-protobuf", "snappy", one);
        check("application/x-protobuf;proto=prometheus.WriteRequest", "snappy", one);
        check(
            "Application/X-Protobuf; proto=io.prometheus.write.v2.Request",
            "Snappy",
            Some(Protocol::RemoteWrite2),
        );
        check("", "", one);
        check("application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy", None);
        check("application/json", "snappy", None);
        check("image/png", "", None);
        for encoding in ["gzip", "br", "deflate", "zstd", "gzip, snappy"] {
            check("application/x-protobuf", encoding, None);
        }
    }

    #[test]
    fn counts_are_told_on_success_and_on_failure_of_version_two_only() {
        let written = Written { samples: 7, histograms: 1, exemplars: 0 };
        let refusal = Refusal { written, ..Refusal::coded(ErrorCode::RateLimited, "slow down", 2) };
        let response = answer(Some(Protocol::RemoteWrite2), Err(refusal));
        assert_eq!(response.status(), 429);
        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((4..=6).contains(&seconds), "{seconds}");
        assert_eq!(response.headers()[SAMPLES_WRITTEN], "7");
        assert_eq!(response.headers()[EXEMPLARS_WRITTEN], "0");
        let taken = || Taken { written, token: HeaderValue::from_static("00") };
        let response = answer(Some(Protocol::RemoteWrite2), Ok(taken()));
        assert_eq!(
            (response.status().as_u16(), &response.headers()[HISTOGRAMS_WRITTEN]),
            (204, &HeaderValue::from(1))
        );
        let response = answer(Some(Protocol::RemoteWrite1), Ok(taken()));
        assert!(!response.headers().contains_key(SAMPLES_WRITTEN));
        assert_eq!(response.headers()[consistency::OFFSETS], "00");
    }

    #[test]
    fn what_was_stored_of_a_request_has_a_token() {
        let key = TokenKey::new(&[1; 32], 1);
        let nothing = partial(&WriteOutcome::default(), &key).unwrap();
        assert_eq!(nothing.token, consistency::token_of(&[], &key), "so that a client always has one");
        let at = (PartitionId(3), Position(9));
        let mut stored = WriteOutcome::default();
        stored.positions.push(at);
        assert_eq!(partial(&stored, &key).unwrap().token, consistency::token_of(&[at], &key));
    }
}
