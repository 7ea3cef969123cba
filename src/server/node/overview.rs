//! The cluster in one picture: what the metadata says, with what the nodes reported.
//!
//! Knows how the two fit. Does not know how it is shown. Pure: everything is given.
//! Path: the metadata and [`super::life`] -> **here** -> `http::cluster`, `http::cluster_page`.

use super::services::Services;
use quorate_cluster::admin::{self, Standings};
use quorate_cluster::liveness::SUSPECT_AFTER;
use quorate_cluster::meta::{MetaVersion, NodeEntry, Reads};
use quorate_cluster::placement::Standing;
use quorate_cluster::{MetaState, NodeState, board};
use quorate_model::{NodeId, PartitionId};
use quorate_raft::Members;
use quorate_wire::meta::transfer::Phase;
use quorate_wire::meta::{Seen, Transfer, seen::NodeSeen};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The cluster, as far as the node that answers can know it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster_id: String,
    /// Number of the node that answers.
    pub node: u64,
    /// Who leads the metadata, as far as it knows.
    pub leader: Option<u64>,
    /// Whether the leader of the metadata told what it heard. If not, only the metadata is shown.
    pub is_complete: bool,
    /// How long the leader of the metadata has listened to the nodes.
    pub listening_ms: u64,
    /// Replicas that each partition should have.
    pub replication_factor: u8,
    /// The version of the metadata that is written: every node that is not gone or lost reads it.
    pub metadata_version: u32,
    /// Every node that there ever was.
    pub nodes: Vec<NodeView>,
    /// The partitions.
    pub partitions: Vec<PartitionView>,
    /// Replicas on their way.
    pub moves: Vec<MoveView>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its zone; empty for none.
    pub zone: String,
    /// What it is to the cluster.
    pub state: &'static str,
    /// `well`, `suspect`, or `unknown`.
    pub pulse: &'static str,
    /// How long it has been silent.
    pub silent_ms: Option<u64>,
    /// Whether it votes about the metadata.
    pub voter: bool,
    /// How often it began a session.
    pub incarnation: u32,
    /// The version of its program, if it told.
    pub build: Option<String>,
    /// The newest version of the metadata that it reads; one that did not tell is taken to read 1.
    pub reads_metadata: u32,
    /// Partitions of which it has or should have a replica.
    pub replicas: usize,
    /// Partitions that it leads.
    pub leads: usize,
    /// Series in the heads of its replicas.
    pub series: Option<u64>,
    /// Bytes of its store of blocks.
    pub disk_bytes: Option<u64>,
    /// Samples that its replicas store a second.
    pub samples_per_second: Option<f64>,
    /// Positions that its replicas lie behind what is committed, the worst of them.
    pub lag: Option<u64>,
    /// What is left until it has nothing any more, while it is drained.
    pub drain: Option<DrainView>,
}

/// What a node that is drained still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    /// Partitions of which it has a replica.
    pub replicas: usize,
    /// Partitions that it leads.
    pub leads: usize,
    /// Partitions whose leader did not tell who their members are.
    pub unknown: usize,
    /// Whether it votes about the metadata.
    pub voter: bool,
    /// Whether it can be removed without a loss.
    pub safe_to_remove: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionView {
    /// Its number.
    pub id: u32,
    /// Who leads it; `None` if no node says that it does.
    pub leader: Option<u64>,
    /// Position up to which its log is committed.
    pub committed: Option<u64>,
    /// The nodes that have or should have a replica.
    pub replicas: Vec<ReplicaView>,
    /// Whether its members are those that the placement names.
    pub settled: bool,
    /// Whether two replicas were found to differ at the same position.
    pub diverged: bool,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaView {
    /// Its node.
    pub node: u64,
    /// `voter`, `learner`; `placed` if its group does not have it yet; `unknown`.
    pub role: &'static str,
    /// Whether it is to go.
    pub leaving: bool,
    /// Position in the log that it has applied.
    pub applied: Option<u64>,
    /// How far that is behind what is committed.
    pub lag: Option<u64>,
}

/// A replica on its way to a node, or away from one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveView {
    /// The partition.
    pub partition: u32,
    /// The node that gets a replica.
    pub to: Option<u64>,
    /// The node that loses one.
    pub from: Option<u64>,
    /// `waiting`, `copying`, `checking`, `installing`, `catching up`, `leaving`.
    pub phase: &'static str,
    /// Bytes of the snapshot that are there.
    pub bytes: Option<u64>,
    /// Bytes of the snapshot.
    pub total_bytes: Option<u64>,
    /// How long the snapshot has been on its way.
    pub seconds: Option<u64>,
}

/// The cluster as the node of `services` can know it now. Asks the leader of the metadata.
pub async fn of(services: &Services) -> Overview {
    let seen = services.life.seen().await;
    let (state, group) = (services.meta.state(), services.meta.group());
    let frame = Frame { node: services.node.into(), leader: group.leader(), members: group.members() };
    overview(&state, &frame, seen.as_ref())
}

/// What the node that answers knows of the metadata group.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// The node that answers.
    pub node: u64,
    /// Who leads the metadata.
    pub leader: Option<NodeId>,
    /// The members of its group.
    pub members: Members,
}

/// The picture.
pub fn overview(state: &MetaState, frame: &Frame, seen: Option<&Seen>) -> Overview {
    let heard = seen.map(|seen| seen.nodes.as_slice()).unwrap_or_default();
    let reports: BTreeMap<NodeId, &NodeSeen> =
        heard.iter().filter_map(|node| Some((NodeId(node.report.as_ref()?.node), node))).collect();
    let standings = seen.map(board::standings).unwrap_or_default();
    let picture = Picture { state, frame, reports, standings };
    let diverged = seen.map(|seen| seen.diverged.as_slice()).unwrap_or_default();
    let partitions: Vec<PartitionView> =
        picture.placement().iter().map(|(id, replicas)| picture.partition(*id, replicas, diverged)).collect();
    Overview {
        cluster_id: format!("{:032x}", state.cluster_id()),
        node: frame.node,
        leader: frame.leader.map(|leader| leader.0),
        is_complete: seen.is_some(),
        listening_ms: seen.map_or(0, |seen| seen.watching_ms),
        replication_factor: state.replication(),
        metadata_version: state.active_version().0,
        nodes: state.nodes().iter().map(|(id, entry)| picture.node(*id, entry, &partitions)).collect(),
        moves: picture.moves(),
        partitions,
    }
}

struct Picture<'a> {
    state: &'a MetaState,
    frame: &'a Frame,
    reports: BTreeMap<NodeId, &'a NodeSeen>,
    standings: Standings,
}

impl Picture<'_> {
    /// Where replicas should be. A node that is alone has no placement: there they are where they are.
    fn placement(&self) -> Vec<(PartitionId, Vec<NodeId>)> {
        match self.state.partitions() {
            [] => self.standings.iter().map(|(id, g)| (*id, g.voters.iter().copied().collect())).collect(),
            entries => {
                (0..).map(PartitionId).zip(entries.iter().map(|entry| entry.replicas.clone())).collect()
            }
        }
    }

    fn node(&self, id: NodeId, entry: &NodeEntry, partitions: &[PartitionView]) -> NodeView {
        let seen = self.reports.get(&id);
        let report = seen.and_then(|seen| seen.report.as_ref());
        // Its own word is newer than what the log says.
        let reads = report.map(|report| Reads::told(report.reads, &report.build)).or(entry.reads.clone());
        let suspect_ms = SUSPECT_AFTER.as_millis() as u64;
        let of_node = partitions.iter().flat_map(|p| &p.replicas).filter(|replica| replica.node == id.0);
        NodeView {
            id: id.0,
            name: entry.name.clone(),
            address: entry.address.clone(),
            zone: entry.zone.clone(),
            state: entry.state.name(),
            pulse: match seen {
                Some(seen) if seen.silent_ms < suspect_ms => "well",
                Some(_) => "suspect",
                None => "unknown",
            },
            silent_ms: seen.map(|seen| seen.silent_ms),
            voter: self.frame.members.voters.contains(&id),
            incarnation: entry.incarnation,
            build: reads.as_ref().map(|reads| reads.build.clone()).filter(|build| !build.is_empty()),
            reads_metadata: reads.map_or(MetaVersion::BASE, |reads| reads.version).0,
            replicas: of_node.clone().count(),
            leads: self.standings.values().filter(|group| group.leader == id).count(),
            series: report.map(|report| report.series),
            disk_bytes: report.map(|report| report.disk_bytes),
            samples_per_second: seen.map(|seen| seen.samples_per_second),
            lag: of_node.filter_map(|replica| replica.lag).max(),
            drain: (entry.state == NodeState::Draining).then(|| self.drain(id)),
        }
    }

    fn drain(&self, node: NodeId) -> DrainView {
        let left = admin::remainder(self.state, &self.standings, &self.frame.members.voters, node);
        DrainView {
            replicas: left.replicas,
            leads: left.leads,
            unknown: left.unknown,
            voter: left.votes,
            safe_to_remove: left.is_nothing(),
        }
    }

    fn partition(&self, id: PartitionId, placed: &[NodeId], diverged: &[u32]) -> PartitionView {
        let group = self.standings.get(&id);
        let others = group.iter().flat_map(|g| g.voters.iter().chain(&g.learners));
        let others: BTreeSet<NodeId> = others.copied().filter(|node| !placed.contains(node)).collect();
        let replicas = placed.iter().map(|node| self.replica(id, *node, group, false));
        PartitionView {
            id: id.0,
            leader: group.map(|group| group.leader.0),
            committed: group.map(|group| group.committed),
            replicas: replicas
                .chain(others.iter().map(|node| self.replica(id, *node, group, true)))
                .collect(),
            settled: group.is_some_and(|group| group.is_settled(placed)),
            diverged: diverged.contains(&id.0),
        }
    }

    fn replica(&self, id: PartitionId, node: NodeId, group: Option<&Standing>, leaving: bool) -> ReplicaView {
        let report = self.reports.get(&node).and_then(|seen| seen.report.as_ref());
        let applied = report.and_then(|report| report.replicas.iter().find(|r| r.partition == id.0));
        let applied = applied.map(|replica| replica.applied);
        ReplicaView {
            node: node.0,
            role: match group {
                Some(group) if group.voters.contains(&node) => "voter",
                Some(group) if group.learners.contains(&node) => "learner",
                Some(_) => "placed",
                None => "unknown",
            },
            leaving,
            applied,
            lag: applied.zip(group).map(|(applied, group)| group.committed.saturating_sub(applied)),
        }
    }

    fn moves(&self) -> Vec<MoveView> {
        let mut moves = Vec::new();
        for (id, placed) in self.placement() {
            let Some(group) = self.standings.get(&id) else { continue };
            let members = group.voters.iter().chain(&group.learners).copied();
            let mut leaving = members.filter(|node| !placed.contains(node));
            for to in placed.iter().filter(|node| !group.voters.contains(node)) {
                let transfer = self.transfer(*to, id);
                moves.push(MoveView {
                    partition: id.0,
                    to: Some(to.0),
                    from: leaving.next().map(|node| node.0),
                    phase: phase(transfer, group.learners.contains(to)),
                    bytes: transfer.map(|transfer| transfer.bytes),
                    total_bytes: transfer.map(|transfer| transfer.total),
                    seconds: transfer.map(|transfer| transfer.age_ms / 1_000),
                });
            }
            moves.extend(leaving.map(|node| MoveView {
                partition: id.0,
                to: None,
                from: Some(node.0),
                phase: "leaving",
                bytes: None,
                total_bytes: None,
                seconds: None,
            }));
        }
        moves
    }

    fn transfer(&self, node: NodeId, id: PartitionId) -> Option<&Transfer> {
        let report = self.reports.get(&node)?.report.as_ref()?;
        report.transfers.iter().find(|transfer| transfer.partition == id.0)
    }
}

fn phase(transfer: Option<&Transfer>, is_learner: bool) -> &'static str {
    match transfer.map(Transfer::phase) {
        Some(Phase::Copying) => "copying",
        Some(Phase::Checking) => "checking",
        Some(Phase::Installing) => "installing",
        None if is_learner => "catching up",
        None => "waiting",
    }
}

#[cfg(test)]
#[path = "overview_tests.rs"]
mod tests;
