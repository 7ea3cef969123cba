//! Float values in as few bytes as they need.
//!
//! Knows the shapes that metrics have: counts, decimals of up to three places, and floats that end in zero bytes. Does not know
//! series: a record has one sample of most of them, so that there is nothing before it to take a difference to.
//! Path: `columns` beside the raw values, `sub_batch` takes what is shorter.
//!
//! Layout: a code of four bits for each value, the first in the low half of a byte; then the bytes of the values, low ones
//! first. Cost: see ADR 0011.

use super::bytes::Reader;
use super::{RecordError, malformed};

/// Codes 1 to 4 are so many bytes of a whole number, zigzag; 5 to 8 four less of thousandths; 9 to 15 seven less of the high
/// bytes of the float. 0 is zero without bytes.
const WHOLE: u8 = 0;
const THOUSANDTHS: u8 = 4;
const HIGH_BYTES: u8 = 7;
const FIRST_HIGH_BYTES: u8 = 9;
const LAST_NUMBER: u8 = 8;
/// Beyond this a whole number or one of thousandths takes more than four bytes.
const NUMBERS: f64 = 2_147_483_648.0;
const PER_UNIT: f64 = 1_000.0;

/// Bytes of the codes of so many values.
fn code_bytes(values: usize) -> usize {
    values.div_ceil(2)
}

/// Appends `values`.
pub(super) fn put(values: &[f64], out: &mut Vec<u8>) {
    let codes = out.len();
    let mut at = codes + code_bytes(values.len());
    // Room for all eight bytes of each, and cut at the end: no value then has to ask for its own.
    out.resize(at + values.len() * 8, 0);
    for (nth, value) in values.iter().enumerate() {
        let (code, bytes, len) = pack(*value);
        out[codes + nth / 2] |= code << (4 * (nth % 2));
        out[at..at + 8].copy_from_slice(&bytes.to_le_bytes());
        at += len;
    }
    out.truncate(at);
}

/// The code of a value, its bytes, and how many of them count.
#[inline]
fn pack(value: f64) -> (u8, u64, usize) {
    let bits = value.to_bits();
    if bits == 0 {
        return (0, 0, 0);
    }
    let high = (8 - bits.trailing_zeros() as usize / 8).max(2);
    let as_high = ((high as u8) + HIGH_BYTES, bits >> (64 - 8 * high), high);
    // Comparisons with what is no number are false.
    if value.abs() < NUMBERS {
        let whole = value as i64;
        if whole as f64 == value && whole != 0 {
            return shorter(WHOLE, whole, as_high);
        }
        let scaled = value * PER_UNIT;
        let nearest = scaled.round_ties_even() as i64;
        if scaled.abs() < NUMBERS && (nearest as f64 / PER_UNIT).to_bits() == bits {
            return shorter(THOUSANDTHS, nearest, as_high);
        }
    }
    as_high
}

/// A number of a kind in its own form, unless its float takes no more.
#[inline]
fn shorter(kind: u8, number: i64, as_high: (u8, u64, usize)) -> (u8, u64, usize) {
    let zigzag = ((number << 1) ^ (number >> 63)) as u64;
    let len = 8 - zigzag.leading_zeros() as usize / 8;
    if len <= 4 && len < as_high.2 { (kind + len as u8, zigzag, len) } else { as_high }
}

/// Appends `count` values to `out`; the caller has bounded `count` by the bytes of the refs.
pub(super) fn take(reader: &mut Reader<'_>, count: usize, out: &mut Vec<f64>) -> Result<(), RecordError> {
    let codes = reader.take(code_bytes(count))?;
    let bytes = reader.rest();
    out.reserve(count);
    let mut at = 0;
    for nth in 0..count {
        let code = codes[nth / 2] >> (4 * (nth % 2)) & 15;
        let len = len_of(code);
        let word = match bytes.get(at..at + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().unwrap_or_default()),
            None => last_word(bytes, at, len)?,
        };
        out.push(unpack(code, word, len));
        at += len;
    }
    if count % 2 == 1 && codes.last().is_some_and(|last| last >> 4 != 0) {
        return Err(malformed("a code without a value"));
    }
    reader.take(at).map(drop)
}

#[inline]
fn len_of(code: u8) -> usize {
    usize::from(match code {
        0..=4 => code,
        5..=LAST_NUMBER => code - THOUSANDTHS,
        _ => code - HIGH_BYTES,
    })
}

/// The bytes at `at` where fewer than eight are left.
#[cold]
fn last_word(bytes: &[u8], at: usize, len: usize) -> Result<u64, RecordError> {
    let rest = bytes.get(at..).filter(|rest| rest.len() >= len).ok_or(malformed("the values end early"))?;
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    Ok(u64::from_le_bytes(word))
}

#[inline]
fn unpack(code: u8, word: u64, len: usize) -> f64 {
    if code == 0 {
        return 0.0;
    }
    let unused = 64 - 8 * len as u32;
    if code >= FIRST_HIGH_BYTES {
        return f64::from_bits(word << unused);
    }
    let zigzag = word << unused >> unused;
    let number = ((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)) as f64;
    if code > THOUSANDTHS { number / PER_UNIT } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(values: &[f64]) -> Vec<u8> {
        let mut out = vec![7];
        put(values, &mut out);
        out.split_off(1)
    }

    fn read(bytes: &[u8], count: usize) -> Result<Vec<u64>, RecordError> {
        let (mut reader, mut out) = (Reader::new(bytes), Vec::new());
        take(&mut reader, count, &mut out)?;
        reader.end("bytes are left")?;
        Ok(out.into_iter().map(f64::to_bits).collect())
    }

    #[track_caller]
    fn check(value: f64, len: usize) {
        let bytes = packed(&[value]);
        assert_eq!(bytes.len(), 1 + len, "{value}: {bytes:?}");
        assert_eq!(read(&bytes, 1).unwrap(), [value.to_bits()], "{value}");
    }

    #[test]
    fn values_take_as_few_bytes_as_they_need() {
        for (value, len) in [
            (0.0, 0),
            (1.0, 1),
            (-64.0, 1),
            (127.0, 1),
            (128.0, 2),
            (12_345.0, 2),
            (8_388_607.0, 3),
            (8_388_609.0, 4),
            (2_147_483_647.0, 4),
            (2_147_483_648.0, 2),
            (2_147_483_649.0, 6),
            (0.25, 2),
            (0.1, 1),
            (-99.5, 3),
            (45.123, 3),
            (1_234_567.89, 4),
            (3_234_567.89, 8),
            (4_096.0 * 123_457.0, 4),
            (1.0 / 3.0, 8),
            (-0.0, 2),
            (f64::INFINITY, 2),
            (f64::NEG_INFINITY, 2),
            (f64::NAN, 2),
            (f64::from_bits(0x7ff0_0000_0000_0002), 8),
            (f64::MIN_POSITIVE, 2),
            (f64::from_bits(1), 8),
            (f64::MAX, 8),
            (1e-300, 8),
        ] {
            check(value, len);
        }
    }

    #[test]
    fn what_is_no_column_of_values_is_refused() {
        for (bytes, count, why) in [
            (&[][..], 1, "end early"),
            (&[0x02, 1], 1, "end early"),
            (&[0x0f, 1, 2, 3, 4, 5, 6, 7], 1, "end early"),
            (&[0x11, 1], 2, "end early"),
            (&[0x11, 1], 1, "without a value"),
            (&[0x01, 1, 1], 1, "are left"),
        ] {
            let refused = read(bytes, count).unwrap_err().to_string();
            assert!(refused.contains(why), "{bytes:?}: {refused}");
        }
    }

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            any::<i32>().prop_map(f64::from),
            any::<i32>().prop_map(|n| f64::from(n) / 1_000.0),
            any::<i32>().prop_map(|n| f64::from(n) / 100.0),
            (any::<u16>(), 0..48u32).prop_map(|(high, shift)| f64::from_bits(u64::from(high) << shift)),
            (0..1_000i64).prop_map(|n| n as f64),
        ]
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(values in prop::collection::vec(any_value(), 0..70)) {
            let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(read(&packed(&values), values.len()).unwrap(), bits);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..90), count in 0..70usize) {
            let _ = read(&bytes, count);
        }
    }
}
