//! The Prometheus project's own PromQL scripts over Kafka: what one node passes with its own log, it passes with a topic.

use super::kafka_nodes::lone_node;
use super::kills::report;
use super::promqltest::{FLAGS, RATCHET, WHOLE_FILES, run, runner};
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::server::Server;

#[test]
fn upstream_scripts_pass_as_many_as_ever_over_kafka() {
    const NAME: &str = "upstream_scripts_pass_as_many_as_ever_over_kafka";
    if is_missing(NAME) {
        return;
    }
    let Some(runner) = runner(NAME) else { return };
    let kafka = Kafka::start(1, &[]);
    let options = lone_node(&kafka).args(&FLAGS[..4]).args(&["--default-read-consistency", "strong"]);
    let server = Server::start(options);
    run(&runner, &server.url(), &WHOLE_FILES);
    let least = RATCHET.trim();
    let total = run(&runner, &server.url(), &["--quiet", "--expect-at-least", least]);
    report(&format!("promqltest over Kafka {total} (at least {least})"));
}
