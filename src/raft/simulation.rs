//! What a simulation needs of this crate, and nothing else does: random numbers from a seed, planted bugs, and a look
//! into a group's log.
//!
//! Compiled only with the feature `simulation`, which also makes the writer a task and does blocking work at once.
//! Everything here belongs to the thread that calls it, so that simulations on several threads do not meet.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, OptionalSend, ServerState};
use quorate_model::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::Group;
use crate::segment_log::{EntryPlace, LogId, Vote};
use crate::types::to_vote;

type Inner = openraft::impls::TokioRuntime;

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
    static ACKNOWLEDGES_EARLY: Cell<bool> = const { Cell::new(false) };
    static AGREES_BLINDLY: Cell<bool> = const { Cell::new(false) };
    static HAS_PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Begins a simulation on this thread: all random numbers of its groups follow from `seed`.
pub fn begin(seed: u64) {
    SEED.set(seed);
    ACKNOWLEDGES_EARLY.set(false);
    AGREES_BLINDLY.set(false);
    HAS_PANICKED.set(false);
}

/// Whether openraft has panicked in the simulation on this thread.
pub fn has_panicked() -> bool {
    HAS_PANICKED.get()
}

/// Plants a bug in the simulation on this thread: logs acknowledge what they have written before it is synced.
pub fn plant_early_acknowledgement() {
    ACKNOWLEDGES_EARLY.set(true);
}

pub(crate) fn acknowledges_early() -> bool {
    ACKNOWLEDGES_EARLY.get()
}

/// Plants a bug in the simulation on this thread: who is asked whether another may still lead agrees without a look at
/// his vote.
pub fn plant_blind_agreement() {
    AGREES_BLINDLY.set(true);
}

pub(crate) fn agrees_blindly() -> bool {
    AGREES_BLINDLY.get()
}

/// A group as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The newest vote, queued for the log.
    pub vote: Option<Vote>,
    /// The vote by which this member leads, if it does. It may be older than the newest one of the log.
    pub leads: Option<Vote>,
    /// The last entry; the purged one when there is none.
    pub last: Option<LogId>,
    /// Index up to which entries are purged.
    pub purged: Option<u64>,
    /// The newest committed position.
    pub committed: u64,
    /// Whether the log or the group has stopped by itself: the process of a server would end.
    pub has_ended: bool,
    /// The voters; two sets while they change.
    pub voters: Vec<BTreeSet<NodeId>>,
}

impl Group {
    /// The group as this member sees it now.
    pub fn seen(&self) -> Seen {
        let receiver = self.raft().metrics();
        let metrics = receiver.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        let voters = configs.iter().map(|config| config.iter().copied().map(NodeId).collect()).collect();
        let state = self.log().state();
        Seen {
            vote: state.vote,
            leads: (metrics.state == ServerState::Leader).then(|| to_vote(&metrics.vote)),
            last: state.last,
            purged: state.purged.map(|purged| purged.up_to.index),
            committed: self.committed().0,
            has_ended: metrics.running_state.is_err() || self.log().is_closed(),
            voters,
        }
    }

    /// Ids of the entries with `from <= index < to` that this member has.
    pub fn ids(&self, from: u64, to: u64) -> Vec<LogId> {
        self.log().ids(from, to)
    }

    /// Where the entry at `index` was written, if the log says so already.
    pub fn place(&self, index: u64) -> Option<EntryPlace> {
        self.log().place(index)
    }
}

/// Tokio with random numbers from the seed of the thread.
#[derive(Debug)]
pub struct Runtime(Inner);

impl AsyncRuntime for Runtime {
    type JoinError = <Inner as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Inner as AsyncRuntime>::Sleep;
    type Instant = <Inner as AsyncRuntime>::Instant;
    type TimeoutError = <Inner as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Inner as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = <Inner as AsyncRuntime>::Mpsc;
    type Watch = <Inner as AsyncRuntime>::Watch;
    type Oneshot = <Inner as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Inner::spawn(async {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => output,
                Err(_) => {
                    HAS_PANICKED.set(true);
                    std::future::pending().await
                }
            }
        })
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Inner::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Inner::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Inner::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Inner::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        Inner::is_panic(error)
    }

    fn thread_rng() -> StdRng {
        SEED.set(SEED.get().wrapping_add(1));
        StdRng::seed_from_u64(SEED.get())
    }

    fn new(threads: usize) -> Self {
        Self(Inner::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
