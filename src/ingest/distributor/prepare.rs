//! From a body to queued parts: decode, read, resolve, check, sort into columns, encode, queue.
//!
//! Runs without waiting. Nothing is queued unless every touched partition has room, so a refusal of the whole
//! request has no effect.

use super::outcome::{PartAnswer, PartCounts, WriteError};
use super::partition::{Pending, Reservation};
use super::sort::{Columns, Sorter};
use super::{Inner, TenantState, WriteRequest, metadata};
use crate::protocol::{self, BodyBuffer, ParsedRequest};
use crate::refusal::{self, Loss, Refusals, TimeBounds};
use crate::series_cache::{ResolveError, Resolver, Scratch, Session, TenantSeries};
use quorate_cluster::limits::Limits;
use quorate_commitlog::record::{self, RecordDecoder, SubBatchEncoder};
use quorate_model::{Labels, METRIC_NAME, PartitionId, TenantId};
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
    checker: RecordDecoder,
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
        let sorter = Sorter { body, limits: &limits, bounds, refusals: &mut refusals };
        sorter.sort(&buffers.request, &mut buffers.scratch, &mut buffers.columns);
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
            max_label_bytes: self.max_label_bytes(),
        };
        let Buffers { request, scratch, .. } = buffers;
        resolver.resolve(body, request, scratch, refusals).map_err(|error| match error {
            ResolveError::SessionUsedUp => WriteError::SessionUsedUp,
            ResolveError::LabelBytes => WriteError::LabelBytes { limit: self.max_label_bytes() },
        })
    }

    /// Bytes that the labels of new series may take in one request: never more than a record's reader takes.
    fn max_label_bytes(&self) -> usize {
        self.config.max_decoded_bytes.min(record::MAX_LABEL_BYTES)
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
            let entry = match metadata::read(body, parsed, limits) {
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
        let Buffers { columns, encoder, checker, .. } = &mut work.rest;
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
            if columns.is_worth_checking() {
                // A record that cannot be read would stop every replica, so what is not plain is read once here.
                let count = counts.sub_batches();
                checker.check(&bytes, count).map_err(|e| WriteError::Internal { cause: e.to_string() })?;
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
        self.columns.iter_mut().for_each(Columns::clear);
        self.scratch.definitions.resize_with(partitions, Vec::new);
        for definitions in &mut self.scratch.definitions {
            definitions.clear();
        }
    }
}
