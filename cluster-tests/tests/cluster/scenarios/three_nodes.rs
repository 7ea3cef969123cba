//! Three nodes under load, and what may happen to one of them: what was acknowledged is there once at each node,
//! no strong read is stale, and the others go on within seconds.

use super::kills::{CONFIG, report};
use super::probe::{Probe, Seen};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup, Status};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::server::READY_LIMIT;
use quorate_cluster_tests::harness::{is_campaign, net, now_ms, pause, skip, wait_for};
use quorate_cluster_tests::ledger::{Ledger, Recovery, Stream, Team, check};
use quorate_model::{Clock, SystemClock};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// From the loss of a node until a write that began after it is acknowledged.
pub(super) const RECOVERY_BAR: Duration = Duration::from_secs(5);
/// From the end of a fault until the node that had it takes writes and answers strong reads.
const HEAL_BAR: Duration = Duration::from_secs(10);
/// Bars are looked at afterwards, so that a miss tells its figure.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// How long a sender of the load waits at one node before it turns to the next.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A question that a node is to refuse is asked for longer than any deadline of its own.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);
const CHECK_LIMIT: Duration = Duration::from_secs(60);
/// Keeps a sender that is refused from taking the processor.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(10);
const SERIES_PER_WRITER: usize = 300;
pub(super) const PACE: u64 = 9_000;
/// Questions at a node at one time, so that some are on their way whatever happens.
const READERS: usize = 4;
/// So many answers are judged after a fault.
const LEAST_ANSWERS: usize = 20;
const SIGKILL: i32 = 9;
const DAY_MS: i64 = 86_400_000;

#[test]
fn nodes_form_one_cluster_in_any_order() {
    let (mut cluster, probe) = (Cluster::prepare(setup()), Probe::new());
    cluster.launch(2);
    let lone = cluster.client(2, PATIENCE);
    let answer = wait_for("an answer of the first node", READY_LIMIT, || lone.get("/-/ready", &[]).ok());
    assert_ne!(answer.status, 200, "one node of three is no cluster");
    cluster.launch(0);
    [2, 0].into_iter().for_each(|node| cluster.wait_ready(node));
    assert_each_reads_each(&cluster, &probe, &[2, 0]);
    cluster.launch(1);
    cluster.wait_ready(1);
    assert_each_reads_each(&cluster, &probe, &[0, 1, 2]);
    let statuses = wait_for("three nodes that know each other", LIMIT, || {
        let statuses: Option<Vec<Status>> = cluster.all().map(|node| cluster.status(node)).collect();
        statuses.filter(|all| all.iter().all(|s| s.nodes.iter().filter(|node| node.voter).count() == 3))
    });
    for status in &statuses {
        assert_eq!(status.cluster_id, statuses[0].cluster_id, "two clusters");
        let mut names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["n1", "n2", "n3"]);
        assert!(status.partitions.iter().all(|partition| partition.replicas.len() == 3), "{status:?}");
    }
    cluster.assert_replicas_equal(LIMIT);
}

#[test]
fn a_killed_leader_costs_seconds_and_no_sample() {
    let mut cluster = Cluster::start(setup());
    let team = start_load(&cluster);
    let first = cluster.busiest(None);
    assert_recovers("kill -9 of the node that leads most partitions", &team, || {
        assert_eq!(cluster.kill9(first).signal(), Some(SIGKILL), "the node ended by itself");
    });
    cluster.restart(first);
    let metadata = cluster.metadata_leader();
    let second = if metadata == first { cluster.busiest(Some(first)) } else { metadata };
    assert_recovers("kill -9 of another one", &team, || {
        assert_eq!(cluster.kill9(second).signal(), Some(SIGKILL), "the node ended by itself");
    });
    cluster.restart(second);
    check_everywhere(&cluster, &team.finish(), "after two kills");
}

#[test]
fn a_minority_takes_no_write_and_answers_no_strong_read() {
    if lacks_network("a_minority_takes_no_write_and_answers_no_strong_read") {
        return;
    }
    let (cluster, probe) = (Cluster::start(setup()), Probe::new());
    let team = start_load(&cluster);
    let lone = cluster.busiest(None);
    let client = cluster.client(lone, REFUSAL_LIMIT);
    assert_each_reads_each(&cluster, &probe, &[0, 1, 2]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        assert_recovers("isolation of the node that leads most partitions", &team, || {
            cluster.network().isolate(lone);
            scope.spawn(|| assert_refuses_writes(&client, &probe, &stop));
        });
        // It cannot know of this one.
        write(&cluster, &probe, cluster.others(lone)[0]);
        assert_answers_eventual_reads_only(&cluster, &probe, lone);
    });
    cluster.network().heal();
    assert_is_back("isolation", &cluster, &probe, lone);
    check_everywhere(&cluster, &team.finish(), "after an isolation");
}

#[test]
fn a_leader_that_stood_still_answers_no_stale_read() {
    let (mut cluster, probe) = (Cluster::start(setup()), Probe::new());
    let team = start_load(&cluster);
    assert_each_reads_each(&cluster, &probe, &[0, 1, 2]);
    let paused = cluster.busiest(None);
    let (reader, writer) =
        (cluster.client(paused, CHECK_LIMIT), cluster.client(cluster.others(paused)[0], PATIENCE));
    let (stop, fresh) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = SystemClock.instant();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        assert_recovers("SIGSTOP of the node that leads most partitions", &team, || cluster.pause(paused));
        for _ in 0..READERS {
            scope.spawn(|| count_fresh(&reader, &probe, &stop, &fresh));
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _fate_does_not_matter = probe.write(&writer);
                pause(BETWEEN_TRIES);
            }
        });
        wait_for("the length of the pause", LIMIT, || (begin.elapsed() >= PAUSE).then_some(()));
        assert_eq!(fresh.load(Ordering::Relaxed), 0, "a stopped process answers nothing");
        cluster.resume(paused);
        let answers = || (fresh.load(Ordering::Relaxed) >= LEAST_ANSWERS).then_some(());
        wait_for("answers of the node that stood still", LIMIT, answers);
    });
    assert_is_back("SIGSTOP", &cluster, &probe, paused);
    check_everywhere(&cluster, &team.finish(), "after a pause");
}

#[test]
fn all_data_is_there_after_all_nodes_were_down() {
    let mut cluster = Cluster::start(setup());
    let team = start_load(&cluster);
    wait_for("a load", LIMIT, || (team.acknowledged() >= 5 * PACE).then_some(()));
    let ledgers = team.finish();
    for node in cluster.all() {
        assert!(cluster.terminate(node).success(), "SIGTERM drains and exits 0");
    }
    cluster.launch_all();
    check_everywhere(&cluster, &ledgers, "after all nodes were stopped");
    for node in cluster.all() {
        cluster.kill9(node);
    }
    cluster.launch_all();
    check_everywhere(&cluster, &ledgers, "after all nodes were killed");
}

#[test]
fn a_link_cut_one_way_stops_nothing_for_long() {
    if lacks_network("a_link_cut_one_way_stops_nothing_for_long") {
        return;
    }
    let (cluster, probe) = (Cluster::start(setup()), Probe::new());
    let team = start_load(&cluster);
    for (what, outward) in [("a leader that nobody hears", true), ("a leader that hears nobody", false)] {
        let leader = cluster.busiest(None);
        assert_each_reads_each(&cluster, &probe, &[0, 1, 2]);
        assert_recovers(what, &team, || {
            for other in cluster.others(leader) {
                let (from, to) = if outward { (leader, other) } else { (other, leader) };
                cluster.network().cut_one_way(from, to);
            }
        });
        write(&cluster, &probe, cluster.others(leader)[0]);
        // May be refused; `read` itself fails when it is stale.
        let _seen = probe.read(&cluster.client(leader, REFUSAL_LIMIT));
        cluster.network().heal();
        assert_is_back(what, &cluster, &probe, leader);
    }
    check_everywhere(&cluster, &team.finish(), "after two cuts");
}

/// Maintenance at the pace that the kills of one node have.
pub(super) fn setup() -> Setup {
    Setup::default().config(CONFIG)
}

/// Skips scenario `name` where there are no networks.
fn lacks_network(name: &str) -> bool {
    lacks(name, net::available())
}

/// Skips scenario `name` where its fault tools are missing; a campaign without it would prove too little.
pub(super) fn lacks(name: &str, tools: Result<(), String>) -> bool {
    let Err(reason) = tools else { return false };
    assert!(!is_campaign(), "a campaign cannot do without {name}: {reason}");
    skip(name, &reason);
    true
}

pub(super) fn start_load(cluster: &Cluster) -> Team {
    start_load_at(cluster, PACE)
}

/// One writer fills hours of days that are long over, two write at the present; each begins at another node. Together
/// they send `pace` samples a second.
pub(super) fn start_load_at(cluster: &Cluster, pace: u64) -> Team {
    let clients = cluster.clients(cluster.all(), PATIENCE);
    let team = Team::start_with(&clients, streams(), pace, cluster.tells_conflicts());
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= pace).then_some(()));
    team
}

/// One of days that are long over, two of the present.
pub(super) fn streams() -> Vec<Stream> {
    let now = now_ms() / 15_000 * 15_000;
    let past = Stream { writer: 0, series: SERIES_PER_WRITER, base_ms: now - 5 * DAY_MS, step_ms: 15_000 };
    let live = |writer| Stream { writer, base_ms: now - 60_000, step_ms: 10, ..past.clone() };
    vec![live(1), live(2), past.clone()]
}

/// Injects a fault, and waits until each writer had a batch acknowledged that it began after it. Each batch has
/// series of all partitions; the first one is what the bar is for.
#[track_caller]
pub(super) fn assert_recovers(what: &str, team: &Team, fault: impl FnOnce()) {
    let Recovery { first, all } = team.recovery(LIMIT, fault);
    report(&format!("{what}: acknowledged writes again in {first:.1?}, of each writer in {all:.1?}"));
    assert!(first <= RECOVERY_BAR, "{what}: writes were acknowledged again after {first:?}");
    team.assert_answers_right();
}

/// After a fault, `node` takes writes and answers strong reads in time.
#[track_caller]
pub(super) fn assert_is_back(what: &str, cluster: &Cluster, probe: &Probe, node: usize) {
    let begin = SystemClock.instant();
    write(cluster, probe, node);
    read(cluster, probe, node);
    let took = begin.elapsed();
    report(&format!("{what}: the node is back in {took:.1?}"));
    assert!(took <= HEAL_BAR, "{what}: the node came back after {took:?}");
}

/// What any node acknowledges, every node shows from then on.
#[track_caller]
fn assert_each_reads_each(cluster: &Cluster, probe: &Probe, nodes: &[usize]) {
    for writer in nodes {
        write(cluster, probe, *writer);
        nodes.iter().for_each(|reader| read(cluster, probe, *reader));
    }
}

/// Writes the next value through `node`, again until it is acknowledged.
#[track_caller]
fn write(cluster: &Cluster, probe: &Probe, node: usize) {
    let client = cluster.client(node, PATIENCE);
    wait_for("an acknowledged write", LIMIT, || {
        let answer = probe.write(&client).ok()?;
        assert!(
            answer.is_success() || matches!(answer.status, 503 | 504),
            "{}: {}",
            answer.status,
            answer.text()
        );
        answer.is_success().then_some(())
    });
}

/// Reads at `node`, again until it answers.
#[track_caller]
fn read(cluster: &Cluster, probe: &Probe, node: usize) {
    let client = cluster.client(node, REFUSAL_LIMIT);
    wait_for("an answered strong read", LIMIT, || match probe.read(&client) {
        Seen::Fresh => Some(()),
        Seen::Refused(answer) => {
            assert_eq!(answer.status, 503, "{}", answer.text());
            None
        }
        Seen::NoAnswer => None,
    });
}

/// Writes at a node that is alone until `stop`. None is acknowledged: what the node led before may get stuck in
/// its log first (504), then each is refused and told when to try again.
fn assert_refuses_writes(client: &Client, probe: &Probe, stop: &AtomicBool) {
    let (mut stuck, mut refused) = (0, 0);
    while !stop.load(Ordering::Relaxed) || refused == 0 {
        let answer = probe.write(client).expect("a node that is alone answers");
        match answer.status {
            504 if refused == 0 => stuck += 1,
            503 => {
                assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
                refused += 1;
            }
            status => panic!("{status} for a write at a minority: {}", answer.text()),
        }
        pause(BETWEEN_TRIES);
    }
    report(&format!("a minority refused {refused} writes, after {stuck} that got stuck"));
}

/// The majority has gone on, so `lone` confirms nothing any more.
#[track_caller]
fn assert_answers_eventual_reads_only(cluster: &Cluster, probe: &Probe, lone: usize) {
    let client = cluster.client(lone, REFUSAL_LIMIT);
    for _ in 0..3 {
        match probe.read(&client) {
            Seen::Refused(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
            seen => panic!("a strong read at a minority: {seen:?}"),
        }
    }
    let eventual = probe.ask(&client, "eventual").expect("an answer");
    assert_eq!(eventual.status, 200, "{}", eventual.text());
}

/// Reads until `stop`; counts the answers. A stale one fails inside of `read`.
fn count_fresh(client: &Client, probe: &Probe, stop: &AtomicBool, fresh: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        match probe.read(client) {
            Seen::Fresh => {
                fresh.fetch_add(1, Ordering::Relaxed);
            }
            Seen::Refused(_) | Seen::NoAnswer => pause(BETWEEN_TRIES),
        }
    }
}

/// Ends the loops of other threads, also when this one panics.
pub(super) struct StopOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The nodes hold the same, and each of them shows exactly what the ledgers know.
#[track_caller]
pub(super) fn check_everywhere(cluster: &Cluster, ledgers: &[Ledger], when: &str) {
    cluster.assert_replicas_equal(LIMIT);
    for node in cluster.all() {
        let client = cluster.client(node, CHECK_LIMIT).with_header("X-Read-Consistency", "strong");
        let findings = check(&client, ledgers, ledgers);
        assert!(findings.is_clean(), "{when}, at node {}: {findings}", node + 1);
        assert!(findings.right > 0, "{when}, at node {}: nothing was checked", node + 1);
        report(&format!("{when}, at node {}: {findings}", node + 1));
    }
}
