//! What the measures share: a broker, nodes on a core of their own, series for them.

use crate::Sizes;
use quorate_benches::gauge;
use quorate_benches::scrapes::{Scrapes, Shape};
use quorate_benches::sender::Destination;
use quorate_cluster_tests::harness::http::{Client, NoAnswer};
use quorate_cluster_tests::harness::kafka::Kafka;
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::server::{Options, READY_LIMIT, Server};
use quorate_cluster_tests::harness::{now_ms, wait_for};
use std::process::Command;
use std::time::Duration;

/// Distance of two scrapes in the data.
pub(crate) const STEP: Duration = Duration::from_secs(15);
/// Nodes get this long to do what they are waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);
/// How long nodes may work on series that are new.
pub(crate) const MOST_SETTLING: Duration = Duration::from_secs(10);
/// Where runs what is measured.
const CORE: &str = "0";
const THREADS_SHOWN: usize = 6;

/// One broker, or why there is none.
pub(crate) fn broker() -> Result<Kafka, String> {
    if std::env::var_os("QUORATE_KAFKA_LIBS").is_none() {
        return Err("no Kafka broker: QUORATE_KAFKA_LIBS is not set (.ci/kafka prints it)".to_owned());
    }
    Ok(Kafka::start(1, &[]))
}

/// The version in the names of the broker's jars.
pub(crate) fn kafka_version() -> String {
    let libs = std::env::var_os("QUORATE_KAFKA_LIBS").and_then(|libs| std::fs::read_dir(libs).ok());
    let names = libs.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let version = |name: String| Some(name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?.to_owned());
    names.filter_map(version).next().unwrap_or_else(|| "of unknown version".to_owned())
}

/// Arguments of nodes whose log is `topic`, which they make.
pub(crate) fn kafka_log(kafka: &Kafka, topic: &str, compression: &str) -> Vec<String> {
    let brokers = kafka.bootstrap();
    let args = ["--log", "kafka", "--kafka-brokers", &brokers, "--kafka-topic", topic];
    let args = args.into_iter().chain(["--kafka-compression", compression]);
    let args = args.chain(["--kafka-replication-factor", "1", "--kafka-allow-unsafe-topic"]);
    args.map(str::to_owned).collect()
}

/// Arguments by which no window is written out meanwhile, because whether one ends depends on the time of day, nor an
/// image.
pub(crate) fn without_writing_out(scrapes: usize) -> Vec<String> {
    let delay = format!("{}s", (STEP * scrapes as u32).as_secs() + 3_600);
    let keys = ["--storage.close-delay", "--storage.late-delay", "--storage.image-interval"];
    keys.into_iter().flat_map(|key| [key.to_owned(), delay.clone()]).collect()
}

/// Series whose scrape number `scrapes` is at about the present.
pub(crate) fn series(sizes: &Sizes, scrapes: usize) -> Scrapes {
    let &Sizes { series, samples_per_request, connections, .. } = sizes;
    let step_ms = STEP.as_millis() as i64;
    let first_ms = now_ms() / step_ms * step_ms - scrapes as i64 * step_ms;
    Scrapes::new(Shape { series, step: STEP, samples_per_request, connections }, first_ms)
}

/// The same command on the core of what is measured.
pub(crate) fn pinned(command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", CORE]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// Waits until a server that was just started says at `path` that it is ready.
#[track_caller]
pub(crate) fn wait_ready(process: &mut Process, client: &Client, path: &str) {
    wait_for("a server that is ready", READY_LIMIT, || {
        assert!(process.exit().is_none(), "the server ended instead of getting ready");
        client.get(path, &[]).is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

/// One node by itself on a core of its own.
pub(crate) struct Node {
    // Before the server, which has its folder.
    process: Process,
    server: Server,
}

impl Node {
    #[track_caller]
    pub(crate) fn start(partitions: u32, args: &[String]) -> Self {
        let server = Server::prepare(Options { args: args.to_vec(), ..Options::default() });
        let mut command = server.command();
        command.args(["--self-monitor", "false", "--partitions", &partitions.to_string()]);
        let command = pinned(&command);
        let mut process = Process::start("quorate", &command, &server.log_path());
        wait_ready(&mut process, &server.client(), "/-/ready");
        Self { process, server }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where a load for it goes.
    pub(crate) fn destination(&self) -> [Destination; 1] {
        [Destination::new(&self.server.url())]
    }

    /// Returns when all is applied that was acknowledged before: a strong read waits for it.
    pub(crate) fn applied(&self) -> Result<(), String> {
        let client = self.server.client().with_header("X-Read-Consistency", "strong");
        let answer = client.get("/api/v1/query", &[("query", "count(up)")]);
        let answer = answer.map_err(|NoAnswer(why)| why)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.text())) }
    }
}

/// CPU time of a process and of its threads.
pub(crate) struct Spent {
    pub(crate) all: Duration,
    threads: Vec<(String, Duration)>,
}

impl Spent {
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        Ok(Self { all: gauge::cpu(pid)?, threads: gauge::cpu_by_thread(pid)? })
    }

    /// That of a process that has not begun.
    pub(crate) fn none() -> Self {
        Self { all: Duration::ZERO, threads: Vec::new() }
    }

    /// The threads that took most since `before`, by the names they share, in percent of the whole.
    pub(crate) fn threads_since(&self, before: &Self) -> String {
        let earlier =
            |name: &str| before.threads.iter().find(|(known, _)| known == name).map(|(_, time)| *time);
        let all = (self.all - before.all).as_secs_f64();
        let since = |(name, time): &(String, Duration)| {
            (name.clone(), time.saturating_sub(earlier(name).unwrap_or_default()).as_secs_f64() / all * 100.0)
        };
        let mut shares: Vec<(String, f64)> = self.threads.iter().map(since).collect();
        shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let shown = shares.iter().take(THREADS_SHOWN).map(|(name, share)| format!("{name} {share:.0} %"));
        shown.collect::<Vec<_>>().join(", ")
    }
}
