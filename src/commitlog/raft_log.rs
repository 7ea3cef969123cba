//! The embedded log: one Raft group per partition over the node's segment log.
//!
//! A member that follows asks the leader for the committed position and takes no entries: whoever appends finds the
//! leader first.

use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::{ErrorCode, NodeId, PartitionId, Position};
use quorate_raft::{Group, GroupId, GroupReader, RaftError, RaftNode};
use quorate_wire::{Calls, store};
use std::sync::Arc;
use std::time::Duration;

use crate::{LogEntry, LogError, LogReader, PartitionLog};

/// How long a leader may take to confirm its position.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Above so many segments nothing old is kept for members that lag.
const MANY_SEGMENTS: usize = 16;

/// The log of one partition in its Raft group. Clones share it.
#[derive(Clone)]
pub struct RaftLog {
    node: RaftNode,
    partition: PartitionId,
    group: Group,
    /// The way to the other members, if there may be any, and the incarnation that all of them tell.
    shared: Option<(Arc<dyn Calls>, u32)>,
}

/// The group of a partition: its number after the metadata group's, which is 0. Stored, so never changed.
pub fn group_of(partition: PartitionId) -> GroupId {
    GroupId(u64::from(partition.0) + 1)
}

/// The newest committed position of each of `partitions`, in their order, confirmed with a majority after this was called,
/// if `node` leads it. Takes no longer than `patience`. Cost: as [`RaftNode::read_indexes`].
///
/// # Errors
/// For each partition: [`LogError::NotLeader`] if it is led elsewhere or not at all, [`LogError::Unavailable`].
pub async fn read_indexes(
    node: &RaftNode,
    partitions: &[PartitionId],
    patience: Duration,
) -> Vec<Result<Position, LogError>> {
    let groups: Vec<GroupId> = partitions.iter().copied().map(group_of).collect();
    node.read_indexes(&groups, patience).await.into_iter().map(|read| Ok(read?)).collect()
}

impl RaftLog {
    /// Starts the partition's group with this node as its only member, or joins the running one.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the group cannot run here, [`LogError::Damaged`] when its log is.
    pub async fn start(node: &RaftNode, partition: PartitionId) -> Result<Self, LogError> {
        let group = node.group(group_of(partition)).await?;
        Ok(Self { node: node.clone(), partition, group, shared: None })
    }

    /// Starts the partition's group as one of several members, which `calls` reaches. A lost disk does not begin such
    /// a log again, so its `incarnation`, never 0, is that of the cluster.
    ///
    /// # Errors
    /// As [`RaftLog::start`].
    pub async fn join(
        node: &RaftNode,
        partition: PartitionId,
        calls: Arc<dyn Calls>,
        incarnation: u32,
    ) -> Result<Self, LogError> {
        let group = node.member(group_of(partition)).await?;
        Ok(Self { node: node.clone(), partition, group, shared: Some((calls, incarnation)) })
    }

    /// The group of the log.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The newest committed position, confirmed with a majority, if this node leads.
    ///
    /// # Errors
    /// [`LogError::NotLeader`] if it does not.
    async fn read_index(&self) -> Result<Position, LogError> {
        Ok(self.group.read_index().await?)
    }

    /// The same from the leader, wherever it is.
    async fn index_of_leader(&self, calls: &dyn Calls, leader: NodeId) -> Result<Position, LogError> {
        let unavailable = |reason: String| LogError::Unavailable { reason };
        let request = store::ReadIndexRequest { partitions: vec![self.partition.0] };
        let answered = calls.read_index(leader, request, ASK_TIMEOUT).await;
        let answer = answered.map_err(|error| unavailable(error.to_string()))?;
        match answer.indexes.first().and_then(|index| index.outcome.as_ref()) {
            Some(store::read_index_answer::index::Outcome::Position(position)) => Ok(Position(*position)),
            Some(store::read_index_answer::index::Outcome::NotLeader(other)) => {
                Err(LogError::NotLeader { leader: (*other != 0).then_some(NodeId(*other)) })
            }
            Some(store::read_index_answer::index::Outcome::Unavailable(reason)) => {
                Err(unavailable(reason.clone()))
            }
            None => Err(unavailable(format!("node {leader} gave an empty answer"))),
        }
    }
}

#[async_trait]
impl PartitionLog for RaftLog {
    async fn append(&self, entry: Bytes) -> Result<Position, LogError> {
        let len = entry.len();
        self.group.propose(entry).await.map_err(|error| match error.code() {
            ErrorCode::TooLarge => LogError::TooLarge { len },
            _ => error.into(),
        })
    }

    fn read_from(&self, after: Position) -> Box<dyn LogReader> {
        Box::new(RaftReader(self.group.reader(after)))
    }

    async fn committed(&self) -> Result<Position, LogError> {
        match (self.read_index().await, &self.shared) {
            (Err(LogError::NotLeader { leader: Some(leader) }), Some((calls, _))) => {
                self.index_of_leader(&**calls, leader).await
            }
            (known, _) => known,
        }
    }

    async fn trim(&self, up_to: Position) -> Result<(), LogError> {
        // A disk full of log is worse than a member that has to take a snapshot.
        let is_pressed = self.wants_trim() && self.node.stats().segments > MANY_SEGMENTS;
        let trimmed =
            if is_pressed { self.group.trim_fully(up_to).await } else { self.group.trim(up_to).await };
        Ok(trimmed?)
    }

    fn wants_trim(&self) -> bool {
        self.node.oldest_pinning_groups().contains(&self.group.id())
    }

    fn incarnation(&self) -> u32 {
        self.shared.as_ref().map_or_else(|| self.group.incarnation(), |(_, incarnation)| *incarnation)
    }
}

struct RaftReader(GroupReader);

#[async_trait]
impl LogReader for RaftReader {
    async fn next(&mut self) -> Result<Vec<LogEntry>, LogError> {
        let committed = self.0.next().await?;
        Ok(committed.into_iter().map(|c| LogEntry::new(c.position, c.payload)).collect())
    }
}

impl From<RaftError> for LogError {
    fn from(error: RaftError) -> Self {
        let reason = error.to_string();
        match (&error, error.code()) {
            (RaftError::NotLeader { leader, .. }, _) => Self::NotLeader { leader: *leader },
            (RaftError::Trimmed { after, .. }, _) => Self::Trimmed { after: *after },
            (RaftError::Lost { after, .. }, _) => Self::Lost { after: *after },
            (_, ErrorCode::Indeterminate) => Self::Indeterminate { reason },
            (_, ErrorCode::Unavailable) => Self::Unavailable { reason },
            (_, ErrorCode::Corrupt) => Self::Damaged { reason },
            _ => Self::Internal { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Place, check_log};
    use quorate_raft::RaftConfig;
    use tempfile::TempDir;

    /// A node in a directory, with small segments and a small cache so that reads come from disk too.
    struct Disk {
        dir: TempDir,
        node: Option<RaftNode>,
    }

    impl Default for Disk {
        fn default() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), node: None }
        }
    }

    #[async_trait]
    impl Place for Disk {
        async fn open(&mut self) -> Arc<dyn PartitionLog> {
            let config =
                RaftConfig { segment_bytes: 64 << 10, cache_bytes: 4 << 10, ..RaftConfig::default() };
            let node = RaftNode::start(self.dir.path(), NodeId(1), config).await.unwrap();
            let log = RaftLog::start(&node, PartitionId(3)).await.unwrap();
            self.node = Some(node);
            Arc::new(log)
        }

        async fn close(&mut self) {
            self.node.take().unwrap().shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_keeps_the_contract() {
        check_log(Disk::default).await;
    }
}
