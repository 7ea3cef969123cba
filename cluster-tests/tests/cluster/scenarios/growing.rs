//! A node that was alone becomes the first of a cluster, others join, data moves to them by snapshot, and every node
//! shows what was acknowledged before and meanwhile. And the lines of the README that start three nodes.

use super::kills::{CONFIG, report};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{Options, READY_LIMIT, Server, binary};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::ledger::{Ledger, Stream, Team, check};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);
const PACE: u64 = 5_000;
const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_node_that_was_alone_grows_into_a_cluster_of_four() {
    let mut nodes: Vec<Server> = (0..4).map(|_| Server::prepare(Options::default().config(CONFIG))).collect();
    let address = |server: &Server| {
        let (host, port) = server.grpc_address();
        format!("{host}:{port}")
    };
    nodes[0].set_args(&["--self-monitor", "false", "--partitions", "4"]);
    nodes[0].launch(None);
    nodes[0].wait_ready();
    let mut ledgers = start_load(1, &nodes[0].client()).finish();
    assert!(nodes[0].terminate().success());

    let seed = address(&nodes[0]);
    let itself = format!("n1={seed}");
    nodes[0].set_args(&["--self-monitor", "false", "--node-id", "n1", "--peers", &itself]);
    nodes[0].launch(None);
    nodes[0].wait_ready();
    for (at, name) in [(1, "n2"), (2, "n3")] {
        nodes[at].set_args(&["--self-monitor", "false", "--node-id", name, "--join", &seed]);
        nodes[at].launch(None);
    }
    nodes[1..3].iter_mut().for_each(Server::wait_ready);
    assert_settled(&nodes[..3], 3);
    check_everywhere(&nodes[..3], &ledgers, "after two have joined");

    // Now the fourth, under load; then the first one goes, with all that only it had once.
    let team = start_load(2, &nodes[1].client());
    nodes[3].set_args(&["--self-monitor", "false", "--node-id", "n4", "--join", &seed]);
    nodes[3].launch(None);
    nodes[3].wait_ready();
    assert_settled(&nodes, 3);
    ledgers.extend(team.finish());
    check_everywhere(&nodes, &ledgers, "after the fourth has joined");
    nodes[0].kill9();
    check_everywhere(&nodes[1..], &ledgers, "without the first");
    assert_refused_without_its_data(&address(&nodes[1]));
}

fn start_load(writer: usize, client: &Client) -> Team {
    let now = now_ms() / 15_000 * 15_000;
    // Whole hours of the past, so that there are blocks beside the head.
    let past = Stream { writer, series: 100, base_ms: now - 6 * HOUR_MS, step_ms: 15_000 };
    let team = Team::start_at(std::slice::from_ref(client), vec![past], PACE);
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= 6 * PACE).then_some(()));
    team
}

/// Every partition has so many voters, and they are the nodes that its placement names.
#[track_caller]
fn assert_settled(nodes: &[Server], replicas: usize) {
    wait_for("replicas at their places", 2 * LIMIT, || {
        let answers = nodes.iter().map(|node| node.client().get("/api/v1/cluster", &[]).ok());
        let states: Option<Vec<Value>> = answers.map(|answer| Some(answer?.json()["data"].clone())).collect();
        let sorted = |list: &Value| {
            let mut numbers: Vec<u64> =
                list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            numbers.sort_unstable();
            numbers
        };
        let is_settled = |state: &Value| {
            let (node, partitions) = (&state["node"], state["partitions"].as_array().expect("partitions"));
            state["nodes"].as_array().is_some_and(|known| known.len() == nodes.len())
                && partitions.iter().all(|partition| {
                    let placed = sorted(&partition["replicas"]);
                    let is_here = placed.iter().any(|replica| Some(*replica) == node.as_u64());
                    placed.len() == replicas && (!is_here || sorted(&partition["voters"]) == placed)
                })
        };
        states.filter(|states| states.iter().all(is_settled))
    });
}

#[track_caller]
fn check_everywhere(nodes: &[Server], ledgers: &[Ledger], when: &str) {
    for node in nodes {
        let findings = wait_for("a node that answers", LIMIT, || {
            let client = node.client();
            let ready = client.get("/api/v1/query", &[("query", "count({__name__=~\".+\"})")]);
            ready.is_ok_and(|answer| answer.status == 200).then(|| check(&client, ledgers, ledgers))
        });
        assert!(findings.is_clean() && findings.right > 0, "{when}, at {}: {findings}", node.url());
        report(&format!("{when}, at {}: {findings}", node.url()));
    }
}

/// A node with a known name and an empty folder is told so, and ends.
#[track_caller]
fn assert_refused_without_its_data(other: &str) {
    let mut stranger = Server::prepare(Options::default());
    stranger.set_args(&["--node-id", "n3", "--join", other]);
    stranger.launch(None);
    assert!(!stranger.ready_or_ended(), "a node without its data was taken in under its name");
    let log = std::fs::read_to_string(stranger.log_path()).expect("it can be done");
    assert!(log.contains("n3 is node") && log.contains("--replace"), "{log}");
}

#[test]
fn the_lines_of_the_readme_start_three_nodes() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))
        .expect("it can be done");
    let section = readme.split("## Three nodes").nth(1).expect("the section");
    let lines: Vec<&str> = section.lines().filter(|line| line.starts_with("quorate serve")).take(3).collect();
    assert_eq!(lines.len(), 3, "{section}");
    let folder = tempfile::tempdir().expect("it can be done");
    std::os::unix::fs::symlink(binary(), folder.path().join("quorate")).expect("it can be done");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("it can be done"));
    let start = |line: &str| {
        // `exec`, so that the process that is known is the node.
        let command = format!("exec {}", line.trim_end_matches('&'));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).current_dir(folder.path()).env("PATH", &path);
        let log: PathBuf = folder.path().join("log");
        Process::start("quorate", &shell, &log)
    };
    let mut running: Vec<Option<Process>> = lines.iter().map(|line| Some(start(line))).collect();
    let client = |node: usize| Client::new(&format!("http://127.0.0.1:900{}", node + 1), PATIENCE);
    let count = |node: usize, wanted: &str| {
        wait_for("all nodes' own metrics", READY_LIMIT, || {
            let query = [("query", "count(up)")];
            let answer =
                client(node).get("/api/v1/query", &query).ok().filter(|answer| answer.status == 200)?;
            (answer.json()["data"]["result"][0]["value"][1] == wanted).then_some(())
        });
    };
    (0..3).for_each(|node| count(node, "3"));
    running[0].take().expect("it runs").kill9();
    (1..3).for_each(|node| count(node, "3"));
    running[0] = Some(start(lines[0]));
    count(0, "3");
}
