//! A writer of decoded remote write 2.0 bodies: what other protocols are translated to, so that one path stands
//! behind all of them.
//!
//! Knows the message `io.prometheus.write.v2.Request` and its symbol table. Does not know where samples come from,
//! tenants' limits or snappy.
//! Path: a translator of this module -> **here** -> `protocol::parse`, as if a sender had written it.
//! B1: what was written before [`TooLarge`] stays, whole series only; the series at hand is left out.
//! Cost: each label text is hashed once for each time it is named, and kept once; no allocation per sample.

#[cfg(test)]
mod tests;

use super::wire::{FIXED64, LEN, VARINT};
use quorate_model::{CounterResetHint, MetricType};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Zero buckets that are written as such: a longer run ends the span.
const MAX_WRITTEN_GAP: usize = 2;
/// What a symbol takes beside its text: its place and its share of the table.
const SYMBOL_INDEX: usize = size_of::<(u32, u32)>() + 4 * size_of::<u32>();
/// Tag and length of a series.
const SERIES_HEAD: usize = 6;

/// What is written is over the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the request is translated to takes more than {limit} bytes")]
pub struct TooLarge {
    /// The bound, bytes.
    pub limit: usize,
}

/// One native histogram with integer counts.
#[derive(Debug, Clone, Copy)]
pub struct HistogramParts<'a> {
    /// Time, milliseconds.
    pub ts_ms: i64,
    /// Start timestamp, milliseconds, 0 if unknown.
    pub start_ms: i64,
    /// All observations.
    pub count: u64,
    /// Sum of the observations; the stale NaN marks a stale sample.
    pub sum: f64,
    /// -4 to 8, or [`CUSTOM_BUCKETS_SCHEMA`](quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA).
    pub schema: i8,
    /// Width of the zero bucket; 0 with custom bounds.
    pub zero_threshold: f64,
    /// Observations in the zero bucket; 0 with custom bounds.
    pub zero_count: u64,
    /// Buckets of positive observations, or those of custom bounds.
    pub positive: DenseBuckets<'a>,
    /// Buckets of negative observations; none with custom bounds.
    pub negative: DenseBuckets<'a>,
    /// Upper bounds of custom buckets without +Inf, increasing; empty for exponential buckets.
    pub custom_bounds: &'a [f64],
    /// What is known about a reset before this sample.
    pub reset_hint: CounterResetHint,
}

/// Neighbouring buckets, empty ones included.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenseBuckets<'a> {
    /// Index of the first: bucket `i` ends at base^i, or at custom bound `i`.
    pub first: i32,
    /// Observations in each, not cumulative.
    pub counts: &'a [u64],
}

/// A body in the making.
#[derive(Debug)]
pub struct Rw2Body {
    max_bytes: usize,
    symbols: Symbols,
    /// Finished series, each with its tag and length.
    series: Vec<u8>,
    /// Content of the series at hand.
    open: Vec<u8>,
    /// Samples and histograms of the series at hand.
    open_samples: u64,
    samples: u64,
    scratch: Vec<u8>,
    /// Packed numbers of one list: symbols of labels, or counts of buckets.
    packed: Vec<u8>,
}

impl Rw2Body {
    /// An empty body. Its bytes and the index of its symbols take at most `max_bytes`, bounded to 4 GiB; buffers that
    /// grow may hold twice as much.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes: max_bytes.min(u32::MAX as usize),
            symbols: Symbols::new(),
            series: Vec::new(),
            open: Vec::new(),
            open_samples: 0,
            samples: 0,
            scratch: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// Begins a series and ends the one before. One that gets no sample and no histogram is left out.
    ///
    /// `labels` are written in their order, those with an empty value left out, duplicates kept. The reader sorts
    /// them; the same series should come in the same order each time, because series are recognised by bytes.
    ///
    /// # Errors
    /// [`TooLarge`]; the series is left out.
    pub fn series(&mut self, labels: &[(&str, &str)]) -> Result<SeriesWriter<'_>, TooLarge> {
        self.close();
        self.refer(labels)?;
        if self.bytes() + 2 * SERIES_HEAD + self.packed.len() > self.max_bytes {
            return Err(self.too_large());
        }
        put_bytes(&mut self.open, 1, &self.packed);
        Ok(SeriesWriter { body: self })
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.samples() == 0
    }

    /// Samples and histograms, those of the series at hand included.
    pub fn samples(&self) -> u64 {
        self.samples + self.open_samples
    }

    /// Bytes of the body and of the index of its symbols.
    pub fn bytes(&self) -> usize {
        let open = if self.open.is_empty() { 0 } else { SERIES_HEAD + self.open.len() };
        self.series.len() + open + self.symbols.bytes()
    }

    /// The body as bytes, without any if it holds no sample; what is left is empty.
    pub fn finish(&mut self) -> Vec<u8> {
        self.close();
        let mut body = Vec::new();
        if !self.is_empty() {
            body = std::mem::take(&mut self.symbols.encoded);
            body.extend_from_slice(&self.series);
        }
        self.reset();
        body
    }

    /// Empties it and keeps its buffers.
    pub fn reset(&mut self) {
        self.abandon();
        self.series.clear();
        self.samples = 0;
        self.symbols.clear();
    }

    /// Makes `packed` those of `labels`.
    fn refer(&mut self, labels: &[(&str, &str)]) -> Result<(), TooLarge> {
        self.packed.clear();
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            for text in [name, value] {
                let symbol = self.symbol(text)?;
                put_varint(&mut self.packed, u64::from(symbol));
            }
        }
        Ok(())
    }

    /// Number of the symbol `text`.
    fn symbol(&mut self, text: &str) -> Result<u32, TooLarge> {
        if let Some(symbol) = self.symbols.find(text) {
            return Ok(symbol);
        }
        if self.bytes() + SYMBOL_INDEX + SERIES_HEAD + text.len() > self.max_bytes {
            return Err(self.too_large());
        }
        Ok(self.symbols.add(text))
    }

    /// Ends the series at hand.
    fn close(&mut self) {
        if self.open_samples > 0 {
            put_bytes(&mut self.series, 5, &self.open);
            self.samples += self.open_samples;
        }
        self.abandon();
    }

    fn abandon(&mut self) {
        self.open.clear();
        self.open_samples = 0;
    }

    #[cold]
    fn too_large(&mut self) -> TooLarge {
        self.abandon();
        TooLarge { limit: self.max_bytes }
    }
}

/// Adds to the series at hand. After [`TooLarge`] nothing more may be added to it.
#[derive(Debug)]
pub struct SeriesWriter<'a> {
    body: &'a mut Rw2Body,
}

impl SeriesWriter<'_> {
    /// Adds a sample; `start_ms` is 0 if unknown. A series has samples or histograms, not both.
    ///
    /// # Errors
    /// [`TooLarge`]; the series is left out.
    pub fn sample(&mut self, ts_ms: i64, value: f64, start_ms: i64) -> Result<(), TooLarge> {
        let message = &mut self.body.scratch;
        message.clear();
        put_double(message, 1, value);
        put_field(message, 2, ts_ms as u64);
        if start_ms != 0 {
            put_field(message, 3, start_ms as u64);
        }
        self.add(2)?;
        self.body.open_samples += 1;
        Ok(())
    }

    /// Adds a histogram; what its fields must keep to is checked where the body is read.
    ///
    /// # Errors
    /// [`TooLarge`]; the series is left out.
    pub fn histogram(&mut self, parts: &HistogramParts<'_>) -> Result<(), TooLarge> {
        let message = &mut self.body.scratch;
        let inner = &mut self.body.packed;
        message.clear();
        put_field(message, 1, parts.count);
        put_double(message, 3, parts.sum);
        put_field(message, 4, zigzag(i64::from(parts.schema)));
        put_double(message, 5, parts.zero_threshold);
        put_field(message, 6, parts.zero_count);
        put_buckets(message, inner, parts.negative, 8);
        put_buckets(message, inner, parts.positive, 11);
        let hint = match parts.reset_hint {
            CounterResetHint::Unknown => 0,
            CounterResetHint::Reset => 1,
            CounterResetHint::NoReset => 2,
            CounterResetHint::Gauge => 3,
        };
        put_field(message, 14, hint);
        put_field(message, 15, parts.ts_ms as u64);
        if !parts.custom_bounds.is_empty() {
            put_head(message, 16, 8 * parts.custom_bounds.len());
            for bound in parts.custom_bounds {
                message.extend_from_slice(&bound.to_bits().to_le_bytes());
            }
        }
        if parts.start_ms != 0 {
            put_field(message, 17, parts.start_ms as u64);
        }
        self.add(3)?;
        self.body.open_samples += 1;
        Ok(())
    }

    /// Adds an exemplar; `ts_ms` is 0 if unknown. Labels with an empty value are left out.
    ///
    /// # Errors
    /// [`TooLarge`]; the series is left out.
    pub fn exemplar(&mut self, labels: &[(&str, &str)], value: f64, ts_ms: i64) -> Result<(), TooLarge> {
        self.body.refer(labels)?;
        let message = &mut self.body.scratch;
        message.clear();
        put_bytes(message, 1, &self.body.packed);
        put_double(message, 2, value);
        put_field(message, 3, ts_ms as u64);
        self.add(4)
    }

    /// Sets type, help and unit of the metric that the series belongs to; a request keeps the first of each name.
    ///
    /// # Errors
    /// [`TooLarge`]; the series is left out.
    pub fn metadata(&mut self, metric_type: MetricType, help: &str, unit: &str) -> Result<(), TooLarge> {
        let help = self.body.symbol(help)?;
        let unit = self.body.symbol(unit)?;
        let message = &mut self.body.scratch;
        message.clear();
        put_field(message, 1, metric_type as u64);
        put_field(message, 3, u64::from(help));
        put_field(message, 4, u64::from(unit));
        self.add(5)
    }

    /// Adds the message in `scratch` to the series as `field`.
    fn add(&mut self, field: u32) -> Result<(), TooLarge> {
        let body = &mut *self.body;
        if body.bytes() + SERIES_HEAD + body.scratch.len() > body.max_bytes {
            return Err(body.too_large());
        }
        put_bytes(&mut body.open, field, &body.scratch);
        Ok(())
    }
}

/// The symbol table: texts in their encoded form, found again by an open table of their numbers.
#[derive(Debug)]
struct Symbols {
    /// The table as it stands in the body, tags and lengths included.
    encoded: Vec<u8>,
    /// Start and end of each text in `encoded`.
    places: Vec<(u32, u32)>,
    /// Number of a symbol plus one, 0 where it is free; a power of two, at most half full.
    table: Vec<u32>,
    hasher: RandomState,
}

impl Symbols {
    fn new() -> Self {
        let mut symbols =
            Self { encoded: Vec::new(), places: Vec::new(), table: Vec::new(), hasher: RandomState::new() };
        symbols.clear();
        symbols
    }

    fn clear(&mut self) {
        self.encoded.clear();
        self.places.clear();
        self.table.clear();
        self.table.resize(64, 0);
        self.add("");
    }

    fn bytes(&self) -> usize {
        self.encoded.len() + SYMBOL_INDEX * self.places.len()
    }

    fn find(&self, text: &str) -> Option<u32> {
        let found = self.table[self.slot(text.as_bytes())];
        found.checked_sub(1)
    }

    /// Adds a text that is not in the table.
    fn add(&mut self, text: &str) -> u32 {
        put_head(&mut self.encoded, 4, text.len());
        let start = self.encoded.len() as u32;
        self.encoded.extend_from_slice(text.as_bytes());
        self.places.push((start, self.encoded.len() as u32));
        let number = self.places.len() as u32;
        if 2 * self.places.len() > self.table.len() {
            self.grow();
        } else {
            let slot = self.slot(text.as_bytes());
            self.table[slot] = number;
        }
        number - 1
    }

    /// Doubles the table and enters every symbol anew.
    fn grow(&mut self) {
        let size = 2 * self.table.len();
        self.table.clear();
        self.table.resize(size, 0);
        for at in 0..self.places.len() {
            let (start, end) = self.places[at];
            let slot = self.slot(&self.encoded[start as usize..end as usize]);
            self.table[slot] = at as u32 + 1;
        }
    }

    /// Where `text` stands in the table, or would.
    fn slot(&self, text: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        while let Some(at) = self.table[slot].checked_sub(1) {
            let (start, end) = self.places[at as usize];
            if &self.encoded[start as usize..end as usize] == text {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }
}

/// Writes the buckets of one side: its spans as `field`, the deltas of its counts as the field after.
fn put_buckets(message: &mut Vec<u8>, scratch: &mut Vec<u8>, buckets: DenseBuckets<'_>, field: u32) {
    let mut end = 0;
    for run in runs(buckets.counts) {
        let start = i64::from(buckets.first) + run.start as i64;
        scratch.clear();
        put_field(scratch, 1, zigzag(start - end));
        put_field(scratch, 2, run.len() as u64);
        put_bytes(message, field, scratch);
        end = start + run.len() as i64;
    }
    scratch.clear();
    let mut previous = 0u64;
    for count in runs(buckets.counts).flat_map(|run| &buckets.counts[run]) {
        put_varint(scratch, zigzag(count.wrapping_sub(previous) as i64));
        previous = *count;
    }
    if !scratch.is_empty() {
        put_bytes(message, field + 1, scratch);
    }
}

/// The runs of buckets that spans describe: they begin and end with a bucket that is not empty.
fn runs(counts: &[u64]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + counts[at..].iter().position(|count| *count > 0)?;
        at = start + 1;
        while let Some(gap) = counts[at..].iter().take(MAX_WRITTEN_GAP + 1).position(|count| *count > 0) {
            at += gap + 1;
        }
        Some(start..at)
    })
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_field(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field << 3 | u32::from(VARINT)));
    put_varint(out, value);
}

fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    put_varint(out, u64::from(field << 3 | u32::from(FIXED64)));
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_head(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// Tag and length of a field that follows.
fn put_head(out: &mut Vec<u8>, field: u32, len: usize) {
    put_varint(out, u64::from(field << 3 | u32::from(LEN)));
    put_varint(out, len as u64);
}
