//! What must hold at every step, whatever fails: the invariants of Raft, of its disk, and of what clients were told.
//!
//! K1: an entry has one predecessor, on every member. K2: a committed entry is never another one, and the next leader has
//! it. K3: what a member promised, a vote or an entry, is on its disk, after a loss of power as well, and it agrees to no
//! read of a leader against it. K4: an acknowledged proposal is on the disks of a majority. K5: at equal positions states
//! are equal. K6: a read sees what was acknowledged, or applied anywhere, before it began; a refused proposal is never
//! applied; a number is given once.
//! A leader is known by term and node, so that two members may win one term, the greater number superseding the other.

use crate::world::{Live, World};
use quorate_cluster::meta::META_GROUP;
use quorate_model::NodeId;
use quorate_raft::segment_log::{LogId, Vote};
use quorate_raft::simulation::Seen;
use quorate_raft::{Group, GroupId};
use quorate_wire::raft as wire;
use std::collections::{BTreeMap, BTreeSet};

/// The simulated partition's group.
pub const PARTITION: GroupId = GroupId(1);

/// All that was seen.
#[derive(Default)]
pub struct Checks {
    /// Looks only at what clients were told: how a planted bug is found by its effect.
    pub only_clients: bool,
    groups: BTreeMap<GroupId, OfGroup>,
    /// Hash of the partition's state by position.
    hashes: BTreeMap<u64, u64>,
    /// Hash of the metadata by position.
    meta_hashes: BTreeMap<u64, u64>,
    proposals: u64,
    /// Acknowledged proposals with their positions.
    pub acked: BTreeMap<u64, u64>,
    /// Proposals that had no effect, as their clients were told.
    pub refused: BTreeSet<u64>,
    newest_acked: u64,
    /// The newest proposal that any member has applied: whoever reads there has seen it.
    newest_applied: u64,
    /// Numbers of tenants by name, as clients were told.
    pub tenants: BTreeMap<String, u32>,
    incarnations: BTreeMap<NodeId, u32>,
}

#[derive(Default)]
struct OfGroup {
    before: BTreeMap<LogId, LogId>,
    committed: BTreeMap<u64, LogId>,
    leaders: BTreeSet<(u64, u64)>,
    members: BTreeMap<NodeId, Member>,
    /// Outlives processes.
    promised: BTreeMap<NodeId, (u64, u64, bool)>,
}

/// What was last seen of a process.
#[derive(Default)]
struct Member {
    last: Option<LogId>,
    committed: u64,
    led: Option<Vote>,
    meta_position: u64,
}

fn ordered(vote: &Vote) -> (u64, u64, bool) {
    (vote.term, vote.node, vote.committed)
}

impl Checks {
    /// Number of the next proposal.
    pub fn next_proposal(&mut self) -> u64 {
        self.proposals += 1;
        self.proposals
    }

    /// Looks at every process that runs.
    pub fn look(&mut self, world: &World, live: &BTreeMap<NodeId, Live>) {
        for (node, live) in live {
            for group in [&live.group, live.meta.group()] {
                let seen = group.seen();
                if seen.has_ended {
                    world.ended.lock().insert(*node);
                }
                if self.only_clients {
                    continue;
                }
                self.groups.entry(group.id()).or_default().look(world, *node, group, &seen);
            }
            if !self.only_clients {
                self.look_at_state(world, *node, live);
            }
        }
    }

    /// A process has ended: the next one of this node may know less, but not less than it promised.
    pub fn ended(&mut self, node: NodeId) {
        for group in self.groups.values_mut() {
            group.members.remove(&node);
        }
    }

    fn look_at_state(&mut self, world: &World, node: NodeId, live: &Live) {
        let of_partition = self.groups.entry(PARTITION).or_default();
        let committed = of_partition.committed.last_key_value().map_or(0, |(index, _)| *index);
        let position = live.register.look(|state| state.position);
        if position > committed {
            world.violated(|| format!("node {node} applied {position}, and {committed} is committed"));
        }
        let member = self.groups.entry(META_GROUP).or_default().members.entry(node).or_default();
        let position = live.meta.watch().borrow().0;
        if member.meta_position == position {
            return;
        }
        member.meta_position = position;
        let hash = live.meta.read(|state| fnv(&format!("{state:?}")));
        if *self.meta_hashes.entry(position).or_insert(hash) != hash {
            world.violated(|| format!("node {node} has other metadata at {position} than another node had"));
        }
        world.note(node, "has metadata of", &[position]);
    }

    /// A member has applied a proposal of the partition.
    pub fn applied(&mut self, world: &World, node: NodeId, position: u64, hash: u64) {
        self.newest_applied = self.newest_applied.max(position);
        if *self.hashes.entry(position).or_insert(hash) != hash && !self.only_clients {
            world.violated(|| format!("node {node} has another state at {position} than another node had"));
        }
    }

    /// A member answers that it votes so, or follows the leader who does.
    pub fn promised(&mut self, node: NodeId, group: u64, vote: Option<&wire::Vote>) {
        let Some(vote) = vote.filter(|_| !self.only_clients) else { return };
        let promised = self.groups.entry(GroupId(group)).or_default().promised.entry(node).or_default();
        *promised = (*promised).max((vote.term, vote.node, vote.committed));
    }

    /// A member agrees that who asks may still lead.
    pub fn agreed(&self, world: &World, node: NodeId, led: &wire::Led) {
        let Some(vote) = led.vote.as_ref().filter(|_| !self.only_clients) else { return };
        let promised = self.groups.get(&GroupId(led.group)).and_then(|group| group.promised.get(&node));
        if promised.is_some_and(|promised| *promised > (vote.term, vote.node, vote.committed)) {
            world.violated(|| {
                format!("node {node} agrees that {vote:?} leads, and has promised {promised:?}")
            });
        }
    }

    /// A member answers that it has these entries.
    pub fn acknowledged(
        &self,
        world: &World,
        node: NodeId,
        live: &Live,
        group: u64,
        entries: &[wire::Entry],
    ) {
        let Some(group) = [&live.group, live.meta.group()].into_iter().find(|known| known.id().0 == group)
        else {
            return;
        };
        for id in entries.iter().filter_map(|entry| entry.log_id.as_ref()).filter(|_| !self.only_clients) {
            let id = LogId { term: id.term, node: id.node, index: id.index };
            // Another leader may have had it replaced meanwhile.
            if group.ids(id.index, id.index + 1) == [id] && !is_durable(world, node, group, id) {
                world.violated(|| format!("node {node} acknowledges {id:?}, which is not on its disk"));
            }
        }
    }

    /// A client was told that its proposal is committed.
    pub fn proposal_acked(&mut self, world: &World, node: NodeId, live: &Live, proposal: u64, position: u64) {
        self.acked.insert(proposal, position);
        self.newest_acked = self.newest_acked.max(position);
        let [id] = live.group.ids(position, position + 1)[..] else { return };
        let others = world.live.lock().clone();
        // Of a process that has ended nothing can be asked: it counts as having the entry.
        let has = |member: &NodeId| {
            others.get(member).is_none_or(|other| {
                other.group.seen().purged >= Some(position) || is_durable(world, *member, &other.group, id)
            })
        };
        let voters = live.group.seen().voters;
        let is_majority =
            |set: &BTreeSet<NodeId>| set.iter().filter(|member| has(member)).count() * 2 > set.len();
        if !self.only_clients && !voters.iter().any(is_majority) {
            world.violated(|| {
                format!("proposal {proposal} at {position} is acknowledged by node {node}, and not durable")
            });
        }
    }

    /// A client was told that its proposal had no effect.
    pub fn proposal_refused(&mut self, proposal: u64) {
        self.refused.insert(proposal);
    }

    /// What a read that begins now has to see: what was acknowledged, and what others may have read.
    pub fn floor(&self) -> u64 {
        if self.only_clients { self.newest_acked } else { self.newest_acked.max(self.newest_applied) }
    }

    /// A read that began at `floor` came to `position`.
    pub fn read(&self, world: &World, node: NodeId, floor: u64, position: u64) {
        if position < floor {
            world.violated(|| {
                format!("a read at node {node} sees {position}, after {floor} was acknowledged or read")
            });
        }
    }

    /// A client was told the number of a tenant.
    pub fn interned(&mut self, world: &World, name: &str, number: u32) {
        let known = *self.tenants.entry(name.to_owned()).or_insert(number);
        let same = self.tenants.iter().filter(|(_, other)| **other == number).count();
        if known != number || same > 1 {
            world.violated(|| format!("tenant {name} is {number} and was {known}; {same} have that number"));
        }
    }

    /// A node was told its incarnation.
    pub fn began(&mut self, world: &World, node: NodeId, incarnation: u32) {
        let before = self.incarnations.insert(node, incarnation).unwrap_or(0);
        if incarnation <= before {
            world.violated(|| format!("node {node} begins incarnation {incarnation} after {before}"));
        }
    }
}

impl OfGroup {
    fn look(&mut self, world: &World, node: NodeId, group: &Group, seen: &Seen) {
        let promised = self.promised.get(&node).copied().unwrap_or_default();
        let vote = seen.vote.as_ref().map_or_else(Default::default, ordered);
        if vote < promised {
            world.violated(|| {
                format!("node {node} votes {vote:?} in group {} after {promised:?}", group.id())
            });
        }
        let known = self.members.entry(node).or_default();
        let (last, committed, led) = (known.last, known.committed, known.led);
        (known.last, known.committed, known.led) = (seen.last, seen.committed, seen.leads);
        if seen.last != last {
            self.match_logs(world, node, group, last, seen);
        }
        if seen.committed > committed {
            self.match_committed(world, node, group, committed + 1, seen.committed);
        }
        if let Some(vote) = seen.leads.filter(|vote| led != Some(*vote)) {
            world.note(node, "leads", &[group.id().0, vote.term]);
            self.check_leader(world, node, group, ordered(&vote), seen);
        }
    }

    /// K1.
    fn match_logs(&mut self, world: &World, node: NodeId, group: &Group, before: Option<LogId>, seen: &Seen) {
        let is_same_leader = before.is_some_and(|before| {
            seen.last
                .is_some_and(|last| (last.term, last.node) == (before.term, before.node) && before < last)
        });
        let from = before.filter(|_| is_same_leader).map_or(0, |before| before.index);
        let ids = group.ids(from, u64::MAX);
        for (first, second) in ids.iter().zip(ids.iter().skip(1)) {
            if self.before.entry(*second).or_insert(*first) != first {
                let other = self.before[second];
                world.violated(|| {
                    format!("node {node} has {second:?} after {first:?}, others after {other:?}")
                });
            }
        }
    }

    /// K2, the first half.
    fn match_committed(&mut self, world: &World, node: NodeId, group: &Group, from: u64, to: u64) {
        for id in group.ids(from, to + 1) {
            let other = *self.committed.entry(id.index).or_insert(id);
            if other != id {
                world.violated(|| format!("node {node} commits {id:?}, and another node {other:?}"));
            }
        }
    }

    /// K2, the second half.
    fn check_leader(
        &mut self,
        world: &World,
        node: NodeId,
        group: &Group,
        vote: (u64, u64, bool),
        seen: &Seen,
    ) {
        // That it is committed is written down after it was.
        if vote.1 != node.0 {
            world.violated(|| format!("node {node} leads group {} by the vote {vote:?}", group.id()));
        }
        let is_newest = self.leaders.last().is_none_or(|newest| *newest < (vote.0, vote.1));
        self.leaders.insert((vote.0, vote.1));
        if !is_newest {
            return;
        }
        let from = seen.purged.map_or(0, |purged| purged + 1);
        let has: BTreeSet<LogId> = group.ids(from, u64::MAX).into_iter().collect();
        if let Some((_, lost)) = self.committed.range(from..).find(|(_, id)| !has.contains(id)) {
            world.violated(|| {
                format!("node {node} leads with {vote:?} and lacks {lost:?}, which is committed")
            });
        }
    }
}

/// Whether an entry would survive a loss of power on one node.
fn is_durable(world: &World, node: NodeId, group: &Group, id: LogId) -> bool {
    let place = group.place(id.index).filter(|place| place.id == id);
    place.is_some_and(|place| world.disks[&node].durable_len(&place.path) >= place.end)
}

fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
