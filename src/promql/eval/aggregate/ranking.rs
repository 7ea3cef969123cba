//! `topk`, `bottomk`, `limitk` and `limit_ratio`: some of the input series, unchanged.
//!
//! Only the samples that may be part of the result are kept: at each step a heap of the best of each group. The heap
//! works like the one of Go's standard library, so that the same ones are kept among equal values.

use super::Grouping;
use super::quantile::{fold_max, fold_min};
use crate::ast::AggregateOp;
use crate::engine::QueryError;
use crate::eval::Evaluator;
use crate::eval::column::{Column, Columns};
use crate::eval::points::{Point, Points};
use crate::eval::poll::Poll;
use crate::plan::{Aggregate, TimeGrid};
use quorate_model::Labels;
use xxhash_rust::xxh64::xxh64;

impl<'q> Evaluator<'q> {
    pub(super) fn rank(
        &mut self,
        aggregate: &'q Aggregate,
        params: &[f64],
        grid: TimeGrid,
    ) -> Result<Columns<'q>, QueryError> {
        let mut out = Columns::new(self.guard);
        if self.check_parameter(aggregate, params)? {
            return Ok(out);
        }
        let mut ranking = Ranking {
            op: aggregate.op,
            wanted: params.iter().map(|p| Wanted::new(aggregate.op, *p)).collect(),
            groups: Vec::new(),
            series: Vec::new(),
        };
        let mut grouping = Grouping::new(aggregate);
        self.stream(&aggregate.input, grid, &mut |ev, column| {
            let (number, new) = grouping.number(&column.labels);
            if new.is_some() {
                out.reserve(grid.steps as u64 * 24)?;
                ranking.groups.push(vec![Vec::new(); grid.steps]);
            }
            let ranks = matches!(aggregate.op, AggregateOp::Topk | AggregateOp::Bottomk);
            if ranks && column.points.has_histograms() {
                let name = if aggregate.op == AggregateOp::Topk { "topk" } else { "bottomk" };
                ev.notes.histogram_ignored_in_aggregation(name, aggregate.span);
            }
            ev.poll.touched(column.points.weight() as usize)?;
            out.reserve(ranking.add(number, column))
        })?;
        ranking.finish(&self.poll, grid.steps, &mut out)?;
        Ok(out)
    }

    /// Whether there is nothing to select at any step.
    fn check_parameter(&mut self, aggregate: &Aggregate, params: &[f64]) -> Result<bool, QueryError> {
        let (min, max) = (fold_min(params), fold_max(params));
        let any_nan = params.iter().any(|p| p.is_nan());
        let fail = |text: String| Err(QueryError::Execution(text));
        if aggregate.op == AggregateOp::LimitRatio {
            if any_nan {
                return fail("Ratio value is NaN".into());
            }
            if max > 1.0 {
                self.notes.invalid_ratio(max, 1.0, aggregate.param_span);
            }
            if min < -1.0 {
                self.notes.invalid_ratio(min, -1.0, aggregate.param_span);
            }
            return Ok(max == 0.0 && min == 0.0);
        }
        if any_nan {
            return fail("Parameter value is NaN".into());
        }
        if max < 1.0 {
            return Ok(true);
        }
        let limit = 9_223_372_036_854_775_808.0;
        if min <= -limit {
            return fail(format!("Scalar value {} underflows int64", crate::go_fmt::float_short(min)));
        }
        if max >= limit {
            return fail(format!("Scalar value {} overflows int64", crate::go_fmt::float_short(max)));
        }
        Ok(false)
    }
}

/// How much of a group is wanted at a step.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Count(usize),
    Ratio(f64),
}

impl Wanted {
    fn new(op: AggregateOp, param: f64) -> Self {
        match op {
            AggregateOp::LimitRatio => Self::Ratio(param.clamp(-1.0, 1.0)),
            _ => Self::Count(param.max(0.0) as usize),
        }
    }
}

/// A sample of an input series.
#[derive(Debug, Clone)]
struct Entry {
    series: usize,
    point: Point,
}

impl Entry {
    /// The value by which entries are compared; histograms, which only `limitk` keeps, come as zero.
    fn value(&self) -> f64 {
        if let Point::Float(value) = self.point { value } else { 0.0 }
    }
}

struct Ranking {
    op: AggregateOp,
    wanted: Vec<Wanted>,
    /// For each group and step the samples that are kept.
    groups: Vec<Vec<Vec<Entry>>>,
    series: Vec<(Labels, bool)>,
}

/// What an entry takes, with room for the growth of its heap.
const ENTRY_BYTES: u64 = 2 * size_of::<Entry>() as u64;

impl Ranking {
    /// Adds a series; the bytes it takes.
    fn add(&mut self, group: usize, column: &Column) -> u64 {
        let series = self.series.len();
        self.series.push((column.labels.clone(), column.drop_name));
        let offset = if self.op == AggregateOp::LimitRatio { ratio_offset(&column.labels) } else { 0.0 };
        let mut kept = 0;
        for step in column.points.presence().iter() {
            let heap = &mut self.groups[group][step];
            let before = heap.len();
            match self.wanted[step] {
                Wanted::Count(0) => {}
                Wanted::Count(k) => {
                    let point = column.points.get(step);
                    point.into_iter().for_each(|point| offer(self.op, heap, k, Entry { series, point }));
                }
                Wanted::Ratio(ratio) => {
                    let wanted = if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio };
                    let point = column.points.get(step).filter(|_| wanted);
                    heap.extend(point.map(|point| Entry { series, point }));
                }
            }
            kept += (heap.len() - before) as u64;
        }
        64 + kept * ENTRY_BYTES
    }

    fn finish(self, poll: &Poll<'_>, steps: usize, out: &mut Columns<'_>) -> Result<(), QueryError> {
        let mut rows: Vec<Option<usize>> = vec![None; self.series.len()];
        let (op, series) = (self.op, self.series);
        for group in self.groups {
            for (step, mut entries) in group.into_iter().enumerate() {
                poll.touched(1 + entries.len())?;
                match op {
                    AggregateOp::Topk => entries.sort_by(|a, b| order(false, b.value(), a.value())),
                    AggregateOp::Bottomk => entries.sort_by(|a, b| order(true, b.value(), a.value())),
                    _ => {}
                }
                for entry in entries {
                    let row = match rows[entry.series] {
                        Some(row) => row,
                        None => {
                            out.reserve(Points::bytes(steps))?;
                            let (labels, drop_name) = series[entry.series].clone();
                            out.add(Column { labels, drop_name, points: Points::new(steps) });
                            rows[entry.series] = Some(out.len() - 1);
                            out.len() - 1
                        }
                    };
                    out.reserve_for(row, &entry.point)?;
                    out.list_mut()[row].points.put(step, entry.point);
                }
            }
        }
        Ok(())
    }
}

/// NaN first, then ascending, or descending if `reverse`.
fn order(reverse: bool, a: f64, b: f64) -> std::cmp::Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ if reverse => b.total_cmp(&a),
        _ => a.total_cmp(&b),
    }
}

/// Keeps up to `k` entries: the best ones, with the worst of them at the front, or the first ones.
fn offer(op: AggregateOp, heap: &mut Vec<Entry>, k: usize, entry: Entry) {
    let reverse = match op {
        AggregateOp::Topk => false,
        AggregateOp::Bottomk => true,
        _ => {
            if heap.len() < k {
                heap.push(entry);
            }
            return;
        }
    };
    if matches!(entry.point, Point::Histogram(_)) {
        return;
    }
    if heap.len() < k {
        heap.push(entry);
        sift_up(heap, reverse);
        return;
    }
    let (worst, value) = (heap[0].value(), entry.value());
    let better = if reverse { worst > value } else { worst < value };
    if better || (worst.is_nan() && !value.is_nan()) {
        heap[0] = entry;
        sift_down(heap, reverse);
    }
}

/// Whether `a` stands before `b` in the heap.
fn before(reverse: bool, a: &Entry, b: &Entry) -> bool {
    let (a, b) = (a.value(), b.value());
    a.is_nan() || if reverse { a > b } else { a < b }
}

fn sift_up(heap: &mut [Entry], reverse: bool) {
    let mut at = heap.len() - 1;
    while at > 0 {
        let parent = (at - 1) / 2;
        if !before(reverse, &heap[at], &heap[parent]) {
            return;
        }
        heap.swap(at, parent);
        at = parent;
    }
}

fn sift_down(heap: &mut [Entry], reverse: bool) {
    let mut at = 0;
    loop {
        let left = 2 * at + 1;
        if left >= heap.len() {
            return;
        }
        let right = left + 1;
        let next =
            if right < heap.len() && before(reverse, &heap[right], &heap[left]) { right } else { left };
        if !before(reverse, &heap[next], &heap[at]) {
            return;
        }
        heap.swap(at, next);
        at = next;
    }
}

/// A number from 0 to 1 that depends on the labels only: XXH64 of the labels as Prometheus lays them out in memory
/// (each text after its length in one byte, or 255 and three bytes), over 2^64.
fn ratio_offset(labels: &Labels) -> f64 {
    let mut bytes = Vec::with_capacity(labels.as_packed().len() + 16);
    for (name, value) in labels {
        for text in [name, value] {
            let length = text.len();
            if length < 255 {
                bytes.push(length as u8);
            } else {
                bytes.extend([255, length as u8, (length >> 8) as u8, (length >> 16) as u8]);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    xxh64(&bytes, 0) as f64 / u64::MAX as f64
}
