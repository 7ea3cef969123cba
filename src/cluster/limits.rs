//! Limits of tenants, with Mimir's names, so that its override files load as far as their keys are here.
//!
//! Knows names, defaults and tenants. Does not enforce anything: `ingest` and `query` do, each request with
//! the limits it fetched when it began. Source: Grafana Mimir, "About runtime configuration" and its
//! reference of limits.

use crate::human::HumanDuration;
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Limits of one tenant. 0 switches a limit off unless its text says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Samples per second that the tenant may write, over time and over all nodes.
    pub ingestion_rate: f64,
    /// Samples that it may write at once on top of its rate, at each node; at least as many as one request holds. 0 is
    /// as many as it may write in a second.
    pub ingestion_burst_size: u64,
    /// Series with samples in the last two hours; a sample of a new one above it is refused.
    pub max_global_series_per_user: u64,
    /// Metric families with metadata; metadata of a new one above it is refused.
    pub max_global_metadata_per_user: usize,
    /// Labels of a series, `__name__` included.
    pub max_label_names_per_series: usize,
    /// Bytes of a label's name.
    pub max_label_name_length: usize,
    /// Bytes of a label's value, the metric name included.
    pub max_label_value_length: usize,
    /// Bytes of a metric's name, help and unit in metadata; longer help is cut.
    pub max_metadata_length: usize,
    /// How far in the future a sample may lie.
    pub creation_grace_period: HumanDuration,
    /// How far in the past a sample may lie.
    pub past_grace_period: HumanDuration,
    /// Buckets of a native histogram.
    pub max_native_histogram_buckets: usize,
    /// How long samples are kept; `0` means as long as the node's `retention` says.
    pub compactor_blocks_retention_period: HumanDuration,
    /// Series that the selectors of a query may select together.
    pub max_fetched_series_per_query: u64,
    /// Samples that one query may hold at once; `0` means as many as the node's `query.max_samples` says.
    pub max_samples_per_query: u64,
    /// Time between start and end of a range query.
    pub max_total_query_length: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ingestion_rate: 0.0,
            ingestion_burst_size: 0,
            max_global_series_per_user: 0,
            max_global_metadata_per_user: 100_000,
            max_label_names_per_series: 30,
            max_label_name_length: 1024,
            max_label_value_length: 2048,
            max_metadata_length: 1024,
            creation_grace_period: HumanDuration::from_secs(600),
            past_grace_period: HumanDuration::from_ms(0),
            max_native_histogram_buckets: 0,
            compactor_blocks_retention_period: HumanDuration::from_ms(0),
            max_fetched_series_per_query: 0,
            max_samples_per_query: 0,
            max_total_query_length: HumanDuration::from_ms(0),
        }
    }
}

impl Limits {
    /// Adds every problem found, each naming its key below `path`. Changes nothing.
    pub fn check(&self, path: &str, problems: &mut Vec<String>) {
        if !self.ingestion_rate.is_finite() || self.ingestion_rate < 0.0 {
            problems.push(format!("{path}.ingestion_rate must be 0 or more, it is {}", self.ingestion_rate));
        }
        for (key, value) in [
            ("max_label_names_per_series", self.max_label_names_per_series),
            ("max_label_name_length", self.max_label_name_length),
            ("max_label_value_length", self.max_label_value_length),
        ] {
            if value > usize::from(u16::MAX) {
                problems.push(format!("{path}.{key} must be at most {}, it is {value}", u16::MAX));
            }
        }
    }

    /// What the tenant may write at once under a rate: Mimir's files may name the rate alone.
    pub fn burst(&self) -> u64 {
        match self.ingestion_burst_size {
            0 => self.ingestion_rate.ceil() as u64,
            burst => burst,
        }
    }

    /// `max_total_query_length` in milliseconds, 0 = off.
    pub fn max_total_query_length_ms(&self) -> i64 {
        self.max_total_query_length.as_ms()
    }

    /// How long the tenant's samples are kept, milliseconds, 0 = forever; `node` is the node's retention.
    pub fn retention_ms(&self, node: HumanDuration) -> i64 {
        let own = self.compactor_blocks_retention_period;
        if own.is_zero() { node.as_ms() } else { own.as_ms() }
    }
}

/// The limits in force. Cheap to ask; replaced as a whole.
#[derive(Debug)]
pub struct LimitsProvider(ArcSwap<Table>);

#[derive(Debug)]
struct Table {
    all: Arc<Limits>,
    overrides: BTreeMap<String, Arc<Limits>>,
}

impl Table {
    fn new(all: Limits, overrides: BTreeMap<String, Limits>) -> Self {
        let overrides = overrides.into_iter().map(|(tenant, limits)| (tenant, Arc::new(limits))).collect();
        Self { all: Arc::new(all), overrides }
    }
}

impl LimitsProvider {
    /// Starts with `all` for every tenant but those of `overrides`, whose limits are complete.
    pub fn new(all: Limits, overrides: BTreeMap<String, Limits>) -> Self {
        Self(ArcSwap::from_pointee(Table::new(all, overrides)))
    }

    /// Puts other limits in force; requests that have begun keep theirs.
    pub fn replace(&self, all: Limits, overrides: BTreeMap<String, Limits>) {
        self.0.store(Arc::new(Table::new(all, overrides)));
    }

    /// The limits of a tenant.
    pub fn of(&self, tenant: &str) -> Arc<Limits> {
        let table = self.0.load();
        table.overrides.get(tenant).unwrap_or(&table.all).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_hold_for_their_tenant_until_replaced() {
        let strict = Limits { max_label_names_per_series: 3, ..Limits::default() };
        let provider =
            LimitsProvider::new(Limits::default(), BTreeMap::from([("a".to_owned(), strict.clone())]));
        let before = provider.of("a");
        assert_eq!(*before, strict);
        assert_eq!(*provider.of("b"), Limits::default());
        provider.replace(Limits::default(), BTreeMap::new());
        assert_eq!(*provider.of("a"), Limits::default());
        assert_eq!(*before, strict, "a request that began keeps its limits");
    }

    #[test]
    fn problems_name_their_keys() {
        let mut problems = Vec::new();
        Limits::default().check("limits", &mut problems);
        assert_eq!(problems, Vec::<String>::new());
        let bad = Limits { ingestion_rate: f64::NAN, max_label_name_length: 1 << 20, ..Limits::default() };
        bad.check("overrides.a", &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("overrides.a.ingestion_rate"));
    }

    #[test]
    fn a_rate_needs_no_burst() {
        let limits = Limits { ingestion_rate: 1.5, ..Limits::default() };
        let mut problems = Vec::new();
        limits.check("limits", &mut problems);
        assert_eq!((problems, limits.burst()), (vec![], 2));
        assert_eq!(Limits { ingestion_burst_size: 7, ..limits }.burst(), 7);
    }

    #[test]
    fn the_tenants_retention_wins_over_the_nodes() {
        let node = HumanDuration::from_secs(60);
        assert_eq!(Limits::default().retention_ms(node), 60_000);
        let own =
            Limits { compactor_blocks_retention_period: HumanDuration::from_ms(5), ..Limits::default() };
        assert_eq!(own.retention_ms(node), 5);
    }
}
