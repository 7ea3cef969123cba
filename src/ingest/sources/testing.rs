//! Fakes of what a source stands between: a feed that tests fill, a gateway that answers what they say, and letters.

use super::{Failure, Gateway, Letters};
use crate::distributor::WriteOutcome;
use crate::in_flight::Held;
use crate::protocol::Protocol;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_commitlog::kafka::dead_letters::{Letter, LetterError};
use quorate_commitlog::kafka::source::{Feed, Header, Place, Record, Settle, Taken, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// A record of partition 0 of the topic `t` with a header `tenant`.
pub(crate) fn record(offset: i64, value: &[u8]) -> Record {
    let tenant = Header { name: "tenant".to_owned(), value: Some(Bytes::from_static(b"from-header")) };
    Record {
        topic: Arc::from("t"),
        partition: 0,
        offset,
        timestamp_ms: Some(1_700_000_000_000),
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: vec![tenant],
    }
}

/// What became of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) finished: Vec<(i32, i64)>,
    /// Records to be fetched again, and after how long.
    pub(crate) again: Vec<(i64, Duration)>,
}

/// A topic that a test fills.
pub(crate) struct Topic {
    sender: UnboundedSender<Taken>,
    book: Arc<Book>,
}

struct Book(watch::Sender<Settled>);

pub(crate) struct FakeFeed(UnboundedReceiver<Taken>);

impl Settle for Book {
    fn begin(&self, _: &Place) -> bool {
        true
    }

    fn finish(&self, place: &Place) {
        self.0.send_modify(|settled| settled.finished.push((place.partition, place.offset)));
    }

    fn again(&self, place: &Place, after: Duration) {
        self.0.send_modify(|settled| settled.again.push((place.offset, after)));
    }

    fn release(&self, _: &Place, _: usize) {}
}

impl Topic {
    pub(crate) fn new() -> (Self, FakeFeed) {
        let (sender, receiver) = unbounded_channel();
        let book = Arc::new(Book(watch::Sender::new(Settled::default())));
        (Self { sender, book }, FakeFeed(receiver))
    }

    pub(crate) fn push(&self, record: Record) {
        let Record { topic, partition, offset, .. } = &record;
        let place = Place { topic: topic.clone(), partition: *partition, offset: *offset, assignment: 1 };
        let ticket = Ticket::new(self.book.clone(), place, record.bytes());
        assert!(self.sender.send(Taken { record, ticket }).is_ok(), "the source has ended");
    }

    /// Waits until it is settled as `is` wants it.
    pub(crate) async fn settled(&self, is: impl FnMut(&Settled) -> bool) -> Settled {
        let mut settled = self.book.0.subscribe();
        let waiting = tokio::time::timeout(Duration::from_secs(3_600), settled.wait_for(is));
        waiting.await.expect("settled in time").unwrap().clone()
    }
}

#[async_trait]
impl Feed for FakeFeed {
    async fn next(&mut self) -> Option<Taken> {
        self.0.recv().await
    }
}

/// What reached the gateway: tenant, version, decoded body.
pub(crate) type Received = (String, Protocol, Vec<u8>);

/// A gateway that answers by tenant what a test says, and else that everything is stored.
#[derive(Default)]
pub(crate) struct FakeGateway {
    pub(crate) written: Mutex<Vec<Received>>,
    pub(crate) answers: Mutex<BTreeMap<String, VecDeque<Result<WriteOutcome, Failure>>>>,
}

impl FakeGateway {
    pub(crate) fn answer(&self, tenant: &str, answer: Result<WriteOutcome, Failure>) {
        self.answers.lock().entry(tenant.to_owned()).or_default().push_back(answer);
    }
}

#[async_trait]
impl Gateway for FakeGateway {
    fn check_tenant(&self, name: &str) -> Result<(), String> {
        if name.contains('/') { Err(format!("tenant name {name:?} is not allowed")) } else { Ok(()) }
    }

    async fn write(
        &self,
        tenant: &Arc<str>,
        protocol: Protocol,
        body: Bytes,
        _held: Held,
    ) -> Result<WriteOutcome, Failure> {
        let answer = self.answers.lock().get_mut(&**tenant).and_then(VecDeque::pop_front);
        let body =
            snap::raw::Decoder::new().decompress_vec(&body).map_err(|error| bad(&error.to_string()))?;
        let outcome = answer.unwrap_or_else(|| Ok(WriteOutcome::of(1, Vec::new())))?;
        self.written.lock().push((tenant.to_string(), protocol, body));
        Ok(outcome)
    }
}

pub(crate) fn bad(message: &str) -> Failure {
    failure(quorate_model::ErrorCode::BadInput, message, None)
}

pub(crate) fn failure(
    code: quorate_model::ErrorCode,
    message: &str,
    retry_after: Option<Duration>,
) -> Failure {
    Failure { code, message: message.to_owned(), retry_after, is_other_protocol: false }
}

/// A letter: topic, offset, reason, tenant.
pub(crate) type Written = (String, i64, String, Option<String>);

/// Letters that were written.
#[derive(Default)]
pub(crate) struct FakeLetters {
    pub(crate) written: Mutex<Vec<Written>>,
    pub(crate) fail: Mutex<Option<LetterError>>,
}

#[async_trait]
impl Letters for FakeLetters {
    async fn put(&self, topic: &str, letter: Letter<'_>) -> Result<(), LetterError> {
        if let Some(error) = self.fail.lock().take() {
            return Err(error);
        }
        let tenant = letter.tenant.map(str::to_owned);
        self.written.lock().push((topic.to_owned(), letter.record.offset, letter.reason.to_owned(), tenant));
        Ok(())
    }
}
