//! `absent` and `absent_over_time`: a series where there is none.

use super::column::Column;
use super::points::{Points, StepSet};
use super::{Evaluator, Sink};
use crate::engine::QueryError;
use crate::functions::labels::of_absent;
use crate::plan::{Call, Node, TimeGrid, Window, WindowInput};
use quorate_model::Labels;

impl<'q> Evaluator<'q> {
    /// Hands on `absent(input)`.
    pub(super) fn stream_absent(
        &mut self,
        input: &'q Node,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let _memory = self.charge(StepSet::bytes(grid.steps))?;
        let mut present = StepSet::new(grid.steps);
        let before = self.held;
        self.stream(input, grid, &mut |ev, column| {
            ev.poll.touched(grid.steps)?;
            present.union(&column.points.presence());
            Ok(())
        })?;
        self.held = before;
        self.hand_on_absent(labels_of(input), false, &present, grid, sink)
    }

    /// Hands on `absent_over_time(window)`.
    pub(super) fn stream_absent_over_time(
        &mut self,
        call: &'q Call,
        window: &'q Window,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let _memory = self.charge(StepSet::bytes(grid.steps))?;
        let mut present = StepSet::new(grid.steps);
        let before = self.held;
        self.stream_window_call(call, window, grid, &mut |ev, column| {
            ev.poll.touched(grid.steps)?;
            present.union(&column.points.presence());
            Ok(())
        })?;
        self.held = before;
        let labels = match &window.input {
            WindowInput::Selector(selector) => of_absent(&selector.matchers),
            WindowInput::Subquery(..) => Labels::empty(),
        };
        self.hand_on_absent(labels, true, &present, grid, sink)
    }

    fn hand_on_absent(
        &mut self,
        labels: Labels,
        drop_name: bool,
        present: &StepSet,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let _memory = self.charge(Points::bytes(grid.steps))?;
        let mut column = Column::new(grid.steps);
        (column.labels, column.drop_name) = (labels, drop_name);
        for step in (0..grid.steps).filter(|step| !present.contains(*step)) {
            self.poll.touched(1)?;
            column.points.set(step, 1.0);
        }
        if column.points.is_empty() {
            return Ok(());
        }
        self.hold(column.points.weight())?;
        sink(self, &mut column)
    }
}

fn labels_of(input: &Node) -> Labels {
    match input {
        Node::Selector(selector) => of_absent(&selector.matchers),
        Node::Once(inner) => labels_of(inner),
        Node::Fragment(remote) => labels_of(&remote.node),
        _ => Labels::empty(),
    }
}
