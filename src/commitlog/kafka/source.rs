//! Topics that others fill, consumed as a member of a group: records out, and what became of them back in.
//!
//! Knows groups, offsets and records as bytes. Does not know what a record holds, nor why one has to wait.
//! Path: the brokers -> `consumer` -> **here** -> `ingest::sources`; a [`Ticket`] goes back to `lanes`, and from there
//! the offset to commit.
//! SR1: an offset is committed only when every record before it is finished. SR2: a record taken under one assignment
//! never commits under another. SR3: a ticket that is dropped counts as a record to be taken again.

mod consumer;
mod lanes;
#[cfg(test)]
mod tests;

pub use consumer::{KafkaFeed, Member};

use super::client::ClientSettings;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// After this a record is taken again whose ticket was dropped.
const DROPPED_WAIT: Duration = Duration::from_secs(1);

/// How partitions are divided among the members of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Only partitions that move stop.
    #[default]
    CooperativeSticky,
    /// All stop while they are divided anew; for groups whose other members know no better.
    Range,
}

/// Where a group begins in a partition for which it has no offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
}

/// What is consumed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// Name of the source, for its metrics.
    pub name: String,
    /// How brokers are reached.
    pub client: ClientSettings,
    /// Group whose offsets tell how far it has come.
    pub group: String,
    /// Topics by name, or a regular expression that begins with `^`.
    pub topics: Vec<String>,
    /// How partitions are divided.
    pub assignor: Assignor,
    /// Where a partition without an offset is begun.
    pub start: Start,
    /// Bytes of records that are handed out and not finished; as many at most again wait inside the client.
    pub max_bytes: usize,
    /// Distance between two commits of offsets.
    pub commit_interval: Duration,
    /// How long a partition that is taken away waits for its records under way.
    pub revoke_wait: Duration,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name; the same may stand there several times.
    pub name: String,
    /// Its value.
    pub value: Option<Bytes>,
}

/// One record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was made or appended, milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers in their order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The value of the first header of this name, whatever the case of its letters.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(found.value.as_deref().unwrap_or_default())
    }

    /// Bytes that it takes, with what is kept beside it.
    pub fn bytes(&self) -> usize {
        /// Tickets, tasks and the ends of buffers.
        const BESIDE: usize = 512;
        let headers = self.headers.iter();
        let headers =
            headers.map(|h| size_of::<Header>() + h.name.len() + h.value.as_ref().map_or(0, Bytes::len));
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        BESIDE + len(&self.key) + len(&self.value) + headers.sum::<usize>()
    }
}

/// Where a record stands, and under which assignment of its partition it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Number of the assignment, never used twice.
    pub assignment: u64,
}

/// What a ticket tells.
pub trait Settle: Send + Sync {
    /// Whether the record may be begun: not if its partition went away, or waits for a record before it. Then there
    /// is nothing more to do about it.
    fn begin(&self, place: &Place) -> bool;
    /// Nothing remains to be done about the record.
    fn finish(&self, place: &Place);
    /// The record is to be taken again after a while, and nothing new of its partition before.
    fn again(&self, place: &Place, after: Duration);
    /// The bytes of a record are free.
    fn release(&self, place: &Place, bytes: usize);
}

/// The duty to say what became of a record.
pub struct Ticket {
    settle: Arc<dyn Settle>,
    place: Place,
    bytes: usize,
    is_settled: bool,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Ticket {
    /// A ticket for the record at `place`, whose `bytes` are taken until it is dropped.
    pub fn new(settle: Arc<dyn Settle>, place: Place, bytes: usize) -> Self {
        Self { settle, place, bytes, is_settled: false }
    }

    /// Where the record stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Bytes that the record takes of its source's room.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ticket of a record that is begun; `None` if it must not be.
    pub fn begin(mut self) -> Option<Self> {
        if self.settle.begin(&self.place) {
            return Some(self);
        }
        self.is_settled = true;
        None
    }

    /// Nothing remains to be done about the record: its offset may be committed.
    pub fn finish(mut self) {
        self.is_settled = true;
        self.settle.finish(&self.place);
    }

    /// Gives the record's memory back; it is fetched again after `after`, and nothing new of its partition before.
    pub fn again(mut self, after: Duration) {
        self.is_settled = true;
        self.settle.again(&self.place, after);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle.again(&self.place, DROPPED_WAIT);
        }
        self.settle.release(&self.place, self.bytes);
    }
}

/// A record and its ticket.
#[derive(Debug)]
pub struct Taken {
    /// The record.
    pub record: Record,
    /// What became of it is told here.
    pub ticket: Ticket,
}

/// Where records come from. F1: those of a partition come in order, apart from those that are taken again.
#[async_trait]
pub trait Feed: Send {
    /// The next record, `None` once the feed has ended. A dropped future loses nothing.
    async fn next(&mut self) -> Option<Taken>;
}
