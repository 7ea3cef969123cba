//! A gateway over logs in memory: what a request stores, what it answers, what it leaves behind.

mod bounds;
mod elsewhere;
mod sessions;

use super::*;
use crate::Applier;
use crate::appender::LocalAppender;
use crate::in_flight::InFlight;
use crate::protocol::encoder::{self, Message, TestSeries, integer_histogram, series};
use crate::refusal;
use crate::testing::{GateLog, Key, MapTarget};
use proptest::prelude::*;
use quorate_cluster::limits::Limits;
use quorate_commitlog::PartitionLog;
use quorate_commitlog::mem_log::{Fault, MemLog};
use quorate_model::{ErrorCode, ManualClock, Position, STALE_NAN_BITS, Span, stale_nan};
use std::collections::BTreeMap;
use tokio::runtime::Handle;

const NOW: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;
const RW1: Protocol = Protocol::RemoteWrite1;
const RW2: Protocol = Protocol::RemoteWrite2;

/// A gateway over partitions that are maps behind logs in memory. A series goes to the partition that its label
/// `p` names, else to the first.
struct Rig {
    distributor: Distributor,
    appliers: Vec<Applier>,
    targets: Vec<Arc<MapTarget>>,
    logs: Vec<MemLog>,
    gates: Vec<Arc<GateLog>>,
}

struct Setup {
    config: DistributorConfig,
    limits: Limits,
    partitions: u32,
    is_gated: bool,
    clock: Arc<dyn Clock>,
}

impl Default for Setup {
    fn default() -> Self {
        let retention = HumanDuration::from_ms(15 * DAY as u64);
        let config = DistributorConfig { retention, ..DistributorConfig::default() };
        let clock = Arc::new(ManualClock::new(NOW));
        Self { config, limits: Limits::default(), partitions: 2, is_gated: false, clock }
    }
}

impl Setup {
    fn start(self) -> Rig {
        let logs: Vec<MemLog> = (0..self.partitions).map(|_| MemLog::default()).collect();
        let gates: Vec<Arc<GateLog>> = logs.iter().map(|log| Arc::new(GateLog::new(log.clone()))).collect();
        let targets: Vec<Arc<MapTarget>> = logs.iter().map(|_| Arc::new(MapTarget::new())).collect();
        let mut appliers = Vec::new();
        let mut inputs = Vec::new();
        for (at, log) in logs.iter().enumerate() {
            let id = PartitionId(at as u32);
            let log: Arc<dyn PartitionLog> =
                if self.is_gated { gates[at].clone() } else { Arc::new(log.clone()) };
            let applier =
                Applier::start(id, targets[at].clone(), log.clone(), None, Handle::current()).unwrap();
            inputs.push(PartitionInput {
                id,
                appender: Arc::new(LocalAppender::new(log, applier.verdicts())),
                holdings: targets[at].clone(),
            });
            appliers.push(applier);
        }
        let partitions = self.partitions;
        let placement: Placement = Arc::new(move |_, labels| {
            let partition = labels.get("p").and_then(|p| p.parse().ok()).unwrap_or(0u32);
            (Slot(partition as u16), PartitionId(partition % partitions))
        });
        let distributor = Distributor::start(
            self.config,
            inputs,
            placement,
            SessionId { node: 1, incarnation: 1 },
            Arc::new(LimitsProvider::new(self.limits, BTreeMap::new())),
            self.clock,
        );
        Rig { distributor, appliers, targets, logs, gates }
    }
}

fn request(protocol: Protocol, body: &[u8]) -> WriteRequest {
    WriteRequest {
        tenant: TenantId(1),
        tenant_name: "a".into(),
        protocol,
        body: encoder::snappy(body).into(),
    }
}

impl Rig {
    async fn write(&self, protocol: Protocol, body: &[u8]) -> Result<WriteOutcome, WriteError> {
        self.distributor.write(request(protocol, body), Held::unbounded()).await
    }

    async fn write_series(&self, sent: &[TestSeries]) -> Result<WriteOutcome, WriteError> {
        self.write(RW1, &encoder::rw1(sent)).await
    }

    /// Everything stored, over all partitions.
    fn stored(&self) -> BTreeMap<Key, u64> {
        self.targets.iter().flat_map(|target| target.state().floats.clone()).collect()
    }

    fn definitions(&self) -> usize {
        self.targets.iter().map(|target| target.state().definitions).sum()
    }

    async fn stop(self) {
        self.distributor.close().await;
        for applier in self.appliers {
            applier.stop();
        }
    }
}

fn up(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TestSeries {
    let mut all = vec![("__name__", "up")];
    all.extend_from_slice(labels);
    series(&all, samples)
}

fn good() -> TestSeries {
    up(&[("good", "1")], &[(NOW, 1.0)])
}

/// Text that snappy does not make shorter.
fn noise(at: i64) -> String {
    format!("{:032x}", (at as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn histogram(message: Message) -> TestSeries {
    TestSeries { histograms: vec![message], ..series(&[("__name__", "h")], &[]) }
}

/// Sends the good series together with a bad one: 400 with the id, the good one is stored and counted.
async fn check_partly(name: &str, bad: TestSeries, id: &str) {
    for protocol in [RW1, RW2] {
        let rig = Setup::default().start();
        let sent = [bad.clone(), good()];
        let body = if protocol == RW1 { encoder::rw1(&sent) } else { encoder::rw2(&sent) };
        let outcome = rig.write(protocol, &body).await.unwrap();
        assert_eq!(outcome.refusals.first().map(|r| r.id), Some(id), "{name} {protocol:?}");
        assert!(outcome.refusals[0].message.contains(id), "{name}: {}", outcome.refusals[0]);
        assert!(outcome.refused() > 0, "{name}");
        let stored = rig.stored();
        assert!(stored.keys().any(|(_, labels, _)| labels.get("good").is_some()), "{name}");
        let bad_floats = bad.samples.len() as u64;
        let is_stored_in_part = id == refusal::EXEMPLAR_TOO_LONG;
        assert_eq!(outcome.samples, 1 + if is_stored_in_part { bad_floats } else { 0 }, "{name}");
        assert_eq!(stored.len() as u64, outcome.samples, "{name}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_tells_where_its_records_stand() {
    let rig = Setup { partitions: 3, ..Setup::default() }.start();
    let both = [up(&[("p", "0")], &[(NOW, 1.0)]), up(&[("p", "2")], &[(NOW, 1.0)])];
    for _ in 0..2 {
        let written = rig.write_series(&both).await.unwrap();
        let at = |partition: usize| {
            (PartitionId(partition as u32), rig.logs[partition].entries().last().unwrap().position)
        };
        assert_eq!(written.positions, [at(0), at(2)], "those that it touched, duplicates too");
    }
    let nothing = rig.write_series(&[series(&[("job", "a")], &[(NOW, 1.0)])]).await.unwrap();
    assert_eq!((nothing.refused(), nothing.positions), (1, Vec::new()));
    rig.stop().await;
}

#[tokio::test]
async fn bad_series_are_refused_and_good_ones_of_the_same_request_stored() {
    let name_1025 = "n".repeat(1025);
    let value_2049 = "v".repeat(2049);
    let many: Vec<(String, String)> = (0..30).map(|i| (format!("l{i:02}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let sample = &[(NOW, 1.0)][..];
    let not_utf8 = TestSeries { labels: vec![(b"__name__".to_vec(), b"\xff".to_vec())], ..good() };
    let with_exemplar = TestSeries { exemplars: vec![10_240], ..up(&[("x", "1")], sample) };
    let spans = |pairs: &[(i32, u32)]| -> Vec<Span> {
        pairs.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    };
    let hist = |count, pairs: &[(i32, u32)], deltas: &[i64]| {
        histogram(integer_histogram(NOW, count, 0, &spans(pairs), deltas))
    };
    let cases: Vec<(&str, TestSeries, &str)> = vec![
        ("no name", series(&[("job", "a")], sample), refusal::MISSING_NAME),
        ("empty label name", up(&[("", "x")], sample), refusal::LABEL_INVALID),
        ("label given twice", up(&[("a", "1"), ("a", "2")], sample), refusal::DUPLICATE_NAME),
        ("value that is not UTF-8", not_utf8, refusal::LABEL_INVALID),
        ("long label name", up(&[(&name_1025, "x")], sample), refusal::NAME_TOO_LONG),
        ("long label value", up(&[("x", &value_2049)], sample), refusal::VALUE_TOO_LONG),
        ("many labels", up(&many, sample), refusal::TOO_MANY_NAMES),
        ("in the future", up(&[], &[(NOW + 3_600_000, 1.0)]), refusal::FUTURE),
        ("the first millisecond", up(&[], &[(i64::MIN, 1.0)]), refusal::TOO_OLD),
        ("the last millisecond", up(&[], &[(i64::MAX, 1.0)]), refusal::FUTURE),
        ("before retention", up(&[], &[(NOW - 16 * DAY, 1.0)]), refusal::TOO_OLD),
        ("negative bucket", hist(1, &[(0, 2)], &[1, -2]), "err-mimir-native-histogram-negative-bucket-count"),
        ("many buckets", hist(0, &[(0, 1_000_000)], &vec![0; 1_000_000]), refusal::TOO_MANY_BUCKETS),
        (
            "spans that overflow",
            hist(1, &[(i32::MAX, 1), (9, 1)], &[1, 0]),
            "err-mimir-native-histogram-span-negative-offset",
        ),
        ("count that differs", hist(9, &[(0, 1)], &[1]), "err-mimir-native-histogram-count-mismatch"),
        ("long exemplar", with_exemplar, refusal::EXEMPLAR_TOO_LONG),
        ("reserved label", up(&[("__tenant_id__", "b")], sample), refusal::LABEL_INVALID),
    ];
    for (name, bad, id) in cases {
        check_partly(name, bad, id).await;
    }
}

#[tokio::test]
async fn what_retention_has_hidden_is_refused() {
    let rig = Setup::default().start();
    rig.targets[0].state().floors.insert(TenantId(9), NOW - DAY);
    let sent = [up(&[("good", "1")], &[(NOW - DAY, 1.0)]), up(&[("good", "0")], &[(NOW - DAY - 1, 1.0)])];
    let of_tenant = |tenant| WriteRequest { tenant: TenantId(tenant), ..request(RW1, &encoder::rw1(&sent)) };
    let hidden = rig.distributor.write(of_tenant(9), Held::unbounded()).await.unwrap();
    let ids: Vec<_> = hidden.refusals.iter().map(|refusal| refusal.id).collect();
    assert_eq!((ids, rig.stored().len()), (vec![refusal::TOO_OLD], 1));
    let visible = rig.distributor.write(of_tenant(8), Held::unbounded()).await.unwrap();
    assert!(visible.refusals.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read_have_no_effect() {
    let rig = Setup::default().start();
    let sent = [good()];
    let (one, two) = (encoder::rw1(&sent), encoder::rw2(&sent));
    let too_large = vec![0; (32 << 20) + 1];
    let cases: Vec<(&str, Protocol, Bytes, ErrorCode)> = vec![
        ("empty", RW1, Bytes::new(), ErrorCode::BadInput),
        ("random bytes", RW1, Bytes::from_static(&[0x9a, 0x17, 0xfe, 0x00, 0x31]), ErrorCode::BadInput),
        ("declares 4 GiB", RW1, Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]), ErrorCode::TooLarge),
        ("zeros that expand", RW1, encoder::snappy(&too_large).into(), ErrorCode::TooLarge),
        ("framed snappy", RW1, Bytes::from_static(b"\xff\x06\x00\x00sNaPpY"), ErrorCode::BadInput),
        ("cut", RW1, encoder::snappy(&one[..one.len() - 2]).into(), ErrorCode::BadInput),
        ("cut, 2.0", RW2, encoder::snappy(&two[..two.len() - 2]).into(), ErrorCode::BadInput),
        ("2.0 as 1.0", RW1, encoder::snappy(&two).into(), ErrorCode::UnsupportedMedia),
    ];
    for (name, protocol, body, code) in cases {
        let request = WriteRequest { body, ..request(protocol, b"") };
        let got = rig.distributor.write(request, Held::unbounded()).await;
        assert_eq!(got.map_err(|e| e.code()), Err(code), "{name}");
    }
    assert!(rig.logs.iter().all(|log| log.entries().is_empty()));
    rig.stop().await;
}

#[tokio::test]
async fn what_prometheus_takes_is_taken() {
    let rig = Setup::default().start();
    for body in [b"".to_vec(), Message::default().varint(77, 1).bytes(78, b"x").0] {
        for protocol in [RW1, RW2] {
            assert_eq!(rig.write(protocol, &body).await, Ok(WriteOutcome::default()));
        }
    }
    let payload_nan = f64::from_bits(0x7ff8_dead_beef_0001);
    let sent = [
        series(&[("z", "1"), ("__name__", "bw26"), ("a", "2")], &[(NOW, 1.0)]),
        up(&[("bw28", "x\0y")], &[(NOW, 2.0)]),
        up(&[("bw32", ""), ("x", "1")], &[(NOW, 3.0)]),
        up(&[("x", "1")], &[(NOW - 5, 4.0)]),
        up(&[("bw36", "1")], &[(NOW, 1.0), (NOW - 1, 2.0), (NOW - 2, 3.0)]),
        up(&[("bw37", "1")], &[(NOW, 1.0), (NOW, 1.0)]),
        up(&[("bw39", "1")], &[(NOW, payload_nan)]),
        up(&[("bw40", "1")], &[(NOW, stale_nan())]),
    ];
    let outcome = rig.write_series(&sent).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused()), (11, 0));
    let stored = rig.stored();
    let bits = |labels: &[(&str, &str)], ts_ms| {
        stored.get(&(TenantId(1), Labels::from_pairs(labels.iter().copied()), ts_ms)).copied()
    };
    assert_eq!(bits(&[("__name__", "bw26"), ("a", "2"), ("z", "1")], NOW), Some(1f64.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("bw28", "x\0y")], NOW), Some(2f64.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("x", "1")], NOW), Some(3f64.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("x", "1")], NOW - 5), Some(4f64.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("bw36", "1")], NOW - 2), Some(3f64.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("bw39", "1")], NOW), Some(payload_nan.to_bits()));
    assert_eq!(bits(&[("__name__", "up"), ("bw40", "1")], NOW), Some(STALE_NAN_BITS));
    rig.stop().await;
}

#[tokio::test]
async fn faults_of_remote_write_2_are_told_and_counted() {
    let rig = Setup::default().start();
    let sample = Message::default().double(1, 1.0).varint(2, NOW as u64).0;
    let bad = [
        Message::default().packed(1, [1, 2, 1]).bytes(2, &sample),
        Message::default().packed(1, [1, 99]).bytes(2, &sample),
        Message::default().packed(1, [1, 2]),
    ];
    let mut body = ["", "__name__", "up"].iter().fold(Message::default(), |b, s| b.bytes(4, s.as_bytes()));
    for message in &bad {
        body = body.bytes(5, &message.0);
    }
    for at in 0..7u64 {
        let sample = Message::default().double(1, 1.0).varint(2, NOW as u64 - at).0;
        body = body.bytes(5, &Message::default().packed(1, [1, 2]).bytes(2, &sample).0);
    }
    let outcome = rig.write(RW2, &body.0).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused()), (7, 3));
    let ids: Vec<&str> = outcome.refusals.iter().map(|r| r.id).collect();
    assert_eq!(ids, [refusal::LABEL_INVALID, refusal::LABEL_INVALID, refusal::NO_SAMPLES]);
    assert_eq!(rig.stored().len(), 7);
    rig.stop().await;
}

#[tokio::test]
async fn one_good_sample_among_999_bad_ones_is_stored() {
    let rig = Setup::default().start();
    let mut sent: Vec<TestSeries> = (0..999).map(|_| up(&[], &[(i64::MAX, 1.0)])).collect();
    sent.insert(500, good());
    let outcome = rig.write_series(&sent).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused(), outcome.refusals.len()), (1, 999, 10));
    assert_eq!(rig.stored().len(), 1);
    assert_eq!(rig.definitions(), 1, "a series none of whose samples is taken is not defined");
    rig.stop().await;
}

#[tokio::test]
async fn a_series_without_samples_is_not_defined() {
    let rig = Setup::default().start();
    let outcome = rig.write_series(&[up(&[("empty", "1")], &[]), good()]).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused(), rig.definitions()), (1, 0, 1));
    rig.stop().await;
}

#[tokio::test]
async fn a_conflict_is_refused_after_the_log_and_a_retry_is_not() {
    let rig = Setup::default().start();
    let first = [up(&[("p", "0")], &[(NOW, 1.0)]), up(&[("p", "1")], &[(NOW, 1.0)])];
    for _ in 0..2 {
        let outcome = rig.write_series(&first).await.unwrap();
        assert_eq!((outcome.samples, outcome.refused()), (2, 0));
    }
    let second = [up(&[("p", "0")], &[(NOW, 2.0)]), up(&[("p", "1")], &[(NOW, 1.0)])];
    let outcome = rig.write_series(&second).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused()), (1, 1));
    assert_eq!(outcome.refusals[0].id, refusal::CONFLICT);
    assert!(outcome.refusals[0].message.contains(r#"up{p="0"}"#), "{}", outcome.refusals[0]);
    assert!(rig.stored().values().all(|bits| *bits == 1f64.to_bits()), "the first value stays");
    rig.stop().await;
}

/// Of two values of one identity that are on their way together one is refused, and what is stored is the other,
/// whether they come in one record or in two.
#[tokio::test]
async fn two_inflight_conflicts_one_400() {
    for (records, is_reversed) in [(1, false), (1, true), (2, false), (2, true)] {
        let rig = Setup { is_gated: true, ..Setup::default() }.start();
        let sent = [1.0, 2.0].map(|value| [up(&[("id", "x")], &[(NOW, value)])]);
        let [first, second] = if is_reversed { [1, 0] } else { [0, 1] };
        let mut one = Box::pin(rig.write_series(&sent[first]));
        assert!(futures::poll!(one.as_mut()).is_pending());
        // What is queued before the sender has a turn is sent together.
        for _ in 0..if records == 2 { 10 } else { 0 } {
            tokio::task::yield_now().await;
        }
        let mut other = Box::pin(rig.write_series(&sent[second]));
        assert!(futures::poll!(other.as_mut()).is_pending());
        rig.gates[0].gate.add_permits(2);
        let outcomes = [one.await.unwrap(), other.await.unwrap()];
        assert_eq!(outcomes.each_ref().map(|one| (one.samples, one.refused())), [(1, 0), (0, 1)]);
        assert_eq!(outcomes[1].refusals[0].id, refusal::CONFLICT);
        let stored: Vec<u64> = rig.stored().into_values().collect();
        assert_eq!(stored, [sent[first][0].samples[0].1.to_bits()]);
        assert_eq!(rig.logs[0].entries().len(), records);
        rig.stop().await;
    }
}

#[tokio::test]
async fn floats_and_histograms_of_one_request_have_counts_of_their_own() {
    let rig = Setup::default().start();
    let one = |zero| histogram(integer_histogram(NOW, zero, zero, &[], &[]));
    let sent = [up(&[], &[(NOW, 1.0)]), one(1)];
    let outcome = rig.write(RW2, &encoder::rw2(&sent)).await.unwrap();
    assert_eq!((outcome.samples, outcome.histograms, outcome.exemplars), (1, 1, 0));
    let other = [up(&[], &[(NOW, 1.0)]), one(2)];
    let outcome = rig.write(RW2, &encoder::rw2(&other)).await.unwrap();
    assert_eq!((outcome.samples, outcome.histograms, outcome.refused()), (1, 0, 1));
    assert_eq!(rig.targets[0].state().histograms.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn start_timestamps_reach_the_store() {
    let rig = Setup::default().start();
    let mut one = up(&[], &[(NOW - 1, 1.0), (NOW, 2.0)]);
    one.samples[1].2 = NOW - 500;
    rig.write(RW2, &encoder::rw2(&[one])).await.unwrap();
    assert_eq!(rig.targets[0].state().starts.values().copied().collect::<Vec<_>>(), [NOW - 500]);
    rig.stop().await;
}

#[tokio::test]
async fn metadata_is_logged_when_it_is_new_and_told_when_it_is_wrong() {
    let rig = Setup::default().start();
    let body = encoder::rw1_metadata(1, "a_total", &"h".repeat(2_000), "");
    for _ in 0..3 {
        assert_eq!(rig.write(RW1, &body).await.unwrap().refused(), 0);
    }
    rig.write(RW1, &encoder::rw1_metadata(1, "a_total", "other", "")).await.unwrap();
    let mut with = series(&[("__name__", "h_bucket"), ("le", "1")], &[(NOW, 1.0)]);
    with.metadata = Some((3, "help", "s"));
    rig.write(RW2, &encoder::rw2(&[with])).await.unwrap();
    let kept: Vec<(String, usize)> = (rig.targets[0].state().metadata.iter())
        .map(|entry| (entry.family.clone(), entry.help.len()))
        .collect();
    let expected = [("a_total", 1024), ("a_total", 5), ("h", 4)].map(|(f, n)| (f.to_owned(), n));
    assert_eq!(kept, expected);
    let outcome = rig.write(RW1, &encoder::rw1_metadata(1, "", "x", "")).await.unwrap();
    assert_eq!(outcome.refusals[0].id, refusal::METADATA_NO_NAME);
    rig.stop().await;
}

#[tokio::test]
async fn metadata_that_changes_back_is_logged_again_but_not_with_every_request() {
    let rig = Setup::default().start();
    let kept = || {
        let state = rig.targets[0].state();
        state.metadata.iter().map(|entry| entry.help.clone()).collect::<Vec<_>>()
    };
    for help in ["a", "b", "a"] {
        rig.write(RW1, &encoder::rw1_metadata(1, "a_total", help, "")).await.unwrap();
    }
    assert_eq!(kept(), ["a", "b", "a"]);
    for at in 0..100 {
        rig.write(RW1, &encoder::rw1_metadata(1, "a_total", ["b", "a"][at % 2], "")).await.unwrap();
    }
    assert_eq!(kept(), ["a", "b", "a", "b"], "two senders that do not agree");
    let mut same = series(&[("__name__", "a_total")], &[(NOW, 1.0)]);
    same.metadata = Some((1, "b", ""));
    rig.write(RW2, &encoder::rw2(&[same])).await.unwrap();
    assert_eq!(kept().len(), 4, "the protocol makes no difference");
    rig.stop().await;
}

#[tokio::test]
async fn metadata_of_further_families_than_the_limit_is_refused() {
    let limits = Limits { max_global_metadata_per_user: 2, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let family = |name: &str, help: &str| encoder::rw1_metadata(1, name, help, "");
    let body = [family("a", ""), family("b", ""), family("c", "")].concat();
    let outcome = rig.write(RW1, &body).await.unwrap();
    assert_eq!((outcome.refused(), outcome.refusals[0].id), (1, refusal::METADATA_LIMIT));
    let told = &outcome.refusals[0].message;
    assert!(told.contains("limit of 2") && told.contains("'c'"), "{told}");
    assert_eq!(rig.write(RW1, &family("d", "")).await.unwrap().refused(), 1);
    assert_eq!(rig.write(RW1, &family("a", "other")).await.unwrap().refused(), 0, "not a further one");
    assert_eq!(rig.targets[0].state().metadata.len(), 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_after_an_unknown_answer_changes_nothing() {
    let rig = Setup::default().start();
    let sent = [up(&[("p", "0")], &[(NOW, 1.0)]), up(&[("p", "1")], &[(NOW, 1.0)])];
    rig.logs[0].fail_next(Fault::LostAnswer);
    let error = rig.write_series(&sent).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Indeterminate);
    assert_eq!(error.written().samples, 1, "the other partition answered");
    assert_eq!(rig.write_series(&sent).await.unwrap().refused(), 0);
    assert_eq!(rig.stored().len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn an_unknown_partition_wins_over_refusals() {
    let rig = Setup::default().start();
    rig.logs[1].fail_next(Fault::LostEntry);
    let sent = [up(&[], &[(i64::MAX, 1.0)]), up(&[("p", "1")], &[(NOW, 1.0)])];
    assert_eq!(rig.write_series(&sent).await.unwrap_err().code(), ErrorCode::Indeterminate);
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_loses_only_the_answer() {
    let rig = Setup { is_gated: true, ..Setup::default() }.start();
    {
        let sent = [good()];
        let write = rig.write_series(&sent);
        tokio::pin!(write);
        assert!(futures::poll!(write.as_mut()).is_pending());
    }
    rig.gates[0].gate.add_permits(10);
    rig.distributor.close().await;
    assert_eq!(rig.stored().len(), 1);
    assert!(matches!(rig.write_series(&[good()]).await, Err(WriteError::Draining)));
    rig.stop().await;
}

#[tokio::test]
async fn a_partition_that_does_not_keep_up_refuses_and_recovers() {
    let mut setup = Setup { is_gated: true, ..Setup::default() };
    setup.config.max_queued_bytes = 1;
    let rig = setup.start();
    let first = [good()];
    let write = rig.write_series(&first);
    tokio::pin!(write);
    assert!(futures::poll!(write.as_mut()).is_pending());
    let refused = rig.write_series(&[good()]).await.unwrap_err();
    assert!(matches!(refused, WriteError::Overloaded { .. }), "{refused}");
    assert_eq!(
        (refused.code(), refused.retry_after()),
        (ErrorCode::Unavailable, Some(Duration::from_secs(1)))
    );
    let other = [up(&[("p", "1")], &[(NOW, 1.0)])];
    rig.gates[1].gate.add_permits(1);
    assert_eq!(rig.write_series(&other).await.unwrap().samples, 1, "another partition is not held");
    rig.gates[0].gate.add_permits(10);
    assert_eq!(write.await.unwrap().samples, 1);
    rig.distributor.inner.partitions[0].drained().await;
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    rig.distributor.close().await;
}

#[tokio::test]
async fn requests_that_wait_share_a_record() {
    let mut setup = Setup { is_gated: true, partitions: 1, ..Setup::default() };
    setup.config.max_appends = 1;
    let rig = Arc::new(setup.start());
    let writes: Vec<_> = (0..20)
        .map(|at| {
            let rig = Arc::clone(&rig);
            tokio::spawn(
                async move { rig.write_series(&[up(&[("i", &at.to_string())], &[(NOW, 1.0)])]).await },
            )
        })
        .collect();
    rig.gates[0].gate.add_permits(1000);
    for write in writes {
        assert_eq!(write.await.unwrap().unwrap().samples, 1);
    }
    assert_eq!(rig.stored().len(), 20);
    assert!(rig.logs[0].entries().len() < 20, "{} records", rig.logs[0].entries().len());
}

#[tokio::test]
async fn a_late_verdict_is_a_success_and_holds_its_bytes() {
    let mut setup = Setup::default();
    setup.config.verdict_timeout = Duration::from_millis(1);
    let rig = setup.start();
    rig.targets[0].let_apply(false);
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    assert!(rig.distributor.inner.partitions[0].reserve(0).is_ok());
    {
        let drained = rig.distributor.close();
        tokio::pin!(drained);
        assert!(futures::poll!(drained.as_mut()).is_pending(), "not applied yet");
    }
    rig.targets[0].let_apply(true);
    rig.stop().await;
}

#[tokio::test]
async fn a_stopped_partition_takes_nothing_more() {
    let rig = Setup::default().start();
    rig.logs[0].append(Bytes::from_static(b"no record")).await.unwrap();
    assert!(rig.appliers[0].reached(Position(u64::MAX)).await.is_err());
    let error = rig.write_series(&[good()]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    let before = rig.logs[0].entries().len();
    assert_eq!(before, 1, "nothing was appended");
    assert_eq!(rig.write_series(&[up(&[("p", "1")], &[(NOW, 1.0)])]).await.unwrap().samples, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_preview_stores_nothing_and_answers_what_would_not_be_stored() {
    let rig = Setup::default().start();
    let preview = async |protocol, body: &[u8]| {
        let (answer, held) = rig.distributor.preview(request(protocol, body), Held::unbounded()).await?;
        assert_eq!(held.bytes(), 0);
        Ok::<_, WriteError>(answer)
    };
    assert_eq!(preview(RW1, &encoder::rw1(&[good()])).await.unwrap(), None);
    assert_eq!(preview(RW1, &encoder::rw1_metadata(1, "a", "", "")).await.unwrap(), None);
    assert_eq!(preview(RW2, b"").await.unwrap(), Some(WriteOutcome::default()));
    let answer = preview(RW1, &encoder::rw1(&[up(&[], &[(i64::MAX, 1.0)])])).await.unwrap().unwrap();
    assert_eq!((answer.refused(), answer.refusals[0].id), (1, refusal::FUTURE));
    assert_eq!(preview(RW1, &encoder::rw2(&[good()])).await.unwrap_err().code(), ErrorCode::UnsupportedMedia);
    assert!(rig.logs.iter().all(|log| log.entries().is_empty()));
    assert_eq!(rig.distributor.session().active_series(TenantId(1)), 0);
    rig.stop().await;
}

#[tokio::test]
async fn tenants_do_not_share_series() {
    let rig = Setup::default().start();
    let body = encoder::rw1(&[good()]);
    for tenant in [1, 2] {
        let request = WriteRequest {
            tenant: TenantId(tenant),
            tenant_name: format!("t{tenant}").into(),
            ..request(RW1, &body)
        };
        assert_eq!(rig.distributor.write(request, Held::unbounded()).await.unwrap().samples, 1);
    }
    let tenants: Vec<u32> = rig.stored().keys().map(|(tenant, _, _)| tenant.0).collect();
    assert_eq!(tenants, [1, 2]);
    rig.stop().await;
}

#[tokio::test]
async fn a_large_body_is_read_elsewhere_with_the_same_answer() {
    let rig = Setup::default().start();
    let sent: Vec<TestSeries> = (0..9_000)
        .map(|at: i64| up(&[("i", &noise(at)), ("p", ["0", "1"][at as usize % 2])], &[(NOW - at, at as f64)]))
        .collect();
    let request = request(RW1, &encoder::rw1(&sent));
    assert!(request.body.len() > INLINE_BODY);
    assert_eq!(rig.distributor.write(request, Held::unbounded()).await.unwrap().samples, 9_000);
    assert_eq!(rig.stored().len(), 9_000);
    rig.stop().await;
}

fn any_sent() -> impl Strategy<Value = Vec<TestSeries>> {
    let one = (0..4u32, 0..6u32, prop::collection::vec((0..1000i64, any::<u64>()), 1..4));
    prop::collection::vec(one, 0..20).prop_map(|all| {
        all.into_iter()
            .map(|(partition, id, samples)| {
                let (partition, id) = (partition.to_string(), id.to_string());
                let samples: Vec<(i64, f64)> =
                    samples.into_iter().map(|(ago, bits)| (NOW - ago, f64::from_bits(bits))).collect();
                up(&[("p", &partition), ("id", &id)], &samples)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Splitting over partitions and columns loses, invents and mixes nothing: the first value of each identity
    /// is stored, the others are told as conflicts; sending it all again changes nothing.
    #[test]
    fn batch_split_lossless(sent in any_sent(), is_first in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Setup { partitions: 4, ..Setup::default() }.start();
            let mut expected = BTreeMap::new();
            let mut conflicts = 0;
            for one in &sent {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let labels = Labels::from_pairs(one.labels.iter().map(|(n, v)| (text(n), text(v))));
                for (ts_ms, value, _) in &one.samples {
                    let kept = *expected
                        .entry((TenantId(1), labels.clone(), *ts_ms))
                        .or_insert(value.to_bits());
                    conflicts += u64::from(kept != value.to_bits());
                }
            }
            let protocol = if is_first { RW1 } else { RW2 };
            let body = if is_first { encoder::rw1(&sent) } else { encoder::rw2(&sent) };
            for _ in 0..2 {
                let outcome = rig.write(protocol, &body).await.unwrap();
                prop_assert_eq!(outcome.refused(), conflicts);
                prop_assert_eq!(&rig.stored(), &expected);
            }
            rig.stop().await;
            Ok(())
        })?;
    }
}
