//! What reads promise, at three nodes: a session sees its writes wherever it goes on, and what cannot be read whole or
//! fresh is refused or says so.

use super::kills::report;
use quorate_cluster_tests::harness::cluster::{Cluster, Setup};
use quorate_cluster_tests::harness::http::{Answer, Client};
use quorate_cluster_tests::harness::{net, now_ms, skip, wait_for};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::Labels;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const METRIC: &str = "row_value";
/// Enough for each partition to have some.
const SERIES: usize = 64;
/// Write `n` is `n` milliseconds after the first; all of them lie within the lookback delta before this time.
const READ_AFTER_MS: i64 = 120_000;
/// How long a sender waits for an answer before it sends again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any deadline of a node.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
const LIMIT: Duration = Duration::from_secs(120);
/// Rounds of a session in each state of the cluster.
const ROUNDS: usize = 100;
const OFFSETS: &str = "x-read-consistency-offsets";

/// A row of series that get the same value with each write, one higher than before.
pub(super) struct Row {
    labels: Vec<Labels>,
    start_ms: i64,
}

impl Row {
    pub(super) fn new() -> Self {
        let labels = |series: usize| {
            Labels::from_pairs([("__name__", METRIC), ("series", series.to_string().as_str())])
        };
        Self { labels: (0..SERIES).map(labels).collect(), start_ms: now_ms() }
    }

    /// Writes `value`, again until it is acknowledged. Gives the token.
    #[track_caller]
    pub(super) fn write(&self, client: &Client, value: i64) -> String {
        assert!(value < READ_AFTER_MS, "more writes than a row has times for");
        let mut request = RequestBuilder::new(Protocol::V1);
        for labels in &self.labels {
            request.add(labels, &[(self.start_ms + value, value as f64)]);
        }
        let body = request.finish();
        let answer = wait_for("an acknowledged write", LIMIT, || {
            let answer = client.post("/api/v1/write", &Protocol::V1.headers(), &body).ok()?;
            let is_fair = answer.is_success() || matches!(answer.status, 503 | 504);
            assert!(is_fair, "{}: {}", answer.status, answer.text());
            answer.is_success().then_some(answer)
        });
        token(&answer)
    }

    fn ask(&self, client: &Client, query: &str, allow_partial: bool) -> Answer {
        let time = ((self.start_ms + READ_AFTER_MS) as f64 / 1000.0).to_string();
        let partial = if allow_partial { "1" } else { "0" };
        let params = [("query", query), ("time", &time), ("allow_partial", partial)];
        client.get("/api/v1/query", &params).expect("a node answers in time")
    }

    /// The lowest value that a session with `token` sees; a series that is missing counts as 0. `None` if it is refused.
    #[track_caller]
    pub(super) fn lowest(&self, client: &Client, token: &str) -> Option<(i64, Answer)> {
        let query = format!("min({METRIC}) and (count({METRIC}) == {SERIES})");
        let answer = self.ask(&session(client, token), &query, false);
        if answer.status == 503 {
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        Some((number(&answer) as i64, answer))
    }
}

fn session(client: &Client, token: &str) -> Client {
    client.clone().with_header("X-Read-Consistency", "session").with_header(OFFSETS, token)
}

#[track_caller]
fn token(answer: &Answer) -> String {
    let token = answer.header(OFFSETS);
    token.unwrap_or_else(|| panic!("no token beside {}: {:?}", answer.status, answer.headers)).to_owned()
}

/// The value of the first series; 0 if there is none.
#[track_caller]
fn number(answer: &Answer) -> f64 {
    let json = answer.json();
    let value = json["data"]["result"][0]["value"][1].as_str();
    value.map_or(0.0, |text| text.parse().expect("a value is a number"))
}

/// What a session has done so far.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    right: AtomicUsize,
    refused: AtomicUsize,
}

impl Progress {
    /// Waits until `count` has grown by `more`.
    #[track_caller]
    fn wait(&self, what: &str, count: &AtomicUsize, more: usize) {
        let enough = count.load(Ordering::SeqCst) + more;
        wait_for(what, LIMIT, || {
            let is_over = self.stop.load(Ordering::SeqCst);
            assert!(!is_over, "the session has ended");
            (count.load(Ordering::SeqCst) >= enough).then_some(())
        });
    }
}

/// Ends the session, also when either thread panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_session_sees_its_writes_at_another_node() {
    let (mut cluster, row, progress) = (Cluster::start(Setup::default()), Row::new(), Progress::default());
    let (writer, reader) = (cluster.client(0, PATIENCE), cluster.client(2, ANSWER_LIMIT));
    let reads_here = cluster.client(0, ANSWER_LIMIT);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&progress.stop);
        scope.spawn(|| {
            let _stop = StopOnDrop(&progress.stop);
            for value in 1.. {
                if progress.stop.load(Ordering::SeqCst) {
                    break;
                }
                let written = row.write(&writer, value);
                let Some((seen, answer)) = row.lowest(&reader, &written) else {
                    progress.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                };
                assert_eq!(seen, value, "not what was acknowledged before: {}", answer.text());
                let back = row.lowest(&reads_here, &token(&answer));
                assert!(back.is_none_or(|(seen, _)| seen == value), "the session goes back");
                progress.right.fetch_add(1, Ordering::SeqCst);
            }
        });
        progress.wait("rounds of a session", &progress.right, ROUNDS);
        cluster.pause(1);
        progress.wait("rounds while a node stands still", &progress.right, ROUNDS);
        cluster.resume(1);
        progress.wait("rounds while it catches up", &progress.right, ROUNDS);
        match net::available() {
            Ok(()) => {
                cluster.network().isolate(2);
                progress.wait("a refusal of a reader that is cut off", &progress.refused, 1);
                cluster.network().heal();
                progress.wait("rounds after a cut", &progress.right, ROUNDS);
            }
            Err(reason) => skip("a_session_sees_its_writes_at_another_node: its cut", &reason),
        }
    });
    let (right, refused) = (progress.right.into_inner(), progress.refused.into_inner());
    report(&format!("{right} rounds of a session were right, {refused} refused, none went back"));
}

#[test]
fn only_tokens_of_the_cluster_are_taken() {
    let (cluster, row) = (Cluster::start(Setup::default()), Row::new());
    let client = cluster.client(1, ANSWER_LIMIT);
    let token = row.write(&client, 1);
    let last = if token.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{last}", &token[..token.len() - 1]);
    for (shown, status) in [(token.as_str(), 200), (forged.as_str(), 400), ("", 400), ("zz", 400)] {
        let answer = row.ask(&session(&cluster.client(2, ANSWER_LIMIT), shown), METRIC, false);
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    }
}

#[test]
fn one_of_three_replicas_answers_eventual_reads_and_flags_them() {
    let (mut cluster, row) = (Cluster::start(Setup::default()), Row::new());
    let token = row.write(&cluster.client(0, PATIENCE), 7);
    let client = cluster.client(0, ANSWER_LIMIT);
    assert!(row.lowest(&client, &token).is_some_and(|(seen, _)| seen == 7), "it has applied it");
    for node in [1, 2] {
        cluster.kill9(node);
    }
    let count = format!("count({METRIC})");
    let eventual = client.clone().with_header("X-Read-Consistency", "eventual");
    let answer = wait_for("an answer that is flagged", LIMIT, || {
        let answer = row.ask(&eventual, &count, false);
        assert_eq!((answer.status, number(&answer)), (200, SERIES as f64), "{}", answer.text());
        answer.header("x-read-consistency-stale").is_some().then_some(answer)
    });
    let warning = answer.json()["warnings"][0].as_str().map(str::to_owned).unwrap_or_default();
    assert!(warning.contains("stale"), "{}", answer.text());
    assert_eq!(answer.header(OFFSETS), None, "it promises nothing");
    let bounded = eventual.clone().with_header("X-Read-Consistency-Max-Delay", "1s");
    assert_eq!(row.ask(&bounded, &count, false).status, 503);
    assert_eq!(row.ask(&session(&client, &token), &count, false).status, 200, "it has what the token says");
    assert_eq!(row.ask(&client, &count, false).status, 503, "a strong read");
    let partial = row.ask(&client, &count, true);
    let json = partial.json();
    assert_eq!((partial.status, &json["partial"]), (200, &true.into()), "{}", partial.text());
    assert_eq!(json["gaps"].as_array().map(Vec::len), Some(8), "no partition has a leader: {json}");
}

#[test]
fn partitions_that_are_gone_are_gaps_where_they_are_allowed() {
    let setup = Setup::default().args(&["--replication-factor", "1"]);
    let (mut cluster, row) = (Cluster::start(setup), Row::new());
    row.write(&cluster.client(0, PATIENCE), 7);
    let client = cluster.client(0, ANSWER_LIMIT);
    let count = format!("count({METRIC})");
    let whole = row.ask(&client, &count, true);
    assert_eq!((number(&whole), &whole.json()["partial"]), (SERIES as f64, &serde_json::Value::Null));
    let status = cluster.status(0).expect("the node runs");
    let elsewhere = status.partitions.iter().filter(|p| !p.replicas.contains(&status.node)).map(|p| p.id);
    let elsewhere: Vec<u32> = elsewhere.collect();
    assert!(!elsewhere.is_empty() && elsewhere.len() < 8, "{status:?}");
    for node in [1, 2] {
        cluster.kill9(node);
    }
    for consistency in ["strong", "eventual"] {
        let client = client.clone().with_header("X-Read-Consistency", consistency);
        assert_eq!(row.ask(&client, &count, false).status, 503, "{consistency}");
        let partial = row.ask(&client, &count, true);
        let (json, found) = (partial.json(), number(&partial));
        assert_eq!((partial.status, &json["partial"]), (200, &true.into()), "{}", partial.text());
        assert!(found > 0.0 && found < SERIES as f64, "{consistency}: {found} series");
        let gaps: Vec<u32> = serde_json::from_value(
            json["gaps"].as_array().expect("a list").iter().map(|gap| gap["partition"].clone()).collect(),
        )
        .expect("numbers of partitions");
        assert_eq!(gaps, elsewhere, "{consistency}");
        let listed = client.get("/api/v1/series", &[("match[]", METRIC), ("allow_partial", "1")]);
        let listed = listed.expect("an answer").json();
        assert_eq!(listed["data"].as_array().map(|all| all.len() as f64), Some(found), "{listed}");
        assert_eq!(listed["gaps"].as_array().map(Vec::len), Some(elsewhere.len()), "{listed}");
    }
}
