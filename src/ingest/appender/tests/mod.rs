//! One suite for every [`Appender`], and what is special about each.

mod rig;
mod routed;
mod service;

use super::*;
use crate::testing::{header, next_session, sample};
use quorate_commitlog::PartitionLog;
use quorate_commitlog::mem_log::Fault;
use quorate_model::{ErrorCode, NodeId};
pub(crate) use rig::{Net, Node, PARTITION, eventually, quick};
use std::sync::Arc;
use std::time::Duration;

/// An appender, and the node whose replica it appends to.
struct Case {
    net: Net,
    at: u64,
    appender: Arc<dyn Appender>,
}

impl Case {
    fn node(&self) -> &Node {
        self.net.node(self.at)
    }

    fn entries(&self) -> usize {
        self.net.log.entries().len()
    }

    async fn append(&self, sequence: u64, ts_ms: i64, value: f64) -> Result<Appended, LogError> {
        append(&*self.appender, sequence, ts_ms, value).await
    }
}

/// Appends a record with one sample.
async fn append(
    appender: &dyn Appender,
    sequence: u64,
    ts_ms: i64,
    value: f64,
) -> Result<Appended, LogError> {
    appender.append(header(sequence).session, sequence, sample(sequence, ts_ms, value).into()).await
}

/// Runs the suite. `make` is told how long a leader elsewhere may wait for a verdict.
async fn check_appender(make: impl Fn(Duration) -> Case) {
    let long = Duration::from_secs(60);
    a_record_is_committed_and_its_verdict_comes(make(long)).await;
    a_refused_record_has_no_effect(make(long)).await;
    an_unknown_outcome_is_told_and_not_tried_again(make(long)).await;
    a_record_is_committed_before_it_is_applied(make(Duration::ZERO)).await;
    a_dropped_call_appears_at_most_once(make(long)).await;
    a_record_of_a_session_that_is_over_is_no_success(make(long)).await;
    a_partition_that_has_stopped_takes_nothing(make(long)).await;
}

async fn a_record_is_committed_and_its_verdict_comes(case: Case) {
    assert_eq!(case.appender.incarnation(), 1);
    let first = case.append(1, 1, 1.0).await.unwrap();
    assert_eq!(Some(first.position), case.net.log.entries().last().map(|entry| entry.position));
    let verdict = first.verdict.wait().await.unwrap().unwrap();
    assert_eq!((verdict.len(), verdict[0].counters.stored), (1, 1));
    let other = case.append(2, 1, f64::NAN).await.unwrap().verdict.wait().await.unwrap().unwrap();
    assert_eq!((other[0].counters.stored, other[0].counters.conflicts), (0, 1));
    let example = &other[0].examples[0];
    assert_eq!((example.labels.metric_name(), example.ts_ms), (Some("up"), 1));
    assert_eq!(example.value.to_bits(), f64::NAN.to_bits());
    assert_eq!(case.node().verdicts.waiting(), 0);
}

async fn a_refused_record_has_no_effect(case: Case) {
    case.net.log.fail_next(Fault::Unavailable);
    let error = case.append(1, 1, 1.0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert_eq!((case.entries(), case.node().verdicts.waiting()), (0, 0));
    case.append(2, 1, 1.0).await.unwrap().verdict.wait().await.unwrap();
    assert_eq!(case.entries(), 1);
}

async fn an_unknown_outcome_is_told_and_not_tried_again(case: Case) {
    for (fault, entries) in [(Fault::LostAnswer, 1), (Fault::LostEntry, 1)] {
        case.net.log.fail_next(fault);
        let error = case.append(1, 1, 1.0).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
        assert_eq!((case.entries(), case.node().verdicts.waiting()), (entries, 0), "{fault:?}");
    }
}

async fn a_record_is_committed_before_it_is_applied(case: Case) {
    case.node().target.let_apply(false);
    let appended = case.append(1, 1, 1.0).await.unwrap();
    assert_eq!(case.entries(), 1);
    case.node().target.let_apply(true);
    let verdict = appended.verdict.wait().await.unwrap();
    assert!(verdict.is_none_or(|verdict| verdict[0].counters.stored == 1));
    case.node().applier.reached(appended.position).await.unwrap();
    eventually(|| case.node().verdicts.waiting() == 0).await;
}

async fn a_dropped_call_appears_at_most_once(case: Case) {
    for sequence in 1..20 {
        let mut call = Box::pin(case.append(sequence, sequence as i64, 1.0));
        for _ in 0..sequence {
            if futures::poll!(call.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let last = case.append(100, 100, 1.0).await.unwrap();
    case.node().applier.reached(last.position).await.unwrap();
    eventually(|| case.node().verdicts.waiting() == 0).await;
    let mut payloads: Vec<_> = case.net.log.entries().into_iter().map(|entry| entry.payload).collect();
    let all = payloads.len();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), all, "each once");
}

async fn a_record_of_a_session_that_is_over_is_no_success(case: Case) {
    case.net.log.append(next_session().into()).await.unwrap();
    let said = match case.append(1, 1, 1.0).await {
        Ok(appended) => appended.verdict.wait().await.unwrap_err().to_string(),
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::Indeterminate);
            error.to_string()
        }
    };
    assert!(said.contains("session 1/1 is over"), "{said}");
    assert!(case.node().target.state().floats.is_empty());
}

async fn a_partition_that_has_stopped_takes_nothing(case: Case) {
    case.net.stop_apply(case.at).await;
    let before = case.entries();
    let error = case.append(1, 1, 1.0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert_eq!(case.entries(), before);
    assert_eq!(case.appender.why_stopped().is_some(), case.at == 1, "only this node's own stop is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_appender_keeps_the_contract() {
    check_appender(|_| {
        let net = Net::start(&[1], Some(1));
        let appender = net.node(1).appender.clone();
        Case { net, at: 1, appender }
    })
    .await;
}

/// Whoever appends so is told nothing of verdicts, and stops for no replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_appender_keeps_the_contract_but_for_verdicts() {
    let make = || {
        let net = Net::start(&[1], Some(1));
        let appender = Arc::new(DirectAppender::new(Arc::new(net.log.clone())));
        Case { net, at: 1, appender }
    };
    let case = make();
    assert_eq!(case.appender.incarnation(), 1);
    let first = case.append(1, 1, 1.0).await.unwrap();
    assert_eq!(Some(first.position), case.net.log.entries().last().map(|entry| entry.position));
    assert_eq!(first.verdict.wait().await.unwrap(), None);
    a_refused_record_has_no_effect(make()).await;
    an_unknown_outcome_is_told_and_not_tried_again(make()).await;
    a_record_is_committed_before_it_is_applied(make()).await;
    a_dropped_call_appears_at_most_once(make()).await;
}

/// A gateway on node 1 with a replica on `at`, which leads.
fn routed(at: u64, verdict_wait: Duration) -> Case {
    let net = Net::start(&[at], Some(at));
    net.watch.send_replace(Some(NodeId(at)));
    let appender = Arc::new(net.routed(RouteConfig { verdict_wait, ..quick() }));
    Case { net, at, appender }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routed_appender_that_leads_keeps_the_contract() {
    check_appender(|verdict_wait| routed(1, verdict_wait)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routed_appender_to_another_node_keeps_the_contract() {
    check_appender(|verdict_wait| routed(2, verdict_wait)).await;
}
