//! Fragments: parts of a plan that run where the series are.
//!
//! Knows both halves: what a partition gives for its series, and what is made of the answers of all partitions. Does not
//! know where they are. Path: asking: `stream` -> **here** -> [`crate::source::FragmentSource`]; answering:
//! `fragment` -> **here**.
//! FG1: answers are put together in the order of partitions, series in that of their labels.
//! FG2: what cannot be put together is evaluated from series, as if there were no fragments.

use super::aggregate::columns_of;
use super::charge::Charge;
use super::column::Column;
use super::points::Points;
use super::{Evaluator, Sink};
use crate::engine::QueryError;
use crate::fragment::{Fragment, FragmentAnswer, PartialSeries};
use crate::plan::{Node, Remote, TimeGrid};
use crate::source::SourceError;

/// Values of series are sent instead of samples if they are at least so far from each other, milliseconds: samples are
/// seldom further apart, so there are not more values than samples.
const USUAL_INTERVAL: i64 = 15_000;

impl<'q> Evaluator<'q> {
    /// Gives `sink` what a partition has for a fragment: groups of an aggregation, or series with their values.
    pub(crate) fn run_fragment(
        &mut self,
        root: &'q Node,
        grid: TimeGrid,
        sink: &mut dyn FnMut(PartialSeries) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        self.keeps_origins = true;
        if let Node::Aggregate(aggregate) = root {
            return self.partial_groups(aggregate, grid, sink);
        }
        self.stream(root, grid, &mut |ev, column| {
            let before = column.points.weight();
            if column.points.has_histograms() {
                return Err(QueryError::Execution("native histograms are not sent as numbers".into()));
            }
            let present = column.points.presence();
            let values = present.iter().filter_map(|step| column.points.float(step)).collect();
            let (labels, drop_name) = (ev.origin.clone(), column.drop_name);
            let names_gone = column.labels != labels;
            sink(PartialSeries { labels, names_gone, drop_name, present, columns: vec![values] })?;
            // It is held by whoever asked.
            ev.held = ev.held.saturating_sub(before);
            Ok(())
        })
    }

    /// Hands on the series of a fragment.
    pub(super) fn stream_fragment(
        &mut self,
        remote: &'q Remote,
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let Some((answers, memory)) = self.ask(remote, grid)? else {
            return self.stream(&remote.node, grid, sink);
        };
        let Node::Aggregate(aggregate) = &remote.node else {
            self.add_ends(remote.select, grid, &answers);
            let streamed = self.stream_values(&answers, grid, sink);
            drop(memory);
            return streamed;
        };
        let combined = self.combine_groups(aggregate, grid, &answers)?;
        let Some(result) = combined else {
            drop((answers, memory));
            if let Some(source) = self.source.fragments() {
                source.forget(remote.select);
            }
            return self.stream(&remote.node, grid, sink);
        };
        self.add_ends(remote.select, grid, &answers);
        drop((answers, memory));
        self.hold(result.weight())?;
        self.replay(result, sink)
    }

    /// The answers of all partitions with what they are charged for, `None` if it is better to evaluate series here.
    fn ask(
        &mut self,
        remote: &Remote,
        grid: TimeGrid,
    ) -> Result<Option<(Vec<FragmentAnswer>, Charge<'q>)>, QueryError> {
        let columns = match &remote.node {
            Node::Aggregate(aggregate) => columns_of(aggregate.op),
            _ if grid.steps > 1 && grid.step < USUAL_INTERVAL => return Ok(None),
            _ => 1,
        };
        let Some(source) = self.source.fragments() else { return Ok(None) };
        let fragment = Fragment::new(remote, grid, self.options);
        let Some(answers) = source.run(&fragment, self.guard)? else { return Ok(None) };
        let memory = Charge::taken_over(self.guard, answers.iter().map(|answer| answer.charged).sum());
        let fits = |series: &PartialSeries| {
            let values = series.present.len();
            series.present.words().len() == grid.steps.div_ceil(64)
                && series.columns.len() == columns
                && series.columns.iter().all(|column| column.len() == values)
        };
        match answers.iter().flat_map(|answer| &answer.series).all(fits) {
            true => Ok(Some((answers, memory))),
            false => {
                Err(SourceError::Failed("a part of the query was answered in another form".into()).into())
            }
        }
    }

    /// Hands on series of several partitions in the order of their labels.
    fn stream_values(
        &mut self,
        answers: &[FragmentAnswer],
        grid: TimeGrid,
        sink: Sink<'_, 'q>,
    ) -> Result<(), QueryError> {
        let mut series: Vec<&PartialSeries> = answers.iter().flat_map(|answer| &answer.series).collect();
        // Stable, so that of equal labels those of the lower partition come first.
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        let found = series.len();
        series.dedup_by(|b, a| a.labels == b.labels);
        if let Some(source) = self.source.fragments().filter(|_| series.len() < found) {
            source.saw_repeats(found - series.len());
        }
        let _memory = self.charge(Points::bytes(grid.steps))?;
        let mut column = Column::new(grid.steps);
        for series in series {
            self.guard.check()?;
            column.points.reset(grid.steps);
            column.labels = series.labels_now();
            column.drop_name = series.drop_name;
            for (step, value) in series.present.iter().zip(&series.columns[0]) {
                column.points.set(step, *value);
            }
            self.hold(column.points.weight())?;
            sink(self, &mut column)?;
        }
        Ok(())
    }

    /// Counts what partitions did, and takes over their annotations.
    fn add_ends(&mut self, select: usize, grid: TimeGrid, answers: &[FragmentAnswer]) {
        let is_new = self.selections[select].is_none() && self.selected_elsewhere.insert(select);
        for end in answers.iter().map(|answer| &answer.end) {
            let found = &end.stats;
            self.stats.total_samples = self.stats.total_samples.saturating_add(found.total_samples);
            self.stats.samples_read = self.stats.samples_read.saturating_add(found.samples_read);
            self.stats.series = self.stats.series.saturating_add(if is_new { found.series } else { 0 });
            self.stats.peak_samples = self.stats.peak_samples.max(found.peak_samples);
            if grid == self.top_grid && !found.total_samples_per_step.is_empty() {
                let per_step = &mut self.stats.total_samples_per_step;
                per_step.resize(grid.steps, 0);
                let both = per_step.iter_mut().zip(&found.total_samples_per_step);
                both.for_each(|(all, found)| *all = all.saturating_add(*found));
            }
            self.notes.add(&end.notes);
        }
    }
}
