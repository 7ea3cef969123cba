//! How long work asks the guard whether it may go on.
//!
//! Knows how much was done since the last question. Does not know what is done.
//! Cost: a subtraction and a comparison where work is counted; the guard, which reads a clock, is asked once for
//! [`PIECE`] samples.

use crate::engine::{QueryError, QueryGuard};
use std::cell::Cell;

/// Samples between two questions: a millisecond of the work that is dearest.
pub(crate) const PIECE: usize = 1 << 16;

/// Counts down to the next question.
pub(crate) struct Poll<'q> {
    guard: &'q dyn QueryGuard,
    left: Cell<usize>,
}

impl<'q> Poll<'q> {
    /// Begins a count.
    pub(crate) fn new(guard: &'q dyn QueryGuard) -> Self {
        Self { guard, left: Cell::new(PIECE) }
    }

    /// Counts samples that are about to be worked on, and asks the guard if it is time to.
    ///
    /// # Errors
    /// What the guard objects.
    #[inline]
    pub(crate) fn touched(&self, samples: usize) -> Result<(), QueryError> {
        let left = self.left.get();
        if samples < left {
            self.left.set(left - samples);
            return Ok(());
        }
        self.ask()
    }

    #[cold]
    fn ask(&self) -> Result<(), QueryError> {
        self.left.set(PIECE);
        self.guard.check()
    }

    /// Calls `f` with each item in order and asks in between.
    ///
    /// # Errors
    /// What the guard objects.
    #[inline]
    pub(crate) fn each<'a, T>(&self, items: &'a [T], mut f: impl FnMut(&'a T)) -> Result<(), QueryError> {
        for piece in items.chunks(PIECE) {
            self.touched(piece.len())?;
            piece.iter().for_each(&mut f);
        }
        Ok(())
    }

    /// The same with items that `f` may change.
    ///
    /// # Errors
    /// What the guard objects.
    #[inline]
    pub(crate) fn each_mut<T>(&self, items: &mut [T], mut f: impl FnMut(&mut T)) -> Result<(), QueryError> {
        for piece in items.chunks_mut(PIECE) {
            self.touched(piece.len())?;
            piece.iter_mut().for_each(&mut f);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl QueryGuard for Counting {
        fn check(&self) -> Result<(), QueryError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn charge(&self, _bytes: u64) -> Result<(), QueryError> {
            Ok(())
        }

        fn release(&self, _bytes: u64) {}
    }

    #[test]
    fn the_guard_is_asked_once_for_each_piece() {
        let guard = Counting::default();
        let poll = Poll::new(&guard);
        (0..PIECE * 3).for_each(|_| poll.touched(1).unwrap());
        assert_eq!(guard.0.load(Ordering::Relaxed), 3);
        let mut sum = 0;
        poll.each(&vec![1; PIECE * 2 + 5], |one| sum += one).unwrap();
        assert_eq!((sum, guard.0.load(Ordering::Relaxed)), (PIECE * 2 + 5, 5));
    }
}
