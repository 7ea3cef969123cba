//! `peers`: Quorate, Prometheus and VictoriaMetrics under the same load, one after the other, one core each.
//!
//! Every contender gets the same bodies, built before any clock starts, from a driver on another core. Two
//! parts: many series for a short time (CPU of writes, memory, latency, crash), and few for hours, until all that
//! is closed is written out and merged (CPU of it all, disk, queries).

mod contender;
mod settled;

use clap::Parser;
use contender::{Contender, Kind, Part, Running};
use quorate_benches::bodies::{Body, Plan, build};
use quorate_benches::gauge::{self, machine};
use quorate_benches::queries::{self, Answers};
use quorate_benches::sender::{Destination, Report, send};
use quorate_benches::universe::Universe;
use quorate_cluster_tests::harness::now_ms;
use quorate_cluster_tests::remote_write::Protocol;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

const STEP_MS: i64 = 15_000;
const HOUR_MS: i64 = 3_600_000;
/// How long a contender may work on what it was sent.
const MOST_SETTLING: Duration = Duration::from_secs(120);

/// Compares Quorate with Prometheus and VictoriaMetrics on this machine and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Series of the first part.
    #[arg(long, default_value_t = 50_000)]
    series: usize,
    /// Scrapes of the first part after the one that creates the series.
    #[arg(long, default_value_t = 60)]
    scrapes: usize,
    /// Series of the second part.
    #[arg(long, default_value_t = 2_000)]
    stored_series: usize,
    /// Hours of data in the second part.
    #[arg(long, default_value_t = 12)]
    stored_hours: usize,
    /// Connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Seed of labels and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Bodies of one protocol, built once for all contenders.
struct Load {
    protocol: Protocol,
    create: Vec<Vec<Body>>,
    steady: Vec<Vec<Body>>,
    stored: Vec<Vec<Body>>,
}

/// One row of the table.
struct Row {
    name: &'static str,
    cpu_per_sample: f64,
    create: f64,
    report: Report,
    rss_per_series: f64,
    ready: Duration,
    kept: f64,
    stored_cpu_per_sample: f64,
    block_bytes_per_sample: f64,
    bytes_per_sample: f64,
    newest: Answers,
    older: Answers,
}

const COLUMNS: [&str; 15] = [
    "",
    "CPU µs/sample",
    "CPU µs/new series",
    "samples/s",
    "write p50 ms",
    "write p99 ms",
    "RSS KB/series",
    "ready after kill -9, s",
    "kept after kill -9",
    "CPU µs/sample, written out",
    "bytes/sample in blocks",
    "bytes/sample of all files",
    "query p50 ms, newest",
    "query p50 ms, older",
    "answers equal to Prometheus'",
];

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(table) => {
            let told = writeln!(std::io::stdout(), "{table}");
            if told.is_ok() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
        }
        Err(error) => {
            note(&format!("peers: {error}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, String> {
    let end_ms = now_ms() / STEP_MS * STEP_MS - STEP_MS;
    note("building the bodies");
    let loads = [Protocol::V1, Protocol::V2].map(|protocol| build_load(arguments, protocol, end_ms));
    let contenders = [
        Contender { kind: Kind::Prometheus, protocol: Protocol::V1 },
        Contender { kind: Kind::VictoriaMetrics, protocol: Protocol::V1 },
        Contender { kind: Kind::Quorate, protocol: Protocol::V1 },
        Contender { kind: Kind::Quorate, protocol: Protocol::V2 },
    ];
    let scratch = tempfile::Builder::new().prefix("quorate-peers-").tempdir().map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for (number, contender) in contenders.into_iter().enumerate() {
        if contender.program().is_none() {
            note(&format!("SKIPPED: {} is not installed", contender.name()));
            continue;
        }
        note(&format!("{}: {}", contender.name(), contender.version()));
        let load = &loads[usize::from(contender.protocol == Protocol::V2)];
        let folder = scratch.path().join(number.to_string());
        rows.push(measure(contender, load, &folder, arguments, end_ms)?);
        std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    }
    table(arguments, &rows)
}

fn build_load(arguments: &Arguments, protocol: Protocol, end_ms: i64) -> Load {
    let plan = |scrapes: usize, end_ms: i64| Plan {
        protocol,
        connections: arguments.connections,
        scrapes,
        samples_per_request: 2_000,
        start_ms: end_ms - (scrapes as i64 - 1) * STEP_MS,
        step_ms: STEP_MS,
    };
    let mut many = Universe::new(arguments.series, arguments.seed);
    let created_ms = end_ms - arguments.scrapes as i64 * STEP_MS;
    let create = build(&mut many, &plan(1, created_ms));
    let steady = build(&mut many, &plan(arguments.scrapes, end_ms));
    let mut few = Universe::new(arguments.stored_series, arguments.seed);
    // One connection: several would drift apart, and Prometheus refuses what is an hour behind the newest.
    let hours = Plan { connections: 1, ..plan(arguments.stored_hours * 240, end_ms) };
    let stored = build(&mut few, &hours);
    Load { protocol, create, steady, stored }
}

fn measure(
    contender: Contender,
    load: &Load,
    folder: &Path,
    arguments: &Arguments,
    end_ms: i64,
) -> Result<Row, String> {
    let span = Duration::from_millis(STEP_MS as u64) * (arguments.scrapes as u32 + 1);
    let (running, _) = Running::start(contender, Part::Write { span }, &folder.join("steady"))?;
    let to = |running: &Running| Destination {
        base: running.client.base().to_owned(),
        path: "/api/v1/write".to_owned(),
        protocol: load.protocol,
        headers: Vec::new(),
    };
    let (create, created) = cpu_of(&running, || send(&[to(&running)], &load.create, 0))?;
    let (cpu, report) = cpu_of(&running, || send(&[to(&running)], &load.steady, 0))?;
    note(&format!("  {report}"));
    let rss = gauge::resident(running.process.pid())?;
    let (mut running, ready) = running.crash_and_restart()?;
    let kept = found(&running, arguments, end_ms) / (created.samples + report.samples) as f64;
    running.process.kill9();

    let (mut running, _) = Running::start(contender, Part::Stored, &folder.join("stored"))?;
    settle(&running)?;
    let before = gauge::cpu(running.process.pid())?;
    let stored = send(&[to(&running)], &load.stored, 0)?;
    note(&format!("  {stored}"));
    let stored_cpu = settled::wait(&running)? - before;
    let block_bytes_per_sample = settled::block_bytes_per_sample(&running)?;
    let ask = |end_ms| queries::ask_all(&running.client, contender.query_extras(), end_ms);
    let newest_ms = query_time(arguments, end_ms);
    let (newest, older) = (ask(newest_ms), ask(newest_ms - arguments.stored_hours as i64 * HOUR_MS / 2));
    let ended = running.process.terminate(Duration::from_secs(120));
    if !ended.success() {
        note(&format!("  {} ended with {ended}", contender.name()));
    }
    let bytes = gauge::folder_size(&running.data())?;
    Ok(Row {
        name: contender.name(),
        cpu_per_sample: micros(cpu) / report.samples as f64,
        create: micros(create) / arguments.series as f64,
        rss_per_series: rss as f64 / arguments.series as f64,
        report,
        ready,
        kept,
        stored_cpu_per_sample: micros(stored_cpu) / stored.samples as f64,
        block_bytes_per_sample,
        bytes_per_sample: bytes as f64 / stored.samples as f64,
        newest,
        older,
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What a contender does later, when data gets old, is not waited for: see `settled.rs`.
fn settle(running: &Running) -> Result<(), String> {
    gauge::settle(&[running.process.pid()], MOST_SETTLING)
}

/// CPU time of the process for `work` and until it is quiet again.
fn cpu_of(
    running: &Running,
    work: impl FnOnce() -> Result<Report, String>,
) -> Result<(Duration, Report), String> {
    settle(running)?;
    let before = gauge::cpu(running.process.pid())?;
    let report = work()?;
    settle(running)?;
    Ok((gauge::cpu(running.process.pid())? - before, report))
}

/// How many samples the database finds, asked name by name: without their names, series of different metrics
/// would be the same to `count_over_time`.
fn found(running: &Running, arguments: &Arguments, end_ms: i64) -> f64 {
    let universe = Universe::new(arguments.series, arguments.seed);
    let names: BTreeSet<_> = (0..universe.len()).filter_map(|at| universe.labels(at).metric_name()).collect();
    let time = (end_ms / 1000 + 60).to_string();
    let count = |name: &str| {
        let query = format!("sum(count_over_time({name}[1d]))");
        let data = running.client.api("/api/v1/query", &[("query", &query), ("time", &time)]);
        data["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok())
    };
    // Nothing found is an empty answer.
    names.into_iter().filter_map(count).sum()
}

/// An evaluation time at which no window edge falls on a sample: Prometheus 2.x counts a sample at the left
/// edge of a range, 3.x and Quorate do not.
fn query_time(arguments: &Arguments, end_ms: i64) -> i64 {
    let universe = Universe::new(arguments.stored_series, arguments.seed);
    let targets = universe.target(universe.len() - 1) as i64;
    let is_free = |shift: &i64| (0..=targets).all(|t| (t * 7_919 - shift).rem_euclid(STEP_MS) > 2);
    end_ms - (0..STEP_MS).find(|shift| is_free(&-shift)).unwrap_or(0)
}

fn table(arguments: &Arguments, rows: &[Row]) -> Result<String, String> {
    let reference = rows.iter().find(|row| row.name == "Prometheus");
    let mut out = String::new();
    let commit = std::env::var("QUORATE_COMMIT").unwrap_or_else(|_| "unknown".into());
    write_table(&mut out, arguments, rows, reference, &commit).map_err(|e| e.to_string())?;
    Ok(out)
}

fn write_table(
    out: &mut String,
    arguments: &Arguments,
    rows: &[Row],
    reference: Option<&Row>,
    commit: &str,
) -> std::fmt::Result {
    let Arguments { series, scrapes, stored_series, stored_hours, .. } = arguments;
    writeln!(out, "Commit {commit}; {}; one core for each database, the driver on another.", machine())?;
    writeln!(
        out,
        "Write: {series} series, {scrapes} scrapes. Disk and queries: {stored_series} series, {stored_hours} h at 15 s.\n"
    )?;
    writeln!(out, "| {} |", COLUMNS.join(" | "))?;
    writeln!(out, "|---|{}", "---:|".repeat(COLUMNS.len() - 1))?;
    let mut differences = String::new();
    for row in rows {
        let (cells, first) = row.cells(reference);
        writeln!(out, "| {} |", cells.join(" | "))?;
        if let Some(first) = first {
            writeln!(differences, "{}: first difference in {first}", row.name)?;
        }
    }
    write!(out, "\n{differences}")
}

impl Row {
    /// The cells of the table, and the first answer that differs from the reference's.
    fn cells(&self, reference: Option<&Self>) -> ([String; COLUMNS.len()], Option<String>) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (mut equal, mut first) = (0, None);
        for (theirs, ours) in
            reference.into_iter().flat_map(|r| [(&r.newest, &self.newest), (&r.older, &self.older)])
        {
            let (agreed, difference) = ours.agreement(theirs);
            equal += agreed;
            first = first.or(difference);
        }
        let asked = self.newest.latencies.len() + self.older.latencies.len();
        let cells = [
            self.name.to_owned(),
            format!("{:.2}", self.cpu_per_sample),
            format!("{:.1}", self.create),
            format!("{:.0}", self.report.rate()),
            format!("{:.1}", ms(self.report.quantile(0.5))),
            format!("{:.1}", ms(self.report.quantile(0.99))),
            format!("{:.2}", self.rss_per_series / 1024.0),
            format!("{:.2}", self.ready.as_secs_f64()),
            format!("{:.1} %", self.kept * 100.0),
            format!("{:.2}", self.stored_cpu_per_sample),
            format!("{:.2}", self.block_bytes_per_sample),
            format!("{:.2}", self.bytes_per_sample),
            format!("{:.2}", ms(self.newest.median())),
            format!("{:.2}", ms(self.older.median())),
            format!("{equal} of {asked}"),
        ];
        (cells, first)
    }
}

fn note(text: &str) {
    // Progress only; the table is the result.
    let _nobody_listens = writeln!(std::io::stderr(), "{text}");
}
