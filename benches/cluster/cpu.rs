//! CPU time of an acknowledged sample: of all three nodes with three replicas, against one node alone.

use crate::Sizes;
use crate::load::{LIMIT, Load, STEP, destinations, nodes_of, pids, setup};
use quorate_benches::bodies::Body;
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_benches::sender::{Destination, Report, send};
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::{Client, NoAnswer};
use quorate_cluster_tests::harness::server::{Options, Server};
use std::time::Duration;

const BAR: f64 = 2.2;
/// How long nodes may work on series that are new.
const MOST_SETTLING: Duration = Duration::from_secs(10);

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let mut load = Load::new(sizes);
    let (create, steady) = (load.next(1), load.next(sizes.scrapes));
    let delays = delays(sizes);
    let delays: Vec<&str> = delays.iter().map(String::as_str).collect();

    let options = Options::default().args(&["--self-monitor", "false"]).args(&delays);
    let mut server = Server::start(options);
    let (to, pid) = (destinations([server.url()]), server.process().pid());
    let nodes = [server.client()];
    let one = cost(&to, &nodes, &[pid], [&create, &steady], || ())?;
    drop(server);

    let mut cluster = Cluster::start(setup().args(&delays));
    let (to, pids) = (nodes_of(&cluster), pids(&mut cluster));
    let nodes = cluster.clients(cluster.all(), LIMIT);
    let three = cost(&to, &nodes, &pids, [&create, &steady], || cluster.assert_replicas_equal(LIMIT))?;
    let how = format!(
        "three nodes {:.2} µs, one {:.2} µs; {:.0} and {:.0} samples/s; {:.0} and {:.0} samples an entry of the log",
        three.micros,
        one.micros,
        three.report.rate(),
        one.report.rate(),
        three.samples_per_entry,
        one.samples_per_entry,
    );
    let name = "CPU of an acknowledged sample, three nodes against one".to_owned();
    Ok(vec![Figure { name, value: three.micros / one.micros, bar: Bar::AtMost(BAR), unit: Unit::Times, how }])
}

/// Windows are not written out meanwhile, because whether one ends depends on the time of day.
fn delays(sizes: &Sizes) -> Vec<String> {
    let span = STEP * (sizes.scrapes as u32 + 2) + Duration::from_secs(3_600);
    let keys = ["--storage.close-delay", "--storage.late-delay", "--storage.image-interval"];
    keys.into_iter().flat_map(|key| [key.to_owned(), format!("{}s", span.as_secs())]).collect()
}

struct Cost {
    /// Microseconds of CPU time for each sample.
    micros: f64,
    /// How many samples share what an entry costs.
    samples_per_entry: f64,
    report: Report,
}

/// What the processes `pids` need for the samples of known series until `done` returns.
fn cost(
    to: &[Destination],
    nodes: &[Client],
    pids: &[u32],
    [create, steady]: [&[Vec<Body>]; 2],
    done: impl FnOnce(),
) -> Result<Cost, String> {
    send(to, create, 0)?;
    gauge::settle(pids, MOST_SETTLING)?;
    let entries = entries(nodes)?;
    let before = gauge::cpu_of_all(pids)?;
    let report = send(to, steady, 0)?;
    done();
    let cpu = gauge::cpu_of_all(pids)? - before;
    // Each node has the entries of all partitions.
    let entries = (self::entries(nodes)? - entries) / nodes.len() as f64;
    note(&format!("  {report}, {:.2} s of CPU, {entries:.0} entries", cpu.as_secs_f64()));
    let samples = report.samples as f64;
    Ok(Cost { micros: cpu.as_secs_f64() * 1e6 / samples, samples_per_entry: samples / entries, report })
}

/// Entries that the nodes have written to their logs, all together.
fn entries(nodes: &[Client]) -> Result<f64, String> {
    let written = |node: &Client| {
        let page = node.get("/metrics", &[]).map_err(|NoAnswer(why)| why)?.text();
        let line = page.lines().find_map(|line| line.strip_prefix("quorate_log_entries_total "));
        let count = line.and_then(|count| count.trim().parse::<f64>().ok());
        count.ok_or_else(|| format!("{} does not count the entries of its log", node.base()))
    };
    nodes.iter().map(written).sum()
}
