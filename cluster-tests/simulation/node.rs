//! One simulated process: log, groups and metadata as the server has them, with clients and an operator beside.

use crate::checks::PARTITION;
use crate::net::Net;
use crate::register::{Register, payload};
use crate::world::{Fault, Live, Order, World};
use quorate_cluster::meta::LogKind;
use quorate_cluster::{MetaError, MetaHandle};
use quorate_model::{ErrorCode, NodeId};
use quorate_raft::segment_log::SegmentError;
use quorate_raft::{RaftConfig, RaftError, RaftNode};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// A client that gets no answer by then does not know what became of its proposal.
const PATIENCE: Duration = Duration::from_secs(5);
/// Proposals that one client has under way.
const AT_ONCE: usize = 16;
/// Names of tenants that clients ask for.
const NAMES: u64 = 40;

/// Runs the process of `me` until it is ended from outside.
///
/// # Errors
/// Those of turmoil.
pub async fn run(me: NodeId, world: Arc<World>) -> turmoil::Result {
    let net = Net::bind(me, &world).await?;
    world.nets.lock().insert(me, Arc::downgrade(&net));
    match start(me, &world, &net).await {
        Ok(live) => {
            world.live.lock().insert(me, live.clone());
            world.note(me, "runs", &[]);
            tokio::spawn(live.register.clone().follow(live.group.clone()));
            tokio::spawn(begin_incarnation(me, world.clone(), live.meta.clone()));
            tokio::spawn(propose(me, world.clone(), live.clone()));
            tokio::spawn(read(me, world.clone(), live.clone()));
            tokio::spawn(intern(me, world.clone(), live.meta.clone()));
            tokio::spawn(compact(me, world.clone(), live.clone()));
            tokio::spawn(obey(me, world.clone(), live.clone()));
            net.serve(live.raft, live.meta).await?;
        }
        Err(Failed::Damaged(reason)) => {
            world.violated(|| format!("node {me} finds its data damaged: {reason}"));
        }
        Err(Failed::Disk(reason)) => {
            world.note(me, "does not start", &[reason.len() as u64]);
            world.ended.lock().insert(me);
        }
    }
    std::future::pending().await
}

/// Why a process does not start.
enum Failed {
    /// It takes what a crash left for damage.
    Damaged(String),
    /// The disk does not work now.
    Disk(String),
}

impl From<RaftError> for Failed {
    fn from(error: RaftError) -> Self {
        match &error {
            RaftError::Log(SegmentError::Io { .. }) => Self::Disk(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl From<MetaError> for Failed {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Raft(error) => error.into(),
            MetaError::File { .. } => Self::Disk(error.to_string()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

async fn start(me: NodeId, world: &Arc<World>, net: &Arc<Net>) -> Result<Live, Failed> {
    // Small segments and next to no cache, so that segments come and go and entries are read from the disk.
    let sleep_after = Duration::from_secs(1);
    let config =
        RaftConfig { segment_bytes: 16 << 10, cache_bytes: 4 << 10, sleep_after, ..RaftConfig::default() };
    let disk = Arc::new(world.disks[&me].clone());
    let raft = RaftNode::start_on(disk, Path::new("/log"), me, config, net.clone()).await?;
    let register = Register::open(me, world).map_err(|error| Failed::Disk(error.to_string()))?;
    let group = raft.member(PARTITION).await?;
    register.own(&group);
    if world.first_voters.contains(&me) {
        group.begin(&world.first_voters).await?;
    }
    let all = world.nodes.iter().copied().collect();
    let meta = MetaHandle::join(&raft, Path::new("/meta"), net.clone(), Some(&all)).await?;
    Ok(Live { raft, group, meta, register })
}

/// Waits for a moment of `from` to `to` milliseconds.
async fn moment(world: &World, from: u64, to: u64) {
    sleep(Duration::from_millis(world.throw(|dice| dice.between(from, to)))).await;
}

fn clients_run(world: &World) -> bool {
    world.clients_run.load(Ordering::Relaxed)
}

/// Founds the cluster if nobody has, and begins a new incarnation in it.
async fn begin_incarnation(me: NodeId, world: Arc<World>, meta: MetaHandle) {
    let name = |node: &NodeId| (*node, format!("n{node}"), format!("n{node}:9095"));
    let nodes: Vec<_> = world.nodes.iter().map(name).collect();
    let replicas = vec![world.first_voters.iter().copied().collect()];
    while let Err(error) = meta.found(&nodes, 3, replicas.clone(), Some(LogKind::Embedded)).await {
        world.note(me, "cannot found the cluster", &[error.code() as u64]);
        moment(&world, 20, 60).await;
    }
    loop {
        match meta.begin_again(me).await {
            Ok(incarnation) => return world.checks.lock().began(&world, me, incarnation),
            Err(error) => world.note(me, "cannot begin", &[error.code() as u64]),
        }
        moment(&world, 20, 60).await;
    }
}

async fn propose(me: NodeId, world: Arc<World>, live: Live) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        moment(&world, 2, 40).await;
        let tries = live.group.leader() == Some(me) || world.throw(|dice| dice.chance(3));
        let Some(place) = room.clone().try_acquire_owned().ok().filter(|_| tries && clients_run(&world))
        else {
            continue;
        };
        let (world, live) = (world.clone(), live.clone());
        tokio::spawn(async move {
            propose_one(me, &world, &live).await;
            drop(place);
        });
    }
}

async fn propose_one(me: NodeId, world: &World, live: &Live) {
    let id = world.checks.lock().next_proposal();
    let len = world.throw(|dice| dice.between(8, 1_500)) as usize;
    match timeout(PATIENCE, live.group.propose(payload(id, len))).await {
        Ok(Ok(position)) => {
            world.note(me, "acknowledges", &[id, position.0]);
            world.checks.lock().proposal_acked(world, me, live, id, position.0);
        }
        Ok(Err(error)) if error.code() == ErrorCode::Indeterminate => {
            world.note(me, "does not know", &[id]);
        }
        Ok(Err(_)) => {
            world.note(me, "refuses", &[id]);
            world.checks.lock().proposal_refused(id);
        }
        Err(_) => world.note(me, "is too late", &[id]),
    }
}

async fn read(me: NodeId, world: Arc<World>, live: Live) {
    loop {
        moment(&world, 30, 150).await;
        if !clients_run(&world) {
            continue;
        }
        let floor = world.checks.lock().floor();
        if let Ok(Ok(position)) = timeout(PATIENCE, live.group.read_index()).await {
            world.note(me, "reads", &[position.0]);
            world.checks.lock().read(&world, me, floor, position.0);
        }
    }
}

async fn intern(me: NodeId, world: Arc<World>, meta: MetaHandle) {
    loop {
        moment(&world, 50, 300).await;
        if !clients_run(&world) {
            continue;
        }
        let name = format!("tenant {}", world.throw(|dice| dice.below(NAMES)));
        match meta.intern_tenant(&name, NAMES as usize).await {
            Ok(tenant) => {
                world.note(me, &format!("interns {name}"), &[u64::from(tenant.0)]);
                world.checks.lock().interned(&world, &name, tenant.0);
            }
            Err(error) => world.note(me, "cannot intern", &[error.code() as u64]),
        }
        let known = world.checks.lock().tenants.clone();
        if meta.fresh().await.is_ok()
            && let Some(lost) =
                known.iter().find(|(name, number)| meta.tenant(name).map(|t| t.0) != Some(**number))
        {
            let known = meta.tenant(lost.0);
            world.violated(|| format!("node {me} does not know {lost:?} after a fresh read, but {known:?}"));
        }
    }
}

async fn compact(me: NodeId, world: Arc<World>, live: Live) {
    loop {
        moment(&world, 200, 900).await;
        if !clients_run(&world) {
            continue;
        }
        let fully = world.throw(|dice| dice.chance(50));
        if let Err(reason) = live.register.compact(&live.group, fully).await {
            world.note(me, "cannot cut an image", &[reason.len() as u64]);
        }
        if let Err(error) = live.meta.compact(true).await {
            world.note(me, "cannot cut an image of the metadata", &[error.code() as u64]);
        }
    }
}

/// Does what the operator orders, and ends a change of voters that another leader began, as the keeper of a server does.
async fn obey(me: NodeId, world: Arc<World>, live: Live) {
    loop {
        sleep(Duration::from_millis(20)).await;
        let order = world.orders.lock().entry(me).or_default().pop_front();
        // One that has left the voters leads until that is committed, and may change nothing any more.
        if live.group.leader() != Some(me) || !live.group.members().voters.contains(&me) {
            continue;
        }
        if let [_, next] = &live.group.seen().voters[..] {
            let ended = timeout(PATIENCE, live.group.change_voters(next)).await;
            world.note(me, "ends a change of voters", &[u64::from(ended.is_ok_and(|ended| ended.is_ok()))]);
        }
        match order {
            Some(Order::MoveLeader(to)) => {
                let asked = live.group.transfer_leader(to).await;
                world.counts.add_if(asked.is_ok(), Fault::LeaderMoved);
            }
            Some(Order::ChangeVoters(voters)) => {
                let changed = change_voters(&live, &voters).await;
                world.counts.add_if(changed.is_some(), Fault::VotersChanged);
            }
            None => {}
        }
    }
}

async fn change_voters(live: &Live, voters: &std::collections::BTreeSet<NodeId>) -> Option<()> {
    let members = live.group.members();
    for new in voters.difference(&members.voters) {
        timeout(PATIENCE, live.group.add_learner(*new)).await.ok()?.ok()?;
    }
    timeout(PATIENCE, live.group.change_voters(voters)).await.ok()?.ok()
}
