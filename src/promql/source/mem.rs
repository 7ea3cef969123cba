//! The in-memory source: the fake of [`SeriesSource`] for tests and for data made up by a caller.
//!
//! Knows a sorted map of series. Does not know limits. Path: tests -> **here**.

use super::{SelectRequest, Selection, SeriesSource, SourceError};
use crate::engine::QueryGuard;
use quorate_model::{Histogram, Labels, SeriesBuffer, TimeRange};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Series in memory. A later sample of the same series and time replaces the earlier one.
#[derive(Debug, Clone, Default)]
pub struct MemSource {
    series: BTreeMap<Labels, Arc<SeriesBuffer>>,
}

impl MemSource {
    /// A source without series.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a float sample. `start_ms` is its start timestamp, 0 for none.
    pub fn push_float(&mut self, labels: &Labels, ts_ms: i64, value: f64, start_ms: i64) {
        let buffer = self.buffer(labels);
        remove(&mut buffer.histogram_ts_ms, &mut buffer.histograms, &mut buffer.histogram_start_ms, ts_ms);
        insert(&mut buffer.ts_ms, &mut buffer.values, &mut buffer.start_ms, ts_ms, value, start_ms);
    }

    /// Adds a histogram sample. `start_ms` is its start timestamp, 0 for none.
    pub fn push_histogram(&mut self, labels: &Labels, ts_ms: i64, value: Arc<Histogram>, start_ms: i64) {
        let buffer = self.buffer(labels);
        remove(&mut buffer.ts_ms, &mut buffer.values, &mut buffer.start_ms, ts_ms);
        insert(
            &mut buffer.histogram_ts_ms,
            &mut buffer.histograms,
            &mut buffer.histogram_start_ms,
            ts_ms,
            value,
            start_ms,
        );
    }

    fn buffer(&mut self, labels: &Labels) -> &mut SeriesBuffer {
        Arc::make_mut(self.series.entry(labels.clone()).or_default())
    }
}

fn insert<T>(
    times: &mut Vec<i64>,
    values: &mut Vec<T>,
    starts: &mut Vec<i64>,
    ts_ms: i64,
    value: T,
    start_ms: i64,
) {
    if start_ms != 0 && starts.is_empty() {
        starts.resize(times.len(), 0);
    }
    let keep_starts = start_ms != 0 || !starts.is_empty();
    match times.binary_search(&ts_ms) {
        Ok(at) => {
            values[at] = value;
            if keep_starts {
                starts[at] = start_ms;
            }
        }
        Err(at) => {
            times.insert(at, ts_ms);
            values.insert(at, value);
            if keep_starts {
                starts.insert(at, start_ms);
            }
        }
    }
}

fn remove<T>(times: &mut Vec<i64>, values: &mut Vec<T>, starts: &mut Vec<i64>, ts_ms: i64) {
    if let Ok(at) = times.binary_search(&ts_ms) {
        times.remove(at);
        values.remove(at);
        if !starts.is_empty() {
            starts.remove(at);
        }
    }
}

impl SeriesSource for MemSource {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        guard.check().map_err(|objection| SourceError::Stopped(Box::new(objection)))?;
        let accepted =
            |labels: &Labels| request.matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")));
        let series = self
            .series
            .iter()
            .filter(|(labels, _)| accepted(labels))
            .map(|(labels, buffer)| (labels.clone(), Arc::clone(buffer)))
            .collect();
        Ok(Box::new(MemSelection { series, range: request.range }))
    }
}

struct MemSelection {
    series: Vec<(Labels, Arc<SeriesBuffer>)>,
    range: TimeRange,
}

impl Selection for MemSelection {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, index: usize) -> &Labels {
        &self.series[index].0
    }

    fn read(&self, index: usize, out: &mut SeriesBuffer) -> Result<(), SourceError> {
        let buffer = &self.series[index].1;
        out.clear();
        let floats = self.window(&buffer.ts_ms);
        out.ts_ms.extend_from_slice(&buffer.ts_ms[floats.clone()]);
        out.values.extend_from_slice(&buffer.values[floats.clone()]);
        if !buffer.start_ms.is_empty() {
            out.start_ms.extend_from_slice(&buffer.start_ms[floats]);
        }
        let histograms = self.window(&buffer.histogram_ts_ms);
        out.histogram_ts_ms.extend_from_slice(&buffer.histogram_ts_ms[histograms.clone()]);
        out.histograms.extend_from_slice(&buffer.histograms[histograms.clone()]);
        if !buffer.histogram_start_ms.is_empty() {
            out.histogram_start_ms.extend_from_slice(&buffer.histogram_start_ms[histograms]);
        }
        Ok(())
    }
}

impl MemSelection {
    fn window(&self, times: &[i64]) -> std::ops::Range<usize> {
        let first = times.partition_point(|t| *t < self.range.start_ms);
        let end = times.partition_point(|t| *t <= self.range.end_ms);
        first..end.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NoGuard;

    #[test]
    fn the_fake_keeps_the_contract() {
        super::super::conformance::check_source(|series| {
            let mut source = MemSource::new();
            for (labels, buffer) in series {
                for (ts, value) in buffer.ts_ms.iter().zip(&buffer.values) {
                    source.push_float(labels, *ts, *value, 0);
                }
                for (ts, value) in buffer.histogram_ts_ms.iter().zip(&buffer.histograms) {
                    source.push_histogram(labels, *ts, Arc::clone(value), 0);
                }
            }
            Box::new(source)
        });
    }

    #[test]
    fn start_timestamps_are_filled_up_with_zero() {
        let labels = Labels::from_pairs([("__name__", "a")]);
        let mut source = MemSource::new();
        source.push_float(&labels, 10, 1.0, 0);
        source.push_float(&labels, 20, 2.0, 15);
        source.push_float(&labels, 5, 0.0, 0);
        let request = SelectRequest { matchers: &[], range: TimeRange::new(6, 20), step_ms: 0 };
        let mut out = SeriesBuffer::default();
        source.select(&request, &NoGuard).unwrap().read(0, &mut out).unwrap();
        assert_eq!((out.ts_ms, out.start_ms), (vec![10, 20], vec![0, 15]));
    }
}
