//! The lines of the README that start a node over Kafka do that.

use super::kafka_nodes::LIMIT;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::kafka::{Kafka, is_missing};
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{READY_LIMIT, binary};
use quorate_cluster_tests::harness::{free_port, wait_for};
use std::path::Path;
use std::process::Command;

/// Where the README says that the broker is.
const BROKER: &str = "127.0.0.1:9092";

#[test]
fn the_lines_of_the_readme_start_a_node_over_kafka() {
    if is_missing("the_lines_of_the_readme_start_a_node_over_kafka") {
        return;
    }
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    let readme = readme.expect("the README can be read");
    let section = readme.split("\n## On Kafka\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let line = block.expect("a block of sh").lines().find(|line| line.starts_with("quorate serve"));
    let line = line.expect("a line that starts a node");
    assert!(line.contains(BROKER), "{line}");
    let kafka = Kafka::start(1, &[]);
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::os::unix::fs::symlink(binary(), folder.path().join("quorate")).expect("a link can be made");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let (http, grpc) = (free_port(), free_port());
    // `exec`, so that the process that is known is the node. The ports of the README may be somebody's.
    let command = format!(
        "exec {} --http-listen 127.0.0.1:{http} --grpc-listen 127.0.0.1:{grpc}",
        line.replace(BROKER, &kafka.bootstrap())
    );
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(folder.path()).env("PATH", path);
    let mut node = Process::start("quorate", &shell, &folder.path().join("log"));
    let client = Client::new(&format!("http://127.0.0.1:{http}"), LIMIT);
    wait_for("the node's own metrics", READY_LIMIT, || {
        let ended = node.exit();
        assert!(ended.is_none(), "the node ended: {ended:?}: {}", node.output());
        let answer = client.get("/api/v1/query", &[("query", "count(up)")]).ok()?;
        (answer.status == 200 && answer.json()["data"]["result"][0]["value"][1] == "1").then_some(())
    });
    assert!(kafka.end_offsets("quorate").iter().sum::<i64>() > 0, "the samples are in the topic");
}
