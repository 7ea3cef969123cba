//! The messages of OTLP metrics as JSON names them: names, numbers and types of their fields.
//!
//! Knows the fields that are translated. Does not know how their values are read.
//! Path: `otlp::json` -> **here**.
//! Source: opentelemetry-proto 1.x, `metrics/v1`, `common/v1` and `resource/v1`.

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Message(&'static Message),
    Text,
    Base64,
    Hex,
    Double,
    Fixed64,
    Sfixed64,
    /// `int64`, `uint64` or `uint32`.
    Varint,
    /// `sint32`.
    Zigzag,
    Bool,
    Enum(&'static [&'static str]),
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field {
    /// In JSON.
    pub(super) name: &'static str,
    /// In protobuf.
    pub(super) number: u32,
    pub(super) field_type: Type,
    pub(super) is_repeated: bool,
}

/// The fields of a message that are translated.
#[derive(Debug)]
pub(super) struct Message(pub(super) &'static [Field]);

const fn one(name: &'static str, number: u32, field_type: Type) -> Field {
    Field { name, number, field_type, is_repeated: false }
}

const fn many(name: &'static str, number: u32, field_type: Type) -> Field {
    Field { name, number, field_type, is_repeated: true }
}

/// `ExportMetricsServiceRequest`, and `MetricsData` likewise.
pub(super) static REQUEST: Message = Message(&[many("resourceMetrics", 1, Type::Message(&RESOURCE_METRICS))]);
static RESOURCE_METRICS: Message = Message(&[
    one("resource", 1, Type::Message(&RESOURCE)),
    many("scopeMetrics", 2, Type::Message(&SCOPE_METRICS)),
]);
static RESOURCE: Message = Message(&[many("attributes", 1, Type::Message(&KEY_VALUE))]);
static SCOPE_METRICS: Message = Message(&[
    one("scope", 1, Type::Message(&SCOPE)),
    many("metrics", 2, Type::Message(&METRIC)),
    one("schemaUrl", 3, Type::Text),
]);
static SCOPE: Message = Message(&[
    one("name", 1, Type::Text),
    one("version", 2, Type::Text),
    many("attributes", 3, Type::Message(&KEY_VALUE)),
]);
static METRIC: Message = Message(&[
    one("name", 1, Type::Text),
    one("description", 2, Type::Text),
    one("unit", 3, Type::Text),
    one("gauge", 5, Type::Message(&GAUGE)),
    one("sum", 7, Type::Message(&SUM)),
    one("histogram", 9, Type::Message(&HISTOGRAM)),
    one("exponentialHistogram", 10, Type::Message(&EXPONENTIAL_HISTOGRAM)),
    one("summary", 11, Type::Message(&SUMMARY)),
]);
const TEMPORALITY: Type = Type::Enum(&[
    "AGGREGATION_TEMPORALITY_UNSPECIFIED",
    "AGGREGATION_TEMPORALITY_DELTA",
    "AGGREGATION_TEMPORALITY_CUMULATIVE",
]);
static GAUGE: Message = Message(&[many("dataPoints", 1, Type::Message(&NUMBER_POINT))]);
static SUM: Message = Message(&[
    many("dataPoints", 1, Type::Message(&NUMBER_POINT)),
    one("aggregationTemporality", 2, TEMPORALITY),
    one("isMonotonic", 3, Type::Bool),
]);
static HISTOGRAM: Message = Message(&[
    many("dataPoints", 1, Type::Message(&HISTOGRAM_POINT)),
    one("aggregationTemporality", 2, TEMPORALITY),
]);
static EXPONENTIAL_HISTOGRAM: Message = Message(&[
    many("dataPoints", 1, Type::Message(&EXPONENTIAL_POINT)),
    one("aggregationTemporality", 2, TEMPORALITY),
]);
static SUMMARY: Message = Message(&[many("dataPoints", 1, Type::Message(&SUMMARY_POINT))]);
static NUMBER_POINT: Message = Message(&[
    one("startTimeUnixNano", 2, Type::Fixed64),
    one("timeUnixNano", 3, Type::Fixed64),
    one("asDouble", 4, Type::Double),
    many("exemplars", 5, Type::Message(&EXEMPLAR)),
    one("asInt", 6, Type::Sfixed64),
    many("attributes", 7, Type::Message(&KEY_VALUE)),
    one("flags", 8, Type::Varint),
]);
static HISTOGRAM_POINT: Message = Message(&[
    one("startTimeUnixNano", 2, Type::Fixed64),
    one("timeUnixNano", 3, Type::Fixed64),
    one("count", 4, Type::Fixed64),
    one("sum", 5, Type::Double),
    many("bucketCounts", 6, Type::Fixed64),
    many("explicitBounds", 7, Type::Double),
    many("exemplars", 8, Type::Message(&EXEMPLAR)),
    many("attributes", 9, Type::Message(&KEY_VALUE)),
    one("flags", 10, Type::Varint),
]);
static EXPONENTIAL_POINT: Message = Message(&[
    many("attributes", 1, Type::Message(&KEY_VALUE)),
    one("startTimeUnixNano", 2, Type::Fixed64),
    one("timeUnixNano", 3, Type::Fixed64),
    one("count", 4, Type::Fixed64),
    one("sum", 5, Type::Double),
    one("scale", 6, Type::Zigzag),
    one("zeroCount", 7, Type::Fixed64),
    one("positive", 8, Type::Message(&BUCKETS)),
    one("negative", 9, Type::Message(&BUCKETS)),
    one("flags", 10, Type::Varint),
    many("exemplars", 11, Type::Message(&EXEMPLAR)),
    one("zeroThreshold", 14, Type::Double),
]);
static BUCKETS: Message = Message(&[one("offset", 1, Type::Zigzag), many("bucketCounts", 2, Type::Varint)]);
static SUMMARY_POINT: Message = Message(&[
    one("startTimeUnixNano", 2, Type::Fixed64),
    one("timeUnixNano", 3, Type::Fixed64),
    one("count", 4, Type::Fixed64),
    one("sum", 5, Type::Double),
    many("quantileValues", 6, Type::Message(&QUANTILE)),
    many("attributes", 7, Type::Message(&KEY_VALUE)),
    one("flags", 8, Type::Varint),
]);
static QUANTILE: Message = Message(&[one("quantile", 1, Type::Double), one("value", 2, Type::Double)]);
static EXEMPLAR: Message = Message(&[
    one("timeUnixNano", 2, Type::Fixed64),
    one("asDouble", 3, Type::Double),
    one("spanId", 4, Type::Hex),
    one("traceId", 5, Type::Hex),
    one("asInt", 6, Type::Sfixed64),
    many("filteredAttributes", 7, Type::Message(&KEY_VALUE)),
]);
static KEY_VALUE: Message = Message(&[one("key", 1, Type::Text), one("value", 2, Type::Message(&ANY_VALUE))]);
static ANY_VALUE: Message = Message(&[
    one("stringValue", 1, Type::Text),
    one("boolValue", 2, Type::Bool),
    one("intValue", 3, Type::Varint),
    one("doubleValue", 4, Type::Double),
    one("arrayValue", 5, Type::Message(&ARRAY)),
    one("kvlistValue", 6, Type::Message(&KEY_VALUE_LIST)),
    one("bytesValue", 7, Type::Base64),
]);
static ARRAY: Message = Message(&[many("values", 1, Type::Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Message = Message(&[many("values", 1, Type::Message(&KEY_VALUE))]);
