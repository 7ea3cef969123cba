//! Keeps a cluster as its metadata wants it: who votes, where replicas are, who leads them, and what queries know of it.
//!
//! Knows the placement and the groups of this node. Everything here may come late or be done twice without harm: the
//! metadata decides, each group changes its members one step at a time, and only its leader can.
//! Path: node start -> **here** -> `MetaHandle`, `Group`, [`super::replicas`], `quorate_query::Cluster`.

use super::replicas::{Placed, Replicas};
use futures::future::join_all;
use quorate_cluster::placement::{self, Candidate};
use quorate_cluster::{MetaHandle, MetaState, NodeState};
use quorate_model::{NodeId, PartitionId};
use quorate_query::{Cluster, PartitionReplicas, PartitionView};
use quorate_raft::Group;
use quorate_wire::Calls;
use quorate_wire::store::ReadIndexRequest;
use quorate_wire::store::read_index_answer::index::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often members and leaders are compared with what they should be.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for one change of members; the next turn goes on with it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often some member is asked who leads a partition without a replica here.
const LEADER_INTERVAL: Duration = Duration::from_secs(2);
/// Turns between two looks at who leads: a new leader stays for a while.
const TURNS_PER_TRANSFER: u32 = 10;

/// What the keeper works on.
pub struct Keeper {
    /// This node.
    pub node: NodeId,
    /// The metadata.
    pub meta: MetaHandle,
    /// The replicas here.
    pub replicas: Arc<Replicas>,
    /// What queries know.
    pub view: Arc<Cluster>,
    /// The way to the other nodes.
    pub calls: Arc<dyn Calls>,
}

impl Keeper {
    /// Starts its loops. They end when the handles are aborted.
    pub fn start(self) -> Vec<JoinHandle<()>> {
        let keeper = Arc::new(self);
        vec![
            tokio::spawn(keeper.clone().follow_placement()),
            tokio::spawn(keeper.clone().keep_meta()),
            tokio::spawn(keeper.clone().keep_groups()),
            tokio::spawn(keeper.keep_leaders()),
        ]
    }

    /// Opens what is placed here, and tells queries where everything is.
    async fn follow_placement(self: Arc<Self>) {
        let (mut placement, mut running) = (self.meta.watch(), self.replicas.changes());
        loop {
            placement.borrow_and_update();
            let state = self.meta.state();
            if let Err(error) = self.replicas.open(placed_on(self.node, &state)).await {
                self.replicas.fail(format!("a replica that is placed here cannot be opened: {error}"));
            }
            running.borrow_and_update();
            self.view.publish(view_of(self.node, &state, &self.replicas));
            tokio::select! {
                changed = placement.changed() => if changed.is_err() { return },
                changed = running.changed() => if changed.is_err() { return },
            }
        }
    }

    /// While this node leads the metadata group: the nodes that should vote in it do, and replicas are where the
    /// placement rules want them.
    async fn keep_meta(self: Arc<Self>) {
        let mut turns = tokio::time::interval(INTERVAL);
        loop {
            turns.tick().await;
            let group = self.meta.group();
            if group.leader() != Some(self.node) {
                continue;
            }
            let state = self.meta.state();
            let all = state.nodes().iter().filter(|(_, entry)| entry.state != NodeState::Gone);
            let learners = all.map(|(node, _)| *node).collect();
            change_members(group, &state.meta_voters(), &learners).await;
            self.place(&state).await;
        }
    }

    async fn place(&self, state: &MetaState) {
        let candidates: Vec<Candidate> = state
            .nodes()
            .iter()
            .filter(|(_, entry)| entry.can_serve())
            .map(|(node, entry)| Candidate { node: *node, zone: entry.zone.clone() })
            .collect();
        let current: Vec<Vec<NodeId>> =
            state.partitions().iter().map(|partition| partition.replicas.clone()).collect();
        let wanted = placement::place(&candidates, state.replication().into(), &current);
        let moves = placement::moves(&current, wanted);
        if moves.is_empty() || candidates.is_empty() {
            return;
        }
        let count = moves.len();
        match self.meta.place(state.epoch(), moves).await {
            Ok(()) => tracing::info!(partitions = count, "replicas were placed anew"),
            Err(error) => tracing::warn!(%error, "replicas were not placed anew"),
        }
    }

    /// For every partition that this node leads: its members are those that the placement names, and the first of them
    /// leads.
    async fn keep_groups(self: Arc<Self>) {
        let mut turns = tokio::time::interval(INTERVAL);
        for turn in 0u32.. {
            turns.tick().await;
            let state = self.meta.state();
            // Groups only: a replica whose state is replaced meanwhile must not be held.
            for (id, group) in self.replicas.groups() {
                let Some(entry) = state.partitions().get(id.0 as usize) else { continue };
                if group.leader() != Some(self.node) {
                    continue;
                }
                let wanted: BTreeSet<NodeId> = entry.replicas.iter().copied().collect();
                change_members(&group, &wanted, &BTreeSet::new()).await;
                if turn % TURNS_PER_TRANSFER == TURNS_PER_TRANSFER - 1 {
                    self.hand_over(&group, entry.replicas.first().copied()).await;
                }
            }
        }
    }

    /// Replicas that were moved elsewhere end once their group has let this node go; of partitions without a replica here
    /// some member is asked who leads, another one each time.
    async fn keep_leaders(self: Arc<Self>) {
        let mut turns = tokio::time::interval(LEADER_INTERVAL);
        for turn in 0usize.. {
            turns.tick().await;
            let state = self.meta.state();
            let mut asked: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
            for (id, entry) in (0..).map(PartitionId).zip(state.partitions()) {
                let is_placed = entry.replicas.contains(&self.node);
                let group = self.replicas.get(id).map(|here| here.group().clone());
                match group {
                    Some(group) if !is_placed && group.has_let_go(self.node).await => self.leave(id).await,
                    Some(_) if is_placed => {}
                    // Its group may not have told it that it was let go.
                    Some(_) | None => {
                        if let Some(member) = entry.replicas.get(turn % entry.replicas.len().max(1)) {
                            asked.entry(*member).or_default().push(id);
                        }
                    }
                }
            }
            // Who leads a partition that is moving away is known here first.
            self.view.publish(view_of(self.node, &self.meta.state(), &self.replicas));
            let asking = asked.into_iter().filter(|(node, _)| *node != self.node);
            join_all(asking.map(|(node, ids)| self.ask_for_leaders(node, ids))).await;
        }
    }

    async fn leave(&self, id: PartitionId) {
        tracing::info!(partition = %id, "its replica here has moved elsewhere");
        if let Err(reason) = self.replicas.leave(id).await {
            self.replicas.fail(format!("partition {id} cannot be closed: {reason}"));
        }
    }

    /// What `node` says about who leads. One that does not answer says nothing.
    async fn ask_for_leaders(&self, node: NodeId, ids: Vec<PartitionId>) {
        let request = ReadIndexRequest { partitions: ids.iter().map(|id| id.0).collect() };
        let Ok(answer) = self.calls.read_index(node, request, LEADER_INTERVAL).await else { return };
        for (id, index) in ids.into_iter().zip(answer.indexes) {
            match index.outcome {
                Some(Outcome::Position(_)) => self.replicas.leaders().set(id, Some(node)),
                Some(Outcome::NotLeader(leader)) if leader != 0 => {
                    self.replicas.leaders().set(id, Some(NodeId(leader)));
                }
                _ => {}
            }
        }
    }

    /// Lets another node lead if it should and can.
    async fn hand_over(&self, group: &Group, to: Option<NodeId>) {
        let Some(to) = to.filter(|to| *to != self.node && group.members().voters.contains(to)) else {
            return;
        };
        if group.has_all(to)
            && let Err(error) = group.transfer_leader(to).await
        {
            tracing::debug!(group = %group.id(), %to, %error, "the leader stays");
        }
    }
}

/// Brings the members of a group a step closer to `voters`, with `learners` beside them.
async fn change_members(group: &Group, voters: &BTreeSet<NodeId>, learners: &BTreeSet<NodeId>) {
    if voters.is_empty() {
        return;
    }
    let members = group.members();
    let missing = voters
        .union(learners)
        .find(|node| !members.voters.contains(node) && !members.learners.contains(node));
    let stale = members.learners.iter().find(|node| !voters.contains(node) && !learners.contains(node));
    let changing = async {
        if let Some(node) = stale {
            return group.remove_learner(*node).await;
        }
        if let Some(node) = missing {
            return group.add_learner(*node).await;
        }
        // A voter that lacks entries is one less that can commit.
        let is_ready = voters.difference(&members.voters).all(|node| group.has_all(*node));
        if members.voters != *voters && is_ready {
            return group.change_voters(voters).await;
        }
        Ok(())
    };
    match tokio::time::timeout(CHANGE_TIMEOUT, changing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(group = %group.id(), %error, "the members were not changed"),
        Err(_late) => tracing::info!(group = %group.id(), ?missing, "a change of members takes long"),
    }
}

/// The partitions with a replica on `node`, and the voters of the groups that it helps to begin: those that it was placed
/// on first. A group whose log is not empty is not begun again, and no log of a group is ever removed.
pub fn placed_on(node: NodeId, state: &MetaState) -> Vec<Placed> {
    let numbered = (0..).map(PartitionId).zip(state.partitions());
    let here = numbered.filter(|(_, entry)| entry.replicas.contains(&node));
    let begins = |first: &[NodeId]| first.contains(&node).then(|| first.iter().copied().collect());
    here.map(|(id, entry)| (id, begins(&entry.first))).collect()
}

/// What queries know: every partition, the replica here, and the nodes with the others.
pub fn view_of(node: NodeId, state: &MetaState, replicas: &Replicas) -> PartitionView {
    let numbered = (0..).map(PartitionId).zip(state.partitions());
    let partition = |(id, entry): (PartitionId, &quorate_cluster::meta::PartitionEntry)| {
        // One that moves elsewhere serves as long as it leads; then it gets nothing new.
        let serves = |group: &Group| entry.replicas.contains(&node) || group.leader() == Some(node);
        let here = replicas.get(id).filter(|here| serves(here.group()));
        PartitionReplicas {
            id,
            leader: replicas.leaders().watch(id),
            local: here.map(|partition| partition.replica()),
            nodes: entry.replicas.iter().copied().filter(|other| *other != node).collect(),
        }
    };
    PartitionView::new(numbered.map(partition).collect())
}
