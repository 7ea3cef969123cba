//! A naive encoder of remote write bodies, for tests: the opposite of the walk, written from the message
//! definitions and nothing else.

use quorate_model::Span;

#[derive(Debug, Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn varint(mut self, field: u64, value: u64) -> Self {
        self.raw_varint(field << 3);
        self.raw_varint(value);
        self
    }

    pub(crate) fn zigzag(self, field: u64, value: i64) -> Self {
        self.varint(field, ((value << 1) ^ (value >> 63)) as u64)
    }

    pub(crate) fn double(mut self, field: u64, value: f64) -> Self {
        self.raw_varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_bits().to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn packed(self, field: u64, values: impl IntoIterator<Item = u64>) -> Self {
        let mut inner = Self::default();
        for value in values {
            inner.raw_varint(value);
        }
        self.bytes(field, &inner.0)
    }

    pub(crate) fn packed_zigzag(self, field: u64, values: &[i64]) -> Self {
        self.packed(field, values.iter().map(|v| ((v << 1) ^ (v >> 63)) as u64))
    }

    pub(crate) fn packed_double(self, field: u64, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    pub(crate) fn spans(mut self, field: u64, spans: &[Span]) -> Self {
        for span in spans {
            let inner = Self::default().zigzag(1, i64::from(span.offset)).varint(2, u64::from(span.length));
            self = self.bytes(field, &inner.0);
        }
        self
    }

    pub(crate) fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A sample: time, value, start (0 = none).
pub(crate) type TestSample = (i64, f64, i64);

/// One series as a test writes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestSeries {
    pub(crate) labels: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) samples: Vec<TestSample>,
    /// Ready histogram messages.
    pub(crate) histograms: Vec<Message>,
    /// Characters of the one label of each exemplar.
    pub(crate) exemplars: Vec<usize>,
    /// Type, help, unit (2.0).
    pub(crate) metadata: Option<(u64, &'static str, &'static str)>,
}

pub(crate) fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TestSeries {
    TestSeries {
        labels: labels.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect(),
        samples: samples.iter().map(|(t, v)| (*t, *v, 0)).collect(),
        ..TestSeries::default()
    }
}

pub(crate) fn rw1(series: &[TestSeries]) -> Vec<u8> {
    let mut body = Message::default();
    for one in series {
        body = body.bytes(1, &rw1_series(one).0);
    }
    body.0
}

pub(crate) fn rw1_label(name: &[u8], value: &[u8]) -> Message {
    Message::default().bytes(1, name).bytes(2, value)
}

fn rw1_series(one: &TestSeries) -> Message {
    let mut message = Message::default();
    for (name, value) in &one.labels {
        message = message.bytes(1, &rw1_label(name, value).0);
    }
    for (ts_ms, value, _) in &one.samples {
        message = message.bytes(2, &Message::default().double(1, *value).varint(2, *ts_ms as u64).0);
    }
    for chars in &one.exemplars {
        let label = rw1_label(b"id", "x".repeat(*chars).as_bytes());
        message = message.bytes(3, &Message::default().bytes(1, &label.0).double(2, 1.0).varint(3, 1).0);
    }
    for histogram in &one.histograms {
        message = message.bytes(4, &histogram.0);
    }
    message
}

pub(crate) fn rw1_metadata(metric_type: u64, family: &str, help: &str, unit: &str) -> Vec<u8> {
    let entry = Message::default()
        .varint(1, metric_type)
        .bytes(2, family.as_bytes())
        .bytes(4, help.as_bytes())
        .bytes(5, unit.as_bytes());
    Message::default().bytes(3, &entry.0).0
}

/// The symbol table of a request, index 0 empty.
#[derive(Debug, Default)]
struct Symbols(Vec<Vec<u8>>);

impl Symbols {
    fn of(&mut self, text: &[u8]) -> u64 {
        if self.0.is_empty() {
            self.0.push(Vec::new());
        }
        let found = self.0.iter().position(|symbol| symbol == text);
        found.unwrap_or_else(|| {
            self.0.push(text.to_vec());
            self.0.len() - 1
        }) as u64
    }
}

pub(crate) fn rw2(series: &[TestSeries]) -> Vec<u8> {
    let mut symbols = Symbols::default();
    symbols.of(b"");
    let messages: Vec<Message> = series.iter().map(|one| rw2_series(one, &mut symbols)).collect();
    let mut body = Message::default();
    for symbol in &symbols.0 {
        body = body.bytes(4, symbol);
    }
    for message in messages {
        body = body.bytes(5, &message.0);
    }
    body.0
}

fn rw2_series(one: &TestSeries, symbols: &mut Symbols) -> Message {
    let references: Vec<u64> = one.labels.iter().flat_map(|(n, v)| [symbols.of(n), symbols.of(v)]).collect();
    let mut message = Message::default().packed(1, references);
    for (ts_ms, value, start_ms) in &one.samples {
        let mut sample = Message::default().double(1, *value).varint(2, *ts_ms as u64);
        if *start_ms != 0 {
            sample = sample.varint(3, *start_ms as u64);
        }
        message = message.bytes(2, &sample.0);
    }
    for histogram in &one.histograms {
        message = message.bytes(3, &histogram.0);
    }
    for chars in &one.exemplars {
        let references = [symbols.of(b"id"), symbols.of("x".repeat(*chars).as_bytes())];
        message = message.bytes(4, &Message::default().packed(1, references).double(2, 1.0).varint(3, 1).0);
    }
    if let Some((metric_type, help, unit)) = one.metadata {
        let (help, unit) = (symbols.of(help.as_bytes()), symbols.of(unit.as_bytes()));
        message =
            message.bytes(5, &Message::default().varint(1, metric_type).varint(3, help).varint(4, unit).0);
    }
    message
}

/// An integer histogram: count, sum, zero count, spans and deltas of the positive side.
pub(crate) fn integer_histogram(
    ts_ms: i64,
    count: u64,
    zero: u64,
    spans: &[Span],
    deltas: &[i64],
) -> Message {
    Message::default()
        .varint(1, count)
        .double(3, 10.0)
        .zigzag(4, 2)
        .double(5, 0.001)
        .varint(6, zero)
        .spans(11, spans)
        .packed_zigzag(12, deltas)
        .varint(15, ts_ms as u64)
}

pub(crate) fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).unwrap()
}
