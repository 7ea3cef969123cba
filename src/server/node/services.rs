//! What a running node offers to its listeners.

use super::kafka::KafkaHere;
use super::life::Life;
use super::replicas::Replicas;
use quorate_cluster::MetaHandle;
use quorate_ingest::Distributor;
use quorate_kv::RocksKv;
use quorate_model::{NodeId, PartitionId, SessionId};
use quorate_query::{QueryService, TokenKey};
use quorate_raft::RaftNode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The parts of a node that requests use, and those whose figures `/metrics` shows.
pub struct Services {
    /// Tenants and their numbers.
    pub meta: MetaHandle,
    /// Takes writes.
    pub distributor: Arc<Distributor>,
    /// Takes queries.
    pub queries: Arc<QueryService>,
    /// The replicas of this node.
    pub replicas: Arc<Replicas>,
    /// The groups and their log.
    pub raft: RaftNode,
    /// The store of blocks.
    pub kv: Arc<RocksKv>,
    /// Kafka, if it is the log.
    pub kafka: Option<Arc<KafkaHere>>,
    /// What nodes tell each other.
    pub life: Arc<Life>,
    /// Signs position tokens.
    pub token_key: TokenKey,
    /// Number of this node.
    pub node: u32,
    /// Whether it is part of a cluster.
    pub is_shared: bool,
    /// Whether another gateway session is being opened.
    pub renewing: AtomicBool,
}

impl Services {
    /// The replica here that is furthest behind Kafka, and for how long; `None` if none is, or Kafka is not the log.
    pub fn most_behind(&self) -> Option<(PartitionId, Duration)> {
        self.kafka.as_ref()?;
        let lags = self.replicas.list().into_iter().filter_map(|p| Some((p.id, p.lag()?.age)));
        lags.filter(|(_, age)| !age.is_zero()).max_by_key(|(_, age)| *age)
    }

    /// Opens another gateway session in the background; writes are refused as unavailable meanwhile.
    pub fn renew_session(self: &Arc<Self>) {
        if self.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            let node = NodeId(services.node.into());
            let begun = match services.is_shared {
                true => services.meta.begin_again(node).await,
                false => services.meta.register_alone(node).await,
            };
            match begun {
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
