//! Keeps a cluster as its metadata wants it: who votes, where replicas are, who leads them, and what queries know of it.
//!
//! Knows the placement and the groups of this node. Everything here may come late or be done twice without harm: the
//! metadata decides, each group changes its members one step at a time, and only its leader can.
//! Path: node start -> **here** -> `MetaHandle`, `Group`, [`super::replicas`], `quorate_query::Cluster`.

use super::life::Life;
use super::replicas::{Placed, Replicas};
use crate::config::ClusterConfig;
use futures::future::join_all;
use quorate_cluster::liveness::Pulse;
use quorate_cluster::meta::PartitionEntry;
use quorate_cluster::{MetaError, MetaHandle, MetaState, NodeState, admin, placement};
use quorate_model::{Clock, NodeId, PartitionId, SystemClock};
use quorate_query::{Cluster, PartitionReplicas, PartitionView};
use quorate_raft::Group;
use quorate_wire::Calls;
use quorate_wire::store::ReadIndexRequest;
use quorate_wire::store::read_index_answer::index::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

/// How often members and leaders are compared with what they should be.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for one change of members; the next turn goes on with it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often some member is asked who leads a partition without a replica here.
const LEADER_INTERVAL: Duration = Duration::from_secs(2);
/// Turns between two looks at who leads: a new leader stays for a while.
const TURNS_PER_TRANSFER: u32 = 10;
/// Turns between two lines of the log about what only an operator can end.
const TURNS_PER_LINE: u32 = 60;

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
    /// What nodes tell each other.
    pub life: Arc<Life>,
    /// What it goes by.
    pub rules: Rules,
}

/// What is configured about nodes that are lost and replicas that move.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A node that was silent for so long is lost; without it none ever is.
    pub lost_after: Option<Duration>,
    /// Replicas that a node gives or takes at once.
    pub moves_per_node: usize,
}

impl Rules {
    /// As configured.
    pub fn of(config: &ClusterConfig) -> Self {
        let lost_after = (!config.rebuild_after.is_zero()).then(|| config.rebuild_after.into());
        Self { lost_after, moves_per_node: config.moves_per_node }
    }
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
            // Both before it is looked: what changes meanwhile is another turn.
            placement.borrow_and_update();
            running.borrow_and_update();
            let state = self.meta.state();
            if let Err(error) = self.replicas.open(placed_on(self.node, &state)).await {
                self.replicas.fail(format!("a replica that is placed here cannot be opened: {error}"));
            }
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
        for turn in 0u32.. {
            turns.tick().await;
            let group = self.meta.group();
            if group.leader() != Some(self.node) {
                continue;
            }
            self.judge_nodes(turn.is_multiple_of(TURNS_PER_LINE)).await;
            self.raise_version().await;
            let state = self.meta.state();
            let all = state.nodes().iter().filter(|(_, entry)| entry.state != NodeState::Gone);
            let learners = all.map(|(node, _)| *node).collect();
            self.change_members(None, group, &state.meta_voters(), &learners, turn).await;
            self.place(&state).await;
        }
    }

    /// Says in the metadata which nodes are lost, and which are back; to the log what it may not say, if it is `time_to_tell`.
    async fn judge_nodes(&self, time_to_tell: bool) {
        let (board, now) = (self.life.board(), SystemClock.instant());
        for (node, entry) in self.meta.state().nodes() {
            board.notice(*node, entry.incarnation, now);
            let pulse = board.pulse(*node, now, self.rules.lost_after);
            let judged = match entry.state {
                NodeState::Member if entry.incarnation > 0 && *node != self.node && pulse == Pulse::Dead => {
                    NodeState::Lost
                }
                NodeState::Lost if board.was_heard(*node) && pulse == Pulse::Well => NodeState::Member,
                _ => continue,
            };
            let name = &entry.name;
            match self.meta.set_node_state(*node, entry, judged).await {
                Ok(()) if judged == NodeState::Lost => {
                    tracing::warn!(%node, name, "a node is silent: it is taken for lost, others take its replicas");
                }
                Ok(()) => tracing::info!(%node, name, "a node that was lost is back"),
                // Each second, until all nodes are of one version; and one that is dead never tells that it is.
                Err(error @ MetaError::Gated { .. }) if time_to_tell => tracing::warn!(
                    %node, name, %error,
                    "a node is silent and cannot be taken for lost, so its replicas are not rebuilt and the version of \
                     the metadata stays: start it with this version of Quorate, or remove it with --force"
                ),
                Err(MetaError::Gated { .. }) => {}
                Err(error) => tracing::warn!(%node, name, %error, "it is not said what became of a node"),
            }
        }
    }

    /// Lets the cluster use what every node reads by now.
    async fn raise_version(&self) {
        let heard = self.life.board().reads(SystemClock.instant());
        match self.meta.raise_version(&heard).await {
            Ok(Some(version)) => {
                tracing::info!(%version, "every node reads this version of the metadata: it is active")
            }
            Ok(None) => {}
            Err(error) => tracing::info!(%error, "the version of the metadata stays"),
        }
    }

    async fn place(&self, state: &MetaState) {
        let (candidates, current) = (admin::candidates(state), admin::current(state));
        if candidates.is_empty() {
            return;
        }
        let (board, now) = (self.life.board(), SystemClock.instant());
        let away = admin::away(state, |node| board.pulse(node, now, self.rules.lost_after) == Pulse::Dead);
        let (standings, replication) = (board.standings(now), state.replication().into());
        let wanted = placement::place_around(&candidates, &away, replication, &current, &standings);
        let moves = placement::next_moves(&current, wanted, &standings, self.rules.moves_per_node);
        if moves.is_empty() {
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
        // Changes that wait for a member to catch up hold nothing else up.
        let (mut changing, mut busy) = (JoinSet::new(), BTreeSet::new());
        for turn in 0u32.. {
            turns.tick().await;
            reap(&mut changing, &mut busy);
            let state = self.meta.state();
            // Those that may take over in this turn, each asked once.
            let mut heirs: BTreeMap<NodeId, bool> = BTreeMap::new();
            let hurries = state.nodes().get(&self.node).is_some_and(|entry| !entry.can_serve());
            // Groups only: a replica whose state is replaced meanwhile must not be held.
            for (id, group) in self.replicas.groups() {
                let Some(entry) = state.partitions().get(id.0 as usize) else { continue };
                if group.leader() != Some(self.node) || busy.contains(&id) {
                    continue;
                }
                let is_time = hurries || turn % TURNS_PER_TRANSFER == TURNS_PER_TRANSFER - 1;
                let first = entry.replicas.first().copied().filter(|_| is_time);
                if let Some(to) = first.filter(|to| self.can_lead(&group, *to)) {
                    let stays = match heirs.get(&to) {
                        Some(stays) => *stays,
                        None => self.life.stays(to, Some(id)).await,
                    };
                    heirs.insert(to, stays);
                    if stays && self.is_whole(to, Some(id)).await {
                        self.hand_over(&group, to).await;
                    }
                }
                let wanted: BTreeSet<NodeId> = entry.replicas.iter().copied().collect();
                let (members, lacks) = (group.members(), self.replicas.lacks_records(id));
                if lacks || members.voters != wanted || !members.learners.is_empty() {
                    busy.insert(id);
                    let keeper = self.clone();
                    changing.spawn(async move {
                        if !lacks || !keeper.yield_to_whole(id, &group).await {
                            keeper.change_members(Some(id), &group, &wanted, &BTreeSet::new(), turn).await;
                        }
                        id
                    });
                }
            }
        }
    }

    /// Replicas that were moved elsewhere end once their group has let this node go; of partitions without a replica here
    /// some member is asked who leads, another one each time.
    async fn keep_leaders(self: Arc<Self>) {
        let mut turns = tokio::time::interval(LEADER_INTERVAL);
        let (mut releasing, mut busy) = (JoinSet::new(), BTreeSet::new());
        for turn in 0usize.. {
            turns.tick().await;
            reap(&mut releasing, &mut busy);
            let state = self.meta.state();
            let mut asked: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
            for (id, entry) in (0..).map(PartitionId).zip(state.partitions()) {
                let is_placed = entry.replicas.contains(&self.node);
                let is_here = self.replicas.get(id).is_some();
                if is_here && is_placed {
                    continue;
                }
                if is_here && busy.insert(id) {
                    releasing.spawn(self.clone().release(id, entry.clone()));
                }
                if let Some(member) = entry.replicas.get(turn % entry.replicas.len().max(1)) {
                    asked.entry(*member).or_default().push(id);
                }
            }
            // Who leads a partition that is moving away is known here first.
            self.view.publish(view_of(self.node, &self.meta.state(), &self.replicas));
            let asking = asked.into_iter().filter(|(node, _)| *node != self.node);
            join_all(asking.map(|(node, ids)| self.ask_for_leaders(node, ids))).await;
        }
    }

    /// Closes and removes a replica that is not placed here, once its group has let this node go: its leader says so, for
    /// the group does not tell those that it lets go.
    async fn release(self: Arc<Self>, id: PartitionId, entry: PartitionEntry) -> PartitionId {
        if !self.is_let_go(id, &entry).await {
            return id;
        }
        match self.replicas.leave(id, self.is_let_go(id, &entry)).await {
            Ok(true) => {
                tracing::info!(partition = %id, "its replica here has moved elsewhere and is removed")
            }
            Ok(false) => {
                if let Err(error) = self.replicas.open(vec![(id, None)]).await {
                    self.replicas.fail(format!("partition {id} cannot be opened again: {error}"));
                }
            }
            Err(reason) => self.replicas.fail(format!("partition {id} cannot be removed: {reason}")),
        }
        id
    }

    async fn is_let_go(&self, id: PartitionId, entry: &PartitionEntry) -> bool {
        let members = self.life.members_of(id, &entry.replicas).await;
        let me = self.node.0;
        members.is_some_and(|members| !members.voters.contains(&me) && !members.learners.contains(&me))
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
    async fn hand_over(&self, group: &Group, to: NodeId) {
        if !self.can_lead(group, to) {
            return;
        }
        if let Err(error) = group.transfer_leader(to).await {
            tracing::debug!(group = %group.id(), %to, %error, "the leader stays");
        }
    }

    /// Whether a node could take a group over from this one.
    fn can_lead(&self, group: &Group, node: NodeId) -> bool {
        node != self.node && group.members().voters.contains(&node) && group.has_all(node)
    }
}

/// Takes out of `busy` what has ended.
fn reap(tasks: &mut JoinSet<PartitionId>, busy: &mut BTreeSet<PartitionId>) {
    while let Some(ended) = tasks.try_join_next() {
        match ended {
            Ok(id) => drop(busy.remove(&id)),
            Err(error) => {
                // Whose it was is not known; what is done twice does no harm.
                tracing::error!(%error, "a change of a partition broke off");
                busy.clear();
            }
        }
    }
}

impl Keeper {
    /// Brings the members of a group, of a partition or the metadata, a step closer to `voters`, with `learners` beside them.
    /// If this node is to leave, it lets another one lead first: every second time, lest one that cannot take over keeps it
    /// for ever.
    async fn change_members(
        &self,
        id: Option<PartitionId>,
        group: &Group,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
        turn: u32,
    ) {
        if !voters.contains(&self.node) && turn.is_multiple_of(2) {
            for heir in group.heirs().into_iter().filter(|node| voters.contains(node)) {
                if self.life.stays(heir, id).await && self.is_whole(heir, id).await {
                    return self.hand_over(group, heir).await;
                }
            }
        }
        let may_vote = match id {
            Some(id) if self.replicas.are_fed_by_kafka() => self.have_caught_up(id, group, voters).await,
            _ => true,
        };
        change_members(group, voters, learners, may_vote).await;
    }

    /// Lets a member lead that has caught up, if there is one, and tells whether it was asked to. This node proposes no marks
    /// while it has not. Who is elected is not held to that: a group whose members all replay has a leader too.
    async fn yield_to_whole(&self, id: PartitionId, group: &Group) -> bool {
        for heir in group.heirs() {
            if self.life.stays(heir, Some(id)).await && self.is_whole(heir, Some(id)).await {
                self.hand_over(group, heir).await;
                return true;
            }
        }
        false
    }

    /// Whether a node that is to lead a group has what it takes: where groups hold no records, that its replica has caught up.
    /// One that has not proposes no marks.
    async fn is_whole(&self, node: NodeId, id: Option<PartitionId>) -> bool {
        match id {
            Some(id) if self.replicas.are_fed_by_kafka() => self.life.has_caught_up(node, id).await,
            _ => true,
        }
    }

    /// Whether those of `voters` that do not vote yet have what the others have. A group without entries of its own cannot
    /// tell.
    async fn have_caught_up(&self, id: PartitionId, group: &Group, voters: &BTreeSet<NodeId>) -> bool {
        let members = group.members();
        for node in voters.difference(&members.voters) {
            if !self.life.has_caught_up(*node, id).await {
                return false;
            }
        }
        true
    }
}

/// Brings the members of a group a step closer to `voters`, with `learners` beside them; who votes changes only if those that
/// are to `may_vote`.
async fn change_members(
    group: &Group,
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
    may_vote: bool,
) {
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
        // A voter that lacks entries is one less that can commit, and so is one that is silent: with half of them the
        // change itself would never be committed.
        let has_all = voters.difference(&members.voters).all(|node| group.has_all(*node));
        if members.voters != *voters && may_vote && has_all && group.is_majority_ready(voters).await {
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
