//! What the node says about itself: `status/…`, health, readiness, reload, `/metrics`, and the empty shapes
//! of what it does not have yet.
//!
//! Knows the forms that Grafana, promtool and dashboards read.
//! Source: Prometheus `web/api/v1/api.go`, `web/web.go`.

use super::App;
use super::extract::{Form, Reader, Tenant};
use super::json::push_object;
use super::reply::{ApiError, Reply};
use super::time::{EARLIEST_MS, LATEST_MS};
use crate::node::figures;
use crate::telemetry::log::rfc3339;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_model::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// Entries of each list of `status/tsdb` unless the request says otherwise, as in Prometheus.
const DEFAULT_TOP: usize = 10;

/// A node whose replicas lack what Kafka has had for longer is not ready.
const MOST_BEHIND: Duration = Duration::from_secs(15);

/// The process lives.
pub async fn healthy() -> &'static str {
    "Quorate is Healthy.\n"
}

/// Every partition has replayed its log and the node is not draining. One that is far behind Kafka is not ready either: what
/// it would show is old.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let refused = |why: String| {
        let retry = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
        (StatusCode::SERVICE_UNAVAILABLE, retry, why).into_response()
    };
    if let Some(why) = app.troubles() {
        return refused(format!("{why}\n"));
    }
    if !app.is_ready() {
        return refused("Service Unavailable\n".to_owned());
    }
    match app.services().ok().and_then(|services| services.most_behind()) {
        Some((id, age)) if age > MOST_BEHIND => refused(format!(
            "partition {id} is {:.0} s behind Kafka, over the limit of {} s\n",
            age.as_secs_f64(),
            MOST_BEHIND.as_secs()
        )),
        _ => "Quorate is Ready.\n".into_response(),
    }
}

/// Reads the configuration file again.
pub async fn reload(State(app): State<Arc<App>>) -> Response {
    match app.reloader.reload() {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error}\n")).into_response()
        }
    }
}

/// The node's own metrics as text.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], app.metrics_page().await?).into_response())
}

/// Version and flavour, by which Grafana knows what it talks to.
pub async fn buildinfo() -> Reply {
    Reply::data(|out| {
        let facts = [
            ("version", crate::API_VERSION),
            ("revision", crate::REVISION),
            ("branch", ""),
            ("buildUser", ""),
            ("buildDate", ""),
            ("goVersion", ""),
            ("application", "Quorate"),
            ("applicationVersion", crate::VERSION),
        ];
        push_object(out, facts);
    })
}

/// When the node started and how it runs.
pub async fn runtimeinfo(State(app): State<Arc<App>>) -> Reply {
    let config = app.config();
    let retention = match config.retention.is_zero() {
        true => "unlimited".to_owned(),
        false => config.retention.to_string(),
    };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tree = serde_json::json!({
        "startTime": rfc3339(app.started_ms),
        "CWD": std::env::current_dir().unwrap_or_default().display().to_string(),
        "hostname": hostname,
        "serverTime": rfc3339(app.clock.now_ms()),
        "reloadConfigSuccess": app.reloader.is_successful(),
        "lastConfigTime": rfc3339(app.reloader.changed_at_ms()),
        // Damaged bytes that would be read again and again end the node, so a node that answers has met none.
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": threads,
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": retention,
    });
    Reply::raw(&tree.to_string())
}

/// Every flag with its value.
pub async fn flags(State(app): State<Arc<App>>) -> Reply {
    let flags = crate::cli::flags_in_force(&app.config());
    Reply::data(|out| push_object(out, flags.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
}

/// The configuration in force; the overrides of other tenants are left out.
pub async fn config(State(app): State<Arc<App>>, Tenant(tenant): Tenant) -> Result<Reply, ApiError> {
    let mut config = crate::config::Config::clone(&app.config());
    config.overrides.retain(|name, _| **name == *tenant);
    // They may name other tenants.
    config.sources.clear();
    let yaml = config.to_yaml().map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(Reply::data(|out| push_object(out, [("yaml", yaml.as_str())])))
}

/// What the head holds of one tenant, and what of it is most.
pub async fn tsdb(
    State(app): State<Arc<App>>,
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let top = params.limit("limit")?.unwrap_or(DEFAULT_TOP);
    let (services, tenant) = (app.services()?.clone(), reader.tenant_id(&app).await?);
    let answered = services.queries.cardinality(tenant, reader.consistency, move |found, _guard| {
        Ok(Reply::raw(&figures::tsdb_status(&found, top).to_string()))
    });
    Ok(Reply::answered(answered.await?, &services.token_key))
}

/// No rule groups.
pub async fn rules(_: Tenant) -> Reply {
    Reply::raw(r#"{"groups":[]}"#)
}

/// No alerts.
pub async fn alerts(_: Tenant) -> Reply {
    Reply::raw(r#"{"alerts":[]}"#)
}

/// No Alertmanagers.
pub async fn alertmanagers(_: Tenant) -> Reply {
    Reply::raw(r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#)
}

/// No scrape targets.
pub async fn targets(_: Tenant) -> Reply {
    Reply::raw(r#"{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":{}}"#)
}

/// No exemplars: they are not stored yet. The parameters are checked all the same.
pub async fn query_exemplars(
    State(app): State<Arc<App>>,
    _: Tenant,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let (start_ms, end_ms) = (params.time("start", EARLIEST_MS)?, params.time("end", LATEST_MS)?);
    if end_ms < start_ms {
        return Err(ApiError::bad("end timestamp must not be before start timestamp"));
    }
    super::query::check_syntax(&app, &params).await?;
    Ok(Reply::raw("[]"))
}
