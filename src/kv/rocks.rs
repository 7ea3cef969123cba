//! The real store: one RocksDB per data disk with a column family per [`Cf`].
//!
//! Knows RocksDB's options and error texts; the only file of the project that does. Bulk families get sorted
//! files by ingest and are never compacted: their content is rewritten by our own merges. Every other write
//! goes through one log, synced when asked. Blocks the calling thread; never call it on an async runtime.

mod mark;
mod options;

use crate::{Cf, Change, Durability, Ingest, KeyRange, Kv, KvError, KvRead, Visitor, WriteBatch};
use quorate_model::create_dir_durable;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, IngestExternalFileOptions, ReadOptions,
    SstFileWriter, WriteOptions,
};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use options::KvOptions;

/// Folder inside the data directory where sorted runs are written before they are ingested.
const RUN_DIR: &str = "runs";

/// A [`Kv`] on RocksDB.
pub struct RocksKv {
    db: DB,
    path: PathBuf,
    families: options::Families,
    mark: mark::SyncedMark,
    next_run: AtomicU64,
}

impl std::fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksKv").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Bytes that a store uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvUsage {
    /// Memory of the block cache, memtables included.
    pub cache_bytes: u64,
    /// Memory of memtables.
    pub memtable_bytes: u64,
    /// Memory of open tables outside the cache.
    pub reader_bytes: u64,
    /// Live files on disk, the log not included.
    pub disk_bytes: u64,
}

impl RocksKv {
    /// Opens the store in `path`, creating it if it is not there, and checks that it runs with the options
    /// it was given.
    ///
    /// # Errors
    /// [`KvError::Locked`] if somebody else has it open; [`KvError::Corrupt`] if its log or manifest is
    /// damaged in the middle; [`KvError::Options`]; [`KvError::Full`]: even opening needs some space.
    pub fn open(path: &Path, options: &KvOptions) -> Result<Self, KvError> {
        let runs = path.join(RUN_DIR);
        create_dir_durable(&runs).map_err(|e| file_error(&runs, &e))?;
        let families = options::Families::new(options);
        let descriptors =
            Cf::ALL.map(|cf| ColumnFamilyDescriptor::new(cf.name(), families.options(cf).clone()));
        let db =
            DB::open_cf_descriptors(families.db(), path, descriptors).map_err(|e| open_error(path, &e))?;
        options::check_effective(path, options)?;
        clear_runs(&runs)?;
        let mark = mark::SyncedMark::open(path)?;
        mark.check(db.latest_sequence_number())?;
        Ok(Self { db, path: path.to_owned(), families, mark, next_run: AtomicU64::new(0) })
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in use, for budgets and metrics.
    ///
    /// # Errors
    /// [`KvError::Io`].
    pub fn usage(&self) -> Result<KvUsage, KvError> {
        Ok(KvUsage {
            cache_bytes: self.property(Cf::Page, "rocksdb.block-cache-usage")?,
            memtable_bytes: self.property_sum("rocksdb.cur-size-all-mem-tables")?,
            reader_bytes: self.property_sum("rocksdb.estimate-table-readers-mem")?,
            disk_bytes: self.property_sum("rocksdb.live-sst-files-size")?,
        })
    }

    fn property(&self, cf: Cf, name: &str) -> Result<u64, KvError> {
        let value = self.db.property_int_value_cf(self.cf(cf), name).map_err(|e| kv_error(&e))?;
        Ok(value.unwrap_or(0))
    }

    fn property_sum(&self, name: &str) -> Result<u64, KvError> {
        Cf::ALL.iter().map(|cf| self.property(*cf, name)).sum()
    }

    fn cf(&self, cf: Cf) -> &ColumnFamily {
        self.db.cf_handle(cf.name()).expect("every family is opened at start")
    }

    /// Writes a batch and, if it is synced, raises the mark to what is then durable for certain.
    ///
    /// Numbers are given in the order of the log, so this batch ends at least its length behind what was
    /// visible before, whatever others write meanwhile. An error says that the batch itself failed: what comes
    /// after it never makes a batch that is there look refused.
    fn commit(&self, batch: rocksdb::WriteBatch, synced: bool) -> Result<(), KvError> {
        let sequence = self.db.latest_sequence_number() + batch.len() as u64;
        self.db.write_opt(batch, &write_options(synced)).map_err(|e| kv_error(&e))?;
        if synced {
            self.mark.raise(sequence);
        }
        Ok(())
    }

    fn is_empty(&self, cf: Cf, range: &KeyRange) -> Result<bool, KvError> {
        let mut empty = true;
        self.scan(cf, range, &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// The exclusive end of a range, or a key behind the last one of the family.
    fn end_of(&self, cf: Cf, range: &KeyRange) -> Result<Option<Vec<u8>>, KvError> {
        if let Some(end) = range.end() {
            return Ok(Some(end.to_vec()));
        }
        let mut iterator = self.db.raw_iterator_cf(self.cf(cf));
        iterator.seek_to_last();
        let last = iterator.key().map(|key| [key, &[0]].concat());
        iterator.status().map_err(|e| kv_error(&e))?;
        Ok(last)
    }
}

impl KvRead for RocksKv {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get_cf(self.cf(cf), key).map_err(|e| kv_error(&e))
    }

    fn scan(&self, cf: Cf, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError> {
        if range.is_empty() {
            return Ok(());
        }
        walk(self.db.raw_iterator_cf_opt(self.cf(cf), read_options(range)), range, visit)
    }
}

impl Kv for RocksKv {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), KvError> {
        batch.check()?;
        let mut out = rocksdb::WriteBatch::default();
        for (cf, change) in batch.changes() {
            let handle = self.cf(*cf);
            match change {
                Change::Put { key, value } => out.put_cf(handle, key, value),
                Change::Delete { key } => out.delete_cf(handle, key),
                Change::DeleteRange { start, end } if start < end => {
                    out.delete_range_cf(handle, start, end);
                }
                Change::DeleteRange { .. } => {}
            }
        }
        self.commit(out, durability == Durability::Synced)
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingest + '_>, KvError> {
        if !cf.is_bulk() {
            return Err(KvError::NotBulk { cf });
        }
        let number = self.next_run.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(RUN_DIR).join(format!("{}-{number}.sst", cf.name()));
        let writer = SstFileWriter::create(self.families.options(cf));
        let run = RocksIngest { kv: self, cf, path, writer: Some(writer), last: None, bytes: 0 };
        Ok(Box::new(run))
    }

    fn drop_range(&self, cf: Cf, range: &KeyRange) -> Result<(), KvError> {
        if !cf.is_bulk() {
            return Err(KvError::NotBulk { cf });
        }
        let Some(end) = self.end_of(cf, range)? else { return Ok(()) };
        if range.start() >= end.as_slice() {
            return Ok(());
        }
        // RocksDB counts a file whose last key is `end` as inside the range; ours ends before it.
        if self.get(cf, &end)?.is_none() {
            let dropped = self.db.delete_file_in_range_cf(self.cf(cf), range.start(), end.as_slice());
            dropped.map_err(|e| kv_error(&e))?;
        }
        if self.is_empty(cf, &KeyRange::new(range.start(), end.clone()))? {
            return Ok(());
        }
        let handle = self.cf(cf);
        self.db
            .delete_range_cf_opt(handle, range.start(), &end, &write_options(true))
            .map_err(|e| kv_error(&e))
    }
}

/// The only loop over an iterator: it cannot end without asking for the status (K4).
fn walk(mut iterator: DBRawIterator<'_>, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), KvError> {
    iterator.seek(range.start());
    while let Some((key, value)) = iterator.item() {
        if visit(key, value).is_break() {
            break;
        }
        iterator.next();
    }
    iterator.status().map_err(|e| kv_error(&e))
}

fn read_options(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    if let Some(end) = range.end() {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn write_options(synced: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(synced);
    options
}

struct RocksIngest<'a> {
    kv: &'a RocksKv,
    cf: Cf,
    path: PathBuf,
    writer: Option<SstFileWriter<'a>>,
    /// The newest key; `None` until the file is begun.
    last: Option<Vec<u8>>,
    bytes: u64,
}

impl RocksIngest<'_> {
    fn begin_or_check(&mut self, key: &[u8]) -> Result<(), KvError> {
        let Some(writer) = &self.writer else {
            return Err(KvError::Io { detail: "the sorted run failed before".to_owned() });
        };
        match &self.last {
            Some(last) if last.as_slice() >= key => {
                Err(KvError::OutOfOrder { cf: self.cf, key: key.to_vec() })
            }
            Some(_) => Ok(()),
            None => writer.open(&self.path).map_err(|e| kv_error(&e)),
        }
    }
}

impl Ingest for RocksIngest<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.begin_or_check(key)?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if let Err(error) = writer.put(key, value) {
            self.writer = None;
            return Err(kv_error(&error));
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(mut self: Box<Self>) -> Result<(), KvError> {
        let Some(mut writer) = self.writer.take() else {
            return Err(KvError::Io { detail: "the sorted run failed before".to_owned() });
        };
        if self.last.is_none() {
            return Ok(());
        }
        // Finishing syncs the file; ingesting moves it in, syncs the directory and the manifest.
        writer.finish().map_err(|e| kv_error(&e))?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let (db, cf) = (&self.kv.db, self.kv.cf(self.cf));
        db.ingest_external_file_cf_opts(cf, &options, vec![&self.path]).map_err(|e| kv_error(&e))
    }
}

impl Drop for RocksIngest<'_> {
    fn drop(&mut self) {
        self.writer = None;
        if self.last.is_some() {
            // Gone already after an ingest; what stays behind is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the runs that a crash left behind. Called with the store's lock held.
fn clear_runs(runs: &Path) -> Result<(), KvError> {
    for entry in fs::read_dir(runs).map_err(|e| file_error(runs, &e))? {
        let path = entry.map_err(|e| file_error(runs, &e))?.path();
        fs::remove_file(&path).map_err(|e| file_error(&path, &e))?;
    }
    Ok(())
}

fn file_error(path: &Path, error: &std::io::Error) -> KvError {
    let detail = format!("{}: {error}", path.display());
    if error.kind() == std::io::ErrorKind::StorageFull {
        return KvError::Full { detail };
    }
    KvError::Io { detail }
}

fn open_error(path: &Path, error: &rocksdb::Error) -> KvError {
    let detail = error.as_ref();
    if detail.contains("lock hold by current process") || detail.contains("While lock file") {
        return KvError::Locked { path: path.to_owned(), detail: detail.to_owned() };
    }
    match kv_error(error) {
        KvError::Corrupt { detail, .. } => KvError::Corrupt { place: path.display().to_string(), detail },
        other => other,
    }
}

fn kv_error(error: &rocksdb::Error) -> KvError {
    let detail = error.as_ref().to_owned();
    if detail.contains("No space left on device") {
        return KvError::Full { detail };
    }
    match error.kind() {
        rocksdb::ErrorKind::Corruption => KvError::Corrupt { place: "store".to_owned(), detail },
        _ => KvError::Io { detail },
    }
}

#[cfg(test)]
mod tests;
