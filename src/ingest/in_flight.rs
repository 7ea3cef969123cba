//! Memory of the requests with bodies, writes and forms, that a node reads at the same time.
//!
//! Knows bytes only. They are taken before they are allocated: a body as it arrives, its decoded form and what
//! is read from it before they are made. Path: `server::http::write` -> **here** <- `distributor`.
//! F1: the sum of what all requests hold is at most the limit, but one request alone may always go on: it could
//! never pass otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The node's bound on requests that are being read.
#[derive(Debug)]
pub struct InFlight {
    limit: usize,
    used: AtomicUsize,
}

/// There is no room for more; the request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the requests under way take {used} of the node's {limit} bytes for them")]
pub struct NoRoom {
    /// Bytes that are taken.
    pub used: usize,
    /// The bound.
    pub limit: usize,
}

/// What one request holds. Dropping it gives everything back.
#[derive(Debug)]
pub struct Held {
    node: Arc<InFlight>,
    bytes: usize,
}

impl InFlight {
    /// A bound of `limit` bytes over all requests.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// A request that holds nothing yet.
    pub fn enter(self: &Arc<Self>) -> Held {
        Held { node: Arc::clone(self), bytes: 0 }
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Held {
    /// A request of the node itself, which nobody else has to make room for.
    pub fn unbounded() -> Self {
        InFlight::new(usize::MAX).enter()
    }

    /// Takes `bytes` more, before they are allocated.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing was taken.
    pub fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let taken = self.node.used.try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let after = used.checked_add(bytes)?;
            (used == self.bytes || after <= self.node.limit).then_some(after)
        });
        taken.map_err(|used| NoRoom { used, limit: self.node.limit })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Bytes that the request holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.node.used.fetch_sub(back, Ordering::Relaxed);
    }

    /// Whether `bytes` more would be taken now; takes nothing.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn try_room(&self, bytes: usize) -> Result<(), NoRoom> {
        let used = self.node.used();
        match used == self.bytes || used.saturating_add(bytes) <= self.node.limit {
            true => Ok(()),
            false => Err(NoRoom { used, limit: self.node.limit }),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.node.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_bound_and_give_back() {
        let node = InFlight::new(100);
        let (mut first, mut second) = (node.enter(), node.enter());
        assert_eq!(first.grow(60), Ok(()));
        assert_eq!(second.try_room(41), Err(NoRoom { used: 60, limit: 100 }));
        assert_eq!(second.grow(41), Err(NoRoom { used: 60, limit: 100 }));
        assert_eq!(second.grow(40), Ok(()));
        assert_eq!(first.grow(1), Err(NoRoom { used: 100, limit: 100 }));
        drop(first);
        assert_eq!(node.used(), 40);
        assert_eq!(second.grow(500), Ok(()), "alone, a request may pass the bound");
        drop(second);
        assert_eq!(node.used(), 0);
    }
}
