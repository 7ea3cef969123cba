//! A tenant's rate holds for the cluster, however its writes are spread over the nodes.

use super::kills::report;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::{now_ms, pause, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, Labels, SystemClock};
use std::time::{Duration, Instant};

/// Samples a second, over the cluster; and at once, at each node.
const RATE: f64 = 1_000.0;
const BURST: f64 = 200.0;
const CONFIG: &str = "overrides:\n  limited:\n    ingestion_rate: 1000\n    ingestion_burst_size: 200\n";
const TENANT: &str = "limited";
const SAMPLES: usize = 50;
/// Each writer offers twice the rate.
const OFFERED: f64 = 2.0 * RATE;
const MEASURED: Duration = Duration::from_secs(12);
const TOLERANCE: f64 = 0.2;
/// What one node must grant of the rate if nobody uses the others, and how soon.
const ALONE: f64 = 0.8;
const ALONE_WITHIN: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(5);
/// A write of a tenant that the cluster does not know yet may wait for its number.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(30);

/// One client's series, a sample of each with every request.
struct Writer {
    client: Client,
    labels: Vec<Labels>,
    /// Time of the next samples: each is another one.
    ts_ms: i64,
}

impl Writer {
    fn new(cluster: &Cluster, node: usize) -> Self {
        let labels = |series: usize| {
            let (node, series) = (node.to_string(), series.to_string());
            Labels::from_pairs([
                ("__name__", "offered"),
                ("node", node.as_str()),
                ("series", series.as_str()),
            ])
        };
        let client = cluster.client(node, PATIENCE).with_header("X-Scope-OrgID", TENANT);
        Self { client, labels: (0..SAMPLES).map(labels).collect(), ts_ms: now_ms() - 300_000 }
    }

    /// Whether the node took the next samples.
    #[track_caller]
    fn write(&mut self) -> bool {
        let mut request = RequestBuilder::new(Protocol::V1);
        for labels in &self.labels {
            request.add(labels, &[(self.ts_ms, 1.0)]);
        }
        self.ts_ms += 1;
        let answer = self.client.post("/api/v1/write", &Protocol::V1.headers(), &request.finish());
        let answer = answer.expect("an answer");
        assert!(answer.is_success() || answer.status == 429, "{} {}", answer.status, answer.text());
        answer.is_success()
    }

    /// Offers twice the rate until `end`; returns the samples that were taken.
    #[track_caller]
    fn offer_until(&mut self, end: Instant) -> f64 {
        let begin = SystemClock.instant();
        let (mut sent, mut taken) = (0.0, 0.0);
        while SystemClock.instant() < end {
            taken += if self.write() { SAMPLES as f64 } else { 0.0 };
            sent += SAMPLES as f64;
            let due = begin + Duration::from_secs_f64(sent / OFFERED);
            pause(due.saturating_duration_since(SystemClock.instant()));
        }
        taken
    }
}

#[test]
fn a_rate_holds_for_the_cluster_and_all_of_it_may_be_used_at_one_node() {
    let args = ["--multitenancy", "optional"];
    let setup = Setup { on_loopback: true, ..Setup::default() }.args(&args).config(CONFIG);
    let cluster = Cluster::start(setup);
    let mut writers: Vec<Writer> = cluster.all().map(|node| Writer::new(&cluster, node)).collect();
    for writer in &mut writers {
        wait_for("a first write", FIRST_WRITE_LIMIT, || writer.write().then_some(()));
    }

    let end = SystemClock.instant() + MEASURED;
    let taken: Vec<f64> = std::thread::scope(|scope| {
        let writing: Vec<_> =
            writers.iter_mut().map(|writer| scope.spawn(move || writer.offer_until(end))).collect();
        writing.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let (sum, bursts) = (taken.iter().sum::<f64>(), BURST * taken.len() as f64);
    let allowed = RATE * MEASURED.as_secs_f64();
    report(&format!(
        "three nodes took {taken:?}, {sum} together; {allowed} and bursts of {bursts} are allowed"
    ));
    assert!(sum >= allowed * (1.0 - TOLERANCE), "the limit is not used: {taken:?}");
    assert!(sum <= allowed * (1.0 + TOLERANCE) + bursts, "more than the cluster's limit: {taken:?}");

    // What the others were offered is forgotten within seconds.
    let begin = SystemClock.instant();
    let rate = wait_for("one node to grant nearly all of the rate", ALONE_WITHIN, || {
        let span = Duration::from_secs(3);
        let taken = writers[0].offer_until(SystemClock.instant() + span) / span.as_secs_f64();
        (taken >= ALONE * RATE).then_some(taken)
    });
    report(&format!("one node alone granted {rate:.0} samples/s after {:.1?}", begin.elapsed()));
    assert!(rate <= RATE * (1.0 + TOLERANCE), "more than the limit: {rate}");
}
