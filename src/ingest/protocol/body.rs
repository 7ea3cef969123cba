//! A writer of decoded remote write 2.0 bodies: what other protocols are translated to, so that one path stands
//! behind all of them.
//!
//! Knows the message `io.prometheus.write.v2.Request` and its symbol table. Does not know where samples come from,
//! tenants' limits or snappy.
//! Path: a translator of this module -> **here** -> `protocol::parse`, as if a sender had written it.
//! B1: what was written before [`TooLarge`] stays, whole series only; the series at hand is left out.
//! Cost: each label text is hashed once for each time it is named, and kept once; no allocation per sample.

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

#[cfg(test)]
mod tests {
    use super::super::{Hashing, LabelBounds, LabelPairs, ParsedRequest, Protocol, parse};
    use super::*;
    use crate::in_flight::Held;
    use proptest::prelude::*;
    use quorate_model::{BucketCounts, Histogram, Span, stale_nan};

    const BOUNDS: LabelBounds =
        LabelBounds { names: 30, name_bytes: 1024, value_bytes: 2048, bytes: 1 << 20 };

    fn read(body: &[u8]) -> ParsedRequest {
        let mut request = ParsedRequest::default();
        let hashing = Hashing::new(7);
        parse(Protocol::RemoteWrite2, body, &hashing, 32 << 20, Held::unbounded(), &mut request).unwrap();
        request
    }

    fn labels_of(body: &[u8], request: &ParsedRequest, index: usize) -> Vec<(String, String)> {
        assert_eq!(request.series[index].fault, None);
        let mut pairs = LabelPairs::default();
        pairs.split(body, request, index, &BOUNDS).unwrap();
        pairs.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn pairs(labels: &[(&str, &str)]) -> Vec<(String, String)> {
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const NO_BUCKETS: DenseBuckets<'static> = DenseBuckets { first: 0, counts: &[] };

    fn parts<'a>(schema: i8, positive: DenseBuckets<'a>, negative: DenseBuckets<'a>) -> HistogramParts<'a> {
        let counts = [positive.counts, negative.counts].concat();
        HistogramParts {
            ts_ms: 5,
            start_ms: 2,
            count: counts.iter().sum(),
            sum: 1.5,
            schema,
            zero_threshold: 0.0,
            zero_count: 0,
            positive,
            negative,
            custom_bounds: &[],
            reset_hint: CounterResetHint::Unknown,
        }
    }

    fn written(parts: &HistogramParts<'_>) -> Histogram {
        let mut body = Rw2Body::new(1 << 20);
        body.series(&[("__name__", "h")]).unwrap().histogram(parts).unwrap();
        let request = read(&body.finish());
        assert_eq!(request.series[0].fault, None);
        assert_eq!(
            (request.histograms[0].ts_ms, request.histograms[0].start_ms),
            (parts.ts_ms, parts.start_ms)
        );
        request.histograms[0].value.clone().unwrap()
    }

    #[test]
    fn series_samples_starts_metadata_and_exemplars_are_read_back() {
        let mut body = Rw2Body::new(1 << 20);
        assert!(body.is_empty());
        let mut series = body.series(&[("job", "a"), ("__name__", "up"), ("gone", "")]).unwrap();
        series.sample(1_700_000_000_000, 1.5, 0).unwrap();
        series.sample(-3, stale_nan(), 0).unwrap();
        series.metadata(MetricType::Gauge, "whether it is up", "bytes").unwrap();
        let mut series = body.series(&[("__name__", "a_total"), ("job", "a")]).unwrap();
        series.sample(0, -0.0, 7).unwrap();
        series.exemplar(&[("trace_id", "00ff"), ("no", "")], 2.0, 9).unwrap();
        series.exemplar(&[("trace_id", &"x".repeat(129))], 2.0, 9).unwrap();
        assert_eq!(body.samples(), 3);

        let bytes = body.finish();
        let request = read(&bytes);
        assert_eq!(request.series.len(), 2);
        assert_eq!(labels_of(&bytes, &request, 0), pairs(&[("__name__", "up"), ("job", "a")]));
        assert_eq!(labels_of(&bytes, &request, 1), pairs(&[("__name__", "a_total"), ("job", "a")]));
        assert_eq!(request.samples_of(0), 0..2);
        assert_eq!(request.ts_ms, [1_700_000_000_000, -3, 0]);
        let bits: Vec<u64> = request.values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [1.5f64.to_bits(), stale_nan().to_bits(), (-0.0f64).to_bits()]);
        assert_eq!(request.starts, [0, 0, 7]);
        assert_eq!(request.exemplars, 2);
        assert_eq!(request.long_exemplars, [1]);
        let metadata = &request.metadata[0];
        assert_eq!(metadata.metric_type, MetricType::Gauge);
        assert_eq!(&bytes[metadata.family.clone()], b"up");
        assert_eq!(&bytes[metadata.help.clone()], b"whether it is up");
        assert_eq!(&bytes[metadata.unit.clone()], b"bytes");
    }

    #[test]
    fn exponential_buckets_become_spans_that_end_at_long_gaps() {
        let positive = DenseBuckets { first: -3, counts: &[0, 4, 0, 0, 1, 0, 0, 0, 9, 2, 0] };
        let negative = DenseBuckets { first: 10, counts: &[3, 1] };
        let told = HistogramParts {
            count: 22,
            zero_threshold: 0.25,
            zero_count: 2,
            reset_hint: CounterResetHint::Gauge,
            ..parts(3, positive, negative)
        };
        let histogram = written(&told);
        assert_eq!((histogram.schema, histogram.zero_threshold, histogram.sum), (3, 0.25, 1.5));
        assert_eq!(histogram.reset_hint, CounterResetHint::Gauge);
        assert_eq!(histogram.positive_spans, [Span { offset: -2, length: 4 }, Span { offset: 3, length: 2 }]);
        assert_eq!(histogram.negative_spans, [Span { offset: 10, length: 2 }]);
        assert_eq!(
            histogram.counts,
            BucketCounts::Integer {
                count: 22,
                zero_count: 2,
                positive: vec![4, -4, 0, 1, 8, -7],
                negative: vec![3, -2],
            }
        );
    }

    #[test]
    fn a_histogram_without_observations_and_a_stale_one_have_no_buckets() {
        let empty = written(&parts(0, DenseBuckets { first: 4, counts: &[0, 0, 0, 0] }, NO_BUCKETS));
        assert!(empty.positive_spans.is_empty() && empty.negative_spans.is_empty());
        let stale = written(&HistogramParts { sum: stale_nan(), ..parts(0, NO_BUCKETS, NO_BUCKETS) });
        assert!(stale.is_stale());
    }

    #[test]
    fn custom_bounds_are_read_back() {
        let positive = DenseBuckets { first: 0, counts: &[0, 5, 0, 1] };
        let told = HistogramParts { custom_bounds: &[0.5, 1.0, 2.5], ..parts(-53, positive, NO_BUCKETS) };
        let histogram = written(&told);
        assert_eq!((histogram.schema, histogram.custom_values), (-53, vec![0.5, 1.0, 2.5]));
        assert_eq!(histogram.positive_spans, [Span { offset: 1, length: 3 }]);
    }

    #[test]
    fn a_bucket_behind_32_bits_is_the_fault_of_that_sample() {
        let mut body = Rw2Body::new(1 << 20);
        let positive = DenseBuckets { first: i32::MAX, counts: &[0, 1] };
        body.series(&[("__name__", "h")]).unwrap().histogram(&parts(0, positive, NO_BUCKETS)).unwrap();
        let request = read(&body.finish());
        assert_eq!(request.histograms[0].value, Err(super::super::HistogramFault::SpanOverflow));
    }

    #[test]
    fn a_series_without_samples_is_left_out_and_an_emptied_body_starts_anew() {
        let mut body = Rw2Body::new(1 << 20);
        body.series(&[("__name__", "a")]).unwrap().metadata(MetricType::Counter, "h", "").unwrap();
        assert_eq!(body.finish(), b"");
        body.series(&[("__name__", "b")]).unwrap().sample(1, 1.0, 0).unwrap();
        body.reset();
        assert!(body.is_empty());
        body.series(&[("__name__", "c")]).unwrap().sample(1, 1.0, 0).unwrap();
        let bytes = body.finish();
        let request = read(&bytes);
        assert_eq!(request.series.len(), 1);
        assert_eq!(labels_of(&bytes, &request, 0), pairs(&[("__name__", "c")]));
    }

    #[test]
    fn the_bound_is_kept_and_what_was_whole_before_it_stays() {
        let limit = 4_000;
        let mut body = Rw2Body::new(limit);
        let mut whole = 0;
        let error = loop {
            let name = format!("metric_{whole}");
            let mut series = match body.series(&[("__name__", &name), ("job", "a")]) {
                Ok(series) => series,
                Err(error) => break error,
            };
            if let Err(error) = (0..5).try_for_each(|ts_ms| series.sample(ts_ms, 1.0, 0)) {
                break error;
            }
            assert!(body.bytes() <= limit);
            whole += 1;
        };
        assert_eq!(error, TooLarge { limit });
        assert_eq!(error.to_string(), "what the request is translated to takes more than 4000 bytes");
        assert!(whole > 10);
        let bytes = body.finish();
        assert!(bytes.len() <= limit);
        let request = read(&bytes);
        assert_eq!((request.series.len(), request.ts_ms.len()), (whole, 5 * whole));
    }

    #[test]
    fn one_text_over_the_bound_is_refused_before_it_is_kept() {
        let mut body = Rw2Body::new(1_000);
        let long = "x".repeat(2_000);
        assert_eq!(body.series(&[("__name__", &long)]).err(), Some(TooLarge { limit: 1_000 }));
        let mut series = body.series(&[("__name__", "a")]).unwrap();
        series.sample(1, 1.0, 0).unwrap();
        assert!(series.metadata(MetricType::Gauge, &long, "").is_err());
        assert!(body.is_empty() && body.bytes() < 1_000);
    }

    proptest! {
        #[test]
        fn any_labels_come_back(values in proptest::collection::vec("[a-c]{0,3}", 1..300)) {
            let mut body = Rw2Body::new(1 << 20);
            for (at, value) in values.iter().enumerate() {
                body.series(&[("__name__", "m"), ("v", value)]).unwrap().sample(at as i64, 1.0, 0).unwrap();
            }
            let bytes = body.finish();
            let request = read(&bytes);
            prop_assert_eq!(request.series.len(), values.len());
            for (at, value) in values.iter().enumerate() {
                let mut expected = vec![("__name__", "m")];
                expected.extend((!value.is_empty()).then_some(("v", value.as_str())));
                prop_assert_eq!(labels_of(&bytes, &request, at), pairs(&expected));
            }
        }
    }
}
