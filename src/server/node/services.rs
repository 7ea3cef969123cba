//! What a running node offers to its listeners.

use super::partition::Partition;
use quorate_cluster::MetaHandle;
use quorate_ingest::Distributor;
use quorate_kv::RocksKv;
use quorate_model::SessionId;
use quorate_query::QueryService;
use quorate_raft::RaftNode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The parts of a node that requests use, and those whose figures `/metrics` shows.
pub struct Services {
    /// Tenants and their numbers.
    pub meta: MetaHandle,
    /// Takes writes.
    pub distributor: Arc<Distributor>,
    /// Takes queries.
    pub queries: QueryService,
    /// The partitions of this node.
    pub partitions: Vec<Partition>,
    /// The groups and their log.
    pub raft: RaftNode,
    /// The store of blocks.
    pub kv: Arc<RocksKv>,
    /// Number of this node.
    pub node: u32,
    /// Whether another gateway session is being opened.
    pub renewing: AtomicBool,
}

impl Services {
    /// Opens another gateway session in the background; writes are refused as unavailable meanwhile.
    pub fn renew_session(self: &Arc<Self>) {
        if self.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            match services.meta.register_node(&services.node.to_string()).await {
                Ok(incarnation) => {
                    let session = SessionId { node: services.node, incarnation };
                    services.distributor.renew(session).await;
                    tracing::info!(%session, "opened another gateway session");
                }
                Err(error) => tracing::error!(%error, "no other gateway session could be opened"),
            }
            services.renewing.store(false, Ordering::Release);
        });
    }
}
