//! A gateway session: the refs it has given, and what it knows of each tenant.

use super::table::{Table, UNIT_MS, UNITS};
use crate::protocol::{ParsedMetadata, RawHash};
use parking_lot::{Mutex, RwLock};
use quorate_cluster::limits::Limits;
use quorate_model::{PartitionId, SessionId, TenantId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A session that had nothing acknowledged by a log for so long is not gone on with: replicas forget one from which nothing
/// came for twice as long, at least (C6).
const LONGEST_SILENCE: Duration = Duration::from_secs(12 * 3_600);
/// A session gives refs up to here; then the gateway needs another one.
const MAX_REF: u32 = 1 << 31;
/// A session that has given more refs than this, and this many times as many as it remembers series, is worn.
const WORN_REFS: u64 = 1 << 20;
const WORN_FACTOR: u64 = 4;
/// Families remembered for a tenant that may have any number; beyond it all are forgotten and logged again.
const MAX_METADATA: usize = 100_000;
/// Changes of a family's metadata that are logged within one unit of the coarse clock. Two senders that do not
/// agree would otherwise have it logged with every request.
const MAX_CHANGES: u32 = 4;

/// One session of this gateway with every partition. Dropped as a whole when the session ends.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    longest_silence: Duration,
    log_incarnations: Box<[u32]>,
    sequence: AtomicU64,
    next_refs: Box<[AtomicU32]>,
    /// When each partition's log acknowledged something last, milliseconds since the machine started; 0 is never.
    acknowledged_ms: Box<[AtomicU64]>,
    /// Whether it was silent for too long.
    is_over: AtomicBool,
    tenants: RwLock<HashMap<TenantId, Arc<TenantSeries>>>,
    /// Byte forms over all tenants.
    forms: AtomicUsize,
    max_forms: usize,
}

/// The byte forms of one tenant.
#[derive(Debug)]
pub(crate) struct TenantSeries {
    pub(super) table: RwLock<Table>,
    /// The label limits under which the table was filled.
    label_limits: Mutex<Option<[usize; 3]>>,
    /// The metadata that was committed last, by the hash of the family's name.
    metadata: Mutex<HashMap<u64, KnownMetadata>>,
}

/// The metadata of a family that was committed last.
#[derive(Debug, Clone, Copy)]
struct KnownMetadata {
    hash: u64,
    /// When it was committed, and how often it was in the same unit.
    unit: u32,
    changes: u32,
}

/// Metadata that is on its way to the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SentMetadata {
    pub(crate) family_hash: u64,
    pub(crate) hash: u64,
}

/// Metadata that differs from what was committed last.
#[derive(Debug)]
pub(crate) struct NewMetadata<'a> {
    pub(crate) entry: &'a ParsedMetadata,
    pub(crate) is_new_family: bool,
}

/// A series whose definition stands in a record that is not committed yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DefinedSeries {
    /// As it was sent.
    pub(crate) raw: RawHash,
    pub(crate) canonical: RawHash,
    pub(crate) reference: u32,
}

impl Session {
    /// A session without series, with the incarnation of each partition's log. `max_forms` bounds what it
    /// remembers, over all tenants.
    pub fn new(id: SessionId, log_incarnations: Box<[u32]>, max_forms: usize) -> Self {
        Self {
            id,
            longest_silence: LONGEST_SILENCE,
            next_refs: log_incarnations.iter().map(|_| AtomicU32::new(0)).collect(),
            acknowledged_ms: log_incarnations.iter().map(|_| AtomicU64::new(0)).collect(),
            is_over: AtomicBool::new(false),
            log_incarnations,
            sequence: AtomicU64::new(0),
            tenants: RwLock::default(),
            forms: AtomicUsize::new(0),
            max_forms,
        }
    }

    /// One that is not gone on with after less silence of a log than usual, if `time` is less.
    pub fn with_longest_silence(self, time: Duration) -> Self {
        Self { longest_silence: time.min(LONGEST_SILENCE), ..self }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The incarnation of the partition's log that its definitions went to. Each log has its own.
    pub fn log_incarnation(&self, partition: PartitionId) -> Option<u32> {
        self.log_incarnations.get(partition.0 as usize).copied()
    }

    /// The number of the next record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed) + 1
    }

    /// A partition's log has acknowledged a record of it. Time is that since the machine started: it goes on while the
    /// machine is suspended.
    pub(crate) fn note_append(&self, partition: PartitionId, since_boot: Duration) {
        if let Some(last) = self.acknowledged_ms.get(partition.0 as usize) {
            last.fetch_max(millis(since_boot).max(1), Relaxed);
        }
    }

    /// Whether so much time has passed since a partition's log acknowledged something of it that it must not be gone on
    /// with. It is over then, for all partitions.
    pub(crate) fn was_silent(&self, partition: PartitionId, since_boot: Duration) -> bool {
        let last = self.acknowledged_ms.get(partition.0 as usize).map_or(0, |last| last.load(Relaxed));
        let is_over = last > 0 && millis(since_boot).saturating_sub(last) > millis(self.longest_silence);
        if is_over {
            self.is_over.store(true, Relaxed);
        }
        is_over
    }

    /// Whether nothing was acknowledged by any log for half of that time: nobody is held up if another one is opened now,
    /// instead of when somebody writes again.
    pub fn is_idle(&self, since_boot: Duration) -> bool {
        let newest = self.acknowledged_ms.iter().map(|last| last.load(Relaxed)).max().unwrap_or(0);
        newest > 0 && millis(since_boot).saturating_sub(newest) > millis(self.longest_silence / 2)
    }

    /// A ref that was never given before, or `None` if the session is used up.
    pub(super) fn next_ref(&self, partition: u16) -> Option<u32> {
        let next = &self.next_refs[usize::from(partition)];
        next.fetch_update(Relaxed, Relaxed, |n| (n < MAX_REF).then_some(n + 1)).ok()
    }

    /// What is known of a tenant.
    pub(crate) fn tenant(&self, tenant: TenantId) -> Arc<TenantSeries> {
        if let Some(found) = self.tenants.read().get(&tenant) {
            return Arc::clone(found);
        }
        Arc::clone(self.tenants.write().entry(tenant).or_insert_with(|| {
            Arc::new(TenantSeries {
                table: RwLock::default(),
                label_limits: Mutex::default(),
                metadata: Mutex::default(),
            })
        }))
    }

    /// Active series of a tenant as this gateway sees them.
    pub fn active_series(&self, tenant: TenantId) -> usize {
        self.tenants.read().get(&tenant).map_or(0, |t| t.table.read().series())
    }

    /// Byte forms remembered, over all tenants.
    pub fn forms(&self) -> usize {
        self.forms.load(Relaxed)
    }

    /// Whether another one should be opened: it was silent for too long, or it has given many more refs than it has use
    /// for, each of which partitions keep until it ends.
    pub fn is_worn(&self) -> bool {
        if self.is_over.load(Relaxed) {
            return true;
        }
        let given: u64 = self.next_refs.iter().map(|next| u64::from(next.load(Relaxed))).sum();
        given > WORN_REFS && given > WORN_FACTOR * self.forms() as u64
    }

    pub(super) fn note_forms(&self, added: usize) {
        self.forms.fetch_add(added, Relaxed);
    }

    /// Whether there is no room for more byte forms.
    pub(super) fn is_full(&self) -> bool {
        self.forms() >= self.max_forms
    }

    /// Forgets series that nobody sent for two hours; called now and then.
    pub fn forget_idle(&self, unit: u32) {
        let tenants: Vec<_> = self.tenants.read().values().cloned().collect();
        for tenant in &tenants {
            let gone = tenant.table.write().forget_idle(unit);
            self.forms.fetch_sub(gone, Relaxed);
        }
    }

    /// If the cache is full, forgets the series of the tenant that has most: they are only defined once more. So a
    /// tenant whose series come and go pays for that itself. Called before series are added, without a lock.
    pub(super) fn make_room(&self) {
        if !self.is_full() {
            return;
        }
        let tenants: Vec<_> = self.tenants.read().iter().map(|(id, t)| (*id, Arc::clone(t))).collect();
        let largest = tenants.iter().max_by_key(|(_, tenant)| tenant.table.read().len());
        if let Some((id, tenant)) = largest {
            tracing::warn!(tenant = %id, forms = self.forms(), "the series cache is full; its largest tenant begins again");
            self.forget_all_of(tenant);
        }
    }

    fn forget_all_of(&self, tenant: &TenantSeries) {
        let mut table = tenant.table.write();
        self.forms.fetch_sub(table.len(), Relaxed);
        table.clear();
    }

    /// Forgets a tenant's series if limits on labels have changed since they were checked, so that the next
    /// request obeys.
    pub(crate) fn obey(&self, tenant: &TenantSeries, limits: &Limits) {
        let now =
            [limits.max_label_names_per_series, limits.max_label_name_length, limits.max_label_value_length];
        let before = tenant.label_limits.lock().replace(now);
        if before.is_some_and(|before| before != now) {
            self.forget_all_of(tenant);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl TenantSeries {
    /// The definitions of `series` are committed.
    pub(crate) fn mark_defined(&self, series: &[DefinedSeries]) {
        let table = self.table.read();
        for one in series {
            table.mark_defined(one.raw, one.reference);
            if one.canonical != one.raw {
                table.mark_defined(one.canonical, one.reference);
            }
        }
    }

    /// The metadata that differs from what its family's was when it was last committed, and the number of
    /// families known. A family that changed often of late has to wait.
    pub(crate) fn new_metadata<'a>(
        &self,
        all: &'a [ParsedMetadata],
        unit: u32,
    ) -> (Vec<NewMetadata<'a>>, usize) {
        if all.is_empty() {
            return (Vec::new(), 0);
        }
        let known = self.metadata.lock();
        let news = all.iter().filter_map(|entry| match known.get(&entry.family_hash) {
            None => Some(NewMetadata { entry, is_new_family: true }),
            Some(last) => {
                let may_change = last.unit != unit || last.changes < MAX_CHANGES;
                (last.hash != entry.hash && may_change).then_some(NewMetadata { entry, is_new_family: false })
            }
        });
        (news.collect(), known.len())
    }

    /// Metadata that is committed now. `max_families` is the tenant's limit, 0 = none.
    pub(crate) fn mark_metadata(&self, sent: &[SentMetadata], unit: u32, max_families: usize) {
        if sent.is_empty() {
            return;
        }
        let mut known = self.metadata.lock();
        if max_families == 0 && known.len() + sent.len() > MAX_METADATA {
            known.clear();
        }
        for one in sent {
            let last = known.entry(one.family_hash).or_insert(KnownMetadata { hash: 0, unit, changes: 0 });
            let changes = if last.unit == unit { last.changes + 1 } else { 1 };
            *last = KnownMetadata { hash: one.hash, unit, changes };
        }
    }
}

/// The coarse time of the cache for a monotonic time in milliseconds.
pub(crate) fn unit_of(monotonic_ms: u64) -> u32 {
    (monotonic_ms / UNIT_MS) as u32 % UNITS
}
