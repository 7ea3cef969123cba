//! Names of metrics, units and labels by the four translation strategies.
//!
//! Knows strategies and OTLP's units. Does not know messages or values.
//! Path: `otlp::walk` -> **here**.
//! Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility"; Prometheus' otlptranslator where that is open.

use super::settings::OtlpSettings;

/// What of a metric's kind its name shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedKind {
    /// A gauge.
    Gauge,
    /// A monotonic sum.
    Counter,
    /// Anything else.
    Other,
}

/// Why a name cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unnamed;

/// Appends the name of a metric to `out`, which is empty.
pub(super) fn metric(
    settings: &OtlpSettings,
    name: &str,
    unit: &str,
    kind: NamedKind,
    out: &mut String,
) -> Result<(), Unnamed> {
    if name.is_empty() {
        return Err(Unnamed);
    }
    let strategy = settings.translation_strategy;
    match (strategy.escapes(), strategy.adds_suffixes()) {
        (true, true) => escaped_with_suffixes(name, unit, kind, out),
        (true, false) => escaped(name, out),
        (false, true) => unescaped_with_suffixes(name, unit, kind, out),
        (false, false) => out.push_str(name),
    }
    let is_changed_to_nothing = strategy.escapes() && out != name && out.bytes().all(|byte| byte == b'_');
    if out.is_empty() || is_changed_to_nothing { Err(Unnamed) } else { Ok(()) }
}

fn is_metric_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == ':'
}

/// Joins `part` to the name, with `_` between two parts.
fn join(out: &mut String, part: &str) {
    if !out.is_empty() {
        out.push('_');
    }
    out.push_str(part);
}

/// A name may not begin with a digit.
fn guard_digit(out: &mut String) {
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
}

fn escaped(name: &str, out: &mut String) {
    let parts = name.split(|c| !is_metric_char(c) && c != '_').filter(|part| !part.is_empty());
    parts.for_each(|part| join(out, part));
    guard_digit(out);
}

fn escaped_with_suffixes(name: &str, unit: &str, kind: NamedKind, out: &mut String) {
    let suffix = type_suffix(unit, kind);
    let tokens = || name.split(|c| !is_metric_char(c)).filter(|token| !token.is_empty());
    let (main, per) = unit_parts(unit);
    let (main, per) = (clean_unit(main), clean_unit(&per_text(per)));
    let per = if per == "per_" { "" } else { per.strip_suffix('_').unwrap_or(&per) };
    let mut main = main.as_str();
    if tokens().any(|token| token == main) {
        main = "";
    }
    let per = if tokens().any(|token| token == per) { "" } else { per };
    if !per.is_empty() {
        main = main.strip_suffix('_').unwrap_or(main);
    }
    let parts = tokens().chain([main, per]).filter(|part| !part.is_empty() && Some(*part) != suffix);
    parts.for_each(|part| join(out, part));
    if let Some(suffix) = suffix {
        join(out, suffix);
    }
    guard_digit(out);
}

fn unescaped_with_suffixes(name: &str, unit: &str, kind: NamedKind, out: &mut String) {
    let suffix = type_suffix(unit, kind);
    let (main, per) = unit_parts(unit);
    let per = per_text(per);
    let mut stem = suffix.map_or(name, |suffix| without_suffix(name, suffix));
    if !per.is_empty() {
        stem = without_suffix(stem, &per);
    }
    out.push_str(stem);
    if !main.is_empty() && !stem.ends_with(main) {
        out.push('_');
        out.push_str(main);
    }
    for part in [per.as_str(), suffix.unwrap_or_default()].iter().filter(|part| !part.is_empty()) {
        out.push('_');
        out.push_str(part);
    }
}

/// `name` without `suffix` and the one character before it, if anything is left then.
fn without_suffix<'a>(name: &'a str, suffix: &str) -> &'a str {
    let stem = name.strip_suffix(suffix).and_then(|stem| {
        let mut chars = stem.chars();
        chars.next_back();
        Some(chars.as_str()).filter(|stem| !stem.is_empty())
    });
    stem.unwrap_or(name)
}

/// The suffix that tells the kind.
fn type_suffix(unit: &str, kind: NamedKind) -> Option<&'static str> {
    match kind {
        NamedKind::Counter => Some("total"),
        NamedKind::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    }
}

/// The unit as metadata and the label `__unit__` tell it.
pub(super) fn unit(unit: &str) -> String {
    let (main, per) = unit_parts(unit);
    let (main, per) = (clean_unit(main), clean_unit(&per_text(per)));
    let mut text = main;
    if !per.is_empty() {
        join(&mut text, &per);
    }
    let trimmed = text.strip_prefix('_').unwrap_or(&text);
    trimmed.strip_suffix('_').unwrap_or(trimmed).to_owned()
}

/// The part before the first `/` and the one behind it, in the words of Prometheus; empty for annotations.
fn unit_parts(unit: &str) -> (&str, &str) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let told = |part: &str| !part.contains(['{', '}']);
    let (main, per) = (main.trim(), per.trim());
    let main = if told(main) { base_unit(main) } else { "" };
    let per = if told(per) { per_unit(per) } else { "" };
    (main, per)
}

fn per_text(per: &str) -> String {
    if per.is_empty() { String::new() } else { format!("per_{per}") }
}

fn base_unit(unit: &str) -> &str {
    match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        "1" => "",
        other => other,
    }
}

fn per_unit(unit: &str) -> &str {
    match unit {
        "s" => "second",
        "m" => "minute",
        "h" => "hour",
        "d" => "day",
        "w" => "week",
        "mo" => "month",
        "y" => "year",
        other => other,
    }
}

/// The unit in characters of metric names: no two `_` in a row and none in front.
fn clean_unit(unit: &str) -> String {
    let mut clean = String::with_capacity(unit.len());
    for c in unit.chars().map(|c| if is_metric_char(c) { c } else { '_' }) {
        if c != '_' || !(clean.is_empty() || clean.ends_with('_')) {
            clean.push(c);
        }
    }
    clean
}

/// Appends the label name of an attribute to `out`.
pub(super) fn label(settings: &OtlpSettings, attribute: &str, out: &mut String) -> Result<(), Unnamed> {
    let start = out.len();
    if !settings.translation_strategy.escapes() {
        out.push_str(attribute);
    } else if settings.label_name_preserve_multiple_underscores {
        out.extend(attribute.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    } else {
        collapsed(attribute, out);
    }
    if out[start..].bytes().all(|byte| byte == b'_') {
        return Err(Unnamed);
    }
    if settings.translation_strategy.escapes() {
        let name = &out[start..];
        let has_one_underscore = name.starts_with('_') && !name.starts_with("__");
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert_str(start, "key_");
        } else if has_one_underscore && settings.label_name_underscore_sanitization {
            out.insert_str(start, "key");
        }
    }
    Ok(())
}

/// Escapes with one `_` for each run; those around a reserved name are kept.
fn collapsed(attribute: &str, out: &mut String) {
    let reserved = attribute.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    if reserved.is_some() {
        out.push_str("__");
    }
    let mut is_behind_underscore = false;
    for c in reserved.unwrap_or(attribute).chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !is_behind_underscore {
            out.push(c);
        }
        is_behind_underscore = c == '_';
    }
    if reserved.is_some() {
        out.push_str("__");
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::TranslationStrategy::{self, *};
    use super::*;

    fn with(translation_strategy: TranslationStrategy) -> OtlpSettings {
        OtlpSettings { translation_strategy, ..OtlpSettings::default() }
    }

    #[track_caller]
    fn check_metric(name: &str, unit: &str, kind: NamedKind, expected: [Option<&str>; 4]) {
        let strategies = [
            UnderscoreEscapingWithSuffixes,
            NoUTF8EscapingWithSuffixes,
            UnderscoreEscapingWithoutSuffixes,
            NoTranslation,
        ];
        for (strategy, expected) in strategies.into_iter().zip(expected) {
            let mut out = String::new();
            let named = metric(&with(strategy), name, unit, kind, &mut out).ok();
            assert_eq!(named.map(|()| out.as_str()), expected, "{name:?} in {unit:?} by {strategy:?}");
        }
    }

    #[test]
    fn metric_names_by_each_strategy() {
        use NamedKind::{Counter, Gauge, Other};
        let cases: &[(&str, &str, NamedKind, [&str; 4])] = &[
            (
                "http.requests",
                "",
                Counter,
                ["http_requests_total", "http.requests_total", "http_requests", "http.requests"],
            ),
            (
                "http.requests",
                "1",
                Counter,
                ["http_requests_total", "http.requests_total", "http_requests", "http.requests"],
            ),
            ("a_total", "", Counter, ["a_total", "a_total", "a_total", "a_total"]),
            ("a.total.b", "", Counter, ["a_b_total", "a.total.b_total", "a_total_b", "a.total.b"]),
            ("total", "", Counter, ["total", "total_total", "total", "total"]),
            ("cpu.use", "1", Gauge, ["cpu_use_ratio", "cpu.use_ratio", "cpu_use", "cpu.use"]),
            (
                "cpu.use_ratio",
                "1",
                Gauge,
                ["cpu_use_ratio", "cpu.use_ratio", "cpu_use_ratio", "cpu.use_ratio"],
            ),
            ("d", "s", Other, ["d_seconds", "d_seconds", "d", "d"]),
            ("d.seconds", "s", Other, ["d_seconds", "d.seconds", "d_seconds", "d.seconds"]),
            (
                "d.seconds.max",
                "s",
                Other,
                ["d_seconds_max", "d.seconds.max_seconds", "d_seconds_max", "d.seconds.max"],
            ),
            ("io", "By", Counter, ["io_bytes_total", "io_bytes_total", "io", "io"]),
            (
                "io.bytes.total",
                "By",
                Counter,
                ["io_bytes_total", "io.bytes_total", "io_bytes_total", "io.bytes.total"],
            ),
            ("io", "By/s", Gauge, ["io_bytes_per_second", "io_bytes_per_second", "io", "io"]),
            ("rate", "1/s", Gauge, ["rate_per_second", "rate_per_second", "rate", "rate"]),
            ("rate", "{req}/m", Gauge, ["rate_per_minute", "rate_per_minute", "rate", "rate"]),
            ("jobs", "{job}", Other, ["jobs", "jobs", "jobs", "jobs"]),
            ("io", "By/{job}", Other, ["io_bytes", "io_bytes", "io", "io"]),
            ("load", "%", Gauge, ["load_percent", "load_percent", "load", "load"]),
            ("t", " ms ", Gauge, ["t_milliseconds", "t_milliseconds", "t", "t"]),
            ("t", "Cel", Gauge, ["t_celsius", "t_celsius", "t", "t"]),
            ("t", "my unit", Gauge, ["t_my_unit", "t_my unit", "t", "t"]),
            ("1st.metric", "", Other, ["_1st_metric", "1st.metric", "_1st_metric", "1st.metric"]),
            ("a..b__c", "", Other, ["a_b_c", "a..b__c", "a_b__c", "a..b__c"]),
            ("a:b", "", Other, ["a:b", "a:b", "a:b", "a:b"]),
            ("größe", "", Other, ["gr_e", "größe", "gr_e", "größe"]),
            ("_a_", "", Other, ["a", "_a_", "_a_", "_a_"]),
        ];
        for (name, unit, kind, expected) in cases {
            check_metric(name, unit, *kind, expected.map(Some));
        }
    }

    #[test]
    fn names_of_which_nothing_is_left_are_refused() {
        check_metric("", "", NamedKind::Other, [None; 4]);
        check_metric("@#", "", NamedKind::Other, [None, Some("@#"), None, Some("@#")]);
        check_metric("@_#_", "", NamedKind::Other, [None, Some("@_#_"), None, Some("@_#_")]);
    }

    #[test]
    fn a_delimiter_of_several_bytes_is_cut_whole() {
        check_metric(
            "aé·total",
            "",
            NamedKind::Counter,
            [Some("a_total"), Some("aé_total"), Some("a_total"), Some("aé·total")],
        );
    }

    #[test]
    fn units_in_metadata() {
        let cases = [
            ("s", "seconds"),
            ("By/s", "bytes_per_second"),
            ("1", ""),
            ("1/s", "per_second"),
            ("{a}/{b}", ""),
            ("req/mo", "req_per_month"),
            ("°C", "C"),
            ("m/s^2", "meters_per_s_2"),
        ];
        for (told, expected) in cases {
            assert_eq!(unit(told), expected, "{told}");
        }
    }

    #[test]
    fn label_names_escaped_or_not() {
        let escaping = OtlpSettings::default();
        let collapsing = OtlpSettings { label_name_preserve_multiple_underscores: false, ..escaping.clone() };
        let plain = OtlpSettings { label_name_underscore_sanitization: false, ..escaping.clone() };
        let unescaped = with(NoTranslation);
        let cases: &[(&str, [Option<&str>; 4])] = &[
            (
                "http.method",
                [Some("http_method"), Some("http_method"), Some("http_method"), Some("http.method")],
            ),
            ("a:b", [Some("a_b"), Some("a_b"), Some("a_b"), Some("a:b")]),
            ("1a", [Some("key_1a"), Some("key_1a"), Some("key_1a"), Some("1a")]),
            ("_a", [Some("key_a"), Some("key_a"), Some("_a"), Some("_a")]),
            ("__a", [Some("__a"), Some("key_a"), Some("__a"), Some("__a")]),
            ("__a__b__", [Some("__a__b__"), Some("__a_b__"), Some("__a__b__"), Some("__a__b__")]),
            ("a..b", [Some("a__b"), Some("a_b"), Some("a__b"), Some("a..b")]),
            ("字a", [Some("key_a"), Some("key_a"), Some("_a"), Some("字a")]),
            ("", [None; 4]),
            ("__", [None; 4]),
            ("字", [None, None, None, Some("字")]),
        ];
        for (attribute, expected) in cases {
            for (settings, expected) in [&escaping, &collapsing, &plain, &unescaped].iter().zip(expected) {
                let mut out = "x".to_owned();
                let named = label(settings, attribute, &mut out).ok();
                assert_eq!(named.map(|()| &out[1..]), *expected, "{attribute:?} by {settings:?}");
            }
        }
    }
}
