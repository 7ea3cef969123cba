//! The contract of a partition's log over a real broker, which keeps records on a disk, deletes them, and is killed.
//!
//! The one place where the product is not seen from outside: what a log owes to its readers cannot be asked over HTTP.

use async_trait::async_trait;
use bytes::Bytes;
use quorate_cluster_tests::harness::kafka::{
    Kafka as Brokers, Security, Setup, USER, is_missing, unsecured_token,
};
use quorate_cluster_tests::harness::now_ms;
use quorate_commitlog::conformance::{Place, check_log};
use quorate_commitlog::kafka::topic::{TopicSettings, open};
use quorate_commitlog::kafka::{ClientSettings, Kafka, KafkaLog, ProduceSettings, Sasl, TlsSettings};
use quorate_commitlog::{LogEntry, LogError, LogReader, PartitionLog};
use quorate_model::{Clock, PartitionId, Position, SystemClock};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 2;
/// The partition with the log.
const PARTITION: PartitionId = PartitionId(1);

/// A new topic of the broker.
struct Topic<'a> {
    brokers: &'a Brokers,
    name: String,
}

impl Topic<'_> {
    async fn connect(&self) -> KafkaLog {
        self.connect_with(ClientSettings::default()).await
    }

    async fn connect_with(&self, settings: ClientSettings) -> KafkaLog {
        let settings = ClientSettings { brokers: vec![self.brokers.bootstrap()], ..settings };
        let wanted = TopicSettings {
            name: self.name.clone(),
            partitions: PARTITIONS,
            replication: 1,
            retention_ms: 86_400_000,
            create: true,
            allow_unsafe: true,
        };
        let topic = open(&settings, &wanted).await.expect("the topic is fit");
        let produce = ProduceSettings { compression: "zstd".to_owned(), timeout: LIMIT };
        KafkaLog::new(Kafka::connect(settings, produce, topic).expect("clients can be made"), PARTITION)
    }
}

#[async_trait]
impl Place for Topic<'_> {
    async fn open(&mut self) -> Arc<dyn PartitionLog> {
        Arc::new(self.connect().await)
    }

    async fn close(&mut self) {}

    /// As retention does it: the log itself deletes nothing.
    async fn trim(&mut self, log: &dyn PartitionLog, up_to: Position) -> bool {
        log.trim(up_to).await.expect("a trim succeeds");
        let before = i64::try_from(up_to.0).expect("an offset");
        tokio::task::block_in_place(|| {
            let partition = PARTITION.0 as i32;
            let first = self.brokers.start_offsets(&self.name)[PARTITION.0 as usize];
            self.brokers.delete_records(&self.name, partition, before.max(first));
        });
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_keeps_the_contract_of_a_log() {
    if is_missing("a_topic_keeps_the_contract_of_a_log") {
        return;
    }
    let brokers = Brokers::start(1, &[]);
    let topics = AtomicUsize::new(0);
    check_log(|| {
        let name = format!("log-{}", topics.fetch_add(1, Ordering::Relaxed));
        Topic { brokers: &brokers, name }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_go_on_after_the_broker_was_killed() {
    if is_missing("positions_go_on_after_the_broker_was_killed") {
        return;
    }
    let mut brokers = Brokers::start(1, &[]);
    let (mut expected, mut logs) = (Vec::new(), Vec::new());
    for round in 0..3u8 {
        // Those of before live on, over the same connections.
        logs.push(Topic { brokers: &brokers, name: "log".to_owned() }.connect().await);
        assert_eq!(logs[0].incarnation(), logs[usize::from(round)].incarnation());
        for (log, number) in logs.iter().cycle().zip(0..30u8) {
            let payload = Bytes::from(vec![round, number]);
            let position = log.append(payload.clone()).await.expect("an append succeeds");
            assert!(expected.last().is_none_or(|last: &LogEntry| last.position < position));
            expected.push(LogEntry::new(position, payload));
        }
        for log in &logs {
            assert_eq!(Some(end_of(log).await), expected.last().map(|last| last.position));
            let mut reader = log.read_from(Position(0));
            let mut found = Vec::new();
            while found.len() < expected.len() {
                found.extend(reader.next().await.expect("a read succeeds"));
            }
            assert_eq!(found, expected);
        }
        brokers.kill(0);
        brokers.start_broker(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_token_reads_on_with_the_next_one() {
    if is_missing("who_has_a_token_reads_on_with_the_next_one") {
        return;
    }
    const LIFETIME_MS: i64 = 5_000;
    // The broker closes connections whose token is over.
    let reauthentication = ("connections.max.reauth.ms", "3600000");
    let brokers = Brokers::start_as(&Setup::new(1).security(Security::SaslTls).options(&[reauthentication]));
    let file = tempfile::NamedTempFile::new().expect("a file");
    let renew = || {
        let token = unsecured_token(USER, now_ms() - 1_000, now_ms() + LIFETIME_MS);
        std::fs::write(file.path(), token).expect("a token can be written");
    };
    renew();
    let tls = Some(TlsSettings { ca_file: brokers.files().ca(), ..TlsSettings::default() });
    let sasl = Some(Sasl::Token { token_file: file.path().to_owned() });
    let topic = Topic { brokers: &brokers, name: "log".to_owned() };
    let log = topic.connect_with(ClientSettings { tls, sasl, ..ClientSettings::default() }).await;
    let mut reader = log.read_from(Position(0));
    let begin = SystemClock.instant();
    while begin.elapsed() < Duration::from_millis(3 * LIFETIME_MS as u64) {
        renew();
        let position = log.append(Bytes::from_static(b"x")).await.expect("an append succeeds");
        read_to(&mut *reader, position).await;
    }
}

/// Reads until everything before `end` was delivered.
async fn read_to(reader: &mut dyn LogReader, end: Position) -> Vec<LogEntry> {
    let mut found: Vec<LogEntry> = Vec::new();
    while found.last().is_none_or(|last| last.position < end) {
        let next = tokio::time::timeout(LIMIT, reader.next()).await;
        found.extend(next.expect("the end is reached").expect("a read succeeds"));
    }
    found
}

/// Others may write with transactions, whose marks are offsets without records: nothing comes behind the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_reached_although_marks_of_transactions_stand_there() {
    if is_missing("the_end_is_reached_although_marks_of_transactions_stand_there") {
        return;
    }
    let brokers = Brokers::start(1, &[]);
    let log = Topic { brokers: &brokers, name: "log".to_owned() }.connect().await;
    let (ours, others) = (Bytes::from_static(b"ours"), Bytes::from_static(b"others"));
    log.append(ours.clone()).await.expect("an append succeeds");
    let mut early = log.read_from(Position(0));
    tokio::task::block_in_place(|| brokers.produce_transaction("log", PARTITION.0 as i32, &others));
    let end = end_of(&log).await;
    assert_eq!(end, Position(3), "a record of ours, one of others and a mark");
    let expected = [
        LogEntry::new(Position(1), ours.clone()),
        LogEntry::new(Position(2), others),
        LogEntry::gap(Position(3)),
    ];
    assert_eq!(read_to(&mut *early, end).await, expected, "who was there before");
    drop(early);
    for after in 0..3 {
        let mut late = log.read_from(Position(after));
        assert_eq!(read_to(&mut *late, end).await, expected[after as usize..], "who begins after {after}");
    }
    let mut reader = log.read_from(Position(1));
    read_to(&mut *reader, end).await;
    let next = log.append(ours.clone()).await.expect("an append succeeds");
    assert_eq!(read_to(&mut *reader, next).await, [LogEntry::new(Position(4), ours)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_on_behind_a_record_is_told_when_another_one_has_its_place() {
    if is_missing("who_goes_on_behind_a_record_is_told_when_another_one_has_its_place") {
        return;
    }
    let brokers = Brokers::start(1, &[]);
    let mut topic = Topic { brokers: &brokers, name: "log".to_owned() };
    let log = topic.connect().await;
    let mut entries = Vec::new();
    for payload in [&b"a"[..], b"b", b"c"] {
        let payload = Bytes::from_static(payload);
        entries.push(LogEntry::new(log.append(payload.clone()).await.expect("an append succeeds"), payload));
    }
    let [before, last, next] = &entries[..] else { panic!("three entries") };
    let after = last.position;
    let mut same = log.read_behind(after, Some((after, last.crc())));
    assert_eq!(read_to(&mut *same, next.position).await, std::slice::from_ref(next));
    drop(same);
    let mut earlier = log.read_behind(after, Some((before.position, before.crc())));
    assert_eq!(read_to(&mut *earlier, next.position).await, std::slice::from_ref(next));
    drop(earlier);
    let mut other = log.read_behind(after, Some((after, before.crc())));
    let error = tokio::time::timeout(LIMIT, other.next()).await.expect("it is told").unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("not the one that was read there before"), "{error}");
    drop(other);
    // Once retention has taken the record away nobody can tell any more.
    topic.trim(&log, after).await;
    let mut trimmed = log.read_behind(after, Some((after, before.crc())));
    assert_eq!(read_to(&mut *trimmed, next.position).await, std::slice::from_ref(next));
}

/// Asks again while the client still takes the broker for the one that was killed.
async fn end_of(log: &KafkaLog) -> Position {
    let begin = SystemClock.instant();
    loop {
        match log.committed().await {
            Ok(end) => return end,
            Err(LogError::Unavailable { reason }) => {
                assert!(begin.elapsed() < LIMIT, "the end is not told: {reason}");
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("the end: {error}"),
        }
    }
}
