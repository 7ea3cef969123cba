//! From a body to queued parts: decode, read, resolve, check, sort into columns, encode, queue.
//!
//! Runs without waiting. Nothing is queued unless every touched partition has room, so a refusal of the whole
//! request has no effect.

use super::outcome::{PartAnswer, PartCounts, WriteError, WriteOutcome, Written};
use super::partition::{MAX_HEADER, Pending, Reservation};
use super::sort::{Columns, Sorter, may_store};
use super::{Inner, Pacing, TenantState, WriteRequest, metadata};
use crate::in_flight::Held;
use crate::protocol::{self, BodyBuffer, BodyError, Memory, ParsedRequest};
use crate::refusal::{self, Loss, Refusals, TimeBounds};
use crate::series_cache::{NewMetadata, ResolveError, Resolver, Scratch, SentMetadata, Session};
use crate::series_cache::{Stored, TenantSeries, label_bounds};
use quorate_cluster::limits::Limits;
use quorate_commitlog::record::{self, RecordDecoder, SubBatchEncoder, Values};
use quorate_model::{Labels, METRIC_NAME, PartitionId, SessionId, TenantId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Bytes of a decoded body that a work area keeps.
const KEPT_BODY: usize = 4 << 20;

/// Size of a request, once it is read, up to which a work area keeps its other buffers. They grow with it.
const KEPT_REQUEST: usize = 8 << 20;
/// What a plain sample takes while a request is read: its columns before and after it is sorted.
const SAMPLE: usize = 48;
/// What is read from a body may take this many times the bytes that a body may have.
const MAX_EXPANSION: usize = 4;

/// Buffers of one request, used again by the next.
#[derive(Default)]
pub(super) struct Work {
    body: BodyBuffer,
    pub(super) rest: Buffers,
}

#[derive(Default)]
pub(super) struct Buffers {
    pub(super) request: ParsedRequest,
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
        if self.rest.weight() > KEPT_REQUEST {
            self.rest = Buffers::default();
        }
    }
}

/// What is known of a request once it is read.
pub(super) struct Read {
    state: Arc<TenantState>,
    session: Arc<Session>,
    tenant: Arc<TenantSeries>,
    bounds: TimeBounds,
    unit: u32,
    max_families: usize,
}

/// Whose series are looked up, and where.
struct Scope<'a> {
    id: TenantId,
    session: &'a Session,
    tenant: &'a TenantSeries,
    limits: &'a Limits,
    unit: u32,
}

/// The series that the partitions hold of one tenant: those here, or those that the cluster was counted to have.
struct StoredSeries<'a> {
    inner: &'a Inner,
    tenant: TenantId,
}

impl Stored for StoredSeries<'_> {
    fn series(&self) -> u64 {
        let here = self.inner.partitions.iter().map(|p| p.holdings().active_series(self.tenant)).sum();
        let state = self.inner.known_tenant(self.tenant);
        let counted = state.and_then(|state| state.pace.lock().share.series(self.inner.clock.instant()));
        counted.map_or(here, |counted| counted.max(here))
    }

    fn has(&self, partition: u16, labels: &Labels) -> Option<bool> {
        self.inner.partitions[usize::from(partition)].holdings().has_series(self.tenant, labels)
    }
}

/// One partition's part, encoded, with room for it reserved.
pub(super) struct Encoded {
    index: usize,
    pub(super) bytes: Vec<u8>,
    counts: PartCounts,
    reservation: Reservation,
}

impl Inner {
    pub(super) fn prepare(
        &self,
        request: &WriteRequest,
        pacing: Pacing,
        held: Held,
        work: &mut Work,
    ) -> Result<Prepared, WriteError> {
        // What the request holds is given back when it is queued: from there on its partitions count it.
        let (read, refusals, _held) = self.read(request, pacing, held, work)?;
        let encoded = self.encode(request.tenant, &read, work)?;
        let parts = encoded.into_iter().map(|part| self.queue(part, &read, &mut work.rest)).collect();
        Ok(Prepared { state: read.state, parts, refusals })
    }

    /// Decodes, reads, resolves, checks, and sorts into columns.
    pub(super) fn read(
        &self,
        request: &WriteRequest,
        pacing: Pacing,
        held: Held,
        work: &mut Work,
    ) -> Result<(Read, Refusals, Held), WriteError> {
        let state = self.tenant_state(request);
        let limits = self.limits.of(&request.tenant_name);
        let held = self.parse(request, held, work)?;
        self.charge_rate(&state, &limits, pacing, &work.rest.request)?;
        state.counters.count_received(&work.rest.request);

        let session = self.session.load_full();
        let tenant = session.tenant(request.tenant);
        session.obey(&tenant, &limits);
        let (id, unit) = (request.tenant, self.unit());
        let scope = Scope { id, session: &session, tenant: &tenant, limits: &limits, unit };
        let (bounds, refusals, held) = self.sort(&scope, held, work)?;
        let max_families = limits.max_global_metadata_per_user;
        Ok((Read { state, session, tenant, bounds, unit, max_families }, refusals, held))
    }

    /// What a write of a tenant that has no number would come to: its answer, if nothing of it would be stored.
    pub(super) fn preview(
        &self,
        request: &WriteRequest,
        held: Held,
        work: &mut Work,
    ) -> Result<(Option<WriteOutcome>, Held), WriteError> {
        let limits = self.limits.of(&request.tenant_name);
        let before = held.bytes();
        let held = self.parse(request, held, work)?;
        let logs = self.partitions.iter().map(|partition| partition.log_incarnation()).collect();
        let session = Session::new(SessionId::default(), logs, usize::MAX);
        let tenant = session.tenant(request.tenant);
        let (id, unit) = (request.tenant, self.unit());
        let scope = Scope { id, session: &session, tenant: &tenant, limits: &limits, unit };
        let (bounds, refusals, mut held) = self.sort(&scope, held, work)?;
        held.shrink_to(before);
        let mut columns = work.rest.columns.iter_mut();
        let is_stored = columns.any(|columns| columns.finish(id, bounds.first_ms).sub_batches() > 0);
        let answer = || WriteOutcome::new(Written::default(), refusals, Vec::new());
        Ok(((!is_stored).then(answer), held))
    }

    /// Decodes the body and reads it.
    fn parse(&self, request: &WriteRequest, mut held: Held, work: &mut Work) -> Result<Held, WriteError> {
        let max_bytes = self.config.max_decoded_bytes;
        let body = work.body.decode(&request.body, max_bytes, &mut held)?;
        let max_read = max_bytes.saturating_mul(MAX_EXPANSION);
        let parsed = &mut work.rest.request;
        let mut held = protocol::parse(request.protocol, body, &self.hashing, max_read, held, parsed)?;
        // What is made of it takes about as much again.
        held.grow(parsed.memory.used() + SAMPLE * parsed.ts_ms.len()).map_err(BodyError::NoRoom)?;
        Ok(held)
    }

    /// Resolves and checks what was read, and sorts it into columns.
    fn sort(
        &self,
        scope: &Scope<'_>,
        held: Held,
        work: &mut Work,
    ) -> Result<(TimeBounds, Refusals, Held), WriteError> {
        let (body, buffers, limits) = (work.body.decoded(), &mut work.rest, scope.limits);
        let mut refusals = Refusals::default();
        buffers.clear(self.partitions.len());
        let floor_ms = self.partitions.iter().map(|partition| partition.holdings().floor_ms(scope.id)).max();
        let retention_ms = limits.retention_ms(self.config.retention);
        let bounds = TimeBounds::new(self.clock.now_ms(), limits, retention_ms, floor_ms.unwrap_or(i64::MIN));
        let held = self.resolve(scope, body, &bounds, held, buffers, &mut refusals)?;
        let label_bounds = label_bounds(limits, self.max_label_bytes());
        let sorter = Sorter { body, limits, bounds, label_bounds, refusals: &mut refusals };
        sorter.sort(&buffers.request, &mut buffers.scratch, &mut buffers.columns);
        self.sort_metadata(scope, body, buffers, &mut refusals);
        Ok((bounds, refusals, held))
    }

    fn charge_rate(
        &self,
        state: &TenantState,
        limits: &Limits,
        pacing: Pacing,
        request: &ParsedRequest,
    ) -> Result<(), WriteError> {
        if limits.ingestion_rate <= 0.0 {
            return Ok(());
        }
        let (items, rate, burst) = (request.items(), limits.ingestion_rate, limits.burst());
        let (members, now) = (self.members.load(Ordering::Relaxed), self.clock.instant());
        let mut pace = state.pace.lock();
        if members > 1 {
            pace.share.offer(items, now);
        }
        let part = pace.share.part(rate, members);
        let taken = match pacing {
            Pacing::Strict => pace.bucket.take(items, part, burst, now),
            Pacing::Borrowing => pace.bucket.borrow(items, part, burst, now),
        };
        drop(pace);
        taken.map_err(|wait| {
            // Parts grow when others are used less; who stays away for as long as a small one asks would keep it small.
            let retry_after = wait.mul_f64(part / part.max(rate / f64::from(members)));
            if pacing == Pacing::Strict {
                // Who borrows comes again with the same: nothing of it is discarded.
                state.counters.count_rate_limited(request);
            }
            WriteError::RateLimited { message: refusal::rate(rate, burst, items), retry_after }
        })
    }

    fn resolve(
        &self,
        scope: &Scope<'_>,
        body: &[u8],
        bounds: &TimeBounds,
        held: Held,
        buffers: &mut Buffers,
        refusals: &mut Refusals,
    ) -> Result<Held, WriteError> {
        let resolver = Resolver {
            session: scope.session,
            tenant: scope.tenant,
            limits: scope.limits,
            hashing: &self.hashing,
            placement: &|labels| {
                let (slot, partition) = (self.placement)(scope.id, labels);
                (slot, self.index_of(partition))
            },
            may_store: &|request, index| may_store(request, index, bounds, scope.limits),
            stored: &StoredSeries { inner: self, tenant: scope.id },
            unit: scope.unit,
            max_label_bytes: self.max_label_bytes(),
        };
        let Buffers { request, scratch, .. } = buffers;
        let mut memory = Memory::begin(usize::MAX, held);
        let resolved = resolver.resolve(body, request, &mut memory, scratch, refusals);
        resolved.map_err(|error| match error {
            ResolveError::SessionUsedUp => WriteError::SessionUsedUp,
            ResolveError::LabelBytes => WriteError::LabelBytes { limit: self.max_label_bytes() },
            ResolveError::Memory(error) => WriteError::Body(error),
        })?;
        Ok(memory.end())
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

    /// Metadata that differs from what is committed, checked, each to the partition of its family.
    fn sort_metadata(&self, scope: &Scope<'_>, body: &[u8], buffers: &mut Buffers, refusals: &mut Refusals) {
        let limit = scope.limits.max_global_metadata_per_user;
        let (news, known) = scope.tenant.new_metadata(&buffers.request.metadata, scope.unit);
        // Counted once something is new: a session that has just begun knows less than what is stored.
        let mut families = None;
        let stored = || self.partitions.iter().map(|p| p.holdings().metadata_families(scope.id)).sum();
        let loss = Loss { others: 1, ..Loss::default() };
        for NewMetadata { entry: parsed, is_new_family } in news {
            let entry = match metadata::read(body, parsed, scope.limits) {
                Ok(entry) => entry,
                Err((reason, text)) => {
                    refusals.add(reason, loss, || text);
                    continue;
                }
            };
            let labels = Labels::from_sorted([(METRIC_NAME, entry.family.as_str())]);
            let (_, partition) = (self.placement)(scope.id, &labels);
            let index = usize::from(self.index_of(partition));
            let is_stored = || self.partitions[index].holdings().has_family(scope.id, &entry.family);
            if is_new_family && limit > 0 {
                let families = families.get_or_insert_with(|| known.max(stored()));
                if !is_stored() {
                    if *families >= limit {
                        let text = || refusal::metadata_limit(limit, &entry.family);
                        refusals.add(refusal::METADATA_LIMIT, loss, text);
                        continue;
                    }
                    *families += 1;
                }
            }
            let columns = &mut buffers.columns[index];
            columns.floats.metadata.push(entry);
            columns.metadata.push(SentMetadata { family_hash: parsed.family_hash, hash: parsed.hash });
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
        let values = if self.packs.load(Ordering::Relaxed) { Values::Packed } else { Values::Raw };
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
            if queue.holdings().is_full() {
                return Err(WriteError::TooMuchLate { partition: queue.id() });
            }
            let mut bytes = Vec::with_capacity(64 + 10 * counts.samples as usize);
            if counts.has_floats {
                encoder.encode(&columns.floats, values, &mut bytes);
            }
            if counts.has_histograms {
                encoder.encode(&columns.histograms, values, &mut bytes);
            }
            let (record, limit) = (MAX_HEADER + bytes.len(), self.config.max_record_bytes);
            if record > limit {
                return Err(WriteError::PartTooLarge { partition: queue.id(), bytes: record, limit });
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
            unit: read.unit,
            max_families: read.max_families,
            answer,
            reservation,
        });
        Part { partition: queue.id(), counts, answer: receiver }
    }
}

impl Buffers {
    /// About what the last request took, which the buffers have at least the capacity for.
    fn weight(&self) -> usize {
        let Self { request, scratch, .. } = self;
        request.memory.used() + SAMPLE * request.ts_ms.len() + scratch.label_bytes + scratch.pairs.capacity()
    }

    fn clear(&mut self, partitions: usize) {
        self.columns.resize_with(partitions, Columns::default);
        self.columns.iter_mut().for_each(Columns::clear);
        self.scratch.definitions.resize_with(partitions, Vec::new);
        for definitions in &mut self.scratch.definitions {
            definitions.clear();
        }
    }
}
