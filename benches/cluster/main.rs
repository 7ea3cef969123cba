//! `cluster`: what several nodes cost and how fast they go on after a fault, against the project's own bars.
//!
//! All nodes are on this machine, on the loopback interface, in default settings but for their own metrics, which are
//! off. Each measure starts nodes of its own, so that any of them can be had alone; a ratio compares figures of the same
//! run. One that breaks off counts as missed, and the others are still measured.

mod cpu;
mod growth;
mod idle;
mod kills;
mod load;
mod moved;
mod reads;

use clap::{Parser, ValueEnum};
use quorate_benches::figure::Figure;
use quorate_benches::gauge::machine;
use quorate_benches::results::{self, Taken};
use std::process::ExitCode;

/// Measures a cluster on this machine and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these measures, with commas between them.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Small sizes, to see in about a minute whether everything runs; its figures say little.
    #[arg(long)]
    quick: bool,
    /// Ends with exit code 1 if a bar is missed.
    #[arg(long)]
    check: bool,
    /// Series that are written.
    #[arg(long)]
    series: Option<usize>,
    /// Scrapes of every series, after the one that creates it.
    #[arg(long)]
    scrapes: Option<usize>,
    /// Samples of a request, each of another series.
    #[arg(long)]
    samples_per_request: Option<usize>,
    /// Connections that write them; they are spread over the nodes.
    #[arg(long)]
    connections: Option<usize>,
    /// Kills of each kind.
    #[arg(long)]
    kills: Option<usize>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Measure {
    /// CPU time of a sample in three nodes, against one node.
    Cpu,
    /// Time without acknowledged writes after a kill.
    Kills,
    /// Bytes between nodes for an aggregation.
    Moved,
    /// Strong reads against eventual ones.
    Reads,
    /// A fourth node under load.
    Growth,
    /// Many partitions that nobody writes to.
    Idle,
}

impl Measure {
    fn take(self, sizes: &Sizes) -> Result<Vec<Figure>, String> {
        match self {
            Self::Cpu => cpu::measure(sizes),
            Self::Kills => kills::measure(sizes),
            Self::Moved => moved::measure(sizes),
            Self::Reads => reads::measure(sizes),
            Self::Growth => growth::measure(sizes),
            Self::Idle => idle::measure(sizes),
        }
    }
}

/// How much of everything.
#[derive(Debug, Clone)]
struct Sizes {
    /// Series that are written.
    series: usize,
    /// Scrapes of each, after the one that creates it.
    scrapes: usize,
    /// Samples of a request of these.
    samples_per_request: usize,
    /// Connections that write them; they are spread over the nodes.
    connections: usize,
    /// Kills of each kind.
    kills: usize,
    /// Series of the aggregation.
    moved_series: usize,
    /// Questions of each kind for each query.
    questions: usize,
    /// Series that are written once a second while a node joins.
    live_series: usize,
    /// Seconds under load before a node joins.
    calm_s: usize,
    /// Partitions that nobody writes to.
    idle_partitions: u32,
    /// Seconds for which they are watched.
    idle_s: u64,
}

impl Sizes {
    fn of(arguments: &Arguments) -> Self {
        let mut sizes = if arguments.quick { Self::quick() } else { Self::full() };
        sizes.series = arguments.series.unwrap_or(sizes.series);
        sizes.scrapes = arguments.scrapes.unwrap_or(sizes.scrapes);
        sizes.samples_per_request = arguments.samples_per_request.unwrap_or(sizes.samples_per_request);
        sizes.connections = arguments.connections.unwrap_or(sizes.connections);
        sizes.kills = arguments.kills.unwrap_or(sizes.kills);
        sizes
    }

    fn full() -> Self {
        Self {
            series: 50_000,
            scrapes: 60,
            samples_per_request: 2_000,
            connections: 4,
            kills: 5,
            moved_series: 100_000,
            questions: 25,
            live_series: 10_000,
            calm_s: 30,
            idle_partitions: 128,
            idle_s: 30,
        }
    }

    fn quick() -> Self {
        Self {
            series: 5_000,
            scrapes: 20,
            samples_per_request: 2_000,
            connections: 4,
            kills: 1,
            moved_series: 5_000,
            questions: 3,
            live_series: 1_000,
            calm_s: 5,
            idle_partitions: 32,
            idle_s: 3,
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
    let Sizes { series, scrapes, samples_per_request, .. } = sizes;
    let machine = machine();
    format!(
        "Commit {commit}; {machine}; {series} series, {scrapes} scrapes, {samples_per_request} samples a request."
    )
}
