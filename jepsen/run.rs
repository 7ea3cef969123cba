//! One run: start nodes, let clients work, set faults and take them back, read everything, judge.
//!
//! Knows the order of these and how long each takes. Does not know what is right. A harness that fails leaves the run
//! unknown, unless its history shows a broken promise even so.
//! Path: `cells`, `main` -> **here** -> `nemesis`, `worker`, `workloads`, `checkers`, `rules`.

use crate::cell::Cell;
use crate::checkers::Judgement;
use crate::fault::Fault;
use crate::history::{self, Kind, NEMESIS, Op, Operation, Outcome, Recorder};
use crate::nemesis::Rig;
use crate::random::Random;
use crate::rules::{self, Marks, Setting, Verdict};
use crate::worker::{Told, Worker};
use crate::workloads::Workload;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::{now_ms, pause};
use quorate_model::{Clock, SystemClock};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Clients that choose their nodes; as many more as there are nodes ask only one.
const FREE_CLIENTS: usize = 6;
/// A client begins an operation this often at most.
const PACE: Duration = Duration::from_millis(24);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(2_500);
const BEFORE_FAULTS: Duration = Duration::from_secs(4);
/// How long the last reads may take at each node, and each answer of them.
const LAST_READS: Duration = Duration::from_secs(60);
const LAST_PATIENCE: Duration = Duration::from_secs(20);
/// Maintenance at a pace that lets a short run meet flushes, images and trims.
const CONFIG: &str = "storage:\n  maintenance_interval: 500ms\n  image_interval: 3s\n  close_delay: 1s\n  \
                      late_delay: 1s\n  log_segment_size: 512KiB\n";

/// A run that is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What.
    pub cell: Cell,
    /// What decides every choice of clients and nemesis; threads and networks are as they are.
    pub seed: u64,
    /// How often each fault is set.
    pub rounds: usize,
    /// The bug that the server is to have.
    pub plant: Option<&'static str>,
    /// Where the history goes.
    pub folder: PathBuf,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Pass, fail or unknown.
    pub verdict: Verdict,
    /// Broken promises, unmet rules and figures, one a line.
    pub lines: Vec<String>,
    /// Operations done, and all.
    pub operations: (usize, usize),
    /// Faults set.
    pub faults: usize,
    /// The history.
    pub history: PathBuf,
}

/// What the harness has to say, beside the history.
#[derive(Debug, Default)]
struct Done {
    marks: Marks,
    installed: Vec<Setting>,
    /// Rules that are unmet.
    unmet: Vec<String>,
    /// Promises that are broken and in no history.
    broken: Vec<String>,
}

/// Does a run and judges it.
///
/// # Errors
/// If there can be no history.
pub fn run(plan: &Plan) -> std::io::Result<Report> {
    std::fs::create_dir_all(&plan.folder)?;
    let path = plan.folder.join(history_name(plan, now_ms()));
    let recorder = Arc::new(Recorder::create(&path)?);
    let done = catch_unwind(AssertUnwindSafe(|| attempt(plan, &recorder)));
    let done = done.unwrap_or_else(|panic| {
        let unmet = vec![format!("the harness failed: {}", text_of(panic.as_ref()))];
        Done { unmet, ..Done::default() }
    });
    Ok(judge(plan, &recorder.events()?, done, path))
}

/// A file name of its own for each run.
fn history_name(plan: &Plan, start_ms: i64) -> String {
    let planted = plan.plant.map(|bug| format!("-{bug}")).unwrap_or_default();
    let faults = plan.cell.fault_names().replace(',', "+");
    let over = if plan.cell.brokers.is_some() { "-kafka" } else { "" };
    format!("{}{over}-{faults}{planted}-{}-{start_ms}.jsonl", plan.cell.workload, plan.seed)
}

fn judge(plan: &Plan, events: &[history::Event], mut done: Done, history: PathBuf) -> Report {
    let operations = history::operations(events).unwrap_or_else(|error| {
        done.unmet.push(error);
        Vec::new()
    });
    let mut judgement = plan.cell.workload.check(&operations);
    for broken in &done.broken {
        judgement.add("broken", || broken.clone());
    }
    done.unmet.append(&mut judgement.unmet);
    if done.marks.end_us > 0 {
        done.unmet.extend(rules::traffic(&operations, done.marks));
        done.unmet.extend(rules::faults(&plan.cell.faults, &done.installed, &operations));
    }
    let recovery = rules::recovery(&done.installed, &operations);
    done.unmet.extend(rules::slow_recovery(recovery));
    judgement.notes.push(format!("every node served again {recovery:.1?} after a fault at most"));
    let verdict = rules::verdict(&judgement, &done.unmet);
    let count = |outcome| operations.iter().filter(|operation| operation.outcome == outcome).count();
    Report {
        verdict,
        lines: lines(&judgement, &done.unmet, done.marks, &operations),
        operations: (count(Outcome::Done), operations.len()),
        faults: done.installed.len(),
        history,
    }
}

fn lines(judgement: &Judgement, unmet: &[String], marks: Marks, operations: &[Operation]) -> Vec<String> {
    let mut lines: Vec<String> =
        judgement.lines().into_iter().map(|line| format!("broken: {line}")).collect();
    lines.extend(unmet.iter().map(|rule| format!("unmet: {rule}")));
    lines.extend(judgement.notes.iter().cloned());
    let seconds = marks.end_us.saturating_sub(marks.begin_us) as f64 / 1e6;
    let done = operations.iter().filter(|o| o.outcome == Outcome::Done && o.ended_us < marks.end_us);
    lines.push(format!("{:.0} operations a second done over {seconds:.0} s", done.count() as f64 / seconds));
    lines
}

fn attempt(plan: &Plan, recorder: &Arc<Recorder>) -> Done {
    let mut rig = Rig::start(setup(plan), plan.cell.brokers, &plan.cell.faults, plan.rounds);
    let workload = plan.cell.workload.begin();
    let workload = workload.as_ref();
    let mut last = worker(&rig.cluster, plan, FREE_CLIENTS + plan.cell.nodes, None, recorder, LAST_PATIENCE);
    let prepared = workload.prepare(&mut last);
    prepared.unwrap_or_else(|error| panic!("{error}"));
    let workers: Vec<Worker> = (0..FREE_CLIENTS + plan.cell.nodes)
        .map(|number| {
            let bound_to = number.checked_sub(FREE_CLIENTS);
            worker(&rig.cluster, plan, number, bound_to, recorder, PATIENCE)
        })
        .collect();
    let mut done = Done::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for mut worker in workers {
            let stop = &stop;
            scope.spawn(move || work(workload, &mut worker, stop));
        }
        set_faults(plan, &mut rig, recorder, &mut done);
    });
    finish(&rig.cluster, workload, &mut last, &mut done);
    // With more nodes than replicas some have nothing of a partition.
    if done.unmet.is_empty() && rig.cluster.all().len() == 3 {
        compare_replicas(&rig.cluster, &mut done);
    }
    done
}

fn setup(plan: &Plan) -> Setup {
    let mut setup = Setup { nodes: plan.cell.nodes, partitions: plan.cell.partitions, ..Setup::default() };
    setup = setup.config(CONFIG).args(&["--multitenancy", "optional"]);
    if let Some(bug) = plan.plant {
        setup.binary = Some(planted_server());
        setup.env.push(("QUORATE_PLANT".to_owned(), bug.to_owned()));
    }
    setup
}

/// The server with the planted bugs: `QUORATE_PLANTED_BIN`, else what cargo built beside this program.
fn planted_server() -> PathBuf {
    if let Some(named) = std::env::var_os("QUORATE_PLANTED_BIN") {
        return PathBuf::from(named);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new(".")).join("quorate-jepsen-server");
    assert!(
        beside.is_file(),
        "no {}; build it with --features quorate-jepsen/planted-bugs",
        beside.display()
    );
    beside
}

fn worker(
    cluster: &Cluster,
    plan: &Plan,
    number: usize,
    bound_to: Option<usize>,
    recorder: &Arc<Recorder>,
    patience: Duration,
) -> Worker {
    let random = Random::new(plan.seed, number as u64 + 1);
    let clients = cluster.clients(0..plan.cell.nodes, patience);
    Worker::new(number, random, clients, bound_to, Arc::clone(recorder))
}

fn work(workload: &dyn Workload, worker: &mut Worker, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let begin = SystemClock.instant();
        workload.step(worker);
        pause(PACE.saturating_sub(begin.elapsed()));
    }
}

/// Sets each fault so many times, in an order that the seed decides.
fn set_faults(plan: &Plan, rig: &mut Rig, recorder: &Recorder, done: &mut Done) {
    let mut random = Random::new(plan.seed, 0);
    let mut order: Vec<Fault> = (0..plan.rounds).flat_map(|_| plan.cell.faults.clone()).collect();
    random.shuffle(&mut order);
    done.marks.begin_us = recorder.now_us();
    pause(BEFORE_FAULTS);
    done.marks.first_fault_us = recorder.now_us();
    for fault in order {
        let note = |what: String| {
            recorder.note(NEMESIS, Kind::Info, None, Op::Fault { what }, String::new());
        };
        let installed = rig.install(fault, &mut random);
        note(installed.what.clone());
        let set_us = recorder.now_us();
        pause(fault.hold());
        rig.begin_removal(&installed);
        done.installed.push(Setting { fault, set_us, back_us: recorder.now_us() });
        note(format!("no more {}", installed.what));
        rig.remove(installed);
        done.marks.calm_us = recorder.now_us();
        pause(fault.calm());
    }
    done.marks.end_us = recorder.now_us();
}

/// Reads all there is at each node.
fn finish(cluster: &Cluster, workload: &dyn Workload, last: &mut Worker, done: &mut Done) {
    for node in cluster.all().take(last.nodes()) {
        let begin = SystemClock.instant();
        loop {
            let told = workload.read_all(last, node);
            if told == Told::Done {
                break;
            }
            if begin.elapsed() > LAST_READS {
                done.unmet.push(format!("the last reads at n{} failed: {told:?}", node + 1));
                break;
            }
            pause(PACE);
        }
    }
}

/// At equal positions replicas are equal.
fn compare_replicas(cluster: &Cluster, done: &mut Done) {
    let compared = catch_unwind(AssertUnwindSafe(|| cluster.assert_replicas_equal(LAST_READS)));
    if let Err(panic) = compared {
        let text = text_of(panic.as_ref());
        let is_late = text.starts_with("waited");
        let list = if is_late { &mut done.unmet } else { &mut done.broken };
        list.push(format!("replicas: {text}"));
    }
}

/// Ends the clients, also when this thread panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::Name;

    #[test]
    fn no_two_runs_have_one_history() {
        use Fault::{KillAll, KillOne};
        let plan = |faults: &[Fault], plant| Plan {
            cell: Cell::new(Name::SetAppend, faults),
            seed: 7,
            rounds: 3,
            plant,
            folder: PathBuf::new(),
        };
        let names = [
            history_name(&plan(&[KillOne], None), 5),
            history_name(&plan(&[KillOne], None), 6),
            history_name(&plan(&[KillOne, KillAll], None), 5),
            history_name(&plan(&[KillOne], Some("local-read")), 5),
        ];
        assert_eq!(names[2], "set-append-kill-one+kill-all-7-5.jsonl");
        assert_eq!(names[3], "set-append-kill-one-local-read-7-5.jsonl");
        let kafka =
            Plan { cell: Cell::new(Name::SetAppend, &[KillOne]).over_kafka(), ..plan(&[KillOne], None) };
        let names = [&names[..], &[history_name(&kafka, 5)]].concat();
        assert_eq!(names[4], "set-append-kafka-kill-one-7-5.jsonl");
        assert_eq!(names.into_iter().collect::<std::collections::HashSet<_>>().len(), 5);
    }
}
