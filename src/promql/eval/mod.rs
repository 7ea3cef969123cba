//! The evaluator: series by series through the nodes of a plan.
//!
//! Knows plan nodes, points and the guard. Does not know query text, storage or results' wire forms.
//! Path: `engine` -> **here** -> `kernels`, `functions`, `source`.
//! V1: nodes that work on one series at a time hand each on before they read the next, so an aggregation over a
//! selector holds one input series and its groups, not all input. V2: memory is charged before it is allocated and
//! given back when its owner goes. V3: the guard is asked before each series, and within long ones again and again.
//! V4: series come in the order of the source until an operator reorders them, so results do not depend on chance.

mod absent;
mod aggregate;
pub(crate) mod binary;
mod buckets;
mod calls;
pub(crate) mod charge;
mod column;
mod fragments;
mod hints;
mod info;
pub(crate) mod labels;
mod maps;
pub(crate) mod notes;
pub(crate) mod output;
pub(crate) mod points;
pub(crate) mod poll;
mod scalars;
mod selectors;
mod sort;
mod windows;

use crate::engine::{EngineOptions, QueryError, QueryGuard, QueryOutput, QueryStats, Value};
use crate::fragment::FragmentEnd;
use crate::plan::{Node, Plan, SelectSpec, TimeGrid};
use crate::source::{SelectRequest, Selection, SeriesSource};
use charge::Charge;
use column::{Column, Columns};
use notes::Notes;
use points::Points;
use poll::Poll;
use quorate_model::{Labels, SeriesBuffer};
use scalars::ScalarColumn;
use std::collections::HashSet;
use std::sync::Arc;

/// What takes the series of a node, one after the other. It may keep the column by replacing it.
pub(crate) type Sink<'s, 'q> = &'s mut dyn FnMut(&mut Evaluator<'q>, &mut Column) -> Result<(), QueryError>;

/// One evaluation of one plan.
pub(crate) struct Evaluator<'q> {
    source: &'q dyn SeriesSource,
    selects: &'q [SelectSpec],
    options: &'q EngineOptions,
    guard: &'q dyn QueryGuard,
    poll: Poll<'q>,
    selections: Vec<Option<Arc<dyn Selection>>>,
    notes: Notes,
    stats: QueryStats,
    /// Samples held now.
    held: u64,
    /// Whether selectors count their samples by step of the query.
    top_grid: TimeGrid,
    /// Selections whose series were counted where they are.
    selected_elsewhere: HashSet<usize>,
    /// Whether it is kept which series a result comes from.
    keeps_origins: bool,
    /// Stored labels of the series that was read last, if that is kept.
    origin: Labels,
}

impl<'q> Evaluator<'q> {
    /// An evaluation that has not begun.
    pub(crate) fn new(
        source: &'q dyn SeriesSource,
        plan: &'q Plan,
        options: &'q EngineOptions,
        guard: &'q dyn QueryGuard,
    ) -> Self {
        Self {
            source,
            selects: &plan.selects,
            options,
            guard,
            poll: Poll::new(guard),
            selections: vec![None; plan.selects.len()],
            notes: Notes::default(),
            stats: QueryStats::default(),
            held: 0,
            top_grid: plan.grid,
            selected_elsewhere: HashSet::new(),
            keeps_origins: false,
            origin: Labels::empty(),
        }
    }

    /// What an evaluation of a fragment cost and noted.
    pub(crate) fn end(self) -> FragmentEnd {
        FragmentEnd { stats: self.stats, notes: self.notes.into_list() }
    }

    /// The result with everything that was collected on the way.
    pub(crate) fn finish(self, value: Value) -> QueryOutput {
        let (warnings, infos) = self.notes.into_texts(&self.options.query_text);
        let mut stats = self.stats;
        stats.total_samples_per_step.resize(self.top_grid.steps, 0);
        QueryOutput { value, warnings, infos, stats }
    }

    /// Charges what operators over a grid take for the series that is on its way, and refuses a grid with more
    /// steps than samples may be held: one series of it would be too much.
    pub(crate) fn scratch(&self, grid: TimeGrid) -> Result<Charge<'q>, QueryError> {
        /// Two columns: scalars are charged themselves.
        const BYTES_PER_STEP: u64 = 2 * size_of::<f64>() as u64;
        if grid.steps as u64 > self.options.max_samples {
            return Err(QueryError::TooManySamples);
        }
        self.charge(grid.steps as u64 * BYTES_PER_STEP)
    }

    /// Evaluates a node that gives series and hands them to `sink` one by one.
    pub(crate) fn stream(
        &mut self,
        node: &'q Node,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        self.guard.check()?;
        match node {
            Node::Selector(selector) => self.stream_selector(selector, grid, sink),
            Node::Negate(inner) => self.stream_negated(inner, grid, sink),
            Node::Binary(binary) => self.stream_binary(binary, grid, sink),
            Node::Aggregate(aggregate) => self.stream_aggregate(aggregate, grid, sink),
            Node::Call(call) => self.stream_call(call, grid, sink),
            Node::Once(inner) => self.stream_once(inner, grid, sink),
            Node::Fragment(remote) => self.stream_fragment(remote, grid, sink),
            Node::Number(_) | Node::Text(_) | Node::Window(_) => {
                Err(QueryError::Execution("expression does not evaluate to an instant vector".into()))
            }
        }
    }

    /// Evaluates a node that gives series and keeps them all.
    pub(crate) fn collect(&mut self, node: &'q Node, grid: TimeGrid) -> Result<Columns<'q>, QueryError> {
        let mut columns = Columns::new(self.guard);
        self.stream(node, grid, &mut |_, column| columns.push(column))?;
        Ok(columns)
    }

    /// Evaluates a node that gives a scalar.
    pub(crate) fn scalar(&mut self, node: &'q Node, grid: TimeGrid) -> Result<ScalarColumn<'q>, QueryError> {
        match node {
            Node::Number(value) => self.constant(*value, grid),
            Node::Negate(inner) => {
                let mut values = self.scalar(inner, grid)?;
                self.poll.each_mut(&mut values, |v| *v = -*v)?;
                Ok(values)
            }
            Node::Once(inner) => {
                let value = self.scalar(inner, grid.first())?[0];
                self.constant(value, grid)
            }
            Node::Binary(binary) => self.scalar_binary(binary, grid),
            Node::Call(call) => self.scalar_call(call, grid),
            _ => Err(QueryError::Execution("expression does not evaluate to a scalar".into())),
        }
    }

    fn stream_once(&mut self, inner: &'q Node, grid: TimeGrid, sink: Sink<'_, 'q>) -> Result<(), QueryError> {
        if grid.steps == 1 {
            return self.stream(inner, grid, sink);
        }
        let before = self.held;
        let singles = self.collect(inner, grid.first())?;
        self.held = before;
        let _memory = self.charge(Points::bytes(grid.steps))?;
        let mut column = Column::new(grid.steps);
        for single in singles.iter() {
            column.labels = single.labels.clone();
            column.drop_name = single.drop_name;
            column.points = Points::spread(&single.points, grid.steps, &self.poll)?;
            self.hold(column.points.weight())?;
            sink(self, &mut column)?;
        }
        Ok(())
    }

    fn stream_negated(
        &mut self,
        inner: &'q Node,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let negated = |ev: &mut Self, column: &mut Column, sink: Sink<'_, 'q>| {
            column.negate(&ev.poll)?;
            ev.drop_name(column);
            sink(ev, column)
        };
        if self.delays_names() {
            return self.stream(inner, grid, &mut |ev, column| negated(ev, column, &mut *sink));
        }
        let mut columns = Columns::new(self.guard);
        self.stream(inner, grid, &mut |ev, column| negated(ev, column, &mut |_, c| columns.push(c)))?;
        columns.merge_same_labels()?;
        self.replay(columns, sink)
    }

    /// Hands collected series on.
    fn replay(&mut self, columns: Columns<'q>, sink: Sink<'_, 'q>) -> Result<(), QueryError> {
        columns.into_each(|mut column| sink(self, &mut column))
    }

    /// The selection of a selector, asked of the source when it is needed first.
    fn selection(&mut self, at: usize) -> Result<Arc<dyn Selection>, QueryError> {
        if let Some(selection) = &self.selections[at] {
            return Ok(Arc::clone(selection));
        }
        let spec = &self.selects[at];
        let request = SelectRequest { matchers: &spec.matchers, range: spec.range, step_ms: spec.step };
        let selection: Arc<dyn Selection> = Arc::from(self.source.select(&request, self.guard)?);
        if !self.selected_elsewhere.contains(&at) {
            self.stats.series += selection.len() as u64;
        }
        self.selections[at] = Some(Arc::clone(&selection));
        Ok(selection)
    }

    /// Reads series `index` of a selection.
    fn read(
        &mut self,
        selection: &dyn Selection,
        index: usize,
        buffer: &mut SeriesBuffer,
    ) -> Result<(), QueryError> {
        self.guard.check()?;
        selection.read(index, buffer)?;
        self.stats.samples_read += buffer.len() as u64;
        if self.keeps_origins {
            self.origin = selection.labels(index).clone();
        }
        Ok(())
    }

    /// Counts samples that are held from now on.
    fn hold(&mut self, samples: u64) -> Result<(), QueryError> {
        self.held += samples;
        self.stats.peak_samples = self.stats.peak_samples.max(self.held);
        if self.held > self.options.max_samples { Err(QueryError::TooManySamples) } else { Ok(()) }
    }

    /// Counts samples that a step saw.
    fn saw(&mut self, grid: TimeGrid, step: usize, samples: u64) {
        self.stats.total_samples += samples;
        if grid == self.top_grid {
            let per_step = &mut self.stats.total_samples_per_step;
            if per_step.is_empty() {
                per_step.resize(grid.steps, 0);
            }
            per_step[step] += samples;
        }
    }

    fn delays_names(&self) -> bool {
        self.options.features.delayed_name_removal
    }

    /// Takes the metric name and its kin off a series, now or at the end.
    fn drop_name(&self, column: &mut Column) {
        column.drop_name = true;
        if !self.delays_names() {
            column.labels = labels::without_metadata(&column.labels);
        }
    }

    fn charge(&self, bytes: u64) -> Result<Charge<'q>, QueryError> {
        Charge::new(self.guard, bytes)
    }
}
