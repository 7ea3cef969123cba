//! Three nodes over three brokers, under load: the loss of any one of them costs no sample, writes go on, and every node
//! shows what any of them acknowledged.

use super::kafka_nodes::{LIMIT, TOPIC, start_load, three_nodes};
use super::kills::report;
use super::probe::{Probe, Seen};
use super::read_consistency::Row;
use super::three_nodes::{RECOVERY_BAR, check_everywhere};
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::ledger::{Recovery, Team};
use std::time::Duration;

/// A broker is taken for dead after four seconds, then its partitions get other leaders, and clients learn of them.
const BROKER_BAR: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(5);
/// Writes of a session, each of which another node shows.
const ROUNDS: usize = 30;

#[test]
fn the_loss_of_a_node_or_a_broker_stops_nothing_for_long() {
    if is_missing("the_loss_of_a_node_or_a_broker_stops_nothing_for_long") {
        return;
    }
    let mut kafka = Kafka::start(3, &[]);
    let brokers = kafka.bootstrap();
    let args = ["--log", "kafka", "--kafka-brokers", &brokers, "--self-monitor", "false"];
    let mut cluster = Cluster::start(three_nodes(args.map(str::to_owned).to_vec()));
    let team = start_load(&cluster, 0);

    let dead = cluster.busiest(None);
    assert_goes_on("kill -9 of the node that leads most partitions", &team, RECOVERY_BAR, || {
        cluster.kill9(dead);
    });
    assert_sessions(&cluster, &cluster.others(dead));
    cluster.restart(dead);

    let broker = kafka.leader(TOPIC, 0);
    assert_goes_on("kill -9 of a broker", &team, BROKER_BAR, || kafka.kill(broker));
    kafka.start_broker(broker);

    let paused = cluster.busiest(Some(dead));
    assert_goes_on("SIGSTOP of another node", &team, RECOVERY_BAR, || cluster.pause(paused));
    assert_sessions(&cluster, &cluster.others(paused));
    cluster.resume(paused);
    cluster.wait_ready(paused);

    assert_sessions(&cluster, &cluster.all().collect::<Vec<_>>());
    check_everywhere(&cluster, &team.finish(), "over Kafka, after three faults");

    // The brokers have the records, so a node needs no other one for what it is given.
    let left = cluster.metadata_leader();
    for node in cluster.others(left) {
        cluster.kill9(node);
    }
    assert_sessions(&cluster, &[left]);
    let (probe, client) = (Probe::new(), cluster.client(left, ANSWER_LIMIT));
    let answer = probe.write(&client).expect("an answer");
    assert_eq!(answer.status, 204, "{}", answer.text());
    let seen = probe.read(&client);
    assert!(matches!(seen, Seen::Fresh), "{seen:?}");
}

/// Acknowledged writes go on within `bar` of a fault.
#[track_caller]
fn assert_goes_on(what: &str, team: &Team, bar: Duration, fault: impl FnOnce()) {
    let Recovery { first, all } = team.recovery(LIMIT, fault);
    report(&format!(
        "over Kafka, {what}: acknowledged writes again in {first:.1?}, of each writer in {all:.1?}"
    ));
    assert!(first <= bar, "{what}: writes were acknowledged again after {first:?}");
    team.assert_answers_right();
}

/// The token of a write at one node makes a read at the next one see it.
#[track_caller]
fn assert_sessions(cluster: &Cluster, nodes: &[usize]) {
    let row = Row::new();
    for round in 1..=ROUNDS {
        let [writer, reader] = [0, 1].map(|next| nodes[(round + next) % nodes.len()]);
        let token = row.write(&cluster.client(writer, PATIENCE), round as i64);
        let seen = row.lowest(&cluster.client(reader, ANSWER_LIMIT), &token);
        let seen = seen.map(|(value, _)| value);
        assert_eq!(seen, Some(round as i64), "written at node {}, read at {}", writer + 1, reader + 1);
    }
}
