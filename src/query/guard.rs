//! What stands over one running query: cancellation, deadline, memory.
//!
//! Path: `service` makes a guard -> **here** -> `promql::engine` asks it for every series and tile.

use crate::budget::{BudgetExceeded, QueryAccount};
use quorate_model::Clock;
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_promql::source::SourceError;
use quorate_tsdb::{ReadMeter, StoreError};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The flag by which a query is told to stop. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Tells the query to stop at its next check.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the query was told to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cancels when dropped: held by the future of the client's request, so that a client that leaves stops
/// its query.
#[derive(Debug)]
pub struct CancelOnDrop(pub CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The guard of a query that runs on this node.
pub struct LocalGuard {
    cancel: CancelFlag,
    deadline: Instant,
    clock: Arc<dyn Clock>,
    account: QueryAccount,
}

impl LocalGuard {
    /// A guard that stops the query at `deadline` or when `cancel` is set, and charges `account`.
    pub fn new(cancel: CancelFlag, deadline: Instant, clock: Arc<dyn Clock>, account: QueryAccount) -> Self {
        Self { cancel, deadline, clock, account }
    }

    /// When the query's time is over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The account, for as long as what was made under this guard is kept.
    pub fn into_account(self) -> QueryAccount {
        self.account
    }
}

impl QueryGuard for LocalGuard {
    fn check(&self) -> Result<(), QueryError> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Cancelled);
        }
        if self.clock.instant() >= self.deadline {
            return Err(QueryError::TimedOut);
        }
        Ok(())
    }

    fn charge(&self, bytes: u64) -> Result<(), QueryError> {
        self.account.charge(bytes).map_err(|refused| match refused {
            BudgetExceeded::Query { .. } => QueryError::Budget(refused.to_string()),
            BudgetExceeded::Node { .. } => QueryError::Overloaded(refused.to_string()),
        })
    }

    fn release(&self, bytes: u64) {
        self.account.release(bytes);
    }
}

/// An objection of a guard, as a source gives it.
pub(crate) fn stopped(objection: QueryError) -> SourceError {
    SourceError::Stopped(Box::new(objection))
}

/// A guard as stores see it; keeps the guard's objection.
pub(crate) struct GuardMeter<'g> {
    guard: &'g dyn QueryGuard,
    objection: RefCell<Option<QueryError>>,
}

impl<'g> GuardMeter<'g> {
    pub(crate) fn new(guard: &'g dyn QueryGuard) -> Self {
        Self { guard, objection: RefCell::new(None) }
    }

    /// Takes `bytes` for what is kept until the query ends.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), SourceError> {
        self.guard.charge(bytes).map_err(stopped)
    }

    /// The objection, if it is what `error` stands for.
    pub(crate) fn objection(&self, error: &StoreError) -> Option<QueryError> {
        match error {
            StoreError::Stopped => self.objection.take(),
            _ => None,
        }
    }
}

impl ReadMeter for GuardMeter<'_> {
    fn proceed(&self, bytes: u64) -> bool {
        let charge = || if bytes > 0 { self.guard.charge(bytes) } else { Ok(()) };
        match self.guard.check().and_then(|()| charge()) {
            Ok(()) => true,
            Err(objection) => {
                self.objection.replace(Some(objection));
                false
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.guard.release(bytes);
    }
}
