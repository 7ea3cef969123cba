//! Two of three nodes lose their data for ever; the third becomes a cluster of its own with all that it had.

use super::kills::{CONFIG, report};
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::ledger::{Ledger, Outcome, Stream, Team, check};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PACE: u64 = 5_000;
const HOUR_MS: i64 = 3_600_000;
const PARTITIONS: usize = 4;
/// The one that is left.
const SURVIVOR: usize = 1;
/// Every place at which a recovery is killed.
const PLACES: [&str; 3] = ["recover.after_begin", "recover.after_image", "recover.after_log"];

fn address(server: &Server) -> String {
    let (host, port) = server.grpc_address();
    format!("{host}:{port}")
}

fn set_args(server: &mut Server, args: &[&str]) {
    let common = ["--self-monitor", "false", "--partitions", "4"];
    let all: Vec<&str> = common.iter().chain(args).copied().collect();
    server.set_args(&all);
}

fn start_three() -> (Vec<Server>, String) {
    let mut nodes: Vec<Server> = (0..3).map(|_| Server::prepare(Options::default().config(CONFIG))).collect();
    let peers = (1..).zip(&nodes).map(|(at, node)| format!("n{at}={}", address(node)));
    let peers = peers.collect::<Vec<String>>().join(",");
    for (at, node) in nodes.iter_mut().enumerate() {
        set_args(node, &["--node-id", &format!("n{}", at + 1), "--peers", &peers]);
        node.launch(None);
    }
    nodes.iter_mut().for_each(Server::wait_ready);
    (nodes, peers)
}

/// Some hours of the past, so that there are blocks beside heads, all of it settled.
fn write(nodes: &[Server]) -> Vec<Ledger> {
    let now = now_ms() / 15_000 * 15_000;
    let past = Stream { writer: 1, series: 100, base_ms: now - 6 * HOUR_MS, step_ms: 15_000 };
    let clients: Vec<_> = nodes.iter().map(Server::client).collect();
    let team = Team::start_at(&clients, vec![past], PACE);
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= 6 * PACE).then_some(()));
    let mut ledgers = team.finish();
    for ledger in &mut ledgers {
        // What was stopped on its way was never answered.
        while ledger.outcomes.last() == Some(&Outcome::Unknown) {
            ledger.outcomes.pop();
        }
    }
    ledgers
}

fn cluster(node: &Server) -> Option<Value> {
    let answer = node.client().get("/api/v1/cluster", &[]).ok().filter(|answer| answer.status == 200)?;
    Some(answer.json()["data"].clone())
}

/// Waits until all replicas of each partition are at the same position.
#[track_caller]
fn wait_until_quiet(nodes: &[Server]) {
    wait_for("replicas at equal positions", LIMIT, || {
        let states: Vec<Value> = nodes.iter().map(cluster).collect::<Option<_>>()?;
        let applied = |state: &Value| {
            let partitions = state["partitions"].as_array().expect("partitions");
            partitions.iter().map(|partition| partition["applied"].clone()).collect::<Vec<Value>>()
        };
        states.iter().all(|state| applied(state) == applied(&states[0])).then_some(())
    });
}

/// `quorate cluster recover` on the data dir of a node, which gets this typed.
fn recover(node: &Server, typed: &str, place: Option<&str>) -> Output {
    let program = node.command();
    let mut command = Command::new(program.get_program());
    command.args(["cluster", "recover", "--from-survivor", "--data-dir"]).arg(node.data_dir());
    if let Some(place) = place {
        command.env("QUORATE_FAILPOINT", place);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut input = child.stdin.take().expect("its input");
    // One that refuses reads nothing.
    let _is_read = writeln!(input, "{typed}");
    drop(input);
    child.wait_with_output().expect("the command ends")
}

fn format_of(node: &Server) -> String {
    std::fs::read_to_string(node.data_dir().join("FORMAT")).expect("the file")
}

#[track_caller]
fn check_at(node: &Server, ledgers: &[Ledger], when: &str) {
    let client = node.client();
    let findings = wait_for("a node that answers", LIMIT, || {
        let ready = client.get("/api/v1/query", &[("query", "count({__name__=~\".+\"})")]);
        ready.is_ok_and(|answer| answer.status == 200).then(|| check(&client, ledgers, ledgers))
    });
    assert!(findings.is_clean() && findings.right > 0, "{when}: {findings}");
    report(&format!("{when}: {findings}"));
}

#[test]
fn what_the_last_node_has_becomes_a_cluster() {
    let (mut nodes, peers) = start_three();
    let mut ledgers = write(&nodes);
    wait_until_quiet(&nodes);
    let old = cluster(&nodes[0]).expect("a state")["clusterId"].as_str().expect("an id").to_owned();
    let running = recover(&nodes[SURVIVOR], &old, None);
    assert!(String::from_utf8_lossy(&running.stderr).contains("in use"), "{running:?}");
    for node in &mut nodes {
        node.kill9();
    }

    let before = format_of(&nodes[SURVIVOR]);
    let wrong = recover(&nodes[SURVIVOR], "ffffffffffffffffffffffffffffffff", None);
    assert!(!wrong.status.success() && format_of(&nodes[SURVIVOR]) == before, "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("n1 (1), n3 (3)"), "{wrong:?}");
    for place in PLACES {
        let killed = recover(&nodes[SURVIVOR], &old, Some(place));
        assert!(!killed.status.success(), "{place} was never reached: {killed:?}");
        nodes[SURVIVOR].launch(None);
        assert!(!nodes[SURVIVOR].ready_or_ended(), "a node runs in a data dir that is half recovered");
    }
    let done = recover(&nodes[SURVIVOR], &old, None);
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && shown.contains("it goes on"), "{done:?}");

    set_args(&mut nodes[SURVIVOR], &["--node-id", "n2"]);
    nodes[SURVIVOR].launch(None);
    nodes[SURVIVOR].wait_ready();
    let state = cluster(&nodes[SURVIVOR]).expect("a state");
    assert_ne!(state["clusterId"], old.as_str());
    check_at(&nodes[SURVIVOR], &ledgers, "at the survivor");
    ledgers.extend(write_more(&nodes[SURVIVOR]));
    let survivor = nodes[SURVIVOR].url();
    assert_old_node_stays_out(&mut nodes[0], &peers, &survivor);

    let seed = address(&nodes[SURVIVOR]);
    let mut others: Vec<Server> =
        (0..2).map(|_| Server::prepare(Options::default().config(CONFIG))).collect();
    for (other, name) in others.iter_mut().zip(["n1", "n5"]) {
        set_args(other, &["--node-id", name, "--join", &seed]);
        other.launch(None);
    }
    others.iter_mut().for_each(Server::wait_ready);
    wait_for("three replicas of each partition", 2 * LIMIT, || {
        let state = cluster(&others[0])?;
        let partitions = state["partitions"].as_array().expect("partitions");
        // Halfway there the survivor alone is still one of the two majorities that every change needs.
        let is_full = |partition: &Value| {
            let voters = partition["voters"].as_array().map_or(0, Vec::len);
            voters == 3 && partition["membersChange"] == false
        };
        (partitions.len() == PARTITIONS && partitions.iter().all(is_full)).then_some(())
    });
    // Everything is elsewhere too now.
    nodes[SURVIVOR].kill9();
    check_at(&others[0], &ledgers, "at a node that joined, without the survivor");
}

/// The new cluster of one takes writes.
fn write_more(node: &Server) -> Vec<Ledger> {
    let now = now_ms() / 1_000 * 1_000;
    let stream = Stream { writer: 2, series: 100, base_ms: now - HOUR_MS, step_ms: 1_000 };
    let team = Team::start(&node.client(), vec![stream], PACE);
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= PACE).then_some(()));
    team.finish()
}

/// One of the lost nodes comes back with its data, and looks for its peers.
#[track_caller]
fn assert_old_node_stays_out(node: &mut Server, peers: &str, survivor: &str) {
    set_args(node, &["--node-id", "n1", "--peers", peers]);
    node.launch(None);
    let log = node.log_path();
    let says_so = || std::fs::read_to_string(&log).unwrap_or_default().contains("waiting for a majority");
    wait_for("an old node that finds nobody of its cluster", LIMIT, || says_so().then_some(()));
    let ready = node.client().get("/-/ready", &[]).expect("an answer");
    assert_ne!(ready.status, 200, "it has no majority");
    node.kill9();
    let state: Value = quorate_cluster_tests::harness::http::Client::new(survivor, LIMIT)
        .get("/api/v1/cluster", &[])
        .expect("an answer")
        .json();
    let there =
        state["data"]["nodes"].as_array().expect("nodes").iter().filter(|node| node["state"] != "gone");
    assert_eq!(there.count(), 1, "{state}");
}
