use super::*;
use crate::conformance::{Fixture, check_kv};
use std::process::Command;

/// Set for the child process of [`a_second_process_is_refused`]: the directory that it tries to open.
const CHILD_DIR: &str = "QUORATE_KV_TEST_CHILD_DIR";

fn small() -> KvOptions {
    KvOptions { cache_bytes: 8 << 20, memtable_bytes: 4 << 20, max_open_files: 64, background_jobs: 1 }
}

/// A crash opens a copy of the files as they are, as `kill -9` would leave them.
struct Rocks {
    dirs: Vec<tempfile::TempDir>,
    kv: RocksKv,
}

impl Rocks {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv = RocksKv::open(dir.path(), &small()).unwrap();
        Self { dirs: vec![dir], kv }
    }
}

impl Fixture for Rocks {
    fn kv(&self) -> &dyn Kv {
        &self.kv
    }

    fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.kv.path(), copy.path());
        self.kv = RocksKv::open(copy.path(), &small()).unwrap();
        self.dirs.push(copy);
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_real_store_keeps_the_contract() {
    check_kv(Rocks::new);
}

#[test]
fn a_second_handle_is_refused() {
    let rocks = Rocks::new();
    let second = RocksKv::open(rocks.kv.path(), &small());
    assert!(matches!(second, Err(KvError::Locked { .. })), "{second:?}");
}

#[test]
fn a_second_process_is_refused() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let refused = matches!(RocksKv::open(Path::new(&dir), &small()), Err(KvError::Locked { .. }));
        std::process::exit(if refused { 7 } else { 8 });
    }
    let rocks = Rocks::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rocks::tests::a_second_process_is_refused", "--nocapture"])
        .env(CHILD_DIR, rocks.kv.path())
        .status()
        .unwrap();
    assert_eq!(child.code(), Some(7));
}

#[test]
fn runs_left_by_a_crash_are_removed_at_start() {
    let mut rocks = Rocks::new();
    let mut run = rocks.kv.ingest(Cf::Page).unwrap();
    run.put(b"a", b"1").unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_files(rocks.kv.path(), copy.path());
    drop(run);
    assert_eq!(fs::read_dir(copy.path().join(RUN_DIR)).unwrap().count(), 1);
    rocks.kv = RocksKv::open(copy.path(), &small()).unwrap();
    assert_eq!(fs::read_dir(copy.path().join(RUN_DIR)).unwrap().count(), 0);
    assert_eq!(rocks.kv.get(Cf::Page, b"a").unwrap(), None);
}

#[test]
fn a_damaged_table_is_an_error_and_not_a_short_scan() {
    let dir = tempfile::tempdir().unwrap();
    {
        let kv = RocksKv::open(dir.path(), &small()).unwrap();
        let mut run = kv.ingest(Cf::Page).unwrap();
        for key in 0..100u8 {
            run.put(&[key], &vec![key; 40_000]).unwrap();
        }
        run.finish().unwrap();
    }
    let table = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let table = table
        .filter(|p| p.extension().is_some_and(|x| x == "sst"))
        .max_by_key(|p| p.metadata().unwrap().len());
    let table = table.unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[2_000_000] ^= 1;
    fs::write(&table, bytes).unwrap();
    let kv = RocksKv::open(dir.path(), &small()).unwrap();
    let mut seen = 0;
    let result = kv.scan(Cf::Page, &KeyRange::all(), &mut |_, _| {
        seen += 1;
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(KvError::Corrupt { .. })), "{result:?} after {seen} keys");
    assert!(seen < 100);
}

/// Writes 60 records, the last `unsynced` of them buffered, spoils a copy of the log, and opens it: the number
/// of records that are left.
fn reopen_spoiled(unsynced: u8, spoil: impl Fn(&mut Vec<u8>)) -> Result<usize, KvError> {
    let rocks = Rocks::new();
    for key in 0..60u8 {
        let durability = if key < 60 - unsynced { Durability::Synced } else { Durability::Buffered };
        rocks.kv.write(WriteBatch::new().put(Cf::Cat, vec![key], vec![key; 100]), durability).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    copy_files(rocks.kv.path(), copy.path());
    let logs = fs::read_dir(copy.path()).unwrap().map(|e| e.unwrap().path());
    let log = logs.filter(|p| p.extension().is_some_and(|x| x == "log")).max().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    spoil(&mut bytes);
    fs::write(&log, bytes).unwrap();
    let kv = RocksKv::open(copy.path(), &small())?;
    let mut keys = 0;
    kv.scan(Cf::Cat, &KeyRange::all(), &mut |_, _| {
        keys += 1;
        ControlFlow::Continue(())
    })?;
    Ok(keys)
}

fn cut(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() - 3);
}

fn fill_tail(with: u8) -> impl Fn(&mut Vec<u8>) {
    move |bytes| {
        let from = bytes.len() - 50;
        bytes[from..].fill(with);
        bytes.extend([with; 5_000]);
    }
}

#[test]
fn a_torn_tail_that_was_not_acknowledged_is_dropped() {
    assert_eq!(reopen_spoiled(1, cut), Ok(59));
    assert_eq!(reopen_spoiled(1, fill_tail(0)), Ok(59));
    assert_eq!(reopen_spoiled(1, fill_tail(0xa5)), Ok(59));
    assert_eq!(reopen_spoiled(0, |_| ()), Ok(60));
}

#[test]
fn a_log_that_lost_an_acknowledged_write_is_refused() {
    let flip_middle = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    for lost in [reopen_spoiled(0, cut), reopen_spoiled(0, fill_tail(0)), reopen_spoiled(2, flip_middle)] {
        assert!(matches!(lost, Err(KvError::Corrupt { .. })), "{lost:?}");
    }
}

#[test]
fn usage_counts_what_is_stored() {
    let rocks = Rocks::new();
    let mut run = rocks.kv.ingest(Cf::Page).unwrap();
    run.put(b"a", &vec![1; 100_000]).unwrap();
    run.finish().unwrap();
    let usage = rocks.kv.usage().unwrap();
    assert!(usage.disk_bytes > 100_000, "{usage:?}");
    assert!(usage.memtable_bytes > 0, "{usage:?}");
}
