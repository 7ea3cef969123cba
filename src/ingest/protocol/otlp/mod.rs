//! OTLP metrics, translated to bodies of remote write 2.0 by the rules of Prometheus' own receiver.
//!
//! Knows `ExportMetricsServiceRequest` as protobuf and JSON, and the naming rules. Does not know Kafka, HTTP, gRPC,
//! tenants' limits or what becomes of a body.
//! Path: a consumer of records or a door -> **here** -> `protocol::parse`, one body for each tenant.
//! - O1: a malformed message has no effect; a data point that cannot be stored is counted, and the others stand.
//! - O2: the message is walked, not decoded. Beyond the bodies memory is kept for one resource and one data point.
//! - O3: JSON is rewritten as protobuf first, so both encodings mean the same.
//!
//! What is wrong with the numbers of a native histogram, such as buckets that do not add up to the count, is told by
//! the parser behind, like in a body that a sender wrote.
//! Delta temporality is refused or stored as it comes; it is not converted to cumulative.
//! Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility" and "Metrics Data Model".

mod fields;
mod histograms;
mod json;
mod json_fields;
mod label_set;
mod names;
mod output;
mod points;
mod reasons;
mod resource;
mod settings;
#[cfg(test)]
mod tests;
mod values;
mod walk;

pub use reasons::Dropped;
pub use settings::{Delta, OtlpSettings, TranslationStrategy};

use super::{BodyError, TooLarge};
use quorate_model::ErrorCode;

/// How a message is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Protobuf, which the Collector calls `otlp_proto`.
    Proto,
    /// The JSON of the same message, which the Collector calls `otlp_json`.
    Json,
}

/// What one message may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the message.
    pub body_bytes: usize,
    /// Bytes of all bodies that it is translated to, and of the protobuf that JSON is rewritten as.
    pub translated_bytes: usize,
}

/// What a message says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// One body for each tenant, in the order in which the message names them.
    pub bodies: Vec<TenantBody>,
    /// Data points that the bodies hold.
    pub points: u64,
    /// Data points that they do not hold.
    pub dropped: Dropped,
}

/// The series of one tenant.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TenantBody {
    /// What the resource attribute names; `None` if no attribute is asked for, or the resource has none.
    pub tenant: Option<String>,
    /// A decoded remote write 2.0 body.
    pub body: Vec<u8>,
    /// Samples and native histograms in it; a data point may become several.
    pub samples: u64,
}

/// Why a message is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtlpError {
    /// Larger than the limit.
    #[error("the message has {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// What it is translated to takes too much memory.
    #[error("what the message is translated to takes more than {limit} bytes")]
    Expands {
        /// The bound.
        limit: usize,
    },
    /// No protobuf message of the type.
    #[error("the message is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// No JSON, or a field of another type.
    #[error("the message is malformed: {what}")]
    Json {
        /// What is wrong, and where.
        what: String,
    },
}

impl OtlpError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::Expands { .. } => ErrorCode::TooLarge,
            Self::Malformed { .. } | Self::Json { .. } => ErrorCode::BadInput,
        }
    }
}

impl From<BodyError> for OtlpError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Malformed { what } => Self::Malformed { what },
            // A cursor tells nothing else.
            _ => Self::Malformed { what: "the message cannot be read" },
        }
    }
}

impl From<TooLarge> for OtlpError {
    fn from(error: TooLarge) -> Self {
        Self::Expands { limit: error.limit }
    }
}

/// Translates one message.
///
/// `tenant_attribute` names the resource attribute that tells the tenant; each of its values gets a body of its own.
/// Cost: one walk of the message and one of the resources' attributes; allocations for each resource, scope, metric
/// and exemplar, none for a data point unless an attribute holds a map.
///
/// # Errors
/// [`OtlpError`]; nothing of the message is translated then.
pub fn translate(
    encoding: Encoding,
    body: &[u8],
    settings: &OtlpSettings,
    tenant_attribute: Option<&str>,
    limits: Limits,
) -> Result<Translated, OtlpError> {
    if body.len() > limits.body_bytes {
        return Err(OtlpError::TooLarge { bytes: body.len(), limit: limits.body_bytes });
    }
    match encoding {
        Encoding::Proto => walk::walk(body, settings, tenant_attribute, limits.translated_bytes),
        Encoding::Json => {
            let message = json::to_protobuf(body, limits.translated_bytes)?;
            walk::walk(&message, settings, tenant_attribute, limits.translated_bytes)
        }
    }
}
