//! The way to a leader: hints, watches, links that break.

use super::*;
use crate::appender::routed::RouteConfig;
use async_trait::async_trait;
use quorate_wire::WriteHandler;
use quorate_wire::write::append_answer::{NotLeader, Outcome};
use quorate_wire::write::{AppendAnswer, AppendRequest};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const A_MOMENT: Duration = Duration::from_millis(50);

/// A gateway on node 1 without a replica; 2 and 3 have one.
fn away(leader: Option<u64>, watched: Option<u64>) -> Net {
    let net = Net::start(&[2, 3], leader);
    net.watch.send_replace(watched.map(NodeId));
    net
}

/// Lets an append that is under way get stuck, does `then`, and sees that it comes through, once.
async fn check_waits_for(net: &Net, then: impl AsyncFnOnce(&Net)) {
    let appender = net.routed(quick());
    let mut call = Box::pin(append(&appender, 1, 1, 1.0));
    let early = tokio::time::timeout(A_MOMENT, &mut call).await;
    assert!(early.is_err(), "it waits: {early:?}");
    assert!(net.log.entries().is_empty());
    then(net).await;
    call.await.unwrap().verdict.wait().await.unwrap();
    assert_eq!(net.log.entries().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_is_followed_and_remembered() {
    let net = away(Some(3), Some(2));
    let appender = net.routed(quick());
    for at in 1..=5 {
        append(&appender, at, at as i64, 1.0).await.unwrap();
    }
    assert_eq!((net.calls_to(2), net.calls_to(3), net.log.entries().len()), (1, 5, 5));
    net.lead(Some(2));
    append(&appender, 6, 6, 1.0).await.unwrap();
    assert_eq!((net.calls_to(2), net.calls_to(3)), (2, 6), "3 named 2");
    net.lead(Some(3));
    net.watch.send_replace(Some(NodeId(3)));
    append(&appender, 7, 7, 1.0).await.unwrap();
    assert_eq!((net.calls_to(2), net.calls_to(3)), (2, 7), "the watch told it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_ends_with_the_next_change_of_the_watch() {
    let net = away(Some(3), Some(2));
    let appender = net.routed(quick());
    append(&appender, 1, 1, 1.0).await.unwrap();
    net.board.disconnect(NodeId(3));
    net.lead(Some(2));
    net.watch.send_replace(None);
    net.watch.send_replace(Some(NodeId(2)));
    append(&appender, 2, 2, 1.0).await.unwrap();
    assert_eq!((net.calls_to(2), net.calls_to(3)), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_here_that_is_none_any_more_names_the_next() {
    let net = Net::start(&[1, 2], Some(2));
    net.watch.send_replace(Some(NodeId(1)));
    append(&net.routed(quick()), 1, 1, 1.0).await.unwrap();
    assert_eq!((net.calls_to(2), net.log.entries().len()), (1, 1));
    net.lead(Some(1));
    net.watch.send_replace(Some(NodeId(2)));
    append(&net.routed(quick()), 2, 2, 1.0).await.unwrap();
    assert_eq!((net.calls_to(1), net.log.entries().len()), (0, 2), "no call to itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_until_the_watch_tells_a_leader() {
    let net = away(Some(3), None);
    check_waits_for(&net, async |net| {
        net.watch.send_replace(Some(NodeId(3)));
    })
    .await;
    assert_eq!((net.calls_to(2), net.calls_to(3)), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_for_an_election() {
    let net = away(None, Some(2));
    check_waits_for(&net, async |net| net.lead(Some(3))).await;
    assert_eq!(net.calls_to(3), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_for_a_leader_that_cannot_be_reached() {
    let net = away(Some(2), Some(2));
    net.board.cut(NodeId(1), NodeId(2));
    check_waits_for(&net, async |net| net.board.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_leaves_a_leader_that_cannot_be_reached_for_the_next() {
    let net = away(Some(2), Some(2));
    net.board.disconnect(NodeId(2));
    check_waits_for(&net, async |net| {
        net.lead(Some(3));
        net.watch.send_replace(Some(NodeId(3)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_for_a_replica_that_opens() {
    for here in [1, 2] {
        let net = Net::start(&[here], Some(here));
        net.watch.send_replace(Some(NodeId(here)));
        let replicas = net.node(here).replicas.clone();
        let replica = replicas.get(PARTITION).unwrap();
        replicas.remove(PARTITION);
        check_waits_for(&net, async |_| replicas.insert(PARTITION, replica)).await;
    }
}

/// Refuses the first calls, then answers with another one's answers.
struct Starting(AtomicUsize, Arc<dyn WriteHandler>);

#[async_trait]
impl WriteHandler for Starting {
    async fn append(&self, request: AppendRequest) -> Result<AppendAnswer, String> {
        if self.0.fetch_add(1, SeqCst) < 3 {
            return Err("this node is starting".to_owned());
        }
        self.1.append(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_no_answer_for_good() {
    let net = away(Some(2), Some(2));
    let service = WriteService::new(net.node(2).replicas.clone(), PEER_BYTES);
    net.answer(2, Arc::new(Starting(AtomicUsize::new(0), Arc::new(service))));
    append(&net.routed(quick()), 1, 1, 1.0).await.unwrap();
    assert_eq!(net.log.entries().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_lead_on_from_node_to_node() {
    let net = Net::start(&[4], Some(4));
    net.watch.send_replace(Some(NodeId(2)));
    net.answer(2, Arc::new(Names(3, AtomicUsize::new(0))));
    net.answer(3, Arc::new(Names(4, AtomicUsize::new(0))));
    append(&net.routed(quick()), 1, 1, 1.0).await.unwrap();
    assert_eq!(net.calls_to(4), 1);
}

/// Names `0` as the leader, always.
struct Names(u64, AtomicUsize);

#[async_trait]
impl WriteHandler for Names {
    async fn append(&self, _: AppendRequest) -> Result<AppendAnswer, String> {
        self.1.fetch_add(1, SeqCst);
        Ok(AppendAnswer { outcome: Some(Outcome::NotLeader(NotLeader { leader: self.0 })) })
    }
}

/// The way ends, without effect, at its deadline.
async fn check_gives_up(net: &Net) {
    let config = RouteConfig { route_timeout: A_MOMENT, pause: Duration::from_millis(10), ..quick() };
    let error = append(&net.routed(config), 1, 1, 1.0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert!(net.log.entries().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_a_leader_has_an_end() {
    check_gives_up(&away(Some(2), None)).await;
    check_gives_up(&away(None, Some(2))).await;
    let net = away(Some(2), Some(2));
    net.board.cut(NodeId(1), NodeId(2));
    check_gives_up(&net).await;
    let (two, three) = (Arc::new(Names(3, AtomicUsize::new(0))), Arc::new(Names(2, AtomicUsize::new(0))));
    net.board.heal();
    net.answer(2, two.clone());
    net.answer(3, three.clone());
    check_gives_up(&net).await;
    let calls = two.1.load(SeqCst) + three.1.load(SeqCst);
    assert!((1..12).contains(&calls), "two that name each other were asked {calls} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_feeds_any_more_still_counts() {
    let mut net = away(Some(2), Some(2));
    let appender = net.routed(quick());
    net.watch = tokio::sync::watch::channel(None).0;
    net.board.cut(NodeId(1), NodeId(2));
    let mut call = Box::pin(append(&appender, 1, 1, 1.0));
    assert!(tokio::time::timeout(A_MOMENT, &mut call).await.is_err());
    net.board.heal();
    call.await.unwrap();
}

/// Appends, then cuts the way back and says nothing.
struct Silent(Net, Arc<dyn WriteHandler>);

#[async_trait]
impl WriteHandler for Silent {
    async fn append(&self, request: AppendRequest) -> Result<AppendAnswer, String> {
        self.1.append(request).await?;
        self.0.board.cut(NodeId(2), NodeId(1));
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_unknown_and_not_asked_for_again() {
    let inner = away(Some(2), Some(2));
    let (board, appender) = (inner.board.clone(), inner.routed(quick()));
    let (log, service) = (inner.log.clone(), WriteService::new(inner.node(2).replicas.clone(), PEER_BYTES));
    let silent = Arc::new(Silent(inner, Arc::new(service)));
    silent.0.answer(2, silent.clone());
    let error = append(&appender, 1, 1, 1.0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
    board.heal();
    assert_eq!(log.entries().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_commit_ends_as_unknown() {
    for at in [1, 2] {
        let net = Net::gated(&[at], at);
        net.watch.send_replace(Some(NodeId(at)));
        let config = RouteConfig { commit_timeout: A_MOMENT, verdict_wait: Duration::ZERO, ..quick() };
        let error = append(&net.routed(config), 1, 1, 1.0).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
        net.gate.gate.add_permits(1);
        eventually(|| net.node(at).verdicts.waiting() == 0).await;
    }
}

/// A leader is silent while the watch tells others, one after the other.
async fn silent_while(told: &[u64], deposed_wait: Duration) -> Option<LogError> {
    let net = Net::gated(&[2], 2);
    net.watch.send_replace(Some(NodeId(2)));
    let appender = net.routed(RouteConfig { deposed_wait, ..quick() });
    let mut call = Box::pin(append(&appender, 1, 1, 1.0));
    while net.node(2).verdicts.waiting() == 0 {
        assert!(futures::poll!(call.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    for leader in told {
        net.watch.send_replace(Some(NodeId(*leader)));
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    let ended = tokio::time::timeout(A_MOMENT, &mut call).await;
    net.gate.gate.add_permits(1);
    match ended {
        Ok(ended) => Some(ended.unwrap_err()),
        Err(_) => {
            call.await.expect("it is committed in the end");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_silent_is_left_once_another_leads() {
    let error = silent_while(&[3], Duration::from_millis(1)).await.expect("it is left");
    assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
    assert!(error.to_string().contains("node 3 leads now"), "{error}");
    assert!(silent_while(&[3], quick().deposed_wait).await.is_none(), "it still has time");
    assert!(silent_while(&[2], Duration::ZERO).await.is_none(), "nobody else leads");
    assert!(silent_while(&[3, 2], Duration::from_secs(60)).await.is_none(), "it leads again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_is_appended_once() {
    let net = Net::gated(&[2], 2);
    net.watch.send_replace(Some(NodeId(2)));
    let appender = net.routed(quick());
    let mut call = Box::pin(append(&appender, 1, 1, 1.0));
    while net.calls_to(2) == 0 || net.node(2).verdicts.waiting() == 0 {
        assert!(futures::poll!(call.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(call);
    net.gate.gate.add_permits(10);
    eventually(|| net.node(2).target.state().floats.len() == 1).await;
    assert_eq!((net.log.entries().len(), net.node(2).verdicts.waiting()), (1, 0));
}
