//! Sums and averages of native histograms in a group.

use crate::ast::Span;
use crate::eval::column::Column;
use crate::eval::labels::metric_name;
use crate::eval::notes::Notes;
use crate::eval::points::Points;
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

    /// Adds the histograms of a series.
    pub(super) fn add(&mut self, column: &Column, span: Span, notes: &mut Notes) {
        let metric = metric_name(&column.labels);
        for (step, h) in column.points.histogram_steps() {
            match &mut self.steps[step] {
                Some(total) => total.add(h, metric, span, notes),
                none => *none = Some(Box::new(Total::new(self.average, h))),
            }
        }
    }

    /// Puts the results into `points`, which holds those of the floats. Where both are, there is no result.
    pub(super) fn finish(self, points: &mut Points, span: Span, notes: &mut Notes) {
        for (step, total) in self.steps.into_iter().enumerate() {
            let Some(total) = total else { continue };
            if points.has(step) {
                notes.mixed_floats_histograms_agg(span);
                points.remove(step);
            } else if let Some(h) = total.finish(span, notes) {
                points.set_histogram(step, h);
            }
        }
    }
}
