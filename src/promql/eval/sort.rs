//! `sort` and its relatives, and `label_replace` and `label_join`: functions that look at all series at once.

use super::column::{Column, Columns};
use super::{Evaluator, Sink};
use crate::engine::QueryError;
use crate::functions::FunctionId;
use crate::functions::labels::{LabelJoin, LabelReplace};
use crate::functions::order;
use crate::plan::{Call, Node, TimeGrid};

impl<'q> Evaluator<'q> {
    /// Hands on the series in another order. Only instant queries keep it.
    pub(super) fn stream_sorted(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let by_value = matches!(call.function, FunctionId::Sort | FunctionId::SortDesc);
        if grid.steps > 1 {
            self.notes.sort_in_range_query(call.span);
        }
        let mut columns = self.collect(&call.args[0], grid)?;
        if by_value {
            columns.list_mut().iter_mut().for_each(|column| column.points.drop_histograms());
            columns.list_mut().retain(|column| !column.points.is_empty());
        }
        if grid.steps == 1 {
            sort(call, columns.list_mut());
        }
        self.replay(columns, sink)
    }

    /// Hands on the series of `label_replace` or `label_join`.
    pub(super) fn stream_relabeled(
        &mut self,
        call: &'q Call,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let texts = texts(&call.args[1..]);
        let relabel = Relabel::new(call.function, &texts).map_err(QueryError::Execution)?;
        let mut columns = Columns::new(self.guard);
        self.stream(&call.args[0], grid, &mut |_, column| {
            relabel.apply(column);
            columns.push(column)
        })?;
        columns.merge_same_labels()?;
        self.replay(columns, sink)
    }
}

fn texts(args: &[Node]) -> Vec<&str> {
    args.iter().map(|arg| if let Node::Text(text) = arg { text.as_str() } else { "" }).collect()
}

fn sort(call: &Call, columns: &mut [Column]) {
    let value = |column: &Column| column.points.float(0).unwrap_or(f64::NAN);
    let names: Vec<String> = texts(&call.args[1..]).into_iter().map(str::to_owned).collect();
    columns.sort_by(|a, b| match call.function {
        FunctionId::Sort => order::ascending(value(a), value(b)),
        FunctionId::SortDesc => order::descending(value(a), value(b)),
        FunctionId::SortByLabel => order::by_labels(&a.labels, &b.labels, &names),
        _ => order::by_labels(&b.labels, &a.labels, &names),
    });
}

enum Relabel {
    Replace(LabelReplace),
    Join(LabelJoin),
}

impl Relabel {
    fn new(function: FunctionId, texts: &[&str]) -> Result<Self, String> {
        match (function, texts) {
            (FunctionId::LabelReplace, [target, replacement, source, regex]) => {
                LabelReplace::new(target, replacement, source, regex).map(Self::Replace)
            }
            (FunctionId::LabelJoin, [target, separator, sources @ ..]) => {
                LabelJoin::new(target, separator, sources).map(Self::Join)
            }
            _ => Err("wrong arguments of a label function".into()),
        }
    }

    fn apply(&self, column: &mut Column) {
        let (labels, sets_name) = match self {
            Self::Replace(replace) => match replace.apply(&column.labels) {
                Some(labels) => (labels, replace.sets_name()),
                None => return,
            },
            Self::Join(join) => (join.apply(&column.labels), join.sets_name()),
        };
        column.labels = labels;
        column.drop_name &= !sets_name;
    }
}
