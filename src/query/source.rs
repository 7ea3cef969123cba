//! All series of one tenant in the cluster, as one source for the engine.
//!
//! Knows partitions and how to merge their answers. Does not know matchers or chunks.
//! Path: `promql::engine` -> **here** -> `tsdb::PartitionStore::select` for what is on this node, `fanout` for the rest;
//! parts of a query that can run where the series are go by `distribute`.
//! A series lives in exactly one partition of an epoch, so merging is by order only, never by sample. Should two
//! partitions give the same labels, the lower one is read, whatever the timing, and a counter tells.

use crate::fanout::{CallError, Collect, Request, gather};
use crate::frames::FrameError;
use crate::frames::series::{RemoteSelection, partition_of};
use crate::freshness::Reading;
use crate::guard::{GuardMeter, stopped};
use crate::limits::QueryLimits;
use crate::messages::to_messages;
use bytes::Bytes;
use futures::poll;
use parking_lot::Mutex;
use quorate_model::{Labels, PartitionId, SeriesBuffer, TenantId};
use quorate_promql::engine::QueryGuard;
use quorate_promql::source::{FragmentSource, SelectRequest, Selection, SeriesSource, SourceError};
use quorate_tsdb::{PartitionSelection, PartitionStore, StoreError};
use quorate_wire::store;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The partitions of the cluster, seen by one query of one tenant. Selects on threads that may block.
pub struct ClusterSource {
    /// `None` for a tenant that never wrote: it has no series.
    pub(crate) of: Option<(TenantId, Reading)>,
    pub(crate) limits: QueryLimits,
    pub(crate) deadline: Instant,
    pub(crate) runtime: Handle,
    /// Series of all selections of the query so far.
    selected: AtomicU64,
    /// Series that fragments counted, by selection.
    counted: Mutex<HashMap<usize, u64>>,
}

impl ClusterSource {
    /// A source over what `of` says for its tenant, who may take `limits`. Calls to other nodes wait on `runtime`, at
    /// most until `deadline`.
    pub fn new(
        of: Option<(TenantId, Reading)>,
        limits: QueryLimits,
        deadline: Instant,
        runtime: Handle,
    ) -> Self {
        Self { of, limits, deadline, runtime, selected: AtomicU64::new(0), counted: Mutex::default() }
    }

    /// Whether the series of a fragment are to be counted: others may work on the same.
    pub(crate) fn begin_fragment(&self, selection: usize) -> bool {
        let mut counted = self.counted.lock();
        let is_new = !counted.contains_key(&selection);
        counted.entry(selection).or_default();
        is_new
    }

    /// Counts series of a fragment.
    pub(crate) fn count_fragment(&self, selection: usize, series: u64) -> Result<(), SourceError> {
        *self.counted.lock().entry(selection).or_default() += series;
        self.count(series)
    }

    /// Takes back what fragments counted of a selection: its series are selected instead, and counted by that.
    pub(crate) fn forget_fragment(&self, selection: usize) {
        let counted = self.counted.lock().insert(selection, 0).unwrap_or_default();
        self.selected.fetch_sub(counted, Ordering::Relaxed);
    }

    /// Counts series that are read.
    pub(crate) fn count(&self, series: u64) -> Result<(), SourceError> {
        let selected = self.selected.fetch_add(series, Ordering::Relaxed) + series;
        self.limits.check_series(selected).map_err(SourceError::Limit)
    }

    fn select_here(
        &self,
        tenant: TenantId,
        reading: &Reading,
        request: &SelectRequest<'_>,
        meter: &GuardMeter<'_>,
    ) -> Result<Vec<(PartitionId, Part)>, SourceError> {
        let mut parts = Vec::new();
        for (id, store) in reading.local() {
            let limits = self.limits.of_selection();
            let part = store
                .select(tenant, request.matchers, request.range, limits, meter)
                .map_err(|error| source_error(&error, meter, &self.limits))?;
            self.count(part.len() as u64)?;
            parts.push((id, Part::Here(part)));
        }
        Ok(parts)
    }

    /// Asks the other nodes, and selects here while they work.
    fn select_everywhere(
        &self,
        tenant: TenantId,
        reading: &Reading,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Vec<(PartitionId, Part)>, SourceError> {
        let meter = GuardMeter::new(guard);
        if reading.remote().next().is_none() {
            return self.select_here(tenant, reading, request, &meter);
        }
        let message = Request::Select(store::SelectRequest {
            tenant: tenant.0,
            matchers: to_messages(request.matchers),
            start_ms: request.range.start_ms,
            end_ms: request.range.end_ms,
            max_series: self.limits.max_series,
            ..store::SelectRequest::default()
        });
        self.runtime.block_on(async {
            let mut elsewhere = pin!(gather(reading, &message, self, guard, self.deadline));
            let early = poll!(elsewhere.as_mut());
            let mut parts = self.select_here(tenant, reading, request, &meter)?;
            let elsewhere = match early {
                Poll::Ready(parts) => parts,
                Poll::Pending => elsewhere.await,
            };
            parts.extend(elsewhere?.into_iter().map(|(id, part)| (id, Part::Elsewhere(part))));
            parts.sort_by_key(|(id, _)| *id);
            Ok(parts)
        })
    }
}

impl SeriesSource for ClusterSource {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        let Some((tenant, reading)) = &self.of else {
            return Ok(Box::new(MergedSelection::new(Vec::new(), self.limits)));
        };
        let parts = self.select_everywhere(*tenant, reading, request, guard)?;
        let parts: Vec<Part> = parts.into_iter().map(|(_, part)| part).collect();
        let found: usize = parts.iter().map(Part::len).sum();
        guard.check().and_then(|()| guard.charge(found as u64 * ORDER_BYTES)).map_err(stopped)?;
        Ok(Box::new(MergedSelection::new(parts, self.limits)))
    }

    fn fragments(&self) -> Option<&dyn FragmentSource> {
        let (_, reading) = self.of.as_ref()?;
        reading.remote().next().map(|_| self as &dyn FragmentSource)
    }
}

/// The series of one tenant in one partition of this node, for what is evaluated partition by partition.
pub(crate) struct OnePartition<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) store: &'a PartitionStore,
    pub(crate) limits: QueryLimits,
}

impl SeriesSource for OnePartition<'_> {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        let (meter, limits) = (GuardMeter::new(guard), self.limits.of_selection());
        let part = self
            .store
            .select(self.tenant, request.matchers, request.range, limits, &meter)
            .map_err(|error| source_error(&error, &meter, &self.limits))?;
        guard.check().and_then(|()| guard.charge(part.len() as u64 * ORDER_BYTES)).map_err(stopped)?;
        Ok(Box::new(MergedSelection::new(vec![Part::Here(part)], self.limits)))
    }
}

impl Collect for ClusterSource {
    type Part = RemoteSelection;

    const KIND: &'static str = "series";

    fn partition(frame: &[u8]) -> Result<PartitionId, FrameError> {
        partition_of(frame)
    }

    fn empty() -> RemoteSelection {
        RemoteSelection::default()
    }

    fn add(
        &self,
        part: &mut RemoteSelection,
        frame: Bytes,
        keep: &mut dyn FnMut(u64) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        part.take(frame, keep)
    }

    fn accept(&self, part: &RemoteSelection) -> Result<(), SourceError> {
        self.count(part.len() as u64)
    }
}

/// What the order of the selected series takes for each, with the room that its sort needs.
const ORDER_BYTES: u64 = 2 * size_of::<(u32, u32)>() as u64;

/// What a failed store means to the engine.
pub(crate) fn source_error(error: &StoreError, meter: &GuardMeter<'_>, limits: &QueryLimits) -> SourceError {
    match meter.objection(error) {
        Some(objection) => stopped(objection),
        None => read_error(error, limits),
    }
}

fn read_error(error: &StoreError, limits: &QueryLimits) -> SourceError {
    match error {
        StoreError::TooManySeries { .. } => SourceError::Limit(limits.series_refusal()),
        other => SourceError::Failed(other.to_string()),
    }
}

/// The series of one partition.
enum Part {
    Here(PartitionSelection),
    Elsewhere(RemoteSelection),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Here(part) => part.len(),
            Self::Elsewhere(part) => part.len(),
        }
    }

    fn labels(&self, index: usize) -> &Labels {
        match self {
            Self::Here(part) => part.labels(index),
            Self::Elsewhere(part) => part.labels(index),
        }
    }
}

/// The selections of several partitions in the order of their labels.
struct MergedSelection {
    parts: Vec<Part>,
    /// (partition, index within it) of each series.
    order: Vec<(u32, u32)>,
    limits: QueryLimits,
}

impl MergedSelection {
    fn new(parts: Vec<Part>, limits: QueryLimits) -> Self {
        let mut order = Vec::with_capacity(parts.iter().map(Part::len).sum());
        for (number, part) in parts.iter().enumerate() {
            order.extend((0..part.len()).map(|index| (number as u32, index as u32)));
        }
        // Each part is a sorted run already, which this sort finds and merges. It is stable: of equal labels those of
        // the lower partition come first.
        let mut has_equal = false;
        order.sort_by(|a, b| {
            let ordering = label_at(&parts, *a).cmp(label_at(&parts, *b));
            has_equal |= ordering.is_eq() && a != b;
            ordering
        });
        if has_equal {
            let all = order.len();
            order.dedup_by(|b, a| a.0 != b.0 && label_at(&parts, *a) == label_at(&parts, *b));
            let repeats = all - order.len();
            tell_of_repeats(repeats);
        }
        Self { parts, order, limits }
    }
}

/// Tells that series stand in two partitions.
pub(crate) fn tell_of_repeats(repeats: usize) {
    tracing::error!(repeats, "series in two partitions: samples of the higher one are not shown");
    metrics::counter!("quorate_query_repeated_series_total").increment(repeats as u64);
}

fn label_at(parts: &[Part], (part, index): (u32, u32)) -> &Labels {
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
        match &self.parts[part as usize] {
            Part::Here(part) => part.read(inner as usize, out).map_err(|e| read_error(&e, &self.limits)),
            Part::Elsewhere(part) => {
                part.read(inner as usize, out).map_err(|e| SourceError::Failed(e.to_string()))
            }
        }
    }
}
