//! Words of the script language: durations, numbers, metrics and lists of values.

use crate::histograms::{Hist, parse_histogram};
use quorate_model::{Labels, stale_nan};

/// One entry of a list of values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Omitted,
    Float(f64),
    Histogram(Hist),
}

/// A duration such as `1h30m`, in milliseconds.
pub(crate) fn duration(text: &str) -> i64 {
    if text == "0" {
        return 0;
    }
    let units = [("ms", 1), ("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000)];
    let more = [("m", 60_000), ("s", 1_000)];
    let part = static_regex!(r"^(\d+)(ms|[ywdhms])");
    let (mut rest, mut total) = (text, 0);
    while let Some(found) = part.captures(rest) {
        let unit = units.iter().chain(&more).find(|(unit, _)| *unit == &found[2]).unwrap().1;
        total += found[1].parse::<i64>().unwrap() * unit;
        rest = &rest[found[0].len()..];
    }
    assert!(rest.is_empty() && !text.is_empty(), "bad duration {text:?}");
    total
}

/// A number as Go reads it.
pub(crate) fn number(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let radix = |prefix: &str, radix| {
        lower.strip_prefix(prefix).and_then(|d| u64::from_str_radix(&d.replace('_', ""), radix).ok())
    };
    if let Some(integer) = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8)) {
        return Some(sign * integer as f64);
    }
    let plain = static_regex!(r"^(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)$");
    plain.is_match(&lower).then(|| sign * lower.parse::<f64>().unwrap())
}

/// A string literal without its quotes.
pub(crate) fn unquote(literal: &str) -> String {
    let quote = literal.chars().next().unwrap();
    let body = &literal[1..literal.len() - 1];
    if quote == '`' {
        return body.to_owned();
    }
    let mut out = Vec::new();
    let mut chars = body.chars();
    let mut utf8 = [0; 4];
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
            continue;
        }
        let escaped = chars.next().unwrap();
        let mut hex =
            |n: usize| u32::from_str_radix(&chars.by_ref().take(n).collect::<String>(), 16).unwrap();
        let c = match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'x' => {
                out.push(hex(2) as u8);
                continue;
            }
            'u' => char::from_u32(hex(4)).unwrap(),
            'U' => char::from_u32(hex(8)).unwrap(),
            other => other,
        };
        out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
    }
    String::from_utf8(out).unwrap()
}

/// Reads `name{label="value", ...}` at the front of `text`; the labels and what follows them.
pub(crate) fn metric(text: &str) -> (Labels, &str) {
    let identifier = static_regex!(r"^[a-zA-Z_:][a-zA-Z0-9_:]*");
    let literal = static_regex!(r#"^("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)"#);
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    if let Some(name) = identifier.find(rest) {
        pairs.push(("__name__".into(), name.as_str().into()));
        rest = &rest[name.end()..];
    }
    let trimmed = rest.trim_start();
    if !trimmed.starts_with('{') || trimmed.starts_with("{{") {
        return (Labels::from_pairs(pairs), rest);
    }
    rest = &trimmed[1..];
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return (Labels::from_pairs(pairs), after);
        }
        let quoted = literal.find(rest);
        let key = quoted.or_else(|| identifier.find(rest)).unwrap_or_else(|| panic!("bad labels: {text}"));
        let name = if quoted.is_some() { unquote(key.as_str()) } else { key.as_str().to_owned() };
        rest = rest[key.end()..].trim_start();
        match rest.strip_prefix('=') {
            Some(after) => {
                rest = after.trim_start();
                let value = literal.find(rest).unwrap_or_else(|| panic!("bad label value: {text}"));
                pairs.push((name, unquote(value.as_str())));
                rest = &rest[value.end()..];
            }
            None => pairs.push(("__name__".into(), name)),
        }
    }
}

/// Expands a list such as `1+2x3 _ stale {{count:1}}x2`.
pub(crate) fn values(text: &str) -> Vec<Item> {
    let mut out = Vec::new();
    split(text).iter().for_each(|item| expand(item, &mut out));
    out
}

fn split(text: &str) -> Vec<String> {
    let (mut items, mut current, mut inside) = (Vec::new(), String::new(), false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("{{") || rest.starts_with("}}") {
            inside = c == '{';
            current.push_str(&rest[..2]);
            rest = &rest[2..];
            continue;
        }
        if c.is_whitespace() && !inside {
            items.push(std::mem::take(&mut current));
        } else {
            current.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    items.push(current);
    items.retain(|item| !item.is_empty());
    items
}

fn expand(item: &str, out: &mut Vec<Item>) {
    let times = |found: Option<regex::Match<'_>>| found.map_or(0, |m| m.as_str().parse::<usize>().unwrap());
    let blank = static_regex!(r"^_(?:x(\d+))?$");
    if let Some(found) = blank.captures(item) {
        let count = found.get(1).map_or(1, |m| m.as_str().parse().unwrap());
        return out.extend(std::iter::repeat_n(Item::Omitted, count));
    }
    let histogram = static_regex!(r"^\{\{(.*?)\}\}(?:([+-])\{\{(.*?)\}\})?(?:x(\d+))?$");
    if let Some(found) = histogram.captures(item) {
        let (mut h, count) = (parse_histogram(&found[1]), times(found.get(4)));
        let step = found.get(3).map(|m| parse_histogram(m.as_str()));
        let sign = if found.get(2).is_some_and(|m| m.as_str() == "-") { -1.0 } else { 1.0 };
        if let Some(step) = &step {
            h.hint_set = step.hint_set;
        }
        out.push(Item::Histogram(h.clone()));
        for _ in 0..count {
            if let Some(step) = &step {
                h = h.combined(step, sign);
            }
            out.push(Item::Histogram(h.clone()));
        }
        return;
    }
    let float = static_regex!(
        r"(?x)^
        ([+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])|stale)
        (?:([+-](?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])))?
        (?:x(\d+))?$"
    );
    let found = float.captures(item).unwrap_or_else(|| panic!("bad value {item:?}"));
    let count = times(found.get(3));
    let mut value = if &found[1] == "stale" { stale_nan() } else { number(&found[1]).unwrap() };
    let step = found.get(2).map(|m| number(m.as_str()).unwrap());
    out.push(Item::Float(value));
    for _ in 0..count {
        if let Some(step) = step {
            value += step;
        }
        out.push(Item::Float(value));
    }
}

/// Expands a list of start time offsets such as `-1m+0sx3`, in milliseconds.
pub(crate) fn offsets(text: &str) -> Vec<Option<i64>> {
    let pattern = static_regex!(r"^([+-]?\d+[a-wyz]*)(?:([+-]\d+[a-wyz]*))?(?:x(\d+))?$");
    let blank = static_regex!(r"^_(?:x(\d+))?$");
    let signed = |text: &str| {
        let ms = duration(text.trim_start_matches(['+', '-']));
        if text.starts_with('-') { -ms } else { ms }
    };
    let mut out = Vec::new();
    for item in text.split_whitespace() {
        if let Some(found) = blank.captures(item) {
            let count = found.get(1).map_or(1, |m| m.as_str().parse().unwrap());
            out.extend(std::iter::repeat_n(None, count));
            continue;
        }
        let found = pattern.captures(item).unwrap_or_else(|| panic!("bad start time {item:?}"));
        let (first, step) = (signed(&found[1]), found.get(2).map_or(0, |m| signed(m.as_str())));
        let count: i64 = found.get(3).map_or(0, |m| m.as_str().parse().unwrap());
        out.extend((0..=count).map(|i| Some(first + step * i)));
    }
    out
}
