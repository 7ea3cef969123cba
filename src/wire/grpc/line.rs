//! The way to one peer: what is open to it is used again, and an attempt to open it is not repeated at once.
//!
//! Knows the pause rule (G2). Does not know what is opened.
//! L1: there is one attempt at a time. L2: an attempt goes on when the call that began it is gone, so that impatient
//! calls neither hinder it nor multiply it. L3: a changed address is tried at once.

use super::Timing;
use parking_lot::Mutex;
use quorate_model::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Something that may have been closed since it was opened.
pub(super) trait Open: Clone + Send + Sync + 'static {
    fn is_open(&self) -> bool;
}

/// A line to each peer, or several of different use.
pub(super) struct Lines<K, C>(Mutex<BTreeMap<K, Arc<Line<C>>>>);

impl<K, C> Default for Lines<K, C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, C: Open> Lines<K, C> {
    /// What is open over the line `key` to `address`; what `open` opens if there is nothing.
    pub(super) async fn get<F>(
        &self,
        key: K,
        address: String,
        timing: &Timing,
        open: impl FnOnce() -> F,
    ) -> Result<C, String>
    where
        F: Future<Output = Result<C, String>> + Send + 'static,
    {
        let line = self.0.lock().entry(key).or_default().clone();
        line.get(address, timing, open).await
    }
}

/// See the module header.
struct Line<C> {
    last: Mutex<Option<Attempt<C>>>,
    turn: tokio::sync::Mutex<()>,
}

/// How the newest attempt ended, and when.
struct Attempt<C> {
    address: String,
    at: Instant,
    outcome: Result<C, String>,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self { last: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }
}

impl<C: Open> Line<C> {
    async fn get<F>(
        self: Arc<Self>,
        address: String,
        timing: &Timing,
        open: impl FnOnce() -> F,
    ) -> Result<C, String>
    where
        F: Future<Output = Result<C, String>> + Send + 'static,
    {
        if let Some(known) = self.known(&address, timing) {
            return known;
        }
        let (opening, timing) = (open(), timing.clone());
        let attempt = tokio::spawn(async move {
            let _turn = self.turn.lock().await;
            // The attempt before this one may have opened it, or have just failed.
            if let Some(known) = self.known(&address, &timing) {
                return known;
            }
            let opened = tokio::time::timeout(timing.connect, opening).await;
            let outcome = opened.unwrap_or_else(|_| Err("connecting took too long".to_owned()));
            let at = SystemClock.instant();
            *self.last.lock() = Some(Attempt { address, at, outcome: outcome.clone() });
            outcome
        });
        attempt.await.unwrap_or_else(|panic| Err(panic.to_string()))
    }

    /// What the newest attempt says about now; `None` if it is time for another one.
    fn known(&self, address: &str, timing: &Timing) -> Option<Result<C, String>> {
        let last = self.last.lock();
        let last = last.as_ref().filter(|last| last.address == address)?;
        let reason = match &last.outcome {
            Ok(opened) if opened.is_open() => return Some(Ok(opened.clone())),
            Ok(_) => "the connection broke",
            Err(reason) => reason,
        };
        let ago = SystemClock.instant().duration_since(last.at);
        (ago < timing.pause).then(|| Err(format!("{reason} (tried {} ms ago)", ago.as_millis())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::Notify;

    #[derive(Clone)]
    struct Thing(Arc<AtomicBool>);

    impl Open for Thing {
        fn is_open(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A line whose attempts are counted.
    struct Tried {
        line: Arc<Line<Thing>>,
        attempts: Arc<AtomicUsize>,
        timing: Timing,
    }

    impl Tried {
        fn new(pause: Duration) -> Self {
            let timing = Timing { pause, connect: Duration::from_secs(60), ..Timing::default() };
            Self { line: Arc::default(), attempts: Arc::default(), timing }
        }

        async fn get(
            &self,
            address: &str,
            opening: impl Future<Output = Result<Thing, String>> + Send + 'static,
        ) -> Result<Thing, String> {
            let attempts = self.attempts.clone();
            let open = || async move {
                attempts.fetch_add(1, Ordering::Relaxed);
                opening.await
            };
            self.line.clone().get(address.to_owned(), &self.timing, open).await
        }

        fn attempts(&self) -> usize {
            self.attempts.load(Ordering::Relaxed)
        }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn a_peer_that_is_down_costs_one_attempt_each_pause() {
        let tried = Tried::new(LONG);
        let asked = (0..100).map(|_| tried.get("a", async { Err("down".to_owned()) }));
        for answer in futures::future::join_all(asked).await {
            assert!(answer.is_err_and(|reason| reason.starts_with("down")));
        }
        assert_eq!(tried.attempts(), 1);
        assert!(tried.get("b", async { Err("down".to_owned()) }).await.is_err());
        assert_eq!(tried.attempts(), 2, "another address is tried at once");

        let tried = Tried::new(Duration::ZERO);
        for _ in 0..3 {
            assert!(tried.get("a", async { Err("down".to_owned()) }).await.is_err());
        }
        assert_eq!(tried.attempts(), 3);
    }

    #[tokio::test]
    async fn what_is_open_is_used_until_it_breaks() {
        let (tried, thing) = (Tried::new(LONG), Thing(Arc::new(AtomicBool::new(true))));
        for _ in 0..3 {
            let thing = thing.clone();
            assert!(tried.get("a", async { Ok(thing) }).await.is_ok());
        }
        thing.0.store(false, Ordering::Relaxed);
        let again = tried.get("a", async { Err("not asked".to_owned()) }).await;
        assert!(again.is_err_and(|reason| reason.starts_with("the connection broke")));
        assert_eq!(tried.attempts(), 1, "what breaks as soon as it is open is subject to the pause as well");
    }

    #[tokio::test]
    async fn an_attempt_outlives_the_call_that_began_it() {
        let (tried, go) = (Tried::new(Duration::ZERO), Arc::new(Notify::new()));
        let opening = |go: Arc<Notify>| async move {
            go.notified().await;
            Ok(Thing(Arc::new(AtomicBool::new(true))))
        };
        for _ in 0..3 {
            let impatient = tried.get("a", opening(go.clone()));
            assert!(tokio::time::timeout(Duration::from_millis(1), impatient).await.is_err());
        }
        go.notify_one();
        assert!(tried.get("a", opening(go)).await.is_ok());
        assert_eq!(tried.attempts(), 1);
    }
}
