//! The way of a record into the log of its partition, wherever that is led.
//!
//! Knows records as bytes, leaders and verdicts. Does not know what a record holds, nor who may write.
//! Path: `distributor` -> **here** -> `PartitionLog` of this node, or [`WriteService`] of the leader's -> `PartitionLog`.
//! Drivers: [`LocalAppender`] for a partition that this node leads alone, [`RoutedAppender`] for a cluster, and
//! [`DirectAppender`] for a log that any node can append to; one suite runs on all, but for what is said of verdicts.

mod convert;
mod direct;
mod local;
mod replicas;
mod routed;
mod service;
#[cfg(test)]
pub(crate) mod tests;

pub use direct::DirectAppender;
pub use local::LocalAppender;
pub use replicas::{HeldHere, LocalReplica, LocalReplicas};
pub use routed::{RouteConfig, RoutedAppender};
pub use service::{PEER_BYTES, WriteService};

use crate::applier::{NoVerdict, RecordVerdict};
use async_trait::async_trait;
use bytes::Bytes;
use quorate_commitlog::LogError;
use quorate_model::{Position, SessionId};
use quorate_tsdb::SubBatchVerdict;
use tokio::sync::oneshot;

/// Appends the records of one partition.
///
/// - A1: a resolved `append` means that the record is committed. Its verdict may come later.
/// - A2: after `Indeterminate` or a dropped future the record may appear, at most once for each call; after any
///   other error it never will.
/// - A3: every call ends, as far as the log below does: no look for a leader is without a deadline.
#[async_trait]
pub trait Appender: Send + Sync {
    /// Appends the record with this number of a session; its header says the same.
    ///
    /// # Errors
    /// Code `Indeterminate` when the record may still appear; with any other code it had no effect.
    async fn append(&self, session: SessionId, sequence: u64, record: Bytes) -> Result<Appended, LogError>;

    /// The incarnation of the log (C7). Never 0.
    fn incarnation(&self) -> u32;

    /// Why the partition takes nothing any more, if it does not.
    fn why_stopped(&self) -> Option<String>;
}

/// A record that is committed.
#[derive(Debug)]
pub struct Appended {
    /// Its place in the log.
    pub position: Position,
    /// What apply makes of it.
    pub verdict: PendingVerdict,
}

/// The verdict of a committed record, there or on its way.
#[derive(Debug)]
pub enum PendingVerdict {
    /// Apply of this node will tell.
    Coming(oneshot::Receiver<RecordVerdict>),
    /// The leader has told.
    Known(RecordVerdict),
    /// The leader had none in time and will not tell any more.
    Late,
}

impl PendingVerdict {
    /// Waits for the verdict; `None` if it was late.
    ///
    /// # Errors
    /// [`NoVerdict`] when nobody will know.
    pub async fn wait(self) -> Result<Option<Vec<SubBatchVerdict>>, NoVerdict> {
        match self {
            Self::Coming(receiver) => {
                let forgotten = |_| Err(NoVerdict { reason: "its verdict was given up".to_owned() });
                receiver.await.unwrap_or_else(forgotten).map(Some)
            }
            Self::Known(verdict) => verdict.map(Some),
            Self::Late => Ok(None),
        }
    }
}
