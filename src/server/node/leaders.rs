//! Who leads each partition, for those who write and read: one watch for each, whether this node has a replica or not.
//!
//! Knows hints. A replica here follows its group; of the others some member is asked now and then. Whoever uses a hint
//! that is wrong is told so by the node that it leads to.
//! Path: [`super::replicas`], [`super::keeper`] -> **here** -> `ingest::RoutedAppender`, `query::freshness`.

use quorate_model::{NodeId, PartitionId};
use tokio::sync::watch;

/// The leaders of all partitions, by number.
pub struct Leaders(Vec<watch::Sender<Option<NodeId>>>);

impl Leaders {
    /// Nobody is known of `count` partitions.
    pub fn new(count: u32) -> Self {
        Self((0..count).map(|_| watch::Sender::new(None)).collect())
    }

    /// Follows who leads a partition; nobody ever if there is no such partition.
    pub fn watch(&self, id: PartitionId) -> watch::Receiver<Option<NodeId>> {
        self.0.get(id.0 as usize).map_or_else(|| watch::channel(None).1, watch::Sender::subscribe)
    }

    /// It is led by this node, as far as somebody knows; by nobody if `None`.
    pub fn set(&self, id: PartitionId, leader: Option<NodeId>) {
        if let Some(sender) = self.0.get(id.0 as usize) {
            sender.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        }
    }
}
