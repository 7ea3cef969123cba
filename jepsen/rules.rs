//! When a run counts: it had traffic, every fault was set, and in the end everything could be read.
//!
//! Pure functions of what happened. A run that breaks a rule proved nothing, so it is unknown and not a pass.
//! Source: the traffic floor of etcd's robustness tests, and the three verdicts of openraft's.

use crate::checkers::Judgement;
use crate::history::{Op, Operation, Outcome};
use crate::nemesis::Fault;
use std::fmt;

/// Operations that must be done in each second, from the first to the end of the last fault.
const FLOOR_PER_S: f64 = 50.0;
/// Share of operations that must be done before the first fault.
const FLOOR_BEFORE: f64 = 0.9;
/// How often each fault must be set.
pub const LEAST_FAULTS: usize = 3;

/// Moments of a run, microseconds since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    /// Clients begin.
    pub begin_us: u64,
    /// The first fault is about to be set.
    pub first_fault_us: u64,
    /// The last fault is taken back.
    pub last_fault_us: u64,
}

/// What a run proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts, and no promise was broken.
    Pass,
    /// A promise was broken.
    Fail,
    /// It does not count.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        })
    }
}

/// The verdict. A broken promise is one whatever rules are unmet.
pub fn verdict(judgement: &Judgement, unmet: &[String]) -> Verdict {
    match (judgement.is_clean(), unmet.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, true) => Verdict::Pass,
        (true, false) => Verdict::Unknown,
    }
}

/// The rules of traffic that a run broke.
pub fn traffic(history: &[Operation], marks: Marks) -> Vec<String> {
    let mut unmet = Vec::new();
    let within = |from: u64, to: u64| history.iter().filter(move |o| (from..to).contains(&o.invoked_us));
    let seconds = marks.last_fault_us.saturating_sub(marks.begin_us) as f64 / 1e6;
    let rate = within(marks.begin_us, marks.last_fault_us).filter(|o| is_done(o)).count() as f64 / seconds;
    if !rate.is_finite() || rate < FLOOR_PER_S {
        unmet.push(format!("{rate:.0} operations a second were done, {FLOOR_PER_S} are the floor"));
    }
    let before = || within(marks.begin_us, marks.first_fault_us);
    let share = before().filter(|o| is_done(o)).count() as f64 / before().count().max(1) as f64;
    if share < FLOOR_BEFORE {
        unmet.push(format!("{:.0} % of operations were done before the first fault", share * 100.0));
    }
    unmet
}

/// Whether an operation got the answer that it is made for: of two rival values one is to be refused.
fn is_done(operation: &Operation) -> bool {
    match operation.outcome {
        Outcome::Done => true,
        Outcome::Refused => matches!(operation.op, Op::Put { .. }),
        Outcome::Unknown => false,
    }
}

/// The faults that were not set often enough.
pub fn faults(declared: &[Fault], installed: &[Fault]) -> Vec<String> {
    let count = |fault: &Fault| installed.iter().filter(|other| *other == fault).count();
    let few = declared.iter().filter(|fault| count(fault) < LEAST_FAULTS);
    few.map(|fault| format!("{fault} was set {} times, {LEAST_FAULTS} are the least", count(fault))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `per_s` operations a second for ten seconds; the first of every `one_in` is of unknown fate.
    fn history(per_s: u64, one_in: u64) -> Vec<Operation> {
        let operation = |n: u64| Operation {
            process: n,
            node: None,
            invoked_us: n * 1_000_000 / per_s,
            ended_us: u64::MAX,
            outcome: if n.is_multiple_of(one_in) { Outcome::Unknown } else { Outcome::Done },
            op: Op::Add { key: 0, element: n },
        };
        (0..10 * per_s).map(operation).collect()
    }

    const MARKS: Marks = Marks { begin_us: 0, first_fault_us: 4_000_000, last_fault_us: 10_000_000 };

    #[track_caller]
    fn check_unmet(history: &[Operation], unmet: usize) {
        assert_eq!(traffic(history, MARKS).len(), unmet, "{:?}", traffic(history, MARKS));
    }

    #[test]
    fn a_run_without_traffic_does_not_count() {
        check_unmet(&history(60, 1_000), 0);
        check_unmet(&history(40, 1_000), 1);
        check_unmet(&history(100, 8), 1);
        check_unmet(&history(100, 1), 2);
        check_unmet(&[], 2);
        assert_eq!(traffic(&history(60, 1_000), Marks::default()).len(), 2, "no time passed");
    }

    #[test]
    fn the_refusal_of_a_rival_is_an_answer() {
        let mut history = history(60, 1_000);
        for operation in &mut history {
            operation.outcome = Outcome::Refused;
        }
        check_unmet(&history, 2);
        for operation in &mut history {
            operation.op = Op::Put { key: 0, identity: 1, value: 1 };
        }
        check_unmet(&history, 0);
    }

    #[test]
    fn each_declared_fault_is_set_three_times() {
        use Fault::{KillAll, KillOne};
        assert!(faults(&[KillAll], &[KillAll; 3]).is_empty());
        assert_eq!(faults(&[KillAll, KillOne], &[KillAll, KillOne, KillAll, KillAll]).len(), 1);
    }

    #[test]
    fn a_broken_promise_is_a_failure_and_an_unmet_rule_no_pass() {
        let (clean, mut broken) = (Judgement::default(), Judgement::default());
        broken.add("lost", String::new);
        let unmet = ["too little traffic".to_owned()];
        assert_eq!(verdict(&clean, &[]), Verdict::Pass);
        assert_eq!(verdict(&clean, &unmet), Verdict::Unknown);
        assert_eq!(verdict(&broken, &[]), Verdict::Fail);
        assert_eq!(verdict(&broken, &unmet), Verdict::Fail);
    }
}
