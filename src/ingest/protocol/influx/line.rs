//! One line: measurement, tags, fields and time.
//!
//! Knows the grammar and how names are made. Does not know bodies or other lines.
//! Path: `influx` -> **here** -> `label_list`.

use super::super::label_list::{LabelList, is_name_byte};
use super::super::lines::{LineFault, decimal};
use super::{InfluxSettings, Precision};
use std::ops::Range;

/// Whether `byte` is skipped before a line and before its sections, which only spaces end.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Bytes of the line that begins `text`, without its line feed. Strings may hold line feeds, comments end at the
/// first. A string that nothing closes ends with the text: what follows it cannot be told from it.
pub(super) fn end(text: &[u8]) -> usize {
    let first = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    if text.first() == Some(&b'#') || !text[..first].contains(&b'"') {
        return first;
    }
    let (mut at, mut in_fields, mut in_string) = (0, false, false);
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' if text.get(at + 1) != Some(&b'\n') => at += 1,
            b'"' if in_string => in_string = false,
            b'=' if in_fields && !in_string && text.get(at + 1) == Some(&b'"') => {
                in_string = true;
                at += 1;
            }
            b'\n' if !in_string => return at,
            b' ' => in_fields = true,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// What the names of labels and metrics are made of.
#[derive(Debug)]
pub(super) struct Names<'a> {
    settings: &'a InfluxSettings,
    db: Option<&'a str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(settings: &'a InfluxSettings, db: Option<&'a str>) -> Self {
        Self { settings, db }
    }

    /// Appends a name without its escapes; `is_first` if nothing of the same name stands before it.
    fn push(&self, out: &mut String, raw: &str, escaped: &'static str, is_metric: bool, is_first: bool) {
        if self.settings.utf8_names {
            return push_plain(out, raw, escaped);
        }
        let mut is_first = is_first;
        for char in plain(raw, escaped) {
            let fits = |is_first| char.is_ascii() && is_name_byte(char as u8, is_first, is_metric);
            if is_first && !fits(true) && fits(false) {
                out.push('_');
            }
            out.push(if fits(false) { char } else { '_' });
            is_first = false;
        }
    }
}

/// Appends a text without its escapes.
fn push_plain(out: &mut String, raw: &str, escaped: &'static str) {
    if raw.contains('\\') {
        out.extend(plain(raw, escaped));
    } else {
        out.push_str(raw);
    }
}

/// The characters of a text without its escapes: a backslash before one of `escaped` or another backslash is gone,
/// any other stands for itself.
fn plain(raw: &str, escaped: &'static str) -> impl Iterator<Item = char> {
    let mut chars = raw.chars().peekable();
    std::iter::from_fn(move || {
        let char = chars.next()?;
        if char != '\\' {
            return Some(char);
        }
        Some(chars.next_if(|next| *next == '\\' || escaped.contains(*next)).unwrap_or('\\'))
    })
}

/// What stands in a line, beside its labels. Used again.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Metric names in the text of the list, and values.
    pub(super) fields: Vec<(Range<usize>, f64)>,
    /// Keys of strings, as they stand in the line.
    pub(super) strings: Vec<Range<usize>>,
    /// Time, milliseconds.
    pub(super) ts_ms: Option<i64>,
}

impl Line {
    /// Reads a line that begins with no blank.
    pub(super) fn read<'l>(
        &mut self,
        line: &'l str,
        names: &Names<'_>,
        list: &mut LabelList,
    ) -> Result<(), LineFault<'l>> {
        self.fields.clear();
        self.strings.clear();
        list.clear();
        let mut cursor = Cursor { line, at: 0 };
        let measurement = cursor.until(|byte| matches!(byte, b',' | b' '));
        if measurement.is_empty() {
            return Err(LineFault::At("the measurement is missing", ""));
        }
        while cursor.take(b',') {
            tag(&mut cursor, names, list)?;
        }
        if let Some(db) = names.db {
            add_db(db, names, list);
        }
        list.arrange()?;
        cursor.blanks();
        self.read_fields(&mut cursor, measurement, names, list)?;
        cursor.blanks();
        self.ts_ms = time(cursor.rest().trim_end_matches([' ', '\t']), names.settings.precision)?;
        Ok(())
    }

    fn read_fields<'l>(
        &mut self,
        cursor: &mut Cursor<'l>,
        measurement: &str,
        names: &Names<'_>,
        list: &mut LabelList,
    ) -> Result<(), LineFault<'l>> {
        if cursor.rest().is_empty() {
            return Err(LineFault::At("the fields are missing", ""));
        }
        let limit = names.settings.max_fields;
        loop {
            if self.fields.len() + self.strings.len() == limit {
                return Err(LineFault::TooMany("fields", limit));
            }
            let start = cursor.at;
            let key = cursor.until(|byte| matches!(byte, b'=' | b',' | b' '));
            if key.is_empty() {
                return Err(LineFault::At("a field has no name", cursor.rest()));
            }
            if !cursor.take(b'=') {
                return Err(LineFault::At("a field has no value", key));
            }
            match cursor.value(key)? {
                None => self.strings.push(start..start + key.len()),
                Some(value) => self.fields.push((metric(measurement, key, names, list), value)),
            }
            if !cursor.take(b',') {
                return Ok(());
            }
        }
    }
}

/// Reads one tag; the cursor stands behind the comma.
fn tag<'l>(cursor: &mut Cursor<'l>, names: &Names<'_>, list: &mut LabelList) -> Result<(), LineFault<'l>> {
    if list.len() == names.settings.max_tags {
        return Err(LineFault::TooMany("tags", names.settings.max_tags));
    }
    let is_end = |byte| matches!(byte, b'=' | b',' | b' ');
    let key = cursor.until(is_end);
    if key.is_empty() {
        return Err(LineFault::At("a tag has no name", cursor.rest()));
    }
    let value = if cursor.take(b'=') { cursor.until(is_end) } else { "" };
    if value.is_empty() {
        return Err(LineFault::At("a tag has no value", key));
    }
    if cursor.take(b'=') {
        return Err(LineFault::At("the value of a tag has an equals sign that is not escaped", key));
    }
    let start = list.text.len();
    names.push(&mut list.text, key, ",= ", false, true);
    let middle = list.text.len();
    push_plain(&mut list.text, value, ",= ");
    list.add(start..middle, middle..list.text.len());
    Ok(())
}

/// Adds the label of the database unless a tag has its name.
fn add_db(db: &str, names: &Names<'_>, list: &mut LabelList) {
    let start = list.text.len();
    names.push(&mut list.text, &names.settings.db_label, "", false, true);
    let name = start..list.text.len();
    if list.iter().all(|(tag, _)| tag != &list.text[name.clone()]) {
        let value = list.push(db);
        list.add(name, value);
    }
}

/// Appends the name of a field's metric to the text of the list.
fn metric(measurement: &str, key: &str, names: &Names<'_>, list: &mut LabelList) -> Range<usize> {
    let out = &mut list.text;
    let start = out.len();
    names.push(out, measurement, ", ", true, true);
    if !(names.settings.bare_value && key == "value") {
        out.push('_');
        names.push(out, key, ",= ", true, false);
    }
    start..out.len()
}

fn time(text: &str, precision: Precision) -> Result<Option<i64>, LineFault<'_>> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = text.parse().map_err(|_| LineFault::At("the time is no integer of 64 bits", text))?;
    match precision.to_ms(time) {
        Some(ts_ms) => Ok(Some(ts_ms)),
        None => Err(LineFault::At("the time is over 64 bits in milliseconds", text)),
    }
}

/// A place in a line.
struct Cursor<'l> {
    line: &'l str,
    at: usize,
}

impl<'l> Cursor<'l> {
    fn rest(&self) -> &'l str {
        &self.line[self.at..]
    }

    /// Moves behind `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.line.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn blanks(&mut self) {
        while self.line.as_bytes().get(self.at).is_some_and(|byte| is_blank(*byte)) {
            self.at += 1;
        }
    }

    /// The text up to the first of the bytes that no backslash stands before.
    fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'l str {
        let start = self.at;
        let bytes = self.line.as_bytes();
        while self.at < bytes.len() && !is_end(bytes[self.at]) {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at = self.at.min(bytes.len());
        &self.line[start..self.at]
    }

    /// The value of a field; `None` for a string.
    fn value(&mut self, key: &'l str) -> Result<Option<f64>, LineFault<'l>> {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.string(key).map(|()| None);
        }
        let end = rest.bytes().position(|byte| matches!(byte, b',' | b' ')).unwrap_or(rest.len());
        self.at += end;
        let text = &rest[..end];
        if text.is_empty() {
            return Err(LineFault::At("a field has no value", key));
        }
        number(text)
            .map(Some)
            .ok_or(LineFault::At("the value of a field is neither number, boolean nor string", text))
    }

    /// Moves behind a string.
    fn string(&mut self, key: &'l str) -> Result<(), LineFault<'l>> {
        let bytes = self.line.as_bytes();
        self.at += 1;
        while self.at < bytes.len() && bytes[self.at] != b'"' {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        if self.at >= bytes.len() {
            return Err(LineFault::At("the string of a field is not closed", key));
        }
        self.at += 1;
        match bytes.get(self.at) {
            None | Some(b',' | b' ') => Ok(()),
            Some(_) => Err(LineFault::At("something follows the string of a field", self.rest())),
        }
    }
}

/// A number or boolean.
fn number(text: &str) -> Option<f64> {
    match text {
        "t" | "T" | "true" | "True" | "TRUE" => return Some(1.0),
        "f" | "F" | "false" | "False" | "FALSE" => return Some(0.0),
        _ => {}
    }
    if let Some(digits) = text.strip_suffix('i') {
        return digits.parse::<i64>().ok().map(|value| value as f64);
    }
    match text.strip_suffix('u') {
        Some(digits) => digits.parse::<u64>().ok().map(|value| value as f64),
        None => decimal(text),
    }
}
