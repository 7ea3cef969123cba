//! Both suites over sockets, and what only a network has: headers, addresses, listeners that end.

use super::channels::Lane;
use super::line::Open;
use super::*;
use crate::conformance::{CallsPlace, Place, check_calls, check_transport};
use crate::meta::meta_client::MetaClient;
use crate::{Calls, Handler, Handlers, Transport, TransportError, WriteHandler, meta, raft, write};
use async_trait::async_trait;
use quorate_model::NodeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(30);

/// Each node has a runtime of its own, so that its connections end with it as they do with a process.
#[derive(Default)]
struct Sockets {
    peers: Peers,
    addresses: BTreeMap<NodeId, SocketAddr>,
    running: BTreeMap<NodeId, Runtime>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        std::mem::take(&mut self.running).into_values().for_each(Runtime::shutdown_background);
    }
}

pub(super) fn cluster(id: u128) -> ClusterName {
    let name = ClusterName::default();
    name.set_id(id);
    name
}

fn timing() -> Timing {
    Timing { pause: Duration::from_millis(20), ..Timing::default() }
}

impl Sockets {
    /// Starts a node that answers with `inbox`, where it was before if it was there.
    async fn run(&mut self, node: NodeId, inbox: Inbox) {
        let wanted = self.addresses.get(&node).copied().unwrap_or(([127, 0, 0, 1], 0).into());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(wanted).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let (_ready, readiness) = watch::channel(true);
            serve(listener, inbox, None, readiness, LONG, CancellationToken::new()).await.unwrap();
        });
        let address = address.await.unwrap();
        self.addresses.insert(node, address);
        self.peers.set(node, address.to_string());
        self.running.insert(node, runtime);
    }

    /// Stops a node; its sockets are closed after this.
    async fn end(&mut self, node: NodeId) {
        let runtime = self.running.remove(&node).unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LONG)).await.unwrap();
    }

    fn calls_of(&self, cluster: ClusterName) -> GrpcCalls {
        GrpcCalls::new(cluster, self.peers.clone(), timing())
    }
}

/// The inbox of a node of cluster 7.
pub(super) fn member(node: NodeId) -> Inbox {
    let inbox = Inbox::new(cluster(7));
    inbox.identify(node);
    inbox
}

#[async_trait]
impl Place for Sockets {
    async fn start(&mut self, node: NodeId, handler: Arc<dyn Handler>) {
        let inbox = member(node);
        inbox.set_raft(handler);
        self.run(node, inbox).await;
    }

    async fn stop(&mut self, node: NodeId) {
        self.end(node).await;
    }

    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Grpc::new(cluster(7), self.peers.clone(), timing()))
    }
}

#[async_trait]
impl CallsPlace for Sockets {
    async fn start(&mut self, node: NodeId, handlers: Handlers) {
        let inbox = member(node);
        handlers.meta.into_iter().for_each(|handler| inbox.set_meta(handler));
        handlers.write.into_iter().for_each(|handler| inbox.set_write(handler));
        handlers.store.into_iter().for_each(|handler| inbox.set_store(handler));
        self.run(node, inbox).await;
    }

    async fn stop(&mut self, node: NodeId) {
        self.end(node).await;
    }

    fn calls(&self) -> Arc<dyn Calls> {
        Arc::new(self.calls_of(cluster(7)))
    }

    fn address(&self, node: NodeId) -> String {
        self.addresses[&node].to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    check_transport(Sockets::default).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_calls_keep_the_contract() {
    check_calls(Sockets::default()).await;
}

/// Answers with the number of its node.
struct Number(u64);

#[async_trait]
impl WriteHandler for Number {
    async fn append(&self, _request: write::AppendRequest) -> Result<write::AppendAnswer, String> {
        let committed = write::Committed { position: self.0, ..Default::default() };
        Ok(write::AppendAnswer { outcome: Some(write::append_answer::Outcome::Committed(committed)) })
    }
}

#[async_trait]
impl crate::MetaHandler for Number {
    async fn hello(&self, request: meta::HelloRequest) -> meta::HelloAnswer {
        meta::HelloAnswer { name: request.name, ..Default::default() }
    }

    async fn join(&self, _request: meta::JoinRequest) -> meta::JoinAnswer {
        meta::JoinAnswer::default()
    }

    async fn propose(&self, _request: meta::Proposal) -> Result<meta::ProposalAnswer, String> {
        Ok(meta::ProposalAnswer::default())
    }

    async fn consult(&self, _question: meta::Question) -> Result<meta::Answer, String> {
        Ok(meta::Answer::default())
    }
}

#[async_trait]
impl Handler for Number {
    async fn handle(
        &self,
        _group: u64,
        _request: raft::request::Message,
    ) -> Result<raft::answer::Message, String> {
        let vote = raft::Vote { term: self.0, node: self.0, committed: false };
        Ok(raft::answer::Message::Vote(raft::BallotAnswer { vote: Some(vote), last: None, granted: true }))
    }
}

pub(super) fn fill(inbox: &Inbox, node: u64) {
    let handler = Arc::new(Number(node));
    inbox.set_raft(handler.clone());
    inbox.set_meta(handler.clone());
    inbox.set_write(handler);
}

async fn vote(transport: &Grpc, to: u64) -> Result<(), TransportError> {
    let ballot = raft::request::Message::Vote(raft::Ballot::default());
    transport.call(NodeId(to), 1, ballot, LONG).await.map(drop)
}

async fn append(calls: &GrpcCalls, to: u64) -> Result<u64, TransportError> {
    let answer = calls.append(NodeId(to), write::AppendRequest::default(), LONG).await?;
    match answer.outcome {
        Some(write::append_answer::Outcome::Committed(committed)) => Ok(committed.position),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_unreachable<A: std::fmt::Debug>(answered: Result<A, TransportError>, expected: &str) {
    let Err(TransportError::Unreachable { reason, .. }) = answered else { panic!("{answered:?}") };
    assert!(reason.contains(expected), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_and_another_node_are_refused_before_any_request() {
    let mut place = Sockets::default();
    let inbox = member(NodeId(2));
    fill(&inbox, 2);
    place.run(NodeId(2), inbox).await;
    place.peers.set(NodeId(3), place.address(NodeId(2)));
    for (id, to, expected) in [(8, 2, "cluster"), (7, 3, "node 2")] {
        check_unreachable(vote(&Grpc::new(cluster(id), place.peers.clone(), timing()), to).await, expected);
        check_unreachable(append(&place.calls_of(cluster(id)), to).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_filled_in_while_it_listens() {
    let (mut place, own, theirs) = (Sockets::default(), ClusterName::default(), ClusterName::default());
    let inbox = Inbox::new(theirs.clone());
    place.run(NodeId(2), inbox.clone()).await;
    let calls = place.calls_of(own.clone());
    let transport =
        Grpc::new(own.clone(), place.peers.clone(), Timing { pause: Duration::ZERO, ..Timing::default() });
    let hello = async || calls.hello(&place.address(NodeId(2)), meta::HelloRequest::default(), LONG).await;

    assert!(hello().await.is_err_and(|reason| reason.contains("starting")));
    inbox.set_meta(Arc::new(Number(2)));
    assert!(hello().await.is_ok(), "neither has a cluster");
    check_unreachable(append(&calls, 2).await, "no cluster yet");

    own.set_forming("ab");
    check_unreachable(append(&calls, 2).await, "starting");
    check_unreachable(vote(&transport, 2).await, "starting");
    inbox.identify(NodeId(2));
    check_unreachable(append(&calls, 2).await, "cluster none");
    theirs.set_forming("ab");
    check_unreachable(append(&calls, 2).await, "starting");
    check_unreachable(vote(&transport, 2).await, "starting");
    fill(&inbox, 2);
    assert_eq!(append(&calls, 2).await, Ok(2));
    assert_eq!(vote(&transport, 2).await, Ok(()));

    theirs.set_id(7);
    assert_eq!(append(&calls, 2).await, Ok(2), "a founder that does not know the id yet");
    own.set_id(7);
    assert_eq!(append(&calls, 2).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_address_is_used_from_the_next_call_on() {
    let mut place = Sockets::default();
    for (node, answer) in [(2, 20), (3, 30)] {
        // Both say that they are node 2.
        let inbox = member(NodeId(2));
        fill(&inbox, answer);
        place.run(NodeId(node), inbox).await;
    }
    let calls = GrpcCalls::new(cluster(7), place.peers.clone(), Timing { pause: LONG, ..Timing::default() });
    assert_eq!(append(&calls, 2).await, Ok(20));
    place.peers.set(NodeId(2), place.address(NodeId(3)));
    assert_eq!(append(&calls, 2).await, Ok(30));
}

/// A connection that ended unnoticed costs no call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_to_a_peer_that_was_started_again_is_answered() {
    let mut place = Sockets::default();
    let inbox = member(NodeId(2));
    fill(&inbox, 2);
    place.run(NodeId(2), inbox.clone()).await;
    let timing = Timing { pause: Duration::ZERO, ..Timing::default() };
    let calls = GrpcCalls::new(cluster(7), place.peers.clone(), timing);
    assert_eq!(append(&calls, 2).await, Ok(2));
    let before = calls.channels.get(NodeId(2), Lane::Small).await.unwrap();
    place.end(NodeId(2)).await;
    place.run(NodeId(2), inbox).await;
    let over_the_old_one = async || {
        let mut client = MetaClient::new(before.channel.clone());
        client.hello(meta::HelloRequest::default()).await.expect_err("it does not connect again")
    };
    let noticed = async { while !status::is_not_sent(&over_the_old_one().await) {} };
    tokio::time::timeout(LONG, noticed).await.expect("the connection has ended");
    assert!(before.is_open(), "no call has told yet");
    assert_eq!(append(&calls, 2).await, Ok(2));
    assert!(!before.is_open());
    assert!(status::is_not_sent(&over_the_old_one().await));
}

/// A stream of Raft stays open as long as the peer wants, a connection for calls as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_and_connections_do_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = Peers::default();
    peers.set(NodeId(2), listener.local_addr().unwrap().to_string());
    let (inbox, stop, (_ready, readiness)) =
        (member(NodeId(2)), CancellationToken::new(), watch::channel(true));
    fill(&inbox, 2);
    let served = tokio::spawn(serve(listener, inbox.clone(), None, readiness, 100 * LONG, stop.clone()));
    let transport = Grpc::new(cluster(7), peers.clone(), timing());
    let calls = GrpcCalls::new(cluster(7), peers, timing());
    assert_eq!(vote(&transport, 2).await, Ok(()));
    assert_eq!(append(&calls, 2).await, Ok(2));
    stop.cancel();
    let ended = tokio::time::timeout(LONG, served).await;
    ended.expect("it ends before its drain time").unwrap().unwrap();
    assert!(inbox.raft().is_err(), "its handlers are let go");
}
