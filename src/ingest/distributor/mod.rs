//! The gateway's side of a write: from a body to an answer that holds.
//!
//! Knows limits, sessions and partitions. Does not know HTTP, who leads a partition, nor how it keeps samples.
//! Path: `server::http::write` -> **here** -> [`crate::appender`] -> `PartitionLog`; the verdict comes back that way.
//!
//! - D1: all that can be refused is refused before the log, except a conflicting value (I2).
//! - D2: an answer is a success only when every touched partition has committed and applied, or has committed
//!   and its verdict is late; the answer of any partition that is unknown is an error.
//! - D3: what was queued is sent whether or not its caller still waits (I3).
//!
//! Cost: nothing is allocated per sample or per known series; per request and touched partition one buffer.

mod bucket;
mod entrance;
mod metadata;
mod outcome;
mod partition;
mod prepare;
mod share;
mod sort;
#[cfg(test)]
mod tests;

pub use outcome::{WriteError, WriteOutcome, Written};
pub use partition::PartitionInput;
pub use share::ClusterTotals;

use crate::in_flight::Held;
use crate::protocol::{Hashing, Protocol};
use crate::series_cache::Session;
use crate::telemetry::TenantCounters;
use arc_swap::ArcSwap;
use bucket::Bucket;
use bytes::Bytes;
use entrance::{Entrance, Inside};
use outcome::{Committed, PartAnswer};
use parking_lot::{Mutex, RwLock};
use partition::PartitionQueue;
use prepare::{Prepared, Work};
use quorate_cluster::human::HumanDuration;
use quorate_cluster::limits::LimitsProvider;
use quorate_cluster::slots::{SlotTable, TargetLabels, slot_of};
use quorate_model::{Clock, Labels, PartitionId, SessionId, Slot, TenantId};
use share::Share;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Bodies over this many bytes are read on a thread that may block.
const INLINE_BODY: usize = 256 << 10;
/// Work areas kept for the next requests.
const MAX_SPARE_WORK: usize = 32;

/// Sizes and times of the write path.
#[derive(Debug, Clone)]
pub struct DistributorConfig {
    /// Most bytes of a decoded body.
    pub max_decoded_bytes: usize,
    /// Most bytes that wait in one partition's queue or are not applied yet; beyond it writes get 503.
    pub max_queued_bytes: usize,
    /// Most bytes of a record: what an entry of the log takes.
    pub max_record_bytes: usize,
    /// A partition's buffer is sent when it has this many bytes.
    pub group_bytes: usize,
    /// A partition's buffer is sent when its oldest bytes have waited this long.
    pub group_wait: Duration,
    /// Whether it waits too while the log is idle: an append then costs more than the wait, as a request to a broker does.
    pub groups_when_idle: bool,
    /// Appends of one partition that may be under way at once.
    pub max_appends: usize,
    /// After this a write is answered as unknown.
    pub write_timeout: Duration,
    /// After this a committed write is answered without its verdict.
    pub verdict_timeout: Duration,
    /// How long samples are kept where a tenant's limits do not say; 0 = forever.
    pub retention: HumanDuration,
    /// Byte forms of series that are remembered, over all tenants.
    pub max_cached_series: usize,
    /// Seed of the hashes of series, best a secret of the cluster.
    pub hash_seed: u64,
    /// How long a partition's log may have acknowledged nothing of a session that is gone on with, if that is less than half a
    /// day: a log may have lost its definitions by then.
    pub longest_silence: Duration,
}

impl Default for DistributorConfig {
    fn default() -> Self {
        Self {
            max_decoded_bytes: 32 << 20,
            max_queued_bytes: 64 << 20,
            max_record_bytes: 64 << 20,
            group_bytes: 256 << 10,
            group_wait: Duration::from_millis(5),
            groups_when_idle: false,
            max_appends: 4,
            write_timeout: Duration::from_secs(30),
            verdict_timeout: Duration::from_secs(5),
            retention: HumanDuration::from_ms(0),
            max_cached_series: 8 << 20,
            hash_seed: 0,
            longest_silence: Duration::MAX,
        }
    }
}

/// One request to write.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// Who owns the series.
    pub tenant: TenantId,
    /// The tenant's name, for limits and metrics.
    pub tenant_name: Arc<str>,
    /// What the headers announced.
    pub protocol: Protocol,
    /// The body as it came: a snappy block.
    pub body: Bytes,
}

/// Where a series belongs: its slot on the ring and the partition that owns it.
pub type Placement = Arc<dyn Fn(TenantId, &Labels) -> (Slot, PartitionId) + Send + Sync>;

/// The placement by slot: a series' slot comes from its target labels, a slot's partition from the table.
pub fn placement(table: Arc<SlotTable>, target: Arc<TargetLabels>) -> Placement {
    Arc::new(move |tenant, labels| {
        let slot = slot_of(tenant, labels, &target);
        (slot, table.partition(slot))
    })
}

/// Takes writes for all partitions. See the module header.
pub struct Distributor {
    inner: Arc<Inner>,
}

struct Inner {
    config: DistributorConfig,
    hashing: Hashing,
    clock: Arc<dyn Clock>,
    started: Instant,
    limits: Arc<LimitsProvider>,
    /// Gateways of the cluster.
    members: AtomicU32,
    /// Whether every node reads packed values.
    packs: AtomicBool,
    placement: Placement,
    partitions: Vec<Arc<PartitionQueue>>,
    session: ArcSwap<Session>,
    tenants: RwLock<HashMap<TenantId, Arc<TenantState>>>,
    spare: Mutex<Vec<Work>>,
    entrance: Arc<Entrance>,
    /// Whether it is closed for good. Locked while the entrance is shut: one reason at a time.
    is_closed: tokio::sync::Mutex<bool>,
}

/// What the gateway keeps for a tenant, whatever the session.
struct TenantState {
    pace: Mutex<Pace>,
    counters: TenantCounters,
}

/// Whether more items than a tenant's burst are ever granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pacing {
    Strict,
    Borrowing,
}

/// How fast a tenant may write here.
#[derive(Debug, Default)]
struct Pace {
    bucket: Bucket,
    share: Share,
}

impl std::fmt::Debug for Distributor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Distributor")
            .field("partitions", &self.inner.partitions.len())
            .finish_non_exhaustive()
    }
}

impl Distributor {
    /// Starts a sender for each partition on the current tokio runtime.
    ///
    /// `session` is this gateway's session, issued for this start. The placement names only given partitions.
    pub fn start(
        config: DistributorConfig,
        partitions: Vec<PartitionInput>,
        placement: Placement,
        session: SessionId,
        limits: Arc<LimitsProvider>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let log_incarnations = partitions.iter().map(|p| p.appender.incarnation()).collect();
        let session = open_session(&config, session, log_incarnations);
        let queue = |input| PartitionQueue::start(input, &config, Arc::clone(&clock));
        let partitions = partitions.into_iter().map(queue).collect();
        let inner = Inner {
            hashing: Hashing::new(config.hash_seed),
            started: clock.instant(),
            clock,
            limits,
            members: AtomicU32::new(1),
            packs: AtomicBool::new(false),
            placement,
            partitions,
            session: ArcSwap::from_pointee(session),
            tenants: RwLock::default(),
            spare: Mutex::default(),
            entrance: Arc::default(),
            is_closed: tokio::sync::Mutex::default(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes one request. Dropping the future loses only the answer (D3). `held` is what the request holds of the
    /// node's memory; it grows while the request is read and is given back when it is queued.
    ///
    /// # Errors
    /// [`WriteError`]; its code tells whether anything may have been written.
    pub async fn write(&self, request: WriteRequest, held: Held) -> Result<WriteOutcome, WriteError> {
        self.write_at(Pacing::Strict, request, held).await
    }

    /// As [`Distributor::write`], for a sender that cannot send less: a request with more items than the tenant's burst
    /// is granted once the tenant has all of it, and the tenant is granted nothing more until its rate has made up for
    /// it.
    ///
    /// # Errors
    /// [`WriteError`], as for any write.
    pub async fn write_patiently(
        &self,
        request: WriteRequest,
        held: Held,
    ) -> Result<WriteOutcome, WriteError> {
        self.write_at(Pacing::Borrowing, request, held).await
    }

    async fn write_at(
        &self,
        pacing: Pacing,
        request: WriteRequest,
        held: Held,
    ) -> Result<WriteOutcome, WriteError> {
        let inside = self.inner.entrance.enter().ok_or(WriteError::Draining)?;
        let prepare = move |inner: &Inner, request: &WriteRequest| {
            let prepared = inner.with_work(|work| inner.prepare(request, pacing, held, work));
            drop::<Inside>(inside);
            prepared
        };
        let prepared = self.read_somewhere(request, prepare).await?;
        self.inner.answer(prepared).await
    }

    /// The answer to a request of a tenant that has no number yet, if nothing of it would be stored; so that a
    /// tenant is not numbered for what is refused. Stores nothing, counts nothing.
    ///
    /// # Errors
    /// What [`Distributor::write`] would refuse as a whole before the log.
    pub async fn preview(
        &self,
        request: WriteRequest,
        held: Held,
    ) -> Result<(Option<WriteOutcome>, Held), WriteError> {
        let preview = move |inner: &Inner, request: &WriteRequest| {
            inner.with_work(|work| inner.preview(request, held, work))
        };
        self.read_somewhere(request, preview).await
    }

    /// Runs `read` here or, for a large body, on a thread that may block.
    async fn read_somewhere<T: Send + 'static>(
        &self,
        request: WriteRequest,
        read: impl FnOnce(&Inner, &WriteRequest) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        if request.body.len() <= INLINE_BODY {
            return read(&self.inner, &request);
        }
        let inner = Arc::clone(&self.inner);
        let reading = tokio::task::spawn_blocking(move || read(&inner, &request));
        reading.await.map_err(|cause| WriteError::Internal { cause: cause.to_string() })?
    }

    /// All of a write but the log: reads, checks, resolves and encodes, then drops what came out. Returns the
    /// bytes that a log would have taken. For dry runs and benchmarks; new series get refs.
    ///
    /// # Errors
    /// What [`Distributor::write`] would refuse as a whole before the log.
    pub fn rehearse(&self, request: &WriteRequest) -> Result<usize, WriteError> {
        self.inner.with_work(|work| {
            let (read, _, _) = self.inner.read(request, Pacing::Strict, Held::unbounded(), work)?;
            let parts = self.inner.encode(request.tenant, &read, work)?;
            Ok(parts.iter().map(|part| part.bytes.len()).sum())
        })
    }

    /// Opens another session: refuses writes until everything sent is applied, then forgets what the old one
    /// defined. Needed when refs run out and when the log began again.
    pub async fn renew(&self, session: SessionId) {
        let is_closed = self.inner.is_closed.lock().await;
        if *is_closed {
            return;
        }
        self.inner.entrance.shut();
        self.drained().await;
        let partitions = &self.inner.partitions;
        let log_incarnations = partitions.iter().map(|p| p.log_incarnation()).collect();
        let session = open_session(&self.inner.config, session, log_incarnations);
        self.inner.session.store(Arc::new(session));
        self.inner.entrance.open();
    }

    /// Refuses further writes and waits until all that was queued is answered and applied.
    pub async fn close(&self) {
        let mut is_closed = self.inner.is_closed.lock().await;
        *is_closed = true;
        self.inner.entrance.shut();
        self.drained().await;
    }

    async fn drained(&self) {
        self.inner.entrance.emptied().await;
        for partition in &self.inner.partitions {
            partition.drained().await;
        }
    }

    /// Forgets series that nobody sent for two hours; to be called every few minutes.
    pub fn forget_idle(&self) {
        self.inner.session.load().forget_idle(self.inner.unit());
    }

    /// As many gateways have the tenants' limits in common; one unless it is told.
    pub fn share_limits(&self, members: u32) {
        self.inner.members.store(members.max(1), Ordering::Relaxed);
    }

    /// Every node of the cluster reads packed values, now and from now on: records have them.
    pub fn pack_values(&self) {
        self.inner.packs.store(true, Ordering::Relaxed);
    }

    /// Samples, exemplars and metadata a second that a tenant offers here, smoothed over some seconds; 0 while no others
    /// share its limits or its rate has none. `None` if it never wrote here. To be called about once a second.
    pub fn measure_offered(&self, tenant: TenantId) -> Option<f64> {
        let state = self.inner.known_tenant(tenant)?;
        let now = self.inner.clock.instant();
        Some(state.pace.lock().share.measure(now))
    }

    /// What the cluster has of a tenant, in answer to what was measured last.
    pub fn hear_totals(&self, tenant: TenantId, totals: ClusterTotals) {
        if let Some(state) = self.inner.known_tenant(tenant) {
            state.pace.lock().share.hear(totals, self.inner.clock.instant());
        }
    }

    /// The session in use.
    pub fn session(&self) -> Arc<Session> {
        self.inner.session.load_full()
    }
}

impl Drop for Distributor {
    fn drop(&mut self) {
        for partition in &self.inner.partitions {
            partition.stop();
        }
    }
}

impl Inner {
    fn unit(&self) -> u32 {
        let since = self.clock.instant().duration_since(self.started);
        crate::series_cache::unit_of(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn known_tenant(&self, tenant: TenantId) -> Option<Arc<TenantState>> {
        self.tenants.read().get(&tenant).map(Arc::clone)
    }

    fn tenant_state(&self, request: &WriteRequest) -> Arc<TenantState> {
        if let Some(found) = self.known_tenant(request.tenant) {
            return found;
        }
        let mut tenants = self.tenants.write();
        let known = tenants.len();
        Arc::clone(tenants.entry(request.tenant).or_insert_with(|| {
            let counters = TenantCounters::new(&request.tenant_name, known);
            Arc::new(TenantState { pace: Mutex::default(), counters })
        }))
    }

    /// Runs `f` with buffers that an earlier request has grown.
    fn with_work<T>(&self, f: impl FnOnce(&mut Work) -> T) -> T {
        let spare = self.spare.lock().pop();
        let mut work = spare.unwrap_or_default();
        let done = f(&mut work);
        work.shrink();
        let mut spare = self.spare.lock();
        if spare.len() < MAX_SPARE_WORK {
            spare.push(work);
        }
        done
    }

    /// Waits for every touched partition. An unknown one wins over refusals.
    async fn answer(&self, prepared: Prepared) -> Result<WriteOutcome, WriteError> {
        let Prepared { state, parts, mut refusals } = prepared;
        let mut written = Written::default();
        let mut failure: Option<WriteError> = None;
        let mut positions = Vec::with_capacity(parts.len());
        let deadline = tokio::time::Instant::now() + self.config.write_timeout;
        for part in parts {
            match wait(part.answer, deadline, part.partition).await {
                Ok(Committed { position, verdicts }) => {
                    written.add(&part.counts.settle(verdicts.as_deref(), &mut refusals));
                    positions.push((part.partition, position));
                }
                Err(error) => failure = Some(WriteError::worse(failure.take(), error)),
            }
        }
        state.counters.count_refusals(&refusals);
        match failure {
            Some(failure) => Err(failure.with_written(written)),
            None => Ok(WriteOutcome::new(written, refusals, positions)),
        }
    }
}

fn open_session(config: &DistributorConfig, id: SessionId, log_incarnations: Box<[u32]>) -> Session {
    let session = Session::new(id, log_incarnations, config.max_cached_series);
    session.with_longest_silence(config.longest_silence)
}

async fn wait(
    answer: oneshot::Receiver<PartAnswer>,
    deadline: tokio::time::Instant,
    partition: PartitionId,
) -> PartAnswer {
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(WriteError::unknown(partition, "its sender stopped")),
        Err(_) => Err(WriteError::unknown(partition, "no answer before the deadline")),
    }
}
