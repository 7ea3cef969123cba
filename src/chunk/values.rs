//! Columns of float values, bit for bit.
//!
//! Form: `codec u8`, then by codec. 1 *constant*: 8 bytes. 2 *constant decimal*: exponent u8, integer as
//! signed varint. 3 *dfor*: exact decimals, packed (see `dfor.rs`). 4 *xor*: see [`crate::xor`]. 5 is kept
//! for pco. The smallest is written.

use crate::dfor::{self, Scratch};
use crate::{ChunkError, check_len, varint, xor};
use std::cell::RefCell;

const CONSTANT: u8 = 1;
const CONSTANT_DECIMAL: u8 = 2;
const DFOR: u8 = 3;
const XOR: u8 = 4;
const STREAM: &str = "value";
/// Bytes per value above which xor is tried beside dfor.
const TRY_XOR_OVER: usize = 2;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Appends the column of `values`, 1 to [`crate::MAX_SAMPLES`] of them. At most 10 bytes each.
///
/// # Panics
/// If `values` is empty.
pub fn encode(values: &[f64], out: &mut Vec<u8>) {
    let first = values[0].to_bits();
    if values.iter().all(|value| value.to_bits() == first) {
        return encode_constant(values[0], out);
    }
    SCRATCH.with_borrow_mut(|scratch| encode_varying(values, scratch, out));
}

fn encode_constant(value: f64, out: &mut Vec<u8>) {
    match dfor::decimal(value, 0) {
        Some((mantissa, exponent)) if varint::len(varint::zigzag(mantissa)) < 7 => {
            out.extend_from_slice(&[CONSTANT_DECIMAL, exponent as u8]);
            varint::put_signed(out, mantissa);
        }
        _ => {
            out.push(CONSTANT);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
}

fn encode_varying(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let before = out.len();
    let choice = dfor::choose(values, scratch);
    if choice.is_none_or(|choice| choice.size > values.len() * TRY_XOR_OVER) {
        out.push(XOR);
        xor::encode(values, out);
        if choice.is_none_or(|choice| out.len() - before <= choice.size + 1) {
            return;
        }
        out.truncate(before);
    }
    if let Some(choice) = choice {
        out.push(DFOR);
        dfor::write(&choice, scratch, out);
    }
}

/// Appends the `count` values of a column to `out`.
///
/// # Errors
/// [`ChunkError`] if `stream` is not a column of `count` values; `out` may then have grown.
pub fn decode(stream: &[u8], count: u32, out: &mut Vec<f64>) -> Result<(), ChunkError> {
    let count = count as usize;
    check_len(count)?;
    let (codec, mut rest) = stream.split_first().ok_or(ChunkError::short(STREAM))?;
    match *codec {
        CONSTANT => {
            let bits = varint::take_u64_le(&mut rest).ok_or(ChunkError::short(STREAM))?;
            out.resize(out.len() + count, f64::from_bits(bits));
        }
        CONSTANT_DECIMAL => {
            let value = take_decimal(&mut rest).ok_or(ChunkError::short(STREAM))?;
            out.resize(out.len() + count, value);
        }
        DFOR => {
            out.reserve(count);
            dfor::decode(&mut rest, count, out)?;
        }
        XOR => {
            out.reserve(count);
            return xor::decode(rest, count, out);
        }
        codec => return Err(ChunkError::UnknownCodec { stream: STREAM, codec }),
    }
    if !rest.is_empty() {
        return Err(ChunkError::damaged(STREAM, "bytes behind its end"));
    }
    Ok(())
}

fn take_decimal(rest: &mut &[u8]) -> Option<f64> {
    let (exponent, tail) = rest.split_first()?;
    *rest = tail;
    dfor::value_of(varint::take_signed(rest)?, *exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_model::stale_nan;

    #[track_caller]
    fn check(values: &[f64]) -> (u8, f64) {
        let mut out = Vec::new();
        encode(values, &mut out);
        let mut back = vec![0.5];
        decode(&out, values.len() as u32, &mut back).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back[1..]), bits(values));
        (out[0], out.len() as f64 / values.len() as f64)
    }

    fn noise(i: u64) -> u64 {
        (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) ^ i.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    }

    #[track_caller]
    fn check_kind(codec: u8, most: f64, value: impl Fn(u64) -> f64) {
        let values: Vec<f64> = (0..240).map(value).collect();
        let (found, bytes) = check(&values);
        assert_eq!(found, codec, "{bytes} bytes a value");
        assert!(bytes <= most, "{bytes} bytes a value, {most} expected");
    }

    #[test]
    fn each_kind_of_series_has_its_size() {
        check_kind(CONSTANT_DECIMAL, 0.02, |_| 42.5);
        check_kind(CONSTANT, 0.04, |_| 1.0 / 3.0);
        check_kind(DFOR, 0.95, |i| (1_000 + i * 40 + noise(i) % 64) as f64);
        check_kind(DFOR, 1.35, |i| (5_000 + noise(i) % 1_000) as f64 / 100.0);
        check_kind(DFOR, 1.3, |i| (1u64 << 30) as f64 + (noise(i) % 512 * 4_096) as f64);
        check_kind(DFOR, 0.2, |i| if i < 100 { 3.0 } else { 17_000.25 });
        check_kind(XOR, 8.3, |i| (i as f64).sqrt().sin());
    }

    #[test]
    fn a_stale_marker_costs_two_bytes_and_not_the_codec() {
        let mut values: Vec<f64> = (0..120).map(|i| f64::from(i * 3)).collect();
        let (_, plain) = check(&values);
        values[119] = stale_nan();
        let (codec, with_marker) = check(&values);
        assert_eq!(codec, DFOR);
        assert!(with_marker * 120.0 <= plain * 120.0 + 12.0);
    }

    #[test]
    fn every_special_value_keeps_its_bits() {
        let special = [
            0.0,
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            -f64::NAN,
            stale_nan(),
            f64::from_bits(0x7ff8_0000_0000_0001),
            f64::from_bits(0xfff8_dead_beef_0001),
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::MAX,
            f64::MIN,
            9_007_199_254_740_992.0,
            9_007_199_254_740_991.0,
            4_503_599_627_370_497.0,
            1e300,
            1e-300,
            0.1,
            0.3,
        ];
        check(&special);
        for value in special {
            check(&[value]);
            check(&[value, value, 1.0, 2.0, value, 3.0, value, value]);
            check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, value]);
        }
    }

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => (-1_000_000i64..1_000_000, 0u32..5).prop_map(|(m, e)| m as f64 / 10f64.powi(e as i32)),
            2 => any::<i64>().prop_map(|v| v as f64),
            1 => any::<u64>().prop_map(f64::from_bits),
            1 => Just(stale_nan()),
            1 => Just(-0.0),
        ]
    }

    proptest! {
        #[test]
        fn columns_round_trip(values in prop::collection::vec(any_value(), 1..300)) {
            check(&values);
        }

        #[test]
        fn raw_bits_round_trip(bits in prop::collection::vec(any::<u64>(), 1..100)) {
            check(&bits.into_iter().map(f64::from_bits).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_decode_or_fail(
            codec in 0u8..6,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0u32..400,
        ) {
            let mut out = Vec::new();
            if decode(&[&[codec], &bytes[..]].concat(), count, &mut out).is_ok() {
                prop_assert_eq!(out.len(), count as usize);
            }
        }

        #[test]
        fn a_cut_column_is_refused(values in prop::collection::vec(any_value(), 2..100), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            encode(&values, &mut out);
            out.truncate(cut.index(out.len()));
            prop_assert!(decode(&out, values.len() as u32, &mut Vec::new()).is_err());
        }
    }
}
