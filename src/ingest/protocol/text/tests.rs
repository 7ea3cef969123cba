use super::super::told::{self, ToldSample};
use super::*;
use proptest::prelude::*;
use quorate_model::MetricType;
use serde::de::value::MapDeserializer;

const NOW_MS: i64 = 1_700_000_000_123;
const PROMETHEUS: TextFormat = TextFormat::Prometheus;
const OPEN_METRICS: TextFormat = TextFormat::OpenMetrics;

fn translate(
    format: TextFormat,
    text: &[u8],
    settings: &TextSettings,
) -> (Result<TextRead, TextError>, Rw2Body) {
    let mut body = Rw2Body::new(16 << 20);
    (translate_text(text, format, settings, NOW_MS, &mut body), body)
}

#[track_caller]
fn check(format: TextFormat, text: &str, expected: &[&str]) -> TextRead {
    let (read, mut body) = translate(format, text.as_bytes(), &TextSettings::default());
    let read = read.unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(read.samples, body.samples());
    assert_eq!(told::lines(&mut body), expected, "{text:?}");
    read
}

/// The same lines mean the same in both formats.
#[track_caller]
fn check_both(text: &str, expected: &[&str]) {
    check(PROMETHEUS, text, expected);
    check(OPEN_METRICS, &format!("{text}# EOF\n"), expected);
}

/// The text is refused for a line, and nothing of it is written.
#[track_caller]
fn check_bad(format: TextFormat, text: &str, line: u64, reason: &str) {
    let (read, body) = translate(format, text.as_bytes(), &TextSettings::default());
    let error = read.unwrap_err();
    assert_eq!(error, TextError::Line { line, reason: reason.to_owned() }, "{text:?}");
    assert_eq!(error.code(), ErrorCode::BadInput);
    assert!(body.is_empty());
}

/// Type, help and unit of each metric.
fn metadata(format: TextFormat, text: &str) -> Vec<(String, MetricType, String, String)> {
    let (read, mut body) = translate(format, text.as_bytes(), &TextSettings::default());
    read.unwrap();
    let (bytes, request) = told::read(&mut body);
    let text = |range: &std::ops::Range<usize>| String::from_utf8(bytes[range.clone()].to_vec()).unwrap();
    let told = request.metadata.iter();
    told.map(|entry| (text(&entry.family), entry.metric_type, text(&entry.help), text(&entry.unit))).collect()
}

#[track_caller]
fn check_metadata(format: TextFormat, text: &str, expected: &[(&str, MetricType, &str, &str)]) {
    let told = metadata(format, text);
    let told: Vec<_> =
        told.iter().map(|(name, kind, help, unit)| (&**name, *kind, &**help, &**unit)).collect();
    assert_eq!(told, expected, "{text:?}");
}

#[test]
fn the_text_format_is_read_with_its_blanks_and_comments() {
    let text = "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n\
        http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\
        http_requests_total{method=\"post\",code=\"400\"}    3 1395066363000\n\n\
        # any comment\n#no blank\n#\n  # HELPFUL words\n\
        minimal 12.47\n\
        \tweird { problem = \"division by zero\" , } \t +Inf -3982045 \t\r\n\
        {\"my.dotted.metric\", \"error.message\"=\"Not Found\"}1\n\
        tight{a=\"b\"}2\n\
        empty{} 3\n\
        last 4";
    check(
        PROMETHEUS,
        text,
        &[
            r#"http_requests_total{code="200",method="post"} 1027.0 @1395066363000"#,
            r#"http_requests_total{code="400",method="post"} 3.0 @1395066363000"#,
            "minimal 12.47 @1700000000123",
            r#"weird{problem="division by zero"} inf @-3982045"#,
            r#"my.dotted.metric{error.message="Not Found"} 1.0 @1700000000123"#,
            r#"tight{a="b"} 2.0 @1700000000123"#,
            "empty 3.0 @1700000000123",
            "last 4.0 @1700000000123",
        ],
    );
}

#[test]
fn openmetrics_times_are_seconds() {
    for (time, ms) in [
        ("1520879607.789", 1_520_879_607_789i64),
        ("123", 123_000),
        ("-1.5", -1_500),
        ("+0.0019", 1),
        (".5", 500),
        ("5.", 5_000),
        ("1604676851.123456789", 1_604_676_851_123),
        ("1.520879607789e9", 1_520_879_607_789),
        ("9223372036854775.807", i64::MAX),
    ] {
        check(OPEN_METRICS, &format!("a 1 {time}\n# EOF\n"), &[&format!("a 1.0 @{ms}")]);
    }
    for time in ["NaN", "Inf", "x", "1e300", "9223372036854775.808", "0x1"] {
        let reason = format!("the time is no number of seconds: {time:?}");
        check_bad(OPEN_METRICS, &format!("a 1 {time}\n# EOF\n"), 1, &reason);
    }
}

#[test]
fn values_are_numbers_of_go() {
    for (value, told) in [
        ("1e3", "1000.0"),
        ("-0", "-0.0"),
        ("NaN", "NaN"),
        ("-inf", "-inf"),
        ("+Infinity", "inf"),
        ("0042", "42.0"),
    ] {
        check_both(&format!("a {value}\n"), &[&format!("a {told} @1700000000123")]);
    }
    let (_, mut body) = translate(PROMETHEUS, b"a NaN", &TextSettings::default());
    assert_eq!(told::samples(&mut body)[0].bits, 0x7ff8_0000_0000_0001);
    for value in ["0x1p-2", "1_000", "abc", "1e999", "+NaN"] {
        check_bad(PROMETHEUS, &format!("a {value}\n"), 1, &format!("the value is no number: {value:?}"));
    }
}

#[test]
fn escapes_of_label_values_are_three_and_others_stay() {
    for (raw, plain) in [
        (r#"C:\\DIR\\FILE.TXT"#, r"C:\DIR\FILE.TXT"),
        (r#"Cannot find file:\n\"FILE.TXT\""#, "Cannot find file:\n\"FILE.TXT\""),
        (r"\a\t\é", r"\a\t\é"),
        (r"\\n", r"\n"),
        ("}, {# =", "}, {# ="),
        ("\u{0}é🍭", "\u{0}é🍭"),
    ] {
        check_both(&format!("a{{b=\"{raw}\"}} 1\n"), &[&format!("a{{b={plain:?}}} 1.0 @1700000000123")]);
    }
}

#[test]
fn quoted_names_are_read_in_both_formats() {
    check_both("{\"my.metric\",a=\"b\"} 1\n", &["my.metric{a=\"b\"} 1.0 @1700000000123"]);
    check_both("{\"my.metric\"} 1\n", &["my.metric 1.0 @1700000000123"]);
    check_both("{a=\"b\",\"my\\\"metric\"} 1\n", &["my\"metric{a=\"b\"} 1.0 @1700000000123"]);
    check_both("up{\"a.b\"=\"c\",\"d\"=\"\"} 1\n", &["up{a.b=\"c\"} 1.0 @1700000000123"]);
    let family = "# TYPE \"my.metric\" gauge\n{\"my.metric\"} 1\n";
    check_metadata(PROMETHEUS, family, &[("my.metric", MetricType::Gauge, "", "")]);
}

#[test]
fn metadata_goes_with_the_samples_of_the_family() {
    let text = "# HELP h Sizes \\\\ of\\nthings \\\"x\\\".\n# TYPE h histogram\n\
        h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\nhx 5\n\
        # TYPE plain untyped\nplain 1\n# HELP only Help.\nonly 1\n# TYPE c_total counter\nc_total 1\n";
    let help = "Sizes \\ of\nthings \\\"x\\\".";
    check_metadata(
        PROMETHEUS,
        text,
        &[
            ("h_bucket", MetricType::Histogram, help, ""),
            ("h_sum", MetricType::Histogram, help, ""),
            ("h_count", MetricType::Histogram, help, ""),
            ("only", MetricType::Unknown, "Help.", ""),
            ("c_total", MetricType::Counter, "", ""),
        ],
    );
}

#[test]
fn openmetrics_has_units_and_more_types() {
    let text = "# TYPE foo_seconds counter\n# UNIT foo_seconds seconds\n# HELP foo_seconds Some \\\"text\\\" \\\\\n\
        foo_seconds_total 1\n# TYPE i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"a\"} 0\n\
        # TYPE g gaugehistogram\ng_bucket{le=\"1\"} 1\ng_gsum 1\ng_gcount 1\n# TYPE u unknown\n# UNIT u \nu 1\n# EOF";
    check_metadata(
        OPEN_METRICS,
        text,
        &[
            ("foo_seconds_total", MetricType::Counter, "Some \"text\" \\", "seconds"),
            ("i_info", MetricType::Info, "", ""),
            ("s", MetricType::StateSet, "", ""),
            ("g_bucket", MetricType::GaugeHistogram, "", ""),
            ("g_gsum", MetricType::GaugeHistogram, "", ""),
            ("g_gcount", MetricType::GaugeHistogram, "", ""),
        ],
    );
}

#[test]
fn created_lines_become_the_start_of_their_metric() {
    let text = "# TYPE foo counter\nfoo_total{a=\"x\"} 17\nfoo_created{a=\"x\"} 1520430000.123\n\
        foo_total{a=\"y\"} 18\nfoo_created{a=\"y\"} 1.52043e9\nfoo_total{a=\"z\"} 19\n\
        # TYPE h histogram\nh_bucket{b=\"1\",le=\"1\"} 1\nh_bucket{le=\"+Inf\",b=\"1\"} 2\nh_count{b=\"1\"} 2\n\
        h_sum{b=\"1\"} 3\nh_created{b=\"1\"} 5\n\
        # HELP s Late.\n# TYPE s summary\ns_created 7\ns{quantile=\"0.5\"} 1\ns_count 1\n\
        # TYPE g gauge\ng_created 8\n# EOF\n";
    let read = check(
        OPEN_METRICS,
        text,
        &[
            r#"foo_total{a="x"} 17.0 @1700000000123 from 1520430000123"#,
            r#"foo_total{a="y"} 18.0 @1700000000123 from 1520430000000"#,
            r#"foo_total{a="z"} 19.0 @1700000000123"#,
            r#"h_bucket{b="1",le="1"} 1.0 @1700000000123 from 5000"#,
            r#"h_bucket{b="1",le="+Inf"} 2.0 @1700000000123 from 5000"#,
            r#"h_count{b="1"} 2.0 @1700000000123 from 5000"#,
            r#"h_sum{b="1"} 3.0 @1700000000123 from 5000"#,
            r#"s{quantile="0.5"} 1.0 @1700000000123 from 7000"#,
            "s_count 1.0 @1700000000123 from 7000",
            "g_created 8.0 @1700000000123",
        ],
    );
    assert_eq!((read.starts, read.dropped), (4, Noted::default()));
}

#[test]
fn each_point_of_a_metric_has_its_own_start() {
    let text = "# TYPE foo counter\nfoo_total 17 100\nfoo_created 50 100\nfoo_total 2 200\nfoo_created 150 200\n# EOF\n";
    check(OPEN_METRICS, text, &["foo_total 17.0 @100000 from 50000", "foo_total 2.0 @200000 from 150000"]);
}

#[test]
fn created_lines_are_series_if_the_settings_or_the_format_say_so() {
    let text = "# TYPE foo counter\nfoo_total 17\nfoo_created 1520430000.123\n";
    let series = ["foo_total 17.0 @1700000000123", "foo_created 1520430000.123 @1700000000123"];
    let settings = TextSettings { created: Created::Series, ..TextSettings::default() };
    let (read, mut body) = translate(OPEN_METRICS, format!("{text}# EOF").as_bytes(), &settings);
    assert_eq!(read.unwrap().starts, 0);
    assert_eq!(told::lines(&mut body), series);
    check(PROMETHEUS, text, &series);
}

#[test]
fn created_lines_without_a_sample_are_told_and_bad_ones_refused() {
    let text = "# TYPE foo counter\nfoo_total{a=\"x\"} 17\nfoo_created{a=\"y\"} 1\n# EOF\n";
    let read = check(OPEN_METRICS, text, &[r#"foo_total{a="x"} 17.0 @1700000000123"#]);
    assert_eq!(read.starts, 0);
    let told = read.dropped.to_string();
    assert_eq!(told, "line 3: no sample has the labels of this _created line");
    for (value, reason) in
        [("NaN", "the value is no time in seconds: \"NaN\""), ("x", "the value is no number: \"x\"")]
    {
        let text = format!("# TYPE foo counter\nfoo_total 17\nfoo_created {value}\n# EOF\n");
        check_bad(OPEN_METRICS, &text, 3, reason);
    }
}

#[test]
fn exemplars_are_read_with_or_without_a_time() {
    let text = "# TYPE foo histogram\nfoo_bucket{le=\"0.01\"} 0\n\
        foo_bucket{le=\"0.1\"} 8 # {} 0.054\n\
        foo_bucket{le=\"1\"} 11 7 # {trace_id=\"KOO5S4vxi0o\"} 0.67\n\
        foo_bucket{le=\"10\"} 17 # {trace_id=\"oHg5SJYRHA0\",b=\"\\\"\"} 9.8 1520879607.789\n# EOF\n";
    let (read, mut body) = translate(OPEN_METRICS, text.as_bytes(), &TextSettings::default());
    assert_eq!(read.unwrap().exemplars, 3);
    let (bytes, request) = told::read(&mut body);
    assert_eq!((request.exemplars, request.long_exemplars.len()), (3, 0));
    // The times as varints behind the value: that of the sample, or its own.
    for (value, ts_ms) in [(0.054f64, NOW_MS as u64), (0.67, 7_000), (9.8, 1_520_879_607_789)] {
        let mut written = vec![0x11];
        written.extend_from_slice(&value.to_bits().to_le_bytes());
        written.push(0x18);
        let mut rest = ts_ms;
        while rest >= 0x80 {
            written.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        written.push(rest as u8);
        assert!(bytes.windows(written.len()).any(|window| window == written), "{value}");
    }
    for (exemplar, reason) in [
        ("# {a=\"b\"}", "the line ends early"),
        ("# {a=\"b\"} x", "the value of the exemplar is no number: \"x\""),
        ("# {a=\"b\"} 1 x", "the time is no number of seconds: \"x\""),
        ("# {a=\"b\"} 1 2 3", "something follows the sample: \" 3\""),
        ("# {a=\"b\"} 1 ", "the time is no number of seconds"),
        ("# {\"a\"} 1", "a label has no equals sign: \"} 1\""),
        ("# 1", "the exemplar has no labels: \"1\""),
        ("#{a=\"b\"} 1", "a space is missing: \"{a=\\\"b\\\"} 1\""),
    ] {
        check_bad(OPEN_METRICS, &format!("a 1 {exemplar}\n# EOF\n"), 1, reason);
    }
    check_bad(PROMETHEUS, "a 1 # {a=\"b\"} 1\n", 1, "something follows the sample: \"# {a=\\\"b\\\"} 1\"");
}

#[test]
fn the_end_of_openmetrics_is_the_end() {
    for text in ["# EOF", "# EOF\n"] {
        check(OPEN_METRICS, text, &[]);
    }
    check(PROMETHEUS, "", &[]);
    check(PROMETHEUS, "# EOF\na 1\n", &["a 1.0 @1700000000123"]);
    let no_end = "the text ends without a line \"# EOF\"";
    check_bad(OPEN_METRICS, "", 1, no_end);
    check_bad(OPEN_METRICS, "a 1\n", 1, no_end);
    check_bad(OPEN_METRICS, "a 1\n# EOF\nb 1\n", 3, "something follows the end: \"b 1\"");
    check_bad(OPEN_METRICS, "# EOF\n\n", 2, "something follows the end");
    check_bad(
        OPEN_METRICS,
        "a 1\n# EOF \n",
        2,
        "# is followed by neither HELP, TYPE, UNIT nor EOF: \"EOF \"",
    );
}

#[test]
fn openmetrics_is_strict_about_blanks_and_comments() {
    for (line, reason) in [
        ("a  1", "the value is missing: \" 1\""),
        ("a\t1", "a space is missing: \"\\t1\""),
        (" a 1", "a metric name is missing: \" a 1\""),
        ("a 1 ", "the time is no number of seconds"),
        ("a 1 2 ", "something follows the sample"),
        ("a 1 2 3", "something follows the sample: \"3\""),
        ("a 1 #", "the line ends early"),
        ("a{b=\"c\"}1", "a space is missing: \"1\""),
        ("a {b=\"c\"} 1", "the value is no number: \"{b=\\\"c\\\"}\""),
        ("a{b=\"c\", d=\"e\"} 1", "a label name is missing: \" d=\\\"e\\\"} 1\""),
        ("a 1\r", "the value is no number: \"1\\r\""),
        ("", "a metric name is missing"),
        ("# comment", "# is followed by neither HELP, TYPE, UNIT nor EOF: \"comment\""),
        ("#HELP a b", "# is followed by neither HELP, TYPE, UNIT nor EOF: \"HELP a b\""),
        ("# TYPE a untyped", "the type is unknown: \"untyped\""),
        ("# UNIT a_seconds bytes", "the unit is not the end of the metric name: \"bytes\""),
        ("# UNIT seconds seconds", "the unit is not the end of the metric name: \"seconds\""),
    ] {
        check_bad(OPEN_METRICS, &format!("x 1\n{line}\n# EOF\n"), 2, reason);
    }
}

#[test]
fn a_bad_line_refuses_the_text_and_is_told() {
    for (line, reason) in [
        ("a", "the value is missing"),
        ("a{b=\"c\"}", "the value is missing"),
        ("a{b=\"c\"", "neither comma nor brace follows a label"),
        ("a{b=\"c\" d=\"e\"} 1", "neither comma nor brace follows a label: \"d=\\\"e\\\"} 1\""),
        ("a{b=\"c} 1", "quotes are not closed: \"\\\"c} 1\""),
        ("a{b=\"c\\\"} 1", "quotes are not closed: \"\\\"c\\\\\\\"} 1\""),
        ("a{b=c} 1", "the value of a label has no quotes: \"c} 1\""),
        ("a{b} 1", "a label has no equals sign: \"} 1\""),
        ("a{=\"c\"} 1", "a label name is missing: \"=\\\"c\\\"} 1\""),
        ("a{,} 1", "a label name is missing: \",} 1\""),
        ("a{\"\"=\"c\"} 1", "a label name is missing: \"\\\"\\\"=\\\"c\\\"} 1\""),
        ("a{b:c=\"c\"} 1", "a label has no equals sign: \":c=\\\"c\\\"} 1\""),
        ("a{0b=\"c\"} 1", "a label name is missing: \"0b=\\\"c\\\"} 1\""),
        ("a{b=\"c\",b=\"d\"} 1", "a label name stands twice: \"b\""),
        ("a{__name__=\"c\"} 1", "a label has the name of the metric name: \"__name__\""),
        ("{b=\"c\"} 1", "a metric name is missing: \" 1\""),
        ("{\"\"} 1", "a label name is missing: \"\\\"\\\"} 1\""),
        ("a{\"b\"} 1", "a label has no equals sign: \"} 1\""),
        ("{\"a\",\"b\"} 1", "a label has no equals sign: \"} 1\""),
        ("0a 1", "a metric name is missing: \"0a 1\""),
        ("é 1", "a metric name is missing: \"é 1\""),
        ("a.b 1", "the value is no number: \".b\""),
        ("a 1 1.5", "the time is no integer of milliseconds: \"1.5\""),
        ("a 1 9223372036854775808", "the time is no integer of milliseconds: \"9223372036854775808\""),
        ("a 1 2 3", "something follows the sample: \"3\""),
        ("# TYPE a info", "the type is unknown: \"info\""),
        ("# TYPE a", "the type is missing"),
        ("# TYPE", "the line ends early"),
        ("# HELP 1 x", "a metric name is missing: \"1 x\""),
        ("# HELP a.b x", "a space is missing: \".b x\""),
        ("# HELP \"a x", "quotes are not closed: \"\\\"a x\""),
    ] {
        check_bad(PROMETHEUS, &format!("x 1\n{line}\ny 1\n"), 2, reason);
    }
    let (read, body) = translate(PROMETHEUS, b"x 1\ny{a=\"\xff\"} 1\n", &TextSettings::default());
    assert_eq!(read.unwrap_err().to_string(), "line 2 of the text cannot be read: it is not UTF-8");
    assert!(body.is_empty());
}

#[test]
fn lines_labels_texts_and_bodies_are_bounded() {
    let bounds = TextSettings {
        max_line_size: HumanSize::from_bytes(20),
        max_labels: 2,
        max_size: HumanSize::from_bytes(64),
        ..TextSettings::default()
    };
    for (text, error) in [
        (
            "a{a=\"1\",b=\"2\"} 1 1234\n",
            "line 1 of the text cannot be read: the line has 21 bytes, over the limit of 20",
        ),
        (
            "a{a=\"\",b=\"\",c=\"\"} 1\n",
            "line 1 of the text cannot be read: the line has more labels than the limit of 2",
        ),
        (&"a 1\n".repeat(17), "the text has 68 bytes, over the limit of 64"),
    ] {
        let (read, body) = translate(PROMETHEUS, text.as_bytes(), &bounds);
        assert_eq!(read.unwrap_err().to_string(), error);
        assert!(body.is_empty());
    }
    let (read, body) = translate(PROMETHEUS, b"a{a=\"1\",b=\"2\"} 1 1\n", &bounds);
    assert_eq!((read.unwrap().samples, body.samples()), (1, 1));

    let text: String = (0..100).map(|at| format!("m{at} 1\n")).collect();
    let mut body = Rw2Body::new(1_000);
    let read = translate_text(text.as_bytes(), PROMETHEUS, &TextSettings::default(), 0, &mut body);
    assert_eq!(read, Err(TextError::BodyTooLarge(TooLarge { limit: 1_000 })));
    assert_eq!(read.unwrap_err().code(), ErrorCode::TooLarge);
    assert!(body.is_empty());
}

#[test]
fn what_is_kept_of_created_lines_is_bounded() {
    let lines: String = (0..100).map(|at| format!("a_created{{b=\"{at}\"}} 1\n")).collect();
    let text = format!("# TYPE a counter\n{lines}# EOF");
    let limit = text.len();
    let bounds = TextSettings { max_size: HumanSize::from_bytes(limit as u64), ..TextSettings::default() };
    let (read, _) = translate(OPEN_METRICS, text.as_bytes(), &bounds);
    assert_eq!(read, Err(TextError::BodyTooLarge(TooLarge { limit })));
}

#[test]
fn settings_are_closed_and_have_defaults() {
    let read = |key: &'static str, value: &'static str| {
        let pairs = std::iter::once((key, value));
        TextSettings::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(pairs))
    };
    let series = TextSettings { created: Created::Series, ..TextSettings::default() };
    assert_eq!(read("created", "series"), Ok(series));
    let small = TextSettings { max_size: HumanSize::from_mib(1), ..TextSettings::default() };
    assert_eq!(read("max_size", "1MiB"), Ok(small));
    assert!(read("max_sizes", "1MiB").is_err());
}

#[test]
fn settings_that_take_nothing_are_told() {
    let mut problems = Vec::new();
    TextSettings::default().check("text", &mut problems);
    assert_eq!(problems, Vec::<String>::new());
    let bad = TextSettings { max_size: HumanSize::from_bytes(0), ..TextSettings::default() };
    bad.check("text", &mut problems);
    assert_eq!(problems, ["text.max_size must be more than 0"]);
}

#[derive(Debug, Clone)]
struct Point {
    metric: String,
    labels: std::collections::BTreeMap<String, String>,
    value: f64,
    ts_ms: Option<i64>,
    has_quotes: bool,
}

fn point() -> impl Strategy<Value = Point> {
    (
        "[a-c_:][a-c_:0-9]{0,4}|[a-cé.\"\\\\\n ,{}#=]{1,5}",
        proptest::collection::btree_map(
            "[a-c_][a-c_0-9]{0,4}|[a-cé.\"\\\\\n ,{}#=]{1,5}",
            "[a-cé.\"\\\\\n ,{}#=]{0,5}",
            0..4,
        ),
        proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::INFINITE,
        proptest::option::of(-1_000_000_000_000i64..1_000_000_000_000),
        any::<bool>(),
    )
        .prop_map(|(metric, labels, value, ts_ms, has_quotes)| Point {
            metric,
            labels,
            value,
            ts_ms,
            has_quotes,
        })
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn is_plain(name: &str, is_metric: bool) -> bool {
    name.bytes()
        .enumerate()
        .all(|(at, byte)| super::super::label_list::is_name_byte(byte, at == 0, is_metric))
}

impl Point {
    fn written(&self, format: TextFormat) -> String {
        let is_inside = self.has_quotes || !is_plain(&self.metric, true);
        let labels = self.labels.iter().map(|(name, value)| {
            let name = if is_plain(name, false) && !self.has_quotes { name.clone() } else { quoted(name) };
            format!("{name}={}", quoted(value))
        });
        let parts: Vec<String> = is_inside.then(|| quoted(&self.metric)).into_iter().chain(labels).collect();
        let name = if is_inside { "" } else { &self.metric };
        let time = match (self.ts_ms, format) {
            (None, _) => String::new(),
            (Some(ts_ms), TextFormat::Prometheus) => format!(" {ts_ms}"),
            (Some(ts_ms), TextFormat::OpenMetrics) => {
                let sign = if ts_ms < 0 { "-" } else { "" };
                format!(" {sign}{}.{:03}", ts_ms.abs() / 1000, ts_ms.abs() % 1000)
            }
        };
        format!("{name}{{{}}} {:e}{time}\n", parts.join(","), self.value)
    }

    fn told(&self) -> ToldSample {
        let mut labels: Vec<(String, String)> = self.labels.clone().into_iter().collect();
        labels.push(("__name__".to_owned(), self.metric.clone()));
        labels.retain(|(_, value)| !value.is_empty());
        labels.sort();
        let ts_ms = self.ts_ms.unwrap_or(NOW_MS);
        ToldSample { labels, ts_ms, bits: self.value.to_bits(), start_ms: 0 }
    }
}

/// Reads any text: it is refused and leaves nothing, or its samples are all there.
fn check_any(text: &[u8]) -> Result<(), TestCaseError> {
    for format in [PROMETHEUS, OPEN_METRICS] {
        let (read, mut body) = translate(format, text, &TextSettings::default());
        let samples = read.map_or(0, |read| read.samples);
        prop_assert_eq!(samples, told::samples(&mut body).len() as u64);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_points_come_back(points in proptest::collection::vec(point(), 0..8)) {
        let expected: Vec<ToldSample> = points.iter().map(Point::told).collect();
        for format in [PROMETHEUS, OPEN_METRICS] {
            let end = if format == OPEN_METRICS { "# EOF\n" } else { "" };
            let text: String = points.iter().map(|point| point.written(format)).collect();
            let text = text + end;
            let (read, mut body) = translate(format, text.as_bytes(), &TextSettings::default());
            prop_assert_eq!(read.map(|read| read.samples), Ok(points.len() as u64), "{}", text);
            prop_assert_eq!(&told::samples(&mut body), &expected, "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_any(&text)?;
    }

    #[test]
    fn any_text_of_the_parts_that_matter_is_read_or_refused(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("# TYPE a counter\n"), Just("# TYPE a histogram\n"), Just("# HELP a "), Just("# UNIT a_b b"),
                Just("# EOF\n"), Just("a_total"), Just("a_created"), Just("{"), Just("}"), Just("b=\"c\""), Just("\""),
                Just("\\"), Just(","), Just(" 1"), Just(" 1.5"), Just(" # {"), Just("\n"), Just(" "), Just("é"),
            ],
            0..20,
        ),
    ) {
        check_any(parts.concat().as_bytes())?;
    }
}
