//! Sends ready bodies over N connections and measures.

use crate::bodies::Body;
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::pause;
use quorate_cluster_tests::remote_write::Protocol;
use quorate_model::{Clock, SystemClock};
use std::fmt;
use std::time::Duration;

/// A request that stays unanswered or gets 5xx or 429 is sent again for this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Samples acknowledged.
    pub samples: usize,
    /// Compressed bytes sent.
    pub bytes: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Requests sent again.
    pub retries: usize,
    /// Time of each request from its first attempt to its acknowledgement, sorted.
    latencies: Vec<Duration>,
}

impl Report {
    /// Samples acknowledged per second.
    pub fn rate(&self) -> f64 {
        self.samples as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that `share` of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let at = (share * self.latencies.len() as f64) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Adds a report of what was sent after this one.
    pub fn append(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.merge(other);
    }

    /// Adds what was sent at the same time.
    fn merge(&mut self, other: Self) {
        self.samples += other.samples;
        self.bytes += other.bytes;
        self.retries += other.retries;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, "{} samples in {:.2} s: ", self.samples, self.elapsed.as_secs_f64())?;
        write!(f, "{:.0} samples/s, {:.1} B/sample, ", self.rate(), self.bytes as f64 / self.samples as f64)?;
        write!(f, "requests {} ({} again), ", self.latencies.len(), self.retries)?;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms", ms(self.quantile(0.5)), ms(self.quantile(0.99)))
    }
}

/// Where to send.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Base URL.
    pub base: String,
    /// Path of the write endpoint.
    pub path: String,
    /// Version of remote write.
    pub protocol: Protocol,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

impl Destination {
    /// The remote write 1.0 endpoint of `base`.
    pub fn new(base: &str) -> Self {
        let path = "/api/v1/write".to_owned();
        Self { base: base.to_owned(), path, protocol: Protocol::V1, headers: Vec::new() }
    }
}

/// Sends the bodies of each connection in order, all connections at once. With several destinations, which are nodes
/// of one cluster, each connection begins at another one, and turns to the next where a request fails. `rate`
/// samples per second are not exceeded, of which each connection has the share that it has of the samples, so that all
/// end together; 0 means as fast as they are taken.
///
/// # Errors
/// Without a destination; the first refusal, or the first request that stayed unanswered for a minute.
pub fn send(to: &[Destination], connections: &[Vec<Body>], rate: u64) -> Result<Report, String> {
    if to.is_empty() {
        return Err("nowhere to send to".to_owned());
    }
    let samples = |bodies: &[Body]| bodies.iter().map(|body| body.samples).sum::<usize>() as f64;
    let all: f64 = connections.iter().map(|bodies| samples(bodies)).sum();
    let start = SystemClock.instant();
    let reports: Vec<Result<Report, String>> = std::thread::scope(|scope| {
        let shares = connections.iter().map(|bodies| rate as f64 * samples(bodies) / all);
        let connections = connections.iter().zip(shares).enumerate();
        let threads: Vec<_> = connections
            .map(|(at, (bodies, share))| scope.spawn(move || send_one(to, at, bodies, share)))
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().expect("a sender does not panic");
        threads.into_iter().map(join).collect()
    });
    let mut total = Report { elapsed: start.elapsed(), ..Report::default() };
    for report in reports {
        total.merge(report?);
    }
    Ok(total)
}

fn send_one(to: &[Destination], at: usize, bodies: &[Body], rate: f64) -> Result<Report, String> {
    let clients: Vec<Client> = to.iter().map(client).collect();
    let mut report = Report::default();
    let mut turn = at;
    let start = SystemClock.instant();
    for body in bodies {
        if rate > 0.0 {
            let due = start + Duration::from_secs_f64(report.samples as f64 / rate);
            pause(due.saturating_duration_since(SystemClock.instant()));
        }
        let began = SystemClock.instant();
        while !attempt(&clients[turn % to.len()], &to[turn % to.len()], body)? {
            report.retries += 1;
            turn += 1;
            if began.elapsed() > PATIENCE {
                return Err(format!("{} does not take the request", to[turn % to.len()].base));
            }
            pause(Duration::from_millis(20));
        }
        report.latencies.push(began.elapsed());
        report.samples += body.samples;
        report.bytes += body.bytes.len();
    }
    Ok(report)
}

fn client(to: &Destination) -> Client {
    let client = Client::new(&to.base, PATIENCE);
    to.headers.iter().fold(client, |client, (name, value)| client.with_header(name, value))
}

/// Whether the request was acknowledged; an error when it was refused for good.
fn attempt(client: &Client, to: &Destination, body: &Body) -> Result<bool, String> {
    match client.post(&to.path, &to.protocol.headers(), &body.bytes) {
        Ok(answer) if answer.is_success() => Ok(true),
        Ok(answer) if answer.status >= 500 || answer.status == 429 => Ok(false),
        Ok(answer) => Err(format!("refused with {}: {}", answer.status, answer.text())),
        Err(_) => Ok(false),
    }
}
