//! Lists of ordinals, as stored: strictly increasing, in the smallest of three forms.
//!
//! Form: `form u8`. 0 *list*: count, then first and gaps minus one, varints. 1 *run*: first and count,
//! varints. 2 *roaring*: the portable serialisation.

use quorate_chunk::varint;
use roaring::RoaringBitmap;

const LIST: u8 = 0;
const RUN: u8 = 1;
const ROARING: u8 = 2;
/// Ordinals from which on a bitmap is tried.
const TRY_ROARING: usize = 64;

/// Appends a list, which is not empty.
pub(super) fn encode(ordinals: &[u32], out: &mut Vec<u8>) {
    let (first, last) = (ordinals[0], ordinals[ordinals.len() - 1]);
    debug_assert!(ordinals.windows(2).all(|pair| pair[0] < pair[1]), "postings increase");
    if (last - first) as usize == ordinals.len() - 1 {
        out.push(RUN);
        varint::put(out, u64::from(first));
        varint::put(out, ordinals.len() as u64);
        return;
    }
    let before = out.len();
    out.push(LIST);
    varint::put(out, ordinals.len() as u64);
    varint::put(out, u64::from(first));
    ordinals.windows(2).for_each(|pair| varint::put(out, u64::from(pair[1] - pair[0] - 1)));
    if ordinals.len() < TRY_ROARING {
        return;
    }
    if let Ok(mut bitmap) = RoaringBitmap::from_sorted_iter(ordinals.iter().copied()) {
        bitmap.optimize();
        if bitmap.serialized_size() < out.len() - before - 1 {
            out.truncate(before);
            out.push(ROARING);
            // Writing to memory cannot fail.
            let _ = bitmap.serialize_into(&mut *out);
        }
    }
}

/// Reads a list of ordinals below `limit` that fills `stored`. `None` if it is none.
pub(super) fn decode(stored: &[u8], limit: u32) -> Option<RoaringBitmap> {
    let (form, mut rest) = stored.split_first()?;
    let bitmap = match *form {
        RUN => {
            let first = u32::try_from(varint::take(&mut rest)?).ok()?;
            let count = u32::try_from(varint::take(&mut rest)?).ok()?;
            let last = first.checked_add(count.checked_sub(1)?).filter(|last| *last < limit)?;
            let mut bitmap = RoaringBitmap::new();
            bitmap.insert_range(first..=last);
            rest.is_empty().then_some(bitmap)
        }
        LIST => {
            let count = varint::take_len(&mut rest, stored.len())?;
            let mut next = 0u64;
            let mut bitmap = RoaringBitmap::new();
            for _ in 0..count {
                let ordinal = u32::try_from(next.checked_add(varint::take(&mut rest)?)?).ok()?;
                bitmap.insert(ordinal);
                next = u64::from(ordinal) + 1;
            }
            rest.is_empty().then_some(bitmap)
        }
        ROARING => RoaringBitmap::deserialize_from(rest).ok(),
        _ => None,
    };
    bitmap.filter(|bitmap| bitmap.max().is_none_or(|max| max < limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(ordinals: &[u32]) -> usize {
        let mut out = Vec::new();
        encode(ordinals, &mut out);
        let back: Vec<u32> = decode(&out, u32::MAX).unwrap().into_iter().collect();
        assert_eq!(back, ordinals);
        out.len()
    }

    #[test]
    fn runs_and_regular_lists_are_small() {
        assert!(check(&(100..90_000).collect::<Vec<_>>()) <= 6);
        assert!(check(&[7]) <= 3);
        assert!(check(&(0..60).map(|i| i * 100).collect::<Vec<_>>()) <= 62);
        assert!(check(&(0..40_000).filter(|i| i % 1_000 != 0).collect::<Vec<_>>()) < 400);
    }

    proptest! {
        #[test]
        fn lists_round_trip(ordinals in prop::collection::btree_set(0u32..100_000, 1..400)) {
            check(&ordinals.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_decode_or_fail(form in 0u8..4, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&[&[form], &bytes[..]].concat(), 100_000);
        }
    }
}
