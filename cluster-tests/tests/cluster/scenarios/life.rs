//! The life of a cluster: a node dies and its replicas are rebuilt, one is drained and removed under load, one is drained
//! just when another one dies, all are restarted one after the other. Nothing that was acknowledged is lost, and nothing stays where it should not be.

use super::kills::report;
use super::three_nodes::{setup, start_load};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::server::binary;
use quorate_cluster_tests::harness::{pause, wait_for};
use quorate_cluster_tests::ledger::{Ledger, Team, check};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

/// Bars of other scenarios are not looked at here: moves take their time.
const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(2);
const CHECK_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a cluster that changes.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
const REBUILD_AFTER: &str = "5s";
const PACE: u64 = 9_000;

#[test]
fn the_replicas_of_a_dead_node_are_rebuilt_on_the_others() {
    let mut cluster = Cluster::start(four_nodes());
    let all = cluster.all().map(|node| node as u64 + 1).collect();
    wait_settled(&cluster, 0, &all);
    let team = start_load(&cluster);
    let dead = cluster.others(cluster.metadata_leader())[0];
    cluster.kill9(dead);
    let left: BTreeSet<u64> = all.iter().copied().filter(|node| *node != dead as u64 + 1).collect();
    let at = cluster.others(dead)[0];
    wait_settled(&cluster, at, &left);
    assert_eq!(state_of(&overview(&cluster, at), dead), "lost");
    goes_on(&team);
    let ledgers = team.finish();
    check_at(&cluster, &cluster.others(dead), &ledgers, "without the dead node");

    // It has its data, and is a member again, with what the placement gives it now.
    cluster.restart(dead);
    wait_settled(&cluster, at, &all);
    assert_eq!(state_of(&overview(&cluster, at), dead), "member");
    wait_for("only those replicas that are placed there", LIMIT, || {
        let overview = overview(&cluster, at);
        let is_tidy = cluster.all().all(|node| folders(&cluster, node) == placed_on(&overview, node));
        is_tidy.then_some(())
    });
    let everywhere: Vec<usize> = cluster.all().collect();
    check_at(&cluster, &everywhere, &ledgers, "with the dead node back");
    // What it no longer holds is not there after a restart either.
    assert!(cluster.terminate(dead).success(), "SIGTERM drains and exits 0");
    cluster.restart(dead);
    wait_settled(&cluster, at, &all);
    check_at(&cluster, &everywhere, &ledgers, "after another restart of it");
}

#[test]
fn a_node_is_drained_and_removed_under_load() {
    let mut cluster = Cluster::start(four_nodes());
    wait_settled(&cluster, 0, &cluster.all().map(|node| node as u64 + 1).collect());
    let team = start_load(&cluster);
    let leaving = cluster.metadata_leader();
    let at = cluster.others(leaving)[0];
    let name = format!("n{}", leaving + 1);
    let refused = admin(&cluster, at, &["remove", &name]);
    assert!(refused.contains("neither drained nor lost"), "{refused}");
    let drained = admin(&cluster, at, &["drain", &name]);
    assert!(drained.contains("safe to remove"), "{drained}");
    report(&format!("drained: {}", drained.lines().collect::<Vec<_>>().join("; ")));
    let removed = admin(&cluster, at, &["remove", &name]);
    assert!(removed.contains("is removed"), "{removed}");
    wait_for("its files to go with its replicas", LIMIT, || {
        folders(&cluster, leaving).is_empty().then_some(())
    });
    assert!(cluster.terminate(leaving).success(), "SIGTERM drains and exits 0");
    goes_on(&team);
    team.assert_answers_right();
    let ledgers = team.finish();
    let left = cluster.others(leaving);
    wait_settled(&cluster, at, &left.iter().map(|node| *node as u64 + 1).collect());
    check_at(&cluster, &left, &ledgers, "without the removed node");
    let members = admin(&cluster, at, &["members"]);
    assert!(members.lines().any(|line| line.starts_with(&name) && line.contains("gone")), "{members}");
}

/// The two that are left to a group cannot be the dead one and the other: it could never commit, nor ever change again.
#[test]
fn a_drain_that_is_forced_beside_a_dying_node_stops_nothing() {
    let mut cluster = Cluster::start(setup().args(&["--cluster.rebuild-after", REBUILD_AFTER]));
    let all = cluster.all().map(|node| node as u64 + 1).collect();
    wait_settled(&cluster, 0, &all);
    let team = start_load(&cluster);
    let at = cluster.metadata_leader();
    let [leaving, dead] = cluster.others(at)[..] else { panic!("three nodes") };
    let name = format!("n{}", leaving + 1);
    cluster.kill9(dead);
    // Nobody knows yet that it is dead.
    let begun = admin(&cluster, at, &["drain", &name, "--force", "--no-wait"]);
    assert!(begun.contains("is being drained"), "{begun}");
    goes_on(&team);
    let drained = admin(&cluster, at, &["drain", &name, "--force"]);
    assert!(drained.contains("safe to remove"), "{drained}");
    assert_eq!(state_of(&overview(&cluster, at), dead), "lost", "only then it can be done without it");
    goes_on(&team);
    let back = admin(&cluster, at, &["undrain", &name]);
    assert!(back.contains("member"), "{back}");
    cluster.restart(dead);
    wait_settled(&cluster, at, &all);
    goes_on(&team);
    let ledgers = team.finish();
    check_at(&cluster, &cluster.all().collect::<Vec<_>>(), &ledgers, "after a drain beside a dead node");
}

#[test]
fn a_rolling_restart_fails_no_write_that_is_sent_again() {
    let mut cluster = Cluster::start(setup());
    let all = cluster.all().map(|node| node as u64 + 1).collect();
    let team = start_load(&cluster);
    for node in cluster.all() {
        wait_settled(&cluster, cluster.others(node)[0], &all);
        assert!(cluster.terminate(node).success(), "SIGTERM drains and exits 0");
        cluster.restart(node);
        goes_on(&team);
    }
    team.assert_answers_right();
    let ledgers = team.finish();
    wait_settled(&cluster, 0, &all);
    check_at(&cluster, &cluster.all().collect::<Vec<_>>(), &ledgers, "after a rolling restart");
    assert_one_version(&cluster);
}

/// The newest version of the metadata is active, and the log says of every node that it reads it.
#[track_caller]
fn assert_one_version(cluster: &Cluster) {
    let told = wait_for("what every node reads", LIMIT, || {
        let answer = cluster.client(0, PATIENCE).get("/api/v1/cluster", &[("fresh", "true")]).ok()?;
        let told = (answer.status == 200).then(|| answer.json()["data"].clone())?;
        items(&told, "nodes").iter().all(|node| !node["readsMetadata"].is_null()).then_some(told)
    });
    let active = &told["metadataVersion"];
    assert!(items(&told, "nodes").iter().all(|node| node["readsMetadata"] == *active), "{told}");
    let status = admin(cluster, 1, &["status"]);
    let expected =
        format!("version     {active} of the metadata; read by n1, n2, n3 up to {active} (Quorate ");
    assert!(status.contains(&expected), "{status} lacks {expected}");
}

/// Four nodes that know each other from the start, and take a silent one for lost soon.
fn four_nodes() -> Setup {
    Setup { nodes: 4, ..setup() }.args(&["--cluster.rebuild-after", REBUILD_AFTER])
}

fn overview(cluster: &Cluster, node: usize) -> Value {
    wait_for("an overview", LIMIT, || {
        let answer = cluster.client(node, PATIENCE).get("/api/v1/cluster/overview", &[]).ok()?;
        (answer.status == 200).then(|| answer.json()["data"].clone())
    })
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What the cluster says of the node with this number here.
fn state_of(overview: &Value, node: usize) -> String {
    let name = format!("n{}", node + 1);
    let found = items(overview, "nodes").iter().rfind(|view| view["name"] == name.as_str());
    found.map_or_else(String::new, |view| view["state"].as_str().unwrap_or_default().to_owned())
}

/// Partitions that have or should have a replica on a node.
fn placed_on(overview: &Value, node: usize) -> BTreeSet<u64> {
    let is_here = |partition: &&Value| {
        items(partition, "replicas").iter().any(|replica| replica["node"].as_u64() == Some(node as u64 + 1))
    };
    items(overview, "partitions")
        .iter()
        .filter(is_here)
        .filter_map(|partition| partition["id"].as_u64())
        .collect()
}

/// Partitions of which a node has files.
pub(super) fn folders(cluster: &Cluster, node: usize) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(cluster.data_dir(node).join("partitions"));
    let names = entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Waits until every partition has three voters among `nodes`, which are all those that it has, each of them has some,
/// and where replicas are at the same position their hashes are equal.
#[track_caller]
pub(super) fn wait_settled(cluster: &Cluster, at: usize, nodes: &BTreeSet<u64>) {
    wait_for("replicas at their places", LIMIT, || {
        let overview = overview(cluster, at);
        let mut used = BTreeSet::new();
        let is_settled = |partition: &Value| {
            assert_eq!(partition["diverged"], false, "{partition}");
            let replicas = items(partition, "replicas");
            let numbers: BTreeSet<u64> =
                replicas.iter().filter_map(|replica| replica["node"].as_u64()).collect();
            used.extend(numbers.iter().copied());
            let are_voters = replicas.iter().all(|replica| replica["role"] == "voter");
            partition["settled"] == true && are_voters && numbers.len() == 3 && numbers.is_subset(nodes)
        };
        let settled = overview["isComplete"] == true
            && !items(&overview, "partitions").is_empty()
            && items(&overview, "partitions")
                .iter()
                .map(is_settled)
                .collect::<Vec<_>>()
                .iter()
                .all(|yes| *yes);
        if !settled || used != *nodes {
            pause(BETWEEN_LOOKS);
            return None;
        }
        Some(())
    });
}

/// Each writer has a batch acknowledged that it began from now on.
#[track_caller]
pub(super) fn goes_on(team: &Team) {
    let before = team.acknowledged();
    wait_for("acknowledged writes", LIMIT, || (team.acknowledged() >= before + PACE).then_some(()));
}

/// The replicas on `nodes` are equal, and each of these shows exactly what the ledgers know.
#[track_caller]
pub(super) fn check_at(cluster: &Cluster, nodes: &[usize], ledgers: &[Ledger], when: &str) {
    wait_for("equal replicas", LIMIT, || {
        let mut seen: BTreeMap<u64, BTreeSet<_>> = BTreeMap::new();
        let mut count = 0;
        for node in nodes {
            let status = cluster.status(*node)?;
            for replica in status.partitions.into_iter().filter(|replica| replica.applied.is_some()) {
                seen.entry(u64::from(replica.id)).or_default().insert((replica.applied, replica.state_hash));
                count += 1;
            }
        }
        (count >= 3 * seen.len() && seen.values().all(|states| states.len() == 1)).then_some(())
    });
    for node in nodes {
        let client = cluster.client(*node, CHECK_LIMIT).with_header("X-Read-Consistency", "strong");
        let findings = check(&client, ledgers, ledgers);
        assert!(findings.is_clean() && findings.right > 0, "{when}, at node {}: {findings}", node + 1);
        report(&format!("{when}, at node {}: {findings}", node + 1));
    }
}

/// What `quorate cluster` prints, good or bad, asked at a node.
#[track_caller]
pub(super) fn admin(cluster: &Cluster, node: usize, order: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.arg("cluster").args(order).args(["--url", &cluster.url(node)]);
    let output = command.output().expect("the binary runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
