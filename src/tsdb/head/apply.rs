//! Apply: one log record into the head, by the one writer.
//!
//! Knows records in log order. Does not know the log, clocks or limits (H1).
//! Path: `partition_store::apply` -> **here** -> `head::stripe`. Data is here, control records in `head::control`.
//! Cost: per sample of a known series one read of the session's array, one row (64 bytes) and a bit append; no
//! allocation but the growth of open chunks, about 8 for 120 samples. A stripe's lock is taken once per run of
//! neighbouring rows.

use super::series::series_hash;
use super::sessions::{Meaning, REF_LIMIT, Sessions};
use super::side::{SideSample, Value};
use super::stripe::{Stripe, Verdict};
use super::verdict::{ApplyOutcome, ConflictExample, Counters, MAX_EXAMPLES, StateHash, SubBatchVerdict};
use super::{Head, place};
use crate::error::ApplyError;
use crate::series_file::Meant;
use crate::series_log::PendingSeries;
use parking_lot::RwLockWriteGuard;
use quorate_chunk::ChunkError;
use quorate_model::failpoint;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{
    Definition, HistogramSample, Labels, LogRecord, MetadataEntry, Position, RecordBody, RecordHeader,
    SeriesRef, SessionId, Slot, SubBatch, TenantId,
};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::xxh3_64;

/// What the writer knows of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WindowState {
    /// The generation that the next mark cuts.
    pub(crate) next_generation: u32,
    /// Whether a sample waits for it.
    pub(crate) has_data: bool,
}

/// The state that only the writer touches.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) position: Position,
    /// Position and CRC-32C of the entry of the log that was applied last, if the log is one that asks for it.
    pub(crate) last_entry: Option<(Position, u32)>,
    pub(crate) sessions: Sessions,
    pub(crate) windows: BTreeMap<i64, WindowState>,
    pub(crate) counters: BTreeMap<TenantId, Counters>,
    pub(crate) log_incarnation: u32,
    pub(crate) builder_epoch: u32,
    pub(crate) state_hash: StateHash,
    /// Definitions since the last image, on their way into the series log.
    pub(crate) pending: PendingSeries,
    /// A record is being applied, or was applied in part and no further: the state is of no position then.
    pub(crate) in_record: bool,
    /// Samples up to here may be of series whose definitions were lost: see [`Head::skip`].
    pub(crate) forgiven: Position,
    stopped: Option<ApplyError>,
    rows: Vec<u32>,
}

/// Metadata of each tenant's metric families, the last in log order. Only the writer changes it; it has a lock of its
/// own so that gateways need not wait for apply.
pub(crate) type Metadata = BTreeMap<TenantId, BTreeMap<String, MetadataEntry>>;

/// Finds what freed rows stood for, by the series log and the definitions that are not in it yet.
pub(crate) type Resolve<'a> =
    dyn Fn(&mut PendingSeries, &RoaringBitmap) -> Result<HashMap<u32, Meant>, String> + 'a;

/// Samples whose ref is cleared: place among the record's rows, tenant, ref, and the row that was freed.
type Cleared = Vec<(usize, TenantId, SeriesRef, u32)>;

impl Head {
    /// Applies one record. A position that was applied before changes nothing.
    pub(crate) fn apply(
        &self,
        position: Position,
        record: &LogRecord,
        resolve: &Resolve<'_>,
    ) -> Result<ApplyOutcome, ApplyError> {
        let writer = &mut *self.writer.lock();
        if position <= writer.position {
            return Ok(ApplyOutcome::default());
        }
        if let Some(error) = &writer.stopped {
            return Err(error.clone());
        }
        if writer.in_record {
            let error = corrupt(position, &"the record before was applied in part");
            return Err(writer.stopped.insert(error).clone());
        }
        failpoint::hit("apply.before_record");
        writer.in_record = true;
        let outcome = self.apply_new(writer, position, record, resolve);
        match &outcome {
            Ok(_) => {
                writer.in_record = false;
                writer.position = position;
                self.set_applied(position);
                failpoint::hit("apply.after_record");
            }
            Err(error) => writer.stopped = Some(error.clone()),
        }
        outcome
    }

    /// The highest epoch of a builder that was applied.
    pub(crate) fn builder_epoch(&self) -> u32 {
        self.writer.lock().builder_epoch
    }

    /// Goes on behind `position` without applying anything: what stands there is no record. A position that was applied
    /// before changes nothing.
    pub(crate) fn pass(&self, position: Position) -> Result<(), ApplyError> {
        self.pass_with(&mut self.writer.lock(), position)
    }

    fn pass_with(&self, writer: &mut Writer, position: Position) -> Result<(), ApplyError> {
        if position <= writer.position {
            return Ok(());
        }
        if let Some(error) = &writer.stopped {
            return Err(error.clone());
        }
        writer.position = position;
        self.set_applied(position);
        Ok(())
    }

    /// Remembers the CRC-32C of the entry at a position that was applied.
    pub(crate) fn note_entry(&self, position: Position, crc: u32) {
        self.writer.lock().last_entry = Some((position, crc));
    }

    /// Position and CRC-32C of the last entry that was noted.
    pub(crate) fn last_entry(&self) -> Option<(Position, u32)> {
        self.writer.lock().last_entry
    }

    /// Goes on behind `to`, for good without what stands before it. Samples behind it and up to `forgiven` may be of series
    /// that were defined there: those are lost. No image is cut between the position and what goes with it.
    pub(crate) fn skip(&self, to: Position, forgiven: Position) -> Result<(), ApplyError> {
        let writer = &mut *self.writer.lock();
        self.pass_with(writer, to)?;
        writer.forgiven = forgiven;
        // It is gone from the log with what is skipped.
        writer.last_entry = None;
        Ok(())
    }

    fn apply_new(
        &self,
        writer: &mut Writer,
        position: Position,
        record: &LogRecord,
        resolve: &Resolve<'_>,
    ) -> Result<ApplyOutcome, ApplyError> {
        if record.header.log_incarnation != writer.log_incarnation {
            writer.log_incarnation = record.header.log_incarnation;
            writer.builder_epoch = 0;
            writer.sessions.forget_all();
            writer.pending.forget_all_sessions();
        }
        match &record.body {
            RecordBody::Data(batches) => self.apply_data(writer, position, &record.header, batches, resolve),
            body => self.apply_control(writer, position, &record.header, body),
        }
    }

    fn apply_data(
        &self,
        writer: &mut Writer,
        position: Position,
        header: &RecordHeader,
        batches: &[SubBatch],
        resolve: &Resolve<'_>,
    ) -> Result<ApplyOutcome, ApplyError> {
        let session = header.session;
        if writer.sessions.is_over(session) {
            // It was on its way while its gateway began anew: its refs mean nothing any more.
            return Ok(ApplyOutcome { is_void: true, ..ApplyOutcome::default() });
        }
        for forgotten in writer.sessions.enter(session) {
            writer.pending.forget_session(forgotten);
        }
        for batch in batches {
            for definition in &batch.definitions {
                self.define(writer, position, session, batch.tenant, definition)?;
            }
        }
        let mut rows = std::mem::take(&mut writer.rows);
        rows.clear();
        let mut cleared = Cleared::new();
        for batch in batches {
            self.resolve_refs(writer, position, session, batch, &mut cleared, &mut rows)?;
        }
        if !cleared.is_empty() {
            self.restore_cleared(writer, position, session, cleared, resolve, &mut rows)?;
        }
        let mut rest = rows.as_slice();
        let mut outcome = ApplyOutcome { sub_batches: Vec::with_capacity(batches.len()), is_void: false };
        for batch in batches {
            let (own, others) = rest.split_at(batch.sample_count());
            rest = others;
            let verdict = self.apply_batch(writer, batch, own).map_err(|e| corrupt(position, &e))?;
            tell_lost(writer, position, session, &verdict);
            outcome.sub_batches.push(verdict);
        }
        writer.rows = rows;
        Ok(outcome)
    }

    fn define(
        &self,
        writer: &mut Writer,
        position: Position,
        session: SessionId,
        tenant: TenantId,
        definition: &Definition,
    ) -> Result<(), ApplyError> {
        let Definition { reference, slot, labels } = definition;
        if reference.0 >= REF_LIMIT {
            return Err(corrupt(position, &format!("ref {reference} is over the limit of a session")));
        }
        let meaning = writer.sessions.get_mut(session).get(*reference);
        let index = self.index().read();
        if let Meaning::Row(row) = meaning {
            if index.tenant(row) == tenant && index.has_labels(row, labels) {
                return Ok(());
            }
            let detail = format!("session {session} gives ref {reference} to a second series, {labels:?}");
            return Err(corrupt(position, &detail));
        }
        let hash = series_hash(tenant, labels);
        let found = index.find(tenant, labels, hash);
        drop(index);
        let row = match found {
            Some(row) => row,
            None => self.new_row(writer, position, tenant, *slot, labels, hash)?,
        };
        writer.sessions.get_mut(session).set(*reference, tenant, row, false);
        writer.pending.reference(session, *reference, row);
        Ok(())
    }

    /// The next row, for a series that has none.
    fn new_row(
        &self,
        writer: &mut Writer,
        position: Position,
        tenant: TenantId,
        slot: Slot,
        labels: &Labels,
        hash: u64,
    ) -> Result<u32, ApplyError> {
        let row = self.index().write().define(tenant, slot, labels, hash);
        let row = row.ok_or_else(|| corrupt(position, &"every row number was given"))?;
        let (stripe, within) = place(row);
        self.stripes()[stripe].write().add_row(within, hash);
        writer.pending.row(row, tenant, slot, labels);
        Ok(row)
    }

    /// Adds the row of every sample, floats before histograms; [`LOST`] for one whose definition was given up.
    fn resolve_refs(
        &self,
        writer: &mut Writer,
        position: Position,
        session: SessionId,
        batch: &SubBatch,
        cleared: &mut Cleared,
        rows: &mut Vec<u32>,
    ) -> Result<(), ApplyError> {
        let references = batch.refs.iter().copied().chain(batch.histograms.iter().map(|h| h.reference));
        rows.reserve(batch.sample_count());
        let known = writer.sessions.get(session);
        for reference in references {
            if let Some(row) = known.and_then(|session| session.row_of(reference, batch.tenant)) {
                rows.push(row);
                continue;
            }
            match known.map_or(Meaning::Unknown, |s| s.get(reference)) {
                Meaning::Row(row) if self.index().read().tenant(row) == batch.tenant => rows.push(row),
                Meaning::Row(_) => {
                    let detail = format!("ref {reference} is not of tenant {}", batch.tenant);
                    return Err(corrupt(position, &detail));
                }
                Meaning::Cleared(freed) => {
                    cleared.push((rows.len(), batch.tenant, reference, freed));
                    rows.push(u32::MAX);
                }
                Meaning::Unknown if position <= writer.forgiven => rows.push(LOST),
                Meaning::Unknown => return Err(ApplyError::UnknownRef { position, session, reference }),
            }
        }
        Ok(())
    }

    /// Gives rows again to the series of cleared refs of one record: to those only, others of the session may never
    /// come back.
    fn restore_cleared(
        &self,
        writer: &mut Writer,
        position: Position,
        session: SessionId,
        cleared: Cleared,
        resolve: &Resolve<'_>,
        rows: &mut [u32],
    ) -> Result<(), ApplyError> {
        let freed: RoaringBitmap = cleared.iter().map(|(_, _, _, freed)| *freed).collect();
        let meant = resolve(&mut writer.pending, &freed).map_err(|e| corrupt(position, &e))?;
        for (at, tenant, reference, freed) in cleared {
            let unknown = ApplyError::UnknownRef { position, session, reference };
            let meant = meant.get(&freed).filter(|meant| meant.tenant == tenant).ok_or(unknown)?;
            let hash = series_hash(tenant, &meant.labels);
            let found = self.index().read().find(tenant, &meant.labels, hash);
            let row = match found {
                Some(row) => row,
                None => self.new_row(writer, position, tenant, meant.slot, &meant.labels, hash)?,
            };
            rows[at] = row;
            let of_session = writer.sessions.get_mut(session);
            if of_session.get(reference) != Meaning::Row(row) {
                of_session.set(reference, tenant, row, false);
                writer.pending.reference(session, reference, row);
            }
        }
        Ok(())
    }

    fn apply_batch(
        &self,
        writer: &mut Writer,
        batch: &SubBatch,
        rows: &[u32],
    ) -> Result<SubBatchVerdict, ChunkError> {
        let (float_rows, histogram_rows) = rows.split_at(batch.refs.len());
        let (counters, examples) = Pass::new(self, writer).run(batch, float_rows, histogram_rows)?;
        writer.counters.entry(batch.tenant).or_default().add(&counters);
        if !batch.metadata.is_empty() {
            let mut metadata = self.metadata().write();
            let families = metadata.entry(batch.tenant).or_default();
            families.extend(batch.metadata.iter().map(|m| (m.family.clone(), m.clone())));
        }
        let index = self.index().read();
        let examples = examples
            .into_iter()
            .map(|(row, ts_ms, value)| ConflictExample { labels: index.labels(row), ts_ms, value })
            .collect();
        Ok(SubBatchVerdict { tenant: batch.tenant, counters, examples })
    }
}

/// In the place of a row: the series is not known, and never will be. No row has this number.
const LOST: u32 = u32::MAX;

/// Tells the log of samples whose series are not known, each time that they have doubled.
fn tell_lost(writer: &Writer, position: Position, session: SessionId, verdict: &SubBatchVerdict) {
    let SubBatchVerdict { tenant, counters, .. } = verdict;
    let lost = writer.counters.get(tenant).map_or(0, |all| all.lost);
    if lost.checked_ilog2() > (lost - counters.lost).checked_ilog2() {
        tracing::warn!(
            %position, %session, %tenant, lost,
            "samples are of series whose definitions were given up: they are lost"
        );
    }
}

/// The limit of [`Bug::LimitAfterAck`].
const PLANTED_ROW_LIMIT: u32 = 20;

/// Row, time and refused value of conflicts.
type Examples = Vec<(u32, i64, f64)>;

/// One walk over the samples of a sub-batch, holding one stripe at a time.
struct Pass<'a> {
    head: &'a Head,
    writer: &'a mut Writer,
    counters: Counters,
    examples: Examples,
    /// What the late bytes have grown by.
    late_bytes: u64,
    stripe: Option<(usize, RwLockWriteGuard<'a, Stripe>)>,
    /// The window of the sample before: neighbours mostly share it.
    window: quorate_model::TimeRange,
}

impl<'a> Pass<'a> {
    fn new(head: &'a Head, writer: &'a mut Writer) -> Self {
        let window = quorate_model::TimeRange::new(0, -1);
        let (counters, examples) = (Counters::default(), Vec::new());
        Self { head, writer, counters, examples, late_bytes: 0, stripe: None, window }
    }

    fn run(
        mut self,
        batch: &SubBatch,
        float_rows: &[u32],
        histogram_rows: &[u32],
    ) -> Result<(Counters, Examples), ChunkError> {
        self.floats(batch, float_rows)?;
        self.histograms(&batch.histograms, histogram_rows)?;
        self.head.late_bytes.fetch_add(self.late_bytes, Ordering::Relaxed);
        Ok((self.counters, self.examples))
    }

    fn floats(&mut self, batch: &SubBatch, rows: &[u32]) -> Result<(), ChunkError> {
        let mut starts = batch.starts.iter().peekable();
        for (i, row) in rows.iter().enumerate() {
            let (ts_ms, bits) = (batch.ts_ms[i], batch.values[i].to_bits());
            let start_ms = starts.next_if(|s| s.0 as usize == i).map_or(0, |s| s.1);
            if *row == LOST {
                self.counters.lost += 1;
                continue;
            }
            if *row >= PLANTED_ROW_LIMIT && is_planted(Bug::LimitAfterAck) {
                self.counters.count(Verdict::Stored);
                continue;
            }
            self.enter_window(ts_ms);
            let window = self.window;
            let (number, within) = place(*row);
            let stripe = self.enter_stripe(number);
            let series = stripe.row_mut(within);
            let hash = series.hash;
            let open = &mut series.open;
            let is_next = ts_ms > open.last_ts && open.last_ts >= window.start_ms;
            let is_plain = open.count > 0 && open.marks == 0 && start_ms == 0;
            let verdict = if is_next && is_plain && open.append(window.start_ms, ts_ms, bits).is_ok() {
                Verdict::Stored
            } else {
                self.insert(within, ts_ms, SideSample { start_ms, value: Value::Float(bits) })?
            };
            self.note(*row, hash, ts_ms, bits, batch.values[i], verdict);
        }
        Ok(())
    }

    fn histograms(&mut self, samples: &[HistogramSample], rows: &[u32]) -> Result<(), ChunkError> {
        for (sample, row) in samples.iter().zip(rows) {
            if *row == LOST {
                self.counters.lost += 1;
                continue;
            }
            self.enter_window(sample.ts_ms);
            let (number, within) = place(*row);
            let hash = self.enter_stripe(number).row_mut(within).hash;
            let value = Value::Histogram(Arc::new(sample.histogram.clone()));
            let verdict =
                self.insert(within, sample.ts_ms, SideSample { start_ms: sample.start_ms, value })?;
            let bits = histogram_hash(sample)?;
            self.note(*row, hash, sample.ts_ms, bits, sample.histogram.sum, verdict);
        }
        Ok(())
    }

    fn enter_window(&mut self, ts_ms: i64) {
        if !self.window.contains(ts_ms) {
            let length = self.head.length();
            self.window = length.range_of(length.start_of(ts_ms));
        }
    }

    fn enter_stripe(&mut self, number: usize) -> &mut Stripe {
        if self.stripe.as_ref().is_none_or(|(at, _)| *at != number) {
            self.stripe = None;
            self.stripe = Some((number, self.head.stripes()[number].write()));
        }
        &mut self.stripe.as_mut().expect("just entered").1
    }

    /// Everything but the plain append: first sample of a chunk, out of order, late, histograms, starts.
    fn insert(&mut self, within: u32, ts_ms: i64, sample: SideSample) -> Result<Verdict, ChunkError> {
        let window_start = self.window.start_ms;
        let is_sealed = self.writer.windows.get(&window_start).is_some_and(|w| w.next_generation > 0);
        let stripe = &mut self.stripe.as_mut().expect("the caller entered it").1;
        let before = stripe.late_bytes();
        let verdict = stripe.insert(within, window_start, is_sealed, ts_ms, sample)?;
        // Less where a side buffer was encoded: the sums wrap and come out right.
        self.late_bytes = self.late_bytes.wrapping_add(stripe.late_bytes().wrapping_sub(before));
        if matches!(verdict, Verdict::Stored | Verdict::Late) {
            self.writer.windows.entry(window_start).or_default().has_data = true;
        }
        Ok(verdict)
    }

    fn note(&mut self, row: u32, hash: u64, ts_ms: i64, bits: u64, value: f64, verdict: Verdict) {
        self.writer.state_hash.add(hash, ts_ms, bits, verdict);
        self.counters.count(verdict);
        if verdict == Verdict::Conflict && self.examples.len() < MAX_EXAMPLES {
            self.examples.push((row, ts_ms, value));
        }
    }
}

/// Hash of a histogram's bits, by its encoded form.
fn histogram_hash(sample: &HistogramSample) -> Result<u64, ChunkError> {
    let mut bytes = Vec::with_capacity(128);
    quorate_chunk::histogram::encode(std::slice::from_ref(&sample.histogram), &mut bytes)?;
    Ok(xxh3_64(&bytes))
}

pub(super) fn corrupt(position: Position, detail: &dyn std::fmt::Display) -> ApplyError {
    ApplyError::Corrupt { position, detail: detail.to_string() }
}
