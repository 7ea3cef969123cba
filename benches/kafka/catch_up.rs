//! A node that was away: how fast it reads and applies what it missed on one core, and what those notice meanwhile who
//! ask the other node.
//!
//! Two nodes with two replicas. The second one is stopped once its images hold what was written so far; then the first
//! one alone takes what the second misses. From the start of its process to the time when it says it is ready, which it
//! does once it has applied all that was in the topic when it started. It misses as much twice: the rate is that of the
//! first time, when nobody asks anything.

use crate::setup::{LIMIT, Spent, broker, kafka_log, pinned, series, wait_ready};
use crate::{Sizes, victoria};
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::queries::{Query, ask, queries};
use quorate_benches::results::note;
use quorate_benches::scrapes::Scrapes;
use quorate_benches::sender::{Destination, Report, send};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::http::{Client, NoAnswer};
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::{pause, wait_for};
use quorate_model::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RATE_BAR: f64 = 1.5;
const QUERY_BAR: f64 = 2.0;
/// Scrapes whose bodies are in memory at once.
const AT_ONCE: usize = 20;
/// Between an answer and the next question.
const BREATH: Duration = Duration::from_millis(5);
/// The node that stays and the one that is away.
const STAYS: usize = 0;
const AWAY: usize = 1;

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let rival = victoria::rate(sizes)?;
    let kafka = broker()?;
    let log = kafka_log(&kafka, "catch-up", &sizes.compression);
    let mut pair = Pair::start(sizes.first_partitions(), &log);
    let mut series = series(sizes, 1 + 2 * sizes.missed_scrapes);
    send(&pair.to(), &series.next(1), 0)?;

    let missed = pair.miss(&mut series, sizes.missed_scrapes)?;
    let took = pair.come_back()?;
    pair.miss(&mut series, sizes.missed_scrapes)?;
    let end_ms = series.now_ms();
    let asker = Asker::new(&pair, end_ms);
    let during = asker.ask_while(|| pair.come_back())?;
    pair.cluster.assert_replicas_equal(LIMIT);
    let idle = asker.ask_times(during.len())?;

    for (when, times) in [("meanwhile", &during), ("idle", &idle)] {
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        note(&format!("  {when}: p50 {:.1?}, p90 {:.1?}, the longest {:.1?}", at(50), at(90), at(100)));
    }
    let rate = missed.samples as f64 / took.as_secs_f64();
    let p99 = |times: &[Duration]| times[times.len() * 99 / 100].as_secs_f64() * 1e3;
    let rate = Figure {
        name: "a node that was away catches up on one core, against VictoriaMetrics' writes on one"
            .to_owned(),
        value: rate / rival,
        bar: Bar::AtLeast(RATE_BAR),
        unit: Unit::Times,
        how: format!(
            "{rate:.0} samples/s, {} in {:.1} s from the start of the process; VictoriaMetrics {rival:.0} samples/s; {}",
            missed.samples,
            took.as_secs_f64(),
            sizes.compression,
        ),
    };
    let asked = Figure {
        name: "instant query p99 at the node that stays while the other catches up, against idle".to_owned(),
        value: p99(&during) / p99(&idle),
        bar: Bar::AtMost(QUERY_BAR),
        unit: Unit::Times,
        how: format!(
            "{:.1} ms, idle {:.1} ms; eventual, {} queries each",
            p99(&during),
            p99(&idle),
            idle.len()
        ),
    };
    Ok(vec![rate, asked])
}

/// Two nodes, of which the second is here or away.
struct Pair {
    // Before the cluster, which has its folder.
    second: Option<Process>,
    cluster: Cluster,
}

impl Pair {
    fn start(partitions: u32, log: &[String]) -> Self {
        let setup = Setup { nodes: 2, on_loopback: true, partitions, ..Setup::default() };
        let log: Vec<&str> = log.iter().map(String::as_str).collect();
        // Images often, so that one is never waited for for minutes.
        let setup = setup.args(&["--replication-factor", "2", "--storage.image-interval", "10s"]).args(&log);
        // No window is written out, because whether one ends depends on the time of day.
        let setup = setup.args(&["--storage.close-delay", "6h", "--storage.late-delay", "6h"]);
        let mut pair = Self { second: None, cluster: Cluster::prepare(setup) };
        pair.cluster.launch(STAYS);
        // Each needs the other to get ready.
        pair.launch_second();
        pair.cluster.wait_ready(STAYS);
        pair.wait_second();
        pair.cluster.assert_replicas_equal(LIMIT);
        pair
    }

    fn to(&self) -> [Destination; 1] {
        [Destination::new(&self.cluster.url(STAYS))]
    }

    fn launch_second(&mut self) {
        let log = self.cluster.data_dir(AWAY).with_extension("log");
        self.second = Some(Process::start("n2", &pinned(&self.cluster.command(AWAY)), &log));
    }

    fn wait_second(&mut self) {
        let client = self.cluster.client(AWAY, LIMIT);
        wait_ready(self.second.as_mut().expect("the second node runs"), &client, "/-/ready");
    }

    /// Stops the second node once its images hold what there is, and writes `scrapes` at the first one.
    fn miss(&mut self, series: &mut Scrapes, scrapes: usize) -> Result<Report, String> {
        self.cluster.assert_replicas_equal(LIMIT);
        let applied = positions(&self.cluster.client(STAYS, LIMIT), "quorate_applied_position")?;
        wait_for("images of the second node", LIMIT, || {
            let durable = positions(&self.cluster.client(AWAY, LIMIT), "quorate_durable_position").ok()?;
            applied.iter().all(|(partition, at)| durable.get(partition) >= Some(at)).then_some(())
        });
        let ended = self.second.take().expect("the second node runs").terminate(LIMIT);
        if !ended.success() {
            return Err(format!("the second node ended with {ended}"));
        }
        let mut report = Report::default();
        for begun in (0..scrapes).step_by(AT_ONCE) {
            let bodies = series.next(AT_ONCE.min(scrapes - begun));
            report.append(send(&self.to(), &bodies, 0)?);
        }
        note(&format!("  missed: {report}"));
        Ok(report)
    }

    /// Starts the second node and tells how long it took until it had applied what it missed.
    fn come_back(&mut self) -> Result<Duration, String> {
        let start = SystemClock.instant();
        self.launch_second();
        self.wait_second();
        let took = start.elapsed();
        let pid = self.second.as_ref().expect("the second node runs").pid();
        let none = Spent::none();
        let spent = Spent::of(pid)?;
        note(&format!("  back after {took:.2?}, CPU {:.2?}: {}", spent.all, spent.threads_since(&none)));
        Ok(took)
    }
}

/// A gauge of each partition.
fn positions(client: &Client, gauge: &str) -> Result<BTreeMap<String, u64>, String> {
    let page = client.get("/metrics", &[]).map_err(|NoAnswer(why)| why)?.text();
    let line = |line: &str| {
        let (partition, value) = line.strip_prefix(gauge)?.strip_prefix('{')?.split_once("} ")?;
        Some((partition.to_owned(), value.trim().parse::<f64>().ok()? as u64))
    };
    let found: BTreeMap<String, u64> = page.lines().filter_map(line).collect();
    if found.is_empty() { Err(format!("the node does not tell {gauge}")) } else { Ok(found) }
}

/// Asks the node that stays the instant queries of the list, one after the other.
struct Asker {
    client: Client,
    queries: Vec<Query>,
    end_ms: i64,
}

impl Asker {
    fn new(pair: &Pair, end_ms: i64) -> Self {
        let client = pair.cluster.client(STAYS, LIMIT).with_header("X-Read-Consistency", "eventual");
        let queries = queries().into_iter().filter(|query| !query.is_range()).collect();
        Self { client, queries, end_ms }
    }

    /// How long each answer took while `work` went on, sorted.
    fn ask_while<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<Vec<Duration>, String> {
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask(|_| !is_done.load(Ordering::Relaxed)));
            // However it ends, the questions must too.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            is_done.store(true, Ordering::Relaxed);
            let times = asking.join().expect("who asks does not panic");
            worked.map_err(|_| "the node did not come back".to_owned())??;
            times
        })
    }

    /// How long each of `count` answers took, sorted.
    fn ask_times(&self, count: usize) -> Result<Vec<Duration>, String> {
        self.ask(|asked| asked < count)
    }

    fn ask(&self, goes_on: impl Fn(usize) -> bool) -> Result<Vec<Duration>, String> {
        let mut times = Vec::new();
        for query in self.queries.iter().cycle() {
            if !goes_on(times.len()) {
                break;
            }
            let start = SystemClock.instant();
            ask(&self.client, query, &[], self.end_ms)?;
            times.push(start.elapsed());
            pause(BREATH);
        }
        times.sort_unstable();
        if times.is_empty() { Err("nothing was asked".to_owned()) } else { Ok(times) }
    }
}
