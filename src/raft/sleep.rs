//! Whether one group sleeps: a state machine without clock, timers or messages.
//!
//! Knows what a group waits for before it sleeps and what wakes it. Does not know openraft: who uses this switches the
//! timer of the group on while it is awake, and off otherwise.
//! Path: [`crate::quiet`] -> **here** -> [`crate::signs`].
//! Z1: sleeping means that nobody counts time. What is true of votes, entries and reads does not depend on it.
//! Z2: a follower sleeps under a leader, and only while that leader's node lives with the boot that it had (S1, S3); a
//! leader sleeps while the nodes of all its members do.
//! Z3: whatever changes the group wakes it, before or after, but never not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_model::NodeId;
use tokio::time::Instant;

use crate::segment_log::{LogId, Vote};
use crate::signs::Signs;

/// Between two attempts of a leader to let its group sleep.
const AGAIN: Duration = Duration::from_secs(1);
/// A follower that is woken while its leader's node lives counts no time for so long: the leader, which it tells,
/// speaks first.
const GRACE: Duration = Duration::from_secs(1);

/// What the members of a group have to agree on before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rest {
    /// The leader's vote.
    pub(crate) vote: Vote,
    /// Its last entry, which all have and have applied.
    pub(crate) last: LogId,
}

/// What a leader knows of its group when nothing in it is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AtRest {
    pub(crate) rest: Rest,
    /// All members but the leader.
    pub(crate) others: BTreeSet<NodeId>,
}

/// Whether a group sleeps.
#[derive(Debug)]
pub(crate) struct Sleep {
    state: State,
    /// What had happened at the last turn.
    activity: u64,
    /// After so long without anything the group may sleep.
    after: Duration,
}

#[derive(Debug)]
enum State {
    Awake {
        since: Instant,
        offer: Option<Offer>,
        tried: Option<Instant>,
    },
    /// A follower that leaves its leader time to speak.
    Rising {
        at: Instant,
        leader: NodeId,
    },
    Asleep(Bed),
}

/// A leader's word that the group could sleep, and who has agreed.
#[derive(Debug)]
struct Offer {
    at_rest: AtRest,
    agreed: BTreeMap<NodeId, u64>,
}

/// What a sleeping group relies on.
#[derive(Debug)]
struct Bed {
    rest: Rest,
    /// The nodes that must live, with their boots.
    needs: BTreeMap<NodeId, u64>,
    /// From the silence of one of them until the group wakes.
    spread: Duration,
}

impl Bed {
    fn is_broken(&self, now: Instant, signs: &Signs, spread: Duration) -> bool {
        self.needs
            .iter()
            .any(|(node, boot)| signs.silence(*node, *boot, now).is_some_and(|for_| for_ >= spread))
    }
}

impl Sleep {
    /// Awake; may sleep when nothing has happened for the time `after`.
    pub(crate) fn new(now: Instant, after: Duration) -> Self {
        Self { state: State::Awake { since: now, offer: None, tried: None }, activity: 0, after }
    }

    /// Whether the timer of the group is to run.
    pub(crate) fn is_awake(&self) -> bool {
        matches!(self.state, State::Awake { .. })
    }

    /// Whether it sleeps with this vote.
    pub(crate) fn is_under(&self, vote: Vote) -> bool {
        matches!(&self.state, State::Asleep(bed) if bed.rest.vote == vote)
    }

    /// Whether it sleeps as that of a leader, which is `me`.
    pub(crate) fn is_own(&self, me: NodeId) -> bool {
        matches!(&self.state, State::Asleep(bed) if bed.rest.vote.node == me.0)
    }

    /// Time passes. `activity` counts what has happened in the group; `at_rest` is asked only where it matters, and has
    /// an answer only if this node leads the group and nothing is under way.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        activity: u64,
        signs: &Signs,
        at_rest: impl FnOnce() -> Option<AtRest>,
    ) {
        let (is_new, after) = (std::mem::replace(&mut self.activity, activity) != activity, self.after);
        match &mut self.state {
            State::Asleep(bed) if bed.is_broken(now, signs, bed.spread) => self.wake(now),
            State::Rising { at, .. } if *at <= now => self.wake(now),
            State::Asleep(_) | State::Rising { .. } => {}
            State::Awake { .. } if is_new => self.wake(now),
            State::Awake { since, offer, tried } => {
                let is_agreed = offer.as_ref().is_some_and(Offer::is_agreed);
                let is_due = tried.is_none_or(|tried| now >= tried + AGAIN);
                if now < *since + after || !(is_agreed || is_due) {
                    return;
                }
                *tried = Some(now);
                let at_rest =
                    at_rest().filter(|it| it.others.iter().all(|node| signs.alive(*node, now).is_some()));
                match (at_rest, offer.take()) {
                    (Some(at_rest), Some(known)) if known.at_rest == at_rest => match is_agreed {
                        true => {
                            let (rest, needs, spread) = (at_rest.rest, known.agreed, Duration::ZERO);
                            self.state = State::Asleep(Bed { rest, needs, spread });
                        }
                        false => *offer = Some(known),
                    },
                    (at_rest, _) => {
                        *offer = at_rest.map(|at_rest| Offer { at_rest, agreed: BTreeMap::new() })
                    }
                }
            }
        }
    }

    /// What this leader asks of `node`, if it asks anything.
    pub(crate) fn asks(&self, node: NodeId) -> Option<Rest> {
        let State::Awake { offer: Some(offer), .. } = &self.state else { return None };
        let is_asked = offer.at_rest.others.contains(&node) && !offer.agreed.contains_key(&node);
        is_asked.then_some(offer.at_rest.rest)
    }

    /// `node`, of that boot, sleeps as it was asked to.
    pub(crate) fn agreed(&mut self, node: NodeId, boot: u64, rest: Rest) {
        if let State::Awake { offer: Some(offer), .. } = &mut self.state
            && offer.at_rest.rest == rest
        {
            offer.agreed.insert(node, boot);
        }
    }

    /// The leader, of that boot, lets this follower sleep; `spread` is its own.
    pub(crate) fn lie_down(&mut self, rest: Rest, boot: u64, spread: Duration) {
        let needs = BTreeMap::from([(NodeId(rest.vote.node), boot)]);
        self.state = State::Asleep(Bed { rest, needs, spread });
    }

    /// Somebody wants to lead the group. Whether he is put off this once: the group sleeps, and those whom it relies on
    /// live. It sleeps no longer.
    pub(crate) fn puts_off(&mut self, me: NodeId, now: Instant, signs: &Signs) -> bool {
        let State::Asleep(bed) = &self.state else { return false };
        if bed.is_broken(now, signs, Duration::ZERO) {
            return false;
        }
        let leader = NodeId(bed.rest.vote.node);
        match leader == me {
            true => self.wake(now),
            false => self.state = State::Rising { at: now + GRACE, leader },
        }
        true
    }

    /// Whether this follower wants to be spoken to by `leader`.
    pub(crate) fn calls(&self, node: NodeId) -> bool {
        matches!(&self.state, State::Rising { leader, .. } if *leader == node)
    }

    /// Something happens, or has happened.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.state = State::Awake { since: now, offer: None, tried: None };
    }
}

impl Offer {
    fn is_agreed(&self) -> bool {
        self.at_rest.others.iter().all(|node| self.agreed.contains_key(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signs::LEASE;

    const AFTER: Duration = Duration::from_secs(5);
    const MS: Duration = Duration::from_millis(1);
    const BOOT: u64 = 77;

    fn rest(last: u64) -> Rest {
        Rest {
            vote: Vote { term: 3, node: 1, committed: true },
            last: LogId { term: 3, node: 1, index: last },
        }
    }

    fn at_rest(last: u64, others: &[u64]) -> Option<AtRest> {
        Some(AtRest { rest: rest(last), others: others.iter().copied().map(NodeId).collect() })
    }

    /// A table in which nodes 1, 2 and 3 were asked at `at`.
    fn heard(at: Instant) -> Signs {
        let mut signs = Signs::default();
        (1..=3).for_each(|node| signs.heard(NodeId(node), BOOT, at, at));
        signs
    }

    /// Node 1 leads; nodes 2 and 3 agree to what it asks.
    fn leader_asleep(begin: Instant) -> (Sleep, Instant) {
        let (mut sleep, now) = (Sleep::new(begin, AFTER), begin + AFTER);
        sleep.turn(now, 0, &heard(now), || at_rest(9, &[2, 3]));
        [2, 3].into_iter().for_each(|node| sleep.agreed(NodeId(node), BOOT, rest(9)));
        sleep.turn(now + 100 * MS, 0, &heard(now), || at_rest(9, &[2, 3]));
        assert!(!sleep.is_awake());
        (sleep, now + 100 * MS)
    }

    fn follower_asleep(now: Instant) -> Sleep {
        let mut sleep = Sleep::new(now, AFTER);
        sleep.lie_down(rest(9), BOOT, 300 * MS);
        sleep
    }

    #[test]
    fn a_leader_sleeps_once_all_others_do() {
        let begin = Instant::now();
        let mut sleep = Sleep::new(begin, AFTER);
        let turn = |sleep: &mut Sleep, at: Duration, activity: u64, last: u64| {
            sleep.turn(begin + at, activity, &heard(begin + at), || at_rest(last, &[2, 3]));
            [2, 3, 4].map(|node| sleep.asks(NodeId(node)).map(|rest| rest.last.index))
        };
        assert_eq!(turn(&mut sleep, AFTER - MS, 0, 9), [None; 3], "not yet");
        assert_eq!(turn(&mut sleep, AFTER, 0, 9), [Some(9), Some(9), None]);
        sleep.agreed(NodeId(2), BOOT, rest(9));
        sleep.agreed(NodeId(3), BOOT, rest(8));
        assert_eq!(turn(&mut sleep, AFTER + MS, 0, 9), [None, Some(9), None], "old words do not count");
        assert_eq!(turn(&mut sleep, AFTER + AGAIN, 0, 10), [Some(10), Some(10), None], "all are asked anew");
        [2, 3].into_iter().for_each(|node| sleep.agreed(NodeId(node), BOOT, rest(10)));
        assert_eq!(turn(&mut sleep, AFTER + AGAIN + MS, 1, 10), [None; 3], "something happened meanwhile");
        assert!(sleep.is_awake());
        let later = AFTER * 2 + AGAIN + MS;
        assert_eq!(turn(&mut sleep, later, 1, 10), [Some(10), Some(10), None]);
        [2, 3].into_iter().for_each(|node| sleep.agreed(NodeId(node), BOOT, rest(10)));
        assert!(sleep.is_awake());
        turn(&mut sleep, later + MS, 1, 10);
        assert!(!sleep.is_awake() && sleep.is_under(rest(10).vote));
    }

    #[test]
    fn a_leader_does_not_sleep_while_something_is_missing() {
        let begin = Instant::now();
        let now = begin + AFTER;
        for (what, signs, known) in [
            ("nothing is at rest", heard(now), None),
            ("a node was not heard lately", heard(now - LEASE), at_rest(9, &[2, 3])),
            ("a node was never heard", heard(now), at_rest(9, &[2, 3, 4])),
        ] {
            let mut sleep = Sleep::new(begin, AFTER);
            sleep.turn(now, 0, &signs, || known.clone());
            assert_eq!(sleep.asks(NodeId(2)), None, "{what}");
            assert!(sleep.is_awake(), "{what}");
        }
        let mut alone = Sleep::new(begin, AFTER);
        alone.turn(now, 0, &Signs::default(), || at_rest(9, &[]));
        alone.turn(now + MS, 0, &Signs::default(), || at_rest(9, &[]));
        assert!(!alone.is_awake(), "nobody is asked");
    }

    #[test]
    fn silence_wakes_a_leader_at_once_and_a_follower_after_its_spread() {
        let begin = Instant::now();
        for (after, leader_wakes, follower_wakes) in [
            (Duration::ZERO, false, false),
            (LEASE - MS, false, false),
            (LEASE, true, false),
            (LEASE + 299 * MS, true, false),
            (LEASE + 300 * MS, true, true),
        ] {
            let (mut leader, slept) = leader_asleep(begin);
            leader.turn(slept + after, 0, &heard(slept), || None);
            assert_eq!(leader.is_awake(), leader_wakes, "{after:?}");
            let mut follower = follower_asleep(slept);
            follower.turn(slept + after, 0, &heard(slept), || None);
            assert_eq!(follower.is_awake(), follower_wakes, "{after:?}");
        }
    }

    #[test]
    fn a_node_that_was_started_again_wakes_who_relied_on_it() {
        let (mut leader, slept) = leader_asleep(Instant::now());
        let mut follower = follower_asleep(slept);
        let mut signs = heard(slept);
        [1, 3].into_iter().for_each(|node| signs.heard(NodeId(node), BOOT + 1, slept, slept));
        leader.turn(slept + MS, 0, &signs, || None);
        assert!(leader.is_awake());
        follower.turn(slept + MS, 0, &signs, || None);
        assert!(!follower.is_awake());
        follower.turn(slept + 300 * MS, 0, &signs, || None);
        assert!(follower.is_awake());
    }

    #[test]
    fn a_ballot_is_put_off_once_while_the_leader_lives() {
        let (mut leader, slept) = leader_asleep(Instant::now());
        let (mut follower, signs) = (follower_asleep(slept), heard(slept));
        assert!(leader.puts_off(NodeId(1), slept, &signs) && leader.is_awake());
        assert!(!leader.puts_off(NodeId(1), slept, &signs), "awake, it is openraft's");
        assert!(follower.puts_off(NodeId(2), slept, &signs));
        assert!(!follower.is_awake(), "the leader is to speak first");
        assert_eq!([1, 3].map(|node| follower.calls(NodeId(node))), [true, false]);
        assert!(!follower.puts_off(NodeId(2), slept, &signs), "the second ballot counts");
        follower.turn(slept + GRACE - MS, 0, &signs, || None);
        assert!(!follower.is_awake());
        follower.turn(slept + GRACE, 0, &signs, || None);
        assert!(follower.is_awake() && !follower.calls(NodeId(1)), "it waits no longer");

        let mut follower = follower_asleep(slept);
        assert!(!follower.puts_off(NodeId(2), slept + LEASE, &signs), "its leader is silent");
    }

    #[test]
    fn activity_is_never_slept_through() {
        let (mut sleep, slept) = leader_asleep(Instant::now());
        sleep.wake(slept);
        assert!(sleep.is_awake() && !sleep.is_under(rest(9).vote));
        sleep.turn(slept + AFTER - MS, 0, &heard(slept + AFTER), || at_rest(9, &[2, 3]));
        assert_eq!(sleep.asks(NodeId(2)), None, "it counts from when it woke");
    }
}
