//! A topic that cannot be the log of a cluster, or no longer is, ends the node with the reason; brokers that are away do not.

use super::kafka_nodes::{LIMIT, PARTITIONS, TOPIC, imaged, lone_node};
use super::probe::Probe;
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::server::{Options, Server};
use quorate_cluster_tests::harness::wait_for;
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

/// The topic is looked at every 20 seconds and for 10 more, and when a replica misses records.
const NOTICE_LIMIT: Duration = Duration::from_secs(40);

#[test]
fn topics_that_are_not_fit_are_refused_with_the_reason() {
    if is_missing("topics_that_are_not_fit_are_refused_with_the_reason") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    let append_time = ("message.timestamp.type", "LogAppendTime");
    kafka.create_topic("narrow", PARTITIONS - 1, 1, &[append_time]);
    kafka.create_topic("compact", PARTITIONS, 1, &[append_time, ("cleanup.policy", "compact")]);
    kafka.create_topic("unsafe", PARTITIONS, 1, &[append_time]);
    kafka.create_topic("used", PARTITIONS, 1, &[append_time]);
    kafka.produce("used", Some(PARTITIONS - 1), None, Some(b"of somebody else"), &[]);
    let unsafe_flag = "--kafka-allow-unsafe-topic";
    for (topic, allows_unsafe, reason) in [
        ("narrow", true, "it has 3 partitions and the cluster 4"),
        ("compact", true, "cleanup.policy is compact"),
        ("unsafe", false, "its replication factor is 1, below 3"),
        ("unsafe", false, "min.insync.replicas is 1, below 2"),
        ("not-there", false, "kafka.replication_factor is 1, below 3"),
        ("used", true, "it holds records that this cluster has not written"),
    ] {
        let mut options = lone_node(&kafka).args(&["--kafka-topic", topic]);
        options.args.retain(|arg| allows_unsafe || arg != unsafe_flag);
        let mut server = Server::prepare(options);
        assert_refused(&mut server, &[&format!("{topic:?}"), reason]);
    }
    let absent = lone_node(&kafka).args(&["--kafka-topic", "not-there", "--kafka-create-topic", "false"]);
    assert_refused(&mut Server::prepare(absent), &["does not exist", "kafka.create_topic is off"]);
}

#[test]
fn a_topic_that_was_deleted_and_made_again_is_another_log() {
    if is_missing("a_topic_that_was_deleted_and_made_again_is_another_log") {
        return;
    }
    const GONE: &str = "gone";
    let kafka = Kafka::start(1, &[]);
    let start = |topic| {
        let server = Server::start(lone_node(&kafka).args(&["--kafka-topic", topic]));
        let written = Probe::new().write(&server.client()).expect("an answer");
        assert!(written.is_success(), "{} {}", written.status, written.text());
        server
    };
    let (mut server, mut other) = (start(TOPIC), start(GONE));
    kafka.delete_topic(TOPIC);
    kafka.delete_topic(GONE);
    kafka.create_topic(TOPIC, PARTITIONS, 1, &[]);
    let begin = SystemClock.instant();
    for (server, topic, why) in
        [(&mut server, TOPIC, "it was deleted and made again"), (&mut other, GONE, "it was deleted")]
    {
        let end = server.process().wait(LIMIT);
        let took = begin.elapsed();
        let output = server.process().output();
        assert_eq!(end.code(), Some(1), "{output}");
        assert!(took <= NOTICE_LIMIT, "the node noticed after {took:?}");
        let reason = format!("the topic {topic:?} cannot be used: {why}");
        assert!(output.contains(&reason), "no word of {reason:?}: {output}");
        server.kill9();
        // A topic that is known and missing is not made again.
        let reasons = match topic {
            TOPIC => ["the log of this cluster is the Kafka topic", "was deleted is lost"],
            _ => ["cannot be used: it was deleted", "not applied is lost"],
        };
        assert_refused(server, &reasons);
    }
}

/// As after a power loss of all brokers: the files of a partition end earlier than what was acknowledged.
#[test]
fn a_topic_that_lost_records_and_grew_over_their_places_is_told_after_a_restart() {
    if is_missing("a_topic_that_lost_records_and_grew_over_their_places_is_told_after_a_restart") {
        return;
    }
    let (mut kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut server = Server::start(lone_node(&kafka).args(&["--storage.image-interval", "1s"]));
    for _ in 0..3 {
        let written = probe.write(&server.client()).expect("an answer");
        assert!(written.is_success(), "{} {}", written.status, written.text());
    }
    let ends = kafka.end_offsets(TOPIC);
    wait_for("images of all that was written", LIMIT, || {
        (0..).zip(&ends).all(|(id, end)| imaged(server.data_dir(), id) >= *end).then_some(())
    });
    server.kill9();
    kafka.stop(0);
    for partition in 0..PARTITIONS {
        let folder = kafka.files().data(0).join(format!("{TOPIC}-{partition}"));
        for file in std::fs::read_dir(folder).expect("the folder of a partition").flatten() {
            if file.file_name() != "partition.metadata" {
                std::fs::remove_file(file.path()).expect("a file can be removed");
            }
        }
    }
    kafka.start_broker(0);
    assert!(kafka.end_offsets(TOPIC).iter().all(|end| *end == 0), "the records are lost");
    for (partition, end) in (0..).zip(&ends) {
        for _ in 0..end + 1 {
            kafka.produce(TOPIC, Some(partition), None, Some(b"in its place"), &[]);
        }
    }
    assert_refused(
        &mut server,
        &["is not the one that was read there before", "acknowledged records were lost"],
    );
}

#[test]
fn a_data_dir_keeps_its_kind_of_log() {
    if is_missing("a_data_dir_keeps_its_kind_of_log") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    let over_kafka = lone_node(&kafka).args;
    let over_kafka: Vec<&str> = over_kafka.iter().map(String::as_str).collect();
    let partitions = PARTITIONS.to_string();
    let embedded = ["--self-monitor", "false", "--partitions", &partitions];
    for (first, second, reason) in [
        (&embedded[..], &over_kafka[..], "the log of this cluster is the embedded log"),
        (&over_kafka, &embedded, "the log of this cluster is the Kafka topic"),
    ] {
        let probe = Probe::new();
        let mut server = Server::start(Options::default().args(first));
        let written = probe.write(&server.client()).expect("an answer");
        assert!(written.is_success(), "{} {}", written.status, written.text());
        assert!(server.terminate().success(), "SIGTERM drains and exits 0");
        server.set_args(second);
        assert_refused(&mut server, &[reason]);
        server.set_args(first);
        server.launch(None);
        server.wait_ready();
        probe.read(&server.client());
        server.kill9();
    }
}

#[test]
fn a_node_waits_for_brokers_that_are_not_there() {
    if is_missing("a_node_waits_for_brokers_that_are_not_there") {
        return;
    }
    let (mut kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    kafka.stop(0);
    let mut server = Server::prepare(lone_node(&kafka));
    server.launch(None);
    let process = server.process();
    wait_for("a word about the brokers", LIMIT, || {
        process.output().contains("waiting for Kafka").then_some(())
    });
    assert_eq!(process.exit(), None, "a node waits");
    let ready = server.client().get("/-/ready", &[]);
    assert!(ready.is_ok_and(|answer| answer.status == 503), "it is not ready");
    kafka.start_broker(0);
    server.wait_ready();
    let written = probe.write(&server.client()).expect("an answer");
    assert!(written.is_success(), "{} {}", written.status, written.text());
    // The same once there is data.
    server.kill9();
    kafka.kill(0);
    server.launch(None);
    let process = server.process();
    wait_for("a word about the brokers", LIMIT, || {
        process.output().contains("waiting for Kafka").then_some(())
    });
    kafka.start_broker(0);
    server.wait_ready();
    assert_eq!(format!("{:?}", probe.read(&server.client())), "Fresh");
}

/// Starts the server: it ends with code 1 and all of `reasons`.
#[track_caller]
fn assert_refused(server: &mut Server, reasons: &[&str]) {
    server.launch(None);
    assert!(!server.ready_or_ended(), "it was not refused, though {reasons:?}");
    let output = server.process().output();
    assert_eq!(server.kill9().code(), Some(1), "{output}");
    for reason in reasons {
        assert!(output.contains(reason), "no word of {reason:?}: {output}");
    }
}
