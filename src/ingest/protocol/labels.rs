//! The labels of one series, split only when the series is not known: sorted, checked, without empty values.
//!
//! L1: no more is copied than the bounds allow. A symbol of 1 MiB may be named a thousand times in a few bytes.

use super::request::{LabelPlace, ParsedRequest};
use super::wire::{Cursor, LEN, expect};
use super::{BodyError, malformed};
use quorate_model::Labels;
use std::borrow::Cow;

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
    /// A name is so long that the labels are over what the limits let a series have.
    NameTooLong {
        /// The beginning of the name.
        name: String,
        /// Bytes of the name.
        bytes: usize,
    },
    /// A value is so long that the labels are over what the limits let a series have.
    ValueTooLong {
        /// The beginning of the name.
        name: String,
        /// The beginning of the value.
        value: String,
        /// Bytes of the value.
        bytes: usize,
    },
    /// So many labels that they are over what the limits let a series have.
    TooMany {
        /// At least this many.
        labels: usize,
    },
    /// More bytes than are left for the labels of a request.
    OverBudget,
}

/// What the labels of one series may take.
#[derive(Debug, Clone, Copy)]
pub struct LabelBounds {
    /// Number of labels.
    pub names: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Bytes of all names and values together.
    pub bytes: usize,
}

impl LabelBounds {
    /// Bytes that no series within the bounds exceeds.
    fn total(&self) -> usize {
        self.names.saturating_mul(self.name_bytes.saturating_add(self.value_bytes)).min(self.bytes)
    }
}

/// Most labels that are looked at, those with an empty value included.
const MAX_PLACES: usize = 1 << 16;

/// Why reading labels stopped.
enum Stop {
    Body(BodyError),
    Bounds(LabelFault),
}

impl From<BodyError> for Stop {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// Most bytes of a name or value, and most labels, that a message may need.
const SHOWN: usize = 256;

/// Buffers for splitting labels, used again.
#[derive(Debug, Default)]
pub struct LabelPairs {
    /// Start and length of name and value in `text`.
    places: Vec<[(u32, u32); 2]>,
    text: Vec<u8>,
}

impl LabelPairs {
    /// Splits the labels of series `index`, sorts them and drops those with an empty value. A series may still be
    /// over single limits: `bounds` only keep out what is over all of them together.
    ///
    /// # Errors
    /// [`LabelFault`]; what was read until then is in `raw`.
    pub fn split(
        &mut self,
        body: &[u8],
        request: &ParsedRequest,
        index: usize,
        bounds: &LabelBounds,
    ) -> Result<(), LabelFault> {
        self.places.clear();
        self.text.clear();
        match request.series[index].labels {
            LabelPlace::Body(start, end) => self.read_messages(&body[start as usize..end as usize], bounds),
            LabelPlace::Gathered(start, end) => {
                self.read_messages(&request.gathered[start as usize..end as usize], bounds)
            }
            LabelPlace::Symbols(start, end) => {
                self.read_symbols(body, request, &body[start as usize..end as usize], bounds)
            }
            LabelPlace::GatheredSymbols(start, end) => {
                self.read_symbols(body, request, &request.gathered[start as usize..end as usize], bounds)
            }
        }
        .map_err(|stop| match stop {
            Stop::Bounds(fault) => fault,
            Stop::Body(BodyError::Malformed { what }) => LabelFault::Malformed(what),
            Stop::Body(_) => LabelFault::Malformed("the labels cannot be read"),
        })?;
        self.arrange()
    }

    fn read_messages(&mut self, bytes: &[u8], bounds: &LabelBounds) -> Result<(), Stop> {
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
            self.push(name, value, bounds)?;
        }
        Ok(())
    }

    fn read_symbols(
        &mut self,
        body: &[u8],
        request: &ParsedRequest,
        packed: &[u8],
        bounds: &LabelBounds,
    ) -> Result<(), Stop> {
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
            self.push(name, value, bounds)?;
        }
        Ok(())
    }

    fn push(&mut self, name: &[u8], value: &[u8], bounds: &LabelBounds) -> Result<(), Stop> {
        let bytes = name.len() + value.len();
        if self.places.len() == MAX_PLACES || self.text.len() + bytes > bounds.total() {
            return Err(Stop::Bounds(self.excess(name, value, bounds)));
        }
        let place = |text: &mut Vec<u8>, bytes: &[u8]| {
            let start = u32::try_from(text.len()).map_err(|_| malformed("labels are over 4 GiB"))?;
            text.extend_from_slice(bytes);
            Ok::<_, BodyError>((start, bytes.len() as u32))
        };
        let name = place(&mut self.text, name)?;
        let value = place(&mut self.text, value)?;
        self.places.push([name, value]);
        Ok(())
    }

    /// Which bound the labels are over with this one, which was not copied.
    #[cold]
    fn excess(&self, name: &[u8], value: &[u8], bounds: &LabelBounds) -> LabelFault {
        let mut labels = self.raw().chain([(name, value)]);
        labels
            .find_map(|(name, value)| {
                if name.len() > bounds.name_bytes {
                    return Some(LabelFault::NameTooLong {
                        name: head(name).into_owned(),
                        bytes: name.len(),
                    });
                }
                (value.len() > bounds.value_bytes).then(|| {
                    let bytes = value.len();
                    let (name, value) = (head(name).into_owned(), head(value).into_owned());
                    LabelFault::ValueTooLong { name, value, bytes }
                })
            })
            .unwrap_or_else(|| {
                let labels = self.places.len() + 1;
                if labels > bounds.names { LabelFault::TooMany { labels } } else { LabelFault::OverBudget }
            })
    }

    /// Names and values as they were sent, also when they could not be split: for messages.
    pub(crate) fn raw(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = |(start, len): (u32, u32)| &self.text[start as usize..(start + len) as usize];
        self.places.iter().map(move |[name, value]| (bytes(*name), bytes(*value)))
    }

    /// The beginning of what could be read of labels that could not be split: for messages.
    pub(crate) fn shown(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        self.raw().take(SHOWN).map(|(name, value)| (head(name), head(value))).collect()
    }

    /// Bytes that the buffers keep.
    pub(crate) fn capacity(&self) -> usize {
        self.text.capacity() + self.places.capacity() * size_of::<[(u32, u32); 2]>()
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

/// The beginning of a text, for messages.
fn head(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&text[..text.len().min(SHOWN)])
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
