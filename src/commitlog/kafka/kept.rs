//! Asks the brokers what the topic still keeps of a partition, by a client of its own: it is rarely asked.
//!
//! Knows where a partition begins and ends. Does not know readers. Path: `log` -> **here** -> librdkafka.

use super::KafkaError;
use super::client::{ClientSettings, Context};
use quorate_model::Position;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::time::Duration;

/// Longest wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const DOING: &str = "asking what is kept of a partition";
/// For so long the client may learn a token before it asks.
const GREETING: Duration = Duration::from_millis(100);

/// The position that the first record which is kept of a partition follows, and that of the last one. Blocks.
///
/// # Errors
/// [`KafkaError::Unavailable`] if no broker tells, [`KafkaError::Setting`].
pub(super) fn kept(
    settings: &ClientSettings,
    topic: &str,
    partition: u32,
) -> Result<(Position, Position), KafkaError> {
    let made = settings.config()?.create_with_context(settings.context());
    let client: BaseConsumer<Context> = made.map_err(|error| KafkaError::Setting {
        key: "options",
        reason: format!("a client cannot be made: {error}"),
    })?;
    drop(client.poll(GREETING));
    let number = i32::try_from(partition).unwrap_or(i32::MAX);
    let found = client.fetch_watermarks(topic, number, TIMEOUT);
    let (first, end) =
        found.map_err(|error| KafkaError::Unavailable { doing: DOING, reason: error.to_string() })?;
    let position = |offset: i64| Position(u64::try_from(offset).unwrap_or(0));
    Ok((position(first), position(end)))
}
