//! Faults: how each is set and taken back, and which tools it needs.
//!
//! Knows processes, links, disks and clocks of nodes. Does not know workloads.
//! Path: `run` -> **here** -> the harness of `quorate-cluster-tests`. A fault is taken back before the next one is set.

use crate::clock::{self, Clocks};
use crate::random::Random;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::net::Middle;
use quorate_cluster_tests::harness::power::{self, PowerDisk};
use quorate_cluster_tests::harness::switch::Rule;
use quorate_cluster_tests::harness::{net, pause, wait_for};
use rustix::process::Signal;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tempfile::TempDir;

/// Size of the disk of all nodes, MiB; it holds what is written only.
const DISK_MB: u64 = 1_024;
/// How long requests go on while the disk takes nothing any more: a node that then acknowledges is wrong.
const FROZEN: Duration = Duration::from_millis(400);
const JUMP_S: i64 = 3_600;
/// How long an order to the cluster may take.
const ADMIN_LIMIT: Duration = Duration::from_secs(20);
/// What a slow link does to its frames.
const SLOW: Rule = Rule {
    delay: Duration::from_millis(15),
    jitter: Duration::from_millis(10),
    loss: 0.02,
    duplicate: 0.01,
    reorder: 0.01,
    corrupt: 0.0,
};

/// What is done to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node that leads most partitions reaches nobody and nobody reaches it.
    IsolateLeader,
    /// Nobody hears the node that leads most partitions; it hears all.
    MuteLeader,
    /// The node that leads most partitions hears nobody; all hear it.
    DeafLeader,
    /// Of five nodes, two and two reach each other by way of the fifth only.
    Bridge,
    /// Of five nodes, each reaches its two neighbours only.
    Ring,
    /// kill -9 of the node that leads most partitions.
    KillLeader,
    /// kill -9 of any node.
    KillOne,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGSTOP of the node that leads most partitions.
    PauseLeader,
    /// SIGSTOP of any node.
    PauseOne,
    /// All nodes lose what was not synced, at once.
    PowerLoss,
    /// Every link is slow and shaky, loses frames and repeats some.
    SlowLinks,
    /// The wall clock of any node is an hour off.
    ClockJump,
    /// A node joins, and gets its share of replicas.
    AddNode,
    /// A node gives up its replicas, of which another one gets some, and then may have some again.
    DrainNode,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::IsolateLeader,
        Self::MuteLeader,
        Self::DeafLeader,
        Self::Bridge,
        Self::Ring,
        Self::KillLeader,
        Self::KillOne,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseOne,
        Self::PowerLoss,
        Self::SlowLinks,
        Self::ClockJump,
        Self::AddNode,
        Self::DrainNode,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::IsolateLeader => "isolate-leader",
            Self::MuteLeader => "mute-leader",
            Self::DeafLeader => "deaf-leader",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::KillLeader => "kill-leader",
            Self::KillOne => "kill-one",
            Self::KillAll => "kill-all",
            Self::PauseLeader => "pause-leader",
            Self::PauseOne => "pause-one",
            Self::PowerLoss => "power-loss",
            Self::SlowLinks => "slow-links",
            Self::ClockJump => "clock-jump",
            Self::AddNode => "add-node",
            Self::DrainNode => "drain-node",
        }
    }

    /// Nodes that it needs.
    pub fn nodes(self) -> usize {
        match self {
            Self::Bridge | Self::Ring => 5,
            Self::DrainNode => 4,
            _ => 3,
        }
    }

    /// Whether some node cannot do its work under it, so that a client that asks this node must notice.
    pub fn is_felt(self) -> bool {
        match self {
            Self::IsolateLeader | Self::MuteLeader | Self::DeafLeader => true,
            Self::KillLeader | Self::KillOne | Self::KillAll => true,
            Self::PauseLeader | Self::PauseOne | Self::PowerLoss => true,
            Self::Bridge | Self::Ring | Self::SlowLinks => false,
            Self::ClockJump | Self::AddNode | Self::DrainNode => false,
        }
    }

    /// Why it cannot be had here, or `None`.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::IsolateLeader | Self::MuteLeader | Self::DeafLeader | Self::Bridge | Self::Ring => {
                net::available().err()
            }
            Self::SlowLinks => net::switch_available().err(),
            Self::PowerLoss => power::missing(),
            Self::ClockJump => clock::missing(),
            Self::KillLeader
            | Self::KillOne
            | Self::KillAll
            | Self::PauseLeader
            | Self::PauseOne
            | Self::AddNode
            | Self::DrainNode => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.text() == text);
        found.ok_or_else(|| format!("no fault is named {text:?}"))
    }
}

/// How a fault is taken back.
#[derive(Debug)]
#[must_use]
enum Undo {
    Heal,
    Start(Vec<usize>),
    Resume(usize),
    SpeedUp,
    SetClock(usize),
    Undrain(usize),
    /// It stays.
    Nothing,
}

/// A fault that is in force.
#[derive(Debug)]
pub struct Installed {
    /// Which, and where.
    pub what: String,
    undo: Undo,
}

/// A cluster, with what is needed to set faults. Fields are dropped in this order: no process outlives its disk.
#[derive(Debug)]
pub struct Rig {
    /// The nodes.
    pub cluster: Cluster,
    disk: Option<PowerDisk>,
    clocks: Option<Clocks>,
    scratch: TempDir,
}

impl Rig {
    /// Starts a cluster in which `faults` can be set, and waits until each node is ready.
    ///
    /// # Panics
    /// When something cannot be made or a node does not get ready.
    #[track_caller]
    pub fn start(mut setup: Setup, faults: &[Fault], rounds: usize) -> Self {
        let scratch = tempfile::Builder::new().prefix("quorate-jepsen-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        let has = |fault| faults.contains(&fault);
        let disk = has(Fault::PowerLoss).then(|| PowerDisk::create(DISK_MB));
        if let Some(disk) = &disk {
            setup.data_root = Some(disk.path().to_owned());
        }
        if has(Fault::AddNode) {
            setup.spare = rounds;
        }
        if has(Fault::SlowLinks) {
            setup.middle = Middle::Switch;
        }
        let clocks = has(Fault::ClockJump).then(|| {
            let names = (1..=setup.nodes + setup.spare).map(|node| format!("n{node}"));
            Clocks::create(scratch.path(), names).expect("a small library can be built")
        });
        setup.env.extend(clocks.iter().flat_map(Clocks::environment));
        Self { cluster: Cluster::start(setup), disk, clocks, scratch }
    }

    /// Sets a fault.
    ///
    /// # Panics
    /// When it cannot be set.
    #[track_caller]
    pub fn install(&mut self, fault: Fault, random: &mut Random) -> Installed {
        let nodes = self.cluster.all().len();
        let any = random.below(nodes);
        let target = match fault {
            Fault::IsolateLeader
            | Fault::MuteLeader
            | Fault::DeafLeader
            | Fault::KillLeader
            | Fault::PauseLeader => self.cluster.busiest(None),
            _ => any,
        };
        let undo = self.set(fault, target, random);
        Installed { what: format!("{fault} at n{}", target + 1), undo }
    }

    #[track_caller]
    fn set(&mut self, fault: Fault, target: usize, random: &mut Random) -> Undo {
        match fault {
            Fault::IsolateLeader => {
                self.cluster.network().isolate(target);
                Undo::Heal
            }
            Fault::MuteLeader => self.cut(self.cluster.others(target).into_iter().map(|to| (target, to))),
            Fault::DeafLeader => self.cut(self.cluster.others(target).into_iter().map(|from| (from, target))),
            Fault::Bridge | Fault::Ring => self.shape(fault, random),
            Fault::KillLeader | Fault::KillOne => {
                self.cluster.kill9(target);
                Undo::Start(vec![target])
            }
            Fault::KillAll => {
                self.kill_all();
                Undo::Start(self.cluster.all().collect())
            }
            Fault::PauseLeader | Fault::PauseOne => {
                self.cluster.pause(target);
                Undo::Resume(target)
            }
            Fault::PowerLoss => {
                self.lose_power();
                Undo::Start(self.cluster.all().collect())
            }
            Fault::SlowLinks => {
                self.cluster.all().for_each(|node| self.cluster.network().shape(node, SLOW));
                Undo::SpeedUp
            }
            Fault::ClockJump => {
                let seconds = if random.one_in(2) { JUMP_S } else { -JUMP_S };
                self.set_clock(target, seconds);
                Undo::SetClock(target)
            }
            Fault::AddNode => {
                let node = self.cluster.grow();
                self.cluster.launch(node);
                self.cluster.wait_ready(node);
                Undo::Nothing
            }
            Fault::DrainNode => {
                self.tell_to("drain", target);
                Undo::Undrain(target)
            }
        }
    }

    /// Has the cluster do something with a node; asks until it is taken.
    #[track_caller]
    fn tell_to(&self, what: &str, node: usize) {
        let (path, name) = (format!("/api/v1/cluster/{what}"), format!("n{}", node + 1));
        let client = self.cluster.client(self.cluster.others(node)[0], ADMIN_LIMIT);
        wait_for(&format!("{what} of {name}"), ADMIN_LIMIT, || {
            let answer = client.post_form(&path, &[("node", &name)]).ok()?;
            answer.is_success().then_some(())
        });
    }

    /// Takes a fault back, and waits until every node is ready again and every partition has a leader.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn remove(&mut self, installed: Installed) {
        match installed.undo {
            Undo::Heal => self.cluster.network().heal(),
            Undo::Start(nodes) => {
                nodes.iter().for_each(|node| self.cluster.launch(*node));
                nodes.iter().for_each(|node| self.cluster.wait_ready(*node));
            }
            Undo::Resume(node) => self.cluster.resume(node),
            Undo::SpeedUp => self.cluster.network().unshape(),
            Undo::SetClock(node) => self.set_clock(node, 0),
            Undo::Undrain(node) => self.tell_to("undrain", node),
            Undo::Nothing => {}
        }
        self.cluster.leaders();
    }

    #[track_caller]
    fn cut(&self, links: impl Iterator<Item = (usize, usize)>) -> Undo {
        links.for_each(|(from, to)| self.cluster.network().cut_one_way(from, to));
        Undo::Heal
    }

    /// Lets only some links between nodes stand, whoever has which place.
    #[track_caller]
    fn shape(&self, fault: Fault, random: &mut Random) -> Undo {
        let mut places: Vec<usize> = self.cluster.all().collect();
        random.shuffle(&mut places);
        let count = places.len();
        let is_linked = |a: usize, b: usize| match fault {
            Fault::Ring => (a + 1) % count == b || (b + 1) % count == a,
            _ => a == 0 || b == 0 || a % 2 == b % 2,
        };
        for (a, b) in (0..count).flat_map(|a| (0..a).map(move |b| (a, b))) {
            if !is_linked(a, b) {
                self.cluster.network().cut(places[a], places[b]);
            }
        }
        Undo::Heal
    }

    /// Signals all before it waits for any, so that they die at nearly the same moment.
    #[track_caller]
    fn kill_all(&mut self) {
        let nodes: Vec<usize> = self.cluster.all().collect();
        nodes.iter().for_each(|node| self.cluster.process(*node).signal(Signal::KILL));
        for node in nodes {
            self.cluster.kill9(node);
        }
    }

    /// The disk stops; whatever the nodes still acknowledge then is not on it. They are killed while it stands still,
    /// and go on from what is on it.
    #[track_caller]
    fn lose_power(&mut self) {
        let disk = self.disk.as_ref().expect("the rig was made for this fault");
        let image = self.scratch.path().join("crash.img");
        let frozen = disk.freeze();
        pause(FROZEN);
        let nodes: Vec<usize> = self.cluster.all().collect();
        nodes.iter().for_each(|node| self.cluster.process(*node).signal(Signal::KILL));
        // A failure is for later: first the drive goes on and the nodes are collected, or they would keep the disk.
        let copied = disk.try_copy_image(&image);
        drop(frozen);
        for node in nodes {
            self.cluster.kill9(node);
        }
        copied.unwrap_or_else(|error| panic!("{error}"));
        self.disk = None;
        let disk = PowerDisk::after_power_loss(&image);
        self.cluster.move_data(disk.path().to_owned());
        self.disk = Some(disk);
    }

    #[track_caller]
    fn set_clock(&self, node: usize, seconds: i64) {
        let clocks = self.clocks.as_ref().expect("the rig was made for this fault");
        clocks.set(&format!("n{}", node + 1), seconds).expect("its file can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }
}
