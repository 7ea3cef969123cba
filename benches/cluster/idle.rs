//! What partitions cost that nobody writes to: CPU time of three nodes, each with a replica of all of them.

use crate::Sizes;
use crate::load::{pids, setup};
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::pause;
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

const BAR_PERCENT: f64 = 5.0;
/// Elections and what follows them are over by then.
const MOST_SETTLING: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let partitions = sizes.idle_partitions;
    let mut cluster = Cluster::start(Setup { partitions, ..setup() });
    cluster.leaders();
    let pids = pids(&mut cluster);
    gauge::settle(&pids, MOST_SETTLING)?;
    let used = || pids.iter().map(|pid| gauge::cpu(*pid)).collect::<Result<Vec<_>, _>>();
    let (start, before) = (SystemClock.instant(), used()?);
    while start.elapsed() < Duration::from_secs(sizes.idle_s) {
        pause(LOOK);
    }
    let (elapsed, after) = (start.elapsed(), used()?);
    let share = |(after, before): (&Duration, &Duration)| {
        (*after - *before).as_secs_f64() / elapsed.as_secs_f64() * 100.0
    };
    let shares: Vec<f64> = after.iter().zip(&before).map(share).collect();
    note(&format!("  {shares:.2?} % of a core"));
    Ok(vec![Figure {
        name: format!("{partitions} idle partitions, the busiest node, of a core"),
        value: shares.iter().copied().fold(f64::NAN, f64::max),
        bar: Bar::AtMost(BAR_PERCENT),
        unit: Unit::Percent,
        how: format!("{shares:.1?} % over {} s", sizes.idle_s),
    }])
}
