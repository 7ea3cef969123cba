//! Many partitions without traffic: their groups go to sleep, cost next to nothing, and are awake as soon as they are
//! needed, also when it is the loss of a node that wakes them.

use super::kills::report;
use super::probe::{Probe, Seen};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::{pause, wait_for};
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

/// One group for each, and that of the metadata.
const PARTITIONS: u32 = 128;
/// From the last write until all groups sleep.
const SLEEP_LIMIT: Duration = Duration::from_secs(60);
const MEASURED: Duration = Duration::from_secs(10);
/// Part of a core that a node may take meanwhile; this is no optimised build, and the machine may be busy.
const CPU_BAR: f64 = 0.10;
/// From the loss of a node until a write that began after it is acknowledged.
const RECOVERY_BAR: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);
const READ_LIMIT: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// The unit of processor time in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

#[test]
fn idle_groups_sleep_and_wake_when_a_node_is_lost() {
    let setup = Setup { partitions: PARTITIONS, on_loopback: true, ..Setup::default() };
    let (mut cluster, probe) = (Cluster::start(setup), Probe::new());
    write(&cluster, &probe, &[0, 1, 2]);
    for node in cluster.all() {
        wait_asleep(&cluster, node);
    }
    measure(&mut cluster);

    // A strong read is answered by whoever leads, after asking a majority.
    cluster.all().for_each(|node| read(&cluster, &probe, node));
    cluster.all().for_each(|node| wait_asleep(&cluster, node));

    let lost = cluster.busiest(None);
    let left = cluster.others(lost);
    let begin = SystemClock.instant();
    cluster.kill9(lost);
    write(&cluster, &probe, &left[..1]);
    let took = begin.elapsed();
    cluster.leaders();
    let all = begin.elapsed();
    report(&format!(
        "kill -9 while {PARTITIONS} groups slept: acknowledged writes in {took:.1?}, all led in {all:.1?}"
    ));
    assert!(
        took <= RECOVERY_BAR && all <= RECOVERY_BAR,
        "acknowledged after {took:?}, all led after {all:?}"
    );
    left.iter().for_each(|node| read(&cluster, &probe, *node));

    cluster.restart(lost);
    cluster.all().for_each(|node| read(&cluster, &probe, node));
    cluster.assert_replicas_equal(LIMIT);
    cluster.all().for_each(|node| wait_asleep(&cluster, node));

    // One that stands still is no leader any more when it goes on, asleep as it was.
    let paused = cluster.busiest(None);
    let left = cluster.others(paused);
    cluster.pause(paused);
    write(&cluster, &probe, &left[..1]);
    cluster.resume(paused);
    read(&cluster, &probe, paused);
    cluster.assert_replicas_equal(LIMIT);
}

/// Waits until all groups of a node sleep, by what it tells itself.
#[track_caller]
fn wait_asleep(cluster: &Cluster, node: usize) {
    let client = cluster.client(node, PATIENCE);
    let expected = format!("quorate_raft_groups{{state=\"asleep\"}} {}\n", PARTITIONS + 1);
    wait_for("all groups to sleep", SLEEP_LIMIT, || {
        let answer = client.get("/metrics", &[]).ok()?;
        answer.text().contains(&expected).then_some(())
    });
}

#[track_caller]
fn measure(cluster: &mut Cluster) {
    let pids: Vec<u32> = cluster.all().map(|node| cluster.process(node).pid()).collect();
    let before: Vec<f64> = pids.iter().map(|pid| processor_seconds(*pid)).collect();
    pause(MEASURED);
    for (node, (pid, before)) in pids.into_iter().zip(before).enumerate() {
        let share = (processor_seconds(pid) - before) / MEASURED.as_secs_f64();
        report(&format!(
            "node {}: {:.1} % of a core for {PARTITIONS} groups asleep",
            node + 1,
            share * 100.0
        ));
        assert!(share <= CPU_BAR, "node {} takes {share:.3} of a core", node + 1);
    }
}

/// What a process has had of the processor.
#[track_caller]
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name of the program may hold blanks; it ends with the last parenthesis.
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let ticks = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// Writes the next value through each of `nodes`, again until it is acknowledged: then each partition has taken it.
#[track_caller]
fn write(cluster: &Cluster, probe: &Probe, nodes: &[usize]) {
    for client in cluster.clients(nodes.iter().copied(), PATIENCE) {
        wait_for("an acknowledged write", LIMIT, || {
            let is_there = probe.write(&client).is_ok_and(|answer| answer.is_success());
            if !is_there {
                pause(BETWEEN_TRIES);
            }
            is_there.then_some(())
        });
    }
}

/// A strong read, again until it is answered.
#[track_caller]
fn read(cluster: &Cluster, probe: &Probe, node: usize) {
    let client = cluster.client(node, READ_LIMIT);
    wait_for("an answered strong read", LIMIT, || match probe.read(&client) {
        Seen::Fresh => Some(()),
        Seen::Refused(_) | Seen::NoAnswer => {
            pause(BETWEEN_TRIES);
            None
        }
    });
}
