//! Counters of the write path, per tenant, under the names that dashboards know.

use crate::protocol::ParsedRequest;
use crate::refusal::{self, Refusals};
use metrics::{Counter, counter};
use std::sync::Arc;

/// Tenants with series of their own in our metrics; later ones share one.
const MAX_TENANTS: usize = 1000;
const OTHERS: &str = "other-tenants";

/// Handles of one tenant's counters, so that a request looks no name up.
pub(crate) struct TenantCounters {
    user: Arc<str>,
    requests: Counter,
    samples: Counter,
    exemplars: Counter,
    metadata: Counter,
}

impl TenantCounters {
    /// Counters of a tenant that `known` others came before.
    pub(crate) fn new(tenant: &Arc<str>, known: usize) -> Self {
        let user: Arc<str> = if known < MAX_TENANTS { Arc::clone(tenant) } else { Arc::from(OTHERS) };
        let of = |name: &'static str| counter!(name, "user" => Arc::clone(&user));
        Self {
            requests: of("cortex_distributor_received_requests_total"),
            samples: of("cortex_distributor_received_samples_total"),
            exemplars: of("cortex_distributor_received_exemplars_total"),
            metadata: of("cortex_distributor_received_metadata_total"),
            user,
        }
    }

    pub(crate) fn count_received(&self, request: &ParsedRequest) {
        self.requests.increment(1);
        self.samples.increment((request.ts_ms.len() + request.histograms.len()) as u64);
        if request.exemplars > 0 {
            self.exemplars.increment(request.exemplars);
        }
        if !request.metadata.is_empty() {
            self.metadata.increment(request.metadata.len() as u64);
        }
    }

    pub(crate) fn count_rate_limited(&self, request: &ParsedRequest) {
        self.discard("rate_limited".to_owned(), (request.ts_ms.len() + request.histograms.len()) as u64);
    }

    /// Counts refused samples by reason, under Mimir's names: mostly the id without its prefix, with underscores.
    pub(crate) fn count_refusals(&self, refusals: &Refusals) {
        for (id, count) in refusals.by_id.iter().filter(|(_, count)| *count > 0) {
            let reason = match *id {
                refusal::SERIES_LIMIT => "per_user_series_limit".to_owned(),
                refusal::CONFLICT => "new-value-for-timestamp".to_owned(),
                refusal::TOO_OLD => "sample-timestamp-too-old".to_owned(),
                id => {
                    id.trim_start_matches("err-mimir-").trim_start_matches("err-quorate-").replace('-', "_")
                }
            };
            self.discard(reason, *count);
        }
    }

    fn discard(&self, reason: String, count: u64) {
        counter!("cortex_discarded_samples_total", "reason" => reason, "user" => Arc::clone(&self.user))
            .increment(count);
    }
}
