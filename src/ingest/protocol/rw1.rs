//! Remote write 1.0: the label run of a series is hashed as it stands, because senders repeat it byte for byte.
//!
//! Source: Prometheus, "Remote-Write 1.0", messages `WriteRequest` and `TimeSeries`.

use super::request::{Hashing, LabelPlace, ParsedMetadata, ParsedRequest, ParsedSeries};
use super::wire::{Cursor, LEN, VARINT, expect};
use super::{BodyError, Protocol, histogram, malformed, sample};
use quorate_model::MetricType;

const LABELS: u8 = 0x0a;
const SAMPLES: u8 = 0x12;
/// Most characters of an exemplar's names and values, as OpenMetrics has it.
pub(super) const MAX_EXEMPLAR_CHARS: usize = 128;

pub(super) fn parse(body: &[u8], hashing: &Hashing, out: &mut ParsedRequest) -> Result<(), BodyError> {
    if u32::try_from(body.len()).is_err() {
        return Err(malformed("the body is over 4 GiB"));
    }
    let mut cursor = Cursor::new(body);
    let (mut has_own, mut has_other) = (false, false);
    while !cursor.is_at_end() {
        match cursor.tag()? {
            (1, wire) => {
                expect(wire, LEN)?;
                has_own = true;
                let range = cursor.range()?;
                series(&cursor, range, hashing, out)?;
            }
            (3, wire) => {
                expect(wire, LEN)?;
                has_own = true;
                let range = cursor.range()?;
                metadata(&cursor, range, hashing, out)?;
            }
            (field, wire) => {
                has_other |= matches!(field, 4 | 5) && wire == LEN;
                cursor.skip(field, wire)?;
            }
        }
    }
    if has_other && !has_own {
        return Err(BodyError::OtherProtocol { announced: Protocol::RemoteWrite1 });
    }
    Ok(())
}

fn series(
    body: &Cursor<'_>,
    range: (usize, usize),
    hashing: &Hashing,
    out: &mut ParsedRequest,
) -> Result<(), BodyError> {
    let mut cursor = body.within(range);
    let run_start = cursor.at;
    while cursor.peek() == Some(LABELS) {
        cursor.at += 1;
        cursor.range()?;
    }
    let run = (run_start, cursor.at);
    let mut is_whole = true;
    while !cursor.is_at_end() {
        if cursor.peek() == Some(SAMPLES) {
            cursor.at += 1;
            sample::read::<false>(&mut cursor, out)?;
            continue;
        }
        let (field, wire) = cursor.tag()?;
        match field {
            1 => {
                expect(wire, LEN)?;
                cursor.range()?;
                is_whole = false;
            }
            3 => {
                expect(wire, LEN)?;
                let range = cursor.range()?;
                exemplar(&cursor, range, out)?;
            }
            4 => {
                expect(wire, LEN)?;
                let range = cursor.range()?;
                histogram::read(&cursor, range, false, out)?;
            }
            _ => cursor.skip(field, wire)?,
        }
    }
    let (labels, hash) = if is_whole {
        (LabelPlace::Body(run.0 as u32, run.1 as u32), hashing.bytes(&body.bytes[run.0..run.1]))
    } else {
        let (start, end) = gather(body, range, out)?;
        (LabelPlace::Gathered(start as u32, end as u32), hashing.bytes(&out.gathered[start..end]))
    };
    out.memory.charge(size_of::<ParsedSeries>())?;
    out.series.push(ParsedSeries {
        hash,
        labels,
        samples_end: out.ts_ms.len() as u32,
        histograms_end: out.histograms.len() as u32,
        fault: None,
    });
    Ok(())
}

/// Collects label messages that other fields stand between.
fn gather(
    body: &Cursor<'_>,
    range: (usize, usize),
    out: &mut ParsedRequest,
) -> Result<(usize, usize), BodyError> {
    let mut cursor = body.within(range);
    let start = out.gathered.len();
    while !cursor.is_at_end() {
        let field_start = cursor.at;
        let (field, wire) = cursor.tag()?;
        cursor.skip(field, wire)?;
        if field == 1 {
            out.memory.charge(cursor.at - field_start)?;
            out.gathered.extend_from_slice(&cursor.bytes[field_start..cursor.at]);
        }
    }
    Ok((start, out.gathered.len()))
}

/// Exemplars are not stored yet; they are read so that wrong ones are told.
fn exemplar(cursor: &Cursor<'_>, range: (usize, usize), out: &mut ParsedRequest) -> Result<(), BodyError> {
    let mut inner = cursor.within(range);
    let mut chars = 0;
    while !inner.is_at_end() {
        let (field, wire) = inner.tag()?;
        if field != 1 {
            inner.skip(field, wire)?;
            continue;
        }
        expect(wire, LEN)?;
        let range = inner.range()?;
        let mut label = inner.within(range);
        while !label.is_at_end() {
            let (field, wire) = label.tag()?;
            if !matches!(field, 1 | 2) {
                label.skip(field, wire)?;
                continue;
            }
            expect(wire, LEN)?;
            let (start, end) = label.range()?;
            chars += count_chars(&label.bytes[start..end], chars);
        }
    }
    note_exemplar(chars, out)
}

/// Counts an exemplar of the series that is being read, and keeps its series if its labels are too long.
pub(super) fn note_exemplar(chars: usize, out: &mut ParsedRequest) -> Result<(), BodyError> {
    out.exemplars += 1;
    let series = out.series.len() as u32;
    if chars > MAX_EXEMPLAR_CHARS && out.long_exemplars.last() != Some(&series) {
        out.memory.charge(size_of_val(&series))?;
        out.long_exemplars.push(series);
    }
    Ok(())
}

/// Characters of UTF-8 text, bytes that do not continue another, when `before` were counted already.
///
/// Looks at no more than it takes to know that there are too many: a symbol of 1 MiB may be named in every
/// exemplar of a request.
pub(super) fn count_chars(text: &[u8], before: usize) -> usize {
    if before > MAX_EXEMPLAR_CHARS {
        return 0;
    }
    if text.len() > 4 * MAX_EXEMPLAR_CHARS {
        return MAX_EXEMPLAR_CHARS + 1;
    }
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

fn metadata(
    cursor: &Cursor<'_>,
    range: (usize, usize),
    hashing: &Hashing,
    out: &mut ParsedRequest,
) -> Result<(), BodyError> {
    let mut inner = cursor.within(range);
    let mut entry = ParsedMetadata {
        metric_type: MetricType::Unknown,
        family: 0..0,
        help: 0..0,
        unit: 0..0,
        is_metric_name: false,
        family_hash: 0,
        hash: 0,
    };
    while !inner.is_at_end() {
        let (field, wire) = inner.tag()?;
        match field {
            1 => {
                expect(wire, VARINT)?;
                entry.metric_type = MetricType::from_number(inner.varint()?);
            }
            2 | 4 | 5 => {
                expect(wire, LEN)?;
                let (start, end) = inner.range()?;
                match field {
                    2 => entry.family = start..end,
                    4 => entry.help = start..end,
                    _ => entry.unit = start..end,
                }
            }
            _ => inner.skip(field, wire)?,
        }
    }
    let hash = |text: &std::ops::Range<usize>| hashing.bytes(&cursor.bytes[text.clone()]);
    entry.family_hash = hash(&entry.family).low;
    entry.hash = ParsedMetadata::content_hash(entry.metric_type, hash(&entry.help), hash(&entry.unit));
    out.memory.charge(size_of::<ParsedMetadata>())?;
    out.metadata.push(entry);
    Ok(())
}
