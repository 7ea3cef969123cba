//! Remote write 2.0: each symbol is hashed once, a series' hash mixes those of its references.
//!
//! Source: Prometheus, "Remote-Write 2.0", messages `Request` and `TimeSeries`.

use super::request::{Fault, Hashing, LabelPlace, ParsedMetadata, ParsedRequest, ParsedSeries, RawHash};
use super::wire::{Cursor, LEN, VARINT, expect};
use super::{BodyError, Protocol, histogram, malformed, rw1, sample};
use quorate_model::{METRIC_NAME, MetricType};

/// What a symbol takes: its place, its hash, and whether its metadata was seen.
const SYMBOL: usize = size_of::<(u32, u32)>() + size_of::<RawHash>() + 1;

pub(super) fn parse(body: &[u8], hashing: &Hashing, out: &mut ParsedRequest) -> Result<(), BodyError> {
    if u32::try_from(body.len()).is_err() {
        return Err(malformed("the body is over 4 GiB"));
    }
    let mut cursor = Cursor::new(body);
    let mut has_other = false;
    while !cursor.is_at_end() {
        let (field, wire) = cursor.tag()?;
        if !matches!(field, 4 | 5) {
            has_other |= matches!(field, 1 | 3) && wire == LEN;
            cursor.skip(field, wire)?;
            continue;
        }
        expect(wire, LEN)?;
        let (start, end) = cursor.range()?;
        out.memory.charge(if field == 4 { SYMBOL } else { size_of::<(u32, u32)>() })?;
        if field == 4 {
            out.symbols.push((start as u32, end as u32));
            out.symbol_hashes.push(hashing.bytes(&body[start..end]));
        } else {
            out.messages.push((start as u32, end as u32));
        }
    }
    if has_other && out.symbols.is_empty() && out.messages.is_empty() {
        return Err(BodyError::OtherProtocol { announced: Protocol::RemoteWrite2 });
    }
    if out.symbols.first().is_some_and(|(start, end)| start != end) {
        return Err(malformed("the first symbol is not empty"));
    }
    let name_symbol = out
        .symbols
        .iter()
        .position(|(start, end)| &body[*start as usize..*end as usize] == METRIC_NAME.as_bytes());
    out.family_seen.resize(out.symbols.len(), false);
    for at in 0..out.messages.len() {
        let (start, end) = out.messages[at];
        Series { name_symbol, ..Series::default() }.read(&cursor, (start as usize, end as usize), out)?;
    }
    Ok(())
}

/// What is collected while the message of one series is read.
#[derive(Default)]
struct Series {
    name_symbol: Option<usize>,
    /// Place of the packed references, if they stand together.
    references: Option<(usize, usize)>,
    is_scattered: bool,
    metadata: Option<(usize, usize)>,
    created_ms: i64,
}

impl Series {
    fn read(
        mut self,
        body: &Cursor<'_>,
        range: (usize, usize),
        out: &mut ParsedRequest,
    ) -> Result<(), BodyError> {
        let mut cursor = body.within(range);
        let samples_start = out.ts_ms.len();
        let histograms_start = out.histograms.len();
        while !cursor.is_at_end() {
            let (field, wire) = cursor.tag()?;
            match (field, wire) {
                (1, LEN) => {
                    let range = cursor.range()?;
                    self.is_scattered |= self.references.replace(range).is_some();
                }
                (1, VARINT) => {
                    cursor.varint()?;
                    self.is_scattered = true;
                }
                (2, LEN) => sample::read::<true>(&mut cursor, out)?,
                (3, LEN) => {
                    let range = cursor.range()?;
                    histogram::read(&cursor, range, true, out)?;
                }
                (4, LEN) => {
                    let range = cursor.range()?;
                    exemplar(body, range, out)?;
                }
                (5, LEN) => self.metadata = Some(cursor.range()?),
                (6, VARINT) => self.created_ms = cursor.varint()? as i64,
                (1..=6, _) => return Err(malformed("a known field has another wire type")),
                _ => cursor.skip(field, wire)?,
            }
        }
        let has_samples = out.ts_ms.len() > samples_start;
        let has_histograms = out.histograms.len() > histograms_start;
        let (labels, mut fault, hash) = self.hash(body, range, out)?;
        fault = fault.or(match (has_samples, has_histograms) {
            (false, false) => Some(Fault::NoSamples),
            (true, true) => Some(Fault::TwoKinds),
            _ => None,
        });
        self.apply_created(samples_start, histograms_start, out);
        if let (Some(range), None) = (self.metadata, fault) {
            self.read_metadata(body, range, labels, out)?;
        }
        out.memory.charge(size_of::<ParsedSeries>())?;
        out.series.push(ParsedSeries {
            hash,
            labels,
            samples_end: out.ts_ms.len() as u32,
            histograms_end: out.histograms.len() as u32,
            fault,
        });
        Ok(())
    }

    /// Finds the references and mixes their symbols' hashes.
    fn hash(
        &self,
        body: &Cursor<'_>,
        range: (usize, usize),
        out: &mut ParsedRequest,
    ) -> Result<(LabelPlace, Option<Fault>, RawHash), BodyError> {
        let (labels, mut cursor) = if self.is_scattered {
            let (start, end) = gather(body, range, out)?;
            (LabelPlace::GatheredSymbols(start as u32, end as u32), Cursor::new(&out.gathered[..end]))
        } else {
            let (start, end) = self.references.unwrap_or((0, 0));
            (LabelPlace::Symbols(start as u32, end as u32), body.within((start, end)))
        };
        if let LabelPlace::GatheredSymbols(start, _) = labels {
            cursor.at = start as usize;
        }
        let mut hash = RawHash::of_no_symbols();
        while !cursor.is_at_end() {
            let name = symbol(&mut cursor, out)?;
            if cursor.is_at_end() {
                return Ok((labels, Some(Fault::OddReferences), hash));
            }
            match (name, symbol(&mut cursor, out)?) {
                (Some(name), Some(value)) => hash.mix(name, value),
                _ => return Ok((labels, Some(Fault::SymbolRange), hash)),
            }
        }
        Ok((labels, None, hash.finish()))
    }

    /// The creation time of the series, as drafts of 2.0 had it, stands in where samples tell no start.
    fn apply_created(&self, samples_start: usize, histograms_start: usize, out: &mut ParsedRequest) {
        if self.created_ms == 0 {
            return;
        }
        if out.ts_ms.len() > samples_start {
            out.starts.resize(out.ts_ms.len(), 0);
            for start in out.starts[samples_start..].iter_mut().filter(|start| **start == 0) {
                *start = self.created_ms;
            }
        }
        for histogram in out.histograms[histograms_start..].iter_mut().filter(|h| h.start_ms == 0) {
            histogram.start_ms = self.created_ms;
        }
    }

    /// Metadata comes with every series; only the first of each metric name in a request is kept.
    fn read_metadata(
        &self,
        body: &Cursor<'_>,
        range: (usize, usize),
        labels: LabelPlace,
        out: &mut ParsedRequest,
    ) -> Result<(), BodyError> {
        let Some(family) = self.metric_name_symbol(body, labels, out)? else { return Ok(()) };
        if std::mem::replace(&mut out.family_seen[family], true) {
            return Ok(());
        }
        let mut inner = body.within(range);
        let (mut metric_type, mut help, mut unit) = (MetricType::Unknown, 0, 0);
        while !inner.is_at_end() {
            match inner.tag()? {
                (1, VARINT) => metric_type = MetricType::from_number(inner.varint()?),
                (3, VARINT) => help = inner.varint()? as usize,
                (4, VARINT) => unit = inner.varint()? as usize,
                (1 | 3 | 4, _) => return Err(malformed("a known field has another wire type")),
                (field, wire) => inner.skip(field, wire)?,
            }
        }
        let place = |at: usize| {
            let (start, end) =
                *out.symbols.get(at).ok_or(malformed("metadata points behind the symbol table"))?;
            Ok(start as usize..end as usize)
        };
        let hash_of = |at: usize| {
            out.symbol_hashes.get(at).copied().ok_or(malformed("metadata points behind the symbol table"))
        };
        let family_hash = hash_of(family)?.low;
        let hash = ParsedMetadata::content_hash(metric_type, hash_of(help)?, hash_of(unit)?);
        let (help, unit) = (place(help)?, place(unit)?);
        if metric_type != MetricType::Unknown || !help.is_empty() || !unit.is_empty() {
            let family = place(family)?;
            let is_metric_name = true;
            let entry = ParsedMetadata { metric_type, family, help, unit, is_metric_name, family_hash, hash };
            out.memory.charge(size_of::<ParsedMetadata>())?;
            out.metadata.push(entry);
        }
        Ok(())
    }

    fn metric_name_symbol(
        &self,
        body: &Cursor<'_>,
        labels: LabelPlace,
        out: &ParsedRequest,
    ) -> Result<Option<usize>, BodyError> {
        let mut cursor = match labels {
            LabelPlace::Symbols(start, end) => body.within((start as usize, end as usize)),
            LabelPlace::GatheredSymbols(start, end) => {
                Cursor { bytes: &out.gathered[..end as usize], at: start as usize }
            }
            LabelPlace::Body(..) | LabelPlace::Gathered(..) => return Ok(None),
        };
        while !cursor.is_at_end() {
            let name = cursor.varint()? as usize;
            let value = cursor.varint()? as usize;
            if Some(name) == self.name_symbol {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The hash of the next symbol, `None` if the reference points behind the table.
#[inline]
fn symbol(cursor: &mut Cursor<'_>, out: &ParsedRequest) -> Result<Option<RawHash>, BodyError> {
    let reference = cursor.varint()?;
    Ok(usize::try_from(reference).ok().and_then(|at| out.symbol_hashes.get(at)).copied())
}

/// Collects references that do not stand together.
fn gather(
    body: &Cursor<'_>,
    range: (usize, usize),
    out: &mut ParsedRequest,
) -> Result<(usize, usize), BodyError> {
    let mut cursor = body.within(range);
    let start = out.gathered.len();
    while !cursor.is_at_end() {
        let (field, wire) = cursor.tag()?;
        let before = cursor.at;
        match (field, wire) {
            (1, LEN) => {
                let (start, end) = cursor.range()?;
                out.memory.charge(end - start)?;
                out.gathered.extend_from_slice(&cursor.bytes[start..end]);
            }
            (1, VARINT) => {
                cursor.varint()?;
                out.memory.charge(cursor.at - before)?;
                out.gathered.extend_from_slice(&cursor.bytes[before..cursor.at]);
            }
            _ => cursor.skip(field, wire)?,
        }
    }
    Ok((start, out.gathered.len()))
}

/// Reads one exemplar of the whole `body`: its symbols may stand behind it.
fn exemplar(body: &Cursor<'_>, range: (usize, usize), out: &mut ParsedRequest) -> Result<(), BodyError> {
    let mut inner = body.within(range);
    let mut chars = 0;
    let mut count = |reference: u64, out: &ParsedRequest| {
        let place = usize::try_from(reference).ok().and_then(|at| out.symbols.get(at));
        let (start, end) = place.ok_or(malformed("an exemplar points behind the symbol table"))?;
        chars += rw1::count_chars(&body.bytes[*start as usize..*end as usize], chars);
        Ok(())
    };
    while !inner.is_at_end() {
        match inner.tag()? {
            (1, LEN) => {
                let range = inner.range()?;
                let mut references = inner.within(range);
                while !references.is_at_end() {
                    count(references.varint()?, out)?;
                }
            }
            (1, VARINT) => count(inner.varint()?, out)?,
            (field, wire) => inner.skip(field, wire)?,
        }
    }
    rw1::note_exemplar(chars, out)
}
