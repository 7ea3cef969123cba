//! Text forms of Go's standard library that PromQL's messages and printer are made of.

use std::fmt::Write;

/// `strconv.Quote`: in double quotes, everything that is not printable escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    text.chars().for_each(|c| push_escaped(&mut out, c, '"'));
    out.push('"');
    out
}

/// The same for bytes, those that are not UTF-8 as `\xff`.
pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_escaped(&mut out, c, '"'));
        chunk.invalid().iter().for_each(|byte| {
            let _ = write!(out, "\\x{byte:02x}");
        });
    }
    out.push('"');
    out
}

/// `strconv.QuoteRune`; `None` is the end of the input.
pub(crate) fn quote_rune(c: Option<char>) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c.unwrap_or('\u{fffd}'), '\'');
    out.push('\'');
    out
}

/// The verb `%#U`: `U+0071 'q'`.
pub(crate) fn unicode(c: char) -> String {
    let code = u32::from(c);
    if is_printable(c) { format!("U+{code:04X} '{c}'") } else { format!("U+{code:04X}") }
}

/// `strconv.FormatFloat(value, 'f', -1, 64)`: shortest digits, never an exponent.
pub(crate) fn float_plain(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    value.to_string()
}

/// The verb `%v` of a float: shortest digits, with an exponent below 1e-4 and from 1e21.
pub(crate) fn float_short(value: f64) -> String {
    let exponent = value.abs().log10().floor();
    if value == 0.0 || !value.is_finite() || (-4.0..21.0).contains(&exponent) {
        return float_plain(value);
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, number) = exponent.strip_prefix('-').map_or(('+', exponent), |n| ('-', n));
            format!("{digits}e{sign}{number:0>2}")
        }
        None => text,
    }
}

/// `model.Duration.String`: `1h30m`, of milliseconds. The sign is left to the caller.
pub(crate) fn duration(ms: u64) -> String {
    const UNITS: [(&str, u64, bool); 7] = [
        ("y", 365 * 86_400_000, true),
        ("w", 7 * 86_400_000, true),
        ("d", 86_400_000, false),
        ("h", 3_600_000, false),
        ("m", 60_000, false),
        ("s", 1_000, false),
        ("ms", 1, false),
    ];
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut rest = ms;
    let mut out = String::new();
    for (unit, length, only_exact) in UNITS {
        if (only_exact && !rest.is_multiple_of(length)) || rest < length {
            continue;
        }
        let _ = write!(out, "{}{unit}", rest / length);
        rest %= length;
    }
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        _ if c == quote || c == '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        _ if is_printable(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let _ = match code {
                0..0x20 | 0x7f => write!(out, "\\x{code:02x}"),
                0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // `str::escape_debug` leaves marks alone except at the start, and escapes what is not printable.
    let mut buffer = [0; 8];
    buffer[0] = b'a';
    let length = 1 + c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..length]).is_ok_and(|text| text.escape_debug().eq(text.chars()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        assert_eq!(
            quote("a\"b\\c\n\t\u{1}é\u{a0}\u{200b}\u{e000}"),
            r#""a\"b\\c\n\t\x01é\u00a0\u200b\ue000""#
        );
        assert_eq!(quote_bytes(b"a\xc5z\""), r#""a\xc5z\"""#);
        assert_eq!(quote_rune(Some('\'')), r"'\''");
        assert_eq!(quote_rune(None), "'\u{fffd}'");
        assert_eq!(unicode('q'), "U+0071 'q'");
    }

    #[test]
    fn floats_are_written_as_go_does() {
        let plain =
            [(0.5, "0.5"), (1e21, "1000000000000000000000"), (f64::NEG_INFINITY, "-Inf"), (-0.0, "-0")];
        plain.into_iter().for_each(|(value, text)| assert_eq!(float_plain(value), text));
        let short =
            [(1e21, "1e+21"), (1e20, "100000000000000000000"), (1.5e-7, "1.5e-07"), (0.0001, "0.0001")];
        short.into_iter().for_each(|(value, text)| assert_eq!(float_short(value), text));
        assert_eq!(float_short(f64::NAN), "NaN");
    }

    #[test]
    fn durations_are_written_in_the_largest_exact_units() {
        let cases = [(0, "0s"), (90 * 86_400_000, "90d"), (604_800_000, "1w"), (5_400_001, "1h30m1ms")];
        cases.into_iter().for_each(|(ms, text)| assert_eq!(duration(ms), text));
    }
}
