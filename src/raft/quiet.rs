//! Idle groups are quiet: their members count no time and their leader says nothing, while the nodes tell each other at
//! short distances, once for all groups, that they live.
//!
//! Knows the groups of a node, its peers and openraft's timer switch. Does not know what a group is for.
//! Path: [`crate::RaftNode`] -> **here** -> [`crate::sleep`], [`crate::signs`], `wire::Transport`.
//! Q1: the timer of a group runs exactly while the group is awake; nothing else of openraft is touched.
//! Q2: a peer that does not know signs of life is never alive here, so no group with it as a member sleeps.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use quorate_model::NodeId;
use quorate_wire::raft as wire;
use quorate_wire::raft::{Sign, Signed, answer, request};
use tokio::time::{Instant, MissedTickBehavior};

use crate::convert;
use crate::group::Role;
use crate::node::Inner;
use crate::segment_log::GroupId;
use crate::signs::Signs;
use crate::sleep::{AtRest, Rest, Sleep};
use crate::types::{RaftVote, random_time, to_log_id, to_vote};
use crate::{Group, RaftNode};

/// Between two looks at what woke or could sleep.
const TURN: Duration = Duration::from_millis(100);
/// Between two signs to one peer.
const SIGN: Duration = Duration::from_millis(250);
/// A sign that is not answered by then is given up; the next one may be.
const SIGN_TIMEOUT: Duration = Duration::from_millis(500);
/// A follower whose leader's node is silent wakes this much later: when the others know it too.
const SPREAD_FROM: Duration = SIGN;
/// And before this: not all groups of a node at once.
const SPREAD_TO: Duration = Duration::from_millis(750);

/// What a node knows of the life of others.
pub(crate) struct Quiet {
    /// This start of the process.
    boot: u64,
    signs: Mutex<Signs>,
    /// Those who were sent a sign that they have not answered yet.
    asking: Mutex<BTreeSet<NodeId>>,
    sleep_after: Duration,
}

/// What one group adds.
pub(crate) struct Doze {
    sleep: Mutex<Sleep>,
    /// Counts what happens in the group.
    activity: AtomicU64,
    /// Calls of this node that are under way.
    busy: AtomicUsize,
    /// It has slept, and as leader has not confirmed since that it leads.
    has_slept: AtomicBool,
}

/// A call that is under way in a group.
pub(crate) struct Busy<'g>(&'g AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many groups sleep on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuietGroups {
    /// Groups without timer; that of a group without other members never runs.
    pub asleep: usize,
    /// The others.
    pub awake: usize,
}

impl Quiet {
    pub(crate) fn new(sleep_after: Duration) -> Self {
        let boot = rand::random::<u64>().max(1);
        Self { boot, signs: Mutex::default(), asking: Mutex::default(), sleep_after }
    }

    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.signs.lock().alive(node, Instant::now()).is_some()
    }
}

impl Doze {
    pub(crate) fn new(quiet: &Quiet) -> Self {
        let sleep = Mutex::new(Sleep::new(Instant::now(), quiet.sleep_after));
        let has_slept = AtomicBool::new(false);
        Self { sleep, activity: AtomicU64::new(0), busy: AtomicUsize::new(0), has_slept }
    }

    pub(crate) fn has_slept(&self) -> bool {
        self.has_slept.load(Ordering::SeqCst)
    }
}

impl RaftNode {
    /// How many groups sleep here.
    pub fn quiet_groups(&self) -> QuietGroups {
        let groups = self.inner.groups.read();
        let asleep = groups.values().filter(|group| !group.is_awake()).count();
        QuietGroups { asleep, awake: groups.len() - asleep }
    }

    /// Whether `node` has told this one lately that it lives. Only nodes that share a group do.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.inner.shared.quiet.is_alive(node)
    }

    /// A peer lives, says what could sleep, and who should speak.
    pub(crate) fn answer_sign(&self, sign: Sign) -> Signed {
        let Sign { node, boot, rests, called } = sign;
        let (from, groups) = (NodeId(node), self.inner.groups.read());
        for group in called.iter().filter_map(|group| groups.get(&GroupId(*group))) {
            group.stir_own();
        }
        let sleeps = |rest: &wire::Rest| {
            let group = groups.get(&GroupId(rest.group))?;
            group.lies_down(convert::read_rest(rest)?, from, boot).then_some(rest.group)
        };
        Signed { boot: self.inner.shared.quiet.boot, asleep: rests.iter().filter_map(sleeps).collect() }
    }
}

/// Looks after the groups of a node and the life of its peers, until the node is gone.
pub(crate) async fn keep(node: Weak<Inner>) {
    let mut turns = tokio::time::interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_sign = Instant::now();
    loop {
        turns.tick().await;
        let Some(inner) = node.upgrade() else { return };
        let now = Instant::now();
        let groups = inner.members();
        {
            let mut signs = inner.shared.quiet.signs.lock();
            signs.turn(now);
            groups.iter().for_each(|group| group.turn(now, &signs));
        }
        if now < next_sign {
            continue;
        }
        next_sign = now + SIGN;
        let me = inner.shared.node;
        let peers: BTreeSet<NodeId> = groups.iter().flat_map(Group::all_members).collect();
        for peer in peers.into_iter().filter(|peer| *peer != me) {
            if inner.shared.quiet.asking.lock().insert(peer) {
                tokio::spawn(ask(node.clone(), peer));
            }
        }
    }
}

/// Asks one peer whether it lives, and tells it what could sleep. Holds no node while it waits.
async fn ask(node: Weak<Inner>, peer: NodeId) {
    let Some(inner) = node.upgrade() else { return };
    let (groups, shared) = (inner.members(), inner.shared.clone());
    drop(inner);
    let asked: Vec<(Group, Rest)> =
        groups.iter().filter_map(|group| Some((group.clone(), group.asks(peer)?))).collect();
    let sign = Sign {
        node: shared.node.0,
        boot: shared.quiet.boot,
        rests: asked.iter().map(|(group, rest)| convert::rest(group.id(), rest)).collect(),
        called: groups.iter().filter(|group| group.calls(peer)).map(|group| group.id().0).collect(),
    };
    drop(groups);
    let sent = Instant::now();
    let answer = shared.transport.call(peer, 0, request::Message::Sign(sign), SIGN_TIMEOUT).await;
    shared.quiet.asking.lock().remove(&peer);
    // Silence is what a peer without an answer is known by.
    let Ok(answer::Message::Signed(Signed { boot, asleep })) = answer else { return };
    if boot == 0 {
        return;
    }
    shared.quiet.signs.lock().heard(peer, boot, sent, Instant::now());
    let asleep: BTreeSet<u64> = asleep.into_iter().collect();
    for (group, rest) in asked.iter().filter(|(group, _)| asleep.contains(&group.id().0)) {
        group.doze().sleep.lock().agreed(peer, boot, *rest);
    }
}

impl Group {
    pub(crate) fn is_awake(&self) -> bool {
        self.role() == Role::Member && self.doze().sleep.lock().is_awake()
    }

    /// Changes whether the group sleeps, and switches its timer accordingly (Q1).
    fn change<A>(&self, change: impl FnOnce(&mut Sleep) -> A) -> A {
        let mut sleep = self.doze().sleep.lock();
        let was_awake = sleep.is_awake();
        let changed = change(&mut sleep);
        let is_awake = sleep.is_awake();
        if was_awake != is_awake && self.role() == Role::Member {
            self.raft().runtime_config().tick(is_awake);
            self.doze().has_slept.store(true, Ordering::SeqCst);
        }
        changed
    }

    /// Something happens, or has just happened: the group is awake.
    pub(crate) fn stir(&self) {
        self.doze().activity.fetch_add(1, Ordering::SeqCst);
        if !self.doze().sleep.lock().is_awake() {
            self.change(|sleep| sleep.wake(Instant::now()));
        }
    }

    /// The same, caused by a call of this node, which only a leader obeys: a follower has no business to be awake when
    /// its leader sleeps.
    pub(crate) fn stir_own(&self) {
        self.doze().activity.fetch_add(1, Ordering::SeqCst);
        if self.doze().sleep.lock().is_own(self.shared().node) {
            self.change(|sleep| sleep.wake(Instant::now()));
        }
    }

    /// A call of this node begins, which keeps the group awake as long as it lasts.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.doze().busy.fetch_add(1, Ordering::SeqCst);
        let busy = Busy(&self.doze().busy);
        self.stir_own();
        busy
    }

    /// A majority has just said that this node leads.
    pub(crate) fn is_confirmed(&self) {
        if self.doze().has_slept() && self.doze().sleep.lock().is_awake() {
            self.doze().has_slept.store(false, Ordering::SeqCst);
        }
    }

    /// The leader has said that it leads, and nothing else. That wakes nobody who sleeps under it, so that strong reads,
    /// for which it says so, leave a group asleep.
    pub(crate) fn is_led(&self, vote: &RaftVote) {
        let is_known = {
            let sleep = self.doze().sleep.lock();
            sleep.is_awake() || sleep.is_under(to_vote(vote))
        };
        if !is_known {
            self.stir();
        }
    }

    /// Whether a ballot is refused this once; see [`Sleep::puts_off`].
    pub(crate) fn puts_off(&self) -> bool {
        // In the order in which `keep` takes them.
        let signs = self.shared().quiet.signs.lock();
        self.change(|sleep| sleep.puts_off(self.shared().node, Instant::now(), &signs))
    }

    fn turn(&self, now: Instant, signs: &Signs) {
        self.raft().runtime_config().elect(self.may_stand());
        self.change(|sleep| {
            let activity = self.doze().activity.load(Ordering::SeqCst);
            sleep.turn(now, activity, signs, || self.at_rest());
        });
    }

    fn asks(&self, peer: NodeId) -> Option<Rest> {
        self.doze().sleep.lock().asks(peer)
    }

    fn calls(&self, peer: NodeId) -> bool {
        self.doze().sleep.lock().calls(peer)
    }

    fn all_members(&self) -> BTreeSet<NodeId> {
        let metrics = self.raft().server_metrics();
        let stored = metrics.borrow_watched().membership_config.clone();
        stored.membership().nodes().map(|(node, _)| NodeId(*node)).collect()
    }

    /// What this node knows as leader when all members have everything, and have committed and applied it.
    fn at_rest(&self) -> Option<AtRest> {
        if self.doze().busy.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let metrics = self.raft().metrics().borrow_watched().clone();
        let last = metrics.last_applied?;
        let is_settled = metrics.state == ServerState::Leader
            && metrics.last_log_index == Some(last.index)
            && metrics.cluster_committed == Some(last)
            && metrics.membership_config == metrics.committed_membership_config
            && metrics.membership_config.membership().get_joint_config().len() == 1;
        let replication = metrics.replication?;
        let members = metrics.membership_config.membership().nodes();
        let others: BTreeSet<NodeId> =
            members.filter(|(node, _)| **node != metrics.id).map(|(node, _)| NodeId(*node)).collect();
        let is_everywhere = others.iter().all(|node| replication.get(&node.0) == Some(&Some(last)));
        (is_settled && is_everywhere)
            .then(|| AtRest { rest: Rest { vote: to_vote(&metrics.vote), last: to_log_id(&last) }, others })
    }

    /// Sleeps, if this follower knows exactly what its leader, the node `from` of that boot, says, and nothing beyond.
    fn lies_down(&self, rest: Rest, from: NodeId, boot: u64) -> bool {
        let noted = self.doze().activity.load(Ordering::SeqCst);
        let state = self.log().state();
        let knows = self.role() == Role::Member
            && rest.vote.committed
            && rest.vote.node == from.0
            && state.vote == Some(rest.vote)
            && state.last == Some(rest.last)
            && self.committed().0 == rest.last.index
            && self.leader() == Some(from);
        let now = Instant::now();
        let lives = self.shared().quiet.signs.lock().alive(from, now) == Some(boot);
        knows
            && lives
            && self.change(|sleep| {
                let is_still_so = self.doze().activity.load(Ordering::SeqCst) == noted;
                if is_still_so {
                    sleep.lie_down(rest, boot, random_time(SPREAD_FROM..SPREAD_TO));
                }
                is_still_so
            })
    }
}
