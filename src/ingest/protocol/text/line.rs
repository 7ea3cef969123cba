//! One line: a sample, or metadata of a family.
//!
//! Knows the grammar of both formats, which differ in blanks, comments, times and exemplars. Does not know other lines.
//! Path: `text` -> **here** -> `label_list`.

use super::super::label_list::{LabelList, is_name_byte};
use super::super::lines::{LineFault, decimal, go_float};
use super::TextFormat;
use quorate_model::MetricType;
use std::ops::Range;

/// What a line of metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Help,
    Type,
    Unit,
}

/// One sample; its labels are in the list.
#[derive(Debug)]
pub(super) struct Sample<'l> {
    /// Place of the metric name in the text of the list.
    pub(super) metric: Range<usize>,
    pub(super) value: f64,
    pub(super) value_text: &'l str,
    /// Time, milliseconds.
    pub(super) ts_ms: Option<i64>,
    /// Value and time of an exemplar, whose labels are in their own list.
    pub(super) exemplar: Option<(f64, Option<i64>)>,
}

/// A place in a line.
#[derive(Debug)]
pub(super) struct Cursor<'l> {
    line: &'l str,
    at: usize,
    is_open_metrics: bool,
    max_labels: usize,
}

impl<'l> Cursor<'l> {
    pub(super) fn new(line: &'l str, format: TextFormat, max_labels: usize) -> Self {
        let is_open_metrics = format == TextFormat::OpenMetrics;
        let line = if is_open_metrics { line } else { line.strip_suffix('\r').unwrap_or(line) };
        Self { line, at: 0, is_open_metrics, max_labels }
    }

    /// Moves to the first byte of the line and tells it.
    pub(super) fn start(&mut self) -> Option<u8> {
        self.blanks();
        self.peek()
    }

    /// Reads the beginning of a line with `#`; `None` for a comment.
    pub(super) fn keyword(&mut self) -> Result<Option<Keyword>, LineFault<'l>> {
        self.at += 1;
        let (is_apart, start) = (self.separator().is_ok(), self.at);
        let word = self.until_blank();
        let keyword = match word {
            "HELP" => Some(Keyword::Help),
            "TYPE" => Some(Keyword::Type),
            "UNIT" if self.is_open_metrics => Some(Keyword::Unit),
            _ => None,
        };
        match keyword.filter(|_| is_apart) {
            Some(keyword) => self.separator().map(|()| Some(keyword)),
            None if !self.is_open_metrics => Ok(None),
            None => {
                Err(LineFault::At("# is followed by neither HELP, TYPE, UNIT nor EOF", &self.line[start..]))
            }
        }
    }

    /// Reads the name of a family; it is the only text of `list` then.
    pub(super) fn family(&mut self, list: &mut LabelList) -> Result<(), LineFault<'l>> {
        list.clear();
        if self.peek() == Some(b'"') {
            self.quoted(&mut list.text)?;
        } else {
            let name = self.name(true);
            list.push(name);
        }
        if list.text.is_empty() {
            return Err(LineFault::At("a metric name is missing", self.rest()));
        }
        match self.peek() {
            None => Ok(()),
            Some(_) => self.separator(),
        }
    }

    /// Reads the rest of a HELP line.
    pub(super) fn help(&mut self, out: &mut String) {
        out.clear();
        push_plain(out, self.rest(), self.is_open_metrics);
    }

    /// Reads the rest of a TYPE line.
    pub(super) fn metric_type(&mut self) -> Result<MetricType, LineFault<'l>> {
        let text = if self.is_open_metrics { self.rest() } else { self.rest().trim_end_matches([' ', '\t']) };
        Ok(match text {
            "counter" => MetricType::Counter,
            "gauge" => MetricType::Gauge,
            "histogram" => MetricType::Histogram,
            "summary" => MetricType::Summary,
            "untyped" if !self.is_open_metrics => MetricType::Unknown,
            "unknown" if self.is_open_metrics => MetricType::Unknown,
            "gaugehistogram" if self.is_open_metrics => MetricType::GaugeHistogram,
            "info" if self.is_open_metrics => MetricType::Info,
            "stateset" if self.is_open_metrics => MetricType::StateSet,
            "" => return Err(LineFault::At("the type is missing", "")),
            text => return Err(LineFault::At("the type is unknown", text)),
        })
    }

    /// Reads the rest of a UNIT line.
    pub(super) fn unit(&mut self, family: &str, out: &mut String) -> Result<(), LineFault<'l>> {
        let unit = self.rest();
        let stem = family.strip_suffix(unit).and_then(|stem| stem.strip_suffix('_'));
        if !unit.is_empty() && stem.is_none_or(str::is_empty) {
            return Err(LineFault::At("the unit is not the end of the metric name", unit));
        }
        out.clear();
        out.push_str(unit);
        Ok(())
    }

    /// Reads a sample, its labels into `list`, sorted, and those of its exemplar into `exemplar`.
    pub(super) fn sample(
        &mut self,
        list: &mut LabelList,
        exemplar: &mut LabelList,
    ) -> Result<Sample<'l>, LineFault<'l>> {
        list.clear();
        let name = self.name(true);
        let mut metric = (!name.is_empty()).then(|| list.push(name));
        if !self.is_open_metrics {
            self.blanks();
        }
        if self.peek() == Some(b'{') {
            self.labels(list, Some(&mut metric))?;
        }
        let Some(metric) = metric.filter(|metric| !metric.is_empty()) else {
            return Err(LineFault::At("a metric name is missing", self.rest()));
        };
        if self.is_open_metrics {
            self.separator()?;
        }
        self.blanks();
        let (value, value_text) = self.number("the value is no number")?;
        let mut sample = Sample { metric, value, value_text, ts_ms: None, exemplar: None };
        if self.is_next_part()? && self.peek() != Some(b'#') {
            sample.ts_ms = Some(self.time()?);
            if self.is_next_part()? && self.peek() != Some(b'#') {
                return Err(LineFault::At("something follows the sample", self.rest()));
            }
        }
        if self.is_open_metrics && self.peek() == Some(b'#') {
            self.at += 1;
            sample.exemplar = Some(self.exemplar(exemplar)?);
        }
        match self.rest() {
            "" => Ok(sample),
            rest => Err(LineFault::At("something follows the sample", rest)),
        }
    }

    fn exemplar(&mut self, list: &mut LabelList) -> Result<(f64, Option<i64>), LineFault<'l>> {
        list.clear();
        self.separator()?;
        if self.peek() != Some(b'{') {
            return Err(LineFault::At("the exemplar has no labels", self.rest()));
        }
        self.labels(list, None)?;
        self.separator()?;
        let (value, _) = self.number("the value of the exemplar is no number")?;
        let ts_ms = if self.is_next_part()? { Some(self.time()?) } else { None };
        Ok((value, ts_ms))
    }

    /// Moves over blanks to what follows; tells whether anything does.
    fn is_next_part(&mut self) -> Result<bool, LineFault<'l>> {
        if self.at == self.line.len() {
            return Ok(false);
        }
        self.separator()?;
        // OpenMetrics knows no blank at the end: something must follow one.
        Ok(self.is_open_metrics || self.at < self.line.len())
    }

    /// Reads labels in braces; one of them may be the quoted name of the metric, which is set then.
    fn labels(
        &mut self,
        list: &mut LabelList,
        mut metric: Option<&mut Option<Range<usize>>>,
    ) -> Result<(), LineFault<'l>> {
        self.at += 1;
        loop {
            self.blanks();
            if self.take(b'}') {
                return list.arrange();
            }
            let is_quoted = self.peek() == Some(b'"');
            let name = self.label_name(list, is_quoted)?;
            self.blanks();
            match (self.peek(), &mut metric) {
                (Some(b',' | b'}'), Some(metric)) if is_quoted && metric.is_none() => **metric = Some(name),
                (Some(b'='), _) => self.label_value(list, name)?,
                _ => return Err(LineFault::At("a label has no equals sign", self.rest())),
            }
            self.blanks();
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err(LineFault::At("neither comma nor brace follows a label", self.rest()));
            }
        }
    }

    fn label_name(&mut self, list: &mut LabelList, is_quoted: bool) -> Result<Range<usize>, LineFault<'l>> {
        let start = list.text.len();
        let before = self.rest();
        if is_quoted {
            self.quoted(&mut list.text)?;
        } else {
            let name = self.name(false);
            list.push(name);
        }
        if list.text.len() == start {
            return Err(LineFault::At("a label name is missing", before));
        }
        Ok(start..list.text.len())
    }

    /// Reads a value, the cursor at its equals sign.
    fn label_value(&mut self, list: &mut LabelList, name: Range<usize>) -> Result<(), LineFault<'l>> {
        self.at += 1;
        self.blanks();
        if self.peek() != Some(b'"') {
            return Err(LineFault::At("the value of a label has no quotes", self.rest()));
        }
        if list.len() == self.max_labels {
            return Err(LineFault::TooMany("labels", self.max_labels));
        }
        let start = list.text.len();
        self.quoted(&mut list.text)?;
        list.add(name, start..list.text.len());
        Ok(())
    }

    /// Appends a text in quotes to `out`.
    fn quoted(&mut self, out: &mut String) -> Result<(), LineFault<'l>> {
        let bytes = self.line.as_bytes();
        let start = self.at + 1;
        let mut end = start;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        if end >= bytes.len() {
            return Err(LineFault::At("quotes are not closed", self.rest()));
        }
        push_plain(out, &self.line[start..end], true);
        self.at = end + 1;
        Ok(())
    }

    /// A name of the old character set, empty if there is none.
    fn name(&mut self, is_metric: bool) -> &'l str {
        let rest = self.rest();
        let mut bytes = rest.bytes().enumerate();
        let end = bytes.position(|(at, byte)| !is_name_byte(byte, at == 0, is_metric)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn number(&mut self, what: &'static str) -> Result<(f64, &'l str), LineFault<'l>> {
        let text = self.until_blank();
        match go_float(text) {
            Some(value) => Ok((value, text)),
            None if text.is_empty() => Err(LineFault::At("the value is missing", self.rest())),
            None => Err(LineFault::At(what, text)),
        }
    }

    fn time(&mut self) -> Result<i64, LineFault<'l>> {
        let text = self.until_blank();
        if self.is_open_metrics {
            return seconds_to_ms(text).ok_or(LineFault::At("the time is no number of seconds", text));
        }
        text.parse().map_err(|_| LineFault::At("the time is no integer of milliseconds", text))
    }

    fn rest(&self) -> &'l str {
        &self.line[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn is_blank(&self, byte: u8) -> bool {
        byte == b' ' || (byte == b'\t' && !self.is_open_metrics)
    }

    /// Moves over what separates two parts: one space in OpenMetrics, any number of blanks else.
    fn separator(&mut self) -> Result<(), LineFault<'l>> {
        match self.peek() {
            Some(byte) if self.is_blank(byte) => self.at += 1,
            Some(_) => return Err(LineFault::At("a space is missing", self.rest())),
            None => return Err(LineFault::At("the line ends early", "")),
        }
        self.blanks();
        Ok(())
    }

    /// Moves over blanks that the format ignores.
    fn blanks(&mut self) {
        while !self.is_open_metrics && self.peek().is_some_and(|byte| self.is_blank(byte)) {
            self.at += 1;
        }
    }

    fn until_blank(&mut self) -> &'l str {
        let rest = self.rest();
        let end = rest.bytes().position(|byte| self.is_blank(byte)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
}

/// Appends a text without its escapes; a backslash before any other character stands for itself.
fn push_plain(out: &mut String, raw: &str, has_quotes: bool) {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (plain, taken) = match rest.as_bytes().get(at + 1) {
            Some(b'n') => ('\n', 2),
            Some(b'\\') => ('\\', 2),
            Some(b'"') if has_quotes => ('"', 2),
            _ => ('\\', 1),
        };
        out.push(plain);
        rest = &rest[at + taken..];
    }
    out.push_str(rest);
}

/// Milliseconds of a number of seconds, cut towards zero; `None` for what is none or over 64 bits.
///
/// Without an exponent the digits are taken as they stand, so that no time is off by one.
pub(super) fn seconds_to_ms(text: &str) -> Option<i64> {
    let seconds = decimal(text)?;
    if text.contains(['e', 'E']) {
        let ms = (seconds * 1000.0).round();
        return (ms.abs() < i64::MAX as f64).then_some(ms as i64);
    }
    let (is_negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part = part.bytes().chain(*b"000").take(3).fold(0, |ms, digit| 10 * ms + i64::from(digit - b'0'));
    let ms = whole.checked_mul(1000)?.checked_add(part)?;
    Some(if is_negative { -ms } else { ms })
}
