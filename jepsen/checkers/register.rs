//! Linearizability of registers with compare-and-swap: whether some order of the operations, each at one moment between
//! its invocation and its end, explains every answer (PR11).
//!
//! Each register is judged by itself, which is the same as all together (locality). A read that failed says nothing and
//! is left out; a write of unknown fate may take effect at any moment after its invocation, or never.
//! Source: Wing and Gong, "Testing and verifying concurrent objects", JPDC 1993; Lowe, "Testing for linearizability",
//! CCPE 2017, section 3 (the memory of what was tried).

use super::Judgement;
use crate::history::{Op, Operation, Outcome};
use std::collections::{BTreeMap, HashSet};

/// No order explains the answers.
pub const NOT_LINEARIZABLE: &str = "not linearizable";
/// More operations of one register than are judged.
pub const TOO_LONG: &str = "too long to judge";

/// Operations of one register that are judged at most: the search may be exponential.
pub const MOST_OPERATIONS: usize = 200;

/// What an operation asks and was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Read this value.
    Load(Option<u64>),
    /// Changed the value.
    Swap { from: Option<u64>, to: u64 },
    /// Told that the value was not `from`.
    Miss { from: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Step {
    act: Act,
    invoked_us: u64,
    /// `u64::MAX` if it may take effect at any later time, or never.
    ended_us: u64,
}

/// Judges the registers of a history.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut registers: BTreeMap<u64, Vec<Step>> = BTreeMap::new();
    for operation in history {
        if let Some((register, step)) = step(operation) {
            registers.entry(register).or_default().push(step);
        }
    }
    for (register, steps) in &registers {
        if steps.len() > MOST_OPERATIONS {
            judgement.add(TOO_LONG, || format!("register {register} has {} operations", steps.len()));
        } else if !is_linearizable(steps) {
            judgement.add(NOT_LINEARIZABLE, || format!("register {register}, {} operations", steps.len()));
        }
    }
    let steps: usize = registers.values().map(Vec::len).sum();
    judgement.notes.push(format!("{} registers, {steps} operations judged", registers.len()));
    judgement
}

fn step(operation: &Operation) -> Option<(u64, Step)> {
    let (register, act) = match (&operation.op, operation.outcome) {
        (Op::Load { register, value }, Outcome::Done) => (*register, Act::Load(*value)),
        (Op::Swap { register, from, to }, Outcome::Done | Outcome::Unknown) => {
            (*register, Act::Swap { from: *from, to: *to })
        }
        (Op::Swap { register, from: Some(from), .. }, Outcome::Refused) => {
            (*register, Act::Miss { from: *from })
        }
        _ => return None,
    };
    Some((register, Step { act, invoked_us: operation.invoked_us, ended_us: operation.ended_us }))
}

/// The value after `act` took effect on `value`; `None` if it cannot have been told what it was.
fn apply(act: Act, value: Option<u64>) -> Option<Option<u64>> {
    match act {
        Act::Load(seen) => (seen == value).then_some(value),
        Act::Swap { from, to } => (from.is_none() || from == value).then_some(Some(to)),
        Act::Miss { from } => (value != Some(from)).then_some(value),
    }
}

/// Which steps have taken effect.
type Chosen = [u64; MOST_OPERATIONS.div_ceil(64)];

fn has(chosen: &Chosen, step: usize) -> bool {
    chosen[step / 64] & 1 << (step % 64) != 0
}

/// Tries the steps in every order that their times allow, and remembers what was tried: the same steps and the same
/// value lead nowhere a second time.
fn is_linearizable(steps: &[Step]) -> bool {
    let (mut chosen, mut value): (Chosen, Option<u64>) = (Chosen::default(), None);
    let mut tried: HashSet<(Chosen, Option<u64>)> = HashSet::new();
    // What was chosen, the value before it, and from which step on the next choice is tried.
    let mut path: Vec<(usize, Option<u64>)> = Vec::new();
    let mut next = 0;
    loop {
        if steps.iter().enumerate().all(|(at, step)| has(&chosen, at) || step.ended_us == u64::MAX) {
            return true;
        }
        match choose(steps, &chosen, value, next) {
            Some((at, after)) => {
                let mut with = chosen;
                with[at / 64] |= 1 << (at % 64);
                if tried.insert((with, after)) {
                    path.push((at, value));
                    (chosen, value, next) = (with, after, 0);
                } else {
                    next = at + 1;
                }
            }
            None => {
                let Some((at, before)) = path.pop() else { return false };
                chosen[at / 64] &= !(1 << (at % 64));
                (value, next) = (before, at + 1);
            }
        }
    }
}

/// The first step from `from` on that may take effect now, and the value after it: no other must have ended before it
/// was invoked.
fn choose(steps: &[Step], chosen: &Chosen, value: Option<u64>, from: usize) -> Option<(usize, Option<u64>)> {
    let open = || steps.iter().enumerate().filter(|(at, _)| !has(chosen, *at));
    let first_end = open().map(|(_, step)| step.ended_us).min()?;
    let possible = open().filter(|(at, step)| *at >= from && step.invoked_us <= first_end);
    let useful = possible.filter(|(at, step)| {
        step.ended_us < u64::MAX
            || open().any(|(other, open)| other != *at && needs(open.act, step.act, value))
    });
    useful.filter_map(|(at, step)| Some((at, apply(step.act, value)?))).next()
}

/// Whether `act` may rest on `open` taking effect on `value`. What nothing rests on might as well never happen, so it
/// is not tried: else each write of unknown fate would double the search.
fn needs(act: Act, open: Act, value: Option<u64>) -> bool {
    let Act::Swap { to, .. } = open else { return true };
    match act {
        Act::Load(seen) => seen == Some(to),
        Act::Swap { from, .. } => from == Some(to),
        Act::Miss { from } => value == Some(from),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, refused, unknown};
    use super::*;
    use proptest::prelude::*;

    fn load(value: Option<u64>) -> Op {
        Op::Load { register: 1, value }
    }

    fn store(to: u64) -> Op {
        Op::Swap { register: 1, from: None, to }
    }

    fn swap(from: u64, to: u64) -> Op {
        Op::Swap { register: 1, from: Some(from), to }
    }

    #[track_caller]
    fn check_verdict(history: &[Operation], is_right: bool) {
        assert_eq!(check(history).is_clean(), is_right, "{history:?}");
    }

    #[test]
    fn a_read_sees_the_last_write() {
        check_verdict(&[done((0, 1), load(None)), done((2, 3), store(7)), done((4, 5), load(Some(7)))], true);
        check_verdict(&[done((0, 1), store(7)), done((2, 3), load(None))], false);
        check_verdict(&[done((0, 1), store(7)), done((2, 3), store(8)), done((4, 5), load(Some(7)))], false);
    }

    #[test]
    fn beside_a_write_a_read_sees_either_but_never_turns_back() {
        check_verdict(&[done((0, 9), store(7)), done((1, 2), load(None)), done((3, 4), load(Some(7)))], true);
        check_verdict(
            &[done((0, 9), store(7)), done((1, 2), load(Some(7))), done((3, 4), load(None))],
            false,
        );
    }

    #[test]
    fn of_two_swaps_from_one_value_one_succeeds() {
        let begin = done((0, 1), store(1));
        check_verdict(&[begin.clone(), done((2, 5), swap(1, 2)), refused((2, 5), swap(1, 3))], true);
        check_verdict(&[begin.clone(), done((2, 5), swap(1, 2)), done((2, 5), swap(1, 3))], false);
        check_verdict(&[begin.clone(), refused((2, 5), swap(1, 3))], false);
        check_verdict(&[begin, done((2, 3), swap(2, 3))], false);
    }

    #[test]
    fn of_unknown_fate_it_happens_at_any_later_time_or_never() {
        check_verdict(&[unknown(0, store(7)), done((5, 6), load(None)), done((7, 8), load(Some(7)))], true);
        check_verdict(&[unknown(0, store(7)), done((5, 6), load(None))], true);
        check_verdict(&[unknown(4, store(7)), done((0, 1), load(Some(7)))], false);
        let turns_back = [unknown(0, store(7)), done((5, 6), load(Some(7))), done((7, 8), load(None))];
        check_verdict(&turns_back, false);
    }

    #[test]
    fn a_lost_update_is_found_among_many_operations() {
        let mut history: Vec<Operation> = Vec::new();
        for round in 0..60 {
            let at = round * 10;
            history.push(done((at, at + 8), store(round)));
            history.push(unknown(at + 1, store(1_000 + round)));
            history.push(done((at + 9, at + 9), load(Some(round))));
        }
        check_verdict(&history, true);
        history.push(done((601, 602), load(Some(3))));
        check_verdict(&history, false);
    }

    #[test]
    fn registers_do_not_meet() {
        let other = Op::Load { register: 2, value: None };
        check_verdict(&[done((0, 1), store(7)), done((2, 3), other)], true);
    }

    #[test]
    fn too_many_operations_are_no_success() {
        let history: Vec<Operation> =
            (0..=MOST_OPERATIONS as u64).map(|at| done((2 * at, 2 * at + 1), load(None))).collect();
        assert_eq!(check(&history).count(TOO_LONG), 1);
    }

    /// Every order of the operations, without memory: what the search is held against.
    fn by_brute_force(steps: &[Step], chosen: u32, value: Option<u64>) -> bool {
        let open = || (0..steps.len()).filter(|at| chosen & 1 << at == 0);
        if open().all(|at| steps[at].ended_us == u64::MAX) {
            return true;
        }
        open().any(|at| {
            let is_early = open().all(|other| steps[at].invoked_us <= steps[other].ended_us);
            is_early
                && apply(steps[at].act, value)
                    .is_some_and(|after| by_brute_force(steps, chosen | 1 << at, after))
        })
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let act = prop_oneof![
            prop::option::of(0..3u64).prop_map(Act::Load),
            (prop::option::of(0..3u64), 0..3u64).prop_map(|(from, to)| Act::Swap { from, to }),
            (0..3u64).prop_map(|from| Act::Miss { from }),
        ];
        (act, 0..20u64, 0..8u64, prop::bool::weighted(0.2)).prop_map(|(act, invoked_us, length, is_open)| {
            let is_open = is_open && matches!(act, Act::Swap { .. });
            Step { act, invoked_us, ended_us: if is_open { u64::MAX } else { invoked_us + length } }
        })
    }

    proptest! {
        #[test]
        fn the_search_finds_what_trying_everything_finds(steps in prop::collection::vec(any_step(), 0..7)) {
            prop_assert_eq!(is_linearizable(&steps), by_brute_force(&steps, 0, None));
        }
    }
}
