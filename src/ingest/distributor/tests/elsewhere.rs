//! A gateway whose partition another node leads.

use super::*;
use crate::appender::HeldHere;
use crate::appender::tests::{Net, PARTITION, quick};
use quorate_model::NodeId;

/// A distributor on node 1, over the replicas of `net`.
fn gateway(net: &Net) -> Distributor {
    limited_gateway(net, Limits::default())
}

fn limited_gateway(net: &Net, limits: Limits) -> Distributor {
    let input = PartitionInput {
        id: PARTITION,
        appender: Arc::new(net.routed(quick())),
        holdings: Arc::new(HeldHere::new(net.here.clone(), PARTITION)),
    };
    Distributor::start(
        DistributorConfig::default(),
        vec![input],
        Arc::new(|_, _| (Slot(0), PARTITION)),
        SessionId { node: 1, incarnation: 1 },
        Arc::new(LimitsProvider::new(limits, BTreeMap::new())),
        Arc::new(ManualClock::new(NOW)),
    )
}

async fn write(gateway: &Distributor, value: f64) -> Result<WriteOutcome, WriteError> {
    let body = encoder::rw1(&[up(&[("x", "1")], &[(NOW, value)])]);
    gateway.write(request(RW1, &body), Held::unbounded()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_elsewhere_stores_and_tells_conflicts() {
    let net = Net::start(&[2, 3], Some(2));
    net.watch.send_replace(Some(NodeId(2)));
    let gateway = gateway(&net);
    assert_eq!(write(&gateway, 1.0).await.unwrap().samples, 1);
    let conflict = write(&gateway, 2.0).await.unwrap();
    assert_eq!((conflict.samples, conflict.refused()), (0, 1));
    let at = net.log.entries().last().unwrap().position;
    assert_eq!(conflict.positions, [(PARTITION, at)], "the leader told where it stands");
    let refusal = &conflict.refusals[0];
    assert_eq!(refusal.id, refusal::CONFLICT);
    assert!(refusal.message.contains(r#"up{x="1"}"#), "{refusal}");
    net.lead(Some(3));
    assert_eq!(write(&gateway, 1.0).await.unwrap().refused(), 0, "a duplicate at the next leader");
    let last = net.log.entries().last().unwrap().position;
    for id in [2, 3] {
        net.node(id).applier.reached(last).await.unwrap();
        let state = net.node(id).target.state();
        assert_eq!(
            (state.floats.len(), state.definitions),
            (1, 1),
            "node {id}: known series are not defined again"
        );
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_verdict_of_a_leader_elsewhere_is_a_success_that_holds_nothing() {
    let net = Net::start(&[2], Some(2));
    net.watch.send_replace(Some(NodeId(2)));
    let config = crate::RouteConfig { verdict_wait: Duration::ZERO, ..quick() };
    let input = PartitionInput {
        id: PARTITION,
        appender: Arc::new(net.routed(config)),
        holdings: Arc::new(HeldHere::new(net.here.clone(), PARTITION)),
    };
    let queue = PartitionQueue::start(input, &DistributorConfig::default(), Arc::new(ManualClock::new(NOW)));
    let session = Arc::new(Session::new(SessionId { node: 1, incarnation: 1 }, Box::new([1]), 1));
    net.node(2).target.let_apply(false);
    let (answer, answered) = oneshot::channel();
    queue.push(partition::Pending {
        session: session.clone(),
        bytes: Vec::new(),
        sub_batches: 0,
        tenant: session.tenant(TenantId(1)),
        defined: Vec::new(),
        metadata: Vec::new(),
        unit: 0,
        max_families: 0,
        answer,
        reservation: queue.reserve(10).unwrap(),
    });
    let Committed { position, verdicts } = answered.await.unwrap().unwrap();
    assert_eq!((Some(position), verdicts), (net.log.entries().last().map(|entry| entry.position), None));
    queue.drained().await;
    net.node(2).target.let_apply(true);
    queue.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_series_that_may_be_stored_elsewhere_is_not_one_too_many() {
    let net = Net::start(&[2], Some(2));
    net.watch.send_replace(Some(NodeId(2)));
    let limits = Limits { max_global_series_per_user: 2, ..Limits::default() };
    let gateway = limited_gateway(&net, limits);
    let write = async |id: &str| {
        let body = encoder::rw1(&[up(&[("id", id)], &[(NOW, 1.0)])]);
        gateway.write(request(RW1, &body), Held::unbounded()).await.unwrap().samples
    };
    assert_eq!(write("a").await, 1);
    gateway.hear_totals(TenantId(1), ClusterTotals { offered: 0.0, series: 2, nodes: 4 });
    assert_eq!(write("b").await, 1, "this gateway has only begun: it may be one of the two");
    assert_eq!(write("c").await, 0, "two went through here: it cannot");
    gateway.close().await;
}
