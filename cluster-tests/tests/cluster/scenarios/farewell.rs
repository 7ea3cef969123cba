//! A node that is told to stop costs nobody a write, nor the time of an election: others lead what it led before it goes.

use super::kills::report;
use super::life::wait_settled;
use super::probe::Probe;
use super::three_nodes::{LIMIT, StopOnDrop, setup};
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::{Answer, Client};
use quorate_cluster_tests::harness::{pause, wait_for};
use quorate_model::{Clock, SystemClock};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Nothing is sent twice, so a writer waits as long as a node may take to find a leader.
const PATIENCE: Duration = Duration::from_secs(20);
/// A write that waits for an election takes 1.7 s and more, one that finds its way to the new leader some 60 ms.
const SLOWEST: Duration = Duration::from_millis(800);
/// Writes at each node that must have begun and ended before the node is told to stop, and after it has.
const WRITES: usize = 20;
/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(5);

/// What the writers at the other nodes saw.
#[derive(Debug, Default)]
struct Told {
    writes: AtomicUsize,
    slowest_ms: AtomicUsize,
    failed: AtomicUsize,
}

#[test]
fn a_node_that_is_told_to_stop_makes_no_write_wait_for_an_election() {
    let (mut cluster, probe) = (Cluster::start(setup()), Probe::new());
    let all = cluster.all().map(|node| node as u64 + 1).collect();
    for node in cluster.all() {
        let others = cluster.others(node);
        wait_settled(&cluster, others[0], &all);
        let led = wait_for("partitions that it leads", LIMIT, || {
            let led = cluster.leaders().into_iter().filter(|leader| *leader == node).count();
            (led > 0).then_some(led)
        });
        let clients = cluster.clients(others, PATIENCE);
        let told = watch_writers(&probe, &clients, || {
            assert!(cluster.terminate(node).success(), "SIGTERM hands over, drains and exits 0");
        });
        let slowest = Duration::from_millis(told.slowest_ms.into_inner() as u64);
        let writes = told.writes.into_inner();
        report(&format!(
            "farewell of n{}, which led {led}: {writes} writes, the slowest {slowest:?}",
            node + 1
        ));
        assert_eq!(told.failed.into_inner(), 0, "writes that were sent once at the other nodes");
        assert!(slowest < SLOWEST, "a write took {slowest:?}");
        cluster.restart(node);
    }
}

/// Writes at all of `clients` while `farewell` runs, and some time before and after.
fn watch_writers(probe: &Probe, clients: &[Client], farewell: impl FnOnce()) -> Told {
    let (told, stop) = (Told::default(), AtomicBool::new(false));
    let counts: Vec<AtomicUsize> = clients.iter().map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for (client, count) in clients.iter().zip(&counts) {
            let (told, stop) = (&told, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    write_once(probe, client, told);
                    count.fetch_add(1, Ordering::Relaxed);
                    pause(PAUSE);
                }
            });
        }
        let more = || {
            let before: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let has_more = || {
                counts.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) >= before + WRITES)
            };
            let begin = SystemClock.instant();
            while !has_more() && begin.elapsed() < LIMIT {
                pause(PAUSE);
            }
        };
        more();
        farewell();
        more();
    });
    told
}

fn write_once(probe: &Probe, client: &Client, told: &Told) {
    let begin = SystemClock.instant();
    let answer = probe.write(client);
    told.slowest_ms.fetch_max(begin.elapsed().as_millis() as usize, Ordering::Relaxed);
    told.writes.fetch_add(1, Ordering::Relaxed);
    if !answer.as_ref().is_ok_and(Answer::is_success) {
        report(&format!("a write at {} failed: {answer:?}", client.base()));
        told.failed.fetch_add(1, Ordering::Relaxed);
    }
}
