//! What a translated body says, read back as the parser behind reads it: for tests.

use super::{Hashing, LabelBounds, LabelPairs, ParsedRequest, Protocol, Rw2Body, parse};
use crate::in_flight::Held;
use std::fmt::Write;

const BOUNDS: LabelBounds =
    LabelBounds { names: 1000, name_bytes: 1 << 16, value_bytes: 1 << 16, bytes: 1 << 20 };

/// One sample: its labels, sorted, the metric name among them; time, bits of the value, start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToldSample {
    pub(super) labels: Vec<(String, String)>,
    pub(super) ts_ms: i64,
    pub(super) bits: u64,
    pub(super) start_ms: i64,
}

/// Ends the body and reads it.
pub(super) fn read(body: &mut Rw2Body) -> (Vec<u8>, ParsedRequest) {
    let bytes = body.finish();
    let mut request = ParsedRequest::default();
    let hashing = Hashing::new(1);
    parse(Protocol::RemoteWrite2, &bytes, &hashing, 32 << 20, Held::unbounded(), &mut request).unwrap();
    (bytes, request)
}

/// The samples of a body.
pub(super) fn samples(body: &mut Rw2Body) -> Vec<ToldSample> {
    let (bytes, request) = read(body);
    let mut pairs = LabelPairs::default();
    let mut told = Vec::new();
    for (index, series) in request.series.iter().enumerate() {
        assert_eq!(series.fault, None);
        pairs.split(&bytes, &request, index, &BOUNDS).unwrap();
        let labels: Vec<_> = pairs.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for at in request.samples_of(index) {
            told.push(ToldSample {
                labels: labels.clone(),
                ts_ms: request.ts_ms[at],
                bits: request.values[at].to_bits(),
                start_ms: request.starts.get(at).copied().unwrap_or(0),
            });
        }
    }
    told
}

/// The samples of a body as lines: `name{label="value"} 1.5 @time`, with `from start` if that is known.
pub(super) fn lines(body: &mut Rw2Body) -> Vec<String> {
    samples(body).iter().map(line).collect()
}

fn line(sample: &ToldSample) -> String {
    let (names, others): (Vec<_>, Vec<_>) =
        sample.labels.iter().partition(|(name, _)| name == quorate_model::METRIC_NAME);
    let mut line = names.iter().map(|(_, value)| value.as_str()).collect::<String>();
    if !others.is_empty() {
        let labels: Vec<String> = others.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        write!(line, "{{{}}}", labels.join(",")).unwrap();
    }
    write!(line, " {:?} @{}", f64::from_bits(sample.bits), sample.ts_ms).unwrap();
    if sample.start_ms != 0 {
        write!(line, " from {}", sample.start_ms).unwrap();
    }
    line
}
