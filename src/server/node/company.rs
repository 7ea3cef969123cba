//! The other nodes: how this one finds its place among them, reaches them, and answers them.
//!
//! Knows addresses, the cluster's name, and the data dir's identity. Does not know partitions.
//! Path: `run` makes it before the listeners open -> `Node::start` settles it -> the metadata and partition groups.
//! CO1: the data dir says whose it is before anything else is written into it.

use super::StartError;
use crate::config::{Config, LogKind};
use crate::datadir::{DataDir, Identity, Membership};
use quorate_cluster::formation::{self, Consultant, Door, Introduction, Place};
use quorate_cluster::meta::{LogKind as ClusterLog, Reads};
use quorate_cluster::placement::{self, Candidate};
use quorate_cluster::{MetaError, MetaHandle};
use quorate_model::NodeId;
use quorate_raft::{RaftConfig, RaftNode};
use quorate_wire::Calls;
use quorate_wire::grpc::{ClusterName, Grpc, GrpcCalls, Inbox, Peers, Timing, Tls};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Partitions of a new cluster unless the configuration says otherwise.
const DEFAULT_PARTITIONS: u32 = 32;
/// How often the known addresses are asked who is there, while something is not known.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a node of a cluster has to do with the others.
pub struct Company {
    me: Introduction,
    cluster: ClusterName,
    peers: Peers,
    calls: Arc<GrpcCalls>,
    door: Arc<Door>,
    inbox: Inbox,
    tls: Option<Tls>,
}

/// A node that has its number, its groups and its metadata.
pub(super) struct Settled {
    pub(super) raft: RaftNode,
    pub(super) meta: MetaHandle,
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
    /// Keeps addresses up to date.
    pub(super) lookout: JoinHandle<()>,
}

impl Company {
    /// The company of the node that owns `dir`, or `None` if it is alone: nothing names a cluster.
    pub fn of(config: &Config, dir: &DataDir, grpc: SocketAddr, tls: Option<&Tls>) -> Option<Self> {
        let is_member = dir.identity().is_some_and(|identity| identity.membership.is_some());
        // Only a folder of a node that was alone knows how many partitions it has.
        let has_data = dir.identity().is_some_and(|identity| identity.partitions != 0);
        if config.peers.is_empty() && config.join.is_empty() && !is_member {
            return None;
        }
        let listed = config.peers_by_name();
        let address = match (config.advertise.is_empty(), listed.get(&config.node_id)) {
            (false, _) => config.advertise.clone(),
            (true, Some(listed)) => listed.clone(),
            (true, None) => grpc.to_string(),
        };
        let me = Introduction {
            name: config.node_id.clone(),
            address,
            zone: config.zone.clone(),
            peers: listed,
            join: config.join.clone(),
            replace: config.replace,
            has_data,
            reads: Reads::of_this_build(),
        };
        let (cluster, peers) = (ClusterName::default(), Peers::default());
        let known = dir.identity().and_then(|identity| identity.membership.as_ref()?.cluster);
        match (known, me.forming()) {
            (Some(id), _) => cluster.set_id(id),
            // Only who has no cluster listens to founders of one.
            (None, Some(forming)) => cluster.set_forming(&forming),
            (None, None) => {}
        }
        let calls = GrpcCalls::new(cluster.clone(), peers.clone(), Timing::default());
        let calls = Arc::new(calls.with_tls(tls.cloned()));
        let door = Arc::new(Door::new(&me, known));
        let inbox = Inbox::new(cluster.clone());
        inbox.set_meta(door.clone());
        Some(Self { me, cluster, peers, calls, door, inbox, tls: tls.cloned() })
    }

    /// What the gRPC listener answers with.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Says who answers other nodes about the life of the cluster.
    pub(super) fn set_consultant(&self, consultant: &Arc<dyn Consultant>) {
        self.door.set_consultant(consultant);
    }

    /// The way to the other nodes.
    pub(super) fn calls(&self) -> Arc<dyn Calls> {
        self.calls.clone()
    }

    /// Gets the node its place, and waits until the cluster is founded and the node belongs to it.
    ///
    /// # Errors
    /// [`StartError`] when waiting cannot help.
    pub(super) async fn settle(
        &self,
        config: &Config,
        dir: &mut DataDir,
        settings: RaftConfig,
    ) -> Result<Settled, StartError> {
        dir.check_name(&self.me.name)?;
        let identity = self.identify(dir).await?;
        let node = NodeId(identity.node);
        for (listed, name, address) in self.me.first_nodes() {
            self.peers.set_named(listed, &name, address);
        }
        let cluster = identity.membership.as_ref().and_then(|membership| membership.cluster);
        if let Some(id) = cluster {
            self.cluster.set_id(id);
            // Before it follows a log that it cannot read.
            formation::check_version(&self.me, &*self.calls, id).await?;
        }
        let transport = Grpc::new(self.cluster.clone(), self.peers.clone(), Timing::default());
        let transport = Arc::new(transport.with_tls(self.tls.clone()));
        let log = dir.path().join("log");
        let raft = RaftNode::start_with_peers(&log, node, settings, transport).await?;
        self.inbox.set_raft(Arc::new(raft.clone()));
        let first = self.founders(&identity);
        let meta = MetaHandle::join(&raft, dir.path(), self.calls(), first.as_ref()).await?;
        self.inbox.identify(node);
        self.door.open(node, meta.clone());
        let lookout = self.look_out(meta.clone(), cluster.is_none() && !self.me.has_data);
        self.founded(config, dir, &identity, &meta).await?;
        let incarnation = self.begin(&meta, node).await?;
        Ok(Settled { raft, meta, node, incarnation, lookout })
    }

    /// Whose the data dir is; of one without data, whose it becomes.
    async fn identify(&self, dir: &mut DataDir) -> Result<Identity, StartError> {
        let name = self.me.name.clone();
        let member = |node: NodeId, cluster| Identity {
            node: node.0,
            partitions: 0,
            membership: Some(Membership { name: name.clone(), cluster }),
        };
        let identity = match dir.identity().cloned() {
            Some(identity) if identity.membership.is_some() => identity,
            // A node that was alone becomes the first of its cluster, under its number.
            Some(alone) => Identity { membership: Some(Membership { name, cluster: None }), ..alone },
            None => match formation::find_place(&self.me, &*self.calls).await? {
                Place::Founder(node) => member(node, None),
                Place::Member { node, cluster, peers } => {
                    peers.into_iter().for_each(|(peer, address)| self.peers.set(peer, address));
                    member(node, Some(cluster))
                }
            },
        };
        Ok(dir.settle(identity)?)
    }

    /// The voters that the metadata group begins with, if this node is one of those who begin it.
    fn founders(&self, identity: &Identity) -> Option<BTreeSet<NodeId>> {
        let is_founding = identity.membership.as_ref().is_some_and(|membership| membership.cluster.is_none());
        let was_alone = identity.partitions != 0;
        (is_founding && !was_alone)
            .then(|| self.me.first_nodes().into_iter().map(|(node, ..)| node).collect())
    }

    /// Waits until the metadata names the cluster and its partitions, and keeps the id. Whoever comes first founds it.
    async fn founded(
        &self,
        config: &Config,
        dir: &mut DataDir,
        identity: &Identity,
        meta: &MetaHandle,
    ) -> Result<(), StartError> {
        wait_for_leader(meta).await?;
        if meta.read(|state| state.partitions().is_empty()) {
            let nodes = match identity.partitions {
                0 => self.me.first_nodes(),
                // The others get their numbers when they come.
                _ => vec![(NodeId(identity.node), self.me.name.clone(), self.me.address.clone())],
            };
            let replicas = first_placement(config, identity.partitions, &nodes);
            let log = match config.log {
                LogKind::Embedded => Some(ClusterLog::Embedded),
                LogKind::Kafka if identity.partitions > 0 && meta.read(|state| state.log().is_none()) => {
                    return Err(StartError::EmbeddedData);
                }
                // Which topic it is has yet to be found.
                LogKind::Kafka => None,
            };
            meta.found(&nodes, config.replication_factor, replicas, log).await?;
        }
        let id = meta.cluster_id();
        self.check_others(id).await?;
        let known = identity.membership.as_ref().and_then(|membership| membership.cluster);
        if known.is_some_and(|known| known != id) {
            return Err(StartError::OtherCluster { found: known.unwrap_or_default(), answered: id });
        }
        self.cluster.set_id(id);
        let membership = Some(Membership { name: self.me.name.clone(), cluster: Some(id) });
        dir.settle(Identity { membership, ..identity.clone() })?;
        tracing::info!(
            cluster = format!("{id:032x}"),
            node = identity.node,
            "this node is part of a cluster"
        );
        Ok(())
    }

    /// A node that brings data is not taken into another cluster, nor does it go on beside one that its peers founded.
    async fn check_others(&self, id: u128) -> Result<(), StartError> {
        if !self.me.has_data {
            return Ok(());
        }
        let seen = formation::look_around(&self.me, &*self.calls).await;
        let others = seen.iter().filter_map(|(_, answer)| u128::from_str_radix(&answer.cluster, 16).ok());
        match others.filter(|other| *other != 0).find(|other| *other != id) {
            Some(answered) => Err(StartError::OtherCluster { found: id, answered }),
            None => Ok(()),
        }
    }

    async fn begin(&self, meta: &MetaHandle, node: NodeId) -> Result<u32, StartError> {
        loop {
            match meta.begin_incarnation(node, &self.me.address, &self.me.zone).await {
                Err(MetaError::NoLeader { reason }) => {
                    tracing::info!(reason, "waiting for the metadata group");
                }
                begun => return Ok(begun?),
            }
        }
    }

    /// Keeps the addresses of other nodes up to date: from the metadata, and by asking those who may be there as long as
    /// the metadata has nothing to say. A founder learns its cluster's id from them if it `lacks_id`.
    fn look_out(&self, meta: MetaHandle, lacks_id: bool) -> JoinHandle<()> {
        let (me, cluster, peers, calls) =
            (self.me.clone(), self.cluster.clone(), self.peers.clone(), self.calls.clone());
        tokio::spawn(async move {
            let mut changes = meta.watch();
            loop {
                changes.borrow_and_update();
                let known = meta.state();
                for (node, entry) in known.nodes().iter().filter(|(_, entry)| !entry.address.is_empty()) {
                    peers.set_named(*node, &entry.name, entry.address.clone());
                }
                let has_leader = meta.group().leader().is_some();
                if known.cluster_id() != 0 && has_leader {
                    cluster.set_id(known.cluster_id());
                    if changes.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                let may_name = lacks_id && known.cluster_id() == 0;
                ask_around(&me, &*calls, may_name.then_some(&cluster), known.cluster_id(), &peers).await;
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                }
            }
        })
    }
}

/// Learns from those who answer where they are, and from fellow founders which id the cluster has.
async fn ask_around(
    me: &Introduction,
    calls: &dyn Calls,
    cluster: Option<&ClusterName>,
    own: u128,
    peers: &Peers,
) {
    for (address, answer) in formation::look_around(me, calls).await {
        let id = u128::from_str_radix(&answer.cluster, 16).unwrap_or(0);
        if own != 0 && id != 0 && id != own {
            let (own, other) = (format!("{own:032x}"), &answer.cluster);
            tracing::warn!(address, own, other, "a node at peers or join is of another cluster");
            continue;
        }
        if answer.node != 0 {
            peers.set_named(NodeId(answer.node), &answer.name, address.clone());
        }
        let Some(cluster) = cluster else { continue };
        match me.cluster_of_fellow(&answer) {
            Ok(Some(id)) => cluster.set_id(id),
            Ok(None) => {}
            Err(reason) => tracing::warn!(address, reason, "this node cannot be in the cluster of its peers"),
        }
    }
}

/// Waits until a leader of the metadata group has answered.
async fn wait_for_leader(meta: &MetaHandle) -> Result<(), StartError> {
    loop {
        match meta.fresh().await {
            Err(MetaError::NoLeader { reason }) => {
                tracing::info!(reason, "waiting for a majority of the metadata group");
            }
            fresh => return Ok(fresh?),
        }
    }
}

fn first_placement(config: &Config, alone: u32, nodes: &[(NodeId, String, String)]) -> Vec<Vec<NodeId>> {
    let count = match (alone, config.partitions) {
        (0, 0) => DEFAULT_PARTITIONS,
        (0, configured) => configured,
        (kept, _) => kept,
    };
    // Zones are known once the nodes have begun.
    let candidates: Vec<Candidate> =
        nodes.iter().map(|(node, ..)| Candidate { node: *node, zone: String::new() }).collect();
    placement::place(&candidates, config.replication_factor.into(), &vec![Vec::new(); count as usize])
}
