//! Bytes that a sample of a known series takes in the topic, by the length of the broker's segments.

use crate::Sizes;
use crate::setup::{Node, STEP, broker, kafka_log, series, without_writing_out};
use quorate_benches::bodies::Body;
use quorate_benches::figure::{Bar, Figure, Unit};
use quorate_benches::results::note;
use quorate_benches::sender::send;
use quorate_cluster_tests::harness::kafka::Kafka;
use std::path::Path;

/// Codecs, and the most bytes of a sample with each.
const BARS: [(&str, f64); 2] = [("none", 10.0), ("zstd", 6.0)];

pub(crate) fn measure(sizes: &Sizes) -> Result<Vec<Figure>, String> {
    let kafka = broker()?;
    let mut figures = Vec::new();
    for partitions in &sizes.partitions {
        for (codec, bar) in BARS {
            figures.extend(with_codec(sizes, &kafka, *partitions, codec, bar)?);
        }
    }
    Ok(figures)
}

/// As fast as samples are taken, and at the pace of their times.
fn with_codec(
    sizes: &Sizes,
    kafka: &Kafka,
    partitions: u32,
    codec: &str,
    bar: f64,
) -> Result<[Figure; 2], String> {
    let scrapes = 1 + sizes.fast_scrapes + sizes.timely_scrapes;
    let topic = format!("{codec}{partitions}");
    let log = kafka_log(kafka, &topic, codec);
    let node = Node::start(partitions, &[log, without_writing_out(scrapes)].concat());
    let mut series = series(sizes, scrapes);
    let cost = |bodies: &[Vec<Body>], rate| bytes_per_sample(kafka, &topic, &node, bodies, rate);
    let new = cost(&series.next(1), 0)?;
    let fast = cost(&series.next(sizes.fast_scrapes), 0)?;
    let rate = sizes.series as u64 / STEP.as_secs();
    let timely = cost(&series.next(sizes.timely_scrapes), rate)?;
    let figure = |pace: &str, value, scrapes: usize, how| Figure {
        name: format!("bytes of a sample in the topic, {codec}, {pace}, {partitions} partitions"),
        value,
        bar: Bar::AtMost(bar),
        unit: Unit::Bytes,
        how: format!("{scrapes} scrapes{how}"),
    };
    let first = format!("; {new:.0} B for the first sample of a series, its labels included");
    let paced = format!(", {rate} samples/s over {} connections", sizes.connections);
    Ok([
        figure("as fast as they are taken", fast, sizes.fast_scrapes, first),
        figure("at the pace of 15 s", timely, sizes.timely_scrapes, paced),
    ])
}

fn bytes_per_sample(
    kafka: &Kafka,
    topic: &str,
    node: &Node,
    bodies: &[Vec<Body>],
    rate: u64,
) -> Result<f64, String> {
    let before = log_bytes(&kafka.files().data(0), topic)?;
    let report = send(&node.destination(), bodies, rate)?;
    note(&format!("  {topic}: {report}"));
    match log_bytes(&kafka.files().data(0), topic)? - before {
        0 => Err(format!("the broker has got nothing in topic {topic}")),
        grown => Ok(grown as f64 / report.samples as f64),
    }
}

/// Length of the segments of all partitions of a topic, without their indexes, whose files have room to spare.
fn log_bytes(data: &Path, topic: &str) -> Result<u64, String> {
    let list = |folder: &Path| std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()));
    let mut bytes = 0;
    for partition in list(data)? {
        let partition = partition.map_err(|e| e.to_string())?;
        let name = partition.file_name().to_string_lossy().into_owned();
        if name.rsplit_once('-').is_none_or(|(of, _)| of != topic) {
            continue;
        }
        for file in list(&partition.path())? {
            let file = file.map_err(|e| e.to_string())?;
            if file.path().extension().is_some_and(|extension| extension == "log") {
                bytes += file.metadata().map_err(|e| e.to_string())?.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_the_topic_count_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        for (file, bytes) in [("a-0/0.log", 3), ("a-1/0.log", 4), ("a-1/0.index", 50), ("a-b-0/0.log", 60)] {
            let path = data.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![0; bytes]).unwrap();
        }
        assert_eq!(log_bytes(data.path(), "a"), Ok(7));
        assert_eq!(log_bytes(data.path(), "c"), Ok(0));
    }
}
