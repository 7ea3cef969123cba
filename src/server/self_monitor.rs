//! The node's own metrics, written into itself: the first query after the start has data to show.
//!
//! Path: `http::App::metrics_page` -> **here** -> `ingest::Distributor`, as a remote-write 1.0 body like any
//! sender's, so limits, the log and the head treat them alike. A failure is counted and tried again at the
//! next turn; it never stops the node.

use crate::http::App;
use crate::telemetry::exposition::{Family, read_families, read_page};
use bytes::Bytes;
use metrics::counter;
use quorate_ingest::{Held, Protocol, WriteRequest};
use quorate_model::LabelsBuilder;
use std::sync::Arc;
use std::time::Duration;

/// Value of the label `job` of the node's own series.
const JOB: &str = "quorate";
/// Labels that name tenants. Series with one stay on `/metrics`: the tenant that gets the node's metrics must
/// not learn of others.
const TENANT_LABELS: [&str; 2] = ["tenant", "user"];

/// Writes the node's metrics every `interval` into `tenant`, for as long as it is polled.
pub async fn run(app: Arc<App>, tenant: Arc<str>, instance: String, interval: Duration) {
    let mut turns = tokio::time::interval(interval);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut told = Vec::new();
    loop {
        turns.tick().await;
        if let Err(error) = write_once(&app, &tenant, &instance, &mut told).await {
            counter!("quorate_self_monitor_failures_total").increment(1);
            tracing::warn!(%error, "the node's own metrics were not written");
        }
    }
}

/// Writes the samples of now, and type and help of the families if they are others than those `told` before.
async fn write_once(
    app: &Arc<App>,
    tenant: &Arc<str>,
    instance: &str,
    told: &mut Vec<Family>,
) -> Result<(), String> {
    let services = app.services().map_err(|error| error.message)?;
    let page = app.metrics_page().await.map_err(|error| error.message)?;
    let families = read_families(&page);
    let news = if families == *told { &[] } else { families.as_slice() };
    let body = encode(&page, news, instance, app.clock.now_ms())?;
    let number = services.meta.intern_tenant(tenant, app.config().max_tenants).await;
    let number = number.map_err(|error| error.to_string())?;
    let request =
        WriteRequest { tenant: number, tenant_name: tenant.clone(), protocol: Protocol::RemoteWrite1, body };
    // Its own page is small, and a node that is busy is when it is wanted most.
    let outcome = services.distributor.write(request, Held::unbounded()).await;
    let outcome = outcome.map_err(|error| error.to_string())?;
    match outcome.refusals.first() {
        None => {
            *told = families;
            Ok(())
        }
        Some(refusal) => Err(refusal.message.clone()),
    }
}

/// A page of metrics as a compressed remote-write 1.0 body, with `up`, `job` and `instance`, and the metadata of
/// `families`.
fn encode(page: &str, families: &[Family], instance: &str, now_ms: i64) -> Result<Bytes, String> {
    let mut message = Vec::with_capacity(page.len() * 2);
    let mut scratch = (Vec::new(), Vec::new());
    let mut push = |labels: quorate_model::Labels, value| {
        let mut labels = LabelsBuilder::new(&labels);
        labels.set("job", JOB).set("instance", instance);
        push_series(&mut message, &labels.build(), now_ms, value, &mut scratch);
    };
    push(quorate_model::Labels::from_pairs([(quorate_model::METRIC_NAME, "up")]), 1.0);
    let refused = read_page(page, |labels, value| {
        if TENANT_LABELS.iter().all(|name| labels.get(name).is_none()) {
            push(labels, value);
        }
    });
    if refused > 0 {
        return Err(format!("{refused} lines of the metrics page are not well formed"));
    }
    families.iter().for_each(|family| push_metadata(&mut message, family));
    snap::raw::Encoder::new().compress_vec(&message).map(Bytes::from).map_err(|error| error.to_string())
}

/// Appends field 1 of `prometheus.WriteRequest`: a series with one sample.
fn push_series(
    out: &mut Vec<u8>,
    labels: &quorate_model::Labels,
    ts_ms: i64,
    value: f64,
    (series, label): &mut (Vec<u8>, Vec<u8>),
) {
    series.clear();
    for (name, text) in labels {
        label.clear();
        push_field(label, 0x0a, name.as_bytes());
        push_field(label, 0x12, text.as_bytes());
        push_field(series, 0x0a, label);
    }
    label.clear();
    label.push(0x09);
    label.extend_from_slice(&value.to_le_bytes());
    label.push(0x10);
    push_varint(label, ts_ms as u64);
    push_field(series, 0x12, label);
    push_field(out, 0x0a, series);
}

/// Appends field 3 of `prometheus.WriteRequest`: the metadata of a family.
fn push_metadata(out: &mut Vec<u8>, family: &Family) {
    let kind = match family.kind.as_str() {
        "counter" => 1,
        "gauge" => 2,
        "histogram" => 3,
        "summary" => 5,
        _ => 0,
    };
    let mut metadata = vec![0x08, kind];
    push_field(&mut metadata, 0x12, family.name.as_bytes());
    push_field(&mut metadata, 0x22, family.help.as_bytes());
    push_field(out, 0x1a, &metadata);
}

fn push_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_a_remote_write_body_without_other_tenants() {
        let page = "# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1.5\na{tenant=\"x\"} 1\na{user=\"x\"} 1\n";
        let body = encode(page, &read_families(page), "h:1", 300).unwrap();
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let mut expected = Vec::new();
        let label = |name: &str, value: &str| {
            let mut label = Vec::new();
            push_field(&mut label, 0x0a, name.as_bytes());
            push_field(&mut label, 0x12, value.as_bytes());
            let mut field = Vec::new();
            push_field(&mut field, 0x0a, &label);
            field
        };
        for (name, extra, value) in [("up", None, 1.0f64), ("a", Some(("b", "c")), 1.5)] {
            let mut series = label("__name__", name);
            if let Some((n, v)) = extra {
                series.extend(label(n, v));
            }
            series.extend(label("instance", "h:1"));
            series.extend(label("job", "quorate"));
            series.extend([0x12, 12, 0x09]);
            series.extend(value.to_le_bytes());
            series.extend([0x10, 0xac, 0x02]);
            push_field(&mut expected, 0x0a, &series);
        }
        expected.extend([0x1a, 9, 0x08, 2, 0x12, 1, b'a', 0x22, 2, b'A', b'.']);
        assert_eq!(message, expected);
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        assert!(encode("a{b= 1\n", &[], "h:1", 0).is_err());
    }
}
