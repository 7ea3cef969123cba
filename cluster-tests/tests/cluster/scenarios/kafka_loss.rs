//! Records that the topic deleted before any replica had them: nodes say what happened and wait, and go on once the operator has
//! said of these very places that the loss is accepted.

use super::kafka_nodes::{LIMIT, PARTITIONS, TOPIC, imaged, lone_node, on_one_broker, three_nodes};
use super::probe::{Probe, Seen};
use super::three_nodes::PATIENCE;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::{Answer, Client};
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::server::Server;
use quorate_cluster_tests::harness::wait_for;
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

const TOLD: &str = "were deleted from the topic before any replica had applied them, and are lost";
const GOES_ON: &str = "going on without records";
/// How long the topic of some keeps records.
const RETENTION: &str = "60s";
const HALF: Duration = Duration::from_secs(30);
const FEW_IMAGES: [&str; 2] = ["--storage.image-interval", "1h"];

#[test]
fn a_cluster_goes_on_without_lost_records_once_that_is_accepted() {
    if is_missing("a_cluster_goes_on_without_lost_records_once_that_is_accepted") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut cluster = Cluster::start(three_nodes(on_one_broker(&kafka)).args(&FEW_IMAGES));
    write(&probe, &cluster.client(0, PATIENCE));
    let lost = kafka.end_offsets(TOPIC);
    // Of the same sessions: what they name was defined in the records that are lost.
    write(&probe, &cluster.client(0, PATIENCE));
    for node in cluster.all() {
        cluster.kill9(node);
    }
    let losses = delete(&kafka, &lost);
    cluster.all().for_each(|node| cluster.launch(node));
    for node in cluster.all() {
        let told = wait_for_word(&cluster.client(node, PATIENCE));
        assert!(
            told.contains("start node 1 with --kafka-accept-loss"),
            "the first of equals goes on: {told}"
        );
    }
    let told = cluster.process(1).output();
    assert!(told.contains(TOLD) && !told.contains(GOES_ON), "{told}");

    // Said of other places it changes nothing.
    accept(&mut cluster, 0, &losses.iter().map(|loss| format!("{loss}9")).collect::<Vec<_>>());
    wait_for_word(&cluster.client(0, PATIENCE));
    accept(&mut cluster, 0, &losses);
    cluster.all().for_each(|node| cluster.wait_ready(node));
    assert_eq!(cluster.process(0).output().matches(GOES_ON).count(), losses.len());
    let goes_on = |cluster: &Cluster| {
        for node in cluster.all() {
            write(&probe, &cluster.client(node, PATIENCE));
            cluster.all().for_each(|node| read(&probe, &cluster.client(node, PATIENCE)));
        }
    };
    goes_on(&cluster);
    cluster.assert_replicas_equal(LIMIT);
    let lost: Vec<f64> = cluster.all().map(|node| lost_samples(&cluster.client(node, PATIENCE))).collect();
    assert!(lost[0] > 0.0 && lost.iter().all(|other| *other == lost[0]), "{lost:?}");
    // It is kept, and nobody has to say it again.
    for node in cluster.all() {
        cluster.kill9(node);
    }
    cluster.write_config("{}");
    cluster.launch_all();
    goes_on(&cluster);
    cluster.assert_replicas_equal(LIMIT);
    assert_eq!(lost_samples(&cluster.client(0, PATIENCE)), lost[0]);
}

/// The session of a gateway that ran all the time is not gone on with: what it defined is lost.
#[test]
fn a_gateway_that_saw_no_stop_goes_on_behind_lost_records() {
    if is_missing("a_gateway_that_saw_no_stop_goes_on_behind_lost_records") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let setup = three_nodes(on_one_broker(&kafka)).args(&["--storage.maintenance-interval", "1s"]);
    let setup = setup.args(&["--kafka-topic-retention", RETENTION, "--replication-factor", "1"]);
    let mut cluster = Cluster::start(setup);
    let leader = cluster.metadata_leader();
    let (away, gateway) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    write(&probe, &cluster.client(leader, PATIENCE));
    let status = cluster.status(leader).expect("an answer");
    let is_away =
        |id: u32| status.partitions.iter().any(|one| one.id == id && one.replicas == [away as u64 + 1]);
    cluster.kill9(away);
    // The first of its session.
    write(&probe, &cluster.client(gateway, PATIENCE));
    let refused = |cluster: &Cluster| {
        probe.write(&cluster.client(gateway, PATIENCE)).is_ok_and(|one| one.status == 503)
    };
    wait_for("a refusal", LIMIT, || refused(&cluster).then_some(()));
    // Other writes may have been taken in part until now.
    let last = SystemClock.instant();
    let mut losses = Vec::new();
    for (partition, end) in (0..).zip(kafka.end_offsets(TOPIC)).filter(|(id, _)| is_away(*id)) {
        let has = imaged(&cluster.data_dir(away), partition);
        if has < end {
            kafka.delete_records(TOPIC, partition as i32, end);
            losses.push(format!("{partition}@{has}"));
        }
    }
    assert!(!losses.is_empty(), "{status:?}");
    cluster.launch(away);
    let told = wait_for_word(&cluster.client(away, PATIENCE));
    assert!(told.contains(&format!("start node {} with", away + 1)), "{told}");
    // What retention deletes is older than this.
    wait_for("half of the retention to be over", LIMIT, || (last.elapsed() > HALF).then_some(()));
    accept(&mut cluster, away, &losses);
    cluster.wait_ready(away);
    for node in [gateway, away, leader, gateway] {
        write(&probe, &cluster.client(node, PATIENCE));
        cluster.all().for_each(|node| read(&probe, &cluster.client(node, PATIENCE)));
    }
    assert_eq!(cluster.process(away).output().matches(GOES_ON).count(), losses.len());
}

#[test]
fn a_lone_node_ends_over_lost_records_until_that_is_accepted() {
    if is_missing("a_lone_node_ends_over_lost_records_until_that_is_accepted") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let options = lone_node(&kafka).args(&FEW_IMAGES);
    let args: Vec<String> = options.args.clone();
    let mut server = Server::start(options);
    write(&probe, &server.client());
    let lost = kafka.end_offsets(TOPIC);
    write(&probe, &server.client());
    server.kill9();
    let losses = delete(&kafka, &lost);
    assert_eq!(losses.len(), PARTITIONS as usize);
    server.launch(None);
    assert!(!server.ready_or_ended(), "it goes on as if nothing was lost");
    let told = server.process().output();
    assert!(told.contains(TOLD) && told.contains("--kafka-accept-loss"), "{told}");
    assert_eq!(server.kill9().code(), Some(1));
    let accepting = losses.join(",");
    let args = args.iter().map(String::as_str).chain(["--kafka-accept-loss", &accepting]);
    server.set_args(&args.collect::<Vec<_>>());
    server.launch(None);
    server.wait_ready();
    write(&probe, &server.client());
    read(&probe, &server.client());
    server.restart();
    read(&probe, &server.client());
}

/// Deletes the records before these ends; returns what the operator has to say of each partition that had some.
fn delete(kafka: &Kafka, ends: &[i64]) -> Vec<String> {
    let had = (0..).zip(ends).filter(|(_, end)| **end > 0);
    let delete = |(partition, end): (i32, &i64)| {
        kafka.delete_records(TOPIC, partition, *end);
        format!("{partition}@0")
    };
    had.map(delete).collect()
}

/// Starts a node again, which accepts these losses.
#[track_caller]
fn accept(cluster: &mut Cluster, node: usize, losses: &[String]) {
    cluster.kill9(node);
    let list: Vec<String> = losses.iter().map(|loss| format!("{loss:?}")).collect();
    cluster.write_config(&format!("kafka:\n  accept_loss: [{}]\n", list.join(", ")));
    cluster.launch(node);
}

/// Samples that a node counts as lost.
#[track_caller]
fn lost_samples(client: &Client) -> f64 {
    let page = client.get("/metrics", &[]).expect("the node tells of itself").text();
    let of_tenants = page.lines().filter(|line| line.starts_with("quorate_tenant_samples_total{"));
    let lost = of_tenants.filter(|line| line.contains("verdict=\"lost\""));
    lost.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
        .sum()
}

#[track_caller]
fn wait_for_word(client: &Client) -> String {
    wait_for("a word about what is lost", LIMIT, || {
        let answer = client.get("/-/ready", &[]).ok()?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        Some(answer.text()).filter(|text| text.contains(TOLD))
    })
}

#[track_caller]
fn write(probe: &Probe, client: &Client) {
    wait_for("an acknowledged write", LIMIT, || probe.write(client).ok().filter(Answer::is_success));
}

#[track_caller]
fn read(probe: &Probe, client: &Client) {
    wait_for("an answered strong read", LIMIT, || matches!(probe.read(client), Seen::Fresh).then_some(()));
}
