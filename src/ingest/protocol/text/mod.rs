//! The text formats of Prometheus, translated to a remote write body.
//!
//! Knows the text format 0.0.4 and OpenMetrics 1.0, both with quoted names. Does not know scrapes or targets.
//! Path: the HTTP API or a record of a source -> **here** -> [`Rw2Body`].
//! T1: a text with a fault is refused as a whole, as Prometheus does.
//!
//! Type, help and unit of a family come from the lines before its samples. A `_created` line of OpenMetrics becomes
//! the start timestamp of the samples with its labels, unless the settings say otherwise.
//! Source: Prometheus, "Exposition formats"; "OpenMetrics 1.0", section "Text format".

mod family;
mod line;
#[cfg(test)]
mod tests;

use super::label_list::LabelList;
use super::lines::LineFault;
use super::{Noted, Rw2Body, TooLarge};
use family::{Family, Part};
use line::{Cursor, Keyword, Sample};
use quorate_cluster::human::HumanSize;
use quorate_model::ErrorCode;
use serde::{Deserialize, Serialize};

/// The format of a text, as its content type tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// `text/plain; version=0.0.4`.
    #[default]
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// What `_created` lines of OpenMetrics become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Created {
    /// The start timestamp of the samples of their metric.
    #[default]
    Start,
    /// Series of their own.
    Series,
}

/// How texts are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSettings {
    /// What `_created` lines of OpenMetrics become: `start`, the start timestamp of the metric, or `series`.
    pub created: Created,
    /// Longest line.
    pub max_line_size: HumanSize,
    /// Most labels of a series or an exemplar, the metric name not counted.
    pub max_labels: usize,
    /// Largest text.
    pub max_size: HumanSize,
}

impl Default for TextSettings {
    fn default() -> Self {
        Self {
            created: Created::default(),
            max_line_size: HumanSize::from_bytes(256 << 10),
            max_labels: 128,
            max_size: HumanSize::from_mib(32),
        }
    }
}

impl TextSettings {
    /// Adds every problem found, each naming its key below `path`. Changes nothing.
    pub fn check(&self, path: &str, problems: &mut Vec<String>) {
        for (key, size) in [("max_line_size", self.max_line_size), ("max_size", self.max_size)] {
            if size.bytes() == 0 {
                problems.push(format!("{path}.{key} must be more than 0"));
            }
        }
    }
}

/// What was made of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextRead {
    /// Samples written.
    pub samples: u64,
    /// Exemplars written.
    pub exemplars: u64,
    /// `_created` lines that became start timestamps.
    pub starts: u64,
    /// `_created` lines of metrics without other samples.
    pub dropped: Noted,
}

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line is wrong.
    #[error("line {line} of the text cannot be read: {reason}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong, in lower case.
        reason: String,
    },
    /// A larger text than the settings allow.
    #[error("the text has {bytes} bytes, over the limit of {limit}")]
    TextTooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// What the text becomes is larger than the body may be.
    #[error(transparent)]
    BodyTooLarge(#[from] TooLarge),
}

impl TextError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Line { .. } => ErrorCode::BadInput,
            Self::TextTooLarge { .. } | Self::BodyTooLarge(_) => ErrorCode::TooLarge,
        }
    }
}

/// Writes the samples of `text` to `body`, beside what it holds. Samples without a time get `now_ms`, in
/// milliseconds.
///
/// One pass, and a second over the families with `_created` lines; memory for one line beside the body, and for the
/// `_created` lines of one family.
///
/// # Errors
/// [`TextError`]; `body` is then empty.
pub fn translate_text(
    text: &[u8],
    format: TextFormat,
    settings: &TextSettings,
    now_ms: i64,
    body: &mut Rw2Body,
) -> Result<TextRead, TextError> {
    let limit = settings.max_size.as_usize();
    let read = if text.len() > limit {
        Err(TextError::TextTooLarge { bytes: text.len(), limit })
    } else {
        Translation {
            format,
            settings,
            now_ms,
            body,
            list: LabelList::default(),
            exemplar: LabelList::default(),
            family: Family::default(),
            metric: String::new(),
            read: TextRead::default(),
        }
        .run(text)
    };
    if read.is_err() {
        body.reset();
    }
    read
}

/// Why a text is left.
enum Stop<'a> {
    Fault(LineFault<'a>),
    TooLarge(TooLarge),
}

impl<'a> From<LineFault<'a>> for Stop<'a> {
    fn from(fault: LineFault<'a>) -> Self {
        Self::Fault(fault)
    }
}

impl From<TooLarge> for Stop<'_> {
    fn from(error: TooLarge) -> Self {
        Self::TooLarge(error)
    }
}

struct Translation<'b> {
    format: TextFormat,
    settings: &'b TextSettings,
    now_ms: i64,
    body: &'b mut Rw2Body,
    list: LabelList,
    exemplar: LabelList,
    family: Family,
    /// Name of the last sample: metadata is written where it changes.
    metric: String,
    read: TextRead,
}

impl Translation<'_> {
    fn run(mut self, text: &[u8]) -> Result<TextRead, TextError> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let before = &text[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
            TextError::Line { line, reason: "it is not UTF-8".to_owned() }
        })?;
        let (mut rest, mut number, mut has_ended) = (text, 0, false);
        while !rest.is_empty() {
            let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
            (rest, number) = (next, number + 1);
            let read = if has_ended {
                Err(LineFault::At("something follows the end", line).into())
            } else {
                self.line(number, line, rest).map(|is_end| has_ended = is_end)
            };
            read.map_err(|stop| match stop {
                Stop::Fault(fault) => TextError::Line { line: number, reason: fault.to_string() },
                Stop::TooLarge(error) => error.into(),
            })?;
        }
        if self.format == TextFormat::OpenMetrics && !has_ended {
            let reason = "the text ends without a line \"# EOF\"".to_owned();
            return Err(TextError::Line { line: number.max(1), reason });
        }
        self.end_family();
        Ok(self.read)
    }

    /// Reads one line, with what follows it; tells whether it is the end.
    fn line<'l>(&mut self, number: u64, line: &'l str, rest: &'l str) -> Result<bool, Stop<'l>> {
        let limit = self.settings.max_line_size.as_usize();
        if line.len() > limit {
            return Err(LineFault::TooLong(line.len(), limit).into());
        }
        let mut cursor = Cursor::new(line, self.format, self.settings.max_labels);
        match cursor.start() {
            None if self.format == TextFormat::Prometheus => Ok(false),
            Some(b'#') if line == "# EOF" && self.format == TextFormat::OpenMetrics => Ok(true),
            Some(b'#') => {
                self.comment(cursor, number, rest)?;
                Ok(false)
            }
            _ => {
                let sample = cursor.sample(&mut self.list, &mut self.exemplar)?;
                self.sample(&sample)?;
                Ok(false)
            }
        }
    }

    /// Reads a line of metadata, or a comment.
    fn comment<'l>(&mut self, mut cursor: Cursor<'l>, number: u64, rest: &'l str) -> Result<(), Stop<'l>> {
        let Some(keyword) = cursor.keyword()? else { return Ok(()) };
        cursor.family(&mut self.list)?;
        if self.list.text != self.family.name {
            self.end_family();
            self.family.begin(&self.list.text);
        }
        match keyword {
            Keyword::Help => cursor.help(&mut self.family.help),
            Keyword::Unit => cursor.unit(&self.family.name, &mut self.family.unit)?,
            Keyword::Type => {
                self.end_family();
                self.family.metric_type = cursor.metric_type()?;
                if self.has_starts() {
                    self.look_ahead(number, rest)?;
                }
            }
        }
        Ok(())
    }

    /// Whether `_created` lines become starts.
    fn has_starts(&self) -> bool {
        self.format == TextFormat::OpenMetrics && self.settings.created == Created::Start
    }

    /// Collects the `_created` lines of a family whose type was told in line `number`, up to the next type. What is
    /// wrong with a line is told when its turn comes.
    fn look_ahead(&mut self, mut number: u64, rest: &str) -> Result<(), TooLarge> {
        let limit = self.settings.max_size.as_usize();
        for line in rest.split('\n').take_while(|line| !line.starts_with("# TYPE ") && *line != "# EOF") {
            number += 1;
            if !self.family.may_be_created(line) {
                continue;
            }
            let mut cursor = Cursor::new(line, self.format, self.settings.max_labels);
            let Ok(sample) = cursor.sample(&mut self.list, &mut self.exemplar) else { continue };
            if self.family.part(&self.list.text[sample.metric.clone()]) == Some(Part::Created)
                && let Some(start_ms) = line::seconds_to_ms(sample.value_text)
            {
                self.family.add_start(&self.list, sample.ts_ms, start_ms, number, limit)?;
            }
        }
        Ok(())
    }

    fn sample<'l>(&mut self, sample: &Sample<'l>) -> Result<(), Stop<'l>> {
        let has_starts = self.has_starts();
        let Self { list, exemplar, family, metric, read, body, now_ms, .. } = self;
        let name = &list.text[sample.metric.clone()];
        let part = family.part(name);
        if part == Some(Part::Created) && has_starts {
            return match line::seconds_to_ms(sample.value_text) {
                Some(_) => Ok(()),
                None => Err(LineFault::At("the value is no time in seconds", sample.value_text).into()),
            };
        }
        let start_ms = if part.is_some() { family.start_ms(list, sample.ts_ms) } else { 0 };
        let ts_ms = sample.ts_ms.unwrap_or(*now_ms);
        let has_metadata = part.is_some() && name != metric && family.has_metadata();
        if name != metric {
            metric.clear();
            metric.push_str(name);
        }
        list.with(|text, labels| {
            labels[0].1 = &text[sample.metric.clone()];
            let mut series = body.series(labels)?;
            series.sample(ts_ms, sample.value, start_ms)?;
            if has_metadata {
                series.metadata(family.metric_type, &family.help, &family.unit)?;
            }
            if let Some((value, exemplar_ts_ms)) = sample.exemplar {
                let ts_ms = exemplar_ts_ms.unwrap_or(ts_ms);
                exemplar.with(|_, labels| series.exemplar(&labels[1..], value, ts_ms))?;
                read.exemplars += 1;
            }
            Ok::<_, TooLarge>(())
        })?;
        read.samples += 1;
        Ok(())
    }

    /// Accounts for the `_created` lines of the family that was read.
    fn end_family(&mut self) {
        self.family.end_starts(|line, is_used| {
            if is_used {
                self.read.starts += 1;
            } else {
                self.read
                    .dropped
                    .note(line, LineFault::At("no sample has the labels of this _created line", ""));
            }
        });
    }
}
