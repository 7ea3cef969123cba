//! The store of one partition: the one door to its head, blocks, images and series log.
//!
//! Knows how the parts fit. Does not know the log, limits or clocks: times and records are given.
//! Path: `ingest::applier` -> `apply`; `query` -> `select`; the node's background -> `flush`, `cut_image`, `merge`,
//! `retain`. P1: `apply` has one caller at a time, `select` any number, background work runs beside both.
//! P2: after `open` the state is that of the durable image; the caller replays the log from `applied` on and
//! serves no query before it has reached what was committed.

use crate::background::{Background, FlushReport, image_path};
use crate::cat::{self, ImagePointer};
use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::durable::remove_if_there;
use crate::error::{ApplyError, StoreError};
use crate::head::{ApplyOutcome, Head, WindowLength};
use crate::image;
use crate::image_file;
use crate::marks::Marks;
use crate::meter::ReadMeter;
use crate::retention::{self, Pace};
use crate::selection::{PartitionSelection, SelectLimits, Wanted};
use crate::series_file::SeriesFile;
use crate::series_log::{self, SeriesEntry};
use crate::snapshot;
use crate::store_block::StoreBlock;
use crate::uses::Use;
use crate::view::Views;
use quorate_model::{
    FlushMark, LogRecord, Matcher, PartitionId, Position, TenantId, TimeRange, create_dir_durable,
};
use std::path::Path;
use std::sync::Arc;

/// See the module header.
#[derive(Debug)]
pub struct PartitionStore {
    partition: PartitionId,
    config: StoreConfig,
    pub(crate) head: Arc<Head>,
    pub(crate) views: Arc<Views>,
    series: Arc<SeriesFile>,
    pub(crate) background: Background,
    marks: Marks,
    pace: Pace,
}

impl PartitionStore {
    /// Opens a partition: its blocks, its newest image and the series log. `dir` belongs to it alone and is made
    /// if it is missing; files in it that `cat` does not point to are removed.
    ///
    /// # Errors
    /// [`StoreError`] if anything that `cat` lists cannot be read whole; [`StoreError::InUse`] while an install
    /// replaces the state.
    pub fn open(
        disk: &Arc<Disk>,
        dir: &Path,
        partition: PartitionId,
        config: StoreConfig,
    ) -> Result<Self, StoreError> {
        create_dir_durable(dir).map_err(|e| StoreError::file(dir, e))?;
        let hold = Arc::new(disk.uses().hold(partition, Use::Store)?);
        let manifest = cat::read(disk.kv().as_ref(), partition)?;
        quorate_model::failpoint::hit("start.after_cat");
        let open = |meta| StoreBlock::open(disk, &hold, meta);
        let mut blocks = manifest.blocks.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        blocks.sort_by_key(|b| (b.window().start_ms, b.meta().id()));
        let views = Arc::new(Views::new(blocks));
        let head = Arc::new(Head::new(WindowLength::new(config.window_ms), Arc::clone(&views)));
        let entries = match &manifest.image {
            Some(pointer) => load_image(dir, partition, pointer, &head, &views)?,
            None => 0,
        };
        remove_unlisted(dir, manifest.image.as_ref())?;
        snapshot::remove_if_obsolete(dir, manifest.image.as_ref())?;
        let series = Arc::new(SeriesFile::new(dir, manifest.image, entries));
        let parts = (Arc::clone(&head), Arc::clone(&views), Arc::clone(&series));
        let background = Background::new(Arc::clone(disk), partition, dir, parts, manifest.image, hold);
        Ok(Self {
            partition,
            config,
            head,
            views,
            series,
            background,
            marks: Marks::default(),
            pace: Pace::default(),
        })
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The last applied position; right after `open` that of the durable image.
    pub fn applied(&self) -> Position {
        self.head.applied()
    }

    /// Position of the last durable image: the log may be trimmed up to it.
    pub fn durable(&self) -> Position {
        self.background.durable()
    }

    /// When the last durable image was written, in ms since 1970 by the clock of its file system; without an image, when the
    /// folder was made.
    ///
    /// # Errors
    /// [`StoreError`] if the file system does not tell.
    pub fn image_written_ms(&self) -> Result<i64, StoreError> {
        self.background.image_written_ms()
    }

    /// Applies the record at `position`. A position at or below `applied` changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`] if the log and the state do not fit. Apply has stopped then; see there.
    pub fn apply(&self, position: Position, record: &LogRecord) -> Result<ApplyOutcome, ApplyError> {
        self.head.apply(position, record, &|pending, freed| {
            self.series.meanings(pending, freed).map_err(|error| error.to_string())
        })
    }

    /// Goes on behind `position` without applying anything: what stands there is no record, which every replica finds.
    ///
    /// # Errors
    /// [`ApplyError`] if apply has stopped.
    pub fn pass(&self, position: Position) -> Result<(), ApplyError> {
        self.head.pass(position)
    }

    /// Remembers, over a restart too, the CRC-32C of the log's entry at a position that was applied: by it is told whether the
    /// log still holds that entry.
    pub fn note_entry(&self, position: Position, crc: u32) {
        self.head.note_entry(position, crc);
    }

    /// Position and CRC-32C of the last entry that was noted; right after `open` that of the durable image.
    pub fn last_entry(&self) -> Option<(Position, u32)> {
        self.head.last_entry()
    }

    /// Goes on behind `to`, for good without what stands before it and was not applied. Samples behind it and up to `forgiven`
    /// of series which were defined there are lost and counted; the state keeps that, as do those that are made of it.
    ///
    /// # Errors
    /// [`ApplyError`] if apply has stopped.
    pub fn skip(&self, to: Position, forgiven: Position) -> Result<(), ApplyError> {
        self.head.skip(to, forgiven)
    }

    /// The highest epoch of a builder that was applied.
    pub fn builder_epoch(&self) -> u32 {
        self.head.builder_epoch()
    }

    /// The marks that a leader should propose at cluster time `now_ms`: for windows that ended a while ago, for
    /// late samples that are many or have waited long, and for the window with most samples out of order if those
    /// are over the late budget. Proposing more or fewer changes cost only.
    pub fn marks_due(&self, now_ms: i64) -> Vec<FlushMark> {
        self.marks.due(&self.head, &self.config, now_ms)
    }

    /// The retention marks that a leader should propose: a floor for each tenant, at a window border, that lies
    /// above the one in force. `retention_ms` gives a tenant's retention, 0 for ever. A floor does not follow
    /// `now_ms` further than the data proves; see the module `retention`.
    pub fn retention_due(&self, now_ms: i64, retention_ms: impl Fn(TenantId) -> i64) -> Vec<(TenantId, i64)> {
        let (hidden, length) = (self.head.hidden(), self.head.length());
        let data = self.data_ranges();
        let (mut due, mut held) = (Vec::new(), 0);
        for tenant in self.tenants() {
            let (retention, in_force) = (retention_ms(tenant), hidden.floor_ms(tenant));
            let wanted = length.start_of(now_ms.saturating_sub(retention));
            let proven = retention::proven(&data, in_force);
            let Some(proven) = proven.filter(|_| retention > 0 && wanted > in_force) else { continue };
            let last_window = length.range_of(length.start_of(proven.end_ms));
            let seen_ms = now_ms.min(last_window.end_ms.saturating_add(1));
            let mut floor = length.start_of(seen_ms.saturating_sub(retention));
            if floor < wanted {
                let step = length.start_of(in_force.max(proven.start_ms)).saturating_add(length.ms());
                if self.pace.step(tenant, now_ms, length.ms()) {
                    floor = floor.max(step.min(wanted));
                }
                held = held.max(wanted.saturating_sub(floor.max(in_force)));
            } else {
                self.pace.forget(tenant);
            }
            if floor > in_force {
                due.push((tenant, floor));
            }
        }
        // A tenant that has stopped writing is a window behind now and then.
        if held > 2 * length.ms() {
            tracing::warn!(
                partition = %self.partition, now_ms, held_ms = held,
                "the clock is ahead of the data; retention follows it one window at a time"
            );
        }
        due
    }

    /// First visible time of a tenant: samples before it would be hidden as soon as they are written. `i64::MIN`
    /// if there is no such time.
    pub fn floor_ms(&self, tenant: TenantId) -> i64 {
        self.head.hidden().floor_ms(tenant)
    }

    /// Times of blocks and of windows that are not in blocks yet, by start.
    fn data_ranges(&self) -> Vec<TimeRange> {
        let mut ranges: Vec<TimeRange> = {
            let writer = self.head.writer().lock();
            let unflushed = writer.windows.iter().filter(|(_, state)| state.has_data);
            unflushed.map(|(start, _)| self.head.length().range_of(*start)).collect()
        };
        let view = self.views.pin();
        ranges.extend(view.sealed().iter().map(|s| self.head.length().range_of(s.window_start_ms())));
        ranges.extend(view.blocks().iter().map(|block| block.meta().range()));
        ranges.sort_unstable_by_key(|range| range.start_ms);
        ranges
    }

    /// Writes sealed generations as blocks and publishes them.
    ///
    /// # Errors
    /// [`StoreError`]; what was published stays, the rest waits for the next call.
    pub fn flush(&self) -> Result<FlushReport, StoreError> {
        self.background.flush()
    }

    /// Cuts an image of the state between two records and makes it durable. Gives its position, which
    /// [`PartitionStore::durable`] then shows. Apply waits while the state is copied.
    ///
    /// # Errors
    /// [`StoreError`]; the image before stays the durable one.
    pub fn cut_image(&self) -> Result<Position, StoreError> {
        self.background.cut_image()
    }

    /// Merges blocks: the days that are over, and windows with many generations. May run beside the other background
    /// work. Gives the number of merges.
    ///
    /// # Errors
    /// [`StoreError`]; the inputs of an unfinished merge stay.
    pub fn merge(&self, now_ms: i64) -> Result<u64, StoreError> {
        self.background.merge(now_ms, self.config.close_delay_ms)
    }

    /// Drops the blocks that lie below the floors of all their tenants. Gives their number. Does not wait for a merge,
    /// which drops them too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn retain(&self) -> Result<u64, StoreError> {
        self.background.retain()
    }

    /// Forgets the series without unflushed samples whose newest sample is before `before_ms`: memory only, they
    /// stay readable from blocks. Gives their number.
    pub fn free_idle(&self, before_ms: i64) -> u64 {
        self.head.free_idle(before_ms)
    }

    /// Lets background work that may take long end early, now and from now on: the store is to be closed. What a
    /// merge has written is given up, its inputs stay.
    pub fn stop_background(&self) {
        self.background.stop();
    }

    /// Memory of late samples and of those that came out of order, in bytes.
    pub fn late_bytes(&self) -> u64 {
        self.marks.late_bytes(&self.head)
    }

    /// Whether [`PartitionStore::late_bytes`] is more than twice the late budget: marks do not keep up, and writes
    /// should wait. Takes no lock; what came for old windows since the last look for marks is not in it yet.
    pub fn is_over_late_budget(&self) -> bool {
        self.marks.is_over_twice(&self.head, &self.config)
    }

    /// The series that pass every matcher and may have samples in `range`. `meter` is charged with what the
    /// selection holds.
    ///
    /// # Errors
    /// [`StoreError::TooManySeries`] over the limit, [`StoreError::Stopped`] when `meter` objects; else if a block
    /// cannot be read.
    pub fn select(
        &self,
        tenant: TenantId,
        matchers: &[Matcher],
        range: TimeRange,
        limits: SelectLimits,
        meter: &dyn ReadMeter,
    ) -> Result<PartitionSelection, StoreError> {
        let wanted = Wanted { tenant, matchers, range, limits, meter };
        PartitionSelection::new(&self.head, &self.views, &wanted)
    }
}

/// Fills the head from the durable image. Gives the number of entries in its series log.
fn load_image(
    dir: &Path,
    partition: PartitionId,
    pointer: &ImagePointer,
    head: &Head,
    views: &Views,
) -> Result<u64, StoreError> {
    let sections = image_file::read(&image_path(dir, pointer.image), partition, pointer.position)?;
    let mut entries = 0;
    image::load(head, views, &sections, |visit| {
        let path = SeriesFile::path(dir, pointer.series_log);
        series_log::read(&path, pointer.series_log_len, &mut |entry: SeriesEntry| {
            entries += 1;
            visit(entry);
        })
    })?;
    head.set_applied(pointer.position);
    Ok(entries)
}

fn remove_unlisted(dir: &Path, image: Option<&ImagePointer>) -> Result<(), StoreError> {
    let listed = image.map(|i| [image_path(dir, i.image), SeriesFile::path(dir, i.series_log)]);
    let failed = |e| StoreError::file(dir, e);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = name.starts_with("image-") || name.starts_with("series-");
        if is_ours && !listed.as_ref().is_some_and(|l| l.contains(&path)) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}
