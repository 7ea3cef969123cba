//! OTLP's JSON, rewritten as the protobuf of the same message.
//!
//! Knows how JSON stands for each type of a field. Does not know what fields there are.
//! Path: `otlp::translate` -> **here** -> `otlp::walk`.
//! Fields that are not known are ignored; 64-bit integers are numbers or texts, enums numbers or names, ids
//! hexadecimal, bytes base64.
//! Cost: one pass, no tree; the output is bounded.
//! Source: OTLP specification, "JSON Protobuf Encoding"; protobuf.dev, "ProtoJSON Format".

use super::OtlpError;
use super::json_fields::{Field, Message, REQUEST, Type};
use serde::Deserializer;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Rewrites a message; the result has at most `max_bytes`.
pub(super) fn to_protobuf(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, OtlpError> {
    let mut out = Out { bytes: Vec::new(), limit: max_bytes, is_over: false };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json.deserialize_map(MessageVisitor { message: &REQUEST, out: &mut out });
    match read.and_then(|()| json.end()) {
        Ok(()) => Ok(out.bytes),
        Err(_) if out.is_over => Err(OtlpError::Expands { limit: max_bytes }),
        Err(error) => Err(OtlpError::Json { what: error.to_string() }),
    }
}

/// The protobuf as far as it is written.
struct Out {
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

/// Bytes of the length of a message, which is known only behind it: a number of variable length, padded.
const LENGTH: usize = 5;

impl Out {
    /// Keeps the bound before `bytes` more are written.
    fn room<E: de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        // 15 for a tag and a number of any size.
        self.is_over |= self.bytes.len() + bytes + 15 > self.limit;
        if self.is_over { Err(E::custom("the message is over its limit")) } else { Ok(()) }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn number<E: de::Error>(&mut self, number: u32, value: u64) -> Result<(), E> {
        self.room(0)?;
        self.varint(u64::from(number << 3));
        self.varint(value);
        Ok(())
    }

    fn fixed64<E: de::Error>(&mut self, number: u32, value: u64) -> Result<(), E> {
        self.room(0)?;
        self.varint(u64::from(number << 3 | 1));
        self.bytes.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn text<E: de::Error>(&mut self, number: u32, value: &[u8]) -> Result<(), E> {
        self.room(value.len())?;
        self.varint(u64::from(number << 3 | 2));
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    /// Begins a message and tells where its content starts.
    fn begin<E: de::Error>(&mut self, number: u32) -> Result<usize, E> {
        self.room(LENGTH)?;
        self.varint(u64::from(number << 3 | 2));
        self.bytes.extend_from_slice(&[0; LENGTH]);
        Ok(self.bytes.len())
    }

    fn end<E: de::Error>(&mut self, start: usize) -> Result<(), E> {
        let len =
            u32::try_from(self.bytes.len() - start).map_err(|_| E::custom("a message is over 4 GiB"))?;
        for (at, byte) in self.bytes[start - LENGTH..start].iter_mut().enumerate() {
            let more = if at + 1 < LENGTH { 0x80 } else { 0 };
            *byte = (len >> (7 * at)) as u8 & 0x7f | more;
        }
        Ok(())
    }
}

struct MessageVisitor<'o> {
    message: &'static Message,
    out: &'o mut Out,
}

impl<'de> Visitor<'de> for MessageVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(FieldName(self.message))? {
            match field {
                Some(field) => map.next_value_seed(FieldValue { field, in_list: false, out: self.out })?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }
}

/// Finds the field of a key, without keeping the key.
struct FieldName(&'static Message);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.0.iter().find(|field| field.name == name))
    }
}

/// Reads the value of a field, or one element of its list.
struct FieldValue<'o> {
    field: &'static Field,
    in_list: bool,
    out: &'o mut Out,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl FieldValue<'_> {
    /// Whether a single value may stand here.
    fn single<E: de::Error>(&self) -> Result<(), E> {
        if self.field.is_repeated && !self.in_list { Err(self.wrong()) } else { Ok(()) }
    }

    fn wrong<E: de::Error>(&self) -> E {
        E::custom(format_args!("{} must be {}", self.field.name, self.expected()))
    }

    fn expected(&self) -> &'static str {
        if self.field.is_repeated && !self.in_list {
            return "a list";
        }
        match self.field.field_type {
            Type::Message(_) => "an object",
            Type::Text => "a text",
            Type::Base64 => "base64",
            Type::Hex => "hexadecimal",
            Type::Double => "a number",
            Type::Fixed64 => "an integer of 64 bits without a sign",
            Type::Sfixed64 | Type::Varint => "an integer of 64 bits",
            Type::Zigzag => "an integer of 32 bits",
            Type::Bool => "a boolean",
            Type::Enum(_) => "a number or name of its enum",
        }
    }

    /// Writes an integer of any field that can hold it.
    fn integer<E: de::Error>(self, value: i128) -> Result<(), E> {
        self.single()?;
        let number = self.field.number;
        match self.field.field_type {
            Type::Double => self.out.fixed64(number, (value as f64).to_bits()),
            Type::Fixed64 => match u64::try_from(value) {
                Ok(value) => self.out.fixed64(number, value),
                Err(_) => Err(self.wrong()),
            },
            Type::Sfixed64 => match i64::try_from(value) {
                Ok(value) => self.out.fixed64(number, value as u64),
                Err(_) => Err(self.wrong()),
            },
            Type::Varint => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => self.out.number(number, value as u64),
                (_, Ok(value)) => self.out.number(number, value),
                _ => Err(self.wrong()),
            },
            Type::Enum(_) => match u32::try_from(value) {
                Ok(value) => self.out.number(number, u64::from(value)),
                Err(_) => Err(self.wrong()),
            },
            Type::Zigzag => match i32::try_from(value) {
                Ok(value) => self.out.number(number, u64::from((value << 1 ^ value >> 31) as u32)),
                Err(_) => Err(self.wrong()),
            },
            Type::Message(_) | Type::Text | Type::Base64 | Type::Hex | Type::Bool => Err(self.wrong()),
        }
    }

    /// Writes a number that stands as a text.
    fn numeric_text<E: de::Error>(self, text: &str) -> Result<(), E> {
        if let Ok(value) = text.parse::<i128>() {
            return self.integer(value);
        }
        if !matches!(self.field.field_type, Type::Double) {
            return Err(self.wrong());
        }
        let value = match text {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            // The parser knows names of its own for these.
            other => match other.parse::<f64>().ok().filter(|value| value.is_finite()) {
                Some(value) => value,
                None => return Err(self.wrong()),
            },
        };
        self.out.fixed64(self.field.number, value.to_bits())
    }
}

impl<'de> Visitor<'de> for FieldValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.field.name, self.expected())
    }

    /// Null is the default value: nothing.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.in_list { Err(self.wrong()) } else { Ok(()) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.single()?;
        let Type::Message(message) = self.field.field_type else { return Err(self.wrong()) };
        let start = self.out.begin(self.field.number)?;
        MessageVisitor { message, out: self.out }.visit_map(map)?;
        self.out.end(start)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.in_list || !self.field.is_repeated {
            return Err(self.wrong());
        }
        let field = self.field;
        while list.next_element_seed(FieldValue { field, in_list: true, out: self.out })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.single()?;
        if !matches!(self.field.field_type, Type::Bool) {
            return Err(self.wrong());
        }
        self.out.number(self.field.number, u64::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.single()?;
        if matches!(self.field.field_type, Type::Double) {
            return self.out.fixed64(self.field.number, value.to_bits());
        }
        // 1e3 is an integer too; beyond 2^53 a number is not exact.
        let is_integer = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
        if is_integer { self.integer(value as i128) } else { Err(self.wrong()) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.single()?;
        let number = self.field.number;
        match self.field.field_type {
            Type::Text => self.out.text(number, text.as_bytes()),
            Type::Hex => match unhex(text) {
                Some(bytes) => self.out.text(number, &bytes),
                None => Err(self.wrong()),
            },
            Type::Base64 => match unbase64(text) {
                Some(bytes) => self.out.text(number, &bytes),
                None => Err(self.wrong()),
            },
            Type::Enum(names) => match names.iter().position(|name| *name == text) {
                Some(value) => self.out.number(number, value as u64),
                None => Err(self.wrong()),
            },
            Type::Message(_) | Type::Bool => Err(self.wrong()),
            Type::Double | Type::Fixed64 | Type::Sfixed64 | Type::Varint | Type::Zigzag => {
                self.numeric_text(text)
            }
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

/// Reads base64 of the standard or the URL alphabet, with or without padding.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(digit);
        }
        let used = match chunk.len() {
            1 => return None,
            len => len - 1,
        };
        word <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..=used]);
    }
    Some(bytes)
}
