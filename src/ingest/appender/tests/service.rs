//! The answering side, asked directly.

use super::*;
use crate::holdings::Holdings;
use quorate_model::{Labels, TenantId};
use quorate_wire::WriteHandler;
use quorate_wire::write::append_answer::{NotLeader, Outcome};
use quorate_wire::write::{AppendRequest, Committed};

fn request(sequence: u64, verdict_wait_ms: u32) -> AppendRequest {
    AppendRequest {
        partition: PARTITION.0,
        gateway: 1,
        incarnation: 1,
        sequence,
        record: sample(sequence, sequence as i64, 1.0).into(),
        verdict_wait_ms,
    }
}

async fn ask(service: &WriteService, request: AppendRequest) -> Outcome {
    service.append(request).await.unwrap().outcome.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_does_not_lead_it_does_not_take() {
    let net = Net::start(&[2], Some(3));
    let service = WriteService::new(net.node(2).replicas.clone(), PEER_BYTES);
    assert_eq!(ask(&service, request(1, 0)).await, Outcome::NotLeader(NotLeader { leader: 3 }));
    let elsewhere = AppendRequest { partition: 7, ..request(1, 0) };
    assert_eq!(ask(&service, elsewhere).await, Outcome::NotLeader(NotLeader { leader: 0 }));
    net.lead(Some(2));
    net.node(2).target.state().is_full = true;
    let full = ask(&service, request(1, 0)).await;
    assert!(matches!(&full, Outcome::NotTaken(why) if why.contains("late")), "{full:?}");
    assert!(net.log.entries().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_its_verdict_no_longer_than_asked() {
    let net = Net::start(&[2], Some(2));
    let service = WriteService::new(net.node(2).replicas.clone(), PEER_BYTES);
    net.node(2).target.let_apply(false);
    let Outcome::Committed(early) = ask(&service, request(1, 1)).await else { panic!("it is committed") };
    let entries = net.log.entries();
    let expected = Committed { position: entries[0].position.0, ..Committed::default() };
    assert_eq!(early, expected, "without a verdict");
    net.node(2).target.let_apply(true);
    let Outcome::Committed(late) = ask(&service, request(2, 60_000)).await else { panic!("it is committed") };
    assert_eq!((late.has_verdicts, late.verdicts.len(), late.verdicts[0].stored), (true, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_on_their_way_are_bounded_until_they_are_applied() {
    let net = Net::with(&[2], Some(2), false, 1);
    let service = WriteService::new(net.node(2).replicas.clone(), 1);
    net.node(2).target.let_apply(false);
    assert!(matches!(ask(&service, request(1, 0)).await, Outcome::Committed(_)));
    let mut second = Box::pin(ask(&service, request(2, 60_000)));
    for _ in 0..100 {
        assert!(futures::poll!(second.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(net.log.entries().len(), 1, "the second waits for the first");
    net.node(2).target.let_apply(true);
    assert!(matches!(second.await, Outcome::Committed(_)));
    assert_eq!(net.log.entries().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_that_stops_before_the_verdict_leaves_it_unknown() {
    let net = Net::start(&[2], Some(2));
    let service = WriteService::new(net.node(2).replicas.clone(), PEER_BYTES);
    net.node(2).target.let_apply(false);
    let mut call = Box::pin(ask(&service, request(1, 60_000)));
    while net.log.entries().is_empty() {
        assert!(futures::poll!(call.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    net.node(2).verdicts.close("the test said so");
    assert_eq!(call.await, Outcome::Unknown("the test said so".to_owned()));
    net.node(2).target.let_apply(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_partition_holds_is_known_while_there_is_a_replica() {
    let net = Net::start(&[1], Some(1));
    let replica = net.here.get(PARTITION).unwrap();
    append(&*net.node(1).appender, 1, 1, 1.0).await.unwrap().verdict.wait().await.unwrap();
    net.node(1).target.state().floors.insert(TenantId(1), 5);
    net.node(1).target.state().is_full = true;
    let held = HeldHere::new(net.here.clone(), PARTITION);
    let (tenant, labels) = (TenantId(1), Labels::from_pairs([("__name__", "up")]));
    let known = || (held.floor_ms(tenant), held.active_series(tenant), held.has_series(tenant, &labels));
    let others = || (held.metadata_families(tenant), held.has_family(tenant, "up"), held.is_full());
    assert_eq!((known(), others()), ((5, 1, Some(true)), (0, false, true)));
    net.here.remove(PARTITION);
    assert_eq!((known(), others()), ((i64::MIN, 0, None), (0, false, false)));
    net.here.insert(PARTITION, replica);
    assert_eq!(known(), (5, 1, Some(true)));
}
