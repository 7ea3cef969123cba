//! Resolving the series of a request: known ones by one probe, others by their labels.

use super::session::{DefinedSeries, Session, TenantSeries};
use super::table::{Found, Table};
use crate::protocol::{BodyError, Hashing, LabelBounds, LabelFault, LabelPairs};
use crate::protocol::{Memory, ParsedRequest, RawHash};
use crate::refusal::{self, Loss, Refusals};
use quorate_cluster::limits::Limits;
use quorate_model::{Definition, Labels, METRIC_NAME, SeriesRef, Slot};

/// What became of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// Its samples go to the ref of the partition.
    Ref {
        /// Index of the partition.
        partition: u16,
        /// The ref.
        reference: SeriesRef,
    },
    /// Its labels are good, but no sample of it may be stored: it gets no ref, so that it takes no place among the
    /// tenant's series. Why is not told yet.
    Unstored,
    /// It is refused, and that was told.
    Refused,
}

/// What the partitions hold of the request's tenant.
pub(crate) trait Stored {
    /// Series, over all partitions, as far as it is known.
    fn series(&self) -> u64;

    /// Whether the partition with this index has the series; `None` if it cannot be told.
    fn has(&self, partition: u16, labels: &Labels) -> Option<bool>;
}

/// Buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) resolved: Vec<Resolved>,
    misses: Vec<Miss>,
    unknown: Vec<u32>,
    pub(crate) pairs: LabelPairs,
    canonical: Vec<u8>,
    /// Bytes of the labels of unknown series, as far as they were expanded.
    pub(crate) label_bytes: usize,
    /// Definitions that the record of each partition must carry, by index of the partition.
    pub(crate) definitions: Vec<Vec<(Definition, DefinedSeries)>>,
}

#[derive(Debug)]
struct Miss {
    series: u32,
    raw: RawHash,
    canonical: RawHash,
    labels: Labels,
    slot: Slot,
    partition: u16,
}

/// What resolving needs to know about the request.
pub(crate) struct Resolver<'a> {
    pub(crate) session: &'a Session,
    pub(crate) tenant: &'a TenantSeries,
    pub(crate) limits: &'a Limits,
    pub(crate) hashing: &'a Hashing,
    /// The slot of a label set and the index of its partition.
    pub(crate) placement: &'a dyn Fn(&Labels) -> (Slot, u16),
    /// Whether any sample of the series with this index may be stored.
    pub(crate) may_store: &'a dyn Fn(&ParsedRequest, usize) -> bool,
    pub(crate) stored: &'a dyn Stored,
    pub(crate) unit: u32,
    /// Bytes that the labels of unknown series may take in one request.
    pub(crate) max_label_bytes: usize,
}

/// Why no series of the request can be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// The session has no more refs.
    SessionUsedUp,
    /// The labels of unknown series, expanded, are over their bound.
    LabelBytes,
    /// There is no memory for them.
    Memory(BodyError),
}

impl From<BodyError> for ResolveError {
    fn from(error: BodyError) -> Self {
        Self::Memory(error)
    }
}

impl Resolver<'_> {
    /// Fills `scratch.resolved`, one for each series, and `scratch.definitions`; `memory` counts new labels.
    pub(crate) fn resolve(
        &self,
        body: &[u8],
        request: &ParsedRequest,
        memory: &mut Memory,
        scratch: &mut Scratch,
        refusals: &mut Refusals,
    ) -> Result<(), ResolveError> {
        scratch.resolved.clear();
        scratch.misses.clear();
        scratch.unknown.clear();
        scratch.label_bytes = 0;
        self.probe(request, scratch);
        if scratch.unknown.is_empty() {
            return Ok(());
        }
        let unknown = std::mem::take(&mut scratch.unknown);
        let split = self.split(body, request, &unknown, memory, scratch, refusals);
        scratch.unknown = unknown;
        split?;
        self.define(request, scratch, refusals)
    }

    /// The pass over known series: no branch depends on the one before, so the probes' misses overlap.
    fn probe(&self, request: &ParsedRequest, scratch: &mut Scratch) {
        let table = self.tenant.table.read();
        scratch.resolved.reserve(request.series.len());
        for (at, series) in request.series.iter().enumerate() {
            let resolved = match table.find(series.hash, self.unit) {
                Some(Found { partition, reference, is_defined: true }) if series.fault.is_none() => {
                    Resolved::Ref { partition, reference: SeriesRef(reference) }
                }
                _ => {
                    scratch.unknown.push(at as u32);
                    Resolved::Refused
                }
            };
            scratch.resolved.push(resolved);
        }
    }

    /// Splits and checks the labels of unknown series, without a lock.
    fn split(
        &self,
        body: &[u8],
        request: &ParsedRequest,
        unknown: &[u32],
        memory: &mut Memory,
        scratch: &mut Scratch,
        refusals: &mut Refusals,
    ) -> Result<(), ResolveError> {
        for at in unknown {
            let index = *at as usize;
            if let Some(fault) = request.series[index].fault {
                let (id, text) = refusal::of_fault(fault);
                refusals.add(id, loss_of(request, index), || text);
                continue;
            }
            let bounds = label_bounds(self.limits, self.max_label_bytes - scratch.label_bytes);
            let split = scratch.pairs.split(body, request, index, &bounds);
            scratch.label_bytes += scratch.pairs.text_bytes();
            if let Err(fault) = split {
                if fault == LabelFault::OverBudget {
                    return Err(ResolveError::LabelBytes);
                }
                let (id, text) = refusal::of_label_fault(&fault, &bounds, &scratch.pairs);
                refusals.add(id, loss_of(request, index), || text);
                continue;
            }
            if let Some((id, text)) = check(&scratch.pairs, &bounds) {
                refusals.add(id, loss_of(request, index), || text);
                continue;
            }
            if !(self.may_store)(request, index) {
                scratch.resolved[index] = Resolved::Unstored;
                continue;
            }
            memory.charge(size_of::<Miss>() + 2 * scratch.pairs.text_bytes())?;
            scratch.pairs.canonical_bytes(&mut scratch.canonical);
            let labels = scratch.pairs.to_labels();
            let (slot, partition) = (self.placement)(&labels);
            scratch.misses.push(Miss {
                series: *at,
                raw: request.series[index].hash,
                canonical: self.hashing.bytes(&scratch.canonical),
                labels,
                slot,
                partition,
            });
        }
        Ok(())
    }

    /// Gives refs to new series under the write lock, and adds the definitions.
    fn define(
        &self,
        request: &ParsedRequest,
        scratch: &mut Scratch,
        refusals: &mut Refusals,
    ) -> Result<(), ResolveError> {
        self.session.make_room();
        let stored = if self.limits.max_global_series_per_user > 0 { self.stored.series() } else { 0 };
        let mut table = self.tenant.table.write();
        let before = table.len();
        let mut used_up = false;
        for miss in scratch.misses.drain(..) {
            let known = table.find(miss.canonical, self.unit);
            let found = match known {
                Some(found) => found,
                None if self.is_over_limit(&table, stored, &miss) => {
                    let limit = self.limits.max_global_series_per_user;
                    let loss = loss_of(request, miss.series as usize);
                    refusals.add(refusal::SERIES_LIMIT, loss, || refusal::series_limit(limit));
                    continue;
                }
                None => {
                    let Some(reference) = self.session.next_ref(miss.partition) else {
                        used_up = true;
                        break;
                    };
                    let found = Found { partition: miss.partition, reference, is_defined: false };
                    table.insert(miss.canonical, found, false, self.unit);
                    found
                }
            };
            if miss.raw != miss.canonical {
                match table.find(miss.raw, self.unit) {
                    None => table.insert(miss.raw, found, true, self.unit),
                    Some(_) if found.is_defined => table.mark_defined(miss.raw, found.reference),
                    Some(_) => {}
                }
            }
            let reference = SeriesRef(found.reference);
            scratch.resolved[miss.series as usize] = Resolved::Ref { partition: found.partition, reference };
            if !found.is_defined {
                let defined =
                    DefinedSeries { raw: miss.raw, canonical: miss.canonical, reference: found.reference };
                let definition = Definition { reference, slot: miss.slot, labels: miss.labels };
                scratch.definitions[usize::from(found.partition)].push((definition, defined));
            }
        }
        self.session.note_forms(table.len() - before);
        if used_up { Err(ResolveError::SessionUsedUp) } else { Ok(()) }
    }

    /// Whether a series that this session does not know is one too many. A gateway knows nothing when it starts, so
    /// what the partitions hold counts as well, and what they hold is never one too many. Of a partition of which
    /// nothing is known here each series may be one that it holds, until as many as the limit went through here.
    fn is_over_limit(&self, table: &Table, stored: u64, miss: &Miss) -> bool {
        let limit = self.limits.max_global_series_per_user;
        let through = table.series() as u64;
        let active = through.max(stored + table.undefined() as u64);
        limit > 0
            && active >= limit
            && self.stored.has(miss.partition, &miss.labels).map_or(through >= limit, |has| !has)
    }
}

/// What the labels of one series may take when `bytes` are left of what a request may bring. A limit that is off
/// is as far as the labels of the log go.
pub(crate) fn label_bounds(limits: &Limits, bytes: usize) -> LabelBounds {
    let bound = |limit: usize| if limit == 0 { usize::from(u16::MAX) } else { limit };
    LabelBounds {
        names: bound(limits.max_label_names_per_series),
        name_bytes: bound(limits.max_label_name_length),
        value_bytes: bound(limits.max_label_value_length),
        bytes,
    }
}

/// What is lost with series `index`.
fn loss_of(request: &ParsedRequest, index: usize) -> Loss {
    let samples = request.samples_of(index).len() as u64;
    let histograms = request.histograms_of(index).len() as u64;
    Loss { samples, histograms, exemplars: 0, others: u64::from(samples + histograms == 0) }
}

/// What the limits say about the labels of a series that is not known yet.
fn check(pairs: &LabelPairs, bounds: &LabelBounds) -> Option<(&'static str, String)> {
    let series = || refusal::show(pairs.iter());
    if pairs.get(METRIC_NAME).is_none() {
        return Some((refusal::MISSING_NAME, refusal::missing_name()));
    }
    if pairs.len() > bounds.names {
        let text = refusal::too_many_names(pairs.len(), bounds.names, &series());
        return Some((refusal::TOO_MANY_NAMES, text));
    }
    for (name, value) in pairs.iter() {
        if name == refusal::RESERVED_LABEL {
            return Some((refusal::LABEL_INVALID, refusal::reserved_label(&series())));
        }
        if name.len() > bounds.name_bytes {
            let text = refusal::name_too_long(name, name.len(), bounds.name_bytes, &series());
            return Some((refusal::NAME_TOO_LONG, text));
        }
        if value.len() > bounds.value_bytes {
            let text = refusal::value_too_long(name, value, value.len(), bounds.value_bytes, &series());
            return Some((refusal::VALUE_TOO_LONG, text));
        }
    }
    None
}
