//! Brokers that are away, records of somebody else, and a node that is fed too slowly: what is refused, what goes on, and
//! what the node tells of it.

use super::kafka_nodes::{LIMIT, PARTITIONS, TOPIC, highest, lone_node, metric, strong};
use super::kills::report;
use super::probe::{Probe, Seen};
use quorate_cluster_tests::harness::http::{Answer, Client};
use quorate_cluster_tests::harness::kafka::{Kafka, Record, is_missing};
use quorate_cluster_tests::harness::server::Server;
use quorate_cluster_tests::harness::wait_for;
use quorate_model::{Clock, SystemClock};
use std::thread;
use std::time::Duration;

/// A write ends within this time, whatever the brokers do.
const REFUSAL_BAR: Duration = Duration::from_secs(10);
/// From the return of the brokers until writes and strong reads are answered again.
const RETURN_BAR: Duration = Duration::from_secs(15);
/// From a broker that stands still until strong reads of what it led are answered: its session and what it takes to learn who
/// leads now.
const STILL_BAR: Duration = Duration::from_secs(15);
const REFUSED_WRITES: usize = 2;
const STRONG_READS: usize = 21;
/// Half of them are answered within this time on a machine that does other things too.
const STRONG_READ_BAR: Duration = Duration::from_millis(100);

#[test]
fn without_brokers_writes_and_strong_reads_are_refused_and_eventual_ones_go_on() {
    if is_missing("without_brokers_writes_and_strong_reads_are_refused_and_eventual_ones_go_on") {
        return;
    }
    let (mut kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut server = Server::start(lone_node(&kafka));
    let client = server.client();
    write(&probe, &client);
    read(&probe, &client);

    kafka.kill(0);
    // What a broker may have taken before it died is not known; what none was sent is refused.
    assert_refuses(&probe, &client, "brokers that are gone", &[503]);
    kafka.start_broker(0);
    assert_is_back(&probe, &client, "brokers that were gone");

    kafka.pause(0);
    assert_refuses(&probe, &client, "brokers that stand still", &[503, 504]);
    kafka.resume(0);
    assert_is_back(&probe, &client, "brokers that stood still");
    assert_eq!(server.process().exit(), None, "the node runs through all of it");
    assert!(server.terminate().success(), "SIGTERM drains and exits 0");
}

#[test]
fn records_of_somebody_else_are_counted_and_hold_up_nothing() {
    if is_missing("records_of_somebody_else_are_counted_and_hold_up_nothing") {
        return;
    }
    const STRANGE: &str = "quorate_kafka_strange_records_total";
    const PASSED: &str = "quorate_kafka_passed_offsets_total";
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut server = Server::start(lone_node(&kafka));
    write(&probe, &server.client());
    // A record of ours that was damaged, one of ours in another log, text, nothing, and a tombstone.
    let ours = kafka.read_all(TOPIC).into_iter().find_map(|message| message.value).expect("a record of ours");
    let mut damaged = ours.clone();
    damaged.truncate(ours.len() / 2);
    let values = [Some(&damaged[..]), Some(b"{\"value\": 7}"), Some(b""), None];
    for partition in 0..PARTITIONS {
        let record = |value| Record { partition: Some(partition), value, ..Record::default() };
        kafka.produce_all(TOPIC, &values.map(record));
        write(&probe, &server.client());
        read(&probe, &server.client());
    }
    let strange = (values.len() * PARTITIONS as usize) as f64;
    assert_eq!(metric(&server.client(), STRANGE), strange);
    assert_eq!(metric(&server.client(), PASSED), 0.0);
    // The mark of a transaction at the end of each partition is an offset where no record will ever stand.
    for partition in 0..PARTITIONS {
        kafka.produce_transaction(TOPIC, partition, b"of somebody else");
    }
    read(&probe, &server.client());
    assert_eq!(metric(&server.client(), PASSED), f64::from(PARTITIONS));
    // Nor after a replay.
    server.restart();
    read(&probe, &server.client());
    write(&probe, &server.client());
    read(&probe, &server.client());
    let log = server.process().output();
    assert!(log.contains("is none of this cluster"), "{log}");
}

/// It is the leader of some partitions until its session is over, 4 seconds here; its connections stay open.
#[test]
fn strong_reads_come_back_soon_after_a_broker_stands_still() {
    if is_missing("strong_reads_come_back_soon_after_a_broker_stands_still") {
        return;
    }
    let (kafka, probe) = (Kafka::start(3, &[]), Probe::new());
    let mut options = lone_node(&kafka);
    let replicas =
        options.args.iter().position(|arg| arg == "--kafka-replication-factor").expect("an argument");
    options.args[replicas + 1] = "3".to_owned();
    let server = Server::start(options);
    let client = server.client();
    write(&probe, &client);
    read(&probe, &client);
    let still = kafka.leader(TOPIC, 0);
    kafka.pause(still);
    let begin = SystemClock.instant();
    wait_for("an answered strong read", LIMIT, || matches!(probe.read(&client), Seen::Fresh).then_some(()));
    let took = begin.elapsed();
    report(&format!("a broker stands still: strong reads again after {took:.1?}"));
    assert!(took <= STILL_BAR, "strong reads came back after {took:?}");
    assert_is_back(&probe, &client, "a broker stands still");
    kafka.resume(still);
}

/// A broker answers the requests of a connection in their order, and a fetch waits for records: for half a second.
#[test]
fn a_strong_read_does_not_wait_for_records_to_come() {
    if is_missing("a_strong_read_does_not_wait_for_records_to_come") {
        return;
    }
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let server = Server::start(lone_node(&kafka));
    write(&probe, &server.client());
    let mut took: Vec<Duration> = (0..STRONG_READS)
        .map(|_| {
            let begin = SystemClock.instant();
            read(&probe, &server.client());
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    let median = took[STRONG_READS / 2];
    report(&format!(
        "strong reads over an idle topic: {median:.1?} in the median, {:.1?} at most",
        took[STRONG_READS - 1]
    ));
    assert!(median < STRONG_READ_BAR, "a strong read of an idle node takes {median:?}");
}

#[test]
fn the_lag_grows_while_records_do_not_arrive() {
    if is_missing("the_lag_grows_while_records_do_not_arrive") {
        return;
    }
    const SECONDS: &str = "quorate_kafka_lag_seconds";
    const RECORDS: &str = "quorate_kafka_lag_records";
    let (kafka, probe) = (Kafka::start(1, &[]), Probe::new());
    let mut server = Server::start(lone_node(&kafka));
    write(&probe, &server.client());
    read(&probe, &server.client());
    wait_for("no lag", LIMIT, || (metric(&server.client(), RECORDS) == 0.0).then_some(()));
    server.kill9();

    // The broker now holds back what it has until there are 100 MB of it, or 20 seconds are over.
    let slow = "fetch.min.bytes=100000000,fetch.wait.max.ms=20000,socket.timeout.ms=60000";
    let args = lone_node(&kafka).args(&["--kafka-options", slow]).args;
    server.set_args(&args.iter().map(String::as_str).collect::<Vec<_>>());
    server.launch(None);
    server.wait_ready();
    let client = server.client();
    write(&probe, &client);
    let (mut seen, begin) = (0.0, SystemClock.instant());
    for seconds in [2.0, 5.0] {
        let what = format!("a lag of {seconds} seconds");
        seen = wait_for(&what, LIMIT, || {
            let lag = highest(&client, SECONDS);
            (lag >= seconds).then_some(lag)
        });
    }
    let passed = begin.elapsed().as_secs_f64();
    assert!(seen <= passed + 1.0, "the lag is {seen} s after {passed} s");
    assert!(metric(&client, RECORDS) > 0.0, "there are records that are not applied");
    let told = client.api("/api/v1/cluster", &[]);
    let lags = told["partitions"].as_array().into_iter().flatten();
    assert!(lags.filter_map(|replica| replica["lagSeconds"].as_f64()).any(|lag| lag >= 5.0), "{told}");
    wait_for("no lag", LIMIT, || {
        (metric(&client, RECORDS) == 0.0 && highest(&client, SECONDS) == 0.0).then_some(())
    });
    read(&probe, &client);
}

#[track_caller]
fn write(probe: &Probe, client: &Client) {
    let answer = probe.write(client).expect("an answer");
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[track_caller]
fn read(probe: &Probe, client: &Client) {
    let seen = probe.read(client);
    assert!(matches!(seen, Seen::Fresh), "{seen:?}");
}

/// Writes end in time with one of `statuses`, strong reads are refused, eventual ones answered.
#[track_caller]
fn assert_refuses(probe: &Probe, client: &Client, what: &str, statuses: &[u16]) {
    let strong = thread::scope(|scope| {
        // It waits for the brokers for longer than a write.
        let strong = scope.spawn(|| probe.ask(client, "strong").expect("an answer"));
        (0..REFUSED_WRITES).for_each(|_| assert_refuses_write(probe, client, what, statuses));
        strong.join().expect("the reader does not panic")
    });
    assert_eq!(strong.status, 503, "{what}: a strong read: {}", strong.text());
    let eventual = probe.ask(client, "eventual").expect("an answer");
    assert_eq!(eventual.status, 200, "{what}: {}", eventual.text());
    assert!(eventual.json()["data"]["result"][0]["value"].is_array(), "{what}: {}", eventual.text());
}

#[track_caller]
fn assert_refuses_write(probe: &Probe, client: &Client, what: &str, statuses: &[u16]) {
    let begin = SystemClock.instant();
    let answer = probe.write(client).expect("an answer");
    let took = begin.elapsed();
    report(&format!("{what}: a write is answered {} after {took:.1?}", answer.status));
    assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    let is_told_when = answer.status != 503 || answer.header("retry-after").is_some();
    assert!(is_told_when, "{what}: {:?}", answer.headers);
    assert!(took <= REFUSAL_BAR, "{what}: a write ended after {took:?}");
}

/// Without a word to the node.
#[track_caller]
fn assert_is_back(probe: &Probe, client: &Client, what: &str) {
    let begin = SystemClock.instant();
    wait_for("an acknowledged write", LIMIT, || probe.write(client).ok().filter(Answer::is_success));
    wait_for("an answered strong read", LIMIT, || matches!(probe.read(client), Seen::Fresh).then_some(()));
    let took = begin.elapsed();
    report(&format!("{what}: writes and strong reads again in {took:.1?}"));
    assert!(took <= RETURN_BAR, "{what}: the node came back after {took:?}");
    let count = strong(client).get("/api/v1/query", &[("query", "count(probe_value)")]).expect("an answer");
    assert_eq!(count.status, 200, "{}", count.text());
}
