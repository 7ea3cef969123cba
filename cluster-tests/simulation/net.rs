//! Messages between simulated nodes: datagrams over turmoil, which delays, holds and drops them.
//!
//! Keeps the contracts of `wire`: an answer belongs to its call, a call is handled at most once. Watches what is
//! promised on the way: a vote or an entry that an answer grants must be on the disk of who says so.

use crate::world::{Fault, World};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use quorate_cluster::MetaHandle;
use quorate_model::NodeId;
use quorate_raft::RaftNode;
use quorate_wire::raft::{Answer, Refusal, Request, answer, request};
use quorate_wire::{Calls, Frames, Handler, Transport, TransportError, meta, store, write};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use turmoil::net::UdpSocket;

const PORT: u16 = 9_095;
/// No message is longer.
const LONGEST: usize = 16 << 20;
/// A connection breaks off when nothing came for so long, and its calls with it.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Kind and number of the call.
const HEADER: usize = 9;

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raft,
    RaftAnswer,
    Propose,
    ProposeAnswer,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Raft, Self::RaftAnswer, Self::Propose, Self::ProposeAnswer];
}

struct Waiting {
    to: NodeId,
    answer: oneshot::Sender<Bytes>,
}

/// The network of one process.
pub struct Net {
    me: NodeId,
    world: Arc<World>,
    socket: UdpSocket,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

/// The name of a node's host.
pub fn host(node: NodeId) -> String {
    format!("n{node}")
}

impl Net {
    /// The network of a process that begins on `me`.
    ///
    /// # Errors
    /// Those of turmoil.
    pub async fn bind(me: NodeId, world: &Arc<World>) -> std::io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).await?;
        Ok(Arc::new(Self { me, world: Arc::clone(world), socket, waiting: Mutex::default() }))
    }

    /// The process at `to` is gone, and whoever waits for it learns that.
    pub fn broke_off(&self, to: NodeId) {
        self.waiting.lock().retain(|_, waiting| waiting.to != to);
    }

    fn send(&self, to: NodeId, kind: Kind, call: u64, body: &[u8]) -> std::io::Result<()> {
        self.world.note(self.me, "sends", &[to.0, kind as u64, call]);
        self.notice_faults(to);
        let loss = self.world.loss.lock().get(&(self.me, to)).copied().unwrap_or(0);
        if loss > 0 && self.world.throw(|dice| dice.chance(loss)) {
            self.world.counts.add(Fault::Loss);
            return Ok(());
        }
        let mut datagram = Vec::with_capacity(HEADER + body.len());
        datagram.push(kind as u8);
        datagram.extend(call.to_le_bytes());
        datagram.extend(body);
        self.socket.try_send_to(&datagram, (host(to).as_str(), PORT)).map(drop)
    }

    /// Counts what is wrong with a link at the first message that meets it.
    fn notice_faults(&self, to: NodeId) {
        let fault = self.world.links.lock().get_mut(&(self.me, to)).and_then(Option::take);
        if let Some(fault) = fault {
            self.world.counts.add(fault);
        }
    }

    async fn ask(
        &self,
        to: NodeId,
        kind: Kind,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let call = self.world.next_call();
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(call, Waiting { to, answer: sender });
        let _gone = Forget { net: self, call };
        let no_answer = |reason: &str| TransportError::NoAnswer { to, reason: reason.to_owned() };
        self.send(to, kind, call, body)
            .map_err(|error| TransportError::Unreachable { to, reason: error.to_string() })?;
        let answered = tokio::time::timeout(timeout.min(KEEPALIVE), receiver).await;
        answered
            .map_err(|_| no_answer("the time is over"))?
            .map_err(|_| no_answer("the connection broke off"))
    }

    /// Receives until the process ends.
    ///
    /// # Errors
    /// Those of turmoil.
    pub async fn serve(self: Arc<Self>, raft: RaftNode, meta: MetaHandle) -> std::io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (len, from) = self.socket.recv_from(&mut buffer).await?;
            let from =
                self.world.nodes.iter().find(|node| turmoil::lookup(host(**node)) == from.ip()).copied();
            let Some((from, (header, body))) = from.zip(buffer[..len].split_at_checked(HEADER)) else {
                continue;
            };
            let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == header[0]);
            let call = u64::from_le_bytes(header[1..].try_into().expect("eight bytes follow the kind"));
            let body = Bytes::copy_from_slice(body);
            match kind {
                Some(Kind::Raft) => drop(tokio::spawn(self.clone().on_raft(raft.clone(), from, call, body))),
                Some(Kind::Propose) => {
                    drop(tokio::spawn(self.clone().on_propose(meta.clone(), from, call, body)))
                }
                Some(Kind::RaftAnswer | Kind::ProposeAnswer) => self.on_answer(call, body),
                None => {}
            }
        }
    }

    fn on_answer(&self, call: u64, body: Bytes) {
        if let Some(waiting) = self.waiting.lock().remove(&call) {
            // Whoever asked may have given up at this moment.
            waiting.answer.send(body).ok();
        }
    }

    async fn on_raft(self: Arc<Self>, raft: RaftNode, from: NodeId, call: u64, body: Bytes) {
        let Ok(Request { group, message: Some(message), .. }) = Request::decode(body) else { return };
        let asked = message.clone();
        let message = match raft.handle(group, message).await {
            Ok(answer) => answer,
            Err(reason) => answer::Message::Refusal(Refusal { reason }),
        };
        self.watch(group, &asked, &message);
        let answer = Answer { id: call, message: Some(message) }.encode_to_vec();
        if let Err(error) = self.send(from, Kind::RaftAnswer, call, &answer) {
            self.world.violated(|| format!("an answer cannot be sent: {error}"));
        }
    }

    /// Holds an answer against the disk of this node before it leaves.
    fn watch(&self, group: u64, asked: &request::Message, answered: &answer::Message) {
        let live = self.world.live.lock().get(&self.me).cloned();
        let Some(live) = live else { return };
        let mut checks = self.world.checks.lock();
        match (asked, answered) {
            (request::Message::Vote(_), answer::Message::Vote(ballot)) if ballot.granted => {
                checks.promised(self.me, group, ballot.vote.as_ref());
            }
            (request::Message::Append(append), answer::Message::Append(answer)) => {
                use quorate_wire::raft::append_answer::Outcome;
                if matches!(answer.outcome, Some(Outcome::Done(_))) {
                    checks.promised(self.me, group, append.vote.as_ref());
                    checks.acknowledged(&self.world, self.me, &live, group, &append.entries);
                }
            }
            (request::Message::Confirm(confirm), answer::Message::Confirmed(agreed)) => {
                let led = confirm.led.iter().filter(|led| agreed.groups.contains(&led.group));
                led.for_each(|led| checks.agreed(&self.world, self.me, led));
            }
            _ => {}
        }
    }

    async fn on_propose(self: Arc<Self>, meta: MetaHandle, from: NodeId, call: u64, body: Bytes) {
        let Ok(proposal) = meta::Proposal::decode(body) else { return };
        let outcome = match meta.propose_for_peer(proposal).await {
            Ok(answer) => answer,
            Err(reason) => {
                self.world.violated(|| format!("a command cannot be read: {reason}"));
                return;
            }
        };
        if let Err(error) = self.send(from, Kind::ProposeAnswer, call, &outcome.encode_to_vec()) {
            self.world.violated(|| format!("an answer cannot be sent: {error}"));
        }
    }
}

/// Forgets a call that nobody waits for any more.
struct Forget<'a> {
    net: &'a Net,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.net.waiting.lock().remove(&self.call);
    }
}

#[async_trait]
impl Transport for Net {
    async fn call(
        &self,
        to: NodeId,
        group: u64,
        request: request::Message,
        timeout: Duration,
    ) -> Result<answer::Message, TransportError> {
        let request = Request { id: 0, group, message: Some(request) }.encode_to_vec();
        let body = self.ask(to, Kind::Raft, &request, timeout).await?;
        let no_answer = |reason: String| TransportError::NoAnswer { to, reason };
        let answer = Answer::decode(body).map_err(|error| no_answer(error.to_string()))?;
        match answer.message {
            Some(answer::Message::Refusal(refusal)) => {
                Err(TransportError::Refused { to, reason: refusal.reason })
            }
            Some(message) => Ok(message),
            None => Err(no_answer("an empty answer".to_owned())),
        }
    }
}

/// The metadata's proposals; nothing else is called here.
#[async_trait]
impl Calls for Net {
    async fn propose(
        &self,
        to: NodeId,
        request: meta::Proposal,
        timeout: Duration,
    ) -> Result<meta::ProposalAnswer, TransportError> {
        let body = self.ask(to, Kind::Propose, &request.encode_to_vec(), timeout).await?;
        meta::ProposalAnswer::decode(body)
            .map_err(|error| TransportError::NoAnswer { to, reason: error.to_string() })
    }

    async fn hello(&self, _: &str, _: meta::HelloRequest, _: Duration) -> Result<meta::HelloAnswer, String> {
        Err(NOT_HERE.to_owned())
    }

    async fn join(&self, _: &str, _: meta::JoinRequest, _: Duration) -> Result<meta::JoinAnswer, String> {
        Err(NOT_HERE.to_owned())
    }

    async fn consult(
        &self,
        to: NodeId,
        _: meta::Question,
        _: Duration,
    ) -> Result<meta::Answer, TransportError> {
        Err(not_here(to))
    }

    async fn append(
        &self,
        to: NodeId,
        _: write::AppendRequest,
        _: Duration,
    ) -> Result<write::AppendAnswer, TransportError> {
        Err(not_here(to))
    }

    async fn read_index(
        &self,
        to: NodeId,
        _: store::ReadIndexRequest,
        _: Duration,
    ) -> Result<store::ReadIndexAnswer, TransportError> {
        Err(not_here(to))
    }

    async fn select(
        &self,
        to: NodeId,
        _: store::SelectRequest,
        _: Duration,
    ) -> Result<Frames, TransportError> {
        Err(not_here(to))
    }

    async fn list(&self, to: NodeId, _: store::ListRequest, _: Duration) -> Result<Frames, TransportError> {
        Err(not_here(to))
    }
}

const NOT_HERE: &str = "the simulation has no such call";

fn not_here(to: NodeId) -> TransportError {
    TransportError::Refused { to, reason: NOT_HERE.to_owned() }
}
