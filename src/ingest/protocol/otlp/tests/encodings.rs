//! Protobuf and JSON: equal meaning, bounds and bad input.

use super::super::super::encoder::Message;
use super::*;
use proptest::prelude::*;

fn fixed64(message: Message, field: u64, value: u64) -> Message {
    message.double(field, f64::from_bits(value))
}

fn attribute(key: &str, value: Message) -> Message {
    Message::default().bytes(1, key.as_bytes()).bytes(2, &value.0)
}

fn text(value: &str) -> Message {
    Message::default().bytes(1, value.as_bytes())
}

/// One resource, one scope and these metrics, written with the parts behind what needs them.
fn request(metrics: &[Message]) -> Vec<u8> {
    let mut scope = Message::default().bytes(3, b"http://schema");
    for metric in metrics {
        scope = scope.bytes(2, &metric.0);
    }
    let lib = Message::default().bytes(1, b"lib").bytes(2, b"1").bytes(3, &attribute("s", text("v")).0);
    let scope = scope.bytes(1, &lib.0);
    let resource = Message::default()
        .bytes(1, &attribute("service.name", text("api")).0)
        .bytes(1, &attribute("up", Message::default().varint(2, 1)).0)
        .varint(2, 7);
    let resource_metrics = Message::default().bytes(2, &scope.0).bytes(1, &resource.0);
    Message::default().bytes(1, &resource_metrics.0).0
}

fn number_point(value: Message) -> Message {
    let list = Message::default().bytes(1, &Message::default().varint(3, -4i64 as u64).0);
    fixed64(fixed64(value, 2, 2_000_000), 3, 5_000_000)
        .bytes(7, &attribute("list", Message::default().bytes(5, &list.0)).0)
        .bytes(7, &attribute("raw", Message::default().bytes(7, &[1, 2, 255])).0)
}

fn proto() -> Vec<u8> {
    let exemplar = fixed64(fixed64(Message::default(), 2, 4_000_000), 6, -2i64 as u64)
        .bytes(5, &(0..16).collect::<Vec<u8>>())
        .bytes(4, &(0..8).collect::<Vec<u8>>())
        .bytes(7, &attribute("e", text("x")).0);
    let sum_point = number_point(fixed64(Message::default(), 6, -9i64 as u64)).bytes(5, &exemplar.0);
    let sum = Message::default().bytes(1, &sum_point.0).varint(2, 2).varint(3, 1);
    let gauge = Message::default().bytes(1, &number_point(Message::default().double(4, f64::INFINITY)).0);
    let times = || fixed64(fixed64(Message::default(), 2, 2_000_000), 3, 5_000_000);
    let packed = [1u64, 2].map(f64::from_bits);
    let histogram_point =
        fixed64(times(), 4, 3).double(5, 1.5).packed_double(6, &packed).packed_double(7, &[0.5]);
    let histogram = Message::default().bytes(1, &histogram_point.0).varint(2, 2);
    let buckets = Message::default().zigzag(1, -3).packed(2, [4, 0, 300]);
    let exponential_point =
        fixed64(fixed64(times(), 4, 305), 7, 1).double(5, 2.5).zigzag(6, 9).bytes(8, &buckets.0);
    let exponential = Message::default().bytes(1, &exponential_point.0).varint(2, 2);
    let quantile = Message::default().double(1, 0.5).double(2, 7.0);
    let summary_point = fixed64(times(), 4, 3).double(5, 1.5).bytes(6, &quantile.0).varint(8, 0);
    let summary = Message::default().bytes(1, &summary_point.0);
    let metric = |name: &str, field, data: Message| {
        Message::default().bytes(field, &data.0).bytes(1, name.as_bytes()).bytes(2, b"help").bytes(3, b"s")
    };
    request(&[
        metric("a", 7, sum),
        metric("b", 5, gauge),
        metric("c", 9, histogram),
        metric("d", 10, exponential),
        metric("e", 11, summary),
    ])
}

const JSON: &str = r#"{"unknown": [{"a": 1}], "resourceMetrics": [{
  "scopeMetrics": [{"schemaUrl": "http://schema", "metrics": [
    {"name": "a", "description": "help", "unit": "s", "sum": {"isMonotonic": true, "dataPoints": [{
        "startTimeUnixNano": "2000000", "timeUnixNano": "5000000", "asInt": "-9",
        "attributes": [
            {"key": "list", "value": {"arrayValue": {"values": [{"intValue": -4}]}}},
            {"key": "raw", "value": {"bytesValue": "AQL_"}}],
        "exemplars": [{"timeUnixNano": 4000000, "asInt": -2, "traceId": "000102030405060708090a0B0C0d0e0f",
            "spanId": "0001020304050607", "filteredAttributes": [{"key": "e", "value": {"stringValue": "x"}}]}]
        }], "aggregationTemporality": 2}},
    {"name": "b", "description": "help", "unit": "s", "gauge": {"dataPoints": [{
        "startTimeUnixNano": 2000000, "timeUnixNano": 5e6, "asDouble": "Infinity", "flags": 0,
        "attributes": [
            {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "-4"}]}}},
            {"key": "raw", "value": {"bytesValue": "AQL/"}}]}]}},
    {"name": "c", "description": "help", "unit": "s", "histogram": {
        "aggregationTemporality": "AGGREGATION_TEMPORALITY_CUMULATIVE", "dataPoints": [{
        "startTimeUnixNano": "2000000", "timeUnixNano": "5000000", "count": "3", "sum": 1.5, "min": 1,
        "bucketCounts": ["1", 2], "explicitBounds": [0.5]}]}},
    {"name": "d", "description": "help", "unit": "s", "exponentialHistogram": {
        "aggregationTemporality": 2, "dataPoints": [{
        "startTimeUnixNano": "2000000", "timeUnixNano": "5000000", "count": 305, "sum": 2.5, "scale": 9,
        "zeroCount": "1", "positive": {"offset": -3, "bucketCounts": ["4", 0, "300"]}}]}},
    {"name": "e", "description": "help", "unit": "s", "summary": {"dataPoints": [{
        "startTimeUnixNano": "2000000", "timeUnixNano": "5000000", "count": "3", "sum": 1.5, "flags": null,
        "quantileValues": [{"quantile": 0.5, "value": 7}]}]}}],
    "scope": {"name": "lib", "version": "1", "attributes": [{"key": "s", "value": {"stringValue": "v"}}]}}],
  "resource": {"droppedAttributesCount": 7, "attributes": [
    {"key": "service.name", "value": {"stringValue": "api"}}, {"key": "up", "value": {"boolValue": true}}]}
}]}"#;

fn promoting() -> OtlpSettings {
    OtlpSettings { promote_scope_metadata: true, type_and_unit_labels: true, ..OtlpSettings::default() }
}

#[test]
fn json_means_the_same_as_protobuf() {
    let from_proto = translate(Encoding::Proto, &proto(), &promoting(), None, LIMITS).unwrap();
    let from_json = from_json(JSON, &promoting());
    assert_eq!(from_proto, from_json);
    assert_eq!((from_json.points, from_json.dropped), (5, Dropped::default()));
    let told = samples(&from_proto.bodies[0].body);
    let scope =
        "otel_scope_name=lib, otel_scope_s=v, otel_scope_schema_url=http://schema, otel_scope_version=1";
    assert_eq!(
        told[0],
        format!(
            "a_seconds_total{{__type__=counter, __unit__=seconds, job=api, list=[-4], {scope}, raw=AQL/}} -9 @5 from 2"
        )
    );
    assert_eq!(
        told[1],
        format!(
            "b_seconds{{__type__=gauge, __unit__=seconds, job=api, list=[-4], {scope}, raw=AQL/}} inf @5 from 2"
        )
    );
    assert_eq!(told.last().unwrap(), "target_info{job=api, up=true} 1 @5");
    let request = parsed(&from_proto.bodies[0].body);
    let histogram = request.histograms[0].value.as_ref().unwrap();
    // Of the scale 9, bucket -3 falls into -2 by itself, -2 and -1 into -1: as Prometheus counts, -1 and 0.
    assert_eq!(histogram.positive_spans, [quorate_model::Span { offset: -1, length: 2 }]);
    assert_eq!(request.exemplars, 1);
}

#[track_caller]
fn check_json_error(text: &str, expected: &str) {
    let error =
        translate(Encoding::Json, text.as_bytes(), &OtlpSettings::default(), None, LIMITS).unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadInput);
    let told = error.to_string();
    assert!(told.starts_with("the message is malformed: ") && told.contains(expected), "{told}");
}

fn json_point(point: &str) -> String {
    of_metrics(&format!(r#"{{"name": "g", "gauge": {{"dataPoints": [{point}]}}}}"#))
}

#[test]
fn bad_json_tells_field_and_place() {
    check_json_error("", "EOF");
    check_json_error("[]", "an object");
    check_json_error("{} x", "trailing characters");
    check_json_error(r#"{"resourceMetrics": {}}"#, "resourceMetrics must be a list at line 1");
    check_json_error(r#"{"resourceMetrics": [[]]}"#, "resourceMetrics must be an object");
    check_json_error(r#"{"resourceMetrics": [null]}"#, "resourceMetrics must be an object");
    check_json_error(
        &json_point(r#"{"timeUnixNano": -1}"#),
        "timeUnixNano must be an integer of 64 bits without",
    );
    check_json_error(&json_point(r#"{"timeUnixNano": "1x"}"#), "timeUnixNano must be an integer");
    check_json_error(&json_point(r#"{"asInt": 1.5}"#), "asInt must be an integer of 64 bits");
    check_json_error(
        &json_point(r#"{"asInt": "9223372036854775808"}"#),
        "asInt must be an integer of 64 bits",
    );
    check_json_error(&json_point(r#"{"asDouble": "inf"}"#), "asDouble must be a number");
    check_json_error(&json_point(r#"{"asDouble": true}"#), "asDouble must be a number");
    check_json_error(&json_point(r#"{"attributes": [{"key": 1}]}"#), "key must be a text");
    check_json_error(&json_point(r#"{"exemplars": [{"traceId": "0g"}]}"#), "traceId must be hexadecimal");
    let bytes = r#"{"attributes": [{"key": "a", "value": {"bytesValue": "A*"}}]}"#;
    check_json_error(&json_point(bytes), "bytesValue must be base64");
    let sum = of_metrics(r#"{"sum": {"aggregationTemporality": "DELTA"}}"#);
    check_json_error(&sum, "aggregationTemporality must be a number or name of its enum");
}

fn nested_json(depth: usize) -> String {
    let value = format!(
        r#"{}{{"intValue": 1}}{}"#,
        r#"{"arrayValue": {"values": ["#.repeat(depth),
        "]}}".repeat(depth)
    );
    json_point(&format!(
        r#"{{"timeUnixNano": "5000000", "asInt": 1, "attributes": [{{"key": "a", "value": {value}}}]}}"#
    ))
}

#[test]
fn nesting_of_attributes_is_bounded() {
    let expected = format!("g{{a={}1{}}} 1 @5", "[".repeat(16), "]".repeat(16));
    check_samples(&nested_json(16), &OtlpSettings::default(), &[&expected]);
    check_json_error(&nested_json(17), "an attribute is nested over 16 levels deep");
    check_json_error(&nested_json(10_000), "recursion limit exceeded");

    let mut value = Message::default().varint(3, 1);
    for _ in 0..10_000 {
        let map = Message::default().bytes(1, &attribute("k", value).0);
        value = Message::default().bytes(6, &map.0);
    }
    let point = fixed64(fixed64(Message::default(), 3, 5_000_000), 6, 1).bytes(7, &attribute("a", value).0);
    let gauge = Message::default().bytes(1, &point.0);
    let body = request(&[Message::default().bytes(1, b"g").bytes(5, &gauge.0)]);
    check_malformed(&body, "an attribute is nested over 16 levels deep");
}

#[track_caller]
fn check_malformed(body: &[u8], what: &'static str) {
    let told = translate(Encoding::Proto, body, &OtlpSettings::default(), None, LIMITS);
    assert_eq!(told, Err(OtlpError::Malformed { what }));
}

#[test]
fn bad_protobuf_is_refused_as_a_whole() {
    let good = proto();
    let short = &good[..good.len() - 1];
    check_malformed(short, "a length runs over the end");
    check_malformed(&Message::default().varint(1, 1).0, "a known field has another wire type");
    let metric = |metric: Message| request(&[metric]);
    check_malformed(&metric(Message::default().bytes(1, b"\xff").bytes(5, b"")), "a text is not UTF-8");
    let point = Message::default().varint(3, 1);
    let gauge = Message::default().bytes(1, &point.0);
    check_malformed(&metric(Message::default().bytes(5, &gauge.0)), "a known field has another wire type");
    let odd = Message::default().bytes(6, &[0; 9]);
    let histogram = Message::default().bytes(1, &odd.0);
    check_malformed(&metric(Message::default().bytes(9, &histogram.0)), "packed numbers end early");
    let many = Message::default().bytes(6, &vec![0; 8 * 65_537]);
    let histogram = Message::default().bytes(1, &many.0);
    check_malformed(&metric(Message::default().bytes(9, &histogram.0)), "a list has over 65536 elements");
    let every_end = (0..good.len()).filter(|end| {
        translate(Encoding::Proto, &good[..*end], &OtlpSettings::default(), None, LIMITS).is_ok()
    });
    assert_eq!(every_end.collect::<Vec<_>>(), [0], "only the empty message is whole");
}

#[test]
fn an_empty_message_says_nothing() {
    let empty = translate(Encoding::Proto, b"", &OtlpSettings::default(), None, LIMITS).unwrap();
    assert_eq!(empty, Translated::default());
    assert_eq!(from_json("{}", &OtlpSettings::default()), Translated::default());
    assert_eq!(from_json(&of_metrics(r#"{"name": "g", "gauge": {}}, {"name": "x"}"#), &promoting()), empty);
}

#[test]
fn the_limits_are_kept() {
    let translate = |encoding, body: &[u8], body_bytes, translated_bytes| {
        let limits = Limits { body_bytes, translated_bytes };
        translate(encoding, body, &OtlpSettings::default(), None, limits).map(drop)
    };
    let (proto, json) = (proto(), JSON.as_bytes());
    let error = translate(Encoding::Proto, &proto, 100, 1 << 20).unwrap_err();
    assert_eq!(error, OtlpError::TooLarge { bytes: proto.len(), limit: 100 });
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert_eq!(translate(Encoding::Proto, &proto, proto.len(), 1 << 20), Ok(()));
    for (encoding, body) in [(Encoding::Proto, &proto[..]), (Encoding::Json, json)] {
        let error = translate(encoding, body, 1 << 20, 700).unwrap_err();
        assert_eq!(error, OtlpError::Expands { limit: 700 });
    }
}

#[test]
fn many_small_resources_are_bounded() {
    let mut body = Message::default();
    for _ in 0..10_000 {
        body = body.bytes(1, b"");
    }
    let limits = Limits { body_bytes: 1 << 20, translated_bytes: 100_000 };
    let told = translate(Encoding::Proto, &body.0, &OtlpSettings::default(), Some("t"), limits);
    assert_eq!(told, Err(OtlpError::Expands { limit: 100_000 }));
}

/// Runs every path over bytes that may be anything.
fn run(body: &[u8]) {
    let storing = OtlpSettings {
        delta: Delta::Store,
        convert_histograms_to_nhcb: true,
        promote_all_resource_attributes: true,
        translation_strategy: TranslationStrategy::NoUTF8EscapingWithSuffixes,
        ..promoting()
    };
    for encoding in [Encoding::Proto, Encoding::Json] {
        for settings in [&OtlpSettings::default(), &storing] {
            if let Ok(translated) = translate(encoding, body, settings, Some("service.name"), LIMITS) {
                translated.bodies.iter().for_each(|body| drop(parsed(&body.body)));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        run(&body);
    }

    #[test]
    fn a_broken_message_is_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        is_json in any::<bool>(),
    ) {
        let mut body = if is_json { JSON.as_bytes().to_vec() } else { proto() };
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        run(&body);
    }
}
