//! The HTTP API: routes, what handlers share, and what is done around every request.
//!
//! Knows the node's services. `listener` accepts connections, `extract` reads requests, `reply` and
//! `render` write answers; the other files hold the handlers.
//! R1: every API route exists under `/api/v1` and under `/prometheus/api/v1`.

pub mod buckets;
pub mod catalog;
pub mod cluster;
pub mod cluster_admin;
pub mod cluster_page;
pub mod consistency;
pub mod extract;
pub mod float;
pub mod info;
pub mod json;
pub mod listener;
pub mod observe;
pub mod params;
pub mod query;
pub mod render;
pub mod reply;
pub mod time;
pub mod write;

mod app;
#[cfg(test)]
mod tests;

pub use app::{App, AppParts};

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use reply::ApiError;
use std::sync::Arc;
use tower_http::compression::CompressionLayer;

/// All routes over `app`.
pub fn router(app: Arc<App>) -> Router {
    let api = api_routes();
    Router::new()
        .nest("/api/v1", api.clone())
        .nest("/prometheus/api/v1", api)
        .route("/-/healthy", get(info::healthy))
        .route("/-/ready", get(info::ready))
        .route("/ready", get(info::ready))
        .route("/-/reload", post(info::reload).put(info::reload))
        .route("/metrics", get(info::metrics))
        .route("/cluster", get(cluster_page::page))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn(observe::guard))
        .layer(middleware::from_fn(observe::observe))
        .with_state(app)
}

fn api_routes() -> Router<Arc<App>> {
    read_routes().merge(admin_routes()).merge(write_routes())
}

fn read_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/query", get(query::instant).post(query::instant))
        .route("/query_range", get(query::range).post(query::range))
        .route("/query_exemplars", get(info::query_exemplars).post(info::query_exemplars))
        .route("/format_query", get(query::format).post(query::format))
        .route("/parse_query", get(query::tree).post(query::tree))
        .route("/series", get(catalog::series).post(catalog::series))
        .route("/labels", get(catalog::label_names).post(catalog::label_names))
        .route("/label/{name}/values", get(catalog::label_values).post(catalog::label_values))
        .route("/metadata", get(catalog::metadata).post(catalog::metadata))
        .route("/status/buildinfo", get(info::buildinfo).post(info::buildinfo))
        .route("/status/runtimeinfo", get(info::runtimeinfo).post(info::runtimeinfo))
        .route("/status/flags", get(info::flags).post(info::flags))
        .route("/status/config", get(info::config).post(info::config))
        .route("/status/tsdb", get(info::tsdb).post(info::tsdb))
        .route("/cluster", get(cluster::cluster))
        .route("/cluster/overview", get(cluster::overview))
        .route("/rules", get(info::rules))
        .route("/alerts", get(info::alerts))
        .route("/alertmanagers", get(info::alertmanagers))
        .route("/targets", get(info::targets))
        .route_layer(middleware::from_fn(consistency::tokens_where_asked))
}

fn admin_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/cluster/move", post(cluster_admin::move_replica))
        .route("/cluster/drain", post(cluster_admin::drain))
        .route("/cluster/undrain", post(cluster_admin::undrain))
        .route("/cluster/remove", post(cluster_admin::remove))
        .route_layer(middleware::from_fn(cluster_admin::operators_only))
}

fn write_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/write", post(write::remote_write))
        .route("/push", post(write::remote_write))
        .route("/receive", post(write::remote_write))
}

async fn not_found() -> ApiError {
    ApiError::new(quorate_model::ErrorCode::NotFound, "no such path")
}

async fn wrong_method() -> axum::response::Response {
    use axum::response::IntoResponse;
    let mut response = ApiError::bad("this method is not allowed here").into_response();
    *response.status_mut() = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    response
}
