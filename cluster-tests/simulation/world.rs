//! What the parts of one simulation share: its time, its trace, what runs, what is broken, and what was seen wrong.
//!
//! One thread uses it; the locks are there for traits that ask for threads.

use crate::checks::Checks;
use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::net::Net;
use crate::register::Register;
use parking_lot::Mutex;
use quorate_cluster::MetaHandle;
use quorate_model::NodeId;
use quorate_raft::{Group, RaftNode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A kind of fault. It counts as fired when it had an effect, not when it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Fault {
    Partition,
    OneWayPartition,
    Hold,
    Loss,
    SlowLink,
    Kill,
    EndBetweenSteps,
    PowerLoss,
    PowerLossOfAll,
    BytesLost,
    SectorTorn,
    NamesLost,
    SyncError,
    DiskFull,
    SlowSync,
    LeaderMoved,
    VotersChanged,
    SnapshotInstalled,
    GroupsSlept,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Partition,
        Self::OneWayPartition,
        Self::Hold,
        Self::Loss,
        Self::SlowLink,
        Self::Kill,
        Self::EndBetweenSteps,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::BytesLost,
        Self::SectorTorn,
        Self::NamesLost,
        Self::SyncError,
        Self::DiskFull,
        Self::SlowSync,
        Self::LeaderMoved,
        Self::VotersChanged,
        Self::SnapshotInstalled,
        Self::GroupsSlept,
    ];
}

/// How often each fault fired.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<Fault, u64>>);

impl Counts {
    /// Counts one.
    pub fn add(&self, fault: Fault) {
        *self.0.lock().entry(fault).or_default() += 1;
    }

    /// Counts one if `happened`.
    pub fn add_if(&self, happened: bool, fault: Fault) {
        if happened {
            self.add(fault);
        }
    }

    /// All counts.
    pub fn all(&self) -> BTreeMap<Fault, u64> {
        self.0.lock().clone()
    }
}

/// The hash of everything that happened, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// FNV-1a, 64 bits, over the events.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
}

/// What a node is told to do by its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Hand over the leadership of the partition, if this node has it.
    MoveLeader(NodeId),
    /// Make these the voters of the partition, if this node leads it.
    ChangeVoters(BTreeSet<NodeId>),
}

/// A process that runs. Clones share it.
#[derive(Clone)]
pub struct Live {
    /// Its groups.
    pub raft: RaftNode,
    /// The partition's group.
    pub group: Group,
    /// The metadata.
    pub meta: MetaHandle,
    /// The partition's state.
    pub register: Arc<Register>,
}

/// One simulation.
pub struct World {
    /// Decides everything.
    pub seed: u64,
    /// All nodes.
    pub nodes: Vec<NodeId>,
    /// Voters that the partition begins with.
    pub first_voters: BTreeSet<NodeId>,
    /// The disks, which outlive processes.
    pub disks: BTreeMap<NodeId, SimDisk>,
    /// How often faults fired.
    pub counts: Arc<Counts>,
    /// Processes that run.
    pub live: Mutex<BTreeMap<NodeId, Live>>,
    /// The networks of processes that run; they end with them.
    pub nets: Mutex<BTreeMap<NodeId, std::sync::Weak<Net>>>,
    /// Processes that ended by themselves.
    pub ended: Mutex<BTreeSet<NodeId>>,
    /// Links on which something is wrong, with its fault until it had an effect.
    pub links: Mutex<BTreeMap<(NodeId, NodeId), Option<Fault>>>,
    /// Messages of 100 that get lost on a link.
    pub loss: Mutex<BTreeMap<(NodeId, NodeId), u64>>,
    /// Orders on their way.
    pub orders: Mutex<BTreeMap<NodeId, VecDeque<Order>>>,
    /// What must hold.
    pub checks: Mutex<Checks>,
    /// Whether clients go on.
    pub clients_run: AtomicBool,
    /// Random numbers for what runs on nodes.
    dice: Mutex<Dice>,
    now_ms: AtomicU64,
    calls: AtomicU64,
    trace: Mutex<Trace>,
    shows: bool,
    violation: Mutex<Option<String>>,
}

impl World {
    /// A world of `seed` without anything that runs. `shows` prints every event.
    pub fn new(seed: u64, nodes: u64, shows: bool) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let disk = |node: &NodeId| (*node, SimDisk::new(seed, node.0, Arc::clone(&counts)));
        Arc::new(Self {
            seed,
            first_voters: nodes.iter().take(3).copied().collect(),
            disks: nodes.iter().map(disk).collect(),
            nodes,
            counts,
            live: Mutex::default(),
            nets: Mutex::default(),
            ended: Mutex::default(),
            links: Mutex::default(),
            loss: Mutex::default(),
            orders: Mutex::default(),
            checks: Mutex::default(),
            clients_run: AtomicBool::new(true),
            dice: Mutex::new(Dice::new(seed, 1)),
            now_ms: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            trace: Mutex::new(Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0 }),
            shows,
            violation: Mutex::default(),
        })
    }

    /// Simulated milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// A millisecond has passed.
    pub fn tick(&self) {
        self.now_ms.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of the next call; an answer that comes to a later process finds no call of its number.
    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Throws the dice that nodes share.
    pub fn throw<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.dice.lock())
    }

    /// Adds an event to the trace.
    pub fn note(&self, node: NodeId, kind: &str, numbers: &[u64]) {
        let now = self.now_ms();
        let mut trace = self.trace.lock();
        trace.events += 1;
        let words = [now, node.0].into_iter().chain(numbers.iter().copied());
        for byte in kind.bytes().chain(words.flat_map(u64::to_le_bytes)) {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.shows {
            eprintln!("{:>8} {now:>6} ms  node {node}  {kind} {numbers:?}", trace.events);
        }
    }

    /// The trace so far.
    pub fn trace(&self) -> Trace {
        *self.trace.lock()
    }

    /// Something that must hold does not; the first one counts.
    pub fn violated(&self, what: impl FnOnce() -> String) {
        let now = self.now_ms();
        self.violation.lock().get_or_insert_with(|| format!("at {now} ms: {}", what()));
    }

    /// What was violated first.
    pub fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }
}
