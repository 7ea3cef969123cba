//! Merging: several blocks of a partition into one that replaces them.
//!
//! Knows blocks and generations. Does not know tombstones, retention or how fast the disk may be used: the
//! caller tells by [`MergeHooks`]. What is hidden is left out before duplicates are decided (C13); of two
//! samples at one time the one of the lower generation stays (C3).
//! Cost: one pass over the inputs in order; memory for one series and one page of each input.

use super::label_reader::LabelReader;
use super::{BlockCache, BlockMeta, BlockReader, BlockSpec, BlockWriter, series_order};
use crate::StoreError;
use quorate_chunk::{Chunk, cut_buffer};
use quorate_kv::Kv;
use quorate_model::{Labels, SeriesBuffer, TenantId, TimeRange};
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Samples of a chunk that a merge writes: four hours at 15 s.
const CHUNK_SAMPLES: usize = 960;
/// Memory for the parts of inputs that are being read, apart from the node's cache.
const CACHE_BYTES: u64 = 64 << 20;

/// What a merge asks its caller.
pub trait MergeHooks {
    /// Appends the ranges of a series that are hidden in `input`, by deletion or retention.
    fn hidden(&mut self, input: &BlockMeta, tenant: TenantId, labels: &Labels, out: &mut Vec<TimeRange>);

    /// Called often, with the bytes written since the last call: waits as long as the disk is to be spared,
    /// or stops the merge.
    fn pace(&mut self, bytes: u64) -> ControlFlow<()>;
}

/// Writes what `inputs` hold as one block. The spec lists exactly the generations of all inputs together.
///
/// Returns `None` if a hook stopped it; then nothing is left behind. A block without series is returned
/// like any other: it still replaces its inputs.
///
/// # Errors
/// [`StoreError::Damaged`] if an input is, [`StoreError::Kv`].
pub fn merge(
    kv: &dyn Kv,
    inputs: &[Arc<BlockReader>],
    spec: BlockSpec,
    hooks: &mut dyn MergeHooks,
) -> Result<Option<BlockMeta>, StoreError> {
    let cache = Arc::new(BlockCache::new(CACHE_BYTES));
    let readers: Vec<BlockReader> = inputs.iter().map(|input| input.with_cache(Arc::clone(&cache))).collect();
    let tenants: BTreeSet<TenantId> = readers.iter().flat_map(BlockReader::tenants).collect();
    let mut run = Run {
        writer: BlockWriter::new(kv, spec)?,
        hooks,
        paced: 0,
        buffers: Vec::new(),
        hidden: Vec::new(),
        merged: SeriesBuffer::default(),
        chunks: Vec::new(),
    };
    for tenant in tenants {
        if run.tenant(&readers, tenant)?.is_break() {
            return Ok(None);
        }
    }
    run.writer.finish().map(Some)
}

/// The place in one input.
struct Input<'a> {
    reader: &'a BlockReader,
    labels: LabelReader<'a>,
    ordinal: u32,
    series: u32,
    current: Option<Labels>,
}

impl<'a> Input<'a> {
    fn new(reader: &'a BlockReader, tenant: TenantId) -> Result<Self, StoreError> {
        let labels = reader.label_reader(tenant)?;
        let series = reader.series_count(tenant)?;
        let mut input = Self { reader, labels, ordinal: 0, series, current: None };
        input.load()?;
        Ok(input)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        self.current = match self.ordinal < self.series {
            true => Some(self.labels.labels(self.ordinal)?),
            false => None,
        };
        Ok(())
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.ordinal += 1;
        self.load()
    }
}

struct Run<'kv, 'h> {
    writer: BlockWriter<'kv>,
    hooks: &'h mut dyn MergeHooks,
    /// Bytes that the hook has been told of.
    paced: u64,
    buffers: Vec<SeriesBuffer>,
    hidden: Vec<TimeRange>,
    merged: SeriesBuffer,
    chunks: Vec<Chunk>,
}

impl Run<'_, '_> {
    fn tenant(&mut self, readers: &[BlockReader], tenant: TenantId) -> Result<ControlFlow<()>, StoreError> {
        let inputs: Result<Vec<Input<'_>>, StoreError> =
            readers.iter().map(|reader| Input::new(reader, tenant)).collect();
        let mut inputs = inputs?;
        while let Some(labels) = lowest(&inputs) {
            let same: Vec<usize> =
                (0..inputs.len()).filter(|at| inputs[*at].current.as_ref() == Some(&labels)).collect();
            self.series(&inputs, &same, tenant, &labels)?;
            for at in same {
                inputs[at].advance()?;
            }
            let bytes = self.writer.bytes();
            if self.hooks.pace(bytes - self.paced).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.paced = bytes;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes one series from the inputs that have it.
    fn series(
        &mut self,
        inputs: &[Input<'_>],
        same: &[usize],
        tenant: TenantId,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        self.chunks.clear();
        self.buffers.resize_with(self.buffers.len().max(same.len()), SeriesBuffer::default);
        for (place, at) in same.iter().enumerate() {
            let input = &inputs[*at];
            self.hidden.clear();
            self.hooks.hidden(input.reader.meta(), tenant, labels, &mut self.hidden);
            self.hidden.retain(|range| range.overlaps(&input.reader.meta().range()));
            if same.len() == 1 && self.hidden.is_empty() {
                input.reader.chunks(tenant, input.ordinal, &mut self.chunks)?;
                if self.chunks.len() == 1 {
                    return self.writer.push(tenant, labels, &self.chunks);
                }
                self.chunks.clear();
            }
            let buffer = &mut self.buffers[place];
            buffer.clear();
            input.reader.read(tenant, input.ordinal, TimeRange::ALL, buffer)?;
            hide(buffer, &self.hidden);
        }
        let metas: Vec<&BlockMeta> = same.iter().map(|at| inputs[*at].reader.meta()).collect();
        combine(&self.buffers[..same.len()], &metas, &mut self.merged);
        cut_buffer(&self.merged, CHUNK_SAMPLES, &mut self.chunks)?;
        if self.chunks.is_empty() {
            return Ok(());
        }
        self.writer.push(tenant, labels, &self.chunks)
    }
}

fn lowest(inputs: &[Input<'_>]) -> Option<Labels> {
    let current = inputs.iter().filter_map(|input| input.current.as_ref());
    current.min_by(|a, b| series_order(a, b)).cloned()
}

/// Removes the samples that lie in one of `ranges`.
fn hide(buffer: &mut SeriesBuffer, ranges: &[TimeRange]) {
    if ranges.is_empty() {
        return;
    }
    let given = std::mem::take(buffer);
    let shown = |ts_ms: &i64| !ranges.iter().any(|range| range.contains(*ts_ms));
    for at in (0..given.ts_ms.len()).filter(|at| shown(&given.ts_ms[*at])) {
        append_floats(buffer, &given, at..at + 1);
    }
    for at in (0..given.histogram_ts_ms.len()).filter(|at| shown(&given.histogram_ts_ms[*at])) {
        append_histograms(buffer, &given, at..at + 1);
    }
}

/// Puts the samples of one series from several inputs into `out`, each time once.
fn combine(buffers: &[SeriesBuffer], metas: &[&BlockMeta], out: &mut SeriesBuffer) {
    out.clear();
    let mut order: Vec<usize> = (0..buffers.len()).filter(|at| !buffers[*at].is_empty()).collect();
    order.sort_by_key(|at| first_and_last(&buffers[*at]).0);
    let apart = |pair: &[usize]| first_and_last(&buffers[pair[0]]).1 < first_and_last(&buffers[pair[1]]).0;
    if order.windows(2).all(apart) {
        for at in order {
            append_floats(out, &buffers[at], 0..buffers[at].ts_ms.len());
            append_histograms(out, &buffers[at], 0..buffers[at].histogram_ts_ms.len());
        }
        return;
    }
    combine_by_rank(buffers, metas, out);
}

fn first_and_last(buffer: &SeriesBuffer) -> (i64, i64) {
    let lanes = [&buffer.ts_ms, &buffer.histogram_ts_ms];
    let first = lanes.iter().filter_map(|lane| lane.first()).min();
    let last = lanes.iter().filter_map(|lane| lane.last()).max();
    (first.copied().unwrap_or(i64::MAX), last.copied().unwrap_or(i64::MIN))
}

/// The slow path, where inputs overlap: at each time the sample of the lowest generation.
fn combine_by_rank(buffers: &[SeriesBuffer], metas: &[&BlockMeta], out: &mut SeriesBuffer) {
    let mut samples: Vec<(i64, u32, usize, bool, usize)> = Vec::new();
    for (input, buffer) in buffers.iter().enumerate() {
        for (lane, times) in [(false, &buffer.ts_ms), (true, &buffer.histogram_ts_ms)] {
            samples.extend(times.iter().enumerate().map(|(at, ts_ms)| {
                let rank = metas[input].rank_of(*ts_ms).unwrap_or(u32::MAX);
                (*ts_ms, rank, input, lane, at)
            }));
        }
    }
    samples.sort_unstable();
    samples.dedup_by_key(|sample| sample.0);
    for (_, _, input, histogram, at) in samples {
        match histogram {
            false => append_floats(out, &buffers[input], at..at + 1),
            true => append_histograms(out, &buffers[input], at..at + 1),
        }
    }
}

fn append_floats(out: &mut SeriesBuffer, from: &SeriesBuffer, range: Range<usize>) {
    append_starts(&mut out.start_ms, out.ts_ms.len(), &from.start_ms, &range);
    out.ts_ms.extend_from_slice(&from.ts_ms[range.clone()]);
    out.values.extend_from_slice(&from.values[range]);
}

fn append_histograms(out: &mut SeriesBuffer, from: &SeriesBuffer, range: Range<usize>) {
    append_starts(&mut out.histogram_start_ms, out.histogram_ts_ms.len(), &from.histogram_start_ms, &range);
    out.histogram_ts_ms.extend_from_slice(&from.histogram_ts_ms[range.clone()]);
    out.histograms.extend_from_slice(&from.histograms[range]);
}

/// Keeps a column of starts as long as its samples, or empty while none is known.
fn append_starts(out: &mut Vec<i64>, samples: usize, from: &[i64], range: &Range<usize>) {
    if from.is_empty() && out.is_empty() {
        return;
    }
    out.resize(samples, 0);
    match from.get(range.clone()) {
        Some(starts) => out.extend_from_slice(starts),
        None => out.resize(samples + range.len(), 0),
    }
}
