//! A real OpenTelemetry SDK, told what to send, and a real Collector that takes it to Kafka.
//!
//! The SDK is what `.ci/otel` installed, driven by `otel/sdk.py`; the Collector is what `.ci/collector` built. A test asks
//! for each, and is skipped where it is missing.

use super::http::Client;
use super::process::Process;
use super::{free_port, skip, wait_for};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the Collector may take to start and to end, and the SDK to send what it has.
const LIMIT: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/otel/sdk.py");

fn find(name: &str, variable: &str, script: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        skip(name, &format!("{variable} is not set ({script} prints it)"));
    }
    found
}

/// Where an SDK sends its metrics.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Into a topic, each collection as one record without a key.
    Topic {
        /// HOST:PORT of brokers, with commas between them.
        brokers: &'a str,
        /// The topic.
        topic: &'a str,
        /// `proto` or `json`.
        encoding: &'a str,
    },
    /// To a Collector, by OTLP over HTTP.
    Collector(&'a Collector),
}

/// Counters that grow until they are told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// `service.name` of their resource.
    pub service: &'a str,
    /// How many.
    pub series: usize,
    /// Time between two collections.
    pub interval: Duration,
    /// The file that ends it.
    pub until: &'a Path,
    /// The file that it writes when it ends: of each series the number and the sum of its delivered values.
    pub ledger: &'a Path,
}

/// The SDK of this machine.
#[derive(Debug, Clone)]
pub struct Sdk {
    python: PathBuf,
}

impl Sdk {
    /// Finds it; else notes that test `name` is skipped.
    pub fn find(name: &str) -> Option<Self> {
        let python = find(name, "QUORATE_OTEL_PYTHON", ".ci/otel")?;
        Some(Self { python })
    }

    /// Tells instruments what the file `spec` says, and sends one collection.
    ///
    /// # Panics
    /// When it is not delivered.
    #[track_caller]
    pub fn tell(&self, target: Target<'_>, spec: &Path) {
        let mut command = self.command(target);
        command.arg("tell").arg(spec);
        let mut process = Process::start("sdk", &command, &spec.with_extension("log"));
        let end = process.wait(LIMIT);
        assert!(end.success(), "the SDK delivers what it is told: {end}: {}", process.output());
    }

    /// Starts a stream. It ends with a code other than 0 if anything was not delivered.
    #[track_caller]
    pub fn stream(&self, target: Target<'_>, stream: &Stream<'_>) -> Process {
        let mut command = self.command(target);
        command.args(["stream", "--service", stream.service, "--series", &stream.series.to_string()]);
        command.args(["--interval", &stream.interval.as_secs_f64().to_string()]);
        command.arg("--until").arg(stream.until).arg("--ledger").arg(stream.ledger);
        Process::start(stream.service, &command, &stream.ledger.with_extension("log"))
    }

    fn command(&self, target: Target<'_>) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(PROGRAM).env("NO_PROXY", "*");
        match target {
            Target::Topic { brokers, topic, encoding } => {
                command.args(["--brokers", brokers, "--topic", topic, "--encoding", encoding])
            }
            Target::Collector(collector) => {
                command.args(["--collector", &format!("{}/v1/metrics", collector.url)])
            }
        };
        command
    }
}

/// Finds the Collector of this machine; else notes that test `name` is skipped.
pub fn find_collector(name: &str) -> Option<PathBuf> {
    find(name, "QUORATE_COLLECTOR", ".ci/collector")
}

/// A running Collector: OTLP in, batches, and what exports them.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    url: String,
}

impl Collector {
    /// Starts `program` with these exporters, each a name and its settings as YAML in one line, and waits until it is
    /// ready. Batches have at most so many data points.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(program: &Path, folder: &Path, batch: usize, exporters: &[(&str, String)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let config = folder.join("collector.yaml");
        std::fs::write(&config, configuration(&address, batch, exporters)).expect("a file can be written");
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        let mut process = Process::start("collector", &command, &folder.join("collector.log"));
        let url = format!("http://{address}");
        let client = Client::new(&url, Duration::from_secs(5));
        wait_for("the collector", LIMIT, || {
            assert!(process.exit().is_none(), "the collector ended instead of getting ready");
            client.get("/v1/metrics", &[]).ok()
        });
        Self { process, url }
    }

    /// Asks it to end, after it has exported all that it took.
    #[track_caller]
    pub fn finish(mut self) {
        let end = self.process.terminate(LIMIT);
        assert!(end.success(), "the collector ends in order: {end}");
    }
}

fn configuration(address: &str, batch: usize, exporters: &[(&str, String)]) -> String {
    let names: Vec<&str> = exporters.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '{address}'}}}}}}}}\n\
         processors: {{batch: {{timeout: 100ms, send_batch_size: {batch}, send_batch_max_size: {batch}}}}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
         metrics: {{receivers: [otlp], processors: [batch], exporters: [{}]}}\n\
         exporters:\n",
        names.join(", ")
    );
    for (name, settings) in exporters {
        let _infallible = writeln!(text, "  {name}: {settings}");
    }
    text
}
