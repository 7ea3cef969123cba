//! PromQL: from the text of a query to its result, over any source of series.
//!
//! Knows the language of Prometheus 3.x. Does not know tenants, storage, partitions or HTTP: series come through
//! one trait. Pure and synchronous. Path: `query` -> **here** -> `source`.

pub mod ast;
pub mod durations;
pub mod engine;
pub mod error;
mod eval;
pub mod features;
pub mod format;
pub mod fragment;
pub mod functions;
mod go_fmt;
mod histogram;
mod kernels;
mod lexer;
pub mod parse_json;
pub mod parser;
mod plan;
pub mod source;
mod typecheck;

pub use ast::Expr;
pub use error::ParseError;
pub use features::Features;
pub use format::format;
pub use parse_json::parse_json;
pub use parser::{parse, parse_selector};
