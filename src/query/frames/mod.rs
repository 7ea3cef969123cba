//! Frames: series and lists of one partition as bytes between nodes.
//!
//! Knows the byte form. Does not know queries, replicas or the network; the page is `docs/formats/frame.md`.
//! Path: `fragment_service` writes -> `wire` -> `fanout` reads. [`series`] has samples, [`lists`] has none,
//! [`partials`] has what was made of them.
//!
//! - W1: reading takes any bytes: an error, never a panic, and nothing is allocated for more samples than a run may
//!   have.
//! - W2: what was written is read back bit for bit: NaN payloads, stale markers, reset hints, start timestamps.
//! - W3: a frame can be read alone, but for the labels of a series that goes on from the frame before.

pub(crate) mod lists;
pub(crate) mod partials;
pub(crate) mod series;
#[cfg(test)]
mod tests;

use quorate_chunk::{ChunkError, varint};
use quorate_model::{Labels, PartitionId};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;
/// A frame is sent when it has so many bytes. What is added last may take it a good part above.
const SEND_AT: usize = 768 << 10;
/// Bytes of a frame that the network takes. What cannot be split must fit.
const MOST_BYTES: usize = 4 << 20;

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
    /// Series or groups with the numbers that a part of a query has for them.
    Partials = 5,
    /// What that cost, and annotations.
    Report = 6,
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
    match head(frame)? {
        (found, partition) if found == kind as u8 => Ok((partition, &frame[HEADER_BYTES..])),
        _ => Err(FrameError::Damaged("it is of another kind")),
    }
}

/// The kind of a frame, as it is in its header, and its partition.
pub(crate) fn head(frame: &[u8]) -> Result<(u8, PartitionId), FrameError> {
    let header = frame.first_chunk::<HEADER_BYTES>().ok_or(FrameError::Damaged("it has no header"))?;
    let [version, kind, partition @ ..] = *header;
    match version {
        VERSION => Ok((kind, PartitionId(u32::from_le_bytes(partition)))),
        _ => Err(FrameError::Version(version)),
    }
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

/// Puts labels without what they share with `last`, the ones before, and leaves them there.
fn put_labels(out: &mut Vec<u8>, last: &mut Labels, labels: &Labels) {
    let (before, packed) = (last.as_packed(), labels.as_packed());
    let shared = before.iter().zip(packed).take_while(|(a, b)| a == b).count();
    varint::put(out, shared as u64);
    put_bytes(out, &packed[shared..]);
    *last = labels.clone();
}

/// Takes labels that share their beginning with `last`, the packed labels before, and leaves their own there.
fn take_labels(rest: &mut &[u8], last: &mut Vec<u8>) -> Result<Labels, FrameError> {
    let shared = varint::take_len(rest, last.len());
    let own = shared.and_then(|shared| Some((shared, take_bytes(rest)?)));
    let (shared, own) = own.ok_or(FrameError::Damaged("labels end too early"))?;
    last.truncate(shared);
    last.extend_from_slice(own);
    Labels::from_packed(last).ok_or(FrameError::Damaged("labels in no order"))
}
