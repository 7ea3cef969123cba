//! Who leads while a replica has yet to catch up with Kafka: a member that has, if there is one. The others propose no marks.

use super::kafka_nodes::{LIMIT, on_one_broker, three_nodes};
use super::probe::Probe;
use super::three_nodes::PATIENCE;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::Answer;
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::wait_for;

/// The broker holds back what it has until there are 100 MB of it, or 40 seconds are over.
const SLOW: &str =
    "kafka:\n  options: [fetch.min.bytes=100000000, fetch.wait.max.ms=40000, socket.timeout.ms=60000]\n";

#[test]
fn who_has_not_caught_up_leads_nothing_for_long() {
    if is_missing("who_has_not_caught_up_leads_nothing_for_long") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut cluster = Cluster::start(three_nodes(on_one_broker(&kafka)));
    cluster.leaders();
    let slow = cluster.others(cluster.metadata_leader())[0];
    cluster.kill9(slow);
    let at = cluster.others(slow)[0];
    let client = cluster.client(at, PATIENCE);
    wait_for("an acknowledged write", LIMIT, || probe.write(&client).ok().filter(Answer::is_success));
    cluster.write_config(SLOW);
    cluster.launch(slow);
    wait_for("a replay", LIMIT, || {
        cluster.process(slow).output().contains("replaying the log").then_some(())
    });

    // The slow one is needed for any majority, and may be elected.
    let dies = cluster.busiest(Some(slow));
    let left = (0..3).find(|node| *node != slow && *node != dies).expect("three nodes");
    cluster.kill9(dies);
    wait_for("the one that has all to lead everything", LIMIT, || {
        let status = cluster.status(left)?;
        let leads = |leader: Option<u64>| leader == Some(left as u64 + 1);
        status.partitions.iter().all(|partition| leads(partition.leader)).then_some(())
    });
    let ready = cluster.client(slow, PATIENCE).get("/-/ready", &[]).expect("an answer");
    assert_eq!(ready.status, 503, "it was to be slower than that: {}", ready.text());
    cluster.wait_ready(slow);
}
