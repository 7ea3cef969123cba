//! The member of a group against librdkafka's mock brokers, and the bookkeeping of its partitions alone.

use super::lanes::{Lanes, Name, Order, Seen, Verdict};
use super::*;
use crate::kafka::dead_letters::{self, DeadLetters, Letter, LetterError};
use parking_lot::Mutex;
use quorate_model::{Clock, SystemClock};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::Instant;

const LIMIT: Duration = Duration::from_secs(30);

type Mock = MockCluster<'static, DefaultProducerContext>;

fn mock(partitions: i32) -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("t", partitions, 1).unwrap();
    mock
}

fn settings(mock: &Mock) -> SourceSettings {
    // The mock waits for a session to end before it lets another member in.
    let options = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    SourceSettings {
        name: "s".to_owned(),
        client: ClientSettings {
            brokers: vec![mock.bootstrap_servers()],
            options,
            ..ClientSettings::default()
        },
        group: "g".to_owned(),
        topics: vec!["t".to_owned()],
        assignor: Assignor::default(),
        start: Start::Earliest,
        max_bytes: 1 << 20,
        commit_interval: Duration::from_millis(50),
        revoke_wait: Duration::from_secs(5),
    }
}

fn produce(mock: &Mock, partition: i32, values: impl IntoIterator<Item = String>) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().unwrap();
    for value in values {
        let record = BaseRecord::to("t").partition(partition).key("k").payload(&value);
        let header = KafkaHeader { key: "Tenant", value: Some("a") };
        producer.send(record.headers(OwnedHeaders::new().insert(header))).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

fn open(settings: SourceSettings) -> (KafkaFeed, Member) {
    KafkaFeed::open(settings, Arc::new(SystemClock)).unwrap()
}

async fn next(feed: &mut KafkaFeed) -> (Record, Ticket) {
    let taken = tokio::time::timeout(LIMIT, feed.next()).await.expect("a record in time").unwrap();
    (taken.record, taken.ticket.begin().expect("nothing forbids it"))
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The offset that the group has committed in a partition.
fn committed(mock: &Mock, partition: i32) -> Option<i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", mock.bootstrap_servers()).set("group.id", "g");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition("t", partition);
    let told = consumer.committed_offsets(list, LIMIT).unwrap();
    match told.find_partition("t", partition).unwrap().offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

async fn stop(member: Member) {
    tokio::task::spawn_blocking(move || member.stop()).await.unwrap();
}

#[tokio::test]
async fn records_come_whole_and_in_order_and_what_is_finished_does_not_come_again() {
    let mock = mock(1);
    produce(&mock, 0, numbers(0..10));
    let (mut feed, member) = open(settings(&mock));
    let mut open_tickets = Vec::new();
    for at in 0..10 {
        let (record, ticket) = next(&mut feed).await;
        assert_eq!((text(&record), record.offset, record.partition), (at.to_string(), at, 0));
        assert_eq!((record.key.as_deref(), record.header("tenant")), (Some(&b"k"[..]), Some(&b"a"[..])));
        match at {
            5 => open_tickets.push(ticket),
            _ => ticket.finish(),
        }
    }
    // The tickets stay: the member waits for them no longer than it may, and commits what stands before them.
    let stopping = tokio::task::spawn_blocking(move || member.stop());
    drop(open_tickets);
    stopping.await.unwrap();
    assert_eq!(committed(&mock, 0), Some(5), "no offset passes a record that is not finished");
    let (mut feed, member) = open(settings(&mock));
    for at in 5..10 {
        let (record, ticket) = next(&mut feed).await;
        assert_eq!(record.offset, at);
        ticket.finish();
    }
    stop(member).await;
    assert_eq!(committed(&mock, 0), Some(10));
}

#[tokio::test]
async fn a_record_that_has_to_wait_comes_again_alone_and_its_partition_waits() {
    let mock = mock(2);
    produce(&mock, 0, numbers(0..5));
    let (mut feed, member) = open(settings(&mock));
    let mut tickets = Vec::new();
    for _ in 0..5 {
        tickets.push(next(&mut feed).await.1);
    }
    let waiting = tickets.remove(2);
    tickets.into_iter().for_each(Ticket::finish);
    waiting.again(Duration::from_millis(700));
    produce(&mock, 0, numbers(5..6));
    produce(&mock, 1, numbers(100..103));
    for at in 100..103 {
        let (record, ticket) = next(&mut feed).await;
        assert_eq!(text(&record), at.to_string(), "other partitions go on");
        ticket.finish();
    }
    let (record, ticket) = next(&mut feed).await;
    assert_eq!(record.offset, 2, "those that are finished do not come again");
    ticket.again(Duration::ZERO);
    let (record, ticket) = next(&mut feed).await;
    assert_eq!(record.offset, 2);
    ticket.finish();
    let (record, ticket) = next(&mut feed).await;
    assert_eq!(record.offset, 5);
    ticket.finish();
    stop(member).await;
    assert_eq!((committed(&mock, 0), committed(&mock, 1)), (Some(6), Some(3)));
}

#[tokio::test]
async fn what_is_handed_out_is_bounded_and_nothing_is_left_out_or_comes_twice() {
    let mock = mock(3);
    for partition in 0..3 {
        produce(&mock, partition, (0..200).map(|at| format!("{partition}/{at}/{}", "x".repeat(1_000))));
    }
    let (mut feed, member) = open(SourceSettings { max_bytes: 40_000, ..settings(&mock) });
    let mut seen = BTreeSet::new();
    let mut tickets = Vec::new();
    while seen.len() < 600 {
        tokio::select! {
            biased;
            taken = next(&mut feed) => {
                assert!(seen.insert((taken.0.partition, taken.0.offset)), "{:?} came twice", taken.1);
                tickets.push(taken.1);
            }
            () = tokio::time::sleep(Duration::from_millis(30)) => {
                let bytes: usize = tickets.iter().map(Ticket::bytes).sum();
                assert!(bytes <= 40_000 + 2_000, "{bytes} bytes are handed out");
                tickets.drain(..).for_each(Ticket::finish);
            }
        }
    }
    tickets.drain(..).for_each(Ticket::finish);
    stop(member).await;
    assert_eq!((0..3).map(|at| committed(&mock, at)).collect::<Vec<_>>(), [Some(200); 3]);
}

/// Two members of a group, the second one later: both get records, and none is left out.
async fn check_two_members(assignor: Assignor) {
    let mock = mock(2);
    for partition in 0..2 {
        produce(&mock, partition, numbers(0..3));
    }
    let (mut first, one) = open(SourceSettings { assignor, ..settings(&mock) });
    for _ in 0..6 {
        next(&mut first).await.1.finish();
    }
    // The mock, unlike a broker, takes no commits while members join.
    while (0..2).any(|partition| committed(&mock, partition) != Some(3)) {
        tokio::task::yield_now().await;
    }
    let (mut second, two) = open(SourceSettings { assignor, ..settings(&mock) });
    let (mut got, mut busy) = (BTreeSet::new(), BTreeSet::new());
    let mut round = 3;
    while busy.len() < 2 || got.len() < round - 3 {
        // A record may come twice, because the mock took no commit of it; none may be left out.
        if busy.len() < 2 && got.len() == round - 3 {
            produce(&mock, (round % 2) as i32, numbers(round..round + 1));
            round += 1;
        }
        let (member, (record, ticket)) = tokio::select! {
            taken = next(&mut first) => (1, taken),
            taken = next(&mut second) => (2, taken),
        };
        assert!(record.offset >= 3, "{record:?} again");
        ticket.finish();
        got.insert((record.partition, record.offset));
        busy.insert(member);
    }
    stop(one).await;
    stop(two).await;
}

#[tokio::test]
async fn members_that_stop_for_each_other_divide_the_partitions() {
    check_two_members(Assignor::Range).await;
}

#[tokio::test]
async fn members_that_stop_only_what_moves_divide_the_partitions() {
    check_two_members(Assignor::CooperativeSticky).await;
}

#[tokio::test]
async fn a_dead_letter_has_the_record_unchanged_behind_our_headers() {
    let mock = mock(1);
    produce(&mock, 0, numbers(0..1));
    mock.create_topic("t.dead-letters", 1, 1).unwrap();
    let settings = settings(&mock);
    let letters = DeadLetters::open(&settings.client).unwrap();
    let (mut feed, member) = open(settings.clone());
    let (record, ticket) = next(&mut feed).await;
    let letter = Letter { record: &record, reason: "no such thing", tenant: Some("a") };
    letters.put("t.dead-letters", letter).await.unwrap();
    ticket.finish();
    stop(member).await;

    let (mut feed, member) =
        open(SourceSettings { topics: vec!["^t\\.dead.*".to_owned()], group: "h".to_owned(), ..settings });
    let (read, ticket) = next(&mut feed).await;
    assert_eq!((&read.key, &read.value), (&record.key, &record.value));
    let headers: Vec<_> =
        read.headers.iter().map(|h| (h.name.as_str(), h.value.as_deref().unwrap())).collect();
    let expected = [
        ("quorate.reason", "no such thing"),
        ("quorate.source.topic", "t"),
        ("quorate.source.partition", "0"),
        ("quorate.source.offset", "0"),
        ("quorate.tenant", "a"),
        ("Tenant", "a"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name, value.as_bytes())));
    assert!(dead_letters::is_letter(&read) && !dead_letters::is_letter(&record));
    ticket.finish();
    stop(member).await;
}

#[tokio::test]
async fn a_dead_letter_that_brokers_refuse_for_its_size_is_told_apart_from_one_that_may_work_later() {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    let mock = mock(1);
    produce(&mock, 0, numbers(0..1));
    let settings = settings(&mock);
    let letters = DeadLetters::open(&settings.client).unwrap();
    let (mut feed, member) = open(settings);
    let (record, ticket) = next(&mut feed).await;
    let letter = Letter { record: &record, reason: "r", tenant: None };
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    assert!(matches!(letters.put("t", letter).await, Err(LetterError::TooLarge { .. })));
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    assert!(matches!(letters.put("t", letter).await, Err(LetterError::NotTaken { .. })));
    ticket.finish();
    stop(member).await;
}

/// A clock that stands until it is moved.
struct Steps(Mutex<Instant>);

impl Steps {
    fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for Steps {
    fn now_ms(&self) -> i64 {
        0
    }

    fn instant(&self) -> Instant {
        *self.0.lock()
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

/// Lanes with one partition, at an arbitrary time.
struct Alone {
    lanes: Arc<Lanes>,
    clock: Arc<Steps>,
    name: Name,
}

impl Alone {
    fn new(max_bytes: usize) -> Self {
        let clock = Arc::new(Steps(Mutex::new(SystemClock.instant())));
        let lanes = Arc::new(Lanes::new(max_bytes, clock.clone()));
        let name: Name = (Arc::from("t"), 0);
        lanes.assign(vec![name.clone()]);
        Self { lanes, clock, name }
    }

    fn see(&self, offset: i64) -> Option<Ticket> {
        let seen = Seen { offset, timestamp_ms: Some(offset), bytes: 10 };
        match self.lanes.take(&self.name, seen) {
            Verdict::Take(place) => Some(Ticket::new(self.lanes.clone(), place, 10)),
            Verdict::Drop => None,
        }
    }

    fn take(&self, offset: i64) -> Ticket {
        self.see(offset).unwrap().begin().unwrap()
    }

    fn orders(&self) -> Vec<Order> {
        self.lanes.orders().into_iter().map(|(_, order)| order).collect()
    }

    fn commit(&self) -> Vec<i64> {
        self.lanes.to_commit().into_iter().map(|(_, offset)| offset).collect()
    }
}

#[test]
fn the_offset_to_commit_is_the_first_that_is_not_finished() {
    let alone = Alone::new(1_000);
    let (a, b, c) = (alone.take(7), alone.take(8), alone.take(12));
    c.finish();
    b.finish();
    assert_eq!(alone.commit(), [7]);
    a.finish();
    assert_eq!(alone.commit(), [13], "gaps of the topic are no records");
    assert!(alone.commit().is_empty(), "nothing new");
    alone.lanes.not_committed();
    assert_eq!(alone.commit(), [13]);
}

#[test]
fn a_ticket_of_an_earlier_assignment_settles_nothing() {
    let alone = Alone::new(1_000);
    let (old, unbegun) = (alone.take(1), alone.see(2).unwrap());
    assert_eq!(
        alone.lanes.leave(std::slice::from_ref(&alone.name), Duration::ZERO),
        [(alone.name.clone(), 1)]
    );
    alone.lanes.assign(vec![alone.name.clone()]);
    let new = alone.take(1);
    old.finish();
    assert!(unbegun.begin().is_none());
    assert_eq!(alone.commit(), [1]);
    new.finish();
    assert_eq!(alone.commit(), [2]);
    assert_eq!(alone.lanes.used(), 0);
}

#[test]
fn records_behind_one_that_waits_are_not_begun_and_are_all_fetched_again() {
    let alone = Alone::new(1_000);
    let (first, second) = (alone.take(1), alone.see(2).unwrap());
    first.again(Duration::from_secs(1));
    assert!(second.begin().is_none());
    assert_eq!(alone.orders(), [Order::Pause]);
    assert!(alone.see(3).is_none());
    alone.clock.advance(Duration::from_secs(1));
    assert_eq!(alone.orders(), [Order::Go(Some(1))]);
    let first = alone.take(1);
    assert!(alone.see(2).is_none(), "one record is tried, and nothing beside it");
    assert_eq!(alone.orders(), [Order::Pause]);
    first.finish();
    assert_eq!(alone.orders(), [Order::Go(Some(2))]);
    alone.take(2).finish();
    alone.take(3).finish();
    assert_eq!(alone.commit(), [4]);
}

#[test]
fn a_record_that_was_deleted_while_it_waited_is_counted_and_does_not_block_its_partition() {
    let alone = Alone::new(1_000);
    alone.take(1).again(Duration::ZERO);
    for _ in 0..2 {
        assert_eq!(alone.orders(), [Order::Go(Some(1))]);
        assert!(alone.see(5).is_none(), "it is looked for again");
    }
    assert_eq!(alone.orders(), [Order::Go(Some(1))]);
    alone.take(5).finish();
    assert_eq!(alone.lanes.take_lost(), 1);
    assert_eq!(alone.commit(), [6]);
}

#[test]
fn a_full_partition_pauses_and_goes_on_where_it_stopped() {
    let alone = Alone::new(80);
    let (a, b) = (alone.take(1), alone.take(2));
    assert!(alone.see(3).is_none());
    assert_eq!(alone.orders(), [Order::Pause]);
    a.finish();
    assert_eq!(alone.orders(), [Order::Go(Some(3))]);
    b.finish();
    assert_eq!(alone.lanes.standings()[0].time_ms, Some(2));
    drop(alone.take(3));
    assert_eq!(alone.lanes.used(), 0, "a dropped ticket gives its bytes back");
    assert_eq!(alone.commit(), [3], "and is no finished record");
}

#[test]
fn leaving_waits_for_records_that_are_begun_and_for_no_others() {
    let clock = Arc::new(SystemClock);
    let lanes = Arc::new(Lanes::new(1_000, clock));
    let name: Name = (Arc::from("t"), 0);
    lanes.assign(vec![name.clone()]);
    let take = |offset| {
        let Verdict::Take(place) = lanes.take(&name, Seen { offset, timestamp_ms: None, bytes: 1 }) else {
            panic!("{offset} is not taken")
        };
        Ticket::new(lanes.clone(), place, 1)
    };
    let (begun, _waiting) = (take(0).begin().unwrap(), take(1));
    let finishing = std::thread::spawn(move || begun.finish());
    assert_eq!(lanes.leave(std::slice::from_ref(&name), LIMIT), [(name.clone(), 1)]);
    finishing.join().unwrap();
}
