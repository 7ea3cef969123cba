//! The records of one partition, begun in their order, several under way at once.
//!
//! Knows what each answer means for a record: done, put aside, or the same again. Does not know formats or Kafka.
//! Path: [`super::run`] -> **here** -> [`super::Gateway`], [`super::Letters`]; the ticket goes back to the feed.
//! LA1: while a record waits, none behind it is begun. LA2: a wait of more than a second is not spent in memory.

use super::Shared;
use super::codec::CodecError;
use super::decode::{Decoded, Part};
use crate::protocol::Protocol;
use futures::stream::{FuturesUnordered, StreamExt};
use metrics::counter;
use parking_lot::Mutex;
use quorate_commitlog::kafka::dead_letters::{Letter, LetterError, is_letter};
use quorate_commitlog::kafka::source::{Record, Taken, Ticket};
use quorate_model::ErrorCode;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// Values over this many bytes are decoded on a thread that may block.
const INLINE_VALUE: usize = 64 << 10;
/// Waits up to this keep the record in memory, if there is room.
const KEEP_WAIT: Duration = Duration::from_secs(1);
/// Shortest and longest wait before the same again.
const LEAST_WAIT: Duration = Duration::from_millis(10);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MOST_WAIT: Duration = Duration::from_secs(30);
/// Most bytes of a reason.
const MAX_REASON: usize = 1 << 10;

/// See the module header.
pub(super) struct Lane {
    shared: Arc<Shared>,
    backoff: Mutex<Backoff>,
    /// Records that wait in memory.
    waiting: AtomicUsize,
}

/// Waits that grow while everything fails.
#[derive(Debug, Default)]
struct Backoff {
    wait: Option<Duration>,
    grown: Option<Instant>,
}

impl Backoff {
    /// The wait after a failure. Failures at the same time count as one.
    fn next(&mut self, now: Instant) -> Duration {
        let wait = self.wait.unwrap_or(FIRST_WAIT);
        let is_same = self.grown.is_some_and(|at| now.saturating_duration_since(at) < wait);
        if is_same {
            return wait;
        }
        let wait = self.wait.map_or(FIRST_WAIT, |wait| (wait * 2).min(MOST_WAIT));
        (self.wait, self.grown) = (Some(wait), Some(now));
        wait
    }
}

/// What became of the parts of a record.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    refused: u64,
    /// Why the first thing was refused, and whose it was.
    reason: Option<(String, Option<String>)>,
}

impl Tally {
    fn refuse(&mut self, count: u64, tenant: Option<&str>, reason: impl FnOnce() -> String) {
        self.refused += count;
        self.reason.get_or_insert_with(|| (reason(), tenant.map(str::to_owned)));
    }
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, backoff: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    pub(super) async fn run(self, mut records: UnboundedReceiver<Taken>) {
        let mut under_way = FuturesUnordered::new();
        loop {
            let may_begin =
                under_way.len() < self.shared.config.concurrency && self.waiting.load(Ordering::Relaxed) == 0;
            tokio::select! {
                // What was begun goes first, so that records reach the gateway in their order.
                biased;
                Some(()) = under_way.next() => {}
                taken = records.recv(), if may_begin => match taken {
                    Some(taken) => under_way.push(Box::pin(self.store(taken))),
                    None => break,
                },
                else => break,
            }
        }
        while under_way.next().await.is_some() {}
    }

    async fn store(&self, Taken { record, ticket }: Taken) {
        let Some(ticket) = ticket.begin() else { return };
        let record = Arc::new(record);
        let decoded = loop {
            match self.decode(&record).await {
                Ok(decoded) => break decoded,
                Err(CodecError::Bad(reason)) => {
                    return self.bury(&record, ticket, "undecodable", &reason, None).await;
                }
                Err(CodecError::NoRoom(_)) => {
                    // Others are being decoded; what they hold is free at once when they are written.
                    self.pause(LEAST_WAIT).await;
                }
            }
        };
        let tally = Tally::default();
        self.write(&record, ticket, decoded, tally).await;
    }

    /// Decodes a record; a panic is a fault of the record.
    async fn decode(&self, record: &Arc<Record>) -> Result<Decoded, CodecError> {
        let (shared, of) = (Arc::clone(&self.shared), Arc::clone(record));
        let decode = move || {
            let mut held = shared.in_flight.enter();
            let now_ms = shared.clock.now_ms();
            let decode = AssertUnwindSafe(|| shared.config.decoder.decode(&of, now_ms, &mut held));
            catch_unwind(decode).unwrap_or_else(|_| {
                Err(CodecError::Bad("reading the record panicked, which is a bug".to_owned()))
            })
        };
        if record.value.as_ref().is_none_or(|value| value.len() <= INLINE_VALUE) {
            return decode();
        }
        let decoded = tokio::task::spawn_blocking(decode).await;
        decoded.unwrap_or_else(|error| Err(CodecError::Bad(format!("the record was not read: {error}"))))
    }

    /// Writes all parts, each as often as it takes; then the record is settled.
    async fn write(&self, record: &Record, ticket: Ticket, decoded: Decoded, mut tally: Tally) {
        let Decoded { mut parts, dropped, reason } = decoded;
        if dropped > 0 {
            tally.refuse(dropped, None, || reason.unwrap_or_else(|| "it cannot be read".to_owned()));
        }
        let is_empty = parts.is_empty() && dropped == 0;
        parts.reverse();
        while let Some(part) = parts.pop() {
            let wait = match self.write_part(&part, &mut tally).await {
                Ok(()) => continue,
                Err(wait) => wait,
            };
            parts.push(part);
            let kept = if wait <= KEEP_WAIT { self.shared.keep(ticket.bytes()) } else { None };
            if kept.is_none() {
                self.shared.count("postponed");
                return ticket.again(wait.max(KEEP_WAIT));
            }
            self.pause(wait).await;
        }
        self.settle(record, ticket, &tally, is_empty).await;
    }

    /// Writes one part once; tells how long to wait before the same again.
    async fn write_part(&self, part: &Part, tally: &mut Tally) -> Result<(), Duration> {
        let shared = &self.shared;
        if let Err(reason) = shared.gateway.check_tenant(&part.tenant) {
            tally.refuse(1, None, || reason);
            return Ok(());
        }
        let tenant: Arc<str> = Arc::from(part.tenant.as_str());
        let first = part.protocol.unwrap_or(Protocol::RemoteWrite1);
        let mut protocols =
            [Some(first), part.protocol.is_none().then_some(Protocol::RemoteWrite2)].into_iter();
        loop {
            let Some(protocol) = protocols.next().flatten() else { return Ok(()) };
            let held = shared.in_flight.enter();
            let failure = match shared.gateway.write(&tenant, protocol, part.body.clone(), held).await {
                Ok(outcome) => {
                    *self.backoff.lock() = Backoff::default();
                    tally.stored += outcome.samples + outcome.histograms;
                    let told = || outcome.refusals.first().map_or_else(String::new, ToString::to_string);
                    if outcome.refused() > 0 {
                        tally.refuse(outcome.refused(), Some(&part.tenant), told);
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if failure.is_other_protocol && protocols.len() > 0 && part.protocol.is_none() {
                continue;
            }
            if !failure.is_passing() {
                tally.refuse(1, Some(&part.tenant), || failure.message);
                return Ok(());
            }
            if failure.code == ErrorCode::Internal {
                tracing::error!(
                    source = shared.config.name,
                    reason = failure.message,
                    "a write of a source failed inside"
                );
            }
            let known = failure.retry_after.filter(|_| failure.code == ErrorCode::RateLimited);
            let wait = known.unwrap_or_else(|| self.backoff.lock().next(shared.clock.instant()));
            let source = shared.config.name.clone();
            counter!("quorate_source_retries_total", "source" => source).increment(1);
            return Err(wait.clamp(LEAST_WAIT, MOST_WAIT));
        }
    }

    /// Nothing of the partition is begun meanwhile.
    async fn pause(&self, wait: Duration) {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        tokio::time::sleep(wait).await;
    }

    async fn settle(&self, record: &Record, ticket: Ticket, tally: &Tally, is_empty: bool) {
        let shared = &self.shared;
        shared.count_samples("stored", tally.stored);
        shared.count_samples("refused", tally.refused);
        let outcome = match &tally.reason {
            None if is_empty => "empty",
            None => "stored",
            Some((reason, _)) if tally.stored > 0 => {
                shared.tell("a part of a record was refused", record, cut(reason));
                "partial"
            }
            Some((reason, tenant)) if shared.config.dead_letter_refused => {
                return self.bury(record, ticket, "refused", reason, tenant.as_deref()).await;
            }
            Some((reason, _)) => {
                shared.tell("a record was refused", record, cut(reason));
                "refused"
            }
        };
        shared.count(outcome);
        ticket.finish();
    }

    /// Puts a record aside of which nothing can be stored.
    async fn bury(
        &self,
        record: &Record,
        ticket: Ticket,
        outcome: &'static str,
        reason: &str,
        tenant: Option<&str>,
    ) {
        let (shared, reason) = (&self.shared, cut(reason));
        let told = match shared.letter_topic(record) {
            Some(_) if is_letter(record) => "a dead letter cannot be stored either, and is passed over",
            None => "a record cannot be stored and is passed over",
            Some(topic) => match shared.letters.put(&topic, Letter { record, reason, tenant }).await {
                Ok(()) => {
                    let source = shared.config.name.clone();
                    counter!("quorate_source_dead_letters_total", "source" => source).increment(1);
                    "a record cannot be stored and is a dead letter now"
                }
                Err(error @ LetterError::TooLarge { .. }) => {
                    tracing::error!(source = shared.config.name, %error, "a record is passed over without a dead letter");
                    shared.count("unburied");
                    "a record cannot be stored and is passed over"
                }
                Err(error) => {
                    shared.tell("a dead letter was not written and is again", record, &error.to_string());
                    let wait = self.backoff.lock().next(shared.clock.instant());
                    return ticket.again(wait.max(KEEP_WAIT));
                }
            },
        };
        shared.tell(told, record, reason);
        shared.count(outcome);
        ticket.finish();
    }
}

/// The start of a reason that is long.
fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

/// The default topic of dead letters.
#[cfg(test)]
pub(super) fn default_letter_topic() -> String {
    format!("{}.dead-letters", super::TOPIC_PLACE)
}
