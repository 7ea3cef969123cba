//! Flush: one sealed generation into one block.
//!
//! Knows rows, labels and the order of series in a block. Does not know `cat` or Views: see `background`.
//! Cost: labels of one metric at a time; chunks that were cut in order are copied, not encoded again.

use crate::block::{BlockMeta, BlockSpec, BlockWriter, GenerationRef, Tier, series_order};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::gather::Gather;
use crate::head::{Head, Hidden, Piece, SealedGeneration, SeriesCopy, place, row_at};
use quorate_chunk::{Chunk, cut_buffer};
use quorate_model::failpoint;
use quorate_model::{Labels, METRIC_NAME, PartitionId, SeriesBuffer, TenantId, TimeRange};
use std::collections::BTreeMap;

/// Samples of a chunk that is encoded anew.
const CHUNK_SAMPLES: usize = 480;
/// Rows whose labels are read under one lock.
const ROWS_PER_LOCK: usize = 1024;

/// Rows by tenant and metric name: blocks are in this order.
type Metrics = BTreeMap<(TenantId, Option<String>), Vec<u32>>;

/// Writes a generation whose seal is complete. The block exists when its entry is in `cat`.
pub(crate) fn write_block(
    disk: &Disk,
    partition: PartitionId,
    head: &Head,
    sealed: &SealedGeneration,
) -> Result<BlockMeta, StoreError> {
    let window_length_ms = head.length().ms();
    let window_start_ms = sealed.window_start_ms();
    let generation = sealed.generation();
    let spec = BlockSpec {
        id: disk.next_id()?,
        partition,
        window_start_ms,
        window_length_ms,
        tier: Tier::Hour,
        generations: vec![GenerationRef { window_start_ms, window_length_ms, generation }],
    };
    let mut writer = BlockWriter::new(disk.kv().as_ref(), spec)?;
    let hidden = head.hidden();
    let mut series = SeriesChunks::default();
    for ((tenant, _), rows) in metrics(head, sealed) {
        for (labels, row) in sorted(head, &rows) {
            let chunks = series.of(sealed, row, floor(&hidden, tenant))?;
            if !chunks.is_empty() {
                writer.push(tenant, &labels, chunks)?;
            }
        }
    }
    failpoint::hit("flush.before_ingest");
    writer.finish()
}

fn floor(hidden: &Hidden, tenant: TenantId) -> TimeRange {
    TimeRange::new(hidden.floor_ms(tenant), i64::MAX)
}

fn metrics(head: &Head, sealed: &SealedGeneration) -> Metrics {
    let mut metrics = Metrics::new();
    for number in 0..head.stripes().len() {
        let within = sealed.part(number).map(|part| part.rows()).unwrap_or_default();
        for some in within.chunks(ROWS_PER_LOCK) {
            let index = head.index().read();
            let name = index.symbols().find(METRIC_NAME);
            for row in some.iter().map(|within| row_at(number, *within)) {
                let metric = name.map(|name| index.value(row, name)).filter(|metric| !metric.is_empty());
                metrics.entry((index.tenant(row), metric.map(str::to_owned))).or_default().push(row);
            }
        }
    }
    metrics
}

fn sorted(head: &Head, rows: &[u32]) -> Vec<(Labels, u32)> {
    let mut series = Vec::with_capacity(rows.len());
    for some in rows.chunks(ROWS_PER_LOCK) {
        let index = head.index().read();
        series.extend(some.iter().map(|row| (index.labels(*row), *row)));
    }
    series.sort_unstable_by(|a, b| series_order(&a.0, &b.0));
    series
}

/// Makes the chunks of one series after the other, reusing memory.
#[derive(Default)]
struct SeriesChunks {
    copy: SeriesCopy,
    samples: SeriesBuffer,
    chunks: Vec<Chunk>,
}

impl SeriesChunks {
    fn of(
        &mut self,
        sealed: &SealedGeneration,
        row: u32,
        visible: TimeRange,
    ) -> Result<&[Chunk], StoreError> {
        self.chunks.clear();
        let (stripe, within) = place(row);
        let Some(part) = sealed.part(stripe) else { return Ok(&self.chunks) };
        if visible.start_ms <= sealed.window_start_ms() && part.copy_in_order(within, &mut self.chunks) {
            return Ok(&self.chunks);
        }
        self.chunks.clear();
        self.copy.clear();
        part.copy(within, visible, sealed.generation(), &mut self.copy);
        let mut pieces: Vec<_> = self.copy.pieces().collect();
        pieces.sort_unstable_by_key(|(_, first_ts, _)| *first_ts);
        let mut gather = Gather::new(visible, &mut self.samples);
        for (rank, _, piece) in pieces {
            match piece {
                Piece::Chunk(chunk) => gather.chunk(rank, chunk, &[])?,
                Piece::Run(samples) => gather.samples(rank, samples, &[]),
                Piece::Open(_) => unreachable!("a sealed window has no open chunk"),
            }
        }
        gather.finish();
        cut_buffer(&self.samples, CHUNK_SAMPLES, &mut self.chunks)?;
        Ok(&self.chunks)
    }
}
