//! The head against a naive model: a map from series and time to value.

use super::testing::{TENANT, delete, floats, marks, series};
use super::{Counters, Head, WindowLength};
use crate::selection::{PartitionSelection, Wanted};
use crate::view::Views;
use proptest::prelude::*;
use quorate_model::{LogRecord, Position, SeriesBuffer, TimeRange};
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR: i64 = 3_600_000;

struct Fixture {
    head: Arc<Head>,
    views: Arc<Views>,
    position: u64,
}

impl Fixture {
    fn new() -> Self {
        let views = Arc::new(Views::new(Vec::new()));
        let head = Arc::new(Head::new(WindowLength::new(HOUR), Arc::clone(&views)));
        Self { head, views, position: 0 }
    }

    fn apply(&mut self, record: &LogRecord) -> Counters {
        self.position += 1;
        let outcome =
            self.head.apply(Position(self.position), record, &|_, _| Ok(Default::default())).unwrap();
        outcome.sub_batches.first().map(|v| v.counters).unwrap_or_default()
    }

    fn read(&self, range: TimeRange) -> BTreeMap<(String, i64), u64> {
        let selection = PartitionSelection::new(&self.head, &self.views, &Wanted::all(TENANT, range));
        let selection = selection.unwrap();
        let mut all = BTreeMap::new();
        let mut out = SeriesBuffer::default();
        for index in 0..selection.len() {
            selection.read(index, &mut out).unwrap();
            assert!(out.ts_ms.is_sorted_by(|a, b| a < b));
            let name = selection.labels(index).get("pod").unwrap().to_owned();
            for (ts, value) in out.ts_ms.iter().zip(&out.values) {
                all.insert((name.clone(), *ts), value.to_bits());
            }
        }
        all
    }
}

/// What must be seen: first wins, unless deleted before.
#[derive(Default)]
struct Naive {
    samples: BTreeMap<(u32, i64), (f64, u32)>,
    next: BTreeMap<i64, u32>,
    has_data: BTreeMap<i64, bool>,
    /// Hidden (series, time, generation).
    hidden: Vec<(u32, TimeRange, BTreeMap<i64, u32>)>,
    all: Vec<(u32, i64, f64, u32)>,
    counters: Counters,
}

impl Naive {
    fn write(&mut self, i: u32, ts: i64, value: f64) {
        let window = ts.div_euclid(HOUR) * HOUR;
        let generation = self.next.get(&window).copied().unwrap_or(0);
        let there = self.all.iter().find(|s| s.0 == i && s.1 == ts && s.3 == generation);
        match there {
            Some(s) if s.2.to_bits() == value.to_bits() => self.counters.duplicates += 1,
            Some(_) => self.counters.conflicts += 1,
            None => {
                self.all.push((i, ts, value, generation));
                self.has_data.insert(window, true);
                match generation {
                    0 => self.counters.stored += 1,
                    _ => self.counters.late += 1,
                }
            }
        }
    }

    fn seal(&mut self, window: i64) {
        if self.has_data.insert(window, false) == Some(true) {
            *self.next.entry(window).or_default() += 1;
        }
    }

    fn delete(&mut self, i: u32, range: TimeRange) {
        let touched: Vec<i64> = self.has_data.keys().copied().collect();
        for window in touched {
            if TimeRange::new(window, window + HOUR - 1).overlaps(&range) {
                self.seal(window);
            }
        }
        self.hidden.push((i, range, self.next.clone()));
    }

    fn visible(&mut self) -> BTreeMap<(String, i64), u64> {
        for (i, ts, value, generation) in &self.all {
            let window = ts.div_euclid(HOUR) * HOUR;
            let is_hidden = self.hidden.iter().any(|(series, range, next)| {
                series == i && range.contains(*ts) && next.get(&window).is_some_and(|n| generation < n)
            });
            let there = self.samples.get(&(*i, *ts));
            if !is_hidden && there.is_none_or(|(_, g)| generation < g) {
                self.samples.insert((*i, *ts), (*value, *generation));
            }
        }
        let pod = |i: &u32| series(*i).get("pod").unwrap().to_owned();
        self.samples.iter().map(|((i, ts), (value, _))| ((pod(i), *ts), value.to_bits())).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(u32, i64, f64)>),
    Mark(Vec<(i64, u32)>),
    Delete(u32, i64, i64),
}

fn step() -> impl Strategy<Value = Step> {
    let ts = (-3i64..6, prop_oneof![0i64..8, Just(239)]).prop_map(|(h, i)| h * HOUR / 2 + i * 15_000);
    let value = prop_oneof![
        (0i64..3).prop_map(|v| v as f64),
        Just(0.25),
        Just(f64::from_bits(0x7ff0_0000_0000_0002)),
        Just(1.0 / 3.0),
    ];
    prop_oneof![
        8 => prop::collection::vec((0u32..4, ts, value), 1..40).prop_map(Step::Write),
        3 => prop::collection::vec((-2i64..3, 0u32..3).prop_map(|(w, g)| (w * HOUR, g)), 1..4).prop_map(Step::Mark),
        1 => (0u32..4, -6i64..12, 0i64..6).prop_map(|(i, from, len)| {
            Step::Delete(i, from * HOUR / 4, from * HOUR / 4 + len * HOUR / 4)
        }),
    ]
}

proptest! {
    #[test]
    fn the_head_sees_what_a_naive_map_sees(steps in prop::collection::vec(step(), 1..40)) {
        let (mut fixture, mut naive) = (Fixture::new(), Naive::default());
        let mut counters = Counters::default();
        for step in steps {
            match step {
                Step::Write(samples) => {
                    samples.iter().for_each(|(i, ts, value)| naive.write(*i, *ts, *value));
                    counters.add(&fixture.apply(&floats(&samples)));
                }
                Step::Mark(marks) => {
                    for (window, generation) in &marks {
                        if naive.next.get(window).copied().unwrap_or(0) == *generation {
                            naive.seal(*window);
                        }
                    }
                    fixture.apply(&self::marks(&marks));
                }
                Step::Delete(i, from, to) => {
                    naive.delete(i, TimeRange::new(from, to));
                    fixture.apply(&delete(Some(i), TimeRange::new(from, to)));
                }
            }
        }
        prop_assert_eq!(counters, naive.counters);
        let all = naive.visible();
        prop_assert_eq!(&fixture.read(TimeRange::ALL), &all);
        let part = TimeRange::new(-HOUR / 2, HOUR + 7);
        let expected = all.into_iter().filter(|((_, ts), _)| part.contains(*ts)).collect();
        prop_assert_eq!(fixture.read(part), expected);
    }
}
