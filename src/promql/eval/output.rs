//! From the root of a plan to the value of a query.
//!
//! What the value takes stays charged when the evaluation ends: its caller holds it as long as it likes. It is given
//! back with all else when the query's account with the guard is closed.

use super::Evaluator;
use super::column::{Column, Columns};
use super::points::Point;
use crate::ast::{RangeMode, ValueType};
use crate::engine::{InstantSample, QueryError, RangeSeries, SampleValue, Value};
use crate::kernels::extended::interpolate;
use crate::kernels::window::Samples;
use crate::plan::{Node, Plan, TimeGrid, Window, WindowInput};
use quorate_model::Labels;
use std::sync::Arc;

/// The value of a plan with a single evaluation time.
pub(crate) fn instant<'q>(
    ev: &mut Evaluator<'q>,
    plan: &'q Plan,
    value_type: ValueType,
) -> Result<Value, QueryError> {
    let ts_ms = plan.grid.start;
    match (value_type, &plan.root) {
        (ValueType::Scalar, root) => Ok(Value::Scalar { ts_ms, value: ev.scalar(root, plan.grid)?[0] }),
        (ValueType::String, Node::Text(text)) => Ok(Value::String { ts_ms, value: text.clone() }),
        (ValueType::Matrix, Node::Window(window)) => Ok(Value::Matrix(matrix(ev, window, plan.grid)?)),
        (_, root) => {
            let columns = finished(ev, root, plan.grid)?;
            // Both forms are there while one is made of the other.
            let memory = ev.charge(columns.iter().map(value_bytes).sum())?;
            let samples = columns.iter().filter_map(|column| instant_sample(column, ts_ms)).collect();
            memory.keep();
            Ok(Value::Vector(samples))
        }
    }
}

/// The value of a plan with many evaluation times.
pub(crate) fn range<'q>(
    ev: &mut Evaluator<'q>,
    plan: &'q Plan,
    value_type: ValueType,
) -> Result<Value, QueryError> {
    let grid = plan.grid;
    match value_type {
        ValueType::Scalar => {
            let values = ev.scalar(&plan.root, grid)?;
            ev.hold(values.len() as u64)?;
            let memory = ev.charge(values.len() as u64 * POINT_BYTES)?;
            let floats = values.iter().enumerate().map(|(step, v)| (grid.at(step), *v)).collect();
            memory.keep();
            Ok(Value::Matrix(vec![RangeSeries { labels: Labels::empty(), floats, histograms: Vec::new() }]))
        }
        ValueType::Vector => {
            let columns = finished(ev, &plan.root, grid)?;
            // Both forms are there while one is made of the other.
            let memory = ev.charge(columns.iter().map(value_bytes).sum())?;
            let mut series: Vec<RangeSeries> = Vec::with_capacity(columns.len());
            for column in columns.iter() {
                ev.poll.touched(column.points.weight() as usize)?;
                series.push(range_series(column, grid));
            }
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
            memory.keep();
            Ok(Value::Matrix(series))
        }
        ValueType::Matrix | ValueType::String => Err(QueryError::BadData(format!(
            "invalid expression type {:?} for range query, must be Scalar or instant Vector",
            value_type.documented()
        ))),
    }
}

/// All series of the result, names dropped, no two the same.
fn finished<'q>(ev: &mut Evaluator<'q>, root: &'q Node, grid: TimeGrid) -> Result<Columns<'q>, QueryError> {
    let mut columns = ev.collect(root, grid)?;
    if ev.delays_names() {
        columns.drop_delayed_names()?;
    } else {
        columns.merge_same_labels()?;
    }
    Ok(columns)
}

/// A time and a float.
const POINT_BYTES: u64 = size_of::<(i64, f64)>() as u64;

/// What a series takes in the result: a histogram weighs as much as floats with their times would.
fn value_bytes(column: &Column) -> u64 {
    size_of::<RangeSeries>() as u64 + column.points.weight() * POINT_BYTES
}

fn instant_sample(column: &Column, ts_ms: i64) -> Option<InstantSample> {
    let value = match column.points.get(0)? {
        Point::Float(value) => SampleValue::Float(value),
        Point::Histogram(h) => SampleValue::Histogram(Arc::new(h.to_model())),
    };
    Some(InstantSample { labels: column.labels.clone(), ts_ms, value })
}

fn range_series(column: &Column, grid: TimeGrid) -> RangeSeries {
    let points = &column.points;
    let floats = points.float_steps().filter_map(|step| Some((grid.at(step), points.float(step)?))).collect();
    let histograms =
        points.histogram_steps().map(|(step, h)| (grid.at(step), Arc::new(h.to_model()))).collect();
    RangeSeries { labels: column.labels.clone(), floats, histograms }
}

/// The samples of a window as they are.
fn matrix<'q>(
    ev: &mut Evaluator<'q>,
    window: &'q Window,
    grid: TimeGrid,
) -> Result<Vec<RangeSeries>, QueryError> {
    let end = window.at.unwrap_or(grid.start) - window.offset;
    let start = end - window.range;
    let mode = match &window.input {
        WindowInput::Selector(selector) => selector.mode,
        WindowInput::Subquery(..) => RangeMode::Plain,
    };
    let delays_names = ev.delays_names();
    let mut series = Vec::new();
    let mut memory = ev.charge(0)?;
    ev.stream_samples(window, grid, &mut |ev, labels, drop_name, samples| {
        let held = samples.ts.len() as u64 + samples.hists.iter().map(|h| h.weight()).sum::<u64>();
        ev.poll.touched(held as usize)?;
        memory.add(size_of::<RangeSeries>() as u64 + held * POINT_BYTES)?;
        let mut row = window_series(labels, samples, start, end);
        if mode != RangeMode::Plain {
            extend(&mut row, samples, mode, start, end, ev.options.lookback_delta_ms)?;
        }
        if drop_name && delays_names {
            row.labels = super::labels::without_metadata(labels);
        }
        let weight = row.floats.len() as u64
            + samples.hists.iter().take(row.histograms.len()).map(|h| h.weight()).sum::<u64>();
        ev.hold(weight)?;
        ev.saw(grid, 0, weight);
        if weight > 0 {
            series.push(row);
        }
        Ok(())
    })?;
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    memory.keep();
    Ok(series)
}

fn window_series(labels: &Labels, samples: &Samples, start: i64, end: i64) -> RangeSeries {
    let inside = |ts: &i64| *ts > start && *ts <= end;
    let floats = samples.ts.iter().zip(&samples.values).filter(|(ts, _)| inside(ts));
    let hists = samples.h_ts.iter().zip(&samples.hists).filter(|(ts, _)| inside(ts));
    RangeSeries {
        labels: labels.clone(),
        floats: floats.map(|(ts, v)| (*ts, *v)).collect(),
        histograms: hists.map(|(ts, h)| (*ts, Arc::new(h.to_model()))).collect(),
    }
}

/// Puts values at both ends of the window: from the last sample before it if `anchored`, from the line between the
/// samples around it if `smoothed`.
fn extend(
    row: &mut RangeSeries,
    samples: &Samples,
    mode: RangeMode,
    start: i64,
    end: i64,
    lookback: i64,
) -> Result<(), QueryError> {
    let smoothed = mode == RangeMode::Smoothed;
    if !samples.hists.is_empty() {
        let name = if smoothed { "smoothed" } else { "anchored" };
        return Err(QueryError::Execution(format!("{name} modifier is not supported with histograms")));
    }
    let until = if smoothed { end + lookback } else { end };
    let first = samples.ts.partition_point(|ts| *ts <= start - lookback);
    let after = samples.ts.partition_point(|ts| *ts <= until);
    let (ts, values) = (&samples.ts[first..after], &samples.values[first..after]);
    row.floats.clear();
    let Some(mut last) = ts.len().checked_sub(1) else { return Ok(()) };
    let mut first = ts[..last].partition_point(|t| *t <= start).saturating_sub(1);
    if smoothed {
        last = ts[..last].partition_point(|t| *t < end);
    }
    if ts[last] <= start {
        return Ok(());
    }
    let point = |at: usize| (ts[at], values[at]);
    let left = if smoothed && ts[first] < start {
        interpolate(point(first), point(first + 1), start, false)
    } else {
        values[first]
    };
    let right = if smoothed && last > 0 && ts[last] > end {
        interpolate(point(last - 1), point(last), end, false)
    } else {
        values[last]
    };
    first += usize::from(ts[first] <= start);
    let stop = if ts[last] >= end { last } else { last + 1 };
    row.floats.push((start, left));
    row.floats.extend((first..stop).map(point));
    row.floats.push((end, right));
    Ok(())
}
