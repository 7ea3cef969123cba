//! The metadata group: facts that all nodes agree on.
//!
//! Knows tenants' names and numbers, nodes and their incarnations, the cluster's id. Does not know series or
//! log positions of partitions. Path: `server`, `ingest` -> **here** -> a Raft group.
//! M1: a fact that a call returned is committed. M2: numbers are never given twice, also not after a
//! restart. M3: the state is a pure function of the group's log; an image of it at one position and the log
//! after it restore it.

mod command;
mod image;
mod state;

pub use state::MetaState;

use command::{Command, Response};
use parking_lot::{Mutex, RwLock};
use quorate_model::{ErrorCode, Position, TenantId};
use quorate_raft::{Group, GroupId, RaftError, RaftNode};
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
    /// Applying has stopped; the log of the node says why.
    #[error("the metadata group no longer applies its log")]
    Stopped,
}

impl MetaError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Raft(error) => error.code(),
            Self::Damaged { .. } => ErrorCode::Corrupt,
            Self::TooManyTenants { .. } => ErrorCode::Refused,
            Self::File { .. } | Self::Stopped => ErrorCode::Unavailable,
        }
    }
}

/// The metadata of the cluster as this node knows it. Clones share it.
#[derive(Clone)]
pub struct MetaHandle(Arc<Inner>);

struct Inner {
    node: RaftNode,
    group: Group,
    image_path: PathBuf,
    state: RwLock<MetaState>,
    recent: Mutex<VecDeque<(Position, Response)>>,
    /// Names on their way to a number.
    arriving: Mutex<BTreeSet<String>>,
    applied: watch::Receiver<Position>,
    /// Why applying stopped.
    failure: OnceLock<String>,
    imaged: Mutex<Position>,
}

impl MetaHandle {
    /// Restores the metadata from `dir` and the group's log, and follows the log from then on. The first
    /// start gives the cluster its id.
    ///
    /// # Errors
    /// [`MetaError`] if the group does not start or what is stored cannot be used.
    pub async fn start(node: &RaftNode, dir: &Path) -> Result<Self, MetaError> {
        let group = node.group(META_GROUP).await?;
        let image_path = dir.join("meta.image");
        let (position, state) = image::load(&image_path)?;
        let (progress, applied) = watch::channel(position);
        let handle = Self(Arc::new(Inner {
            node: node.clone(),
            group,
            image_path,
            state: RwLock::new(state),
            recent: Mutex::default(),
            arriving: Mutex::default(),
            applied,
            failure: OnceLock::new(),
            imaged: Mutex::new(position),
        }));
        tokio::spawn(follow(Arc::downgrade(&handle.0), handle.0.group.reader(position), progress));
        // Proposed at every start and a no-op after the first: its answer means that the log is applied.
        handle.propose(Command::NameCluster { id: rand::random() }).await?;
        Ok(handle)
    }

    /// Waits until the metadata stops following its log, which it does only by failing or with its node. Gives the
    /// reason: what this node knows of tenants would get old, so it should not go on.
    pub async fn failed(&self) -> String {
        let mut applied = self.0.applied.clone();
        while applied.changed().await.is_ok() {}
        self.0.failure.get().cloned().unwrap_or_else(|| "its group ended".to_owned())
    }

    /// The cluster's id, given at the first start of its first node.
    pub fn cluster_id(&self) -> u128 {
        self.0.state.read().cluster_id()
    }

    /// A new incarnation for the node called `name`: one more than its last.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn register_node(&self, name: &str) -> Result<u32, MetaError> {
        match self.propose(Command::RegisterNode { name: name.to_owned() }).await? {
            Response::Incarnation(incarnation) => Ok(incarnation),
            other => Err(unexpected(&other)),
        }
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
            other => Err(unexpected(&other)),
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
        let imaged = *self.0.imaged.lock();
        let applied = *self.0.applied.borrow();
        let is_due = applied.0.saturating_sub(imaged.0) >= IMAGE_EVERY;
        if !force && !is_due && !self.0.node.oldest_pinning_groups().contains(&META_GROUP) {
            return Ok(());
        }
        if applied > imaged {
            let (position, bytes) = {
                let state = self.0.state.read();
                let position = *self.0.applied.borrow();
                (position, image::encode(position, &state))
            };
            let path = self.0.image_path.clone();
            let written = tokio::task::spawn_blocking(move || image::store(&path, &bytes)).await;
            written.map_err(|_panicked| MetaError::Stopped)??;
            *self.0.imaged.lock() = position;
        }
        let imaged = *self.0.imaged.lock();
        Ok(self.0.group.trim(imaged).await?)
    }

    async fn propose(&self, command: Command) -> Result<Response, MetaError> {
        let position = self.0.group.propose(command.encode().into()).await?;
        let mut applied = self.0.applied.clone();
        applied.wait_for(|now| *now >= position).await.map_err(|_closed| MetaError::Stopped)?;
        let recent = self.0.recent.lock();
        let response = recent.iter().rev().find(|(at, _)| *at == position);
        response.map(|(_, response)| response.clone()).ok_or(MetaError::Stopped)
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

fn unexpected(response: &Response) -> MetaError {
    MetaError::Damaged {
        place: "response".to_owned(),
        detail: format!("{response:?} answers another command"),
    }
}

/// Applies the group's log until the handle is gone, the group stops, or a command cannot be read.
async fn follow(
    inner: std::sync::Weak<Inner>,
    mut reader: quorate_raft::GroupReader,
    progress: watch::Sender<Position>,
) {
    loop {
        let entries = match reader.next().await {
            Ok(entries) => entries,
            Err(RaftError::Stopped { .. }) => return,
            Err(error) => return stop(&inner, format!("its log cannot be read: {error}")),
        };
        let Some(inner) = inner.upgrade() else { return };
        for entry in entries {
            let command = match Command::decode(&entry.payload) {
                Ok(command) => command,
                Err(detail) => {
                    let at = entry.position;
                    return stop(&Arc::downgrade(&inner), format!("command {at} cannot be read: {detail}"));
                }
            };
            // Position and state move together: `compact` reads both under the lock.
            let mut state = inner.state.write();
            let response = state.apply(command);
            let mut recent = inner.recent.lock();
            recent.push_back((entry.position, response));
            if recent.len() > RECENT {
                recent.pop_front();
            }
            drop(recent);
            progress.send_replace(entry.position);
        }
    }
}

/// Keeps the reason; the end of `follow` makes it known.
fn stop(inner: &std::sync::Weak<Inner>, reason: String) {
    if let Some(inner) = inner.upgrade() {
        inner.failure.get_or_init(|| reason);
    }
}

#[cfg(test)]
mod tests;
