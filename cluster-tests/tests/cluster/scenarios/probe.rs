//! A row of series that all get the same value, a higher one with each write: the value that a reader sees
//! tells how old its answer is. Enough series for each partition to have some.

use quorate_cluster_tests::harness::http::{Answer, Client, NoAnswer};
use quorate_cluster_tests::harness::now_ms;
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use std::sync::atomic::{AtomicU64, Ordering};

const METRIC: &str = "probe_value";
const SERIES: usize = 64;
/// Write `n` is `n` milliseconds after the first; all of them lie within the lookback delta before this time.
const READ_AFTER_MS: u64 = 120_000;

/// Knows which value was sent last and which acknowledged last. Shared by writers and readers.
#[derive(Debug)]
pub(super) struct Probe {
    labels: Vec<Labels>,
    start_ms: i64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

/// What a reader got.
#[derive(Debug)]
pub(super) enum Seen {
    /// An answer that holds every write acknowledged before the question.
    Fresh,
    /// Any status but 200.
    Refused(Answer),
    /// None.
    NoAnswer,
}

impl Probe {
    /// Nothing is written yet.
    pub(super) fn new() -> Self {
        let labels = |series: usize| {
            let series = series.to_string();
            Labels::from_pairs([("__name__", METRIC), ("series", series.as_str())])
        };
        let (sent, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { labels: (0..SERIES).map(labels).collect(), start_ms: now_ms(), sent, acknowledged }
    }

    /// Writes the next value to all series.
    pub(super) fn write(&self, client: &Client) -> Result<Answer, NoAnswer> {
        let value = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(value < READ_AFTER_MS, "more writes than one probe has times for");
        let mut request = RequestBuilder::new(Protocol::V1);
        for labels in &self.labels {
            request.add(labels, &[(self.start_ms + value as i64, value as f64)]);
        }
        let answer = client.post("/api/v1/write", &Protocol::V1.headers(), &request.finish());
        if answer.as_ref().is_ok_and(Answer::is_success) {
            self.acknowledged.fetch_max(value, Ordering::SeqCst);
        }
        answer
    }

    /// A strong read.
    ///
    /// # Panics
    /// When the answer lacks what was acknowledged before the question, or holds what nobody sent.
    #[track_caller]
    pub(super) fn read(&self, client: &Client) -> Seen {
        let least = self.acknowledged.load(Ordering::SeqCst);
        let answer = match self.ask(client, "strong") {
            Err(_) => return Seen::NoAnswer,
            Ok(answer) if answer.status != 200 => return Seen::Refused(answer),
            Ok(answer) => answer,
        };
        let most = self.sent.load(Ordering::SeqCst);
        let json = answer.json();
        let value = json["data"]["result"][0]["value"][1].as_str();
        let value: u64 = value.map_or(0, |text| text.parse().expect("a value is a number"));
        let base = client.base();
        assert!(value >= least, "{base} answers {value}, after {least} was acknowledged: {}", answer.text());
        assert!(value <= most, "{base} answers {value}, before it was sent: {}", answer.text());
        Seen::Fresh
    }

    /// Asks for the lowest value, on the terms of `consistency`; nothing if a series is missing.
    pub(super) fn ask(&self, client: &Client, consistency: &str) -> Result<Answer, NoAnswer> {
        let query = format!("min({METRIC}) and (count({METRIC}) == {SERIES})");
        let time = ((self.start_ms + READ_AFTER_MS as i64) as f64 / 1000.0).to_string();
        let client = client.clone().with_header("X-Read-Consistency", consistency);
        client.get("/api/v1/query", &[("query", &query), ("time", &time)])
    }
}
