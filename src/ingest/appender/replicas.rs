//! The replicas of this node, as far as writes need them. They come and go while the node runs.

use super::LocalAppender;
use crate::holdings::Holdings;
use arc_swap::ArcSwap;
use quorate_model::{Labels, PartitionId, TenantId};
use std::collections::HashMap;
use std::sync::Arc;

/// One replica of this node.
#[derive(Clone)]
pub struct LocalReplica {
    /// The way into its log.
    pub appender: Arc<LocalAppender>,
    /// What it holds.
    pub holdings: Arc<dyn Holdings>,
}

impl std::fmt::Debug for LocalReplica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalReplica").field("appender", &self.appender).finish_non_exhaustive()
    }
}

/// The replicas that this node has now, by partition. Looking is cheap, every write does it; changing copies the map.
#[derive(Debug, Default)]
pub struct LocalReplicas(ArcSwap<HashMap<PartitionId, LocalReplica>>);

impl LocalReplicas {
    /// Adds a replica, or puts it in place of an earlier one.
    pub fn insert(&self, partition: PartitionId, replica: LocalReplica) {
        self.change(|replicas| {
            replicas.insert(partition, replica.clone());
        });
    }

    /// Takes a replica away. Appends that are under way go on.
    pub fn remove(&self, partition: PartitionId) {
        self.change(|replicas| {
            replicas.remove(&partition);
        });
    }

    fn change(&self, change: impl Fn(&mut HashMap<PartitionId, LocalReplica>)) {
        self.0.rcu(|replicas| {
            let mut replicas = HashMap::clone(replicas);
            change(&mut replicas);
            replicas
        });
    }

    /// The replica of a partition, if this node has one.
    pub fn get(&self, partition: PartitionId) -> Option<LocalReplica> {
        self.0.load().get(&partition).cloned()
    }
}

/// What the replica of a partition holds that this node has now and then.
///
/// Without a replica nothing is known: no floor, no number of series nor which, no metadata, never full. Limits then
/// count, of that partition, what this gateway sent in its session and, of series, what the cluster was counted to have; a
/// leader that is full refuses by itself.
#[derive(Debug, Clone)]
pub struct HeldHere {
    replicas: Arc<LocalReplicas>,
    partition: PartitionId,
}

impl HeldHere {
    /// What this node knows of `partition`.
    pub fn new(replicas: Arc<LocalReplicas>, partition: PartitionId) -> Self {
        Self { replicas, partition }
    }

    fn ask<T>(&self, without: T, ask: impl FnOnce(&dyn Holdings) -> T) -> T {
        self.replicas.0.load().get(&self.partition).map_or(without, |replica| ask(&*replica.holdings))
    }
}

impl Holdings for HeldHere {
    fn floor_ms(&self, tenant: TenantId) -> i64 {
        self.ask(i64::MIN, |held| held.floor_ms(tenant))
    }

    fn active_series(&self, tenant: TenantId) -> u64 {
        self.ask(0, |held| held.active_series(tenant))
    }

    fn has_series(&self, tenant: TenantId, labels: &Labels) -> Option<bool> {
        self.ask(None, |held| held.has_series(tenant, labels))
    }

    fn metadata_families(&self, tenant: TenantId) -> usize {
        self.ask(0, |held| held.metadata_families(tenant))
    }

    fn has_family(&self, tenant: TenantId, family: &str) -> bool {
        self.ask(false, |held| held.has_family(tenant, family))
    }

    fn is_full(&self) -> bool {
        self.ask(false, |held| held.is_full())
    }
}
