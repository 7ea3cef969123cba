//! A client: chooses a node, sends one request at a time, and notes what it asked for and was told.
//!
//! Knows nodes by their numbers and what a status means for the ledger (README.md has the table). Does not know
//! workloads. Path: `workloads` -> **here** -> HTTP; events go to `history`.

use crate::history::{CLIENTS, Kind, Op, Recorder};
use crate::random::Random;
use quorate_cluster_tests::harness::http::{Answer, Client, NoAnswer};
use quorate_cluster_tests::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, Labels, SystemClock};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client that may choose leaves a node alone that did not do what it was asked for.
const AVOIDED: Duration = Duration::from_millis(1_500);
/// Longest note kept of an answer.
const NOTE: usize = 200;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was done.
    Done,
    /// It was not done and will not be.
    Refused(String),
    /// It may be done, now or later.
    Unknown(String),
}

impl Told {
    /// What the answer to a write means: 5xx and silence tell nothing (PR4).
    pub fn of_write(answer: Result<Answer, NoAnswer>) -> Self {
        match answer {
            Ok(answer) if answer.is_success() => Self::Done,
            Ok(answer) if answer.status < 500 => Self::Refused(described(&answer)),
            Ok(answer) => Self::Unknown(described(&answer)),
            Err(NoAnswer(reason)) => Self::Unknown(reason),
        }
    }
}

fn described(answer: &Answer) -> String {
    let text: String = answer.text().chars().take(NOTE).collect();
    format!("{} {}", answer.status, text.trim_end())
}

/// One client.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// What it decides by.
    pub random: Random,
    process: u64,
    clients: Vec<Client>,
    /// The one node that it asks, if it does not choose.
    bound_to: Option<usize>,
    avoided: Vec<Option<Instant>>,
    recorder: Arc<Recorder>,
}

impl Worker {
    /// Client `number` of the nodes that `clients` reach. Bound to one of them, or free to choose.
    pub fn new(
        number: usize,
        random: Random,
        clients: Vec<Client>,
        bound_to: Option<usize>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let avoided = vec![None; clients.len()];
        Self { number, random, process: number as u64, clients, bound_to, avoided, recorder }
    }

    /// The node to ask next.
    pub fn node(&mut self) -> usize {
        if let Some(node) = self.bound_to {
            return node;
        }
        let now = SystemClock.instant();
        let is_free = |until: &Option<Instant>| until.is_none_or(|until| until < now);
        let free: Vec<usize> = (0..self.clients.len()).filter(|node| is_free(&self.avoided[*node])).collect();
        match free.len() {
            0 => self.random.below(self.clients.len()),
            some => free[self.random.below(some)],
        }
    }

    /// How many nodes it knows.
    pub fn nodes(&self) -> usize {
        self.clients.len()
    }

    /// Notes `op`, lets `ask` do it at `node`, and notes what that gives: the fate, and the operation with its answer.
    pub fn perform(&mut self, node: usize, op: Op, ask: impl FnOnce(&Client) -> (Told, Op)) -> Told {
        self.recorder.note(self.process, Kind::Invoke, Some(node), op, String::new());
        let (told, op) = ask(&self.clients[node]);
        let (kind, note) = match &told {
            Told::Done => (Kind::Ok, String::new()),
            Told::Refused(note) => (Kind::Fail, note.clone()),
            Told::Unknown(note) => (Kind::Info, note.clone()),
        };
        self.recorder.note(self.process, kind, Some(node), op, note);
        if kind == Kind::Info {
            self.process += CLIENTS;
        }
        if kind != Kind::Ok {
            self.avoided[node] = Some(SystemClock.instant() + AVOIDED);
        }
        told
    }
}

/// A body with some samples: series, time in milliseconds, value.
pub fn body<'l>(samples: impl IntoIterator<Item = (&'l Labels, i64, f64)>) -> Vec<u8> {
    let mut request = RequestBuilder::new(Protocol::V1);
    for (labels, ts_ms, value) in samples {
        request.add(labels, &[(ts_ms, value)]);
    }
    request.finish()
}

/// Sends a body.
///
/// # Errors
/// Without an answer.
pub fn write(client: &Client, body: &[u8]) -> Result<Answer, NoAnswer> {
    client.post("/api/v1/write", &Protocol::V1.headers(), body)
}

/// One series of an answer: its labels, and its samples as (milliseconds, value).
#[derive(Debug, Clone)]
pub struct Row {
    /// Labels.
    pub labels: Value,
    /// Samples by time.
    pub samples: Vec<(i64, f64)>,
}

/// An instant query's rows, and the position token that came with them.
#[derive(Debug, Clone)]
pub struct Rows {
    /// One for each series.
    pub rows: Vec<Row>,
    /// The token, if there is one.
    pub token: Option<String>,
}

impl Rows {
    /// The value of the first row with one sample; 0 if there is none.
    pub fn scalar(&self) -> f64 {
        self.rows.first().and_then(|row| row.samples.first()).map_or(0.0, |(_, value)| *value)
    }
}

/// The header of position tokens.
pub const TOKEN: &str = "x-read-consistency-offsets";

/// Asks for `query` at `time_ms` and reads a vector or a matrix.
///
/// # Errors
/// What there was instead of an answer; a read that fails has no effect.
pub fn query(client: &Client, level: Level<'_>, query: &str, time_ms: i64) -> Result<Rows, Told> {
    let mut client = client.clone().with_header("X-Read-Consistency", level.name());
    if let Level::Session(token) = level {
        client = client.with_header(TOKEN, token);
    }
    let time = (time_ms as f64 / 1_000.0).to_string();
    let answer = client.get("/api/v1/query", &[("query", query), ("time", &time)]);
    let answer = answer.map_err(|NoAnswer(reason)| Told::Refused(reason))?;
    if answer.status != 200 {
        return Err(Told::Refused(described(&answer)));
    }
    let token = answer.header(TOKEN).map(str::to_owned);
    let json: Value = serde_json::from_slice(&answer.body).map_err(|e| Told::Refused(e.to_string()))?;
    let rows = json["data"]["result"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = rows.iter().map(row).collect::<Option<Vec<Row>>>();
    let rows = rows.ok_or_else(|| Told::Refused(format!("not understood: {}", described(&answer))))?;
    Ok(Rows { rows, token })
}

fn row(json: &Value) -> Option<Row> {
    let sample = |pair: &Value| {
        let ts_ms = (pair[0].as_f64()? * 1_000.0).round() as i64;
        Some((ts_ms, pair[1].as_str()?.parse().ok()?))
    };
    let samples = match json["values"].as_array() {
        Some(values) => values.iter().map(sample).collect::<Option<Vec<_>>>()?,
        None => vec![sample(&json["value"])?],
    };
    Some(Row { labels: json["metric"].clone(), samples })
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy)]
pub enum Level<'t> {
    /// All that was acknowledged before.
    Strong,
    /// What the token stands for.
    Session(&'t str),
    /// What a replica has.
    Eventual,
}

impl Level<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Session(_) => "session",
            Self::Eventual => "eventual",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Result<Answer, NoAnswer> {
        Ok(Answer { status, headers: Vec::new(), body: b"why\n".to_vec() })
    }

    #[test]
    fn only_a_success_is_done_and_only_a_refusal_is_not() {
        assert_eq!(Told::of_write(answer(204)), Told::Done);
        assert_eq!(Told::of_write(answer(200)), Told::Done);
        for status in [400, 413, 429] {
            assert_eq!(Told::of_write(answer(status)), Told::Refused(format!("{status} why")));
        }
        for status in [500, 503, 504] {
            assert_eq!(Told::of_write(answer(status)), Told::Unknown(format!("{status} why")));
        }
        assert!(matches!(Told::of_write(Err(NoAnswer("reset".to_owned()))), Told::Unknown(_)));
    }

    #[test]
    fn rows_of_a_vector_and_of_a_matrix_are_read() {
        let vector = serde_json::json!({ "metric": { "a": "b" }, "value": [1.5, "3"] });
        assert_eq!(row(&vector).unwrap().samples, [(1_500, 3.0)]);
        let matrix = serde_json::json!({ "metric": {}, "values": [[1.001, "3"], [2, "NaN"]] });
        let samples = row(&matrix).unwrap().samples;
        assert_eq!((samples[0], samples[1].0), ((1_001, 3.0), 2_000));
        assert!(row(&serde_json::json!({ "metric": {}, "value": [1, 2] })).is_none());
    }
}
