//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`, over native histograms and over classic ones,
//! whose buckets are series with an `le` label.

use super::column::{Column, Columns};
use super::labels::{metric_name, with, without_metadata};
use super::notes::{Monotonicity, Notes};
use super::points::{Points, StepSet};
use super::scalars::ScalarColumn;
use super::{Evaluator, Sink};
use crate::ast::Span;
use crate::engine::QueryError;
use crate::functions::FunctionId;
use crate::functions::classic::{self, Bucket};
use crate::go_fmt::float_short;
use crate::histogram::FloatHistogram;
use crate::histogram::quantile as native;
use crate::plan::{Call, Node, TimeGrid};
use quorate_model::Labels;
use std::collections::HashMap;

/// What is asked of each histogram, with a value for each step.
enum Question<'q> {
    Quantile(ScalarColumn<'q>),
    Fraction(ScalarColumn<'q>, ScalarColumn<'q>),
}

/// The histograms of a vector.
struct Input<'q> {
    columns: Columns<'q>,
    /// Series with native histograms.
    natives: Vec<usize>,
    classics: Vec<Classic>,
    /// For each native series the classic one of the same labels.
    twins: HashMap<usize, usize>,
    span: Span,
}

/// A classic histogram: its labels without `le`, and its buckets' bounds and series.
struct Classic {
    labels: Labels,
    buckets: Vec<(f64, usize)>,
}

impl<'q> Evaluator<'q> {
    /// Hands on the results of one of the functions.
    pub(super) fn stream_buckets(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let before = self.held;
        let (vector, label, questions) = self.questions(call, grid)?;
        let input = self.histograms(&call.args[vector], call.arg_spans[vector], grid)?;
        let mut out = Columns::new(self.guard);
        for question in &questions {
            self.answer(question, label, &input, grid, &mut out)?;
        }
        drop(input);
        if !self.delays_names() {
            out.merge_same_labels()?;
        }
        self.held = before;
        self.hold(out.weight())?;
        self.replay(out, sink)
    }

    /// The position of the vector among the arguments, the label that quantiles are told apart by, and what is asked.
    fn questions(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
    ) -> Result<(usize, Option<&'q str>, Vec<Question<'q>>), QueryError> {
        let args = &call.args;
        match call.function {
            FunctionId::HistogramFraction => {
                let question = Question::Fraction(self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
                Ok((2, None, vec![question]))
            }
            FunctionId::HistogramQuantile => Ok((1, None, vec![self.quantile_question(call, 0, grid)?])),
            _ => {
                let Node::Text(label) = &args[1] else {
                    return Err(QueryError::Execution("histogram_quantiles needs a label name".into()));
                };
                let questions = (2..args.len())
                    .map(|at| self.quantile_question(call, at, grid))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok((0, Some(label), questions))
            }
        }
    }

    fn quantile_question(
        &mut self,
        call: &'q Call,
        at: usize,
        grid: TimeGrid,
    ) -> Result<Question<'q>, QueryError> {
        let quantiles = self.scalar(&call.args[at], grid)?;
        let (notes, span) = (&mut self.notes, call.arg_spans[at]);
        self.poll.each(&quantiles, |q| {
            if !(0.0..=1.0).contains(q) {
                notes.invalid_quantile(*q, span);
            }
        })?;
        Ok(Question::Quantile(quantiles))
    }

    /// Collects the histograms of a vector.
    fn histograms(&mut self, node: &'q Node, span: Span, grid: TimeGrid) -> Result<Input<'q>, QueryError> {
        let columns = self.collect(node, grid)?;
        let mut natives = Vec::new();
        let mut classics: Vec<Classic> = Vec::new();
        let mut by_labels: HashMap<Labels, usize> = HashMap::new();
        for (at, column) in columns.iter().enumerate() {
            if column.points.has_histograms() {
                natives.push(at);
            }
            if column.points.float_steps().next().is_none() {
                continue;
            }
            let le = column.labels.get("le").unwrap_or("");
            let Some(bound) = classic::parse_bound(le) else {
                let name = if self.delays_names() { metric_name(&column.labels) } else { "" };
                self.notes.bad_bucket_label(name, le, span);
                continue;
            };
            let labels = column.labels.without(|name| name == "le");
            let next = classics.len();
            let at_classic = *by_labels.entry(labels.clone()).or_insert(next);
            if at_classic == next {
                classics.push(Classic { labels, buckets: Vec::new() });
            }
            classics[at_classic].buckets.push((bound, at));
        }
        let twin = |at: &usize| Some((*at, *by_labels.get(&columns.get(*at).labels)?));
        let twins = natives.iter().filter_map(twin).collect();
        Ok(Input { columns, natives, classics, twins, span })
    }

    fn answer(
        &mut self,
        question: &Question<'_>,
        label: Option<&str>,
        input: &Input<'q>,
        grid: TimeGrid,
        out: &mut Columns<'q>,
    ) -> Result<(), QueryError> {
        let mut conflicts: HashMap<usize, StepSet> = HashMap::new();
        let mut results: Vec<(Labels, Points)> = Vec::new();
        for at in &input.natives {
            self.guard.check()?;
            let column = input.columns.get(*at);
            let twin = input.twins.get(at);
            out.reserve(Points::bytes(grid.steps))?;
            let mut points = Points::new(grid.steps);
            for (step, h) in column.points.histogram_steps() {
                self.poll.touched(h.weight() as usize)?;
                if let Some(twin) = twin.filter(|twin| input.has_buckets(**twin, step)) {
                    self.note_conflict(&column.labels, input.span);
                    conflicts.entry(*twin).or_insert_with(|| StepSet::new(grid.steps)).insert(step);
                    continue;
                }
                let name = if self.delays_names() { metric_name(&column.labels) } else { "" };
                points.set(step, question.of_native(step, h, name, input.span, &mut self.notes));
            }
            results.push((column.labels.clone(), points));
        }
        for (at, classic) in input.classics.iter().enumerate() {
            self.guard.check()?;
            out.reserve(Points::bytes(grid.steps))?;
            let points = self.of_classic(question, classic, conflicts.get(&at), input, grid)?;
            results.push((classic.labels.clone(), points));
        }
        for (labels, points) in results.into_iter().filter(|(_, points)| !points.is_empty()) {
            self.put_answer(question, label, labels, points, out)?;
        }
        Ok(())
    }

    fn note_conflict(&mut self, labels: &Labels, span: Span) {
        let name = if self.delays_names() { metric_name(labels) } else { "" };
        self.notes.mixed_classic_native(name, span);
    }

    fn of_classic(
        &mut self,
        question: &Question<'_>,
        classic: &Classic,
        conflicts: Option<&StepSet>,
        input: &Input<'q>,
        grid: TimeGrid,
    ) -> Result<Points, QueryError> {
        let name = if self.delays_names() { metric_name(&classic.labels).to_owned() } else { String::new() };
        let mut points = Points::new(grid.steps);
        let mut buckets: Vec<Bucket> = Vec::with_capacity(classic.buckets.len());
        for step in 0..grid.steps {
            if conflicts.is_some_and(|steps| steps.contains(step)) {
                continue;
            }
            self.poll.touched(1 + classic.buckets.len())?;
            buckets.clear();
            for (upper_bound, at) in &classic.buckets {
                if let Some(count) = input.columns.get(*at).points.float(step) {
                    buckets.push(Bucket { upper_bound: *upper_bound, count });
                }
            }
            if !buckets.is_empty() {
                let ts = grid.at(step);
                points.set(
                    step,
                    question.of_classic(step, &mut buckets, (&name, ts, input.span), &mut self.notes),
                );
            }
        }
        Ok(points)
    }

    fn put_answer(
        &mut self,
        question: &Question<'_>,
        label: Option<&str>,
        labels: Labels,
        points: Points,
        out: &mut Columns<'q>,
    ) -> Result<(), QueryError> {
        let labels = if self.delays_names() { labels } else { without_metadata(&labels) };
        let (Some(label), Question::Quantile(quantiles)) = (label, question) else {
            out.add(Column { labels, drop_name: true, points });
            return Ok(());
        };
        // A quantile that changes from step to step makes a series for each of its values.
        let mut rows: Vec<(f64, Column)> = Vec::new();
        for step in points.float_steps() {
            let (q, Some(value)) = (quantiles[step], points.float(step)) else { continue };
            let row = match rows.iter().position(|(other, _)| other.to_bits() == q.to_bits()) {
                Some(row) => row,
                None => {
                    out.reserve(Points::bytes(points.steps()))?;
                    let mut column = Column::new(points.steps());
                    column.labels = with(&labels, label, &quantile_text(q));
                    column.drop_name = true;
                    rows.push((q, column));
                    rows.len() - 1
                }
            };
            rows[row].1.points.set(step, value);
        }
        rows.into_iter().for_each(|(_, column)| out.add(column));
        Ok(())
    }
}

impl Input<'_> {
    fn has_buckets(&self, classic: usize, step: usize) -> bool {
        self.classics[classic]
            .buckets
            .iter()
            .any(|(_, at)| self.columns.get(*at).points.float(step).is_some())
    }
}

impl Question<'_> {
    fn of_native(&self, step: usize, h: &FloatHistogram, name: &str, span: Span, notes: &mut Notes) -> f64 {
        match self {
            Self::Quantile(q) => native::quantile(q[step], h, name, span, notes),
            Self::Fraction(lower, upper) => native::fraction(lower[step], upper[step], h, name, span, notes),
        }
    }

    fn of_classic(
        &self,
        step: usize,
        buckets: &mut Vec<Bucket>,
        (name, ts, span): (&str, i64, Span),
        notes: &mut Notes,
    ) -> f64 {
        match self {
            Self::Quantile(q) => {
                let (value, forced) = classic::quantile(q[step], buckets);
                if let Some(forced) = forced {
                    let fixed = Monotonicity {
                        span,
                        ts_ms: (ts, ts),
                        buckets: (forced.lowest, forced.highest),
                        max_diff: forced.max_diff,
                        count: 1,
                    };
                    notes.forced_monotonicity(name, fixed);
                }
                value
            }
            Self::Fraction(lower, upper) => classic::fraction(lower[step], upper[step], buckets),
        }
    }
}

/// A quantile as a label value: like in OpenMetrics, whole numbers with a fraction.
fn quantile_text(q: f64) -> String {
    let text = float_short(q);
    if q.is_finite() && !text.contains(['.', 'e']) { format!("{text}.0") } else { text }
}
