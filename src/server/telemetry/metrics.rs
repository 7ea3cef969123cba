//! The metrics recorder: what the crates count through the `metrics` facade, rendered as Prometheus text.
//!
//! Knows the facade and the exporter. Figures that are read rather than counted (the process, heads) are
//! written behind it at each rendering, with their right types.

use super::exposition::Exposition;
use super::process;
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;

/// The histograms. The recorder's summaries are not used: they lose the lower quantiles of durations that differ
/// by more than a factor of 700.
const HTTP_DURATION: &str = "prometheus_http_request_duration_seconds";
const CONSISTENCY_WAIT: &str = "quorate_read_consistency_wait_seconds";
/// Their upper bounds, seconds: those of Prometheus' own.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.005, 0.02, 0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];

/// How often the recorder sorts in what was recorded. Until then each single value takes memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

/// Installs the process-wide recorder at the first call and returns it.
///
/// # Errors
/// The reason, if another recorder was installed before.
pub fn install() -> Result<PrometheusHandle, String> {
    RECORDER
        .get_or_init(|| {
            let builder = builder().map_err(|error| error.to_string())?;
            let handle = builder.install_recorder().map_err(|error| error.to_string())?;
            describe();
            Ok(handle)
        })
        .clone()
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(HTTP_DURATION.to_owned()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(CONSISTENCY_WAIT.to_owned()), &DURATION_BUCKETS)
}

/// Keeps the recorder small, for as long as it is polled, whether or not anybody reads the page.
pub async fn keep_small(recorder: PrometheusHandle) {
    let mut turns = tokio::time::interval(UPKEEP_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        recorder.run_upkeep();
    }
}

/// Writes the `process_*` figures and the build's.
pub fn write_process_figures(page: &mut Exposition) {
    let info = [("version", crate::VERSION), ("revision", crate::REVISION)];
    page.family("quorate_build_info", "gauge", "1, with the version of this build.");
    page.sample("quorate_build_info", &info, 1.0);
    page.family("prometheus_build_info", "gauge", "1, with the version of the API that is served.");
    page.sample("prometheus_build_info", &[("version", crate::API_VERSION)], 1.0);
    let Some(figures) = process::read() else { return };
    page.counter("process_cpu_seconds_total", "CPU time of all threads.", figures.cpu_seconds);
    page.gauge("process_resident_memory_bytes", "Memory in RAM.", figures.resident_bytes);
    page.gauge("process_virtual_memory_bytes", "Address space.", figures.virtual_bytes);
    page.gauge("process_start_time_seconds", "Start since the Unix epoch.", figures.start_seconds);
    page.gauge("process_threads", "Threads.", figures.threads);
    page.gauge("process_open_fds", "Open file descriptors.", figures.open_fds);
    page.gauge("process_max_fds", "Most file descriptors it may open.", figures.max_fds);
}

fn describe() {
    describe_counter!("prometheus_http_requests_total", "HTTP requests by handler and status.");
    describe_histogram!(HTTP_DURATION, "Time to answer by handler.");
    describe_gauge!("quorate_http_connections", "Open HTTP connections.");
    describe_counter!(
        "quorate_self_monitor_failures_total",
        "Times the node's own metrics could not be written."
    );
    describe_counter!(
        "quorate_apply_stopped_total",
        "Partitions that stopped applying, which ends the node."
    );
    describe_counter!(
        "quorate_query_replica_failures_total",
        "Replicas on other nodes that did not answer a read, which went to the next."
    );
    describe_counter!(
        "quorate_query_fragments_total",
        "Parts of queries that were to run where their series are, by outcome."
    );
    describe_counter!(
        "quorate_query_frame_bytes_total",
        "Bytes of answers from other nodes, by what they hold."
    );
    describe_counter!(
        "quorate_query_hedges_total",
        "Reads that a second replica was asked for because the first was late, by who won."
    );
    describe_counter!(
        "quorate_query_repeated_series_total",
        "Series that two partitions had, which should not be."
    );
    describe_histogram!(
        CONSISTENCY_WAIT,
        "Time until reads knew and had what they must see, by consistency."
    );
    describe_counter!(
        "quorate_read_consistency_failures_total",
        "Reads that were refused because they could not be as fresh as they asked, by consistency."
    );
    describe_counter!("quorate_query_partial_answers_total", "Answers that lack partitions.");
    describe_counter!(
        "quorate_query_stale_answers_total",
        "Answers to eventual reads of a node that did not hear from all leaders."
    );
    describe_counter!("quorate_maintenance_failures_total", "Failed background work; it is tried again.");
    describe_counter!("cortex_distributor_received_requests_total", "Write requests by tenant.");
    describe_counter!("cortex_distributor_received_samples_total", "Received samples by tenant.");
    describe_counter!("cortex_distributor_received_exemplars_total", "Received exemplars by tenant.");
    describe_counter!("cortex_distributor_received_metadata_total", "Received metadata by tenant.");
    describe_counter!("cortex_discarded_samples_total", "Refused samples by tenant and reason.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_times_are_a_histogram_with_prometheus_bounds() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::histogram!(HTTP_DURATION, "handler" => "/").record(0.01);
        });
        let page = recorder.handle().render();
        assert!(page.contains(&format!("# TYPE {HTTP_DURATION} histogram\n")), "{page}");
        assert!(page.contains(&format!("{HTTP_DURATION}_bucket{{handler=\"/\",le=\"0.02\"}} 1\n")), "{page}");
        assert!(
            page.contains(&format!("{HTTP_DURATION}_bucket{{handler=\"/\",le=\"0.005\"}} 0\n")),
            "{page}"
        );
    }
}
