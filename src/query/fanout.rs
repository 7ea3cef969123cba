//! Reading partitions of which this node has no replica: one call for each node, and the next replica if one fails.
//!
//! Knows replicas, calls and failures. Does not know what is in a frame: a [`Collect`] does.
//! Path: `source`, `catalog` -> **here** -> [`quorate_wire::Calls`] -> `fragment_service` of another node.
//!
//! - FO1: complete or error: every partition is answered by one replica that came to its end, or there is no answer
//!   (PR10), unless the query allows gaps: then the reading says which they are. What a replica sent before it failed
//!   is dropped; a read is safe to repeat.
//! - FO2: results stand in the order of partitions, so that answers do not depend on timing.
//! - FO3: a replica that is late to begin is overtaken by another if that is faster (hedging); `load` bounds how often.
//! - FO4: what is kept is charged to the query's guard before.

use crate::frames::FrameError;
use crate::freshness::{Reading, Remote};
use crate::guard::stopped;
use crate::replicas::Peers;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{pending, try_join_all};
use futures::stream::FuturesUnordered;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_promql::source::SourceError;
use quorate_wire::{Frames, TransportError, store};
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep, timeout};

/// A replica that says nothing for so long is given up: while it works it tells so every
/// [`crate::fragment_service::SIGN_OF_LIFE`].
const SILENCE: Duration = Duration::from_secs(5);
/// How often the guard is asked while nothing comes.
const GUARD_INTERVAL: Duration = Duration::from_millis(20);

/// What is asked of every partition. Replicas and time-out are filled in for each call.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Select(store::SelectRequest),
    List(store::ListRequest),
}

/// Makes of frames what they stand for, for the partitions of one call.
pub(crate) trait Collect {
    /// What there is of one partition.
    type Part;

    /// What its frames are called in metrics.
    const KIND: &'static str;

    /// The partition that a frame belongs to.
    fn partition(frame: &[u8]) -> Result<PartitionId, FrameError>;

    /// A partition of which nothing has come.
    fn empty() -> Self::Part;

    /// Adds a frame to the part of its partition; asks `keep` before anything is kept.
    fn add(
        &self,
        part: &mut Self::Part,
        frame: Bytes,
        keep: &mut dyn FnMut(u64) -> Result<(), CallError>,
    ) -> Result<(), CallError>;

    /// Asked once for each part that becomes a part of the answer, never for what a call gives that is overtaken:
    /// whether it may.
    fn accept(&self, part: &Self::Part) -> Result<(), SourceError>;

    /// What it means that a replica cannot do what it is asked for, and that no other can.
    fn declined(&self, why: String) -> SourceError {
        SourceError::Failed(why)
    }
}

/// Why a call gives nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Another replica may do better, and so may this one later.
    Failed(String),
    /// Another replica may do better; this one will not.
    Damaged(String),
    /// No replica can.
    Final(SourceError),
}

impl From<FrameError> for CallError {
    fn from(error: FrameError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<TransportError> for CallError {
    fn from(error: TransportError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<QueryError> for CallError {
    fn from(objection: QueryError) -> Self {
        Self::Final(stopped(objection))
    }
}

/// Asks for the partitions of `reading` that are not here, each from one replica. In the order of partitions.
///
/// # Errors
/// [`SourceError::Unavailable`] names a partition that no replica answers for. [`SourceError::Limit`] and
/// [`SourceError::Stopped`] by the answers, `collect` and `guard`.
pub(crate) async fn gather<C: Collect>(
    reading: &Reading,
    request: &Request,
    collect: &C,
    guard: &dyn QueryGuard,
    deadline: Instant,
) -> Result<Vec<(PartitionId, C::Part)>, SourceError> {
    let mut open: Vec<Attempt<'_>> = reading.remote().map(Attempt::new).collect();
    let Some(first) = open.first() else { return Ok(Vec::new()) };
    let Some(peers) = reading.peers() else {
        return Err(SourceError::Unavailable(format!("partition {} is not on this node", first.of.id)));
    };
    let fan = FanOut { reading, peers, request, collect, guard, deadline };
    let mut running = FuturesUnordered::new();
    // What is found is charged until it is handed on: whoever gives up here gives it back.
    let (mut found, mut charges) = (BTreeMap::new(), Vec::new());
    let mut looks = interval(GUARD_INTERVAL);
    loop {
        for (node, attempts) in by_node(std::mem::take(&mut open), reading, peers)? {
            running.push(fan.call(node, attempts));
        }
        let ended = tokio::select! {
            biased;
            ended = running.next() => ended,
            _ = looks.tick() => {
                guard.check().map_err(stopped)?;
                continue;
            }
        };
        match ended {
            Some(Called { outcome: Ok((parts, charged)), .. }) => {
                parts.values().try_for_each(|part| collect.accept(part))?;
                found.extend(parts);
                charges.extend(charged);
            }
            Some(Called { outcome: Err(CallError::Final(error)), .. }) => return Err(error),
            Some(Called { outcome: Err(CallError::Failed(_)), .. }) if is_planted(Bug::ShortRead) => {}
            Some(Called { outcome: Err(CallError::Failed(reason)), node, attempts }) => {
                open = set_aside(attempts, node, &reason, false);
            }
            Some(Called { outcome: Err(CallError::Damaged(reason)), node, attempts }) => {
                open = set_aside(attempts, node, &reason, true);
            }
            None => {
                charges.iter_mut().for_each(Charge::keep);
                return Ok(found.into_iter().collect());
            }
        }
    }
}

/// The attempts after one at `node` has failed.
fn set_aside<'r>(
    mut attempts: Vec<Attempt<'r>>,
    node: NodeId,
    reason: &str,
    is_damage: bool,
) -> Vec<Attempt<'r>> {
    tracing::debug!(%node, reason, partitions = attempts.len(), "reading another replica");
    metrics::counter!("quorate_query_replica_failures_total").increment(1);
    if attempts.len() > 1 {
        // It may be about one of them only: a node that replaces a replica has the others.
        attempts.iter_mut().for_each(|attempt| attempt.alone_at = Some(node));
        return attempts;
    }
    for attempt in &mut attempts {
        attempt.alone_at = None;
        attempt.failed.push((node, reason.to_owned()));
        attempt.may_heal |= !is_damage;
    }
    attempts
}

/// A partition that has no answer yet, and the replicas that failed.
struct Attempt<'r> {
    of: Remote<'r>,
    failed: Vec<(NodeId, String)>,
    /// Whether one of them may answer when it is asked again.
    may_heal: bool,
    /// The node that is asked for this partition by itself next.
    alone_at: Option<NodeId>,
}

impl<'r> Attempt<'r> {
    fn new(of: Remote<'r>) -> Self {
        Self { of, failed: Vec::new(), may_heal: false, alone_at: None }
    }

    /// The replica with the fewest calls under way, of those that have not failed for this partition, and lately not
    /// at all if there is one; of equal ones the leader, which is the freshest, then the lowest node.
    fn choose(&self, peers: &Peers, but: Option<NodeId>) -> Option<NodeId> {
        let is_tried = |node| but == Some(node) || self.failed.iter().any(|(failed, _)| *failed == node);
        let untried = self.of.nodes.iter().copied().filter(|node| !is_tried(*node));
        untried.min_by_key(|node| (peers.load.of(*node), self.of.leader != Some(*node), *node))
    }

    fn unavailable(&self) -> SourceError {
        let reasons: Vec<String> =
            self.failed.iter().map(|(node, why)| format!("node {node}: {why}")).collect();
        let reasons = if reasons.is_empty() { "it has no replica".to_owned() } else { reasons.join("; ") };
        let text = format!("partition {} cannot be read: {reasons}", self.of.id);
        match self.may_heal || self.failed.is_empty() {
            true => SourceError::Unavailable(text),
            false => SourceError::Failed(text),
        }
    }
}

/// The attempts by the replica that is tried next.
fn by_node<'r>(
    attempts: Vec<Attempt<'r>>,
    reading: &Reading,
    peers: &Peers,
) -> Result<Vec<(NodeId, Vec<Attempt<'r>>)>, SourceError> {
    let mut by_node: BTreeMap<NodeId, Vec<Attempt<'_>>> = BTreeMap::new();
    let mut alone = Vec::new();
    for attempt in attempts {
        if let Some(node) = attempt.alone_at {
            alone.push((node, vec![attempt]));
            continue;
        }
        match attempt.choose(peers, None) {
            Some(node) => by_node.entry(node).or_default().push(attempt),
            None => reading.do_without(attempt.of.id, attempt.unavailable())?,
        }
    }
    alone.extend(by_node);
    Ok(alone)
}

/// A call that has ended.
struct Called<'r, 'g, P> {
    node: NodeId,
    attempts: Vec<Attempt<'r>>,
    outcome: Result<Parts<'g, P>, CallError>,
}

/// What all calls of one answer share.
struct FanOut<'f, C> {
    reading: &'f Reading,
    peers: &'f Peers,
    request: &'f Request,
    collect: &'f C,
    guard: &'f dyn QueryGuard,
    deadline: Instant,
}

/// What a replica must have: a partition and its position.
type Needs = Vec<(PartitionId, Position)>;

/// The parts of a call that came to its end, and what they are charged with.
type Parts<'g, P> = (BTreeMap<PartitionId, P>, Vec<Charge<'g>>);

impl<'f, C: Collect> FanOut<'f, C> {
    /// Calls `node`. If it does not begin to answer in the time in which it mostly does, the next replicas are asked
    /// too; the first whole answer is taken, and whoever works on the other is told to stop.
    async fn call<'r>(&self, node: NodeId, attempts: Vec<Attempt<'r>>) -> Called<'r, 'f, C::Part> {
        let has_begun = AtomicBool::new(false);
        let needs = attempts.iter().map(|attempt| (attempt.of.id, attempt.of.position)).collect();
        let outcome = {
            let mut first = pin!(self.ask(node, needs, &has_begun));
            tokio::select! {
                biased;
                outcome = &mut first => outcome,
                () = self.late(node, &has_begun) => match self.others(node, &attempts) {
                    Some(others) => self.race(first, others).await,
                    None => first.await,
                }
            }
        };
        Called { node, attempts, outcome }
    }

    /// Ends when a call to `node` should have begun to answer and has not; never if it has.
    async fn late(&self, node: NodeId, has_begun: &AtomicBool) {
        sleep(self.peers.load.patience(node)).await;
        if has_begun.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }

    /// Other replicas of all partitions that `node` is asked for, if there are and a hedge is allowed.
    fn others(&self, node: NodeId, attempts: &[Attempt<'_>]) -> Option<BTreeMap<NodeId, Needs>> {
        let mut others: BTreeMap<NodeId, Needs> = BTreeMap::new();
        for attempt in attempts {
            let other = attempt.choose(self.peers, Some(node))?;
            others.entry(other).or_default().push((attempt.of.id, attempt.of.position));
        }
        self.peers.load.may_hedge().then_some(others)
    }

    /// The first whole answer: the one that is awaited already, or that of `others` together.
    async fn race(
        &self,
        mut first: Pin<&mut impl Future<Output = Result<Parts<'f, C::Part>, CallError>>>,
        others: BTreeMap<NodeId, Needs>,
    ) -> Result<Parts<'f, C::Part>, CallError> {
        let count =
            |outcome| metrics::counter!("quorate_query_hedges_total", "outcome" => outcome).increment(1);
        let unseen = AtomicBool::new(false);
        let second = try_join_all(others.into_iter().map(|(node, needs)| self.ask(node, needs, &unseen)));
        let mut second = pin!(second);
        let (outcome, first_won) = tokio::select! {
            biased;
            outcome = &mut first => match outcome {
                Err(CallError::Failed(_) | CallError::Damaged(_)) => match second.await {
                    Ok(parts) => (Ok(together(parts)), false),
                    Err(_) => (outcome, true),
                },
                outcome => (outcome, true),
            },
            parts = &mut second => match parts {
                Ok(parts) => (Ok(together(parts)), false),
                Err(_) => (first.await, true),
            },
        };
        count(if first_won { "lost" } else { "won" });
        outcome
    }

    async fn ask(
        &self,
        node: NodeId,
        needs: Needs,
        has_begun: &AtomicBool,
    ) -> Result<Parts<'f, C::Part>, CallError> {
        let call = self.peers.load.begin(node);
        let mut charge = Charge { guard: self.guard, bytes: 0 };
        let is_first = AtomicBool::new(true);
        let begins = || {
            has_begun.store(true, Ordering::Relaxed);
            if is_first.swap(false, Ordering::Relaxed) {
                call.answers();
            }
        };
        let outcome = self.collect(node, &needs, &mut charge, &begins).await;
        if matches!(outcome, Err(CallError::Failed(_) | CallError::Damaged(_))) {
            call.failed();
        }
        Ok((outcome?, vec![charge]))
    }

    async fn collect(
        &self,
        node: NodeId,
        needs: &Needs,
        charge: &mut Charge<'_>,
        begins: &(dyn Fn() + Sync),
    ) -> Result<BTreeMap<PartitionId, C::Part>, CallError> {
        let mut parts: BTreeMap<PartitionId, C::Part> =
            needs.iter().map(|(id, _)| (*id, C::empty())).collect();
        let silent = || CallError::Failed("it has fallen silent".to_owned());
        let received = metrics::counter!("quorate_query_frame_bytes_total", "kind" => C::KIND);
        let mut frames = timeout(SILENCE, self.begin(node, needs)).await.map_err(|_| silent())??;
        loop {
            let frame = timeout(SILENCE, frames.recv()).await.map_err(|_| silent())?;
            let frame = frame.ok_or_else(|| CallError::Failed("the answer has no end".to_owned()))??;
            match frame.content {
                Some(store::frame::Content::Part(bytes)) if bytes.is_empty() => {}
                Some(store::frame::Content::Part(bytes)) => {
                    begins();
                    received.increment(bytes.len() as u64);
                    let id = C::partition(&bytes)?;
                    let part = parts.get_mut(&id).ok_or(FrameError::Damaged("a partition not asked for"))?;
                    self.collect.add(part, bytes, &mut |bytes| charge.take(bytes))?;
                }
                Some(store::frame::Content::End(end)) => {
                    begins();
                    for store::Replica { partition, position } in self.ended(end)? {
                        self.reading.note(PartitionId(partition), Position(position));
                    }
                    return Ok(parts);
                }
                None => return Err(CallError::Failed("a frame without content".to_owned())),
            }
        }
    }

    async fn begin(&self, node: NodeId, needs: &Needs) -> Result<Frames, TransportError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let replica = |(id, position): &(PartitionId, Position)| store::Replica {
            partition: id.0,
            position: position.0,
        };
        let replicas = needs.iter().map(replica).collect();
        match self.request.clone() {
            Request::Select(request) => {
                let request = store::SelectRequest { replicas, timeout_ms, ..request };
                self.peers.calls.select(node, request, left).await
            }
            Request::List(request) => {
                let request = store::ListRequest { replicas, timeout_ms, ..request };
                self.peers.calls.list(node, request, left).await
            }
        }
    }

    /// What the end of an answer says: how far the replicas had come, or why it is none.
    fn ended(&self, end: store::frame::End) -> Result<Vec<store::Replica>, CallError> {
        use store::frame::end::Outcome;
        match end.outcome {
            Some(Outcome::Complete(complete)) => Ok(complete.applied),
            Some(Outcome::Limit(text)) => Err(CallError::Final(SourceError::Limit(text))),
            Some(Outcome::Unavailable(reason)) => Err(CallError::Failed(reason)),
            Some(Outcome::Failed(reason)) => Err(CallError::Damaged(reason)),
            Some(Outcome::Declined(why)) => Err(CallError::Final(self.collect.declined(why))),
            None => Err(CallError::Failed("an end of an unknown kind".to_owned())),
        }
    }
}

/// The parts of several calls as those of one.
fn together<P>(calls: Vec<Parts<'_, P>>) -> Parts<'_, P> {
    let (mut parts, mut charges) = (BTreeMap::new(), Vec::new());
    for (some, charge) in calls {
        parts.extend(some);
        charges.extend(charge);
    }
    (parts, charges)
}

/// What one call keeps; given back unless its answer is used.
struct Charge<'g> {
    guard: &'g dyn QueryGuard,
    bytes: u64,
}

impl Charge<'_> {
    fn take(&mut self, bytes: u64) -> Result<(), CallError> {
        self.guard.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    fn keep(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.guard.release(self.bytes);
    }
}
