//! Definitions: a dictionary of strings, the label-name sets ("shapes"), then a row for each new ref.
//!
//! The dictionary is per sub-batch, so that sub-batches can be encoded apart and joined later.

use super::bytes::{Reader, put_text, put_varint, put_zigzag};
use super::{MAX_LABEL_BYTES, RecordError, malformed};
use quorate_model::{Definition, Labels, SeriesRef, Slot};
use std::collections::HashMap;

/// Buffers of the encoder, used again for each sub-batch. Ids are given in order of first use, so equal
/// batches have equal bytes whatever order the maps would be walked in.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: HashMap<Box<str>, u32>,
    shapes: HashMap<Box<[u32]>, u32>,
    names: Vec<u32>,
    dictionary: Vec<u8>,
    shape_rows: Vec<u8>,
    rows: Vec<u8>,
}

impl Interner {
    /// Appends the dictionary to `dictionary_out` and shapes and rows to `rows_out`.
    pub(super) fn put(
        &mut self,
        definitions: &[Definition],
        dictionary_out: &mut Vec<u8>,
        rows_out: &mut Vec<u8>,
    ) {
        self.strings.clear();
        self.shapes.clear();
        self.dictionary.clear();
        self.shape_rows.clear();
        self.rows.clear();
        let mut previous = 0i64;
        for definition in definitions {
            let reference = i64::from(definition.reference.0);
            put_zigzag(&mut self.rows, reference - previous);
            previous = reference;
            self.rows.extend_from_slice(&definition.slot.0.to_le_bytes());
            self.put_labels(&definition.labels);
        }
        put_varint(dictionary_out, self.strings.len() as u64);
        dictionary_out.extend_from_slice(&self.dictionary);
        put_varint(rows_out, self.shapes.len() as u64);
        rows_out.extend_from_slice(&self.shape_rows);
        rows_out.extend_from_slice(&self.rows);
    }

    fn put_labels(&mut self, labels: &Labels) {
        let mut names = std::mem::take(&mut self.names);
        names.clear();
        names.extend(labels.iter().map(|(name, _)| self.string_id(name)));
        let shape = self.shape_id(&names);
        self.names = names;
        put_varint(&mut self.rows, u64::from(shape));
        for (_, value) in labels {
            let id = self.string_id(value);
            put_varint(&mut self.rows, u64::from(id));
        }
    }

    fn string_id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        let id = self.strings.len() as u32;
        self.strings.insert(text.into(), id);
        put_text(&mut self.dictionary, text);
        id
    }

    fn shape_id(&mut self, names: &[u32]) -> u32 {
        if let Some(id) = self.shapes.get(names) {
            return *id;
        }
        let id = self.shapes.len() as u32;
        self.shapes.insert(names.into(), id);
        put_varint(&mut self.shape_rows, names.len() as u64);
        for name in names {
            put_varint(&mut self.shape_rows, u64::from(*name));
        }
        id
    }
}

/// Buffers of the decoder: places of strings and shapes in the bytes of the sub-batch.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Offset and length of each string in the dictionary section.
    strings: Vec<(u32, u32)>,
    /// Name ids of all shapes, one after the other.
    names: Vec<u32>,
    /// Where each shape begins and ends in `names`.
    shapes: Vec<(u32, u32)>,
}

impl Scratch {
    pub(super) fn take_dictionary(&mut self, section: &[u8]) -> Result<(), RecordError> {
        self.strings.clear();
        let mut reader = Reader::new(section);
        let count = reader.count(1, "more strings than bytes")?;
        self.strings.reserve(count);
        for _ in 0..count {
            let len = reader.text()?.len();
            let end = section.len() - reader.rest().len();
            let start = u32::try_from(end - len).map_err(|_| malformed("a dictionary is over 4 GiB"))?;
            self.strings.push((start, len as u32));
        }
        reader.end("bytes follow the dictionary")
    }

    /// Reads shapes and `count` rows; `dictionary` is the section that [`Self::take_dictionary`] has read.
    pub(super) fn take_rows(
        &mut self,
        section: &[u8],
        dictionary: &[u8],
        count: usize,
        out: &mut Vec<Definition>,
    ) -> Result<(), RecordError> {
        let mut reader = Reader::new(section);
        self.take_shapes(&mut reader)?;
        if count > reader.rest().len() {
            return Err(malformed("more definitions than bytes"));
        }
        out.reserve(count);
        let mut previous = 0i64;
        let mut budget = MAX_LABEL_BYTES;
        for _ in 0..count {
            previous = previous.wrapping_add(reader.zigzag()?);
            let reference = u32::try_from(previous).map_err(|_| malformed("a ref is over 32 bits"))?;
            let slot = Slot(reader.u16()?);
            let labels = self.take_labels(&mut reader, dictionary, &mut budget)?;
            out.push(Definition { reference: SeriesRef(reference), slot, labels });
        }
        reader.end("bytes follow the definitions")
    }

    fn take_shapes(&mut self, reader: &mut Reader<'_>) -> Result<(), RecordError> {
        self.shapes.clear();
        self.names.clear();
        let count = reader.count(1, "more shapes than bytes")?;
        for _ in 0..count {
            let names = reader.count(1, "more label names than bytes")?;
            let start = self.names.len() as u32;
            for _ in 0..names {
                let id = reader.varint_u32()?;
                self.names.push(id);
            }
            self.shapes.push((start, self.names.len() as u32));
        }
        Ok(())
    }

    fn take_labels(
        &self,
        reader: &mut Reader<'_>,
        dictionary: &[u8],
        budget: &mut usize,
    ) -> Result<Labels, RecordError> {
        let shape = reader.varint_u32()? as usize;
        let (start, end) = *self.shapes.get(shape).ok_or(malformed("a shape is not defined"))?;
        let names = &self.names[start as usize..end as usize];
        let mut values = *reader;
        let mut previous: Option<&str> = None;
        for name in names {
            let name = self.string(dictionary, *name)?;
            let value = self.string(dictionary, reader.varint_u32()?)?;
            if value.is_empty() || previous.is_some_and(|p| p >= name) {
                return Err(malformed("labels are not sorted, or a value is empty"));
            }
            previous = Some(name);
            let spent = name.len() + value.len();
            *budget = budget.checked_sub(spent).ok_or(malformed("labels expand over their bound"))?;
        }
        Ok(Labels::from_sorted(names.iter().filter_map(|name| {
            let value = values.varint_u32().ok()?;
            Some((self.string(dictionary, *name).ok()?, self.string(dictionary, value).ok()?))
        })))
    }

    fn string<'a>(&self, dictionary: &'a [u8], id: u32) -> Result<&'a str, RecordError> {
        let (start, len) = *self.strings.get(id as usize).ok_or(malformed("a string is not defined"))?;
        let bytes = &dictionary[start as usize..start as usize + len as usize];
        std::str::from_utf8(bytes).map_err(|_| malformed("text is not UTF-8"))
    }
}
