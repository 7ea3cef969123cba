//! Attribute values as the texts of labels.
//!
//! Knows `AnyValue` and `KeyValue`. Does not know labels or names.
//! Path: `otlp::label_set` -> **here** -> `otlp::fields`.
//! Texts as they stand, numbers in decimal, bytes in base64, lists and maps as JSON with sorted keys.
//! Source: OpenTelemetry, "AnyValue representation for non-OTLP protocols".

use super::super::{BodyError, malformed};
use super::fields::{self, Fields};
use std::fmt::Write;

/// Deepest nesting of lists and maps.
const MAX_DEPTH: usize = 16;

/// The name and the undecoded value of an attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    /// Its key.
    pub(super) key: &'a str,
    /// The message `AnyValue`.
    pub(super) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// Reads a `KeyValue`.
    pub(super) fn read(message: &'a [u8]) -> Result<Self, BodyError> {
        let mut attribute = Self { key: "", value: &[] };
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => attribute.key = value.text()?,
                2 => attribute.value = value.bytes()?,
                _ => {}
            }
        }
        Ok(attribute)
    }

    /// Appends the value as a text.
    pub(super) fn put(&self, out: &mut String) -> Result<(), BodyError> {
        match any(self.value)? {
            Any::Text(text) => out.push_str(text),
            Any::Bytes(bytes) => base64(bytes, out),
            Any::Double(number) => double(number, out),
            Any::None => {}
            other => json(other, out, 0)?,
        }
        Ok(())
    }
}

enum Any<'a> {
    None,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    List(&'a [u8]),
    Map(&'a [u8]),
    Bytes(&'a [u8]),
}

fn any(message: &[u8]) -> Result<Any<'_>, BodyError> {
    let mut any = Any::None;
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        any = match field {
            1 => Any::Text(value.text()?),
            2 => Any::Bool(value.varint()? != 0),
            3 => Any::Int(value.varint()? as i64),
            4 => Any::Double(value.double()?),
            5 => Any::List(value.bytes()?),
            6 => Any::Map(value.bytes()?),
            7 => Any::Bytes(value.bytes()?),
            _ => any,
        };
    }
    Ok(any)
}

fn json(any_value: Any<'_>, out: &mut String, depth: usize) -> Result<(), BodyError> {
    if depth > MAX_DEPTH {
        return Err(malformed("an attribute is nested over 16 levels deep"));
    }
    match any_value {
        Any::None => out.push_str("null"),
        Any::Text(text) => quoted(text, out),
        Any::Bool(is_true) => out.push_str(if is_true { "true" } else { "false" }),
        Any::Int(number) => put(out, format_args!("{number}")),
        Any::Double(number) if number.is_finite() => double(number, out),
        Any::Double(_) => out.push_str("null"),
        Any::Bytes(bytes) => {
            out.push('"');
            base64(bytes, out);
            out.push('"');
        }
        Any::List(list) => json_list(list, out, depth)?,
        Any::Map(map) => json_map(map, out, depth)?,
    }
    Ok(())
}

fn json_list(list: &[u8], out: &mut String, depth: usize) -> Result<(), BodyError> {
    out.push('[');
    let mut fields = Fields::new(list);
    let mut is_first = true;
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            separate(out, &mut is_first);
            json(any(value.bytes()?)?, out, depth + 1)?;
        }
    }
    out.push(']');
    Ok(())
}

fn json_map(map: &[u8], out: &mut String, depth: usize) -> Result<(), BodyError> {
    let mut attributes = Vec::new();
    read_attributes(map, 1, &mut attributes)?;
    attributes.sort_by_key(|attribute: &Attribute<'_>| attribute.key);
    out.push('{');
    let mut is_first = true;
    for attribute in attributes {
        separate(out, &mut is_first);
        quoted(attribute.key, out);
        out.push(':');
        json(any(attribute.value)?, out, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

/// Appends the attributes that stand in `message` as `number`.
pub(super) fn read_attributes<'a>(
    message: &'a [u8],
    number: u32,
    out: &mut Vec<Attribute<'a>>,
) -> Result<(), BodyError> {
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        if field == number {
            fields::push(out, Attribute::read(value.bytes()?)?)?;
        }
    }
    Ok(())
}

fn separate(out: &mut String, is_first: &mut bool) {
    if !std::mem::take(is_first) {
        out.push(',');
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

/// A text in quotes, escaped as by the reference implementation, which keeps HTML out too.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{0}'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                put(out, format_args!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// The shortest decimal that is read back as the same number; an exponent below 1e-6 and from 1e21 on.
fn double(number: f64, out: &mut String) {
    let size = number.abs();
    if number.is_nan() {
        out.push_str("NaN");
    } else if number.is_infinite() {
        out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" });
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let start = out.len();
        put(out, format_args!("{number:e}"));
        if let Some(at) = out[start..].find('e').filter(|_| size >= 1.0) {
            out.insert(start + at + 1, '+');
        }
    } else {
        put(out, format_args!("{number}"));
    }
}

/// A number without an exponent, as labels like `le` show it.
pub(super) fn plain_double(number: f64, out: &mut String) {
    if number.is_finite() {
        put(out, format_args!("{number}"));
    } else {
        double(number, out);
    }
}

fn base64(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}

pub(super) fn hex(bytes: &[u8], out: &mut String) {
    bytes.iter().for_each(|byte| put(out, format_args!("{byte:02x}")));
}
