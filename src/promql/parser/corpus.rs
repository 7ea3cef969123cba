//! Queries that others wrote, and queries that nobody would write.

use crate::ast::Expr;
use crate::{Features, format, parse, parse_json};
use proptest::prelude::*;
use regex::Regex;
use std::path::Path;

/// Place, text and whether it may fail, of each query in the Prometheus project's test scripts, which are looked for
/// beside the repository.
fn queries() -> Option<Vec<(String, String, bool)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/promqltest/testdata");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no scripts at {}", folder.display());
        return None;
    };
    let head =
        Regex::new(r"^eval\S*\s+(?:instant\s+(?:at\s+\S+)?|range\s+from\s.+\sstep\s+\S+)\s+(.+)$").unwrap();
    let mut queries = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(parts) = head.captures(line) else { continue };
            let below = lines[at + 1..].iter().take_while(|line| !line.is_empty());
            let may_fail =
                line.starts_with("eval_fail") || below.clone().any(|l| l.starts_with("expect fail"));
            queries.push((format!("{}:{}", path.display(), at + 1), parts[1].to_owned(), may_fail));
        }
    }
    Some(queries)
}

#[test]
fn queries_of_prometheus_tests_are_read_and_printed() {
    let Some(queries) = queries() else { return };
    let mut wrong = Vec::new();
    for (place, query, may_fail) in &queries {
        match parse(query, &Features::all()) {
            Ok(expr) => check_texts(query, &expr),
            Err(_) if *may_fail => {}
            Err(error) => wrong.push(format!("{place}: {query}: {error}")),
        }
    }
    assert!(queries.len() > 2_000, "only {} queries found", queries.len());
    assert!(wrong.is_empty(), "{} of {} queries:\n{}", wrong.len(), queries.len(), wrong.join("\n"));
}

/// Both printed forms parse to what they were printed from, and every node lies in the query.
fn check_texts(query: &str, expr: &Expr) {
    let printed = expr.to_string();
    for text in [&printed, &format(expr)] {
        let again = parse(text, &Features::all()).unwrap_or_else(|e| panic!("{query} prints as {text}: {e}"));
        assert_eq!(again.to_string(), printed, "{query}");
    }
    assert!(parse_json(expr).is_object(), "{query}");
    check_spans(query, expr);
}

fn check_spans(query: &str, expr: &Expr) {
    let span = expr.span();
    assert!(
        span.start < span.end && query.get(span.start..span.end).is_some(),
        "{query}: {span:?} of {expr}"
    );
    for child in expr.children() {
        let inner = child.span();
        assert!(
            span.start <= inner.start && inner.end <= span.end,
            "{query}: {inner:?} of {child} in {span:?}"
        );
        check_spans(query, child);
    }
}

/// Without `Inf`: it prints as `+Inf`, whose sign binds weaker than `^`. So it does in Prometheus.
const WORDS: &[&str] = &[
    "a",
    "foo:bar",
    "sum",
    "topk",
    "count_values",
    "rate",
    "abs",
    "time",
    "info",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "fill",
    "fill_left",
    "offset",
    "anchored",
    "smoothed",
    "start",
    "end",
    "step",
    "range",
    "min_of",
    "and",
    "or",
    "unless",
    "atan2",
    "NaN",
    "0x1f",
    "1",
    "2.5e3",
    "5m",
    "1h30m",
    "'s'",
    "`r`",
    "\"\\u00e9\"",
    "(",
    ")",
    "()",
    "{",
    "}",
    "{a='b'}",
    "{\"u t\", c!~\"d.*\"}",
    "[",
    "]",
    "[5m]",
    "[1h:5m]",
    "[1h:]",
    "[step()*2]",
    ",",
    ":",
    "@",
    "@ 10",
    "@ end()",
    "+",
    "-",
    "*",
    "/",
    "%",
    "^",
    "==",
    "!=",
    "<",
    ">=",
    "</",
    ">/",
    "=",
    "=~",
    "# c\n",
    "\n",
    "é",
    "\\",
    "$",
];

proptest! {
    #[test]
    fn whatever_parses_prints_as_itself(words in prop::collection::vec(prop::sample::select(WORDS), 1..12)) {
        let query = words.join(" ");
        match parse(&query, &Features::all()) {
            Ok(expr) => check_texts(&query, &expr),
            Err(error) => prop_assert!(error.span.start <= query.len(), "{query}: {error:?}"),
        }
    }

    #[test]
    fn expressions_of_all_kinds_print_as_themselves(query in expression()) {
        let expr = parse(&query, &Features::all()).unwrap_or_else(|e| panic!("{query}: {e}"));
        check_texts(&query, &expr);
    }

    #[test]
    fn no_text_makes_the_parser_panic(query in ".{0,60}") {
        let _ = parse(&query, &Features::all());
    }
}

/// Well-typed queries that evaluate to an instant vector.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a",
        "{b=~'c|d'}",
        "sum{x!='y'} @ 1.5",
        "a offset -min_of(step(), 5m)",
        "rate(a[5m] smoothed @ end() offset 1m)",
        "vector(1e-7 ^ -2)",
        "max_over_time(a[1h:step()])",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(6, 40, 3, |inner| {
        let op = prop::sample::select(vec![
            "+",
            "- on (l)",
            "* ignoring (l, m) group_left (n)",
            "^",
            "atan2",
            "and",
            "unless on ()",
            "or",
            "> bool",
            "== fill (0)",
            "</",
            "% fill_left (-1) fill_right (2)",
        ]);
        let wrap = prop::sample::select(vec![
            ("(", ")"),
            ("-", ""),
            ("sum without (a) (", ")"),
            ("topk(2, ", ") by (\"u t\")"),
            ("label_replace(", ", 'a', '$1', \"b\", `(.*)`)"),
            ("last_over_time((", ")[30m:] @ start())"),
            ("histogram_quantile(0.9, ", ")"),
            ("info(", ", {k=~'.*'})"),
        ]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(l, op, r)| format!("({l}) {op} {r}")),
            (wrap, inner).prop_map(|((before, after), e)| format!("{before}{e}{after}")),
        ]
    })
}
