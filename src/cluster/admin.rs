//! What an operator may ask of the cluster, and what speaks against it.
//!
//! Knows the metadata, the placement rules and what leaders of groups said. Does not know HTTP. Pure: whoever asks
//! proposes what comes out of it, and the metadata refuses what is not of the placement that was looked at.
//! A1: nothing that would lose the last replica of a partition is ever allowed.

use crate::meta::{MetaState, NodeEntry, NodeState, PartitionEntry};
use crate::placement::{self, Away, Candidate, Standing};
use quorate_model::{NodeId, PartitionId};
use std::collections::{BTreeMap, BTreeSet};

/// Why something is not done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// There is no such node or partition.
    #[error("{0}")]
    Unknown(String),
    /// It would do harm, or cannot be done as things are.
    #[error("{0}")]
    Refused(String),
}

fn refused<T>(reason: String) -> Result<T, Objection> {
    Err(Objection::Refused(reason))
}

/// The groups of the partitions, by what is known of them.
pub type Standings = BTreeMap<PartitionId, Standing>;

/// The nodes that said lately that they have a replica of a partition.
pub type Holders = BTreeMap<PartitionId, BTreeSet<NodeId>>;

/// The node called `text`, by its name or number. Of a name the one that is not gone, if there is one.
///
/// # Errors
/// [`Objection::Unknown`].
pub fn find_node(state: &MetaState, text: &str) -> Result<NodeId, Objection> {
    let named = |is_gone: bool| {
        let mut nodes = state.nodes().iter();
        nodes.find(|(_, entry)| entry.name == text && (entry.state == NodeState::Gone) == is_gone)
    };
    let numbered = || text.parse().ok().map(NodeId).filter(|node| state.nodes().contains_key(node));
    let found = named(false).or_else(|| named(true)).map(|(node, _)| *node).or_else(numbered);
    found.ok_or_else(|| Objection::Unknown(format!("there is no node {text} in the cluster")))
}

/// The nodes that can have replicas.
pub fn candidates(state: &MetaState) -> Vec<Candidate> {
    let there = state.nodes().iter().filter(|(_, entry)| entry.can_serve());
    there.map(|(node, entry)| Candidate { node: *node, zone: entry.zone.clone() }).collect()
}

/// The nodes that are not there; of those that are drained the ones that `is_dead` says are.
pub fn away(state: &MetaState, is_dead: impl Fn(NodeId) -> bool) -> Away {
    let mut away = Away::default();
    for (node, entry) in state.nodes() {
        let kind = match entry.state {
            NodeState::Lost => &mut away.lost,
            NodeState::Gone => &mut away.gone,
            NodeState::Draining if is_dead(*node) => &mut away.silent,
            NodeState::Draining | NodeState::Member | NodeState::Expected => continue,
        };
        kind.insert(*node);
    }
    away
}

/// The placement as it is.
pub fn current(state: &MetaState) -> Vec<Vec<NodeId>> {
    state.partitions().iter().map(|partition| partition.replicas.clone()).collect()
}

/// The replicas of `partition` once that of `from` is on `to`. Nodes that are drained are taken to live.
///
/// # Errors
/// [`Objection`], also when the placement rules would move a replica back at once.
pub fn plan_move(
    state: &MetaState,
    standings: &Standings,
    partition: PartitionId,
    from: NodeId,
    to: NodeId,
) -> Result<Vec<NodeId>, Objection> {
    let Some(entry) = state.partitions().get(partition.0 as usize) else {
        return Err(Objection::Unknown(format!("there is no partition {partition}")));
    };
    let (from_name, to_name) = (name(state, from), name(state, to));
    let Some(at) = entry.replicas.iter().position(|node| *node == from) else {
        return refused(format!("partition {partition} has no replica on {from_name}"));
    };
    if entry.replicas.contains(&to) {
        return refused(format!("partition {partition} has a replica on {to_name} already"));
    }
    if !state.nodes().get(&to).is_some_and(NodeEntry::can_serve) {
        return refused(format!("{to_name} takes no replicas: it is not a member that has begun"));
    }
    let mut after = current(state);
    after[partition.0 as usize][at] = to;
    let (there, replication) = (candidates(state), state.replication().into());
    let away = away(state, |_| false);
    let rules = placement::place_around(&there, &away, replication, &after, standings);
    let wanted = &after[partition.0 as usize];
    let is_stuck = |group: &Standing, replicas| group.is_stuck(replicas, &rules.able);
    let is_free = |group: &Standing| {
        group.is_settled(&entry.replicas) || is_stuck(group, &entry.replicas) && !is_stuck(group, wanted)
    };
    if !standings.get(&partition).is_some_and(is_free) {
        return refused(format!(
            "partition {partition} is moving, or has no leader now: try again when it is at rest"
        ));
    }
    match rules.replicas[partition.0 as usize].iter().all(|node| wanted.contains(node)) {
        true => Ok(wanted.clone()),
        false => refused(format!(
            "the placement rules would move partition {partition} again at once: replicas are in different zones \
             where there are several, and no node has more than its share"
        )),
    }
}

/// Whether a node may be drained, if the nodes of `heard` were heard lately; with `force` also if its replicas have nowhere to
/// go, but never if those that are left could commit nothing. One that is drained already may.
///
/// # Errors
/// [`Objection`].
pub fn check_drain(
    state: &MetaState,
    standings: &Standings,
    heard: &BTreeSet<NodeId>,
    node: NodeId,
    force: bool,
) -> Result<(), Objection> {
    let node_name = name(state, node);
    match state.nodes().get(&node).map(|entry| entry.state) {
        Some(NodeState::Member) => {}
        Some(NodeState::Draining) => return Ok(()),
        Some(NodeState::Gone) => return refused(format!("{node_name} is gone")),
        Some(NodeState::Lost) => return refused(format!("{node_name} is lost: remove it instead")),
        Some(NodeState::Expected) => return refused(format!("{node_name} never came: remove it instead")),
        None => return Err(Objection::Unknown(format!("there is no node {node}"))),
    }
    let mut left = candidates(state);
    left.retain(|candidate| candidate.node != node);
    if left.is_empty() {
        return refused(format!("{node_name} is the last node that can have replicas"));
    }
    check_majorities(state, standings, heard, node, &left)?;
    let live = left.iter().filter(|candidate| heard.contains(&candidate.node)).count();
    let replication = usize::from(state.replication());
    if live < replication && !force {
        return refused(format!(
            "without {node_name} there are {live} nodes that answer for {replication} replicas of each partition: add a \
             node first, or force it and have fewer replicas"
        ));
    }
    Ok(())
}

/// Whether the groups that would be changed by a drain of `node`, the metadata included, could commit anything with those
/// that were heard lately. One that is dead and not yet lost would be counted on.
fn check_majorities(
    state: &MetaState,
    standings: &Standings,
    heard: &BTreeSet<NodeId>,
    node: NodeId,
    left: &[Candidate],
) -> Result<(), Objection> {
    let (current, replication) = (current(state), state.replication().into());
    let away = away(state, |_| false);
    let wanted = placement::place_around(left, &away, replication, &current, standings).replicas;
    let is_other = |(id, replicas): &(PartitionId, Vec<NodeId>)| {
        let now = current.get(id.0 as usize);
        now.is_none_or(|now| now.len() != replicas.len() || replicas.iter().any(|node| !now.contains(node)))
    };
    let changed =
        placement::moves(&current, wanted).into_iter().filter(is_other).map(|(_, replicas)| replicas);
    let voters = state.meta_voters_without(Some(node)).into_iter().collect();
    for group in changed.chain([voters]) {
        let (live, silent): (Vec<NodeId>, Vec<NodeId>) = group.iter().partition(|node| heard.contains(node));
        if live.len() <= silent.len() {
            let silent: Vec<String> = silent.into_iter().map(|node| name(state, node)).collect();
            return refused(format!(
                "without {} only {} of {} nodes that would vote answer, not {}: this is never done, not by force either. \
                 Start it, or remove it if it does not come back",
                name(state, node),
                live.len(),
                group.len(),
                silent.join(", ")
            ));
        }
    }
    Ok(())
}

/// What is left to be done until a node that is drained has nothing any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remainder {
    /// Partitions of which it has, or should have, a replica.
    pub replicas: usize,
    /// Partitions that it leads.
    pub leads: usize,
    /// Partitions whose leader did not say who their members are.
    pub unknown: usize,
    /// Whether it votes about the metadata.
    pub votes: bool,
}

impl Remainder {
    /// Whether the node can be removed without a loss.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a node still has.
pub fn remainder(
    state: &MetaState,
    standings: &Standings,
    meta_voters: &BTreeSet<NodeId>,
    node: NodeId,
) -> Remainder {
    let mut left = Remainder { votes: meta_voters.contains(&node), ..Remainder::default() };
    for (id, entry) in (0..).map(PartitionId).zip(state.partitions()) {
        let Some(group) = standings.get(&id) else {
            left.unknown += 1;
            continue;
        };
        let is_member = group.voters.contains(&node) || group.learners.contains(&node);
        left.replicas += usize::from(is_member || entry.replicas.contains(&node));
        left.leads += usize::from(group.leader == node);
    }
    left
}

/// What is risked by removing a node now; nothing if it is drained, or gone.
///
/// # Errors
/// [`Objection`]: without `force` when something is risked, and in any case when a partition would lose its last replica,
/// or has no leader that says which replicas count.
pub fn check_remove(
    state: &MetaState,
    standings: &Standings,
    holders: &Holders,
    meta_voters: &BTreeSet<NodeId>,
    node: NodeId,
    force: bool,
) -> Result<Vec<String>, Objection> {
    let node_name = name(state, node);
    let Some(entry) = state.nodes().get(&node) else {
        return Err(Objection::Unknown(format!("there is no node {node}")));
    };
    if entry.state == NodeState::Gone {
        return Ok(Vec::new());
    }
    let (lone, unled) =
        (last_replicas(standings, holders, node), unled_replicas(state, standings, holders, node));
    if !unled.is_empty() {
        return refused(format!(
            "{node_name} may have the last replica of partition {}, which has no leader now: this is never done, not \
             by force either. Try again once it has one",
            list(&unled)
        ));
    }
    if !lone.is_empty() {
        return refused(format!(
            "{node_name} has the last live replica of partition {}: this is never done, not by force either",
            list(&lone)
        ));
    }
    let left = remainder(state, standings, meta_voters, node);
    if left.is_nothing() || entry.state == NodeState::Lost {
        return Ok(Vec::new());
    }
    let risks = risks(state, &left, node);
    match force {
        true => Ok(risks),
        false => refused(format!(
            "{node_name} is neither drained nor lost: {}. Drain it first, or force it",
            risks.join("; ")
        )),
    }
}

/// The partitions of which `node` has the only replica that votes and is known to live. One that is placed, or is told of by
/// a node that does not vote, may not be filled yet.
fn last_replicas(standings: &Standings, holders: &Holders, node: NodeId) -> Vec<PartitionId> {
    let lives = |id: &PartitionId, other: &NodeId| holders.get(id).is_some_and(|nodes| nodes.contains(other));
    let is_last = |(id, group): &(&PartitionId, &Standing)| {
        let mut others = group.voters.iter().filter(|other| **other != node);
        group.voters.contains(&node) && !others.any(|other| lives(id, other))
    };
    standings.iter().filter(is_last).map(|(id, _)| *id).collect()
}

/// The partitions without a known leader of which `node` has, should have or may have a replica: what others have of them
/// may not be what was acknowledged. One that nobody is known to have may be anywhere.
fn unled_replicas(
    state: &MetaState,
    standings: &Standings,
    holders: &Holders,
    node: NodeId,
) -> Vec<PartitionId> {
    let may_hold = |(id, entry): &(PartitionId, &PartitionEntry)| {
        entry.replicas.contains(&node) || holders.get(id).is_none_or(|nodes| nodes.contains(&node))
    };
    let numbered = (0..).map(PartitionId).zip(state.partitions());
    let unled = numbered.filter(|(id, _)| !standings.contains_key(id));
    unled.filter(may_hold).map(|(id, _)| id).collect()
}

fn risks(state: &MetaState, left: &Remainder, node: NodeId) -> Vec<String> {
    let mut risks = Vec::new();
    if left.replicas > 0 {
        risks.push(format!(
            "{} partitions have a replica less until it is rebuilt, and may stand still if another one is lost",
            left.replicas
        ));
    }
    if left.leads > 0 {
        risks.push(format!("{} partitions that it leads stand still until others lead them", left.leads));
    }
    if left.unknown > 0 {
        risks.push(format!("it is not known what it has of {} partitions", left.unknown));
    }
    if left.votes {
        risks.push("the metadata has a voter less until another one takes its place".to_owned());
    }
    if risks.is_empty() {
        risks.push(format!("{} may get replicas at any moment", name(state, node)));
    }
    risks
}

fn name(state: &MetaState, node: NodeId) -> String {
    state.nodes().get(&node).map_or_else(|| format!("node {node}"), |entry| entry.name.clone())
}

fn list(partitions: &[PartitionId]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
