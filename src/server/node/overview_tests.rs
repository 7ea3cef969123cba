//! The overview of a cluster whose nodes reported, as its parts are put together.

use super::*;
use quorate_cluster::MetaHandle;
use quorate_cluster::meta::MetaVersion;
use quorate_raft::{RaftConfig, RaftNode};
use quorate_wire::meta::Report;
use quorate_wire::meta::report::Replica;

/// Four nodes, of which the last is drained, and two partitions on the first three.
async fn state() -> MetaState {
    let dir = tempfile::tempdir().unwrap();
    let raft = RaftNode::start(&dir.path().join("log"), NodeId(1), RaftConfig::default()).await.unwrap();
    let meta = MetaHandle::start(&raft, dir.path()).await.unwrap();
    let nodes: Vec<_> = (1..=4).map(|n| (NodeId(n), format!("n{n}"), format!("h:{n}"))).collect();
    let replicas = vec![[1, 2, 3].map(NodeId).to_vec(); 2];
    meta.found(&nodes, 3, replicas, None).await.unwrap();
    for node in 1..=4 {
        meta.begin_incarnation(NodeId(node), &format!("h:{node}"), "z").await.unwrap();
    }
    let seen = meta.state().nodes()[&NodeId(4)].clone();
    meta.set_node_state(NodeId(4), &seen, NodeState::Draining).await.unwrap();
    let state = meta.state();
    raft.shutdown().await;
    state
}

fn replica(partition: u32, applied: u64, voters: Option<&[u64]>, learners: &[u64]) -> Replica {
    let members = voters.map(|voters| quorate_wire::meta::Members {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        committed: 100,
        ..Default::default()
    });
    Replica { partition, applied, members, ..Replica::default() }
}

fn heard(node: u64, silent_ms: u64, replicas: Vec<Replica>, transfers: Vec<Transfer>) -> NodeSeen {
    let (reads, build) = (3, "0.1.0".to_owned());
    let report = Report { node, series: 10 * node, replicas, transfers, reads, build, ..Report::default() };
    NodeSeen { report: Some(report), silent_ms, samples_per_second: 5.0 }
}

fn frame() -> Frame {
    let voters = [1, 2, 3].map(NodeId).into();
    Frame { node: 2, leader: Some(NodeId(1)), members: Members { voters, learners: BTreeSet::new() } }
}

/// Partition 0 is at rest and its third replica lags; that of 1 goes from node 4 to node 3.
fn seen() -> Seen {
    let transfer =
        Transfer { partition: 1, bytes: 30, total: 40, phase: Phase::Checking.into(), age_ms: 2_500 };
    let nodes = vec![
        heard(
            1,
            0,
            vec![replica(0, 100, Some(&[1, 2, 3]), &[]), replica(1, 100, Some(&[1, 2, 4]), &[3])],
            vec![],
        ),
        heard(2, 100, vec![replica(0, 100, None, &[]), replica(1, 99, None, &[])], vec![]),
        heard(3, 5_000, vec![replica(0, 60, None, &[])], vec![transfer]),
        heard(4, 200, vec![replica(1, 100, None, &[])], vec![]),
    ];
    Seen { nodes, watching_ms: 9_000, diverged: vec![1] }
}

#[tokio::test]
async fn reports_and_metadata_make_one_picture() {
    let picture = overview(&state().await, &frame(), Some(&seen()));
    assert!(picture.is_complete && picture.leader == Some(1));
    let pulses: Vec<&str> = picture.nodes.iter().map(|node| node.pulse).collect();
    assert_eq!(pulses, ["well", "well", "suspect", "well"]);
    let [first, _, third, fourth] = &picture.nodes[..] else { panic!("{:?}", picture.nodes) };
    assert_eq!((first.leads, first.voter, first.series, first.lag), (2, true, Some(10), Some(0)));
    assert_eq!((third.replicas, third.lag), (2, Some(40)));
    assert_eq!((picture.metadata_version, third.reads_metadata), (MetaVersion::NEWEST.0, 3));
    assert_eq!(third.build.as_deref(), Some("0.1.0"));
    let drain = fourth.drain.clone().unwrap();
    assert_eq!((drain.replicas, drain.leads, drain.safe_to_remove), (1, 0, false));
    let [rest, moving] = &picture.partitions[..] else { panic!("{:?}", picture.partitions) };
    assert_eq!((rest.leader, rest.settled, rest.diverged), (Some(1), true, false));
    assert_eq!((moving.settled, moving.diverged), (false, true));
    let roles: Vec<_> = moving.replicas.iter().map(|r| (r.node, r.role, r.leaving)).collect();
    assert_eq!(roles, [(1, "voter", false), (2, "voter", false), (3, "learner", false), (4, "voter", true)]);
    let [one] = &picture.moves[..] else { panic!("{:?}", picture.moves) };
    assert_eq!((one.partition, one.from, one.to, one.phase), (1, Some(4), Some(3), "checking"));
    assert_eq!((one.bytes, one.total_bytes, one.seconds), (Some(30), Some(40), Some(2)));
}

#[tokio::test]
async fn without_the_leader_the_metadata_is_shown() {
    let picture = overview(&state().await, &Frame { leader: None, ..frame() }, None);
    assert!(!picture.is_complete && picture.moves.is_empty());
    assert!(picture.nodes.iter().all(|node| node.pulse == "unknown" && node.series.is_none()));
    assert!(picture.partitions.iter().all(|partition| partition.replicas.len() == 3 && !partition.settled));
    assert!(picture.nodes.iter().all(|node| node.build.is_none() && node.reads_metadata == 1), "none told");
    let drain = picture.nodes[3].drain.clone().unwrap();
    assert_eq!((drain.unknown, drain.safe_to_remove), (2, false), "what is not known is not safe");
}

#[tokio::test]
async fn who_has_nothing_left_is_safe_to_remove() {
    let nodes = vec![heard(
        1,
        0,
        vec![replica(0, 1, Some(&[1, 2, 3]), &[]), replica(1, 1, Some(&[1, 2, 3]), &[])],
        vec![],
    )];
    let seen = Seen { nodes, ..Seen::default() };
    let picture = overview(&state().await, &frame(), Some(&seen));
    assert!(picture.nodes[3].drain.clone().unwrap().safe_to_remove);
}
