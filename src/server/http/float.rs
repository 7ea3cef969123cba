//! Floats as Prometheus writes them: the shortest digits that read back, plain from 1e-6 up to 1e21.
//!
//! Source: Prometheus `util/jsonutil.MarshalFloat`, Go `strconv.AppendFloat(f, 'f' or 'e', -1, 64)`.
//! Cost: integers below 2^53 are written as such; others through `ryu`, without an allocation.

/// Largest integer below which every integer is a float.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends `value`: `+Inf`, `-Inf`, `NaN`, or its shortest digits.
pub fn push_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value.trunc() == value && value.abs() < MAX_EXACT {
        if value.is_sign_negative() {
            out.push(b'-');
        }
        push_u64(out, value.abs() as u64);
    } else {
        push_shortest(out, value);
    }
}

/// Appends a number in decimal digits.
pub fn push_u64(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a time in milliseconds as seconds, with three decimals unless they are zero.
pub fn push_timestamp(out: &mut Vec<u8>, ts_ms: i64) {
    if ts_ms < 0 {
        out.push(b'-');
    }
    let ms = ts_ms.unsigned_abs();
    push_u64(out, ms / 1000);
    let fraction = ms % 1000;
    if fraction != 0 {
        let digit = |number: u64| b'0' + (number % 10) as u8;
        out.extend_from_slice(&[b'.', digit(fraction / 100), digit(fraction / 10), digit(fraction)]);
    }
}

/// A finite number that is not a small integer. ryu's text is taken apart into digits and exponent.
fn push_shortest(out: &mut Vec<u8>, value: f64) {
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    let (text, negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0u8; 40];
    let mut len = 0;
    for &digit in whole.as_bytes().iter().chain(fraction.as_bytes()) {
        digits[len] = digit;
        len += 1;
    }
    // The value is 0.DIGITS times ten to the power of `point`.
    let mut point = whole.len() as i32 + exponent;
    let zeros = digits[..len].iter().take_while(|digit| **digit == b'0').count();
    point -= zeros as i32;
    let end = len - digits[zeros..len].iter().rev().take_while(|digit| **digit == b'0').count();
    if negative {
        out.push(b'-');
    }
    let magnitude = value.abs();
    if !(1e-6..1e21).contains(&magnitude) {
        push_scientific(out, &digits[zeros..end], point - 1);
    } else {
        push_plain(out, &digits[zeros..end], point);
    }
}

fn push_plain(out: &mut Vec<u8>, digits: &[u8], point: i32) {
    if point <= 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', point.unsigned_abs() as usize));
        out.extend_from_slice(digits);
        return;
    }
    let whole = point as usize;
    if digits.len() <= whole {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
    } else {
        out.extend_from_slice(&digits[..whole]);
        out.push(b'.');
        out.extend_from_slice(&digits[whole..]);
    }
}

/// One digit before the point; the exponent has a sign and at least two digits.
fn push_scientific(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    out.push(b'e');
    out.push(if exponent < 0 { b'-' } else { b'+' });
    let size = exponent.unsigned_abs();
    if size < 10 {
        out.push(b'0');
    }
    push_u64(out, u64::from(size));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: f64) -> String {
        let mut out = Vec::new();
        push_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(value: f64, expected: &str) {
        assert_eq!(written(value), expected);
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        check(0.0, "0");
        check(-0.0, "-0");
        check(1.0, "1");
        check(-42.5, "-42.5");
        check(0.1, "0.1");
        check(1e-6, "0.000001");
        check(0.00001234, "0.00001234");
        check(9.99e-7, "9.99e-07");
        check(1e-300, "1e-300");
        check(5e-324, "5e-324");
        check(1e16, "10000000000000000");
        check(123456789012345680000.0, "123456789012345680000");
        check(9.007199254740993e15, "9007199254740992");
        check(1e20, "100000000000000000000");
        check(1e21, "1e+21");
        check(1.5e21, "1.5e+21");
        check(f64::MAX, "1.7976931348623157e+308");
        check(std::f64::consts::PI, "3.141592653589793");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(f64::NAN, "NaN");
        check(quorate_model::stale_nan(), "NaN");
    }

    #[test]
    fn times_have_three_decimals_or_none() {
        for (ms, expected) in [
            (0, "0"),
            (1_435_781_451_781, "1435781451.781"),
            (1_500, "1.500"),
            (1_005, "1.005"),
            (-1, "-0.001"),
            (-60_000, "-60"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            let mut out = Vec::new();
            push_timestamp(&mut out, ms);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn every_float_reads_back_and_is_as_short_as_rusts(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = written(value);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits, "{}", text);
            let plain = (1e-6..1e21).contains(&value.abs()) || value == 0.0;
            let (mine, rusts) = if plain { (text, value.to_string()) } else {
                let (digits, exponent) = text.split_once('e').unwrap();
                (format!("{digits}e{}", exponent.parse::<i32>().unwrap()), format!("{value:e}"))
            };
            // Between two shortest forms at the same distance, ryu takes the even one as Go does; Rust may not.
            prop_assert_eq!(mine.len(), rusts.len(), "{} {}", mine, rusts);
        }
    }
}
