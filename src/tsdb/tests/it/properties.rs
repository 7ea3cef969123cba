//! Random logs, random background work and random restarts, against a store that does neither.

use crate::support::*;
use proptest::prelude::*;
use quorate_model::{LogRecord, TimeRange};

#[derive(Debug, Clone)]
enum Step {
    Record(LogRecord),
    Flush,
    Image,
    Merge,
    Retain,
    Free,
    Restart,
}

fn record() -> impl Strategy<Value = LogRecord> {
    let ts = (-2i64..5, 0i64..6).prop_map(|(h, i)| h * HOUR / 2 + i * 1000);
    let value = prop_oneof![(0i64..3).prop_map(|v| v as f64), any::<f64>()];
    prop_oneof![
        8 => prop::collection::vec((0u32..5, ts.clone(), value), 1..20).prop_map(|s| floats(&s)),
        2 => (0u32..5, ts, 0u64..3).prop_map(|(i, ts, n)| with_histogram(i, ts, n)),
        3 => (-1i64..3, 0u32..3).prop_map(|(w, g)| mark(w, g)),
        1 => (0u32..5, -4i64..8, 0i64..5).prop_map(|(i, from, len)| {
            delete(i, TimeRange::new(from * HOUR / 4, (from + len) * HOUR / 4))
        }),
        1 => (-4i64..3).prop_map(|h| retention(h * HOUR / 4)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => record().prop_map(Step::Record),
        1 => Just(Step::Flush),
        1 => Just(Step::Image),
        1 => Just(Step::Merge),
        1 => Just(Step::Retain),
        1 => Just(Step::Free),
        1 => Just(Step::Restart),
    ]
}

fn run(node: &mut Node, log: &mut Vec<LogRecord>, step: Step) {
    match step {
        Step::Record(record) => {
            log.push(record);
            node.replay(log);
        }
        Step::Flush => assert!(node.store().flush().is_ok()),
        Step::Image => assert!(node.store().cut_image().is_ok()),
        Step::Merge => assert!(node.store().merge(i64::MAX / 2).is_ok()),
        Step::Retain => assert!(node.store().retain().is_ok()),
        Step::Free => {
            node.store().free_idle(i64::MAX);
        }
        Step::Restart => {
            node.restart();
            node.replay(log);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_prefix_then_rest_equals_all(steps in prop::collection::vec(step(), 1..60)) {
        let (mut node, mut log) = (Node::new(), Vec::new());
        steps.into_iter().for_each(|step| run(&mut node, &mut log, step));
        let plain = Node::new();
        plain.replay(&log);
        let (found, expected) =
            (read(node.store(), TimeRange::ALL), read(plain.store(), TimeRange::ALL));
        prop_assert_eq!(found, expected);
        let part = TimeRange::new(-HOUR / 2 + 1, HOUR + 2000);
        prop_assert_eq!(read(node.store(), part), read(plain.store(), part));
    }
}
