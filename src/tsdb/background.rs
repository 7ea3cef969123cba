//! The background work of a partition: flush, image, merge and retention, one at a time.
//!
//! Knows the order of durable steps (C1, C8): data first, synced; then one synced `cat` batch; then the View; old
//! data last. Does not know when it is called. Each step may be the last before a crash.
//! Path: `partition_store` -> **here** -> `flush`, `image`, `block`.

use crate::block::{BlockMeta, MergeHooks, merge};
use crate::cat::{self, ImagePointer};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::flush::write_block;
use crate::head::{Head, Hidden};
use crate::image;
use crate::image_file;
use crate::merge_policy::{MergePlan, is_expired, plan};
use crate::series_file::SeriesFile;
use crate::store_block::StoreBlock;
use crate::view::Views;
use parking_lot::Mutex;
use quorate_kv::{Cf, Durability, WriteBatch};
use quorate_model::failpoint;
use quorate_model::{Labels, PartitionId, Position, TenantId, TimeRange};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a flush wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Blocks published.
    pub blocks: u64,
    /// Series in them.
    pub series: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of their pages and indexes.
    pub bytes: u64,
}

impl FlushReport {
    fn add(&mut self, meta: &BlockMeta) {
        self.blocks += 1;
        self.series += meta.series;
        self.samples += meta.samples;
        self.bytes += meta.page_bytes + meta.idx_bytes;
    }
}

/// See the module header.
#[derive(Debug)]
pub(crate) struct Background {
    disk: Arc<Disk>,
    partition: PartitionId,
    dir: PathBuf,
    head: Arc<Head>,
    views: Arc<Views>,
    series: Arc<SeriesFile>,
    durable: AtomicU64,
    /// Held during each work; the number of the newest image.
    work: Mutex<u64>,
}

impl Background {
    pub(crate) fn new(
        disk: Arc<Disk>,
        partition: PartitionId,
        dir: &Path,
        (head, views, series): (Arc<Head>, Arc<Views>, Arc<SeriesFile>),
        image: Option<ImagePointer>,
    ) -> Self {
        let image = image.unwrap_or_default();
        let durable = AtomicU64::new(image.position.0);
        let work = Mutex::new(image.image);
        Self { disk, partition, dir: dir.to_owned(), head, views, series, durable, work }
    }

    /// Position of the last durable image.
    pub(crate) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    /// Writes every complete sealed generation as a block and publishes it.
    pub(crate) fn flush(&self) -> Result<FlushReport, StoreError> {
        let _work = self.work.lock();
        let mut report = FlushReport::default();
        let mut sealed = self.views.pin().sealed();
        sealed.sort_by_key(|s| (s.window_start_ms(), s.generation()));
        for sealed in sealed.iter().filter(|s| s.is_complete()) {
            let meta = write_block(&self.disk, self.partition, &self.head, sealed)?;
            failpoint::hit("flush.after_ingest");
            report.add(&meta);
            self.publish(Some(meta), &[])?;
        }
        Ok(report)
    }

    /// Cuts an image and makes it durable. Gives its position.
    pub(crate) fn cut_image(&self) -> Result<Position, StoreError> {
        let mut number = self.work.lock();
        let mut cut = image::cut(&self.head, &self.views)?;
        failpoint::hit("image.after_cut");
        let pending = (std::mem::take(&mut cut.frames), cut.entries);
        let written = self.write_image(*number + 1, &cut, pending);
        if written.is_err() {
            self.series.give_back(&self.head);
        }
        let pointer = written?;
        let old = *number;
        *number = pointer.image;
        self.series.published(&pointer);
        self.durable.store(cut.position.0, Ordering::Release);
        remove_if_there(&image_path(&self.dir, old))?;
        self.series.remove_others(&self.dir, pointer.series_log)?;
        Ok(cut.position)
    }

    fn write_image(
        &self,
        number: u64,
        cut: &image::Cut,
        (frames, entries): (Vec<u8>, u64),
    ) -> Result<ImagePointer, StoreError> {
        let (series_log, series_log_len) = self.series.write(frames, entries, &cut.live_rows)?;
        let path = image_path(&self.dir, number);
        image_file::write(&path, self.partition, cut.position, &cut.sections)?;
        sync_dir(&self.dir)?;
        let pointer = ImagePointer { position: cut.position, image: number, series_log, series_log_len };
        let mut batch = WriteBatch::new();
        batch.put(Cf::Cat, ImagePointer::key(self.partition), pointer.encode());
        self.disk.kv().write(&batch, Durability::Synced)?;
        failpoint::hit("image.after_cat");
        Ok(pointer)
    }

    /// Merges what the policy picks, one block after the other. Gives the number of merges.
    pub(crate) fn merge(&self, now_ms: i64, close_delay_ms: i64) -> Result<u64, StoreError> {
        let mut merges = 0;
        loop {
            let _work = self.work.lock();
            let view = self.views.pin();
            let metas: Vec<&BlockMeta> = view.blocks().iter().map(|b| b.meta()).collect();
            let waiting: Vec<i64> = view.sealed().iter().map(|s| s.window_start_ms()).collect();
            let Some(MergePlan { inputs, spec }) = plan(&metas, &waiting, now_ms - close_delay_ms) else {
                return Ok(merges);
            };
            let inputs: Vec<_> = inputs.into_iter().map(|at| Arc::clone(&view.blocks()[at])).collect();
            let spec = spec.with_id(self.disk.next_id()?);
            let readers: Vec<_> = inputs.iter().map(|b| Arc::clone(b.reader())).collect();
            let mut hooks = HiddenHooks(self.head.hidden());
            let Some(meta) = merge(self.disk.kv().as_ref(), &readers, spec, &mut hooks)? else {
                return Ok(merges);
            };
            failpoint::hit("merge.after_ingest");
            drop((view, readers));
            self.publish(Some(meta), &inputs)?;
            merges += 1;
        }
    }

    /// Drops blocks all of whose tenants' floors lie behind them. Gives their number.
    pub(crate) fn retain(&self) -> Result<u64, StoreError> {
        let _work = self.work.lock();
        let hidden = self.head.hidden();
        let view = self.views.pin();
        let expired =
            |block: &&Arc<StoreBlock>| is_expired(block.window(), block.reader().tenants(), &hidden);
        let expired: Vec<_> = view.blocks().iter().filter(expired).cloned().collect();
        drop(view);
        if !expired.is_empty() {
            self.publish(None, &expired)?;
            failpoint::hit("retain.after_cat");
        }
        Ok(expired.len() as u64)
    }

    /// One synced batch: a block in, replaced blocks out. Then the View.
    fn publish(&self, added: Option<BlockMeta>, replaced: &[Arc<StoreBlock>]) -> Result<(), StoreError> {
        let kv = self.disk.kv();
        let added = added.map(|meta| StoreBlock::open(kv, self.disk.cache(), meta)).transpose()?;
        let mut batch = WriteBatch::new();
        if let Some(block) = &added {
            batch.put(Cf::Cat, cat::block_key(self.partition, block.meta().id()), block.meta().encode());
        }
        for block in replaced {
            batch.delete(Cf::Cat, cat::block_key(self.partition, block.meta().id()));
        }
        failpoint::hit("publish.before_cat");
        kv.write(&batch, Durability::Synced)?;
        failpoint::hit("publish.after_cat");
        replaced.iter().for_each(|block| block.retire());
        self.views.publish(|old| {
            let stays = |b: &&Arc<StoreBlock>| !replaced.iter().any(|r| r.meta().id() == b.meta().id());
            let mut blocks: Vec<_> = old.iter().filter(stays).cloned().collect();
            blocks.extend(added);
            blocks.sort_by_key(|b| (b.window().start_ms, b.meta().id()));
            blocks
        });
        Ok(())
    }
}

/// Leaves out of a merge what is deleted or below the floor.
struct HiddenHooks(Arc<Hidden>);

impl MergeHooks for HiddenHooks {
    fn hidden(&mut self, input: &BlockMeta, tenant: TenantId, labels: &Labels, out: &mut Vec<TimeRange>) {
        let floor = self.0.floor_ms(tenant);
        if floor > i64::MIN {
            out.push(TimeRange::new(i64::MIN, floor - 1));
        }
        for tombstone in self.0.of(tenant, labels, TimeRange::ALL) {
            tombstone.masks(input, out);
        }
    }

    fn pace(&mut self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Path of an image file.
pub(crate) fn image_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("image-{number:010}"))
}

/// Makes new and removed names in a directory durable (TR23).
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let sync = || std::fs::File::open(dir)?.sync_all();
    sync().map_err(|e| StoreError::file(dir, e))
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file(path, error)),
        _ => Ok(()),
    }
}
