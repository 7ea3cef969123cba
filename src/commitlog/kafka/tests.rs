//! The log over librdkafka's own broker, which has no settings, no trims and no disk. The real one is asked in
//! cluster-tests.

use super::*;
use crate::conformance::{Place, check_log};
use crate::{LogError, PartitionLog};
use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::{ErrorCode, PartitionId, Position};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaRespErr;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Mock {
    pub(super) cluster: MockCluster<'static, DefaultProducerContext>,
    topics: Cell<u128>,
}

impl Mock {
    pub(super) fn new(brokers: i32) -> Self {
        Self { cluster: MockCluster::new(brokers).unwrap(), topics: Cell::new(0) }
    }

    /// A new topic with four partitions.
    pub(super) fn place(&self) -> Broker {
        let id = self.topics.get() + 1;
        self.topics.set(id);
        let name = format!("log-{id}");
        self.cluster.create_topic(&name, 4, 1).unwrap();
        let topic = Topic {
            name,
            id,
            partitions: 4,
            retention_ms: None,
            max_entry: 64 << 20,
            unsafe_because: Vec::new(),
        };
        Broker { bootstrap: self.cluster.bootstrap_servers(), topic }
    }
}

#[derive(Clone)]
pub(super) struct Broker {
    bootstrap: String,
    pub(super) topic: Topic,
}

impl Broker {
    pub(super) fn connect(&self, timeout: Duration) -> Arc<Kafka> {
        let brokers = vec![self.bootstrap.clone()];
        let settings = ClientSettings { brokers, ..ClientSettings::default() };
        let produce = ProduceSettings { compression: "lz4".to_owned(), timeout };
        Kafka::connect(settings, produce, self.topic.clone()).unwrap()
    }
}

#[async_trait]
impl Place for Broker {
    async fn open(&mut self) -> Arc<dyn PartitionLog> {
        Arc::new(KafkaLog::new(self.connect(Duration::from_secs(8)), PartitionId(3)))
    }

    async fn close(&mut self) {}

    async fn trim(&mut self, _: &dyn PartitionLog, _: Position) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let mock = Mock::new(1);
    check_log(|| mock.place()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_all_partitions_are_asked_for_together() {
    let mock = Mock::new(3);
    let kafka = mock.place().connect(Duration::from_secs(8));
    let ids: Vec<PartitionId> = (0..4).map(PartitionId).collect();
    for (nth, id) in ids.iter().enumerate() {
        let log = KafkaLog::new(kafka.clone(), *id);
        for _ in 0..nth {
            log.append(Bytes::from_static(b"x")).await.unwrap();
        }
    }
    let ends = kafka.read_indexes(&ids, Duration::from_secs(3)).await;
    let ends: Vec<u64> = ends.into_iter().map(|end| end.unwrap().0).collect();
    assert_eq!(ends, [0, 1, 2, 3]);
}

/// A broker that hangs, as one whose process is stopped: its connections stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_answer_costs_only_the_ends_that_it_tells() {
    let mock = Mock::new(2);
    let place = mock.place();
    let kafka = place.connect(Duration::from_secs(8));
    let ids = [PartitionId(0), PartitionId(1)];
    let lead = |partition, broker| {
        mock.cluster.partition_leader(&place.topic.name, partition, Some(broker)).unwrap();
    };
    lead(0, 1);
    lead(1, 2);
    for id in ids {
        KafkaLog::new(kafka.clone(), id).append(Bytes::from_static(b"x")).await.unwrap();
    }
    let patience = Duration::from_secs(3);
    assert!(kafka.read_indexes(&ids, patience).await.iter().all(Result::is_ok));
    mock.cluster.broker_round_trip_time(2, Duration::from_secs(60)).unwrap();
    let ends = kafka.read_indexes(&ids, patience).await;
    assert!(matches!(&ends[..], [Ok(Position(1)), Err(LogError::Unavailable { .. })]), "{ends:?}");
    // The new leader is asked as soon as there is one.
    let asking = tokio::spawn({
        let kafka = kafka.clone();
        async move { kafka.read_indexes(&ids, patience * 4).await }
    });
    lead(1, 1);
    let ends = asking.await.unwrap();
    assert!(matches!(&ends[..], [Ok(Position(1)), Ok(_)]), "{ends:?}");
}

/// The mock has no marks of transactions; what the real broker does with them is asked in cluster-tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_anew_while_the_end_is_told_misses_nothing() {
    let mock = Mock::new(1);
    let log = KafkaLog::new(mock.place().connect(Duration::from_secs(8)), PartitionId(0));
    const COUNT: u64 = 10;
    for number in 0..COUNT as u8 {
        log.append(Bytes::from(vec![number])).await.unwrap();
    }
    for round in 0..50 {
        let from = round % COUNT;
        let mut reader = log.read_from(Position(from));
        let mut found = Vec::new();
        while found.len() < (COUNT - from) as usize {
            found.extend(reader.next().await.unwrap());
        }
        assert!(found.iter().all(|entry| !entry.is_gap), "round {round}: {found:?}");
        assert_eq!(found.last().map(|entry| entry.position), Some(Position(COUNT)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_paused_and_gets_everything_and_holds_up_no_other() {
    let mock = Mock::new(1);
    let kafka = mock.place().connect(Duration::from_secs(20));
    let [slow, fast] = [0, 1].map(|id| KafkaLog::new(kafka.clone(), PartitionId(id)));
    let mut slow_reader = slow.read_from(Position(0));
    let mut fast_reader = fast.read_from(Position(0));
    let entry = |number: u32| Bytes::from([&number.to_be_bytes()[..], &[7; 1 << 20]].concat());
    const COUNT: u32 = 40;
    for number in 0..COUNT {
        slow.append(entry(number)).await.unwrap();
        fast.append(entry(number)).await.unwrap();
    }
    for reader in [&mut fast_reader, &mut slow_reader] {
        let mut next = 0;
        while next < COUNT {
            for found in reader.next().await.unwrap() {
                assert_eq!(found.position, Position(u64::from(next) + 1));
                assert!(found.payload == entry(next), "entry {next} differs");
                next += 1;
            }
        }
    }
}

/// librdkafka keeps a partition paused when it is assigned anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_after_a_slow_reader_left_gets_everything() {
    let mock = Mock::new(1);
    let kafka = mock.place().connect(Duration::from_secs(20));
    let log = KafkaLog::new(kafka, PartitionId(0));
    let slow = log.read_from(Position(0));
    const COUNT: u64 = 20;
    for _ in 0..COUNT {
        log.append(Bytes::from(vec![7; 1 << 20])).await.unwrap();
    }
    drop(slow);
    let mut reader = log.read_from(Position(0));
    let mut found = 0;
    while found < COUNT {
        found += reader.next().await.unwrap().len() as u64;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_brokers_an_append_ends_in_time_and_a_later_one_is_taken() {
    let mock = Mock::new(1);
    let kafka = mock.place().connect(Duration::from_millis(1_500));
    let log = KafkaLog::new(kafka, PartitionId(0));
    let first = log.append(Bytes::from_static(b"a")).await.unwrap();
    mock.cluster.broker_down(1).unwrap();
    let failed = tokio::time::timeout(Duration::from_secs(10), log.append(Bytes::from_static(b"b"))).await;
    let code = failed.expect("it ends in time").unwrap_err().code();
    assert!(matches!(code, ErrorCode::Unavailable | ErrorCode::Indeterminate), "{code:?}");
    assert_eq!(log.committed().await.unwrap_err().code(), ErrorCode::Unavailable);
    mock.cluster.broker_up(1).unwrap();
    let later = loop {
        match log.append(Bytes::from_static(b"c")).await {
            Ok(position) => break position,
            Err(error) => {
                assert!(matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Indeterminate), "{error}");
            }
        }
    };
    assert!(later > first);
    assert_eq!(log.committed().await.unwrap(), later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_stands_before_one_acknowledged_earlier_is_in_another_log() {
    let mock = Mock::new(1);
    let place = mock.place();
    let kafka = place.connect(Duration::from_secs(8));
    let log = KafkaLog::new(kafka, PartitionId(0));
    for _ in 0..3 {
        log.append(Bytes::from_static(b"a")).await.unwrap();
    }
    let kafka = log.kafka();
    assert!(kafka.acknowledge(PartitionId(0), Position(3), Position(4)).is_ok());
    let error = kafka.acknowledge(PartitionId(0), Position(4), Position(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
    assert!(error.to_string().contains("made anew"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_refuse_for_its_size_is_too_large() {
    let mock = Mock::new(1);
    let mut place = mock.place();
    place.topic.max_entry = 1_000;
    let log = KafkaLog::new(place.connect(Duration::from_secs(8)), PartitionId(0));
    assert!(matches!(log.append(Bytes::from(vec![0; 1_001])).await, Err(LogError::TooLarge { len: 1_001 })));
    log.append(Bytes::from(vec![0; 1_000])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_brokers_that_pass_double_nothing() {
    let mock = Mock::new(1);
    let log = KafkaLog::new(mock.place().connect(Duration::from_secs(8)), PartitionId(0));
    log.append(Bytes::from_static(b"0")).await.unwrap();
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    mock.cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &errors);
    for number in 1..20u8 {
        log.append(Bytes::from(vec![number])).await.unwrap();
    }
    let mut reader = log.read_from(Position(1));
    let mut found = Vec::new();
    while found.len() < 19 {
        found.extend(reader.next().await.unwrap().into_iter().map(|entry| entry.payload[0]));
    }
    assert_eq!(found, (1..20).collect::<Vec<u8>>());
    assert_eq!(log.committed().await.unwrap(), Position(20));
}
