//! CPU time of a sample of a known series: of one node that produces it to Kafka, reads it back and applies it, against
//! one node with the embedded log. Both run side by side and get the same bodies in turn.

use crate::Sizes;
use crate::setup::{MOST_SETTLING, Node, Spent, broker, kafka_log, series, without_writing_out};
use quorate_benches::bodies::Body;
use quorate_benches::figure::{Bar, Figure, Unit, median};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_benches::sender::send;

const BAR: f64 = 1.6;

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    sizes.partitions.iter().map(|partitions| against_embedded(sizes, *partitions)).collect()
}

fn against_embedded(sizes: &Sizes, partitions: u32) -> Result<Figure, String> {
    let kafka = broker()?;
    let scrapes = 1 + sizes.cpu_rounds * sizes.cpu_scrapes;
    let delays = without_writing_out(scrapes);
    let log = kafka_log(&kafka, "cpu", &sizes.compression);
    let nodes = [Node::start(partitions, &delays), Node::start(partitions, &[log, delays].concat())];
    let mut series = series(sizes, scrapes);
    let create = series.next(1);
    for node in &nodes {
        send(&node.destination(), &create, 0)?;
        node.applied()?;
    }
    gauge::settle(&nodes.each_ref().map(Node::pid), MOST_SETTLING)?;
    let mut costs = [Vec::new(), Vec::new()];
    let mut of_broker = Vec::new();
    for _ in 0..sizes.cpu_rounds {
        let bodies = series.next(sizes.cpu_scrapes);
        let broker = kafka.process(0).pid();
        let before = gauge::cpu(broker)?;
        for (node, costs) in nodes.iter().zip(&mut costs) {
            costs.push(cost(node, &bodies)?);
        }
        let samples: usize = bodies.iter().flatten().map(|body| body.samples).sum();
        of_broker.push((gauge::cpu(broker)? - before).as_secs_f64() * 1e6 / samples as f64);
    }
    let [embedded, kafka] = costs.map(median);
    let how = format!(
        "Kafka {kafka:.2} µs, embedded {embedded:.2} µs, medians of {} rounds of {} scrapes; {}; broker {:.2} µs, not \
         counted",
        sizes.cpu_rounds,
        sizes.cpu_scrapes,
        sizes.compression,
        median(of_broker),
    );
    let name = format!("CPU of a sample, Kafka against embedded log, {partitions} partitions");
    Ok(Figure { name, value: kafka / embedded, bar: Bar::AtMost(BAR), unit: Unit::Times, how })
}

/// Microseconds of CPU time for each sample, from the first request until the last sample is applied.
fn cost(node: &Node, bodies: &[Vec<Body>]) -> Result<f64, String> {
    let before = Spent::of(node.pid())?;
    let report = send(&node.destination(), bodies, 0)?;
    node.applied()?;
    let after = Spent::of(node.pid())?;
    let micros = (after.all - before.all).as_secs_f64() * 1e6 / report.samples as f64;
    note(&format!("  {micros:.2} µs: {}; {report}", after.threads_since(&before)));
    Ok(micros)
}
