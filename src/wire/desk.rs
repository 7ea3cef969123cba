//! Where the calls of peers arrive in a node, whatever brought them: which handlers it has, and which calls go on
//! when nobody waits for them any more.
//!
//! Knows the handlers. Does not know connections, headers or statuses.
//! Path: `grpc::services`, `memory` -> **here** -> the handlers of `cluster`, `ingest`, `query`.
//! D1: a call to a handler that is not there yet has no effect.
//! D2: what changes something is handled to its end, even if its caller is gone: half a change helps nobody.

use crate::{MetaHandler, StoreHandler, WriteHandler, meta, store, write};
use parking_lot::RwLock;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Appends that are handled at the same time; further ones wait with their callers.
const APPENDS_AT_ONCE: usize = 1_024;
/// The same of changes of the cluster: they never wait behind appends.
const CHANGES_AT_ONCE: usize = 256;

/// Who answers the calls of peers. A node that has just started lacks some of them.
#[derive(Clone, Default)]
pub struct Handlers {
    /// Answers calls about the cluster.
    pub meta: Option<Arc<dyn MetaHandler>>,
    /// Answers calls to write.
    pub write: Option<Arc<dyn WriteHandler>>,
    /// Answers calls to read.
    pub store: Option<Arc<dyn StoreHandler>>,
}

/// Why a call has no answer of its handler.
#[derive(Debug)]
pub(crate) enum Declined {
    /// There is no such handler yet. The call had no effect.
    Starting,
    /// The handler's reason. The call had no effect.
    Refused(String),
    /// Handling it broke off; nobody knows what it did.
    Broken(String),
}

/// The handlers of a node, and room for their work.
pub(crate) struct Desk {
    handlers: RwLock<Handlers>,
    appends: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        let [appends, changes] =
            [APPENDS_AT_ONCE, CHANGES_AT_ONCE].map(|at_once| Arc::new(Semaphore::new(at_once)));
        Self { handlers: RwLock::default(), appends, changes }
    }
}

impl Desk {
    /// Changes who answers, from the next call on.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Handlers)) {
        change(&mut self.handlers.write());
    }

    pub(crate) async fn hello(&self, request: meta::HelloRequest) -> Result<meta::HelloAnswer, Declined> {
        Ok(self.meta()?.hello(request).await)
    }

    pub(crate) async fn join(&self, request: meta::JoinRequest) -> Result<meta::JoinAnswer, Declined> {
        let handler = self.meta()?;
        to_the_end(&self.changes, async move { Ok(handler.join(request).await) }).await
    }

    pub(crate) async fn propose(&self, request: meta::Proposal) -> Result<meta::ProposalAnswer, Declined> {
        let handler = self.meta()?;
        to_the_end(&self.changes, async move { handler.propose(request).await }).await
    }

    pub(crate) async fn consult(&self, question: meta::Question) -> Result<meta::Answer, Declined> {
        self.meta()?.consult(question).await.map_err(Declined::Refused)
    }

    pub(crate) async fn append(
        &self,
        request: write::AppendRequest,
    ) -> Result<write::AppendAnswer, Declined> {
        let handler = self.handlers.read().write.clone().ok_or(Declined::Starting)?;
        to_the_end(&self.appends, async move { handler.append(request).await }).await
    }

    pub(crate) async fn read_index(
        &self,
        request: store::ReadIndexRequest,
    ) -> Result<store::ReadIndexAnswer, Declined> {
        self.store()?.read_index(request).await.map_err(Declined::Refused)
    }

    pub(crate) async fn select(
        &self,
        request: store::SelectRequest,
    ) -> Result<mpsc::Receiver<store::Frame>, Declined> {
        self.store()?.select(request).await.map_err(Declined::Refused)
    }

    pub(crate) async fn list(
        &self,
        request: store::ListRequest,
    ) -> Result<mpsc::Receiver<store::Frame>, Declined> {
        self.store()?.list(request).await.map_err(Declined::Refused)
    }

    fn meta(&self) -> Result<Arc<dyn MetaHandler>, Declined> {
        self.handlers.read().meta.clone().ok_or(Declined::Starting)
    }

    fn store(&self) -> Result<Arc<dyn StoreHandler>, Declined> {
        self.handlers.read().store.clone().ok_or(Declined::Starting)
    }
}

/// Does `work` as soon as there is room, then to its end (D2). A caller that goes before there is room changes nothing.
async fn to_the_end<A: Send + 'static>(
    room: &Arc<Semaphore>,
    work: impl Future<Output = Result<A, String>> + Send + 'static,
) -> Result<A, Declined> {
    let place = room.clone().acquire_owned().await;
    let place = place.map_err(|closed| Declined::Broken(closed.to_string()))?;
    let working = tokio::spawn(async move {
        let done = work.await;
        drop(place);
        done
    });
    working.await.map_err(|panic| Declined::Broken(panic.to_string()))?.map_err(Declined::Refused)
}
