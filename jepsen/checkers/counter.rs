//! A counter that clients add to and send again until they are told that it was done: every read lies between what was
//! acknowledged before it and what was tried before its end, and in the end each increment counts once (PR5).

use super::Judgement;
use crate::history::{Op, Operation, Outcome};
use std::collections::BTreeMap;

/// Below what was acknowledged before the read was asked for.
pub const SHORT: &str = "short";
/// Above all that was tried before the read ended.
pub const DOUBLED: &str = "doubled";
/// Less than an earlier read.
pub const BACKWARDS: &str = "backwards";
/// The last read is not what was acknowledged and some of what is of unknown fate.
pub const IMPOSSIBLE: &str = "impossible";

/// Sums of unknown increments are looked at up to here.
const MOST: u64 = 10_000_000;

#[derive(Debug, Clone, Copy)]
struct Increment {
    by: u64,
    invoked_us: u64,
    /// `u64::MAX` if it was never acknowledged.
    acknowledged_us: u64,
}

/// Judges the counter of a history.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let increments = increments(history);
    let mut last: Option<(u64, u64, u64)> = None;
    let answered = history.iter().filter(|operation| operation.outcome == Outcome::Done);
    let mut reads = 0;
    for read in answered {
        let Op::ReadSum { count, sum } = read.op else { continue };
        reads += 1;
        let least = total(&increments, |i| i.acknowledged_us < read.invoked_us);
        let most = total(&increments, |i| i.invoked_us < read.ended_us);
        let tell = || format!("{count} increments make {sum} at {}, {least:?} to {most:?}", read.ended_us);
        if count < least.0 || sum < least.1 {
            judgement.add(SHORT, tell);
        }
        if count > most.0 || sum > most.1 {
            judgement.add(DOUBLED, tell);
        }
        match last {
            Some((ended_us, ..)) if ended_us >= read.invoked_us => {}
            Some((_, count_before, sum_before)) if count < count_before || sum < sum_before => {
                judgement.add(BACKWARDS, tell);
            }
            _ => last = Some((read.ended_us, count, sum)),
        }
    }
    let unknown: Vec<u64> =
        increments.values().filter(|i| i.acknowledged_us == u64::MAX).map(|i| i.by).collect();
    judge_end(history, &increments, &unknown, &mut judgement);
    let noted = format!("{} increments, {} of unknown fate, {reads} reads", increments.len(), unknown.len());
    judgement.notes.push(noted);
    judgement
}

/// The increments that may be there.
fn increments(history: &[Operation]) -> BTreeMap<u64, Increment> {
    let mut increments: BTreeMap<u64, Increment> = BTreeMap::new();
    for operation in history {
        let Op::Increment { element, by } = operation.op else { continue };
        // A refused try has no effect: it explains nothing that is there.
        if operation.outcome == Outcome::Refused {
            continue;
        }
        // One operation stands for one try; only an acknowledgement settles it.
        let entry = increments.entry(element).or_insert(Increment {
            by,
            invoked_us: operation.invoked_us,
            acknowledged_us: u64::MAX,
        });
        if operation.outcome == Outcome::Done {
            entry.acknowledged_us = entry.acknowledged_us.min(operation.ended_us);
        }
    }
    increments
}

/// Number and sum of some increments.
fn total(increments: &BTreeMap<u64, Increment>, is_one: impl Fn(&Increment) -> bool) -> (u64, u64) {
    let some = increments.values().filter(|increment| is_one(increment));
    some.fold((0, 0), |(count, sum), increment| (count + 1, sum + increment.by))
}

/// After the last increment has ended, a read is exact but for what is of unknown fate.
fn judge_end(
    history: &[Operation],
    increments: &BTreeMap<u64, Increment>,
    unknown: &[u64],
    judgement: &mut Judgement,
) {
    let (count, sum) = total(increments, |i| i.acknowledged_us < u64::MAX);
    let begins = increments.values().map(|i| i.invoked_us).max().unwrap_or(0);
    let acknowledged = increments.values().map(|i| i.acknowledged_us).filter(|at| *at < u64::MAX).max();
    let end_us = begins.max(acknowledged.unwrap_or(0));
    let sums = subset_sums(unknown);
    let last = history.iter().filter(|o| o.outcome == Outcome::Done && o.invoked_us > end_us);
    for read in last {
        let Op::ReadSum { count: counted, sum: summed } = read.op else { continue };
        let more = counted.checked_sub(count).zip(summed.checked_sub(sum));
        let is_possible = more.is_some_and(|(count, sum)| {
            count <= unknown.len() as u64 && sums.get(sum as usize).copied().unwrap_or(false)
        });
        if !is_possible {
            judgement.add(IMPOSSIBLE, || {
                format!("the end is {counted} increments and {summed}, acknowledged are {count} and {sum}")
            });
        }
    }
}

/// Whether some of `values` make a sum, for each sum.
fn subset_sums(values: &[u64]) -> Vec<bool> {
    let most = values.iter().sum::<u64>().min(MOST) as usize;
    let mut sums = vec![false; most + 1];
    sums[0] = true;
    for value in values {
        for sum in (*value as usize..=most).rev() {
            sums[sum] |= sums[sum - *value as usize];
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, refused, unknown};
    use super::*;

    fn add(element: u64, by: u64) -> Op {
        Op::Increment { element, by }
    }

    fn read(count: u64, sum: u64) -> Op {
        Op::ReadSum { count, sum }
    }

    #[track_caller]
    fn check_kinds(history: &[Operation], expected: &[&str]) {
        let judgement = check(history);
        let kinds = [SHORT, DOUBLED, BACKWARDS, IMPOSSIBLE];
        let found: Vec<&str> = kinds.into_iter().filter(|kind| judgement.count(kind) > 0).collect();
        assert_eq!(found, expected, "{:?}", judgement.lines());
    }

    #[test]
    fn every_increment_counts_once() {
        let begin = || [done((0, 1), add(1, 5)), done((2, 3), add(2, 7))].to_vec();
        let with = |reads: &[Operation]| [begin(), reads.to_vec()].concat();
        check_kinds(&with(&[done((4, 5), read(2, 12))]), &[]);
        check_kinds(&with(&[done((4, 5), read(1, 5))]), &[SHORT, IMPOSSIBLE]);
        check_kinds(&with(&[done((4, 5), read(3, 17))]), &[DOUBLED, IMPOSSIBLE]);
        check_kinds(&with(&[done((4, 5), read(2, 14))]), &[DOUBLED, IMPOSSIBLE]);
    }

    #[test]
    fn of_unknown_fate_it_counts_or_not() {
        let history = |last: Op| {
            [done((0, 1), add(1, 5)), unknown(2, add(2, 7)), unknown(3, add(3, 9)), done((8, 9), last)]
        };
        for possible in [read(1, 5), read(2, 12), read(2, 14), read(3, 21)] {
            check_kinds(&history(possible), &[]);
        }
        check_kinds(&history(read(2, 11)), &[IMPOSSIBLE]);
        check_kinds(&history(read(4, 26)), &[DOUBLED, IMPOSSIBLE]);
    }

    #[test]
    fn tried_again_it_is_still_one() {
        let history = |last: Op| [unknown(0, add(1, 5)), done((2, 3), add(1, 5)), done((4, 5), last)];
        check_kinds(&history(read(1, 5)), &[]);
        check_kinds(&history(read(2, 10)), &[DOUBLED, IMPOSSIBLE]);
    }

    #[test]
    fn refused_it_does_not_count() {
        let history = |last: Op| [done((0, 1), add(1, 5)), refused((2, 3), add(2, 7)), done((4, 5), last)];
        check_kinds(&history(read(1, 5)), &[]);
        check_kinds(&history(read(2, 12)), &[DOUBLED, IMPOSSIBLE]);
        // The first of two tries may have had an effect, whatever was said of the second.
        let again = |last: Op| [unknown(0, add(1, 5)), refused((2, 3), add(1, 5)), done((4, 5), last)];
        check_kinds(&again(read(0, 0)), &[]);
        check_kinds(&again(read(1, 5)), &[]);
    }

    #[test]
    fn a_read_never_falls_behind_another() {
        let history = [
            unknown(0, add(1, 5)),
            done((1, 2), read(1, 5)),
            done((3, 4), read(0, 0)),
            unknown(9, add(2, 1)),
        ];
        check_kinds(&history, &[BACKWARDS]);
        let beside = [
            unknown(0, add(1, 5)),
            done((1, 4), read(1, 5)),
            done((3, 5), read(0, 0)),
            unknown(9, add(2, 1)),
        ];
        check_kinds(&beside, &[]);
    }
}
