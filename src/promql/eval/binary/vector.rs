//! Arithmetic and comparisons between two vectors.
//!
//! Pair by pair of matching series, all steps at once. The side that may have one series for each group at a step is
//! called *one*, the other *many*; between equals *many* is the left side. As in Prometheus `fill_right` stands for
//! a missing *one* and `fill_left` for a missing *many*, even under `group_right`.

use super::element::{arithmetic, compare, element};
use super::matching::{Groups, match_labels, result_labels};
use super::{changes_meaning, presence};
use crate::ast::{Cardinality, VectorMatching};
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::{Column, Columns, same_labels};
use crate::eval::labels::text;
use crate::eval::points::{Point, Points, StepSet};
use crate::plan::Binary;
use quorate_model::Labels;
use std::collections::HashMap;

/// The result of the operation.
pub(super) fn combine<'q>(
    ev: &mut Evaluator<'q>,
    binary: &Binary,
    matching: &VectorMatching,
    lhs: Columns<'q>,
    rhs: Columns<'q>,
    steps: usize,
) -> Result<Columns<'q>, QueryError> {
    let swapped = matching.card == Cardinality::OneToMany;
    let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
    let groups = Groups::new(matching, &many, &one);
    let mut members = vec![Vec::new(); groups.count];
    groups.second.iter().enumerate().for_each(|(at, group)| members[*group].push(at));
    let active = active_steps(matching, &many, &one, steps);
    check_one_side(matching, &one, &members, &active, steps)?;
    let mut join = Join {
        binary,
        matching,
        swapped,
        steps,
        drops_name: changes_meaning(binary.op) || (binary.return_bool && !ev.delays_names()),
        matched: HashMap::new(),
        touched: vec![StepSet::new(steps); if matching.fill_left.is_some() { groups.count } else { 0 }],
        rows: HashMap::new(),
        out: Columns::new(ev.guard),
    };
    for (column, group) in many.iter().zip(&groups.first) {
        ev.guard.check()?;
        join.many_series(ev, column, *group, &members[*group], &one)?;
    }
    if let Some(fill) = matching.fill_left {
        for (column, group) in one.iter().zip(&groups.second) {
            join.unmatched_one(ev, column, *group, fill)?;
        }
    }
    join.out.list_mut().retain(|column| !column.points.is_empty());
    Ok(join.out)
}

/// The steps at which anything can match: elsewhere not even duplicates are an error.
fn active_steps(matching: &VectorMatching, many: &Columns<'_>, one: &Columns<'_>, steps: usize) -> StepSet {
    let mut active = presence(many, steps);
    let other = presence(one, steps);
    if matching.fill_left.is_some() || matching.fill_right.is_some() {
        active.union(&other);
        return active;
    }
    active.intersect(&other);
    active
}

fn check_one_side(
    matching: &VectorMatching,
    one: &Columns<'_>,
    members: &[Vec<usize>],
    active: &StepSet,
    steps: usize,
) -> Result<(), QueryError> {
    for group in members.iter().filter(|group| group.len() > 1) {
        let mut seen = StepSet::new(steps);
        for (i, at) in group.iter().enumerate() {
            for step in one.get(*at).points.presence().iter().filter(|step| active.contains(*step)) {
                if !seen.insert(step) {
                    let first = group[..i].iter().find(|other| one.get(**other).points.has(step));
                    let first = first.map_or(*at, |other| *other);
                    return Err(duplicate(matching, &one.get(first).labels, &one.get(*at).labels));
                }
            }
        }
    }
    Ok(())
}

fn duplicate(matching: &VectorMatching, a: &Labels, b: &Labels) -> QueryError {
    let side = if matching.card == Cardinality::OneToMany { "left" } else { "right" };
    let group = text(&match_labels(matching, b));
    let (mut a, mut b) = (text(a), text(b));
    if a > b {
        std::mem::swap(&mut a, &mut b);
    }
    QueryError::Execution(format!(
        "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{a}, {b}]\
         ;many-to-many matching not allowed: matching labels must be unique on one side"
    ))
}

struct Join<'a, 'q> {
    binary: &'a Binary,
    matching: &'a VectorMatching,
    swapped: bool,
    steps: usize,
    drops_name: bool,
    /// Steps at which a group, and in grouped matching a row of it, has a match.
    matched: HashMap<(usize, usize), StepSet>,
    /// Steps at which a group has a match; kept only if what has none is filled.
    touched: Vec<StepSet>,
    /// Rows of `out` by their labels.
    rows: HashMap<Labels, usize>,
    out: Columns<'q>,
}

impl<'q> Join<'_, 'q> {
    fn many_series(
        &mut self,
        ev: &mut Evaluator<'q>,
        many: &Column,
        group: usize,
        members: &[usize],
        one: &Columns<'q>,
    ) -> Result<(), QueryError> {
        for at in members {
            let other = one.get(*at);
            let row = self.row(&many.labels, &other.labels)?;
            self.pair(ev, group, row, &many.points, &other.points)?;
        }
        let Some(fill) = self.matching.fill_right else { return Ok(()) };
        let mut missing = many.points.presence();
        for at in members {
            one.get(*at).points.presence().iter().for_each(|step| missing.remove(step));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let row = self.row(&many.labels, &match_labels(self.matching, &many.labels))?;
        for step in missing.iter() {
            if let Some(point) = many.points.get(step) {
                self.sample(ev, group, row, step, &point, &Point::Float(fill))?;
            }
        }
        Ok(())
    }

    fn unmatched_one(
        &mut self,
        ev: &mut Evaluator<'q>,
        one: &Column,
        group: usize,
        fill: f64,
    ) -> Result<(), QueryError> {
        let mut missing = one.points.presence();
        self.touched[group].iter().for_each(|step| missing.remove(step));
        if missing.is_empty() {
            return Ok(());
        }
        let row = self.row(&match_labels(self.matching, &one.labels), &one.labels)?;
        for step in missing.iter() {
            if let Some(point) = one.points.get(step) {
                self.sample(ev, group, row, step, &Point::Float(fill), &point)?;
            }
        }
        Ok(())
    }

    /// The row of the result for a pair of series.
    fn row(&mut self, many: &Labels, one: &Labels) -> Result<usize, QueryError> {
        let labels = result_labels(self.matching, self.drops_name, many, one);
        if let Some(row) = self.rows.get(&labels) {
            return Ok(*row);
        }
        self.out.reserve(Points::bytes(self.steps))?;
        let mut column = Column::new(self.steps);
        column.labels = labels.clone();
        column.drop_name = self.binary.return_bool;
        self.out.add(column);
        self.rows.insert(labels, self.out.len() - 1);
        Ok(self.out.len() - 1)
    }

    fn pair(
        &mut self,
        ev: &mut Evaluator<'q>,
        group: usize,
        row: usize,
        many: &Points,
        one: &Points,
    ) -> Result<(), QueryError> {
        let simple = arithmetic(self.binary.op, 1.0, 1.0).is_some() || self.binary.op.is_comparison();
        if !simple || many.has_histograms() || one.has_histograms() {
            for step in 0..self.steps {
                ev.poll.touched(1)?;
                if let (Some(a), Some(b)) = (many.get(step), one.get(step)) {
                    self.sample(ev, group, row, step, &a, &b)?;
                }
            }
            return Ok(());
        }
        let mut marks = self.take_marks(group, row);
        ev.poll.touched(self.steps)?;
        for step in many.float_steps() {
            let (Some(a), Some(b)) = (many.float(step), one.float(step)) else { continue };
            if !marks.insert(step) {
                return Err(self.ambiguous());
            }
            let (a, b) = if self.swapped { (b, a) } else { (a, b) };
            let result = match arithmetic(self.binary.op, a, b) {
                Some(value) => Some(value),
                None => match compare(self.binary.op, a, b) {
                    Some(keep) if self.binary.return_bool => Some(f64::from(keep)),
                    Some(true) => Some(a),
                    _ => None,
                },
            };
            if let Some(value) = result {
                let points = &mut self.out.list_mut()[row].points;
                if points.has(step) {
                    return Err(same_labels());
                }
                points.set(step, value);
            }
        }
        if let Some(touched) = self.touched.get_mut(group) {
            touched.union(&marks);
        }
        self.matched.insert(self.marks_key(group, row), marks);
        Ok(())
    }

    fn sample(
        &mut self,
        ev: &mut Evaluator<'q>,
        group: usize,
        row: usize,
        step: usize,
        many: &Point,
        one: &Point,
    ) -> Result<(), QueryError> {
        let (a, b) = if self.swapped { (one, many) } else { (many, one) };
        ev.poll.touched((a.weight() + b.weight()) as usize)?;
        let Some(outcome) = element(self.binary.op, a, b, self.binary.span, &mut ev.notes) else {
            return Ok(());
        };
        self.mark(group, row, step)?;
        if self.binary.return_bool {
            self.put(row, step, Point::Float(f64::from(outcome.keep)))
        } else if outcome.keep {
            self.put(row, step, outcome.value)
        } else {
            Ok(())
        }
    }

    fn mark(&mut self, group: usize, row: usize, step: usize) -> Result<(), QueryError> {
        let (key, steps) = (self.marks_key(group, row), self.steps);
        if !self.matched.entry(key).or_insert_with(|| StepSet::new(steps)).insert(step) {
            return Err(self.ambiguous());
        }
        if let Some(touched) = self.touched.get_mut(group) {
            touched.insert(step);
        }
        Ok(())
    }

    fn marks_key(&self, group: usize, row: usize) -> (usize, usize) {
        let one_to_one = self.matching.card == Cardinality::OneToOne;
        (group, if one_to_one { usize::MAX } else { row })
    }

    fn take_marks(&mut self, group: usize, row: usize) -> StepSet {
        let key = self.marks_key(group, row);
        self.matched.remove(&key).unwrap_or_else(|| StepSet::new(self.steps))
    }

    fn ambiguous(&self) -> QueryError {
        let text = if self.matching.card == Cardinality::OneToOne {
            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
        } else {
            "multiple matches for labels: grouping labels must ensure unique matches"
        };
        QueryError::Execution(text.into())
    }

    fn put(&mut self, row: usize, step: usize, point: Point) -> Result<(), QueryError> {
        self.out.reserve_for(row, &point)?;
        let points = &mut self.out.list_mut()[row].points;
        if points.has(step) {
            return Err(same_labels());
        }
        points.put(step, point);
        Ok(())
    }
}
