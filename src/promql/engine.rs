//! The engine: evaluates a parsed query over a source of series, at one time or at many.
//!
//! Knows how plan, source and evaluator come together. Does not know query text (but for the places in
//! annotations), tenants or HTTP. Path: `query` -> **here** -> `plan`, `eval`.
//! E1: a range query gives at each of its steps what an instant query gives at that time.

use crate::ast::Expr;
use crate::eval::{self, Evaluator};
use crate::features::Features;
use crate::fragment::MAX_TEXT;
use crate::plan::{Plan, PlanError, TimeGrid};
use crate::source::{SeriesSource, SourceError};
use quorate_model::{ErrorCode, Histogram, Labels};
use std::sync::Arc;

/// Settings of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// How far an instant selector looks back, milliseconds, above 0.
    pub lookback_delta_ms: i64,
    /// Most samples that a query may hold at once; a histogram counts by its size.
    pub max_samples: u64,
    /// Step of subqueries that name none, milliseconds, above 0.
    pub subquery_step_ms: i64,
    /// Experimental parts that are on.
    pub features: Features,
    /// The text that was parsed, for places in annotations and parts that run elsewhere; without it there are none.
    pub query_text: Arc<str>,
}

impl Default for EngineOptions {
    /// Prometheus' defaults: 5 minutes, 50 million samples, 1 minute, no experimental features.
    fn default() -> Self {
        Self {
            lookback_delta_ms: 300_000,
            max_samples: 50_000_000,
            subquery_step_ms: 60_000,
            features: Features::default(),
            query_text: Arc::from(""),
        }
    }
}

/// What a running query asks whether it may go on, and whom it tells of its memory.
///
/// Called for each series and each 65,536 samples, so it must be cheap.
pub trait QueryGuard: Send + Sync {
    /// Whether the query may go on.
    ///
    /// # Errors
    /// [`QueryError::Cancelled`] or [`QueryError::TimedOut`].
    fn check(&self) -> Result<(), QueryError>;

    /// Asks for memory before it is allocated.
    ///
    /// # Errors
    /// [`QueryError::Budget`] or [`QueryError::Overloaded`], and nothing is charged then.
    fn charge(&self, bytes: u64) -> Result<(), QueryError>;

    /// Gives back what was charged. What the result takes is not given back: its caller holds it when the
    /// evaluation has ended, so the guard ends that charge with itself.
    fn release(&self, bytes: u64);
}

/// A guard that never objects, for tests and callers without limits.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGuard;

impl QueryGuard for NoGuard {
    fn check(&self) -> Result<(), QueryError> {
        Ok(())
    }

    fn charge(&self, _bytes: u64) -> Result<(), QueryError> {
        Ok(())
    }

    fn release(&self, _bytes: u64) {}
}

/// The result of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryOutput {
    /// What the query evaluated to; its memory is still charged to the guard.
    pub value: Value,
    /// Likely mistakes, with Prometheus' texts.
    pub warnings: Vec<String>,
    /// Possible mistakes, with Prometheus' texts.
    pub infos: Vec<String>,
    /// What it cost.
    pub stats: QueryStats,
}

/// A value of one of the four types.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One float.
    Scalar {
        /// Evaluation time.
        ts_ms: i64,
        /// The float.
        value: f64,
    },
    /// One string.
    String {
        /// Evaluation time.
        ts_ms: i64,
        /// The string.
        value: String,
    },
    /// Series with one sample each, in the order in which they are to be shown.
    Vector(Vec<InstantSample>),
    /// Series with many samples, in the order of their labels.
    Matrix(Vec<RangeSeries>),
}

/// One series of an instant result.
#[derive(Debug, Clone, PartialEq)]
pub struct InstantSample {
    /// Its labels.
    pub labels: Labels,
    /// Evaluation time.
    pub ts_ms: i64,
    /// Its value.
    pub value: SampleValue,
}

/// A float or a histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One series of a range result; both lanes increase in time.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeSeries {
    /// Its labels.
    pub labels: Labels,
    /// Times and floats.
    pub floats: Vec<(i64, f64)>,
    /// Times and histograms.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

/// What a query cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples that entered selectors and windows, each as often as a step saw it.
    pub total_samples: u64,
    /// The same for each step of the query, in order.
    pub total_samples_per_step: Vec<u64>,
    /// Samples that came out of the source.
    pub samples_read: u64,
    /// Most samples held at once.
    pub peak_samples: u64,
    /// Series that came out of the source.
    pub series: u64,
}

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A parameter is out of its range; the query cannot be evaluated for anybody.
    #[error("{0}")]
    BadData(String),
    /// The query meets data or arguments that it cannot be evaluated with.
    #[error("{0}")]
    Execution(String),
    /// More samples at once than [`EngineOptions::max_samples`].
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// More memory than the query or its tenant may take; the text says which.
    #[error("{0}")]
    Budget(String),
    /// More memory than others leave now; the same query may succeed later.
    #[error("{0}")]
    Overloaded(String),
    /// The caller went away.
    #[error("query was canceled in expression evaluation")]
    Cancelled,
    /// The deadline passed.
    #[error("query timed out in expression evaluation")]
    TimedOut,
    /// The source failed; never [`SourceError::Stopped`], which becomes the objection itself.
    #[error("expanding series: {0}")]
    Source(#[source] SourceError),
}

impl From<SourceError> for QueryError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(objection) => *objection,
            other => Self::Source(other),
        }
    }
}

impl QueryError {
    /// What the error means to the caller.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadData(_) => ErrorCode::BadInput,
            Self::Execution(_) | Self::TooManySamples | Self::Budget(_) => ErrorCode::Unprocessable,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Source(SourceError::Stopped(objection)) => objection.code(),
            Self::TimedOut => ErrorCode::TimedOut,
            Self::Overloaded(_) => ErrorCode::Unavailable,
            Self::Source(SourceError::Limit(_)) => ErrorCode::Unprocessable,
            Self::Source(SourceError::Unavailable(_)) => ErrorCode::Unavailable,
            Self::Source(SourceError::Failed(_)) => ErrorCode::Internal,
        }
    }
}

impl From<PlanError> for QueryError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Duration(text) => Self::BadData(text),
            PlanError::LabelName(text) => Self::Execution(text),
        }
    }
}

/// Evaluates `expr` at `time_ms`.
///
/// # Errors
/// [`QueryError`]; its code tells whose turn it is.
pub fn instant(
    source: &dyn SeriesSource,
    expr: &Expr,
    time_ms: i64,
    options: &EngineOptions,
    guard: &dyn QueryGuard,
) -> Result<QueryOutput, QueryError> {
    let grid = TimeGrid::instant(time_ms).map_err(QueryError::BadData)?;
    let plan = spread(source, Plan::new(expr, grid, options)?, options);
    let mut evaluator = Evaluator::new(source, &plan, options, guard);
    let value = eval::output::instant(&mut evaluator, &plan, expr.value_type())?;
    Ok(evaluator.finish(value))
}

/// Evaluates `expr`, which is a scalar or an instant vector, at `start_ms` and every `step_ms` after it up to
/// `end_ms`.
///
/// # Errors
/// [`QueryError`]; its code tells whose turn it is.
pub fn range(
    source: &dyn SeriesSource,
    expr: &Expr,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
    options: &EngineOptions,
    guard: &dyn QueryGuard,
) -> Result<QueryOutput, QueryError> {
    let grid = TimeGrid::range(start_ms, end_ms, step_ms).map_err(QueryError::BadData)?;
    let plan = spread(source, Plan::range(expr, grid, end_ms, options)?, options);
    let mut evaluator = Evaluator::new(source, &plan, options, guard);
    let _scratch = evaluator.scratch(grid)?;
    let value = eval::output::range(&mut evaluator, &plan, expr.value_type())?;
    Ok(evaluator.finish(value))
}

/// The plan with its fragments, if the source can run them: they are named by their place in the text.
fn spread(source: &dyn SeriesSource, plan: Plan, options: &EngineOptions) -> Plan {
    let can_be_named = (1..=MAX_TEXT).contains(&options.query_text.len());
    if can_be_named && source.fragments().is_some() { plan.with_fragments(options) } else { plan }
}
