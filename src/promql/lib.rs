//! PromQL: from the text of a query to its result, over any source of series.
//!
//! Knows the language of Prometheus 3.x. Does not know tenants, storage, partitions or HTTP: series come through
//! one trait. Pure and synchronous. Path: `query` -> **here** -> `source`.

pub mod ast;
pub mod features;
pub mod functions;

pub use ast::Expr;
pub use features::Features;
