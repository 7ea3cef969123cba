use super::*;
use crate::meta::testing::state_of;

const EXPECTED: NodeState = NodeState::Expected;
const MEMBER: NodeState = NodeState::Member;
const DRAINING: NodeState = NodeState::Draining;
const GONE: NodeState = NodeState::Gone;
const LOST: NodeState = NodeState::Lost;

fn numbers(list: &[u64]) -> Vec<NodeId> {
    list.iter().copied().map(NodeId).collect()
}

/// Nodes 1, 2, ... called n1, n2, ... in these states, and partitions with these replicas, their groups at rest.
fn cluster(nodes: &[NodeState], partitions: &[&[u64]]) -> (MetaState, Standings) {
    let state = state_of(nodes, 3, partitions.iter().map(|replicas| numbers(replicas)).collect());
    let standing = |replicas: &&[u64]| Standing {
        leader: NodeId(replicas[0]),
        voters: numbers(replicas).into_iter().collect(),
        learners: BTreeSet::new(),
        committed: 1,
    };
    let standings = (0..).map(PartitionId).zip(partitions.iter().map(standing)).collect();
    (state, standings)
}

/// What the nodes in these states that run say of their replicas, if they have those that are placed.
fn told(nodes: &[NodeState], partitions: &[&[u64]]) -> Holders {
    let runs = |node: &u64| matches!(nodes[*node as usize - 1], MEMBER | DRAINING);
    let holders = |replicas: &&[u64]| replicas.iter().copied().filter(runs).map(NodeId).collect();
    (0..).map(PartitionId).zip(partitions.iter().map(holders)).collect()
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(answer: Result<T, Objection>, part: &str) {
    match answer {
        Err(Objection::Refused(reason)) => assert!(reason.contains(part), "{reason} lacks {part}"),
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn nodes_are_found_by_name_and_number() {
    let (state, _) = cluster(&[MEMBER, GONE, MEMBER], &[]);
    assert_eq!(find_node(&state, "n3"), Ok(NodeId(3)));
    assert_eq!(find_node(&state, "2"), Ok(NodeId(2)));
    assert_eq!(find_node(&state, "n2"), Ok(NodeId(2)), "nobody else has the name");
    assert!(matches!(find_node(&state, "n9"), Err(Objection::Unknown(_))));
}

#[test]
fn a_replica_moves_where_the_rules_leave_it() {
    let (state, standings) = cluster(&[MEMBER; 4], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 4], &[3, 4, 1]]);
    let plan =
        |partition, from, to| plan_move(&state, &standings, PartitionId(partition), NodeId(from), NodeId(to));
    assert_eq!(plan(0, 1, 4), Ok(numbers(&[4, 2, 3])));
    check_refused(plan(0, 4, 1), "no replica on n4");
    check_refused(plan(0, 1, 2), "replica on n2 already");
    check_refused(plan(0, 1, 9), "takes no replicas");
    assert!(matches!(plan(9, 1, 4), Err(Objection::Unknown(_))));
    let moving = plan_move(&state, &Standings::new(), PartitionId(0), NodeId(1), NodeId(4));
    check_refused(moving, "is moving");
    // It moved from 3 to 4, which is lost.
    let (state, _) = cluster(&[MEMBER, MEMBER, MEMBER, LOST, MEMBER], &[&[1, 2, 4]]);
    let standings = cluster(&[], &[&[1, 2, 3]]).1;
    let plan = |from, to| plan_move(&state, &standings, PartitionId(0), NodeId(from), NodeId(to));
    assert_eq!(plan(4, 5), Ok(numbers(&[1, 2, 5])));
    check_refused(plan(1, 5), "is moving");
    let (state, standings) = cluster(&[MEMBER, MEMBER, MEMBER, DRAINING], &[&[1, 2, 3]]);
    check_refused(plan_move(&state, &standings, PartitionId(0), NodeId(1), NodeId(4)), "takes no replicas");
}

/// What is said to a drain of `node` when only the `heard` answer.
fn drain(
    nodes: &[NodeState],
    partitions: &[&[u64]],
    heard: &[u64],
    node: u64,
    force: bool,
) -> Result<(), Objection> {
    let (state, standings) = cluster(nodes, partitions);
    let heard = numbers(heard).into_iter().collect();
    check_drain(&state, &standings, &heard, NodeId(node), force)
}

#[test]
fn a_node_is_drained_only_if_its_replicas_can_go_somewhere() {
    let (nodes, partitions): (_, [&[u64]; 1]) =
        ([MEMBER, MEMBER, MEMBER, LOST, EXPECTED, GONE], [&[1, 2, 3]]);
    assert_eq!(drain(&nodes, &partitions, &[1, 2, 3, 5], 1, false), Ok(()), "one that is expected is there");
    check_refused(drain(&nodes, &partitions, &[1, 2, 3], 1, false), "2 nodes that answer for 3 replicas");
    for (node, reason) in [(4, "is lost"), (5, "never came"), (6, "is gone")] {
        check_refused(drain(&nodes, &partitions, &[1, 2, 3, 4, 5, 6], node, true), reason);
    }
    let nodes = [MEMBER, MEMBER, DRAINING, LOST];
    check_refused(drain(&nodes, &partitions, &[1, 2, 3], 1, false), "1 nodes that answer for 3 replicas");
    assert_eq!(drain(&nodes, &partitions, &[1, 2, 3], 1, true), Ok(()));
    assert_eq!(drain(&nodes, &partitions, &[1], 3, false), Ok(()), "it is drained already");
    check_refused(drain(&[MEMBER], &[&[1]], &[1], 1, true), "the last node");
}

#[test]
fn a_drain_counts_on_nobody_who_is_silent() {
    let all: [&[u64]; 1] = [&[1, 2, 3]];
    for force in [false, true] {
        // 3 died a moment ago: a group of 1 and 3 could never commit.
        check_refused(
            drain(&[MEMBER; 3], &all, &[1, 2], 2, force),
            "only 1 of 2 nodes that would vote answer, not n3",
        );
    }
    assert_eq!(drain(&[MEMBER; 3], &all, &[1, 2], 3, true), Ok(()), "it is the one that is dead");
    assert_eq!(drain(&[MEMBER, MEMBER, LOST], &all, &[1, 2], 2, true), Ok(()), "it is not counted on");
    check_refused(drain(&[MEMBER; 4], &all, &[1, 2, 4], 2, false), "2 nodes that answer for 3");
    assert_eq!(drain(&[MEMBER; 4], &all, &[1, 2, 4], 2, true), Ok(()));
    check_refused(drain(&[MEMBER; 3], &[], &[1, 2], 2, true), "not n3");
    // The partition has no majority, but nothing is changed in it, nor made worse.
    assert_eq!(drain(&[MEMBER; 6], &[&[4, 5, 6]], &[1, 2, 3, 4], 1, false), Ok(()));
}

#[test]
fn a_drained_node_has_nothing_left() {
    let (state, mut standings) = cluster(&[MEMBER, MEMBER, MEMBER, DRAINING], &[&[1, 2, 3], &[4, 2, 3]]);
    let voters = BTreeSet::from([NodeId(1), NodeId(4)]);
    let left = remainder(&state, &standings, &voters, NodeId(4));
    assert_eq!(left, Remainder { replicas: 1, leads: 1, unknown: 0, votes: true });
    let (state, _) = cluster(&[MEMBER, MEMBER, MEMBER, DRAINING], &[&[1, 2, 3], &[1, 2, 3]]);
    let left = remainder(&state, &standings, &BTreeSet::new(), NodeId(4));
    assert_eq!((left.replicas, left.is_nothing()), (1, false), "its group has not let it go");
    standings = cluster(&[], &[&[1, 2, 3], &[1, 2, 3]]).1;
    assert!(remainder(&state, &standings, &BTreeSet::new(), NodeId(4)).is_nothing());
    standings.remove(&PartitionId(1));
    assert_eq!(remainder(&state, &standings, &BTreeSet::new(), NodeId(4)).unknown, 1);
}

#[test]
fn who_is_removed_is_drained_or_lost_or_forced() {
    let none = BTreeSet::new();
    let check = |state: NodeState, partitions: &[&[u64]], force| {
        let nodes = [MEMBER, MEMBER, MEMBER, state];
        let (state, standings) = cluster(&nodes, partitions);
        check_remove(&state, &standings, &told(&nodes, partitions), &none, NodeId(4), force)
    };
    assert_eq!(check(DRAINING, &[&[1, 2, 3]], false), Ok(Vec::new()));
    assert_eq!(check(GONE, &[&[4]], false), Ok(Vec::new()));
    assert_eq!(check(LOST, &[&[1, 2, 4]], false), Ok(Vec::new()));
    check_refused(check(MEMBER, &[&[1, 2, 4]], false), "neither drained nor lost: 1 partitions");
    assert_eq!(check(MEMBER, &[&[1, 2, 4]], true).map(|risks| risks.len()), Ok(1));
    for state in [MEMBER, DRAINING, LOST] {
        check_refused(check(state, &[&[1, 2, 3], &[4]], true), "last live replica of partition 1");
    }
    let (nodes, partitions): (_, [&[u64]; 1]) = ([LOST, GONE, MEMBER, MEMBER], [&[1, 2, 4]]);
    let (state, standings) = cluster(&nodes, &partitions);
    check_refused(
        check_remove(&state, &standings, &told(&nodes, &partitions), &none, NodeId(4), true),
        "last live replica of partition 0",
    );
}

/// Node 4 of four members, one of the `voters` of partition 0, when the nodes of `told` say that they have a replica.
#[track_caller]
fn check_last(placed: &[u64], voters: Option<&[u64]>, told: &[u64], objection: Option<&str>) {
    let (state, _) = cluster(&[MEMBER; 4], &[placed]);
    let standings = voters.map(|voters| cluster(&[], &[voters]).1).unwrap_or_default();
    let holders = told.iter().map(|node| (PartitionId(0), BTreeSet::from([NodeId(*node)])));
    let holders = holders.fold(Holders::new(), |mut all, (id, nodes)| {
        all.entry(id).or_default().extend(nodes);
        all
    });
    let done = check_remove(&state, &standings, &holders, &BTreeSet::new(), NodeId(4), true);
    match objection {
        Some(part) => check_refused(done, part),
        None => assert!(done.is_ok(), "{done:?}"),
    }
}

#[test]
fn only_replicas_that_are_known_to_live_and_vote_are_others() {
    check_last(&[4, 2, 3], Some(&[4, 2, 3]), &[4, 2, 3], None);
    check_last(&[4, 2, 3], Some(&[4, 2, 3]), &[4, 3], None);
    check_last(&[4, 2, 3], Some(&[4, 2, 3]), &[4], Some("last live replica of partition 0"));
    check_last(&[4, 1, 2], Some(&[4, 3]), &[4, 1, 2], Some("last live replica of partition 0"));
    check_last(&[1, 2, 3], Some(&[1, 2, 3]), &[1, 2, 3, 4], None);
}

#[test]
fn without_a_leader_nobody_knows_which_replica_counts() {
    check_last(&[4, 2, 3], None, &[4, 2, 3], Some("which has no leader now"));
    check_last(&[4, 2, 3], None, &[2, 3], Some("which has no leader now"));
    check_last(&[1, 2, 3], None, &[1, 4], Some("which has no leader now"));
    check_last(&[1, 2, 3], None, &[], Some("which has no leader now"));
    check_last(&[1, 2, 3], None, &[1], None);
}
