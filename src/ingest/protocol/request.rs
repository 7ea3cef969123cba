//! What is read from a body: hashes, places and sample columns. Buffers are used again between requests.

use super::histogram::HistogramFault;
use super::memory::Memory;
use quorate_model::{Histogram, MetricType};
use std::ops::Range;
use xxhash_rust::xxh3;

/// The secret under which raw label bytes are hashed, so that nobody outside can prepare clashes.
#[derive(Debug, Clone)]
pub struct Hashing {
    secret: [u8; 192],
}

/// The 128 bits under which a byte form of a series is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RawHash {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Hashing {
    /// Derives the secret from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut secret = [0; 192];
        for (at, word) in secret.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = xxh3::xxh3_64_with_seed(&(at as u64).to_le_bytes(), seed).to_le_bytes();
        }
        Self { secret }
    }

    #[inline]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> RawHash {
        let hash = xxh3::xxh3_128_with_secret(bytes, &self.secret);
        RawHash { low: hash as u64, high: (hash >> 64) as u64 }
    }
}

impl RawHash {
    const A: u64 = 0x9e37_79b9_7f4a_7c15;
    const B: u64 = 0xd6e8_feb8_6659_fd93;

    /// Start of the hash of a list of symbols; never equal to a hash of raw bytes but by chance.
    pub(super) fn of_no_symbols() -> Self {
        Self { low: Self::B, high: Self::A }
    }

    /// Adds the next two symbols. Each lane is a bijection of its state, and the two are joined before it, so
    /// that the chain of dependent steps is half as long as the list.
    #[inline]
    pub(super) fn mix(&mut self, first: Self, second: Self) {
        let low = first.low.wrapping_mul(Self::B) ^ second.low;
        let high = first.high.wrapping_mul(Self::A) ^ second.high;
        self.low = (self.low.rotate_left(5) ^ low).wrapping_mul(Self::A);
        self.high = (self.high.rotate_left(27) ^ high).wrapping_mul(Self::B);
    }

    /// Ends a list of symbols: spreads the high bits, which the last multiplications favour.
    pub(super) fn finish(mut self) -> Self {
        self.low = (self.low ^ (self.low >> 32)).wrapping_mul(Self::B);
        self.high = (self.high ^ (self.high >> 29)).wrapping_mul(Self::A);
        Self { low: self.low ^ (self.high >> 31), high: self.high ^ (self.low >> 33) }
    }
}

/// Where the labels of a series stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelPlace {
    /// Label messages, one after the other, in the body.
    Body(u32, u32),
    /// Label messages that did not stand together, collected.
    Gathered(u32, u32),
    /// Packed symbol numbers in the body.
    Symbols(u32, u32),
    /// Symbol numbers that did not stand together, collected.
    GatheredSymbols(u32, u32),
}

/// What is wrong with one series of a well-formed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A label reference has no partner.
    #[error("the number of label references is odd")]
    OddReferences,
    /// A reference points behind the symbol table.
    #[error("a label reference points behind the symbol table")]
    SymbolRange,
    /// Neither samples nor histograms (remote write 2.0).
    #[error("the series has neither samples nor histograms")]
    NoSamples,
    /// Samples and histograms in one series (remote write 2.0).
    #[error("the series has both samples and histograms")]
    TwoKinds,
}

/// One series of a request; its samples are those up to the ends, from the ends of the series before.
#[derive(Debug, Clone, Copy)]
pub struct ParsedSeries {
    pub(crate) hash: RawHash,
    pub(super) labels: LabelPlace,
    pub(crate) samples_end: u32,
    pub(crate) histograms_end: u32,
    /// Why it is refused, if it is.
    pub fault: Option<Fault>,
}

/// One native histogram sample, or why it is refused.
#[derive(Debug, Clone)]
pub struct ParsedHistogram {
    /// Time, milliseconds.
    pub ts_ms: i64,
    /// Start timestamp, 0 if unknown.
    pub start_ms: i64,
    /// The value.
    pub value: Result<Histogram, HistogramFault>,
}

/// Metadata of a family; texts are places in the body.
#[derive(Debug, Clone)]
pub struct ParsedMetadata {
    /// Type.
    pub metric_type: MetricType,
    /// The family's name; in 2.0 the metric's name, whose suffix tells the family only with the type.
    pub family: Range<usize>,
    /// Help text.
    pub help: Range<usize>,
    /// Unit.
    pub unit: Range<usize>,
    /// Whether `family` is a metric name.
    pub is_metric_name: bool,
    /// Of the family's name: the key under which it is remembered once it is committed.
    pub(crate) family_hash: u64,
    /// Of type, help and unit, whatever the protocol.
    pub(crate) hash: u64,
}

impl ParsedMetadata {
    /// The hash of what is told about a family.
    pub(super) fn content_hash(metric_type: MetricType, help: RawHash, unit: RawHash) -> u64 {
        let mut hash = RawHash::of_no_symbols();
        hash.mix(help, unit);
        hash.finish().low.wrapping_add(metric_type as u64)
    }
}

/// A request as columns. `clear` keeps the capacity.
#[derive(Debug, Default)]
pub struct ParsedRequest {
    /// Series in the order of the body.
    pub series: Vec<ParsedSeries>,
    /// Times of float samples, milliseconds.
    pub ts_ms: Vec<i64>,
    /// Values of float samples.
    pub values: Vec<f64>,
    /// Start timestamps: empty if none is set, else one for each sample, 0 for unknown.
    pub starts: Vec<i64>,
    /// Native histogram samples.
    pub histograms: Vec<ParsedHistogram>,
    /// Metadata, one for each family and request.
    pub metadata: Vec<ParsedMetadata>,
    /// Exemplars in the request.
    pub exemplars: u64,
    /// Series whose exemplars have too long labels.
    pub long_exemplars: Vec<u32>,
    pub(crate) memory: Memory,
    pub(super) gathered: Vec<u8>,
    pub(super) symbols: Vec<(u32, u32)>,
    pub(super) symbol_hashes: Vec<RawHash>,
    pub(super) family_seen: Vec<bool>,
    pub(super) messages: Vec<(u32, u32)>,
}

impl ParsedRequest {
    pub(super) fn clear(&mut self) {
        self.series.clear();
        self.ts_ms.clear();
        self.values.clear();
        self.starts.clear();
        self.histograms.clear();
        self.metadata.clear();
        self.exemplars = 0;
        self.long_exemplars.clear();
        self.gathered.clear();
        self.symbols.clear();
        self.symbol_hashes.clear();
        self.family_seen.clear();
        self.messages.clear();
    }

    /// Appends a sample; `start_ms` is 0 if unknown.
    #[inline]
    pub(super) fn push_sample(&mut self, ts_ms: i64, value: f64, start_ms: i64) {
        if start_ms != 0 || !self.starts.is_empty() {
            self.push_start(start_ms);
        }
        self.ts_ms.push(ts_ms);
        self.values.push(value);
    }

    #[cold]
    fn push_start(&mut self, start_ms: i64) {
        self.starts.resize(self.ts_ms.len(), 0);
        self.starts.push(start_ms);
    }

    /// The float samples of series `index`, as places in the columns.
    pub fn samples_of(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.series[index - 1].samples_end };
        start as usize..self.series[index].samples_end as usize
    }

    /// The histogram samples of series `index`, as places in `histograms`.
    pub fn histograms_of(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.series[index - 1].histograms_end };
        start as usize..self.series[index].histograms_end as usize
    }

    /// Samples, histograms, exemplars and metadata: what the ingestion rate counts.
    pub fn items(&self) -> u64 {
        (self.ts_ms.len() + self.histograms.len() + self.metadata.len()) as u64 + self.exemplars
    }
}
