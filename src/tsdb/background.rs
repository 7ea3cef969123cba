//! The background work of a partition: flush, image, merge and retention.
//!
//! Knows the order of durable steps (C1, C8): data first, synced; then one synced `cat` batch; then the View; old
//! data last. Does not know when it is called. Each step may be the last before a crash.
//! A flush, an image and a merge may run beside each other; two of a kind may not. A write to `cat` whose effect is
//! not known ends the process: only opening the partition again tells what `cat` lists (K5).
//! Path: `partition_store` -> **here** -> `flush`, `image`, `block`.

use crate::block::{self, BlockMeta, MergeHooks, merge};
use crate::cat::{self, ImagePointer};
use crate::disk::Disk;
use crate::durable::{remove_if_there, sync_dir};
use crate::error::StoreError;
use crate::flush::write_block;
use crate::head::{Head, Hidden};
use crate::image;
use crate::image_file;
use crate::merge_policy::{MergePlan, is_expired, plan};
use crate::series_file::SeriesFile;
use crate::store_block::StoreBlock;
use crate::uses::{Hold, Use};
use crate::view::Views;
use parking_lot::Mutex;
use quorate_kv::{Cf, Kv, WriteBatch};
use quorate_model::failpoint;
use quorate_model::{Labels, PartitionId, Position, TenantId, TimeRange};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    flushing: Mutex<()>,
    /// The durable image.
    image: Mutex<Option<ImagePointer>>,
    /// Held by merges and retention: both replace blocks.
    replacing: Mutex<()>,
    stopping: AtomicBool,
    hold: Arc<Hold>,
}

/// The files of the durable image, open: what they hold now stays readable, also when the next image replaces them.
#[derive(Debug)]
pub(crate) struct PinnedImage {
    pub(crate) pointer: ImagePointer,
    pub(crate) image: (PathBuf, File),
    /// Only the first [`ImagePointer::series_log_len`] bytes are valid, and those never change.
    pub(crate) series_log: (PathBuf, File),
}

impl Background {
    pub(crate) fn new(
        disk: Arc<Disk>,
        partition: PartitionId,
        dir: &Path,
        (head, views, series): (Arc<Head>, Arc<Views>, Arc<SeriesFile>),
        image: Option<ImagePointer>,
        hold: Arc<Hold>,
    ) -> Self {
        let durable = AtomicU64::new(image.unwrap_or_default().position.0);
        Self {
            disk,
            partition,
            dir: dir.to_owned(),
            head,
            views,
            series,
            durable,
            flushing: Mutex::default(),
            image: Mutex::new(image),
            replacing: Mutex::default(),
            stopping: AtomicBool::new(false),
            hold,
        }
    }

    /// The store of blocks.
    pub(crate) fn kv(&self) -> &Arc<dyn Kv> {
        self.disk.kv()
    }

    /// Position of the last durable image.
    pub(crate) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    /// Lets work that may take long end early, now and from now on: a merge keeps its inputs.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Writes every complete sealed generation as a block and publishes it.
    pub(crate) fn flush(&self) -> Result<FlushReport, StoreError> {
        let _flushing = self.flushing.lock();
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
        let pointer = self.cut_into(&mut self.image.lock())?;
        Ok(pointer.position)
    }

    /// When the file of the durable image was written, in ms since 1970; without one, when the folder was made.
    pub(crate) fn image_written_ms(&self) -> Result<i64, StoreError> {
        // Held while the file is looked at: the next image removes it.
        let image = self.image.lock();
        let path =
            image.as_ref().map_or_else(|| self.dir.clone(), |image| image_path(&self.dir, image.image));
        let looked = std::fs::metadata(&path).and_then(|found| match image.is_some() {
            true => found.modified(),
            false => found.created().or_else(|_unknown| found.modified()),
        });
        let written = looked.map_err(|error| StoreError::file(&path, error))?;
        let since = written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Pins the durable image; cuts one if there is none.
    pub(crate) fn pin_image(&self) -> Result<PinnedImage, StoreError> {
        // Held until the files are open: the next image removes their names.
        let mut current = self.image.lock();
        let durable = *current;
        let pointer = durable.map_or_else(|| self.cut_into(&mut current), Ok)?;
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(cause) => Err(StoreError::file(&path, cause)),
        };
        let image = open(image_path(&self.dir, pointer.image))?;
        let series_log = open(SeriesFile::path(&self.dir, pointer.series_log))?;
        Ok(PinnedImage { pointer, image, series_log })
    }

    /// One that fails leaves no file, for the next may fail as well, and its number is free: nothing names it.
    fn cut_into(&self, current: &mut Option<ImagePointer>) -> Result<ImagePointer, StoreError> {
        let old = current.unwrap_or_default().image;
        let number = old + 1;
        let mut cut =
            image::cut(&self.head, &self.views, |frames, entries| self.series.take(frames, entries))?;
        failpoint::hit("image.after_cut");
        let written = self.write_image(number, &mut cut);
        if written.is_err() {
            self.series.give_back(&self.head);
            image_file::remove_rest(&image_path(&self.dir, number));
        }
        let pointer = written?;
        *current = Some(pointer);
        self.series.published(&pointer);
        self.durable.store(cut.position.0, Ordering::Release);
        remove_if_there(&image_path(&self.dir, old))?;
        self.series.remove_others(&self.dir, pointer.series_log)?;
        Ok(pointer)
    }

    fn write_image(&self, number: u64, cut: &mut image::Cut) -> Result<ImagePointer, StoreError> {
        let (series_log, series_log_len) = self.series.write(&cut.live_rows)?;
        let (position, path) = (cut.position, image_path(&self.dir, number));
        image_file::write(&path, self.partition, position, cut.finish()?)?;
        sync_dir(&self.dir)?;
        let pointer = ImagePointer { position, image: number, series_log, series_log_len };
        let mut batch = WriteBatch::new();
        batch.put(Cf::Cat, ImagePointer::key(self.partition), pointer.encode());
        cat::commit(self.disk.kv().as_ref(), self.partition, &batch)?;
        failpoint::hit("image.after_cat");
        Ok(pointer)
    }

    /// Merges what the policy picks, one block after the other; before each, what retention drops goes. Gives the
    /// number of merges.
    pub(crate) fn merge(&self, now_ms: i64, close_delay_ms: i64) -> Result<u64, StoreError> {
        let _replacing = self.replacing.lock();
        let mut merges = 0;
        while !self.stopping.load(Ordering::Relaxed) && !self.is_taking() {
            self.drop_expired()?;
            let view = self.views.pin();
            let metas: Vec<&BlockMeta> = view.blocks().iter().map(|b| b.meta()).collect();
            let waiting: Vec<i64> = view.sealed().iter().map(|s| s.window_start_ms()).collect();
            let Some(MergePlan { inputs, spec }) = plan(&metas, &waiting, now_ms - close_delay_ms) else {
                break;
            };
            let inputs: Vec<_> = inputs.into_iter().map(|at| Arc::clone(&view.blocks()[at])).collect();
            let spec = spec.with_id(self.disk.next_id()?);
            let readers: Vec<_> = inputs.iter().map(|b| Arc::clone(b.reader())).collect();
            let mut hooks = Hooks { hidden: self.head.hidden(), stopping: &self.stopping };
            let Some(meta) = merge(self.disk.kv().as_ref(), &readers, spec, &mut hooks)? else {
                break;
            };
            failpoint::hit("merge.after_ingest");
            drop((view, readers));
            if self.is_taking() {
                block::remove(self.disk.kv().as_ref(), meta.id())?;
                break;
            }
            self.publish(Some(meta), &inputs)?;
            merges += 1;
        }
        Ok(merges)
    }

    /// Drops blocks all of whose tenants' floors lie behind them. Gives their number: none while a merge runs, which
    /// does it itself.
    pub(crate) fn retain(&self) -> Result<u64, StoreError> {
        let Some(_replacing) = self.replacing.try_lock() else { return Ok(0) };
        if self.is_taking() { Ok(0) } else { self.drop_expired() }
    }

    /// Whether another state of the partition is on its way, which may count on blocks that are here.
    fn is_taking(&self) -> bool {
        self.disk.uses().is_held(self.partition, Use::Install)
    }

    /// The caller holds `replacing`.
    fn drop_expired(&self) -> Result<u64, StoreError> {
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

    /// Publishes; a block that `cat` then does not list goes again, or every further try would leave another one.
    fn publish(&self, added: Option<BlockMeta>, replaced: &[Arc<StoreBlock>]) -> Result<(), StoreError> {
        let id = added.as_ref().map(BlockMeta::id);
        let published = self.replace(added, replaced);
        if let (Err(_), Some(id)) = (&published, id)
            && let Err(error) = block::remove(self.disk.kv().as_ref(), id)
        {
            tracing::warn!(block = %id, %error, "a block that could not be published stays until the next start");
        }
        published
    }

    /// One synced batch: a block in, replaced blocks out. Then the View. After an error nothing of it is listed.
    fn replace(&self, added: Option<BlockMeta>, replaced: &[Arc<StoreBlock>]) -> Result<(), StoreError> {
        let added = added.map(|meta| StoreBlock::open(&self.disk, &self.hold, meta)).transpose()?;
        let mut batch = WriteBatch::new();
        if let Some(block) = &added {
            batch.put(Cf::Cat, cat::block_key(self.partition, block.meta().id()), block.meta().encode());
        }
        for block in replaced {
            batch.delete(Cf::Cat, cat::block_key(self.partition, block.meta().id()));
        }
        failpoint::hit("publish.before_cat");
        cat::commit(self.disk.kv().as_ref(), self.partition, &batch)?;
        failpoint::hit("publish.after_cat");
        replaced.iter().for_each(|block| block.retire());
        self.views.publish(|old| {
            let is_kept = |b: &&Arc<StoreBlock>| !replaced.iter().any(|r| r.meta().id() == b.meta().id());
            let mut blocks: Vec<_> = old.iter().filter(is_kept).cloned().collect();
            blocks.extend(added);
            blocks.sort_by_key(|b| (b.window().start_ms, b.meta().id()));
            blocks
        });
        Ok(())
    }
}

/// Leaves out of a merge what is deleted or below the floor, and breaks it off when the store is to stop.
struct Hooks<'a> {
    hidden: Arc<Hidden>,
    stopping: &'a AtomicBool,
}

impl MergeHooks for Hooks<'_> {
    fn hidden(&mut self, input: &BlockMeta, tenant: TenantId, labels: &Labels, out: &mut Vec<TimeRange>) {
        let floor = self.hidden.floor_ms(tenant);
        if floor > i64::MIN {
            out.push(TimeRange::new(i64::MIN, floor - 1));
        }
        for tombstone in self.hidden.of(tenant, labels, TimeRange::ALL) {
            tombstone.masks(input, out);
        }
    }

    fn pace(&mut self, _bytes: u64) -> ControlFlow<()> {
        if self.stopping.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Path of an image file.
pub(crate) fn image_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("image-{number:010}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::testing::{floats, mark};
    use crate::{PartitionStore, StoreConfig};
    use quorate_kv::{Durability, Ingest, KeyRange, KvError, KvRead, MemKv, Visitor};

    /// A store that is full for as long as it is told.
    #[derive(Default)]
    struct FullKv {
        inner: MemKv,
        is_full: AtomicBool,
    }

    impl KvRead for FullKv {
        fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            self.inner.get(cf, key)
        }

        fn scan(&self, cf: Cf, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError> {
            self.inner.scan(cf, range, visit)
        }
    }

    impl Kv for FullKv {
        fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), KvError> {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(KvError::Full { detail: "the test says so".into() });
            }
            self.inner.write(batch, durability)
        }

        fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingest + '_>, KvError> {
            self.inner.ingest(cf)
        }

        fn drop_range(&self, cf: Cf, range: &KeyRange) -> Result<(), KvError> {
            self.inner.drop_range(cf, range)
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_that_fails_leaves_no_file_and_takes_no_number() {
        let (kv, dir) = (Arc::new(FullKv::default()), tempfile::tempdir().unwrap());
        let open = || {
            let disk = Disk::open(Arc::clone(&kv) as Arc<dyn Kv>, 1, 1 << 20).unwrap();
            PartitionStore::open(&disk, dir.path(), PartitionId(0), StoreConfig::default()).unwrap()
        };
        let store = open();
        let mut position = 0;
        let mut apply = |record| {
            position += 1;
            store.apply(Position(position), &record).unwrap();
        };
        for (round, files) in
            [["image-0000000001", "series-0000000001"], ["image-0000000002", "series-0000000001"]]
                .into_iter()
                .enumerate()
        {
            let before = names(dir.path());
            apply(floats(&[(round as u32, 5, 1.0)]));
            kv.is_full.store(true, Ordering::Relaxed);
            for _ in 0..3 {
                assert!(store.cut_image().is_err());
                assert_eq!(names(dir.path()), before);
            }
            kv.is_full.store(false, Ordering::Relaxed);
            store.cut_image().unwrap();
            assert_eq!(names(dir.path()), files);
        }
        drop(store);
        assert_eq!(open().applied(), Position(2));
    }

    #[test]
    fn retention_does_not_wait_for_a_merge_and_the_merge_does_its_work() {
        let (kv, dir) = (Arc::new(MemKv::default()), tempfile::tempdir().unwrap());
        let disk = Disk::open(kv as Arc<dyn Kv>, 1, 1 << 20).unwrap();
        let store = PartitionStore::open(&disk, dir.path(), PartitionId(0), StoreConfig::default()).unwrap();
        let floor = quorate_model::RecordBody::RetentionMark {
            tenant: crate::head::testing::TENANT,
            floor_ms: 3_600_000,
        };
        let floor = quorate_model::LogRecord { header: crate::head::testing::header(), body: floor };
        for (position, record) in (1..).zip([floats(&[(0, 5, 1.0)]), mark(0, 0), floor]) {
            store.apply(Position(position), &record).unwrap();
        }
        assert_eq!(store.flush().unwrap().blocks, 1);
        let merging = store.background.replacing.lock();
        assert_eq!(store.retain().unwrap(), 0);
        drop(merging);
        store.merge(0).unwrap();
        assert_eq!(store.stats().blocks, 0);
    }
}
