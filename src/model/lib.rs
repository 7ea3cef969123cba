//! The vocabulary of Quorate: labels, matchers, samples, histograms, time, identifiers, batches, error codes.
//!
//! Knows the Prometheus data model. Does not know storage, logs, networks or queries; every other crate
//! imports this one and it imports none of them.

pub mod batch;
mod durable;
pub mod error;
pub mod failpoint;
mod go_regex;
pub mod histogram;
pub mod ids;
pub mod labels;
pub mod matcher;
pub mod planted;
pub mod sample;
pub mod time;

pub use batch::{
    Definition, FlushMark, HistogramSample, LogRecord, MetadataEntry, MetricType, RecordBody, RecordHeader,
    RecordKind, SubBatch,
};
pub use durable::create_dir_durable;
pub use error::ErrorCode;
pub use histogram::{BucketCounts, CounterResetHint, Histogram, Span};
pub use ids::{NodeId, PartitionId, Position, SeriesRef, SessionId, Slot, TenantId};
pub use labels::{Labels, LabelsBuilder, METRIC_NAME};
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use sample::{STALE_NAN_BITS, SeriesBuffer, is_stale, stale_nan};
pub use time::{Clock, ManualClock, SystemClock, TimeRange};
