//! Kafka as the log of the partitions: one topic, one of its partitions for each of ours.
//!
//! Knows brokers, offsets and records as bytes. Does not know what a record holds, nor which node has which partition.
//! Path: `server::node` -> **here** -> librdkafka. The position of a record is its offset and 1, so that 0 is before
//! every entry.
//! K1: nothing here commits an offset: how far a replica has come is in its own image (C1). K2: what is missing in the
//! topic is an error that says what to do, never skipped.

pub mod client;
pub mod dead_letters;
mod describe;
mod ends;
mod error;
mod feed;
mod images;
mod log;
mod poll;
mod producer;
mod reader;
pub mod source;
#[cfg(test)]
mod tests;
pub mod topic;

pub use client::{ClientSettings, Sasl, TlsSettings};
pub use error::KafkaError;
pub use log::{Kafka, KafkaLog};
pub use producer::ProduceSettings;
pub use topic::{Topic, TopicSettings};
