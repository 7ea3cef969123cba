//! The way into the distributor: closed while another session is opened and at the end.
//!
//! E1: once `shut` and `emptied` are through, no write is between its check and its queue, so whoever empties
//! the queues then has seen everything of the session. A write that were queued behind it would use refs that
//! its session never defined in the log, and that stops a partition for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Entrance {
    is_shut: AtomicBool,
    inside: AtomicUsize,
    left: Notify,
}

/// A write that is being prepared. Dropped when it is queued, or will not be.
#[derive(Debug)]
pub(super) struct Inside(Arc<Entrance>);

impl Entrance {
    /// Lets a write in, unless the entrance is shut.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Inside> {
        // Counted before the check: either the write sees that it is shut, or `emptied` sees the write.
        self.inside.fetch_add(1, SeqCst);
        let inside = Inside(Arc::clone(self));
        (!self.is_shut.load(SeqCst)).then_some(inside)
    }

    pub(super) fn shut(&self) {
        self.is_shut.store(true, SeqCst);
    }

    pub(super) fn open(&self) {
        self.is_shut.store(false, SeqCst);
    }

    /// Waits until no write is being prepared.
    pub(super) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.inside.load(SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}
