//! `and`, `or` and `unless`.

use super::matching::Groups;
use crate::ast::{BinaryOp, VectorMatching};
use crate::engine::QueryError;
use crate::eval::column::{Column, Columns};
use crate::eval::points::StepSet;

/// The result of a set operator.
pub(super) fn combine<'q>(
    op: BinaryOp,
    matching: &VectorMatching,
    mut lhs: Columns<'q>,
    mut rhs: Columns<'q>,
    steps: usize,
) -> Result<Columns<'q>, QueryError> {
    let groups = Groups::new(matching, &lhs, &rhs);
    if op == BinaryOp::Or {
        let present = presence_by_group(&lhs, &groups.first, groups.count, steps);
        retain(&mut rhs, &groups.second, |group, step| !present[group].contains(step));
        let bytes = rhs.iter().map(|c| crate::eval::points::Points::bytes(c.points.steps())).sum();
        lhs.reserve(bytes)?;
        rhs.into_each(|column| {
            lhs.add(column);
            Ok(())
        })?;
    } else {
        let present = presence_by_group(&rhs, &groups.second, groups.count, steps);
        let wanted = op == BinaryOp::And;
        retain(&mut lhs, &groups.first, |group, step| present[group].contains(step) == wanted);
    }
    lhs.merge_same_labels()?;
    Ok(lhs)
}

fn presence_by_group(columns: &Columns<'_>, groups: &[usize], count: usize, steps: usize) -> Vec<StepSet> {
    let mut present = vec![StepSet::new(steps); count];
    for (column, group) in columns.iter().zip(groups) {
        present[*group].union(&column.points.presence());
    }
    present
}

/// Removes the samples that are not kept, and series without any.
fn retain(columns: &mut Columns<'_>, groups: &[usize], keep: impl Fn(usize, usize) -> bool) {
    let mut at = 0;
    columns.list_mut().retain_mut(|column: &mut Column| {
        let group = groups[at];
        at += 1;
        for step in column.points.presence().iter() {
            if !keep(group, step) {
                column.points.remove(step);
            }
        }
        !column.points.is_empty()
    });
}
