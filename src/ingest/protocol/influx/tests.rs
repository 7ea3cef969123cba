use super::super::Note;
use super::super::told::{self, ToldSample};
use super::*;
use proptest::prelude::*;
use serde::de::value::MapDeserializer;

const NOW_MS: i64 = 1_700_000_000_123;

fn translate(text: &[u8], settings: &InfluxSettings) -> (Result<InfluxRead, InfluxError>, Rw2Body) {
    let mut body = Rw2Body::new(16 << 20);
    (translate_influx(text, None, settings, NOW_MS, &mut body), body)
}

#[track_caller]
fn check_with(settings: &InfluxSettings, text: &str, expected: &[&str]) -> InfluxRead {
    let (read, mut body) = translate(text.as_bytes(), settings);
    let read = read.unwrap();
    assert_eq!(read.samples, body.samples());
    assert_eq!(told::lines(&mut body), expected, "{text:?}");
    read
}

/// Every line is good and becomes these samples.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let read = check_with(&InfluxSettings::default(), text, expected);
    assert_eq!(read.bad_lines, Noted::default(), "{text:?}");
}

/// The one line is bad for this reason.
#[track_caller]
fn check_bad(line: &str, reason: &str) {
    let read = check_with(&InfluxSettings::default(), line, &[]);
    assert_eq!(read.bad_lines.first, [Note { line: 1, reason: reason.to_owned() }], "{line:?}");
    assert_eq!((read.bad_lines.count, read.lines), (1, 0));
}

#[test]
fn fields_become_metrics_and_tags_labels() {
    check(
        "cpu,host=a,region=eu usage_idle=99.5,usage_user=2i 1556813561098000000\nmem free=1u",
        &[
            r#"cpu_usage_idle{host="a",region="eu"} 99.5 @1556813561098"#,
            r#"cpu_usage_user{host="a",region="eu"} 2.0 @1556813561098"#,
            "mem_free 1.0 @1700000000123",
        ],
    );
}

#[test]
fn the_same_tags_in_another_order_are_the_same_labels() {
    check(r"a,z=1,b=2 v=1 0", &[r#"a_v{b="2",z="1"} 1.0 @0"#]);
}

#[test]
fn values_have_the_types_of_the_reference() {
    for (value, told) in [
        ("1.0", "1.0"),
        ("1", "1.0"),
        ("-1.234456e+78", "-1.234456e78"),
        ("6.0E2", "600.0"),
        (".5", "0.5"),
        ("1i", "1.0"),
        ("-12485903i", "-12485903.0"),
        ("9223372036854775807i", "9.223372036854776e18"),
        ("-9223372036854775808i", "-9.223372036854776e18"),
        ("18446744073709551615u", "1.8446744073709552e19"),
    ] {
        check(&format!("m v={value} 0"), &[&format!("m_v {told} @0")]);
    }
    for value in ["t", "T", "true", "True", "TRUE"] {
        check(&format!("m v={value} 0"), &["m_v 1.0 @0"]);
    }
    for value in ["f", "F", "false", "False", "FALSE"] {
        check(&format!("m v={value} 0"), &["m_v 0.0 @0"]);
    }
}

#[test]
fn other_values_are_bad() {
    let values = [
        "9223372036854775808i",
        "-1u",
        "18446744073709551616u",
        "1.5i",
        "NaN",
        "inf",
        "1e999",
        "0x10",
        "tRUE",
        "abc",
        "1_0",
        "i",
        "--1",
        "'a'",
    ];
    for value in values {
        let reason = format!("the value of a field is neither number, boolean nor string: {value:?}");
        check_bad(&format!("m a=1,v={value} 0"), &reason);
    }
}

#[test]
fn strings_are_left_out_and_counted() {
    let text = "m s=\"a b\",v=1,t=\"\" 0\nm only=\"x\"\n";
    let read = check_with(&InfluxSettings::default(), text, &["m_v 1.0 @0"]);
    assert_eq!((read.lines, read.samples), (2, 1));
    assert_eq!(read.dropped_fields.count, 3);
    let told: Vec<String> = read.dropped_fields.first.iter().map(Note::to_string).collect();
    let field = |line, key| format!("line {line}: the field is a string: {key:?}");
    assert_eq!(told, [field(1, "s"), field(1, "t"), field(2, "only")]);
}

#[test]
fn strings_hold_quotes_separators_and_line_feeds() {
    for string in
        [r#"\"string\" within"#, r"back\\slash\\", "two\nlines", "a,b=c d", "# no comment", "🚀", r"\x"]
    {
        check(&format!("m s=\"{string}\",v=1 0\nm v=2 0"), &["m_v 1.0 @0", "m_v 2.0 @0"]);
    }
}

#[test]
fn a_line_after_a_string_with_line_feeds_has_the_number_of_its_own() {
    let read = check_with(&InfluxSettings::default(), "m s=\"1\n2\n3\"\n# c\nbad\n", &[]);
    assert_eq!(read.bad_lines.first[0].line, 5);
}

#[test]
fn escapes_are_those_of_each_element() {
    let names = InfluxSettings { utf8_names: true, ..InfluxSettings::default() };
    for (text, told) in [
        (r"my\ Measurement v=1 0", r"my Measurement_v 1.0 @0"),
        (r"a\,b v=1 0", r"a,b_v 1.0 @0"),
        (r"a=b v=1 0", r"a=b_v 1.0 @0"),
        (r"a\=b v=1 0", r"a\=b_v 1.0 @0"),
        (r"m,tag\ Key1=tag\ Value1,t\,2\==v\,2\= v=1 0", r#"m_v{t,2=="v,2=",tag Key1="tag Value1"} 1.0 @0"#),
        (r"m f\ k\,e\=y=1 0", r"m_f k,e=y 1.0 @0"),
        (r#"m,t="q" v=1 0"#, r#"m_v{t="\"q\""} 1.0 @0"#),
        (r"m,tagKey=🍭 v=1 0", r#"m_v{tagKey="🍭"} 1.0 @0"#),
    ] {
        check_with(&names, text, &[told]);
    }
}

#[test]
fn every_second_of_backslashes_in_a_row_is_one() {
    for (raw, plain) in
        [(r"\x", 1), (r"\\x", 1), (r"\\\x", 2), (r"\\\\x", 2), (r"\\\\\x", 3), (r"\\\\\\x", 3)]
    {
        let told = format!("m_v{{t={:?}}} 1.0 @0", format!("{}x", r"\".repeat(plain)));
        check(&format!("m,t={raw} v=1 0"), &[&told]);
    }
}

#[test]
fn names_fit_prometheus_unless_they_are_to_stay() {
    let text = "5m.load-é:x,a.b=1,9c=2,d:e=3 f\\ 1=1 0";
    check(text, &[r#"_5m_load__:x_f_1{_9c="2",a_b="1",d_e="3"} 1.0 @0"#]);
    let names = InfluxSettings { utf8_names: true, ..InfluxSettings::default() };
    check_with(&names, text, &[r#"5m.load-é:x_f 1{9c="2",a.b="1",d:e="3"} 1.0 @0"#]);
}

#[test]
fn a_field_named_value_is_the_measurement_alone_only_if_the_settings_say_so() {
    let text = "temp value=1,valueX=2 0";
    check(text, &["temp_value 1.0 @0", "temp_valueX 2.0 @0"]);
    let bare = InfluxSettings { bare_value: true, ..InfluxSettings::default() };
    check_with(&bare, text, &["temp 1.0 @0", "temp_valueX 2.0 @0"]);
}

#[test]
fn the_database_is_a_label_unless_a_tag_has_its_name() {
    let no_label = InfluxSettings { db_label: String::new(), ..InfluxSettings::default() };
    let other = InfluxSettings { db_label: "data-base".to_owned(), ..InfluxSettings::default() };
    for (settings, db, told) in [
        (
            &InfluxSettings::default(),
            Some("telegraf"),
            [r#"m_v{db="telegraf"} 1.0 @0"#, r#"m_v{db="own"} 1.0 @0"#],
        ),
        (&InfluxSettings::default(), Some(""), ["m_v 1.0 @0", r#"m_v{db="own"} 1.0 @0"#]),
        (&InfluxSettings::default(), None, ["m_v 1.0 @0", r#"m_v{db="own"} 1.0 @0"#]),
        (&no_label, Some("telegraf"), ["m_v 1.0 @0", r#"m_v{db="own"} 1.0 @0"#]),
        (&other, Some("x"), [r#"m_v{data_base="x"} 1.0 @0"#, r#"m_v{data_base="x",db="own"} 1.0 @0"#]),
    ] {
        let mut body = Rw2Body::new(1 << 20);
        translate_influx(b"m v=1 0\nm,db=own v=1 0", db, settings, NOW_MS, &mut body).unwrap();
        assert_eq!(told::lines(&mut body), told, "{db:?}");
    }
}

#[test]
fn times_have_the_precision_of_the_request() {
    for (parameters, time, ms) in [
        (["n", "ns"], "1556813561098999999", 1_556_813_561_098),
        (["u", "us"], "1556813561098999", 1_556_813_561_098),
        (["µ", "us"], "-1", -1),
        (["ms", "ms"], "-9223372036854775808", i64::MIN),
        (["s", "s"], "1556813561", 1_556_813_561_000),
        (["m", "m"], "2", 120_000),
        (["h", "h"], "-2", -7_200_000),
    ] {
        for parameter in parameters {
            let precision = Precision::from_parameter(parameter).unwrap();
            let settings = InfluxSettings { precision, ..InfluxSettings::default() };
            check_with(&settings, &format!("m v=1 {time}"), &[&format!("m_v 1.0 @{ms}")]);
        }
    }
    assert_eq!(Precision::from_parameter("d"), None);
    let seconds = InfluxSettings { precision: Precision::Seconds, ..InfluxSettings::default() };
    let read = check_with(&seconds, "m v=1 9223372036854775807", &[]);
    let reason = "the time is over 64 bits in milliseconds: \"9223372036854775807\"";
    assert_eq!(read.bad_lines.first[0].reason, reason);
}

#[test]
fn blanks_comments_empty_lines_and_carriage_returns_are_skipped() {
    check(
        "\n\r\n# c \"\n  # c\n \t m,a=b  v=1 \t 5000000  \r\nm v=2\r\n\n",
        &[r#"m_v{a="b"} 1.0 @5"#, "m_v 2.0 @1700000000123"],
    );
}

#[test]
fn a_tag_value_may_hold_a_tab() {
    check("m,t=a\tb v=1 0", &[r#"m_v{t="a\tb"} 1.0 @0"#]);
}

#[test]
fn bad_lines_are_told_with_their_reason() {
    for (line, reason) in [
        (",t=a v=1", "the measurement is missing"),
        ("cpu", "the fields are missing"),
        ("cpu,t=a", "the fields are missing"),
        ("cpu ", "the fields are missing"),
        ("cpu, v=1", "a tag has no name: \" v=1\""),
        ("cpu,=a v=1", "a tag has no name: \"=a v=1\""),
        ("cpu,t v=1", "a tag has no value: \"t\""),
        ("cpu,t=,u=1 v=1", "a tag has no value: \"t\""),
        ("cpu,t=a=b v=1", "the value of a tag has an equals sign that is not escaped: \"t\""),
        ("cpu,t=a,t=b v=1", "a label name stands twice: \"t\""),
        ("cpu,t.a=a,t-a=b v=1", "a label name stands twice: \"t_a\""),
        ("cpu,__name__=a v=1", "a label has the name of the metric name: \"__name__\""),
        ("cpu v", "a field has no value: \"v\""),
        ("cpu v=", "a field has no value: \"v\""),
        ("cpu v=,w=1", "a field has no value: \"v\""),
        ("cpu =1", "a field has no name: \"=1\""),
        ("cpu v=1,", "a field has no name"),
        ("cpu v=1,,w=1", "a field has no name: \",w=1\""),
        ("cpu v=\"a", "the string of a field is not closed: \"v\""),
        ("cpu v=\"a\\\"", "the string of a field is not closed: \"v\""),
        ("cpu v=\"a\"b", "something follows the string of a field: \"b\""),
        ("cpu v=1 5x", "the time is no integer of 64 bits: \"5x\""),
        ("cpu v=1 1.5", "the time is no integer of 64 bits: \"1.5\""),
        ("cpu v=1 9223372036854775808", "the time is no integer of 64 bits: \"9223372036854775808\""),
        ("cpu v=1 5 6", "the time is no integer of 64 bits: \"5 6\""),
    ] {
        check_bad(line, reason);
    }
}

#[test]
fn a_bad_line_has_no_effect_and_the_good_ones_are_kept() {
    let text = b"a v=1 0\nb w=1,v=x 0\n\xff v=1 0\nc v=3 0";
    let (read, mut body) = translate(text, &InfluxSettings::default());
    let read = read.unwrap();
    assert_eq!(told::lines(&mut body), ["a_v 1.0 @0", "c_v 3.0 @0"]);
    assert_eq!((read.lines, read.samples, read.bad_lines.count), (2, 2, 2));
    assert_eq!(read.bad_lines.first[1].to_string(), "line 3: the line is not UTF-8");
}

#[test]
fn a_text_is_refused_as_a_whole_if_the_settings_say_so() {
    let whole = InfluxSettings { accept_partial: false, ..InfluxSettings::default() };
    let (read, body) = translate(b"a v=1 0\nb v=x 0\n", &whole);
    let error = read.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadInput);
    assert!(error.to_string().starts_with("1 of the lines cannot be read: line 2: "), "{error}");
    assert!(body.is_empty());
    let read = check_with(&whole, "a v=1 0\n", &["a_v 1.0 @0"]);
    assert_eq!(read.lines, 1);
}

#[test]
fn lines_tags_fields_and_texts_are_bounded() {
    let bounds = InfluxSettings {
        max_line_size: HumanSize::from_bytes(24),
        max_tags: 2,
        max_fields: 3,
        ..InfluxSettings::default()
    };
    let text = "m,a=1,b=2 v=1,w=2,s=\"x\" 0\nm,a=1,b=2,c=3 v=1 0\nm a=1,b=1,c=1,d=1 0\nm,a=1,b=2 v=1,w=2 0\n";
    let read = check_with(&bounds, text, &[r#"m_v{a="1",b="2"} 1.0 @0"#, r#"m_w{a="1",b="2"} 2.0 @0"#]);
    let reasons: Vec<String> = read.bad_lines.first.iter().map(Note::to_string).collect();
    assert_eq!(
        reasons,
        [
            "line 1: the line has 25 bytes, over the limit of 24",
            "line 2: the line has more tags than the limit of 2",
            "line 3: the line has more fields than the limit of 3",
        ]
    );

    let small = InfluxSettings { max_size: HumanSize::from_bytes(6), ..InfluxSettings::default() };
    let (read, body) = translate(b"m v=1 0", &small);
    assert_eq!(read.as_ref().unwrap_err(), &InfluxError::TextTooLarge { bytes: 7, limit: 6 });
    assert_eq!(read.unwrap_err().code(), ErrorCode::TooLarge);
    assert!(body.is_empty());
}

#[test]
fn a_body_that_is_full_refuses_the_text() {
    let text: String = (0..100).map(|at| format!("m{at} v=1 0\n")).collect();
    let mut body = Rw2Body::new(1_000);
    let error =
        translate_influx(text.as_bytes(), None, &InfluxSettings::default(), 0, &mut body).unwrap_err();
    assert_eq!(error, InfluxError::BodyTooLarge(TooLarge { limit: 1_000 }));
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert!(body.is_empty());
}

#[test]
fn settings_are_closed_and_have_defaults() {
    let read = |key: &'static str, value: &'static str| {
        let pairs = std::iter::once((key, value));
        InfluxSettings::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(pairs))
    };
    for (text, precision) in
        [("us", Precision::Microseconds), ("u", Precision::Microseconds), ("s", Precision::Seconds)]
    {
        assert_eq!(read("precision", text), Ok(InfluxSettings { precision, ..InfluxSettings::default() }));
    }
    assert!(read("precision", "d").is_err());
    assert!(read("precisions", "ns").is_err());
}

#[test]
fn settings_that_take_nothing_are_told() {
    let mut problems = Vec::new();
    InfluxSettings::default().check("influx", &mut problems);
    assert_eq!(problems, Vec::<String>::new());
    let bad = InfluxSettings { max_fields: 0, ..InfluxSettings::default() };
    bad.check("influx", &mut problems);
    assert_eq!(problems, ["influx.max_fields must be more than 0"]);
}

#[derive(Debug, Clone)]
struct Point {
    measurement: String,
    tags: std::collections::BTreeMap<String, String>,
    fields: Vec<(String, Value)>,
    ts_ms: Option<i64>,
}

#[derive(Debug, Clone)]
enum Value {
    Float(f64),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
    String(String),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        proptest::num::f64::NORMAL.prop_map(Value::Float),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(Value::Unsigned),
        any::<bool>().prop_map(Value::Boolean),
        "[a-c \\\\\",=\n#é]{0,8}".prop_map(Value::String),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    const NAME: &str = "[a-cé\"\\\\ ,=.:0-9][a-cé\"\\\\ ,=.:0-9#\t]{0,4}";
    (
        NAME,
        proptest::collection::btree_map(NAME, NAME, 0..4),
        proptest::collection::vec((NAME, value()), 1..4),
        proptest::option::of(-1_000_000_000_000i64..1_000_000_000_000),
    )
        .prop_map(|(measurement, tags, fields, ts_ms)| Point { measurement, tags, fields, ts_ms })
}

fn escaped(text: &str, chars: &str) -> String {
    text.chars()
        .flat_map(|c| (c == '\\' || chars.contains(c)).then_some('\\').into_iter().chain([c]))
        .collect()
}

impl Point {
    fn written(&self) -> String {
        let mut line = escaped(&self.measurement, ", ");
        for (key, value) in &self.tags {
            line += &format!(",{}={}", escaped(key, ",= "), escaped(value, ",= "));
        }
        let fields: Vec<String> = self
            .fields
            .iter()
            .map(|(key, value)| {
                let value = match value {
                    Value::Float(value) => format!("{value:e}"),
                    Value::Integer(value) => format!("{value}i"),
                    Value::Unsigned(value) => format!("{value}u"),
                    Value::Boolean(value) => value.to_string(),
                    Value::String(value) => format!("\"{}\"", escaped(value, "\"")),
                };
                format!("{}={value}", escaped(key, ",= "))
            })
            .collect();
        let time = self.ts_ms.map(|ts_ms| format!(" {}", ts_ms * 1_000_000)).unwrap_or_default();
        format!("{line} {}{time}\n", fields.join(","))
    }

    fn told(&self) -> Vec<ToldSample> {
        let sample = |(key, value): &(String, Value)| {
            let value = match value {
                Value::Float(value) => *value,
                Value::Integer(value) => *value as f64,
                Value::Unsigned(value) => *value as f64,
                Value::Boolean(value) => f64::from(u8::from(*value)),
                Value::String(_) => return None,
            };
            let mut labels: Vec<(String, String)> = self.tags.clone().into_iter().collect();
            labels.push(("__name__".to_owned(), format!("{}_{key}", self.measurement)));
            labels.sort();
            let ts_ms = self.ts_ms.unwrap_or(NOW_MS);
            Some(ToldSample { labels, ts_ms, bits: value.to_bits(), start_ms: 0 })
        };
        self.fields.iter().filter_map(sample).collect()
    }
}

proptest! {
    #[test]
    fn any_points_come_back(points in proptest::collection::vec(point(), 0..8)) {
        let text: String = points.iter().map(Point::written).collect();
        let names = InfluxSettings { utf8_names: true, ..InfluxSettings::default() };
        let (read, mut body) = translate(text.as_bytes(), &names);
        prop_assert_eq!(read.unwrap().bad_lines, Noted::default(), "{}", text);
        let expected: Vec<ToldSample> = points.iter().flat_map(Point::told).collect();
        prop_assert_eq!(told::samples(&mut body), expected);
    }

    #[test]
    fn names_always_fit_prometheus(points in proptest::collection::vec(point(), 1..4)) {
        let text: String = points.iter().map(Point::written).collect();
        let (read, mut body) = translate(text.as_bytes(), &InfluxSettings::default());
        prop_assert_eq!(read.unwrap().samples, body.samples());
        for sample in told::samples(&mut body) {
            for (name, value) in sample.labels {
                let is_metric = name == "__name__";
                let name = if is_metric { value } else { name };
                let fits = |(at, byte)| super::super::label_list::is_name_byte(byte, at == 0, is_metric);
                prop_assert!(name.bytes().enumerate().all(fits), "{}", name);
            }
        }
    }

    #[test]
    fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (read, mut body) = translate(&text, &InfluxSettings::default());
        prop_assert_eq!(read.unwrap().samples, told::samples(&mut body).len() as u64);
    }

    #[test]
    fn any_text_of_the_characters_that_matter_is_read(text in "[a,= \"\\\\\n\r\t#1.eiut-]{0,60}") {
        let (read, mut body) = translate(text.as_bytes(), &InfluxSettings::default());
        prop_assert_eq!(read.unwrap().samples, told::samples(&mut body).len() as u64);
    }
}
