//! Fakes of the write path's neighbours, for tests: a store that is a map, a log that waits, and small records.

use crate::applier::ApplyTarget;
use crate::holdings::Holdings;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_commitlog::mem_log::MemLog;
use quorate_commitlog::{LogError, LogReader, PartitionLog, record};
use quorate_model::{
    Definition, Labels, LogRecord, MetadataEntry, Position, RecordBody, RecordHeader, SeriesRef, SessionId,
    Slot, SubBatch, TenantId,
};
use quorate_tsdb::{ApplyOutcome, ConflictExample, SubBatchVerdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::Semaphore;

/// The header of a record of session 1/1.
pub(crate) fn header(sequence: u64) -> RecordHeader {
    RecordHeader { log_incarnation: 1, epoch: 1, session: SessionId { node: 1, incarnation: 1 }, sequence }
}

/// A record with one sample of the series `up`, which it defines.
pub(crate) fn sample(sequence: u64, ts_ms: i64, value: f64) -> Vec<u8> {
    let labels = Labels::from_pairs([("__name__", "up")]);
    let batch = SubBatch {
        tenant: TenantId(1),
        definitions: vec![Definition { reference: SeriesRef(0), slot: Slot(0), labels }],
        refs: vec![SeriesRef(0)],
        ts_ms: vec![ts_ms],
        values: vec![value],
        ..SubBatch::default()
    };
    encode(sequence, RecordBody::Data(vec![batch]))
}

/// A record of session 1/1.
pub(crate) fn encode(sequence: u64, body: RecordBody) -> Vec<u8> {
    encode_with(header(sequence), body)
}

/// A record of the session after it, which ends it.
pub(crate) fn next_session() -> Vec<u8> {
    let session = SessionId { node: 1, incarnation: 2 };
    encode_with(RecordHeader { session, ..header(1) }, RecordBody::Data(Vec::new()))
}

pub(crate) fn encode_with(header: RecordHeader, body: RecordBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode(&LogRecord { header, body }, &mut bytes);
    bytes
}

/// A sample of the model: tenant, series, time.
pub(crate) type Key = (TenantId, Labels, i64);

/// A partition as a map from identity to bits: first write wins, every ref must be defined.
#[derive(Debug, Default)]
pub(crate) struct MapTarget {
    state: Mutex<MapState>,
    may_apply: (Mutex<bool>, Condvar),
}

#[derive(Debug, Default)]
pub(crate) struct MapState {
    pub(crate) floats: BTreeMap<Key, u64>,
    pub(crate) histograms: BTreeMap<Key, String>,
    pub(crate) starts: BTreeMap<Key, i64>,
    pub(crate) metadata: Vec<MetadataEntry>,
    pub(crate) definitions: usize,
    /// First visible times.
    pub(crate) floors: BTreeMap<TenantId, i64>,
    pub(crate) is_full: bool,
    families: BTreeSet<(TenantId, String)>,
    /// The newest session of each gateway.
    newest: BTreeMap<u32, u32>,
    refs: HashMap<(SessionId, SeriesRef), (TenantId, Labels)>,
    applied: Position,
    last_entry: Option<(Position, u32)>,
}

impl MapTarget {
    pub(crate) fn new() -> Self {
        Self { may_apply: (Mutex::new(true), Condvar::new()), ..Self::default() }
    }

    /// Holds apply back, or lets it go on.
    pub(crate) fn let_apply(&self, may: bool) {
        *self.may_apply.0.lock() = may;
        self.may_apply.1.notify_all();
    }

    pub(crate) fn state(&self) -> parking_lot::MutexGuard<'_, MapState> {
        self.state.lock()
    }
}

impl MapState {
    fn apply(&mut self, session: SessionId, batch: &SubBatch) -> Result<SubBatchVerdict, String> {
        let mut verdict = SubBatchVerdict { tenant: batch.tenant, ..SubBatchVerdict::default() };
        for (at, reference) in batch.refs.iter().enumerate() {
            let labels = self.resolve(session, *reference, batch.tenant)?;
            let key = (batch.tenant, labels.clone(), batch.ts_ms[at]);
            let bits = batch.values[at].to_bits();
            if let Some((_, start)) = batch.starts.iter().find(|(index, _)| *index as usize == at) {
                self.starts.insert(key.clone(), *start);
            }
            match *self.floats.entry(key).or_insert_with(|| {
                verdict.counters.stored += 1;
                bits
            }) {
                kept if kept != bits => {
                    verdict.counters.conflicts += 1;
                    if verdict.examples.len() < 10 {
                        let value = batch.values[at];
                        verdict.examples.push(ConflictExample { labels, ts_ms: batch.ts_ms[at], value });
                    }
                }
                _ => {}
            }
        }
        for sample in &batch.histograms {
            let labels = self.resolve(session, sample.reference, batch.tenant)?;
            let text = format!("{:?}", sample.histogram);
            let key = (batch.tenant, labels, sample.ts_ms);
            let kept = self.histograms.entry(key).or_insert_with(|| text.clone());
            if *kept == text {
                verdict.counters.stored += 1;
            } else {
                verdict.counters.conflicts += 1;
            }
        }
        self.families.extend(batch.metadata.iter().map(|entry| (batch.tenant, entry.family.clone())));
        self.metadata.extend(batch.metadata.iter().cloned());
        Ok(verdict)
    }

    fn resolve(&self, session: SessionId, reference: SeriesRef, tenant: TenantId) -> Result<Labels, String> {
        match self.refs.get(&(session, reference)) {
            Some((owner, labels)) if *owner == tenant => Ok(labels.clone()),
            _ => Err(format!("ref {reference} of session {session} is not defined")),
        }
    }
}

impl MapState {
    fn series(&self, tenant: TenantId) -> BTreeSet<&Labels> {
        let keys = self.floats.keys().chain(self.histograms.keys());
        keys.filter(|(owner, _, _)| *owner == tenant).map(|(_, labels, _)| labels).collect()
    }
}

impl Holdings for MapTarget {
    fn floor_ms(&self, tenant: TenantId) -> i64 {
        self.state.lock().floors.get(&tenant).copied().unwrap_or(i64::MIN)
    }

    fn active_series(&self, tenant: TenantId) -> u64 {
        self.state.lock().series(tenant).len() as u64
    }

    fn has_series(&self, tenant: TenantId, labels: &Labels) -> Option<bool> {
        Some(self.state.lock().series(tenant).contains(labels))
    }

    fn metadata_families(&self, tenant: TenantId) -> usize {
        self.state.lock().families.iter().filter(|(owner, _)| *owner == tenant).count()
    }

    fn has_family(&self, tenant: TenantId, family: &str) -> bool {
        self.state.lock().families.contains(&(tenant, family.to_owned()))
    }

    fn is_full(&self) -> bool {
        self.state.lock().is_full
    }
}

impl ApplyTarget for MapTarget {
    fn applied(&self) -> Position {
        self.state.lock().applied
    }

    fn apply(&self, position: Position, record: &LogRecord) -> Result<ApplyOutcome, String> {
        let mut may = self.may_apply.0.lock();
        while !*may {
            self.may_apply.1.wait(&mut may);
        }
        drop(may);
        let mut state = self.state.lock();
        let session = record.header.session;
        let newest = state.newest.entry(session.node).or_default();
        let is_void = session.incarnation < *newest;
        *newest = session.incarnation.max(*newest);
        if is_void {
            state.applied = position;
            return Ok(ApplyOutcome { is_void, ..ApplyOutcome::default() });
        }
        let mut sub_batches = Vec::new();
        if let RecordBody::Data(batches) = &record.body {
            for batch in batches {
                for definition in &batch.definitions {
                    state.definitions += 1;
                    let meaning = (batch.tenant, definition.labels.clone());
                    let kept = state.refs.entry((session, definition.reference)).or_insert(meaning.clone());
                    if *kept != meaning {
                        return Err(format!("ref {} has two meanings", definition.reference));
                    }
                }
            }
            for batch in batches {
                sub_batches.push(state.apply(session, batch)?);
            }
        }
        if let RecordBody::SessionForget(_) = &record.body {
            panic!("the model panics on purpose");
        }
        state.applied = position;
        Ok(ApplyOutcome { sub_batches, is_void })
    }

    fn pass(&self, position: Position) -> Result<(), String> {
        self.state.lock().applied = position;
        Ok(())
    }

    fn note_entry(&self, position: Position, crc: u32) {
        self.state.lock().last_entry = Some((position, crc));
    }

    fn last_entry(&self) -> Option<(Position, u32)> {
        self.state.lock().last_entry
    }
}

/// A log whose appends each need a permit.
pub(crate) struct GateLog {
    pub(crate) log: MemLog,
    pub(crate) gate: Semaphore,
}

impl GateLog {
    pub(crate) fn new(log: MemLog) -> Self {
        Self { log, gate: Semaphore::new(0) }
    }
}

#[async_trait]
impl PartitionLog for GateLog {
    async fn append(&self, entry: Bytes) -> Result<Position, LogError> {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.log.append(entry).await
    }

    fn read_from(&self, after: Position) -> Box<dyn LogReader> {
        self.log.read_from(after)
    }

    async fn committed(&self) -> Result<Position, LogError> {
        self.log.committed().await
    }

    async fn trim(&self, up_to: Position) -> Result<(), LogError> {
        self.log.trim(up_to).await
    }

    fn wants_trim(&self) -> bool {
        self.log.wants_trim()
    }

    fn incarnation(&self) -> u32 {
        self.log.incarnation()
    }
}
