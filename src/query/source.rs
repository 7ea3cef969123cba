//! All series of one tenant on this node, as one source for the engine.
//!
//! Knows partitions and how to merge their answers. Does not know matchers or chunks.
//! Path: `promql::engine` -> **here** -> `tsdb::PartitionStore::select`.
//! A series lives in exactly one partition of an epoch, so merging is by order only, never by sample.

use crate::guard::GuardMeter;
use crate::limits::QueryLimits;
use quorate_model::{Labels, SeriesBuffer, TenantId};
use quorate_promql::engine::QueryGuard;
use quorate_promql::source::{SelectRequest, Selection, SeriesSource, SourceError};
use quorate_tsdb::{PartitionSelection, PartitionStore, ReadMeter, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The node's partitions, seen by one query of one tenant.
pub struct LocalSource {
    partitions: Arc<[Arc<PartitionStore>]>,
    /// `None` for a tenant that never wrote: it has no series.
    tenant: Option<TenantId>,
    limits: QueryLimits,
    /// Series of all selections of the query so far.
    selected: AtomicU64,
}

impl LocalSource {
    /// A source over `partitions` for `tenant`, which may take `limits`.
    pub fn new(
        partitions: Arc<[Arc<PartitionStore>]>,
        tenant: Option<TenantId>,
        limits: QueryLimits,
    ) -> Self {
        Self { partitions, tenant, limits, selected: AtomicU64::new(0) }
    }
}

impl SeriesSource for LocalSource {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        let Some(tenant) = self.tenant else {
            return Ok(Box::new(MergedSelection::new(Vec::new(), self.limits)));
        };
        let meter = GuardMeter::new(guard);
        let mut parts = Vec::with_capacity(self.partitions.len());
        let mut found = 0;
        for partition in self.partitions.iter() {
            let limits = self.limits.of_selection();
            let part = partition
                .select(tenant, request.matchers, request.range, limits, &meter)
                .map_err(|error| source_error(&error, &meter, &self.limits))?;
            let len = part.len() as u64;
            found += len;
            let selected = self.selected.fetch_add(len, Ordering::Relaxed) + len;
            self.limits.check_series(selected).map_err(SourceError::Limit)?;
            parts.push(part);
        }
        if !meter.proceed(found * ORDER_BYTES) {
            return Err(source_error(&StoreError::Stopped, &meter, &self.limits));
        }
        Ok(Box::new(MergedSelection::new(parts, self.limits)))
    }
}

/// What the order of the selected series takes for each, with the room that its sort needs.
const ORDER_BYTES: u64 = 2 * size_of::<(u32, u32)>() as u64;

/// What a failed store means to the engine.
pub(crate) fn source_error(error: &StoreError, meter: &GuardMeter<'_>, limits: &QueryLimits) -> SourceError {
    match meter.objection(error) {
        Some(objection) => SourceError::Stopped(Box::new(objection)),
        None => read_error(error, limits),
    }
}

fn read_error(error: &StoreError, limits: &QueryLimits) -> SourceError {
    match error {
        StoreError::TooManySeries { .. } => SourceError::Limit(limits.series_refusal()),
        other => SourceError::Failed(other.to_string()),
    }
}

/// The selections of several partitions in the order of their labels.
struct MergedSelection {
    parts: Vec<PartitionSelection>,
    /// (partition, index within it) of each series.
    order: Vec<(u32, u32)>,
    limits: QueryLimits,
}

impl MergedSelection {
    fn new(parts: Vec<PartitionSelection>, limits: QueryLimits) -> Self {
        let mut order = Vec::with_capacity(parts.iter().map(PartitionSelection::len).sum());
        for (number, part) in parts.iter().enumerate() {
            order.extend((0..part.len()).map(|index| (number as u32, index as u32)));
        }
        // Each part is a sorted run already, which this sort finds and merges.
        order.sort_by(|a, b| label_at(&parts, *a).cmp(label_at(&parts, *b)));
        Self { parts, order, limits }
    }
}

fn label_at(parts: &[PartitionSelection], (part, index): (u32, u32)) -> &Labels {
    parts[part as usize].labels(index as usize)
}

impl Selection for MergedSelection {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn labels(&self, index: usize) -> &Labels {
        label_at(&self.parts, self.order[index])
    }

    fn read(&self, index: usize, out: &mut SeriesBuffer) -> Result<(), SourceError> {
        let (part, inner) = self.order[index];
        self.parts[part as usize].read(inner as usize, out).map_err(|e| read_error(&e, &self.limits))
    }
}
