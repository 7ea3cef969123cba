use super::super::net::{self, Middle, Network};
use super::*;
use quorate_model::{Clock, SystemClock};
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use std::error::Error;
use std::sync::Mutex;

fn report(what: &str, begin: std::time::Instant) {
    // Beside the test's own output, which is shown only when it fails.
    writeln!(std::io::stderr(), "{what}: {} ms", begin.elapsed().as_millis()).unwrap();
}

#[test]
fn a_broker_that_is_killed_comes_back_with_its_records() {
    if is_missing("a_broker_that_is_killed_comes_back_with_its_records") {
        return;
    }
    let begin = SystemClock.instant();
    let mut kafka = Kafka::start(1, &[]);
    report("one broker is ready", begin);
    kafka.create_topic("t", 2, 1, &[("retention.ms", "-1")]);
    assert_eq!(kafka.produce("t", Some(1), Some(b"k"), Some(b"v"), &[("h", b"x"), ("h", b"y")]), (1, 0));
    assert_eq!(kafka.produce("t", Some(1), None, None, &[]), (1, 1));
    let written = kafka.read_all("t");
    let headers = vec![("h".into(), Some(b"x".to_vec())), ("h".into(), Some(b"y".to_vec()))];
    assert_eq!((written.len(), &written[0].headers), (2, &headers));
    assert_eq!((written[0].key.as_deref(), written[0].value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!((&written[1].key, &written[1].value), (&None, &None));
    let bootstrap = kafka.bootstrap();
    kafka.kill(0);
    assert!(kafka.known_brokers().is_empty(), "a killed broker answers nobody");
    let begin = SystemClock.instant();
    kafka.start_broker(0);
    report("a killed broker is ready again", begin);
    assert_eq!(kafka.bootstrap(), bootstrap);
    assert_eq!(kafka.read_all("t"), written);
    let begin = SystemClock.instant();
    assert_eq!(kafka.stop(0).code(), Some(143));
    report("a broker is stopped", begin);
    kafka.start_broker(0);
    assert_eq!(kafka.read_all("t"), written);
}

#[test]
fn topics_are_changed_cut_and_deleted() {
    if is_missing("topics_are_changed_cut_and_deleted") {
        return;
    }
    let kafka = Kafka::start(1, &[("log.message.timestamp.before.max.ms", "9223372036854775807")]);
    kafka.create_topic("t", 3, 1, &[]);
    let records: Vec<Record<'_>> =
        (0..6).map(|at| Record { partition: Some(at % 2), value: Some(b"v"), ..Record::default() }).collect();
    let placed = kafka.produce_all("t", &records);
    assert_eq!(placed, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]);
    assert_eq!(kafka.end_offsets("t"), [3, 3, 0]);
    kafka.delete_records("t", 0, 2);
    assert_eq!((kafka.start_offsets("t"), kafka.end_offsets("t")), (vec![2, 0, 0], vec![3, 3, 0]));
    assert_eq!(kafka.read_all("t").len(), 4);
    // Retention takes the rest away.
    kafka.set_topic_config("t", &[("retention.ms", "1"), ("segment.ms", "1")]);
    wait_for("retention", LIMIT, || (kafka.start_offsets("t") == [3, 3, 0]).then_some(()));
    assert_eq!(kafka.read_all("t"), []);
    kafka.delete_topic("t");
    kafka.create_topic("t", 1, 1, &[]);
    assert_eq!(kafka.end_offsets("t"), [0]);
}

#[test]
fn three_brokers_go_on_without_one() {
    if is_missing("three_brokers_go_on_without_one") {
        return;
    }
    let begin = SystemClock.instant();
    let mut kafka = Kafka::start(3, &[]);
    report("three brokers are ready", begin);
    kafka.create_topic("t", 1, 3, &[("min.insync.replicas", "2")]);
    let mut expected = vec![kafka.produce("t", Some(0), None, Some(b"before"), &[])];
    let leader = kafka.leader("t", 0);
    kafka.kill(leader);
    let begin = SystemClock.instant();
    expected.push(kafka.produce("t", Some(0), None, Some(b"during"), &[]));
    report("another leader acknowledges", begin);
    let next = kafka.leader("t", 0);
    assert_ne!(next, leader);
    kafka.start_broker(leader);
    let in_sync = |kafka: &Kafka| (kafka.in_sync("t", 0).len() == 3).then_some(());
    wait_for("three in sync", LIMIT, || in_sync(&kafka));
    kafka.pause(next);
    expected.push(kafka.produce("t", Some(0), None, Some(b"paused"), &[]));
    kafka.resume(next);
    wait_for("three in sync", LIMIT, || in_sync(&kafka));
    let read = kafka.read_all("t");
    assert_eq!(read.iter().map(|m| (m.partition, m.offset)).collect::<Vec<_>>(), expected);
}

#[test]
fn every_codec_is_in_the_client() {
    if is_missing("every_codec_is_in_the_client") {
        return;
    }
    let kafka = Kafka::start(1, &[]);
    kafka.create_topic("t", 1, 1, &[]);
    let value = vec![b'x'; 100_000];
    for (at, codec) in ["zstd", "lz4", "gzip", "snappy", "none"].into_iter().enumerate() {
        let mut config = kafka.internal_config();
        config.set("compression.codec", codec).set("statistics.interval.ms", "0");
        let producer: rdkafka::producer::BaseProducer = config.create().unwrap();
        let record = rdkafka::producer::BaseRecord::<(), [u8]>::to("t").partition(0).payload(&value);
        producer.send(record).unwrap();
        rdkafka::producer::Producer::flush(&producer, LIMIT).unwrap();
        assert_eq!(kafka.end_offsets("t"), [at as i64 + 1], "{codec}");
        // What the broker has is compressed: a batch is about as long as its segment grew.
        let folder = kafka.files().data(0).join("t-0/00000000000000000000.log");
        let length = std::fs::metadata(folder).unwrap().len();
        assert!(codec == "none" || length < 10_000 * (at as u64 + 1), "{codec}: {length} bytes");
    }
    assert!(kafka.read_all("t").iter().all(|message| message.value.as_ref() == Some(&value)));
}

/// Makes tokens that nobody signed, and keeps what librdkafka says went wrong.
#[derive(Default)]
struct Visitor(Mutex<Option<RDKafkaErrorCode>>);

impl ClientContext for Visitor {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let until_ms = now_ms() + 3_600_000;
        let token = unsecured_token(USER, now_ms() - 1000, until_ms);
        Ok(OAuthToken { token, principal_name: USER.into(), lifetime_ms: until_ms })
    }

    fn error(&self, error: KafkaError, _reason: &str) {
        self.0.lock().unwrap().get_or_insert(error.rdkafka_error_code().unwrap());
    }
}

impl ConsumerContext for Visitor {}

/// Lets a client in, or says why not.
fn visit(config: &ClientConfig) -> Result<(), RDKafkaErrorCode> {
    let mut config = config.clone();
    config.set("group.id", "g");
    let consumer: BaseConsumer<Visitor> = config.create_with_context(Visitor::default()).unwrap();
    wait_for("a verdict about a client", LIMIT, || {
        // Tokens are made and errors are told while the client is polled.
        assert!(consumer.poll(Duration::ZERO).is_none_or(|polled| polled.is_err()));
        if consumer.fetch_metadata(None, Duration::from_millis(500)).is_ok() {
            return Some(Ok(()));
        }
        consumer.context().0.lock().unwrap().map(Err)
    })
}

#[test]
fn sasl_lets_in_who_knows_the_password_or_has_a_token() {
    if is_missing("sasl_lets_in_who_knows_the_password_or_has_a_token") {
        return;
    }
    let kafka = Kafka::start_as(&Setup::new(1).security(Security::SaslTls));
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] {
        assert_eq!(visit(&kafka.client_config(mechanism)), Ok(()), "{mechanism}");
    }
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let mut wrong = kafka.client_config(mechanism);
        wrong.set("sasl.password", "wrong");
        assert_eq!(visit(&wrong), Err(RDKafkaErrorCode::Authentication), "{mechanism}");
    }
    let mut plain = kafka.client_config("PLAIN");
    plain.set("security.protocol", "SASL_PLAINTEXT");
    assert!(visit(&plain).is_err(), "without TLS");
}

#[test]
fn mutual_tls_lets_in_who_has_a_certificate() {
    if is_missing("mutual_tls_lets_in_who_has_a_certificate") {
        return;
    }
    let kafka = Kafka::start_as(&Setup::new(1).security(Security::MutualTls));
    let config = kafka.client_config("");
    assert_eq!(visit(&config), Ok(()));
    let mut bare = config.clone();
    bare.remove("ssl.certificate.location");
    bare.remove("ssl.key.location");
    assert!(visit(&bare).is_err(), "without a certificate");
}

/// As beside nodes that have a network of their own.
#[test]
fn a_broker_can_be_a_member_of_a_network() {
    let name = "a_broker_can_be_a_member_of_a_network";
    if is_missing(name) {
        return;
    }
    if let Err(reason) = net::available() {
        return skip(name, &reason);
    }
    let network = Network::create(2, Middle::Bridge);
    let _inside = network.enter();
    let setup = Setup::new(1).hosts(&[network.address(1)]);
    let mut kafka = Kafka::start_at(&setup, |_, command| network.at(1, command));
    kafka.create_topic("t", 1, 1, &[]);
    assert_eq!(kafka.produce("t", None, None, Some(b"v"), &[]), (0, 0));
    kafka.kill(0);
    kafka.start_broker(0);
    assert_eq!(kafka.end_offsets("t"), [1]);
}
