//! Signs of life of other nodes: one table for all groups of a node.
//!
//! Knows when each node was last heard, and with which boot. Does not know how it was asked, nor what depends on it.
//! Path: [`crate::quiet`] -> **here**.
//! S1: a node is alive for [`LEASE`] from the moment at which it was *asked* what it has answered since.
//! S2: a node that stood still itself has heard nobody; it judges the others only a lease after it went on.
//! S3: who was started again is another one: its boot differs.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_model::NodeId;
use tokio::time::Instant;

/// How long an answer stands for the life of who gave it.
pub(crate) const LEASE: Duration = Duration::from_millis(1_250);
/// A distance between two turns that shows that this process stood still.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// Who was heard, and when.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    heard: BTreeMap<NodeId, Heard>,
    turned: Option<Instant>,
    resumed: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    boot: u64,
    /// When this boot was first heard.
    first: Instant,
    /// When the question was sent whose answer came last.
    asked: Instant,
}

impl Signs {
    /// To be called again and again, at distances well below half a second: notices that this process stood still.
    pub(crate) fn turn(&mut self, now: Instant) {
        let last = self.turned.replace(now);
        if last.is_some_and(|last| now.saturating_duration_since(last) > STOOD_STILL) {
            self.resumed = Some(now);
        }
    }

    /// `node`, of that boot, has answered at `now` what it was asked at `asked`.
    pub(crate) fn heard(&mut self, node: NodeId, boot: u64, asked: Instant, now: Instant) {
        match self.heard.get_mut(&node) {
            Some(known) if known.boot == boot => known.asked = known.asked.max(asked),
            _ => drop(self.heard.insert(node, Heard { boot, first: now, asked })),
        }
    }

    /// The boot of `node` if it is alive.
    pub(crate) fn alive(&self, node: NodeId, now: Instant) -> Option<u64> {
        let heard = self.heard.get(&node)?;
        (now < heard.asked + LEASE).then_some(heard.boot)
    }

    /// How long `node` has not been the living one of that boot; `None` while it is, as far as can be told (S2).
    pub(crate) fn silence(&self, node: NodeId, boot: u64, now: Instant) -> Option<Duration> {
        let Some(heard) = self.heard.get(&node) else { return Some(Duration::MAX) };
        if heard.boot != boot {
            return Some(now.saturating_duration_since(heard.first));
        }
        let until = self.resumed.map_or(heard.asked, |resumed| resumed.max(heard.asked)) + LEASE;
        (until <= now).then(|| now - until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_node_lives_for_a_lease_from_when_it_was_asked() {
        let (mut signs, begin) = (Signs::default(), Instant::now());
        assert_eq!(signs.alive(TWO, begin), None);
        assert_eq!(signs.silence(TWO, 7, begin), Some(Duration::MAX), "it was never heard");
        signs.heard(TWO, 7, begin, begin + 400 * MS);
        for (after, alive, silence) in [
            (400 * MS, Some(7), None),
            (LEASE - MS, Some(7), None),
            (LEASE, None, Some(Duration::ZERO)),
            (LEASE + 30 * MS, None, Some(30 * MS)),
        ] {
            assert_eq!(signs.alive(TWO, begin + after), alive, "{after:?}");
            assert_eq!(signs.silence(TWO, 7, begin + after), silence, "{after:?}");
        }
        signs.heard(TWO, 7, begin + 900 * MS, begin + LEASE);
        assert_eq!(signs.alive(TWO, begin + LEASE), Some(7));
        signs.heard(TWO, 7, begin + 100 * MS, begin + LEASE);
        assert_eq!(
            signs.silence(TWO, 7, begin + 900 * MS + LEASE - MS),
            None,
            "a late answer takes nothing back"
        );
    }

    #[test]
    fn who_was_started_again_is_another_one() {
        let (mut signs, begin) = (Signs::default(), Instant::now());
        signs.heard(TWO, 7, begin, begin);
        signs.heard(TWO, 8, begin + 250 * MS, begin + 260 * MS);
        assert_eq!(signs.alive(TWO, begin + 300 * MS), Some(8));
        assert_eq!(signs.silence(TWO, 7, begin + 300 * MS), Some(40 * MS));
        assert_eq!(signs.silence(TWO, 8, begin + 300 * MS), None);
    }

    #[test]
    fn after_a_pause_of_its_own_a_node_waits_a_lease_before_it_judges() {
        let (mut signs, begin) = (Signs::default(), Instant::now());
        signs.turn(begin);
        signs.heard(TWO, 7, begin, begin);
        signs.turn(begin + 400 * MS);
        assert_eq!(signs.silence(TWO, 7, begin + LEASE), Some(Duration::ZERO), "a late turn is no pause");
        let resumed = begin + 60_000 * MS;
        signs.turn(resumed);
        assert_eq!(signs.silence(TWO, 7, resumed), None);
        assert_eq!(signs.alive(TWO, resumed), None, "nor is it known to live");
        assert_eq!(signs.silence(TWO, 7, resumed + LEASE), Some(Duration::ZERO));
    }
}
