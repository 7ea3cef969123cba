//! Around every request: refusal of ambiguous ones, a span with its trace id, counting, and panics.
//!
//! Knows requests as such. Does not know routes beyond their pattern, which is the metric label.

use super::reply::ApiError;
use crate::telemetry::trace;
use axum::extract::{MatchedPath, Request};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use metrics::{counter, histogram};
use quorate_model::{Clock, ErrorCode, SystemClock};
use std::panic::AssertUnwindSafe;
use tracing::Instrument;

/// Refuses requests whose meaning depends on who reads them.
pub async fn guard(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return ApiError::bad("both Content-Length and Transfer-Encoding are given").into_response();
    }
    if let (Some(target), Some(host)) = (request.uri().authority(), headers.get(header::HOST))
        && !target.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return ApiError::bad("the target names another host than the Host header").into_response();
    }
    next.run(request).await
}

/// Gives the request a span, counts it, and turns a panic into a 500 for this request alone.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = SystemClock.instant();
    let pattern = request.extensions().get::<MatchedPath>();
    let handler = pattern.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let span = match trace::trace_id(request.headers()) {
        Some(id) => tracing::info_span!("request", trace_id = id, handler = handler.as_str()),
        None => tracing::info_span!("request", handler = handler.as_str()),
    };
    let method = request.method().clone();
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let response = answered.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!("a handler panicked"));
        ApiError::new(ErrorCode::Internal, "an unexpected error; see the log of the node").into_response()
    });
    let seconds = started.elapsed().as_secs_f64();
    let status = response.status();
    span.in_scope(|| tracing::debug!(%method, status = status.as_u16(), seconds, "request answered"));
    counter!("prometheus_http_requests_total", "handler" => handler.clone(), "code" => status.as_u16().to_string())
        .increment(1);
    histogram!("prometheus_http_request_duration_seconds", "handler" => handler).record(seconds);
    response
}
