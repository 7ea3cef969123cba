//! The embedded log: one Raft group per partition over the node's segment log.

use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::{ErrorCode, PartitionId, Position};
use quorate_raft::{Group, GroupId, GroupReader, RaftError, RaftNode};

use crate::{LogEntry, LogError, LogReader, PartitionLog};

/// The log of one partition in its Raft group. Clones share it.
#[derive(Clone)]
pub struct RaftLog {
    node: RaftNode,
    id: GroupId,
    group: Group,
}

/// The group of a partition: its number after the metadata group's, which is 0. Stored, so never changed.
pub fn group_of(partition: PartitionId) -> GroupId {
    GroupId(u64::from(partition.0) + 1)
}

impl RaftLog {
    /// Starts the partition's group on this node, or joins the running one.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the group cannot run here, [`LogError::Damaged`] when its log is.
    pub async fn start(node: &RaftNode, partition: PartitionId) -> Result<Self, LogError> {
        let id = group_of(partition);
        Ok(Self { node: node.clone(), id, group: node.group(id).await? })
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
        Ok(self.group.read_index().await?)
    }

    async fn trim(&self, up_to: Position) -> Result<(), LogError> {
        Ok(self.group.trim(up_to).await?)
    }

    fn wants_trim(&self) -> bool {
        self.node.oldest_pinning_groups().contains(&self.id)
    }

    fn incarnation(&self) -> u32 {
        self.group.incarnation()
    }
}

struct RaftReader(GroupReader);

#[async_trait]
impl LogReader for RaftReader {
    async fn next(&mut self) -> Result<Vec<LogEntry>, LogError> {
        let committed = self.0.next().await?;
        Ok(committed.into_iter().map(|c| LogEntry { position: c.position, payload: c.payload }).collect())
    }
}

impl From<RaftError> for LogError {
    fn from(error: RaftError) -> Self {
        let reason = error.to_string();
        match (&error, error.code()) {
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
    use std::sync::Arc;

    use super::*;
    use crate::conformance::{Place, check_log};
    use quorate_model::NodeId;
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
