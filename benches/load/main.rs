//! `load`: writes seeded, realistic series to any remote write endpoint and prints what it measured.

use clap::Parser;
use quorate_benches::bodies::{Plan, build};
use quorate_benches::sender::{Destination, send};
use quorate_benches::universe::Universe;
use quorate_cluster_tests::harness::now_ms;
use quorate_cluster_tests::remote_write::Protocol;
use std::io::Write;

/// Writes seeded series that look like node_exporter's and a Kubernetes cluster's to a remote write endpoint.
#[derive(Debug, Parser)]
struct Arguments {
    /// The write endpoint.
    #[arg(long, default_value = "http://127.0.0.1:9009/api/v1/push")]
    url: String,
    /// Remote write version: 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    protocol: u8,
    /// Series.
    #[arg(long, default_value_t = 50_000)]
    series: usize,
    /// Scrapes of every series.
    #[arg(long, default_value_t = 40)]
    scrapes: usize,
    /// Seconds between scrapes in the data.
    #[arg(long, default_value_t = 15)]
    step: i64,
    /// Time of the last scrape, milliseconds since the Unix epoch; now by default.
    #[arg(long)]
    end_ms: Option<i64>,
    /// Connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Most samples in one request.
    #[arg(long, default_value_t = 2_000)]
    samples_per_request: usize,
    /// Samples per second not to exceed; 0 means as fast as they are taken.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Seed of labels and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A further header, `Name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
}

fn main() -> std::process::ExitCode {
    let result = run(&Arguments::parse());
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let told = match &result {
        Ok(line) => writeln!(out, "{line}"),
        Err(error) => writeln!(err, "load: {error}"),
    };
    if result.is_ok() && told.is_ok() {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

fn run(arguments: &Arguments) -> Result<String, String> {
    let protocol = if arguments.protocol == 1 { Protocol::V1 } else { Protocol::V2 };
    let to = destination(arguments, protocol)?;
    let step_ms = arguments.step * 1_000;
    let end_ms = arguments.end_ms.unwrap_or_else(now_ms) - step_ms;
    let plan = Plan {
        protocol,
        connections: arguments.connections,
        scrapes: arguments.scrapes,
        samples_per_request: arguments.samples_per_request,
        start_ms: end_ms - (arguments.scrapes as i64 - 1) * step_ms,
        step_ms,
    };
    let mut universe = Universe::new(arguments.series, arguments.seed);
    let bodies = build(&mut universe, &plan);
    send(&[to], &bodies, arguments.rate).map(|report| report.to_string())
}

fn destination(arguments: &Arguments, protocol: Protocol) -> Result<Destination, String> {
    let rest = arguments.url.split_once("://").map(|(_, rest)| rest).ok_or("--url needs a scheme")?;
    let at = rest.find('/').ok_or("--url needs a path")?;
    let split = arguments.url.len() - rest.len() + at;
    let header = |text: &String| {
        let (name, value) = text.split_once(':').ok_or_else(|| format!("--header {text} has no colon"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    Ok(Destination {
        base: arguments.url[..split].to_owned(),
        path: arguments.url[split..].to_owned(),
        protocol,
        headers: arguments.header.iter().map(header).collect::<Result<_, String>>()?,
    })
}
