//! The members of a group: who leads, who votes, and changes of that.
//!
//! Knows nodes by number. Does not know why a member comes or goes: placement is `cluster`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError as OpenraftError};
use openraft::impls::EmptyNode;
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Instant, RaftMetrics};
use quorate_model::{NodeId, Position};

use crate::quiet::Busy;
use crate::types::TypeConfig;
use crate::{Group, RaftError};

/// A member that was not heard of for so long is not waited for.
const SILENT: Duration = Duration::from_secs(10);
/// A member that answered nothing that it was sent within this time, two election timeouts, takes over nothing, and is
/// not counted on.
const UNHEARD: Duration = Duration::from_secs(2);
/// Entries that a member may lack and still take over at once.
const NEARLY_ALL: u64 = 100;

/// The members of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Those whose votes count; while the members change, those of before and of after.
    pub voters: BTreeSet<NodeId>,
    /// Those that only follow.
    pub learners: BTreeSet<NodeId>,
}

impl Group {
    /// Begins a group that was never begun, with these voters, this node among them. One of them does it; when
    /// several do, they must name the same voters. A group that has members already is left as it is.
    ///
    /// # Errors
    /// [`RaftError::Start`].
    pub async fn begin(&self, voters: &BTreeSet<NodeId>) -> Result<(), RaftError> {
        let members: BTreeMap<u64, EmptyNode> = voters.iter().map(|node| (node.0, EmptyNode {})).collect();
        match self.raft().initialize(members).await {
            Ok(()) | Err(OpenraftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(RaftError::Start { group: self.id(), reason: error.to_string() }),
        }
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft().metrics().borrow_watched().current_leader.map(NodeId)
    }

    /// The members, as far as this node knows.
    pub fn members(&self) -> Members {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        Members {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
        }
    }

    /// Whether the members are about to be others, as far as this node knows.
    pub fn members_change(&self) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        metrics.membership_config != metrics.committed_membership_config
            || metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// The members, once a quorum has confirmed that this node leads: nobody else was a member at that moment.
    ///
    /// # Errors
    /// As [`Group::read_index`].
    pub async fn confirmed_members(&self) -> Result<Members, RaftError> {
        self.confirm().await?;
        let known = self.raft().with_raft_state(|state| {
            let mut all = Members::default();
            for stored in [state.membership_state.committed(), state.membership_state.effective()] {
                all.voters.extend(stored.membership().voter_ids().map(NodeId));
                all.learners.extend(stored.membership().learner_ids().map(NodeId));
            }
            all
        });
        known.await.map_err(|_| RaftError::Stopped { group: self.id() })
    }

    /// Adds a member that only follows and returns once it has caught up. Only the leader can.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::NoMajority`], or [`RaftError::Unknown`] when it may still happen.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), RaftError> {
        let _busy = self.confirmed().await?;
        let added = self.raft().add_learner(node.0, EmptyNode {}, true).await;
        added.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Takes a member that only follows out of the group. Only the leader can.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), RaftError> {
        let _busy = self.confirmed().await?;
        let remove = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.raft().change_membership(remove, true).await;
        changed.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Makes these the voters; others leave the group. Only the leader can. New ones should be learners that have
    /// caught up: what is not known to a majority is not committed.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), RaftError> {
        let _busy = self.confirmed().await?;
        let ids: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let changed = self.raft().change_membership(ChangeMembers::ReplaceAllVoters(ids), false).await;
        changed.map(drop).map_err(|error| self.not_changed(error))
    }

    /// Asks the leader, this node, to hand over to `to`. What came of it shows in [`Group::leader`].
    ///
    /// # Errors
    /// [`RaftError::Stopped`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), RaftError> {
        self.stir_own();
        let asked = self.raft().trigger().transfer_leader(to.0).await;
        asked.map_err(|_| RaftError::Stopped { group: self.id() })
    }

    /// Whether another member has everything that this leader has, but for what was written a moment ago.
    pub fn has_all(&self, node: NodeId) -> bool {
        has_all(&self.raft().metrics().borrow_watched().clone(), node)
    }

    /// Whether a majority of `voters` would commit what this leader proposes: they have what it has, and answer what it
    /// sends them from now on. What they said before proves nothing: one that died a moment ago was heard a moment ago.
    /// Takes 2 s if they do not answer.
    pub async fn is_majority_ready(&self, voters: &BTreeSet<NodeId>) -> bool {
        // Who sleeps is sent nothing.
        let _busy = self.busy();
        let (me, asked) = (self.shared().node, InstantOf::<TypeConfig>::now());
        let is_ready = |metrics: &Metrics, node: NodeId| {
            node == me || has_all(metrics, node) && last_sent(metrics, node).is_some_and(|sent| sent > asked)
        };
        let are_ready = |metrics: &Metrics| {
            2 * voters.iter().filter(|node| is_ready(metrics, **node)).count() > voters.len()
        };
        self.raft().wait(Some(UNHEARD)).metrics(are_ready, "answers of a majority").await.is_ok()
    }

    /// The other voters that could lead at once, for all that this leader knows, those that have most of its log first:
    /// of equals not the same one in all groups.
    pub fn heirs(&self) -> Vec<NodeId> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let is_ready = |node: &NodeId| has_all(&metrics, *node) && self.was_heard(*node, UNHEARD);
        let mut heirs = self.members().voters;
        heirs.remove(&self.shared().node);
        let mut heirs: Vec<NodeId> = heirs.into_iter().filter(is_ready).collect();
        if let Some(first) = (self.id().0 as usize).checked_rem(heirs.len()) {
            heirs.rotate_left(first);
        }
        heirs.sort_by_key(|node| std::cmp::Reverse(matched(&metrics, *node)));
        heirs
    }

    /// The last position in the log of this node, of an entry of any kind, whether it is committed or not.
    pub fn last_index(&self) -> Position {
        Position(self.raft().metrics().borrow_watched().last_log_index.unwrap_or(0))
    }

    /// Whether another member has answered what this leader sent it within that time.
    fn was_heard(&self, node: NodeId, within: Duration) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        // A leader of a group that sleeps says nothing to it, but its node does. While the group is awake that proves
        // nothing: a node may live and not run the group.
        let sleeps = !self.is_awake() && self.shared().quiet.is_alive(node);
        sleeps || last_sent(&metrics, node).is_some_and(|sent| sent.elapsed() < within)
    }

    /// The position up to which every other member has the log, as far as this node knows: 0 if it does not lead.
    pub(crate) fn known_to_all(&self) -> u64 {
        self.known_to(|_| true)
    }

    /// The same of the members that this leader has heard of lately.
    pub(crate) fn known_to_live(&self) -> u64 {
        self.known_to(|id| self.was_heard(NodeId(id), SILENT))
    }

    fn known_to(&self, counts: impl Fn(u64) -> bool) -> u64 {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership().nodes();
        let others = members.filter(|(id, _)| **id != metrics.id && counts(**id));
        others.map(|(id, _)| matched(&metrics, NodeId(*id)).unwrap_or(0)).min().unwrap_or(u64::MAX)
    }

    /// A leader takes no change unless it has heard of a majority lately, which that of a sleeping group has not, and
    /// votes itself.
    async fn confirmed(&self) -> Result<Busy<'_>, RaftError> {
        let busy = self.busy();
        self.confirm().await?;
        // Until a group without it has elected another one it leads on, and what it appends then is its last.
        match self.members().voters.contains(&self.shared().node) {
            true => Ok(busy),
            false => Err(RaftError::NotLeader { group: self.id(), leader: None }),
        }
    }

    fn not_changed(&self, error: OpenraftError<TypeConfig, ClientWriteError<TypeConfig>>) -> RaftError {
        match error {
            OpenraftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                RaftError::NotLeader { group: self.id(), leader: to.leader_id.map(NodeId) }
            }
            error => RaftError::Unknown { group: self.id(), reason: error.to_string() },
        }
    }
}

type Metrics = RaftMetrics<TypeConfig>;

/// Up to where a member is known to have the log of this leader.
fn matched(metrics: &Metrics, node: NodeId) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node.0)?.as_ref().map(|log_id| log_id.index)
}

fn has_all(metrics: &Metrics, node: NodeId) -> bool {
    let last = metrics.last_log_index.unwrap_or(0);
    matched(metrics, node).is_some_and(|matched| matched + NEARLY_ALL >= last)
}

/// When the newest message was sent of those that a member has answered.
fn last_sent(metrics: &Metrics, node: NodeId) -> Option<InstantOf<TypeConfig>> {
    metrics.heartbeat.as_ref()?.get(&node.0)?.as_ref().map(|sent| **sent)
}
