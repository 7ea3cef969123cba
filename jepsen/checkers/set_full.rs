//! Sets that only grow: what was acknowledged, or seen once, is in every later read (PR1, PR8), once (PR5), and nothing
//! is there that nobody added to this set.
//!
//! Source: Jepsen's set-full checker; the idea, not the code.

use super::Judgement;
use crate::history::{Op, Operation, Outcome};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Acknowledged or seen, and in no read that was asked for later.
pub const LOST: &str = "lost";
/// Missing in a read that was asked for after it was acknowledged or seen; there in a later one.
pub const STALE: &str = "stale";
/// In a read more than once.
pub const DOUBLE: &str = "double";
/// In a read, though nobody had added it.
pub const PHANTOM: &str = "phantom";
/// In a read, though every attempt to add it was refused.
pub const REFUSED: &str = "refused and stored";
/// In a read of another set than the one it was added to.
pub const CROSSED: &str = "crossed";

/// An element, as far as the history knows it.
#[derive(Debug, Clone, Copy)]
struct Element {
    key: u64,
    /// When it was first sent without being refused; `u64::MAX` if every attempt was.
    invoked_us: u64,
    is_refused: bool,
    /// From when on every read must have it.
    known_us: u64,
    is_acknowledged: bool,
}

/// A read of one set.
struct Read<'h> {
    of: &'h Operation,
    elements: HashSet<u64>,
}

/// Judges the sets of a history. All their reads are strong ones.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut elements = added(history);
    let reads = read(history, &elements, &mut judgement);
    for read in reads.values().flatten() {
        for element in &read.elements {
            if let Some(element) = elements.get_mut(element) {
                element.known_us = element.known_us.min(read.of.ended_us);
            }
        }
    }
    let mut longest_us = 0;
    for (id, element) in &elements {
        let later = reads.get(&element.key).map_or(&[][..], Vec::as_slice);
        longest_us = longest_us.max(judge(*id, element, later, &mut judgement));
    }
    let acknowledged = elements.values().filter(|element| element.is_acknowledged).count();
    let unread = elements.values().filter(|e| e.is_acknowledged && !reads.contains_key(&e.key)).count();
    judgement.notes.push(format!(
        "{acknowledged} elements acknowledged of {}, {} reads, longest stale window {} ms",
        elements.len(),
        reads.values().map(Vec::len).sum::<usize>(),
        longest_us / 1_000
    ));
    if unread > 0 {
        judgement.unmet.push(format!("{unread} acknowledged elements are in no set that was read"));
    }
    judgement
}

fn added(history: &[Operation]) -> BTreeMap<u64, Element> {
    let mut elements = BTreeMap::new();
    for operation in history {
        let Op::Add { key, element } = operation.op else { continue };
        let (invoked_us, known_us) = (u64::MAX, u64::MAX);
        let never = Element { key, invoked_us, is_refused: false, known_us, is_acknowledged: false };
        let entry = elements.entry(element).or_insert(never);
        if operation.outcome == Outcome::Refused {
            entry.is_refused = true;
            continue;
        }
        entry.invoked_us = entry.invoked_us.min(operation.invoked_us);
        // Sent again, it is known from its first acknowledgement on.
        if operation.outcome == Outcome::Done {
            entry.known_us = entry.known_us.min(operation.ended_us);
            entry.is_acknowledged = true;
        }
    }
    elements
}

/// The answered reads of each set, in the order of their invocations.
fn read<'h>(
    history: &'h [Operation],
    known: &BTreeMap<u64, Element>,
    judgement: &mut Judgement,
) -> HashMap<u64, Vec<Read<'h>>> {
    let mut reads: HashMap<u64, Vec<Read<'h>>> = HashMap::new();
    for of in history.iter().filter(|operation| operation.outcome == Outcome::Done) {
        let Op::ReadSet { key, elements } = &of.op else { continue };
        let mut found = HashSet::with_capacity(elements.len());
        for element in elements {
            if !found.insert(*element) {
                judgement
                    .add(DOUBLE, || format!("element {element} in the read of set {key} at {}", of.ended_us));
            }
            match known.get(element) {
                Some(added) if added.key != *key => judgement.add(CROSSED, || {
                    format!("element {element} of set {} in set {key} at {}", added.key, of.ended_us)
                }),
                Some(added) if added.invoked_us < of.ended_us => {}
                Some(added) if added.is_refused => judgement.add(REFUSED, || {
                    format!("element {element} in the read of set {key} at {}", of.ended_us)
                }),
                _ => judgement.add(PHANTOM, || format!("element {element} in set {key} at {}", of.ended_us)),
            }
        }
        reads.entry(*key).or_default().push(Read { of, elements: found });
    }
    reads
}

/// Judges one element; returns how long a read may be asked for in vain, microseconds.
fn judge(id: u64, element: &Element, reads: &[Read<'_>], judgement: &mut Judgement) -> u64 {
    let later = reads.iter().filter(|read| read.of.invoked_us > element.known_us);
    let missing: Vec<&Read<'_>> = later.filter(|read| !read.elements.contains(&id)).collect();
    let Some(last) = missing.last() else { return 0 };
    let is_seen_later =
        |read: &Read<'_>| read.of.invoked_us >= last.of.invoked_us && read.elements.contains(&id);
    let kind = if reads.iter().any(is_seen_later) { STALE } else { LOST };
    let window_us = last.of.invoked_us - element.known_us;
    judgement.add(kind, || {
        format!(
            "element {id} of set {}, known at {}, is missing in {} reads, the last asked for at {} at node {:?}",
            element.key,
            element.known_us,
            missing.len(),
            last.of.invoked_us,
            last.of.node
        )
    });
    window_us
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, refused, unknown};
    use super::*;

    fn add(element: u64) -> Op {
        Op::Add { key: 1, element }
    }

    fn reads(elements: &[u64]) -> Op {
        Op::ReadSet { key: 1, elements: elements.to_vec() }
    }

    /// The kinds of problems, with how often each was found.
    #[track_caller]
    fn check_kinds(history: &[Operation], expected: &[(&str, usize)]) {
        let judgement = check(history);
        let kinds = [LOST, STALE, DOUBLE, PHANTOM, REFUSED, CROSSED];
        let found: Vec<(&str, usize)> =
            kinds.into_iter().map(|kind| (kind, judgement.count(kind))).filter(|(_, n)| *n > 0).collect();
        assert_eq!(found, expected, "{:?}", judgement.lines());
        assert_eq!(judgement.is_clean(), expected.is_empty());
    }

    #[test]
    fn what_was_acknowledged_is_in_every_later_read() {
        check_kinds(&[done((0, 1), add(7)), done((2, 3), reads(&[7]))], &[]);
        check_kinds(&[done((0, 1), add(7)), done((2, 3), reads(&[]))], &[(LOST, 1)]);
        let comes_back = [done((0, 1), add(7)), done((2, 3), reads(&[])), done((4, 5), reads(&[7]))];
        check_kinds(&comes_back, &[(STALE, 1)]);
        let goes = [done((0, 1), add(7)), done((2, 3), reads(&[7])), done((4, 5), reads(&[]))];
        check_kinds(&goes, &[(LOST, 1)]);
    }

    #[test]
    fn a_read_beside_the_add_may_have_it_or_not() {
        check_kinds(&[done((0, 5), add(7)), done((4, 6), reads(&[])), done((7, 8), reads(&[7]))], &[]);
        check_kinds(&[done((0, 5), add(7)), done((1, 2), reads(&[7])), done((7, 8), reads(&[7]))], &[]);
    }

    #[test]
    fn of_unknown_fate_is_there_or_not_and_stays_once_seen() {
        check_kinds(&[unknown(0, add(7)), done((2, 3), reads(&[]))], &[]);
        check_kinds(&[unknown(0, add(7)), done((2, 3), reads(&[])), done((4, 5), reads(&[7]))], &[]);
        let goes = [unknown(0, add(7)), done((2, 3), reads(&[7])), done((4, 5), reads(&[]))];
        check_kinds(&goes, &[(LOST, 1)]);
    }

    #[test]
    fn sent_again_it_counts_from_the_first_acknowledgement() {
        let again = [unknown(0, add(7)), done((5, 6), add(7)), done((7, 8), reads(&[]))];
        check_kinds(&again, &[(LOST, 1)]);
    }

    #[test]
    fn reads_that_fail_prove_nothing() {
        check_kinds(&[done((0, 1), add(7)), refused((2, 3), reads(&[]))], &[]);
        check_kinds(&[done((0, 1), add(7)), unknown(2, reads(&[]))], &[]);
    }

    #[test]
    fn what_was_refused_is_not_there_unless_another_attempt_may_have_put_it_there() {
        check_kinds(&[refused((0, 1), add(7)), done((2, 3), reads(&[]))], &[]);
        check_kinds(&[refused((0, 1), add(7)), done((2, 3), reads(&[7]))], &[(REFUSED, 1)]);
        let with = |other: Operation| [refused((0, 1), add(7)), other, done((6, 7), reads(&[7]))];
        check_kinds(&with(done((2, 3), add(7))), &[]);
        check_kinds(&with(unknown(2, add(7))), &[]);
        check_kinds(&with(unknown(8, add(7))), &[(REFUSED, 1)]);
    }

    #[test]
    fn a_set_that_nobody_read_proves_nothing() {
        assert_eq!(check(&[done((0, 1), add(7))]).unmet.len(), 1);
        assert!(check(&[done((0, 1), add(7)), done((2, 3), reads(&[7]))]).unmet.is_empty());
    }

    #[test]
    fn what_nobody_added_is_a_phantom() {
        check_kinds(&[done((0, 1), reads(&[9]))], &[(PHANTOM, 1)]);
        check_kinds(&[done((0, 1), reads(&[9])), done((2, 3), add(9))], &[(PHANTOM, 1)]);
    }

    #[test]
    fn twice_is_told_from_once_and_sets_are_told_apart() {
        check_kinds(&[done((0, 1), add(7)), done((2, 3), reads(&[7, 7]))], &[(DOUBLE, 1)]);
        let other = Op::ReadSet { key: 2, elements: vec![7] };
        check_kinds(&[done((0, 1), add(7)), done((2, 3), other)], &[(CROSSED, 1)]);
    }
}
