//! Runs scripts.

use crate::compare::{Check, check_annotations, check_failure, check_middle, check_result};
use crate::lines::Item;
use crate::pin::pinned;
use crate::ranges::same_as_instants;
use crate::script::{Command, Eval, Point, read};
use crate::split::Split;
use quorate_model::Histogram;
use quorate_model::Labels;
use quorate_promql::ast::ValueType;
use quorate_promql::engine::{self, EngineOptions, NoGuard, QueryOutput, Value};
use quorate_promql::source::{MemSource, SeriesSource};
use quorate_promql::{Expr, Features, parse};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the cases of one file went.
pub(crate) struct Tally {
    pub(crate) file: String,
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
}

/// Runs all scripts of a directory.
pub(crate) fn directory(dir: &Path, features: Features) -> Vec<Tally> {
    scripts(dir).iter().map(|path| file(path, features)).collect()
}

fn scripts(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
    files.sort();
    files
}

fn file(path: &Path, features: Features) -> Tally {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut tally = Tally { file: name, passed: 0, failed: Vec::new() };
    for section in read(&std::fs::read_to_string(path).unwrap()) {
        let mut sources = Sources::new();
        for command in section {
            match command {
                Command::Load(series) => load(&mut sources, series),
                Command::Eval(eval) => match sources.case(&eval, features) {
                    Ok(()) => tally.passed += 1,
                    Err(problem) => {
                        tally.failed.push(format!("line {}: {}: {problem}", eval.line, eval.expr))
                    }
                },
            }
        }
    }
    tally
}

/// The same series as one source and dealt out to partitions.
pub(crate) struct Sources {
    pub(crate) split: Split,
}

impl Sources {
    pub(crate) fn new() -> Self {
        Self { split: Split::new(3) }
    }

    pub(crate) fn push_float(&mut self, labels: &Labels, ts_ms: i64, value: f64, start_ms: i64) {
        self.split.whole.push_float(labels, ts_ms, value, start_ms);
        self.split.part(labels).push_float(labels, ts_ms, value, start_ms);
    }

    fn push_histogram(&mut self, labels: &Labels, ts_ms: i64, value: Arc<Histogram>, start_ms: i64) {
        self.split.whole.push_histogram(labels, ts_ms, Arc::clone(&value), start_ms);
        self.split.part(labels).push_histogram(labels, ts_ms, value, start_ms);
    }

    fn case(&self, eval: &Eval, features: Features) -> Check {
        case(&self.split.whole, eval, features, true)?;
        case(&self.split, eval, features, false).map_err(|e| format!("in parts: {e}"))
    }
}

fn load(source: &mut Sources, series: BTreeMap<Labels, Vec<Point>>) {
    for (labels, points) in series {
        for (ts_ms, item, start_ms) in points {
            match item {
                Item::Omitted => {}
                Item::Float(value) => source.push_float(&labels, ts_ms, value, start_ms),
                Item::Histogram(h) => source.push_histogram(&labels, ts_ms, Arc::new(h.to_model()), start_ms),
            }
        }
    }
}

struct Query<'a> {
    source: &'a dyn SeriesSource,
    options: EngineOptions,
}

impl Query<'_> {
    fn instant(&self, expr: &Expr, at: i64) -> Result<QueryOutput, String> {
        engine::instant(self.source, expr, at, &self.options, &NoGuard).map_err(|e| e.to_string())
    }

    fn range(&self, expr: &Expr, start: i64, end: i64, step: i64) -> Result<QueryOutput, String> {
        engine::range(self.source, expr, start, end, step, &self.options, &NoGuard).map_err(|e| e.to_string())
    }
}

/// Runs a case. Pinned queries are not what their text says, so they cannot run in parts.
fn case(source: &dyn SeriesSource, case: &Eval, features: Features, pins: bool) -> Check {
    let expr = match parse(&case.expr, &features) {
        Ok(expr) => expr,
        Err(e) => return check_failure(case, &e.to_string()),
    };
    let options =
        EngineOptions { features, query_text: case.expr.as_str().into(), ..EngineOptions::default() };
    let query = Query { source, options };
    if case.is_range {
        return judge(case, query.range(&expr, case.start, case.end, case.step), |value| {
            check_result(case, value)
        })
        .map(|_| ());
    }
    // With `expect range vector` start and end are those of the samples, and the query runs at the end.
    instant(&query, case, &expr, case.end).map_err(|e| format!("instant: {e}"))?;
    let at = case.end;
    let others = if at == 0 { vec![-1000, 0, 1000] } else { vec![-10 * at, 0, at / 5, at, 10 * at] };
    if let Some(pinned) = pinned(&expr, at).filter(|_| pins) {
        for other in others {
            instant(&query, case, &pinned, other).map_err(|e| format!("pinned by @, at {other} ms: {e}"))?;
        }
    }
    Ok(())
}

/// Runs a case as an instant query at a time and as a range query around it.
fn instant(query: &Query<'_>, case: &Eval, expr: &Expr, at: i64) -> Check {
    let Some(value) = judge(case, query.instant(expr, at), |value| check_result(case, value))? else {
        return Ok(());
    };
    if case.instant_only || asks_for_context(case) {
        return Ok(());
    }
    let was_scalar = matches!(value, Value::Scalar { .. });
    let around =
        query.range(expr, at - 60_000, at + 60_000, 60_000).map_err(|e| format!("range mode: {e}"))?;
    check_middle(case, &around.value, at, was_scalar).map_err(|e| format!("range mode: {e}"))
}

/// Checks a result; `None` if it is an error that was expected.
fn judge(
    case: &Eval,
    result: Result<QueryOutput, String>,
    check: impl Fn(&Value) -> Check,
) -> Result<Option<Value>, String> {
    match result {
        Err(message) => check_failure(case, &message).map(|()| None),
        Ok(_) if case.fails() => Err("expected the query to fail, it did not".into()),
        Ok(output) => {
            check_annotations(case, &output)?;
            check(&output.value)?;
            Ok(Some(output.value))
        }
    }
}

/// Compares the queries of all scripts of a directory, on the data of their scripts, as range queries and as instant
/// queries; what differs.
pub(crate) fn ranges_against_instants(dir: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for path in scripts(dir) {
        for section in read(&std::fs::read_to_string(&path).unwrap()) {
            let mut sources = Sources::new();
            for command in section {
                match command {
                    Command::Load(series) => load(&mut sources, series),
                    Command::Eval(eval) => {
                        let problem = range_against_instants(&sources.split.whole, &eval).err();
                        problems.extend(
                            problem.map(|p| format!("{path:?}, line {}: {}: {p}", eval.line, eval.expr)),
                        );
                    }
                }
            }
        }
    }
    problems
}

fn range_against_instants(source: &MemSource, case: &Eval) -> Check {
    let Ok(expr) = parse(&case.expr, &Features::all()) else { return Ok(()) };
    let has_type = matches!(expr.value_type(), ValueType::Vector | ValueType::Scalar);
    if asks_for_context(case) || !has_type {
        return Ok(());
    }
    let options = EngineOptions { features: Features::all(), ..EngineOptions::default() };
    same_as_instants(source, &expr, (case.end - 333_000, case.end + 222_000, 37_000), &options)
}

/// Whether the query depends on the range that is asked for.
fn asks_for_context(case: &Eval) -> bool {
    let text = case.expr.to_lowercase();
    ["start()", "end()", "range()", "step()"].iter().any(|call| text.contains(call))
}
