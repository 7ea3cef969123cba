//! From records to what the gateway gets, what becomes of each, and what waits for what.

use super::testing::{FakeGateway, FakeLetters, Topic, Written, bad, failure, record};
use super::*;
use crate::protocol::encoder::{rw1, rw2, series, snappy};
use crate::protocol::otlp::{Encoding, OtlpSettings};
use crate::protocol::{InfluxSettings, TextFormat, TextSettings};
use crate::refusal::Refusal;
use quorate_commitlog::kafka::dead_letters::SOURCE_TOPIC;
use quorate_commitlog::kafka::source::Header;
use quorate_model::SystemClock;

fn config(format: Format) -> SourceConfig {
    let decoder = Decoder {
        format,
        tenant: TenantRule { from: TenantFrom::Header("tenant".to_owned()), default: None },
        otlp: OtlpSettings::default(),
        influx: InfluxSettings::default(),
        text: TextSettings::default(),
        max_bytes: 1 << 20,
    };
    SourceConfig {
        name: "s".to_owned(),
        decoder,
        dead_letter_topic: lane::default_letter_topic(),
        dead_letter_refused: true,
        concurrency: 4,
        max_bytes: 1 << 20,
    }
}

/// A running source with fakes around it.
struct Rig {
    topic: Topic,
    gateway: Arc<FakeGateway>,
    letters: Arc<FakeLetters>,
}

impl Rig {
    fn start(config: SourceConfig) -> Self {
        let (topic, feed) = Topic::new();
        let (gateway, letters) = (Arc::new(FakeGateway::default()), Arc::new(FakeLetters::default()));
        tokio::spawn(run(feed, config, gateway.clone(), letters.clone(), Arc::new(SystemClock)));
        Self { topic, gateway, letters }
    }

    async fn finished(&self, count: usize) -> Vec<(i32, i64)> {
        self.topic.settled(|settled| settled.finished.len() == count).await.finished
    }

    /// Tenants and versions that were written.
    fn written(&self) -> Vec<(String, Protocol)> {
        self.gateway.written.lock().iter().map(|(tenant, protocol, _)| (tenant.clone(), *protocol)).collect()
    }

    fn letters(&self) -> Vec<Written> {
        self.letters.written.lock().clone()
    }
}

fn one_body() -> Vec<u8> {
    rw1(&[series(&[("__name__", "up")], &[(1, 1.0)])])
}

fn of_tenant(offset: i64, tenant: &str) -> Record {
    let mut record = record(offset, &snappy(&one_body()));
    record.headers[0].value = Some(Bytes::copy_from_slice(tenant.as_bytes()));
    record
}

fn with_header(mut record: Record, name: &str, value: &str) -> Record {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    record.headers.push(Header { name: name.to_owned(), value });
    record
}

#[tokio::test]
async fn remote_write_is_recognised_in_any_wrapping() {
    let rig = Rig::start(config(Format::RemoteWrite));
    let two = rw2(&[series(&[("__name__", "up")], &[(1, 1.0)])]);
    rig.topic.push(record(0, &one_body()));
    rig.topic.push(record(1, &snappy(&one_body())));
    rig.topic.push(with_header(
        record(2, &snappy(&two)),
        "Content-Type",
        "a;proto=io.prometheus.write.v2.Request",
    ));
    rig.topic.push(with_header(record(3, &snappy(&two)), "X-Prometheus-Remote-Write-Version", "2.0.0"));
    rig.topic.push(record(4, &two));
    rig.topic.push(record(5, &zstd::encode_all(&two[..], 1).unwrap()));
    rig.topic.push(record(6, &zstd::encode_all(&snappy(&two)[..], 1).unwrap()));
    let other = Failure { is_other_protocol: true, ..bad("the other version") };
    rig.finished(7).await;
    rig.gateway.answer("from-header", Err(other));
    rig.topic.push(record(7, &snappy(&two)));
    rig.finished(8).await;
    let (one, two) = (Protocol::RemoteWrite1, Protocol::RemoteWrite2);
    let protocols: Vec<Protocol> = rig.written().into_iter().map(|(_, protocol)| protocol).collect();
    assert_eq!(protocols, [one, one, two, two, two, two, one, two], "the last was tried as 1.0 first");
    assert!(rig.letters().is_empty());
}

#[tokio::test]
async fn each_format_becomes_a_body_and_each_resource_has_its_tenant() {
    let json = r#"{"resourceMetrics":[
        {"resource":{"attributes":[{"key":"team","value":{"stringValue":"a"}}]},"scopeMetrics":[{"metrics":[
            {"name":"m","gauge":{"dataPoints":[{"timeUnixNano":"1000000","asDouble":1}]}}]}]},
        {"resource":{"attributes":[{"key":"team","value":{"stringValue":"b"}}]},"scopeMetrics":[{"metrics":[
            {"name":"m","gauge":{"dataPoints":[{"timeUnixNano":"1000000","asDouble":2}]}}]}]}]}"#;
    for (format, value, tenants) in [
        (Format::Influx, "cpu,host=a usage=1.5", vec!["from-header"]),
        (Format::Text(TextFormat::Prometheus), "up 1\n", vec!["from-header"]),
        (Format::Text(TextFormat::OpenMetrics), "up 1\n# EOF\n", vec!["from-header"]),
        (Format::Otlp(Encoding::Json), json, vec!["a", "b"]),
    ] {
        let mut config = config(format);
        if let Format::Otlp(_) = format {
            config.decoder.tenant.from = TenantFrom::Attribute("team".to_owned());
        }
        let rig = Rig::start(config);
        rig.topic.push(record(0, value.as_bytes()));
        rig.finished(1).await;
        let expected: Vec<_> = tenants.iter().map(|t| ((*t).to_owned(), Protocol::RemoteWrite2)).collect();
        assert_eq!(rig.written(), expected, "{format:?}");
        let again = rig.gateway.written.lock()[0].2.clone();
        rig.topic.push(record(1, value.as_bytes()));
        rig.finished(2).await;
        assert!(
            rig.gateway.written.lock().iter().any(|written| written.2 == again),
            "the same when it comes again"
        );
    }
}

#[tokio::test]
async fn a_resource_without_a_tenant_is_refused_alone() {
    let resource = |attributes: &str| {
        format!(
            r#"{{"resource":{{"attributes":[{attributes}]}},"scopeMetrics":[{{"metrics":[
            {{"name":"m","gauge":{{"dataPoints":[{{"timeUnixNano":"1000000","asDouble":1}}]}}}}]}}]}}"#
        )
    };
    let (some, none) = (resource(r#"{"key":"team","value":{"stringValue":"a"}}"#), resource(""));
    let mut config = config(Format::Otlp(Encoding::Json));
    config.decoder.tenant.from = TenantFrom::Attribute("team".to_owned());
    let rig = Rig::start(config);
    rig.topic.push(record(0, format!(r#"{{"resourceMetrics":[{none},{some}]}}"#).as_bytes()));
    rig.topic.push(record(1, format!(r#"{{"resourceMetrics":[{none}]}}"#).as_bytes()));
    rig.finished(2).await;
    assert_eq!(rig.written(), [("a".to_owned(), Protocol::RemoteWrite2)]);
    let letters = rig.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].1 == 1 && letters[0].2.contains("no attribute \"team\""), "{letters:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_never_stops_its_partition() {
    let mut config = config(Format::Otlp(Encoding::Proto));
    config.decoder.tenant = TenantRule { from: TenantFrom::Fixed, default: Some("a".to_owned()) };
    let rig = Rig::start(config);
    rig.topic.push(record(0, b"\xff\xffgarbage"));
    rig.topic.push(with_header(record(1, b"x"), "content-encoding", "br"));
    rig.topic.push(with_header(record(2, b"garbage"), SOURCE_TOPIC, "elsewhere"));
    rig.topic.push(record(3, b""));
    rig.topic.push(Record { value: None, ..record(4, b"") });
    let mut finished = rig.finished(5).await;
    finished.sort_unstable();
    assert_eq!(finished, (0..5).map(|at| (0, at)).collect::<Vec<_>>());
    let letters = rig.letters();
    assert_eq!(letters.iter().map(|letter| letter.1).collect::<Vec<_>>(), [0, 1], "no letter of a letter");
    assert_eq!(letters[0].0, "t.dead-letters");
    assert!(letters[0].2.contains("malformed") && letters[1].2.contains("\"br\""), "{letters:?}");
    assert!(rig.written().is_empty());
}

#[tokio::test]
async fn a_record_is_put_aside_only_if_nothing_of_it_could_be_stored() {
    let rig = Rig::start(config(Format::RemoteWrite));
    let refusal = Refusal { id: "err", message: "too far in the future".to_owned() };
    rig.gateway.answer("partial", Ok(WriteOutcome::of(1, vec![refusal.clone()])));
    rig.gateway.answer("nothing", Ok(WriteOutcome::of(0, vec![refusal])));
    rig.gateway.answer("broken", Err(bad("the request is malformed")));
    for (offset, tenant) in ["partial", "nothing", "broken", "a/b"].into_iter().enumerate() {
        rig.topic.push(of_tenant(offset as i64, tenant));
    }
    rig.finished(4).await;
    let mut letters = rig.letters();
    letters.sort_unstable_by_key(|letter| letter.1);
    let told: Vec<_> = letters.iter().map(|l| (l.1, l.2.as_str(), l.3.as_deref())).collect();
    let expected = [
        (1, "too far in the future", Some("nothing")),
        (2, "the request is malformed", Some("broken")),
        (3, "tenant name \"a/b\" is not allowed", None),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn without_a_topic_for_them_records_are_passed_over() {
    let rig = Rig::start(SourceConfig { dead_letter_topic: String::new(), ..config(Format::RemoteWrite) });
    rig.gateway.answer("a", Err(bad("malformed")));
    rig.topic.push(of_tenant(0, "a"));
    rig.finished(1).await;
    assert!(rig.letters().is_empty());
}

#[tokio::test]
async fn a_letter_that_is_not_acknowledged_is_written_again_and_one_that_never_will_be_is_passed_over() {
    let rig = Rig::start(config(Format::RemoteWrite));
    let (topic, reason) = ("t.dead-letters".to_owned(), "no".to_owned());
    *rig.letters.fail.lock() = Some(LetterError::NotTaken { topic: topic.clone(), reason: reason.clone() });
    rig.gateway.answer("a", Err(bad("malformed")));
    rig.topic.push(of_tenant(0, "a"));
    rig.topic.settled(|settled| settled.again.len() == 1).await;
    *rig.letters.fail.lock() = Some(LetterError::TooLarge { topic, bytes: 1, reason });
    rig.gateway.answer("a", Err(bad("malformed")));
    rig.topic.push(of_tenant(1, "a"));
    assert_eq!(rig.finished(1).await, [(0, 1)]);
    assert!(rig.letters().is_empty());
}

#[tokio::test]
async fn a_short_wait_is_spent_in_memory_and_what_is_behind_it_waits_too() {
    let rig = Rig::start(SourceConfig { concurrency: 1, ..config(Format::RemoteWrite) });
    for _ in 0..2 {
        let wait = Some(Duration::from_millis(20));
        rig.gateway.answer("busy", Err(failure(ErrorCode::RateLimited, "slow down", wait)));
        rig.gateway.answer("busy", Err(failure(ErrorCode::Unavailable, "no leader", None)));
    }
    rig.topic.push(of_tenant(0, "busy"));
    rig.topic.push(of_tenant(1, "other"));
    assert_eq!(rig.finished(2).await, [(0, 0), (0, 1)]);
    let settled = rig.topic.settled(|_| true).await;
    assert!(settled.again.is_empty() && rig.letters().is_empty(), "{settled:?}");
}

#[tokio::test]
async fn a_long_wait_gives_the_memory_back_and_other_partitions_go_on() {
    let rig = Rig::start(config(Format::RemoteWrite));
    let long = Duration::from_secs(20);
    rig.gateway.answer("busy", Err(failure(ErrorCode::RateLimited, "slow down", Some(long))));
    rig.gateway.answer("late", Err(failure(ErrorCode::RateLimited, "slow down", Some(long * 100))));
    rig.topic.push(of_tenant(0, "busy"));
    rig.topic.push(of_tenant(1, "late"));
    rig.topic.push(Record { partition: 1, ..of_tenant(7, "other") });
    assert_eq!(rig.finished(1).await, [(1, 7)]);
    let settled = rig.topic.settled(|settled| settled.again.len() == 2).await;
    assert_eq!(settled.again, [(0, long), (1, Duration::from_secs(30))]);
}

#[tokio::test]
async fn at_most_half_of_the_room_is_kept_by_records_that_wait() {
    let mut config = config(Format::RemoteWrite);
    config.max_bytes = 3 * record(0, &[0; 1_000]).bytes();
    let rig = Rig::start(config);
    for partition in 0..4 {
        let wait = Some(Duration::from_millis(900));
        rig.gateway.answer("busy", Err(failure(ErrorCode::RateLimited, "slow down", wait)));
        let mut waiting = of_tenant(0, "busy");
        let padding = Header { name: "padding".to_owned(), value: Some(Bytes::from(vec![0; 900])) };
        waiting.headers.push(padding);
        rig.topic.push(Record { partition, ..waiting });
    }
    let settled = rig.topic.settled(|settled| settled.again.len() + settled.finished.len() == 4).await;
    assert_eq!((settled.again.len(), settled.finished.len()), (3, 1));
    assert!(settled.again.iter().all(|(_, after)| *after == Duration::from_secs(1)), "{settled:?}");
}

#[test]
fn only_failures_that_pass_are_waited_for() {
    for (code, passes) in [
        (ErrorCode::RateLimited, true),
        (ErrorCode::Unavailable, true),
        (ErrorCode::Indeterminate, true),
        (ErrorCode::Internal, true),
        (ErrorCode::BadInput, false),
        (ErrorCode::Refused, false),
        (ErrorCode::TooLarge, false),
    ] {
        assert_eq!(failure(code, "", None).is_passing(), passes, "{code:?}");
    }
}
