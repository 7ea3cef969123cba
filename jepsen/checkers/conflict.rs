//! Two values for one identity: one of them wins, for everybody and for ever (PR5).
//!
//! Both may be answered with a success: the second one when its verdict was too late for its answer (C5).

use super::Judgement;
use crate::history::{Op, Operation, Outcome};
use std::collections::BTreeMap;

/// Two reads saw two winners.
pub const CHANGED: &str = "changed";
/// A write was refused, and its value is there.
pub const REFUSED_WINS: &str = "refused value wins";
/// A read that was asked for after a write was answered has no winner.
pub const MISSING: &str = "missing";
/// A value that nobody wrote under this identity.
pub const PHANTOM: &str = "phantom";
/// Two values in one read.
pub const BOTH: &str = "both";

#[derive(Debug, Default)]
struct Identity {
    key: u64,
    /// Value, when it was sent, and what was told.
    attempts: Vec<(u64, u64, Outcome)>,
    /// From when on there must be a winner.
    settled_us: Option<u64>,
    winner: Option<u64>,
}

impl Identity {
    fn settle(&mut self, at_us: u64) {
        self.settled_us = Some(self.settled_us.map_or(at_us, |before| before.min(at_us)));
    }
}

/// Judges the pages of a history. All their reads are strong ones.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut identities = written(history);
    let answered = || history.iter().filter(|operation| operation.outcome == Outcome::Done);
    for read in answered() {
        let Op::ReadPage { pairs, .. } = &read.op else { continue };
        let mut before = None;
        for (identity, value) in pairs {
            if before == Some(identity) {
                judgement.add(BOTH, || format!("identity {identity} at {}", read.ended_us));
            }
            before = Some(identity);
            match identities.get_mut(identity) {
                Some(known) => judge_value(*identity, known, *value, read, &mut judgement),
                None => judgement.add(PHANTOM, || format!("identity {identity} at {}", read.ended_us)),
            }
        }
    }
    for read in answered() {
        let Op::ReadPage { key, pairs } = &read.op else { continue };
        let present: std::collections::HashSet<u64> = pairs.iter().map(|(identity, _)| *identity).collect();
        for (identity, known) in identities.iter().filter(|(_, known)| known.key == *key) {
            let must_be = known.settled_us.is_some_and(|settled_us| settled_us < read.invoked_us);
            if must_be && !present.contains(identity) {
                judgement.add(MISSING, || format!("identity {identity} at {}", read.ended_us));
            }
        }
    }
    let contested = identities.values().filter(|known| known.attempts.len() > 1).count();
    let successes = |known: &&Identity| known.attempts.iter().filter(|a| a.2 == Outcome::Done).count() > 1;
    let late = identities.values().filter(successes).count();
    judgement.notes.push(format!(
        "{} identities, {contested} contested, {late} with two successes, {} refusals",
        identities.len(),
        identities.values().flat_map(|known| &known.attempts).filter(|a| a.2 == Outcome::Refused).count()
    ));
    judgement
}

fn written(history: &[Operation]) -> BTreeMap<u64, Identity> {
    let mut identities: BTreeMap<u64, Identity> = BTreeMap::new();
    for operation in history {
        let Op::Put { key, identity, value } = operation.op else { continue };
        let known = identities.entry(identity).or_default();
        known.key = key;
        known.attempts.push((value, operation.invoked_us, operation.outcome));
        // A refusal says that another value is there.
        if operation.outcome != Outcome::Unknown {
            known.settle(operation.ended_us);
        }
    }
    identities
}

fn judge_value(id: u64, known: &mut Identity, value: u64, read: &Operation, judgement: &mut Judgement) {
    let tell = || format!("identity {id} is {value} at {} at node {:?}", read.ended_us, read.node);
    match known.attempts.iter().find(|(written, ..)| *written == value) {
        Some((_, invoked_us, _)) if *invoked_us >= read.ended_us => judgement.add(PHANTOM, tell),
        Some((.., Outcome::Refused)) => judgement.add(REFUSED_WINS, tell),
        Some(_) => {}
        None => judgement.add(PHANTOM, tell),
    }
    if let Some(winner) = known.winner.filter(|winner| *winner != value) {
        judgement.add(CHANGED, || format!("{}, it was {winner}", tell()));
    }
    known.winner = Some(value);
    known.settle(read.ended_us);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, refused, unknown};
    use super::*;

    fn put(value: u64) -> Op {
        Op::Put { key: 0, identity: 5, value }
    }

    fn page(pairs: &[(u64, u64)]) -> Op {
        Op::ReadPage { key: 0, pairs: pairs.to_vec() }
    }

    #[track_caller]
    fn check_kinds(history: &[Operation], expected: &[&str]) {
        let judgement = check(history);
        let kinds = [CHANGED, REFUSED_WINS, MISSING, PHANTOM, BOTH];
        let found: Vec<&str> = kinds.into_iter().filter(|kind| judgement.count(kind) > 0).collect();
        assert_eq!(found, expected, "{:?}", judgement.lines());
    }

    #[test]
    fn one_value_wins_for_ever() {
        let history =
            |reads: &[Operation]| [&[done((0, 2), put(10)), refused((1, 3), put(11))], reads].concat();
        check_kinds(&history(&[done((4, 5), page(&[(5, 10)]))]), &[]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 11)]))]), &[REFUSED_WINS]);
        check_kinds(&history(&[done((4, 5), page(&[]))]), &[MISSING]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 10), (5, 11)]))]), &[CHANGED, REFUSED_WINS, BOTH]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 12)]))]), &[PHANTOM]);
    }

    #[test]
    fn of_two_unknown_values_one_may_win_and_then_stays() {
        let history = |reads: &[Operation]| [&[unknown(0, put(10)), unknown(1, put(11))], reads].concat();
        check_kinds(&history(&[done((4, 5), page(&[]))]), &[]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 11)])), done((6, 7), page(&[(5, 11)]))]), &[]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 11)])), done((6, 7), page(&[(5, 10)]))]), &[CHANGED]);
        check_kinds(&history(&[done((4, 5), page(&[(5, 11)])), done((6, 7), page(&[]))]), &[MISSING]);
    }

    #[test]
    fn two_successes_are_no_two_winners() {
        let history = |last: Op| [done((0, 1), put(10)), done((0, 9), put(11)), done((10, 11), last)];
        check_kinds(&history(page(&[(5, 10)])), &[]);
        check_kinds(&history(page(&[])), &[MISSING]);
    }
}
