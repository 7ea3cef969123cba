//! The envelope of every JSON answer, and the error that becomes one.
//!
//! Knows `status`, `data`, `errorType`, `error`, `warnings`, `infos`, `partial`, `gaps`. Statuses come from `crate::status`.

use super::consistency;
use super::float::push_u64;
use super::json::{push_array, push_string};
use crate::status;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_model::ErrorCode;
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_query::budget::QueryAccount;
use quorate_query::{Answer, Gap, TokenKey};

/// Most warnings and most infos in one answer.
const MAX_NOTES: usize = 10;

/// What a handler answers when it cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Decides the status.
    pub code: ErrorCode,
    /// What the client reads.
    pub message: String,
}

impl ApiError {
    /// An error of this code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The client's request is wrong.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadInput, message)
    }

    /// A parameter is wrong, worded as Prometheus does.
    pub fn parameter(name: &str, message: &str) -> Self {
        Self::bad(format!("invalid parameter {name:?}: {message}"))
    }
}

impl From<crate::tenant::TenantError> for ApiError {
    fn from(error: crate::tenant::TenantError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(96 + self.message.len());
        body.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
        push_string(&mut body, status::error_type(self.code));
        body.extend_from_slice(b",\"error\":");
        push_string(&mut body, &self.message);
        body.push(b'}');
        let mut response = json(status::http_status(self.code), body);
        if let Some(seconds) = status::retry_after_seconds(self.code, 0, status::any_number()) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a handler answers when all went well.
#[derive(Debug, Default)]
pub struct Reply {
    body: Vec<u8>,
    warnings: Vec<String>,
    infos: Vec<String>,
    /// Partitions that it lacks.
    gaps: Vec<Gap>,
    headers: Vec<(HeaderName, HeaderValue)>,
    held: Option<QueryAccount>,
}

/// A body and the charge for it.
struct HeldBody {
    body: Vec<u8>,
    _held: Option<QueryAccount>,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Reply {
    /// An answer whose `data` is what `write` appends.
    pub fn data(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut body = Vec::with_capacity(512);
        body.extend_from_slice(b"{\"status\":\"success\",\"data\":");
        write(&mut body);
        Self { body, ..Self::default() }
    }

    /// An answer whose `data` is a list, each item of which is charged to `guard` before it is written.
    ///
    /// # Errors
    /// The guard's objection.
    pub fn charged_list<T>(
        guard: &dyn QueryGuard,
        items: &[T],
        bytes: impl Fn(&T) -> usize,
        mut item: impl FnMut(&mut Vec<u8>, &T),
    ) -> Result<Self, QueryError> {
        let mut charged = Ok(());
        let reply = Self::data(|out| {
            push_array(out, items, |out, of| {
                if charged.is_ok() {
                    charged = charge(guard, bytes(of)).map(|()| item(out, of));
                }
            });
        });
        charged.map(|()| reply)
    }

    /// An answer whose `data` is this JSON text.
    pub fn raw(data: &str) -> Self {
        Self::data(|out| out.extend_from_slice(data.as_bytes()))
    }

    /// What a query gave, with what it reflects. Its memory stays charged until the body is sent.
    pub fn answered(answer: Answer<Self>, key: &TokenKey) -> Self {
        let Answer { output, seen, held } = answer;
        let (warnings, headers) = (consistency::warnings(&seen), consistency::told(&seen, key));
        let warnings = warnings.into_iter().chain(output.warnings).collect();
        Self { warnings, gaps: seen.gaps, headers, held: Some(held), ..output }
    }

    /// Adds remarks; ten of each kind are shown.
    #[must_use]
    pub fn with_notes(mut self, warnings: Vec<String>, infos: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self.infos.extend(infos);
        self
    }

    /// Adds the remark that a list was cut.
    #[must_use]
    pub fn truncated(mut self, was_cut: bool) -> Self {
        if was_cut {
            self.warnings.push("results truncated due to limit".to_owned());
        }
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(mut self) -> Response {
        for (name, notes, more) in [("warnings", &self.warnings, "warning"), ("infos", &self.infos, "info")] {
            if notes.is_empty() {
                continue;
            }
            self.body.extend_from_slice(format!(",\"{name}\":").as_bytes());
            let rest = notes.len().saturating_sub(MAX_NOTES);
            let more = (rest > 0).then(|| format!("{rest} more {more} annotations omitted"));
            let shown = notes.iter().take(MAX_NOTES).chain(&more);
            push_array(&mut self.body, shown, |out, note| push_string(out, note));
        }
        if !self.gaps.is_empty() {
            self.body.extend_from_slice(b",\"partial\":true,\"gaps\":");
            push_array(&mut self.body, &self.gaps, push_gap);
        }
        self.body.push(b'}');
        let body = HeldBody { body: self.body, _held: self.held };
        let mut response = json(StatusCode::OK, Bytes::from_owner(body));
        response.headers_mut().extend(self.headers);
        response
    }
}

fn push_gap(out: &mut Vec<u8>, gap: &Gap) {
    out.extend_from_slice(b"{\"partition\":");
    push_u64(out, gap.partition.0.into());
    out.extend_from_slice(b",\"reason\":");
    push_string(out, &gap.reason);
    out.push(b'}');
}

/// Asks whether an answer may go on, and for the memory of its next part.
///
/// # Errors
/// The guard's objection.
pub fn charge(guard: &dyn QueryGuard, bytes: usize) -> Result<(), QueryError> {
    guard.check()?;
    // The buffer doubles as it grows, and both halves are there while it does.
    guard.charge(2 * bytes as u64)
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into())
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use quorate_model::PartitionId;
    use quorate_query::Seen;
    use quorate_query::budget::MemoryBudget;

    async fn body(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn errors_have_type_text_and_status() {
        let response = ApiError::parameter("end", "too early").into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(
            body(response).await,
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"end\": too early"}"#
        );
        let response = ApiError::new(ErrorCode::Unavailable, "starting").into_response();
        assert_eq!(response.status(), 503);
        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=2).contains(&seconds), "{seconds}");
    }

    #[tokio::test]
    async fn ten_warnings_are_shown_and_the_rest_counted() {
        assert_eq!(body(Reply::raw("[]").into_response()).await, r#"{"status":"success","data":[]}"#);
        let warnings = (0..12).map(|n| n.to_string()).collect();
        let text = body(Reply::raw("{}").with_notes(warnings, vec!["i".into()]).into_response()).await;
        assert!(text.ends_with(r#""8","9","2 more warning annotations omitted"],"infos":["i"]}"#), "{text}");
    }

    #[tokio::test]
    async fn an_answer_with_gaps_says_so_first() {
        let seen = Seen {
            gaps: vec![Gap { partition: PartitionId(7), reason: "node 2: \"gone\"".to_owned() }],
            stale: vec![PartitionId(8)],
            positions: Some(quorate_query::PositionToken::default()),
        };
        let held = MemoryBudget::new(1 << 20).account();
        let output = Reply::raw("[]").with_notes(vec!["other".to_owned()], Vec::new());
        let key = TokenKey::new(&[0; 32], 1);
        let response = Reply::answered(Answer { output, seen, held }, &key).into_response();
        assert_eq!(response.headers()[consistency::STALE], "true");
        assert!(response.headers().contains_key(consistency::OFFSETS));
        let tree: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
        assert_eq!(tree["partial"], true);
        let expected = serde_json::json!([{"partition": 7, "reason": "node 2: \"gone\""}]);
        assert_eq!(tree["gaps"], expected);
        let warnings = tree["warnings"].as_array().unwrap();
        assert_eq!((warnings.len(), warnings[2].as_str()), (3, Some("other")));
    }
}
