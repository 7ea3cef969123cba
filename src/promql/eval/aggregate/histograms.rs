//! Sums and averages of native histograms in a group.

use crate::ast::Span;
use crate::engine::QueryError;
use crate::eval::column::{Column, Columns};
use crate::eval::labels::metric_name;
use crate::eval::notes::Notes;
use crate::eval::points::Points;
use crate::eval::poll::Poll;
use crate::histogram::total::Total;

/// The running totals of one group at all steps.
pub(super) struct HistogramTotals {
    average: bool,
    steps: Vec<Option<Box<Total>>>,
}

impl HistogramTotals {
    pub(super) fn boxed(average: bool, steps: usize) -> Box<Self> {
        Box::new(Self { average, steps: std::iter::repeat_with(|| None).take(steps).collect() })
    }

    /// Bytes that the totals of `steps` steps take before any histogram is added, with the column of the results.
    pub(super) fn bytes(steps: usize) -> u64 {
        2 * steps as u64 * size_of::<usize>() as u64
    }

    /// Adds the histograms of a series. Totals are charged to `out` when they begin and when they grow; a result
    /// takes less than its total, which goes when the result comes.
    pub(super) fn add(
        &mut self,
        column: &Column,
        span: Span,
        poll: &Poll<'_>,
        notes: &mut Notes,
        out: &mut Columns<'_>,
    ) -> Result<(), QueryError> {
        let metric = metric_name(&column.labels);
        for (step, h) in column.points.histogram_steps() {
            poll.touched(h.weight() as usize)?;
            match &mut self.steps[step] {
                Some(total) => {
                    let before = total.bytes();
                    total.add(h, metric, span, notes);
                    out.reserve(total.bytes().saturating_sub(before))?;
                }
                none => {
                    out.reserve(Total::bytes_of(h))?;
                    *none = Some(Box::new(Total::new(self.average, h)));
                }
            }
        }
        Ok(())
    }

    /// Puts the results into `points`, which holds those of the floats. Where both are, there is no result.
    pub(super) fn finish(
        self,
        points: &mut Points,
        span: Span,
        poll: &Poll<'_>,
        notes: &mut Notes,
    ) -> Result<(), QueryError> {
        for (step, total) in self.steps.into_iter().enumerate() {
            poll.touched(1)?;
            let Some(total) = total else { continue };
            if points.has(step) {
                notes.mixed_floats_histograms_agg(span);
                points.remove(step);
            } else if let Some(h) = total.finish(span, notes) {
                poll.touched(h.weight() as usize)?;
                points.set_histogram(step, h);
            }
        }
        Ok(())
    }
}
