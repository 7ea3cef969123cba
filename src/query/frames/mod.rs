//! Frames: series and lists of one partition as bytes between nodes.
//!
//! Knows the byte form. Does not know queries, replicas or the network; the page is `docs/formats/frame.md`.
//! Path: `fragment_service` writes -> `wire` -> `fanout` reads. [`series`] has samples, [`lists`] has none.
//!
//! - W1: reading takes any bytes: an error, never a panic, and nothing is allocated for more samples than a run may
//!   have.
//! - W2: what was written is read back bit for bit: NaN payloads, stale markers, reset hints, start timestamps.
//! - W3: a frame can be read alone, but for the labels of a series that goes on from the frame before.

pub(crate) mod lists;
pub(crate) mod series;
#[cfg(test)]
mod tests;

use quorate_chunk::{ChunkError, varint};
use quorate_model::PartitionId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;
/// A frame is sent when it has so many bytes. What is added last may take it a good part above.
const SEND_AT: usize = 768 << 10;

/// What the entries of a frame are. The numbers are part of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Runs of samples of series.
    Samples = 0,
    /// Label sets.
    Series = 1,
    /// Label names or values.
    Texts = 2,
    /// Metadata of metric families.
    Metadata = 3,
    /// Label pairs and their series.
    Cardinality = 4,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// A version that this binary does not know.
    #[error("a frame of version {0}")]
    Version(u8),
    /// Bytes that no writer writes.
    #[error("damaged frame: {0}")]
    Damaged(&'static str),
    /// A stream in a run of samples is damaged.
    #[error("damaged frame: {0}")]
    Chunk(#[from] ChunkError),
}

fn begin(kind: Kind, partition: PartitionId) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind as u8];
    bytes.extend_from_slice(&partition.0.to_le_bytes());
    bytes
}

/// Splits a frame of `kind` into its partition and its entries.
fn open(kind: Kind, frame: &[u8]) -> Result<(PartitionId, &[u8]), FrameError> {
    let (header, entries) =
        frame.split_first_chunk::<HEADER_BYTES>().ok_or(FrameError::Damaged("it has no header"))?;
    let [version, found, partition @ ..] = *header;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if found != kind as u8 {
        return Err(FrameError::Damaged("it is of another kind"));
    }
    Ok((PartitionId(u32::from_le_bytes(partition)), entries))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = varint::take_len(rest, rest.len())?;
    varint::take_bytes(rest, length)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(rest)?.to_vec()).ok()
}
