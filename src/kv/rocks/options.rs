//! The options that RocksDB runs with: explicit for every family, and read back after opening.
//!
//! RocksDB gives a family default options when it is opened without a descriptor, silently; so what is in
//! effect is read from the OPTIONS file that RocksDB itself writes at each open.

use crate::{Cf, KvError};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options, WriteBufferManager,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Budgets of a [`crate::RocksKv`]. Memory of both kinds is counted in the block cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvOptions {
    /// Memory for blocks, table indexes and memtables together.
    pub cache_bytes: usize,
    /// Share of it that memtables may use before they are written out.
    pub memtable_bytes: usize,
    /// Most table files that are kept open.
    pub max_open_files: i32,
    /// Threads for flushes and compactions of the small families.
    pub background_jobs: i32,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, memtable_bytes: 32 << 20, max_open_files: 4_096, background_jobs: 2 }
    }
}

/// Options of the database and of each family, alive as long as the database.
pub(super) struct Families {
    db: Options,
    families: Vec<Options>,
}

impl Families {
    pub(super) fn new(options: &KvOptions) -> Self {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(
            options.memtable_bytes,
            false,
            cache.clone(),
        );
        let families = Cf::ALL.map(|cf| family_options(cf, options, &cache)).into();
        Self { db: db_options(options, &memtables), families }
    }

    pub(super) fn db(&self) -> &Options {
        &self.db
    }

    pub(super) fn options(&self, cf: Cf) -> &Options {
        &self.families[cf as usize]
    }
}

fn db_options(options: &KvOptions, memtables: &WriteBufferManager) -> Options {
    let mut out = Options::default();
    out.create_if_missing(true);
    out.create_missing_column_families(true);
    out.set_write_buffer_manager(memtables);
    out.set_max_open_files(options.max_open_files);
    out.set_max_background_jobs(options.background_jobs);
    // A power loss leaves a torn tail, which is dropped; the synced mark refuses a log that lost more.
    out.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    out.set_track_and_verify_wals_in_manifest(true);
    out.set_recycle_log_file_num(0);
    out.set_paranoid_checks(true);
    out.set_max_total_wal_size(options.memtable_bytes as u64);
    out.set_keep_log_file_num(4);
    out.set_max_log_file_size(8 << 20);
    out.set_log_level(LogLevel::Warn);
    out.set_stats_dump_period_sec(0);
    out
}

fn family_options(cf: Cf, options: &KvOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table.set_block_size(if cf.is_bulk() { 32 << 10 } else { 8 << 10 });
    let mut out = Options::default();
    out.set_write_buffer_size(write_buffer_bytes(cf, options));
    out.set_max_write_buffer_number(2);
    out.set_compression_type(compression(cf));
    out.set_disable_auto_compactions(cf.is_bulk());
    if cf.is_bulk() {
        // Ingested runs do not overlap and go to the bottom; only range removals pass through level 0.
        out.set_level_zero_slowdown_writes_trigger(1 << 20);
        out.set_level_zero_stop_writes_trigger(1 << 20);
    } else {
        table.set_bloom_filter(10.0, false);
    }
    out.set_block_based_table_factory(&table);
    out
}

/// Pages and rollups are compressed already.
fn compression(cf: Cf) -> DBCompressionType {
    match cf {
        Cf::Page | Cf::Sum => DBCompressionType::None,
        Cf::Idx => DBCompressionType::Zstd,
        Cf::Ex | Cf::Meta | Cf::Del | Cf::Cat | Cf::Ctl => DBCompressionType::Lz4,
    }
}

fn write_buffer_bytes(cf: Cf, options: &KvOptions) -> usize {
    if cf.is_bulk() { 1 << 20 } else { (options.memtable_bytes / 4).clamp(1 << 20, 64 << 20) }
}

/// Compares what RocksDB runs with to what it was given.
pub(super) fn check_effective(path: &Path, options: &KvOptions) -> Result<(), KvError> {
    let file = newest_options_file(path)?;
    let text = fs::read_to_string(&file).map_err(|e| super::file_error(&file, &e))?;
    for cf in Cf::ALL {
        let compression = match compression(cf) {
            DBCompressionType::None => "kNoCompression",
            DBCompressionType::Zstd => "kZSTD",
            _ => "kLZ4Compression",
        };
        let expected = [
            ("write_buffer_size", write_buffer_bytes(cf, options).to_string()),
            ("disable_auto_compactions", cf.is_bulk().to_string()),
            ("compression", compression.to_owned()),
        ];
        for (option, expected) in expected {
            let found = effective(&text, cf, option).unwrap_or("missing");
            if found != expected {
                return Err(KvError::Options { cf, option, expected, found: found.to_owned() });
            }
        }
    }
    Ok(())
}

fn newest_options_file(path: &Path) -> Result<PathBuf, KvError> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(path).map_err(|e| super::file_error(path, &e))? {
        let entry = entry.map_err(|e| super::file_error(path, &e))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("OPTIONS-")).and_then(|n| n.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(best, _)| *best < number)
        {
            newest = Some((number, entry.path()));
        }
    }
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| KvError::Io { detail: format!("no OPTIONS file in {}", path.display()) })
}

/// The value of `option` in the section of a family.
fn effective<'a>(text: &'a str, cf: Cf, option: &str) -> Option<&'a str> {
    let header = format!("[CFOptions \"{}\"]", cf.name());
    text.lines()
        .skip_while(|line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('['))
        .find_map(|line| line.trim().strip_prefix(option)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_the_family_s_own_section() {
        let text = "[CFOptions \"default\"]\n  compression=kSnappy\n[CFOptions \"page\"]\n  compression_opts={}\n  compression=kZSTD\n[CFOptions \"idx\"]\n";
        assert_eq!(effective(text, Cf::Page, "compression"), Some("kZSTD"));
        assert_eq!(effective(text, Cf::Idx, "compression"), None);
    }
}
