//! What this node's calls to each peer are like: how many are under way, how soon they begin to answer, whether they
//! failed lately, and whether another replica may be asked too.
//!
//! Knows numbers only. Does not know what is asked. Path: `fanout` tells and asks -> **here**.
//!
//! - LO1: hedges are at most one in [`CALLS_PER_HEDGE`] calls, but for the first: a cluster that is slow as a whole is
//!   not made slower.

use parking_lot::Mutex;
use quorate_model::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Calls between two hedges.
const CALLS_PER_HEDGE: u32 = 10;
/// Hedges that may be saved up.
const SAVED_HEDGES: u32 = 8;
/// Calls whose beginning is remembered, of each peer.
const REMEMBERED: usize = 64;
/// Fewer say nothing.
const LEAST_REMEMBERED: usize = 8;
/// A peer that is not known has begun late after this.
const UNKNOWN_PATIENCE: Duration = Duration::from_millis(500);
/// No peer has begun late sooner or not yet late after these.
const PATIENCE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(2_500)];
/// For how long a peer that failed is asked last.
const AVOIDED: Duration = Duration::from_secs(5);

/// Calls of this node, by peer. Peers are as many as the cluster ever had nodes.
#[derive(Default)]
pub(crate) struct Load {
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Calls since the last hedge, those that are saved up included; the first one is free.
    saved: Mutex<Option<u32>>,
}

#[derive(Default)]
struct Peer {
    under_way: u32,
    /// How soon its last calls began to answer.
    begins: VecDeque<Duration>,
    failed: Option<Instant>,
}

impl Load {
    /// How much is against asking `node`: whether it has failed lately, and calls to it that are under way.
    pub(crate) fn of(&self, node: NodeId) -> (bool, u32) {
        self.of_at(node, Instant::now())
    }

    fn of_at(&self, node: NodeId, now: Instant) -> (bool, u32) {
        let peers = self.peers.lock();
        let failed = |peer: &Peer| peer.failed.is_some_and(|failed| now.duration_since(failed) < AVOIDED);
        peers.get(&node).map(|peer| (failed(peer), peer.under_way)).unwrap_or_default()
    }

    /// Counts a call to `node` until the result is dropped.
    pub(crate) fn begin(&self, node: NodeId) -> InFlight<'_> {
        self.peers.lock().entry(node).or_default().under_way += 1;
        let mut saved = self.saved.lock();
        let before = saved.unwrap_or(CALLS_PER_HEDGE);
        *saved = Some((before + 1).min(SAVED_HEDGES * CALLS_PER_HEDGE));
        InFlight { load: self, node, since: Instant::now() }
    }

    /// After what time a call to `node` that has not begun to answer is late: nineteen in twenty begin sooner.
    pub(crate) fn patience(&self, node: NodeId) -> Duration {
        let peers = self.peers.lock();
        let begins = peers.get(&node).map(|peer| &peer.begins).filter(|b| b.len() >= LEAST_REMEMBERED);
        let Some(begins) = begins else { return UNKNOWN_PATIENCE };
        let mut sorted: Vec<Duration> = begins.iter().copied().collect();
        sorted.sort_unstable();
        sorted[(sorted.len() - 1) * 19 / 20].clamp(PATIENCE[0], PATIENCE[1])
    }

    /// Takes leave to ask another replica too, if there is any left.
    pub(crate) fn may_hedge(&self) -> bool {
        let mut saved = self.saved.lock();
        let before = saved.unwrap_or(CALLS_PER_HEDGE);
        *saved = Some(before.checked_sub(CALLS_PER_HEDGE).unwrap_or(before));
        before >= CALLS_PER_HEDGE
    }
}

/// A call that is under way.
pub(crate) struct InFlight<'l> {
    load: &'l Load,
    node: NodeId,
    since: Instant,
}

impl InFlight<'_> {
    /// It begins to answer.
    pub(crate) fn answers(&self) {
        self.answers_after(self.since.elapsed());
    }

    fn answers_after(&self, time: Duration) {
        let mut peers = self.load.peers.lock();
        let peer = peers.entry(self.node).or_default();
        peer.failed = None;
        if peer.begins.len() == REMEMBERED {
            peer.begins.pop_front();
        }
        peer.begins.push_back(time);
    }

    /// It came to nothing.
    pub(crate) fn failed(&self) {
        self.load.peers.lock().entry(self.node).or_default().failed = Some(Instant::now());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(peer) = self.load.peers.lock().get_mut(&self.node) {
            peer.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_until_they_end() {
        let load = Load::default();
        let (first, second) = (load.begin(NodeId(2)), load.begin(NodeId(2)));
        assert_eq!((load.of(NodeId(2)), load.of(NodeId(3))), ((false, 2), (false, 0)));
        drop(first);
        assert_eq!(load.of(NodeId(2)), (false, 1));
        drop(second);
        assert_eq!(load.of(NodeId(2)), (false, 0));
    }

    #[test]
    fn a_peer_that_failed_is_avoided_for_a_while_or_until_it_answers() {
        let load = Load::default();
        load.begin(NodeId(2)).failed();
        assert_eq!(load.of(NodeId(2)), (true, 0));
        assert_eq!(load.of_at(NodeId(2), Instant::now() + AVOIDED), (false, 0));
        load.begin(NodeId(2)).answers();
        assert_eq!(load.of(NodeId(2)), (false, 0));
    }

    #[test]
    fn patience_is_what_a_peer_usually_takes_within_bounds() {
        let load = Load::default();
        assert_eq!(load.patience(NodeId(2)), UNKNOWN_PATIENCE);
        let calls = |count: usize, ms| {
            (0..count).for_each(|_| load.begin(NodeId(2)).answers_after(Duration::from_millis(ms)));
        };
        calls(REMEMBERED, 1);
        assert_eq!(load.patience(NodeId(2)), PATIENCE[0]);
        calls(REMEMBERED, 120);
        calls(1, 9_000);
        assert_eq!(load.patience(NodeId(2)), Duration::from_millis(120));
        calls(REMEMBERED, 9_000);
        assert_eq!(load.patience(NodeId(2)), PATIENCE[1]);
    }

    #[test]
    fn one_call_in_ten_may_be_hedged() {
        let load = Load::default();
        assert!(load.may_hedge() && !load.may_hedge(), "the first is free");
        let mut hedges = 0;
        for _ in 0..100 {
            drop(load.begin(NodeId(2)));
            hedges += u32::from(load.may_hedge());
        }
        assert_eq!(hedges, 100 / CALLS_PER_HEDGE);
        (0..10_000).for_each(|_| drop(load.begin(NodeId(2))));
        assert_eq!((0..100).filter(|_| load.may_hedge()).count(), SAVED_HEDGES as usize);
    }
}
