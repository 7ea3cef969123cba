//! How long no write is acknowledged after the kill of a node that leads: partitions, or the metadata.

use crate::Sizes;
use crate::load::{LIMIT, setup};
use quorate_benches::figure::{Bar, Figure, Unit, median};
use quorate_benches::results::note;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::{now_ms, wait_for};
use quorate_cluster_tests::ledger::{Stream, Team, check};
use std::time::Duration;

const SLOWEST_BAR: f64 = 5.0;
const MEDIAN_BAR: f64 = 3.5;
/// A sender waits as long as a gateway looks for a leader, so that the figure is that of the cluster.
const PATIENCE: Duration = Duration::from_secs(10);
const WRITERS: usize = 3;
/// In one batch; enough for each partition to have some.
const SERIES_PER_WRITER: usize = 300;
const SAMPLES_PER_SECOND: u64 = 9_000;

/// Which node is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// The one that leads most partitions, and not the metadata.
    OfPartitions,
    /// The one that leads the metadata.
    OfMetadata,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::OfPartitions => "a leader of partitions",
            Self::OfMetadata => "the leader of the metadata",
        }
    }
}

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let mut cluster = Cluster::start(setup());
    let stream = |writer| Stream {
        writer,
        series: SERIES_PER_WRITER,
        base_ms: now_ms() - 60_000,
        // A batch each 100 ms at this pace, for minutes.
        step_ms: 20,
    };
    let clients = cluster.clients(cluster.all(), PATIENCE);
    let team = Team::start_at(&clients, (0..WRITERS).map(stream).collect(), SAMPLES_PER_SECOND);
    team.gate().open();
    wait_for("a load", LIMIT, || (team.acknowledged() >= SAMPLES_PER_SECOND).then_some(()));
    let mut figures = Vec::new();
    for victim in [Victim::OfPartitions, Victim::OfMetadata] {
        let times: Vec<f64> = (0..sizes.kills).map(|_| kill(&mut cluster, &team, victim)).collect();
        figures.extend(figures_of(victim, times));
    }
    let ledgers = team.finish();
    cluster.assert_replicas_equal(LIMIT);
    let findings = check(&cluster.client(0, LIMIT), &ledgers, &ledgers);
    note(&format!("  {findings}"));
    if findings.is_clean() { Ok(figures) } else { Err(format!("samples are wrong after it: {findings}")) }
}

/// Kills a node and starts it again; seconds until a write of each sender that began after the kill was acknowledged.
fn kill(cluster: &mut Cluster, team: &Team, victim: Victim) -> f64 {
    // A node that has just come back leads nothing yet: to kill it would cost nobody anything.
    wait_for("a share of the leaders at every node", LIMIT, || {
        let leaders = cluster.leaders();
        let led_by = |node: usize| leaders.iter().filter(|leader| **leader == node).count();
        cluster.all().all(|node| led_by(node) * 2 * cluster.all().len() >= leaders.len()).then_some(())
    });
    let leads_metadata = cluster.metadata_leader();
    let node = match victim {
        Victim::OfPartitions => cluster.busiest(Some(leads_metadata)),
        Victim::OfMetadata => leads_metadata,
    };
    let recovery = team.recovery(LIMIT, || {
        cluster.kill9(node);
    });
    note(&format!("  {}: {recovery:.2?}", victim.name()));
    cluster.restart(node);
    recovery.all.as_secs_f64()
}

fn figures_of(victim: Victim, times: Vec<f64>) -> [Figure; 2] {
    let slowest = times.iter().copied().fold(f64::NAN, f64::max);
    let name = |which| format!("kill of {}: acknowledged writes again, {which}", victim.name());
    let each: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
    let how = format!("{} kills: {} s", times.len(), each.join(", "));
    let seconds = |which, value, bar, how| Figure {
        name: name(which),
        value,
        bar: Bar::AtMost(bar),
        unit: Unit::Seconds,
        how,
    };
    [
        seconds("slowest", slowest, SLOWEST_BAR, how),
        seconds("median", median(times), MEDIAN_BAR, String::new()),
    ]
}
