//! One suite for every driver of [`Calls`].

use super::{LONG, SHORT};
use crate::store::frame::{Complete, Content, End, end};
use crate::store::{Frame, ReadIndexAnswer, ReadIndexRequest, read_index_answer};
use crate::write::append_answer::Outcome as Appended;
use crate::{
    Calls, Frames, Handlers, MetaHandler, QUEUED_FRAMES, StoreHandler, TransportError, WriteHandler,
};
use crate::{meta, store, write};
use async_trait::async_trait;
use bytes::Bytes;
use quorate_model::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Where calls are tried.
#[async_trait]
pub trait CallsPlace: Send {
    /// Starts a node that answers with `handlers`.
    async fn start(&mut self, node: NodeId, handlers: Handlers);

    /// Stops it, without a word to those who wait.
    async fn stop(&mut self, node: NodeId);

    /// The calls of node 1.
    fn calls(&self) -> Arc<dyn Calls>;

    /// Where a node is that was started.
    fn address(&self, node: NodeId) -> String;
}

/// What a call asks of [`Played`], in the number that it carries.
const REFUSE: u32 = 13;
const SAY_NOTHING: u32 = 14;
/// Frames of an answer without an end.
const BREAK_OFF: u32 = 15;
/// One frame, and then nothing for ever.
const GET_STUCK: u32 = 16;
/// As many frames as somebody takes.
const FLOOD: u32 = 17;

/// Bytes of a frame of a flood.
const FLOOD_FRAME: usize = 64 << 10;
/// Frames of a flood that may be on their way: the queues at both ends, and less than 2 MiB in the connection between.
const ON_THEIR_WAY: u64 = 2 * QUEUED_FRAMES as u64 + 32;

/// Handlers of node `node` that do what calls ask for.
struct Played {
    node: u64,
    /// Until it is set, appends to partition [`SAY_NOTHING`] wait.
    gate: watch::Sender<bool>,
    appended: watch::Sender<u64>,
    sent: watch::Sender<u64>,
    /// Answers whose receiver was dropped.
    dropped: watch::Sender<u64>,
}

impl Played {
    fn new(node: u64) -> Arc<Self> {
        let (gate, appended) = Default::default();
        Arc::new(Self {
            node,
            gate,
            appended,
            sent: watch::Sender::default(),
            dropped: watch::Sender::default(),
        })
    }

    fn handlers(self: &Arc<Self>) -> Handlers {
        Handlers { meta: Some(self.clone()), write: Some(self.clone()), store: Some(self.clone()) }
    }

    /// Frames as `what` asks for; `count` of them if it asks for nothing special.
    fn frames(&self, what: u32, count: u64) -> Result<mpsc::Receiver<Frame>, String> {
        let (out, frames) = mpsc::channel(QUEUED_FRAMES);
        let (sent, dropped) = (self.sent.clone(), self.dropped.clone());
        let (count, size) = match what {
            REFUSE => return Err("no".to_owned()),
            GET_STUCK => (1, 8),
            FLOOD => (u64::MAX, FLOOD_FRAME),
            _ => (count, 8),
        };
        tokio::spawn(async move {
            for index in 0..count {
                if out.send(part(index, size)).await.is_err() {
                    break;
                }
                sent.send_modify(|sent| *sent += 1);
            }
            match what {
                GET_STUCK => out.closed().await,
                BREAK_OFF => {}
                _ => drop(out.send(complete()).await),
            }
            if out.is_closed() {
                dropped.send_modify(|dropped| *dropped += 1);
            }
        });
        Ok(frames)
    }
}

fn part(index: u64, size: usize) -> Frame {
    let mut bytes = vec![0; size];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Frame { content: Some(Content::Part(bytes.into())) }
}

fn complete() -> Frame {
    Frame { content: Some(Content::End(End { outcome: Some(end::Outcome::Complete(Complete::default())) })) }
}

#[async_trait]
impl MetaHandler for Played {
    async fn hello(&self, request: meta::HelloRequest) -> meta::HelloAnswer {
        meta::HelloAnswer {
            name: request.name,
            forming: request.forming,
            node: self.node,
            ..Default::default()
        }
    }

    async fn join(&self, request: meta::JoinRequest) -> meta::JoinAnswer {
        let elsewhere = format!("{} {}", request.name, self.node);
        meta::JoinAnswer { outcome: Some(meta::join_answer::Outcome::NotNow(elsewhere)) }
    }

    async fn propose(&self, request: meta::Proposal) -> Result<meta::ProposalAnswer, String> {
        if request.command.is_empty() {
            return Err("no".to_owned());
        }
        let done = meta::proposal_answer::Done { position: self.node, response: request.command };
        Ok(meta::ProposalAnswer { outcome: Some(meta::proposal_answer::Outcome::Done(done)) })
    }

    async fn consult(&self, question: meta::Question) -> Result<meta::Answer, String> {
        if question.question.is_none() {
            return Err("no".to_owned());
        }
        let not_leading = meta::answer::NotLeading { leader: self.node };
        Ok(meta::Answer { answer: Some(meta::answer::Answer::NotLeading(not_leading)) })
    }
}

#[async_trait]
impl WriteHandler for Played {
    async fn append(&self, request: write::AppendRequest) -> Result<write::AppendAnswer, String> {
        if request.partition == REFUSE {
            return Err("no".to_owned());
        }
        if request.partition == SAY_NOTHING {
            self.gate.subscribe().wait_for(|open| *open).await.map_err(|e| e.to_string())?;
        }
        self.appended.send_modify(|appended| *appended += 1);
        let committed = write::Committed { position: request.sequence, ..Default::default() };
        Ok(write::AppendAnswer { outcome: Some(Appended::Committed(committed)) })
    }
}

#[async_trait]
impl StoreHandler for Played {
    async fn read_index(&self, request: ReadIndexRequest) -> Result<ReadIndexAnswer, String> {
        if request.partitions == [SAY_NOTHING] {
            std::future::pending::<()>().await;
        }
        let index = |partition| read_index_answer::Index {
            outcome: Some(read_index_answer::index::Outcome::Position(u64::from(partition))),
        };
        Ok(ReadIndexAnswer { indexes: request.partitions.into_iter().map(index).collect() })
    }

    async fn select(&self, request: store::SelectRequest) -> Result<mpsc::Receiver<Frame>, String> {
        self.frames(request.tenant, request.max_series)
    }

    async fn list(&self, request: store::ListRequest) -> Result<mpsc::Receiver<Frame>, String> {
        self.frames(request.tenant, request.max_entries)
    }
}

/// Runs the suite.
pub async fn check_calls<P: CallsPlace>(mut place: P) {
    let (two, three) = (Played::new(2), Played::new(3));
    place.start(NodeId(2), two.handlers()).await;
    place.start(NodeId(3), three.handlers()).await;
    place.start(NodeId(4), Handlers::default()).await;
    let calls = place.calls();
    let calls = &*calls;
    who_is_at_an_address(&place, calls).await;
    answers_belong_to_their_calls(calls).await;
    what_has_no_effect_is_said_to_have_none(calls, &two).await;
    late_answers_are_not_waited_for(calls, &two).await;
    frames_come_in_order_and_end(calls).await;
    no_answer_ends_in_silence(calls).await;
    a_slow_reader_slows_the_peer_and_a_gone_one_stops_it(calls, &two).await;
    a_peer_that_stops_breaks_its_answers(&mut place, calls, &three).await;
    place.start(NodeId(3), three.handlers()).await;
    comes_back(calls).await;
}

async fn who_is_at_an_address(place: &dyn CallsPlace, calls: &dyn Calls) {
    for node in [2, 3] {
        let (address, name) = (place.address(NodeId(node)), format!("asked {node}"));
        let hello = meta::HelloRequest { name: name.clone(), forming: "ab".to_owned() };
        let answer = calls.hello(&address, hello, LONG).await.expect("a node is there");
        assert_eq!((answer.node, &answer.name, answer.forming.as_str()), (node, &name, "ab"));
        let join = meta::JoinRequest { name, ..Default::default() };
        let answer = calls.join(&address, join, LONG).await.expect("a node is there");
        let expected = meta::join_answer::Outcome::NotNow(format!("asked {node} {node}"));
        assert_eq!(answer.outcome, Some(expected));
    }
    let hello = calls.hello(&place.address(NodeId(4)), meta::HelloRequest::default(), LONG).await;
    assert!(hello.as_ref().is_err_and(|reason| reason.contains("starting")), "{hello:?}");
    assert!(calls.hello("nowhere", meta::HelloRequest::default(), LONG).await.is_err());
}

async fn append(
    calls: &dyn Calls,
    to: u64,
    partition: u32,
    sequence: u64,
    timeout: Duration,
) -> Result<u64, TransportError> {
    let request = write::AppendRequest { partition, sequence, ..Default::default() };
    match calls.append(NodeId(to), request, timeout).await?.outcome {
        Some(Appended::Committed(committed)) => Ok(committed.position),
        other => panic!("an append was answered with {other:?}"),
    }
}

async fn answers_belong_to_their_calls(calls: &dyn Calls) {
    let appends = (0..100).map(|sequence| append(calls, 2 + sequence % 2, 0, sequence, LONG));
    let answers = futures::future::join_all(appends).await;
    assert_eq!(answers, (0..100).map(Ok).collect::<Vec<_>>());
    let proposals = (0..20_u64).map(|number| async move {
        let request = meta::Proposal { command: Bytes::from(number.to_string()) };
        let answer = calls.propose(NodeId(2 + number % 2), request, LONG).await.expect("an answer");
        let response = Bytes::from(number.to_string());
        let done = meta::proposal_answer::Done { position: 2 + number % 2, response };
        assert_eq!(answer.outcome, Some(meta::proposal_answer::Outcome::Done(done)));
    });
    futures::future::join_all(proposals).await;
    for node in [2, 3] {
        let overview = meta::question::Question::Overview(meta::question::Overview {});
        let question = meta::Question { question: Some(overview) };
        let answer = calls.consult(NodeId(node), question, LONG).await.expect("an answer");
        let expected = meta::answer::Answer::NotLeading(meta::answer::NotLeading { leader: node });
        assert_eq!(answer.answer, Some(expected));
    }
    let request = ReadIndexRequest { partitions: vec![5, 3] };
    let answer = calls.read_index(NodeId(2), request, LONG).await.expect("an answer");
    let position = read_index_answer::index::Outcome::Position;
    let outcomes: Vec<_> = answer.indexes.into_iter().map(|index| index.outcome).collect();
    assert_eq!(outcomes, [Some(position(5)), Some(position(3))]);
}

/// Refusals, nodes that are not there, and nodes that do not answer such calls yet.
async fn what_has_no_effect_is_said_to_have_none(calls: &dyn Calls, two: &Played) {
    let appended = *two.appended.borrow();
    let refused = TransportError::Refused { to: NodeId(2), reason: "no".to_owned() };
    assert_eq!(append(calls, 2, REFUSE, 1, LONG).await, Err(refused.clone()));
    let proposed = calls.propose(NodeId(2), meta::Proposal::default(), LONG).await;
    assert_eq!(proposed, Err(refused.clone()));
    let consulted = calls.consult(NodeId(2), meta::Question::default(), LONG).await;
    assert_eq!(consulted, Err(refused.clone()));
    assert_eq!(select(calls, 2, REFUSE, 0, LONG).await.err(), Some(refused));
    assert_eq!(*two.appended.borrow(), appended);
    for (node, expected) in [(4, "starting"), (9, "")] {
        for unreachable in [
            append(calls, node, 0, 1, LONG).await.err(),
            select(calls, node, 0, 1, LONG).await.err(),
            calls.propose(NodeId(node), meta::Proposal::default(), LONG).await.err(),
            calls.consult(NodeId(node), meta::Question::default(), LONG).await.err(),
        ] {
            let Some(TransportError::Unreachable { reason, .. }) = unreachable else {
                panic!("{unreachable:?} of node {node}")
            };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}

async fn late_answers_are_not_waited_for(calls: &dyn Calls, two: &Played) {
    let mut appended = two.appended.subscribe();
    let before = *appended.borrow_and_update();
    let late = append(calls, 2, SAY_NOTHING, 1, SHORT).await;
    assert!(matches!(late, Err(TransportError::NoAnswer { .. })), "{late:?}");
    let request = ReadIndexRequest { partitions: vec![SAY_NOTHING] };
    let late = calls.read_index(NodeId(2), request, SHORT).await;
    assert!(matches!(late, Err(TransportError::NoAnswer { .. })), "{late:?}");
    assert_eq!(append(calls, 2, 0, 5, LONG).await, Ok(5), "a silent call stops no other");
    two.gate.send_replace(true);
    let handled = appended.wait_for(|appended| *appended == before + 2);
    within(handled, "an append goes on without its caller").await.expect("the handler is there");

    let mut frames = select(calls, 2, GET_STUCK, 0, SHORT).await.expect("it begins in time");
    let (parts, end) = rest(&mut frames).await;
    assert!(parts <= 1 && matches!(end, Err(TransportError::NoAnswer { .. })), "{parts} and {end:?}");
}

async fn select(
    calls: &dyn Calls,
    to: u64,
    tenant: u32,
    max_series: u64,
    timeout: Duration,
) -> Result<Frames, TransportError> {
    let request = store::SelectRequest { tenant, max_series, ..Default::default() };
    calls.select(NodeId(to), request, timeout).await
}

/// Reads parts, which must be numbered, and how they end.
async fn rest(frames: &mut Frames) -> (u64, Result<(), TransportError>) {
    let mut parts = 0;
    loop {
        let frame = within(frames.recv(), "the next frame").await.expect("an answer does not end in silence");
        match frame.map(|frame| frame.content) {
            Ok(Some(Content::Part(part))) => {
                assert_eq!(part[..8], u64::to_le_bytes(parts));
                parts += 1;
            }
            Ok(end) => {
                assert_eq!(end, complete().content);
                return (parts, Ok(()));
            }
            Err(error) => return (parts, Err(error)),
        }
    }
}

async fn frames_come_in_order_and_end(calls: &dyn Calls) {
    for count in [0, 1, 1_000] {
        let mut frames = select(calls, 2, 0, count, LONG).await.expect("it begins");
        assert_eq!(rest(&mut frames).await, (count, Ok(())));
        assert!(frames.recv().await.is_none(), "nothing comes after the end");
        let request = store::ListRequest { max_entries: count, ..Default::default() };
        let mut frames = calls.list(NodeId(3), request, LONG).await.expect("it begins");
        assert_eq!(rest(&mut frames).await, (count, Ok(())));
    }
}

async fn no_answer_ends_in_silence(calls: &dyn Calls) {
    for count in [0, 1, 100] {
        let mut frames = select(calls, 2, BREAK_OFF, count, LONG).await.expect("it begins");
        let (parts, end) = rest(&mut frames).await;
        assert_eq!(parts, count);
        assert!(matches!(end, Err(TransportError::NoAnswer { .. })), "{end:?}");
    }
}

async fn a_slow_reader_slows_the_peer_and_a_gone_one_stops_it(calls: &dyn Calls, two: &Played) {
    let mut sent = two.sent.subscribe();
    let before = *sent.borrow_and_update();
    let mut dropped = two.dropped.subscribe();
    let gone = *dropped.borrow_and_update();
    let mut frames = select(calls, 2, FLOOD, 0, LONG).await.expect("it begins");
    for sequence in 0..300 {
        // A slow reader stops no other call, and while these are made the peer can run ahead.
        assert_eq!(append(calls, 2, 0, sequence, LONG).await, Ok(sequence));
        let ahead = *two.sent.borrow() - before;
        assert!(ahead <= ON_THEIR_WAY, "{ahead} frames wait for a reader that read none");
    }
    for read in 1..=300 {
        let ahead = sent.wait_for(|sent| sent - before > read);
        within(ahead, "the peer sends").await.expect("the handler is there");
        within(frames.recv(), "the next frame").await.expect("it is endless").expect("and good");
        let ahead = *two.sent.borrow() - before - read;
        assert!(ahead <= ON_THEIR_WAY, "{ahead} frames wait for a reader that read {read}");
    }
    drop(frames);
    let stopped = dropped.wait_for(|dropped| *dropped > gone);
    within(stopped, "the peer stops").await.expect("the handler is there");
    let gone = gone + 1;

    let mut frames = select(calls, 2, GET_STUCK, 0, LONG).await.expect("it begins");
    within(frames.recv(), "the first frame").await.expect("there is one").expect("and it is good");
    drop(frames);
    let stopped = dropped.wait_for(|dropped| *dropped > gone);
    within(stopped, "the peer stops though it sends nothing").await.expect("the handler is there");
}

async fn a_peer_that_stops_breaks_its_answers<P: CallsPlace>(
    place: &mut P,
    calls: &dyn Calls,
    three: &Played,
) {
    let mut sent = three.sent.subscribe();
    sent.borrow_and_update();
    let mut frames = select(calls, 3, GET_STUCK, 0, LONG).await.expect("it begins");
    within(sent.changed(), "the peer sends").await.expect("the handler is there");
    place.stop(NodeId(3)).await;
    let (parts, end) = rest(&mut frames).await;
    assert!(parts <= 1 && matches!(end, Err(TransportError::NoAnswer { .. })), "{parts} and {end:?}");
    assert!(append(calls, 3, 0, 1, LONG).await.is_err(), "node 3 is stopped");
    assert_eq!(append(calls, 2, 0, 1, LONG).await, Ok(1), "node 2 is not");
}

/// A peer that is back is found by itself, though not at once.
async fn comes_back(calls: &dyn Calls) {
    let tries = async {
        while append(calls, 3, 0, 7, LONG).await != Ok(7) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(tries, "node 3 is found again").await;
    let mut frames = select(calls, 3, 0, 3, LONG).await.expect("it begins");
    assert_eq!(rest(&mut frames).await, (3, Ok(())));
}

async fn within<A>(what: impl Future<Output = A>, name: &str) -> A {
    tokio::time::timeout(LONG, what).await.unwrap_or_else(|_| panic!("not in time: {name}"))
}
