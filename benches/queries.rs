//! The queries of a dashboard and of alerts: asked of a database, timed, and compared with another's answers.

use quorate_cluster_tests::compare::{Verdict, compare};
use quorate_cluster_tests::harness::http::Client;
use quorate_model::{Clock, SystemClock};
use serde_json::Value;
use std::time::Duration;

/// How often each query is asked; its latency is the median.
const TIMES: usize = 5;

/// One query.
#[derive(Debug, Clone)]
pub struct Query {
    /// The expression.
    pub text: &'static str,
    /// Range and step in seconds, or `None` for an instant query.
    range: Option<(i64, i64)>,
}

impl Query {
    /// Whether it is a range query, as a panel of a dashboard asks.
    pub fn is_range(&self) -> bool {
        self.range.is_some()
    }
}

/// What one database answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// Median latency of each query.
    pub latencies: Vec<Duration>,
    /// Answer to each query, or the error.
    answers: Vec<Result<Value, String>>,
}

impl Answers {
    /// The median over all queries.
    pub fn median(&self) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// How many answers equal `reference`'s, and the first that does not.
    pub fn agreement(&self, reference: &Self) -> (usize, Option<String>) {
        let mut equal = 0;
        let mut first = None;
        for ((query, ours), theirs) in queries().iter().zip(&self.answers).zip(&reference.answers) {
            let difference = match (theirs, ours) {
                (Ok(theirs), Ok(ours)) => match compare(theirs, ours) {
                    Verdict::Equal(_) => None,
                    Verdict::Different(what) => Some(what),
                },
                (_, Err(error)) | (Err(error), _) => Some(error.clone()),
            };
            match difference {
                None => equal += 1,
                Some(what) => first = first.or_else(|| Some(format!("{}: {what}", query.text))),
            }
        }
        (equal, first)
    }
}

/// Asks all queries with `end_ms` as their (last) evaluation time.
pub fn ask_all(client: &Client, extras: &[(&str, &str)], end_ms: i64) -> Answers {
    let mut answers = Answers::default();
    for query in queries() {
        let mut latencies = Vec::new();
        let mut last = Err("never asked".to_owned());
        for _ in 0..TIMES {
            let start = SystemClock.instant();
            last = ask(client, &query, extras, end_ms);
            latencies.push(start.elapsed());
        }
        latencies.sort_unstable();
        answers.latencies.push(latencies[TIMES / 2]);
        answers.answers.push(last);
    }
    answers
}

/// Asks one query with `end_ms` as its (last) evaluation time and `extras` as further parameters; the `data` of the
/// answer.
///
/// # Errors
/// Without an answer, or with one that is no success.
pub fn ask(client: &Client, query: &Query, extras: &[(&str, &str)], end_ms: i64) -> Result<Value, String> {
    let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let end = seconds(end_ms);
    let mut form = vec![("query", query.text)];
    let (start, step);
    let path = match query.range {
        None => {
            form.push(("time", &end));
            "/api/v1/query"
        }
        Some((range_s, step_s)) => {
            (start, step) = (seconds(end_ms - range_s * 1000), step_s.to_string());
            form.extend([("start", start.as_str()), ("end", &end), ("step", &step)]);
            "/api/v1/query_range"
        }
    };
    form.extend(extras);
    let answer = client.post_form(path, &form).map_err(|e| e.0)?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text()));
    }
    Ok(answer.json()["data"].take())
}

/// The list in queries.txt.
///
/// # Panics
/// When a line of it has not its form.
pub fn queries() -> Vec<Query> {
    let lines = include_str!("queries.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse).collect()
}

fn parse(line: &'static str) -> Query {
    let ranged = |rest: &'static str| {
        let mut parts = rest.splitn(3, ' ');
        let mut number = || parts.next()?.parse().ok();
        let range = (number()?, number()?);
        Some(Query { text: parts.next()?, range: Some(range) })
    };
    let query = match line.split_once(' ') {
        Some(("instant", text)) => Some(Query { text, range: None }),
        Some(("range", rest)) => ranged(rest),
        _ => None,
    };
    query.expect("queries.txt is part of this program and has its form")
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_thirty_queries() {
        assert_eq!(super::queries().len(), 30);
    }
}
