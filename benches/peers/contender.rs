//! The databases under comparison: how each is started, written to and asked.

use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::binary;
use quorate_cluster_tests::harness::{find_tool, free_port, wait_for};
use quorate_cluster_tests::remote_write::Protocol;
use quorate_model::{Clock, SystemClock};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long Quorate waits in the second part before it writes out a closed window, late samples and images:
/// shorter than by default, so that the part does not take hours. It does the same work, only more often.
pub(crate) const QUORATE_DELAY: Duration = Duration::from_secs(30);

/// A database that takes remote write and answers PromQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Prometheus,
    VictoriaMetrics,
    Quorate,
}

/// The two parts of the comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Many series for a short time. No contender writes out what it holds in memory because data got old; for
    /// Quorate, whose windows end with the hour, by a delay longer than the time that the data covers.
    Write {
        /// Time that the data covers.
        span: Duration,
    },
    /// Few series for hours, until everything is written out.
    Stored,
}

impl Part {
    fn quorate_delay(self) -> Duration {
        match self {
            Self::Write { span } => span + Duration::from_secs(3_600),
            Self::Stored => QUORATE_DELAY,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) protocol: Protocol,
}

impl Contender {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match (self.kind, self.protocol) {
            (Kind::Prometheus, _) => "Prometheus",
            (Kind::VictoriaMetrics, _) => "VictoriaMetrics",
            (Kind::Quorate, Protocol::V1) => "Quorate, remote write 1.0",
            (Kind::Quorate, Protocol::V2) => "Quorate, remote write 2.0",
        }
    }

    /// Its executable, or `None` when this machine has none.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self.kind {
            Kind::Prometheus => find_tool("prometheus"),
            Kind::VictoriaMetrics => find_tool("victoria-metrics"),
            Kind::Quorate => Some(binary()),
        }
    }

    /// What it calls its version.
    pub(crate) fn version(self) -> String {
        let flag = if self.kind == Kind::VictoriaMetrics { "-version" } else { "--version" };
        let output = self.program().and_then(|program| Command::new(program).arg(flag).output().ok());
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() { "unknown version".to_owned() } else { line.to_owned() }
    }

    /// Parameters added to each query: VictoriaMetrics answers a repeated range query from a cache.
    pub(crate) fn query_extras(self) -> &'static [(&'static str, &'static str)] {
        if self.kind == Kind::VictoriaMetrics { &[("nocache", "1")] } else { &[] }
    }

    fn command(self, program: &Path, folder: &Path, part: Part, port: u16) -> Command {
        let address = format!("127.0.0.1:{port}");
        let data = folder.join("data");
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        match self.kind {
            Kind::Prometheus => {
                command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
                command.arg(format!("--storage.tsdb.path={}", data.display()));
                command.arg(format!("--web.listen-address={address}"));
                command.args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
            }
            Kind::VictoriaMetrics => {
                command.arg(format!("-storageDataPath={}", data.display()));
                command.arg(format!("-httpListenAddr={address}")).arg("-search.latencyOffset=0s");
            }
            Kind::Quorate => {
                command.arg("serve").arg("--data-dir").arg(&data).args(["--http-listen", &address]);
                command.args(["--grpc-listen", &format!("127.0.0.1:{}", free_port())]);
                command.args(["--self-monitor", "false"]);
                let delay = format!("{}s", part.quorate_delay().as_secs());
                command.args(["--storage.close-delay", &delay, "--storage.late-delay", &delay]);
                command.args(["--storage.image-interval", &delay]);
            }
        }
        command
    }
}

/// A contender at work on one core.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) client: Client,
    contender: Contender,
    part: Part,
    folder: PathBuf,
    port: u16,
}

impl Running {
    /// Starts a contender with its data under `folder`; also tells how long it took until ready.
    pub(crate) fn start(contender: Contender, part: Part, folder: &Path) -> Result<(Self, Duration), String> {
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        std::fs::write(folder.join("prometheus.yml"), "global: {}\n").map_err(|e| e.to_string())?;
        Self::launch(contender, part, folder.to_owned(), free_port())
    }

    /// Kills it, starts it again on the same data and tells how long it took until ready.
    pub(crate) fn crash_and_restart(mut self) -> Result<(Self, Duration), String> {
        self.process.kill9();
        Self::launch(self.contender, self.part, self.folder, self.port)
    }

    fn launch(
        contender: Contender,
        part: Part,
        folder: PathBuf,
        port: u16,
    ) -> Result<(Self, Duration), String> {
        let program = contender.program().ok_or_else(|| format!("{} is not installed", contender.name()))?;
        let command = contender.command(&program, &folder, part, port);
        let start = SystemClock.instant();
        let process = Process::start(contender.name(), &command, &folder.join("log"));
        let client = Client::new(&format!("http://127.0.0.1:{port}"), Duration::from_secs(120));
        let ready = if contender.kind == Kind::VictoriaMetrics { "/health" } else { "/-/ready" };
        wait_for(contender.name(), Duration::from_secs(300), || {
            client.get(ready, &[]).is_ok_and(|answer| answer.status == 200).then_some(())
        });
        let elapsed = start.elapsed();
        Ok((Self { process, client, contender, part, folder, port }, elapsed))
    }

    /// Which database it is.
    pub(crate) fn kind(&self) -> Kind {
        self.contender.kind
    }

    /// The folder with its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}
