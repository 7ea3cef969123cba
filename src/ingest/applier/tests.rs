use super::*;
use crate::testing::{MapTarget, encode, encode_with, header, sample};
use async_trait::async_trait;
use quorate_commitlog::mem_log::MemLog;
use quorate_model::{RecordBody, SeriesRef, SessionId, SubBatch, TenantId};
use quorate_tsdb::{Counters, SubBatchVerdict};

struct Rig {
    log: MemLog,
    target: Arc<MapTarget>,
}

impl Rig {
    fn new() -> Self {
        Self { log: MemLog::default(), target: Arc::new(MapTarget::new()) }
    }

    fn start(&self) -> Applier {
        let log = Arc::new(self.log.clone());
        Applier::start(PartitionId(0), self.target.clone(), log, None, Handle::current()).unwrap()
    }

    async fn append(&self, bytes: Vec<u8>) -> Position {
        self.log.append(bytes.into()).await.unwrap()
    }
}

#[tokio::test]
async fn it_is_ready_when_what_was_committed_at_the_start_is_applied() {
    let rig = Rig::new();
    for at in 0..5 {
        rig.append(sample(at, at as i64, 1.0)).await;
    }
    rig.target.let_apply(false);
    let applier = rig.start();
    assert!(!applier.state().borrow().is_ready);
    rig.target.let_apply(true);
    applier.ready().await.unwrap();
    assert_eq!(rig.target.state().floats.len(), 5);
    applier.stop();
}

#[tokio::test]
async fn an_empty_log_is_ready_at_once_and_live_entries_follow() {
    let rig = Rig::new();
    let applier = rig.start();
    applier.ready().await.unwrap();
    let position = rig.append(sample(1, 1, 1.0)).await;
    applier.reached(position).await.unwrap();
    assert_eq!(rig.target.state().floats.len(), 1);
    applier.stop();
}

#[tokio::test]
async fn a_restart_goes_on_behind_what_is_applied() {
    let rig = Rig::new();
    let applier = rig.start();
    let position = rig.append(sample(1, 1, 1.0)).await;
    applier.reached(position).await.unwrap();
    applier.stop();
    rig.append(sample(2, 2, 1.0)).await;
    let applier = rig.start();
    applier.ready().await.unwrap();
    assert_eq!(rig.target.state().definitions, 2, "the first record was not applied again");
    applier.stop();
}

#[tokio::test]
async fn verdicts_find_their_waiter_however_early_they_come() {
    let rig = Rig::new();
    let applier = rig.start();
    let verdicts = applier.verdicts();
    let first = verdicts.expect(header(1).session, 1);
    rig.append(sample(1, 1, 1.0)).await;
    assert_eq!(first.await.unwrap().unwrap()[0].counters.stored, 1);
    let other_session = SessionId { node: 9, incarnation: 1 };
    let other = verdicts.expect(other_session, 2);
    let second = verdicts.expect(header(1).session, 2);
    rig.append(sample(2, 1, 2.0)).await;
    assert_eq!(second.await.unwrap().unwrap()[0].counters.conflicts, 1);
    verdicts.forget(other_session, 2);
    assert!(other.await.is_err());
    applier.stop();
}

#[tokio::test]
async fn a_mark_with_the_number_of_a_write_does_not_answer_it() {
    let rig = Rig::new();
    let applier = rig.start();
    let mut waiting = applier.verdicts().expect(header(1).session, 1);
    let position = rig.append(encode(1, RecordBody::FlushMark(Vec::new()))).await;
    applier.reached(position).await.unwrap();
    assert!(waiting.try_recv().is_err(), "nothing of the write is applied yet");
    rig.append(sample(1, 1, 1.0)).await;
    assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
    applier.stop();
}

/// A record that cannot be applied stops the partition, names itself, and nothing behind it is applied.
async fn check_stops(bad: Vec<u8>, said: &str) {
    let rig = Rig::new();
    rig.append(sample(1, 1, 1.0)).await;
    let position = rig.append(bad).await;
    rig.append(sample(3, 3, 1.0)).await;
    let applier = rig.start();
    let why = applier.ready().await.unwrap_err();
    assert!(why.contains(said) && why.contains(&position.to_string()), "{why}");
    assert_eq!(rig.target.state().floats.len(), 1);
    assert!(applier.reached(Position(u64::MAX)).await.is_err());
    let unheard = applier.verdicts().expect(header(9).session, 9).await.unwrap().unwrap_err();
    assert_eq!(unheard.reason, *why);
    assert_eq!(applier.verdicts().why_stopped().as_deref(), Some(&*why));
    applier.stop();
}

#[tokio::test]
async fn a_record_that_cannot_be_applied_stops_the_partition() {
    let mut damaged = sample(2, 2, 1.0);
    *damaged.last_mut().unwrap() ^= 1;
    check_stops(damaged, "checksum").await;
    let undefined = SubBatch {
        tenant: TenantId(1),
        refs: vec![SeriesRef(7)],
        ts_ms: vec![1],
        values: vec![1.0],
        ..SubBatch::default()
    };
    check_stops(encode(2, RecordBody::Data(vec![undefined])), "ref 7").await;
    check_stops(encode(2, RecordBody::SessionForget(SessionId::default())), "panic").await;
}

#[tokio::test]
async fn what_is_no_record_of_this_cluster_is_passed_and_told_where_others_may_write() {
    let rig = Rig::new();
    let mut other_log = header(7);
    other_log.log_incarnation = 2;
    let mut newer = sample(2, 2, 1.0);
    newer[0] = u8::MAX;
    let garbage = [&b""[..], b"x", b"{\"json\": 1}", &[0; 30], &newer];
    for bytes in garbage {
        rig.append(bytes.to_vec()).await;
    }
    rig.append(encode_with(other_log, RecordBody::Data(Vec::new()))).await;
    let last = rig.append(sample(1, 1, 1.0)).await;
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let strangers: Strangers = {
        let told = told.clone();
        Arc::new(move |entry: &LogEntry, why: &str| told.lock().push((entry.position, why.to_owned())))
    };
    let log = Arc::new(rig.log.clone());
    let applier =
        Applier::start(PartitionId(0), rig.target.clone(), log, Some(strangers), Handle::current()).unwrap();
    applier.reached(last).await.unwrap();
    assert_eq!(rig.target.state().floats.len(), 1);
    let told = told.lock().clone();
    assert_eq!(told.len(), garbage.len() + 1, "{told:?}");
    assert!(told.last().is_some_and(|(_, why)| why.contains("incarnation 2 and not 1")), "{told:?}");
    applier.stop();
}

/// A log whose last position is a gap.
struct Gapped(LogEntry);

#[async_trait]
impl PartitionLog for Gapped {
    async fn append(&self, _: bytes::Bytes) -> Result<Position, LogError> {
        Err(LogError::Unavailable { reason: "it is only read".to_owned() })
    }

    fn read_from(&self, _: Position) -> Box<dyn LogReader> {
        Box::new(Gapped(self.0.clone()))
    }

    async fn committed(&self) -> Result<Position, LogError> {
        Ok(Position(self.0.position.0 + 1))
    }

    async fn trim(&self, _: Position) -> Result<(), LogError> {
        Ok(())
    }

    fn wants_trim(&self) -> bool {
        false
    }

    fn incarnation(&self) -> u32 {
        1
    }
}

#[async_trait]
impl LogReader for Gapped {
    async fn next(&mut self) -> Result<Vec<LogEntry>, LogError> {
        if self.0.is_gap {
            return std::future::pending().await;
        }
        let gap = LogEntry::gap(Position(self.0.position.0 + 1));
        Ok(vec![std::mem::replace(&mut self.0, gap.clone()), gap])
    }
}

#[tokio::test]
async fn a_gap_at_the_end_is_reached_and_told_as_no_record() {
    let target = Arc::new(MapTarget::new());
    let entry = LogEntry::new(Position(5), sample(1, 1, 1.0).into());
    let strangers: Strangers = Arc::new(|entry: &LogEntry, why: &str| panic!("{entry:?}: {why}"));
    let log = Arc::new(Gapped(entry.clone()));
    let applier =
        Applier::start(PartitionId(0), target.clone(), log, Some(strangers), Handle::current()).unwrap();
    applier.ready().await.unwrap();
    assert_eq!((target.applied(), target.state().floats.len()), (Position(6), 1));
    applier.stop();
    assert_eq!(target.last_entry(), Some((Position(5), entry.crc())), "a gap says nothing about the log");
}

#[tokio::test]
async fn a_record_of_a_newer_build_stops_also_where_others_may_write() {
    let rig = Rig::new();
    let mut newer = sample(1, 1, 1.0);
    newer[0] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..26]), &newer[30..]);
    newer[26..30].copy_from_slice(&crc.to_le_bytes());
    rig.append(newer).await;
    let log = Arc::new(rig.log.clone());
    let strangers: Strangers = Arc::new(|_: &LogEntry, _: &str| ());
    let applier =
        Applier::start(PartitionId(0), rig.target.clone(), log, Some(strangers), Handle::current()).unwrap();
    let why = applier.ready().await.unwrap_err();
    assert!(why.contains("record version 9 is newer"), "{why}");
}

#[test]
fn a_record_with_lost_samples_is_no_success() {
    let outcome = |lost| {
        let counters = Counters { stored: 3, lost, ..Counters::default() };
        let verdict = SubBatchVerdict { counters, ..SubBatchVerdict::default() };
        ApplyOutcome { sub_batches: vec![SubBatchVerdict::default(), verdict], is_void: false }
    };
    let session = SessionId { node: 1, incarnation: 2 };
    assert_eq!(verdict_of(session, outcome(0)).unwrap().len(), 2);
    let reason = verdict_of(session, outcome(2)).unwrap_err().reason;
    assert!(reason.contains("2 samples"), "{reason}");
}
