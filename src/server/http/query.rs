//! `query`, `query_range`, `format_query` and `parse_query`.
//!
//! Path: client -> **here** -> `query::QueryService` -> `promql::engine`; the answer is written by `render`.

use super::App;
use super::extract::{Form, Tenant};
use super::render;
use super::reply::{ApiError, Reply};
use super::time::quoted;
use axum::extract::State;
use quorate_model::{ErrorCode, Matcher};
use quorate_promql::engine::{QueryOutput, Value};
use quorate_promql::{Expr, Features};
use quorate_query::{EvalTimes, QueryFailure, QueryParams};
use std::sync::Arc;

/// Most points of one series in a range answer.
const MAX_POINTS: i64 = 11_000;

impl From<QueryFailure> for ApiError {
    fn from(failure: QueryFailure) -> Self {
        let code = failure.code();
        if matches!(code, ErrorCode::Internal | ErrorCode::Corrupt) {
            tracing::error!(error = %failure, "a query failed");
        }
        Self::new(code, failure.to_string())
    }
}

/// Evaluates at one time.
pub async fn instant(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let limit = params.limit("limit")?;
    let time_ms = params.time("time", app.clock.now_ms())?;
    let query = query_params(&app, &tenant, &params, EvalTimes::Instant(time_ms))?;
    answer(&app, query, limit, params.given("stats")).await
}

/// Evaluates at every step of a range.
pub async fn range(
    State(app): State<Arc<App>>,
    Tenant(tenant): Tenant,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let limit = params.limit("limit")?;
    let (start_ms, end_ms) = (params.required_time("start")?, params.required_time("end")?);
    if end_ms < start_ms {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ms = params.step_ms()?;
    // The difference of any two accepted times fits.
    if (end_ms - start_ms) / step_ms > MAX_POINTS {
        return Err(ApiError::bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query \
             resolution (?step=XX)",
        ));
    }
    let query = query_params(&app, &tenant, &params, EvalTimes::Range { start_ms, end_ms, step_ms })?;
    answer(&app, query, limit, params.given("stats")).await
}

fn query_params(
    app: &App,
    tenant: &str,
    params: &super::params::Params,
    times: EvalTimes,
) -> Result<QueryParams, ApiError> {
    let query = params.get("query").unwrap_or_default();
    check_query_length(app, query)?;
    Ok(QueryParams {
        tenant: app.tenant_id(tenant)?,
        query: query.to_owned(),
        times,
        timeout: params.timeout()?,
        lookback_delta_ms: params.lookback_delta_ms()?,
        limits: app.query_limits(tenant),
    })
}

fn check_query_length(app: &App, query: &str) -> Result<(), ApiError> {
    let max = app.config().http.max_form_body.as_usize();
    if query.len() >= max {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the query is over the limit of {max} bytes"),
        ));
    }
    Ok(())
}

async fn answer(
    app: &App,
    query: QueryParams,
    limit: Option<usize>,
    stats: Option<&str>,
) -> Result<Reply, ApiError> {
    let mut answer = app.queries()?.query(query).await?;
    let was_cut = limit.is_some_and(|limit| cut(&mut answer.output.value, limit));
    let QueryOutput { value, warnings, infos, stats: figures } = answer.output;
    let timings = render::Timings { queued: answer.queued, executed: answer.executed };
    let reply = Reply::data(|out| {
        let shown = stats.map(|wanted| (wanted == "all", &figures, timings));
        render::push_result(out, &value, shown);
    });
    Ok(reply.with_notes(warnings, infos).truncated(was_cut))
}

/// Keeps the first `limit` series. Returns whether there were more.
fn cut(value: &mut Value, limit: usize) -> bool {
    match value {
        Value::Vector(samples) if samples.len() > limit => samples.truncate(limit),
        Value::Matrix(series) if series.len() > limit => series.truncate(limit),
        _ => return false,
    }
    true
}

/// The query in its canonical form.
pub async fn format(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, ApiError> {
    let expr = parse(&app, params.get("query").unwrap_or_default())?;
    let text = quorate_promql::format(&expr);
    Ok(Reply::data(|out| super::json::push_string(out, &text)))
}

/// The query as a tree.
pub async fn tree(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, ApiError> {
    let expr = parse(&app, params.get("query").unwrap_or_default())?;
    Ok(Reply::raw(&quorate_promql::parse_json(&expr).to_string()))
}

fn parse(app: &App, query: &str) -> Result<Expr, ApiError> {
    check_query_length(app, query)?;
    quorate_promql::parse(query, &app.features())
        .map_err(|error| ApiError::parameter("query", &error.to_string()))
}

/// Whether `query` is PromQL.
///
/// # Errors
/// 400 if it is not.
pub fn check_syntax(app: &App, query: &str) -> Result<(), ApiError> {
    parse(app, query).map(drop)
}

/// The matchers of a `match[]` selector.
///
/// # Errors
/// 400 if it is not a plain selector, or would select everything.
pub fn selector(text: &str) -> Result<Vec<Matcher>, ApiError> {
    let wrong = |message: &str| ApiError::parameter("match[]", message);
    let expr = quorate_promql::parse(text, &Features::default()).map_err(|e| wrong(&e.to_string()))?;
    let selector = match expr {
        Expr::Vector(selector) if selector.offset.is_none() && selector.at.is_none() => selector,
        _ => return Err(wrong(&format!("{} is not a series selector", quoted(text)))),
    };
    if selector.matchers.iter().all(Matcher::matches_empty) {
        return Err(wrong("match[] must contain at least one non-empty matcher"));
    }
    Ok(selector.matchers)
}
