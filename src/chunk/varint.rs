//! Variable-length integers: seven bits a byte, low bits first, the high bit set on all but the last byte.

/// Appends `value`, 1 to 10 bytes.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value in zigzag form.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, zigzag(value));
}

/// Takes a value off the front of `rest`. `None` if it does not end or does not fit; `rest` is then
/// unspecified.
#[inline]
pub fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        if shift == 63 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// Takes a signed value, see [`take`].
#[inline]
pub fn take_signed(rest: &mut &[u8]) -> Option<i64> {
    take(rest).map(unzigzag)
}

/// Takes a value that must fit a `usize` no larger than `limit`.
#[inline]
pub fn take_len(rest: &mut &[u8], limit: usize) -> Option<usize> {
    usize::try_from(take(rest)?).ok().filter(|len| *len <= limit)
}

/// Takes `len` bytes off the front of `rest`.
#[inline]
pub fn take_bytes<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(taken)
}

/// Takes eight bytes in little endian.
#[inline]
pub fn take_u64_le(rest: &mut &[u8]) -> Option<u64> {
    let (taken, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_le_bytes(*taken))
}

/// Bytes that [`put`] writes for `value`.
#[inline]
pub fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Maps small magnitudes of either sign to small numbers.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlong_and_unfinished_values_are_refused() {
        assert_eq!(take(&mut &[0xff; 10][..]), None);
        assert_eq!(take(&mut &[0x80][..]), None);
        assert_eq!(take(&mut &[][..]), None);
        let mut max = Vec::new();
        put(&mut max, u64::MAX);
        assert_eq!(take(&mut &max[..]), Some(u64::MAX));
        max[9] = 2;
        assert_eq!(take(&mut &max[..]), None);
    }

    proptest! {
        #[test]
        fn values_round_trip(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put(&mut out, value);
            put_signed(&mut out, value as i64);
            prop_assert_eq!(out.len(), len(value) + len(zigzag(value as i64)));
            let mut rest = &out[..];
            prop_assert_eq!(take(&mut rest), Some(value));
            prop_assert_eq!(take_signed(&mut rest), Some(value as i64));
            prop_assert!(rest.is_empty());
        }
    }
}
