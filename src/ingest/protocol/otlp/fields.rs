//! The fields of a protobuf message, with the types that OTLP uses.
//!
//! Knows wire types. Does not know OTLP's messages.
//! Path: `otlp::walk` and `otlp::points` -> **here** -> `protocol::wire`.

use super::super::wire::{Cursor, FIXED64, LEN, VARINT};
use super::super::{BodyError, malformed};

/// Most elements of one list of a data point, a resource or a scope.
pub(super) const MAX_LIST: usize = 65_536;

/// The fields of one message, in their order; what no OTLP field can be is skipped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(Cursor<'a>);

/// The value of one field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// A text, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
}

const OTHER_TYPE: BodyError = BodyError::Malformed { what: "a known field has another wire type" };

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(Cursor::new(message))
    }

    /// Number and value of the next field.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, BodyError> {
        while !self.0.is_at_end() {
            let (field, wire) = self.0.tag()?;
            let value = match wire {
                VARINT => Value::Varint(self.0.varint()?),
                FIXED64 => Value::Fixed64(self.0.fixed64()?),
                LEN => {
                    let (start, end) = self.0.range()?;
                    Value::Bytes(&self.0.bytes[start..end])
                }
                _ => {
                    self.0.skip(field, wire)?;
                    continue;
                }
            };
            return Ok(Some((field, value)));
        }
        Ok(None)
    }
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], BodyError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(OTHER_TYPE) }
    }

    pub(super) fn text(self) -> Result<&'a str, BodyError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("a text is not UTF-8"))
    }

    pub(super) fn varint(self) -> Result<u64, BodyError> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(OTHER_TYPE) }
    }

    pub(super) fn fixed64(self) -> Result<u64, BodyError> {
        if let Self::Fixed64(number) = self { Ok(number) } else { Err(OTHER_TYPE) }
    }

    pub(super) fn double(self) -> Result<f64, BodyError> {
        self.fixed64().map(f64::from_bits)
    }

    /// A `sint32`.
    pub(super) fn zigzag(self) -> Result<i32, BodyError> {
        let raw = self.varint()?;
        let number = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        i32::try_from(number).map_err(|_| malformed("a scale or an offset is over 32 bits"))
    }

    /// Appends the numbers of a repeated `fixed64` or `double`, packed or not.
    pub(super) fn put_fixed64<T>(self, out: &mut Vec<T>, make: fn(u64) -> T) -> Result<(), BodyError> {
        match self {
            Self::Fixed64(number) => push(out, make(number)),
            Self::Bytes(bytes) => {
                let (words, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(malformed("packed numbers end early"));
                }
                words.iter().try_for_each(|word| push(out, make(u64::from_le_bytes(*word))))
            }
            Self::Varint(_) => Err(OTHER_TYPE),
        }
    }

    /// Appends the numbers of a repeated `uint64`, packed or not.
    pub(super) fn put_varints(self, out: &mut Vec<u64>) -> Result<(), BodyError> {
        match self {
            Self::Varint(number) => push(out, number),
            Self::Bytes(bytes) => {
                let mut numbers = Cursor::new(bytes);
                while !numbers.is_at_end() {
                    push(out, numbers.varint()?)?;
                }
                Ok(())
            }
            Self::Fixed64(_) => Err(OTHER_TYPE),
        }
    }
}

/// Appends to a list that an input may not make as long as it likes.
pub(super) fn push<T>(list: &mut Vec<T>, element: T) -> Result<(), BodyError> {
    if list.len() == MAX_LIST {
        return Err(malformed("a list has over 65536 elements"));
    }
    list.push(element);
    Ok(())
}
