//! Snapshots: how a member that lacks entries which nobody has any more gets the owner's state instead.
//!
//! Knows positions, memberships, and bytes that the owner of the group makes and reads. Does not know what they mean:
//! they may be the whole state, or only say where the rest can be fetched.
//! Path: openraft -> `network` of the leader -> `inbound` of the member -> **here** -> the owner.
//! SN1: the owner's state is durable before the log says that it stands for entries. A crash in between leaves an owner
//! that is ahead of its log, which the leader mends.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::{NodeId, Position};
use quorate_wire::Transport;
use quorate_wire::raft::{Ask, answer, request};

use crate::segment_log::{GroupId, GroupLog, Purge};
use crate::types::{RaftSnapshotMeta, RaftStoredMembership, from_log_id};

/// Longest wait for the answer to one question.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What makes and takes snapshots of a group: whoever applies its log.
#[async_trait]
pub trait SnapshotOwner: Send + Sync + 'static {
    /// The state as another member gets it: the position that it has applied, and its bytes. It need not be the newest,
    /// but must not be older than what the log was trimmed to.
    ///
    /// # Errors
    /// Why there is none now.
    async fn give(&self) -> Result<(Position, Bytes), String>;

    /// Answers a question about what was given.
    ///
    /// # Errors
    /// Why there is no answer; the member that asks gives up.
    async fn tell(&self, question: Bytes) -> Result<Bytes, String>;

    /// Gets what `state`, which `giver` gave, describes, without changing anything that is in use. May take long.
    ///
    /// # Errors
    /// Why it cannot be had; the leader tries again.
    async fn fetch(&self, giver: Giver, position: Position, state: Bytes)
    -> Result<Box<dyn Fetched>, String>;
}

/// The member that gives a snapshot.
pub struct Giver {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) transport: Arc<dyn Transport>,
}

impl Giver {
    /// Asks its owner about what it gave.
    ///
    /// # Errors
    /// Why there is no answer; it may be asked again.
    pub async fn ask(&self, question: Bytes) -> Result<Bytes, String> {
        let message = request::Message::Ask(Ask { question });
        match self.transport.call(self.node, self.group.0, message, ASK_TIMEOUT).await {
            Ok(answer::Message::Told(told)) => Ok(told.answer),
            Ok(other) => Err(format!("{other:?} answers another request")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A state that is here and not yet in use. Dropping it changes nothing.
#[async_trait]
pub trait Fetched: Send + Sync + 'static {
    /// Puts it in place of the owner's state, durably.
    ///
    /// # Errors
    /// Why it is not in place; the group then stops.
    async fn install(self: Box<Self>) -> Result<(), String>;
}

/// A snapshot as openraft carries it.
pub(crate) enum SnapshotData {
    /// The owner's own state, which it has.
    Own,
    /// Another member's state; `proposal` is the position that it has applied.
    Fetched { proposal: u64, state: Box<dyn Fetched> },
}

/// What is needed to make a snapshot of a group, shared by its parts.
#[derive(Clone)]
pub(crate) struct Snapshots {
    log: GroupLog,
    /// Memberships applied since the last snapshot, oldest first; at least the newest is kept.
    memberships: Arc<Mutex<Vec<RaftStoredMembership>>>,
    owner: Arc<OnceLock<Arc<dyn SnapshotOwner>>>,
}

/// A snapshot that can be sent.
pub(crate) struct Given {
    pub(crate) meta: RaftSnapshotMeta,
    pub(crate) proposal: u64,
    pub(crate) state: Bytes,
}

impl Snapshots {
    pub(crate) fn new(log: GroupLog, memberships: Vec<RaftStoredMembership>) -> Self {
        Self { log, memberships: Arc::new(Mutex::new(memberships)), owner: Arc::default() }
    }

    /// Sets the owner; a second one is ignored.
    pub(crate) fn set_owner(&self, owner: Arc<dyn SnapshotOwner>) {
        self.owner.get_or_init(|| owner);
    }

    pub(crate) fn owner(&self) -> Option<&Arc<dyn SnapshotOwner>> {
        self.owner.get()
    }

    pub(crate) fn add_membership(&self, membership: RaftStoredMembership) {
        self.memberships.lock().push(membership);
    }

    pub(crate) fn replace_memberships(&self, membership: RaftStoredMembership) {
        *self.memberships.lock() = vec![membership];
    }

    pub(crate) fn membership_at(&self, index: Option<u64>) -> RaftStoredMembership {
        let at = |m: &&RaftStoredMembership| m.log_id().as_ref().map(|id| id.index) <= index;
        self.memberships.lock().iter().rev().find(at).cloned().unwrap_or_default()
    }

    /// Forgets memberships older than the one in force at `index`.
    pub(crate) fn forget_before(&self, index: Option<u64>) {
        let keep = self.membership_at(index);
        self.memberships.lock().retain(|m| m.log_id() >= keep.log_id());
    }

    /// What the owner gives, with its place in the log.
    pub(crate) async fn give(&self) -> Result<Given, String> {
        let owner = self.owner().ok_or("the group has no owner yet")?;
        let (Position(position), state) = owner.give().await?;
        // Entries that follow and are no proposals change nothing for the owner.
        let purged = self.log.state().purged.filter(|purged| purged.up_to.index >= position);
        let last = match purged {
            Some(Purge { up_to, proposal }) if proposal <= position => Some(up_to),
            Some(_) => None,
            None => self.log.ids(position, position + 1).first().copied(),
        };
        let last =
            last.ok_or_else(|| format!("the log does not hold position {position} of the owner's state"))?;
        let last_membership = self.membership_at(Some(last.index));
        if last_membership.log_id().is_none() {
            return Err(format!("the members at position {position} are not known any more"));
        }
        let meta = RaftSnapshotMeta { last_log_id: Some(from_log_id(last)), last_membership };
        Ok(Given { meta, proposal: position, state })
    }
}
