//! Position tokens: a client that shows its token sees what it wrote, and never less than it has seen (PR9).

use super::Judgement;
use crate::history::{Freshness, Op, Operation, Outcome};
use std::collections::HashMap;

/// Less than the client itself had acknowledged before.
pub const OWN_WRITE_MISSING: &str = "own write missing";
/// Less than the client had seen before.
pub const BACKWARDS: &str = "backwards";
/// A value that was not written yet.
pub const PHANTOM: &str = "phantom";

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    written: u64,
    seen: u64,
}

/// Judges the registers of a history. Only reads with the token that the client has of that register are held to what
/// it knew; the strong read that gives it the first one adds to that.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut known: HashMap<(u64, u64), Known> = HashMap::new();
    let mut newest: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for operation in history {
        if let Op::Advance { register, value } = operation.op {
            newest.entry(register).or_default().push((operation.invoked_us, value));
        }
    }
    let (mut reads, mut checked) = (0, 0);
    // Operations of one client never overlap, so their invocations are in the order of their ends.
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Done) {
        match operation.op {
            Op::Advance { register, value } => {
                let known = known.entry((operation.client(), register)).or_default();
                known.written = known.written.max(value);
            }
            Op::See { register, level, value } => {
                let is_session = level == Freshness::Session;
                reads += usize::from(is_session);
                let known = known.entry((operation.client(), register)).or_default();
                checked += usize::from(is_session && known.written.max(known.seen) > 0);
                let tell = || {
                    let (client, at, node) = (operation.client(), operation.ended_us, operation.node);
                    format!("client {client} sees {value} in {register} at {at} at node {node:?}, {known:?}")
                };
                if is_session && value < known.written {
                    judgement.add(OWN_WRITE_MISSING, tell);
                }
                if is_session && value < known.seen {
                    judgement.add(BACKWARDS, tell);
                }
                let sent = newest.get(&register).map_or(&[][..], Vec::as_slice);
                let is_sent = |(at, sent): &(u64, u64)| *sent == value && *at < operation.ended_us;
                if value != 0 && !sent.iter().any(is_sent) {
                    judgement.add(PHANTOM, tell);
                }
                known.seen = known.seen.max(value);
            }
            _ => {}
        }
    }
    if checked == 0 {
        judgement.unmet.push("no read with a token came after something was known".to_owned());
    }
    judgement.notes.push(format!("{reads} reads with a token, {checked} of them after something was known"));
    judgement
}

#[cfg(test)]
mod tests {
    use super::super::testing::{of, unknown};
    use super::*;

    fn write(value: u64) -> Op {
        Op::Advance { register: 1, value }
    }

    fn see(value: u64) -> Op {
        Op::See { register: 1, level: Freshness::Session, value }
    }

    fn see_strong(value: u64) -> Op {
        Op::See { register: 1, level: Freshness::Strong, value }
    }

    #[track_caller]
    fn check_kinds(history: &[Operation], expected: &[&str]) {
        let judgement = check(history);
        let kinds = [OWN_WRITE_MISSING, BACKWARDS, PHANTOM];
        let found: Vec<&str> = kinds.into_iter().filter(|kind| judgement.count(kind) > 0).collect();
        assert_eq!(found, expected, "{:?}", judgement.lines());
    }

    #[test]
    fn a_client_sees_its_own_writes() {
        check_kinds(&[of(1, (0, 1), write(4)), of(1, (2, 3), see(4))], &[]);
        check_kinds(&[of(1, (0, 1), write(4)), of(1, (2, 3), see(0))], &[OWN_WRITE_MISSING]);
        check_kinds(&[unknown(0, write(4)), of(1_001, (2, 3), see(0))], &[]);
        check_kinds(&[of(1, (0, 1), write(4)), of(1_001, (2, 3), see(0))], &[OWN_WRITE_MISSING]);
    }

    #[test]
    fn a_client_never_sees_less_than_before() {
        let history = |second: u64, client: u64| {
            [of(9, (0, 1), write(4)), of(1, (2, 3), see(4)), of(client, (4, 5), see(second))]
        };
        check_kinds(&history(4, 1), &[]);
        check_kinds(&history(0, 1), &[BACKWARDS]);
        check_kinds(&history(0, 2), &[]);
    }

    #[test]
    fn a_token_from_a_strong_read_counts_and_the_strong_read_itself_is_not_judged() {
        let history = |last: Op| [of(9, (0, 1), write(4)), of(1, (2, 3), see_strong(4)), of(1, (4, 5), last)];
        check_kinds(&history(see(4)), &[]);
        check_kinds(&history(see(0)), &[BACKWARDS]);
        check_kinds(&history(see_strong(0)), &[]);
        check_kinds(&[of(1, (0, 1), write(4)), of(1, (2, 3), see_strong(0))], &[]);
    }

    #[test]
    fn without_a_judged_read_nothing_is_proved() {
        let unmet = |history: &[Operation]| check(history).unmet.len();
        assert_eq!(unmet(&[of(9, (0, 1), write(4)), of(1, (2, 3), see_strong(4))]), 1);
        assert_eq!(unmet(&[of(9, (0, 1), write(4)), of(1, (2, 3), see(4))]), 1, "nothing was known");
        assert_eq!(unmet(&[of(1, (0, 1), write(4)), of(1, (2, 3), see(4))]), 0);
    }

    #[test]
    fn what_is_not_written_yet_is_a_phantom() {
        check_kinds(&[of(1, (0, 1), see(4)), of(9, (2, 3), write(4))], &[PHANTOM]);
        check_kinds(&[of(1, (0, 3), see(4)), of(9, (2, 5), write(4))], &[]);
    }
}
