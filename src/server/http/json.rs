//! JSON of the HTTP API, written straight into a buffer.
//!
//! Knows Prometheus' forms of label sets, samples and histograms. Does not build a tree of values: an
//! answer of a million samples is one growing buffer.
//! Source: Prometheus `web/api/v1/json_codec.go`, `util/jsonutil`.

use super::float::{push_float, push_timestamp, push_u64};
use quorate_model::{BucketCounts, Histogram, Labels};

/// Appends a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            // Markup stays harmless in a page that forgets to escape it.
            b'<' => b"\\u003c",
            b'>' => b"\\u003e",
            b'&' => b"\\u0026",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[done..at]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(escape);
        }
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

/// Appends an array; `item` writes one element.
pub fn push_array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, value) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        item(out, value);
    }
    out.push(b']');
}

/// Appends a label set as an object.
pub fn push_labels(out: &mut Vec<u8>, labels: &Labels) {
    push_object(out, labels.iter());
}

/// Appends an object of strings.
pub fn push_object<'a>(out: &mut Vec<u8>, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (at, (name, value)) in pairs.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    out.push(b'}');
}

/// Appends `[seconds,"value"]`.
pub fn push_point(out: &mut Vec<u8>, ts_ms: i64, value: f64) {
    out.push(b'[');
    push_timestamp(out, ts_ms);
    out.push(b',');
    push_quoted_float(out, value);
    out.push(b']');
}

/// Appends `[seconds,{histogram}]`.
pub fn push_histogram_point(out: &mut Vec<u8>, ts_ms: i64, histogram: &Histogram) {
    out.push(b'[');
    push_timestamp(out, ts_ms);
    out.push(b',');
    push_histogram(out, histogram);
    out.push(b']');
}

/// Appends a float in quotes, since JSON has no infinities.
pub fn push_quoted_float(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    push_float(out, value);
    out.push(b'"');
}

/// Appends a histogram: count, sum, and every bucket that is not empty with its boundary rule.
pub fn push_histogram(out: &mut Vec<u8>, histogram: &Histogram) {
    let count = match histogram.counts {
        BucketCounts::Integer { count, .. } => count as f64,
        BucketCounts::Float { count, .. } => count,
    };
    out.extend_from_slice(b"{\"count\":");
    push_quoted_float(out, count);
    out.extend_from_slice(b",\"sum\":");
    push_quoted_float(out, histogram.sum);
    let mut first = true;
    super::buckets::for_each(histogram, |bucket| {
        if bucket.count == 0.0 {
            return;
        }
        out.extend_from_slice(if first { b",\"buckets\":[[" } else { b",[" });
        first = false;
        push_u64(out, bucket.boundary_rule());
        for value in [bucket.lower, bucket.upper, bucket.count] {
            out.push(b',');
            push_quoted_float(out, value);
        }
        out.push(b']');
    });
    if !first {
        out.push(b']');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_model::{CounterResetHint, Span};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn labels_and_points_have_prometheus_form() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "a\"b\\c\n<d>\u{1}é")]);
        assert_eq!(
            written(|out| push_labels(out, &labels)),
            r#"{"__name__":"up","job":"a\"b\\c\n\u003cd\u003e\u0001é"}"#
        );
        assert_eq!(written(|out| push_point(out, 1_435_781_451_781, 1.0)), r#"[1435781451.781,"1"]"#);
        assert_eq!(written(|out| push_point(out, 0, f64::NAN)), r#"[0,"NaN"]"#);
    }

    fn histogram(counts: BucketCounts, positive: Vec<Span>, negative: Vec<Span>) -> Histogram {
        Histogram {
            reset_hint: CounterResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.001,
            sum: 18.4,
            positive_spans: positive,
            negative_spans: negative,
            custom_values: Vec::new(),
            counts,
        }
    }

    #[test]
    fn exponential_buckets_are_written_from_the_lowest_up() {
        let counts =
            BucketCounts::Integer { count: 9, zero_count: 2, positive: vec![1, 1, -2], negative: vec![4] };
        let positive = vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }];
        let text = written(|out| {
            push_histogram(out, &histogram(counts, positive, vec![Span { offset: 1, length: 1 }]));
        });
        assert_eq!(
            text,
            r#"{"count":"9","sum":"18.4","buckets":[[1,"-2","-1","4"],[3,"-0.001","0.001","2"],[0,"0.5","1","1"],[0,"1","2","2"]]}"#
        );
    }

    #[test]
    fn a_histogram_without_observations_has_no_buckets() {
        let counts = BucketCounts::Float { count: 0.0, zero_count: 0.0, positive: vec![], negative: vec![] };
        let text = written(|out| push_histogram(out, &histogram(counts, vec![], vec![])));
        assert_eq!(text, r#"{"count":"0","sum":"18.4"}"#);
    }

    #[test]
    fn custom_buckets_reach_to_infinity_on_both_sides() {
        let counts = BucketCounts::Float {
            count: 6.0,
            zero_count: 0.0,
            positive: vec![1.0, 2.0, 3.0],
            negative: vec![],
        };
        let mut custom = histogram(counts, vec![Span { offset: 0, length: 3 }], vec![]);
        custom.schema = quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA;
        custom.custom_values = vec![5.0, 10.0];
        assert_eq!(
            written(|out| push_histogram(out, &custom)),
            r#"{"count":"6","sum":"18.4","buckets":[[3,"-Inf","5","1"],[0,"5","10","2"],[0,"10","+Inf","3"]]}"#
        );
    }

    proptest! {
        #[test]
        fn every_string_reads_back(text: String) {
            let json = written(|out| push_string(out, &text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
