//! A node: the stores, logs and services of one process, started in order and stopped in reverse.
//!
//! Knows how the crates are wired; decides nothing about data. Path: `run` -> **here** -> everything.
//! N1: a node that has started has applied every write that was acknowledged before.
//! N2: a partition that stops applying ends the node: an answer without it would not be complete.

mod error;
pub mod figures;
pub mod partition;
pub mod services;

pub use error::StartError;

use crate::config::Config;
use crate::datadir::DataDir;
use futures::future::{select_all, try_join_all};
use futures::{StreamExt, TryStreamExt, stream};
use partition::Partition;
use quorate_cluster::limits::LimitsProvider;
use quorate_cluster::{MetaHandle, SlotTable, TargetLabels};
use quorate_ingest::{Applier, Distributor, DistributorConfig, Maintenance, MaintenanceConfig, placement};
use quorate_kv::{KvOptions, RocksKv};
use quorate_model::{Clock, NodeId, PartitionId, SessionId, TenantId};
use quorate_query::{QueryConfig, QueryService};
use quorate_raft::{RaftConfig, RaftNode};
use quorate_tsdb::Disk;
use services::Services;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How often the metadata group may forget what its image holds.
const META_COMPACT_INTERVAL: Duration = Duration::from_secs(60);
/// How often the memory of the heads is measured. It walks their rows.
const HEAD_CHARGE_INTERVAL: Duration = Duration::from_secs(15);

/// A running node. It holds the data dir until it is dropped.
pub struct Node {
    services: Arc<Services>,
    appliers: Vec<Applier>,
    maintenance: Maintenance,
    /// Loops that end with the node.
    loops: [JoinHandle<()>; 2],
    dir: DataDir,
}

impl Node {
    /// Opens everything in `dir` and replays every log.
    ///
    /// # Errors
    /// [`StartError`]; what was opened is closed by dropping it.
    pub async fn start(
        config: &Config,
        dir: DataDir,
        limits: Arc<LimitsProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let query_config = query_config(config)?;
        let node = config.node_id as u16; // checked by the configuration
        let (kv, disk) = open_disk(config, node, dir.path()).await?;
        let log = dir.path().join("log");
        let settings =
            RaftConfig { segment_bytes: config.storage.log_segment_size.bytes(), ..RaftConfig::default() };
        let raft = RaftNode::start(&log, NodeId(config.node_id), settings).await?;
        let meta = MetaHandle::start(&raft, dir.path()).await?;
        let incarnation = meta.register_node(&node.to_string()).await?;
        let session = SessionId { node: u32::from(node), incarnation };
        let ids = (0..dir.partitions()).map(PartitionId);
        let start = |id| Partition::start(id, &raft, &disk, dir.path(), &config.storage);
        // An image is in memory twice while it is loaded, so only as many at a time as there are processors for.
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let started: Vec<_> = stream::iter(ids.map(start)).buffered(at_once).try_collect().await?;
        let (partitions, appliers): (Vec<Partition>, Vec<Applier>) = started.into_iter().unzip();
        tracing::info!(partitions = partitions.len(), %session, "replaying the log");
        try_join_all(partitions.iter().map(Partition::ready)).await?;
        let stores = partitions.iter().map(|partition| partition.store.clone()).collect();
        let services = Arc::new(Services {
            distributor: Arc::new(distributor(
                config,
                &partitions,
                &appliers,
                session,
                &meta,
                &limits,
                &clock,
            )),
            queries: QueryService::new(stores, query_config, clock.clone()),
            meta,
            partitions,
            raft,
            kv,
            node: u32::from(node),
            renewing: AtomicBool::new(false),
        });
        let maintenance = maintenance(config, &services, session, limits, clock)?;
        let loops = [
            tokio::spawn(compact_meta(services.meta.clone())),
            tokio::spawn(charge_heads(Arc::downgrade(&services))),
        ];
        Ok(Self { services, appliers, maintenance, loops, dir })
    }

    /// What the listeners use.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Waits until a partition or the metadata stops applying, which they do only by failing. Gives the reason.
    pub async fn failed(&self) -> String {
        let waits = self.services.partitions.iter().map(|partition| {
            Box::pin(
                async move { format!("partition {} stopped: {}", partition.id, partition.stopped().await) },
            )
        });
        tokio::select! {
            (reason, ..) = select_all(waits) => reason,
            reason = self.services.meta.failed() => format!("the metadata group stopped: {reason}"),
        }
    }

    /// Ends in order: no further writes, no background work, no apply, then the log. The data dir is free after.
    pub async fn stop(self) {
        let Self { services, appliers, maintenance, loops, dir } = self;
        services.distributor.close().await;
        loops.iter().for_each(JoinHandle::abort);
        let stopping = tokio::task::spawn_blocking(move || {
            maintenance.stop();
            appliers.into_iter().for_each(Applier::stop);
        });
        if stopping.await.is_err() {
            tracing::error!("stopping the background work panicked");
        }
        services.raft.shutdown().await;
        drop(services);
        drop(dir);
    }
}

async fn open_disk(config: &Config, node: u16, dir: &Path) -> Result<(Arc<RocksKv>, Arc<Disk>), StartError> {
    let options = KvOptions { cache_bytes: config.storage.block_cache.as_usize(), ..KvOptions::default() };
    let path = dir.join("blocks");
    let decoded_bytes = config.storage.decoded_cache.bytes();
    let opening = tokio::task::spawn_blocking(move || {
        let kv = Arc::new(RocksKv::open(&path, &options)?);
        let disk = Disk::open(kv.clone(), node, decoded_bytes)?;
        Ok::<_, StartError>((kv, disk))
    });
    opening.await.map_err(|_| StartError::Panicked)?
}

fn distributor(
    config: &Config,
    partitions: &[Partition],
    appliers: &[Applier],
    session: SessionId,
    meta: &MetaHandle,
    limits: &Arc<LimitsProvider>,
    clock: &Arc<dyn Clock>,
) -> Distributor {
    let settings = DistributorConfig {
        max_decoded_bytes: config.http.max_write_body.as_usize(),
        retention: config.retention,
        hash_seed: meta.cluster_id() as u64,
        ..DistributorConfig::default()
    };
    let inputs =
        partitions.iter().zip(appliers).map(|(partition, applier)| partition.input(applier)).collect();
    let table = Arc::new(SlotTable::build(partitions.len() as u32));
    let place = placement(table, Arc::new(TargetLabels::default()));
    Distributor::start(settings, inputs, place, session, limits.clone(), clock.clone())
}

fn maintenance(
    config: &Config,
    services: &Arc<Services>,
    session: SessionId,
    limits: Arc<LimitsProvider>,
    clock: Arc<dyn Clock>,
) -> Result<Maintenance, StartError> {
    let settings = MaintenanceConfig {
        tick: config.storage.maintenance_interval.into(),
        image_interval: config.storage.image_interval.into(),
        ..MaintenanceConfig::default()
    };
    let (meta, node_retention) = (services.meta.clone(), config.retention);
    let retention = Arc::new(move |tenant: TenantId| {
        // A tenant without a name yet has no limits of its own either.
        let name = meta.tenant_name(tenant).unwrap_or_default();
        limits.of(&name).retention_ms(node_retention)
    });
    let partitions = services.partitions.iter().map(Partition::maintained).collect();
    let (gateway, runtime) = (services.clone(), Handle::current());
    let forget_idle = Box::new(move || {
        gateway.distributor.forget_idle();
        if gateway.distributor.session().is_worn() {
            let _runtime = runtime.enter();
            gateway.renew_session();
        }
    });
    Maintenance::start(settings, partitions, session, retention, forget_idle, clock, Handle::current())
        .map_err(StartError::Thread)
}

async fn compact_meta(meta: MetaHandle) {
    let mut turns = tokio::time::interval(META_COMPACT_INTERVAL);
    loop {
        turns.tick().await;
        if let Err(error) = meta.compact(false).await {
            tracing::warn!(%error, "the metadata was not compacted");
        }
    }
}

/// Tells the queries' memory budget again and again what the heads hold, so that they get what is left.
async fn charge_heads(services: Weak<Services>) {
    let mut turns = tokio::time::interval(HEAD_CHARGE_INTERVAL);
    loop {
        turns.tick().await;
        let Some(services) = services.upgrade() else { return };
        let measured = tokio::task::spawn_blocking(move || {
            let heads = services.partitions.iter().map(|partition| partition.store.stats().memory.total());
            services.queries.memory().set_elsewhere(heads.sum());
        });
        if measured.await.is_err() {
            tracing::error!("measuring the memory of the heads panicked");
        }
    }
}

fn query_config(config: &Config) -> Result<QueryConfig, StartError> {
    let memory_budget = match config.query.memory.bytes() {
        0 => quorate_query::budget::default_node_budget().map_err(StartError::Memory)?,
        bytes => bytes,
    };
    Ok(QueryConfig {
        max_concurrent: config.query.max_concurrency,
        timeout: config.query.timeout.into(),
        max_samples: config.query.max_samples,
        lookback_delta_ms: config.query.lookback_delta.as_ms(),
        memory_budget,
        features: config.features().map_err(StartError::Config)?,
    })
}
