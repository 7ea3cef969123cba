//! `info`: adds the labels of info metrics, such as `target_info`, to series of the same target.
//!
//! A target is known by its `instance` and `job`. Info series are looked up at the time at which the first argument
//! looks at its samples. Source: Prometheus 3.14, `evalInfo`.

use super::column::{Column, Columns, same_labels};
use super::labels::{metric_name, text};
use super::points::Points;
use super::poll::Poll;
use super::selectors::Take;
use super::{Evaluator, Sink};
use crate::ast::RangeMode;
use crate::engine::QueryError;
use crate::plan::{Call, Node, Selector, TimeGrid, WindowInput};
use crate::source::SelectRequest;
use quorate_model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher, SeriesBuffer, TimeRange};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The labels by which a target is known.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// What the second argument asks for.
struct Wanted {
    /// Matchers of the names of info metrics.
    names: Vec<Matcher>,
    /// Matchers of their other labels; if there are any, only labels that they name are added.
    data: Vec<Matcher>,
}

/// Info series and the times of their samples.
struct InfoSeries<'q> {
    columns: Columns<'q>,
    /// Series by metric name and identifying labels.
    by_target: BTreeMap<String, HashMap<[String; 2], Vec<usize>>>,
}

impl<'q> Evaluator<'q> {
    /// Hands on the series of `info(vector, {matchers})`.
    pub(super) fn stream_info(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let before = self.held;
        let base = self.collect(&call.args[0], grid)?;
        let wanted = Wanted::new(call.args.get(1));
        let is_info = |column: &Column| wanted.names.iter().all(|m| m.matches(metric_name(&column.labels)));
        let infos = self.info_series(&call.args[0], &base, &wanted, &is_info, grid)?;
        let mut join =
            Join { infos: &infos, wanted: &wanted, rows: HashMap::new(), out: Columns::new(self.guard) };
        for column in base.iter() {
            self.guard.check()?;
            if is_info(column) {
                for step in column.points.presence().iter() {
                    self.poll.touched(1)?;
                    join.put(&column.labels, column, step, grid)?;
                }
            } else {
                join.enrich(&self.poll, column, grid)?;
            }
        }
        let out = join.out;
        drop((base, infos));
        self.held = before;
        self.hold(out.weight())?;
        self.replay(out, sink)
    }

    fn info_series(
        &mut self,
        input: &Node,
        base: &Columns<'q>,
        wanted: &Wanted,
        is_info: &dyn Fn(&Column) -> bool,
        grid: TimeGrid,
    ) -> Result<InfoSeries<'q>, QueryError> {
        let mut infos = InfoSeries { columns: Columns::new(self.guard), by_target: BTreeMap::new() };
        let enriched = base.iter().filter(|column| !is_info(column));
        let matchers = matchers_of_targets(enriched, wanted);
        if matchers.is_empty() {
            return Ok(infos);
        }
        let selector = looks_at(input);
        let (first, last) = selector.at.map_or((grid.start, grid.end()), |at| (at, at));
        let lookback = self.options.lookback_delta_ms;
        let range = TimeRange::new(first - selector.offset - lookback + 1, last - selector.offset);
        let selection = self
            .source
            .select(&SelectRequest { matchers: &matchers, range, step_ms: grid.step }, self.guard)?;
        self.stats.series += selection.len() as u64;
        let mut buffer = SeriesBuffer::default();
        let mut column = Column::new(grid.steps);
        for index in 0..selection.len() {
            self.guard.check()?;
            selection.read(index, &mut buffer)?;
            self.stats.samples_read += buffer.len() as u64;
            column.labels = selection.labels(index).clone();
            if !buffer.histograms.is_empty() {
                let labels = text(&column.labels);
                return Err(QueryError::Execution(format!(
                    "this should be an info metric, with float samples: {labels}"
                )));
            }
            column.points.reset(grid.steps);
            self.look_up(Take::Time, &buffer, &selector, grid, &mut column.points)?;
            if !column.points.is_empty() {
                self.hold(column.points.weight())?;
                infos.push(&mut column)?;
            }
        }
        Ok(infos)
    }
}

/// What selects the info series of all targets of `enriched`, nothing if there is no target.
fn matchers_of_targets<'a>(enriched: impl Iterator<Item = &'a Column>, wanted: &Wanted) -> Vec<Matcher> {
    let mut values = [BTreeSet::new(), BTreeSet::new()];
    for column in enriched {
        for (name, values) in IDENTIFYING.iter().zip(&mut values) {
            values.extend(column.labels.get(name));
        }
    }
    let mut matchers: Vec<Matcher> =
        IDENTIFYING.iter().zip(&values).filter_map(|(name, values)| one_of(name, values)).collect();
    if !matchers.is_empty() {
        matchers.extend(wanted.data.iter().chain(&wanted.names).cloned());
    }
    matchers
}

/// A selector that looks at the times at which `input` looks at its samples.
fn looks_at(input: &Node) -> Selector {
    let (at, offset) = reference_time(input, &mut Vec::new()).unwrap_or((None, 0));
    let (mode, span) = (RangeMode::Plain, <_>::default());
    Selector { select: 0, matchers: Vec::new(), at, offset, mode, stats_only: false, span }
}

impl Wanted {
    fn new(selector: Option<&Node>) -> Self {
        let mut wanted = Self { names: Vec::new(), data: Vec::new() };
        if let Some(Node::Selector(selector)) = selector {
            for matcher in &selector.matchers {
                let list = if matcher.name() == METRIC_NAME { &mut wanted.names } else { &mut wanted.data };
                list.push(matcher.clone());
            }
        }
        let positive = wanted.names.iter().any(|m| matches!(m.op(), MatchOp::Equal | MatchOp::Regex));
        if wanted.names.is_empty() {
            wanted.names.push(Matcher::equal(METRIC_NAME, "target_info"));
        } else if !positive {
            wanted.names.extend(Matcher::new(METRIC_NAME, MatchOp::Regex, ".+_info"));
        }
        wanted
    }

    fn adds(&self, name: &str) -> bool {
        self.data.is_empty() || self.data.iter().any(|m| m.name() == name)
    }

    fn must_match(&self) -> bool {
        self.data.iter().any(|m| !m.matches_empty())
    }
}

/// A matcher for series whose label has one of the values; wider if there are too many of them. Series that fit no
/// target are left aside later.
fn one_of(name: &str, values: &BTreeSet<&str>) -> Option<Matcher> {
    if values.is_empty() {
        return None;
    }
    let expression = values.iter().map(|value| regex::escape(value)).collect::<Vec<_>>().join("|");
    let exact = Matcher::new(name, MatchOp::Regex, expression);
    exact.or_else(|_| Matcher::new(name, MatchOp::NotEqual, "")).ok()
}

/// The `@` time and offset at which the first selector of a node looks at its samples.
fn reference_time(node: &Node, subqueries: &mut Vec<(Option<i64>, i64)>) -> Option<(Option<i64>, i64)> {
    match node {
        Node::Number(_) | Node::Text(_) => None,
        Node::Selector(selector) => Some(anchored(selector.at, selector.offset, subqueries)),
        Node::Window(window) => match &window.input {
            WindowInput::Selector(selector) => Some(anchored(selector.at, selector.offset, subqueries)),
            WindowInput::Subquery(inner, _) => {
                subqueries.push((window.at, window.offset));
                let found = reference_time(inner, subqueries);
                subqueries.pop();
                found
            }
        },
        Node::Negate(inner) | Node::Once(inner) => reference_time(inner, subqueries),
        Node::Fragment(remote) => reference_time(&remote.node, subqueries),
        Node::Binary(binary) => {
            reference_time(&binary.lhs, subqueries).or_else(|| reference_time(&binary.rhs, subqueries))
        }
        Node::Aggregate(aggregate) => reference_time(&aggregate.input, subqueries),
        Node::Call(call) => call.args.iter().find_map(|arg| reference_time(arg, subqueries)),
    }
}

fn anchored(at: Option<i64>, offset: i64, subqueries: &[(Option<i64>, i64)]) -> (Option<i64>, i64) {
    let (mut at, mut offset) = (at, offset);
    for (outer_at, outer_offset) in subqueries.iter().rev() {
        if at.is_some() {
            break;
        }
        offset += outer_offset;
        at = *outer_at;
    }
    (at, offset)
}

fn target(labels: &Labels) -> [String; 2] {
    IDENTIFYING.map(|name| labels.get(name).unwrap_or("").to_owned())
}

impl InfoSeries<'_> {
    fn push(&mut self, column: &mut Column) -> Result<(), QueryError> {
        let at = self.columns.len();
        let by_target = self.by_target.entry(metric_name(&column.labels).to_owned()).or_default();
        by_target.entry(target(&column.labels)).or_default().push(at);
        self.columns.push(column)
    }

    /// For each info metric the newest series of a target at a step.
    fn newest(&self, candidates: &[&Vec<usize>], step: usize) -> Result<Vec<usize>, QueryError> {
        let mut found = Vec::new();
        for series in candidates {
            let mut best: Option<(f64, usize)> = None;
            for at in *series {
                let Some(time) = self.columns.get(*at).points.float(step) else { continue };
                match best {
                    Some((newest, _)) if newest > time => {}
                    Some((newest, other)) if newest == time => {
                        let [a, b] = [other, *at].map(|at| text(&self.columns.get(at).labels));
                        let ts = (time * 1000.0).round() as i64;
                        return Err(QueryError::Execution(format!(
                            "found duplicate series for info metric: existing {a} @ {ts}, new {b} @ {ts}"
                        )));
                    }
                    _ => best = Some((time, *at)),
                }
            }
            found.extend(best.map(|(_, at)| at));
        }
        Ok(found)
    }
}

struct Join<'a, 'q> {
    infos: &'a InfoSeries<'q>,
    wanted: &'a Wanted,
    rows: HashMap<Labels, usize>,
    out: Columns<'q>,
}

impl Join<'_, '_> {
    fn enrich(&mut self, poll: &Poll<'_>, column: &Column, grid: TimeGrid) -> Result<(), QueryError> {
        let target = target(&column.labels);
        let candidates: Vec<&Vec<usize>> =
            self.infos.by_target.values().filter_map(|series| series.get(&target)).collect();
        let mut last: Option<(Vec<usize>, Labels)> = None;
        for step in column.points.presence().iter() {
            poll.touched(1 + candidates.len())?;
            let found = self.infos.newest(&candidates, step)?;
            if found.is_empty() && self.wanted.must_match() {
                continue;
            }
            let labels = match last.take() {
                Some((same, labels)) if same == found => labels,
                _ => self.labels(&column.labels, &found)?,
            };
            self.put(&labels, column, step, grid)?;
            last = Some((found, labels));
        }
        Ok(())
    }

    fn labels(&self, base: &Labels, infos: &[usize]) -> Result<Labels, QueryError> {
        let mut builder = LabelsBuilder::new(base);
        for info in infos {
            let labels = &self.infos.columns.get(*info).labels;
            for (name, value) in labels.iter().filter(|(name, _)| *name != METRIC_NAME) {
                if !self.wanted.adds(name) || base.get(name).is_some() {
                    continue;
                }
                if builder.get(name).is_some_and(|other| other != value) {
                    return Err(QueryError::Execution(format!("conflicting label: {name}")));
                }
                builder.set(name, value);
            }
        }
        Ok(builder.build())
    }

    fn put(&mut self, labels: &Labels, from: &Column, step: usize, grid: TimeGrid) -> Result<(), QueryError> {
        let row = match self.rows.get(labels) {
            Some(row) => *row,
            None => {
                self.out.reserve(Points::bytes(grid.steps))?;
                let mut column = Column::new(grid.steps);
                (column.labels, column.drop_name) = (labels.clone(), from.drop_name);
                self.out.add(column);
                self.rows.insert(labels.clone(), self.out.len() - 1);
                self.out.len() - 1
            }
        };
        if self.out.get(row).points.has(step) {
            return Err(same_labels());
        }
        if let Some(point) = from.points.get(step) {
            self.out.reserve_for(row, &point)?;
            self.out.list_mut()[row].points.put(step, point);
        }
        Ok(())
    }
}
