//! Three nodes under load, one of which has a disk that is slow, hangs or fails: writes go on, a node whose log cannot
//! be written ends, and nothing is lost, doubled or invented.

use super::bad_links::{PACE, time_writes};
use super::kills::report;
use super::probe::Probe;
use super::three_nodes::{
    LIMIT, assert_is_back, assert_recovers, check_everywhere, lacks, setup, start_load_at,
};
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::disk::{self, Disks, Fault};
use quorate_cluster_tests::harness::wait_for;
use quorate_cluster_tests::ledger::Team;
use quorate_model::{Clock, SystemClock};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const NODES: usize = 3;
/// The log of a node, in its data dir.
const LOG: &str = "/log/";
const SLOW_SYNC: Duration = Duration::from_millis(20);
const SLOW_DISK_BAR: Duration = Duration::from_secs(2);
const HANG: Duration = Duration::from_secs(12);
const SIGABRT: i32 = 6;
/// From the first failed write or sync of the log until its process has ended.
const END_BAR: Duration = Duration::from_secs(5);

#[test]
fn a_slow_disk_stops_no_writes() {
    let Some((cluster, team, disks)) = start("a_slow_disk_stops_no_writes") else { return };
    let (probe, node) = (Probe::new(), cluster.busiest(None));
    disks.set(node, &data(node), Fault::SlowSync(SLOW_SYNC));
    let slowest = time_writes(&cluster, &probe, cluster.others(node)[0], "a disk with syncs of 20 ms");
    assert!(slowest <= SLOW_DISK_BAR, "a write took {slowest:?}");
    assert!(disks.hits(node) > 3, "the fault did not happen");
    disks.heal(node);
    check_everywhere(&cluster, &team.finish(), "after a slow disk");
}

#[test]
fn a_disk_that_hangs_stops_no_writes_for_long() {
    let Some((cluster, team, disks)) = start("a_disk_that_hangs_stops_no_writes_for_long") else { return };
    let (probe, node) = (Probe::new(), cluster.busiest(None));
    let begin = SystemClock.instant();
    assert_recovers("a disk that hangs", &team, || disks.set(node, &data(node), Fault::Hang));
    let before = team.acknowledged();
    wait_for("the length of the fault", LIMIT, || (begin.elapsed() >= HANG).then_some(()));
    let meanwhile = team.acknowledged() - before;
    report(&format!("a disk that hangs: {meanwhile} samples acknowledged in the rest of {HANG:?}"));
    assert!(meanwhile > 0, "the load stands still");
    assert!(disks.hits(node) > 0, "the fault did not happen");
    disks.heal(node);
    assert_is_back("a disk that hung", &cluster, &probe, node);
    check_everywhere(&cluster, &team.finish(), "after a disk that hung");
}

#[test]
fn a_log_that_cannot_be_written_ends_its_node_alone() {
    let Some((mut cluster, team, disks)) = start("a_log_that_cannot_be_written_ends_its_node_alone") else {
        return;
    };
    for fault in [Fault::FailedSync, Fault::TornWrite, Fault::Full] {
        let node = cluster.busiest(None);
        assert_recovers(&format!("{fault:?} of a log"), &team, || {
            disks.set(node, LOG, fault);
            let process = cluster.process(node);
            let status = process.wait(END_BAR);
            assert_eq!(status.signal(), Some(SIGABRT), "{fault:?}: {status}");
            assert!(process.output().contains("the process ends now"), "{fault:?}: it does not say why");
        });
        assert!(disks.hits(node) > 0, "{fault:?} did not happen");
        disks.heal(node);
        cluster.restart(node);
    }
    check_everywhere(&cluster, &team.finish(), "after logs that could not be written");
}

/// All that a node stores.
fn data(node: usize) -> String {
    format!("/n{}/", node + 1)
}

/// A cluster with disks that can go bad, under load; `None` where there are no such disks.
fn start(test: &str) -> Option<(Cluster, Team, Disks)> {
    if lacks(test, disk::available()) {
        return None;
    }
    let disks = Disks::create(NODES);
    let cluster = Cluster::start(disks.under(setup()));
    let team = start_load_at(&cluster, PACE);
    Some((cluster, team, disks))
}
