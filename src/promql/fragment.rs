//! Fragments: parts of a query that run where the series are, and what they give.
//!
//! Knows how a part is named, checked and evaluated over the series of one partition. Does not know partitions, nodes or
//! bytes. Path: `eval` asks a [`crate::source::FragmentSource`] for a [`Fragment`]; that makes a [`FragmentPlan`] of it
//! where the series are, which runs over each partition by itself; `eval` puts the answers together.
//!
//! A part is named by the text of the query and its place in it: both sides plan it by the same code, places in
//! annotations are right without more, and whoever answers checks it as it checks any query.
//! F1: whoever answers takes nothing but what is a fragment by its own rules; what it does not take is evaluated from
//! series by who asks.

pub use crate::eval::notes::{Note, NoteKind};
pub use crate::eval::points::StepSet;

use crate::ast::{Expr, Span};
use crate::engine::{EngineOptions, QueryError, QueryGuard, QueryStats};
use crate::eval::Evaluator;
use crate::eval::labels::without_metadata;
use crate::plan::{Node, Plan, QueryTimes, Remote, TimeGrid, check_time, fragment_root};
use crate::source::SeriesSource;
use quorate_model::Labels;

/// Longest text of a query with fragments, bytes: each of them carries it.
pub const MAX_TEXT: usize = 64 << 10;

/// A part of a query, and when it is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Settings of the query; its text is what the place is in.
    pub options: EngineOptions,
    /// Place of the part.
    pub span: Span,
    /// Parts of one query that have the same number here work on the same series, which are counted once.
    pub selection: usize,
    /// The query's own times.
    pub query: FragmentTimes,
    /// First evaluation time of the part, milliseconds.
    pub start_ms: i64,
    /// Distance between evaluation times, milliseconds, above 0.
    pub step_ms: i64,
    /// How many there are, at least one.
    pub steps: usize,
}

/// Start, end and step of a query as they were asked for, milliseconds; the step is 0 for one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentTimes {
    /// Start of the query.
    pub start_ms: i64,
    /// End of the query.
    pub end_ms: i64,
    /// Its step.
    pub step_ms: i64,
}

/// What one partition gives for a fragment.
#[derive(Debug, Clone, Default)]
pub struct FragmentAnswer {
    /// Series, or groups of an aggregation.
    pub series: Vec<PartialSeries>,
    /// What it cost, and what was noted.
    pub end: FragmentEnd,
    /// Bytes of `series` that the guard is charged with; given back when the answer has been used.
    pub charged: u64,
}

/// A series with its values, or a group of an aggregation with what others need to go on with it.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialSeries {
    /// Labels of the series as they are stored; of a group those of its first series.
    pub labels: Labels,
    /// Whether the metric name and its kin are gone from what was made of the series.
    pub names_gone: bool,
    /// Whether they are to go in the end.
    pub drop_name: bool,
    /// Steps with a value.
    pub present: StepSet,
    /// Numbers of these steps, column after column.
    pub columns: Vec<Vec<f64>>,
}

impl PartialSeries {
    /// Labels of what was made of the series.
    pub(crate) fn labels_now(&self) -> Labels {
        if self.names_gone { without_metadata(&self.labels) } else { self.labels.clone() }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        let numbers: usize = self.columns.iter().map(Vec::len).sum();
        let words = self.present.words().len() + numbers + 3 * self.columns.len();
        (size_of::<Self>() + self.labels.as_packed().len() + 8 * words) as u64
    }
}

/// The end of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FragmentEnd {
    /// What the fragment cost; samples by step are those of its own steps.
    pub stats: QueryStats,
    /// Annotations.
    pub notes: Vec<Note>,
}

impl Fragment {
    /// The fragment `remote` at the times of `grid`.
    pub(crate) fn new(remote: &Remote, grid: TimeGrid, options: &EngineOptions) -> Self {
        let QueryTimes { start, end, step } = remote.times;
        Self {
            options: options.clone(),
            span: remote.span,
            selection: remote.select,
            query: FragmentTimes { start_ms: start, end_ms: end, step_ms: step },
            start_ms: grid.start,
            step_ms: grid.step,
            steps: grid.steps,
        }
    }

    fn grid(&self) -> Result<TimeGrid, String> {
        let intervals = self.steps.checked_sub(1).and_then(|intervals| i64::try_from(intervals).ok());
        let length = intervals.and_then(|intervals| intervals.checked_mul(self.step_ms));
        let end = length.and_then(|length| self.start_ms.checked_add(length));
        let grid = TimeGrid::range(self.start_ms, end.ok_or("the times are out of range")?, self.step_ms)?;
        let FragmentTimes { start_ms, end_ms, step_ms } = self.query;
        check_time(start_ms)?;
        check_time(end_ms)?;
        if end_ms < start_ms || step_ms < 0 {
            return Err("the times of the query make no sense".into());
        }
        Ok(grid)
    }
}

/// A fragment that is ready to be run.
#[derive(Debug)]
pub struct FragmentPlan {
    plan: Plan,
    options: EngineOptions,
}

impl FragmentPlan {
    /// Finds the part of the query and plans it. Compiles regular expressions.
    ///
    /// # Errors
    /// [`QueryError::BadData`] if this cannot be run as a fragment, whatever the series are.
    pub fn new(fragment: &Fragment) -> Result<Self, QueryError> {
        let options = fragment.options.clone();
        let refused = |why: &str| QueryError::BadData(format!("this is no part to be run here: {why}"));
        let grid = fragment.grid().map_err(|why| refused(&why))?;
        if options.query_text.len() > MAX_TEXT {
            return Err(refused("the query is too long"));
        }
        if options.lookback_delta_ms <= 0 || options.subquery_step_ms <= 0 {
            return Err(refused("the settings make no sense"));
        }
        let expr = crate::parse(&options.query_text, &options.features);
        let expr = expr.map_err(|error| refused(&error.to_string()))?;
        let part = find(&expr, fragment.span).ok_or_else(|| refused("nothing is there"))?;
        let FragmentTimes { start_ms, end_ms, step_ms } = fragment.query;
        let times = QueryTimes { start: start_ms, end: end_ms, step: step_ms };
        let plan = Plan::part(part, grid, times, &options)?;
        let delays_names = options.features.delayed_name_removal;
        match fragment_root(root(&plan), delays_names) {
            Some((span, _)) if span == fragment.span => Ok(Self { plan, options }),
            _ => Err(refused("it needs the series of all partitions")),
        }
    }

    /// Runs the fragment over `source`, which has the series of one partition, and gives `sink` what there is.
    ///
    /// # Errors
    /// [`QueryError`]. After [`QueryError::Execution`] and [`QueryError::BadData`] whoever asked must evaluate the
    /// fragment from series: it is either not to be had in parts, or fails as a whole.
    pub fn run(
        &self,
        source: &dyn SeriesSource,
        guard: &dyn QueryGuard,
        sink: &mut dyn FnMut(PartialSeries) -> Result<(), QueryError>,
    ) -> Result<FragmentEnd, QueryError> {
        let grid = self.plan.grid;
        let mut evaluator = Evaluator::new(source, &self.plan, &self.options, guard);
        let _scratch = evaluator.scratch(grid)?;
        evaluator.run_fragment(root(&self.plan), grid, sink)?;
        Ok(evaluator.end())
    }

    /// Number of evaluation times.
    pub fn steps(&self) -> usize {
        self.plan.grid.steps
    }
}

/// The root of a plan, which for its fragment is evaluated as often as the fragment says.
fn root(plan: &Plan) -> &Node {
    match &plan.root {
        Node::Once(inner) => inner,
        other => other,
    }
}

/// The part of `expr` at `span`, of those that can be the root of a fragment.
fn find(expr: &Expr, span: Span) -> Option<&Expr> {
    let is_root = match expr {
        Expr::Aggregate(e) => e.span == span,
        Expr::Call(e) => e.span == span,
        Expr::Vector(e) => e.span == span,
        Expr::Binary(e) => e.span == span,
        _ => false,
    };
    if is_root { Some(expr) } else { expr.children().into_iter().find_map(|child| find(child, span)) }
}
