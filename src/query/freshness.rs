//! How fresh a query reads: which position of every partition it must see, and where that can be had.
//!
//! Knows views and positions. Does not know matchers or samples, nor how leaders are asked.
//! Path: `service` -> **here** -> `read_index`; the result goes to `fanout`.
//!
//! - F1: the positions of a strong read are asked for after the query came and confirmed by each leader with a
//!   majority, so it sees every write that was acknowledged to anyone before (PR8).
//! - F2: every partition has its position, or there is no reading, or the query allows gaps and is told of this one.
//! - F3: a reading says afterwards what it reflects (PR9), which is never less than what was seen.

use crate::read_index::{Known, committed};
use crate::replicas::{Cluster, LocalReplica, PartitionReplicas, PartitionView, Peers};
use crate::seen::{Gap, Seen};
use crate::token::PositionToken;
use futures::future::join_all;
use parking_lot::Mutex;
use quorate_model::planted::{Bug, is_planted};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_promql::source::SourceError;
use quorate_tsdb::PartitionStore;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a replica here may take to catch up before one elsewhere is read, if there is one.
const LOCAL_PATIENCE: Duration = Duration::from_secs(2);
/// An eventual read is called stale if no leader has confirmed its position in so long a time.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// How long an eventual read waits for a leader to confirm it, if none has lately.
const EVENTUAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long eventual reads do not ask again after that was in vain.
const ASKED_IN_VAIN: Duration = Duration::from_secs(2);

/// What a query must see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadConsistency {
    /// Every write that was acknowledged to anyone before the query came.
    #[default]
    Strong,
    /// What the token stands for, at least.
    Session(PositionToken),
    /// Every write that was acknowledged to anyone so long before the query came.
    Bounded(Duration),
    /// What any replica has; it may lie behind.
    Eventual,
}

impl ReadConsistency {
    /// Its name, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Session(_) => "session",
            Self::Bounded(_) => "bounded",
            Self::Eventual => "eventual",
        }
    }
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

/// A view, and for each of its partitions what a query must see of it and whether it can be read here. Clones share
/// what is found out while it is read.
#[derive(Clone)]
pub struct Reading(Arc<Inner>);

struct Inner {
    cluster: Arc<Cluster>,
    view: Arc<PartitionView>,
    /// In the order of the view.
    wanted: Vec<Wanted>,
    allows_gaps: bool,
    /// Whether the query has to see nothing.
    is_eventual: bool,
    stale: Vec<PartitionId>,
    found: Mutex<Found>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    position: Position,
    is_here: bool,
}

/// What is found out while partitions are read.
#[derive(Default)]
struct Found {
    gaps: BTreeMap<PartitionId, String>,
    /// How far replicas on other nodes had come.
    elsewhere: PositionToken,
}

/// A partition to be read elsewhere.
pub(crate) struct Remote<'r> {
    pub(crate) id: PartitionId,
    /// What the replica must have applied.
    pub(crate) position: Position,
    /// Nodes with a replica.
    pub(crate) nodes: &'r [NodeId],
    /// The one that has applied every position first, as far as this node knows.
    pub(crate) leader: Option<NodeId>,
}

impl Reading {
    /// Finds out what a query must see, and waits until the replicas here have it. With `allows_gaps`, partitions that
    /// cannot be read are left out instead.
    ///
    /// # Errors
    /// [`NotFresh`] if a position is not known or not reached at `until`, or the partitions are not known.
    pub async fn begin(
        cluster: &Arc<Cluster>,
        consistency: &ReadConsistency,
        allows_gaps: bool,
        until: Instant,
    ) -> Result<Self, NotFresh> {
        let view = cluster.view();
        if view.partitions().is_empty() {
            return Err(NotFresh::new(PartitionId(0), "this node does not know the partitions yet"));
        }
        let (positions, stale) = positions(cluster, &view, consistency, until).await?;
        let settling = view.partitions().iter().zip(positions).map(|(partition, position)| async move {
            let known = position.as_ref().copied().unwrap_or_default();
            let settled = match position {
                Ok(position) => settle(partition, position, until).await,
                Err(reason) => Err(NotFresh::new(partition.id, reason)),
            };
            (known, settled)
        });
        let (mut wanted, mut gaps) = (Vec::with_capacity(view.partitions().len()), BTreeMap::new());
        for (position, settled) in join_all(settling).await {
            let is_here = match settled {
                Err(NotFresh { partition, reason }) if allows_gaps => {
                    gaps.insert(partition, reason);
                    false
                }
                settled => settled?,
            };
            // Of a gap too: the session has seen it, and the token of this answer must not stand before (F3).
            wanted.push(Wanted { position, is_here });
        }
        let is_eventual = *consistency == ReadConsistency::Eventual;
        let found = Mutex::new(Found { gaps, elsewhere: PositionToken::default() });
        let cluster = cluster.clone();
        Ok(Self(Arc::new(Inner { cluster, view, wanted, allows_gaps, is_eventual, stale, found })))
    }

    fn each(&self) -> impl Iterator<Item = (&PartitionReplicas, &Wanted)> {
        self.0.view.partitions().iter().zip(&self.0.wanted)
    }

    /// The partitions that are read here, in the order of their numbers.
    pub(crate) fn local(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionStore>)> {
        let here = self.each().filter(|(_, wanted)| wanted.is_here);
        here.filter_map(|(p, _)| Some((p.id, &p.local.as_ref()?.store)))
    }

    /// The partitions that are read elsewhere, in the order of their numbers; not those that the query does without.
    pub(crate) fn remote(&self) -> impl Iterator<Item = Remote<'_>> {
        let elsewhere = self.each().filter(|(_, wanted)| !wanted.is_here);
        let elsewhere = elsewhere.filter(|(p, _)| !self.0.found.lock().gaps.contains_key(&p.id));
        elsewhere.map(|(p, wanted)| {
            let leader = *p.leader.borrow();
            Remote { id: p.id, position: wanted.position, nodes: &p.nodes, leader }
        })
    }

    /// The way to other nodes.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.0.cluster.peers()
    }

    /// No replica answers for `partition`: the query goes on without it, and all of its further selections too.
    ///
    /// # Errors
    /// `why`, if the query allows no gaps, or asking again would not help.
    pub(crate) fn do_without(&self, partition: PartitionId, why: SourceError) -> Result<(), SourceError> {
        match why {
            SourceError::Unavailable(reason) if self.0.allows_gaps => {
                self.0.found.lock().gaps.entry(partition).or_insert(reason);
                Ok(())
            }
            why => Err(why),
        }
    }

    /// Notes how far a replica elsewhere had come when it had been read.
    pub(crate) fn note(&self, partition: PartitionId, position: Position) {
        self.0.found.lock().elsewhere.note(partition, position);
    }

    /// What an answer reflects that has been read by now.
    pub fn seen(&self) -> Seen {
        let found = self.0.found.lock();
        let gap = |(partition, reason): (&PartitionId, &String)| Gap {
            partition: *partition,
            reason: reason.clone(),
        };
        let gaps = found.gaps.iter().map(gap).collect();
        let positions = (!self.0.is_eventual).then(|| {
            let mut positions = found.elsewhere.clone();
            self.each().for_each(|(p, wanted)| positions.note(p.id, wanted.position));
            // What was seen of a store stands before what it has applied now.
            self.local().for_each(|(id, store)| positions.note(id, store.applied()));
            positions
        });
        Seen { positions, gaps, stale: self.0.stale.clone() }
    }
}

/// What a query must see of each partition, in the order of the view, and the partitions of which that may be old.
async fn positions(
    cluster: &Cluster,
    view: &PartitionView,
    consistency: &ReadConsistency,
    until: Instant,
) -> Result<(Vec<Known>, Vec<PartitionId>), NotFresh> {
    let ago = |time: Duration| Instant::now().checked_sub(time);
    let confirmed =
        |p: &PartitionReplicas, since: Option<Instant>| cluster.confirmed().after(p.id, since?).map(Ok);
    let known = match consistency {
        ReadConsistency::Strong => committed(cluster, view, |_| None, until).await,
        ReadConsistency::Session(_) if is_planted(Bug::SessionIgnored) => {
            vec![Ok(Position::default()); view.partitions().len()]
        }
        ReadConsistency::Session(token) => of_token(token, view)?,
        ReadConsistency::Bounded(delay) => {
            let since = ago(*delay);
            committed(cluster, view, |p| confirmed(p, since), until).await
        }
        ReadConsistency::Eventual => {
            let (fresh, in_vain) = (ago(STALE_AFTER), ago(ASKED_IN_VAIN));
            let known = |p: &PartitionReplicas| {
                let failed = in_vain.is_some_and(|since| cluster.confirmed().has_failed_after(p.id, since));
                confirmed(p, fresh).or_else(|| failed.then(|| Err(String::new())))
            };
            let asked = committed(cluster, view, known, until.min(Instant::now() + EVENTUAL_PATIENCE)).await;
            let stale = view.partitions().iter().zip(&asked).filter(|(_, known)| known.is_err());
            let stale = stale.map(|(p, _)| p.id).collect();
            return Ok((vec![Ok(Position::default()); asked.len()], stale));
        }
    };
    Ok((known, Vec::new()))
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
fn of_token(token: &PositionToken, view: &PartitionView) -> Result<Vec<Known>, NotFresh> {
    match token.partitions().find(|id| view.get(*id).is_none()) {
        Some(unknown) => Err(NotFresh::new(unknown, "there is no such partition")),
        None => Ok(view.partitions().iter().map(|p| Ok(token.position(p.id))).collect()),
    }
}
