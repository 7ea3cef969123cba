//! Prometheus' text format: writing figures that are read at the moment of the scrape, and reading a whole
//! page back for self-monitoring.
//!
//! Source: Prometheus "Exposition formats", text version 0.0.4.

use crate::http::float::push_float;
use quorate_model::Labels;
use std::collections::BTreeMap;

/// Writes families of samples.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Goes on after `text`, which ends with a line feed or is empty.
    pub fn after(text: String) -> Self {
        Self { text }
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// Starts a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.text.push_str(if at == 0 { "{" } else { "," });
            self.text.push_str(label);
            self.text.push_str("=\"");
            push_escaped(&mut self.text, text);
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let mut digits = Vec::with_capacity(24);
        push_float(&mut digits, value);
        self.text.push_str(std::str::from_utf8(&digits).unwrap_or("NaN"));
        self.text.push('\n');
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// Reads the samples of a page and gives each to `take` with its labels, the metric name among them.
///
/// Comments are skipped, and so is a line that is not well formed: the page is our own. Times are ignored.
/// Returns how many lines were not well formed.
pub fn read_page(page: &str, mut take: impl FnMut(Labels, f64)) -> usize {
    let mut refused = 0;
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match read_line(line) {
            Some((labels, value)) => take(labels, value),
            None => refused += 1,
        }
    }
    refused
}

/// What a page says about a family of metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `summary`; empty if the page does not say.
    pub kind: String,
    /// What it is.
    pub help: String,
}

/// Reads the families of a page, by name.
pub fn read_families(page: &str) -> Vec<Family> {
    let mut families: BTreeMap<&str, (&str, String)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().0 = kind.trim();
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name).or_default().1 = unescape(help);
        }
    }
    let family = |(name, (kind, help)): (&str, (&str, String))| Family {
        name: name.to_owned(),
        kind: kind.to_owned(),
        help,
    };
    families.into_iter().map(family).collect()
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                other => plain.extend(other),
            },
            c => plain.push(c),
        }
    }
    plain
}

fn read_line(line: &str) -> Option<(Labels, f64)> {
    let name_end = line.find(['{', ' '])?;
    let mut pairs = vec![(quorate_model::METRIC_NAME, line[..name_end].to_owned())];
    let mut rest = &line[name_end..];
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels;
        while !rest.starts_with('}') {
            let (name, after) = rest.split_once("=\"")?;
            let (value, after) = read_value(after)?;
            pairs.push((name, value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some((Labels::from_pairs(pairs), value))
}

/// The value up to its closing quote, and what follows it.
fn read_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_read_with_type_and_help() {
        let mut page =
            Exposition::after("# HELP b_total Two \\\\ and\\nmore.\n# TYPE b_total counter\n".to_owned());
        page.gauge("a", "Help of a.", 1.0);
        let family = |name: &str, kind: &str, help: &str| Family {
            name: name.to_owned(),
            kind: kind.to_owned(),
            help: help.to_owned(),
        };
        let expected =
            [family("a", "gauge", "Help of a."), family("b_total", "counter", "Two \\ and\nmore.")];
        assert_eq!(read_families(&page.finish()), expected);
    }

    #[test]
    fn a_written_page_is_read_back() {
        let mut page = Exposition::default();
        page.gauge("up", "Help.", 1.0);
        page.family("requests_total", "counter", "Help.");
        page.sample("requests_total", &[("path", "/a,b}\"\\\n"), ("code", "200")], 1e21);
        page.sample("requests_total", &[("le", "+Inf")], f64::INFINITY);
        let mut read = Vec::new();
        assert_eq!(read_page(&page.finish(), |labels, value| read.push((labels, value))), 0);
        let labelled = [("__name__", "requests_total"), ("path", "/a,b}\"\\\n"), ("code", "200")];
        assert_eq!(
            read,
            [
                (Labels::from_pairs([("__name__", "up")]), 1.0),
                (Labels::from_pairs(labelled), 1e21),
                (Labels::from_pairs([("__name__", "requests_total"), ("le", "+Inf")]), f64::INFINITY),
            ]
        );
    }

    #[test]
    fn lines_that_are_not_well_formed_are_counted() {
        assert_eq!(read_page("a{b=\"c 1\nnothing\nup x\n\nup 1 1700000000000\n", |_, _| {}), 3);
    }
}
