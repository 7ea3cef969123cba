//! What brokers say of a topic: its id and how many replicas its partitions have.
//!
//! Knows librdkafka's `DescribeTopics`, which has no safe wrapper. Does not know what is expected of a topic.
//! Path: `topic`, `log` -> **here** -> librdkafka.

use super::KafkaError;
use super::client::Context;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as raw;
use rdkafka::types::RDKafkaRespErr;
use std::ffi::{CStr, CString};
use std::time::Duration;

const DOING: &str = "describing the topic";

/// A topic as its brokers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// Its id, which another topic of the same name has not.
    pub(crate) id: u128,
    /// Replicas of each partition, by number.
    pub(crate) replicas: Vec<usize>,
}

/// Frees what librdkafka gave when it goes out of scope.
pub(super) struct Owned<T>(pub(super) *mut T, pub(super) unsafe extern "C" fn(*mut T));

#[allow(unsafe_code)]
impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from librdkafka, is not null, is freed only here and with its own function.
            unsafe { (self.1)(self.0) }
        }
    }
}

/// Asks the brokers about `topic`; `None` if there is none of this name. Blocks for up to `timeout`, or a little longer.
///
/// # Errors
/// [`KafkaError`] if no broker tells.
#[allow(unsafe_code)]
pub(crate) fn describe(
    client: &AdminClient<Context>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Described>, KafkaError> {
    let unavailable = |reason: &str| KafkaError::Unavailable { doing: DOING, reason: reason.to_owned() };
    let name = CString::new(topic)
        .map_err(|_| KafkaError::Setting { key: "topic", reason: format!("{topic:?} has a zero byte") })?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.inner().native_ptr();
    let mut names = [name.as_ptr()];
    let mut problem = [0; 512];
    // SAFETY: `rk` lives as long as `client`. Everything made here is freed by `Owned` when it goes out of scope, the event
    // after all that is read out of it, and the queue after the event. The names and the buffer outlive the calls.
    unsafe {
        let queue = Owned(raw::rd_kafka_queue_new(rk), raw::rd_kafka_queue_destroy);
        let options = Owned(
            raw::rd_kafka_AdminOptions_new(rk, raw::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            raw::rd_kafka_AdminOptions_destroy,
        );
        let set = raw::rd_kafka_AdminOptions_set_request_timeout(
            options.0,
            timeout_ms,
            problem.as_mut_ptr(),
            problem.len(),
        );
        if set != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(unavailable(&text(problem.as_ptr())));
        }
        let asked = Owned(
            raw::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            raw::rd_kafka_TopicCollection_destroy,
        );
        raw::rd_kafka_DescribeTopics(rk, asked.0, options.0, queue.0);
        let event = Owned(
            raw::rd_kafka_queue_poll(queue.0, timeout_ms.saturating_add(1_000)),
            raw::rd_kafka_event_destroy,
        );
        if event.0.is_null() {
            return Err(unavailable("no broker answered in time"));
        }
        if raw::rd_kafka_event_error(event.0) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(unavailable(&text(raw::rd_kafka_event_error_string(event.0))));
        }
        let result = raw::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(unavailable("the brokers answered another question"));
        }
        let mut count = 0;
        let topics = raw::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count != 1 || topics.is_null() {
            return Err(unavailable("the brokers do not tell"));
        }
        read(*topics)
    }
}

/// # Safety
/// `topic` is a description that stays valid during the call.
#[allow(unsafe_code)]
unsafe fn read(topic: *const raw::rd_kafka_TopicDescription_t) -> Result<Option<Described>, KafkaError> {
    // SAFETY: all pointers are parts of the description; counts are those of the arrays that they come with.
    unsafe {
        let error = raw::rd_kafka_TopicDescription_error(topic);
        match raw::rd_kafka_error_code(error) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => return Ok(None),
            code => {
                let reason = text(raw::rd_kafka_error_string(error));
                return Err(match code {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
                        KafkaError::Refused { doing: DOING, reason }
                    }
                    _ => KafkaError::Unavailable { doing: DOING, reason },
                });
            }
        }
        let id = raw::rd_kafka_TopicDescription_topic_id(topic);
        let half = |bits: i64| u128::from(bits as u64);
        let id = half(raw::rd_kafka_Uuid_most_significant_bits(id)) << 64
            | half(raw::rd_kafka_Uuid_least_significant_bits(id));
        let mut count = 0;
        let partitions = raw::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let mut replicas = vec![0; count];
        for at in 0..count {
            let partition = *partitions.add(at);
            let mut copies = 0;
            raw::rd_kafka_TopicPartitionInfo_replicas(partition, &mut copies);
            let number = usize::try_from(raw::rd_kafka_TopicPartitionInfo_partition(partition));
            if let Some(known) = number.ok().and_then(|number| replicas.get_mut(number)) {
                *known = copies;
            }
        }
        Ok(Some(Described { id, replicas }))
    }
}

/// # Safety
/// `text` is null or ends with a zero byte.
#[allow(unsafe_code)]
pub(super) unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return "no reason was given".to_owned();
    }
    // SAFETY: it is not null, and the caller promises the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
