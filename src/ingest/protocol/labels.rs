//! The labels of one series, split only when the series is not known: sorted, checked, without empty values.

use super::request::{LabelPlace, ParsedRequest};
use super::wire::{Cursor, LEN, expect};
use super::{BodyError, malformed};
use quorate_model::Labels;

/// Why the labels of a series cannot be used, whatever the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelFault {
    /// The label messages are malformed.
    Malformed(&'static str),
    /// A name is empty.
    EmptyName,
    /// A name or value is not UTF-8.
    NotUtf8,
    /// A name stands twice.
    Duplicate(String),
}

/// Buffers for splitting labels, used again.
#[derive(Debug, Default)]
pub struct LabelPairs {
    /// Start and length of name and value in `text`.
    places: Vec<[(u32, u32); 2]>,
    text: Vec<u8>,
}

impl LabelPairs {
    /// Splits the labels of series `index`, sorts them and drops those with an empty value.
    ///
    /// # Errors
    /// [`LabelFault`].
    pub fn split(&mut self, body: &[u8], request: &ParsedRequest, index: usize) -> Result<(), LabelFault> {
        self.places.clear();
        self.text.clear();
        match request.series[index].labels {
            LabelPlace::Body(start, end) => self.read_messages(&body[start as usize..end as usize]),
            LabelPlace::Gathered(start, end) => {
                self.read_messages(&request.gathered[start as usize..end as usize])
            }
            LabelPlace::Symbols(start, end) => {
                self.read_symbols(body, request, &body[start as usize..end as usize])
            }
            LabelPlace::GatheredSymbols(start, end) => {
                self.read_symbols(body, request, &request.gathered[start as usize..end as usize])
            }
        }
        .map_err(|error| match error {
            BodyError::Malformed { what } => LabelFault::Malformed(what),
            _ => LabelFault::Malformed("the labels cannot be read"),
        })?;
        self.arrange()
    }

    fn read_messages(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_at_end() {
            let (_, wire) = cursor.tag()?;
            expect(wire, LEN)?;
            let range = cursor.range()?;
            let mut label = cursor.within(range);
            let (mut name, mut value) = (&bytes[..0], &bytes[..0]);
            while !label.is_at_end() {
                match label.tag()? {
                    (1, wire) => {
                        expect(wire, LEN)?;
                        let (start, end) = label.range()?;
                        name = &bytes[start..end];
                    }
                    (2, wire) => {
                        expect(wire, LEN)?;
                        let (start, end) = label.range()?;
                        value = &bytes[start..end];
                    }
                    (field, wire) => label.skip(field, wire)?,
                }
            }
            self.push(name, value)?;
        }
        Ok(())
    }

    fn read_symbols(&mut self, body: &[u8], request: &ParsedRequest, packed: &[u8]) -> Result<(), BodyError> {
        let mut cursor = Cursor::new(packed);
        let mut symbol = || -> Result<Option<&[u8]>, BodyError> {
            if cursor.is_at_end() {
                return Ok(None);
            }
            let at = cursor.varint()? as usize;
            let (start, end) =
                *request.symbols.get(at).ok_or(malformed("a reference points behind the symbols"))?;
            Ok(Some(&body[start as usize..end as usize]))
        };
        while let Some(name) = symbol()? {
            let value = symbol()?.ok_or(malformed("the number of label references is odd"))?;
            self.push(name, value)?;
        }
        Ok(())
    }

    fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), BodyError> {
        let place = |text: &mut Vec<u8>, bytes: &[u8]| {
            let start = u32::try_from(text.len()).map_err(|_| malformed("labels are over 4 GiB"))?;
            text.extend_from_slice(bytes);
            Ok((start, bytes.len() as u32))
        };
        let name = place(&mut self.text, name)?;
        let value = place(&mut self.text, value)?;
        self.places.push([name, value]);
        Ok(())
    }

    fn arrange(&mut self) -> Result<(), LabelFault> {
        if std::str::from_utf8(&self.text).is_err() || !self.are_all_utf8() {
            return Err(LabelFault::NotUtf8);
        }
        let Self { places, text } = self;
        let bytes = |(start, len): (u32, u32)| &text[start as usize..(start + len) as usize];
        if places.iter().any(|[name, _]| name.1 == 0) {
            return Err(LabelFault::EmptyName);
        }
        if !places.is_sorted_by(|a, b| bytes(a[0]) <= bytes(b[0])) {
            places.sort_by(|a, b| bytes(a[0]).cmp(bytes(b[0])));
        }
        if let Some(twice) = places.windows(2).find(|pair| bytes(pair[0][0]) == bytes(pair[1][0])) {
            return Err(LabelFault::Duplicate(String::from_utf8_lossy(bytes(twice[0][0])).into_owned()));
        }
        places.retain(|[_, value]| value.1 > 0);
        Ok(())
    }

    /// Borders within the text must fall between characters too.
    fn are_all_utf8(&self) -> bool {
        self.places.iter().flatten().all(|(start, len)| {
            let end = (start + len) as usize;
            std::str::from_utf8(&self.text[*start as usize..end]).is_ok()
        })
    }

    /// The labels in order; names are not empty and do not repeat, values are not empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = |(start, len): (u32, u32)| {
            std::str::from_utf8(&self.text[start as usize..(start + len) as usize])
                .expect("split has checked that every name and value is UTF-8")
        };
        self.places.iter().map(move |[name, value]| (text(*name), text(*value)))
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all names and values as they were sent.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The label set; one allocation.
    pub fn to_labels(&self) -> Labels {
        Labels::from_sorted(self.iter())
    }

    /// The label messages that a tidy sender of remote write 1.0 writes for these labels. The hash of these bytes
    /// is the canonical one: two byte forms of a series meet there, and the usual form is its own.
    pub(crate) fn canonical_bytes(&self, out: &mut Vec<u8>) {
        out.clear();
        for (name, value) in self.iter() {
            let inner = 2 + name.len() + value.len() + varint_len(name.len()) + varint_len(value.len());
            out.push(0x0a);
            put_varint(out, inner);
            out.push(0x0a);
            put_varint(out, name.len());
            out.extend_from_slice(name.as_bytes());
            out.push(0x12);
            put_varint(out, value.len());
            out.extend_from_slice(value.as_bytes());
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}
