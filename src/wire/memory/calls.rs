//! Calls between the nodes of one process.

use super::Switchboard;
use crate::desk::{Declined, Desk};
use crate::relay::relay;
use crate::{Calls, Frames, TransportError, meta, store, write};
use async_trait::async_trait;
use futures::StreamExt;
use prost::Message;
use quorate_model::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// No call takes longer, whatever time it is given: there is no end of durations, but one of deadlines.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The calls of one node.
pub(super) struct Caller {
    pub(super) from: NodeId,
    pub(super) board: Switchboard,
}

impl Switchboard {
    fn desk(&self, from: NodeId, to: NodeId) -> Result<Arc<Desk>, &'static str> {
        let links = self.0.links.lock();
        links.check(from, to)?;
        links.desks.get(&to).cloned().ok_or("it is not there")
    }

    fn at(&self, address: &str) -> Result<NodeId, String> {
        let named = self.0.links.lock().names.get(address).copied();
        named.or_else(|| address.parse().ok().map(NodeId)).ok_or_else(|| format!("nobody is at {address}"))
    }

    /// Waits until nothing that `desk` of `to` says gets to `from` any more, and tells why.
    async fn lost(self, from: NodeId, to: NodeId, desk: Arc<Desk>) -> &'static str {
        let mut changes = self.0.changed.subscribe();
        loop {
            {
                let links = self.0.links.lock();
                if links.check(to, from).is_err() {
                    return "the link back is cut";
                }
                if !links.desks.get(&to).is_some_and(|own| Arc::ptr_eq(own, &desk)) {
                    return "it is gone";
                }
            }
            if changes.changed().await.is_err() {
                return "the network is gone";
            }
        }
    }
}

impl Caller {
    /// A call whose answer is not taken apart; its desk comes with it.
    async fn ask<Q, A, F>(
        &self,
        to: NodeId,
        request: &Q,
        deadline: Instant,
        answer: impl FnOnce(Arc<Desk>, Q) -> F + Send,
    ) -> Result<(A, Arc<Desk>), TransportError>
    where
        Q: Message + Default,
        F: Future<Output = Result<A, Declined>> + Send,
    {
        let unreachable = |reason: &str| TransportError::Unreachable { to, reason: reason.to_owned() };
        let no_answer = |reason: &str| TransportError::NoAnswer { to, reason: reason.to_owned() };
        let desk = self.board.desk(self.from, to).map_err(unreachable)?;
        let answering = answer(desk.clone(), across(to, request)?);
        let lost = self.board.clone().lost(self.from, to, desk.clone());
        let answered = tokio::select! {
            biased;
            reason = lost => return Err(no_answer(reason)),
            answered = answering => answered,
            () = tokio::time::sleep_until(deadline) => return Err(no_answer("the time of the call is over")),
        };
        match answered {
            Ok(answer) => Ok((answer, desk)),
            Err(Declined::Starting) => Err(unreachable("this node is starting")),
            Err(Declined::Refused(reason)) => Err(TransportError::Refused { to, reason }),
            Err(Declined::Broken(reason)) => Err(no_answer(&reason)),
        }
    }

    async fn call<Q, A, F>(
        &self,
        to: NodeId,
        request: &Q,
        timeout: Duration,
        answer: impl FnOnce(Arc<Desk>, Q) -> F + Send,
    ) -> Result<A, TransportError>
    where
        Q: Message + Default,
        A: Message + Default,
        F: Future<Output = Result<A, Declined>> + Send,
    {
        let (answer, _desk) = self.ask(to, request, deadline(timeout), answer).await?;
        across(to, &answer)
    }

    async fn call_at<Q, A, F>(
        &self,
        address: &str,
        request: &Q,
        timeout: Duration,
        answer: impl FnOnce(Arc<Desk>, Q) -> F + Send,
    ) -> Result<A, String>
    where
        Q: Message + Default,
        A: Message + Default,
        F: Future<Output = Result<A, Declined>> + Send,
    {
        self.call(self.board.at(address)?, request, timeout, answer).await.map_err(|error| error.to_string())
    }

    async fn stream<Q, F>(
        &self,
        to: NodeId,
        request: &Q,
        timeout: Duration,
        answer: impl FnOnce(Arc<Desk>, Q) -> F + Send,
    ) -> Result<Frames, TransportError>
    where
        Q: Message + Default,
        F: Future<Output = Result<mpsc::Receiver<store::Frame>, Declined>> + Send,
    {
        let deadline = deadline(timeout);
        let (frames, desk) = self.ask(to, request, deadline, answer).await?;
        let lost = self.board.clone().lost(self.from, to, desk);
        let frames = ReceiverStream::new(frames).map(move |frame| across(to, &frame));
        Ok(relay(to, frames.take_until(Box::pin(lost)), deadline))
    }
}

fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST)
}

/// A message as it arrives.
fn across<M: Message + Default>(to: NodeId, message: &M) -> Result<M, TransportError> {
    let arrived = M::decode(&message.encode_to_vec()[..]);
    arrived.map_err(|error| TransportError::NoAnswer { to, reason: error.to_string() })
}

#[async_trait]
impl Calls for Caller {
    async fn hello(
        &self,
        address: &str,
        request: meta::HelloRequest,
        timeout: Duration,
    ) -> Result<meta::HelloAnswer, String> {
        self.call_at(address, &request, timeout, |desk, request| async move { desk.hello(request).await })
            .await
    }

    async fn join(
        &self,
        address: &str,
        request: meta::JoinRequest,
        timeout: Duration,
    ) -> Result<meta::JoinAnswer, String> {
        self.call_at(address, &request, timeout, |desk, request| async move { desk.join(request).await })
            .await
    }

    async fn propose(
        &self,
        to: NodeId,
        request: meta::Proposal,
        timeout: Duration,
    ) -> Result<meta::ProposalAnswer, TransportError> {
        self.call(to, &request, timeout, |desk, request| async move { desk.propose(request).await }).await
    }

    async fn consult(
        &self,
        to: NodeId,
        question: meta::Question,
        timeout: Duration,
    ) -> Result<meta::Answer, TransportError> {
        self.call(to, &question, timeout, |desk, question| async move { desk.consult(question).await }).await
    }

    async fn append(
        &self,
        to: NodeId,
        request: write::AppendRequest,
        timeout: Duration,
    ) -> Result<write::AppendAnswer, TransportError> {
        self.call(to, &request, timeout, |desk, request| async move { desk.append(request).await }).await
    }

    async fn read_index(
        &self,
        to: NodeId,
        request: store::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<store::ReadIndexAnswer, TransportError> {
        self.call(to, &request, timeout, |desk, request| async move { desk.read_index(request).await }).await
    }

    async fn select(
        &self,
        to: NodeId,
        request: store::SelectRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError> {
        self.stream(to, &request, timeout, |desk, request| async move { desk.select(request).await }).await
    }

    async fn list(
        &self,
        to: NodeId,
        request: store::ListRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError> {
        self.stream(to, &request, timeout, |desk, request| async move { desk.list(request).await }).await
    }
}
