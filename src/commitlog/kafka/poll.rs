//! Polls a consumer for what its safe wrapper leaves out: which partition an error concerns, and at which offset.
//!
//! Knows librdkafka's events. Does not know readers, nor what an error means to them.
//! Path: librdkafka -> **here** -> `feed`.
//! PO1: a record is lent to whoever gets it, and not copied here. PO2: what the wrapper does besides is done here as well: tokens
//! are renewed, and what librdkafka logs is told.

use super::client::Context;
use super::describe::{Owned, text};
use rdkafka::bindings as raw;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::RDKafkaRespErr;
use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::time::Duration;

/// What a poll found.
pub(crate) enum Polled<'p> {
    /// A record.
    Record { partition: i32, offset: i64, payload: &'p [u8] },
    /// All records before `offset` were handed out, and the broker had none behind them.
    End { partition: i32, offset: i64 },
    /// Something failed: with a partition, or with all of them.
    Failed { partition: Option<i32>, code: Code, reason: String },
}

/// Where the events of a consumer wait. Ends before its consumer.
pub(crate) struct Poller(Owned<raw::rd_kafka_queue_t>);

// SAFETY: queues of librdkafka may be used by any thread, and whoever has the pointer has a reference of its own.
#[allow(unsafe_code)]
unsafe impl Send for Poller {}

impl Poller {
    /// The queue of `consumer`; `None` if it has none, for want of a group's name.
    #[allow(unsafe_code)]
    pub(crate) fn new(consumer: &BaseConsumer<Context>) -> Option<Self> {
        // SAFETY: the client lives during the call; the queue is freed by its own function.
        let queue = unsafe { raw::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then(|| Self(Owned(queue, raw::rd_kafka_queue_destroy)))
    }

    /// Waits for an event of `consumer`, whose queue this is, for up to `timeout`, and hands it to `found`.
    #[allow(unsafe_code)]
    pub(crate) fn poll(
        &self,
        consumer: &BaseConsumer<Context>,
        timeout: Duration,
        found: impl FnOnce(Polled<'_>),
    ) {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is valid as long as `self`. The event is freed behind all that is read out of it.
        unsafe {
            let event = Owned(raw::rd_kafka_queue_poll(self.0.0, timeout_ms), raw::rd_kafka_event_destroy);
            if event.0.is_null() {
                return;
            }
            match raw::rd_kafka_event_type(event.0) {
                raw::RD_KAFKA_EVENT_FETCH => record(event.0, found),
                raw::RD_KAFKA_EVENT_ERROR => found(error(event.0)),
                raw::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => renew_token(consumer.client()),
                raw::RD_KAFKA_EVENT_LOG => log(event.0, consumer.context()),
                other => tracing::debug!(event = other, "an event of Kafka's client that nobody asked for"),
            }
        }
    }
}

/// # Safety
/// `event` is valid and one of fetched records.
#[allow(unsafe_code)]
unsafe fn record(event: *mut raw::rd_kafka_event_t, found: impl FnOnce(Polled<'_>)) {
    // SAFETY: the message is part of the event, and its payload, if there is one, has the length that stands beside it.
    unsafe {
        let Some(message) = raw::rd_kafka_event_message_next(event).as_ref() else { return };
        let partition = message.partition;
        if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let reason = text(raw::rd_kafka_err2str(message.err));
            return found(Polled::Failed { partition: Some(partition), code: message.err.into(), reason });
        }
        let payload = match message.payload.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len),
        };
        found(Polled::Record { partition, offset: message.offset, payload });
    }
}

/// # Safety
/// `event` is valid and one of an error.
#[allow(unsafe_code)]
unsafe fn error(event: *mut raw::rd_kafka_event_t) -> Polled<'static> {
    // SAFETY: the texts are parts of the event; the place is this function's own, and freed.
    unsafe {
        let code = Code::from(raw::rd_kafka_event_error(event));
        let place = Owned(raw::rd_kafka_event_topic_partition(event), raw::rd_kafka_topic_partition_destroy);
        let place = place.0.as_ref().map(|place| (place.partition, place.offset));
        match (code, place) {
            (Code::PartitionEOF, Some((partition, offset))) => Polled::End { partition, offset },
            _ => Polled::Failed {
                partition: place.map(|(partition, _)| partition).filter(|partition| *partition >= 0),
                code,
                reason: text(raw::rd_kafka_event_error_string(event)),
            },
        }
    }
}

/// Serves a client that nobody polls, as the wrapper's administrator: what it logged is told, and it gets a token if it needs
/// one. Other events of its own are dropped.
#[allow(unsafe_code)]
pub(super) fn serve(client: &Client<Context>) {
    // SAFETY: the client lives during the call; queue and events are freed by their own functions, the queue last.
    unsafe {
        let queue = Owned(raw::rd_kafka_queue_get_main(client.native_ptr()), raw::rd_kafka_queue_destroy);
        loop {
            let event = Owned(raw::rd_kafka_queue_poll(queue.0, 0), raw::rd_kafka_event_destroy);
            if event.0.is_null() {
                break;
            }
            if raw::rd_kafka_event_type(event.0) == raw::RD_KAFKA_EVENT_LOG {
                log(event.0, client.context());
            }
        }
    }
    if client.context().has_token() {
        renew_token(client);
    }
}

/// # Safety
/// `event` is valid and one of a line of the log.
#[allow(unsafe_code)]
unsafe fn log(event: *mut raw::rd_kafka_event_t, context: &Context) {
    let (mut facility, mut message, mut level) = (null(), null(), 0);
    // SAFETY: the texts are parts of the event, which the caller keeps, and end in a zero byte.
    unsafe {
        if raw::rd_kafka_event_log(event, &mut facility, &mut message, &mut level) == 0 {
            context.log(level_of(level), text(facility).trim(), text(message).trim());
        }
    }
}

/// A level of syslog.
fn level_of(number: i32) -> RDKafkaLogLevel {
    match number {
        ..=3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 | 6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

/// Gives the client a new token, or tells it why there is none.
#[allow(unsafe_code)]
fn renew_token(client: &Client<Context>) {
    let made = client.context().generate_oauth_token(None).map_err(|error| error.to_string());
    let made = made.and_then(|made| {
        let bad = |_| "a token or its subject has a zero byte".to_owned();
        let token = CString::new(made.token).map_err(bad)?;
        Ok((token, CString::new(made.principal_name).map_err(bad)?, made.lifetime_ms))
    });
    let rk = client.native_ptr();
    let mut problem = [0; 512];
    let set = made.and_then(|(token, principal, lifetime_ms)| {
        // SAFETY: the client lives as long as `consumer`; texts and buffer outlive the call, and there are no extensions.
        let set = unsafe {
            raw::rd_kafka_oauthbearer_set_token(
                rk,
                token.as_ptr(),
                lifetime_ms,
                principal.as_ptr(),
                null_mut(),
                0,
                problem.as_mut_ptr(),
                problem.len(),
            )
        };
        // SAFETY: the buffer ends with a zero byte, whatever was written into it.
        let why = || unsafe { text(problem.as_ptr()) };
        if set == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(why()) }
    });
    if let Err(reason) = set {
        let reason = CString::new(reason).unwrap_or_default();
        // SAFETY: as above. What it returns tells only that the client uses no tokens.
        unsafe { raw::rd_kafka_oauthbearer_set_token_failure(rk, reason.as_ptr()) };
    }
}
