//! What leaders have confirmed to this node: the newest committed position of each partition, and when it was asked for.
//!
//! Knows partitions, positions and this node's monotonic clock; no clock of another node, so that skew changes nothing.
//! Path: `read_index` -> **here** -> `freshness`.
//! CF1: a position that was asked for at a time covers every write that was acknowledged before that time.

use parking_lot::Mutex;
use quorate_model::{PartitionId, Position};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// The last answers about each partition.
#[derive(Debug, Default)]
pub(crate) struct Confirmed(Mutex<BTreeMap<PartitionId, Heard>>);

#[derive(Debug, Default)]
struct Heard {
    /// When it was asked for, and the position.
    position: Option<(Instant, Position)>,
    /// When it was last not to be had.
    failed: Option<Instant>,
}

impl Confirmed {
    /// Keeps what a leader answered to a question of the time `asked`, unless a later one is known.
    pub(crate) fn note(&self, partition: PartitionId, asked: Instant, position: Position) {
        let mut all = self.0.lock();
        let heard = all.entry(partition).or_default();
        if heard.position.is_none_or(|(known, _)| known < asked) {
            heard.position = Some((asked, position));
        }
        heard.failed = None;
    }

    /// Keeps that no leader answered by `now`.
    pub(crate) fn note_failure(&self, partition: PartitionId, now: Instant) {
        self.0.lock().entry(partition).or_default().failed = Some(now);
    }

    /// The newest position, if it was asked for after `since`.
    pub(crate) fn after(&self, partition: PartitionId, since: Instant) -> Option<Position> {
        let all = self.0.lock();
        let (asked, position) = all.get(&partition)?.position?;
        (asked > since).then_some(position)
    }

    /// Whether the last question was in vain, and that was after `since`.
    pub(crate) fn has_failed_after(&self, partition: PartitionId, since: Instant) -> bool {
        self.0.lock().get(&partition).and_then(|heard| heard.failed).is_some_and(|failed| failed > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_latest_question_counts_and_a_failure_until_the_next_answer() {
        let (confirmed, id) = (Confirmed::default(), PartitionId(3));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(confirmed.after(id, begin), None);
        confirmed.note(id, at(5), Position(50));
        confirmed.note(id, at(4), Position(40));
        assert_eq!(confirmed.after(id, at(4)), Some(Position(50)), "an answer that came late is older");
        assert_eq!(
            confirmed.after(id, at(5)),
            None,
            "what is acknowledged at the time itself may be missing"
        );
        confirmed.note_failure(id, at(6));
        assert!(confirmed.has_failed_after(id, at(5)) && !confirmed.has_failed_after(id, at(6)));
        assert_eq!(confirmed.after(id, at(4)), Some(Position(50)), "it stays true");
        confirmed.note(id, at(7), Position(50));
        assert!(!confirmed.has_failed_after(id, at(5)));
    }
}
