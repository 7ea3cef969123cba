//! `count_values`: one series for each distinct value.

use super::without_empty;
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::{Column, Columns};
use crate::eval::labels::{group, with};
use crate::eval::points::{Point, Points};
use crate::go_fmt::{float_plain, quote};
use crate::plan::{Aggregate, Node, TimeGrid};
use quorate_model::Labels;
use std::collections::HashMap;

impl<'q> Evaluator<'q> {
    pub(super) fn count_values(
        &mut self,
        aggregate: &'q Aggregate,
        grid: TimeGrid,
    ) -> Result<Columns<'q>, QueryError> {
        let Some(Node::Text(label)) = &aggregate.param else {
            return Err(QueryError::Execution("count_values needs a label name".into()));
        };
        if label.is_empty() {
            return Err(QueryError::Execution(format!("invalid label name {}", quote(label))));
        }
        let mut grouping = aggregate.grouping.clone();
        if !aggregate.without {
            grouping.push(label.clone());
            grouping.sort_unstable();
            grouping.dedup();
        }
        let mut rows: HashMap<Labels, usize> = HashMap::new();
        let mut out = Columns::new(self.guard);
        self.stream(&aggregate.input, grid, &mut |ev, column| {
            let mut last: Option<(Point, usize)> = None;
            for step in column.points.presence().iter() {
                let Some(point) = column.points.get(step) else { continue };
                ev.poll.touched(point.weight() as usize)?;
                let row = match &last {
                    Some((value, row)) if *value == point => *row,
                    _ => {
                        let valued = with(&column.labels, label, &text(&point));
                        let labels = group(&valued, &grouping, aggregate.without);
                        row(&mut rows, &mut out, labels, grid.steps)?
                    }
                };
                last = Some((point, row));
                let points = &mut out.list_mut()[row].points;
                points.set(step, points.float(step).unwrap_or(0.0) + 1.0);
            }
            Ok(())
        })?;
        Ok(without_empty(out))
    }
}

fn row(
    rows: &mut HashMap<Labels, usize>,
    out: &mut Columns<'_>,
    labels: Labels,
    steps: usize,
) -> Result<usize, QueryError> {
    if let Some(row) = rows.get(&labels) {
        return Ok(*row);
    }
    out.reserve(Points::bytes(steps))?;
    out.add(Column { labels: labels.clone(), drop_name: false, points: Points::new(steps) });
    rows.insert(labels, out.len() - 1);
    Ok(out.len() - 1)
}

fn text(point: &Point) -> String {
    match point {
        Point::Float(value) => float_plain(*value),
        Point::Histogram(h) => h.to_string(),
    }
}
