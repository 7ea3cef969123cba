//! Three nodes under load whose links are slow, lossy or worse, come and go, or are missing between two of them:
//! writes go on, and nothing is lost, doubled or invented.

use super::kills::report;
use super::probe::Probe;
use super::three_nodes::{
    LIMIT, RECOVERY_BAR, assert_is_back, assert_recovers, check_everywhere, lacks, setup, start_load_at,
};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::net::{self, Middle};
use quorate_cluster_tests::harness::switch::Rule;
use quorate_cluster_tests::harness::{is_campaign, wait_for};
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

/// Writes that are timed under a fault, one after the other.
const TIMED: usize = 60;
/// How long each may take before it is sent again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Samples a second: a link that loses one frame of twenty has no room for many more.
pub(super) const PACE: u64 = 1_500;
/// The slowest of them, with a round trip of 100 ms to one of the nodes and one frame of twenty lost in each direction.
const SLOW_LINK_BAR: Duration = Duration::from_secs(5);
/// How long a link is cut, and how long it is whole after that.
const FLAP: Duration = Duration::from_secs(1);

#[test]
fn a_slow_and_lossy_link_stops_no_writes() {
    if lacks("a_slow_and_lossy_link_stops_no_writes", net::switch_available()) {
        return;
    }
    let cluster = Cluster::start(Setup { middle: Middle::Switch, ..setup() });
    let (probe, team) = (Probe::new(), start_load_at(&cluster, PACE));
    let node = cluster.busiest(None);
    let slow = Rule { delay: Duration::from_millis(50), loss: 0.05, ..Rule::default() };
    let wild = Rule {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(20),
        loss: 0.01,
        duplicate: 0.05,
        reorder: 0.05,
        corrupt: 0.02,
    };
    for (what, rule) in
        [("a link with a round trip of 100 ms that loses 5 %", slow), ("a link that does everything", wild)]
    {
        cluster.network().shape(node, rule);
        let before = team.acknowledged();
        let slowest = time_writes(&cluster, &probe, cluster.others(node)[0], what);
        assert!(slowest <= SLOW_LINK_BAR, "{what}: a write took {slowest:?}");
        assert!(team.acknowledged() > before, "{what}: the load stands still");
        team.assert_answers_right();
        cluster.network().unshape();
        assert_is_back(what, &cluster, &probe, node);
    }
    let counts = cluster.network().counts();
    report(&format!("frames under a rule: {counts:?}"));
    let each = [counts.delayed, counts.lost, counts.duplicated, counts.reordered, counts.corrupted];
    assert!(each.iter().all(|count| *count > 3), "a fault did not happen: {counts:?}");
    check_everywhere(&cluster, &team.finish(), "after slow and lossy links");
}

#[test]
fn a_link_that_comes_and_goes_stops_no_writes_for_long() {
    if lacks("a_link_that_comes_and_goes_stops_no_writes_for_long", net::available()) {
        return;
    }
    let cluster = Cluster::start(setup());
    let (probe, team) = (Probe::new(), start_load_at(&cluster, PACE));
    let node = cluster.busiest(None);
    let times = if is_campaign() { 30 } else { 10 };
    let (begin, mut longest, mut last) = (SystemClock.instant(), Duration::ZERO, team.acknowledged());
    let mut quiet_since = begin;
    let mut watch = |length: Duration| {
        let start = SystemClock.instant();
        wait_for("the end of a flap", LIMIT, || {
            let now = team.acknowledged();
            if now > last {
                longest = longest.max(quiet_since.elapsed());
                (last, quiet_since) = (now, SystemClock.instant());
            }
            (start.elapsed() >= length).then_some(())
        });
    };
    for _ in 0..times {
        cluster.network().isolate(node);
        watch(FLAP);
        cluster.network().heal();
        watch(FLAP);
    }
    wait_for("writes after the last flap", LIMIT, || (team.acknowledged() > last).then_some(()));
    longest = longest.max(quiet_since.elapsed());
    report(&format!(
        "{times} flaps of {FLAP:?}: the longest time without an acknowledged write is {longest:.1?}"
    ));
    assert!(longest <= RECOVERY_BAR, "no write was acknowledged for {longest:?}");
    assert_is_back("a link that comes and goes", &cluster, &probe, node);
    check_everywhere(&cluster, &team.finish(), "after a link that came and went");
}

#[test]
fn two_nodes_that_see_only_the_third_stop_no_writes_for_long() {
    if lacks("two_nodes_that_see_only_the_third_stop_no_writes_for_long", net::available()) {
        return;
    }
    let cluster = Cluster::start(setup());
    let (probe, team) = (Probe::new(), start_load_at(&cluster, PACE));
    let one = cluster.busiest(None);
    let [other, between] = cluster.others(one)[..] else { panic!("three nodes") };
    assert_recovers("a cut between two of three nodes", &team, || cluster.network().cut(one, other));
    time_writes(&cluster, &probe, between, "the node between two that are cut");
    cluster.network().heal();
    [one, other].into_iter().for_each(|node| assert_is_back("a cut between two", &cluster, &probe, node));
    check_everywhere(&cluster, &team.finish(), "after a cut between two of three nodes");
}

/// Writes through `node`, again until each write is acknowledged; returns how long the slowest one took.
#[track_caller]
pub(super) fn time_writes(cluster: &Cluster, probe: &Probe, node: usize, what: &str) -> Duration {
    let client = cluster.client(node, PATIENCE);
    let timed = |_| {
        let begin = SystemClock.instant();
        let acknowledged = || probe.write(&client).is_ok_and(|answer| answer.is_success()).then_some(());
        wait_for("an acknowledged write", LIMIT, acknowledged);
        begin.elapsed()
    };
    let mut times: Vec<Duration> = (0..TIMED).map(timed).collect();
    times.sort_unstable();
    let (median, slowest) = (times[TIMED / 2], times[TIMED - 1]);
    report(&format!("{what}: {TIMED} writes, p50 {median:.0?}, slowest {slowest:.0?}"));
    slowest
}
