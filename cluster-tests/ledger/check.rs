//! Reads a ledger's samples back over HTTP and compares them with what the writers know.

use super::{ENDING, Ledger, METRIC, Outcome, Sample, Stream};
use crate::harness::http::{Answer, Client};
use crate::harness::now_ms;
use quorate_model::{BucketCounts, Histogram};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Batches read by one query, so that answers stay small.
const BATCHES_PER_QUERY: usize = 64;
/// Examples kept of each kind of finding.
const EXAMPLES: usize = 5;
/// What "anywhere" means: this far to either side of now, far beyond every time a writer uses.
const ANYWHERE_MS: i64 = 25 * 365 * 86_400_000;

/// What can be wrong with a stored sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Acknowledged and not there.
    Lost,
    /// There more than once.
    Double,
    /// There though never sent, or with a value never sent.
    Phantom,
}

/// All that was found wrong, with examples.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Acknowledged samples that are missing.
    pub lost: u64,
    /// Samples that are there twice.
    pub double: u64,
    /// Samples nobody sent.
    pub phantom: u64,
    /// Samples found right.
    pub right: u64,
    /// Samples of unknown fate that turned out to be stored.
    pub kept_unknown: u64,
    /// Samples read, of whatever kind.
    read: u64,
    examples: Vec<String>,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.double == 0 && self.phantom == 0
    }

    fn add(&mut self, finding: Finding, example: impl FnOnce() -> String) {
        self.add_some(finding, 1, example);
    }

    /// Adds `samples` findings of one kind, with one example for all.
    fn add_some(&mut self, finding: Finding, samples: u64, example: impl FnOnce() -> String) {
        let count = match finding {
            Finding::Lost => &mut self.lost,
            Finding::Double => &mut self.double,
            Finding::Phantom => &mut self.phantom,
        };
        *count += samples;
        if *count < EXAMPLES as u64 + samples {
            self.examples.push(format!("{finding:?} {}", example()));
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, double, phantom, right, kept_unknown, read: _, examples } = self;
        write!(f, "{lost} lost, {double} double, {phantom} phantom, {right} right, ")?;
        write!(f, "{kept_unknown} of unknown fate stored {examples:#?}")
    }
}

/// Compares what the server holds with `ledgers`, sample by sample.
///
/// `sent` are the same writers at a later moment, or the same moment: what was sent after `ledgers` were taken
/// may be there or not. Reads a margin of one query before the first and after the last batch as well, where what
/// is wrong is told sample by sample. A count over all times then tells whether there is any sample elsewhere.
///
/// # Panics
/// When a query fails: an unreadable server proves nothing.
#[track_caller]
pub fn check(client: &Client, ledgers: &[Ledger], sent: &[Ledger]) -> Findings {
    let mut findings = Findings::default();
    check_series(client, sent, &mut findings);
    let counted = counted_anywhere(client, sent, &mut findings);
    for ((ledger, sent), counted) in ledgers.iter().zip(sent).zip(counted) {
        let read_before = findings.read;
        let margin = BATCHES_PER_QUERY as i64;
        let mut first = -margin;
        while first < sent.outcomes.len() as i64 + margin {
            check_batches(client, ledger, sent, first..first + margin, &mut findings);
            check_ends(client, ledger, first.max(0)..(first + margin).max(0), &mut findings);
            first += margin;
        }
        compare_counts(sent.stream.writer, counted, findings.read - read_before, &mut findings);
    }
    findings
}

/// How many samples the server has of each writer, wherever in time. One of a writer that nobody is, is a phantom.
#[track_caller]
fn counted_anywhere(client: &Client, sent: &[Ledger], findings: &mut Findings) -> Vec<u64> {
    let query = format!("sum by (writer) (count_over_time({METRIC}[{}ms]))", 2 * ANYWHERE_MS);
    let time = seconds(now_ms() + ANYWHERE_MS);
    let data = client.api("/api/v1/query", &[("query", &query), ("time", &time)]);
    let mut counted = vec![0; sent.len()];
    for row in data["result"].as_array().map_or(&[][..], Vec::as_slice) {
        let samples = row["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        let samples = samples.unwrap_or_else(|| panic!("{query}: no count in {row}")) as u64;
        let writer = row["metric"]["writer"].as_str().and_then(|text| text.parse::<usize>().ok());
        match writer.and_then(|writer| sent.iter().position(|l| l.stream.writer == writer)) {
            Some(at) => counted[at] += samples,
            None => {
                findings.add_some(Finding::Phantom, samples, || format!("{samples} of {}", row["metric"]))
            }
        }
    }
    counted
}

/// What is counted beyond what was read is of a time that nobody sent. Fewer means that two queries disagree, in
/// which case one of them hides what is there.
fn compare_counts(writer: usize, counted: u64, read: u64, findings: &mut Findings) {
    let example = || format!("writer {writer}: {counted} samples are counted, {read} are read");
    let finding = if counted > read { Finding::Phantom } else { Finding::Lost };
    if counted != read {
        findings.add_some(finding, counted.abs_diff(read), example);
    }
}

/// No series may exist that no writer has.
#[track_caller]
fn check_series(client: &Client, sent: &[Ledger], findings: &mut Findings) {
    let now = now_ms();
    let (start, end) = (seconds(now - ANYWHERE_MS), seconds(now + ANYWHERE_MS));
    let found = client.api("/api/v1/series", &[("match[]", METRIC), ("start", &start), ("end", &end)]);
    for labels in found.as_array().map_or(&[][..], Vec::as_slice) {
        let number = |name: &str| labels[name].as_str().and_then(|text| text.parse::<usize>().ok());
        let known = number("writer").and_then(|w| sent.iter().find(|l| l.stream.writer == w));
        let is_sent = known.is_some_and(|l| number("series").is_some_and(|s| s < l.stream.series));
        if !is_sent {
            findings.add(Finding::Phantom, || format!("series {labels}"));
        }
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    result: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    metric: HashMap<String, String>,
    #[serde(borrow, default)]
    values: Vec<(f64, &'a str)>,
    #[serde(borrow, default)]
    histograms: Vec<(f64, ReadHistogram<'a>)>,
}

#[derive(Debug, Clone, Deserialize)]
struct ReadHistogram<'a> {
    count: &'a str,
    sum: &'a str,
    #[serde(borrow, default)]
    buckets: Vec<(u64, &'a str, &'a str, &'a str)>,
}

/// A sample as an answer has it.
#[derive(Debug, Clone)]
enum Read<'a> {
    Float(&'a str),
    Histogram(ReadHistogram<'a>),
}

impl Read<'_> {
    /// Whether this is `sent`. A stale marker is in no answer, so nothing is it.
    fn is(&self, sent: &Sample) -> bool {
        match (self, sent) {
            (Self::Float(text), Sample::Float(value)) => text.parse() == Ok(*value),
            (Self::Histogram(read), Sample::Histogram(sent)) => read.is(sent),
            _ => false,
        }
    }
}

impl ReadHistogram<'_> {
    /// Of the kind that a ledger sends: no negative buckets, schema 0.
    fn is(&self, sent: &Histogram) -> bool {
        let BucketCounts::Integer { count, zero_count, positive, .. } = &sent.counts else { return false };
        let zero = (3, -sent.zero_threshold, sent.zero_threshold, *zero_count as f64);
        let (mut expected, mut deltas) = (vec![zero], positive.iter());
        let (mut index, mut in_bucket) = (0, 0);
        for span in &sent.positive_spans {
            index += span.offset;
            for delta in deltas.by_ref().take(span.length as usize) {
                in_bucket += delta;
                expected.push((0, 2f64.powi(index - 1), 2f64.powi(index), in_bucket as f64));
                index += 1;
            }
        }
        let is = |text: &str, value: f64| text.parse() == Ok(value);
        is(self.count, *count as f64)
            && is(self.sum, sent.sum)
            && self.buckets.len() == expected.len()
            && self.buckets.iter().zip(expected).all(|(read, sent)| {
                read.0 == sent.0 && is(read.1, sent.1) && is(read.2, sent.2) && is(read.3, sent.3)
            })
    }
}

#[track_caller]
fn check_batches(
    client: &Client,
    ledger: &Ledger,
    sent: &Ledger,
    batches: std::ops::Range<i64>,
    findings: &mut Findings,
) {
    let stream = &ledger.stream;
    let last_ms = stream.base_ms + (batches.end - 1) * stream.step_ms;
    // Open on the left: half a step more takes the first batch in and leaves the one before it out.
    let range_ms = (batches.end - 1 - batches.start) * stream.step_ms + stream.step_ms / 2;
    let query = format!("{METRIC}{{writer=\"{}\"}}[{range_ms}ms]", stream.writer);
    let answer = ask(client, "/api/v1/query", &[("query", &query), ("time", &seconds(last_ms))]);
    let mut rows: HashMap<usize, Vec<(f64, Read<'_>)>> = HashMap::new();
    for row in parse(&answer) {
        match series_of(&row) {
            Some(series) => {
                let floats = row.values.into_iter().map(|(time, text)| (time, Read::Float(text)));
                let histograms = row.histograms.into_iter().map(|(time, read)| (time, Read::Histogram(read)));
                rows.entry(series).or_default().extend(floats.chain(histograms));
            }
            None => findings.add(Finding::Phantom, || format!("series {:?}", row.metric)),
        }
    }
    let nothing = Vec::new();
    for series in 0..stream.series {
        let row = rows.get(&series).unwrap_or(&nothing);
        check_row(ledger, sent, series, &batches, row, findings);
    }
}

/// A stale marker is in no answer: it is there if its series is not at its time, which without it would show
/// the sample before. Looks at `batches` of the series that end, one time of the grid for each.
#[track_caller]
fn check_ends(client: &Client, ledger: &Ledger, batches: std::ops::Range<i64>, findings: &mut Findings) {
    let stream = &ledger.stream;
    let end = (batches.end as usize).min(ledger.outcomes.len());
    let batches = batches.start as usize..end;
    if batches.is_empty() {
        return;
    }
    let query = format!("{METRIC}{{writer=\"{}\",kind=\"{ENDING}\"}}", stream.writer);
    let [first, last] = [batches.start, end - 1].map(|batch| seconds(stream.ts_ms(batch)));
    let step = seconds(stream.step_ms);
    let grid = [("query", query.as_str()), ("start", &first), ("end", &last), ("step", &step)];
    let answer = ask(client, "/api/v1/query_range", &grid);
    let mut shown = HashSet::new();
    for row in parse(&answer) {
        let series = series_of(&row);
        shown.extend(row.values.iter().map(|(time, _)| (series, (time * 1000.0).round() as i64)));
    }
    for series in (0..stream.series).filter(|series| Stream::is_ending(*series)) {
        for batch in batches.clone().filter(|batch| ledger.outcomes[*batch] == Outcome::Acknowledged) {
            let is_stale = stream.sample(series, batch).is_stale();
            let is_shown = shown.contains(&(Some(series), stream.ts_ms(batch)));
            if is_stale == is_shown {
                let example = || format!("writer {} ending series {series} batch {batch}", stream.writer);
                findings.add(Finding::Lost, example);
            } else if is_stale {
                findings.right += 1;
            }
        }
    }
}

#[track_caller]
fn ask(client: &Client, path: &str, form: &[(&str, &str)]) -> Answer {
    let answer = client.post_form(path, form).unwrap_or_else(|e| panic!("{form:?}: {}", e.0));
    assert_eq!(answer.status, 200, "{form:?}: {}", answer.text());
    answer
}

#[track_caller]
fn parse(answer: &Answer) -> Vec<Row<'_>> {
    let reply: Result<Reply<'_>, _> = serde_json::from_slice(&answer.body);
    reply.unwrap_or_else(|e| panic!("{e}: {}", answer.text())).data.result
}

fn series_of(row: &Row<'_>) -> Option<usize> {
    row.metric.get("series").and_then(|text| text.parse().ok())
}

fn check_row(
    ledger: &Ledger,
    sent: &Ledger,
    series: usize,
    batches: &std::ops::Range<i64>,
    row: &[(f64, Read<'_>)],
    findings: &mut Findings,
) {
    let stream = &ledger.stream;
    let mut seen = vec![0u32; (batches.end - batches.start) as usize];
    findings.read += row.len() as u64;
    for (time, read) in row {
        let ts_ms = (time * 1000.0).round() as i64;
        let offset_ms = ts_ms - stream.base_ms;
        let batch = offset_ms.div_euclid(stream.step_ms);
        let is_sent = offset_ms.rem_euclid(stream.step_ms) == 0
            && batches.contains(&batch)
            && (0..sent.outcomes.len() as i64).contains(&batch)
            && read.is(&stream.sample(series, batch as usize));
        if is_sent {
            seen[(batch - batches.start) as usize] += 1;
        } else {
            findings.add(Finding::Phantom, || format!("{series}: {read:?} at {ts_ms} ms"));
        }
    }
    for (seen, batch) in seen.into_iter().zip(batches.clone()) {
        let at = usize::try_from(batch).unwrap_or(usize::MAX);
        let outcome = ledger.outcomes.get(at);
        if outcome.is_some() && stream.sample(series, at).is_stale() {
            continue;
        }
        let place = || format!("writer {} series {series} batch {batch}", stream.writer);
        match (seen, outcome) {
            (0, Some(Outcome::Acknowledged)) => findings.add(Finding::Lost, place),
            (0, _) => {}
            (1, Some(Outcome::Acknowledged)) => findings.right += 1,
            (1, _) => findings.kept_unknown += 1,
            _ => findings.add(Finding::Double, place),
        }
    }
}

fn seconds(ms: i64) -> String {
    format!("{}{}.{:03}", if ms < 0 { "-" } else { "" }, ms.abs() / 1000, ms.abs() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A series that is neither ending nor of histograms.
    const PLAIN: usize = 2;

    fn ledger(outcomes: &[Outcome]) -> Ledger {
        let stream = Stream { writer: 1, series: 1, base_ms: 10_000, step_ms: 1_000 };
        Ledger { stream, outcomes: outcomes.to_vec() }
    }

    fn value(batch: usize) -> f64 {
        let Sample::Float(value) = ledger(&[]).stream.sample(PLAIN, batch) else { panic!("not plain") };
        value
    }

    #[track_caller]
    fn check_found(row: &[(f64, f64)], expected: (u64, u64, u64, u64)) {
        let ledger = ledger(&[Outcome::Acknowledged, Outcome::Unknown, Outcome::Acknowledged]);
        let texts: Vec<(f64, String)> = row.iter().map(|(t, v)| (*t, v.to_string())).collect();
        let row: Vec<(f64, Read<'_>)> = texts.iter().map(|(t, v)| (*t, Read::Float(v.as_str()))).collect();
        let mut findings = Findings::default();
        check_row(&ledger, &ledger, PLAIN, &(-2..5), &row, &mut findings);
        let Findings { lost, double, phantom, right, .. } = findings;
        assert_eq!((lost, double, phantom, right), expected, "{findings}");
    }

    #[test]
    fn each_kind_of_damage_is_told_apart() {
        let whole = [(10.0, value(0)), (11.0, value(1)), (12.0, value(2))];
        check_found(&whole, (0, 0, 0, 2));
        check_found(&[whole[0], whole[2]], (0, 0, 0, 2));
        check_found(&[whole[0], whole[1]], (1, 0, 0, 1));
        check_found(&[whole[0], whole[0], whole[2]], (0, 1, 0, 1));
        check_found(&[whole[0], (11.0, 7.5), whole[2]], (0, 0, 1, 2));
        check_found(&[whole[0], (11.5, value(1)), whole[2]], (0, 0, 1, 2));
        check_found(&[whole[0], whole[2], (13.0, value(3))], (0, 0, 1, 2));
    }

    #[test]
    fn a_histogram_is_compared_whole() {
        let Sample::Histogram(sent) = ledger(&[]).stream.sample(1, 0) else { panic!("not a histogram") };
        let sum = sent.sum.to_string();
        let buckets = vec![
            (3, "-0.001", "0.001", "1"),
            (0, "0.25", "0.5", "1"),
            (0, "0.5", "1", "1"),
            (0, "2", "4", "1"),
        ];
        let read = ReadHistogram { count: "4", sum: &sum, buckets };
        assert!(read.is(&sent));
        for at in 0..4 {
            let mut other = read.clone();
            other.buckets[at].3 = "2";
            assert!(!other.is(&sent));
            let mut other = read.clone();
            other.buckets.remove(at);
            assert!(!other.is(&sent));
        }
        assert!(!ReadHistogram { count: "5", ..read.clone() }.is(&sent));
        assert!(!ReadHistogram { sum: "1", ..read.clone() }.is(&sent));
        assert!(!Read::Histogram(read).is(&Sample::Float(4.0)));
    }

    #[test]
    fn a_sample_that_only_the_count_sees_is_found() {
        for (counted, expected) in [(7, (0, 0)), (9, (0, 2)), (4, (3, 0))] {
            let mut findings = Findings::default();
            compare_counts(1, counted, 7, &mut findings);
            assert_eq!((findings.lost, findings.phantom), expected, "{findings}");
            assert_eq!(findings.examples.len(), usize::from(counted != 7));
        }
    }
}
