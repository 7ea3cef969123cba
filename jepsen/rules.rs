//! When a run counts: it had traffic, every fault was set, and in the end everything could be read.
//!
//! Pure functions of what happened. A run that breaks a rule proved nothing, so it is unknown and not a pass.
//! Source: the traffic floor of etcd's robustness tests, and the three verdicts of openraft's.

use crate::checkers::Judgement;
use crate::fault::Fault;
use crate::history::{Op, Operation, Outcome};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Operations that must be done in each second, from the first to the end of the last fault.
const FLOOR_PER_S: f64 = 50.0;
/// Writes and reads of these, each by itself: the least workload of either has a tenth of all operations.
const FLOORS: Floors = Floors { writes_per_s: 5.0, reads_per_s: 3.0 };
/// The same when the last fault is taken back: the cluster has come to itself.
const FLOORS_AFTER: Floors = Floors { writes_per_s: 3.0, reads_per_s: 1.0 };
/// Share of operations that must be done before the first fault.
const FLOOR_BEFORE: f64 = 0.9;
/// How often each fault must be set.
pub const LEAST_FAULTS: usize = 3;
/// Within this time after a fault is taken back every node must serve again.
const RECOVERY: Duration = Duration::from_secs(10);

/// Moments of a run, microseconds since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    /// Clients begin.
    pub begin_us: u64,
    /// The first fault is about to be set.
    pub first_fault_us: u64,
    /// The last fault is taken back.
    pub calm_us: u64,
    /// Clients end, a while after that.
    pub end_us: u64,
}

/// A fault that was set, and the times between which it was.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Which.
    pub fault: Fault,
    /// From when on, microseconds.
    pub set_us: u64,
    /// When it was about to be taken back.
    pub back_us: u64,
}

/// What must be done in each second.
struct Floors {
    writes_per_s: f64,
    reads_per_s: f64,
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

/// How the cells of a call went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// As they should: passed, or with a planted bug seen.
    pub well: usize,
    /// Otherwise.
    pub ill: usize,
    /// Not at all, for want of a tool.
    pub not_run: usize,
}

impl Tally {
    /// Counts one that ran.
    pub fn add(&mut self, is_well: bool) {
        *(if is_well { &mut self.well } else { &mut self.ill }) += 1;
    }

    /// Whether this proves what it is for: something ran, all that ran went well, and, unless it may lack some, all ran.
    pub fn is_well(&self, may_lack: bool) -> bool {
        self.well > 0 && self.ill == 0 && (may_lack || self.not_run == 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as they should, {} otherwise, {} not run", self.well, self.ill, self.not_run)
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
    let mut check = |what: &str, span: (u64, u64), floor: f64, is_one: fn(&Operation) -> bool| {
        let count = within(span.0, span.1).filter(|o| is_done(o) && is_one(o)).count();
        let rate = count as f64 / (span.1.saturating_sub(span.0) as f64 / 1e6);
        if !rate.is_finite() || rate < floor {
            unmet.push(format!("{rate:.1} {what} a second were done, {floor} are the floor"));
        }
    };
    let (whole, after) = ((marks.begin_us, marks.end_us), (marks.calm_us, marks.end_us));
    check("operations", whole, FLOOR_PER_S, |_| true);
    check("writes", whole, FLOORS.writes_per_s, |o| !o.op.is_read());
    check("reads", whole, FLOORS.reads_per_s, |o| o.op.is_read());
    check("writes after the faults", after, FLOORS_AFTER.writes_per_s, |o| !o.op.is_read());
    check("reads after the faults", after, FLOORS_AFTER.reads_per_s, |o| o.op.is_read());
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

/// The faults that were not set often enough, or that nobody felt although they keep a node from its work.
pub fn faults(declared: &[Fault], settings: &[Setting], history: &[Operation]) -> Vec<String> {
    let mut unmet = Vec::new();
    for fault in declared {
        let set: Vec<&Setting> = settings.iter().filter(|setting| setting.fault == *fault).collect();
        if set.len() < LEAST_FAULTS {
            unmet.push(format!("{fault} was set {} times, {LEAST_FAULTS} are the least", set.len()));
        }
        let is_within = |o: &Operation| set.iter().any(|s| (s.set_us..s.back_us).contains(&o.invoked_us));
        if fault.is_felt() && !history.iter().any(|o| is_within(o) && !is_done(o)) {
            unmet.push(format!("{fault} hit nothing: every operation begun under it was done"));
        }
    }
    unmet
}

/// The longest time from the end of a fault until each node had done an operation again that began after it. A node that
/// the next fault came before says nothing.
pub fn recovery(settings: &[Setting], history: &[Operation]) -> Duration {
    let nodes: BTreeSet<usize> = history.iter().filter_map(|operation| operation.node).collect();
    let again = |setting: &Setting, node: usize| {
        let next = settings.iter().map(|other| other.set_us).filter(|set| *set > setting.back_us).min();
        let after = history.iter().filter(|o| o.node == Some(node) && o.invoked_us >= setting.back_us);
        let done = after.filter(|o| is_done(o)).map(|o| o.ended_us).min()?;
        (next.is_none_or(|next| done < next)).then(|| Duration::from_micros(done - setting.back_us))
    };
    let times =
        settings.iter().flat_map(|setting| nodes.iter().filter_map(move |node| again(setting, *node)));
    times.max().unwrap_or_default()
}

/// The rule that a recovery broke.
pub fn slow_recovery(recovery: Duration) -> Option<String> {
    let text = || {
        format!("a node served again {recovery:.1?} after a fault was taken back, {RECOVERY:?} are the bound")
    };
    (recovery > RECOVERY).then(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `per_s` operations a second for ten seconds, of which every fourth is a read; the first of every `one_in` is of
    /// unknown fate.
    fn history(per_s: u64, one_in: u64) -> Vec<Operation> {
        let operation = |n: u64| Operation {
            process: n,
            node: None,
            invoked_us: n * 1_000_000 / per_s,
            ended_us: u64::MAX,
            outcome: if n.is_multiple_of(one_in) { Outcome::Unknown } else { Outcome::Done },
            op: if n % 4 == 3 { Op::Count { expected: 1, found: 1 } } else { Op::Add { key: 0, element: n } },
        };
        (0..10 * per_s).map(operation).collect()
    }

    const MARKS: Marks =
        Marks { begin_us: 0, first_fault_us: 4_000_000, calm_us: 8_000_000, end_us: 10_000_000 };

    #[track_caller]
    fn check_unmet(history: &[Operation], unmet: usize) {
        assert_eq!(traffic(history, MARKS).len(), unmet, "{:?}", traffic(history, MARKS));
    }

    #[test]
    fn a_run_without_traffic_does_not_count() {
        check_unmet(&history(60, 1_000), 0);
        check_unmet(&history(40, 1_000), 1);
        check_unmet(&history(100, 8), 1);
        check_unmet(&history(100, 1), 6);
        check_unmet(&[], 6);
        assert_eq!(traffic(&history(60, 1_000), Marks::default()).len(), 6, "no time passed");
    }

    /// Of a good history, what is left when some operations did not get an answer.
    #[track_caller]
    fn check_unmet_without(is_silent: impl Fn(&Operation) -> bool, unmet: usize) {
        let mut history = history(200, 10_000);
        for operation in history.iter_mut().filter(|operation| is_silent(operation)) {
            operation.outcome = Outcome::Unknown;
        }
        check_unmet(&history, unmet);
    }

    #[test]
    fn reads_do_not_stand_for_writes_nor_one_time_for_another() {
        let under_faults = |o: &Operation| o.invoked_us >= MARKS.first_fault_us;
        check_unmet_without(|_| false, 0);
        check_unmet_without(|o| o.invoked_us >= MARKS.calm_us, 2);
        check_unmet_without(|o| o.invoked_us >= MARKS.calm_us && o.op.is_read(), 1);
        check_unmet_without(|o| under_faults(o) && !o.op.is_read(), 1);
        // Too little is done before the first fault, too.
        check_unmet_without(|o| o.op.is_read(), 3);
    }

    #[test]
    fn the_refusal_of_a_rival_is_an_answer() {
        let mut history = history(60, 1_000);
        for operation in &mut history {
            operation.outcome = Outcome::Refused;
        }
        check_unmet(&history, 6);
        for operation in &mut history {
            operation.op = Op::Put { key: 0, identity: 1, value: 1 };
        }
        // Reads are lacking, during and after the faults.
        check_unmet(&history, 2);
    }

    #[test]
    fn each_declared_fault_is_set_three_times() {
        use Fault::{KillAll, KillOne};
        let hit = history(100, 10);
        assert!(faults(&[KillAll], &settings(&[KillAll; 3]), &hit).is_empty());
        let once = settings(&[KillAll, KillOne, KillAll, KillAll]);
        assert_eq!(faults(&[KillAll, KillOne], &once, &hit).len(), 1);
    }

    fn settings(of: &[Fault]) -> Vec<Setting> {
        let setting = |(at, fault): (usize, &Fault)| {
            let set_us = 4_000_000 + at as u64 * 1_000_000;
            Setting { fault: *fault, set_us, back_us: set_us + 500_000 }
        };
        of.iter().enumerate().map(setting).collect()
    }

    #[test]
    fn a_fault_that_hits_nothing_does_not_count() {
        use Fault::{IsolateLeader, SlowLinks};
        let check = |fault, history: &[Operation]| faults(&[fault], &settings(&[fault; 3]), history).len();
        assert_eq!(check(IsolateLeader, &history(100, 10)), 0);
        assert_eq!(check(IsolateLeader, &history(100, 10_000)), 1);
        assert_eq!(check(SlowLinks, &history(100, 10_000)), 0, "what is slow is done");
        let mut beside = history(100, 10_000);
        beside[350].outcome = Outcome::Unknown;
        assert_eq!(check(IsolateLeader, &beside), 1, "before it was set");
        beside[620].outcome = Outcome::Unknown;
        assert_eq!(check(IsolateLeader, &beside), 0);
    }

    #[test]
    fn the_slowest_node_after_the_slowest_fault_is_the_recovery() {
        let done = |node, invoked_s: u64, ended_s: u64| Operation {
            process: 0,
            node: Some(node),
            invoked_us: invoked_s * 1_000_000,
            ended_us: ended_s * 1_000_000,
            outcome: Outcome::Done,
            op: Op::Add { key: 0, element: 1 },
        };
        let setting = |set_s: u64, back_s: u64| Setting {
            fault: Fault::KillOne,
            set_us: set_s * 1_000_000,
            back_us: back_s * 1_000_000,
        };
        let two = [setting(10, 20), setting(40, 50)];
        for (history, expected) in [
            (vec![], 0),
            // What began before the end of the fault says nothing, nor does what comes after the next one.
            (vec![done(0, 19, 30), done(0, 20, 24), done(1, 25, 41)], 4),
            (vec![done(0, 20, 21), done(1, 20, 22), done(0, 51, 57), done(1, 50, 53)], 7),
            (vec![Operation { outcome: Outcome::Unknown, ..done(0, 20, 21) }, done(0, 22, 31)], 11),
        ] {
            assert_eq!(recovery(&two, &history), Duration::from_secs(expected), "{history:?}");
        }
        assert_eq!(slow_recovery(Duration::from_secs(10)), None);
        assert!(slow_recovery(Duration::from_secs(11)).is_some_and(|text| text.contains("11.0s")));
    }

    #[test]
    fn what_was_not_run_is_not_well() {
        let tally = |well, ill, not_run| Tally { well, ill, not_run };
        assert!(tally(2, 0, 0).is_well(false) && tally(2, 0, 1).is_well(true));
        assert!(!tally(2, 0, 1).is_well(false));
        assert!(!tally(2, 1, 0).is_well(true));
        assert!(!tally(0, 0, 3).is_well(true), "nothing ran");
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
