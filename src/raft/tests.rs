//! Tests of groups: openraft's own suite on our storage, and the life of a one-voter group.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_model::{ErrorCode, NodeId, Position};
use tempfile::TempDir;

use crate::segment_log::{Entry, EntryKind, GroupId, LogId, SegmentLog, SegmentLogConfig};
use crate::state_machine::StateMachine;
use crate::storage::LogStore;
use crate::types::{RaftMembership, TypeConfig, encode_membership};
use crate::{Group, RaftConfig, RaftError, RaftNode};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (SegmentLog, TempDir)> for Builder {
    async fn build(
        &self,
    ) -> Result<((SegmentLog, TempDir), LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let config = SegmentLogConfig { segment_bytes: 4_096, cache_bytes: 64, ..SegmentLogConfig::new(0) };
        let log = SegmentLog::open(dir.path(), config).unwrap();
        let group = log.group(GroupId(3), 1).unwrap();
        let state_machine = StateMachine::open(group.clone()).unwrap();
        Ok(((log, dir), LogStore::new(group), state_machine))
    }
}

#[test]
fn storage_passes_the_suite_of_openraft() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { Suite::test_all(Builder).await.unwrap() });
}

async fn start(dir: &Path) -> RaftNode {
    RaftNode::start(dir, NodeId(1), RaftConfig::default()).await.unwrap()
}

fn payload(number: u64) -> Bytes {
    Bytes::from(number.to_le_bytes().to_vec())
}

async fn propose(group: &Group, numbers: std::ops::Range<u64>) -> Vec<Position> {
    let mut positions = Vec::new();
    for number in numbers {
        positions.push(group.propose(payload(number)).await.unwrap());
    }
    positions
}

async fn read(group: &Group, after: Position, count: usize) -> Vec<(Position, Bytes)> {
    let mut reader = group.reader(after);
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(reader.next().await.unwrap().into_iter().map(|c| (c.position, c.payload)));
    }
    found
}

fn expected(positions: &[Position], first: u64) -> Vec<(Position, Bytes)> {
    positions.iter().zip(first..).map(|(position, number)| (*position, payload(number))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_are_read_in_order_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let mut positions = propose(&group, 0..20).await;
    assert!(positions.is_sorted_by(|a, b| a < b) && positions[0] > Position(0));
    assert_eq!(read(&group, Position(0), 20).await, expected(&positions, 0));
    let incarnation = group.incarnation();
    node.shutdown().await;

    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    assert_eq!(group.incarnation(), incarnation);
    assert!(group.read_index().await.unwrap() >= positions[19]);
    positions.extend(propose(&group, 20..25).await);
    assert!(positions.is_sorted_by(|a, b| a < b));
    assert_eq!(read(&group, Position(0), 25).await, expected(&positions, 0));
    assert_eq!(read(&group, positions[9], 15).await, expected(&positions[10..], 10));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_survives_a_crash_without_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let positions = propose(&group, 0..10).await;
    let image = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), image.path().join(file.file_name())).unwrap();
    }
    let node = start(image.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    assert_eq!(read(&group, Position(0), 10).await, expected(&positions, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_the_next_proposal() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let first = propose(&group, 0..1).await[0];
    let mut reader = group.reader(first);
    let waiting = tokio::spawn(async move { reader.next().await.unwrap() });
    let second = propose(&group, 1..2).await[0];
    let found = waiting.await.unwrap();
    assert_eq!((found.len(), found[0].position, &found[0].payload), (1, second, &payload(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_positions_are_gone_for_good_and_reading_them_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let positions = propose(&group, 0..10).await;
    group.trim(positions[4]).await.unwrap();
    group.trim(positions[2]).await.unwrap();
    assert_eq!(group.trimmed(), positions[4]);
    assert_eq!(read(&group, positions[4], 5).await, expected(&positions[5..], 5));
    let gone = group.reader(positions[3]).next().await;
    assert!(matches!(gone, Err(RaftError::Trimmed { .. })), "{gone:?}");
    node.shutdown().await;

    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    assert_eq!(group.trimmed(), positions[4]);
    assert_eq!(read(&group, positions[4], 5).await, expected(&positions[5..], 5));
    // Everything, and again: there is nothing left but the position.
    group.trim(Position(u64::MAX)).await.unwrap();
    group.trim(Position(u64::MAX)).await.unwrap();
    let next = propose(&group, 10..11).await;
    assert!(next[0] > positions[9]);
    node.shutdown().await;
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    assert_eq!(read(&group, group.trimmed(), 1).await, expected(&next, 10));
}

/// Small segments, so that a few proposals fill one.
fn small() -> RaftConfig {
    RaftConfig { segment_bytes: 16 << 10, ..RaftConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_whose_owner_needs_nothing_keeps_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Position(0);
    for round in 0..3 {
        let node = RaftNode::start(dir.path(), NodeId(1), small()).await.unwrap();
        let (idle, busy) = (node.group(GroupId(1)).await.unwrap(), node.group(GroupId(2)).await.unwrap());
        if round == 1 {
            last = propose(&idle, 0..1).await[0];
        }
        for _ in 0..20 {
            busy.propose(Bytes::from(vec![1; 10_000])).await.unwrap();
        }
        busy.trim(Position(u64::MAX)).await.unwrap();
        assert!(node.oldest_pinning_groups().contains(&GroupId(1)), "{round}: {:?}", node.stats());
        idle.trim(last).await.unwrap();
        while !node.oldest_pinning_groups().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((idle.trimmed(), idle.read_index().await.unwrap()), (last, last));
        // Its reader has missed nothing.
        let mut reader = idle.reader(last);
        let waiting = tokio::spawn(async move { reader.next().await.unwrap() });
        if round == 2 {
            let position = propose(&idle, 7..8).await[0];
            let found = waiting.await.unwrap();
            assert_eq!((found[0].position, &found[0].payload), (position, &payload(7)));
        }
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_shorter_than_its_reader_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let lost = group.reader(Position(1_000)).next().await;
    assert!(matches!(&lost, Err(error @ RaftError::Lost { .. }) if error.code() == ErrorCode::Corrupt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_has_another_incarnation() {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        seen.push(start(dir.path()).await.group(GroupId(1)).await.unwrap().incarnation());
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && !seen.contains(&0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_propose_at_once_and_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut tasks = Vec::new();
    for number in 0..8 {
        let group = node.group(GroupId(number)).await.unwrap();
        for _ in 0..8 {
            let group = group.clone();
            tasks.push(tokio::spawn(async move { propose(&group, 0..10).await }));
        }
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().len(), 10);
    }
    let stats = node.stats();
    assert!(stats.batches < 640 / 2, "{} syncs for 640 concurrent proposals", stats.batches);
    for number in 0..8 {
        let group = node.group(GroupId(number)).await.unwrap();
        let found = read(&group, Position(0), 80).await;
        assert!(found.len() == 80 && found.is_sorted_by(|a, b| a.0 < b.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_proposal_is_committed_all_the_same_or_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let node =
        RaftNode::start(dir.path(), NodeId(1), RaftConfig { pending_bytes: 64, ..RaftConfig::default() });
    let node = node.await.unwrap();
    let group = node.group(GroupId(1)).await.unwrap();
    for number in 0..50 {
        // Polled once, then dropped: on its way or never sent.
        let mut proposal = Box::pin(group.propose(payload(number)));
        assert!(futures::poll!(proposal.as_mut()).is_pending());
    }
    // Every dropped proposal gave its share of the pending bytes back.
    let last = tokio::time::timeout(Duration::from_secs(60), group.propose(Bytes::from(vec![255; 64])));
    let last = last.await.unwrap().unwrap();
    let mut reader = group.reader(Position(0));
    let mut numbers = Vec::new();
    while numbers.last().is_none_or(|(at, _)| *at < last) {
        numbers.extend(reader.next().await.unwrap().into_iter().map(|c| (c.position, c.payload)));
    }
    assert!(numbers.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_group_refuses_and_ends_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let group = node.group(GroupId(1)).await.unwrap();
    let mut reader = group.reader(group.committed());
    let reading = tokio::spawn(async move { reader.next().await });
    node.shutdown().await;
    assert!(matches!(group.propose(payload(1)).await, Err(RaftError::Stopped { .. })));
    assert!(matches!(reading.await.unwrap(), Err(RaftError::Stopped { .. })));
    assert!(matches!(group.trim(Position(1)).await, Ok(()) | Err(RaftError::Stopped { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_members_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = SegmentLog::open(dir.path(), SegmentLogConfig::new(1)).unwrap();
        let group = log.group(GroupId(1), 7).unwrap();
        let membership = RaftMembership::new_with_defaults(vec![[1, 2, 3].into()], []);
        let id = LogId { term: 0, node: 1, index: 0 };
        let entry = Entry { id, kind: EntryKind::Membership, payload: encode_membership(&membership) };
        group.append(vec![entry], Box::new(|| {})).unwrap();
    }
    let node = start(dir.path()).await;
    match node.group(GroupId(1)).await.map(|_| ()) {
        Err(RaftError::OtherMembers { members, .. }) => assert_eq!(members, [1, 2, 3]),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Prints proposals per second and latencies; run by hand, best with `--release`:
/// `cargo test -p quorate-raft --release -- --ignored --nocapture measure`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_proposals() {
    use quorate_model::{Clock, SystemClock};
    for (len, clients, groups, total) in [
        (1 << 10, 1, 1, 2_000),
        (1 << 10, 64, 4, 40_000),
        (1 << 10, 512, 4, 80_000),
        (64 << 10, 8, 4, 4_000),
        (256 << 10, 1, 1, 500),
        (256 << 10, 8, 4, 2_000),
        (256 << 10, 32, 4, 2_000),
    ] {
        let dir =
            tempfile::tempdir_in(std::env::var_os("QUORATE_MEASURE_DIR").unwrap_or(".".into())).unwrap();
        let node = start(dir.path()).await;
        let payload = Bytes::from(vec![7u8; len]);
        let (batches, begin) = (node.stats().batches, SystemClock.instant());
        let mut tasks = Vec::new();
        for client in 0..clients {
            let group = node.group(GroupId(client % groups)).await.unwrap();
            let payload = payload.clone();
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..total / clients {
                    let at = SystemClock.instant();
                    group.propose(payload.clone()).await.unwrap();
                    times.push(at.elapsed());
                }
                times
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let seconds = begin.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!(
            "{:>4} KiB, {clients:>3} clients, {groups} groups: {:>7.0} proposals/s, {:>6.1} MiB/s, \
             {:>6.0} syncs/s, p50 {:.2} ms, p99 {:.2} ms",
            len >> 10,
            times.len() as f64 / seconds,
            (times.len() * len) as f64 / seconds / 1_048_576.0,
            (node.stats().batches - batches) as f64 / seconds,
            at(0.5),
            at(0.99)
        );
        node.shutdown().await;
    }
}
