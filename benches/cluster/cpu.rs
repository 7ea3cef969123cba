//! CPU time of an acknowledged sample: of all three nodes with three replicas, against one node alone.

use crate::figure::{Figure, Unit};
use crate::load::{LIMIT, Load, STEP, destinations, nodes_of, pids, setup};
use crate::{Sizes, note};
use quorate_benches::bodies::Body;
use quorate_benches::gauge;
use quorate_benches::sender::{Destination, Report, send};
use quorate_cluster_tests::harness::cluster::Cluster;
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
    let one = cost(&to, &[pid], [&create, &steady], || ())?;
    drop(server);

    let mut cluster = Cluster::start(setup().args(&delays));
    let (to, pids) = (nodes_of(&cluster), pids(&mut cluster));
    let three = cost(&to, &pids, [&create, &steady], || cluster.assert_replicas_equal(LIMIT))?;
    let how = format!(
        "three nodes {:.2} µs, one {:.2} µs; {:.0} and {:.0} samples/s",
        three.micros,
        one.micros,
        three.report.rate(),
        one.report.rate()
    );
    let name = "CPU of an acknowledged sample, three nodes against one".to_owned();
    Ok(vec![Figure { name, value: three.micros / one.micros, bar: BAR, unit: Unit::Times, how }])
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
    report: Report,
}

/// What the processes `pids` need for the samples of known series until `done` returns.
fn cost(
    to: &[Destination],
    pids: &[u32],
    [create, steady]: [&[Vec<Body>]; 2],
    done: impl FnOnce(),
) -> Result<Cost, String> {
    send(to, create, 0)?;
    gauge::settle(pids, MOST_SETTLING)?;
    let before = gauge::cpu_of_all(pids)?;
    let report = send(to, steady, 0)?;
    done();
    let cpu = gauge::cpu_of_all(pids)? - before;
    note(&format!("  {report}, {:.2} s of CPU", cpu.as_secs_f64()));
    Ok(Cost { micros: cpu.as_secs_f64() * 1e6 / report.samples as f64, report })
}
