//! Samples of a request, sorted into the columns of their partitions.
//!
//! Knows resolved series, bounds of time and limits on histograms. Does not know labels beyond messages, nor the
//! log. Nothing is allocated per float sample.

use super::outcome::PartCounts;
use crate::protocol::{HistogramFault, LabelBounds, ParsedHistogram, ParsedRequest};
use crate::refusal::{self, Loss, Refusals, TimeBounds};
use crate::series_cache::{DefinedSeries, Resolved, Scratch, SentMetadata};
use quorate_cluster::limits::Limits;
use quorate_model::{BucketCounts, Histogram, HistogramSample, SeriesRef, SubBatch, TenantId};

/// What a request brings to one partition.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) floats: SubBatch,
    pub(super) histograms: SubBatch,
    pub(super) defined: Vec<DefinedSeries>,
    pub(super) metadata: Vec<SentMetadata>,
}

impl Columns {
    /// Decides on the sub-batches. Floats and histograms go apart, so that each has its own verdict.
    pub(super) fn finish(&mut self, tenant: TenantId, floor_ms: i64) -> PartCounts {
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

    pub(super) fn clear(&mut self) {
        self.floats.clear();
        self.histograms.clear();
        self.defined.clear();
        self.metadata.clear();
    }

    /// Whether it holds more than plain samples of known series.
    pub(super) fn is_worth_checking(&self) -> bool {
        let has_more = |batch: &SubBatch| {
            !(batch.definitions.is_empty() && batch.histograms.is_empty() && batch.metadata.is_empty())
        };
        has_more(&self.floats) || has_more(&self.histograms)
    }
}

/// Why a histogram is not stored.
enum Objection {
    Time,
    Fault(HistogramFault),
    Buckets(usize),
}

fn check_histogram<'p>(
    parsed: &'p ParsedHistogram,
    bounds: &TimeBounds,
    limits: &Limits,
) -> Result<&'p Histogram, Objection> {
    if !bounds.contain(parsed.ts_ms) {
        return Err(Objection::Time);
    }
    let histogram = parsed.value.as_ref().map_err(|fault| Objection::Fault(*fault))?;
    let (buckets, limit) = (bucket_count(histogram), limits.max_native_histogram_buckets);
    if limit > 0 && buckets > limit { Err(Objection::Buckets(buckets)) } else { Ok(histogram) }
}

/// Whether any sample of series `index` may be stored.
pub(super) fn may_store(request: &ParsedRequest, index: usize, bounds: &TimeBounds, limits: &Limits) -> bool {
    let mut histograms = request.histograms_of(index).map(|at| &request.histograms[at]);
    request.samples_of(index).any(|at| bounds.contain(request.ts_ms[at]))
        || histograms.any(|parsed| check_histogram(parsed, bounds, limits).is_ok())
}

/// Sorts samples into the columns of their partitions and refuses those out of bounds.
pub(super) struct Sorter<'a> {
    pub(super) body: &'a [u8],
    pub(super) limits: &'a Limits,
    pub(super) bounds: TimeBounds,
    pub(super) label_bounds: LabelBounds,
    pub(super) refusals: &'a mut Refusals,
}

impl Sorter<'_> {
    pub(super) fn sort(mut self, request: &ParsedRequest, scratch: &mut Scratch, columns: &mut [Columns]) {
        for (columns, definitions) in columns.iter_mut().zip(&mut scratch.definitions) {
            for (definition, defined) in definitions.drain(..) {
                columns.floats.definitions.push(definition);
                columns.defined.push(defined);
            }
        }
        for index in 0..request.series.len() {
            match scratch.resolved[index] {
                Resolved::Ref { partition, reference } => {
                    let columns = &mut columns[usize::from(partition)];
                    self.sort_samples(index, reference, request, scratch, columns);
                    if !request.histograms_of(index).is_empty() {
                        self.sort_histograms(index, reference, request, scratch, columns);
                    }
                }
                Resolved::Unstored => self.refuse_all(index, request, scratch),
                Resolved::Refused => {}
            }
        }
        self.tell_exemplars(request, scratch);
    }

    /// Tells of each sample of a series that may not be stored why.
    #[cold]
    fn refuse_all(&mut self, index: usize, request: &ParsedRequest, scratch: &mut Scratch) {
        for at in request.samples_of(index) {
            let loss = Loss { samples: 1, ..Loss::default() };
            self.refuse_time(index, request.ts_ms[at], loss, request, scratch);
        }
        for at in request.histograms_of(index) {
            let parsed = &request.histograms[at];
            if let Err(objection) = check_histogram(parsed, &self.bounds, self.limits) {
                self.refuse_histogram(index, parsed.ts_ms, objection, request, scratch);
            }
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
        for at in request.histograms_of(index) {
            let parsed = &request.histograms[at];
            let (ts_ms, start_ms) = (parsed.ts_ms, parsed.start_ms);
            match check_histogram(parsed, &self.bounds, self.limits) {
                Ok(histogram) => {
                    let sample = HistogramSample { reference, ts_ms, start_ms, histogram: histogram.clone() };
                    columns.histograms.histograms.push(sample);
                }
                Err(objection) => self.refuse_histogram(index, ts_ms, objection, request, scratch),
            }
        }
    }

    #[cold]
    fn refuse_histogram(
        &mut self,
        index: usize,
        ts_ms: i64,
        objection: Objection,
        request: &ParsedRequest,
        scratch: &mut Scratch,
    ) {
        let loss = Loss { histograms: 1, ..Loss::default() };
        let series = self.series(index, request, scratch);
        let (id, text) = match objection {
            Objection::Time => refusal::of_time(ts_ms, &self.bounds, self.limits, &series),
            Objection::Fault(fault) => refusal::of_histogram_fault(fault, ts_ms, &series),
            Objection::Buckets(buckets) => {
                let limit = self.limits.max_native_histogram_buckets;
                (refusal::TOO_MANY_BUCKETS, refusal::too_many_buckets(ts_ms, buckets, limit, &series))
            }
        };
        self.refusals.add(id, loss, || text);
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
        if is_told_out || scratch.pairs.split(self.body, request, index, &self.label_bounds).is_err() {
            return String::new();
        }
        refusal::show(scratch.pairs.iter())
    }
}

fn bucket_count(histogram: &Histogram) -> usize {
    match &histogram.counts {
        BucketCounts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        BucketCounts::Float { positive, negative, .. } => positive.len() + negative.len(),
    }
}
