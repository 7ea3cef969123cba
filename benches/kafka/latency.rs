//! How long a write takes at a pace that leaves room: one node with Kafka, against one with the embedded log, in turn.

use crate::Sizes;
use crate::setup::{MOST_SETTLING, Node, broker, kafka_log, series, without_writing_out};
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::gauge;
use quorate_benches::results::note;
use quorate_benches::sender::{Report, send};

const BAR: f64 = 3.0;

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let kafka = broker()?;
    let of_round = (sizes.rate * sizes.latency_s).div_ceil(sizes.series as u64) as usize;
    let scrapes = 1 + sizes.latency_rounds * of_round;
    let delays = without_writing_out(scrapes);
    let log = kafka_log(&kafka, "latency", &sizes.compression);
    let partitions = sizes.first_partitions();
    let nodes = [Node::start(partitions, &delays), Node::start(partitions, &[log, delays].concat())];
    let mut series = series(sizes, scrapes);
    let create = series.next(1);
    for node in &nodes {
        send(&node.destination(), &create, 0)?;
        node.applied()?;
    }
    gauge::settle(&nodes.each_ref().map(Node::pid), MOST_SETTLING)?;
    let mut reports = [Report::default(), Report::default()];
    for _ in 0..sizes.latency_rounds {
        let bodies = series.next(of_round);
        for (node, sum) in nodes.iter().zip(&mut reports) {
            let report = send(&node.destination(), &bodies, sizes.rate)?;
            note(&format!("  {report}"));
            sum.append(report);
        }
    }
    let ms = |report: &Report, share| report.quantile(share).as_secs_f64() * 1e3;
    let [embedded, kafka] = &reports;
    let how = format!(
        "{:.1} ms, embedded {:.1} ms (p50 {:.1} and {:.1} ms); {:.0} and {:.0} samples/s, {} rounds of {} s each; {}",
        ms(kafka, 0.99),
        ms(embedded, 0.99),
        ms(kafka, 0.5),
        ms(embedded, 0.5),
        kafka.rate(),
        embedded.rate(),
        sizes.latency_rounds,
        sizes.latency_s,
        sizes.compression,
    );
    let name = "write p99 at the same pace, Kafka against embedded log".to_owned();
    let value = ms(kafka, 0.99) / ms(embedded, 0.99);
    Ok(vec![Figure { name, value, bar: Bar::AtMost(BAR), unit: Unit::Times, how }])
}
