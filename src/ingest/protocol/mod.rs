//! Remote write bodies as columns, without decoding labels.
//!
//! Knows snappy blocks and the two protobuf messages. Does not know tenants' limits, series or partitions.
//! Path: `server::http` -> **here** -> `distributor`, which asks the series cache about each hash.
//!
//! A body is read in full before anything is made of it, so a malformed one has no effect. What is wrong with
//! one series only is kept beside it as a [`Fault`], and the rest of the request is stored.

mod body;
#[cfg(test)]
pub(crate) mod encoder;
mod histogram;
mod influx;
mod label_list;
mod labels;
mod lines;
mod memory;
pub mod otlp;
mod request;
mod rw1;
mod rw2;
mod sample;
mod snappy;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod told;
mod wire;

pub use body::{DenseBuckets, HistogramParts, Rw2Body, SeriesWriter, TooLarge};
pub use histogram::HistogramFault;
pub use influx::{InfluxError, InfluxRead, InfluxSettings, Precision, translate_influx};
pub use labels::{LabelBounds, LabelFault, LabelPairs};
pub use lines::{Note, Noted};
pub(crate) use memory::Memory;
pub(crate) use request::RawHash;
pub use request::{Fault, Hashing, ParsedHistogram, ParsedMetadata, ParsedRequest, ParsedSeries};
pub use snappy::BodyBuffer;
pub use text::{Created, TextError, TextFormat, TextRead, TextSettings, translate_text};

use crate::in_flight::{Held, NoRoom};
use quorate_model::ErrorCode;
use std::fmt;

/// The protocol that the headers of a request announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `prometheus.WriteRequest`.
    RemoteWrite1,
    /// `io.prometheus.write.v2.Request`.
    RemoteWrite2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RemoteWrite1 => "remote write 1.0",
            Self::RemoteWrite2 => "remote write 2.0",
        })
    }
}

/// Why a body is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the limit, as declared or in fact.
    #[error("the request has {bytes} bytes when decoded, over the limit of {limit}")]
    TooLarge {
        /// Its decoded bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// What is read from it takes too much memory, because it has very many very small parts.
    #[error("what the request holds takes more than {limit} bytes once it is read")]
    Expands {
        /// The bound.
        limit: usize,
    },
    /// Other write requests take the memory that it needs.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// No snappy block, or no message.
    #[error("the request is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A well-formed message of the other protocol.
    #[error("the content type announces {announced}, the body is the other version of remote write")]
    OtherProtocol {
        /// What the headers said.
        announced: Protocol,
    },
}

impl BodyError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::Expands { .. } => ErrorCode::TooLarge,
            Self::NoRoom(_) => ErrorCode::Unavailable,
            Self::Malformed { .. } => ErrorCode::BadInput,
            Self::OtherProtocol { .. } => ErrorCode::UnsupportedMedia,
        }
    }
}

pub(crate) fn malformed(what: &'static str) -> BodyError {
    BodyError::Malformed { what }
}

/// Reads a decoded body of `protocol` into the reused `request`.
///
/// What is read takes at most `max_bytes`, beside plain samples, which take at most twice their bytes in the
/// body. It is taken of the node through `held`, which is handed back.
///
/// # Errors
/// [`BodyError`]; `request` then holds nothing of use.
pub fn parse(
    protocol: Protocol,
    body: &[u8],
    hashing: &Hashing,
    max_bytes: usize,
    held: Held,
    request: &mut ParsedRequest,
) -> Result<Held, BodyError> {
    request.clear();
    request.memory = memory::Memory::begin(max_bytes, held);
    let read = match protocol {
        Protocol::RemoteWrite1 => rw1::parse(body, hashing, request),
        Protocol::RemoteWrite2 => rw2::parse(body, hashing, request),
    };
    let held = request.memory.end();
    read.map(|()| held)
}
