//! Why a query cannot be read, with Prometheus' texts and positions.

use crate::ast::Span;

/// A query that is not PromQL, or uses a part of it that is not on.
///
/// Displays as Prometheus does: `1:5: parse error: unexpected end of input`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {message}")]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    /// The part of the query that is wrong.
    pub span: Span,
    /// Line and column of its start, as `line:column`, both from 1, columns in bytes.
    pub position: String,
}

impl ParseError {
    pub(crate) fn new(input: &str, span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, position: position(input, span.start) }
    }
}

/// Line and column of byte `at` of `input`, as Prometheus writes them in errors and annotations.
pub fn position(input: &str, at: usize) -> String {
    if input.is_empty() {
        return "unknown position".to_owned();
    }
    let Some(before) = input.as_bytes().get(..at) else {
        return "invalid position".to_owned();
    };
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    format!("{line}:{column}")
}
