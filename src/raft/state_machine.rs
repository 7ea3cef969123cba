//! openraft's state machine, kept tiny: what is applied, and the memberships.
//!
//! Entries are consumed by the readers of `group`, which follow the committed position published here; so an
//! image and its position stay with the owner of the group. A snapshot in the log is only a position with a membership:
//! the promise of the owner that it needs nothing before it. What another member gets instead is [`crate::snapshot`]'s.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use tokio::sync::watch;

use crate::segment_log::{GroupLog, Purge};
use crate::snapshot::{SnapshotData, Snapshots};
use crate::storage::durable;
use crate::types::{
    RaftLogId, RaftPayload, RaftSnapshotMeta, RaftStoredMembership, TypeConfig, decode_membership,
    from_log_id, from_snapshot, to_log_id, to_snapshot,
};

/// Position up to which the owner allows the log to be trimmed; 0 allows nothing.
pub(crate) type TrimTarget = Arc<AtomicU64>;

/// State machine of one group.
pub(crate) struct StateMachine {
    log: GroupLog,
    applied: Option<RaftLogId>,
    snapshots: Snapshots,
    committed: watch::Sender<u64>,
    trim_target: TrimTarget,
}

impl StateMachine {
    /// Reads the state from the log: what is known committed counts as applied.
    pub(crate) fn open(log: GroupLog) -> io::Result<Self> {
        let state = log.state();
        let snapshot = state.snapshot.as_ref().map(from_snapshot).transpose()?;
        let (snapshot_last, snapshot_membership) =
            snapshot.map(|meta| (meta.last_log_id, meta.last_membership)).unwrap_or_default();
        let applied = state.committed.map(from_log_id).max(snapshot_last);
        let mut memberships = vec![snapshot_membership];
        let mut up_to = applied.as_ref().map(|applied| applied.index);
        let mut in_log = Vec::new();
        while let Some(id) = up_to.and_then(|up_to| log.last_membership(up_to)) {
            for entry in log.read(id.index, id.index + 1, usize::MAX)? {
                let membership = decode_membership(&entry.payload)?;
                in_log.push(RaftStoredMembership::new(Some(from_log_id(id)), membership));
            }
            up_to = id.index.checked_sub(1);
        }
        // What an older snapshot stands for may still be in the log.
        let newest = memberships[0].log_id().as_ref().map(|id| id.index);
        memberships
            .extend(in_log.into_iter().rev().filter(|m| m.log_id().as_ref().map(|id| id.index) > newest));
        let (committed, _) = watch::channel(applied.as_ref().map_or(0, |id| id.index));
        let snapshots = Snapshots::new(log.clone(), memberships);
        Ok(Self { log, applied, snapshots, committed, trim_target: TrimTarget::default() })
    }

    /// Follows the committed position.
    pub(crate) fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Where the owner says how far the log may be trimmed.
    pub(crate) fn trim_target(&self) -> TrimTarget {
        Arc::clone(&self.trim_target)
    }

    /// What snapshots for other members are made with.
    pub(crate) fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// The snapshot to take: at the trim target when it is still in the log, else of all that is applied.
    fn snapshot_meta(&self) -> RaftSnapshotMeta {
        let target = self.trim_target.load(Ordering::SeqCst);
        let applied = self.applied.as_ref().map(|id| id.index);
        let in_log = (target > 0 && Some(target) <= applied)
            .then(|| self.log.ids(target, target + 1).first().copied())
            .flatten()
            .map(from_log_id);
        let last_log_id = in_log.or(self.applied);
        let last_membership = self.snapshots.membership_at(last_log_id.as_ref().map(|id| id.index));
        RaftSnapshotMeta { last_log_id, last_membership }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.applied, self.snapshots.membership_at(Some(u64::MAX))))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            if let RaftPayload::Membership(membership) = entry.payload {
                self.snapshots.add_membership(RaftStoredMembership::new(Some(entry.log_id), membership));
            }
            self.applied = Some(entry.log_id);
            // Before the answer: who has it finds the entry when reading.
            self.committed.send_replace(entry.log_id.index);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let meta = self.snapshot_meta();
        self.snapshots.forget_before(meta.last_log_id.as_ref().map(|id| id.index));
        SnapshotBuilder { log: self.log.clone(), meta }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), io::Error> {
        let proposal = match data {
            SnapshotData::Own => None,
            SnapshotData::Fetched { proposal, state } => {
                state.install().await.map_err(io::Error::other)?;
                Some(proposal)
            }
        };
        let snapshot = to_snapshot(meta);
        match meta.last_log_id.as_ref().zip(proposal) {
            Some((last, proposal)) => {
                // Readers of the owner's state go on from the last proposal in it, which may come before the last entry.
                let purge = Purge { up_to: to_log_id(last), proposal };
                durable(|done| self.log.save_snapshot_and_purge(snapshot, purge, done)).await?;
            }
            None => durable(|done| self.log.save_snapshot(snapshot, done)).await?,
        }
        self.applied = meta.last_log_id;
        self.snapshots.replace_memberships(meta.last_membership.clone());
        self.committed.send_replace(self.applied.as_ref().map_or(0, |id| id.index));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let meta = self.log.state().snapshot.as_ref().map(from_snapshot).transpose()?;
        Ok(meta.map(|meta| Snapshot { meta, snapshot: SnapshotData::Own }))
    }
}

/// Makes a snapshot durable: a record of its position and membership.
pub(crate) struct SnapshotBuilder {
    log: GroupLog,
    meta: RaftSnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        durable(|done| self.log.save_snapshot(to_snapshot(&self.meta), done)).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Own })
    }
}
