use super::*;
use std::collections::BTreeMap;

/// Hides one range of one metric in blocks whose generation is at most `up_to`, and stops after some calls.
#[derive(Debug, Clone)]
struct Hooks {
    metric: &'static str,
    range: TimeRange,
    up_to: u32,
    calls_left: usize,
}

const NOTHING: Hooks =
    Hooks { metric: "", range: TimeRange { start_ms: 1, end_ms: 0 }, up_to: 0, calls_left: usize::MAX };

impl MergeHooks for Hooks {
    fn hidden(&mut self, input: &BlockMeta, _: TenantId, labels: &Labels, out: &mut Vec<TimeRange>) {
        if labels.metric_name() == Some(self.metric) && input.spec.generations[0].generation <= self.up_to {
            out.push(self.range);
        }
    }

    fn pace(&mut self, _: u64) -> ControlFlow<()> {
        self.calls_left -= 1;
        if self.calls_left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn day(counter: u64, inputs: &[BlockMeta]) -> BlockSpec {
    BlockSpec {
        window_length_ms: 24 * HOUR,
        tier: Tier::Day,
        generations: inputs.iter().flat_map(|meta| meta.spec.generations.clone()).collect(),
        ..spec(counter, 0)
    }
}

/// Merges blocks, given newest generation first, and compares with what a plain map says.
#[track_caller]
fn check_merge(blocks: &[(BlockSpec, Vec<Series>)], hooks: &Hooks) -> BlockMeta {
    let (_, kv) = mem();
    let metas: Vec<BlockMeta> =
        blocks.iter().map(|(spec, series)| write(kv.as_ref(), spec.clone(), series, 25)).collect();
    let readers: Vec<Arc<BlockReader>> = metas.iter().map(|meta| Arc::new(open(&kv, meta))).collect();
    let merged = merge(kv.as_ref(), &readers, day(1_000, &metas), &mut hooks.clone()).unwrap().unwrap();
    let expected = fold(&metas, blocks, hooks);
    let reader = open(&kv, &merged);
    reader.verify().unwrap();
    assert_eq!(content(&reader), expected);
    let at_once = write(kv.as_ref(), spec(1_001, 0), &expected, 500);
    assert_eq!(merged.content_checksum, at_once.content_checksum);
    merged
}

/// The sample of each time, and its generation.
type Ranked = BTreeMap<i64, (u32, Sample)>;

fn fold(metas: &[BlockMeta], blocks: &[(BlockSpec, Vec<Series>)], hooks: &Hooks) -> Vec<Series> {
    let mut series: BTreeMap<(TenantId, String, Labels), Ranked> = BTreeMap::new();
    for (meta, (_, given)) in metas.iter().zip(blocks) {
        for one in given {
            let mut hidden = Vec::new();
            hooks.clone().hidden(meta, one.tenant, &one.labels, &mut hidden);
            let name = one.labels.metric_name().unwrap_or_default().to_owned();
            for sample in one.samples.iter().filter(|s| !hidden.iter().any(|r| r.contains(s.ts_ms))) {
                let times = series.entry((one.tenant, name.clone(), one.labels.clone())).or_default();
                let new = (meta.rank_of(sample.ts_ms).unwrap(), *sample);
                let slot = times.entry(sample.ts_ms).or_insert(new);
                if new.0 < slot.0 {
                    *slot = new;
                }
            }
        }
    }
    let series = series.into_iter().map(|((tenant, _, labels), times)| Series {
        tenant,
        labels,
        samples: times.into_values().map(|(_, sample)| sample).collect(),
    });
    series.collect()
}

fn up(host: &str, samples: Vec<Sample>) -> Series {
    Series { tenant: TenantId(1), labels: labels(&[("__name__", "up"), ("host", host)]), samples }
}

fn hour(counter: u64, window: i64, generation: u32) -> BlockSpec {
    let window_start_ms = window * HOUR;
    let generations = vec![GenerationRef { window_start_ms, window_length_ms: HOUR, generation }];
    BlockSpec { window_start_ms, generations, ..spec(counter, 0) }
}

#[test]
fn hours_become_a_day() {
    let blocks: Vec<_> = (0..24i64)
        .map(|window| {
            let times =
                |host: i64| (0..240).map(move |t| float(window * HOUR + t * 15_000, (t * host) as f64));
            (
                hour(window as u64, window, 0),
                (1..9).map(|h| up(&format!("h{h}"), times(h).collect())).collect(),
            )
        })
        .collect();
    let day = check_merge(&blocks, &NOTHING);
    assert_eq!((day.series, day.samples), (8, 8 * 240 * 24));
    assert!(day.page_bytes < 8 * 240 * 24 / 2, "{} bytes of pages", day.page_bytes);
}

#[test]
fn the_lower_generation_wins_whatever_the_order_of_the_inputs() {
    let first = (hour(1, 0, 0), vec![up("a", vec![float(10, 1.0), float(30, 1.0)])]);
    let histogram = Sample { ts_ms: 30, value: Value::Histogram(5), start_ms: 7 };
    let second = (hour(2, 0, 1), vec![up("a", vec![float(10, 2.0), float(20, 2.0), histogram])]);
    check_merge(&[first.clone(), second.clone()], &NOTHING);
    check_merge(&[second, first], &NOTHING);
}

#[test]
fn what_is_hidden_does_not_win() {
    let first = (
        hour(1, 0, 0),
        vec![up("a", vec![float(10, 1.0), float(30, 1.0)]), up("gone", vec![float(15, 0.0)])],
    );
    let second = (hour(2, 0, 1), vec![up("a", vec![float(10, 2.0), float(20, 2.0)])]);
    let hooks = Hooks { metric: "up", range: TimeRange::new(5, 25), ..NOTHING };
    let merged = check_merge(&[first, second], &hooks);
    assert_eq!((merged.series, merged.samples), (1, 3));
}

#[test]
fn a_merge_that_hides_everything_still_makes_a_block() {
    let hooks = Hooks { metric: "up", range: TimeRange::ALL, ..NOTHING };
    let merged = check_merge(&[(hour(1, 0, 0), vec![up("a", vec![float(1, 1.0)])])], &hooks);
    assert_eq!((merged.series, merged.range().is_empty()), (0, true));
}

#[test]
fn a_stopped_merge_leaves_nothing() {
    let (_, kv) = mem();
    let series: Vec<Series> = (0..100).map(|i| up(&format!("{i:03}"), vec![float(1, 1.0)])).collect();
    let meta = write(kv.as_ref(), spec(1, 0), &series, 10);
    let reader = Arc::new(open(&kv, &meta));
    let mut hooks = Hooks { calls_left: 50, ..NOTHING };
    let stopped = merge(kv.as_ref(), &[reader], day(2, std::slice::from_ref(&meta)), &mut hooks).unwrap();
    assert_eq!(stopped, None);
    assert_eq!(stored_ids(kv.as_ref()).unwrap(), [meta.id()].into());
}

#[test]
fn a_damaged_input_stops_the_merge() {
    let (mem, kv) = mem();
    let meta = write(kv.as_ref(), spec(1, 0), &[up("a", vec![float(1, 1.0)])], 10);
    let reader = Arc::new(open(&kv, &meta));
    assert!(mem.flip(Cf::Page, &super::super::frame::page_key(meta.id(), TenantId(1), 0), 10));
    let result = merge(kv.as_ref(), &[reader], day(2, std::slice::from_ref(&meta)), &mut NOTHING.clone());
    assert!(matches!(result, Err(StoreError::Damaged { .. })), "{result:?}");
    assert_eq!(stored_ids(kv.as_ref()).unwrap(), [meta.id()].into());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_equals_a_plain_map(
        generations in prop::collection::vec(any_series(), 1..5),
        later in any_series(),
        hide in (0i64..HOUR, 0i64..HOUR, 0u32..3),
        reverse in any::<bool>(),
    ) {
        let mut blocks: Vec<(BlockSpec, Vec<Series>)> = generations
            .into_iter()
            .enumerate()
            .map(|(generation, series)| (hour(generation as u64, 0, generation as u32), series))
            .collect();
        let shifted = later.into_iter().map(|mut series| {
            series.samples.iter_mut().for_each(|sample| sample.ts_ms += HOUR);
            series
        });
        blocks.push((hour(50, 1, 0), shifted.collect()));
        if reverse {
            blocks.reverse();
        }
        let hooks = Hooks { metric: "a", range: TimeRange::new(hide.0, hide.0 + hide.1), up_to: hide.2, ..NOTHING };
        check_merge(&blocks, &hooks);
    }
}
