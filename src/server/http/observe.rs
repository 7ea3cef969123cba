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

/// Refuses requests whose meaning depends on who reads them. Where a request has a length and a transfer coding,
/// hyper has dropped the length by now and will close the connection, as RFC 9112 section 6.3 wants it.
pub async fn guard(request: Request, next: Next) -> Response {
    if let (Some(target), Some(host)) = (request.uri().authority(), request.headers().get(header::HOST))
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
        // Of the highest level, so that no line loses its trace id, however few are written.
        Some(id) => tracing::error_span!("request", trace_id = id, handler = handler.as_str()),
        None => tracing::error_span!("request", handler = handler.as_str()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tracing_subscriber::layer::SubscriberExt;

    #[tokio::test]
    async fn lines_of_a_request_keep_its_trace_id_at_every_level() {
        for level in ["error", "warn", "info"] {
            let filter = crate::telemetry::log::parse_level(level).unwrap();
            let _lines = tracing::subscriber::set_default(tracing_subscriber::registry().with(filter));
            let span = async || tracing::Span::current().metadata().map_or("none", |span| span.name());
            let router = Router::new().route("/", get(span)).layer(axum::middleware::from_fn(observe));
            let request = Request::builder()
                .uri("/")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .body(Body::empty())
                .unwrap();
            let answer = router.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(answer.to_bytes(), "request", "{level}");
        }
    }
}
