//! A sender that tries to change what is settled: acknowledged samples, sent again with another value.
//!
//! The first sample in the log wins, so the server refuses the others as conflicts. Where the window is closed
//! already it may not know any more and take them as late ones; then no query may ever show them. A server that
//! acknowledges before it applies takes them all. Of what is sent here nothing may be found by the check, which knows
//! the first samples only.

use super::writer::{Gate, Route, Shared, add_sample, lock, wait_until};
use super::{Outcome, Stream, mix};
use crate::harness::http::Answer;
use crate::harness::{now_ms, pause};
use crate::remote_write::{Protocol, RequestBuilder};
use quorate_model::{Clock, SystemClock};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The error id of a sample that has another value already.
const CONFLICT: &str = "err-mimir-sample-duplicate-timestamp";
/// Series in a request; several of each class.
const SERIES: usize = 120;
/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(40);
/// Every other request is for one of so many newest batches: their samples are still where they were put first.
const NEWEST: usize = 16;
/// Length of a window of the storage.
const WINDOW_MS: i64 = 3_600_000;

pub(super) struct Rewriter {
    route: Route,
    conflicts_are_told: bool,
    turn: usize,
}

impl Rewriter {
    pub(super) fn new(route: Route, conflicts_are_told: bool) -> Self {
        Self { route, conflicts_are_told, turn: 0 }
    }

    pub(super) fn run(mut self, gate: &Gate, shared: &Shared) {
        let mut due = SystemClock.instant();
        loop {
            gate.wait(&shared.stop);
            wait_until(&mut due, INTERVAL);
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            self.turn += 1;
            if let Some((stream, batch)) = pick(shared, self.turn) {
                self.rewrite(shared, &stream, batch);
            }
        }
    }

    fn rewrite(&mut self, shared: &Shared, stream: &Stream, batch: usize) {
        let protocol = [Protocol::V1, Protocol::V2][self.turn / shared.ledgers.len() % 2];
        let mut request = RequestBuilder::new(protocol);
        let series = SERIES.min(stream.series);
        let first = mix(self.turn as u64) as usize % (stream.series - series + 1);
        for series in first..first + series {
            let other = stream.other(series, batch, self.turn + series);
            add_sample(&mut request, &stream.labels(series), stream.ts_ms(batch), &other);
        }
        let answer = self.route.client().post("/api/v1/write", &protocol.headers(), &request.finish());
        // Nobody has closed a window that is not over.
        let window_end_ms = (stream.ts_ms(batch).div_euclid(WINDOW_MS) + 1) * WINDOW_MS;
        let is_open = now_ms() < window_end_ms;
        match answer {
            Ok(answer) if answer.is_success() && !is_open => {
                shared.late.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) if self.is_right(&answer, is_open) => {
                shared.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) if answer.status < 500 => {
                let what = format!("a change of batch {batch} of writer {}", stream.writer);
                let told = format!("{what}: {} {:?} {}", answer.status, answer.headers, answer.text());
                lock(&shared.wrong_answers).push(told);
            }
            Ok(_) | Err(_) => {
                self.route.turn();
                pause(Duration::from_millis(5));
            }
        }
    }

    fn is_right(&self, answer: &Answer, is_open: bool) -> bool {
        if self.conflicts_are_told { is_refused_as_conflict(answer, is_open) } else { answer.is_success() }
    }
}

/// 400, for conflicts and nothing else; in an open window nothing of the request is written.
fn is_refused_as_conflict(answer: &Answer, is_open: bool) -> bool {
    let written = |what: &str| {
        let header = format!("x-prometheus-remote-write-{what}-written");
        answer.header(&header).is_some_and(|count| count != "0")
    };
    let text = answer.text();
    answer.status == 400
        && text.lines().skip(1).all(|line| line.contains(CONFLICT))
        && text.contains(CONFLICT)
        && !(is_open && (written("samples") || written("histograms")))
}

/// An acknowledged batch of the writer whose turn it is, if the one that is looked at is.
fn pick(shared: &Shared, turn: usize) -> Option<(Stream, usize)> {
    let ledger = lock(&shared.ledgers[turn % shared.ledgers.len()]);
    let batches = ledger.outcomes.len();
    let among = if mix(!(turn as u64)).is_multiple_of(2) { batches } else { batches.min(NEWEST) };
    let back = mix(turn as u64) as usize % among.max(1);
    let batch = batches.checked_sub(back + 1)?;
    (ledger.outcomes[batch] == Outcome::Acknowledged).then(|| (ledger.stream.clone(), batch))
}
