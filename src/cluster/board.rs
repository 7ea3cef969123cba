//! What nodes report of themselves, kept in memory by the node that leads the metadata.
//!
//! Knows the newest report of each node, how long each was silent, and whether replicas agree. Nothing of it is stored:
//! a new leader knows all of it again after a second. Does not know what follows from it.
//! Path: `Consult` of other nodes -> **here** -> the keeper of the leader's node, and whoever shows the cluster.
//! B1: only what came since this node leads is told. B2: as many reports are kept as the metadata has nodes.

use crate::liveness::{Liveness, Pulse, SUSPECT_AFTER};
use crate::meta::Reads;
use crate::placement::Standing;
use parking_lot::Mutex;
use quorate_model::{NodeId, PartitionId};
use quorate_wire::meta::answer::{Heard, Image};
use quorate_wire::meta::{Report, Seen, report::Tenant, seen::NodeSeen};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Positions of a partition whose hashes are kept to be compared.
const KEPT_HASHES: usize = 64;

/// Tenants of one report that are kept.
pub const MAX_TENANTS: usize = 1_000;

/// See the module header.
#[derive(Debug, Default)]
pub struct Board(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    liveness: Liveness,
    reports: BTreeMap<NodeId, Kept>,
    incarnations: BTreeMap<NodeId, u32>,
    hashes: BTreeMap<PartitionId, VecDeque<Hash>>,
    diverged: BTreeSet<PartitionId>,
}

#[derive(Debug)]
struct Kept {
    report: Report,
    at: Instant,
    samples_per_second: f64,
}

#[derive(Debug)]
struct Hash {
    position: u64,
    hash: u64,
    node: NodeId,
}

/// Two replicas of a partition that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The partition.
    pub partition: PartitionId,
    /// The position in its log at which they do.
    pub position: u64,
    /// A node with one of them.
    pub one: NodeId,
    /// The node with the other one.
    pub other: NodeId,
}

impl Board {
    /// This node leads the metadata. Called about once a second while it does.
    pub fn lead(&self, now: Instant) {
        self.0.lock().liveness.listen(now);
    }

    /// Another node leads: what is known here gets old.
    pub fn rest(&self) {
        *self.0.lock() = Inner::default();
    }

    /// Takes a report in, and tells which replicas were found to differ that were not known to.
    pub fn hear(&self, mut report: Report, now: Instant) -> Vec<Divergence> {
        report.tenants.truncate(MAX_TENANTS);
        report.tenants.retain(|tenant| tenant.offered.is_finite() && tenant.offered >= 0.0);
        let inner = &mut *self.0.lock();
        let node = NodeId(report.node);
        inner.liveness.hear(node, now);
        let found = report.replicas.iter().filter_map(|replica| {
            let partition = PartitionId(replica.partition);
            let kept = inner.hashes.entry(partition).or_default();
            let found = compare(kept, Hash { position: replica.applied, hash: replica.hash, node })?;
            let found = Divergence { partition, position: replica.applied, one: found, other: node };
            inner.diverged.insert(partition).then_some(found)
        });
        let found = found.collect();
        let samples_per_second = match inner.reports.get(&node) {
            // Figures may be older than the report that brings them: the same ones are no news.
            Some(kept) if kept.report.samples == report.samples && now < kept.at + RATE_SPAN => {
                let kept_at = kept.at;
                let rate = kept.samples_per_second;
                inner.reports.insert(node, Kept { report, at: kept_at, samples_per_second: rate });
                return found;
            }
            Some(kept) => {
                let seconds = now.saturating_duration_since(kept.at).as_secs_f64();
                let samples = report.samples.saturating_sub(kept.report.samples);
                if seconds > 0.0 { samples as f64 / seconds } else { 0.0 }
            }
            None => 0.0,
        };
        inner.reports.insert(node, Kept { report, at: now, samples_per_second });
        found
    }

    /// How a node sounds.
    pub fn pulse(&self, node: NodeId, now: Instant, dead_after: Option<Duration>) -> Pulse {
        self.0.lock().liveness.pulse(node, now, dead_after)
    }

    /// Whether a node was heard since this one leads.
    pub fn was_heard(&self, node: NodeId) -> bool {
        self.0.lock().liveness.was_heard(node)
    }

    /// A node is in this incarnation: a new one is a sign of life.
    pub fn notice(&self, node: NodeId, incarnation: u32, now: Instant) {
        let inner = &mut *self.0.lock();
        if inner.incarnations.insert(node, incarnation).is_some_and(|known| known != incarnation) {
            inner.liveness.hear(node, now);
        }
    }

    /// The groups of the partitions, as those say who lead them now.
    pub fn standings(&self, now: Instant) -> BTreeMap<PartitionId, Standing> {
        standings(&self.seen(now))
    }

    /// What the nodes read of the metadata that were heard since this one leads and are not silent.
    pub fn reads(&self, now: Instant) -> BTreeMap<NodeId, Reads> {
        let inner = self.0.lock();
        let sounds_well = |node: NodeId| {
            inner.liveness.was_heard(node) && inner.liveness.silence(node, now) < SUSPECT_AFTER
        };
        let heard = inner.reports.iter().filter(|(node, _)| sounds_well(**node));
        let told = heard.map(|(node, kept)| (*node, Reads::told(kept.report.reads, &kept.report.build)));
        told.collect()
    }

    /// What all nodes that are not silent have of the tenants that one of them reported last, in answer to its report, and how
    /// old the youngest image of each partition is. Nothing until all who live must have been heard: too small a sum would let each of them have more than there is.
    pub fn totals(&self, of: NodeId, now: Instant) -> Heard {
        let inner = self.0.lock();
        if inner.liveness.listening(now) < SUSPECT_AFTER {
            return Heard::default();
        }
        let Some(asking) = inner.reports.get(&of) else { return Heard::default() };
        let asked = asking.report.tenants.iter();
        let mut sums: HashMap<u32, (f64, u64)> = asked.map(|tenant| (tenant.tenant, (0.0, 0))).collect();
        let is_alive = |node: &NodeId| inner.liveness.silence(*node, now) < SUSPECT_AFTER;
        let mut nodes = 0;
        for (_, kept) in inner.reports.iter().filter(|(node, _)| is_alive(node)) {
            nodes += 1;
            for told in &kept.report.tenants {
                if let Some((offered, series)) = sums.get_mut(&told.tenant) {
                    *offered += told.offered;
                    *series = series.saturating_add(told.series);
                }
            }
        }
        let total = |(tenant, (offered, series))| Tenant { tenant, offered, series };
        Heard { nodes, tenants: sums.into_iter().map(total).collect(), images: inner.images(now) }
    }

    /// Everything but the tenants, for those who show it.
    pub fn seen(&self, now: Instant) -> Seen {
        let inner = self.0.lock();
        let nodes = inner.reports.iter().map(|(node, kept)| NodeSeen {
            report: Some(Report { tenants: Vec::new(), ..kept.report.clone() }),
            silent_ms: ms(inner.liveness.silence(*node, now)),
            samples_per_second: kept.samples_per_second,
        });
        Seen {
            nodes: nodes.collect(),
            watching_ms: ms(inner.liveness.listening(now)),
            diverged: inner.diverged.iter().map(|partition| partition.0).collect(),
        }
    }
}

impl Inner {
    /// Of each partition the youngest image that any node has told of: it is on a disk, also while its node is silent.
    fn images(&self, now: Instant) -> Vec<Image> {
        let mut youngest: BTreeMap<u32, u64> = BTreeMap::new();
        for (node, kept) in &self.reports {
            let silent_ms = ms(self.liveness.silence(*node, now));
            for replica in &kept.report.replicas {
                let Some(age_ms) = replica.image_age_ms else { continue };
                let age_ms = age_ms.saturating_add(silent_ms);
                youngest
                    .entry(replica.partition)
                    .and_modify(|known| *known = age_ms.min(*known))
                    .or_insert(age_ms);
            }
        }
        youngest.into_iter().map(|(partition, age_ms)| Image { partition, age_ms }).collect()
    }
}

/// Reports with the same figures are taken for the same moment for so long.
const RATE_SPAN: Duration = Duration::from_secs(20);

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The groups of the partitions, as nodes that are not silent say of those that they lead. Of two that say so the one with
/// the higher term is believed, or committed position where a node does not tell the term: the other is a leader of before.
pub fn standings(seen: &Seen) -> BTreeMap<PartitionId, Standing> {
    let mut found: BTreeMap<PartitionId, Standing> = BTreeMap::new();
    let mut newest: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
    for report in reports(seen) {
        for replica in &report.replicas {
            let Some(members) = &replica.members else { continue };
            let partition = PartitionId(replica.partition);
            let told = (members.term, members.committed);
            if newest.get(&partition).is_some_and(|known| *known > told) {
                continue;
            }
            newest.insert(partition, told);
            let numbers = |list: &[u64]| list.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
            let standing = Standing {
                leader: NodeId(report.node),
                voters: numbers(&members.voters),
                learners: numbers(&members.learners),
                committed: members.committed,
            };
            found.insert(partition, standing);
        }
    }
    found
}

/// What those last said that are not silent.
fn reports(seen: &Seen) -> impl Iterator<Item = &Report> {
    let heard = seen.nodes.iter().filter(|node| u128::from(node.silent_ms) < SUSPECT_AFTER.as_millis());
    heard.filter_map(|node| node.report.as_ref())
}

/// The nodes that are not silent.
pub fn heard(seen: &Seen) -> BTreeSet<NodeId> {
    reports(seen).map(|report| NodeId(report.node)).collect()
}

/// The nodes that have a replica of each partition, as those say that are not silent.
pub fn holders(seen: &Seen) -> BTreeMap<PartitionId, BTreeSet<NodeId>> {
    let mut found: BTreeMap<PartitionId, BTreeSet<NodeId>> = BTreeMap::new();
    for report in reports(seen) {
        for replica in &report.replicas {
            found.entry(PartitionId(replica.partition)).or_default().insert(NodeId(report.node));
        }
    }
    found
}

/// The node that told another hash at the same position, if there is one.
fn compare(kept: &mut VecDeque<Hash>, new: Hash) -> Option<NodeId> {
    let same = kept.iter().find(|hash| hash.position == new.position);
    if let Some(known) = same {
        return (known.hash != new.hash).then_some(known.node);
    }
    if kept.len() >= KEPT_HASHES {
        kept.pop_front();
    }
    kept.push_back(new);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::{Clock, SystemClock};
    use quorate_wire::meta::{Members, report::Replica};

    fn report(node: u64, samples: u64, replicas: &[(u32, u64, u64)]) -> Report {
        let replica = |(partition, applied, hash): &(u32, u64, u64)| Replica {
            partition: *partition,
            applied: *applied,
            hash: *hash,
            ..Replica::default()
        };
        let replicas = replicas.iter().map(replica).collect();
        Report { node, samples, replicas, ..Report::default() }
    }

    #[test]
    fn replicas_are_compared_where_they_are_at_the_same_position() {
        let (board, now) = (Board::default(), SystemClock.instant());
        assert_eq!(board.hear(report(1, 0, &[(0, 5, 50), (1, 7, 70)]), now), []);
        assert_eq!(board.hear(report(2, 0, &[(0, 6, 60), (1, 7, 70)]), now), []);
        assert_eq!(board.hear(report(1, 0, &[(0, 6, 60)]), now), []);
        let found = Divergence { partition: PartitionId(0), position: 5, one: NodeId(1), other: NodeId(3) };
        assert_eq!(board.hear(report(3, 0, &[(0, 5, 51)]), now), [found]);
        assert_eq!(board.hear(report(3, 0, &[(0, 5, 51)]), now), [], "it is told once");
        assert_eq!(board.seen(now).diverged, [0]);
        for position in 0..1_000 {
            board.hear(report(1, 0, &[(2, position, 1)]), now);
        }
        assert_eq!(board.0.lock().hashes[&PartitionId(2)].len(), KEPT_HASHES);
    }

    #[test]
    fn rates_are_of_the_time_between_two_figures() {
        let (board, start) = (Board::default(), SystemClock.instant());
        let rate = |second| board.seen(start + Duration::from_secs(second)).nodes[0].samples_per_second;
        for (second, samples, expected) in
            [(0, 100, 0.0), (1, 100, 0.0), (5, 600, 100.0), (6, 600, 100.0), (25, 600, 0.0), (26, 10, 0.0)]
        {
            board.hear(report(1, samples, &[]), start + Duration::from_secs(second));
            assert_eq!(rate(second), expected, "at {second}");
        }
    }

    #[test]
    fn of_two_leaders_the_later_one_is_believed() {
        let leader_in = |node: u64, term, committed| {
            let members = Some(Members { voters: vec![1, 2], learners: vec![3], committed, term });
            let replicas = vec![Replica { partition: 4, members, ..Replica::default() }];
            Report { node, replicas, ..Report::default() }
        };
        let leader = |node, committed| leader_in(node, 0, committed);
        let node = |report, silent_ms| NodeSeen { report: Some(report), silent_ms, ..NodeSeen::default() };
        // Where the log is not the group's, who was deposed may know of a later end.
        for nodes in [[leader_in(1, 7, 90), leader_in(2, 8, 80)], [leader_in(2, 8, 80), leader_in(1, 7, 90)]]
        {
            let nodes = nodes.map(|report| node(report, 0)).to_vec();
            assert_eq!(standings(&Seen { nodes, ..Seen::default() })[&PartitionId(4)].leader, NodeId(2));
        }
        let nodes = vec![
            node(leader(1, 9), 0),
            node(leader(2, 12), 0),
            node(leader(5, 3), 0),
            node(leader(6, 99), 3_000),
        ];
        let seen = Seen { nodes, ..Seen::default() };
        let standings = standings(&seen);
        assert_eq!(standings[&PartitionId(4)].leader, NodeId(2));
        assert_eq!(standings[&PartitionId(4)].learners, BTreeSet::from([NodeId(3)]));
        assert_eq!(holders(&seen), BTreeMap::from([(PartitionId(4), BTreeSet::from([1, 2, 5].map(NodeId)))]));
        assert_eq!(heard(&seen), BTreeSet::from([1, 2, 5].map(NodeId)));
    }

    #[test]
    fn the_youngest_image_of_a_partition_is_told_and_grows_old_while_its_node_is_silent() {
        let (board, start) = (Board::default(), SystemClock.instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        let images = |node, images: &[(u32, Option<u64>)]| {
            let replica = |(partition, image_age_ms): &(u32, Option<u64>)| Replica {
                partition: *partition,
                image_age_ms: *image_age_ms,
                ..Replica::default()
            };
            Report { node, replicas: images.iter().map(replica).collect(), ..Report::default() }
        };
        let told = |seconds| {
            let images = board.totals(NodeId(2), at(seconds)).images;
            images.into_iter().map(|image| (image.partition, image.age_ms)).collect::<Vec<_>>()
        };
        board.lead(at(0));
        board.hear(images(1, &[(0, Some(500)), (1, Some(9_000)), (3, None)]), at(0));
        board.hear(images(2, &[(1, Some(4_000)), (2, Some(0))]), at(0));
        assert_eq!(told(1), [], "not all may have been heard");
        board.hear(images(2, &[(1, Some(10_000)), (2, Some(0))]), at(6));
        assert_eq!(told(6), [(0, 6_500), (1, 10_000), (2, 0)]);
    }

    #[test]
    fn a_new_incarnation_is_a_sign_of_life() {
        let (board, now) = (Board::default(), SystemClock.instant());
        board.lead(now);
        board.notice(NodeId(1), 4, now);
        assert!(!board.was_heard(NodeId(1)), "it may have begun long ago");
        board.notice(NodeId(1), 5, now);
        assert!(board.was_heard(NodeId(1)));
    }

    #[test]
    fn tenants_are_summed_over_the_nodes_that_are_not_silent() {
        let (board, start) = (Board::default(), SystemClock.instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        let tenants = |node, tenants: &[(u32, f64, u64)]| {
            let tenant = |(tenant, offered, series): &(u32, f64, u64)| Tenant {
                tenant: *tenant,
                offered: *offered,
                series: *series,
            };
            Report { node, tenants: tenants.iter().map(tenant).collect(), ..Report::default() }
        };
        let totals = |node, seconds| {
            let Heard { nodes, tenants, .. } = board.totals(NodeId(node), at(seconds));
            let mut tenants: Vec<_> = tenants.iter().map(|t| (t.tenant, t.offered, t.series)).collect();
            tenants.sort_by_key(|(tenant, _, _)| *tenant);
            (nodes, tenants)
        };
        for second in 0..4 {
            board.lead(at(second));
            board.hear(tenants(1, &[(1, 10.0, 5), (2, 1.0, 0)]), at(second));
            assert_eq!(totals(1, second).0, u32::from(second >= 3), "not heard by all after {second} s");
        }
        board.hear(tenants(2, &[(1, 30.0, u64::MAX), (3, 7.0, 1), (2, f64::NAN, 1), (2, -5.0, 1)]), at(4));
        board.hear(report(3, 0, &[]), at(4));
        assert_eq!(totals(1, 4), (3, vec![(1, 40.0, u64::MAX), (2, 1.0, 0)]), "of those that it named");
        assert_eq!(totals(3, 4), (3, vec![]), "a node of before names none");
        assert_eq!(totals(9, 4), (0, vec![]), "one that was never heard");
        board.lead(at(5));
        board.hear(tenants(1, &[(1, 20.0, 6)]), at(5));
        assert_eq!(totals(1, 6), (3, vec![(1, 50.0, u64::MAX)]), "the newest of each");
        assert_eq!(totals(1, 7), (1, vec![(1, 20.0, 6)]), "two are silent");
        let many: Vec<_> = (0..2 * MAX_TENANTS as u32).map(|tenant| (tenant, 1.0, 1)).collect();
        board.hear(tenants(2, &many), at(7));
        assert_eq!(totals(2, 7).1.len(), MAX_TENANTS);
        assert!(board.seen(at(7)).nodes.iter().all(|node| node.report.as_ref().unwrap().tenants.is_empty()));
    }

    #[test]
    fn what_nodes_read_is_their_newest_word_while_they_live() {
        let (board, start) = (Board::default(), SystemClock.instant());
        let at = |seconds| start + Duration::from_secs(seconds);
        let says = |node, reads| Report { node, reads, build: "0.1.0".to_owned(), ..Report::default() };
        let versions = |seconds| {
            board.lead(at(seconds));
            board
                .reads(at(seconds))
                .into_iter()
                .map(|(node, told)| (node.0, told.version.0))
                .collect::<Vec<_>>()
        };
        assert_eq!(versions(0), []);
        board.hear(says(1, 3), at(0));
        board.hear(says(2, 0), at(0));
        assert_eq!(versions(1), [(1, 3), (2, 1)], "one that does not tell reads the base");
        board.hear(says(2, 3), at(2));
        assert_eq!(versions(2), [(1, 3), (2, 3)]);
        assert_eq!(versions(4), [(2, 3)], "one is silent");
    }

    #[test]
    fn who_stops_leading_forgets() {
        let (board, now) = (Board::default(), SystemClock.instant());
        board.lead(now);
        board.hear(report(1, 0, &[]), now);
        assert!(board.was_heard(NodeId(1)));
        board.rest();
        assert!(!board.was_heard(NodeId(1)) && board.seen(now).nodes.is_empty());
    }
}
