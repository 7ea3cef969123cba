//! What handlers share: the configuration, readiness, and the node's services once they run.
//!
//! Knows the services of a node. H1: the listener answers while partitions still replay; until then what
//! needs data is refused as unavailable, and readiness says so.

use super::reply::ApiError;
use super::write;
use crate::config::reload::Reloader;
use crate::config::{Config, Multitenancy};
use crate::node::figures;
use crate::node::services::Services;
use crate::node::troubles::Troubles;
use crate::telemetry::exposition::Exposition;
use crate::telemetry::metrics;
use metrics_exporter_prometheus::PrometheusHandle;
use quorate_cluster::limits::LimitsProvider;
use quorate_ingest::InFlight;
use quorate_model::{Clock, ErrorCode};
use quorate_promql::{Expr, Features};
use quorate_query::QueryLimits;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, watch};

/// Texts that are parsed at the same time outside of queries: parsing may compile large regexes.
const PARSERS: usize = 4;

/// What is known before the node's services run.
pub struct AppParts {
    /// The configuration, and how it is read again.
    pub reloader: Arc<Reloader>,
    /// Limits in force.
    pub limits: Arc<LimitsProvider>,
    /// PromQL features that are on.
    pub features: Features,
    /// The metrics recorder.
    pub recorder: PrometheusHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What keeps partitions from going on.
    pub troubles: Arc<Troubles>,
}

/// State of the HTTP API.
pub struct App {
    /// The configuration, and how it is read again.
    pub reloader: Arc<Reloader>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When the process started, milliseconds.
    pub started_ms: i64,
    limits: Arc<LimitsProvider>,
    features: Features,
    recorder: PrometheusHandle,
    troubles: Arc<Troubles>,
    in_flight: Arc<InFlight>,
    services: OnceLock<Arc<Services>>,
    ready: watch::Sender<bool>,
    /// A place for each text that is parsed outside of a query.
    parsers: Semaphore,
}

impl App {
    /// An API without services yet.
    pub fn new(parts: AppParts) -> Arc<Self> {
        let AppParts { reloader, limits, features, recorder, clock, troubles } = parts;
        let started_ms = clock.now_ms();
        let in_flight = write::in_flight(&reloader.config());
        Arc::new(Self {
            reloader,
            clock,
            started_ms,
            limits,
            features,
            recorder,
            troubles,
            in_flight,
            services: OnceLock::new(),
            ready: watch::Sender::new(false),
            parsers: Semaphore::new(PARSERS),
        })
    }

    /// Every partition has replayed: requests for data are served from now on.
    pub fn set_ready(&self, services: Arc<Services>) {
        if self.services.set(services).is_ok() {
            self.ready.send_replace(true);
        }
    }

    /// The node ends: readiness is taken back, open and late requests are still answered.
    pub fn set_draining(&self) {
        self.ready.send_replace(false);
    }

    /// Whether the node takes requests for data.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Follows readiness.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.reloader.config()
    }

    /// Whether requests name their tenant.
    pub fn multitenancy(&self) -> Multitenancy {
        self.config().multitenancy
    }

    /// PromQL features that are on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The bound on what requests take while they are read.
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// The node's services.
    ///
    /// # Errors
    /// 503 while partitions replay.
    pub fn services(&self) -> Result<&Arc<Services>, ApiError> {
        self.services.get().ok_or_else(|| {
            let why = self.troubles().unwrap_or_else(|| "its log is replayed".to_owned());
            ApiError::new(ErrorCode::Unavailable, format!("the node is starting: {why}"))
        })
    }

    /// What keeps partitions from going on until an operator does something, one after the other.
    pub fn troubles(&self) -> Option<String> {
        let reasons: Vec<String> = self.troubles.list().into_iter().map(|(_, reason)| reason).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// What one query of a tenant may read.
    pub fn query_limits(&self, tenant: &str) -> QueryLimits {
        let limits = self.limits.of(tenant);
        QueryLimits {
            max_series: limits.max_fetched_series_per_query,
            max_length_ms: limits.max_total_query_length_ms(),
            max_samples: limits.max_samples_per_query,
        }
    }

    /// Runs `work` on a thread that may block, at most so many at once.
    ///
    /// # Errors
    /// What `work` gives; 500 if it panicked.
    pub async fn off_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let internal = |cause: &str| ApiError::new(ErrorCode::Internal, cause);
        let _place = self.parsers.acquire().await.map_err(|_closed| internal("the node is stopping"))?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_panicked| internal("the request failed unexpectedly; see the log of the node"))?
    }

    /// What `then` makes of the parsed `query`.
    ///
    /// # Errors
    /// 400 if it is not PromQL.
    pub async fn parsing<T: Send + 'static>(
        &self,
        query: String,
        then: impl FnOnce(Expr) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let features = self.features;
        self.off_runtime(move || {
            let parsed = quorate_promql::parse(&query, &features);
            parsed.map(then).map_err(|error| ApiError::parameter("query", &error.to_string()))
        })
        .await
    }

    /// All metrics of the node as text.
    ///
    /// # Errors
    /// 500 if the figures could not be read.
    pub async fn metrics_page(self: &Arc<Self>) -> Result<String, ApiError> {
        let app = self.clone();
        self.off_runtime(move || Ok(app.write_metrics_page())).await
    }

    fn write_metrics_page(&self) -> String {
        let mut page = Exposition::after(self.recorder.render());
        metrics::write_process_figures(&mut page);
        let up = |yes: bool| if yes { 1.0 } else { 0.0 };
        let (ready, reloaded) = (up(self.is_ready()), up(self.reloader.is_successful()));
        for prefix in ["quorate", "prometheus"] {
            page.gauge(&format!("{prefix}_ready"), "Whether every partition has replayed.", ready);
            let name = format!("{prefix}_config_last_reload_successful");
            page.gauge(&name, "Whether the last reading of the configuration was used.", reloaded);
        }
        page.gauge(
            "prometheus_config_last_reload_success_timestamp_seconds",
            "When a configuration was last put in force.",
            self.reloader.changed_at_ms() as f64 / 1000.0,
        );
        if let Some(services) = self.services.get() {
            figures::write(services, self.clock.instant(), &mut page);
        }
        page.finish()
    }
}
