//! How fresh a query reads: which position of every partition it must see, and where that can be had.
//!
//! Knows views, leaders and positions. Does not know matchers or samples.
//! Path: `service` -> **here** -> [`PartitionIndex`], [`quorate_wire::Calls::read_index`]; the result goes to `fanout`.
//!
//! - F1: the positions of a strong read are asked for after the query came and confirmed by each leader with a
//!   majority, so it sees every write that was acknowledged to anyone before (PR8).
//! - F2: every partition has its position, or there is no reading.
//! - F3: an answer is tried again only here, until the time for it is over.

use crate::replicas::{
    Cluster, IndexError, LocalReplica, PartitionIndex, PartitionReplicas, PartitionView, Peers,
};
use crate::token::PositionToken;
use futures::future::{join, join_all};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_tsdb::PartitionStore;
use quorate_wire::store;
use quorate_wire::store::read_index_answer::index::Outcome;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one leader may take to confirm its positions before it is asked again, or another is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a partition without a leader is asked about again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a replica here may take to catch up before one elsewhere is read, if there is one.
const LOCAL_PATIENCE: Duration = Duration::from_secs(2);

/// What a query must see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadConsistency {
    /// Every write that was acknowledged to anyone before the query came.
    #[default]
    Strong,
    /// What the token stands for, at least.
    Session(PositionToken),
    /// What any replica has; it may lie behind.
    Eventual,
}

/// A partition cannot be read as fresh as the query asks for; asking again may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("partition {partition} cannot be read as fresh as was asked for: {reason}")]
pub struct NotFresh {
    /// The partition.
    pub partition: PartitionId,
    /// Why.
    pub reason: String,
}

impl NotFresh {
    fn new(partition: PartitionId, reason: impl Into<String>) -> Self {
        Self { partition, reason: reason.into() }
    }
}

/// A view, and for each of its partitions what a query must see of it and whether it can be read here.
pub struct Reading {
    cluster: Arc<Cluster>,
    view: Arc<PartitionView>,
    /// In the order of the view.
    wanted: Vec<Wanted>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    position: Position,
    is_here: bool,
}

/// A partition to be read elsewhere.
pub(crate) struct Remote<'r> {
    pub(crate) id: PartitionId,
    /// What the replica must have applied.
    pub(crate) position: Position,
    /// Nodes with a replica.
    pub(crate) nodes: &'r [NodeId],
}

impl Reading {
    /// Finds out what a query must see, and waits until the replicas here have it.
    ///
    /// # Errors
    /// [`NotFresh`] if a position is not known or not reached at `until`.
    pub async fn begin(
        cluster: &Arc<Cluster>,
        consistency: &ReadConsistency,
        until: Instant,
    ) -> Result<Self, NotFresh> {
        let view = cluster.view();
        if view.partitions().is_empty() {
            return Err(NotFresh::new(PartitionId(0), "this node does not know the partitions yet"));
        }
        let positions = match consistency {
            ReadConsistency::Strong => committed(cluster.peers(), &view, until).await?,
            ReadConsistency::Session(token) => of_token(token, &view)?,
            ReadConsistency::Eventual => vec![Position::default(); view.partitions().len()],
        };
        let settling =
            view.partitions().iter().zip(&positions).map(|(p, position)| settle(p, *position, until));
        let mut wanted = Vec::with_capacity(positions.len());
        for (settled, position) in join_all(settling).await.into_iter().zip(positions) {
            wanted.push(Wanted { position, is_here: settled? });
        }
        Ok(Self { cluster: cluster.clone(), view, wanted })
    }

    /// The partitions that are read here, in the order of their numbers.
    pub(crate) fn local(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionStore>)> {
        let both = self.view.partitions().iter().zip(&self.wanted);
        both.filter(|(_, wanted)| wanted.is_here).filter_map(|(p, _)| Some((p.id, &p.local.as_ref()?.store)))
    }

    /// The partitions that are read elsewhere, in the order of their numbers.
    pub(crate) fn remote(&self) -> impl Iterator<Item = Remote<'_>> {
        let both = self.view.partitions().iter().zip(&self.wanted);
        let elsewhere = both.filter(|(_, wanted)| !wanted.is_here);
        elsewhere.map(|(p, wanted)| Remote { id: p.id, position: wanted.position, nodes: &p.nodes })
    }

    /// The way to other nodes.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.cluster.peers()
    }
}

/// Whether `partition` can be read here at `position`. Waits for it, longer if there is no other replica.
async fn settle(partition: &PartitionReplicas, position: Position, until: Instant) -> Result<bool, NotFresh> {
    let has_others = !partition.nodes.is_empty();
    let failed = |reason: String| NotFresh::new(partition.id, reason);
    let Some(local) = &partition.local else {
        return if has_others { Ok(false) } else { Err(failed("no node has a replica of it".to_owned())) };
    };
    if local.has(position) {
        return Ok(true);
    }
    if has_others {
        let patience = until.min(Instant::now() + LOCAL_PATIENCE);
        return Ok(local.state.is_ready() && reached(local, position, patience).await.is_ok());
    }
    reached(local, position, until).await.map(|()| true).map_err(failed)
}

/// Waits until a replica here has applied `position`.
///
/// # Errors
/// Why it has not at `until`.
pub(crate) async fn reached(local: &LocalReplica, position: Position, until: Instant) -> Result<(), String> {
    if local.has(position) {
        return Ok(());
    }
    let waited = timeout_at(until, local.state.reached(position)).await;
    waited.unwrap_or_else(|_late| {
        Err(format!("the replica has applied {} of {position} when the time is over", local.store.applied()))
    })
}

/// The positions of a token, in the order of the view.
fn of_token(token: &PositionToken, view: &PartitionView) -> Result<Vec<Position>, NotFresh> {
    match token.partitions().find(|id| view.get(*id).is_none()) {
        Some(unknown) => Err(NotFresh::new(unknown, "there is no such partition")),
        None => Ok(view.partitions().iter().map(|p| token.position(p.id)).collect()),
    }
}

/// A partition whose committed position is not known yet.
struct Open<'v> {
    /// Its place in the view.
    at: usize,
    partition: &'v PartitionReplicas,
    /// What the last answer said about the leader.
    hint: Option<NodeId>,
    /// Number of answers so far.
    answers: usize,
    /// Why it is not known.
    reason: String,
}

/// Whom to ask.
enum Target<'v> {
    Here(&'v dyn PartitionIndex),
    Node(NodeId),
    Nobody,
}

/// What somebody said.
enum Said {
    Position(Position),
    /// The leader, if he knows one.
    Another(Option<NodeId>),
    Nothing(String),
}

impl Open<'_> {
    /// The node that was named last; then who is known as the leader, and every other time a member in turn, since
    /// what this node knows may be old.
    fn target(&self, peers: Option<&Peers>) -> Target<'_> {
        let here = self.partition.local.as_ref().and_then(|local| local.index.as_deref());
        let known = *self.partition.leader.borrow();
        match self.hint.or(known.filter(|_| self.answers.is_multiple_of(2))) {
            Some(node) if peers.is_none_or(|peers| peers.node == node) => {
                here.map_or_else(|| self.member(None), Target::Here)
            }
            Some(node) => Target::Node(node),
            None => self.member(here),
        }
    }

    fn member<'v>(&'v self, here: Option<&'v dyn PartitionIndex>) -> Target<'v> {
        let others = self.partition.nodes.iter().map(|node| Target::Node(*node));
        let mut members = here.map(Target::Here).into_iter().chain(others);
        let turns = self.partition.nodes.len() + usize::from(here.is_some());
        let turn = (self.answers / 2).checked_rem(turns);
        turn.and_then(|turn| members.nth(turn)).unwrap_or(Target::Nobody)
    }

    /// Takes an answer. Gives the position if it is one.
    fn hear(&mut self, said: Said) -> Option<Position> {
        self.answers += 1;
        let before = self.hint.take();
        match said {
            Said::Position(position) => return Some(position),
            Said::Another(leader) => {
                self.hint = leader.filter(|leader| before != Some(*leader));
                self.reason = "no node says that it leads it".to_owned();
            }
            Said::Nothing(reason) => self.reason = reason,
        }
        None
    }

    /// Whether asking at once is of use: the first hint is. Two nodes that name each other wait for an election.
    fn is_urgent(&self) -> bool {
        self.hint.is_some() && self.answers == 1
    }
}

/// The committed position of every partition, in the order of the view (F1). 0 for those that are written only here.
async fn committed(
    peers: Option<&Peers>,
    view: &PartitionView,
    until: Instant,
) -> Result<Vec<Position>, NotFresh> {
    let mut found = vec![Position::default(); view.partitions().len()];
    let shared = view.partitions().iter().enumerate().filter(|(_, partition)| is_shared(partition));
    let mut open: Vec<Open<'_>> = shared
        .map(|(at, partition)| {
            let reason = "its leader did not confirm its position in time".to_owned();
            Open { at, partition, hint: None, answers: 0, reason }
        })
        .collect();
    let asking = async {
        while !open.is_empty() {
            let mut said = ask(peers, &open).await.into_iter();
            open.retain_mut(|open| match said.next().and_then(|said| open.hear(said)) {
                Some(position) => {
                    found[open.at] = position;
                    false
                }
                None => true,
            });
            if !open.iter().all(Open::is_urgent) {
                sleep(ASK_AGAIN).await;
            }
        }
    };
    let asked = timeout_at(until, asking).await;
    match (asked, open.first()) {
        (Err(_late), Some(open)) => Err(NotFresh::new(open.partition.id, open.reason.as_str())),
        _ => Ok(found),
    }
}

/// Whether others may have committed something that is not applied here.
fn is_shared(partition: &PartitionReplicas) -> bool {
    partition.local.as_ref().is_none_or(|local| local.index.is_some())
}

/// Asks once about each open partition, all at the same time, with one call to each node. In the order of `open`.
async fn ask(peers: Option<&Peers>, open: &[Open<'_>]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::with_capacity(open.len());
    let mut here: Vec<(usize, &dyn PartitionIndex)> = Vec::new();
    let mut there: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (nth, open) in open.iter().enumerate() {
        said.push(Said::Nothing("no other node can be asked".to_owned()));
        match open.target(peers) {
            Target::Here(index) => here.push((nth, index)),
            Target::Node(node) => there.entry(node).or_default().push(nth),
            Target::Nobody => {}
        }
    }
    let here = join_all(here.into_iter().map(|(nth, index)| async move { (nth, ask_here(index).await) }));
    let there = join_all(there.into_iter().filter_map(|(node, nths)| {
        let ids = nths.iter().map(|nth| open[*nth].partition.id.0).collect();
        peers.map(|peers| async move { nths.into_iter().zip(ask_node(peers, node, ids).await) })
    }));
    let (here, there) = join(here, there).await;
    for (nth, answer) in here.into_iter().chain(there.into_iter().flatten()) {
        said[nth] = answer;
    }
    said
}

async fn ask_here(index: &dyn PartitionIndex) -> Said {
    match timeout(ASK_TIMEOUT, index.read_index()).await {
        Ok(Ok(position)) => Said::Position(position),
        Ok(Err(IndexError::NotLeader { leader })) => Said::Another(leader),
        Ok(Err(IndexError::Unavailable { reason })) => Said::Nothing(reason),
        Err(_late) => Said::Nothing("this node got no majority in time".to_owned()),
    }
}

/// What `node` says about each of `partitions`.
async fn ask_node(peers: &Peers, node: NodeId, partitions: Vec<u32>) -> Vec<Said> {
    let asked = partitions.len();
    let request = store::ReadIndexRequest { partitions };
    let mut indexes = match peers.calls.read_index(node, request, ASK_TIMEOUT).await {
        Ok(answer) => answer.indexes.into_iter(),
        Err(error) => return (0..asked).map(|_| Said::Nothing(error.to_string())).collect(),
    };
    let said = |index: Option<store::read_index_answer::Index>| match index.and_then(|index| index.outcome) {
        Some(Outcome::Position(position)) => Said::Position(Position(position)),
        Some(Outcome::NotLeader(leader)) => Said::Another((leader != 0).then_some(NodeId(leader))),
        Some(Outcome::Unavailable(reason)) => Said::Nothing(reason),
        None => Said::Nothing(format!("node {node} gave an empty answer")),
    };
    (0..asked).map(|_| said(indexes.next())).collect()
}
