//! An install that is killed at each durable step leaves the old state or the new one, and can be begun again.

use crate::restart::log;
use crate::snapshot::transfer;
use crate::support::*;
use quorate_kv::{KvOptions, RocksKv};
use quorate_model::{Position, TimeRange, failpoint};
use quorate_tsdb::snapshot::Install;
use quorate_tsdb::{Disk, PartitionStore, StoreConfig, block};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tells the child its folder.
const FOLDER: &str = "QUORATE_TEST_INSTALL";
/// Records that the taker has before.
const BEFORE: usize = 60;

fn giver() -> Node {
    let node = Node::numbered(7);
    node.replay(&log());
    node.store().flush().unwrap();
    node.store().cut_image().unwrap();
    node
}

/// The taker's disk, on RocksDB so that it outlives the process.
fn disk(folder: &Path) -> Arc<Disk> {
    let kv = RocksKv::open(&folder.join("kv"), &KvOptions::default()).unwrap();
    Disk::open(Arc::new(kv), 8, 8 << 20).unwrap()
}

fn open(disk: &Arc<Disk>, folder: &Path) -> PartitionStore {
    PartitionStore::open(disk, &folder.join("p"), PARTITION, StoreConfig::default()).unwrap()
}

fn install(disk: &Arc<Disk>, folder: &Path) {
    let giver = giver();
    let offer = giver.store().offer().unwrap();
    let description = offer.description().clone();
    let mut install = Install::begin(disk, &folder.join("p"), PARTITION, description).unwrap();
    transfer(&offer, &mut install, usize::MAX);
    install.finish().unwrap();
}

#[test]
#[ignore = "a part of an_install_that_is_killed_leaves_the_old_state_or_the_new_one"]
fn child_that_installs() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    install(&disk(&folder), &folder);
}

/// Everything that stands in the partition's folder is named by `cat`, and every block is listed.
fn check_no_rest(disk: &Disk, store: &PartitionStore, folder: &Path, expected_files: usize) {
    let files = std::fs::read_dir(folder.join("p")).unwrap().map(|e| e.unwrap().file_name());
    let files: Vec<_> = files.filter(|name| name != "install").collect();
    assert_eq!(files.len(), expected_files, "{files:?}");
    assert_eq!(block::stored_ids(disk.kv().as_ref()).unwrap().len() as u64, store.stats().blocks);
}

#[track_caller]
fn check_kill(place: &str, nth: usize, is_new: bool) {
    let (log, folder) = (log(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let old = {
        let disk = disk(folder);
        let store = open(&disk, folder);
        for (at, record) in log[..BEFORE].iter().enumerate() {
            store.apply(Position(at as u64 + 1), record).unwrap();
        }
        store.flush().unwrap();
        store.cut_image().unwrap();
        read(&store, TimeRange::ALL)
    };
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "snapshot_crashes::child_that_installs", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(failpoint::VARIABLE, format!("{place}:{nth}"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(stderr.contains(&failpoint::epitaph(place)), "{place}: {stderr}");
    let new = read(giver().store(), TimeRange::ALL);
    {
        let disk = disk(folder);
        let store = open(&disk, folder);
        assert_eq!(store.applied(), Position(if is_new { log.len() } else { BEFORE } as u64), "{place}");
        assert_eq!(read(&store, TimeRange::ALL), if is_new { new.clone() } else { old }, "{place}");
        check_no_rest(&disk, &store, folder, 2);
        assert!(!is_new || !folder.join("p/install").exists());
    }
    let disk = disk(folder);
    install(&disk, folder);
    let store = open(&disk, folder);
    assert_eq!((store.applied(), read(&store, TimeRange::ALL)), (Position(log.len() as u64), new), "{place}");
    check_no_rest(&disk, &store, folder, 2);
    let mut next = Node::numbered(9);
    crate::snapshot::install(&store.offer().unwrap(), &mut next);
    assert_eq!(read(next.store(), TimeRange::ALL), read(&store, TimeRange::ALL), "{place}");
}

#[test]
fn an_install_that_is_killed_leaves_the_old_state_or_the_new_one() {
    for (place, nth, is_new) in [
        ("install.after_sync", 1, false),
        ("install.after_sync", 2, false),
        ("install.after_ingest", 1, false),
        ("install.after_ingest", 2, false),
        ("install.before_cat", 1, false),
        ("install.after_cat", 1, true),
    ] {
        check_kill(place, nth, is_new);
    }
}
