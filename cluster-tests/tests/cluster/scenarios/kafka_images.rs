//! Images that get old: no node takes records of a partition while no replica has told of a young enough image of it, whether
//! the node has a replica itself or not (C15).

use super::kafka_nodes::{LIMIT, on_one_broker, three_nodes};
use super::kills::report;
use super::probe::Probe;
use super::three_nodes::PATIENCE;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::wait_for;
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

/// How long the topic keeps records; a quarter of it is how old images may get.
const RETENTION: &str = "60s";
const OLDEST: Duration = Duration::from_secs(15);
const REASON: &str = "younger than a quarter of the topic's retention";

#[test]
fn no_node_takes_records_that_nothing_keeps() {
    if is_missing("no_node_takes_records_that_nothing_keeps") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let args = on_one_broker(&kafka);
    let setup = three_nodes(args).args(&["--kafka-topic-retention", RETENTION, "--replication-factor", "1"]);
    // Images are old soon, and written as often as that needs.
    let mut cluster =
        Cluster::start(Setup { spare: 0, ..setup.args(&["--storage.maintenance-interval", "1s"]) });
    let leader = cluster.metadata_leader();
    let (away, gateway) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let write = |client: &Client| probe.write(client).expect("an answer");
    let taken = |what: &str, cluster: &Cluster, node: usize| {
        let client = cluster.client(node, PATIENCE);
        wait_for(what, LIMIT, || write(&client).is_success().then_some(()));
    };
    taken("a first write", &cluster, gateway);

    // The only replica of some partitions is gone. Others of other partitions go on.
    cluster.kill9(away);
    let gone = SystemClock.instant();
    taken("a write without a replica", &cluster, gateway);
    let refused = |cluster: &Cluster, node: usize| {
        let client = cluster.client(node, PATIENCE);
        wait_for("a refusal", LIMIT, || Some(write(&client)).filter(|answer| answer.text().contains(REASON)))
    };
    for node in [gateway, leader] {
        let answer = refused(&cluster, node);
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let after = gone.elapsed();
    report(&format!(
        "over Kafka: records without an image were refused {after:.1?} after their replica died"
    ));
    assert!(after > OLDEST / 2, "refused after {after:?}: the image was young");

    // A gateway that starts anew is told by the others.
    cluster.kill9(gateway);
    cluster.restart(gateway);
    let begin = SystemClock.instant();
    refused(&cluster, gateway);
    assert!(begin.elapsed() < OLDEST, "it counts from its own start");

    cluster.restart(away);
    for node in cluster.all() {
        taken("a write after the replica is back", &cluster, node);
    }
}
