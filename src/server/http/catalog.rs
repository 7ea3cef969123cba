//! `series`, `labels`, `label/{name}/values` and `metadata`.
//!
//! Path: client -> **here** -> `query::QueryService`, which asks every partition.

use super::App;
use super::extract::{Form, Reader};
use super::json::{push_array, push_labels, push_string};
use super::params::Params;
use super::query::selector;
use super::render::labels_bytes;
use super::reply::{ApiError, Reply, charge};
use super::time::{EARLIEST_MS, LATEST_MS, quoted};
use axum::extract::{Path, State};
use quorate_model::{MetadataEntry, MetricType, TimeRange};
use quorate_promql::engine::QueryError;
use quorate_query::guard::LocalGuard;
use quorate_query::{CatalogParams, Entries};
use std::sync::Arc;

/// What an entry of metadata takes beside its family and help, about.
const METADATA_BYTES: usize = 64;

/// The label sets of the series that any `match[]` selects.
pub async fn series(
    State(app): State<Arc<App>>,
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    if params.matchers()?.is_empty() {
        return Err(ApiError::bad("no match[] parameter provided"));
    }
    let wanted = catalog_params(&app, &reader, &params).await?;
    let services = app.services()?;
    let answered = services.queries.series(wanted, |found, guard| {
        let reply = Reply::charged_list(guard, &found.entries, labels_bytes, push_labels)?;
        Ok(reply.truncated(found.truncated))
    });
    Ok(Reply::answered(answered.await?, &services.token_key))
}

/// Names of labels.
pub async fn label_names(
    State(app): State<Arc<App>>,
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let wanted = catalog_params(&app, &reader, &params).await?;
    let services = app.services()?;
    let answered = services.queries.label_names(wanted, strings).await?;
    Ok(Reply::answered(answered, &services.token_key))
}

/// Values of one label.
pub async fn label_values(
    State(app): State<Arc<App>>,
    reader: Reader,
    Path(name): Path<String>,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let name = if name.starts_with("U__") { unescape_name(&name) } else { name };
    if name.is_empty() {
        return Err(ApiError::bad(format!("invalid label name: {}", quoted(&name))));
    }
    let wanted = catalog_params(&app, &reader, &params).await?;
    let services = app.services()?;
    let answered = services.queries.label_values(name, wanted, strings).await?;
    Ok(Reply::answered(answered, &services.token_key))
}

fn strings(found: Entries<String>, guard: &LocalGuard) -> Result<Reply, QueryError> {
    let reply = Reply::charged_list(guard, &found.entries, |t| t.len() + 3, |out, t| push_string(out, t))?;
    Ok(reply.truncated(found.truncated))
}

async fn catalog_params(app: &App, reader: &Reader, params: &Params) -> Result<CatalogParams, ApiError> {
    let start_ms = params.time("start", EARLIEST_MS)?;
    let end_ms = params.time("end", LATEST_MS)?;
    if end_ms < start_ms {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let texts: Vec<String> = params.matchers()?.into_iter().map(Into::into).collect();
    let matcher_sets = app.off_runtime(move || texts.iter().map(|text| selector(text)).collect()).await?;
    Ok(CatalogParams {
        tenant: reader.tenant_id(app).await?,
        matcher_sets,
        range: TimeRange::new(start_ms, end_ms),
        limit: params.limit("limit")?.unwrap_or(0),
        limits: app.query_limits(&reader.tenant),
        consistency: reader.consistency.clone(),
        allow_partial: params.switch("allow_partial")?,
    })
}

/// Type, help and unit of metric families.
pub async fn metadata(
    State(app): State<Arc<App>>,
    reader: Reader,
    Form(params): Form,
) -> Result<Reply, ApiError> {
    let limit = params.limit("limit")?.unwrap_or(usize::MAX);
    let per_metric = params.limit("limit_per_metric")?.unwrap_or(usize::MAX);
    let family = params.given("metric").map(str::to_owned);
    let tenant = reader.tenant_id(&app).await?;
    let services = app.services()?;
    let answered = services.queries.metadata(tenant, family, reader.consistency, move |found, guard| {
        let shown = || found.iter().take(limit);
        let texts = shown().flat_map(|(family, entries)| {
            entries.iter().take(per_metric).map(|entry| family.len() + entry.help.len() + METADATA_BYTES)
        });
        charge(guard, texts.sum())?;
        Ok(Reply::data(|out| {
            out.push(b'{');
            for (at, (family, entries)) in shown().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                push_string(out, family);
                out.push(b':');
                push_array(out, entries.iter().take(per_metric), push_metadata);
            }
            out.push(b'}');
        }))
    });
    Ok(Reply::answered(answered.await?, &services.token_key))
}

fn push_metadata(out: &mut Vec<u8>, entry: &MetadataEntry) {
    out.extend_from_slice(b"{\"type\":");
    push_string(out, type_name(entry.metric_type));
    out.extend_from_slice(b",\"help\":");
    push_string(out, &entry.help);
    out.extend_from_slice(b",\"unit\":");
    push_string(out, &entry.unit);
    out.push(b'}');
}

fn type_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::Unknown => "unknown",
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::GaugeHistogram => "gaugehistogram",
        MetricType::Summary => "summary",
        MetricType::Info => "info",
        MetricType::StateSet => "stateset",
    }
}

/// Reads a name that was escaped for a path: `U__`, `__` for `_`, `_HEX_` for any character.
///
/// Source: Prometheus `model.UnescapeName`; a name that is not well formed stays as it is.
fn unescape_name(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::with_capacity(rest.len());
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let Some(end) = rest.find('_').filter(|end| (1..=6).contains(end)) else { return name.to_owned() };
        match u32::from_str_radix(&rest[..end], 16).ok().and_then(char::from_u32) {
            Some(c) => out.push(c),
            None => return name.to_owned(),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_unescape(escaped: &str, expected: &str) {
        assert_eq!(unescape_name(escaped), expected);
    }

    #[test]
    fn escaped_names_are_read_and_others_kept() {
        check_unescape("U__http_2e_status", "http.status");
        check_unescape("U__a__b", "a_b");
        check_unescape("U___1f600_x", "\u{1f600}x");
        check_unescape("plain", "plain");
        check_unescape("U__bad_zz_", "U__bad_zz_");
        check_unescape("U__cut_2e", "U__cut_2e");
        check_unescape("U__sur_d800_", "U__sur_d800_");
    }
}
