//! One reader's place in its partition: what it gets next, and what may follow what it got.
//!
//! Knows offsets and the bytes of records. Does not know librdkafka. Path: `feed` -> **here** -> `log`.

use crate::{LogEntry, LogError};
use parking_lot::Mutex;
use quorate_model::{Clock, Position, SystemClock};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Offsets that are no records may follow each other: the marks that end transactions, which only others write.
pub(super) const MAX_HOLE: i64 = 16;
/// Pause between two looks at a position that is in doubt.
const DOUBT_PAUSE: Duration = Duration::from_millis(500);
/// How long the end of a partition may lie before a position until it counts.
const LOST_AFTER: Duration = Duration::from_secs(15);

/// What waits for one reader.
pub(super) struct Reader {
    pub(super) state: Mutex<State>,
    pub(super) arrived: Notify,
}

pub(super) struct State {
    pub(super) waiting: VecDeque<LogEntry>,
    pub(super) bytes: usize,
    /// The next offset that it gets.
    pub(super) next: i64,
    /// Offset and CRC-32C of the record that it got last.
    pub(super) last: Option<(i64, u32)>,
    /// Whether that record has to be met again before the next one counts.
    pub(super) is_unproven: bool,
    /// Set while librdkafka says that the topic does not hold its position.
    pub(super) doubt: Option<Doubt>,
    pub(super) is_paused: bool,
    /// The poll during which it was assigned last: what that one finds may be from before.
    pub(super) assigned: u64,
    /// Why it gets nothing any more.
    pub(super) failed: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Trimmed(Position),
    Lost(Position),
    Damaged(String),
    Internal(String),
}

impl Failure {
    pub(super) fn error(&self) -> LogError {
        match self.clone() {
            Self::Trimmed(after) => LogError::Trimmed { after },
            Self::Lost(after) => LogError::Lost { after },
            Self::Damaged(reason) => LogError::Damaged { reason },
            Self::Internal(reason) => LogError::Internal { reason },
        }
    }
}

/// What an offset is to its reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// One that it had.
    Known,
    /// The next one, behind so many offsets without a record.
    Next { hole: i64 },
    /// Not what may follow, and why.
    Wrong(String),
}

impl State {
    /// A reader of what stands after `after`. One that had a record before, at a position and with a CRC-32C, has to meet it.
    pub(super) fn new(after: Position, last: Option<(Position, u32)>) -> Self {
        let offset = |position: Position| i64::try_from(position.0).unwrap_or(i64::MAX);
        let last = last.filter(|(position, _)| (1..=after.0).contains(&position.0));
        let last = last.map(|(position, crc)| (offset(position) - 1, crc));
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            next: offset(after),
            last,
            is_unproven: last.is_some(),
            doubt: None,
            is_paused: false,
            assigned: 0,
            failed: None,
        }
    }

    /// The position that it has reached.
    pub(super) fn position(&self) -> Position {
        Position(u64::try_from(self.next).unwrap_or(0))
    }

    /// Where librdkafka reads from: from the last record on if that has to be met again.
    pub(super) fn begin(&self) -> i64 {
        self.last.filter(|_| self.is_unproven).map_or(self.next, |(last, _)| last)
    }

    /// Meets the record at `offset`.
    pub(super) fn meet(&mut self, offset: i64, payload: &[u8]) -> Met {
        if let Some((last, crc)) = self.last.filter(|_| self.is_unproven) {
            if offset == last && crc32c::crc32c(payload) == crc {
                self.is_unproven = false;
            } else if offset >= last {
                return another(last);
            }
            return Met::Known;
        }
        let met = self.follow(offset);
        if let Met::Next { .. } = met {
            self.next = offset + 1;
            self.last = Some((offset, crc32c::crc32c(payload)));
        }
        met
    }

    /// Meets the end of the partition: there is no record before `end` that was not met. What stands before it are then
    /// offsets without records. An end before what was met is doubtful.
    pub(super) fn meet_end(&mut self, end: i64) -> Met {
        if let Some((last, _)) = self.last.filter(|_| self.is_unproven)
            && end > last
        {
            return another(last);
        }
        if end < self.next {
            self.doubt.get_or_insert_with(Doubt::new);
        }
        if end <= self.next {
            return Met::Known;
        }
        let met = self.follow(end);
        if let Met::Next { .. } = met {
            self.next = end;
        }
        met
    }

    fn follow(&self, offset: i64) -> Met {
        match offset - self.next {
            ..0 => Met::Known,
            hole @ 0..=MAX_HOLE => Met::Next { hole },
            _ => Met::Wrong(format!("it does not hold the offsets {} to {}", self.next, offset - 1)),
        }
    }

    /// What the partition's first offset and its end, `first` and `end`, mean to a reader in doubt. Whether it is to be assigned
    /// anew, for it may go on.
    pub(super) fn resolve(&mut self, first: i64, end: i64) -> bool {
        let Some(doubt) = &mut self.doubt else { return false };
        if self.failed.is_some() {
            // It gets nothing any more.
        } else if first > self.next {
            self.failed = Some(Failure::Trimmed(self.position()));
        } else if end < self.next {
            if !doubt.has_lasted() {
                return false;
            }
            self.failed = Some(Failure::Lost(self.position()));
        } else {
            // What was read last may have been deleted in its time; then nobody can tell any more.
            self.is_unproven = self.last.is_some_and(|(last, _)| last >= first);
        }
        self.doubt = None;
        self.failed.is_none()
    }
}

fn another(last: i64) -> Met {
    Met::Wrong(format!(
        "the record at offset {last} is not the one that was read there before: acknowledged records were lost and others took \
         their places, as after an unclean election or a power loss of all brokers; bring the broker that has them back, or \
         start anew"
    ))
}

/// A position of which librdkafka says that the topic does not hold it.
pub(super) struct Doubt {
    /// Since when every look found the end before the position.
    since: Option<Instant>,
    again: Instant,
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self { since: None, again: SystemClock.instant() }
    }

    pub(super) fn is_due(&self) -> bool {
        SystemClock.instant() >= self.again
    }

    /// Nothing was seen: it waits for its next look.
    pub(super) fn postpone(&mut self) {
        *self = Self { since: None, again: SystemClock.instant() + DOUBT_PAUSE };
    }

    /// The end was seen before the position: whether that has been so for long. If not it waits for its next look.
    fn has_lasted(&mut self) -> bool {
        let now = SystemClock.instant();
        let since = *self.since.get_or_insert(now);
        self.again = now + DOUBT_PAUSE;
        now >= since + LOST_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_once_and_only_small_holes_are_passed() {
        let mut state = State::new(Position(5), None);
        assert_eq!(state.meet(4, b"a"), Met::Known);
        assert_eq!(state.meet(5, b"b"), Met::Next { hole: 0 });
        assert_eq!(state.meet(5, b"b"), Met::Known);
        assert_eq!(state.meet(7, b"c"), Met::Next { hole: 1 });
        assert!(
            matches!(state.meet(8 + MAX_HOLE + 1, b"d"), Met::Wrong(why) if why.contains("offsets 8 to"))
        );
    }

    #[test]
    fn the_end_passes_what_stands_before_it_once() {
        let mut state = State::new(Position(5), None);
        assert_eq!(state.meet_end(5), Met::Known);
        state.meet(5, b"b");
        assert_eq!((state.meet_end(5), state.meet_end(6)), (Met::Known, Met::Known));
        assert_eq!((state.meet_end(8), state.meet_end(8)), (Met::Next { hole: 2 }, Met::Known));
        assert_eq!((state.meet(8, b"c"), state.position()), (Met::Next { hole: 0 }, Position(9)));
        assert!(matches!(state.meet_end(9 + MAX_HOLE + 1), Met::Wrong(_)));
    }

    #[test]
    fn who_has_to_prove_its_place_goes_on_behind_the_record_that_it_had() {
        let mut state = State::new(Position(5), None);
        assert_eq!(state.begin(), 5);
        state.meet(5, b"b");
        state.is_unproven = true;
        assert_eq!(state.begin(), 5, "from the last record on");
        assert_eq!(state.meet(4, b"x"), Met::Known, "that one is older");
        assert_eq!(state.meet_end(5), Met::Known, "that end is older");
        assert!(state.doubt.is_some(), "or the record is gone, and the log ends there");
        assert_eq!(state.meet(5, b"b"), Met::Known);
        assert_eq!((state.begin(), state.meet(6, b"c")), (6, Met::Next { hole: 0 }));
    }

    #[test]
    fn who_goes_on_after_a_restart_has_to_meet_the_record_that_was_read_last() {
        let again = |last| State::new(Position(8), Some((Position(last), crc32c::crc32c(b"b"))));
        assert_eq!((again(8).begin(), again(6).begin()), (7, 5), "what follows it may be gaps");
        let mut state = again(6);
        assert_eq!((state.meet(5, b"b"), state.meet(7, b"x")), (Met::Known, Met::Known));
        assert_eq!(state.meet(8, b"c"), Met::Next { hole: 0 });
        assert!(matches!(again(8).meet(7, b"other"), Met::Wrong(_)));
        for impossible in [0, 9] {
            assert_eq!(again(impossible).begin(), 8, "it says nothing about a record before");
        }
        let mut state = again(8);
        state.doubt = Some(Doubt::new());
        assert!(state.resolve(8, 9) && state.begin() == 8, "retention took the record away");
    }

    #[test]
    fn a_log_that_lost_its_end_and_grew_over_the_place_is_not_read_on() {
        let in_doubt = || {
            let mut state = State::new(Position(5), None);
            state.meet(5, b"b");
            state.is_unproven = true;
            state
        };
        for (offset, payload) in [(5, &b"other"[..]), (6, b"c"), (9, b"c")] {
            let met = in_doubt().meet(offset, payload);
            assert!(matches!(&met, Met::Wrong(why) if why.contains("at offset 5")), "{offset}: {met:?}");
        }
        assert!(matches!(in_doubt().meet_end(6), Met::Wrong(_)), "no record at its place");
    }

    #[test]
    fn a_doubt_is_about_one_reader_and_an_end_counts_when_it_stays() {
        let doubtful = |since| {
            let mut state = State::new(Position(5), None);
            state.meet(5, b"b");
            state.doubt = Some(Doubt { since, again: SystemClock.instant() });
            state
        };
        let now = SystemClock.instant();
        let mut state = doubtful(None);
        assert!(!state.resolve(0, 5) && state.failed.is_none(), "a leader that is new may not know the end");
        assert!(state.doubt.as_ref().is_some_and(|doubt| !doubt.is_due()), "it is looked at again, later");
        assert!(state.resolve(0, 6) && state.is_unproven && state.doubt.is_none());
        assert!(!state.resolve(9, 9) && state.failed.is_none(), "without a doubt nothing is disturbed");
        let mut state = doubtful(Some(now - LOST_AFTER));
        state.doubt.iter_mut().for_each(Doubt::postpone);
        assert!(!state.resolve(0, 5) && state.failed.is_none(), "a look that told nothing does not count");
        let mut state = doubtful(Some(now - LOST_AFTER));
        assert!(!state.resolve(0, 5));
        assert_eq!(state.failed, Some(Failure::Lost(Position(6))));
        let mut state = doubtful(None);
        assert!(!state.resolve(7, 9));
        assert_eq!(state.failed, Some(Failure::Trimmed(Position(6))));
        let mut state = doubtful(None);
        assert!(state.resolve(6, 9) && !state.is_unproven, "what it read last was deleted");
    }
}
