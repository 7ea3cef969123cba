//! A node: the stores, logs and services of one process, started in order and stopped in reverse.
//!
//! Knows how the crates are wired; decides nothing about data. Path: `run` -> **here** -> everything.
//! N1: a node that has started has applied every write that was acknowledged before.
//! N2: a partition that stops applying ends the node: an answer without it would not be complete.

pub mod company;
mod error;
mod farewell;
pub mod figures;
pub mod gateway;
pub mod kafka;
pub mod keeper;
pub mod leaders;
pub mod life;
pub mod overview;
pub mod partition;
mod rebuild;
pub mod replicas;
pub mod services;
pub mod snapshots;
pub mod sources;
mod strangers;
mod tenants;
pub mod traffic;
pub mod troubles;

pub use error::StartError;

use self::kafka::KafkaHere;
use crate::config::{Config, LogKind};
use crate::datadir::DataDir;
use company::Company;
use futures::future::try_join_all;
use keeper::{Keeper, Rules};
use life::Life;
use partition::{Index, Origin, PARTITIONS, Partition};
use quorate_cluster::formation::Consultant;
use quorate_cluster::limits::LimitsProvider;
use quorate_cluster::meta::{LogKind as ClusterLog, MetaVersion, SECRET_BYTES};
use quorate_cluster::{MetaError, MetaHandle, SlotTable, TargetLabels};
use quorate_ingest::appender::PEER_BYTES;
use quorate_ingest::{
    DirectAppender, Distributor, DistributorConfig, HeldHere, Maintenance, MaintenanceConfig, PartitionInput,
    RouteConfig, RoutedAppender, WriteService, placement,
};
use quorate_kv::{KvOptions, RocksKv};
use quorate_model::{Clock, NodeId, PartitionId, SessionId, TenantId};
use quorate_query::{Cluster, FragmentService, PartitionView, QueryConfig, QueryService, TokenKey};
use quorate_raft::{RaftConfig, RaftNode};
use quorate_tsdb::Disk;
use replicas::{Ground, Replicas};
use services::Services;
use sources::Sources;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tenants::Tenants;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use traffic::Traffic;
use troubles::Troubles;

/// Partitions of a new data dir of a node that is alone, unless the configuration says otherwise.
const DEFAULT_PARTITIONS: u32 = 4;
/// How often the metadata group may forget what its image holds.
const META_COMPACT_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before it is said again what the log is, while not every node reads that.
const SAY_AGAIN: Duration = Duration::from_secs(2);
/// How often the memory of the heads is measured. It walks their rows.
const HEAD_CHARGE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a query may wait for replicas that are as fresh as it asks for.
const FRESH_WITHIN: Duration = Duration::from_secs(20);
/// A running node. It holds the data dir until it is dropped.
pub struct Node {
    services: Arc<Services>,
    maintenance: Arc<Maintenance>,
    sources: Sources,
    /// Loops that end with the node.
    loops: Vec<JoinHandle<()>>,
    dir: DataDir,
}

/// The groups of a node, and who it is.
struct Base {
    raft: RaftNode,
    meta: MetaHandle,
    session: SessionId,
    partitions: u32,
    origin: Origin,
    loops: Vec<JoinHandle<()>>,
}

impl Node {
    /// Opens everything in `dir` and replays every log; with a company, once it has its place in the cluster. What an operator
    /// has to do before that ends is told to `troubles`.
    ///
    /// # Errors
    /// [`StartError`]; what was opened is closed by dropping it.
    pub async fn start(
        config: &Config,
        mut dir: DataDir,
        company: Option<&Company>,
        limits: Arc<LimitsProvider>,
        clock: Arc<dyn Clock>,
        troubles: Arc<Troubles>,
    ) -> Result<Self, StartError> {
        let query_config = query_config(config)?;
        let Base { raft, meta, session, partitions, origin, mut loops } = match company {
            Some(company) => together(config, &mut dir, company).await?,
            None => alone(config, &mut dir).await?,
        };
        let node = NodeId(session.node.into());
        let kafka = match config.log {
            LogKind::Embedded => None,
            LogKind::Kafka => {
                let (is_embedded, is_known) = meta.read(|state| (state.is_embedded(), state.log().is_some()));
                if is_embedded {
                    let cluster = ClusterLog::Embedded.to_string();
                    return Err(StartError::OtherLog { cluster, started: "kafka" });
                }
                Some(KafkaHere::open(config, partitions, is_known).await?)
            }
        };
        match &kafka {
            None => embedded_may_run(&meta)?,
            Some(kafka) => kafka.claim(&meta, dir.path().join(PARTITIONS).exists()).await?,
        }
        let (kv, disk) = open_disk(config, session.node as u16, dir.path()).await?;
        let ground = Ground {
            raft: raft.clone(),
            disk,
            data_dir: dir.path().to_owned(),
            storage: config.storage.clone(),
            origin: origin.clone(),
            traffic: Arc::new(Traffic::new(config.cluster.move_rate_limit.bytes())),
            kafka: kafka.clone(),
            troubles,
        };
        let replicas = Replicas::new(ground, partitions);
        if kafka.is_none() {
            loops.push(tokio::spawn(say_embedded(meta.clone(), replicas.clone())));
        }
        // Before anything is loaded, which may take long: a node that starts is not silent.
        let calls = company.map(Company::calls);
        let life = Life::new(node, meta.clone(), replicas.clone(), kv.clone(), calls);
        loops.extend(life.start());
        let placed = match &origin {
            Origin::Alone => (0..partitions).map(|id| (PartitionId(id), None)).collect(),
            Origin::Shared { .. } => meta.read(|state| keeper::placed_on(node, state)),
        };
        // No more than their numbers: a replica whose state is replaced meanwhile must not be held.
        let opened: Vec<PartitionId> = replicas.open(placed).await?.into_iter().map(|p| p.id).collect();
        if company.is_some() {
            // Not waited for: who was moved away may hear of no leader any more.
            replicas.open(replicas.left_over((0..partitions).map(PartitionId))).await?;
        }
        tracing::info!(partitions = opened.len(), %session, "replaying the log");
        let view = view(node, &origin, &meta, &replicas);
        let queries = Arc::new(QueryService::new(view.clone(), query_config, clock.clone()));
        if let Some(company) = company {
            company.set_consultant(&(life.clone() as Arc<dyn Consultant>));
            // Other nodes need these to get ready, as this one needs theirs.
            company.inbox().set_write(Arc::new(WriteService::new(replicas.appenders().clone(), PEER_BYTES)));
            company.inbox().set_store(Arc::new(FragmentService::new(queries.clone())));
            let (meta, replicas, view) = (meta.clone(), replicas.clone(), view.clone());
            let calls = company.calls();
            let (life, rules) = (life.clone(), Rules::of(&config.cluster));
            loops.extend(Keeper { node, meta, replicas, view, calls, life, rules }.start());
        }
        tokio::select! {
            ready = try_join_all(opened.iter().map(|id| replicas.ready(*id))) => drop(ready?),
            reason = replicas.failed() => return Err(StartError::Stopped(reason)),
            reason = meta.failed() => return Err(StartError::Stopped(reason)),
        }
        if let Origin::Alone = &origin {
            // Nobody else does, and one may have been opened anew meanwhile.
            let here = replicas.list().iter().map(Partition::replica).collect();
            view.publish(PartitionView::local(here));
        }
        let inputs = (0..partitions).map(PartitionId);
        let inputs = inputs.map(|id| input(id, node, &origin, kafka.as_deref(), &replicas)).collect();
        let grouping = grouping(config, kafka.as_deref());
        let distributor = Arc::new(distributor(config, grouping, inputs, session, &meta, &limits, &clock));
        if company.is_some() {
            life.set_tenants(Tenants::new(node, &distributor, &limits, &meta, &replicas));
        }
        let services = Arc::new(Services {
            token_key: token_key(&meta).await?,
            distributor,
            queries,
            meta: meta.clone(),
            replicas: replicas.clone(),
            raft,
            kv,
            kafka: kafka.clone(),
            life,
            node: session.node,
            is_shared: company.is_some(),
            renewing: AtomicBool::new(false),
        });
        let sources = Sources::start(config, &services, &clock)?;
        let maintenance = maintenance(config, &services, session, limits, clock)?;
        if let Some(kafka) = &kafka {
            loops.extend(kafka.start(&services.replicas));
        }
        loops.push(tokio::spawn(compact_meta(meta.clone())));
        loops.push(tokio::spawn(charge_heads(Arc::downgrade(&services))));
        Ok(Self { services, maintenance, sources, loops, dir })
    }

    /// What the listeners use.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Waits until a partition or the metadata stops applying, which they do only by failing. Gives the reason.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.services.replicas.failed() => reason,
            reason = self.services.meta.failed() => format!("the metadata group stopped: {reason}"),
        }
    }

    /// Lets other nodes lead what this one leads, as far as they can within 5 s. It goes on serving.
    pub async fn hand_over(&self) {
        farewell::hand_over(&self.services).await;
    }

    /// Ends in order: no further writes, no background work, no apply, then the log. The data dir is free after.
    pub async fn stop(self) {
        let Self { services, maintenance, sources, loops, dir } = self;
        sources.stop().await;
        services.distributor.close().await;
        loops.iter().for_each(JoinHandle::abort);
        let replicas = services.replicas.clone();
        let stopping = tokio::task::spawn_blocking(move || {
            maintenance.stop();
            replicas.stop();
        });
        if stopping.await.is_err() {
            tracing::error!("stopping the background work panicked");
        }
        services.raft.shutdown().await;
        if let Some(kafka) = services.kafka.clone()
            && tokio::task::spawn_blocking(move || kafka.kafka().flush()).await.is_err()
        {
            tracing::error!("ending the Kafka producer panicked");
        }
        drop(services);
        drop(dir);
    }
}

/// Says in the metadata that the log is the embedded one, as soon as that can be said. If it was said meanwhile that it is
/// another one, the node ends: see [`embedded_may_run`].
async fn say_embedded(meta: MetaHandle, replicas: Arc<Replicas>) {
    loop {
        match meta.set_log(ClusterLog::Embedded).await {
            Ok(()) => return,
            Err(MetaError::Refused(reason)) => return replicas.fail(reason),
            Err(error) => tracing::debug!(%error, "it is not said yet what the log of the cluster is"),
        }
        tokio::time::sleep(SAY_AGAIN).await;
    }
}

/// Holds a node with the embedded log to that of its cluster.
fn embedded_may_run(meta: &MetaHandle) -> Result<(), StartError> {
    let other = match meta.read(|state| (state.log().cloned(), state.awaits_topic())) {
        (None, false) | (Some(ClusterLog::Embedded), _) => return Ok(()),
        (None, true) => "a Kafka topic that its nodes have yet to find".to_owned(),
        (Some(other), _) => other.to_string(),
    };
    Err(StartError::OtherLog { cluster: other, started: "embedded" })
}

fn raft_config(config: &Config) -> RaftConfig {
    RaftConfig { segment_bytes: config.storage.log_segment_size.bytes(), ..RaftConfig::default() }
}

async fn alone(config: &Config, dir: &mut DataDir) -> Result<Base, StartError> {
    let identity = dir.alone(config.partitions, DEFAULT_PARTITIONS)?;
    let node = NodeId(identity.node);
    let raft = RaftNode::start(&dir.path().join("log"), node, raft_config(config)).await?;
    let meta = MetaHandle::start(&raft, dir.path()).await?;
    let incarnation = meta.register_alone(node).await?;
    let session = SessionId { node: node.0 as u32, incarnation };
    let (partitions, origin, loops) = (identity.partitions, Origin::Alone, Vec::new());
    Ok(Base { raft, meta, session, partitions, origin, loops })
}

async fn together(config: &Config, dir: &mut DataDir, company: &Company) -> Result<Base, StartError> {
    let settled = company.settle(config, dir, raft_config(config)).await?;
    let company::Settled { raft, meta, node, incarnation, lookout } = settled;
    let session = SessionId { node: node.0 as u32, incarnation };
    let partitions = meta.read(|state| state.partitions().len() as u32);
    // Never 0, and another one for each cluster that a log may be carried into.
    let log_incarnation = (meta.cluster_id() as u32).max(1);
    let index = Arc::new(Index::new(raft.clone()));
    let origin = Origin::Shared { calls: company.calls(), incarnation: log_incarnation, index };
    Ok(Base { raft, meta, session, partitions, origin, loops: vec![lookout] })
}

/// The key of position tokens: every node of the cluster has the same. While nodes of a version without tokens are there
/// that cluster has no secret, and until its next start a node signs with what anybody can know: with its tokens a client
/// can make no more than its own reads wait.
async fn token_key(meta: &MetaHandle) -> Result<TokenKey, StartError> {
    loop {
        match meta.secret().await {
            Ok(secret) => return Ok(TokenKey::new(secret.bytes(), meta.cluster_id())),
            Err(error @ MetaError::Gated { .. }) => {
                tracing::warn!(%error, "position tokens are not secret until this node starts again");
                return Ok(TokenKey::new(&[0; SECRET_BYTES], meta.cluster_id()));
            }
            Err(MetaError::NoLeader { reason }) => {
                tracing::info!(reason, "waiting for the metadata group");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn view(node: NodeId, origin: &Origin, meta: &MetaHandle, replicas: &Arc<Replicas>) -> Arc<Cluster> {
    match origin {
        Origin::Alone => Cluster::alone(replicas.list().iter().map(Partition::replica).collect()),
        Origin::Shared { calls, .. } => {
            let view = meta.read(|state| keeper::view_of(node, state, replicas));
            Cluster::new(node, calls.clone(), view)
        }
    }
}

/// What the distributor needs of a partition, wherever its replicas are.
fn input(
    id: PartitionId,
    node: NodeId,
    origin: &Origin,
    kafka: Option<&KafkaHere>,
    replicas: &Arc<Replicas>,
) -> PartitionInput {
    let appenders = replicas.appenders().clone();
    if let Some(kafka) = kafka {
        let appender = Arc::new(DirectAppender::new(Arc::new(kafka.log(id))));
        return PartitionInput { id, appender, holdings: Arc::new(HeldHere::new(appenders, id)) };
    }
    match (origin, appenders.get(id)) {
        (Origin::Alone, Some(local)) => {
            PartitionInput { id, appender: local.appender, holdings: local.holdings }
        }
        (Origin::Alone, None) => unreachable!("a node that is alone has every partition"),
        (Origin::Shared { calls, incarnation, .. }, _) => {
            let leader = replicas.leaders().watch(id);
            let (calls, config) = (calls.clone(), RouteConfig::default());
            let appender =
                RoutedAppender::new(id, node, *incarnation, leader, appenders.clone(), calls, config);
            let holdings = Arc::new(HeldHere::new(appenders, id));
            PartitionInput { id, appender: Arc::new(appender), holdings }
        }
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

/// How writes are put together into records: for a topic as it takes them best.
fn grouping(config: &Config, kafka: Option<&KafkaHere>) -> DistributorConfig {
    let usual = DistributorConfig::default();
    match kafka {
        None => usual,
        Some(kafka) => DistributorConfig {
            max_record_bytes: kafka.topic().max_entry.min(usual.max_record_bytes),
            group_wait: config.kafka.linger.into(),
            groups_when_idle: true,
            // Records that are deleted before a replica has them are older than this: writes end at a quarter (C15). A session
            // whose definitions may be among them is not gone on with.
            longest_silence: kafka
                .topic()
                .retention_ms
                .map_or(Duration::MAX, |ms| Duration::from_millis(ms / 2)),
            ..usual
        },
    }
}

fn distributor(
    config: &Config,
    grouping: DistributorConfig,
    inputs: Vec<PartitionInput>,
    session: SessionId,
    meta: &MetaHandle,
    limits: &Arc<LimitsProvider>,
    clock: &Arc<dyn Clock>,
) -> Distributor {
    let settings = DistributorConfig {
        max_decoded_bytes: config.http.max_write_body.as_usize(),
        retention: config.retention,
        hash_seed: meta.cluster_id() as u64,
        ..grouping
    };
    let table = Arc::new(SlotTable::build(inputs.len() as u32));
    let place = placement(table, Arc::new(TargetLabels::default()));
    let gateway = Distributor::start(settings, inputs, place, session, limits.clone(), clock.clone());
    write_what_all_read(&gateway, meta);
    gateway
}

/// Lets a gateway write what every node of the cluster reads by now.
fn write_what_all_read(gateway: &Distributor, meta: &MetaHandle) {
    if meta.read(|state| state.active_version()) >= MetaVersion::PACKED_VALUES {
        gateway.pack_values();
    }
}

fn maintenance(
    config: &Config,
    services: &Arc<Services>,
    session: SessionId,
    limits: Arc<LimitsProvider>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Maintenance>, StartError> {
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
    let (gateway, runtime, time) = (services.clone(), Handle::current(), clock.clone());
    let forget_idle = Box::new(move || {
        gateway.distributor.forget_idle();
        write_what_all_read(&gateway.distributor, &gateway.meta);
        let session = gateway.distributor.session();
        if session.is_worn() || session.is_idle(time.since_boot()) {
            let _runtime = runtime.enter();
            gateway.renew_session();
        }
    });
    let start = |partitions| {
        let runtime = Handle::current();
        Maintenance::start(settings, partitions, session, retention, forget_idle, clock, runtime)
    };
    services.replicas.look_after(start).map_err(StartError::Thread)
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
            let replicas = services.replicas.list();
            let heads = replicas.iter().map(|partition| partition.store.stats().memory.total());
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
        fresh_within: FRESH_WITHIN,
        max_samples: config.query.max_samples,
        lookback_delta_ms: config.query.lookback_delta.as_ms(),
        memory_budget,
        features: config.features().map_err(StartError::Config)?,
    })
}
