//! Selections: the series of a partition that pass matchers, and their samples.
//!
//! Knows the head, Views and blocks. Does not know PromQL, other partitions or limits, but the one on series.
//! Path: `query` -> [`crate::PartitionStore::select`] -> **here** -> `head`, `block`.
//! Q1: a selection pins one View; what is published or merged afterwards does not change it. Q2: series are sorted
//! and have at least one chunk that touches the range; after exact clipping a series may still be empty.
//! Q3: a stripe's lock is held to copy the bytes of one series, never while decoding.

use crate::error::StoreError;
use crate::gather::Gather;
use crate::head::{Head, Hidden, Piece, SeriesCopy, Tombstone, UNSEALED, place};
use crate::meter::{ITEMS_PER_QUESTION, ReadMeter, ask};
use crate::store_block::StoreBlock;
use crate::view::{View, Views};
use quorate_model::{Labels, Matcher, SeriesBuffer, TenantId, TimeRange};
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::Arc;

/// What the map from labels to selected series takes for each, about; the labels are shared.
const KNOWN_BYTES: usize = 2 * (size_of::<Labels>() + size_of::<usize>());

/// What a selection may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectLimits {
    /// Most series; 0 means no limit.
    pub max_series: u64,
}

impl SelectLimits {
    /// No limit.
    pub const NONE: Self = Self { max_series: 0 };

    fn check(self, found: u64) -> Result<(), StoreError> {
        if self.max_series > 0 && found > self.max_series {
            return Err(StoreError::TooManySeries { found, limit: self.max_series });
        }
        Ok(())
    }
}

/// What a selection is asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) matchers: &'a [Matcher],
    pub(crate) range: TimeRange,
    pub(crate) limits: SelectLimits,
    pub(crate) meter: &'a dyn ReadMeter,
}

#[cfg(test)]
impl Wanted<'static> {
    /// Everything of a tenant in the range.
    pub(crate) fn all(tenant: TenantId, range: TimeRange) -> Self {
        Self { tenant, matchers: &[], range, limits: SelectLimits::NONE, meter: &crate::meter::Unmetered }
    }
}

/// One selected series and where it lies.
#[derive(Debug)]
struct Selected {
    labels: Labels,
    /// Its row in the head, if it has unflushed samples in the range.
    row: Option<u32>,
    /// Number of the block in the View, ordinal in the block.
    blocks: Vec<(u32, u32)>,
}

/// A place that holds samples of a series.
enum Source<'a> {
    Head(Piece<'a>),
    Block(&'a StoreBlock, u32),
}

/// Selected series of one partition, sorted by labels.
#[derive(Debug)]
pub struct PartitionSelection {
    head: Arc<Head>,
    view: Arc<View>,
    hidden: Arc<Hidden>,
    tenant: TenantId,
    range: TimeRange,
    series: Vec<Selected>,
    /// Bytes that the meter was charged with.
    charged: u64,
}

impl PartitionSelection {
    /// Selects in one View. If another was published meanwhile, it begins again: rows of series that this View
    /// knows as sealed may have been freed since.
    pub(crate) fn new(head: &Arc<Head>, views: &Views, wanted: &Wanted<'_>) -> Result<Self, StoreError> {
        loop {
            let selection = Self::in_view(head, views.pin(), wanted)?;
            if Arc::ptr_eq(&selection.view, &views.pin()) {
                return Ok(selection);
            }
            wanted.meter.give_back(selection.charged);
        }
    }

    fn in_view(head: &Arc<Head>, view: Arc<View>, wanted: &Wanted<'_>) -> Result<Self, StoreError> {
        let hidden = head.hidden();
        let tenant = wanted.tenant;
        let range = wanted.range.intersect(&TimeRange::new(hidden.floor_ms(tenant), i64::MAX));
        let head = Arc::clone(head);
        let mut selection = Self { head, view, hidden, tenant, range, series: Vec::new(), charged: 0 };
        selection.ask(wanted, 0)?;
        if !range.is_empty() {
            selection.add_rows(wanted)?;
            selection.add_blocks(wanted)?;
            selection.series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        }
        Ok(selection)
    }

    fn ask(&mut self, wanted: &Wanted<'_>, bytes: usize) -> Result<(), StoreError> {
        ask(wanted.meter, bytes as u64)?;
        self.charged += bytes as u64;
        Ok(())
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no series was selected.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Labels of a series.
    pub fn labels(&self, index: usize) -> &Labels {
        &self.series[index].labels
    }

    /// Replaces `out` by the samples of a series in the range.
    ///
    /// # Errors
    /// [`StoreError`] if anything that may hold a sample cannot be read: never a short answer.
    pub fn read(&self, index: usize, out: &mut SeriesBuffer) -> Result<(), StoreError> {
        let series = &self.series[index];
        let mut copy = SeriesCopy::default();
        if let Some(row) = series.row {
            self.copy_row(row, &mut copy);
        }
        let tombstones = self.hidden.of(self.tenant, &series.labels, self.range);
        let mut sources: Vec<_> =
            copy.pieces().map(|(rank, first, piece)| (first, rank, Source::Head(piece))).collect();
        for (number, ordinal) in &series.blocks {
            let block = &self.view.blocks()[*number as usize];
            let first_ts = block.meta().min_ts_ms.max(self.range.start_ms);
            sources.push((first_ts, block.rank().unwrap_or_default(), Source::Block(block, *ordinal)));
        }
        sources.sort_unstable_by_key(|(first_ts, rank, _)| (*first_ts, *rank));
        let mut gather = Gather::new(self.range, out);
        for (first_ts, rank, source) in sources {
            match source {
                Source::Head(piece) => self.read_piece(first_ts, rank, &piece, &tombstones, &mut gather)?,
                Source::Block(reader, ordinal) => {
                    self.read_block(reader, ordinal, &tombstones, &mut gather)?
                }
            }
        }
        gather.finish();
        Ok(())
    }

    fn read_piece(
        &self,
        first_ts: i64,
        rank: u32,
        piece: &Piece<'_>,
        tombstones: &[&Tombstone],
        gather: &mut Gather<'_>,
    ) -> Result<(), StoreError> {
        let window_start = self.head.length().start_of(first_ts);
        let covering = tombstones.iter().filter(|t| rank != UNSEALED && t.covers(window_start, rank));
        let masks: Vec<TimeRange> = covering.map(|t| t.range).collect();
        match piece {
            Piece::Chunk(chunk) => gather.chunk(rank, *chunk, &masks)?,
            Piece::Run(samples) => gather.samples(rank, samples, &masks),
            Piece::Open(open) => gather.append(rank, |range, out| {
                open.read(range, out);
                Ok::<_, StoreError>(())
            })?,
        }
        Ok(())
    }

    /// A merged block may hold other generations in each window: its samples are added window by window then.
    fn read_block(
        &self,
        block: &StoreBlock,
        ordinal: u32,
        tombstones: &[&Tombstone],
        gather: &mut Gather<'_>,
    ) -> Result<(), StoreError> {
        let (reader, meta) = (block.reader(), block.meta());
        let mut masks = Vec::new();
        tombstones.iter().for_each(|t| t.masks(meta, &mut masks));
        let rank = block.rank();
        if let Some(rank) = rank.filter(|_| masks.is_empty()) {
            return gather.append(rank, |range, out| reader.read(self.tenant, ordinal, range, out));
        }
        let mut samples = SeriesBuffer::default();
        reader.read(self.tenant, ordinal, self.range, &mut samples)?;
        match rank {
            Some(rank) => gather.samples(rank, &samples, &masks),
            None => gather.samples_ranked(&samples, &masks, |ts| meta.rank_of(ts).unwrap_or_default()),
        }
        Ok(())
    }

    /// The stripe first, the sealed generations second: what leaves the one is in the other (V2).
    fn copy_row(&self, row: u32, out: &mut SeriesCopy) {
        let (stripe, within) = place(row);
        self.head.stripes()[stripe].read().copy(within, self.range, out);
        self.view.for_each_sealed(|sealed| {
            if let Some(part) = sealed.part(stripe) {
                part.copy(within, self.range, sealed.generation(), out);
            }
        });
    }

    fn add_rows(&mut self, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        let candidates = self.head.index().read().select(self.tenant, wanted.matchers);
        let rows = rows_in_range(&self.head, &self.view, &candidates, self.range, wanted.meter)?;
        wanted.limits.check(rows.len())?;
        self.ask(wanted, rows.len() as usize * (size_of::<Selected>() + size_of::<u32>()))?;
        let rows: Vec<u32> = rows.iter().collect();
        self.series.reserve(rows.len());
        for some in rows.chunks(ITEMS_PER_QUESTION) {
            let from = self.series.len();
            let index = self.head.index().read();
            let live = some.iter().filter(|row| !index.is_free(**row));
            self.series.extend(live.map(|row| Selected {
                labels: index.labels(*row),
                row: Some(*row),
                blocks: Vec::new(),
            }));
            drop(index);
            let bytes = self.series[from..].iter().map(|s| s.labels.as_packed().len()).sum();
            self.ask(wanted, bytes)?;
        }
        Ok(())
    }

    fn add_blocks(&mut self, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        let view = Arc::clone(&self.view);
        let mut known: Option<HashMap<Labels, usize>> = None;
        for (number, block) in view.blocks().iter().enumerate() {
            if !block.meta().range().overlaps(&self.range) {
                continue;
            }
            self.ask(wanted, 0)?;
            let ordinals = block.reader().select(self.tenant, wanted.matchers)?;
            if ordinals.is_empty() {
                continue;
            }
            if known.is_none() {
                self.ask(wanted, self.series.len() * KNOWN_BYTES)?;
            }
            let known = known.get_or_insert_with(|| {
                self.series.iter().enumerate().map(|(at, s)| (s.labels.clone(), at)).collect()
            });
            let mut labels = block.reader().label_reader(self.tenant)?;
            let mut bytes = 0;
            for (nth, ordinal) in ordinals.into_iter().enumerate() {
                if nth % ITEMS_PER_QUESTION == 0 {
                    self.ask(wanted, std::mem::take(&mut bytes))?;
                }
                let labels = labels.labels(ordinal)?;
                bytes += size_of::<(u32, u32)>();
                let at = *known.entry(labels).or_insert_with_key(|labels| {
                    bytes += size_of::<Selected>() + KNOWN_BYTES + labels.as_packed().len();
                    self.series.push(Selected { labels: labels.clone(), row: None, blocks: Vec::new() });
                    self.series.len() - 1
                });
                self.series[at].blocks.push((number as u32, ordinal));
            }
            self.ask(wanted, bytes)?;
            wanted.limits.check(self.series.len() as u64)?;
        }
        Ok(())
    }
}

/// The candidates that may have unflushed samples in the range: stripes first, sealed generations second (V2).
pub(crate) fn rows_in_range(
    head: &Head,
    view: &View,
    candidates: &RoaringBitmap,
    range: TimeRange,
    meter: &dyn ReadMeter,
) -> Result<RoaringBitmap, StoreError> {
    let mut found = RoaringBitmap::new();
    let mut others = RoaringBitmap::new();
    for (nth, row) in candidates.iter().enumerate() {
        if nth % ITEMS_PER_QUESTION == 0 {
            ask(meter, 0)?;
        }
        let (stripe, within) = place(row);
        let is_open = head.stripes()[stripe].read().overlaps(within, range);
        if is_open { &mut found } else { &mut others }.insert(row);
    }
    let sealed = view.sealed();
    for (nth, row) in others.iter().enumerate() {
        if nth % ITEMS_PER_QUESTION == 0 {
            ask(meter, 0)?;
        }
        let (stripe, within) = place(row);
        if sealed.iter().filter_map(|s| s.part(stripe)).any(|part| part.overlaps(within, range)) {
            found.insert(row);
        }
    }
    Ok(found)
}
