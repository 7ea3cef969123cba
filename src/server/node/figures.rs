//! Figures that are read at the moment of a scrape: heads, blocks, logs, queries; and `status/tsdb`.
//!
//! Knows the stores' statistics and the names that existing dashboards use. Cost: walks the rows of every
//! head, so it is for scrapes and not for requests.

use super::partition::Partition;
use super::services::Services;
use crate::telemetry::exposition::Exposition;
use quorate_model::{METRIC_NAME, NodeId, TenantId};
use quorate_query::CardinalityTotals;
use quorate_query::durations::Summary;
use quorate_tsdb::PartitionStats;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Instant;

/// Quantiles of the times of queries, as in Prometheus.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
/// Tenants that have figures of their own; the rest is summed up under this name.
const MAX_TENANTS: usize = 100;
const OTHER_TENANTS: &str = "__other";

/// Writes the figures of a node that runs.
pub fn write(services: &Services, now: Instant, page: &mut Exposition) {
    let partitions = services.replicas.list();
    let stats: Vec<PartitionStats> = partitions.iter().map(|p| p.store.stats()).collect();
    write_head(&stats, page);
    write_partitions(&partitions, &stats, page);
    write_tenants(services, &partitions, &stats, page);
    write_queries(services, now, page);
    write_log(services, page);
    if services.kafka.is_some() {
        write_kafka(services, &partitions, page);
    }
    if services.is_shared {
        write_nodes(services, page);
        write_groups(services, &partitions, page);
        write_traffic(services, page);
    }
}

fn write_nodes(services: &Services, page: &mut Exposition) {
    let name = "quorate_cluster_nodes";
    page.family(name, "gauge", "Nodes of the cluster by what they are to it, as this node knows it.");
    let states: Vec<&str> =
        services.meta.read(|state| state.nodes().values().map(|node| node.state.name()).collect());
    for state in ["expected", "member", "draining", "lost", "gone"] {
        page.sample(name, &[("state", state)], states.iter().filter(|s| **s == state).count() as f64);
    }
    let leads = services.meta.group().leader() == Some(NodeId(services.node.into()));
    page.gauge("quorate_cluster_leader", "Whether this node leads the metadata.", f64::from(u8::from(leads)));
    let (active, reads) = (services.meta.read(|state| state.active_version()), services.meta.reads().version);
    let name = "quorate_cluster_metadata_version";
    page.family(
        name,
        "gauge",
        "Version of the metadata that is active, and the newest that this node reads.",
    );
    for (kind, version) in [("active", active), ("readable", reads)] {
        page.sample(name, &[("kind", kind)], f64::from(version.0));
    }
    page.counter(
        "quorate_partition_divergence_total",
        "Partitions found to differ between replicas while this node led the metadata.",
        services.life.divergences() as f64,
    );
}

fn write_groups(services: &Services, partitions: &[Partition], page: &mut Exposition) {
    let me = NodeId(services.node.into());
    let leads = |partition: &Partition| partition.group().leader() == Some(me);
    let name = "quorate_partition_leader";
    page.family(name, "gauge", "Whether this node leads the partition.");
    for partition in partitions {
        let value = f64::from(u8::from(leads(partition)));
        page.sample(name, &[("partition", &partition.id.to_string())], value);
    }
    let name = "quorate_partition_lag";
    page.family(name, "gauge", "Positions that are committed, as the replica here knows, and not applied.");
    for partition in partitions {
        let lag = partition.known_index().0.saturating_sub(partition.store.applied().0);
        page.sample(name, &[("partition", &partition.id.to_string())], lag as f64);
    }
    let state = services.meta.state();
    let is_moving = |partition: &&Partition| {
        let placed = state.partitions().get(partition.id.0 as usize).map(|entry| &entry.replicas);
        let voters = partition.group().members().voters;
        leads(partition)
            && placed.is_some_and(|placed| {
                placed.len() != voters.len() || placed.iter().any(|n| !voters.contains(n))
            })
    };
    page.gauge(
        "quorate_cluster_moves_in_progress",
        "Partitions led here whose members are not those of the placement yet.",
        partitions.iter().filter(is_moving).count() as f64,
    );
}

fn write_kafka(services: &Services, partitions: &[Partition], page: &mut Exposition) {
    if let Some(kafka) = &services.kafka {
        let dangers = kafka.topic().unsafe_because.len();
        page.gauge(
            "quorate_kafka_topic_unsafe",
            "Reasons why the topic may lose what was acknowledged, which is allowed.",
            dangers as f64,
        );
        page.gauge(
            "quorate_kafka_partitions_without_image",
            "Partitions of which no replica has an image younger than a tenth of the topic's retention.",
            kafka.kafka().partitions_without_image().len() as f64,
        );
    }
    let lags: Vec<_> = partitions.iter().filter_map(|p| Some((p.id.to_string(), p.lag()?))).collect();
    let name = "quorate_kafka_lag_records";
    page.family(name, "gauge", "Offsets of the partition that the replica here has not applied.");
    for (partition, lag) in &lags {
        page.sample(name, &[("partition", partition)], lag.records as f64);
    }
    let name = "quorate_kafka_lag_seconds";
    page.family(name, "gauge", "How long the replica here has lacked the oldest of them.");
    for (partition, lag) in &lags {
        page.sample(name, &[("partition", partition)], lag.age.as_secs_f64());
    }
}

fn write_traffic(services: &Services, page: &mut Exposition) {
    let (sent, received) = services.replicas.traffic().totals();
    let name = "quorate_cluster_moved_bytes_total";
    page.family(name, "counter", "Bytes of snapshots between this node and others.");
    page.sample(name, &[("direction", "sent")], sent as f64);
    page.sample(name, &[("direction", "received")], received as f64);
    let arriving = services.replicas.traffic().arriving();
    let missing: u64 = arriving.iter().map(|transfer| transfer.total - transfer.bytes).sum();
    page.gauge("quorate_cluster_arriving_snapshots", "Snapshots that arrive here.", arriving.len() as f64);
    page.gauge("quorate_cluster_arriving_bytes", "Bytes of them that are not here yet.", missing as f64);
}

/// The names of Prometheus' own head, over all partitions and tenants.
fn write_head(stats: &[PartitionStats], page: &mut Exposition) {
    let sum = |of: fn(&PartitionStats) -> u64| stats.iter().map(of).sum::<u64>() as f64;
    page.gauge("prometheus_tsdb_head_series", "Series in the heads.", sum(|s| s.head_series));
    page.gauge("prometheus_tsdb_head_chunks", "Chunks in the heads.", sum(|s| s.head_chunks));
    page.counter(
        "prometheus_tsdb_head_samples_appended_total",
        "Samples applied to the heads; duplicates and conflicts left out.",
        sum(|s| s.counters.values().map(|c| c.stored + c.late).sum()),
    );
    let ranges = || stats.iter().filter_map(|s| s.head_range);
    if let (Some(first), Some(last)) = (ranges().map(|r| r.start_ms).min(), ranges().map(|r| r.end_ms).max())
    {
        page.gauge("prometheus_tsdb_head_min_time", "Start of the oldest open window.", first as f64);
        page.gauge("prometheus_tsdb_head_max_time", "End of the newest open window.", last as f64);
    }
    page.gauge("prometheus_tsdb_blocks_loaded", "Published blocks.", sum(|s| s.blocks));
    page.gauge("prometheus_tsdb_storage_blocks_bytes", "Bytes of published blocks.", sum(|s| s.block_bytes));
}

fn write_partitions(partitions: &[Partition], stats: &[PartitionStats], page: &mut Exposition) {
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(usize) -> f64| {
        page.family(name, kind, help);
        for (at, partition) in partitions.iter().enumerate() {
            page.sample(name, &[("partition", &partition.id.to_string())], value(at));
        }
    };
    family("quorate_head_series", "gauge", "Series in the head.", &|at| stats[at].head_series as f64);
    family("quorate_head_bytes", "gauge", "Memory of the head.", &|at| stats[at].memory.total() as f64);
    family("quorate_late_bytes", "gauge", "Memory of late samples.", &|at| stats[at].late_bytes as f64);
    family("quorate_sealed_generations", "gauge", "Generations that wait for their flush.", &|at| {
        stats[at].sealed_generations as f64
    });
    family("quorate_blocks", "gauge", "Published blocks.", &|at| stats[at].blocks as f64);
    family("quorate_block_samples", "gauge", "Samples in published blocks.", &|at| {
        stats[at].block_samples as f64
    });
    family("quorate_applied_position", "gauge", "Log position that is applied.", &|at| {
        partitions[at].store.applied().0 as f64
    });
    family("quorate_durable_position", "gauge", "Log position of the last durable image.", &|at| {
        partitions[at].store.durable().0 as f64
    });
    family("quorate_partition_failed", "gauge", "Whether the partition stopped applying.", &|at| {
        f64::from(u8::from(partitions[at].state.borrow().stopped.is_some()))
    });
}

/// What is told of each tenant: its samples by verdict, and its series in the heads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TenantFigures {
    samples: [u64; 5],
    active_series: u64,
}

impl AddAssign for TenantFigures {
    fn add_assign(&mut self, other: Self) {
        self.samples.iter_mut().zip(other.samples).for_each(|(sum, part)| *sum += part);
        self.active_series += other.active_series;
    }
}

fn write_tenants(
    services: &Services,
    partitions: &[Partition],
    stats: &[PartitionStats],
    page: &mut Exposition,
) {
    let mut by_tenant: BTreeMap<TenantId, TenantFigures> = BTreeMap::new();
    for (stats, partition) in stats.iter().zip(partitions) {
        for (tenant, counters) in &stats.counters {
            *by_tenant.entry(*tenant).or_default() += TenantFigures {
                samples: [
                    counters.stored,
                    counters.late,
                    counters.duplicates,
                    counters.conflicts,
                    counters.lost,
                ],
                active_series: partition.store.active_series(*tenant),
            };
        }
    }
    let name_of = |tenant: TenantId| {
        services.meta.tenant_name(tenant).map_or_else(|| tenant.to_string(), |name| name.to_string())
    };
    write_named_tenants(&named_and_others(by_tenant, name_of), page);
}

/// The figures of the first tenants by name, and the sum of all others.
fn named_and_others(
    by_tenant: BTreeMap<TenantId, TenantFigures>,
    name_of: impl Fn(TenantId) -> String,
) -> Vec<(String, TenantFigures)> {
    let mut named: Vec<(String, TenantFigures)> = Vec::new();
    let mut others: Option<TenantFigures> = None;
    for (tenant, figures) in by_tenant {
        match named.len() < MAX_TENANTS {
            true => named.push((name_of(tenant), figures)),
            false => *others.get_or_insert_default() += figures,
        }
    }
    named.extend(others.map(|figures| (OTHER_TENANTS.to_owned(), figures)));
    named
}

fn write_named_tenants(tenants: &[(String, TenantFigures)], page: &mut Exposition) {
    let name = "quorate_tenant_samples_total";
    page.family(name, "counter", "Samples of committed records by tenant and what became of them.");
    for (tenant, figures) in tenants {
        for (verdict, count) in
            ["stored", "late", "duplicate", "conflict", "lost"].into_iter().zip(figures.samples)
        {
            page.sample(name, &[("tenant", tenant), ("verdict", verdict)], count as f64);
        }
    }
    let name = "cortex_ingester_active_series";
    page.family(name, "gauge", "Series in the heads by tenant, which its limit counts.");
    for (tenant, figures) in tenants {
        page.sample(name, &[("user", tenant)], figures.active_series as f64);
    }
}

fn write_queries(services: &Services, now: Instant, page: &mut Exposition) {
    let queries = &services.queries;
    let name = "prometheus_engine_query_duration_seconds";
    page.family(name, "summary", "Time of queries by part of the work.");
    let times = queries.times();
    for (slice, durations) in [("queue_time", &times.queued), ("inner_eval", &times.executed)] {
        let Summary { sum, number, quantiles } = durations.summary(now, QUANTILES);
        for (quantile, seconds) in QUANTILES.into_iter().zip(quantiles) {
            page.sample(name, &[("slice", slice), ("quantile", &quantile.to_string())], seconds);
        }
        page.sample(&format!("{name}_sum"), &[("slice", slice)], sum);
        page.sample(&format!("{name}_count"), &[("slice", slice)], number as f64);
    }
    page.gauge("prometheus_engine_queries", "Queries that run now.", queries.running() as f64);
    page.gauge(
        "prometheus_engine_queries_concurrent_max",
        "Queries that may run at once.",
        queries.config().max_concurrent as f64,
    );
    let memory = queries.memory();
    page.gauge("quorate_query_memory_bytes", "Memory of the queries that run.", memory.in_use() as f64);
    page.gauge("quorate_memory_budget_bytes", "Memory for heads and queries.", memory.limit() as f64);
}

fn write_log(services: &Services, page: &mut Exposition) {
    let (log, groups) = (services.raft.stats(), services.raft.quiet_groups());
    let name = "quorate_raft_groups";
    page.family(name, "gauge", "Raft groups here; those that sleep have no timers and no heartbeats.");
    for (state, count) in [("asleep", groups.asleep), ("awake", groups.awake)] {
        page.sample(name, &[("state", state)], count as f64);
    }
    page.counter(
        "quorate_log_syncs_total",
        "Batches of the log, each with one fdatasync.",
        log.batches as f64,
    );
    page.counter("quorate_log_written_bytes_total", "Bytes written to the log.", log.bytes as f64);
    page.counter("quorate_log_entries_total", "Entries written to the log.", log.entries as f64);
    page.gauge("quorate_log_segments", "Segment files of the log.", log.segments as f64);
    page.gauge("quorate_log_torn_bytes", "Bytes cut off the log at the start.", log.torn_bytes as f64);
    let Ok(store) = services.kv.usage() else { return };
    page.gauge("quorate_store_cache_bytes", "RocksDB's cache, memtables included.", store.cache_bytes as f64);
    page.gauge("quorate_store_disk_bytes", "RocksDB's live files.", store.disk_bytes as f64);
}

/// What the heads hold of one tenant, in the form of Prometheus' `status/tsdb`; `top` entries a list.
///
/// Prometheus' chunks and times of the head are left out: chunks and windows belong to all tenants together, and one
/// must not learn of another's.
pub fn tsdb_status(found: &CardinalityTotals, top: usize) -> Value {
    let CardinalityTotals { series, pairs } = found;
    let (mut values, mut bytes) = (Counts::new(), Counts::new());
    for ((name, value), count) in pairs {
        *values.entry(name.clone()).or_default() += 1;
        *bytes.entry(name.clone()).or_default() += value.len() as u64 * count;
    }
    let metrics = pairs.iter().filter(|((name, _), _)| name == METRIC_NAME);
    json!({
        "headStats": {
            "numSeries": series,
            "numLabelPairs": pairs.len(),
        },
        "seriesCountByMetricName": largest(metrics.map(|((_, value), count)| (value.clone(), *count)), top),
        "labelValueCountByLabelName": largest(values, top),
        "memoryInBytesByLabelName": largest(bytes, top),
        "seriesCountByLabelValuePair": largest(
            pairs.iter().map(|((name, value), count)| (format!("{name}={value}"), *count)),
            top,
        ),
    })
}

type Counts = BTreeMap<String, u64>;

fn largest(counts: impl IntoIterator<Item = (String, u64)>, top: usize) -> Vec<Value> {
    let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sorted.into_iter().take(top).map(|(name, value)| json!({"name": name, "value": value})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_tenants_have_figures_of_their_own() {
        let of = |series| TenantFigures { samples: [series, 0, 0, 1, 0], active_series: series };
        let tenants = (1..=102).map(|at| (TenantId(at), of(u64::from(at)))).collect();
        let named = named_and_others(tenants, |tenant| format!("t{}", tenant.0));
        assert_eq!((named.len(), &named[0]), (101, &("t1".to_owned(), of(1))));
        let rest = TenantFigures { samples: [101 + 102, 0, 0, 2, 0], active_series: 101 + 102 };
        assert_eq!(named[100], (OTHER_TENANTS.to_owned(), rest));
        let mut page = Exposition::default();
        write_named_tenants(&named[..1], &mut page);
        let page = page.finish();
        assert!(
            page.contains("quorate_tenant_samples_total{tenant=\"t1\",verdict=\"conflict\"} 1\n"),
            "{page}"
        );
        assert!(page.contains("cortex_ingester_active_series{user=\"t1\"} 1\n"), "{page}");
    }

    #[test]
    fn the_largest_come_first_and_equal_ones_by_name() {
        let counts = [("b", 1), ("c", 3), ("a", 1)].map(|(name, count)| (name.to_owned(), count));
        let expected = [json!({"name": "c", "value": 3}), json!({"name": "a", "value": 1})];
        assert_eq!(largest(counts, 2), expected);
    }
}
