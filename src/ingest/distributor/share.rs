//! The part of a tenant's limits that this gateway grants while others of the cluster grant the rest.
//!
//! Knows what was offered here and what this gateway heard of the others. Does not know tenants, nodes, nor how it is told.
//! Path: [`super::Distributor`] -> **here** -> [`super::bucket`].
//! H1: the parts of gateways that heard the same totals sum to at most the rate.
//! H2: a gateway that is not used has a part as well, so that it can begin at once.

use std::time::{Duration, Instant};

/// What was offered so long ago counts for about a third of what is offered now.
const SMOOTHING: Duration = Duration::from_secs(3);
/// Shorter times tell nothing of a rate.
const LEAST_SPAN: Duration = Duration::from_millis(100);
/// The part of the rate that is shared evenly, whoever offers how much.
const EVEN: f64 = 0.1;
/// A number of series that was told so long ago is no longer believed.
const SERIES_KEPT: Duration = Duration::from_secs(10);

/// What all gateways of a cluster together have of a tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterTotals {
    /// Samples, exemplars and metadata a second that they were offered.
    pub offered: f64,
    /// Series with samples in the last two hours, over all partitions.
    pub series: u64,
    /// Gateways that were counted.
    pub nodes: u32,
}

/// See the module header. One tenant's.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Items that were offered since the last measurement, and when that was.
    offered: u64,
    since: Option<Instant>,
    per_second: f64,
    heard: Option<Heard>,
}

#[derive(Debug)]
struct Heard {
    /// What this gateway had told when it heard.
    own: f64,
    totals: ClusterTotals,
    at: Instant,
}

impl Share {
    /// Counts what a client offers, whether or not it is granted.
    pub(super) fn offer(&mut self, items: u64, now: Instant) {
        self.offered = self.offered.saturating_add(items);
        self.since.get_or_insert(now);
    }

    /// Items a second that were offered lately. To be called about once a second.
    pub(super) fn measure(&mut self, now: Instant) -> f64 {
        let Some(since) = self.since else { return self.per_second };
        let span = now.saturating_duration_since(since);
        if span >= LEAST_SPAN {
            let kept = (-span.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
            let seen = std::mem::take(&mut self.offered) as f64 / span.as_secs_f64();
            self.per_second = self.per_second * kept + seen * (1.0 - kept);
            self.since = Some(now);
        }
        self.per_second
    }

    /// Takes in what the last measurement was answered with.
    pub(super) fn hear(&mut self, totals: ClusterTotals, now: Instant) {
        self.heard = Some(Heard { own: self.per_second, totals, at: now });
    }

    /// What this gateway grants of `rate`, in items a second: by the totals that it heard last, however long ago; before
    /// the first ones, as much as each other of `members` gateways.
    pub(super) fn part(&self, rate: f64, members: u32) -> f64 {
        match &self.heard {
            _ if members <= 1 => rate,
            Some(Heard { own, totals, .. }) => part(rate, *own, totals.offered, totals.nodes),
            None => rate / f64::from(members),
        }
    }

    /// The cluster's series, if it was told lately.
    pub(super) fn series(&self, now: Instant) -> Option<u64> {
        let is_new = |heard: &&Heard| now.saturating_duration_since(heard.at) < SERIES_KEPT;
        self.heard.as_ref().filter(is_new).map(|heard| heard.totals.series)
    }
}

/// The part of `rate` of a gateway that is offered `own` of `total` items a second, one of `nodes`. A tenth of the rate
/// is added to what is offered, the same for each gateway.
fn part(rate: f64, own: f64, total: f64, nodes: u32) -> f64 {
    let nodes = f64::from(nodes.max(1));
    let even = rate * EVEN / nodes;
    rate * (own + even) / (total.max(own) + nodes * even)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_model::{Clock, SystemClock};

    #[test]
    fn parts_follow_what_is_offered() {
        for (own, total, nodes, least, most) in [
            (0.0, 0.0, 3, 33.3, 33.4),
            (200.0, 200.0, 3, 95.0, 99.0),
            (200.0, 600.0, 3, 33.3, 33.4),
            (0.0, 200.0, 3, 1.0, 2.0),
            (50.0, 200.0, 2, 25.0, 27.0),
            (10.0, 10.0, 1, 100.0, 100.0),
            (10.0, 5.0, 1, 100.0, 100.0),
            (7.0, 7.0, 0, 100.0, 100.0),
        ] {
            let part = part(100.0, own, total, nodes);
            assert!((least..=most).contains(&part), "{part} of {own} of {total} at {nodes} nodes");
        }
    }

    #[test]
    fn before_anything_is_heard_all_have_the_same_and_afterwards_the_last_is_kept() {
        let start = SystemClock.instant();
        let mut share = Share::default();
        assert_eq!((share.part(90.0, 1), share.part(90.0, 3), share.series(start)), (90.0, 30.0, None));
        share.hear(ClusterTotals { offered: 900.0, series: 5, nodes: 3 }, start);
        let heard = share.part(90.0, 3);
        assert!(heard < 1.0, "{heard}: others are busy, this one is not");
        share.offer(1_000_000, start);
        share.measure(start + Duration::from_secs(60));
        assert_eq!(share.part(90.0, 3), heard, "nothing was heard since");
        assert_eq!(share.part(90.0, 1), 90.0, "the others are gone");
        assert_eq!(share.series(start + Duration::from_secs(9)), Some(5));
        assert_eq!(share.series(start + Duration::from_secs(10)), None);
    }

    #[test]
    fn what_is_offered_is_measured_over_seconds() {
        let start = SystemClock.instant();
        let mut share = Share::default();
        assert_eq!(share.measure(start), 0.0);
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        for tenths in 0..200 {
            share.offer(10, at(tenths));
            if tenths % 10 == 9 {
                share.measure(at(tenths + 1));
            }
        }
        let steady = share.measure(at(200));
        assert!((99.0..101.0).contains(&steady), "{steady}");
        let soon = share.measure(at(210));
        assert!(soon > steady * 0.6 && soon < steady * 0.8, "{soon}");
        assert!(share.measure(at(410)) < steady * 0.01);
    }

    proptest! {
        #[test]
        fn the_parts_never_sum_to_more_than_the_rate(
            rate in 1e-3..1e9f64,
            owns in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1e9f64], 1..50),
            silent in 0..10u32,
        ) {
            let (total, nodes) = (owns.iter().sum::<f64>(), owns.len() as u32 + silent);
            let parts: Vec<f64> = owns.iter().map(|own| part(rate, *own, total, nodes)).collect();
            prop_assert!(parts.iter().sum::<f64>() <= rate * (1.0 + 1e-9));
            prop_assert!(parts.iter().all(|part| *part > 0.0));
        }
    }
}
