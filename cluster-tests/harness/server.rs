//! One `quorate` process on free ports and a data folder of its own, from start to kill and start again.

use super::http::Client;
use super::process::Process;
use super::{free_port, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may take until it answers ready. Generous: machines that run tests are busy.
pub const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// The binary under test: `QUORATE_BIN`, else what cargo built beside this test.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("QUORATE_BIN") {
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let built = test.ancestors().skip(1).map(|folder| folder.join("quorate")).find(|file| file.is_file());
    built.expect("no quorate binary beside the tests; build it with `cargo build --bin quorate`")
}

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further command line arguments of `serve`.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// Another binary than [`binary`].
    pub binary: Option<PathBuf>,
    /// A data folder that outlives the server; else a temporary one.
    pub data_dir: Option<PathBuf>,
    /// Content of the configuration file; without it there is none.
    pub config: Option<String>,
}

impl Options {
    /// With `config` as the content of the configuration file.
    pub fn config(mut self, config: &str) -> Self {
        self.config = Some(config.to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }
}

/// A server, running or killed. Its ports and data folder stay the same over restarts.
#[derive(Debug)]
pub struct Server {
    options: Options,
    http_port: u16,
    grpc_port: u16,
    data_dir: PathBuf,
    process: Option<Process>,
    scratch: TempDir,
}

impl Server {
    /// Starts a server and waits until it is ready.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut server = Self::prepare(options);
        server.launch(None);
        server.wait_ready();
        server
    }

    /// Picks ports and folders without starting anything.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    pub fn prepare(options: Options) -> Self {
        let scratch = tempfile::Builder::new().prefix("quorate-test-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        let data_dir = options.data_dir.clone().unwrap_or_else(|| scratch.path().join("data"));
        let (http_port, grpc_port) = (free_port(), free_port());
        let server = Self { options, http_port, grpc_port, data_dir, process: None, scratch };
        if let Some(config) = &server.options.config {
            server.write_config(config);
        }
        server
    }

    /// Replaces the further command line arguments, for the next launch.
    pub fn set_args(&mut self, args: &[&str]) {
        self.options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Replaces the content of the configuration file; what runs reads it when it is told to.
    ///
    /// # Panics
    /// When the server was prepared without a configuration file, or it cannot be written.
    #[track_caller]
    pub fn write_config(&self, config: &str) {
        assert!(self.options.config.is_some(), "the server has a configuration file");
        std::fs::write(self.config_path(), config).expect("a file can be written");
    }

    /// Starts the process, with a fail point armed (`name:nth`) if one is given. Does not wait.
    #[track_caller]
    pub fn launch(&mut self, failpoint: Option<&str>) {
        let mut command = self.command();
        if let Some(failpoint) = failpoint {
            command.env("QUORATE_FAILPOINT", failpoint);
        }
        self.process = Some(Process::start("quorate", &command, &self.log_path()));
    }

    /// The command that starts this server.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.options.binary.clone().unwrap_or_else(binary));
        command.arg("serve").arg("--data-dir").arg(&self.data_dir);
        command.args(["--http-listen", &format!("127.0.0.1:{}", self.http_port)]);
        command.args(["--grpc-listen", &format!("127.0.0.1:{}", self.grpc_port)]);
        if self.options.config.is_some() {
            command.arg("--config").arg(self.config_path());
        }
        command.args(&self.options.args);
        command.envs(self.options.env.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Waits until the server is ready.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        assert!(self.ready_or_ended(), "the server ended instead of getting ready");
    }

    /// Waits until the server is ready (`true`) or has ended (`false`).
    #[track_caller]
    pub fn ready_or_ended(&mut self) -> bool {
        let client = self.client();
        let process = self.process.as_mut().expect("the server was launched");
        wait_for("a server that is ready", READY_LIMIT, || {
            if process.exit().is_some() {
                return Some(false);
            }
            client.get("/-/ready", &[]).is_ok_and(|answer| answer.status == 200).then_some(true)
        })
    }

    /// Kills the process as `kill -9` does, if it still runs, and tells how it ended.
    ///
    /// # Panics
    /// When it was killed before or never launched.
    #[track_caller]
    pub fn kill9(&mut self) -> ExitStatus {
        self.process.take().expect("the server was launched").kill9()
    }

    /// Kills, starts and waits until ready again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        self.launch(None);
        self.wait_ready();
    }

    /// SIGTERM, and how the process ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.take().expect("the server runs").terminate(DRAIN_LIMIT)
    }

    /// The process.
    ///
    /// # Panics
    /// When it was killed or never launched.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server runs")
    }

    /// A client of the server.
    pub fn client(&self) -> Client {
        Client::new(&self.url(), Duration::from_secs(60))
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The address of the gRPC listener.
    pub fn grpc_address(&self) -> (&str, u16) {
        ("127.0.0.1", self.grpc_port)
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn config_path(&self) -> PathBuf {
        self.scratch.path().join("quorate.yaml")
    }

    /// The file with both outputs of all its processes.
    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("quorate.log")
    }
}
