//! Figures of a partition, for limits, metrics and the status API.

use crate::error::StoreError;
use crate::head::{Counters, series_hash};
use crate::meter::{ReadMeter, ask};
use crate::partition_store::PartitionStore;
use quorate_model::{Labels, Position, TenantId, TimeRange};
use std::collections::{BTreeMap, BTreeSet};

/// What a label pair takes beside its text while the largest are found, about.
const PAIR_BYTES: usize = 128;

/// Memory of a head by part, in bytes; what the parts reserve counts, not only what they use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Labels, strings and the map from labels to rows.
    pub labels: u64,
    /// Postings.
    pub postings: u64,
    /// Rows, open and cut chunks, side buffers.
    pub samples: u64,
    /// Sealed generations on their way into blocks.
    pub sealed: u64,
    /// Session arrays.
    pub sessions: u64,
    /// Definitions on their way into the series log.
    pub pending: u64,
}

impl MemoryUse {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.labels + self.postings + self.samples + self.sealed + self.sessions + self.pending
    }
}

/// Figures of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// Series in the head.
    pub head_series: u64,
    /// Chunks in the head, open and cut, sealed ones left out.
    pub head_chunks: u64,
    /// Windows with unflushed samples: from the first millisecond of the oldest to the last of the newest.
    pub head_range: Option<TimeRange>,
    /// Memory of the head.
    pub memory: MemoryUse,
    /// Bytes of late samples; at twice the budget writes should wait.
    pub late_bytes: u64,
    /// Published blocks.
    pub blocks: u64,
    /// Samples in published blocks.
    pub block_samples: u64,
    /// Bytes of published blocks.
    pub block_bytes: u64,
    /// Sealed generations that wait for a flush.
    pub sealed_generations: u64,
    /// Samples of committed records by tenant and verdict.
    pub counters: BTreeMap<TenantId, Counters>,
    /// The rolling hash over samples and verdicts: equal on all replicas at equal positions.
    pub state_hash: u64,
}

/// The largest label names and pairs of a tenant's series in the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cardinality {
    /// Series.
    pub series: u64,
    /// Distinct label pairs.
    pub label_pairs: u64,
    /// Metric names by number of series, most first.
    pub metrics: Vec<(String, u64)>,
    /// Label names by number of values, most first.
    pub label_values: Vec<(String, u64)>,
    /// Label names by bytes of their values, most first.
    pub label_bytes: Vec<(String, u64)>,
    /// Label pairs by number of series, most first.
    pub pairs: Vec<((String, String), u64)>,
}

impl PartitionStore {
    /// Number of the tenant's series in the head.
    pub fn active_series(&self, tenant: TenantId) -> u64 {
        self.head.index().read().tenant_index(tenant).map_or(0, |index| index.all().len())
    }

    /// Whether the head has the series.
    pub fn has_series(&self, tenant: TenantId, labels: &Labels) -> bool {
        self.head.index().read().find(tenant, labels, series_hash(tenant, labels)).is_some()
    }

    /// Number of the tenant's metric families with metadata.
    pub fn metadata_families(&self, tenant: TenantId) -> usize {
        self.head.metadata().read().get(&tenant).map_or(0, |families| families.len())
    }

    /// Whether a metric family of the tenant has metadata.
    pub fn has_family(&self, tenant: TenantId, family: &str) -> bool {
        let metadata = self.head.metadata().read();
        metadata.get(&tenant).is_some_and(|families| families.contains_key(family))
    }

    /// Tenants with series in the head or in blocks.
    pub fn tenants(&self) -> BTreeSet<TenantId> {
        let view = self.views.pin();
        let mut tenants: BTreeSet<_> = view.blocks().iter().flat_map(|b| b.reader().tenants()).collect();
        tenants.extend(self.head.index().read().tenants().map(|(tenant, _)| tenant));
        tenants
    }

    /// Samples of committed records of a tenant by verdict.
    pub fn counters(&self, tenant: TenantId) -> Counters {
        self.head.writer().lock().counters.get(&tenant).copied().unwrap_or_default()
    }

    /// The applied position and the rolling hash at it: equal on all replicas at equal positions.
    pub fn fingerprint(&self) -> (Position, u64) {
        let writer = self.head.writer().lock();
        (writer.position, writer.state_hash.0)
    }

    /// Figures of the partition. Walks every row of the head: for a scrape, not for a request.
    pub fn stats(&self) -> PartitionStats {
        let view = self.views.pin();
        let sealed = view.sealed();
        let mut stats = PartitionStats { late_bytes: self.late_bytes(), ..PartitionStats::default() };
        {
            let writer = self.head.writer().lock();
            stats.counters.clone_from(&writer.counters);
            stats.state_hash = writer.state_hash.0;
            stats.memory.sessions = writer.sessions.memory_bytes() as u64;
            stats.memory.pending = writer.pending.memory_bytes() as u64;
            let mut open = writer.windows.iter().filter(|(_, w)| w.has_data).map(|(start, _)| *start);
            let length = self.head.length();
            stats.head_range = open.next().map(|first| {
                let last = open.next_back().unwrap_or(first);
                TimeRange::new(first, length.range_of(last).end_ms)
            });
        }
        for stripe in self.head.stripes() {
            let stripe = stripe.read();
            stats.memory.samples += stripe.memory_bytes() as u64;
            stats.head_chunks += stripe.chunk_count() as u64;
        }
        let index = self.head.index().read();
        let (labels, postings) = index.memory_bytes();
        (stats.memory.labels, stats.memory.postings) = (labels as u64, postings as u64);
        stats.head_series = index.live_rows();
        stats.memory.sealed = sealed.iter().map(|s| s.memory_bytes() as u64).sum();
        stats.sealed_generations = sealed.len() as u64;
        stats.blocks = view.blocks().len() as u64;
        let metas = || view.blocks().iter().map(|b| b.meta());
        stats.block_samples = metas().map(|m| m.samples).sum();
        stats.block_bytes = metas().map(|m| m.page_bytes + m.idx_bytes).sum();
        stats
    }

    /// The `top` largest label names and pairs of a tenant in the head. `meter` is charged with all of them, as they
    /// are sorted.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] when `meter` objects.
    pub fn cardinality(
        &self,
        tenant: TenantId,
        top: usize,
        meter: &dyn ReadMeter,
    ) -> Result<Cardinality, StoreError> {
        let index = self.head.index().read();
        let Some(of_tenant) = index.tenant_index(tenant) else { return Ok(Cardinality::default()) };
        let text = |symbol: u32| index.symbols().get(symbol);
        let mut found = Cardinality { series: of_tenant.all().len(), ..Cardinality::default() };
        let mut pairs: Vec<((u32, u32), u64)> = Vec::new();
        for (name, values) in of_tenant.names() {
            let name_text = text(name).to_owned();
            found.label_pairs += values.len() as u64;
            let value_bytes: usize = values.keys().map(|value| text(*value).len()).sum();
            ask(meter, (value_bytes + values.len() * (PAIR_BYTES + name_text.len())) as u64)?;
            let bytes = values.iter().map(|(value, rows)| text(*value).len() as u64 * rows.len()).sum();
            if name_text == quorate_model::METRIC_NAME {
                found.metrics.extend(values.iter().map(|(v, rows)| (text(*v).to_owned(), rows.len())));
            }
            pairs.extend(values.iter().map(|(value, rows)| ((name, *value), rows.len())));
            found.label_values.push((name_text.clone(), values.len() as u64));
            found.label_bytes.push((name_text, bytes));
        }
        keep_top(&mut pairs, top);
        let named = |((name, value), count): ((u32, u32), u64)| {
            ((text(name).to_owned(), text(value).to_owned()), count)
        };
        found.pairs = pairs.into_iter().map(named).collect();
        keep_top(&mut found.metrics, top);
        keep_top(&mut found.label_values, top);
        keep_top(&mut found.label_bytes, top);
        Ok(found)
    }
}

fn keep_top<T: Ord>(counts: &mut Vec<(T, u64)>, top: usize) {
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(top);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::testing::{TENANT, data};
    use crate::{Disk, StoreConfig, Unmetered};
    use quorate_kv::MemKv;
    use quorate_model::{MetadataEntry, MetricType, PartitionId, Position, SubBatch};
    use std::sync::Arc;

    #[test]
    fn metadata_is_read_while_a_record_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(Arc::new(MemKv::default()), 1, 1 << 20).unwrap();
        let open =
            || PartitionStore::open(&disk, dir.path(), PartitionId(0), StoreConfig::default()).unwrap();
        let metric_type = MetricType::Gauge;
        let family =
            MetadataEntry { family: "up".into(), metric_type, help: String::new(), unit: String::new() };
        let batch = SubBatch { tenant: TENANT, metadata: vec![family.clone()], ..SubBatch::default() };
        let store = open();
        store.apply(Position(1), &data(vec![batch])).unwrap();
        store.cut_image().unwrap();
        drop(store);
        let store = open();
        let _applying = store.head.writer().lock();
        assert!(store.has_family(TENANT, "up") && !store.has_family(TENANT, "down"));
        assert_eq!((store.metadata_families(TENANT), store.metadata_families(TenantId(9))), (1, 0));
        assert_eq!(store.metadata(TENANT, None, &Unmetered).unwrap(), [family]);
    }
}
