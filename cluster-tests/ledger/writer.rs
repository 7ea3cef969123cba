//! The writers of a ledger: threads that send batch after batch, and know the fate of each.

use super::rewriter::Rewriter;
use super::{Ledger, Outcome, Sample, Stream};
use crate::harness::http::Client;
use crate::harness::{pause, wait_for};
use crate::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, Labels, SystemClock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keeps writers from hammering a server that is known to be down.
#[derive(Debug, Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Lets writers through.
    pub fn open(&self) {
        *lock(&self.open) = true;
        self.changed.notify_all();
    }

    /// Holds writers before their next request.
    pub fn close(&self) {
        *lock(&self.open) = false;
    }

    pub(super) fn wait(&self, stop: &AtomicBool) {
        let mut open = lock(&self.open);
        while !*open && !stop.load(Ordering::Relaxed) {
            let waited = self.changed.wait_timeout(open, Duration::from_millis(50));
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The servers of a sender, which turns to the next one where it gets no answer, or one of 5xx.
pub(super) struct Route {
    clients: Vec<Client>,
    at: usize,
}

impl Route {
    pub(super) fn client(&self) -> &Client {
        &self.clients[self.at]
    }

    pub(super) fn turn(&mut self) {
        self.at = (self.at + 1) % self.clients.len();
    }
}

/// From the beginning of a fault until writes that began after it were acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// The first one of any writer.
    pub first: Duration,
    /// One of each writer.
    pub all: Duration,
}

/// Writers at work on one server, or on several that are one cluster.
#[derive(Debug)]
pub struct Team {
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the senders of a team share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) ledgers: Vec<Mutex<Ledger>>,
    pub(super) conflicts: AtomicU64,
    pub(super) late: AtomicU64,
    /// Answers that no request may get.
    pub(super) wrong_answers: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
}

impl Team {
    /// Starts one writer for each stream: odd ones speak remote write 2.0, the others 1.0. Together they
    /// send at most `samples_per_second`. Beside them one sender tries to change what they have settled. The gate
    /// is closed at first.
    pub fn start(client: &Client, streams: Vec<Stream>, samples_per_second: u64) -> Self {
        Self::start_at(std::slice::from_ref(client), streams, samples_per_second)
    }

    /// As [`Team::start`], for several servers: each sender begins at another one, and sends what one of them did
    /// not settle to the next one.
    ///
    /// # Panics
    /// When there is no server.
    #[track_caller]
    pub fn start_at(clients: &[Client], streams: Vec<Stream>, samples_per_second: u64) -> Self {
        Self::start_with(clients, streams, samples_per_second, true)
    }

    /// As [`Team::start_at`]. `conflicts_are_told` says whether a change of a settled sample is refused; where a write is
    /// acknowledged before it is applied, as with Kafka, it is taken like any other and only never shown.
    ///
    /// # Panics
    /// When there is no server.
    #[track_caller]
    pub fn start_with(
        clients: &[Client],
        streams: Vec<Stream>,
        samples_per_second: u64,
        conflicts_are_told: bool,
    ) -> Self {
        assert!(!clients.is_empty(), "a team needs a server");
        let gate = Arc::new(Gate::default());
        let series: usize = streams.iter().map(|s| s.series).sum();
        let interval = Duration::from_secs_f64(series as f64 / samples_per_second as f64);
        let ledgers = streams.into_iter().map(|stream| Ledger { stream, outcomes: Vec::new() });
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            ledgers: ledgers.map(Mutex::new).collect(),
            conflicts: AtomicU64::new(0),
            late: AtomicU64::new(0),
            wrong_answers: Mutex::new(Vec::new()),
            acknowledged: AtomicU64::new(0),
        });
        let route = |sender: usize| Route { clients: clients.to_vec(), at: sender % clients.len() };
        let threads = (0..shared.ledgers.len()).map(|at| {
            let (gate, shared, route) = (Arc::clone(&gate), Arc::clone(&shared), route(at));
            std::thread::spawn(move || Writer::new(at, &shared, route).run(&gate, &shared, interval))
        });
        let mut threads: Vec<JoinHandle<()>> = threads.collect();
        let (rewriter, gate_of, shared_of) =
            (Rewriter::new(route(threads.len()), conflicts_are_told), gate.clone(), shared.clone());
        threads.push(std::thread::spawn(move || rewriter.run(&gate_of, &shared_of)));
        Self { gate, shared, threads }
    }

    /// The gate of all writers.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Samples acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Acquire)
    }

    /// Requests that tried to change settled samples: how many of open windows, which were refused unless conflicts are
    /// not told, and how many of closed ones were taken as late samples that no query may ever show.
    pub fn rewrites(&self) -> (u64, u64) {
        (self.shared.conflicts.load(Ordering::Relaxed), self.shared.late.load(Ordering::Relaxed))
    }

    /// What all writers know now. A batch in flight counts as unknown.
    pub fn ledgers(&self) -> Vec<Ledger> {
        self.shared.ledgers.iter().map(|ledger| lock(ledger).clone()).collect()
    }

    /// Injects a fault, and waits until each writer had a batch acknowledged that it began after it. A batch has series
    /// of all partitions if it has enough of them.
    ///
    /// # Panics
    /// When `limit` passes first.
    #[track_caller]
    pub fn recovery(&self, limit: Duration, fault: impl FnOnce()) -> Recovery {
        let begin = SystemClock.instant();
        fault();
        let known: Vec<usize> = self.ledgers().iter().map(|ledger| ledger.outcomes.len()).collect();
        let writers_back = || {
            let is_back = |(ledger, known): (&Ledger, &usize)| {
                ledger.outcomes.iter().skip(*known).any(|outcome| *outcome == Outcome::Acknowledged)
            };
            self.ledgers().iter().zip(&known).filter(|of| is_back(*of)).count()
        };
        wait_for("a batch acknowledged after a fault", limit, || (writers_back() > 0).then_some(()));
        let first = begin.elapsed();
        wait_for("all writers to go on", limit, || (writers_back() == known.len()).then_some(()));
        Recovery { first, all: begin.elapsed() }
    }

    /// Fails when the server refused a batch that is right, or took one that changes what is settled, unless conflicts
    /// are not told.
    ///
    /// # Panics
    /// With the first of these answers.
    #[track_caller]
    pub fn assert_answers_right(&self) {
        let wrong = lock(&self.shared.wrong_answers);
        assert!(wrong.is_empty(), "{} answers are wrong: {:?}", wrong.len(), &wrong[..1]);
    }

    /// Stops the writers and returns what they know in the end.
    ///
    /// # Panics
    /// When a writer panicked or an answer was wrong.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Ledger> {
        self.halt();
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("a writer does not panic");
        }
        self.assert_answers_right();
        self.ledgers()
    }

    fn halt(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.gate.changed.notify_all();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Writer {
    at: usize,
    stream: Stream,
    route: Route,
    protocol: Protocol,
    labels: Vec<Labels>,
    request: RequestBuilder,
}

impl Writer {
    fn new(at: usize, shared: &Shared, route: Route) -> Self {
        let stream = lock(&shared.ledgers[at]).stream.clone();
        let protocol = if at.is_multiple_of(2) { Protocol::V1 } else { Protocol::V2 };
        let labels = (0..stream.series).map(|series| stream.labels(series)).collect();
        Self { at, stream, route, protocol, labels, request: RequestBuilder::new(protocol) }
    }

    fn run(mut self, gate: &Gate, shared: &Shared, interval: Duration) {
        let mut due = SystemClock.instant();
        for batch in 0.. {
            let body = self.body(batch);
            // Every third batch of unknown fate is left at that; the others are sent again, as Prometheus does.
            let gives_up = batch.is_multiple_of(3);
            lock(&shared.ledgers[self.at]).outcomes.push(Outcome::Unknown);
            loop {
                gate.wait(&shared.stop);
                wait_until(&mut due, interval);
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                if self.send(&body, batch, shared) || gives_up {
                    break;
                }
            }
        }
    }

    fn body(&mut self, batch: usize) -> Vec<u8> {
        for (series, labels) in self.labels.iter().enumerate() {
            let sample = self.stream.sample(series, batch);
            add_sample(&mut self.request, labels, self.stream.ts_ms(batch), &sample);
        }
        self.request.finish()
    }

    /// Sends a batch; whether its fate is settled.
    fn send(&mut self, body: &[u8], batch: usize, shared: &Shared) -> bool {
        let answer = self.route.client().post("/api/v1/write", &self.protocol.headers(), body);
        match answer {
            Ok(answer) if answer.is_success() => {
                lock(&shared.ledgers[self.at]).outcomes[batch] = Outcome::Acknowledged;
                shared.acknowledged.fetch_add(self.stream.series as u64, Ordering::Release);
                true
            }
            Ok(answer) if answer.status < 500 => {
                let text =
                    format!("batch {batch} of writer {}: {} {}", self.at, answer.status, answer.text());
                lock(&shared.wrong_answers).push(text);
                true
            }
            Ok(_) | Err(_) => {
                self.route.turn();
                pause(Duration::from_millis(5));
                false
            }
        }
    }
}

/// Adds one series with one sample to a request.
pub(super) fn add_sample(request: &mut RequestBuilder, labels: &Labels, ts_ms: i64, sample: &Sample) {
    match sample {
        Sample::Float(value) => request.add(labels, &[(ts_ms, *value)]),
        Sample::Histogram(histogram) => request.add_histogram(labels, ts_ms, histogram),
    }
}

/// Waits until `due` and moves it on; a writer that fell behind does not catch up in a burst.
pub(super) fn wait_until(due: &mut Instant, interval: Duration) {
    let now = SystemClock.instant();
    if let Some(early) = due.checked_duration_since(now) {
        pause(early);
    }
    *due = (*due).max(now) + interval;
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
