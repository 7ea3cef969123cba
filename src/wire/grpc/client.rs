//! The asking side: a stream to each peer, opened when it is needed and again after it broke.

use super::{CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW, cluster_header, to_header};
use crate::raft::raft_client::RaftClient;
use crate::raft::{Answer, Request, answer, request};
use crate::{Transport, TransportError};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use quorate_model::{Clock, NodeId, SystemClock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

/// Requests that wait for their place in a stream.
const QUEUED: usize = 64;

/// Bounds on what a connection may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Time to connect and to open the stream.
    pub connect: Duration,
    /// A connection is asked this often whether it lives.
    pub keepalive: Duration,
    /// A connection that does not answer for so long is closed.
    pub keepalive_timeout: Duration,
    /// After an attempt that failed, none is made for this long.
    pub pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            keepalive: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            pause: Duration::from_millis(200),
        }
    }
}

/// Where the peers are. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<RwLock<BTreeMap<NodeId, String>>>);

impl Peers {
    /// `node` is at `address`, as `host:port`, from now on.
    pub fn set(&self, node: NodeId, address: String) {
        self.0.write().insert(node, address);
    }

    /// The address of `node`.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.read().get(&node).cloned()
    }
}

/// See the module header of [`crate::grpc`].
pub struct Grpc {
    cluster: String,
    peers: Peers,
    timing: Timing,
    lines: Mutex<BTreeMap<NodeId, Arc<Line>>>,
}

/// The way to one peer.
#[derive(Default)]
struct Line {
    /// Held while connecting, so that there is one attempt at a time.
    state: tokio::sync::Mutex<LineState>,
}

#[derive(Default)]
struct LineState {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, String)>,
}

/// An open stream.
struct Link {
    address: String,
    requests: mpsc::Sender<Request>,
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// Calls that wait for their answer; `None` once the stream is broken.
type Waiting = Option<HashMap<u64, oneshot::Sender<answer::Message>>>;

impl Grpc {
    /// A transport of a node of `cluster`.
    pub fn new(cluster: u128, peers: Peers, timing: Timing) -> Self {
        Self { cluster: format!("{cluster:032x}"), peers, timing, lines: Mutex::default() }
    }

    /// The open stream to `to`, opened if there is none.
    async fn link(&self, to: NodeId) -> Result<Arc<Link>, String> {
        let address = self.peers.get(to).ok_or("its address is not known")?;
        let line = self.lines.lock().entry(to).or_default().clone();
        let mut state = line.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| link.is_open() && link.address == address) {
            return Ok(link.clone());
        }
        state.link = None;
        let now = SystemClock.instant();
        if let Some((at, reason)) = state.failed.as_ref().filter(|(at, _)| now < *at + self.timing.pause) {
            let ago = now.duration_since(*at).as_millis();
            return Err(format!("{reason} ({ago} ms ago)"));
        }
        let opening = tokio::time::timeout(self.timing.connect, self.open(to, address)).await;
        match opening.unwrap_or_else(|_| Err("connecting took too long".to_owned())) {
            Ok(link) => {
                (state.link, state.failed) = (Some(link.clone()), None);
                Ok(link)
            }
            Err(reason) => {
                state.failed = Some((SystemClock.instant(), reason.clone()));
                Err(reason)
            }
        }
    }

    async fn open(&self, to: NodeId, address: String) -> Result<Arc<Link>, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
        let channel = endpoint
            .connect_timeout(self.timing.connect)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.timing.keepalive)
            .keep_alive_timeout(self.timing.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect()
            .await
            .map_err(|error| source_text(&error))?;
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (requests, outgoing) = mpsc::channel(QUEUED);
        let mut opening = tonic::Request::new(ReceiverStream::new(outgoing));
        let cluster = MetadataValue::try_from(&self.cluster).map_err(|e| e.to_string())?;
        opening.metadata_mut().insert(cluster_header(), cluster);
        opening.metadata_mut().insert(to_header(), MetadataValue::from(to.0));
        let answers = client.exchange(opening).await.map_err(|status| status.message().to_owned())?;
        let waiting = Mutex::new(Some(HashMap::new()));
        let link = Arc::new(Link { address, requests, next_id: AtomicU64::new(0), waiting });
        tokio::spawn(deliver(answers.into_inner(), Arc::downgrade(&link)));
        Ok(link)
    }
}

/// Hands answers to those who wait until the stream ends. The stream ends as well when its link is dropped.
async fn deliver(mut answers: Streaming<Answer>, link: std::sync::Weak<Link>) {
    loop {
        let answer = answers.message().await;
        let Some(link) = link.upgrade() else { return };
        match answer {
            Ok(Some(Answer { id, message: Some(message) })) => link.answered(id, message),
            Ok(Some(_)) => {}
            Ok(None) => return link.broken(),
            Err(status) => {
                tracing::debug!(%status, address = link.address, "the stream to a peer broke");
                return link.broken();
            }
        }
    }
}

impl Link {
    fn is_open(&self) -> bool {
        !self.requests.is_closed() && self.waiting.lock().is_some()
    }

    fn answered(&self, id: u64, message: answer::Message) {
        let waiter = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(waiter) = waiter {
            // Who does not wait any more needs no answer.
            waiter.send(message).ok();
        }
    }

    /// Everybody who waits learns of it, because their senders are dropped.
    fn broken(&self) {
        *self.waiting.lock() = None;
    }

    async fn call(&self, group: u64, message: request::Message) -> Result<answer::Message, String> {
        let broken = || "the stream broke".to_owned();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().as_mut().ok_or_else(broken)?.insert(id, sender);
        let _place = Place { link: self, id };
        let request = Request { id, group, message: Some(message) };
        self.requests.send(request).await.map_err(|_closed| broken())?;
        answer.await.map_err(|_dropped| broken())
    }
}

/// A call's place among those who wait; left when the call ends, however it does.
struct Place<'l> {
    link: &'l Link,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.link.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

#[async_trait]
impl Transport for Grpc {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        let calling = async {
            let link = self.link(to).await.map_err(|reason| TransportError::Unreachable { to, reason })?;
            link.call(group, request).await.map_err(|reason| TransportError::NoAnswer { to, reason })
        };
        let late = || TransportError::NoAnswer { to, reason: format!("nothing within {timeout:?}") };
        match tokio::time::timeout(timeout, calling).await.map_err(|_| late())?? {
            answer::Message::Refusal(refusal) => Err(TransportError::Refused { to, reason: refusal.reason }),
            message => Ok(message),
        }
    }
}

/// The innermost reason: the outer ones only say that something failed.
fn source_text(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
