//! The nodes of a compose file as processes on the loopback interface.

use super::compose::{Compose, image_variables};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{READY_LIMIT, binary};
use quorate_cluster_tests::harness::{free_port, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Where the compose file with Kafka has its broker.
const BROKER: &str = "kafka:9092";

/// The nodes of a compose file as processes. Fields are dropped in this order.
pub(super) struct Nodes {
    nodes: Vec<(String, Client)>,
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Nodes {
    /// Starts each node with its own command and variables, but for folders and addresses, and waits until it is ready.
    #[track_caller]
    pub(super) fn start(compose: &Compose, brokers: Option<&str>) -> Self {
        let folder =
            tempfile::Builder::new().prefix("quorate-deploy-").tempdir().expect("a temporary folder");
        let nodes = compose.nodes();
        let port = image_variables()["QUORATE_GRPC_LISTEN"].rsplit_once(':').expect("a port").1.to_owned();
        let mut moved: Vec<(String, String)> = Vec::new();
        for node in &nodes {
            moved.push((format!("{}:{port}", node.name), format!("127.0.0.1:{}", free_port())));
        }
        let listeners: Vec<String> = moved.iter().map(|(_, address)| address.clone()).collect();
        moved.extend(brokers.map(|brokers| (BROKER.to_owned(), brokers.to_owned())));
        let rewrite =
            |text: &str| moved.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let (mut clients, mut processes) = (Vec::new(), Vec::new());
        for (node, grpc) in nodes.into_iter().zip(listeners) {
            let http = format!("127.0.0.1:{}", free_port());
            let mut command = Command::new(binary());
            command.args(node.args.iter().map(|arg| rewrite(arg)));
            command.envs(node.variables.iter().map(|(name, value)| (name, rewrite(value))));
            command.env("QUORATE_DATA_DIR", folder.path().join(&node.name));
            command.env("QUORATE_HTTP_LISTEN", &http).env("QUORATE_GRPC_LISTEN", grpc);
            let log = folder.path().join(format!("{}.log", node.name));
            processes.push(Process::start(&node.name, &command, &log));
            clients.push((node.name, Client::new(&format!("http://{http}"), Duration::from_secs(10))));
        }
        for ((name, client), process) in clients.iter().zip(&mut processes) {
            wait_for(&format!("{name} to be ready"), READY_LIMIT, || {
                let ended = process.exit();
                assert!(ended.is_none(), "{name} ended instead of getting ready: {ended:?}");
                client.get("/-/ready", &[]).is_ok_and(|answer| answer.status == 200).then_some(())
            });
        }
        Self { nodes: clients, _processes: processes, _folder: folder }
    }

    /// Names and clients, in the order of the file.
    pub(super) fn all(&self) -> &[(String, Client)] {
        &self.nodes
    }

    /// Writes through the first node.
    #[track_caller]
    pub(super) fn write(&self, request: &mut RequestBuilder) {
        let (_, client) = &self.nodes[0];
        let answer =
            client.post("/api/v1/push", &Protocol::V1.headers(), &request.finish()).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// What a Prometheus would scrape and write: the metrics of all nodes, at this time.
    #[track_caller]
    pub(super) fn scrape(&self, at_ms: i64) {
        let mut request = RequestBuilder::new(Protocol::V1);
        for (name, client) in &self.nodes {
            let page = client.get("/metrics", &[]).expect("a page of metrics").text();
            for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let (mut labels, value) = series(line).unwrap_or_else(|| panic!("{name}: {line}"));
                labels.extend([("job", "quorate"), ("instance", name.as_str())]);
                request.add(&Labels::from_pairs(labels), &[(at_ms, value)]);
            }
        }
        self.write(&mut request);
    }
}

/// The labels and the value of a line of a page of metrics: `name{a="b",c="d"} 1`.
fn series(line: &str) -> Option<(Vec<(&str, &str)>, f64)> {
    assert!(!line.contains('\\'), "no value of a node alone in a test is escaped: {line}");
    let (series, value) = line.rsplit_once(' ')?;
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = vec![("__name__", name)];
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        labels.push((label, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some((labels, value.parse().ok()?))
}
