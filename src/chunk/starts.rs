//! Start timestamps: when the counter of each sample began, 0 for unknown.
//!
//! Form: nothing if all are unknown; else `codec u8` = 1, the number of changes as varint, and for each
//! change the samples since the last one (varint) and the difference to the start before (signed varint, the
//! first to 0). A steady counter costs about 8 bytes a chunk.

use crate::{ChunkError, check_len, varint};

const CHANGES: u8 = 1;
const STREAM: &str = "start";

/// Appends the stream of `start_ms`: empty or one for each sample of the chunk.
pub fn encode(start_ms: &[i64], out: &mut Vec<u8>) {
    if start_ms.iter().all(|start| *start == 0) {
        return;
    }
    let changes = || {
        let mut last = 0i64;
        start_ms.iter().enumerate().filter_map(move |(at, start)| {
            let difference = start.wrapping_sub(last);
            last = *start;
            (difference != 0).then_some((at, difference))
        })
    };
    out.push(CHANGES);
    varint::put(out, changes().count() as u64);
    let mut next = 0;
    for (at, difference) in changes() {
        varint::put(out, (at - next) as u64);
        varint::put_signed(out, difference);
        next = at;
    }
}

/// Appends the `count` starts of a stream that is not empty to `out`.
///
/// # Errors
/// [`ChunkError`] if `stream` is not one of `count` samples; `out` may then have grown.
pub fn decode(stream: &[u8], count: u32, out: &mut Vec<i64>) -> Result<(), ChunkError> {
    let count = count as usize;
    check_len(count)?;
    let (codec, mut rest) = stream.split_first().ok_or(ChunkError::short(STREAM))?;
    if *codec != CHANGES {
        return Err(ChunkError::UnknownCodec { stream: STREAM, codec: *codec });
    }
    let before = out.len();
    let changes = varint::take_len(&mut rest, count);
    let mut start = 0i64;
    for _ in 0..changes.ok_or(ChunkError::damaged(STREAM, "more changes than samples"))? {
        let gap = varint::take_len(&mut rest, count - (out.len() - before));
        let gap = gap.ok_or(ChunkError::damaged(STREAM, "a change behind the end"))?;
        out.resize(out.len() + gap, start);
        let difference = varint::take_signed(&mut rest).ok_or(ChunkError::short(STREAM))?;
        start = start.wrapping_add(difference);
    }
    out.resize(before + count, start);
    if !rest.is_empty() {
        return Err(ChunkError::damaged(STREAM, "bytes behind its end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_starts_cost_nothing_and_a_steady_one_a_few_bytes() {
        let mut out = Vec::new();
        encode(&[], &mut out);
        encode(&[0, 0, 0], &mut out);
        assert!(out.is_empty());
        encode(&[1_700_000_000_000; 120], &mut out);
        assert!(out.len() <= 10);
    }

    proptest! {
        #[test]
        fn starts_round_trip(
            runs in prop::collection::vec((prop_oneof![Just(0i64), any::<i64>()], 1usize..20), 1..20),
        ) {
            let starts: Vec<i64> = runs.iter().flat_map(|(start, n)| vec![*start; *n]).collect();
            let mut out = Vec::new();
            encode(&starts, &mut out);
            prop_assume!(!out.is_empty());
            let mut back = vec![9];
            decode(&out, starts.len() as u32, &mut back).unwrap();
            prop_assert_eq!(&back[1..], &starts[..]);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..60), count in 0u32..100) {
            let mut out = Vec::new();
            if decode(&[&[CHANGES], &bytes[..]].concat(), count, &mut out).is_ok() {
                prop_assert_eq!(out.len(), count as usize);
            }
        }
    }
}
