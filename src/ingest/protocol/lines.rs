//! What is wrong with lines of a text, with their numbers, and how much of that is kept.
//!
//! Knows no format. Does not know what becomes of the rest of the text.
//! Path: `influx` and `text` -> **here** -> the reply to the sender, or a log.

use std::fmt;

/// Notes that are kept of one kind; more are only counted.
const MAX_NOTES: usize = 16;
/// Most characters of a text that a reason shows.
const SHOWN_CHARS: usize = 64;

/// Lines or parts of lines that were not taken: all are counted, the first 16 are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// All of them.
    pub count: u64,
    /// The first 16, in the order of the text.
    pub first: Vec<Note>,
}

/// One part that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Number of the line, from 1.
    pub line: u64,
    /// Why, in lower case.
    pub reason: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, note) in self.first.iter().enumerate() {
            let between = if at == 0 { "" } else { "; " };
            write!(f, "{between}{note}")?;
        }
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Noted {
    /// Counts one more; `reason` becomes text only if it is kept.
    pub(super) fn note(&mut self, line: u64, reason: impl fmt::Display) {
        self.count += 1;
        if self.first.len() < MAX_NOTES {
            self.first.push(Note { line, reason: reason.to_string() });
        }
    }
}

/// Why a line is refused; borrows from it, because most reasons are never told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LineFault<'a> {
    /// What is wrong, and what stands there.
    At(&'static str, &'a str),
    /// The same with a text that does not stand in the line as such.
    Name(&'static str, String),
    /// Bytes of the line and the limit.
    TooLong(usize, usize),
    /// Too many parts of a kind, and the limit.
    TooMany(&'static str, usize),
}

impl fmt::Display for LineFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(what, "") => f.write_str(what),
            Self::At(what, found) => write!(f, "{what}: {}", Shown(found)),
            Self::Name(what, name) => write!(f, "{what}: {}", Shown(name)),
            Self::TooLong(bytes, limit) => write!(f, "the line has {bytes} bytes, over the limit of {limit}"),
            Self::TooMany(what, limit) => write!(f, "the line has more {what} than the limit of {limit}"),
        }
    }
}

/// A text in quotes, cut if it is long.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// A number as Go's `ParseFloat` reads it in Prometheus: decimal, or an infinity or NaN in any case.
///
/// NaN is the one that Prometheus stores, never a stale marker. `None` for what is over the range of 64 bits too.
pub(super) fn go_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(f64::from_bits(GO_NAN_BITS));
    }
    decimal(text)
}

/// The NaN of Go's `math.NaN`.
const GO_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// A finite decimal number, with or without an exponent.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let is_decimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.bytes().all(is_decimal) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_go() {
        for (text, value) in [
            ("12.47", 12.47),
            ("+1", 1.0),
            ("-0", -0.0),
            ("0042", 42.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("1.458255915e9", 1_458_255_915.0),
            ("1.7560473E+07", 17_560_473.0),
            ("1e-400", 0.0),
            ("+Inf", f64::INFINITY),
            ("inf", f64::INFINITY),
            ("-INFINITY", f64::NEG_INFINITY),
        ] {
            assert_eq!(go_float(text).map(f64::to_bits), Some(value.to_bits()), "{text}");
        }
        for text in ["NaN", "nan", "NAN"] {
            let bits = go_float(text).map(f64::to_bits);
            assert_eq!(bits, Some(0x7ff8_0000_0000_0001), "{text}");
            assert!(!quorate_model::is_stale(f64::from_bits(GO_NAN_BITS)));
        }
        let bad = ["", "+", ".", "e5", "1e", "1_0", "0x10", "0x1p-2", "+nan", "1e400", "infin", "1 ", "١"];
        for text in bad {
            assert_eq!(go_float(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_notes_are_kept_and_the_others_counted() {
        let mut noted = Noted::default();
        for line in 1..=20 {
            noted.note(line, LineFault::At("no number", "x"));
        }
        assert_eq!((noted.count, noted.first.len()), (20, 16));
        let text = noted.to_string();
        assert!(text.starts_with("line 1: no number: \"x\"; line 2: "), "{text}");
        assert!(text.ends_with("; and 4 more"), "{text}");
    }

    #[test]
    fn reasons_are_short_and_name_limits() {
        let long = "é".repeat(1_000);
        assert!(LineFault::At("no number", &long).to_string().len() < 200);
        assert_eq!(LineFault::At("no number", "").to_string(), "no number");
        assert_eq!(LineFault::TooLong(9, 5).to_string(), "the line has 9 bytes, over the limit of 5");
        assert_eq!(LineFault::TooMany("tags", 5).to_string(), "the line has more tags than the limit of 5");
    }
}
