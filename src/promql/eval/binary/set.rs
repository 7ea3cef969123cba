//! `and`, `or` and `unless`.

use super::matching::Groups;
use crate::ast::{BinaryOp, VectorMatching};
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::Columns;
use crate::eval::points::StepSet;

/// The result of a set operator.
pub(super) fn combine<'q>(
    ev: &Evaluator<'q>,
    op: BinaryOp,
    matching: &VectorMatching,
    mut lhs: Columns<'q>,
    mut rhs: Columns<'q>,
    steps: usize,
) -> Result<Columns<'q>, QueryError> {
    let groups = Groups::new(matching, &lhs, &rhs);
    // Only now is it known how many sets of steps there will be.
    let _memory = ev.charge(groups.count as u64 * StepSet::bytes(steps))?;
    if op == BinaryOp::Or {
        let present = presence_by_group(ev, &lhs, &groups.first, groups.count, steps)?;
        retain(ev, &mut rhs, &groups.second, |group, step| !present[group].contains(step))?;
        let bytes = rhs.iter().map(|c| crate::eval::points::Points::bytes(c.points.steps())).sum();
        lhs.reserve(bytes)?;
        rhs.into_each(|column| {
            lhs.add(column);
            Ok(())
        })?;
    } else {
        let present = presence_by_group(ev, &rhs, &groups.second, groups.count, steps)?;
        let wanted = op == BinaryOp::And;
        retain(ev, &mut lhs, &groups.first, |group, step| present[group].contains(step) == wanted)?;
    }
    lhs.merge_same_labels()?;
    Ok(lhs)
}

fn presence_by_group(
    ev: &Evaluator<'_>,
    columns: &Columns<'_>,
    groups: &[usize],
    count: usize,
    steps: usize,
) -> Result<Vec<StepSet>, QueryError> {
    let mut present = vec![StepSet::new(steps); count];
    for (column, group) in columns.iter().zip(groups) {
        ev.poll.touched(steps)?;
        present[*group].union(&column.points.presence());
    }
    Ok(present)
}

/// Removes the samples that are not kept, and series without any.
fn retain(
    ev: &Evaluator<'_>,
    columns: &mut Columns<'_>,
    groups: &[usize],
    keep: impl Fn(usize, usize) -> bool,
) -> Result<(), QueryError> {
    for (column, group) in columns.list_mut().iter_mut().zip(groups) {
        for step in column.points.presence().iter() {
            ev.poll.touched(1)?;
            if !keep(*group, step) {
                column.points.remove(step);
            }
        }
    }
    columns.list_mut().retain(|column| !column.points.is_empty());
    Ok(())
}
