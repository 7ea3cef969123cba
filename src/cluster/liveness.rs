//! Which nodes are silent, as the leader of the metadata hears them.
//!
//! Knows when each node was last heard, and since when somebody listens. Does not know what becomes of a node that is
//! silent. Pure: time is given. L1: silence counts from the last word or from the moment the listening began, whichever
//! is later: a leader that was just elected takes nobody for dead before one full period. L2: who stood still itself
//! begins to listen anew. Path: reports of nodes -> [`super::board`] -> **here** -> the keeper of the leader's node.

use quorate_model::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A node that was silent for so long is suspect: told, and nothing else.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// How a node sounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pulse {
    /// It was heard lately.
    Well,
    /// It is silent.
    Suspect,
    /// It has been silent for so long that others should take its replicas.
    Dead,
}

/// When nodes were heard.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Since when this node listens, if it does.
    since: Option<Instant>,
    looked: Option<Instant>,
    heard: BTreeMap<NodeId, Instant>,
}

impl Liveness {
    /// Goes on listening, or begins to. Called about once a second.
    pub fn listen(&mut self, now: Instant) {
        let stood_still = self.looked.is_some_and(|looked| now >= looked + SUSPECT_AFTER);
        if self.since.is_none() || stood_still {
            self.since = Some(now);
        }
        self.looked = Some(now);
    }

    /// Stops listening: another node leads.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// A node was heard.
    pub fn hear(&mut self, node: NodeId, now: Instant) {
        self.heard.insert(node, now);
    }

    /// How long this node has listened.
    pub fn listening(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long a node has been silent while this one listened.
    pub fn silence(&self, node: NodeId, now: Instant) -> Duration {
        let heard = self.heard.get(&node).map(|heard| now.saturating_duration_since(*heard));
        heard.map_or_else(|| self.listening(now), |silent| silent.min(self.listening(now)))
    }

    /// Whether a node was heard since the listening began.
    pub fn was_heard(&self, node: NodeId) -> bool {
        self.since.zip(self.heard.get(&node)).is_some_and(|(since, heard)| *heard >= since)
    }

    /// How a node sounds. `dead_after` says when it is dead; without it no node ever is.
    pub fn pulse(&self, node: NodeId, now: Instant, dead_after: Option<Duration>) -> Pulse {
        let silent = self.silence(node, now);
        match dead_after {
            Some(dead_after) if silent >= dead_after.max(SUSPECT_AFTER) => Pulse::Dead,
            _ if silent >= SUSPECT_AFTER => Pulse::Suspect,
            _ => Pulse::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_model::{Clock, SystemClock};

    const NODE: NodeId = NodeId(2);
    const DEAD_AFTER: Duration = Duration::from_secs(10);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Listens each second from 0 to `until`, hears the node at `heard`, and tells how it sounds at the end.
    #[track_caller]
    fn check(heard: &[u64], until: u64, dead_after: Option<Duration>, expected: Pulse) {
        let start = SystemClock.instant();
        let mut liveness = Liveness::default();
        for second in 0..=until {
            if heard.contains(&second) {
                liveness.hear(NODE, start + secs(second));
            }
            liveness.listen(start + secs(second));
        }
        assert_eq!(liveness.pulse(NODE, start + secs(until), dead_after), expected, "{heard:?} {until}");
    }

    #[test]
    fn a_node_gets_suspect_and_then_dead() {
        let dead_after = Some(DEAD_AFTER);
        check(&[0, 1, 2, 5], 7, dead_after, Pulse::Well);
        check(&[5], 8, dead_after, Pulse::Suspect);
        check(&[5], 14, dead_after, Pulse::Suspect);
        check(&[5], 15, dead_after, Pulse::Dead);
        check(&[5, 15], 16, dead_after, Pulse::Well);
        check(&[], 9, dead_after, Pulse::Suspect);
        check(&[], 10, dead_after, Pulse::Dead);
        check(&[], 1_000, None, Pulse::Suspect);
    }

    #[test]
    fn who_is_elected_again_listens_anew() {
        let start = SystemClock.instant();
        let mut liveness = Liveness::default();
        liveness.hear(NODE, start);
        (0..100).for_each(|second| liveness.listen(start + secs(second)));
        assert_eq!(liveness.pulse(NODE, start + secs(99), Some(DEAD_AFTER)), Pulse::Dead);
        liveness.stop();
        liveness.listen(start + secs(100));
        assert_eq!(liveness.pulse(NODE, start + secs(102), Some(DEAD_AFTER)), Pulse::Well);
        assert!(!liveness.was_heard(NODE));
    }

    proptest! {
        /// Whatever pauses the listener itself makes, nobody is dead who was not silent for a whole period of looks
        /// that followed one another.
        #[test]
        fn nobody_is_dead_before_a_whole_period_of_listening(
            gaps in prop::collection::vec(1..30_000u64, 1..60), heard in prop::collection::vec(any::<bool>(), 60),
        ) {
            let start = SystemClock.instant();
            let (mut liveness, mut now, mut silent) = (Liveness::default(), start, Duration::ZERO);
            liveness.listen(now);
            for (gap, hears) in gaps.into_iter().zip(heard) {
                let gap = Duration::from_millis(gap);
                now += gap;
                liveness.listen(now);
                silent = if gap >= SUSPECT_AFTER { Duration::ZERO } else { silent + gap };
                if hears {
                    liveness.hear(NODE, now);
                    silent = Duration::ZERO;
                }
                let is_dead = liveness.pulse(NODE, now, Some(DEAD_AFTER)) == Pulse::Dead;
                prop_assert_eq!(is_dead, silent >= DEAD_AFTER);
            }
        }
    }
}
