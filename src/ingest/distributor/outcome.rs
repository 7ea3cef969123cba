//! Answers of the write path.

use crate::protocol::BodyError;
use crate::refusal::{self, Loss, Refusal, Refusals};
use quorate_model::{ErrorCode, PartitionId, Position};
use quorate_tsdb::SubBatchVerdict;
use std::time::Duration;

/// What was written, for the headers of remote write 2.0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Float samples, those that were already there with the same value included.
    pub samples: u64,
    /// Histogram samples, the same.
    pub histograms: u64,
    /// Exemplars: always 0, they are not stored yet.
    pub exemplars: u64,
}

impl Written {
    pub(super) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.histograms += other.histograms;
        self.exemplars += other.exemplars;
    }
}

/// The answer to a request whose every partition answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Float samples written.
    pub samples: u64,
    /// Histogram samples written.
    pub histograms: u64,
    /// Exemplars written: always 0.
    pub exemplars: u64,
    /// The first refusals. If there is any, the answer is 400.
    pub refusals: Vec<Refusal>,
    /// Where the records stand that the request became a part of, by partition. None if nothing went to a log.
    pub positions: Vec<(PartitionId, Position)>,
    refused: u64,
}

impl WriteOutcome {
    pub(super) fn new(written: Written, refusals: Refusals, positions: Vec<(PartitionId, Position)>) -> Self {
        Self {
            samples: written.samples,
            histograms: written.histograms,
            exemplars: written.exemplars,
            refused: refusals.total(),
            refusals: refusals.told,
            positions,
        }
    }

    /// An outcome as tests need it.
    #[cfg(test)]
    pub(crate) fn of(samples: u64, refusals: Vec<Refusal>) -> Self {
        Self { samples, refused: refusals.len() as u64, refusals, ..Self::default() }
    }

    /// Samples, histograms, exemplars, metadata and empty series that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// Why a request has no [`WriteOutcome`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The body is refused as a whole; nothing was written.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The labels of new series are over what one request may bring; nothing was written.
    #[error("the labels of new series in the request take more than {limit} bytes")]
    LabelBytes {
        /// The bound.
        limit: usize,
    },
    /// A record of the log cannot hold what the request has for one partition; nothing was written.
    #[error(
        "what the request has for partition {partition} takes {bytes} bytes, over the limit of {limit} of a \
         record; send smaller requests"
    )]
    PartTooLarge {
        /// The partition.
        partition: PartitionId,
        /// Bytes of the part.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Over the tenant's rate; nothing was written.
    #[error("{message}")]
    RateLimited {
        /// The text for the client, id included.
        message: String,
        /// When it may work.
        retry_after: Duration,
    },
    /// A partition holds too much that is not applied; nothing was written.
    #[error("partition {partition} has {queued} bytes waiting, over the bound of {limit}")]
    Overloaded {
        /// The partition.
        partition: PartitionId,
        /// Bytes that wait.
        queued: usize,
        /// The bound.
        limit: usize,
    },
    /// A partition holds too many samples that came late and are not written out yet; nothing was written.
    #[error(
        "partition {partition} holds more late samples than its budget allows until they are written out"
    )]
    TooMuchLate {
        /// The partition.
        partition: PartitionId,
    },
    /// The node is stopping or opening another session; nothing was written.
    #[error("the node takes no writes at the moment")]
    Draining,
    /// The session has no more refs, or was silent for so long that a log may have forgotten it. Nothing was written there.
    #[error("the gateway session is used up; another one must be opened")]
    SessionUsedUp,
    /// A partition's log did not take its part. Other partitions may have.
    #[error("partition {partition} did not take the write: {cause}")]
    NotTaken {
        /// The partition.
        partition: PartitionId,
        /// What its log said.
        cause: String,
        /// What other partitions wrote.
        written: Written,
    },
    /// Nobody knows yet whether a partition's part was written; repeating is safe.
    #[error("no answer from partition {partition}; the write may still appear: {cause}")]
    Unknown {
        /// The partition.
        partition: PartitionId,
        /// What is known.
        cause: String,
        /// What other partitions wrote.
        written: Written,
    },
    /// A bug.
    #[error("the write failed inside: {cause}")]
    Internal {
        /// What is known.
        cause: String,
    },
}

impl WriteError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Body(body) => body.code(),
            Self::LabelBytes { .. } | Self::PartTooLarge { .. } => ErrorCode::TooLarge,
            Self::RateLimited { .. } => ErrorCode::RateLimited,
            Self::Overloaded { .. }
            | Self::TooMuchLate { .. }
            | Self::Draining
            | Self::SessionUsedUp
            | Self::NotTaken { .. } => ErrorCode::Unavailable,
            Self::Unknown { .. } => ErrorCode::Indeterminate,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// When a sender may try again, for `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            Self::Body(BodyError::NoRoom(_))
            | Self::Overloaded { .. }
            | Self::TooMuchLate { .. }
            | Self::Draining
            | Self::SessionUsedUp
            | Self::NotTaken { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// What was written for certain in spite of the error.
    pub fn written(&self) -> Written {
        match self {
            Self::NotTaken { written, .. } | Self::Unknown { written, .. } => *written,
            _ => Written::default(),
        }
    }

    pub(super) fn unknown(partition: PartitionId, cause: impl Into<String>) -> Self {
        Self::Unknown { partition, cause: cause.into(), written: Written::default() }
    }

    pub(super) fn not_taken(partition: PartitionId, cause: impl Into<String>) -> Self {
        Self::NotTaken { partition, cause: cause.into(), written: Written::default() }
    }

    /// Of two failures the one that leaves more unknown.
    pub(super) fn worse(first: Option<Self>, second: Self) -> Self {
        match first {
            Some(first) if matches!(first, Self::Unknown { .. }) => first,
            _ => second,
        }
    }

    pub(super) fn with_written(mut self, all: Written) -> Self {
        if let Self::NotTaken { written, .. } | Self::Unknown { written, .. } = &mut self {
            *written = all;
        }
        self
    }
}

/// A part of a request that is committed.
#[derive(Debug)]
pub(super) struct Committed {
    /// Where its record stands.
    pub(super) position: Position,
    /// Verdicts of the request's sub-batches, `None` if they were late.
    pub(super) verdicts: Option<Vec<SubBatchVerdict>>,
}

/// A partition's answer.
pub(super) type PartAnswer = Result<Committed, WriteError>;

/// What one part of a request sent, in the order of its sub-batches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PartCounts {
    pub(super) samples: u64,
    pub(super) histograms: u64,
    /// Whether there is a sub-batch for floats (and definitions, metadata), then one for histograms.
    pub(super) has_floats: bool,
    pub(super) has_histograms: bool,
}

impl PartCounts {
    /// Number of sub-batches.
    pub(super) fn sub_batches(&self) -> usize {
        usize::from(self.has_floats) + usize::from(self.has_histograms)
    }

    /// What was written by the verdicts; conflicts become refusals.
    pub(super) fn settle(&self, verdicts: Option<&[SubBatchVerdict]>, refusals: &mut Refusals) -> Written {
        let mut written = Written { samples: self.samples, histograms: self.histograms, exemplars: 0 };
        let mut verdicts = verdicts.unwrap_or_default().iter();
        if self.has_floats
            && let Some(verdict) = verdicts.next()
        {
            written.samples -= verdict.counters.conflicts.min(written.samples);
            tell_conflicts(verdict, Loss { samples: 1, ..Loss::default() }, refusals);
        }
        if self.has_histograms
            && let Some(verdict) = verdicts.next()
        {
            written.histograms -= verdict.counters.conflicts.min(written.histograms);
            tell_conflicts(verdict, Loss { histograms: 1, ..Loss::default() }, refusals);
        }
        written
    }
}

fn tell_conflicts(verdict: &SubBatchVerdict, each: Loss, refusals: &mut Refusals) {
    let examples = verdict.examples.iter().map(Some).chain(std::iter::repeat(None));
    for (_, example) in (0..verdict.counters.conflicts).zip(examples) {
        refusals.add(refusal::CONFLICT, each, || match example {
            Some(example) => refusal::conflict(example.ts_ms, &refusal::show(example.labels.iter())),
            None => format!("further samples with the same timestamp ({})", refusal::CONFLICT),
        });
    }
}
