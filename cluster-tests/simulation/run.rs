//! One seed: faults for some seconds, then healing, after which the cluster must serve and be of one state.

use crate::faults::{Faults, LATENCY};
use crate::net::host;
use crate::node;
use crate::world::{Fault, Live, Trace, World};
use quorate_cluster::meta::META_GROUP;
use quorate_model::NodeId;
use quorate_raft::Group;
use quorate_raft::segment_log::LogId;
use quorate_raft::simulation::Seen;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::Sim;

/// Time with faults.
const FAULTS_MS: u64 = 20_000;
/// Writes must be acknowledged again within this time after the last fault.
const SERVES_MS: u64 = 10_000;
/// And all states equal within this time after that.
const CONVERGES_MS: u64 = 15_000;
/// Acknowledged proposals that show that a healed cluster serves.
const SERVED: usize = 5;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Whether logs acknowledge before they sync: a planted bug.
    pub acknowledges_early: bool,
    /// Whether members agree that another leads whatever they voted for: a planted bug.
    pub agrees_blindly: bool,
    /// Whether only what clients were told is checked.
    pub only_clients: bool,
    /// Whether every event is printed.
    pub shows: bool,
}

impl Plan {
    /// A seed with everything checked.
    pub fn new(seed: u64) -> Self {
        Self { seed, acknowledges_early: false, agrees_blindly: false, only_clients: false, shows: false }
    }
}

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Everything that happened.
    pub trace: Trace,
    /// The first thing that did not hold.
    pub violation: Option<String>,
    /// How often each fault fired.
    pub faults: BTreeMap<Fault, u64>,
    /// Acknowledged proposals.
    pub acked: usize,
    /// Simulated milliseconds.
    pub ms: u64,
}

/// Runs a seed on this thread.
pub fn run(plan: Plan) -> Outcome {
    quorate_raft::simulation::begin(plan.seed);
    if plan.acknowledges_early {
        quorate_raft::simulation::plant_early_acknowledgement();
    }
    if plan.agrees_blindly {
        quorate_raft::simulation::plant_blind_agreement();
    }
    let count = if plan.seed.is_multiple_of(3) { 5 } else { 3 };
    let world = World::new(plan.seed, count, plan.shows);
    world.checks.lock().only_clients = plan.only_clients;
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(LATENCY)
        .udp_capacity(4_096)
        .build();
    for me in world.nodes.clone() {
        let world = Arc::clone(&world);
        sim.host(host(me), move || node::run(me, Arc::clone(&world)));
    }
    let mut running = Running { faults: Faults::new(&world), world: Arc::clone(&world), sim };
    running.phases();
    let acked = world.checks.lock().acked.len();
    let outcome = Outcome {
        seed: plan.seed,
        trace: world.trace(),
        violation: world.violation(),
        faults: world.counts.all(),
        acked,
        ms: world.now_ms(),
    };
    running.end();
    outcome
}

struct Running<'a> {
    world: Arc<World>,
    faults: Faults,
    sim: Sim<'a>,
}

impl Running<'_> {
    fn phases(&mut self) {
        while self.world.now_ms() < FAULTS_MS {
            if !self.step() {
                return;
            }
            self.faults.tick(&mut self.sim);
        }
        self.faults.heal(&mut self.sim);
        let healed = self.counts();
        let serves = |running: &Self| {
            let (acked, interned) = running.counts();
            acked >= healed.0 + SERVED && interned
        };
        if !self.until(SERVES_MS, serves, "no write is acknowledged again") {
            return;
        }
        self.world.clients_run.store(false, Ordering::Relaxed);
        if self.until(CONVERGES_MS, |running| running.differs().is_none(), "the states differ") {
            self.check_end();
        }
    }

    /// One millisecond; false once something was violated.
    fn step(&mut self) -> bool {
        if let Err(error) = self.sim.step() {
            self.world.violated(|| format!("a process failed: {error}"));
        }
        if quorate_raft::simulation::has_panicked() {
            self.world.violated(|| "openraft panicked; it said why above".to_owned());
        }
        self.world.tick();
        let live = self.world.live.lock();
        self.world.checks.lock().look(&self.world, &live);
        self.world.violation().is_none()
    }

    /// Steps without new faults until `holds`.
    fn until(&mut self, ms: u64, holds: impl Fn(&Self) -> bool, otherwise: &str) -> bool {
        let last = self.world.now_ms() + ms;
        while !holds(self) {
            if self.world.now_ms() > last {
                let why = self.differs().unwrap_or_default();
                self.world.violated(|| format!("{otherwise} {ms} ms after the last fault; {why}"));
            }
            if !self.step() {
                return false;
            }
            self.faults.tend(&mut self.sim);
        }
        true
    }

    /// Acknowledged proposals, and whether the metadata has a leader that every node follows.
    fn counts(&self) -> (usize, bool) {
        let live = self.world.live.lock();
        let has_meta = live.values().all(|live| live.meta.group().leader().is_some());
        (self.world.checks.lock().acked.len(), has_meta && live.len() == self.world.nodes.len())
    }

    /// What is not equal yet.
    fn differs(&self) -> Option<String> {
        let live = self.world.live.lock().clone();
        if let Some(missing) = self.world.nodes.iter().find(|node| !live.contains_key(node)) {
            return Some(format!("node {missing} does not run"));
        }
        let Some((leader, of_leader)) = newest_leader(&live, |live| &live.group) else {
            return Some("nobody leads".to_owned());
        };
        let seen = of_leader.group.seen();
        let [voters] = &seen.voters[..] else { return Some(format!("the voters change: {:?}", seen.voters)) };
        if let Some(open) = uncommitted(&seen) {
            return Some(format!("leader {leader} has not committed {open:?}"));
        }
        let state = of_leader.register.look(Clone::clone);
        if of_leader.group.known_index().0 > state.position {
            return Some(format!("leader {leader} has applied {} of {:?}", state.position, seen.last));
        }
        for node in voters {
            let position = live[node].register.look(|own| (own.position, own.hash));
            if position != (state.position, state.hash) {
                return Some(format!(
                    "node {node} is at {position:?}, leader {leader} at {}",
                    state.position
                ));
            }
        }
        let Some((leader, of_meta)) = newest_leader(&live, |live| live.meta.group()) else {
            return Some("nobody leads the metadata".to_owned());
        };
        // Nodes that are equal may all lack what only their last leader knew to be committed.
        if let Some(open) = uncommitted(&of_meta.meta.group().seen()) {
            return Some(format!("leader {leader} of the metadata has not committed {open:?}"));
        }
        let (known, applied) = (of_meta.meta.group().known_index(), *of_meta.meta.watch().borrow());
        if known > applied {
            return Some(format!("leader {leader} of the metadata has applied {applied} of {known}"));
        }
        let meta = of_meta.meta.state();
        let other = live.iter().find(|(_, live)| live.meta.state() != meta);
        other.map(|(node, _)| format!("nodes {node} and {leader} have other metadata in {META_GROUP}"))
    }

    /// Every acknowledged proposal is where its client was told, no refused one anywhere.
    fn check_end(&self) {
        let live = self.world.live.lock().clone();
        let checks = self.world.checks.lock();
        let Some((_, of_leader)) = newest_leader(&live, |live| &live.group) else { return };
        let voters: BTreeSet<NodeId> = of_leader.group.seen().voters.into_iter().flatten().collect();
        for node in &voters {
            live[node].register.look(|state| {
                let lost = checks.acked.iter().find(|(id, position)| state.applied.get(id) != Some(position));
                if let Some((id, position)) = lost {
                    let is = state.applied.get(id);
                    self.world.violated(|| {
                        format!("node {node} has acknowledged proposal {id} at {is:?}, not at {position}")
                    });
                }
                if let Some(id) = checks.refused.iter().find(|id| state.applied.contains_key(id)) {
                    self.world.violated(|| format!("node {node} applied proposal {id}, which was refused"));
                }
            });
        }
        for (node, live) in &live {
            let wrong =
                |(name, number): &(&String, &u32)| live.meta.tenant(name).map(|t| t.0) != Some(**number);
            if let Some(lost) = checks.tenants.iter().find(wrong) {
                self.world.violated(|| format!("node {node} does not know tenant {lost:?}"));
            }
        }
    }

    /// Takes everything apart where it was made: within its host.
    fn end(mut self) {
        for node in self.world.nodes.clone() {
            self.world.disks[&node].end_process();
            self.world.live.lock().remove(&node);
            self.sim.crash(host(node));
        }
    }
}

/// The last entry of a leader's log if it is not committed: with its first one in office, all before it is.
fn uncommitted(leader: &Seen) -> Option<LogId> {
    leader.last.filter(|last| last.index > leader.committed)
}

/// Who leads a group by the greatest vote.
fn newest_leader(live: &BTreeMap<NodeId, Live>, group: impl Fn(&Live) -> &Group) -> Option<(NodeId, Live)> {
    let leads = |(node, live): (&NodeId, &Live)| {
        group(live).seen().leads.map(|vote| ((vote.term, vote.node), *node, live.clone()))
    };
    let newest = live.iter().filter_map(leads).max_by_key(|(vote, ..)| *vote);
    newest.map(|(_, node, live)| (node, live))
}
