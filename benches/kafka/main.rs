//! `bench-kafka`: Kafka as the log, beside the embedded log and VictoriaMetrics, against the project's own bars.
//!
//! One broker that takes part in nothing else, and nodes in default settings but for what each measure says. What is
//! measured runs on core 0; the driver and the broker share the core that the driver was started on. Each measure starts
//! what it needs, so that any of them can be had alone; a ratio compares figures of the same run.

mod bytes;
mod catch_up;
mod cpu;
mod latency;
mod setup;
mod victoria;

use clap::{Parser, ValueEnum};
use quorate_benches::figure::Figure;
use quorate_benches::gauge::machine;
use quorate_benches::results::{self, Taken};
use quorate_cluster_tests::harness::server::binary;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Measures Kafka as the log on this machine and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these measures, with commas between them.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Small sizes, to see in about a minute whether everything runs; its figures say little.
    #[arg(long)]
    small: bool,
    /// Ends with exit code 1 if a bar is missed.
    #[arg(long)]
    check: bool,
    /// Series that are written.
    #[arg(long)]
    series: Option<usize>,
    /// Samples of a request, each of another series.
    #[arg(long)]
    samples_per_request: Option<usize>,
    /// Connections that write them.
    #[arg(long)]
    connections: Option<usize>,
    /// Codec of what is measured, but for the bytes.
    #[arg(long)]
    compression: Option<String>,
    /// Samples per second of a load with a pace.
    #[arg(long)]
    rate: Option<u64>,
    /// Partitions, of the embedded log too: bytes and CPU time are measured with each number, the rest with the first.
    #[arg(long, value_delimiter = ',')]
    partitions: Vec<u32>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Measure {
    /// Bytes of a sample in the topic.
    Bytes,
    /// CPU time of a sample, against the embedded log.
    Cpu,
    /// Latency of writes, against the embedded log.
    Latency,
    /// A node that was away, against VictoriaMetrics' rate; queries meanwhile.
    CatchUp,
}

impl Measure {
    fn take(self, sizes: &Sizes) -> Result<Vec<Figure>, String> {
        match self {
            Self::Bytes => bytes::measure(sizes),
            Self::Cpu => cpu::measure(sizes),
            Self::Latency => latency::measure(sizes),
            Self::CatchUp => catch_up::measure(sizes),
        }
    }
}

/// How much of everything.
#[derive(Debug, Clone)]
struct Sizes {
    /// Series that are written.
    series: usize,
    /// Samples of a request of these.
    samples_per_request: usize,
    /// Connections that write them.
    connections: usize,
    /// Codec where nothing else is said.
    compression: String,
    /// Numbers of partitions, at least one.
    partitions: Vec<u32>,
    /// Scrapes whose bytes are counted when they come as fast as they are taken.
    fast_scrapes: usize,
    /// Scrapes whose bytes are counted at the pace of their times.
    timely_scrapes: usize,
    /// Rounds of CPU time at each log.
    cpu_rounds: usize,
    /// Scrapes of each of them.
    cpu_scrapes: usize,
    /// Samples per second of the load whose latency is measured.
    rate: u64,
    /// Rounds of latencies at each log.
    latency_rounds: usize,
    /// Seconds of each of them.
    latency_s: u64,
    /// Scrapes that a node misses.
    missed_scrapes: usize,
}

impl Sizes {
    fn of(arguments: &Arguments) -> Self {
        let mut sizes = if arguments.small { Self::small() } else { Self::full() };
        sizes.series = arguments.series.unwrap_or(sizes.series);
        sizes.samples_per_request = arguments.samples_per_request.unwrap_or(sizes.samples_per_request);
        sizes.connections = arguments.connections.unwrap_or(sizes.connections);
        sizes.compression = arguments.compression.clone().unwrap_or(sizes.compression);
        sizes.rate = arguments.rate.unwrap_or(sizes.rate);
        if !arguments.partitions.is_empty() {
            sizes.partitions.clone_from(&arguments.partitions);
        }
        sizes
    }

    fn full() -> Self {
        Self {
            series: 50_000,
            samples_per_request: 2_000,
            connections: 4,
            compression: "lz4".to_owned(),
            // What a node alone has by default, and what a cluster has.
            partitions: vec![4, 32],
            fast_scrapes: 40,
            timely_scrapes: 4,
            cpu_rounds: 5,
            cpu_scrapes: 40,
            rate: 100_000,
            latency_rounds: 3,
            latency_s: 20,
            missed_scrapes: 200,
        }
    }

    /// Of what is measured once.
    fn first_partitions(&self) -> u32 {
        self.partitions.first().copied().unwrap_or(1)
    }

    fn small() -> Self {
        Self {
            series: 5_000,
            fast_scrapes: 10,
            timely_scrapes: 1,
            cpu_rounds: 2,
            cpu_scrapes: 20,
            rate: 20_000,
            latency_rounds: 1,
            latency_s: 5,
            missed_scrapes: 40,
            ..Self::full()
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sizes = Sizes::of(&arguments);
    let chosen =
        if arguments.only.is_empty() { Measure::value_variants().to_vec() } else { arguments.only.clone() };
    let taken: Vec<Taken> = chosen
        .into_iter()
        .map(|measure| results::take(format!("{measure:?}"), || measure.take(&sizes)))
        .collect();
    results::tell(&heading(&sizes), &taken, arguments.check)
}

fn heading(sizes: &Sizes) -> String {
    let commit = std::env::var("QUORATE_COMMIT").unwrap_or_else(|_| "unknown".into());
    let command: Vec<String> = std::env::args().skip(1).collect();
    let Sizes { series, samples_per_request, connections, partitions, .. } = sizes;
    format!(
        "`make bench-kafka ARGS=\"{}\"`; commit {commit}; {}, nodes that are measured on core 0, broker and driver on \
         another; {series} series, {samples_per_request} samples a request, {connections} connections, {partitions:?} partitions. {}; Kafka {}; {}.",
        command.join(" "),
        machine(),
        version(&binary(), "--version"),
        setup::kafka_version(),
        victoria::program().map_or_else(
            |error| error,
            |program| format!("VictoriaMetrics {}", version(&program, "-version"))
        ),
    )
}

/// What a program calls its version.
fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { "of unknown version".to_owned() } else { line.to_owned() }
}
