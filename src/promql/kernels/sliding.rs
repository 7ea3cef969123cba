//! A sliding aggregate of a window: two stacks, so that any associative combination can be slid without taking
//! anything back.
//!
//! Cost: O(1) combinations amortised a sample and a step. Subtraction would drift and cannot take back an
//! infinity. Source: Tangwongsan et al., "General incremental sliding-window aggregation", VLDB 2015.

use crate::engine::QueryError;
use crate::eval::poll::{PIECE, Poll};
use std::ops::Range;

/// Something whose parts can be put together.
pub(crate) trait Part: Copy {
    /// This part followed by `later`.
    fn followed_by(self, later: Self) -> Self;
}

/// Slides over the positions of a series. Windows must not move back.
pub(crate) struct Slider<P> {
    /// `front[i]` covers from position `front_end - 1 - i` to before `front_end`.
    front: Vec<P>,
    front_end: usize,
    /// Covers from `front_end` to before `end`.
    back: Option<P>,
    end: usize,
}

impl<P: Part> Slider<P> {
    /// An empty window.
    pub(crate) fn new() -> Self {
        Self { front: Vec::new(), front_end: 0, back: None, end: 0 }
    }

    /// Moves to `window` and gives its aggregate, `None` if it is empty. `part` gives the part of one position.
    ///
    /// # Errors
    /// What the guard objects.
    pub(crate) fn slide(
        &mut self,
        window: Range<usize>,
        poll: &Poll<'_>,
        part: impl Fn(usize) -> P,
    ) -> Result<Option<P>, QueryError> {
        if window.is_empty() {
            return Ok(None);
        }
        if window.start >= self.end {
            self.front.clear();
            (self.front_end, self.end, self.back) = (window.start, window.start, None);
        }
        while self.end < window.end {
            let until = window.end.min(self.end + PIECE);
            poll.touched(until - self.end)?;
            for at in self.end..until {
                let next = part(at);
                self.back = Some(self.back.map_or(next, |back| back.followed_by(next)));
            }
            self.end = until;
        }
        if window.start >= self.front_end {
            self.turn_over(window.start, poll, part)?;
        } else {
            self.front.truncate(self.front_end - window.start);
        }
        Ok(match (self.front.last(), self.back) {
            (Some(front), Some(back)) => Some(front.followed_by(back)),
            (Some(front), None) => Some(*front),
            (None, back) => back,
        })
    }

    fn turn_over(
        &mut self,
        start: usize,
        poll: &Poll<'_>,
        part: impl Fn(usize) -> P,
    ) -> Result<(), QueryError> {
        self.front.clear();
        let mut end = self.end;
        while end > start {
            let from = start.max(end.saturating_sub(PIECE));
            poll.touched(end - from)?;
            for at in (from..end).rev() {
                let one = part(at);
                let covered = self.front.last().map_or(one, |later| one.followed_by(*later));
                self.front.push(covered);
            }
            end = from;
        }
        (self.front_end, self.back) = (self.end, None);
        Ok(())
    }
}
