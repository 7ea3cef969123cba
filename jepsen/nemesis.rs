//! How each fault is set and taken back.
//!
//! Knows processes, links, disks and clocks of nodes, and the brokers of their log. Does not know workloads.
//! Path: `run` -> **here** -> the harness of `quorate-cluster-tests`. A fault is taken back before the next one is set.

use crate::brokers::Brokers;
use crate::clock::Clocks;
use crate::fault::Fault;
use crate::random::Random;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::net::Middle;
use quorate_cluster_tests::harness::power::PowerDisk;
use quorate_cluster_tests::harness::switch::Rule;
use quorate_cluster_tests::harness::{pause, wait_for};
use rustix::process::Signal;
use std::time::Duration;
use tempfile::TempDir;

/// Size of the disk of all nodes, MiB; it holds what is written only.
const DISK_MB: u64 = 1_024;
/// How long requests go on while the disk takes nothing any more: a node that then acknowledges is wrong.
const FROZEN: Duration = Duration::from_millis(400);
const JUMP_S: i64 = 3_600;
const NO_KAFKA: &str = "the rig was made for this fault, with Kafka as the log";
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
    /// All of them that do not run.
    StartBrokers,
    ResumeBroker(usize),
    StartWithoutRecords(usize),
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

/// A cluster, with what is needed to set faults. Fields are dropped in this order: no process outlives its disk or its
/// network.
#[derive(Debug)]
pub struct Rig {
    brokers: Option<Brokers>,
    /// The nodes.
    pub cluster: Cluster,
    disk: Option<PowerDisk>,
    clocks: Option<Clocks>,
    scratch: TempDir,
}

impl Rig {
    /// Starts a cluster in which `faults` can be set, over so many brokers of Kafka if that is the log, and waits until each
    /// node is ready.
    ///
    /// # Panics
    /// When something cannot be made or a node does not get ready.
    #[track_caller]
    pub fn start(mut setup: Setup, brokers: Option<usize>, faults: &[Fault], rounds: usize) -> Self {
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
        let (place, count) = (setup.nodes + setup.spare, brokers.unwrap_or(0));
        setup.spare += count;
        let (config, mut text) =
            (scratch.path().join("config.yaml"), setup.config.take().unwrap_or_default());
        setup = setup.args(&["--config", &config.display().to_string()]);
        let mut cluster = Cluster::prepare(setup);
        let brokers = brokers.map(|count| Brokers::start(count, &cluster, place));
        text.extend(brokers.iter().map(Brokers::config));
        std::fs::write(config, text).expect("a file can be written");
        cluster.launch_all();
        Self { brokers, cluster, disk, clocks, scratch }
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
        if matches!(fault, Fault::KillBroker | Fault::PauseBroker | Fault::RestartAllBrokers) {
            return self.install_at_brokers(fault, random);
        }
        let undo = self.set(fault, target, random);
        Installed { what: format!("{fault} at n{}", target + 1), undo }
    }

    #[track_caller]
    fn install_at_brokers(&mut self, fault: Fault, random: &mut Random) -> Installed {
        let brokers = self.brokers.as_mut().expect(NO_KAFKA);
        let target = brokers.some_leader(random);
        let undo = match fault {
            Fault::RestartAllBrokers => {
                brokers.kill_all();
                return Installed { what: fault.to_string(), undo: Undo::StartBrokers };
            }
            Fault::PauseBroker => {
                brokers.pause(target);
                Undo::ResumeBroker(target)
            }
            _ => {
                brokers.kill(target);
                Undo::StartBrokers
            }
        };
        Installed { what: format!("{fault} at broker {}", target + 1), undo }
    }

    /// Does the part of taking a fault back that is no part of how fast the nodes recover: starts brokers, which Java takes
    /// its time for, or has the topic delete records.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn begin_removal(&mut self, installed: &Installed) {
        match installed.undo {
            Undo::StartBrokers => self.brokers.as_mut().expect(NO_KAFKA).start_killed(),
            Undo::StartWithoutRecords(away) => {
                let others = self.cluster.others(away);
                self.brokers.as_ref().expect(NO_KAFKA).delete_what_is_applied(&self.cluster, &others);
            }
            _ => {}
        }
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
            Fault::TrimTopic => {
                self.cluster.kill9(target);
                Undo::StartWithoutRecords(target)
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
            Fault::KillBroker | Fault::PauseBroker | Fault::RestartAllBrokers => {
                unreachable!("{fault} is no fault of a node")
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

    /// Takes a fault back, after [`Rig::begin_removal`], and waits until every node is ready again and every partition has a leader.
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
            Undo::ResumeBroker(broker) => self.brokers.as_ref().expect(NO_KAFKA).resume(broker),
            Undo::StartWithoutRecords(node) => self.cluster.restart(node),
            Undo::StartBrokers | Undo::Nothing => {}
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
