//! `quorate-jepsen`: runs cells and prints one verdict for each. Exit code 0 when all pass.

use clap::{Parser, Subcommand};
use quorate_jepsen::cell::{Cell, Log};
use quorate_jepsen::cells;
use quorate_jepsen::fault::Fault;
use quorate_jepsen::history;
use quorate_jepsen::rules::{LEAST_FAULTS, Tally, Verdict};
use quorate_jepsen::run::{Plan, Report, run};
use quorate_jepsen::workloads::Name;
use quorate_model::planted::Bug;
use quorate_model::{Clock, SystemClock};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A planted bug must be seen within so many runs.
const RUNS: u64 = 10;

/// Looks for broken promises in clusters under faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where histories go.
    #[arg(long, default_value = "jepsen-histories")]
    folder: PathBuf,
    /// Decides the choices of the first run; each further one has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The revision of the server, for what is printed.
    #[arg(long, env = "QUORATE_REVISION", default_value = "unknown")]
    revision: String,
    /// Cells that this machine lacks the tools for are no failure of `clean`, `teeth` and `campaign`.
    #[arg(long, global = true)]
    allow_missing: bool,
    /// Only cells over this log; `run` takes the embedded one unless it is told.
    #[arg(long, global = true)]
    log: Option<Log>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The short cells, each once: all must pass.
    Clean,
    /// The planted bugs: each must be seen within ten runs.
    Teeth {
        /// Only this one.
        #[arg(long)]
        bug: Option<String>,
    },
    /// Every workload under every fault, again and again until the time is over.
    Campaign {
        /// How long.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// One cell.
    Run {
        /// The promise.
        #[arg(long)]
        workload: Name,
        /// The faults, between commas.
        #[arg(long, value_delimiter = ',')]
        faults: Vec<Fault>,
        /// How often each is set.
        #[arg(long, default_value_t = LEAST_FAULTS)]
        rounds: usize,
        /// The bug that the server is to have.
        #[arg(long)]
        plant: Option<String>,
    },
    /// Judges a history that was kept.
    Check {
        /// The promise.
        #[arg(long)]
        workload: Name,
        /// The history.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Without a reader of standard error the code tells enough.
            let _nobody_reads = writeln!(io::stderr(), "jepsen: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn act(arguments: &Arguments) -> io::Result<bool> {
    match &arguments.action {
        Action::Clean => clean(arguments),
        Action::Teeth { bug } => teeth(arguments, bug.as_deref()),
        Action::Campaign { minutes } => campaign(arguments, Duration::from_secs(minutes * 60)),
        Action::Run { workload, faults, rounds, plant } => {
            let plant = plant.as_deref().map(named).transpose()?.map(|(_, name)| name);
            let log = arguments.log.unwrap_or(Log::Embedded);
            let cell = shaped(*workload, faults, log, plant);
            if let Some(clash) = cell.clash() {
                return Err(io::Error::other(clash));
            }
            let report = one(arguments, plan(arguments, &cell, 0, *rounds, plant))?;
            Ok(report.verdict == Verdict::Pass)
        }
        Action::Check { workload, file } => {
            let operations = history::operations(&history::read(file)?).map_err(io::Error::other)?;
            let judgement = workload.check(&operations);
            judgement.lines().iter().chain(&judgement.notes).try_for_each(|line| say(line))?;
            judgement.unmet.iter().try_for_each(|rule| say(&format!("unmet: {rule}")))?;
            Ok(judgement.is_clean() && judgement.unmet.is_empty())
        }
    }
}

/// The cell of the tables with these names, which may have another shape than others.
fn shaped(workload: Name, faults: &[Fault], log: Log, plant: Option<&str>) -> Cell {
    let planted = plant.and_then(Bug::named).into_iter().flat_map(cells::teeth);
    let mut known = planted.chain(cells::clean()).chain(cells::campaign());
    let same = |cell: &Cell| cell.workload == workload && cell.faults == faults && cell.log() == log;
    known.find(same).unwrap_or_else(|| {
        let cell = Cell::new(workload, faults);
        if log == Log::Kafka { cell.over_kafka() } else { cell }
    })
}

/// Those over the log that is asked for.
fn chosen(arguments: &Arguments, mut cells: Vec<Cell>) -> Vec<Cell> {
    cells.retain(|cell| arguments.log.is_none_or(|log| cell.log() == log));
    cells
}

fn plan(arguments: &Arguments, cell: &Cell, nth: u64, rounds: usize, plant: Option<&'static str>) -> Plan {
    let (cell, folder) = (cell.clone(), arguments.folder.clone());
    Plan { cell, seed: arguments.seed + nth, rounds, plant, folder }
}

fn clean(arguments: &Arguments) -> io::Result<bool> {
    let mut tally = Tally::default();
    for cell in chosen(arguments, cells::clean()) {
        clean_cell(arguments, &cell, 0, &mut tally)?;
    }
    total(arguments, tally)
}

/// Runs a cell that is to pass, if this machine can.
fn clean_cell(arguments: &Arguments, cell: &Cell, nth: u64, tally: &mut Tally) -> io::Result<()> {
    if is_runnable(cell)? {
        let report = one(arguments, plan(arguments, cell, nth, LEAST_FAULTS, None))?;
        tally.add(report.verdict == Verdict::Pass);
    } else {
        tally.not_run += 1;
    }
    Ok(())
}

/// Prints how all went; whether it is well.
fn total(arguments: &Arguments, tally: Tally) -> io::Result<bool> {
    say(&format!("cells: {tally}"))?;
    Ok(tally.is_well(arguments.allow_missing))
}

fn teeth(arguments: &Arguments, only: Option<&str>) -> io::Result<bool> {
    let bugs = only.map_or_else(|| Ok(Bug::ALL.to_vec()), |name| named(name).map(|bug| vec![bug]))?;
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    let cells = |bug| chosen(arguments, cells::teeth(bug));
    for (name, cell) in
        bugs.into_iter().flat_map(|(bug, name)| cells(bug).into_iter().map(move |c| (name, c)))
    {
        if !is_runnable(&cell)? {
            tally.not_run += 1;
            lines.push(format!("{name}: not run over {}", cell.log()));
            continue;
        }
        let seen = first_sight(arguments, name, &cell)?;
        tally.add(seen.is_some());
        let runs = seen.map_or_else(|| format!("NOT SEEN in {RUNS} runs"), |n| format!("seen in run {n}"));
        lines.push(format!("{name}: {runs} of {cell}"));
    }
    lines.iter().try_for_each(|line| say(line))?;
    total(arguments, tally)
}

/// Which run of a cell saw a bug first, from 1 on.
fn first_sight(arguments: &Arguments, bug: &'static str, cell: &Cell) -> io::Result<Option<u64>> {
    for nth in 0..RUNS {
        let report = one(arguments, plan(arguments, cell, nth, LEAST_FAULTS, Some(bug)))?;
        if report.verdict == Verdict::Fail {
            return Ok(Some(nth + 1));
        }
    }
    Ok(None)
}

fn campaign(arguments: &Arguments, length: Duration) -> io::Result<bool> {
    let begin = SystemClock.instant();
    let (mut tally, mut nth) = (Tally::default(), 0);
    while begin.elapsed() < length {
        for cell in chosen(arguments, cells::campaign()) {
            if begin.elapsed() >= length {
                break;
            }
            clean_cell(arguments, &cell, nth, &mut tally)?;
            nth += 1;
        }
    }
    total(arguments, tally)
}

fn named(name: &str) -> io::Result<(Bug, &'static str)> {
    let found = Bug::ALL.into_iter().find(|(_, known)| *known == name);
    found.ok_or_else(|| io::Error::other(format!("no bug is named {name:?}")))
}

/// Whether this machine has the tools of a cell; those that it lacks are printed.
fn is_runnable(cell: &Cell) -> io::Result<bool> {
    let missing = cell.missing();
    missing.iter().try_for_each(|why| say(&format!("{cell}: not run: {why}")))?;
    Ok(missing.is_empty())
}

/// Does a run and prints what came of it. The history of one that passed, or that was to fail, is not kept.
fn one(arguments: &Arguments, plan: Plan) -> io::Result<Report> {
    let report = run(&plan)?;
    let planted = plan.plant.map(|bug| format!(" with {bug}")).unwrap_or_default();
    say(&format!(
        "{}{planted}: {}: {} of {} operations done, {} faults, seed {}",
        plan.cell, report.verdict, report.operations.0, report.operations.1, report.faults, plan.seed
    ))?;
    report.lines.iter().try_for_each(|line| say(&format!("    {line}")))?;
    let is_expected = report.verdict == if plan.plant.is_some() { Verdict::Fail } else { Verdict::Pass };
    if is_expected {
        std::fs::remove_file(&report.history)?;
    } else {
        let plant = plan.plant.map(|bug| format!(" --plant {bug}")).unwrap_or_default();
        say(&format!("    revision {}, history {}", arguments.revision, report.history.display()))?;
        say(&format!(
            "    again: .ci/jepsen --seed {} run --workload {} --log {} --faults {} --rounds {}{plant}",
            plan.seed,
            plan.cell.workload,
            plan.cell.log(),
            plan.cell.fault_names(),
            plan.rounds
        ))?;
    }
    Ok(report)
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
