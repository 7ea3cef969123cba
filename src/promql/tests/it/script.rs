//! Reads scripts: sections of `load` and `eval` commands.

use crate::histograms::{Hist, from_classic};
use crate::lines::{Item, duration, metric, number, offsets, unquote, values};
use quorate_model::{Labels, LabelsBuilder};
use regex::Regex;
use std::collections::BTreeMap;

/// A sample to be loaded: time, value, start timestamp.
pub(crate) type Point = (i64, Item, i64);

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    Load(BTreeMap<Labels, Vec<Point>>),
    Eval(Box<Eval>),
}

/// What an expectation compares a text with.
#[derive(Debug)]
pub(crate) enum Pattern {
    Text(String),
    Regex(Regex),
    /// Every text.
    Any,
}

impl Pattern {
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Text(expected) => text == expected,
            Self::Regex(expected) => expected.is_match(text),
            Self::Any => true,
        }
    }
}

/// One case.
#[derive(Debug, Default)]
pub(crate) struct Eval {
    pub(crate) line: usize,
    pub(crate) expr: String,
    pub(crate) is_range: bool,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
    /// `fail`, `warn`, `info` or `ordered` of `eval_fail` and so on.
    pub(crate) legacy: String,
    pub(crate) expects: BTreeMap<String, Vec<Pattern>>,
    pub(crate) scalar: Option<f64>,
    pub(crate) string: Option<String>,
    /// Series by labels, with their place from 1.
    pub(crate) expected: BTreeMap<Labels, (usize, Vec<Item>)>,
    pub(crate) instant_only: bool,
}

impl Eval {
    pub(crate) fn fails(&self) -> bool {
        self.legacy == "fail" || self.expects.contains_key("fail")
    }

    pub(crate) fn ordered(&self) -> bool {
        self.legacy == "ordered" || self.expects.contains_key("ordered")
    }
}

/// The sections of a script.
pub(crate) fn read(text: &str) -> Vec<Vec<Command>> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line }).collect();
    let mut sections = vec![Vec::new()];
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let end = at + lines[at..].iter().position(|l| l.is_empty()).unwrap_or(lines.len() - at);
        if line == "clear" {
            sections.push(Vec::new());
        } else if line.starts_with("load") {
            sections.last_mut().unwrap().push(Command::Load(load(&lines[at..end])));
            at = end;
        } else if line.starts_with("eval") {
            let (case, used) = eval(at + 1, &lines[at..end]);
            sections.last_mut().unwrap().push(Command::Eval(Box::new(case)));
            at += used - 1;
        } else {
            assert!(line.is_empty(), "line {}: unknown command {line:?}", at + 1);
        }
        at += 1;
    }
    sections
}

fn load(lines: &[&str]) -> BTreeMap<Labels, Vec<Point>> {
    let (command, step) = lines[0].split_once(' ').unwrap();
    let step = duration(step.trim());
    let mut series: BTreeMap<Labels, Vec<Point>> = BTreeMap::new();
    let mut starts: Option<Vec<Option<i64>>> = None;
    for line in &lines[1..] {
        if let Some((head, rest)) = line.split_once([' ', '\t'])
            && head.ends_with("@st")
        {
            starts = Some(offsets(rest));
            continue;
        }
        let (labels, rest) = metric(line);
        let starts = starts.take();
        let points = values(rest).into_iter().enumerate().filter(|(_, item)| *item != Item::Omitted);
        let points = points.map(|(i, item)| {
            let ts = i as i64 * step;
            let start = starts.as_ref().and_then(|starts| starts[i]).map_or(0, |offset| ts + offset);
            (ts, item, start)
        });
        series.insert(labels, points.collect());
    }
    if command == "load_with_nhcb" {
        add_custom(&mut series);
    }
    series
}

#[derive(Default)]
struct Parts {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: Option<f64>,
}

/// Adds to classic histograms those with custom buckets of the same name.
fn add_custom(series: &mut BTreeMap<Labels, Vec<Point>>) {
    let mut parts: BTreeMap<Labels, BTreeMap<i64, Parts>> = BTreeMap::new();
    for (labels, points) in series.iter() {
        let name = labels.metric_name().unwrap_or("");
        let Some(kind) = ["_bucket", "_count", "_sum"].into_iter().find(|end| name.ends_with(end)) else {
            continue;
        };
        let bound = labels.get("le").and_then(number);
        if kind == "_bucket" && bound.is_none_or(f64::is_nan) {
            continue;
        }
        let mut base = LabelsBuilder::new(labels);
        base.set("__name__", &name[..name.len() - kind.len()]).remove("le");
        for (ts, item, _) in points {
            let Item::Float(value) = item else { continue };
            let of_time = parts.entry(base.build()).or_default().entry(*ts).or_default();
            match kind {
                "_bucket" => of_time.buckets.push((bound.unwrap(), *value)),
                "_count" => of_time.count = Some(*value),
                _ => of_time.sum = Some(*value),
            }
        }
    }
    for (labels, times) in parts {
        let points = series.entry(labels).or_default();
        points.extend(times.into_iter().map(|(ts, parts)| {
            let h: Hist = from_classic(&parts.buckets, parts.count, parts.sum);
            (ts, Item::Histogram(h), 0)
        }));
        points.sort_by_key(|p| p.0);
    }
}

/// Reads a case; the number of lines that it takes.
fn eval(line: usize, lines: &[&str]) -> (Eval, usize) {
    let mut case = head(line, lines[0]);
    let expect =
        static_regex!(r"^expect\s+(ordered|fail|warn|no_warn|info|no_info)(?:\s+(regex|msg):(.+))?$");
    let vector = static_regex!(r"^expect range vector\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+)$");
    let mut position = 0;
    for (at, line) in lines.iter().enumerate().skip(1) {
        if let Some(text) = line.strip_prefix("expected_fail_message") {
            case.expects.insert("fail".into(), vec![Pattern::Text(text.trim().into())]);
            return (case, at + 1);
        }
        if let Some(text) = line.strip_prefix("expected_fail_regexp") {
            case.expects.insert("fail".into(), vec![Pattern::Regex(Regex::new(text.trim()).unwrap())]);
            return (case, at + 1);
        }
        if let Some(found) = vector.captures(line) {
            (case.start, case.end, case.step) =
                (duration(&found[1]), duration(&found[2]), duration(&found[3]));
            case.instant_only = true;
        } else if let Some(text) = line.strip_prefix("expect string") {
            case.string = Some(unquote(text.trim()));
            case.instant_only = true;
        } else if let Some(found) = expect.captures(line) {
            let pattern = match (found.get(2).map(|m| m.as_str()), found.get(3)) {
                (Some("msg"), Some(text)) => Pattern::Text(text.as_str().trim().into()),
                (Some(_), Some(text)) => Pattern::Regex(Regex::new(text.as_str().trim()).unwrap()),
                _ => Pattern::Any,
            };
            case.expects.entry(found[1].into()).or_default().push(pattern);
        } else if let Some(value) = number(line) {
            case.scalar = Some(value);
            return (case, at + 1);
        } else {
            position += 1;
            let (labels, rest) = metric(line);
            case.expected.insert(labels, (position, values(rest)));
        }
    }
    (case, lines.len())
}

fn head(line: usize, text: &str) -> Eval {
    let instant = static_regex!(r"^eval(?:_(fail|warn|ordered|info))?\s+instant\s+(?:at\s+(.+?))?\s+(.+)$");
    let range = static_regex!(
        r"^eval(?:_(fail|warn|info))?\s+range\s+from\s+(.+)\s+to\s+(.+)\s+step\s+(.+?)\s+(.+)$"
    );
    let legacy = |found: &regex::Captures<'_>| found.get(1).map_or("", |m| m.as_str()).to_owned();
    if let Some(found) = instant.captures(text) {
        let at = duration(&found[2]);
        return Eval {
            line,
            expr: found[3].into(),
            start: at,
            end: at,
            legacy: legacy(&found),
            ..Eval::default()
        };
    }
    let found = range.captures(text).unwrap_or_else(|| panic!("line {line}: bad eval command {text:?}"));
    Eval {
        line,
        expr: found[5].into(),
        is_range: true,
        start: duration(&found[2]),
        end: duration(&found[3]),
        step: duration(&found[4]),
        legacy: legacy(&found),
        ..Eval::default()
    }
}
