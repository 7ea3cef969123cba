//! Selections: the series of a partition that pass matchers, and their samples.
//!
//! Knows the head, Views and blocks. Does not know PromQL, other partitions or limits, but the one on series.
//! Path: `query` -> [`crate::PartitionStore::select`] -> **here** -> `head`, `block`.
//! Q1: a selection pins one View; what is published or merged afterwards does not change it. Q2: series are sorted
//! and have at least one chunk that touches the range; after exact clipping a series may still be empty.
//! Q3: a stripe's lock is held to copy the bytes of one series, never while decoding.

use crate::error::StoreError;
use crate::gather::Gather;
use crate::head::{Head, Hidden, Piece, SealedGeneration, SeriesCopy, UNSEALED, place};
use crate::view::View;
use quorate_model::{Labels, Matcher, SeriesBuffer, TenantId, TimeRange};
use roaring::RoaringBitmap;
use std::sync::Arc;

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

/// One selected series and where it lies.
#[derive(Debug)]
struct Selected {
    labels: Labels,
    /// Its row in the head, if it has unflushed samples in the range.
    row: Option<u32>,
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
}

impl PartitionSelection {
    pub(crate) fn new(
        head: &Arc<Head>,
        view: Arc<View>,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
        limits: SelectLimits,
    ) -> Result<Self, StoreError> {
        let hidden = head.hidden();
        let range = range.intersect(&TimeRange::new(hidden.floor_ms(tenant), i64::MAX));
        let mut selection = Self { head: Arc::clone(head), view, hidden, tenant, range, series: Vec::new() };
        if !range.is_empty() {
            selection.add_rows(matchers, limits)?;
            selection.series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        }
        Ok(selection)
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
        let masks = self.masks_of(&series.labels);
        let mut pieces: Vec<_> = copy.pieces().collect();
        pieces.sort_unstable_by_key(|(rank, first_ts, _)| (*first_ts, *rank));
        let mut gather = Gather::new(self.range, out);
        for (rank, first_ts, piece) in pieces {
            let window_start = self.head.length().start_of(first_ts);
            let masks = masks.of(window_start, rank);
            match piece {
                Piece::Chunk(chunk) => gather.chunk(rank, chunk, &masks)?,
                Piece::Run(samples) => gather.samples(rank, samples, &masks),
                Piece::Open(open) => {
                    let mut samples = SeriesBuffer::default();
                    open.read(&mut samples);
                    gather.samples(rank, &samples, &masks);
                }
            }
        }
        gather.finish();
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

    fn add_rows(&mut self, matchers: &[Matcher], limits: SelectLimits) -> Result<(), StoreError> {
        let candidates = self.head.index().read().select(self.tenant, matchers);
        let rows = self.rows_in_range(&candidates);
        limits.check(rows.len())?;
        let rows: Vec<u32> = rows.iter().collect();
        self.series.reserve(rows.len());
        for some in rows.chunks(1024) {
            let index = self.head.index().read();
            let live = some.iter().filter(|row| !index.is_free(**row));
            self.series.extend(live.map(|row| Selected { labels: index.labels(*row), row: Some(*row) }));
        }
        Ok(())
    }

    fn rows_in_range(&self, candidates: &RoaringBitmap) -> RoaringBitmap {
        let mut found = RoaringBitmap::new();
        let mut others = Vec::new();
        for row in candidates {
            let (stripe, within) = place(row);
            if self.head.stripes()[stripe].read().overlaps(within, self.range) {
                found.insert(row);
            } else {
                others.push(row);
            }
        }
        let sealed = self.view.sealed();
        let in_sealed = |row: &u32| {
            let (stripe, within) = place(*row);
            let mut parts = sealed.iter().filter_map(|s: &Arc<SealedGeneration>| s.part(stripe));
            parts.any(|part| part.overlaps(within, self.range))
        };
        found.extend(others.into_iter().filter(in_sealed));
        found
    }

    fn masks_of(&self, labels: &Labels) -> Masks<'_> {
        Masks { tombstones: self.hidden.of(self.tenant, labels, self.range) }
    }
}

/// The deletes that concern one series.
struct Masks<'a> {
    tombstones: Vec<&'a crate::head::Tombstone>,
}

impl Masks<'_> {
    /// Deleted times among the samples of one generation of a window.
    fn of(&self, window_start_ms: i64, generation: u32) -> Vec<TimeRange> {
        if generation == UNSEALED {
            return Vec::new();
        }
        let covering = self.tombstones.iter().filter(|t| t.covers(window_start_ms, generation));
        covering.map(|t| t.range).collect()
    }
}
