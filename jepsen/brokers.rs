//! Kafka as the log of a run: brokers, each at a place of its own in the network of the nodes.
//!
//! Knows the topic and what nodes tell of their positions. Does not know when what is done.
//! Path: `nemesis` -> **here** -> the harness of `quorate-cluster-tests`.

use crate::random::Random;
use quorate_cluster_tests::harness::cluster::{Cluster, Status};
use quorate_cluster_tests::harness::kafka::{Kafka, LIMIT, Setup};
use quorate_cluster_tests::harness::{net, wait_for};
use rustix::process::Signal;

/// What the nodes call the topic unless they are told.
const TOPIC: &str = "quorate";
/// Replicas of each partition, if there are brokers enough; then two of them have each record that is acknowledged.
const REPLICAS: usize = 3;

/// Why there is no Kafka here, or `None`.
pub fn missing() -> Option<String> {
    let is_missing = std::env::var_os("QUORATE_KAFKA_LIBS").is_none();
    is_missing.then(|| "no Kafka broker: QUORATE_KAFKA_LIBS is not set (.ci/kafka prints it)".to_owned())
}

/// Brokers, running or not. Dropped, they end and their data is gone.
#[derive(Debug)]
pub struct Brokers {
    kafka: Kafka,
    count: usize,
    killed: Vec<usize>,
}

impl Brokers {
    /// Starts so many and waits until they are ready. `place` is the first of as many members of the cluster's network that
    /// are no nodes.
    ///
    /// # Panics
    /// When they cannot be started; ask [`missing`] first.
    #[track_caller]
    pub fn start(count: usize, cluster: &Cluster, place: usize) -> Self {
        let setup = Setup::new(count);
        let kafka = if net::available().is_ok() {
            let network = cluster.network();
            let hosts: Vec<String> = (0..count).map(|broker| network.address(place + broker)).collect();
            Kafka::start_at(&setup.hosts(&hosts), |broker, command| network.at(place + broker, command))
        } else {
            Kafka::start_as(&setup)
        };
        Self { kafka, count, killed: Vec::new() }
    }

    /// Lines of the nodes' configuration.
    pub fn config(&self) -> String {
        let (brokers, is_safe) = (self.kafka.bootstrap().replace(',', "\", \""), self.count >= REPLICAS);
        format!(
            "log: kafka\nkafka:\n  brokers: [\"{brokers}\"]\n  replication_factor: {}\n  allow_unsafe_topic: {}\n",
            self.count.min(REPLICAS),
            !is_safe
        )
    }

    /// The broker that leads a partition, whichever.
    #[track_caller]
    pub fn some_leader(&self, random: &mut Random) -> usize {
        let partitions = self.kafka.partition_count(TOPIC);
        self.kafka.leader(TOPIC, random.below(partitions as usize) as i32)
    }

    /// kill -9 of one.
    #[track_caller]
    pub fn kill(&mut self, broker: usize) {
        self.kafka.kill(broker);
        self.killed.push(broker);
    }

    /// Signals all before it waits for any, so that they die at nearly the same moment.
    #[track_caller]
    pub fn kill_all(&mut self) {
        (0..self.count).for_each(|broker| self.kafka.process(broker).signal(Signal::KILL));
        (0..self.count).for_each(|broker| self.kill(broker));
    }

    /// SIGSTOP of one.
    #[track_caller]
    pub fn pause(&self, broker: usize) {
        self.kafka.pause(broker);
    }

    /// Lets a paused one go on.
    #[track_caller]
    pub fn resume(&self, broker: usize) {
        self.kafka.resume(broker);
    }

    /// Starts those that were killed, and waits until they serve clients.
    #[track_caller]
    pub fn start_killed(&mut self) {
        self.killed.drain(..).for_each(|broker| self.kafka.launch(broker));
        self.kafka.wait_ready();
    }

    /// Deletes the records that are in the topic now, once all of `nodes` have applied those of their partitions.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn delete_what_is_applied(&self, cluster: &Cluster, nodes: &[usize]) {
        let ends = self.kafka.end_offsets(TOPIC);
        wait_for("replicas that have applied what is there", LIMIT, || {
            let have = |node: &usize| cluster.status(*node).is_some_and(|status| has_applied(&status, &ends));
            nodes.iter().all(have).then_some(())
        });
        for (partition, end) in ends.iter().enumerate() {
            self.kafka.delete_records(TOPIC, partition as i32, *end);
        }
    }
}

/// Whether the replicas of the node that tells `status` have applied what lies before these offsets.
fn has_applied(status: &Status, ends: &[i64]) -> bool {
    let here = status.partitions.iter().filter(|replica| replica.replicas.contains(&status.node));
    let end = |partition: u32| ends.get(partition as usize).map_or(0, |end| u64::try_from(*end).unwrap_or(0));
    here.into_iter().all(|replica| replica.applied.is_some_and(|applied| applied >= end(replica.id)))
}
