use super::{MAX_REGEX_MATCHERS, Parser};
use crate::ast::{DurationArg, Expr, MAX_DEPTH, NumberLiteral};
use crate::{Features, format, parse, parse_selector};

#[track_caller]
fn check_error(query: &str, expected: &str) {
    match parse(query, &Features::all()) {
        Ok(expr) => panic!("{query:?} must fail, is {expr}"),
        Err(error) => assert_eq!(error.to_string(), expected, "{query:?}"),
    }
}

/// What a query prints as, which shows how it was grouped if it is put in parentheses by `group`.
#[track_caller]
fn check_print(query: &str, expected: &str) {
    let expr = parse(query, &Features::all()).unwrap_or_else(|e| panic!("{query:?}: {e}"));
    assert_eq!(expr.to_string(), expected, "{query:?}");
    let again = parse(&expr.to_string(), &Features::all()).unwrap_or_else(|e| panic!("{expr}: {e}"));
    assert_eq!(again.to_string(), expected, "printed form of {query:?} parses to something else");
}

#[track_caller]
fn check_number(query: &str, expected: f64) {
    let Ok(Expr::Number(NumberLiteral { value, span, .. })) = parse(query, &Features::default()) else {
        panic!("{query:?} is no number");
    };
    assert_eq!(value.to_bits(), expected.to_bits(), "{query:?} is {value}");
    assert_eq!((span.start, span.end), (0, query.len()), "{query:?}");
}

#[track_caller]
fn check_grouping(query: &str, expected: &str) {
    let expr = parse(query, &Features::all()).unwrap_or_else(|e| panic!("{query:?}: {e}"));
    assert_eq!(grouped(&expr), expected, "{query:?}");
}

fn grouped(expr: &Expr) -> String {
    match expr {
        Expr::Binary(e) => format!("({} {} {})", grouped(&e.lhs), e.op, grouped(&e.rhs)),
        Expr::Unary(e) => format!("({}{})", e.op, grouped(&e.expr)),
        other => other.to_string(),
    }
}

#[test]
fn numbers_are_read_in_all_forms() {
    check_number("0xc", 12.0);
    check_number("0755", 493.0);
    check_number("089", 89.0);
    check_number("-5.5e-3", -0.0055);
    check_number("00_1_23_4.56_7_8", 1234.5678);
    check_number("1_000", 1000.0);
    check_number(".5", 0.5);
    check_number("5.", 5.0);
    check_number("-iNf", f64::NEG_INFINITY);
    check_number("1h30m", 5400.0);
    check_number("250ms", 0.25);
    check_number("9223372036854775808", 9_223_372_036_854_775_808.0);
    check_error(
        "1e400",
        r#"1:1: parse error: error parsing number: strconv.ParseFloat: parsing "1e400": value out of range"#,
    );
    check_error("1..2", r#"1:1: parse error: bad number or duration syntax: "1..""#);
    check_error("1s1h", r#"1:1: parse error: not a valid duration string: "1s1h""#);
    check_error("5y1hs", r#"1:1: parse error: unknown unit "hs" in duration "5y1hs""#);
    check_error("300y", "1:1: parse error: duration out of range");
}

#[test]
fn operators_bind_as_in_prometheus() {
    check_grouping("a + b * c ^ d ^ e", "(a + (b * (c ^ (d ^ e))))");
    check_grouping("a - b - c", "((a - b) - c)");
    check_grouping("-a ^ b * c", "((-(a ^ b)) * c)");
    check_grouping("a ^ -b * c", "((a ^ (-b)) * c)");
    check_grouping("a or b and c unless d", "(a or ((b and c) unless d))");
    check_grouping("a > bool b + c == 1", "((a > (b + c)) == 1)");
    check_grouping("a atan2 b % c / d", "(((a atan2 b) % c) / d)");
    check_grouping("- a offset 5m + b @ 3", "((-a offset 5m) + b @ 3.000)");
    check_grouping("a offset -2^2", "(a offset -2s ^ 2)");
    check_grouping("a offset 5m - b", "(a offset 5m - b)");
    check_grouping("h </ 5 >/ 1", "((h </ 5) >/ 1)");
}

#[test]
fn queries_print_as_in_prometheus() {
    check_print(
        "sum by(job,\"a.b\")(rate(x{b='1',a=~\"x.*\"}[5m]))",
        "sum by (job, \"a.b\") (rate(x{a=~\"x.*\",b=\"1\"}[5m]))",
    );
    check_print("sum(x) without (le)", "sum without (le) (x)");
    check_print("topk (3, x)", "topk(3, x)");
    check_print("a + on(x) group_left() b", "a + on (x) group_left () b");
    check_print("a / ignoring() b", "a / b");
    check_print("a + fill_left(1) fill_right(2.5) b", "a + fill_left (1) fill_right (2.5) b");
    check_print("a + fill(-3) b", "a + fill (-3) b");
    check_print("a @ 123.4567 offset -90s", "a @ 123.457 offset -1m30s");
    check_print("rate(a[5m] anchored @ end() offset 1w)", "rate(a[5m] anchored @ end() offset 1w)");
    check_print("max_over_time(a[90d:1m] offset 1d)[1y:]", "max_over_time(a[90d:1m] offset 1d)[1y:]");
    check_print("a[step()*2 + (5m)]", "a[step() * 2 + (5m)]");
    check_print("a offset -min_of(step(), 1h)", "a offset -min_of(step(), 1h)");
    check_print("{\"a.b\",c!~\"d\"}", "{__name__=\"a.b\",c!~\"d\"}");
    check_print("{\"a b\"=\"\\u00e9\\n\", x!=''}", "{\"a b\"=\"é\\n\",x!=\"\"}");
    check_print("sum + by + OFFSET{a='b'} offset 1s # end", "sum + by + OFFSET{a=\"b\"} offset 1s");
    check_print("fill + fill_left", "fill + fill_left");
    check_print("start() + max_of(step(), 2)", "start() + max_of(step(), 2)");
    check_print("-1 ^ 2 + +a", "-1 ^ 2 + +a");
    check_print("INF + Nan", "+Inf + NaN");
    check_print(r#"count_values('a\xc5z\141', b)"#, r#"count_values("a\xc5za", b)"#);
    check_print("info(a, {b=~\".*\"})", "info(a, {b=~\".*\"})");
}

#[test]
fn long_queries_are_split() {
    let long = "histogram_quantile(0.99, sum by (le, namespace) (rate(apiserver_request_duration_seconds_bucket{verb=~\"GET|LIST\"}[5m]))) > on(a) (b + c)";
    let expected = "  histogram_quantile(\n    0.99,\n    sum by (le, namespace) (rate(apiserver_request_duration_seconds_bucket{verb=~\"GET|LIST\"}[5m]))\n  )\n> on (a)\n  (b + c)";
    assert_eq!(format(&parse(long, &Features::default()).unwrap()), expected);
}

#[test]
fn errors_have_the_words_and_places_of_prometheus() {
    check_error("", "unknown position: parse error: no expression found in input");
    check_error("# only", "1:1: parse error: no expression found in input");
    check_error("foo bar", r#"1:5: parse error: unexpected identifier "bar""#);
    check_error("sum(foo bar)", r#"1:9: parse error: unexpected identifier "bar" in aggregation"#);
    check_error("sum some_metric by (test)", r#"1:5: parse error: unexpected identifier "some_metric""#);
    check_error("a +\n  ", "2:3: parse error: unexpected end of input");
    check_error("(1", "1:3: parse error: unclosed left parenthesis");
    check_error("1)", "1:3: parse error: unexpected right parenthesis ')'");
    check_error("a[5m", "1:5: parse error: unclosed left bracket");
    check_error("a[", "1:3: parse error: unexpected end of input in duration expression");
    check_error("a[x]", "1:3: parse error: unexpected character in duration expression: 'x'");
    check_error("a[5m x]", "1:6: parse error: unexpected character: 'x', expected ':'");
    check_error("a[0]", "1:3: parse error: duration must be greater than 0");
    check_error("a[5m:3m", "1:8: parse error: unclosed left bracket");
    check_error(
        "a[5m 3m]",
        r#"1:6: parse error: unexpected duration "3m" in subquery or range, expected ":" or "]""#,
    );
    check_error(
        "a offset",
        "1:9: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
    );
    check_error("a @", "1:4: parse error: unexpected end of input in @, expected timestamp");
    check_error("a @ inf", "1:1: parse error: timestamp out of bounds for @ modifier: +Inf");
    check_error("{a", "1:3: parse error: unexpected end of input inside braces");
    check_error(
        "{a}",
        r#"1:3: parse error: unexpected "}" in label matching, expected label matching operator"#,
    );
    check_error("{a=b}", r#"1:4: parse error: unexpected identifier "b" in label matching, expected string"#);
    check_error("{,}", r#"1:2: parse error: unexpected "," in label matching, expected identifier or "}""#);
    check_error(
        r#"{a="b" c}"#,
        r#"1:8: parse error: unexpected identifier "c" in label matching, expected "," or "}""#,
    );
    check_error("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher");
    check_error(
        r#"{a=~".*"}"#,
        "1:1: parse error: vector selector must contain at least one non-empty matcher",
    );
    check_error(r#"a{__name__="b"}"#, r#"1:1: parse error: metric name must not be set twice: "a" or "b""#);
    check_error(
        "sum by a (b)",
        r#"1:8: parse error: unexpected identifier "a" in grouping opts, expected "(""#,
    );
    check_error(
        "sum by (a b) (c)",
        r#"1:11: parse error: unexpected identifier "b" in grouping opts, expected "," or ")""#,
    );
    check_error(
        "sum by (5) (c)",
        r#"1:9: parse error: unexpected number "5" in grouping opts, expected label"#,
    );
    check_error("sum()", "1:1: parse error: no arguments for aggregate expression provided");
    check_error(
        "topk(a)",
        "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
    );
    check_error(
        "topk(a, b)",
        "1:6: parse error: expected type scalar in aggregation parameter, got instant vector",
    );
    check_error("nope(a)", r#"1:1: parse error: unknown function with name "nope""#);
    check_error(
        "rate(a)",
        r#"1:6: parse error: expected type range vector in call to function "rate", got instant vector"#,
    );
    check_error("rate(a,)", "1:7: parse error: trailing commas not allowed in function call args");
    check_error("floor()", r#"1:1: parse error: expected 1 argument(s) in call to "floor", got 0"#);
    check_error("hour(a, b)", r#"1:1: parse error: expected at most 1 argument(s) in call to "hour", got 2"#);
    check_error(
        "label_join()",
        r#"1:1: parse error: expected at least 3 argument(s) in call to "label_join", got 0"#,
    );
    check_error("1 > 2", "1:3: parse error: comparisons between scalars must use BOOL modifier");
    check_error("a +  bool b", "1:3: parse error: bool modifier can only be used on comparison operators");
    check_error("1 and a", r#"1:1: parse error: set operator "and" not allowed in binary scalar expression"#);
    check_error("a and on(b) group_left c", r#"1:1: parse error: no grouping allowed for "and" operation"#);
    check_error(
        "a + on(b) group_left(b) c",
        r#"1:3: parse error: label "b" must not occur in ON and GROUP clause at once"#,
    );
    check_error("1 + on(a) b", "1:1: parse error: vector matching only allowed between instant vectors");
    check_error(
        "a + b[5m]",
        "1:5: parse error: binary expression must contain only scalar and instant vector types",
    );
    check_error(
        "-'a'",
        r#"1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got "string""#,
    );
    check_error("(a offset 1m)[5m]", "1:14: parse error: ranges only allowed for vector selectors");
    check_error("a offset 1m[5m]", "1:12: parse error: no offset modifiers allowed before range");
    check_error("a offset 1m offset 2m", "1:1: parse error: offset may not be set multiple times");
    check_error(
        "a[5m] anchored smoothed",
        "1:1: parse error: anchored and smoothed modifiers cannot be used together",
    );
    check_error("1[5m:]", "1:1: parse error: subquery is only allowed on instant vector, got scalar instead");
    check_error("info(a, b)", "1:9: parse error: expected label selectors only, got vector selector instead");
    check_error(r#"{a="\xff"}"#, r#"1:4: parse error: string "\xff" is not UTF-8"#);
    check_error("'a\\q'", "1:1: parse error: unknown escape sequence U+0071 'q'");
    check_error("\"a\nb\"", "1:1: parse error: unterminated quoted string");
    check_error("a !b", "1:3: parse error: unexpected character after '!': 'b'");
    check_error("$", "1:1: parse error: unexpected character: '$'");
    check_error("a @ start(5)", r#"1:11: parse error: unexpected number "5" in @, expected timestamp"#);
    check_error("a = b", r#"1:3: parse error: unexpected "=""#);
    check_error(
        "1 offset 5m",
        "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    );
}

#[test]
fn experimental_parts_need_their_feature() {
    let check = |query: &str, expected: &str| {
        let off = Features { duration_expressions: false, ..Features::default() };
        assert_eq!(parse(query, &off).unwrap_err().to_string(), expected, "{query}");
        assert!(parse(query, &Features::all()).is_ok(), "{query}");
    };
    check(
        "limitk(1, a)",
        "1:1: parse error: limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
    );
    check("sum(mad_over_time(a[5m]))", r#"1:5: parse error: function "mad_over_time" is not enabled"#);
    check("a[5m] anchored", "1:1: parse error: anchored modifier is experimental and not enabled");
    check("a smoothed", "1:1: parse error: smoothed modifier is experimental and not enabled");
    check("a + fill(0) b", "1:1: parse error: binop fill modifiers are experimental and not enabled");
    check("a[5m * 2]", "1:3: parse error: experimental duration expression is not enabled");
    check("a offset step()", "1:10: parse error: experimental duration expression is not enabled");
}

#[test]
fn nesting_is_bounded_in_every_direction() {
    let nested = [
        format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{}1", "-".repeat(100_000)),
        format!("1{}", " + 1".repeat(100_000)),
        format!("1{}", " ^ 1".repeat(100_000)),
        format!("a{}", "[5m:]".repeat(100_000)),
        format!("a[{}1{}]", "(".repeat(100_000), ")".repeat(100_000)),
        format!("a[1{}]", " + 1".repeat(100_000)),
        format!("a offset {}1", "-".repeat(100_000)),
        format!("{}a{}", "abs(".repeat(100_000), ")".repeat(100_000)),
    ];
    for query in nested {
        let error = parse(&query, &Features::all()).unwrap_err();
        assert_eq!(error.message, "expression is nested more than 500 levels deep", "{}", &query[..20]);
    }
    let deepest = format!("{}1{}", "(".repeat(MAX_DEPTH - 1), ")".repeat(MAX_DEPTH - 1));
    let expr = parse(&deepest, &Features::default()).unwrap();
    assert_eq!(expr.to_string(), deepest);
    assert_eq!(
        parse(&format!("a{}", " + a".repeat(MAX_DEPTH - 1)), &Features::default()).unwrap().span().end,
        4 * MAX_DEPTH - 3
    );
}

#[test]
fn ranges_keep_milliseconds() {
    let Ok(Expr::Matrix(matrix)) = parse("a[1.2345]", &Features::default()) else { panic!("no matrix") };
    assert_eq!(matrix.range, DurationArg::Fixed(1234));
}

#[test]
fn lone_selectors_give_their_matchers() {
    let matchers = parse_selector("up{job=~\"a|b\"}").unwrap();
    assert_eq!(matchers.iter().map(|m| m.name()).collect::<Vec<_>>(), ["job", "__name__"]);
    assert!(parse_selector("{}").is_ok());
    assert_eq!(parse_selector("up[5m]").unwrap_err().to_string(), "1:3: parse error: unexpected \"[\"");
    assert_eq!(parse_selector("1").unwrap_err().to_string(), "1:1: parse error: unexpected number \"1\"");
}

#[test]
fn nothing_is_compiled_after_an_expression_that_is_wrong() {
    let query = format!("a{{a=~\"(\"{}}} + b{{c=~\"d.+\"}}", ",b=~\"c.+\"".repeat(200));
    let mut parser = Parser::new(&query, Features::default());
    assert!(parser.query().is_err());
    assert_eq!(parser.regexes, 1);
    assert_eq!(parser.error.unwrap().message, "error parsing regexp: missing closing ): `(`");
}

#[test]
fn a_query_has_a_limit_of_regular_expressions() {
    let query = |count: usize| format!("a{{{}}} + b", ["c!~\"d.+\""].repeat(count).join(","));
    assert!(parse(&query(MAX_REGEX_MATCHERS), &Features::default()).is_ok());
    let error = parse(&query(MAX_REGEX_MATCHERS + 1), &Features::default()).unwrap_err();
    assert_eq!(error.message, "at least 257 regular expression matchers are over the limit of 256");
    let spread = ["a{b=~\"c.+\"}"].repeat(257).join(" + ");
    assert_eq!(parse(&spread, &Features::default()).unwrap_err().message, error.message);
}
