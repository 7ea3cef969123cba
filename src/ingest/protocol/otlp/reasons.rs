//! Why single data points are left out of what a message is translated to.
//!
//! Knows reasons and counts. Does not know how points are read.
//! Path: `otlp::walk` -> **here** -> the partial success that a sender is told.

use super::super::{BodyError, TooLarge};
use super::OtlpError;
use super::label_set::LabelsError;

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Data points.
    pub points: u64,
    /// Exemplars without a value, or whose trace or span id has a wrong length.
    pub exemplars: u64,
    /// The first reason, with its metric. Without a dropped point it is a warning.
    pub first: Option<String>,
}

/// Why a data point is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason<'a> {
    #[error("the data point has no time")]
    NoTime,
    #[error("the data point has no value")]
    NoValue,
    #[error("delta temporality is not accepted")]
    Delta,
    #[error("the aggregation temporality is not set")]
    NoTemporality,
    #[error("no metric name can be made of its name")]
    MetricName,
    #[error("no label name can be made of the attribute {0:?}")]
    Attribute(&'a str),
    #[error("no label name can be made of the resource attribute {0:?}")]
    ResourceAttribute(&'a str),
    #[error("no label name can be made of the resource attribute {0:?}, so target_info is not written")]
    TargetInfo(&'a str),
    #[error("no label name can be made of the scope attribute {0:?}")]
    ScopeAttribute(&'a str),
    #[error("the scale {0} of the exponential histogram is below -4")]
    Scale(i32),
    #[error("the bucket indexes of the exponential histogram do not fit 32 bits")]
    BucketIndex,
    #[error(
        "the histogram has {counts} bucket counts and {bounds} bounds, which needs one count more than bounds"
    )]
    BucketCounts { counts: usize, bounds: usize },
}

impl Dropped {
    /// Counts a data point of `metric`.
    pub(super) fn point(&mut self, metric: &str, reason: Reason<'_>) {
        self.points += 1;
        if self.first.is_none() {
            self.first = Some(format!("metric {metric:?}: {reason}"));
        }
    }

    /// Notes something that costs no data point.
    pub(super) fn warn(&mut self, reason: Reason<'_>) {
        if self.first.is_none() {
            self.first = Some(reason.to_string());
        }
    }
}

/// Why the translation of a data point stops.
#[derive(Debug)]
pub(super) enum Stop<'a> {
    /// The whole message is refused.
    Error(OtlpError),
    /// This data point is left out.
    Drop(Reason<'a>),
}

impl From<BodyError> for Stop<'_> {
    fn from(error: BodyError) -> Self {
        Self::Error(error.into())
    }
}

impl From<TooLarge> for Stop<'_> {
    fn from(error: TooLarge) -> Self {
        Self::Error(error.into())
    }
}

impl<'a> From<LabelsError<'a>> for Stop<'a> {
    fn from(error: LabelsError<'a>) -> Self {
        match error {
            LabelsError::Body(error) => error.into(),
            LabelsError::Unnamed(attribute) => Self::Drop(Reason::Attribute(attribute)),
        }
    }
}
