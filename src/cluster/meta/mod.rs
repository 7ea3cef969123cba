//! The metadata group: facts that all nodes agree on.
//!
//! Knows tenants' names and numbers, nodes and their incarnations, partitions and their replicas, the cluster's id and
//! secret. Does not know series or log positions of partitions. Path: `server`, `ingest` -> **here** -> a Raft group.
//! M1: a fact that a call returned is committed, and applied on this node. M2: numbers are never given twice, also not
//! after a restart. M3: the state is a pure function of the group's log; an image of it at one position and the log
//! after it restore it. What a node of the cluster cannot read yet is not written (`gates`). M4: what this node knows may
//! be old, until [`MetaHandle::fresh`] has returned.

mod bytes;
mod command;
mod follow;
mod gates;
mod image;
mod log;
mod propose;
mod recover;
mod secret;
mod state;

pub use command::NodeState;
pub use gates::{MetaVersion, Reads};
pub use log::LogKind;
pub use recover::{read_offline, recover_offline};
pub use secret::{SECRET_BYTES, Secret};
pub use state::{MetaState, NodeEntry, PartitionEntry};

use command::{Command, FirstNode, Response};
use follow::follow;
use parking_lot::{Mutex, RwLock};
use quorate_model::{ErrorCode, NodeId, PartitionId, Position, TenantId};
use quorate_raft::disk::blocking;
use quorate_raft::{Group, GroupId, RaftError, RaftNode};
use quorate_wire::Calls;
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// The metadata group's number.
pub const META_GROUP: GroupId = GroupId(0);
/// Responses of the newest commands, kept for those who proposed them.
const RECENT: usize = 1_024;
/// Applied commands after which a new image is due.
const IMAGE_EVERY: u64 = 1_000;

/// Why the metadata group did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The group failed; its code says whether the command may still take effect.
    #[error("metadata group: {0}")]
    Raft(#[from] RaftError),
    /// A stored image or command is damaged or of a newer version.
    #[error("metadata group: {place}: {detail}")]
    Damaged {
        /// File or position.
        place: String,
        /// What was found.
        detail: String,
    },
    /// The image cannot be written or read.
    #[error("metadata group: {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// As many tenants as there may be; nothing was changed.
    #[error(
        "the limit of {limit} tenants is reached, another one is not taken (err-quorate-max-tenants). To adjust \
         the limit, configure max_tenants."
    )]
    TooManyTenants {
        /// The limit.
        limit: usize,
    },
    /// The group knows better; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Not every node of the cluster reads this yet; nothing was changed.
    #[error(
        "this needs metadata version {needed}, and the cluster is at version {active} until every node that is not \
         gone or lost runs a version of Quorate that reads it"
    )]
    Gated {
        /// The first version that reads it.
        needed: MetaVersion,
        /// The version of the cluster.
        active: MetaVersion,
    },
    /// The cluster writes another form of this by now; nothing was changed.
    #[error("the cluster is at metadata version {active} by now and writes this in another form")]
    Outdated {
        /// The version of the cluster.
        active: MetaVersion,
    },
    /// No leader answered in time.
    #[error("the metadata group does not answer: {reason}")]
    NoLeader {
        /// What was tried last.
        reason: String,
    },
    /// Applying has stopped.
    #[error("the metadata group no longer applies its log: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl MetaError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Raft(error) => error.code(),
            Self::Damaged { .. } => ErrorCode::Corrupt,
            Self::TooManyTenants { .. } | Self::Refused(_) | Self::Outdated { .. } => ErrorCode::Refused,
            Self::File { .. } | Self::Gated { .. } | Self::NoLeader { .. } | Self::Stopped { .. } => {
                ErrorCode::Unavailable
            }
        }
    }
}

/// The metadata of the cluster as this node knows it. Clones share it.
#[derive(Clone)]
pub struct MetaHandle(Arc<Inner>);

struct Inner {
    node: RaftNode,
    group: Group,
    /// The way to the other members, if there may be any.
    calls: Option<Arc<dyn Calls>>,
    /// What this node reads.
    reads: Reads,
    image_path: PathBuf,
    state: RwLock<MetaState>,
    recent: Mutex<VecDeque<(Position, Response)>>,
    /// Names on their way to a number.
    arriving: Mutex<BTreeSet<String>>,
    applied: watch::Receiver<Position>,
    /// Why applying stopped.
    failure: OnceLock<String>,
    /// Position of the image. Held while one is written: there is one file.
    imaged: tokio::sync::Mutex<Position>,
}

impl MetaHandle {
    /// Restores the metadata from `dir` and the group's log, and follows the log from then on, as the only member of the
    /// group. The first start gives the cluster its id.
    ///
    /// # Errors
    /// [`MetaError`] if the group does not start or what is stored cannot be used.
    pub async fn start(node: &RaftNode, dir: &Path) -> Result<Self, MetaError> {
        let group = node.group(META_GROUP).await?;
        let handle = Self::open(node, dir, group, None, Reads::of_this_build())?;
        // Proposed at every start and a no-op after the first: its answer means that the log is applied.
        handle.propose(Command::NameCluster { id: rand::random() }).await?;
        Ok(handle)
    }

    /// The same as one of several members, which `calls` reaches. `first` are the members that the group begins with, if
    /// this node is one of them. Waits for nobody: what is stored is there at once, the rest after
    /// [`MetaHandle::fresh`].
    ///
    /// # Errors
    /// As [`MetaHandle::start`].
    pub async fn join(
        node: &RaftNode,
        dir: &Path,
        calls: Arc<dyn Calls>,
        first: Option<&BTreeSet<NodeId>>,
    ) -> Result<Self, MetaError> {
        Self::join_reading(node, dir, calls, first, Reads::of_this_build()).await
    }

    /// The same of a node that reads no more than this.
    async fn join_reading(
        node: &RaftNode,
        dir: &Path,
        calls: Arc<dyn Calls>,
        first: Option<&BTreeSet<NodeId>>,
        reads: Reads,
    ) -> Result<Self, MetaError> {
        let group = node.member(META_GROUP).await?;
        let handle = Self::open(node, dir, group.clone(), Some(calls), reads)?;
        if let Some(first) = first {
            group.begin(first).await?;
        }
        Ok(handle)
    }

    fn open(
        node: &RaftNode,
        dir: &Path,
        group: Group,
        calls: Option<Arc<dyn Calls>>,
        reads: Reads,
    ) -> Result<Self, MetaError> {
        let image_path = dir.join("meta.image");
        let (position, state) = image::load(&**node.disk(), &image_path)?;
        let damaged = |detail| MetaError::Damaged { place: image_path.display().to_string(), detail };
        reads.check(state.active_version()).map_err(damaged)?;
        let (progress, applied) = watch::channel(position);
        let progress = Arc::new(progress);
        let handle = Self(Arc::new(Inner {
            node: node.clone(),
            group: group.clone(),
            calls,
            reads,
            image_path,
            state: RwLock::new(state),
            recent: Mutex::default(),
            arriving: Mutex::default(),
            applied,
            failure: OnceLock::new(),
            imaged: tokio::sync::Mutex::new(position),
        }));
        group.set_owner(Arc::new(follow::Owner::new(&handle.0, &progress)));
        tokio::spawn(follow(Arc::downgrade(&handle.0), group, position, progress));
        Ok(handle)
    }

    /// Waits until the metadata stops following its log, which it does only by failing or with its node. Gives the
    /// reason: what this node knows of tenants would get old, so it should not go on.
    pub async fn failed(&self) -> String {
        let mut applied = self.0.applied.clone();
        while applied.changed().await.is_ok() {}
        self.why_stopped()
    }

    fn why_stopped(&self) -> String {
        self.0.failure.get().cloned().unwrap_or_else(|| "its group ended".to_owned())
    }

    /// The cluster's id, given at the first start of its first node.
    pub fn cluster_id(&self) -> u128 {
        self.0.state.read().cluster_id()
    }

    /// A new incarnation for this node, which is alone: one more than its last. What it reads may be written.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn register_alone(&self, node: NodeId) -> Result<u32, MetaError> {
        let response = self.propose(Command::RegisterNode { name: node.to_string() }).await?;
        self.begin_version(&[node]).await?;
        match response {
            Response::Incarnation(incarnation) => Ok(incarnation),
            other => Err(unexpected(other)),
        }
    }

    /// A new incarnation for a node of the cluster: one more than its last. From now on it is at `address`.
    ///
    /// # Errors
    /// [`MetaError::Refused`] if it was removed or replaced.
    pub async fn begin_incarnation(&self, node: NodeId, address: &str, zone: &str) -> Result<u32, MetaError> {
        let (address, zone) = (address.to_owned(), zone.to_owned());
        match self.propose(Command::BeginIncarnation { node, address, zone }).await? {
            Response::Incarnation(incarnation) => Ok(incarnation),
            other => Err(unexpected(other)),
        }
    }

    /// The same for a node that stays where it is.
    ///
    /// # Errors
    /// As [`MetaHandle::begin_incarnation`].
    pub async fn begin_again(&self, node: NodeId) -> Result<u32, MetaError> {
        let place = self
            .read(|state| state.nodes().get(&node).map(|entry| (entry.address.clone(), entry.zone.clone())));
        let (address, zone) = place.unwrap_or_default();
        self.begin_incarnation(node, &address, &zone).await
    }

    /// Founds the cluster with its first nodes, each with number, name and address, unless it was founded before. They read
    /// what this one reads. A `log` that needs no looking for is said first, so that nobody who comes later says another one.
    ///
    /// # Errors
    /// [`MetaError`]; [`MetaError::Refused`] if others founded it with another log.
    pub async fn found(
        &self,
        nodes: &[(NodeId, String, String)],
        replication: u8,
        replicas: Vec<Vec<NodeId>>,
        log: Option<LogKind>,
    ) -> Result<(), MetaError> {
        let first = |(node, name, address): &(NodeId, String, String)| FirstNode {
            node: *node,
            name: name.clone(),
            address: address.clone(),
        };
        let numbers: Vec<NodeId> = nodes.iter().map(|(node, ..)| *node).collect();
        // First, so that nothing waits for a version that all of them read.
        self.begin_version(&numbers).await?;
        if let Some(log) = log {
            match self.set_log(log).await {
                // A cluster that cannot say it has the embedded one, see `MetaState::is_embedded`.
                Ok(()) | Err(MetaError::Gated { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let nodes = nodes.iter().map(first).collect();
        let found = Command::Found { id: rand::random(), nodes, replication, replicas };
        done(self.propose(found).await?)
    }

    /// The number of the node called `name`, which has no data: a new one, or the one that it has if it never ran.
    ///
    /// # Errors
    /// [`MetaError::Refused`] when a node of that name has data somewhere, unless it is to `replace` it.
    pub async fn add_node(
        &self,
        name: &str,
        address: &str,
        zone: &str,
        replace: bool,
    ) -> Result<NodeId, MetaError> {
        let [name, address, zone] = [name, address, zone].map(str::to_owned);
        match self.propose(Command::AddNode { name, address, zone, replace }).await? {
            Response::Node(node) => Ok(node),
            other => Err(unexpected(other)),
        }
    }

    /// Moves replicas, as planned for the placement of `epoch`.
    ///
    /// # Errors
    /// [`MetaError::Refused`] when the placement has changed since.
    pub async fn place(&self, epoch: u32, moves: Vec<(PartitionId, Vec<NodeId>)>) -> Result<(), MetaError> {
        done(self.propose(Command::Place { epoch, moves }).await?)
    }

    /// Says what becomes of a node that was `seen` as this entry when that was decided.
    ///
    /// # Errors
    /// [`MetaError::Refused`] when there is no such node, it is gone already, or something else was said of it since. In a
    /// cluster with nodes that do not read that yet, the last word counts, and [`MetaError::Gated`] tells what has none.
    pub async fn set_node_state(
        &self,
        node: NodeId,
        seen: &NodeEntry,
        state: NodeState,
    ) -> Result<(), MetaError> {
        let (was, revision) = (seen.state, seen.revision);
        if !self.has_gates() {
            match self.propose(Command::SetNodeState { node, state }).await {
                // They came meanwhile, and the old form counts no more.
                Ok(Response::Refused(_)) | Err(MetaError::Outdated { .. }) if self.has_gates() => {}
                response => return done(response?),
            }
        }
        done(self.propose(Command::ChangeNodeState { node, was, revision, to: state }).await?)
    }

    fn has_gates(&self) -> bool {
        self.read(MetaState::active_version) >= MetaVersion::GATES
    }

    /// Takes a number back that was just given to a node which gets no place after all; one that has begun, or that others
    /// expect, keeps it.
    pub(crate) async fn take_back(&self, node: NodeId) {
        let is_new = |entry: &&NodeEntry| entry.state == NodeState::Member && entry.incarnation == 0;
        let Some(seen) = self.read(|state| state.nodes().get(&node).filter(is_new).cloned()) else { return };
        if let Err(error) = self.set_node_state(node, &seen, NodeState::Gone).await {
            tracing::warn!(%node, %error, "the number of a node that was refused is not taken back");
        }
    }

    /// The state as this node knows it.
    pub fn state(&self) -> MetaState {
        self.0.state.read().clone()
    }

    /// Looks at the state as this node knows it.
    pub fn read<T>(&self, look: impl FnOnce(&MetaState) -> T) -> T {
        look(&self.0.state.read())
    }

    /// Follows the applied position: it changes whenever the state does.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.0.applied.clone()
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// The number of the tenant called `name`, given now if it has none. A number is for good, so `limit` bounds
    /// how many this node gives.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn intern_tenant(&self, name: &str, limit: usize) -> Result<TenantId, MetaError> {
        let _arrival = match self.arrive(name, limit)? {
            Arrival::Known(tenant) => return Ok(tenant),
            arrival => arrival,
        };
        match self.propose(Command::InternTenant { name: name.to_owned() }).await? {
            Response::Tenant(tenant) => Ok(tenant),
            other => Err(unexpected(other)),
        }
    }

    /// Counts a tenant among those that will have a number.
    fn arrive(&self, name: &str, limit: usize) -> Result<Arrival<'_>, MetaError> {
        let mut arriving = self.0.arriving.lock();
        let state = self.0.state.read();
        if let Some(tenant) = state.tenant(name) {
            return Ok(Arrival::Known(tenant));
        }
        if arriving.contains(name) {
            return Ok(Arrival::Counted);
        }
        if state.tenants.len() + arriving.len() >= limit {
            return Err(MetaError::TooManyTenants { limit });
        }
        arriving.insert(name.to_owned());
        Ok(Arrival::First { meta: self, name: name.to_owned() })
    }

    /// The number of the tenant called `name`, if it has one.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        self.0.state.read().tenant(name)
    }

    /// The name of a tenant.
    pub fn tenant_name(&self, tenant: TenantId) -> Option<Arc<str>> {
        self.0.state.read().tenant_name(tenant)
    }

    /// Every tenant, by number.
    pub fn tenants(&self) -> Vec<(TenantId, Arc<str>)> {
        self.0.state.read().tenants()
    }

    /// Writes an image and trims the log if many commands were applied since the last, if the group's few
    /// entries keep old segments of the shared log from being deleted, or if `force`.
    ///
    /// # Errors
    /// [`MetaError`]; the old image and the log then stay as they were.
    pub async fn compact(&self, force: bool) -> Result<(), MetaError> {
        let mut imaged = self.0.imaged.lock().await;
        let applied = *self.0.applied.borrow();
        let is_due = applied.0.saturating_sub(imaged.0) >= IMAGE_EVERY;
        if !force && !is_due && !self.0.node.oldest_pinning_groups().contains(&META_GROUP) {
            return Ok(());
        }
        if applied > *imaged {
            let (position, bytes) = {
                let state = self.0.state.read();
                let position = *self.0.applied.borrow();
                (position, image::encode(position, &state))
            };
            let (disk, path) = (Arc::clone(self.0.node.disk()), self.0.image_path.clone());
            let written = blocking(move || image::store(&*disk, &path, &bytes)).await;
            written.map_err(|_panicked| stopped("writing its image panicked"))??;
            *imaged = position;
        }
        let trimmed = *imaged;
        drop(imaged);
        Ok(self.0.group.trim(trimmed).await?)
    }
}

/// A tenant that asks for its number.
enum Arrival<'a> {
    Known(TenantId),
    /// Another request asks for the same one.
    Counted,
    First {
        meta: &'a MetaHandle,
        name: String,
    },
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if let Self::First { meta, name } = self {
            meta.0.arriving.lock().remove(name);
        }
    }
}

fn stopped(reason: &str) -> MetaError {
    MetaError::Stopped { reason: reason.to_owned() }
}

fn done(response: Response) -> Result<(), MetaError> {
    match response {
        Response::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(response: Response) -> MetaError {
    match response {
        Response::Refused(reason) => MetaError::Refused(reason),
        response => MetaError::Damaged {
            place: "response".to_owned(),
            detail: format!("{response:?} answers another command"),
        },
    }
}

/// States for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Nodes 1, 2, ... called n1, n2, ... in these states, all begun but those that are expected, and these replicas.
    pub(crate) fn state_of(nodes: &[NodeState], replication: u8, replicas: Vec<Vec<NodeId>>) -> MetaState {
        let entry = |(number, state): (u64, &NodeState)| NodeEntry {
            name: format!("n{number}"),
            address: format!("h:{number}"),
            incarnation: u32::from(*state != NodeState::Expected),
            ..NodeEntry::new(*state)
        };
        let partition = |replicas: Vec<NodeId>| PartitionEntry { first: replicas.clone(), replicas };
        MetaState {
            nodes: (1..).zip(nodes).map(|(at, state)| (NodeId(at), entry((at, state)))).collect(),
            next_node: nodes.len() as u64 + 1,
            replication,
            epoch: 1,
            partitions: replicas.into_iter().map(partition).collect(),
            ..MetaState::default()
        }
    }
}

#[cfg(test)]
mod tests;
