//! Reading partitions of which this node has no replica: one call for each node, and the next replica if one fails.
//!
//! Knows replicas, calls and failures. Does not know what is in a frame: a [`Collect`] does.
//! Path: `source`, `catalog` -> **here** -> [`quorate_wire::Calls`] -> `fragment_service` of another node.
//!
//! - FO1: complete or error: every partition is answered by one replica that came to its end, or there is no answer
//!   (PR10). What a replica sent before it failed is dropped; a read is safe to repeat.
//! - FO2: results stand in the order of partitions, so that answers do not depend on timing.
//! - FO3: what is kept is charged to the query's guard before.

use crate::frames::FrameError;
use crate::freshness::{Reading, Remote};
use crate::guard::stopped;
use crate::replicas::Peers;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_model::{NodeId, PartitionId};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_promql::source::SourceError;
use quorate_wire::{Frames, TransportError, store};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};

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

    /// Asked once for each part that is whole: whether it may become a part of the answer.
    fn accept(&self, part: &Self::Part) -> Result<(), SourceError>;
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
    let fan = FanOut { peers, request, collect, guard, deadline };
    let mut running = FuturesUnordered::new();
    let mut found = BTreeMap::new();
    let mut looks = interval(GUARD_INTERVAL);
    loop {
        for (node, attempts) in by_node(std::mem::take(&mut open), peers)? {
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
            Some(Called { outcome: Ok(parts), .. }) => found.extend(parts),
            Some(Called { outcome: Err(CallError::Final(error)), .. }) => return Err(error),
            Some(Called { outcome: Err(CallError::Failed(reason)), node, attempts }) => {
                open = set_aside(attempts, node, &reason, false);
            }
            Some(Called { outcome: Err(CallError::Damaged(reason)), node, attempts }) => {
                open = set_aside(attempts, node, &reason, true);
            }
            None => return Ok(found.into_iter().collect()),
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

    /// The replica with the fewest calls under way, of those that have not failed; of equal ones the lowest node.
    fn choose(&self, peers: &Peers) -> Option<NodeId> {
        let untried =
            self.of.nodes.iter().filter(|node| self.failed.iter().all(|(failed, _)| failed != *node));
        untried.copied().min_by_key(|node| (peers.load.of(*node), *node))
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
    peers: &Peers,
) -> Result<Vec<(NodeId, Vec<Attempt<'r>>)>, SourceError> {
    let mut by_node: BTreeMap<NodeId, Vec<Attempt<'_>>> = BTreeMap::new();
    let mut alone = Vec::new();
    for attempt in attempts {
        if let Some(node) = attempt.alone_at {
            alone.push((node, vec![attempt]));
            continue;
        }
        let node = attempt.choose(peers).ok_or_else(|| attempt.unavailable())?;
        by_node.entry(node).or_default().push(attempt);
    }
    alone.extend(by_node);
    Ok(alone)
}

/// A call that has ended.
struct Called<'r, P> {
    node: NodeId,
    attempts: Vec<Attempt<'r>>,
    outcome: Result<BTreeMap<PartitionId, P>, CallError>,
}

/// What all calls of one answer share.
struct FanOut<'f, C> {
    peers: &'f Peers,
    request: &'f Request,
    collect: &'f C,
    guard: &'f dyn QueryGuard,
    deadline: Instant,
}

impl<C: Collect> FanOut<'_, C> {
    async fn call<'r>(&self, node: NodeId, attempts: Vec<Attempt<'r>>) -> Called<'r, C::Part> {
        let _under_way = self.peers.load.begin(node);
        let mut charge = Charge { guard: self.guard, bytes: 0 };
        let outcome = self.collect(node, &attempts, &mut charge).await;
        if outcome.is_ok() {
            charge.keep();
        }
        Called { node, attempts, outcome }
    }

    async fn collect(
        &self,
        node: NodeId,
        attempts: &[Attempt<'_>],
        charge: &mut Charge<'_>,
    ) -> Result<BTreeMap<PartitionId, C::Part>, CallError> {
        let mut parts: BTreeMap<PartitionId, C::Part> =
            attempts.iter().map(|attempt| (attempt.of.id, C::empty())).collect();
        let silent = || CallError::Failed("it has fallen silent".to_owned());
        let mut frames = timeout(SILENCE, self.begin(node, attempts)).await.map_err(|_| silent())??;
        loop {
            let frame = timeout(SILENCE, frames.recv()).await.map_err(|_| silent())?;
            let frame = frame.ok_or_else(|| CallError::Failed("the answer has no end".to_owned()))??;
            match frame.content {
                Some(store::frame::Content::Part(bytes)) if bytes.is_empty() => {}
                Some(store::frame::Content::Part(bytes)) => {
                    let id = C::partition(&bytes)?;
                    let part = parts.get_mut(&id).ok_or(FrameError::Damaged("a partition not asked for"))?;
                    self.collect.add(part, bytes, &mut |bytes| charge.take(bytes))?;
                }
                Some(store::frame::Content::End(end)) => {
                    ended(end)?;
                    parts
                        .values()
                        .try_for_each(|part| self.collect.accept(part))
                        .map_err(CallError::Final)?;
                    return Ok(parts);
                }
                None => return Err(CallError::Failed("a frame without content".to_owned())),
            }
        }
    }

    async fn begin(&self, node: NodeId, attempts: &[Attempt<'_>]) -> Result<Frames, TransportError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let replica = |a: &Attempt<'_>| store::Replica { partition: a.of.id.0, position: a.of.position.0 };
        let replicas = attempts.iter().map(replica).collect();
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
}

/// What the end of an answer says.
fn ended(end: store::frame::End) -> Result<(), CallError> {
    use store::frame::end::Outcome;
    match end.outcome {
        Some(Outcome::Complete(_)) => Ok(()),
        Some(Outcome::Limit(text)) => Err(CallError::Final(SourceError::Limit(text))),
        Some(Outcome::Unavailable(reason)) => Err(CallError::Failed(reason)),
        Some(Outcome::Failed(reason)) => Err(CallError::Damaged(reason)),
        None => Err(CallError::Failed("an end of an unknown kind".to_owned())),
    }
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
