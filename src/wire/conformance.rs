//! The suites: one for every [`Transport`], here, and one for every [`crate::Calls`].

mod calls;

pub use calls::{CallsPlace, check_calls};

use crate::raft::{Ballot, BallotAnswer, LogId, Vote, answer, request};
use crate::{Handler, Transport, TransportError};
use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_model::NodeId;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

/// Where a transport is tried.
#[async_trait]
pub trait Place: Send {
    /// Starts a node that answers with `handler`.
    async fn start(&mut self, node: NodeId, handler: Arc<dyn Handler>);

    /// Stops it.
    async fn stop(&mut self, node: NodeId);

    /// The transport of node 1.
    fn transport(&self) -> Arc<dyn Transport>;
}

/// Answers ballots with their own term, refuses group 13 and never answers group 14.
#[derive(Default)]
struct Echo(Mutex<Vec<u64>>);

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, group: u64, request: request::Message) -> Result<answer::Message, String> {
        let request::Message::Vote(ballot) = request else { return Err("not a ballot".to_owned()) };
        match group {
            13 => Err("group 13".to_owned()),
            14 => std::future::pending().await,
            _ => {
                self.0.lock().push(term(&ballot));
                let answer = BallotAnswer { vote: ballot.vote, last: ballot.last, granted: true };
                Ok(answer::Message::Vote(answer))
            }
        }
    }
}

fn term(ballot: &Ballot) -> u64 {
    ballot.vote.as_ref().map_or(0, |vote| vote.term)
}

fn ballot(term: u64) -> request::Message {
    let vote = Some(Vote { term, node: 1, committed: false });
    request::Message::Vote(Ballot {
        vote,
        last: Some(LogId { term, node: 1, index: u64::MAX }),
        is_transfer: false,
    })
}

async fn ask(transport: &dyn Transport, to: u64, term: u64) -> Result<u64, TransportError> {
    match transport.call(NodeId(to), 1, ballot(term), LONG).await? {
        answer::Message::Vote(answer) => Ok(answer.vote.map_or(0, |vote| vote.term)),
        other => panic!("a ballot was answered with {other:?}"),
    }
}

/// Runs the suite.
pub async fn check_transport<P: Place>(make: impl Fn() -> P) {
    let mut place = make();
    let (two, three) = (Arc::new(Echo::default()), Arc::new(Echo::default()));
    place.start(NodeId(2), two.clone()).await;
    place.start(NodeId(3), three.clone()).await;
    let transport = place.transport();
    answers_belong_to_their_requests(&*transport).await;
    requests_reach_the_node_they_are_for(&*transport, &two, &three).await;
    refusals_and_lost_answers_are_told_apart(&*transport).await;
    place.stop(NodeId(2)).await;
    assert!(ask(&*transport, 2, 1).await.is_err(), "node 2 is stopped");
    assert_eq!(ask(&*transport, 3, 1).await, Ok(1), "node 3 is not");
    place.start(NodeId(2), two).await;
    comes_back(&*transport).await;
    let unknown = ask(&*transport, 9, 1).await;
    assert!(matches!(unknown, Err(TransportError::Unreachable { .. })), "{unknown:?}");
}

async fn answers_belong_to_their_requests(transport: &dyn Transport) {
    let asked = (0..100).map(|term| ask(transport, 2 + term % 2, term));
    let answers = futures::future::join_all(asked).await;
    assert_eq!(answers, (0..100).map(Ok).collect::<Vec<_>>());
}

async fn requests_reach_the_node_they_are_for(transport: &dyn Transport, two: &Echo, three: &Echo) {
    let before = [two, three].map(|node| node.0.lock().len());
    for term in 200..220 {
        assert_eq!(ask(transport, 2, term).await, Ok(term));
    }
    assert_eq!(two.0.lock()[before[0]..], (200..220).collect::<Vec<_>>(), "in order, each once");
    assert_eq!(three.0.lock().len(), before[1]);
}

async fn refusals_and_lost_answers_are_told_apart(transport: &dyn Transport) {
    let refused = transport.call(NodeId(2), 13, ballot(1), LONG).await;
    let expected = TransportError::Refused { to: NodeId(2), reason: "group 13".to_owned() };
    assert_eq!(refused, Err(expected));
    let silent = transport.call(NodeId(2), 14, ballot(1), SHORT).await;
    assert!(matches!(silent, Err(TransportError::NoAnswer { .. })), "{silent:?}");
    assert_eq!(ask(transport, 2, 5).await, Ok(5), "one silent request stops no other");
}

/// A peer that is back is found by itself, though not at once.
async fn comes_back(transport: &dyn Transport) {
    let tries = async {
        while ask(transport, 2, 7).await != Ok(7) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, tries).await.expect("node 2 is found again");
}
