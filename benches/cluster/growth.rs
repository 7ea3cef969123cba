//! A fourth node joins three under load: how evenly replicas stand afterwards, and what writers notice meanwhile.

use crate::Sizes;
use crate::load::{LIMIT, Load, nodes_of, setup};
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_benches::sender::{Destination, Report, send};
use quorate_cluster_tests::harness::cluster::{Cluster, Setup, Status};
use quorate_cluster_tests::harness::{pause, wait_for};
use quorate_model::{Clock, SystemClock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const UNEVEN_BAR_PERCENT: f64 = 10.0;
const P99_BAR: f64 = 2.0;
const REPLICAS: usize = 3;
/// Replicas that stay where they are for so long have arrived.
const STEADY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MOST_MOVING: Duration = Duration::from_secs(180);

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let mut cluster = Cluster::start(Setup { spare: 1, ..setup() });
    let to = nodes_of(&cluster);
    let mut past = Load::new(sizes);
    note(&format!("  {}", send(&to, &past.next(1 + sizes.scrapes), 0)?));
    cluster.assert_replicas_equal(LIMIT);
    let mut live = Load::live(sizes.live_series);
    let created = send(&to, &live.next(1), 0)?;

    let rate = created.samples as u64;
    let mut before = Report::default();
    for _ in 0..sizes.calm_s {
        before.append(second(&to, &mut live, rate)?);
    }
    note(&format!("  before: {before}"));
    let start = SystemClock.instant();
    let during = while_loaded(&to, &mut live, rate, || join(&mut cluster))?;
    let took = start.elapsed();
    note(&format!("  during: {during}"));
    figures(&cluster, &before, &during, took)
}

/// One scrape, its requests spread over a second.
fn second(to: &[Destination], live: &mut Load, rate: u64) -> Result<Report, String> {
    let start = SystemClock.instant();
    let report = send(to, &live.next(1), rate)?;
    pause(SECOND.saturating_sub(start.elapsed()));
    Ok(report)
}

/// Sends one scrape a second from the time that `work` begins to the end of the scrape in which it ends.
fn while_loaded(
    to: &[Destination],
    live: &mut Load,
    rate: u64,
    work: impl FnOnce(),
) -> Result<Report, String> {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut report = Report::default();
            while !is_done.load(Ordering::Relaxed) {
                report.append(second(to, live, rate)?);
            }
            Ok(report)
        });
        // However it ends, the sender must too.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_done.store(true, Ordering::Relaxed);
        let report = sender.join().expect("a sender does not panic");
        worked.map_err(|_| "the fourth node did not settle".to_owned())?;
        report
    })
}

/// Starts the fourth node and waits until every replica is where it belongs, and stays there.
fn join(cluster: &mut Cluster) {
    let node = cluster.grow();
    cluster.launch(node);
    cluster.wait_ready(node);
    let mut steady = None;
    wait_for("replicas at their places", MOST_MOVING, || {
        let now = places(cluster);
        steady = match (now, steady.take()) {
            (Some(now), Some((before, since))) if now == before => Some((before, since)),
            (Some(now), _) => Some((now, SystemClock.instant())),
            (None, _) => None,
        };
        pause(LOOK);
        steady.as_ref().filter(|(_, since)| since.elapsed() >= STEADY).map(|_| ())
    });
}

/// The nodes that have a replica of each partition; `None` while a group differs from its placement.
fn places(cluster: &Cluster) -> Option<Vec<Vec<u64>>> {
    let statuses: Option<Vec<Status>> = cluster.all().map(|node| cluster.status(node)).collect();
    let statuses = statuses?;
    let sorted = |nodes: &[u64]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes
    };
    let placed = |status: &Status| -> Vec<Vec<u64>> {
        status.partitions.iter().map(|partition| sorted(&partition.replicas)).collect()
    };
    let is_settled = |status: &Status| {
        status.nodes.len() == cluster.all().len()
            && placed(status) == placed(&statuses[0])
            && status.partitions.iter().all(|partition| {
                let is_here = partition.replicas.contains(&status.node);
                let is_group = partition.voters.as_deref().map(sorted) == Some(sorted(&partition.replicas));
                partition.replicas.len() == REPLICAS && (!is_here || is_group)
            })
    };
    statuses.iter().all(is_settled).then(|| placed(&statuses[0]))
}

fn figures(
    cluster: &Cluster,
    before: &Report,
    during: &Report,
    took: Duration,
) -> Result<Vec<Figure>, String> {
    let status = cluster.status(0).ok_or("the first node does not answer")?;
    let replicas_of = |id| status.partitions.iter().filter(|one| one.replicas.contains(&id)).count();
    let replicas: Vec<usize> = status.nodes.iter().map(|node| replicas_of(node.id)).collect();
    let mean = replicas.iter().sum::<usize>() as f64 / replicas.len() as f64;
    let uneven = replicas.iter().map(|count| (*count as f64 - mean).abs() / mean * 100.0);
    let sizes = cluster.all().map(|node| gauge::folder_size(&cluster.data_dir(node)));
    let sizes = sizes.collect::<Result<Vec<u64>, String>>()?;
    let megabytes: Vec<u64> = sizes.iter().map(|bytes| bytes >> 20).collect();
    let ms = |report: &Report| report.quantile(0.99).as_secs_f64() * 1e3;
    let name = |what: &str| format!("a fourth node under load: {what}");
    Ok(vec![
        Figure {
            name: name("replicas per node from their mean"),
            value: uneven.fold(0.0, f64::max),
            bar: Bar::AtMost(UNEVEN_BAR_PERCENT),
            unit: Unit::Percent,
            how: format!("{replicas:?} after {:.0} s; data dirs of {megabytes:?} MiB", took.as_secs_f64()),
        },
        Figure {
            name: name("failed requests"),
            value: (before.retries + during.retries) as f64,
            bar: Bar::AtMost(0.0),
            unit: Unit::Requests,
            how: format!("{} samples acknowledged meanwhile", during.samples),
        },
        Figure {
            name: name("write p99 against before"),
            value: ms(during) / ms(before),
            bar: Bar::AtMost(P99_BAR),
            unit: Unit::Times,
            how: format!("{:.1} ms after {:.1} ms", ms(during), ms(before)),
        },
    ])
}
