//! Replicas that come and go over Kafka: one that finds its records deleted takes the state of another one, a fourth node
//! takes replicas, and one is drained. Every node shows what was acknowledged, whenever that was.

use super::kafka_nodes::{TOPIC, imaged, on_one_broker, start_load, three_nodes};
use super::kills::report;
use super::life::{admin, check_at, folders, goes_on, wait_settled};
use super::three_nodes::LIMIT;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::wait_for;
use std::collections::BTreeSet;

/// The first number of the writers after the rebuild.
const LATER_WRITERS: usize = 10;

#[test]
fn replicas_without_records_take_the_state_of_others_and_move() {
    if is_missing("replicas_without_records_take_the_state_of_others_and_move") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    let setup = three_nodes(on_one_broker(&kafka)).args(&["--storage.image-interval", "2s"]);
    let mut cluster = Cluster::start(Setup { spare: 1, ..setup });
    let ids = |nodes: &[usize]| nodes.iter().map(|node| *node as u64 + 1).collect::<BTreeSet<u64>>();
    wait_settled(&cluster, 0, &ids(&[0, 1, 2]));
    let team = start_load(&cluster, 0);

    let away = cluster.others(cluster.metadata_leader())[0];
    cluster.kill9(away);
    goes_on(&team);
    let deleted = delete_what_is_kept(&kafka, &cluster, &cluster.others(away));
    cluster.restart(away);
    goes_on(&team);
    let told = cluster.process(away).output();
    let taken = told.matches("the replica takes the state of another one").count();
    assert_eq!(taken, deleted, "its records are gone: {told}");
    report(&format!("over Kafka: {taken} replicas took the state of others"));
    let mut ledgers = team.finish();
    check_at(&cluster, &[0, 1, 2], &ledgers, "over Kafka, after a rebuild");

    let team = start_load(&cluster, LATER_WRITERS);
    let fourth = cluster.grow();
    cluster.launch(fourth);
    cluster.wait_ready(fourth);
    wait_settled(&cluster, 0, &ids(&[0, 1, 2, fourth]));
    goes_on(&team);

    let at = cluster.others(away)[0];
    let drained = admin(&cluster, at, &["drain", &format!("n{}", away + 1)]);
    assert!(drained.contains("safe to remove"), "{drained}");
    let left = cluster.others(away);
    wait_settled(&cluster, at, &ids(&left));
    wait_for("its files to go with its replicas", LIMIT, || folders(&cluster, away).is_empty().then_some(()));
    goes_on(&team);
    ledgers.extend(team.finish());
    check_at(&cluster, &left, &ledgers, "over Kafka, after a rebuild, a fourth node and a drain");

    // What was taken over is on the disk: nothing of it is in the topic any more.
    for node in &left {
        cluster.kill9(*node);
    }
    left.iter().for_each(|node| cluster.launch(*node));
    left.iter().for_each(|node| cluster.wait_ready(*node));
    check_at(&cluster, &left, &ledgers, "over Kafka, after a kill of all");
}

/// Deletes the records that all of `nodes` have in their images; returns of how many partitions there were any. Of an older
/// image a replica could not read on.
#[track_caller]
fn delete_what_is_kept(kafka: &Kafka, cluster: &Cluster, nodes: &[usize]) -> usize {
    let ends = kafka.end_offsets(TOPIC);
    let has_all =
        |node: &usize| (0..).zip(&ends).all(|(id, end)| imaged(&cluster.data_dir(*node), id) >= *end);
    wait_for("images with all", LIMIT, || nodes.iter().all(has_all).then_some(()));
    for (partition, end) in (0..).zip(&ends) {
        kafka.delete_records(TOPIC, partition, *end);
    }
    ends.iter().filter(|end| **end > 0).count()
}
