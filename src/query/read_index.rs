//! Asks the leaders of partitions how far their logs go.
//!
//! Knows leaders as hints, and whom to ask next. Does not know what the positions are for.
//! Path: `freshness` -> **here** -> `index_here`, [`quorate_wire::Calls::read_index`]; what they say is kept in
//! `confirmed`.
//! RI1: a position is confirmed with a majority after this was called. RI2: a question is asked again only here, until
//! the time for it is over.

use crate::index_here::Together;
use crate::replicas::{Cluster, IndexError, PartitionIndex, PartitionReplicas, PartitionView, Peers};
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{FuturesUnordered, StreamExt};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_wire::store;
use quorate_wire::store::read_index_answer::index::Outcome;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long one leader may take to confirm its positions before it is asked again, or another is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a partition without a leader is asked about again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const NO_ANSWER: &str = "its leader did not confirm its position in time";

/// What is known of the committed position of a partition, or why it is not.
pub(crate) type Known = Result<Position, String>;

/// The committed position of every partition, in the order of the view; 0 for those that are written only here. Leaders
/// are not asked about partitions of which `known` tells something.
pub(crate) async fn committed(
    cluster: &Cluster,
    view: &PartitionView,
    known: impl Fn(&PartitionReplicas) -> Option<Known>,
    until: Instant,
) -> Vec<Known> {
    let mut found: Vec<Known> = Vec::with_capacity(view.partitions().len());
    let mut open: Vec<Open<'_>> = Vec::new();
    for (at, partition) in view.partitions().iter().enumerate() {
        let told = if is_shared(partition) { known(partition) } else { Some(Ok(Position::default())) };
        if told.is_none() {
            open.push(Open { at, partition, hint: None, answers: 0, reason: NO_ANSWER.to_owned() });
        }
        found.push(told.unwrap_or_else(|| Err(NO_ANSWER.to_owned())));
    }
    let asking = async {
        while !open.is_empty() {
            let asked = Instant::now();
            let mut calls = FuturesUnordered::new();
            ask(cluster.peers(), open.iter(), &calls);
            // Each answer counts at once, and a hint is followed at once: a node that is silent holds up no other.
            while let Some(answers) = calls.next().await {
                let mut urgent = Vec::new();
                for (at, said) in answers {
                    let Ok(nth) = open.binary_search_by_key(&at, |open| open.at) else { continue };
                    if let Some(position) = open[nth].hear(said) {
                        cluster.confirmed().note(open[nth].partition.id, asked, position);
                        found[at] = Ok(position);
                    } else if open[nth].is_urgent() {
                        urgent.push(nth);
                    }
                }
                ask(cluster.peers(), urgent.into_iter().map(|nth| &open[nth]), &calls);
            }
            open.retain(|open| found[open.at].is_err());
            if !open.is_empty() {
                sleep(ASK_AGAIN).await;
            }
        }
    };
    // When the time is over, what is open stays unknown.
    let _ = timeout_at(until, asking).await;
    for open in open {
        if found[open.at].is_ok() {
            continue;
        }
        cluster.confirmed().note_failure(open.partition.id, Instant::now());
        found[open.at] = Err(open.reason);
    }
    found
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
    Here(&'v Arc<dyn PartitionIndex>),
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

impl<'v> Open<'v> {
    /// The node that was named last; then who is known as the leader, and every other time a member in turn, since
    /// what this node knows may be old.
    fn target(&self, peers: Option<&Peers>) -> Target<'v> {
        let here = self.partition.local.as_ref().and_then(|local| local.index.as_ref());
        let known = *self.partition.leader.borrow();
        match self.hint.or(known.filter(|_| self.answers.is_multiple_of(2))) {
            Some(node) if peers.is_none_or(|peers| peers.node == node) => {
                here.map_or_else(|| self.member(None), Target::Here)
            }
            Some(node) => Target::Node(node),
            None => self.member(here),
        }
    }

    fn member(&self, here: Option<&'v Arc<dyn PartitionIndex>>) -> Target<'v> {
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

/// Whether others may have committed something that is not applied here.
fn is_shared(partition: &PartitionReplicas) -> bool {
    partition.local.as_ref().is_none_or(|local| local.index.is_some())
}

/// Answers about partitions, by their places in the view.
type Answers = Vec<(usize, Said)>;

/// Asks once about each of these partitions, all at the same time, with one call to each node.
fn ask<'o, 'v: 'o>(
    peers: Option<&'v Peers>,
    open: impl Iterator<Item = &'o Open<'v>>,
    calls: &FuturesUnordered<BoxFuture<'v, Answers>>,
) {
    let mut here = Together::default();
    let mut there: BTreeMap<NodeId, Vec<(usize, PartitionId)>> = BTreeMap::new();
    let mut nobody: Answers = Vec::new();
    for open in open {
        let (at, id) = (open.at, open.partition.id);
        match (open.target(peers), peers) {
            (Target::Here(index), _) => here.add(at, id, index),
            (Target::Node(node), Some(_)) => there.entry(node).or_default().push((at, id)),
            (Target::Node(_) | Target::Nobody, _) => {
                nobody.push((at, Said::Nothing("no other node can be asked".to_owned())));
            }
        }
    }
    if !nobody.is_empty() {
        calls.push(ready(nobody).boxed());
    }
    for asked in here.each() {
        let said = |(at, found)| (at, Said::from(found));
        calls.push(async move { asked.ask(ASK_TIMEOUT).await.into_iter().map(said).collect() }.boxed());
    }
    for (node, asked) in there {
        let Some(peers) = peers else { continue };
        let (places, ids): (Vec<usize>, Vec<u32>) = asked.into_iter().map(|(at, id)| (at, id.0)).unzip();
        calls.push(async move { places.into_iter().zip(ask_node(peers, node, ids).await).collect() }.boxed());
    }
}

impl From<Result<Position, IndexError>> for Said {
    fn from(found: Result<Position, IndexError>) -> Self {
        match found {
            Ok(position) => Self::Position(position),
            Err(IndexError::NotLeader { leader }) => Self::Another(leader),
            Err(IndexError::Unavailable { reason }) => Self::Nothing(reason),
        }
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
