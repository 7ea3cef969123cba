//! The envelope of every JSON answer, and the error that becomes one.
//!
//! Knows `status`, `data`, `errorType`, `error`, `warnings`, `infos`. Statuses come from `crate::status`.

use super::json::{push_array, push_string};
use crate::status;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_model::ErrorCode;

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
        if let Some(seconds) = status::retry_after_seconds(self.code, 0) {
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
}

impl Reply {
    /// An answer whose `data` is what `write` appends.
    pub fn data(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut body = Vec::with_capacity(512);
        body.extend_from_slice(b"{\"status\":\"success\",\"data\":");
        write(&mut body);
        Self { body, warnings: Vec::new(), infos: Vec::new() }
    }

    /// An answer whose `data` is this JSON text.
    pub fn raw(data: &str) -> Self {
        Self::data(|out| out.extend_from_slice(data.as_bytes()))
    }

    /// An answer whose `data` is a list of strings.
    pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::data(|out| push_array(out, items, |out, item| push_string(out, item.as_ref())))
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
        self.body.push(b'}');
        json(StatusCode::OK, self.body)
    }
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

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
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &HeaderValue::from(1))
        );
    }

    #[tokio::test]
    async fn ten_warnings_are_shown_and_the_rest_counted() {
        assert_eq!(body(Reply::strings(["a"]).into_response()).await, r#"{"status":"success","data":["a"]}"#);
        let warnings = (0..12).map(|n| n.to_string()).collect();
        let text = body(Reply::raw("{}").with_notes(warnings, vec!["i".into()]).into_response()).await;
        assert!(text.ends_with(r#""8","9","2 more warning annotations omitted"],"infos":["i"]}"#), "{text}");
    }
}
