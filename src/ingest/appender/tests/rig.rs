//! Nodes of one process whose replicas share a log, as replicas do, and a leader that the test sets.

use crate::applier::{Applier, Verdicts};
use crate::testing::{GateLog, MapTarget};
use crate::{LocalAppender, LocalReplica, LocalReplicas, RouteConfig, RoutedAppender, WriteService};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_commitlog::mem_log::MemLog;
use quorate_commitlog::{LogError, LogReader, PartitionLog};
use quorate_model::{NodeId, PartitionId, Position};
use quorate_wire::memory::Switchboard;
use quorate_wire::write::{AppendAnswer, AppendRequest};
use quorate_wire::{Handlers, WriteHandler};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub(crate) const PARTITION: PartitionId = PartitionId(0);

/// Long deadlines and short pauses: a test that waits for a deadline shortens it.
pub(crate) fn quick() -> RouteConfig {
    let long = Duration::from_secs(60);
    RouteConfig {
        route_timeout: long,
        commit_timeout: long,
        deposed_wait: long,
        verdict_wait: long,
        pause: Duration::from_millis(1),
    }
}

/// Waits until `is_so`.
pub(crate) async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it becomes so");
}

/// The replicas of one partition, and the network between their nodes.
pub(crate) struct Net {
    pub(crate) board: Switchboard,
    pub(crate) log: MemLog,
    /// Holds appends back once `is_gated`.
    pub(crate) gate: Arc<GateLog>,
    /// Who leads.
    pub(crate) leader: Arc<Mutex<Option<NodeId>>>,
    /// Who leads, as node 1 knows.
    pub(crate) watch: watch::Sender<Option<NodeId>>,
    nodes: BTreeMap<u64, Node>,
    /// The replicas of node 1.
    pub(crate) here: Arc<LocalReplicas>,
}

pub(crate) struct Node {
    pub(crate) target: Arc<MapTarget>,
    pub(crate) applier: Applier,
    pub(crate) verdicts: Arc<Verdicts>,
    pub(crate) appender: Arc<LocalAppender>,
    pub(crate) replicas: Arc<LocalReplicas>,
    /// Calls that came to it.
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Net {
    pub(crate) fn start(nodes: &[u64], leader: Option<u64>) -> Self {
        Self::with(nodes, leader, false, crate::appender::PEER_BYTES)
    }

    pub(crate) fn gated(nodes: &[u64], leader: u64) -> Self {
        Self::with(nodes, Some(leader), true, crate::appender::PEER_BYTES)
    }

    pub(crate) fn with(nodes: &[u64], leader: Option<u64>, is_gated: bool, peer_bytes: usize) -> Self {
        let log = MemLog::default();
        let gate = Arc::new(GateLog::new(log.clone()));
        let leader = Arc::new(Mutex::new(leader.map(NodeId)));
        let (watch, _) = watch::channel(None);
        let (board, here) = (Switchboard::default(), Arc::<LocalReplicas>::default());
        let mut net = Self { board, log, gate, leader, watch, nodes: BTreeMap::new(), here };
        for id in nodes {
            net.add(*id, is_gated, peer_bytes);
        }
        net
    }

    fn add(&mut self, id: u64, is_gated: bool, peer_bytes: usize) {
        let inner: Arc<dyn PartitionLog> =
            if is_gated { self.gate.clone() } else { Arc::new(self.log.clone()) };
        let log = Arc::new(LedLog { node: NodeId(id), leader: self.leader.clone(), log: inner });
        let target = Arc::new(MapTarget::new());
        let applier =
            Applier::start(PARTITION, target.clone(), log.clone(), None, Handle::current()).unwrap();
        let verdicts = applier.verdicts();
        let appender = Arc::new(LocalAppender::new(log, verdicts.clone()));
        let replicas = if id == 1 { self.here.clone() } else { Arc::default() };
        replicas.insert(PARTITION, LocalReplica { appender: appender.clone(), holdings: target.clone() });
        let calls = Arc::<AtomicUsize>::default();
        let service = Arc::new(WriteService::new(replicas.clone(), peer_bytes));
        self.answer(id, Arc::new(Counting { calls: calls.clone(), inner: service }));
        self.nodes.insert(id, Node { target, applier, verdicts, appender, replicas, calls });
    }

    /// Lets `handler` answer the writes that come to a node.
    pub(crate) fn answer(&self, id: u64, handler: Arc<dyn WriteHandler>) {
        self.board.answer(NodeId(id), Handlers { write: Some(handler), ..Handlers::default() });
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn calls_to(&self, id: u64) -> usize {
        self.node(id).calls.load(SeqCst)
    }

    pub(crate) fn lead(&self, id: Option<u64>) {
        *self.leader.lock() = id.map(NodeId);
    }

    /// The appender of a gateway on node 1.
    pub(crate) fn routed(&self, config: RouteConfig) -> RoutedAppender {
        let calls = self.board.calls(NodeId(1));
        let watch = self.watch.subscribe();
        RoutedAppender::new(PARTITION, NodeId(1), 1, watch, self.here.clone(), calls, config)
    }

    /// Has apply of a node stop at a record that cannot be read.
    pub(crate) async fn stop_apply(&self, id: u64) {
        self.log.append(Bytes::from_static(b"no record")).await.unwrap();
        assert!(self.node(id).applier.reached(Position(u64::MAX)).await.is_err());
    }
}

/// Counts the calls.
struct Counting {
    calls: Arc<AtomicUsize>,
    inner: Arc<dyn WriteHandler>,
}

#[async_trait]
impl WriteHandler for Counting {
    async fn append(&self, request: AppendRequest) -> Result<AppendAnswer, String> {
        self.calls.fetch_add(1, SeqCst);
        self.inner.append(request).await
    }
}

/// A member's log: takes entries while its node leads.
struct LedLog {
    node: NodeId,
    leader: Arc<Mutex<Option<NodeId>>>,
    log: Arc<dyn PartitionLog>,
}

#[async_trait]
impl PartitionLog for LedLog {
    async fn append(&self, entry: Bytes) -> Result<Position, LogError> {
        let leader = *self.leader.lock();
        match leader == Some(self.node) {
            true => self.log.append(entry).await,
            false => Err(LogError::NotLeader { leader }),
        }
    }

    fn read_from(&self, after: Position) -> Box<dyn LogReader> {
        self.log.read_from(after)
    }

    async fn committed(&self) -> Result<Position, LogError> {
        self.log.committed().await
    }

    async fn trim(&self, up_to: Position) -> Result<(), LogError> {
        self.log.trim(up_to).await
    }

    fn wants_trim(&self) -> bool {
        self.log.wants_trim()
    }

    fn incarnation(&self) -> u32 {
        self.log.incarnation()
    }
}
