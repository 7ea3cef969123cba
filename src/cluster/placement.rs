//! Which nodes have a replica of which partition, and which of them should lead it.
//!
//! Knows nodes, zones and partitions. Does not know why a node comes or goes, nor how data moves. Pure: the same
//! input gives the same placement, and a placement that is good is left as it is.
//! P1: replicas of a partition are on different nodes, and in different zones as far as there are any.
//! P2: no node has more replicas than one above the mean rounded up, unless P1 asks for it. P3: a node that comes or goes moves
//! about its own share, not more.
//! Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998 (rendezvous).

use quorate_model::{NodeId, PartitionId};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// A node that can have replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub node: NodeId,
    /// Its zone; empty is a zone like any other.
    pub zone: String,
}

/// Replicas of each partition, the one that should lead first. `current` is how it is now, by partition number; a
/// partition has `replication` replicas, or one on every candidate if there are fewer.
pub fn place(candidates: &[Candidate], replication: usize, current: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
    let mut plan = Plan::new(candidates, replication, current);
    plan.fill();
    plan.spread();
    plan.level();
    plan.order(current);
    plan.replicas
}

/// Nodes that are not there, for all that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Away {
    /// Dead, and keep what nobody else can take: they may come back.
    pub lost: BTreeSet<NodeId>,
    /// Silent for as long as those that are lost, and to have no replicas any more.
    pub silent: BTreeSet<NodeId>,
    /// Taken out for good. They may run and vote until their groups have let them go.
    pub gone: BTreeSet<NodeId>,
}

impl Away {
    fn is_dead(&self, node: &NodeId) -> bool {
        self.lost.contains(node) || self.silent.contains(node)
    }
}

/// What the nodes can be to a placement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Able {
    /// Those that can take replicas; no others will ever fill one.
    pub takers: BTreeSet<NodeId>,
    /// Those that nobody can count on.
    pub away: Away,
}

impl Able {
    /// Whether a group of these voters could commit anything.
    fn has_majority(&self, voters: &[NodeId]) -> bool {
        let Away { gone, .. } = &self.away;
        let is_there = |node: &&NodeId| !self.away.is_dead(node) && !gone.contains(node);
        2 * voters.iter().filter(is_there).count() > voters.len()
    }
}

/// A placement to go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Replicas of each partition, the one that should lead first.
    pub replicas: Vec<Vec<NodeId>>,
    /// What it was made for.
    pub able: Able,
}

/// As [`place`] when nodes are `away`: others take the replicas of those that are dead, as far as there are others, and those
/// that are lost keep what nobody can take, unless that would be half of all: no majority could live. A partition without a
/// majority of live voters stays as it is: its group could not change. Voters are those of its group in `standings`; of one
/// that is not known, those that are placed.
pub fn place_around(
    candidates: &[Candidate],
    away: &Away,
    replication: usize,
    current: &[Vec<NodeId>],
    standings: &BTreeMap<PartitionId, Standing>,
) -> Wanted {
    let mut placed = place(candidates, replication, current);
    for ((id, wanted), current) in (0..).map(PartitionId).zip(&mut placed).zip(current) {
        let placed = || current.iter().copied().collect();
        let voters: BTreeSet<NodeId> = standings.get(&id).map_or_else(placed, |group| group.voters.clone());
        let live = voters.iter().filter(|node| !away.is_dead(node)).count();
        if 2 * live <= voters.len() && live < voters.len() {
            wanted.clone_from(current);
        } else {
            let room = replication.saturating_sub(wanted.len()).min(wanted.len().saturating_sub(1));
            let lost = current.iter().copied().filter(|node| away.lost.contains(node));
            wanted.extend(lost.take(room));
        }
    }
    let takers = candidates.iter().map(|candidate| candidate.node).collect();
    Wanted { replicas: placed, able: Able { takers, away: away.clone() } }
}

struct Plan<'a> {
    zones: BTreeMap<NodeId, &'a str>,
    replication: usize,
    replicas: Vec<Vec<NodeId>>,
    /// Replicas of each node.
    load: BTreeMap<NodeId, usize>,
    /// The mean of that, rounded up.
    most: usize,
}

fn weight(partition: usize, node: NodeId) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(partition as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&node.0.to_le_bytes());
    xxh3_64(&bytes)
}

impl<'a> Plan<'a> {
    fn new(candidates: &'a [Candidate], replication: usize, current: &[Vec<NodeId>]) -> Self {
        let zones: BTreeMap<NodeId, &str> = candidates.iter().map(|c| (c.node, c.zone.as_str())).collect();
        let replication = replication.min(zones.len());
        let kept = |nodes: &Vec<NodeId>| {
            let there = nodes.iter().copied().filter(|node| zones.contains_key(node));
            there.take(replication).collect::<Vec<NodeId>>()
        };
        let replicas: Vec<Vec<NodeId>> = current.iter().map(kept).collect();
        let mut load: BTreeMap<NodeId, usize> = zones.keys().map(|node| (*node, 0)).collect();
        for node in replicas.iter().flatten() {
            *load.entry(*node).or_default() += 1;
        }
        let most = (current.len() * replication).div_ceil(zones.len().max(1));
        Self { zones, replication, replicas, load, most }
    }

    /// How many of `nodes` share the zone of `node`.
    fn crowd(&self, nodes: &[NodeId], node: NodeId) -> usize {
        nodes.iter().filter(|other| self.zones[other] == self.zones[&node]).count()
    }

    /// Gives every partition its number of replicas.
    fn fill(&mut self) {
        for partition in 0..self.replicas.len() {
            while self.replicas[partition].len() < self.replication {
                let have = &self.replicas[partition];
                let rank = |node: &NodeId| {
                    let is_full = self.load[node] >= self.most;
                    (self.crowd(have, *node), is_full, std::cmp::Reverse(weight(partition, *node)))
                };
                let free = self.zones.keys().filter(|node| !have.contains(node));
                let Some(best) = free.min_by_key(|node| rank(node)).copied() else { break };
                self.replicas[partition].push(best);
                *self.load.entry(best).or_default() += 1;
            }
        }
    }

    /// Takes replicas from nodes that share a zone with another one, where a zone has none.
    fn spread(&mut self) {
        for partition in 0..self.replicas.len() {
            while let Some((at, to)) = self.better_spread(partition) {
                let from = std::mem::replace(&mut self.replicas[partition][at], to);
                *self.load.entry(from).or_default() -= 1;
                *self.load.entry(to).or_default() += 1;
            }
        }
    }

    /// The place of a replica in a crowded zone, and the node of an empty one that should have it.
    fn better_spread(&self, partition: usize) -> Option<(usize, NodeId)> {
        let have = &self.replicas[partition];
        let crowded = (0..have.len()).filter(|at| self.crowd(have, have[*at]) > 1);
        let at = crowded.min_by_key(|at| weight(partition, have[*at]))?;
        let free = self.zones.keys().filter(|node| self.crowd(have, **node) == 0);
        let rank = |node: &&NodeId| (self.load[*node], std::cmp::Reverse(weight(partition, **node)));
        Some((at, free.min_by_key(rank).copied()?))
    }

    /// Takes replicas from nodes that have too many, where another node can take them without crowding its zone.
    fn level(&mut self) {
        for from in self.zones.keys().copied().collect::<Vec<_>>() {
            let mut held: Vec<usize> =
                (0..self.replicas.len()).filter(|p| self.replicas[*p].contains(&from)).collect();
            held.sort_by_key(|partition| weight(*partition, from));
            for partition in held {
                if self.load[&from] <= self.most {
                    break;
                }
                self.hand_over(partition, from);
            }
        }
    }

    fn hand_over(&mut self, partition: usize, from: NodeId) {
        let others: Vec<NodeId> =
            self.replicas[partition].iter().copied().filter(|node| *node != from).collect();
        let crowd = self.crowd(&others, from);
        let takes = |node: &&NodeId| {
            **node != from
                && !others.contains(node)
                && self.load[node] < self.most
                && self.crowd(&others, **node) <= crowd
        };
        let rank = |node: &&NodeId| (self.load[*node], std::cmp::Reverse(weight(partition, **node)));
        let Some(to) = self.zones.keys().filter(takes).min_by_key(rank).copied() else { return };
        let place = self.replicas[partition].iter_mut().find(|node| **node == from);
        if let Some(place) = place {
            *place = to;
            *self.load.entry(from).or_default() -= 1;
            *self.load.entry(to).or_default() += 1;
        }
    }

    /// Puts first who should lead: who does now if it still has a replica, unless another one leads fewer by two.
    fn order(&mut self, current: &[Vec<NodeId>]) {
        let mut leads: BTreeMap<NodeId, usize> = self.zones.keys().map(|node| (*node, 0)).collect();
        let mut open = Vec::new();
        for (partition, replicas) in self.replicas.iter_mut().enumerate() {
            let leader = current[partition].first();
            match leader.and_then(|leader| replicas.iter().position(|node| node == leader)) {
                Some(at) => put_first(replicas, at, &mut leads),
                None => open.push(partition),
            }
        }
        for partition in open {
            let replicas = &mut self.replicas[partition];
            let rank = |node: &NodeId| (leads[node], weight(partition, *node));
            let Some(at) = (0..replicas.len()).min_by_key(|at| rank(&replicas[*at])) else { continue };
            put_first(replicas, at, &mut leads);
        }
        // Each change brings two nodes closer, so it ends.
        while self.replicas.iter_mut().any(|replicas| {
            let Some(leader) = replicas.first().copied() else { return false };
            let fewer = replicas.iter().position(|node| leads[node] + 1 < leads[&leader]);
            let Some(at) = fewer else { return false };
            *leads.entry(leader).or_default() -= 1;
            put_first(replicas, at, &mut leads);
            true
        }) {}
    }
}

fn put_first(replicas: &mut [NodeId], at: usize, leads: &mut BTreeMap<NodeId, usize>) {
    replicas[..=at].rotate_right(1);
    *leads.entry(replicas[0]).or_default() += 1;
}

/// The partitions whose replicas differ, and what they should be.
pub fn moves(current: &[Vec<NodeId>], wanted: Vec<Vec<NodeId>>) -> Vec<(PartitionId, Vec<NodeId>)> {
    let numbered = (0..).map(PartitionId).zip(wanted);
    let changed = numbered.filter(|(id, wanted)| current.get(id.0 as usize) != Some(wanted));
    changed.collect()
}

/// The group of a partition as its leader has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who leads.
    pub leader: NodeId,
    /// The voters; while they change, those of before and of after.
    pub voters: BTreeSet<NodeId>,
    /// Those that only follow.
    pub learners: BTreeSet<NodeId>,
    /// Position up to which the log is committed.
    pub committed: u64,
}

impl Standing {
    /// Whether the voters are those that the placement names.
    pub fn is_settled(&self, replicas: &[NodeId]) -> bool {
        self.voters.len() == replicas.len() && replicas.iter().all(|node| self.voters.contains(node))
    }

    /// Whether the group cannot follow the placement as things are: it waits for one that is to vote and takes no replicas,
    /// or those that are to vote could commit nothing. A change to these that has begun ends once they are back, whatever
    /// is placed meanwhile.
    pub fn is_stuck(&self, replicas: &[NodeId], able: &Able) -> bool {
        let never_votes = |node: &NodeId| !self.voters.contains(node) && !able.takers.contains(node);
        replicas.iter().any(never_votes) || !(self.is_settled(replicas) || able.has_majority(replicas))
    }
}

/// What of the way to `wanted` can be done now: no node gives or takes more than `per_node` replicas at once, a
/// partition moves again only when its group has followed the last move or cannot, and who leads changes at once.
pub fn next_moves(
    current: &[Vec<NodeId>],
    wanted: Wanted,
    standings: &BTreeMap<PartitionId, Standing>,
    per_node: usize,
) -> Vec<(PartitionId, Vec<NodeId>)> {
    let Wanted { replicas: wanted, able } = wanted;
    let mut busy: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (id, replicas) in (0..).map(PartitionId).zip(current) {
        let taking = standings.get(&id).map(|group| taking(replicas, group, &able)).unwrap_or_default();
        taking.into_iter().for_each(|node| *busy.entry(node).or_default() += 1);
    }
    let mut next = Vec::new();
    for (id, wanted) in moves(current, wanted) {
        let Some(now) = current.get(id.0 as usize) else { continue };
        let is_same_set = now.len() == wanted.len() && now.iter().all(|node| wanted.contains(node));
        if is_same_set {
            next.push((id, wanted));
            continue;
        }
        let nodes = standings.get(&id).and_then(|group| joining(now, &wanted, group, &able));
        let has_room = |node: &NodeId| busy.get(node).is_none_or(|moves| *moves < per_node);
        match nodes.filter(|nodes| nodes.iter().all(has_room)) {
            Some(nodes) => {
                nodes.into_iter().for_each(|node| *busy.entry(node).or_default() += 1);
                next.push((id, wanted));
            }
            // It waits for its turn, but who is to give it up need not lead it until then.
            None if now.first().is_some_and(|leader| !wanted.contains(leader)) => {
                let Some(at) = now.iter().position(|node| wanted.contains(node)) else { continue };
                let mut order = now.clone();
                order[..=at].rotate_right(1);
                next.push((id, order));
            }
            None => {}
        }
    }
    next
}

/// The nodes that get busier by a move from `now` to `wanted`; `None` if the group is not free to move.
fn joining(now: &[NodeId], wanted: &[NodeId], group: &Standing, able: &Able) -> Option<Vec<NodeId>> {
    // Who has a part in a move that is given up is counted for it already.
    let counted = taking(now, group, able);
    let is_free = group.is_settled(now) || group.is_stuck(now, able);
    let joins = |node: &NodeId| !counted.contains(node);
    is_free.then(|| taking(wanted, group, able).into_iter().filter(joins).collect())
}

/// The nodes that are busy while a group takes in those of `replicas` that it lacks: these, and its leader, who gives.
/// Nobody gives to a node that takes no replicas.
fn taking(replicas: &[NodeId], group: &Standing, able: &Able) -> Vec<NodeId> {
    let is_new = |node: &NodeId| !group.voters.contains(node) && able.takers.contains(node);
    let new: Vec<NodeId> = replicas.iter().copied().filter(is_new).collect();
    let giver = (!new.is_empty()).then_some(group.leader);
    new.into_iter().chain(giver).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(zones: &[&str]) -> Vec<Candidate> {
        let numbered = zones.iter().zip(1..);
        numbered.map(|(zone, node)| Candidate { node: NodeId(node), zone: (*zone).to_owned() }).collect()
    }

    fn counts(placed: impl IntoIterator<Item = NodeId>) -> BTreeMap<NodeId, usize> {
        placed.into_iter().fold(BTreeMap::new(), |mut counts, node| {
            *counts.entry(node).or_default() += 1;
            counts
        })
    }

    fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
        let new = |(before, after): (&Vec<NodeId>, &Vec<NodeId>)| {
            after.iter().filter(|node| !before.contains(node)).count()
        };
        before.iter().zip(after).map(new).sum()
    }

    #[test]
    fn three_nodes_have_everything_and_lead_a_third_each() {
        let placed = place(&nodes(&["a", "b", "c"]), 3, &vec![Vec::new(); 32]);
        assert!(placed.iter().all(|replicas| replicas.iter().collect::<BTreeSet<_>>().len() == 3));
        let leads = counts(placed.iter().map(|replicas| replicas[0]));
        assert!(leads.values().all(|count| (10..=11).contains(count)), "{leads:?}");
    }

    #[test]
    fn a_fourth_node_takes_its_share_and_nothing_else_moves() {
        let three = place(&nodes(&[""; 3]), 3, &vec![Vec::new(); 32]);
        let four = place(&nodes(&[""; 4]), 3, &three);
        let load = counts(four.iter().flatten().copied());
        assert!(load.values().all(|count| *count == 24), "{load:?}");
        assert_eq!(moved(&three, &four), 24);
        assert_eq!(moves(&four, four.clone()), []);
    }

    #[test]
    fn who_leaves_is_replaced_by_others() {
        let four = place(&nodes(&[""; 4]), 3, &vec![Vec::new(); 32]);
        let three = place(&nodes(&[""; 4])[..3], 3, &four);
        assert!(three.iter().all(|replicas| replicas.len() == 3 && !replicas.contains(&NodeId(4))));
        assert_eq!(moved(&four, &three), 24);
    }

    #[test]
    fn zones_that_are_told_later_are_used() {
        let blind = place(&nodes(&[""; 5]), 3, &vec![Vec::new(); 16]);
        let zones = ["a", "a", "a", "b", "c"];
        let seeing = place(&nodes(&zones), 3, &blind);
        assert!(seeing.iter().all(|replicas| replicas.contains(&NodeId(4)) && replicas.contains(&NodeId(5))));
    }

    #[test]
    fn fewer_nodes_than_replicas_is_what_there_is() {
        assert_eq!(place(&nodes(&["a"]), 3, &vec![Vec::new(); 2]), vec![vec![NodeId(1)]; 2]);
        assert_eq!(place(&[], 3, &vec![vec![NodeId(1)]; 2]), vec![Vec::new(); 2]);
    }

    fn settled(placed: &[Vec<NodeId>]) -> BTreeMap<PartitionId, Standing> {
        let standing = |replicas: &Vec<NodeId>| Standing {
            leader: replicas[0],
            voters: replicas.iter().copied().collect(),
            learners: BTreeSet::new(),
            committed: 1,
        };
        (0..).map(PartitionId).zip(placed.iter().map(standing)).collect()
    }

    fn numbers(list: &[u64]) -> Vec<NodeId> {
        list.iter().copied().map(NodeId).collect()
    }

    fn lost(nodes: &[u64]) -> Away {
        Away { lost: numbers(nodes).into_iter().collect(), ..Away::default() }
    }

    #[track_caller]
    fn check_around(there: &[u64], absent: &[u64], current: &[u64], expected: &[u64]) {
        let candidates: Vec<Candidate> =
            there.iter().map(|node| Candidate { node: NodeId(*node), zone: String::new() }).collect();
        let away = lost(absent);
        let around =
            |current: &[Vec<NodeId>]| place_around(&candidates, &away, 3, current, &settled(current));
        let placed = around(&[numbers(current)]);
        assert_eq!(placed.replicas, [numbers(expected)]);
        assert_eq!(around(&placed.replicas), placed, "it is at rest");
    }

    #[test]
    fn the_replicas_of_a_dead_node_are_taken_by_others_if_there_are_any() {
        check_around(&[1, 2, 4], &[3], &[1, 2, 3], &[1, 2, 4]);
        check_around(&[1, 2], &[3], &[1, 2, 3], &[1, 2, 3]);
        check_around(&[1, 2], &[3], &[3, 1, 2], &[1, 2, 3]);
        check_around(&[1, 4, 5], &[2, 3], &[1, 2, 3], &[1, 2, 3]);
        check_around(&[1, 4], &[], &[1, 2, 3], &[1, 4]);
    }

    #[test]
    fn no_group_is_left_without_a_majority_that_lives() {
        // 2 is drained, and 3 is dead: a group of 1 and 3 could never commit.
        check_around(&[1], &[3], &[1, 2, 3], &[1]);
        check_around(&[1, 4], &[3], &[1, 2, 3], &[1, 4, 3]);
    }

    #[test]
    fn who_votes_says_whether_a_group_can_change() {
        let around = |absent: &[u64], voters: &[u64]| {
            let mut there = nodes(&[""; 6]);
            there.retain(|candidate| !absent.contains(&candidate.node.0));
            let standings = settled(&[numbers(voters)]);
            place_around(&there, &lost(absent), 3, &[numbers(&[1, 2, 4])], &standings).replicas.remove(0)
        };
        // Its replica moves from 3 to 4, which does not vote yet.
        let now = numbers(&[1, 2, 4]);
        assert_eq!(around(&[1, 3], &[1, 2, 3]), now, "only 2 is left of those who vote");
        let mended = around(&[1, 4], &[1, 2, 3]);
        assert!(mended.contains(&NodeId(2)) && !mended.contains(&NodeId(1)), "2 and 3 vote: {mended:?}");
    }

    #[test]
    fn a_node_that_comes_takes_two_replicas_at_a_time() {
        let three = place(&nodes(&[""; 3]), 3, &vec![Vec::new(); 32]);
        let wanted = || place_around(&nodes(&[""; 4]), &Away::default(), 3, &three, &settled(&three));
        let mut standings = settled(&three);
        let set = |replicas: &[NodeId]| replicas.iter().copied().collect::<BTreeSet<_>>();
        let takes = |next: &[(PartitionId, Vec<NodeId>)], current: &[Vec<NodeId>]| {
            next.iter().filter(|(id, now)| set(now) != set(&current[id.0 as usize])).count()
        };
        let blind = next_moves(&three, wanted(), &BTreeMap::new(), 2);
        assert_eq!(takes(&blind, &three), 0, "nothing is known of the groups");
        let next = next_moves(&three, wanted(), &standings, 2);
        assert_eq!(takes(&next, &three), 2);
        let mut after = three.clone();
        next.into_iter().for_each(|(id, replicas)| after[id.0 as usize] = replicas);
        assert_eq!(
            takes(&next_moves(&after, wanted(), &standings, 2), &after),
            0,
            "its groups did not follow"
        );
        standings = settled(&after);
        assert_eq!(takes(&next_moves(&after, wanted(), &standings, 2), &after), 2);
    }

    #[test]
    fn who_gives_a_partition_up_does_not_lead_it_while_it_waits() {
        let current = [numbers(&[1, 2, 3])];
        let able = || Able { takers: BTreeSet::from([2, 3, 4].map(NodeId)), ..Able::default() };
        let wanted = || Wanted { replicas: vec![numbers(&[2, 3, 4])], able: able() };
        let next = next_moves(&current, wanted(), &BTreeMap::new(), 2);
        assert_eq!(next, [(PartitionId(0), numbers(&[2, 1, 3]))]);
        let next = next_moves(&[numbers(&[2, 1, 3])], wanted(), &BTreeMap::new(), 2);
        assert_eq!(next, []);
    }

    /// Steps from `current` when the groups have these voters and only `takers` can have replicas, one move a node.
    #[track_caller]
    fn check_steps(
        current: &[&[u64]],
        voters: &[&[u64]],
        takers: &[u64],
        wanted: &[&[u64]],
        expected: &[(u32, &[u64])],
    ) {
        let lists = |lists: &[&[u64]]| lists.iter().map(|list| numbers(list)).collect::<Vec<_>>();
        let standings = settled(&lists(voters));
        let able = Able { takers: numbers(takers).into_iter().collect(), ..Able::default() };
        let wanted = Wanted { replicas: lists(wanted), able };
        let next = next_moves(&lists(current), wanted, &standings, 1);
        let expected = expected.iter().map(|(id, replicas)| (PartitionId(*id), numbers(replicas)));
        assert_eq!(next, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_move_whose_target_dies_is_given_up_and_holds_nobody_up() {
        // Partition 0 moved from 3 to 4, which died.
        let (now, voters): ([&[u64]; 1], [&[u64]; 1]) = ([&[1, 2, 4]], [&[1, 2, 3]]);
        check_steps(&now, &voters, &[1, 2, 3], &[&[1, 2, 3]], &[(0, &[1, 2, 3])]);
        check_steps(&now, &voters, &[1, 2, 5], &[&[1, 2, 5]], &[(0, &[1, 2, 5])]);
        check_steps(&now, &voters, &[1, 2, 3, 4, 5], &[&[1, 2, 5]], &[]);
        // The one that died is no reason to give up what is being taken out, or what is half done.
        check_steps(&[&[1, 2]], &[&[1, 2, 3]], &[1, 2, 5], &[&[1, 2, 5]], &[]);
        check_steps(&now, &[&[1, 2, 3, 4]], &[1, 2, 5], &[&[1, 2, 5]], &[]);
        // 1 leads both partitions; it gives nothing to 4.
        let (now, voters): ([&[u64]; 2], [&[u64]; 2]) = ([&[1, 2, 4], &[1, 2, 3]], [&[1, 2, 3], &[1, 2, 3]]);
        check_steps(&now, &voters, &[1, 2, 5], &[&[1, 2, 4], &[1, 2, 5]], &[(1, &[1, 2, 5])]);
        check_steps(&now, &voters, &[1, 2, 4, 5], &[&[1, 2, 4], &[1, 2, 5]], &[]);
        // Of two targets the live one goes on; its own move is no reason to wait.
        check_steps(&[&[1, 5, 4]], &[&[1, 2, 3]], &[1, 5, 6], &[&[1, 5, 6]], &[(0, &[1, 5, 6])]);
    }

    /// Where the partition goes that is placed on `now` and has the voters 1, 2 and 3.
    #[track_caller]
    fn check_deadlock(now: &[u64], there: &[u64], away: &Away, expected: &[u64]) {
        let candidates: Vec<Candidate> =
            there.iter().map(|node| Candidate { node: NodeId(*node), zone: String::new() }).collect();
        let (mut current, standings) = (vec![numbers(now)], settled(&[numbers(&[1, 2, 3])]));
        // Its group never follows.
        for _ in 0..10 {
            let wanted = place_around(&candidates, away, 3, &current, &standings);
            for (id, replicas) in next_moves(&current, wanted, &standings, 2) {
                current[id.0 as usize] = replicas;
            }
        }
        let sorted: BTreeSet<NodeId> = current[0].iter().copied().collect();
        assert_eq!(sorted, numbers(expected).into_iter().collect(), "{now:?} with {there:?} and {away:?}");
    }

    #[test]
    fn a_move_to_those_that_could_commit_nothing_is_given_up() {
        // 2 was drained, and 3 died before the group had let it go.
        let [dead, gone] = [lost(&[3]), Away { gone: lost(&[3]).lost, ..Away::default() }];
        for away in [&dead, &gone] {
            check_deadlock(&[1, 3], &[1], away, &[1]);
        }
        check_deadlock(&[1, 3], &[1, 3], &Away::default(), &[1, 3]);
        // It is no longer drained, or removed, or another one comes.
        check_deadlock(&[1, 3], &[1, 2], &dead, &[1, 2, 3]);
        check_deadlock(&[1, 3], &[1, 2], &gone, &[1, 2]);
        check_deadlock(&[1, 3], &[1, 4], &dead, &[1, 3, 4]);
        check_deadlock(&[1, 3], &[1, 4], &gone, &[1, 4]);
        // Two are dead: nothing can change, whatever is placed.
        check_deadlock(&[1, 3], &[1, 4], &lost(&[2, 3]), &[1, 3]);
        // Those that are left could commit, so it is waited for.
        check_deadlock(&[1, 3, 4], &[1, 2, 4], &dead, &[1, 3, 4]);
    }

    #[test]
    fn one_that_is_drained_and_dead_votes_for_nothing_and_keeps_nothing() {
        let silent = Away { silent: BTreeSet::from([NodeId(2)]), ..Away::default() };
        check_deadlock(&[1, 2, 3], &[1, 3], &silent, &[1, 3]);
        check_deadlock(&[1, 2, 3], &[1], &Away { lost: lost(&[3]).lost, ..silent }, &[1, 2, 3]);
    }

    proptest! {
        /// Whoever dies or is drained while groups follow or do not: no group is sent where it could commit nothing, and
        /// each one that has a majority gets, once it follows again, where it is wanted.
        #[test]
        fn no_group_waits_for_the_dead_for_ever(
            now in prop::collection::btree_set(1..6u64, 1..4), voters in prop::collection::btree_set(1..6u64, 1..4),
            states in prop::collection::vec(0..5u8, 5),
        ) {
            let those = |of: u8| (1..).map(NodeId).zip(&states).filter(move |(_, state)| **state == of).map(|(node, _)| node);
            let candidates: Vec<Candidate> =
                those(0).map(|node| Candidate { node, zone: String::new() }).collect();
            let away = Away { lost: those(1).collect(), silent: those(2).collect(), gone: those(3).collect() };
            let live = voters.iter().filter(|node| !away.is_dead(&NodeId(**node))).count();
            prop_assume!(!candidates.is_empty() && 2 * live > voters.len());
            let mut current = vec![now.into_iter().map(NodeId).collect::<Vec<_>>()];
            let mut standings = settled(&[voters.into_iter().map(NodeId).collect::<Vec<_>>()]);
            for _ in 0..20 {
                let wanted = place_around(&candidates, &away, 3, &current, &standings);
                let able = wanted.able.clone();
                for (id, replicas) in next_moves(&current, wanted, &standings, 1) {
                    current[id.0 as usize] = replicas;
                }
                // The group follows if those that are to vote can.
                let is_stuck = standings[&PartitionId(0)].is_stuck(&current[0], &able);
                if !is_stuck {
                    standings = settled(&current);
                }
            }
            let wanted = place_around(&candidates, &away, 3, &current, &standings);
            prop_assert!(wanted.able.has_majority(&wanted.replicas[0]), "{:?}", wanted);
            prop_assert_eq!(&current, &wanted.replicas);
        }

        /// Whatever comes and goes, the steps end at a placement at rest, and no step is more than nodes may do.
        #[test]
        fn steps_lead_to_rest(
            zones in prop::collection::vec("[ab]", 2..7), partitions in 1..24usize, replication in 1..4usize,
            per_node in 1..4usize, lost in any::<prop::sample::Index>(),
        ) {
            let zones: Vec<&str> = zones.iter().map(String::as_str).collect();
            let all = nodes(&zones);
            let mut current = place(&all[..1], replication, &vec![Vec::new(); partitions]);
            let mut fewer = all.clone();
            let dead = Away { lost: BTreeSet::from([fewer.remove(lost.index(all.len())).node]), ..Away::default() };
            for (candidates, away) in [(&all, Away::default()), (&fewer, dead)] {
                let mut steps = 0;
                loop {
                    let wanted =
                        place_around(candidates, &away, replication, &current, &settled(&current));
                    let next = next_moves(&current, wanted, &settled(&current), per_node);
                    if next.is_empty() {
                        break;
                    }
                    let mut takes: BTreeMap<NodeId, usize> = BTreeMap::new();
                    for (id, replicas) in next {
                        let now = std::mem::replace(&mut current[id.0 as usize], replicas.clone());
                        let new = replicas.iter().filter(|node| !now.contains(node));
                        new.for_each(|node| *takes.entry(*node).or_default() += 1);
                    }
                    prop_assert!(takes.values().all(|count| *count <= per_node), "{:?}", takes);
                    steps += 1;
                    prop_assert!(steps <= 10 * partitions * replication + 10, "it does not come to rest");
                }
                let wanted = place_around(candidates, &away, replication, &current, &settled(&current));
                prop_assert_eq!(wanted.replicas, current.clone());
            }
        }

        #[test]
        fn zones_are_spread_load_is_bounded_and_it_is_at_rest(
            zones in prop::collection::vec("[abc]", 1..9), partitions in 1..40usize, replication in 1..4usize,
            lost in any::<prop::sample::Index>(),
        ) {
            let zones: Vec<&str> = zones.iter().map(String::as_str).collect();
            let all = nodes(&zones);
            let first = place(&all, replication, &vec![Vec::new(); partitions]);
            let mut fewer = all.clone();
            if all.len() > 1 {
                fewer.remove(lost.index(all.len()));
            }
            for (candidates, before) in [(&all, &first), (&fewer, &first)] {
                let placed = place(candidates, replication, before);
                let zone_of: BTreeMap<NodeId, &str> =
                    candidates.iter().map(|c| (c.node, c.zone.as_str())).collect();
                let zones = zone_of.values().collect::<BTreeSet<_>>().len();
                for replicas in &placed {
                    prop_assert_eq!(replicas.len(), replication.min(candidates.len()));
                    prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replicas.len());
                    let used = replicas.iter().map(|node| zone_of[node]).collect::<BTreeSet<_>>().len();
                    prop_assert_eq!(used, zones.min(replicas.len()));
                }
                prop_assert_eq!(place(candidates, replication, &placed), placed.clone(), "it is at rest");
                if zones == 1 {
                    let load = counts(placed.iter().flatten().copied());
                    let most = (partitions * replication.min(candidates.len())).div_ceil(candidates.len());
                    prop_assert!(load.values().all(|count| *count <= most + 1), "{:?}", load);
                }
            }
        }
    }
}
