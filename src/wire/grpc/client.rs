//! The asking side of Raft: a stream to each peer, opened when it is needed and again after it broke.

use super::channels::{Target, Windows, connect};
use super::identity::{ClusterName, stamp};
use super::line::{Lines, Open};
use super::tls::Tls;
use super::{CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW, status};
use crate::raft::raft_client::RaftClient;
use crate::raft::{Answer, Request, answer, request};
use crate::{Transport, TransportError};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use quorate_model::NodeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

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
pub struct Peers(Arc<RwLock<BTreeMap<NodeId, Target>>>);

impl Peers {
    /// `node` is at `address`, as `host:port`, from now on.
    pub fn set(&self, node: NodeId, address: String) {
        self.place(node, None, address);
    }

    /// `node` is called `name`, which its certificate must have if there are any, and is at `address`.
    pub fn set_named(&self, node: NodeId, name: &str, address: String) {
        self.place(node, Some(name.to_owned()).filter(|name| !name.is_empty()), address);
    }

    fn place(&self, node: NodeId, name: Option<String>, address: String) {
        let mut peers = self.0.write();
        let known = peers.get(&node).and_then(|known| known.name.clone());
        peers.insert(node, Target { address, name: name.or(known) });
    }

    /// The address of `node`.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.read().get(&node).map(|known| known.address.clone())
    }

    pub(super) fn target(&self, node: NodeId) -> Option<Target> {
        self.0.read().get(&node).cloned()
    }
}

/// The transport of Raft. See the module header of [`crate::grpc`].
pub struct Grpc {
    cluster: ClusterName,
    peers: Peers,
    timing: Timing,
    tls: Option<Tls>,
    lines: Lines<NodeId, Arc<Link>>,
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
    pub fn new(cluster: ClusterName, peers: Peers, timing: Timing) -> Self {
        Self { cluster, peers, timing, tls: None, lines: Lines::default() }
    }

    /// The same with TLS.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// The open stream to `to`, opened if there is none.
    async fn link(&self, to: NodeId) -> Result<Arc<Link>, String> {
        let target = self.peers.target(to).ok_or("its address is not known")?;
        let (there, cluster) = (target.clone(), self.cluster.clone());
        let (timing, tls) = (self.timing.clone(), self.tls.clone());
        let open = || open(there, to, cluster, timing, tls);
        self.lines.get(to, target.to_string(), &self.timing, open).await
    }
}

async fn open(
    target: Target,
    to: NodeId,
    cluster: ClusterName,
    timing: Timing,
    tls: Option<Tls>,
) -> Result<Arc<Link>, String> {
    let windows = Windows { stream: STREAM_WINDOW, connection: CONNECTION_WINDOW };
    let connection = connect(&target, &timing, windows, tls.as_ref()).await?;
    let mut client = RaftClient::new(connection.channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (requests, outgoing) = mpsc::channel(QUEUED);
    let mut opening = tonic::Request::new(ReceiverStream::new(outgoing));
    stamp(opening.metadata_mut(), &cluster, to, tls.as_ref().map(Tls::name))?;
    let answers = client.exchange(opening).await.map_err(|status| status::reason(&status))?;
    let waiting = Mutex::new(Some(HashMap::new()));
    let link = Arc::new(Link { address: target.address, requests, next_id: AtomicU64::new(0), waiting });
    tokio::spawn(deliver(answers.into_inner(), Arc::downgrade(&link)));
    Ok(link)
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

impl Open for Arc<Link> {
    fn is_open(&self) -> bool {
        !self.requests.is_closed() && self.waiting.lock().is_some()
    }
}

impl Link {
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
