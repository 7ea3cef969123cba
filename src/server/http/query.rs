//! `query`, `query_range`, `format_query` and `parse_query`.
//!
//! Path: client -> **here** -> `query::QueryService` -> `promql::engine`; the answer is written by `render`.

use super::App;
use super::extract::{Form, Reader};
use super::params::Params;
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
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let time_ms = params.time("time", app.clock.now_ms())?;
    let query = query_params(&app, &reader, &params, EvalTimes::Instant(time_ms)).await?;
    answer(&app, query, &params).await
}

/// Evaluates at every step of a range.
pub async fn range(
    State(app): State<Arc<App>>,
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
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
    let times = EvalTimes::Range { start_ms, end_ms, step_ms };
    let query = query_params(&app, &reader, &params, times).await?;
    answer(&app, query, &params).await
}

async fn query_params(
    app: &App,
    reader: &Reader,
    params: &Params,
    times: EvalTimes,
) -> Result<QueryParams, ApiError> {
    let query = params.get("query").unwrap_or_default();
    check_query_length(app, query)?;
    Ok(QueryParams {
        tenant: reader.tenant_id(app).await?,
        query: query.to_owned(),
        times,
        timeout: params.timeout()?,
        lookback_delta_ms: params.lookback_delta_ms()?,
        limits: app.query_limits(&reader.tenant),
        consistency: reader.consistency.clone(),
        allow_partial: params.switch("allow_partial")?,
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

async fn answer(app: &App, query: QueryParams, params: &Params) -> Result<Reply, ApiError> {
    let limit = params.limit("limit")?;
    let stats = params.given("stats").map(str::to_owned);
    let steps = match query.times {
        EvalTimes::Instant(time_ms) => (time_ms, 0),
        EvalTimes::Range { start_ms, step_ms, .. } => (start_ms, step_ms),
    };
    let services = app.services()?;
    let answered = services.queries.query(query, move |mut output, timings, guard| {
        let was_cut = limit.is_some_and(|limit| cut(&mut output.value, limit));
        let QueryOutput { value, warnings, infos, stats: figures } = output;
        let shown = stats.map(|wanted| render::Shown {
            figures: &figures,
            timings,
            steps: (wanted == "all").then_some(steps),
        });
        let mut pushed = Ok(());
        let reply = Reply::data(|out| pushed = render::push_result(out, &value, shown, guard));
        pushed.map(|()| reply.with_notes(warnings, infos).truncated(was_cut))
    });
    Ok(Reply::answered(answered.await?, &services.token_key))
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
    let text = app.parsing(query_of(&app, &params)?, |expr| quorate_promql::format(&expr)).await?;
    Ok(Reply::data(|out| super::json::push_string(out, &text)))
}

/// The query as a tree.
pub async fn tree(State(app): State<Arc<App>>, Form(params): Form) -> Result<Reply, ApiError> {
    let tree = |expr: Expr| quorate_promql::parse_json(&expr).to_string();
    Ok(Reply::raw(&app.parsing(query_of(&app, &params)?, tree).await?))
}

/// Whether the parameter `query` is PromQL.
///
/// # Errors
/// 400 if it is not.
pub async fn check_syntax(app: &App, params: &Params) -> Result<(), ApiError> {
    app.parsing(query_of(app, params)?, drop).await
}

fn query_of(app: &App, params: &Params) -> Result<String, ApiError> {
    let query = params.get("query").unwrap_or_default();
    check_query_length(app, query)?;
    Ok(query.to_owned())
}

/// The matchers of a `match[]` selector. Compiles regexes: not for a thread of the runtime.
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
