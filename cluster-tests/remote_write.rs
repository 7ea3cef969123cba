//! Remote write bodies as a sender makes them: protocol buffers by hand, then snappy's block format.
//!
//! Written from the two specifications and not from Quorate's decoder, so that the two check each other.
//! Source: Prometheus remote write 1.0 and 2.0, messages `WriteRequest` and `io.prometheus.write.v2.Request`.

use quorate_model::{BucketCounts, Histogram, Labels, Span};
use std::collections::HashMap;

/// The two versions of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// 1.0: labels repeated in full.
    V1,
    /// 2.0: a table of symbols in each request.
    V2,
}

impl Protocol {
    /// The headers that a sender of this version sets.
    pub fn headers(self) -> [(&'static str, &'static str); 3] {
        let (content, version) = match self {
            Self::V1 => ("application/x-protobuf", "0.1.0"),
            Self::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        [
            ("content-type", content),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", version),
        ]
    }
}

/// One write request, series by series. Reused: `finish` empties it and keeps its capacity.
#[derive(Debug)]
pub struct RequestBuilder {
    protocol: Protocol,
    series: Vec<u8>,
    symbols: Symbols,
    one: Vec<u8>,
    samples: usize,
}

impl RequestBuilder {
    /// An empty request.
    pub fn new(protocol: Protocol) -> Self {
        let symbols = Symbols::default();
        Self { protocol, series: Vec::new(), symbols, one: Vec::new(), samples: 0 }
    }

    /// Adds a series with its samples: (time in milliseconds, value).
    pub fn add(&mut self, labels: &Labels, samples: &[(i64, f64)]) {
        self.begin(labels);
        for (ts_ms, value) in samples {
            put_sample(&mut self.one, *ts_ms, *value);
        }
        self.end(samples.len());
    }

    /// Adds a series with one native histogram.
    ///
    /// # Panics
    /// When it is not an integer histogram of an exponential schema: no ledger sends others.
    pub fn add_histogram(&mut self, labels: &Labels, ts_ms: i64, histogram: &Histogram) {
        self.begin(labels);
        let field = if self.protocol == Protocol::V1 { 4 } else { 3 };
        put_bytes(&mut self.one, field, &histogram_message(ts_ms, histogram));
        self.end(1);
    }

    fn begin(&mut self, labels: &Labels) {
        self.one.clear();
        match self.protocol {
            Protocol::V1 => {
                for (name, value) in labels {
                    let length = string_length(name) + string_length(value);
                    put_tag(&mut self.one, 1, 2);
                    put_varint(&mut self.one, length as u64);
                    put_bytes(&mut self.one, 1, name.as_bytes());
                    put_bytes(&mut self.one, 2, value.as_bytes());
                }
            }
            Protocol::V2 => {
                let mut refs = Vec::with_capacity(64);
                for (name, value) in labels {
                    put_varint(&mut refs, self.symbols.intern(name));
                    put_varint(&mut refs, self.symbols.intern(value));
                }
                put_bytes(&mut self.one, 1, &refs);
            }
        }
    }

    fn end(&mut self, samples: usize) {
        let field = if self.protocol == Protocol::V1 { 1 } else { 5 };
        put_bytes(&mut self.series, field, &self.one);
        self.samples += samples;
    }

    /// Samples added since the last `finish`.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The compressed body; the builder is empty afterwards.
    ///
    /// # Panics
    /// When the request is larger than snappy's 4 GiB.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut message = std::mem::take(&mut self.symbols).into_fields(self.protocol);
        message.append(&mut self.series);
        self.samples = 0;
        compress(&message)
    }
}

/// A body in snappy's block format.
///
/// # Panics
/// When it is larger than snappy's 4 GiB.
pub fn compress(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("a request is smaller than 4 GiB")
}

/// The symbol table of a 2.0 request. Symbol 0 is the empty string.
#[derive(Debug, Default)]
struct Symbols {
    numbers: HashMap<String, u64>,
    order: Vec<String>,
}

impl Symbols {
    fn intern(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.order.push(text.to_owned());
        let number = self.order.len() as u64;
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn into_fields(self, protocol: Protocol) -> Vec<u8> {
        let mut fields = Vec::new();
        if protocol == Protocol::V2 {
            put_bytes(&mut fields, 4, b"");
            for symbol in &self.order {
                put_bytes(&mut fields, 4, symbol.as_bytes());
            }
        }
        fields
    }
}

/// Both versions give samples the same form and the same field number.
fn put_sample(out: &mut Vec<u8>, ts_ms: i64, value: f64) {
    let start = out.len();
    put_tag(out, 2, 2);
    out.push(0); // the length, at most 20 bytes
    if value.to_bits() != 0 {
        put_tag(out, 1, 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
    put_tag(out, 2, 0);
    put_varint(out, ts_ms as u64);
    out[start + 1] = (out.len() - start - 2) as u8;
}

/// Both versions give histograms the same form.
fn histogram_message(ts_ms: i64, histogram: &Histogram) -> Vec<u8> {
    let BucketCounts::Integer { count, zero_count, positive, negative } = &histogram.counts else {
        panic!("not an integer histogram: {histogram:?}");
    };
    assert!(histogram.custom_values.is_empty(), "custom buckets: {histogram:?}");
    let mut out = Vec::new();
    put_uint(&mut out, 1, *count);
    put_double(&mut out, 3, histogram.sum);
    put_uint(&mut out, 4, zigzag(i64::from(histogram.schema)));
    put_double(&mut out, 5, histogram.zero_threshold);
    put_uint(&mut out, 6, *zero_count);
    put_buckets(&mut out, 8, &histogram.negative_spans, negative);
    put_buckets(&mut out, 11, &histogram.positive_spans, positive);
    put_uint(&mut out, 15, ts_ms as u64);
    out
}

/// Spans in `field`, deltas in the field after it.
fn put_buckets(out: &mut Vec<u8>, field: u64, spans: &[Span], deltas: &[i64]) {
    for span in spans {
        let mut one = Vec::new();
        put_uint(&mut one, 1, zigzag(i64::from(span.offset)));
        put_uint(&mut one, 2, u64::from(span.length));
        put_bytes(out, field, &one);
    }
    let mut packed = Vec::new();
    deltas.iter().for_each(|delta| put_varint(&mut packed, zigzag(*delta)));
    if !packed.is_empty() {
        put_bytes(out, field + 1, &packed);
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn put_uint(out: &mut Vec<u8>, field: u64, number: u64) {
    if number != 0 {
        put_tag(out, field, 0);
        put_varint(out, number);
    }
}

fn put_double(out: &mut Vec<u8>, field: u64, number: f64) {
    if number.to_bits() != 0 {
        put_tag(out, field, 1);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_tag(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(out, field << 3 | wire_type);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_tag(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn string_length(text: &str) -> usize {
    let mut prefix = Vec::with_capacity(10);
    put_varint(&mut prefix, text.len() as u64);
    1 + prefix.len() + text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::CounterResetHint;

    fn body(protocol: Protocol) -> Vec<u8> {
        let mut request = RequestBuilder::new(protocol);
        request.add(&Labels::from_pairs([("__name__", "up"), ("job", "up")]), &[(1_000, 1.5)]);
        snap::raw::Decoder::new().decompress_vec(&request.finish()).unwrap()
    }

    /// Bytes by the rules of protocol buffers, spelled out by hand.
    #[test]
    fn a_1_0_request_repeats_labels_in_full() {
        let sample = b"\x12\x0c\x09\0\0\0\0\0\0\xf8\x3f\x10\xe8\x07";
        let mut expected =
            b"\x0a\x27\x0a\x0e\x0a\x08__name__\x12\x02up\x0a\x09\x0a\x03job\x12\x02up".to_vec();
        expected.extend_from_slice(sample);
        expected[1] = (expected.len() - 2) as u8;
        assert_eq!(body(Protocol::V1), expected);
    }

    #[test]
    fn a_2_0_request_names_each_string_once() {
        let mut expected = b"\x22\x00\x22\x08__name__\x22\x02up\x22\x03job".to_vec();
        expected.extend_from_slice(b"\x2a\x14\x0a\x04\x01\x02\x03\x02");
        expected.extend_from_slice(b"\x12\x0c\x09\0\0\0\0\0\0\xf8\x3f\x10\xe8\x07");
        assert_eq!(body(Protocol::V2), expected);
    }

    #[test]
    fn a_histogram_stands_in_the_field_of_its_version() {
        let histogram = Histogram {
            reset_hint: CounterResetHint::Unknown,
            schema: -1,
            zero_threshold: 0.5,
            sum: 1.5,
            positive_spans: vec![Span { offset: -2, length: 2 }],
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            counts: BucketCounts::Integer {
                count: 300,
                zero_count: 1,
                positive: vec![150, -1],
                negative: Vec::new(),
            },
        };
        let message = b"\x08\xac\x02\x19\0\0\0\0\0\0\xf8\x3f\x20\x01\x29\0\0\0\0\0\0\xe0\x3f\x30\x01\
            \x5a\x04\x08\x03\x10\x02\x62\x03\xac\x02\x01\x78\xe8\x07";
        for (protocol, field) in [(Protocol::V1, b"\x22"), (Protocol::V2, b"\x1a")] {
            let mut request = RequestBuilder::new(protocol);
            request.add_histogram(&Labels::from_pairs([("__name__", "up")]), 1_000, &histogram);
            let body = snap::raw::Decoder::new().decompress_vec(&request.finish()).unwrap();
            let expected = [&field[..], &[message.len() as u8], message].concat();
            assert!(body.ends_with(&expected), "{protocol:?}: {body:x?}");
        }
    }
}
