//! Numbers, durations and strings: from their text to their value.

use super::Parser;
use crate::ast::{NumberLiteral, StringLiteral};
use crate::go_fmt::{quote, quote_bytes};
use crate::lexer::{Token, TokenKind};

impl Parser<'_> {
    pub(super) fn number_literal(&mut self, token: Token) -> NumberLiteral {
        let text = self.text(token);
        let is_duration = token.kind == TokenKind::Duration;
        let value = if is_duration {
            parse_duration_ms(text).map(|ms| ms as f64 / 1000.0)
        } else {
            parse_number(text)
        };
        let value = value.unwrap_or_else(|message| {
            self.fail(token.span, message);
            0.0
        });
        NumberLiteral { value, is_duration, span: token.span }
    }

    pub(super) fn string_literal(&mut self, token: Token) -> StringLiteral {
        let bytes = self.unquote_bytes(token);
        let not_utf8 = std::str::from_utf8(&bytes).is_err().then(|| quote_bytes(&bytes).into_boxed_str());
        let value = String::from_utf8_lossy(&bytes).into_owned();
        StringLiteral { value, not_utf8, span: token.span }
    }

    /// The value of a string token that stands for a name or a label value.
    pub(super) fn unquote(&mut self, token: Token) -> String {
        let bytes = self.unquote_bytes(token);
        String::from_utf8(bytes).unwrap_or_else(|error| {
            self.fail(token.span, format!("string {} is not UTF-8", quote_bytes(error.as_bytes())));
            String::new()
        })
    }

    fn unquote_bytes(&mut self, token: Token) -> Vec<u8> {
        let text = self.text(token);
        unquote(text).unwrap_or_else(|| {
            self.fail(token.span, format!("error unquoting string {}: invalid syntax", quote(text)));
            Vec::new()
        })
    }
}

/// A number as Go reads it: decimal, hexadecimal, octal with a leading zero, underscores, `Inf`, `NaN`.
fn parse_number(text: &str) -> Result<f64, String> {
    let digits = text.replace('_', "");
    if let Some(value) = parse_integer(&digits) {
        return Ok(value as f64);
    }
    let problem = |what| format!("error parsing number: strconv.ParseFloat: parsing {}: {what}", quote(text));
    let is_named = text.eq_ignore_ascii_case("inf") || text.eq_ignore_ascii_case("nan");
    match digits.parse::<f64>() {
        Ok(value) if value.is_infinite() && !is_named => Err(problem("value out of range")),
        Ok(value) => Ok(value),
        Err(_) => Err(problem("invalid syntax")),
    }
}

fn parse_integer(digits: &str) -> Option<i64> {
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    i64::from_str_radix(digits, radix).ok()
}

/// A duration such as `1h30m`, in milliseconds: units in falling order, each once.
///
/// # Errors
/// Prometheus' text if it is none, or longer than 292 years.
pub(crate) fn parse_duration_ms(text: &str) -> Result<i64, String> {
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    const MAX_MS: i64 = i64::MAX / 1_000_000;
    if text.is_empty() {
        return Err("empty duration string".to_owned());
    }
    let invalid = || format!("not a valid duration string: {}", quote(text));
    let (mut rest, mut next_unit, mut total) = (text, 0, Some(0i64));
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[digits..digits + letters];
        if digits == 0 || letters == 0 {
            return Err(invalid());
        }
        let Some(at) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit {} in duration {}", quote(unit), quote(text)));
        };
        if at < next_unit {
            return Err(invalid());
        }
        let count = rest[..digits].parse::<i64>().ok();
        let length = count.and_then(|count| count.checked_mul(UNITS[at].1));
        total = total.zip(length).and_then(|(total, length)| total.checked_add(length));
        next_unit = at + 1;
        rest = &rest[digits + letters..];
    }
    total.filter(|ms| *ms <= MAX_MS).ok_or_else(|| "duration out of range".to_owned())
}

/// The value of a quoted string, or `None` if its escapes are wrong.
fn unquote(text: &str) -> Option<Vec<u8>> {
    let quote = *text.as_bytes().first()?;
    let inner = text.get(1..text.len().checked_sub(1)?)?;
    if quote == b'`' || !inner.contains('\\') {
        return Some(inner.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = unescape(&rest[at + 1..], quote, &mut out)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

/// Adds what stands for the escape at the start of `text`, without its backslash, and returns what follows it.
fn unescape<'t>(text: &'t str, quote: u8, out: &mut Vec<u8>) -> Option<&'t str> {
    let c = *text.as_bytes().first()?;
    let simple = match c {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        b'\'' | b'"' if c == quote => c,
        b'0'..=b'7' => {
            out.push(u8::from_str_radix(text.get(..3)?, 8).ok()?);
            return text.get(3..);
        }
        b'x' => {
            out.push(u8::from_str_radix(text.get(1..3)?, 16).ok()?);
            return text.get(3..);
        }
        b'u' | b'U' => {
            let end = if c == b'u' { 5 } else { 9 };
            let code = u32::from_str_radix(text.get(1..end)?, 16).ok()?;
            let mut buffer = [0; 4];
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut buffer).as_bytes());
            return text.get(end..);
        }
        _ => return None,
    };
    out.push(simple);
    text.get(1..)
}
