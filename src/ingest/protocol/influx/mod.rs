//! Influx line protocol, translated to a remote write body.
//!
//! Knows the lines of InfluxDB 1 and 2. Does not know where they come from, databases or tenants.
//! Path: the HTTP API or a record of a source -> **here** -> [`Rw2Body`].
//! I1: of a line with a fault nothing is written.
//!
//! Each number of a line becomes a sample of the metric `measurement_field` with the tags as labels; booleans are 0
//! and 1, strings are left out. Fields whose names become equal are samples of one series at one time, and storage
//! decides as with any such samples.
//! Source: InfluxDB, "Line protocol reference"; names as VictoriaMetrics makes them.

mod line;
#[cfg(test)]
mod tests;

use super::label_list::LabelList;
use super::lines::LineFault;
use super::{Noted, Rw2Body, TooLarge};
use line::{Line, Names};
use quorate_cluster::human::HumanSize;
use quorate_model::ErrorCode;
use serde::{Deserialize, Serialize};

/// How lines are read and what their names become.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct InfluxSettings {
    /// Unit of the times in the lines: `ns`, `us`, `ms`, `s`, `m` or `h`.
    pub precision: Precision,
    /// Whether the good lines of a text with bad ones are taken; otherwise none is.
    pub accept_partial: bool,
    /// Whether a field named `value` gives a metric with the name of the measurement alone.
    pub bare_value: bool,
    /// Whether names stay as they are; otherwise each character outside Prometheus' old character set becomes `_`.
    pub utf8_names: bool,
    /// Label that holds the database of a request unless a tag has that name; empty for none.
    pub db_label: String,
    /// Longest line, texts over several lines included.
    pub max_line_size: HumanSize,
    /// Most tags of a line.
    pub max_tags: usize,
    /// Most fields of a line.
    pub max_fields: usize,
    /// Largest text.
    pub max_size: HumanSize,
}

impl Default for InfluxSettings {
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            accept_partial: true,
            bare_value: false,
            utf8_names: false,
            db_label: "db".to_owned(),
            max_line_size: HumanSize::from_bytes(256 << 10),
            max_tags: 128,
            max_fields: 1024,
            max_size: HumanSize::from_mib(32),
        }
    }
}

impl InfluxSettings {
    /// Adds every problem found, each naming its key below `path`. Changes nothing.
    pub fn check(&self, path: &str, problems: &mut Vec<String>) {
        let bounds = [
            ("max_line_size", self.max_line_size.as_usize()),
            ("max_fields", self.max_fields),
            ("max_size", self.max_size.as_usize()),
        ];
        for (key, _) in bounds.into_iter().filter(|(_, bound)| *bound == 0) {
            problems.push(format!("{path}.{key} must be more than 0"));
        }
    }
}

/// Unit of the times in the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Precision {
    /// Nanoseconds.
    #[default]
    #[serde(rename = "ns", alias = "n")]
    Nanoseconds,
    /// Microseconds.
    #[serde(rename = "us", alias = "u", alias = "µ")]
    Microseconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Minutes (InfluxDB 1).
    #[serde(rename = "m")]
    Minutes,
    /// Hours (InfluxDB 1).
    #[serde(rename = "h")]
    Hours,
}

impl Precision {
    /// From the `precision` of a request; `None` if it is unknown.
    pub fn from_parameter(text: &str) -> Option<Self> {
        Some(match text {
            "n" | "ns" => Self::Nanoseconds,
            "u" | "us" | "µ" => Self::Microseconds,
            "ms" => Self::Milliseconds,
            "s" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return None,
        })
    }

    /// A time in milliseconds, the last before it if it lies between two; `None` if it is over 64 bits.
    fn to_ms(self, time: i64) -> Option<i64> {
        match self {
            Self::Nanoseconds => Some(time.div_euclid(1_000_000)),
            Self::Microseconds => Some(time.div_euclid(1_000)),
            Self::Milliseconds => Some(time),
            Self::Seconds => time.checked_mul(1_000),
            Self::Minutes => time.checked_mul(60_000),
            Self::Hours => time.checked_mul(3_600_000),
        }
    }
}

/// What was made of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InfluxRead {
    /// Good lines, comments and empty ones not counted.
    pub lines: u64,
    /// Samples written.
    pub samples: u64,
    /// Bad lines, which had no effect.
    pub bad_lines: Noted,
    /// Strings of good lines.
    pub dropped_fields: Noted,
}

/// Why nothing of a text is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfluxError {
    /// Bad lines, and a text is taken as a whole.
    #[error("{} of the lines cannot be read: {}", bad_lines.count, bad_lines)]
    BadLines {
        /// The lines.
        bad_lines: Noted,
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

impl InfluxError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadLines { .. } => ErrorCode::BadInput,
            Self::TextTooLarge { .. } | Self::BodyTooLarge(_) => ErrorCode::TooLarge,
        }
    }
}

/// Writes the samples of `text` to `body`, beside what it holds. Lines without a time get `now_ms`, in milliseconds.
///
/// `db` is the database that the request names. One pass; memory for one line beside the body.
///
/// # Errors
/// [`InfluxError`]; `body` is then empty. Bad lines are no error if the settings accept a part.
pub fn translate_influx(
    text: &[u8],
    db: Option<&str>,
    settings: &InfluxSettings,
    now_ms: i64,
    body: &mut Rw2Body,
) -> Result<InfluxRead, InfluxError> {
    let limit = settings.max_size.as_usize();
    let read = if text.len() > limit {
        Err(InfluxError::TextTooLarge { bytes: text.len(), limit })
    } else {
        Translation::new(db, settings, now_ms, body).run(text)
    };
    match read {
        Ok(read) if read.bad_lines.count == 0 || settings.accept_partial => Ok(read),
        Ok(read) => {
            body.reset();
            Err(InfluxError::BadLines { bad_lines: read.bad_lines })
        }
        Err(error) => {
            body.reset();
            Err(error)
        }
    }
}

struct Translation<'a> {
    settings: &'a InfluxSettings,
    names: Names<'a>,
    now_ms: i64,
    body: &'a mut Rw2Body,
    list: LabelList,
    line: Line,
    read: InfluxRead,
}

impl<'a> Translation<'a> {
    fn new(db: Option<&'a str>, settings: &'a InfluxSettings, now_ms: i64, body: &'a mut Rw2Body) -> Self {
        let db = db.filter(|db| !db.is_empty() && !settings.db_label.is_empty());
        Self {
            settings,
            names: Names::new(settings, db),
            now_ms,
            body,
            list: LabelList::default(),
            line: Line::default(),
            read: InfluxRead::default(),
        }
    }

    fn run(mut self, text: &[u8]) -> Result<InfluxRead, InfluxError> {
        let (mut rest, mut number) = (text, 1);
        while !rest.is_empty() {
            let start = rest.iter().position(|byte| !line::is_blank(*byte)).unwrap_or(rest.len());
            let end = start + line::end(&rest[start..]);
            let whole = &rest[start..end];
            self.line(number, whole.strip_suffix(b"\r").unwrap_or(whole))?;
            let next = rest.len().min(end + 1);
            number += rest[..next].iter().filter(|byte| **byte == b'\n').count() as u64;
            rest = &rest[next..];
        }
        Ok(self.read)
    }

    /// Takes or notes the line, which may reach over several lines of the text.
    fn line(&mut self, number: u64, bytes: &[u8]) -> Result<(), TooLarge> {
        if matches!(bytes.first(), None | Some(b'#')) {
            return Ok(());
        }
        let limit = self.settings.max_line_size.as_usize();
        let line = match std::str::from_utf8(bytes) {
            _ if bytes.len() > limit => Err(LineFault::TooLong(bytes.len(), limit)),
            Ok(line) => Ok(line),
            Err(_) => Err(LineFault::At("the line is not UTF-8", "")),
        };
        match line.and_then(|line| self.line.read(line, &self.names, &mut self.list).map(|()| line)) {
            Ok(line) => self.write(number, line),
            Err(fault) => {
                self.read.bad_lines.note(number, fault);
                Ok(())
            }
        }
    }

    fn write(&mut self, number: u64, line: &str) -> Result<(), TooLarge> {
        let Self { line: Line { fields, strings, ts_ms }, body, read, now_ms, .. } = self;
        let ts_ms = ts_ms.unwrap_or(*now_ms);
        for key in strings.iter() {
            read.dropped_fields.note(number, LineFault::At("the field is a string", &line[key.clone()]));
        }
        self.list.with(|text, labels| {
            for (metric, value) in fields.iter() {
                labels[0].1 = &text[metric.clone()];
                body.series(labels)?.sample(ts_ms, *value, 0)?;
            }
            Ok(())
        })?;
        read.lines += 1;
        read.samples += fields.len() as u64;
        Ok(())
    }
}
