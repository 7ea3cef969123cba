//! From a body to queued parts: decode, read, resolve, check, sort into columns, encode, queue.
//!
//! Runs without waiting. Nothing is queued unless every touched partition has room, so a refusal of the whole
//! request has no effect.

use super::outcome::{PartAnswer, PartCounts, WriteError};
use super::partition::{Pending, Reservation};
use super::{Inner, TenantState, WriteRequest};
use crate::protocol::{self, BodyBuffer, ParsedMetadata, ParsedRequest};
use crate::refusal::{self, Loss, Refusals, TimeBounds};
use crate::series_cache::{DefinedSeries, ResolveError, Resolved, Resolver, Scratch, Session, TenantSeries};
use quorate_cluster::limits::Limits;
use quorate_commitlog::record::SubBatchEncoder;
use quorate_model::{
    HistogramSample, Labels, METRIC_NAME, MetadataEntry, MetricType, PartitionId, SeriesRef, SubBatch,
    TenantId,
};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes of a decoded body that a work area keeps.
const KEPT_BODY: usize = 4 << 20;

/// Buffers of one request, used again by the next.
#[derive(Default)]
pub(super) struct Work {
    body: BodyBuffer,
    rest: Buffers,
}

#[derive(Default)]
struct Buffers {
    request: ParsedRequest,
    scratch: Scratch,
    columns: Vec<Columns>,
    encoder: SubBatchEncoder,
}

/// What a request brings to one partition.
#[derive(Default)]
struct Columns {
    floats: SubBatch,
    histograms: SubBatch,
    defined: Vec<DefinedSeries>,
    metadata: Vec<u64>,
}

/// A request that is queued.
pub(super) struct Prepared {
    pub(super) state: Arc<TenantState>,
    pub(super) parts: Vec<Part>,
    pub(super) refusals: Refusals,
}

/// One partition's part, and where its answer comes.
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) counts: PartCounts,
    pub(super) answer: oneshot::Receiver<PartAnswer>,
}

impl Work {
    /// Gives memory back after an unusually large request.
    pub(super) fn shrink(&mut self) {
        self.body.shrink(KEPT_BODY);
    }
}

/// What is known of a request once it is read.
pub(super) struct Read {
    state: Arc<TenantState>,
    session: Arc<Session>,
    tenant: Arc<TenantSeries>,
    bounds: TimeBounds,
}

/// One partition's part, encoded, with room for it reserved.
pub(super) struct Encoded {
    index: usize,
    pub(super) bytes: Vec<u8>,
    counts: PartCounts,
    reservation: Reservation,
}

impl Inner {
    pub(super) fn prepare(&self, request: &WriteRequest, work: &mut Work) -> Result<Prepared, WriteError> {
        let (read, refusals) = self.read(request, work)?;
        let encoded = self.encode(request.tenant, &read, work)?;
        let parts = encoded.into_iter().map(|part| self.queue(part, &read, &mut work.rest)).collect();
        Ok(Prepared { state: read.state, parts, refusals })
    }

    /// Decodes, reads, resolves, checks, and sorts into columns.
    pub(super) fn read(
        &self,
        request: &WriteRequest,
        work: &mut Work,
    ) -> Result<(Read, Refusals), WriteError> {
        let state = self.tenant_state(request);
        let limits = self.limits.of(&request.tenant_name);
        let body = work.body.decode(&request.body, self.config.max_decoded_bytes)?;
        let buffers = &mut work.rest;
        protocol::parse(request.protocol, body, &self.hashing, &mut buffers.request)?;
        self.charge_rate(&state, &limits, &buffers.request)?;
        state.counters.count_received(&buffers.request);

        let session = self.session.load_full();
        let tenant = session.tenant(request.tenant);
        session.obey(&tenant, &limits);
        let mut refusals = Refusals::default();
        buffers.clear(self.partitions.len());
        self.resolve(request.tenant, &session, &tenant, &limits, body, buffers, &mut refusals)?;
        let retention_ms = limits.retention_ms(self.config.retention);
        let bounds = TimeBounds::new(self.clock.now_ms(), &limits, retention_ms);
        Sorter { body, limits: &limits, bounds, refusals: &mut refusals }.sort(buffers);
        self.sort_metadata(request.tenant, &tenant, &limits, body, buffers, &mut refusals);
        Ok((Read { state, session, tenant, bounds }, refusals))
    }

    fn charge_rate(
        &self,
        state: &TenantState,
        limits: &Limits,
        request: &ParsedRequest,
    ) -> Result<(), WriteError> {
        if limits.ingestion_rate <= 0.0 {
            return Ok(());
        }
        let items = request.items();
        let burst = match limits.ingestion_burst_size {
            0 => limits.ingestion_rate.ceil() as u64,
            burst => burst,
        };
        let taken = state.bucket.lock().take(items, limits.ingestion_rate, burst, self.clock.instant());
        taken.map_err(|retry_after| {
            state.counters.count_rate_limited(request);
            WriteError::RateLimited { message: refusal::rate(limits, items), retry_after }
        })
    }

    #[allow(clippy::too_many_arguments)] // the parts of one request, borrowed apart
    fn resolve(
        &self,
        id: TenantId,
        session: &Session,
        tenant: &TenantSeries,
        limits: &Limits,
        body: &[u8],
        buffers: &mut Buffers,
        refusals: &mut Refusals,
    ) -> Result<(), WriteError> {
        let resolver = Resolver {
            session,
            tenant,
            limits,
            hashing: &self.hashing,
            placement: &|labels| {
                let (slot, partition) = (self.placement)(id, labels);
                (slot, self.index_of(partition))
            },
            unit: self.unit(),
            max_label_bytes: self.config.max_decoded_bytes,
        };
        let Buffers { request, scratch, .. } = buffers;
        resolver.resolve(body, request, scratch, refusals).map_err(|error| match error {
            ResolveError::SessionUsedUp => WriteError::SessionUsedUp,
            ResolveError::LabelBytes => WriteError::LabelBytes { limit: self.config.max_decoded_bytes },
        })
    }

    /// Partitions are numbered from 0 in the order they were given; anything else is looked for.
    fn index_of(&self, partition: PartitionId) -> u16 {
        let guess = partition.0 as usize;
        let is_right = self.partitions.get(guess).is_some_and(|p| p.id() == partition);
        let index =
            if is_right { Some(guess) } else { self.partitions.iter().position(|p| p.id() == partition) };
        index.expect("the placement names only partitions that the distributor was given") as u16
    }

    /// Metadata that was not committed before, checked, each to the partition of its family.
    fn sort_metadata(
        &self,
        id: TenantId,
        tenant: &TenantSeries,
        limits: &Limits,
        body: &[u8],
        buffers: &mut Buffers,
        refusals: &mut Refusals,
    ) {
        for parsed in tenant.unknown_metadata(&buffers.request.metadata) {
            let entry = match read_metadata(body, parsed, limits) {
                Ok(entry) => entry,
                Err((reason, text)) => {
                    refusals.add(reason, Loss { others: 1, ..Loss::default() }, || text);
                    continue;
                }
            };
            let labels = Labels::from_sorted([(METRIC_NAME, entry.family.as_str())]);
            let (_, partition) = (self.placement)(id, &labels);
            let columns = &mut buffers.columns[usize::from(self.index_of(partition))];
            columns.floats.metadata.push(entry);
            columns.metadata.push(parsed.hash);
        }
    }

    /// Encodes every touched partition's part and reserves room for all of them.
    pub(super) fn encode(
        &self,
        id: TenantId,
        read: &Read,
        work: &mut Work,
    ) -> Result<Vec<Encoded>, WriteError> {
        let Buffers { columns, encoder, .. } = &mut work.rest;
        let mut parts = Vec::new();
        for (index, columns) in columns.iter_mut().enumerate() {
            let counts = columns.finish(id, read.bounds.first_ms);
            if counts.sub_batches() == 0 {
                continue;
            }
            let queue = &self.partitions[index];
            if let Some(cause) = queue.why_stopped() {
                return Err(WriteError::not_taken(queue.id(), cause));
            }
            let mut bytes = Vec::with_capacity(64 + 10 * counts.samples as usize);
            if counts.has_floats {
                encoder.encode(&columns.floats, &mut bytes);
            }
            if counts.has_histograms {
                encoder.encode(&columns.histograms, &mut bytes);
            }
            let reservation = queue.reserve(bytes.len())?;
            parts.push(Encoded { index, bytes, counts, reservation });
        }
        Ok(parts)
    }

    fn queue(&self, part: Encoded, read: &Read, buffers: &mut Buffers) -> Part {
        let Encoded { index, bytes, counts, reservation } = part;
        let (answer, receiver) = oneshot::channel();
        let columns = &mut buffers.columns[index];
        let queue = &self.partitions[index];
        queue.push(Pending {
            session: Arc::clone(&read.session),
            bytes,
            sub_batches: counts.sub_batches(),
            tenant: Arc::clone(&read.tenant),
            defined: std::mem::take(&mut columns.defined),
            metadata: std::mem::take(&mut columns.metadata),
            answer,
            reservation,
        });
        Part { partition: queue.id(), counts, answer: receiver }
    }
}

impl Buffers {
    fn clear(&mut self, partitions: usize) {
        self.columns.resize_with(partitions, Columns::default);
        for columns in &mut self.columns {
            columns.floats.clear();
            columns.histograms.clear();
            columns.defined.clear();
            columns.metadata.clear();
        }
        self.scratch.definitions.resize_with(partitions, Vec::new);
        for definitions in &mut self.scratch.definitions {
            definitions.clear();
        }
    }
}

impl Columns {
    /// Decides on the sub-batches. Floats and histograms go apart, so that each has its own verdict.
    fn finish(&mut self, tenant: TenantId, floor_ms: i64) -> PartCounts {
        let has_histograms = !self.histograms.histograms.is_empty();
        if self.floats.refs.is_empty() && self.floats.metadata.is_empty() && has_histograms {
            self.histograms.definitions.append(&mut self.floats.definitions);
        }
        for batch in [&mut self.floats, &mut self.histograms] {
            batch.tenant = tenant;
            batch.floor_ms = floor_ms;
        }
        PartCounts {
            samples: self.floats.refs.len() as u64,
            histograms: self.histograms.histograms.len() as u64,
            has_floats: !self.floats.refs.is_empty() || !self.floats.metadata.is_empty(),
            has_histograms,
        }
    }

    /// Drops definitions of series none of whose samples is left.
    fn drop_unused_definitions(&mut self) {
        let used: HashSet<SeriesRef> = (self.floats.refs.iter().copied())
            .chain(self.histograms.histograms.iter().map(|sample| sample.reference))
            .collect();
        self.floats.definitions.retain(|definition| used.contains(&definition.reference));
        self.defined.retain(|series| used.contains(&SeriesRef(series.reference)));
    }
}

/// Sorts samples into the columns of their partitions and refuses those out of bounds.
struct Sorter<'a> {
    body: &'a [u8],
    limits: &'a Limits,
    bounds: TimeBounds,
    refusals: &'a mut Refusals,
}

impl Sorter<'_> {
    fn sort(mut self, buffers: &mut Buffers) {
        let Buffers { request, scratch, columns, .. } = buffers;
        for (columns, definitions) in columns.iter_mut().zip(&mut scratch.definitions) {
            for (definition, defined) in definitions.drain(..) {
                columns.floats.definitions.push(definition);
                columns.defined.push(defined);
            }
        }
        let refused_before = self.refusals.total();
        for index in 0..request.series.len() {
            let Resolved::Ref { partition, reference } = scratch.resolved[index] else { continue };
            let columns = &mut columns[usize::from(partition)];
            self.sort_samples(index, reference, request, scratch, columns);
            if !request.histograms_of(index).is_empty() {
                self.sort_histograms(index, reference, request, scratch, columns);
            }
        }
        self.tell_exemplars(request, scratch);
        if self.refusals.total() > refused_before {
            columns.iter_mut().for_each(Columns::drop_unused_definitions);
        }
    }

    #[inline]
    fn sort_samples(
        &mut self,
        index: usize,
        reference: SeriesRef,
        request: &ParsedRequest,
        scratch: &mut Scratch,
        columns: &mut Columns,
    ) {
        for at in request.samples_of(index) {
            let ts_ms = request.ts_ms[at];
            if !self.bounds.contain(ts_ms) {
                self.refuse_time(index, ts_ms, Loss { samples: 1, ..Loss::default() }, request, scratch);
                continue;
            }
            let floats = &mut columns.floats;
            if let Some(start_ms) = request.starts.get(at).filter(|start| **start != 0) {
                floats.starts.push((floats.refs.len() as u32, *start_ms));
            }
            floats.refs.push(reference);
            floats.ts_ms.push(ts_ms);
            floats.values.push(request.values[at]);
        }
    }

    fn sort_histograms(
        &mut self,
        index: usize,
        reference: SeriesRef,
        request: &ParsedRequest,
        scratch: &mut Scratch,
        columns: &mut Columns,
    ) {
        let loss = Loss { histograms: 1, ..Loss::default() };
        for at in request.histograms_of(index) {
            let parsed = &request.histograms[at];
            let (ts_ms, start_ms) = (parsed.ts_ms, parsed.start_ms);
            if !self.bounds.contain(ts_ms) {
                self.refuse_time(index, ts_ms, loss, request, scratch);
                continue;
            }
            let histogram = match &parsed.value {
                Ok(histogram) => histogram,
                Err(fault) => {
                    let series = self.series(index, request, scratch);
                    let (id, text) = refusal::of_histogram_fault(*fault, ts_ms, &series);
                    self.refusals.add(id, loss, || text);
                    continue;
                }
            };
            let buckets = bucket_count(histogram);
            let limit = self.limits.max_native_histogram_buckets;
            if limit > 0 && buckets > limit {
                let series = self.series(index, request, scratch);
                let text = || refusal::too_many_buckets(ts_ms, buckets, limit, &series);
                self.refusals.add(refusal::TOO_MANY_BUCKETS, loss, text);
                continue;
            }
            let sample = HistogramSample { reference, ts_ms, start_ms, histogram: histogram.clone() };
            columns.histograms.histograms.push(sample);
        }
    }

    #[cold]
    fn refuse_time(
        &mut self,
        index: usize,
        ts_ms: i64,
        loss: Loss,
        request: &ParsedRequest,
        scratch: &mut Scratch,
    ) {
        let series = self.series(index, request, scratch);
        let (id, text) = refusal::of_time(ts_ms, &self.bounds, self.limits, &series);
        self.refusals.add(id, loss, || text);
    }

    fn tell_exemplars(&mut self, request: &ParsedRequest, scratch: &mut Scratch) {
        for index in &request.long_exemplars {
            let series = self.series(*index as usize, request, scratch);
            let loss = Loss { exemplars: 1, ..Loss::default() };
            self.refusals.add(refusal::EXEMPLAR_TOO_LONG, loss, || refusal::long_exemplar(&series));
        }
    }

    /// The series for a message; empty once enough was told.
    fn series(&self, index: usize, request: &ParsedRequest, scratch: &mut Scratch) -> String {
        let is_told_out = self.refusals.told.len() >= refusal::MAX_TOLD;
        if is_told_out || scratch.pairs.split(self.body, request, index).is_err() {
            return String::new();
        }
        refusal::show(scratch.pairs.iter())
    }
}

fn bucket_count(histogram: &quorate_model::Histogram) -> usize {
    match &histogram.counts {
        quorate_model::BucketCounts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        quorate_model::BucketCounts::Float { positive, negative, .. } => positive.len() + negative.len(),
    }
}

/// One piece of metadata, or id and text of its refusal. A help text that is too long is cut.
fn read_metadata(
    body: &[u8],
    parsed: &ParsedMetadata,
    limits: &Limits,
) -> Result<MetadataEntry, (&'static str, String)> {
    let text = |range: &std::ops::Range<usize>| {
        std::str::from_utf8(&body[range.clone()]).map_err(|_| {
            (
                refusal::LABEL_INVALID,
                format!("received metadata that is not UTF-8 ({})", refusal::LABEL_INVALID),
            )
        })
    };
    let name = text(&parsed.family)?;
    let family = if parsed.is_metric_name { family_of(name, parsed.metric_type) } else { name };
    let (help, unit) = (text(&parsed.help)?, text(&parsed.unit)?);
    let limit = limits.max_metadata_length;
    if family.is_empty() {
        let id = refusal::METADATA_NO_NAME;
        return Err((id, format!("received a metric metadata with no metric name ({id})")));
    }
    for (what, value, id) in [
        ("metric name", family, refusal::METADATA_NAME_TOO_LONG),
        ("unit", unit, refusal::METADATA_UNIT_TOO_LONG),
    ] {
        if limit > 0 && value.len() > limit {
            let shown = refusal::cut(family);
            return Err((
                id,
                format!(
                    "received a metric metadata whose {what} length of {} exceeds the limit of {limit}, \
                     metric name: '{shown}' ({id}). To adjust the related per-tenant limit, configure \
                     max_metadata_length.",
                    value.len()
                ),
            ));
        }
    }
    let help = if limit > 0 { &help[..help.floor_char_boundary(limit)] } else { help };
    Ok(MetadataEntry {
        family: family.to_owned(),
        metric_type: parsed.metric_type,
        help: help.to_owned(),
        unit: unit.to_owned(),
    })
}

/// The family of a metric: the name without the suffix that its type gives to parts of a family.
fn family_of(name: &str, metric_type: MetricType) -> &str {
    let suffixes: &[&str] = match metric_type {
        MetricType::Histogram => &["_bucket", "_count", "_sum"],
        MetricType::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(name)
}
