//! What queries know of the cluster: its partitions, and where their replicas are.
//!
//! Knows partitions, nodes and leaders as they are told. Does not know Raft, nor how a replica is fed:
//! [`PartitionIndex`] and [`ReplicaState`] stand for both.
//! Path: the node publishes a [`PartitionView`] -> **here** -> `freshness`, `fanout`, `fragment_service`.
//!
//! - V1: a view names every partition of the cluster, so that an answer without one of them is an error.
//! - V2: a query takes one view and keeps it; a replica that leaves meanwhile stays readable until the query ends.

use crate::confirmed::Confirmed;
use crate::load::Load;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use quorate_model::{NodeId, PartitionId, Position};
use quorate_tsdb::PartitionStore;
use quorate_wire::Calls;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Why a member of a partition's group does not tell the committed position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Another member leads, or none does.
    #[error("this node does not lead it{}", leader.map(|l| format!(", but node {l} does")).unwrap_or_default())]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It leads, but no majority confirms that now; asking again may help.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

/// The committed positions of partitions of this node, as their leader knows them. Replicas that share one are asked
/// together, which costs as much as asking one of them.
#[async_trait]
pub trait PartitionIndex: Send + Sync {
    /// The newest committed position of each of `partitions`, in their order, confirmed with a majority after this was
    /// called, if this node leads it. Each has a replica here with this index. Takes no longer than `patience`, and one
    /// that takes longer does not hold up what is known of the others.
    ///
    /// # Errors
    /// [`IndexError`], for each partition by itself.
    async fn read_indexes(
        &self,
        partitions: &[PartitionId],
        patience: Duration,
    ) -> Vec<Result<Position, IndexError>>;
}

/// How far a replica on this node has come.
#[async_trait]
pub trait ReplicaState: Send + Sync {
    /// Whether it has applied what was committed when it started, and goes on: before that it serves no query (C1).
    fn is_ready(&self) -> bool;

    /// Waits until it is ready and has applied `position`.
    ///
    /// # Errors
    /// Why it never will.
    async fn reached(&self, position: Position) -> Result<(), String>;
}

/// A replica on this node.
#[derive(Clone)]
pub struct LocalReplica {
    /// Head and blocks.
    pub store: Arc<PartitionStore>,
    /// How far it has come.
    pub state: Arc<dyn ReplicaState>,
    /// What is committed. `None` if what is applied is all that there ever is, as of a store that is only read.
    pub index: Option<Arc<dyn PartitionIndex>>,
}

impl LocalReplica {
    /// Whether it has applied `position` now.
    pub(crate) fn has(&self, position: Position) -> bool {
        self.state.is_ready() && self.store.applied() >= position
    }
}

/// A partition, and where its replicas are.
#[derive(Clone)]
pub struct PartitionReplicas {
    /// Its number.
    pub id: PartitionId,
    /// The replica on this node.
    pub local: Option<LocalReplica>,
    /// Other nodes that have a replica.
    pub nodes: Vec<NodeId>,
    /// Who leads it, as far as this node knows. A hint: whoever is asked says if it is wrong.
    pub leader: watch::Receiver<Option<NodeId>>,
}

/// All partitions of the cluster at one time, in the order of their numbers.
#[derive(Clone, Default)]
pub struct PartitionView {
    partitions: Vec<PartitionReplicas>,
}

impl PartitionView {
    /// A view of `partitions`, which are all that there are, each once.
    pub fn new(mut partitions: Vec<PartitionReplicas>) -> Self {
        partitions.sort_by_key(|partition| partition.id);
        debug_assert!(partitions.windows(2).all(|two| two[0].id < two[1].id), "a partition is listed twice");
        Self { partitions }
    }

    /// The view of a node that is alone: every partition is here and nowhere else.
    pub fn local(replicas: Vec<LocalReplica>) -> Self {
        let alone = |replica: LocalReplica| PartitionReplicas {
            id: replica.store.partition(),
            local: Some(replica),
            nodes: Vec::new(),
            leader: watch::channel(None).1,
        };
        Self::new(replicas.into_iter().map(alone).collect())
    }

    /// The partitions, in the order of their numbers.
    pub fn partitions(&self) -> &[PartitionReplicas] {
        &self.partitions
    }

    /// The partition `id`.
    pub fn get(&self, id: PartitionId) -> Option<&PartitionReplicas> {
        let at = self.partitions.binary_search_by_key(&id, |partition| partition.id).ok()?;
        self.partitions.get(at)
    }
}

/// The cluster as queries of this node see it. The view changes while the node runs.
pub struct Cluster {
    view: ArcSwap<PartitionView>,
    peers: Option<Peers>,
    confirmed: Confirmed,
}

/// The way to other nodes.
pub(crate) struct Peers {
    /// This node.
    pub(crate) node: NodeId,
    pub(crate) calls: Arc<dyn Calls>,
    pub(crate) load: Load,
}

impl Cluster {
    /// A node that has all partitions to itself.
    pub fn alone(replicas: Vec<LocalReplica>) -> Arc<Self> {
        Self::over(PartitionView::local(replicas), None)
    }

    /// Node `node` of a cluster, which reaches the others by `calls`. While `view` names no partition, queries are
    /// refused as unavailable.
    pub fn new(node: NodeId, calls: Arc<dyn Calls>, view: PartitionView) -> Arc<Self> {
        Self::over(view, Some(Peers { node, calls, load: Load::default() }))
    }

    fn over(view: PartitionView, peers: Option<Peers>) -> Arc<Self> {
        Arc::new(Self { view: ArcSwap::from_pointee(view), peers, confirmed: Confirmed::default() })
    }

    /// Replaces the view; queries that run keep theirs.
    pub fn publish(&self, view: PartitionView) {
        self.view.store(Arc::new(view));
    }

    /// The view of now.
    pub fn view(&self) -> Arc<PartitionView> {
        self.view.load_full()
    }

    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    /// What leaders have confirmed to this node.
    pub(crate) fn confirmed(&self) -> &Confirmed {
        &self.confirmed
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("partitions", &self.view().partitions.len()).finish_non_exhaustive()
    }
}
