//! Log lines: `logfmt` or JSON on standard error, with the fields of the request they belong to.
//!
//! Knows tracing events and spans. A request's span carries `trace_id`, so every line written while the
//! request is served has it. Values are escaped: a client cannot write a line of its own.

use crate::config::LogFormat;
use quorate_model::Clock;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// What the consensus library says is about itself, at length; a level that names it shows it all the same.
const QUIET: &str = "openraft=error";

/// Reads a level such as `info` or `info,quorate_tsdb=debug`.
///
/// # Errors
/// The reason, if a part of it is not known.
pub fn parse_level(text: &str) -> Result<EnvFilter, String> {
    // A single word that is no level would be read as the name of a module, and everything else were silent.
    let parts = || text.split(',').map(str::trim);
    let is_level = |word: &&str| LevelFilter::from_str(word).is_ok();
    if let Some(word) = parts().find(|part| !part.contains(['=', '[']) && !is_level(part)) {
        return Err(format!("{word:?} is not off, error, warn, info, debug or trace, nor MODULE=LEVEL"));
    }
    EnvFilter::builder().parse(format!("{QUIET},{text}")).map_err(|error| format!("{text:?}: {error}"))
}

/// Sends the log lines of the whole process to standard error. A second call changes nothing.
///
/// # Errors
/// The reason, if `level` is not known.
pub fn install(format: LogFormat, level: &str, clock: Arc<dyn Clock>) -> Result<(), String> {
    let lines = LineLayer { format, clock, write: to_standard_error };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(parse_level(level)?));
    // Only tests install twice, and then the first one serves.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}

/// A line that cannot be written is lost; there is nowhere to tell.
fn to_standard_error(line: &[u8]) {
    drop(std::io::stderr().write_all(line));
}

/// Writes one line for each event.
struct LineLayer<W> {
    format: LogFormat,
    clock: Arc<dyn Clock>,
    write: W,
}

/// Fields of a span, in the order they were recorded.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

enum Value {
    /// Numbers and booleans, written without quotes.
    Bare(String),
    Text(String),
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), Value::Text(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::Text(value.to_owned())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), Value::Bare(value.to_string())));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), Value::Bare(value.to_string())));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), Value::Bare(value.to_string())));
    }
}

impl<S, W> Layer<S> for LineLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&[u8]) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut line = Line::new(self.format);
        let meta = event.metadata();
        line.text("ts", &rfc3339(self.clock.now_ms()));
        line.text("level", &meta.level().as_str().to_lowercase());
        line.text("target", meta.target());
        for (name, value) in own.0.iter().filter(|(name, _)| *name == "message") {
            line.value(if *name == "message" { "msg" } else { name }, value);
        }
        for (name, value) in own.0.iter().filter(|(name, _)| *name != "message") {
            line.value(name, value);
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                fields.0.iter().for_each(|(name, value)| line.value(name, value));
            }
        }
        (self.write)(line.finish().as_bytes());
    }
}

/// One line being built.
struct Line {
    format: LogFormat,
    text: String,
}

impl Line {
    fn new(format: LogFormat) -> Self {
        Self { format, text: String::with_capacity(256) }
    }

    fn value(&mut self, name: &str, value: &Value) {
        match value {
            Value::Text(text) => self.text(name, text),
            Value::Bare(bare) => {
                self.key(name);
                self.text.push_str(bare);
            }
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\');
        if self.format == LogFormat::Logfmt && !value.is_empty() && value.bytes().all(plain) {
            self.text.push_str(value);
        } else {
            push_quoted(&mut self.text, value);
        }
    }

    fn key(&mut self, name: &str) {
        match self.format {
            LogFormat::Json => {
                self.text.push(if self.text.is_empty() { '{' } else { ',' });
                push_quoted(&mut self.text, name);
                self.text.push(':');
            }
            LogFormat::Logfmt => {
                if !self.text.is_empty() {
                    self.text.push(' ');
                }
                self.text.push_str(name);
                self.text.push('=');
            }
        }
    }

    fn finish(mut self) -> String {
        if self.format == LogFormat::Json {
            self.text.push('}');
        }
        self.text.push('\n');
        self.text
    }
}

/// A JSON string; logfmt readers take the same form.
fn push_quoted(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-11-22T03:04:05.678Z`. Days are turned into dates as by Howard Hinnant's `civil_from_days`.
pub fn rfc3339(unix_ms: i64) -> String {
    let (days, of_day) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use quorate_model::ManualClock;

    #[track_caller]
    fn check(format: LogFormat, expected: &str) {
        let lines = Arc::new(Mutex::new(String::new()));
        let sink = lines.clone();
        let clock = Arc::new(ManualClock::new(1_700_000_000_123));
        let write = move |line: &[u8]| sink.lock().push_str(std::str::from_utf8(line).unwrap());
        let subscriber = tracing_subscriber::registry().with(LineLayer { format, clock, write });
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", trace_id = "4bf9", status = tracing::field::Empty);
            span.record("status", 204);
            let _inside = span.enter();
            tracing::warn!(target: "here", tenant = "a\"b\nlevel=fake", count = 3, "two words");
        });
        assert_eq!(lines.lock().as_str(), expected);
    }

    #[test]
    fn logfmt_lines_carry_the_trace_id_and_cannot_be_forged() {
        check(
            LogFormat::Logfmt,
            "ts=2023-11-14T22:13:20.123Z level=warn target=here msg=\"two words\" \
             tenant=\"a\\\"b\\nlevel=fake\" count=3 trace_id=4bf9 status=204\n",
        );
    }

    #[test]
    fn json_lines_are_json() {
        check(
            LogFormat::Json,
            "{\"ts\":\"2023-11-14T22:13:20.123Z\",\"level\":\"warn\",\"target\":\"here\",\
             \"msg\":\"two words\",\"tenant\":\"a\\\"b\\nlevel=fake\",\"count\":3,\"trace_id\":\"4bf9\",\
             \"status\":204}\n",
        );
    }

    #[test]
    fn dates_are_right_around_leap_days_and_the_epoch() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
