//! Queries over all partitions: complete or an error, never short (PR10).

use super::Judgement;
use crate::history::{Op, Operation, Outcome};

/// Fewer than there are.
pub const SHORT: &str = "short";
/// More than there are.
pub const TOO_MANY: &str = "too many";

/// Judges the counts of a history. What is counted was there before the first of them was asked for.
pub fn check(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut answers = 0;
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Done) {
        let Op::Count { expected, found } = operation.op else { continue };
        answers += 1;
        let tell = || format!("{found} of {expected} at {} at node {:?}", operation.ended_us, operation.node);
        if found < expected {
            judgement.add(SHORT, tell);
        } else if found > expected {
            judgement.add(TOO_MANY, tell);
        }
    }
    judgement.notes.push(format!("{answers} answers"));
    judgement
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, refused};
    use super::*;

    #[test]
    fn only_a_complete_answer_is_right() {
        let count = |found| Op::Count { expected: 64, found };
        assert!(check(&[done((0, 1), count(64)), refused((2, 3), count(0))]).is_clean());
        assert_eq!(check(&[done((0, 1), count(63))]).count(SHORT), 1);
        assert_eq!(check(&[done((0, 1), count(0))]).count(SHORT), 1);
        assert_eq!(check(&[done((0, 1), count(65))]).count(TOO_MANY), 1);
    }
}
