//! The asking side of calls.
//!
//! Knows deadlines and headers. Does not know what calls lead to.
//! A1: a call is sent once. Only one that did not leave this node, because its connection turned out to have ended,
//! is sent over the next connection.

use super::channels::{Channels, Connection, Lane, Target, connect};
use super::identity::{ClusterName, stamp};
use super::tls::{PeerCertificate, Tls};
use super::{MAX_FRAME, MAX_MESSAGE, MAX_META, Peers, Timing, status};
use crate::meta::meta_client::MetaClient;
use crate::relay::relay;
use crate::store::store_client::StoreClient;
use crate::write::write_client::WriteClient;
use crate::{Calls, Frames, TransportError, meta, store, write};
use async_trait::async_trait;
use futures::StreamExt;
use quorate_model::NodeId;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// No call takes longer, whatever time it is given: there is no end of durations, but one of deadlines.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Calls over gRPC. See the module header of [`crate::grpc`].
pub struct GrpcCalls {
    cluster: ClusterName,
    pub(super) channels: Channels,
}

impl GrpcCalls {
    /// Calls of a node of `cluster` to `peers`. Connects when it is called.
    pub fn new(cluster: ClusterName, peers: Peers, timing: Timing) -> Self {
        Self { cluster, channels: Channels::new(peers, timing) }
    }

    /// The same with TLS.
    pub fn with_tls(mut self, tls: Option<Tls>) -> Self {
        self.channels.tls = tls;
        self
    }

    /// One call: `send` sends the request over a channel.
    async fn call<Q, A, F>(
        &self,
        (to, lane): (NodeId, Lane),
        message: Q,
        deadline: Instant,
        send: impl Fn(Channel, Request<Q>) -> F + Send + Sync,
    ) -> Result<A, TransportError>
    where
        Q: Clone + Send + Sync,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let mut is_first = true;
        loop {
            let connection = self.connection(to, lane, deadline).await?;
            let request = self.request(to, message.clone(), deadline)?;
            let sent = timeout_at(deadline, send(connection.channel.clone(), request)).await;
            let reason = "the time of the call is over".to_owned();
            match sent.map_err(|_| TransportError::NoAnswer { to, reason })? {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => {
                    let is_not_sent = status::is_not_sent(&status);
                    if is_not_sent {
                        connection.set_over();
                    }
                    if !(is_not_sent && is_first) {
                        return Err(status::error(to, &status));
                    }
                }
            }
            is_first = false;
        }
    }

    async fn connection(
        &self,
        to: NodeId,
        lane: Lane,
        deadline: Instant,
    ) -> Result<Connection, TransportError> {
        let connected = timeout_at(deadline, self.channels.get(to, lane)).await;
        let connected = connected.unwrap_or_else(|_| Err("connecting took too long".to_owned()));
        connected.map_err(|reason| TransportError::Unreachable { to, reason })
    }

    /// A request that says for whom it is, and how long its answer is waited for.
    fn request<Q>(&self, to: NodeId, message: Q, deadline: Instant) -> Result<Request<Q>, TransportError> {
        let mut request = timed(message, deadline);
        stamp(request.metadata_mut(), &self.cluster, to, self.channels.tls.as_ref().map(Tls::name))
            .map_err(|reason| TransportError::Unreachable { to, reason })?;
        Ok(request)
    }

    /// A call to whoever is at an address, over a connection of its own. Gives what they have shown, too.
    async fn call_at<Q, A, F>(
        &self,
        address: &str,
        message: Q,
        timeout: Duration,
        send: impl FnOnce(MetaClient<Channel>, Request<Q>) -> F + Send,
    ) -> Result<(A, Option<PeerCertificate>), String>
    where
        Q: Send,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let (deadline, Channels { timing, tls, .. }) = (deadline(timeout), &self.channels);
        let target = Target { address: address.to_owned(), name: None };
        let calling = async {
            let connecting = connect(&target, timing, Lane::Small.windows(), tls.as_ref());
            let connected = tokio::time::timeout(timing.connect, connecting).await;
            let connection = connected.map_err(|_| "connecting took too long".to_owned())??;
            let sent = send(meta_client(connection.channel), timed(message, deadline)).await;
            let answer = sent.map_err(|status| status::reason(&status))?;
            Ok((answer.into_inner(), connection.certificate))
        };
        timeout_at(deadline, calling).await.unwrap_or_else(|_| Err("the time of the call is over".to_owned()))
    }
}

fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST)
}

fn timed<Q>(message: Q, deadline: Instant) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

fn meta_client(channel: Channel) -> MetaClient<Channel> {
    MetaClient::new(channel).max_decoding_message_size(MAX_META).max_encoding_message_size(MAX_META)
}

fn write_client(channel: Channel) -> WriteClient<Channel> {
    WriteClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn store_client(channel: Channel) -> StoreClient<Channel> {
    StoreClient::new(channel).max_decoding_message_size(MAX_FRAME).max_encoding_message_size(MAX_FRAME)
}

fn frames(from: NodeId, stream: Streaming<store::Frame>, deadline: Instant) -> Frames {
    relay(from, stream.map(move |frame| frame.map_err(|status| status::error(from, &status))), deadline)
}

#[async_trait]
impl Calls for GrpcCalls {
    async fn hello(
        &self,
        address: &str,
        request: meta::HelloRequest,
        timeout: Duration,
    ) -> Result<meta::HelloAnswer, String> {
        let send = |mut client: MetaClient<_>, request| async move { client.hello(request).await };
        let (answer, shown) = self.call_at(address, request, timeout, send).await?;
        if shown.is_some_and(|shown| !shown.is_for(&answer.name)) {
            return Err(format!("it says that it is {} and has no certificate of that", answer.name));
        }
        Ok(answer)
    }

    async fn join(
        &self,
        address: &str,
        request: meta::JoinRequest,
        timeout: Duration,
    ) -> Result<meta::JoinAnswer, String> {
        let send = |mut client: MetaClient<_>, request| async move { client.join(request).await };
        Ok(self.call_at(address, request, timeout, send).await?.0)
    }

    async fn propose(
        &self,
        to: NodeId,
        request: meta::Proposal,
        timeout: Duration,
    ) -> Result<meta::ProposalAnswer, TransportError> {
        let send = |channel, request| async move { meta_client(channel).propose(request).await };
        self.call((to, Lane::Small), request, deadline(timeout), send).await
    }

    async fn consult(
        &self,
        to: NodeId,
        question: meta::Question,
        timeout: Duration,
    ) -> Result<meta::Answer, TransportError> {
        let send = |channel, question| async move { meta_client(channel).consult(question).await };
        self.call((to, Lane::Small), question, deadline(timeout), send).await
    }

    async fn append(
        &self,
        to: NodeId,
        request: write::AppendRequest,
        timeout: Duration,
    ) -> Result<write::AppendAnswer, TransportError> {
        let send = |channel, request| async move { write_client(channel).append(request).await };
        self.call((to, Lane::Small), request, deadline(timeout), send).await
    }

    async fn read_index(
        &self,
        to: NodeId,
        request: store::ReadIndexRequest,
        timeout: Duration,
    ) -> Result<store::ReadIndexAnswer, TransportError> {
        let send = |channel, request| async move { store_client(channel).read_index(request).await };
        self.call((to, Lane::Small), request, deadline(timeout), send).await
    }

    async fn select(
        &self,
        to: NodeId,
        request: store::SelectRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError> {
        let deadline = deadline(timeout);
        let send = |channel, request| async move { store_client(channel).select(request).await };
        Ok(frames(to, self.call((to, Lane::Large), request, deadline, send).await?, deadline))
    }

    async fn list(
        &self,
        to: NodeId,
        request: store::ListRequest,
        timeout: Duration,
    ) -> Result<Frames, TransportError> {
        let deadline = deadline(timeout);
        let send = |channel, request| async move { store_client(channel).list(request).await };
        Ok(frames(to, self.call((to, Lane::Large), request, deadline, send).await?, deadline))
    }
}
