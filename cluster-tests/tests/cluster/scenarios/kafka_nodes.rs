//! How the scenarios of Kafka start nodes over brokers, what they send them, and what they ask. Holds no scenario.

use super::three_nodes::{PACE, PATIENCE, setup, streams};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::Kafka;
use quorate_cluster_tests::harness::server::Options;
use quorate_cluster_tests::harness::wait_for;
use quorate_cluster_tests::ledger::Team;
use std::fs::DirEntry;
use std::path::Path;
use std::time::Duration;

/// The topic that nodes take unless they are told another.
pub(super) const TOPIC: &str = "quorate";
/// Partitions of the topic of a node that is alone, and of a cluster.
pub(super) const PARTITIONS: i32 = 4;
const PARTITIONS_OF_CLUSTER: u32 = 8;
/// For whatever is to happen soon on a machine that does other things too.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The arguments by which a node has its log in a topic of one broker.
pub(super) fn on_one_broker(kafka: &Kafka) -> Vec<String> {
    let brokers = kafka.bootstrap();
    let args = ["--log", "kafka", "--kafka-brokers", &brokers, "--kafka-replication-factor", "1"];
    let args = args.into_iter().chain(["--kafka-allow-unsafe-topic", "--self-monitor", "false"]);
    args.map(str::to_owned).collect()
}

/// A node that is alone, over one broker.
pub(super) fn lone_node(kafka: &Kafka) -> Options {
    let args = on_one_broker(kafka);
    let options = Options { args, ..Options::default() };
    options.args(&["--partitions", &PARTITIONS.to_string()])
}

/// Three nodes with these arguments, where brokers on the loopback interface can be reached.
pub(super) fn three_nodes(args: Vec<String>) -> Setup {
    Setup { on_loopback: true, partitions: PARTITIONS_OF_CLUSTER, args, ..setup() }
}

/// The load of [`super::three_nodes`], at all nodes. Its writers count from `first_writer`.
#[track_caller]
pub(super) fn start_load(cluster: &Cluster, first_writer: usize) -> Team {
    let mut streams = streams();
    streams.iter_mut().for_each(|stream| stream.writer += first_writer);
    let team = Team::start_with(&cluster.clients(cluster.all(), PATIENCE), streams, PACE, false);
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= PACE).then_some(()));
    team
}

/// The position of the newest image of a partition in a data dir, 0 if there is none (docs/formats/image.md).
pub(super) fn imaged(data_dir: &Path, partition: u32) -> i64 {
    let position = |file: DirEntry| {
        let is_image = file.file_name().to_string_lossy().starts_with("image-");
        let bytes = is_image.then(|| std::fs::read(file.path()).ok()).flatten()?;
        Some(i64::from_le_bytes(bytes.get(12..20)?.try_into().ok()?))
    };
    let files = std::fs::read_dir(data_dir.join("partitions").join(partition.to_string()));
    files.map_or(0, |files| files.flatten().filter_map(position).max().unwrap_or(0))
}

/// The same client, whose reads see all that was acknowledged.
pub(super) fn strong(client: &Client) -> Client {
    client.clone().with_header("X-Read-Consistency", "strong")
}

/// The sum of all series of a metric that a node tells of itself; 0 if there is none.
#[track_caller]
pub(super) fn metric(client: &Client, name: &str) -> f64 {
    values(client, name).iter().sum()
}

/// The highest of them.
#[track_caller]
pub(super) fn highest(client: &Client, name: &str) -> f64 {
    values(client, name).into_iter().fold(0.0, f64::max)
}

#[track_caller]
fn values(client: &Client, name: &str) -> Vec<f64> {
    let page = client.get("/metrics", &[]).expect("the node tells of itself").text();
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = rest.rsplit(' ').next().filter(|_| rest.starts_with(['{', ' ']))?;
        Some(value.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
    };
    page.lines().filter_map(value).collect()
}
