//! What breaks, when, and for how long: by the dice of the seed.
//!
//! One fault on a link at a time, any number of them on different links and disks at once: safety must not depend on a
//! majority. Knows turmoil and the disks. Does not know what must hold.

use crate::dice::Dice;
use crate::net::host;
use crate::world::{Fault, Order, World};
use quorate_model::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::Sim;

/// Longest time of a message on a link that is well.
pub const LATENCY: Duration = Duration::from_millis(12);

type Link = (NodeId, NodeId);

/// The faults of one simulation.
pub struct Faults {
    world: Arc<World>,
    dice: Dice,
    next_ms: u64,
    /// Links with a fault, the lower node first, and when it ends.
    links: BTreeMap<Link, u64>,
    /// Nodes whose disk is in trouble, and when it ends.
    disks: BTreeMap<NodeId, u64>,
    /// Nodes that do not run, and when they are started again.
    down: BTreeMap<NodeId, u64>,
    /// Until when nobody writes or reads, and whether groups have fallen asleep since.
    lull: Option<(u64, bool)>,
}

impl Faults {
    /// None yet; the first one comes when there was time for an election.
    pub fn new(world: &Arc<World>) -> Self {
        let dice = Dice::new(world.seed, 2);
        let (links, disks, down, lull) = Default::default();
        Self { world: Arc::clone(world), dice, next_ms: 1_500, links, disks, down, lull }
    }

    /// Lets faults begin and end; called every millisecond.
    pub fn tick(&mut self, sim: &mut Sim<'_>) {
        self.tend(sim);
        let now = self.world.now_ms();
        if now >= self.next_ms {
            self.next_ms = now + self.dice.between(100, 1_500);
            self.strike(sim);
        }
    }

    /// What goes on without new faults: processes that ended are cleared away, and started again in time.
    pub fn tend(&mut self, sim: &mut Sim<'_>) {
        let now = self.world.now_ms();
        let ended = std::mem::take(&mut *self.world.ended.lock());
        for node in self.world.nodes.clone() {
            let has_ended = ended.contains(&node) || self.world.disks[&node].has_ended_its_node();
            if has_ended && !self.down.contains_key(&node) {
                let is_power = self.dice.chance(50);
                self.end(sim, node, is_power);
            }
        }
        for (node, _) in due(&mut self.down, now) {
            self.world.disks[&node].begin_process();
            sim.bounce(host(node));
        }
        for (link, _) in due(&mut self.links, now) {
            self.mend(sim, link);
        }
        if let Some((until, has_slept)) = &mut self.lull {
            let asleep = self.world.live.lock().values().any(|live| live.raft.quiet_groups().asleep > 0);
            self.world.counts.add_if(asleep && !*has_slept, Fault::GroupsSlept);
            *has_slept |= asleep;
            if now >= *until {
                self.lull = None;
                self.world.clients_run.store(true, Ordering::Relaxed);
            }
        }
        for (node, _) in due(&mut self.disks, now) {
            self.world.disks[&node].trouble(|trouble| (trouble.is_full, trouble.slow_ms) = (false, None));
        }
    }

    /// Ends every fault now and starts what does not run.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        for until in self.links.values_mut().chain(self.disks.values_mut()).chain(self.down.values_mut()) {
            *until = 0;
        }
        self.lull = self.lull.map(|(_, has_slept)| (0, has_slept));
        for disk in self.world.disks.values() {
            disk.trouble(|trouble| *trouble = Default::default());
        }
        self.tend(sim);
    }

    fn strike(&mut self, sim: &mut Sim<'_>) {
        let node = self.dice.pick(&self.world.nodes.clone());
        let fault = self.dice.pick(&[
            Fault::Partition,
            Fault::OneWayPartition,
            Fault::Hold,
            Fault::Loss,
            Fault::SlowLink,
            Fault::Kill,
            Fault::EndBetweenSteps,
            Fault::PowerLoss,
            Fault::PowerLoss,
            Fault::PowerLossOfAll,
            Fault::SyncError,
            Fault::DiskFull,
            Fault::SlowSync,
            Fault::LeaderMoved,
            Fault::VotersChanged,
            Fault::GroupsSlept,
        ]);
        self.world.note(node, "fault", &[fault as u64]);
        match fault {
            Fault::Kill | Fault::PowerLoss => self.end_running(sim, node, fault),
            Fault::PowerLossOfAll => {
                self.world.counts.add(fault);
                self.world.nodes.clone().into_iter().for_each(|node| self.end(sim, node, true));
            }
            Fault::EndBetweenSteps | Fault::SyncError | Fault::DiskFull | Fault::SlowSync => {
                self.trouble(node, fault);
            }
            Fault::LeaderMoved | Fault::VotersChanged => self.order(node, fault),
            Fault::GroupsSlept => {
                self.lull = Some((self.world.now_ms() + self.dice.between(2_000, 5_000), false));
                self.world.clients_run.store(false, Ordering::Relaxed);
            }
            _ => self.cut(sim, node, fault),
        }
    }

    fn end_running(&mut self, sim: &mut Sim<'_>, node: NodeId, fault: Fault) {
        if !self.down.contains_key(&node) {
            self.world.counts.add(fault);
            self.end(sim, node, fault == Fault::PowerLoss);
        }
    }

    /// Ends a process, if it runs, and takes the power from its disk if `is_power`.
    fn end(&mut self, sim: &mut Sim<'_>, node: NodeId, is_power: bool) {
        let disk = &self.world.disks[&node];
        if !self.down.contains_key(&node) {
            self.world.note(node, "ends", &[u64::from(is_power)]);
            disk.end_process();
            self.world.live.lock().remove(&node);
            self.world.nets.lock().remove(&node);
            self.world.checks.lock().ended(node);
            sim.crash(host(node));
            if self.dice.chance(50) {
                let nets: Vec<_> =
                    self.world.nets.lock().values().filter_map(std::sync::Weak::upgrade).collect();
                nets.iter().for_each(|net| net.broke_off(node));
            }
            self.down.insert(node, self.world.now_ms() + self.dice.between(5, 1_500));
        }
        if is_power {
            disk.lose_power();
        }
    }

    fn trouble(&mut self, node: NodeId, fault: Fault) {
        let (steps, slow) = (self.dice.below(12), self.dice.between(50, 700));
        self.world.disks[&node].trouble(|trouble| match fault {
            Fault::EndBetweenSteps => trouble.steps_left = Some(steps),
            Fault::SyncError => trouble.sync_fails = true,
            Fault::DiskFull => trouble.is_full = true,
            _ => trouble.slow_ms = Some(slow),
        });
        self.disks.insert(node, self.world.now_ms() + self.dice.between(200, 2_000));
    }

    fn order(&mut self, node: NodeId, fault: Fault) {
        let leads = |node: &NodeId| {
            let live = self.world.live.lock();
            live.get(node).is_some_and(|live| live.group.seen().leads.is_some())
        };
        let Some(leader) = self.world.nodes.iter().copied().find(leads) else { return };
        let order = match fault {
            Fault::LeaderMoved => Order::MoveLeader(node),
            _ => {
                let mut voters: BTreeSet<NodeId> = self.world.nodes.iter().copied().collect();
                while voters.len() > 3 {
                    let gone = self.dice.pick(&self.world.nodes.clone());
                    voters.remove(&gone);
                }
                Order::ChangeVoters(voters)
            }
        };
        self.world.orders.lock().entry(leader).or_default().push_back(order);
    }

    /// Breaks the links of `node` to all others, or to one.
    fn cut(&mut self, sim: &mut Sim<'_>, node: NodeId, fault: Fault) {
        let others: Vec<NodeId> = self.world.nodes.iter().copied().filter(|other| *other != node).collect();
        let only = self.dice.pick(&others);
        let all = self.dice.chance(60);
        let is_back = self.dice.chance(50);
        let until = self.world.now_ms() + self.dice.between(100, 2_000);
        let (loss, slow) = (self.dice.between(10, 70), Duration::from_millis(self.dice.between(100, 900)));
        for other in others.into_iter().filter(|other| all || *other == only) {
            let link = (node.min(other), node.max(other));
            if self.links.contains_key(&link) {
                continue;
            }
            self.links.insert(link, until);
            let (from, to) = if is_back { (other, node) } else { (node, other) };
            let (a, b) = (host(from), host(to));
            match fault {
                Fault::Partition => sim.partition(a, b),
                Fault::OneWayPartition => sim.partition_oneway(a, b),
                Fault::Hold => sim.hold(a, b),
                Fault::SlowLink => sim.set_link_max_message_latency(a, b, slow),
                _ => {
                    self.world.loss.lock().extend([((from, to), loss), ((to, from), loss)]);
                    continue;
                }
            }
            self.world.links.lock().insert((from, to), Some(fault));
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, (a, b): Link) {
        self.world.note(a, "mended", &[b.0]);
        for link in [(a, b), (b, a)] {
            self.world.links.lock().remove(&link);
            self.world.loss.lock().remove(&link);
        }
        // Lets go what was held, and ends cuts of both kinds.
        sim.release(host(a), host(b));
        sim.set_link_max_message_latency(host(a), host(b), LATENCY);
    }
}

/// Takes out what is due.
fn due<K: Copy + Ord>(waiting: &mut BTreeMap<K, u64>, now: u64) -> Vec<(K, u64)> {
    let due: Vec<(K, u64)> =
        waiting.iter().map(|(key, at)| (*key, *at)).filter(|(_, at)| *at <= now).collect();
    waiting.retain(|_, at| *at > now);
    due
}
