//! Strong reads against eventual ones: the same queries of a dashboard at the same node, in turn.

use crate::Sizes;
use crate::load::{LIMIT, Load, nodes_of, setup};
use quorate_benches::figure::{Bar, Figure, Unit, median};
use quorate_benches::queries::{ask, queries};
use quorate_benches::results::note;
use quorate_benches::sender::send;
use quorate_cluster_tests::harness::cluster::Cluster;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::now_ms;
use quorate_model::{Clock, SystemClock};

const BAR: f64 = 1.3;

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let mut load = Load::new(sizes);
    let cluster = Cluster::start(setup());
    note(&format!("  {}", send(&nodes_of(&cluster), &load.next(1 + sizes.scrapes), 0)?));
    cluster.assert_replicas_equal(LIMIT);
    let end_ms = now_ms();
    let reader = |consistency| cluster.client(0, LIMIT).with_header("X-Read-Consistency", consistency);
    let readers = [reader("strong"), reader("eventual")];
    let mut ratios = Vec::new();
    let mut medians = [Vec::new(), Vec::new()];
    for query in queries().iter().filter(|query| query.is_range()) {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..sizes.questions {
            for (client, times) in readers.iter().zip(&mut times) {
                times.push(millis(client, query, end_ms)?);
            }
        }
        let [strong, eventual] = times.map(median);
        note(&format!("  strong {strong:.2} ms, eventual {eventual:.2} ms: {}", query.text));
        ratios.push(strong / eventual);
        medians[0].push(strong);
        medians[1].push(eventual);
    }
    let asked = ratios.len();
    let [strong, eventual] = medians.map(median);
    let how = format!(
        "the median of {asked} queries' ratios, each of p50s of {} answers; p50 of all {strong:.2} and {eventual:.2} ms",
        sizes.questions
    );
    let name = "strong against eventual read of a dashboard query, p50".to_owned();
    Ok(vec![Figure { name, value: median(ratios), bar: Bar::AtMost(BAR), unit: Unit::Times, how }])
}

fn millis(client: &Client, query: &quorate_benches::queries::Query, end_ms: i64) -> Result<f64, String> {
    let start = SystemClock.instant();
    ask(client, query, &[], end_ms)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
