//! Real Prometheus servers and a node_exporter beside the server under test.

use super::http::Client;
use super::process::Process;
use super::{find_tool, free_port, wait_for};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The prometheus-node-exporter of this machine on a free port, or `None` when it is not installed.
#[derive(Debug)]
pub struct NodeExporter {
    _process: Process,
    /// `host:port` it is scraped at.
    pub target: String,
}

impl NodeExporter {
    /// Starts it.
    pub fn start(folder: &Path) -> Option<Self> {
        let program = find_tool("prometheus-node-exporter")?;
        let target = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program);
        command.arg(format!("--web.listen-address={target}"));
        let process = Process::start("node_exporter", &command, &folder.join("node_exporter.log"));
        let client = Client::new(&format!("http://{target}"), Duration::from_secs(5));
        wait_for("node_exporter", Duration::from_secs(30), || client.get("/metrics", &[]).ok());
        Some(Self { _process: process, target })
    }
}

/// How a Prometheus is to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its executable.
    pub program: PathBuf,
    /// Data, configuration and log.
    pub folder: PathBuf,
    /// Job and `host:port` of what it scrapes beside itself.
    pub targets: Vec<(String, String)>,
    /// Scrape interval in seconds.
    pub interval_s: u32,
    /// Where it remote-writes to, with the tenant and the message type; `None` for no remote write.
    pub remote_write: Option<RemoteWrite>,
    /// Further flags.
    pub flags: Vec<String>,
}

/// One remote write destination.
#[derive(Debug, Clone)]
pub struct RemoteWrite {
    /// URL.
    pub url: String,
    /// X-Scope-OrgID.
    pub tenant: String,
    /// `protobuf_message` for remote write 2.0; `None` leaves the key out, for a Prometheus that lacks it.
    pub message: Option<&'static str>,
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    client: Client,
}

impl Prometheus {
    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(setup: &Setup) -> Self {
        let target = format!("127.0.0.1:{}", free_port());
        std::fs::create_dir_all(&setup.folder).expect("a folder can be made");
        let config = setup.folder.join("prometheus.yml");
        std::fs::write(&config, configuration(setup, &target)).expect("a file can be written");
        let mut command = Command::new(&setup.program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", setup.folder.join("data").display()));
        command.arg(format!("--web.listen-address={target}")).args(&setup.flags);
        let process = Process::start("prometheus", &command, &setup.folder.join("prometheus.log"));
        let client = Client::new(&format!("http://{target}"), Duration::from_secs(30));
        wait_for("prometheus", Duration::from_secs(60), || {
            client.get("/-/ready", &[]).is_ok_and(|answer| answer.status == 200).then_some(())
        });
        Self { _process: process, client }
    }

    /// A client of its API.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

fn configuration(setup: &Setup, own_target: &str) -> String {
    let mut text = format!(
        "global:\n  scrape_interval: {0}s\n  evaluation_interval: {0}s\nscrape_configs:\n",
        setup.interval_s
    );
    let own = ("prometheus".to_owned(), own_target.to_owned());
    for (job, target) in setup.targets.iter().chain([&own]) {
        let _infallible =
            writeln!(text, "  - job_name: {job}\n    static_configs:\n      - targets: ['{target}']");
    }
    if let Some(remote) = &setup.remote_write {
        let _infallible = writeln!(
            text,
            "remote_write:\n  - url: {}\n    headers:\n      X-Scope-OrgID: {}\n    queue_config:\n      \
             batch_send_deadline: 1s\n      min_backoff: 100ms\n      max_backoff: 1s",
            remote.url, remote.tenant
        );
        if let Some(message) = remote.message {
            let _infallible = writeln!(text, "    protobuf_message: {message}");
        }
    }
    text
}
